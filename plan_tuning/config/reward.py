"""Group ``reward``: what a completion earns in reinforcement."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plan_tuning.artifacts import folder_fingerprint
from plan_tuning.config.checks import ConfigError, require, require_choice, require_positive
from plan_tuning.config.extensions import names, record, records
from plan_tuning.config.teacher import TeacherConfig, check_address, check_key_variable

AGGREGATIONS = ("sum_then_normalise", "normalise_then_sum")
STEP_METRICS = ("token_f1", "rouge_l")
GUARDS = ("echo", "repetition", "answer", "giant")
EXECUTORS = ("start", "base")
COMPATS = ("paper", "parlai")
NLI_SCORES = (
    "discourse_representation", "coherence_step", "coherence_step_max", "coherence_step_vs_step",
)  # fmt: skip
GRAMMAR_SCORES = ("grammar_step", "grammar_step_max")
ROSCOE_SCORES = (
    # of problem and plan
    "faithfulness_step", "faithfulness_ww", "informativeness_step", "informativeness_chain",
    "repetition_step", "repetition_word",
    # of the golden plan too
    "reasoning_alignment", "missing_step", "redundancy", "semantic_coverage_step",
    "semantic_coverage_chain", "external_hallucination", "common_sense_error",
    *NLI_SCORES,
    *GRAMMAR_SCORES,
)  # fmt: skip
HASHED = "hashed"  # the encoder that is no model

_RUNTIME = {"runtime": True}


@dataclass
class PlanRewardConfig:
    """R_plan, in [0, 1]: what a plan is worth by itself, whatever the answer behind it.

    judge, steps and embedding say how alike the student's plan and the teacher's are, verifier what
    the Plan Verifier scores it, roscoe what sentence embeddings say of it, executability, uplift
    and likelihood how well a frozen executor does with it.
    """

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
    # kind=embedding, roscoe: hashed (n-grams), the folder of an encoder of transformers, or the
    # address of an OpenAI-compatible server of embeddings
    encoder: str | None = None
    encoder_model: str = ""  # of a server: the name it serves the encoder by
    encoder_key_env: str | None = field(default=None, metadata=_RUNTIME)  # NAME of a variable
    # kind=roscoe
    scores: list[str] = field(
        default_factory=lambda: [
            *("reasoning_alignment", "missing_step", "informativeness_step", "repetition_step"),
        ]
    )  # whose mean is the reward
    compat: str = "paper"  # or parlai: with the quirks of the authors' code
    nli: str | None = None  # folder of a classifier of contradictions, for the scores of it
    grammar: str | None = None  # folder of a classifier of grammar, likewise
    # kind=executability, uplift, likelihood
    executor: str = "start"  # whose frozen weights carry plans out: start, base
    engine: str = "native"  # who runs them
    samples: int = 4  # executability, uplift: executions a plan
    execution_temperature: float = 1.0  # of these
    max_execution_tokens: int = 512  # of these
    likelihood_scale: float = 0.25  # likelihood: nats a token that earn .73

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
        self._check_encoder()
        self._check_roscoe()
        self._check_executor()

    def _check_encoder(self) -> None:
        require(
            "encoder" not in self.needs or self.encoder is not None or not self.weight,
            "reward.plan.encoder",
            self.encoder,
            f"kind={self.kind} needs an encoder: hashed (n-grams, offline), the folder of one, or "
            "the address of a server of embeddings",
            "reward.plan.encoder=hashed, or reward.plan.kind=steps",
        )
        if self.is_served:
            check_address("reward.plan.encoder", self.encoder)
        check_key_variable("reward.plan.encoder_key_env", self.encoder_key_env)
        require(
            self.is_served == bool(self.encoder_model),
            "reward.plan.encoder_model",
            self.encoder_model,
            "the name by which the server of reward.plan.encoder=http://… serves the encoder, and "
            "with such a server only",
            "reward.plan.encoder=http://127.0.0.1:8000/v1 reward.plan.encoder_model=mpnet",
        )

    def _check_roscoe(self) -> None:
        require_choice("reward.plan.compat", self.compat, COMPATS)
        require(
            bool(self.scores) and len(set(self.scores)) == len(self.scores),
            "reward.plan.scores",
            self.scores,
            "one or more different scores",
            "'reward.plan.scores=[reasoning_alignment,repetition_step]'",
        )
        for name in self.scores:
            require_choice("reward.plan.scores", name, ROSCOE_SCORES)
        for key, scores in (("nli", NLI_SCORES), ("grammar", GRAMMAR_SCORES)):
            needing = [name for name in self.scores if name in scores]
            require(
                not needing or getattr(self, key) is not None or not self.weight,
                f"reward.plan.{key}",
                None,
                f"{needing[0] if needing else ''} asks a classifier: give its folder",
                f"reward.plan.{key}=/models/classifier, or other reward.plan.scores",
            )

    def _check_executor(self) -> None:
        require_choice("reward.plan.executor", self.executor, EXECUTORS)
        require_choice("reward.plan.engine", self.engine, names("engine"))
        engine = record("engine", self.engine)
        require(
            "keys" in engine.needs and not {"folder", "server"} & {*engine.needs},
            "reward.plan.engine",
            self.engine,
            "an engine of this process that is handed keys: what it draws hangs on problem and "
            "sample alone, so that a resumed training earns the same",
            "reward.plan.engine=native",
        )
        for key in (
            *("samples", "execution_temperature", "max_execution_tokens", "likelihood_scale"),
        ):
            require_positive(f"reward.plan.{key}", getattr(self, key), f"reward.plan.{key}=1")

    def identified(self) -> PlanRewardConfig:
        """Name models by what they are: folders by their content, a server's by its name there."""
        if self.is_served:
            served = f"served: {self.encoder_model}"
            return dataclasses.replace(self, encoder=served, encoder_model="").identified()
        named = {key: getattr(self, key) for key in ("encoder", "nli", "grammar")}
        given = {key: name for key, name in named.items() if name not in (None, HASHED)}
        local = {key: Path(name).expanduser() for key, name in given.items()}
        marks: dict[str, Any] = {
            k: folder_fingerprint(path) for k, path in local.items() if path.is_dir()
        }
        return dataclasses.replace(self, **marks)

    @property
    def is_served(self) -> bool:
        """Whether a server encodes texts."""
        return str(self.encoder).startswith(("http://", "https://"))

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
        """Refuse a reward from outside that nobody brings."""
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
        """Whether a large model says what plans are worth."""
        return self.plan.weight > 0 and "ask" in self.plan.needs

    @property
    def _needs(self) -> set[str]:
        """What the plan reward and the rewards from outside have to be handed."""
        extra = [record("reward", name).needs for name, weight in self.extra.items() if weight > 0]
        return set().union(*extra, self.plan.needs if self.plan.weight > 0 else ())

    @property
    def uses_frozen(self) -> bool:
        """Whether a frozen model takes part, which writes or weighs executions."""
        return bool({"generate", "log_probs"} & self._needs)

    @property
    def writes_executions(self) -> bool:
        """Whether a frozen model writes executions."""
        return "generate" in self._needs

    @property
    def asking(self) -> list[str]:
        """The rewards from outside that ask a large model."""
        return [
            name
            for name, weight in self.extra.items()
            if weight > 0 and "ask" in record("reward", name).needs
        ]
