"""Group ``reward``: what a completion earns in reinforcement."""

from __future__ import annotations

from dataclasses import dataclass, field

from plan_tuning.config.checks import ConfigError, require, require_choice, require_positive
from plan_tuning.config.teacher import TeacherConfig

AGGREGATIONS = ("sum_then_normalise", "normalise_then_sum")
PLAN_KINDS = ("judge", "steps", "embedding")
STEP_METRICS = ("token_f1", "rouge_l")
GUARDS = ("echo", "repetition", "answer", "giant")

_RUNTIME = {"runtime": True}


@dataclass
class PlanRewardConfig:
    """R_plan: how alike the student's plan and the teacher's are, in [0, 1]."""

    weight: float = 1.0  # paper: 1; 0: not computed
    kind: str = "steps"  # paper: judge; steps needs no large model
    metric: str = "token_f1"  # kind=steps: how alike two steps are
    guards: list[str] = field(default_factory=lambda: list(GUARDS))  # plans that earn nothing
    # kind=judge
    votes: int = 1  # replies per comparison; their mean counts
    swap: bool = False  # ask in both orders and take the mean
    temperature: float = 0.0
    max_reply_tokens: int = field(default=512, metadata={"hash_name": "max_tokens"})
    wait_s: float = field(default=600.0, metadata=_RUNTIME)  # then a plan stays without a reward
    # kind=embedding
    encoder: str | None = None  # folder of an encoder of transformers

    def __post_init__(self) -> None:
        """Check ranges."""
        require_positive("reward.plan.weight", self.weight, "reward.plan.weight=1", zero=True)
        require_choice("reward.plan.kind", self.kind, PLAN_KINDS)
        require_choice("reward.plan.metric", self.metric, STEP_METRICS)
        for guard in self.guards:
            require_choice("reward.plan.guards", guard, GUARDS)
        require_positive("reward.plan.votes", self.votes, "reward.plan.votes=3")
        require_positive(
            "reward.plan.max_reply_tokens",
            self.max_reply_tokens,
            "reward.plan.max_reply_tokens=512",
        )
        require_positive("reward.plan.wait_s", self.wait_s, "reward.plan.wait_s=600")
        require_positive(
            "reward.plan.temperature", self.temperature, "reward.plan.temperature=0", zero=True
        )
        require(
            self.votes == 1 or self.temperature > 0,
            "reward.plan.temperature",
            self.temperature,
            "above 0 when several votes are taken: at 0 they would all be equal",
            "reward.plan.votes=3 reward.plan.temperature=0.7",
        )
        require(
            self.kind != "embedding" or self.encoder is not None or not self.weight,
            "reward.plan.encoder",
            self.encoder,
            "kind=embedding needs the folder of an encoder",
            "reward.plan.encoder=/models/encoder, or reward.plan.kind=steps",
        )


@dataclass
class RewardConfig:
    """What a completion earns; a weight of 0 switches a part off."""

    name: str = "answer"
    answer_weight: float = 2.0  # `correct` is 0 or 1; paper: 2
    plan: PlanRewardConfig = field(default_factory=lambda: PlanRewardConfig(weight=0.0))
    format_weight: float = 0.0  # share of the expected tags that are there, 0..1
    length_weight: float = 0.0  # 1 minus tokens / max_new_tokens, 0..1
    leak_weight: float = 0.0  # 1 where the plan holds neither box nor answer, else 0
    aggregation: str = "sum_then_normalise"
    judge: TeacherConfig | None = None  # None: the teacher of the corpus judges as well

    def __post_init__(self) -> None:
        """Check ranges."""
        for key in ("answer_weight", "format_weight", "length_weight", "leak_weight"):
            require_positive(f"reward.{key}", getattr(self, key), f"reward.{key}=1", zero=True)
        require_choice("reward.aggregation", self.aggregation, AGGREGATIONS)
        if not self.weights:
            raise ConfigError(
                "reward.answer_weight",
                self.answer_weight,
                "all weights are 0: the policy would have nothing to gain",
                "reward=answer",
            )

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the parts that are switched on, by the part's name."""
        named = {
            "correct": self.answer_weight,
            "plan": self.plan.weight,
            "format": self.format_weight,
            "length": self.length_weight,
            "leak": self.leak_weight,
        }
        return {name: weight for name, weight in named.items() if weight > 0}

    @property
    def uses_judge(self) -> bool:
        """Whether a large model is asked."""
        return self.plan.weight > 0 and self.plan.kind == "judge"
