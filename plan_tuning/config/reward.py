"""Group ``reward``: what a completion earns in reinforcement."""

from __future__ import annotations

from dataclasses import dataclass, field

from plan_tuning.config.checks import ConfigError, require, require_choice, require_positive
from plan_tuning.config.extensions import names, record, records
from plan_tuning.config.teacher import TeacherConfig

AGGREGATIONS = ("sum_then_normalise", "normalise_then_sum")
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
        require_choice("reward.plan.kind", self.kind, names("plan_similarity"))
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
            "encoder" not in self.needs or self.encoder is not None or not self.weight,
            "reward.plan.encoder",
            self.encoder,
            f"kind={self.kind} needs the folder of an encoder",
            "reward.plan.encoder=/models/encoder, or reward.plan.kind=steps",
        )

    @property
    def needs(self) -> tuple[str, ...]:
        """What the comparison of plans has to be handed."""
        return record("plan_similarity", self.kind).needs


@dataclass
class RewardConfig:
    """What a completion earns; a weight of 0 switches a part off."""

    name: str = "answer"
    answer_weight: float = 2.0  # `correct` is 0 or 1; paper: 2
    plan: PlanRewardConfig = field(default_factory=lambda: PlanRewardConfig(weight=0.0))
    format_weight: float = 0.0  # share of the expected tags that are there, 0..1
    length_weight: float = 0.0  # 1 minus tokens / max_new_tokens, 0..1
    leak_weight: float = 0.0  # 1 where the plan holds neither box nor answer, else 0
    extra: dict[str, float] = field(default_factory=dict)  # weights of rewards from outside
    aggregation: str = "sum_then_normalise"
    judge: TeacherConfig | None = None  # None: the teacher of the corpus judges as well
    extension: str | None = field(default=None, metadata=_RUNTIME)  # module that brings it

    def __post_init__(self) -> None:
        """Check ranges."""
        for key in ("answer_weight", "format_weight", "length_weight", "leak_weight"):
            require_positive(f"reward.{key}", getattr(self, key), f"reward.{key}=1", zero=True)
        self._check_extra()
        require_choice("reward.aggregation", self.aggregation, AGGREGATIONS)
        if not self.weights:
            raise ConfigError(
                "reward.answer_weight",
                self.answer_weight,
                "all weights are 0: the policy would have nothing to gain",
                "reward=answer",
            )

    def _check_extra(self) -> None:
        """Refuse a reward from outside that nobody brings, or that needs what no training hands."""
        known = [one.name for one in records("reward") if one.is_outside]
        for name, weight in self.extra.items():
            key = f"reward.extra.{name}"
            require(
                name in known,
                "reward.extra",
                name,
                f"a reward from outside; known here: {', '.join(known) or 'none'}. A choice below "
                "--config-dir brings one by its key `extension`, for example my_conf/reward/"
                f"{name}.yaml with `extension: {name}.py`",
                f"plan-tuning --config-dir my_conf method=grpo '{key}=0.5'",
            )
            require_positive(key, weight, f"'reward.extra={{{name}: 0.5}}'", zero=True)
            absent = sorted({"generate", "log_probs"} & set(record("reward", name).needs))
            require(
                not absent or not weight,
                "reward.extra",
                name,
                f"it needs {' and '.join(absent)} of a model, which no training hands to a reward",
                'a reward with needs=("ask",), which asks a large model',
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
            **self.extra,
        }
        return {name: weight for name, weight in named.items() if weight > 0}

    @property
    def uses_judge(self) -> bool:
        """Whether a large model is asked."""
        return self.judges_plans or bool(self.asking)

    @property
    def judges_plans(self) -> bool:
        """Whether a large model compares the plans."""
        return self.plan.weight > 0 and "ask" in self.plan.needs

    @property
    def asking(self) -> list[str]:
        """The rewards from outside that ask a large model."""
        return [
            name
            for name, weight in self.extra.items()
            if weight > 0 and "ask" in record("reward", name).needs
        ]
