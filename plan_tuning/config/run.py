"""The whole configuration of one job, and the checks that span groups."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plan_tuning.config.checks import ConfigError, require, require_choice, require_positive
from plan_tuning.config.comparison import ComparisonConfig, RegistrationConfig
from plan_tuning.config.data import DataConfig
from plan_tuning.config.evaluation import EvaluationConfig, ExecutorConfig
from plan_tuning.config.extensions import DEFAULT_METHOD, record
from plan_tuning.config.filter import UNSCORED_ADVICE, FilterConfig
from plan_tuning.config.grpo import GRPOConfig, StartConfig
from plan_tuning.config.merge import MergeConfig
from plan_tuning.config.microworld import OTHER_QUESTIONS
from plan_tuning.config.model import AdapterConfig, MicroModelConfig, ModelConfig
from plan_tuning.config.reward import RewardConfig
from plan_tuning.config.teacher import DistillationConfig, TeacherConfig
from plan_tuning.config.training import MethodConfig, PromptConfig, TrainerConfig

STAGES = ("distill", "train", "evaluate")
RESERVED_SWEEPS = ("artifacts", "calls", "single")
SWEEPER_MODULE = "hydra._internal.core_plugins.ablation"  # see sweeper.register_sweeper
LOGGERS = ("csv", "wandb_offline", "wandb", "trackio")
GROUPS = ("arm", "sweep")


@dataclass
class LoggerConfig:
    """Where curves and tables of a run go; a CSV file and result.json are always written."""

    name: str = "wandb_offline"
    project: str = "plan-tuning"
    entity: str | None = None  # W&B team; None: the account's default
    group: str = "arm"  # W&B's group of a run: the sweep's row without the seed, or the sweep
    max_table_rows: int = 200  # predictions and trajectories logged as tables
    upload_artifacts: bool = False  # all files of corpus and student, not their manifests alone
    system_metrics: bool = False  # processor, memory and cards over time

    def __post_init__(self) -> None:
        """Check ranges."""
        require_choice("logger.name", self.name, LOGGERS)
        require_choice("logger.group", self.group, GROUPS)
        require_positive("logger.max_table_rows", self.max_table_rows, "logger.max_table_rows=200")


@dataclass
class DebugConfig:
    """Makes a run cheap; its result is marked, and beside others left out of a comparison."""

    enabled: bool = False
    max_problems: int | None = None  # cap on training problems
    max_test_problems: int | None = None  # cap on test problems of each benchmark
    max_steps: int | None = None  # cap on optimizer steps (also of the micro-world's base)
    max_new_tokens: int | None = None  # cap on generated tokens

    def __post_init__(self) -> None:
        """Check ranges."""
        for key in ("max_problems", "max_test_problems", "max_steps", "max_new_tokens"):
            require_positive(f"debug.{key}", getattr(self, key), f"debug.{key}=8")


@dataclass
class PathsConfig:
    """Where results go."""

    outputs: str = "multirun_outputs"

    @property
    def artifacts(self) -> Path:
        """Where artifacts lie."""
        return Path(self.outputs) / "artifacts"

    @property
    def calls(self) -> Path:
        """Where paid answers lie."""
        return Path(self.outputs) / "calls"


@dataclass
class ExternalConfig:
    """An artifact from elsewhere, by the path of its folder."""

    path: str | None = None


@dataclass
class SweeperConfig:
    """``hydra.sweeper``: grids of an ablation."""

    _target_: str = f"{SWEEPER_MODULE}.AblationSweeper"
    max_batch_size: int | None = None  # jobs launched at a time; 1 stops at the first failure
    params: dict[str, str] | None = None  # Hydra's own form: one grid
    grids: list[dict[str, Any]] = field(default_factory=list)  # a union of grids


@dataclass
class Config:
    """One job."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    start: StartConfig = field(default_factory=StartConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    merge: MergeConfig = field(default_factory=MergeConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    debug: DebugConfig = field(default_factory=DebugConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    corpus: ExternalConfig = field(default_factory=ExternalConfig)
    student: ExternalConfig = field(default_factory=ExternalConfig)
    seed: int = 42
    sweep_name: str = "adhoc"
    stages: list[str] = field(default_factory=lambda: list(STAGES))
    tags: list[str] = field(default_factory=list)
    comparison: ComparisonConfig = field(default_factory=ComparisonConfig)
    registration: RegistrationConfig = field(default_factory=RegistrationConfig)
    dry_run: bool = False

    def __post_init__(self) -> None:
        """Check what spans groups."""
        for stage in self.stages:
            require_choice("stages", stage, STAGES)
        require(
            bool(self.stages),
            "stages",
            "[]",
            f"at least one of {', '.join(STAGES)}",
            "'stages=[distill]'",
        )
        require(
            self.sweep_name not in RESERVED_SWEEPS
            and bool(self.sweep_name)
            and "/" not in self.sweep_name
            and not self.sweep_name.startswith("."),
            "sweep_name",
            self.sweep_name,
            f"a folder name, none of {', '.join(RESERVED_SWEEPS)}",
            "sweep_name=mine",
        )
        require(self.seed >= 0, "seed", self.seed, "0 or more", "seed=1")
        _ = self.start_trainer  # its ranges hold too
        self._check_world()
        self._check_given_plans()
        self._check_roles()
        self._check_shards()
        self._check_rollouts()

    def _check_world(self) -> None:
        is_micro_data = self.data.is_microworld
        is_micro_model = isinstance(self.model, MicroModelConfig)
        uses_model = set(self.stages) != {"distill"}
        if is_micro_model and not is_micro_data and uses_model:
            raise ConfigError(
                "model",
                self.model.name,
                f"the micro student knows the micro-world's words only, not {self.data.name}'s",
                f"{self.data.words} model=tiny_qwen3",
            )
        if isinstance(self.model, MicroModelConfig) and not self.model.domains and uses_model:
            named = [*self.data.tasks, *self.benchmarks]
            asked = [n for n in named if n.startswith(OTHER_QUESTIONS)]
            require(
                not asked,
                "model",
                self.model.name,
                f"this micro student lacks the words of {', '.join(asked)}",
                "model=micro_domains",
            )
        if self.teacher.backend == "scripted" and not is_micro_data and self.uses_teacher:
            raise ConfigError(
                "teacher",
                "scripted",
                f"the scripted teacher can only solve the micro-world, not {self.data.name}",
                f"{self.data.words} teacher=openai_compatible "
                "teacher.api_base=http://127.0.0.1:8000/v1",
            )
        if self.uses_judge and self.judge.backend == "scripted" and not is_micro_data:
            raise ConfigError(
                "reward.judge",
                "scripted",
                f"the scripted teacher judges the micro-world's plans only, not {self.data.name}'s",
                "reward.plan.kind=steps, or teacher=openai_compatible "
                "teacher.api_base=http://127.0.0.1:8000/v1",
            )
        if is_micro_data and self.data.path is not None:
            raise ConfigError(
                "data.path",
                self.data.path,
                "the micro-world's problems are made, not read",
                "data=gsm8k data.path=FOLDER",
            )

    def _check_given_plans(self) -> None:
        """Refuse to ask a data set for what only a model gives: scores, judgements, executions."""
        asked = {"reward.judge": self.judge} if self.uses_judge else {}
        if "evaluate" in self.stages and self.method.has_two_calls:
            asked |= {"executor.teacher": self.executor_teacher} if self.executes_by_ask else {}
        for role, teacher in asked.items():
            if not teacher.is_asked:
                instead = (
                    f"teacher@{role}=openai_compatible {role}.api_base=http://127.0.0.1:8000/v1"
                )
                raise ConfigError(
                    role,
                    teacher.backend,
                    "a data set has plans and answers nothing: name a model for this role",
                    f"reward.plan.kind=steps, or {instead}" if role == "reward.judge" else instead,
                )
        if not self.uses_teacher:
            return
        sources = getattr(self.data, "sources", {self.data.name: None})
        micro = [name for name in sources if name.startswith("microworld")]
        if micro and (self.distillation.has_given_plans or not self.teacher.is_asked):
            key = "teacher" if not self.teacher.is_asked else "distillation.plans"
            raise ConfigError(
                key,
                "dataset",
                f"the problems of {', '.join(micro)} are made and bring no plans",
                f"data=gsm8k_socratic data.path=FILE {key}=dataset",
            )
        if "train" in self.stages and self.method.needs_corpus:
            self._check_filters()

    def _check_filters(self) -> None:
        """Refuse filters by what the corpus of this job will not have: scores, or equations."""
        filters = {"filter": self.filter}
        if isinstance(self.method, GRPOConfig) and self.start.learns_trajectories:
            filters["filter@start.filter"] = self.start.filter
        for key, chosen in filters.items():
            if chosen.plan and not self.teacher.is_asked:
                raise ConfigError(
                    key,
                    chosen.name,
                    "a filter without scores: plans that come with their data set have none",
                    UNSCORED_ADVICE.replace("filter=", f"{key}="),
                )
            if chosen.recompute and self.teacher.is_asked:
                raise ConfigError(
                    key,
                    chosen.name,
                    "a filter that needs no annotated equations (<<a=b>>): a teacher's executions "
                    "have none, those that come with a data set may",
                    f"{key}=answer_only, or teacher=dataset data=gsm8k_socratic {key}=recompute",
                )

    def _check_roles(self) -> None:
        if (
            self.adapter.name == "full"
            and self.model.dtype != "float32"
            and self.method.is_trained
            and "train" in self.stages
            and self.student.path is None
        ):
            raise ConfigError(
                "model.dtype",
                self.model.dtype,
                "with adapter=full the trained weights must be float32: half precision rounds most "
                "of AdamW's small updates away; trainer.precision=bf16 computes in it all the same",
                "model.dtype=float32, or adapter=lora",
            )
        if self.student.path is not None and "train" in self.stages and self.method.is_trained:
            raise ConfigError(
                "student.path",
                self.student.path,
                "an existing student is evaluated, not trained again",
                f"student.path={self.student.path} 'stages=[evaluate]'",
            )
        if self.merge.is_merged and (self.student.path is not None or not self.method.is_trained):
            raise ConfigError(
                "merge",
                self.merge.name,
                "students that a method has trained are merged, and no other one is given",
                f"method={DEFAULT_METHOD} merge={self.merge.name} "
                "'merge.students=[FINGERPRINT,FOLDER]'",
            )
        if self.data.split == "test" and "train" in self.stages and self.method.is_trained:
            raise ConfigError(
                "data.split",
                "test",
                "nothing is ever trained on a test split",
                "data.split=test 'stages=[distill]'",
            )

    def _check_shards(self) -> None:
        if self.trainer.strategy != "fsdp" or "train" not in self.stages:
            return
        if isinstance(self.method, GRPOConfig):
            raise ConfigError(
                "trainer.strategy",
                "fsdp",
                "GRPO samples from the whole model at every step, which one device has to hold",
                "trainer.strategy=ddp adapter=lora",
            )
        if self.adapter.name == "qlora":
            raise ConfigError(
                "trainer.strategy",
                "fsdp",
                "weights of four bits are not spread over devices",
                "trainer.strategy=ddp, or adapter=lora",
            )

    def _check_rollouts(self) -> None:
        """Refuse a server of rollouts that no step could be handed to."""
        method = self.method
        if not isinstance(method, GRPOConfig) or not method.is_served or "train" not in self.stages:
            return
        if self.adapter.name != "lora":
            raise ConfigError(
                "adapter",
                self.adapter.name,
                f"method.engine={method.engine} hands each step's adapter to the server; whole "
                "weights, or an adapter upon weights of four bits, it could not be handed",
                f"adapter=lora method.engine={method.engine}, or method.engine=native",
            )

    @property
    def uses_teacher(self) -> bool:
        """Whether this job may ask the teacher anything."""
        if "distill" not in self.stages or self.corpus.path is not None:
            return False
        is_trained = self.method.needs_corpus and not self.merge.is_merged
        return is_trained or set(self.stages) == {"distill"}

    @property
    def start_trainer(self) -> TrainerConfig:
        """How GRPO's start is trained: ``trainer``, but for what ``start.trainer`` says."""
        own = self.start.trainer
        return self.trainer if own is None else own.over(self.trainer)

    @property
    def executes_by_ask(self) -> bool:
        """Whether plans are executed by a large model that is asked."""
        return "ask" in record("executor", self.executor.name).needs

    @property
    def executor_teacher(self) -> TeacherConfig:
        """Who executes plans with executor=teacher: the teacher of the corpus unless named."""
        return self.executor.teacher or self.teacher

    @property
    def judge(self) -> TeacherConfig:
        """Who judges plans: the corpus's teacher unless another one is chosen."""
        return self.reward.judge or self.teacher

    @property
    def uses_judge(self) -> bool:
        """Whether the training asks a large model."""
        is_grpo = isinstance(self.method, GRPOConfig)
        is_trained = is_grpo and "train" in self.stages and not self.merge.is_merged
        return is_trained and self.reward.uses_judge

    @property
    def benchmarks(self) -> list[str]:
        """Benchmarks of this job; the first one gives the objective."""
        internal = self.data.internal_split
        own = self.data.benchmarks if internal is None else [internal]
        return list(self.evaluation.benchmarks or own)
