"""Groups ``method``, ``prompt``, ``trainer``: what a student learns and how it is optimised."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from plan_tuning.config.checks import (
    ConfigError,
    require,
    require_choice,
    require_positive,
    require_rate,
    require_tokens,
)
from plan_tuning.config.extensions import (
    DEFAULT_METHOD,
    Extension,
    check_extension,
    names,
    record,
)

SCHEDULERS = ("cosine", "linear", "constant")
PRECISIONS = ("fp32", "bf16")
ACCELERATORS = ("auto", "cpu", "cuda")
CPU_MATMULS = ("torch", "onednn")
STRATEGIES = ("auto", "ddp", "fsdp")
CARDS = (24, 40, 48, 80, 141)  # GB, as they are sold
PROMPTS = ("matched", "paper")
ORDERS = ("shuffled", "by_source", "by_difficulty", "by_length")
SELECTIONS = ("loss", "accuracy")
PROJECTIONS = ("none", "module", "global")

MATCH = "match="  # before the fingerprint of a student whose compute is matched

_RUNTIME = {"runtime": True}


@dataclass
class MethodConfig:
    """What the student learns (experiments/METHOD.md section 3)."""

    name: str = DEFAULT_METHOD
    problems: str = "all"  # sft only: all training problems, or those that the filter keeps
    plan_weight: float = 1.0  # loss weight of plan tokens
    solution_weight: float = 1.0  # loss weight of solution tokens
    # Optimizer steps that follow, from the plain job's student; 0: none; match=FINGERPRINT: as many
    # as cost what that student's own training did
    continued_steps: int | str = 0
    extension: str | None = field(default=None, metadata=_RUNTIME)  # module that brings it

    def __post_init__(self) -> None:
        """Check ranges."""
        require_choice("method.name", self.name, names("method"))
        check_extension("method", self.name, self.extension)
        require_choice("method.problems", self.problems, ("all", "kept"))
        for key in ("plan_weight", "solution_weight"):
            require_positive(f"method.{key}", getattr(self, key), f"method.{key}=1.0", zero=True)
        if self.matched is None:
            require_positive(
                "method.continued_steps",
                self.num_continued,
                "method.continued_steps=250",
                zero=True,
            )
        weights = self.record.loss_weights or ("solution_weight",)
        require(
            sum(getattr(self, key) for key in weights) > 0,
            f"method.{weights[0]}",
            0,
            f"{self.name} would learn nothing with these weights",
            "method.plan_weight=1.0",
        )

    @property
    def is_continued(self) -> bool:
        """Whether a second training follows, from the plain job's student."""
        return self.continued_steps != 0

    @property
    def matched(self) -> str | None:
        """The finished student whose training the second one shall cost; None: steps are given."""
        text = self.continued_steps
        is_match = isinstance(text, str) and text.startswith(MATCH)
        return str(text).removeprefix(MATCH) if is_match else None

    @property
    def num_continued(self) -> int:
        """Steps of the second training.

        Raises:
            ConfigError: they are not known yet, or what is given is no number.
        """
        if isinstance(self.continued_steps, str):
            raise ConfigError(
                "method.continued_steps",
                self.continued_steps,
                f"a number of optimizer steps, or {MATCH}FINGERPRINT of a finished student",
                "'method.continued_steps=\"match=FINGERPRINT\"'",
            )
        return self.continued_steps

    @property
    def record(self) -> Extension:
        """What the method needs, learns and is asked."""
        return record("method", self.name)

    @property
    def is_trained(self) -> bool:
        """Whether a student is trained at all."""
        return self.record.is_trained

    @property
    def learns_execution(self) -> bool:
        """Whether a training row holds the teacher's execution of a plan."""
        return "execution" in self.record.learns

    @property
    def has_two_calls(self) -> bool:
        """Whether its plans are executed in a call of their own."""
        return self.record.calls == 2

    @property
    def needs_corpus(self) -> bool:
        """Whether the teacher's trajectories go in."""
        return "corpus" in self.record.needs or (self.is_trained and self.problems == "kept")


@dataclass
class PromptConfig:
    """Which suffixes student prompts carry (experiments/METHOD.md section 8.3)."""

    name: str = "matched"

    def __post_init__(self) -> None:
        """Check ranges."""
        require_choice("prompt.name", self.name, PROMPTS)


@dataclass
class TrainerConfig:
    """Optimisation (content of the student) and hardware (runtime: not in its fingerprint)."""

    learning_rate: float = 5e-6  # paper: 5e-6
    scheduler: str = "cosine"  # paper: cosine
    warmup_ratio: float = 0.1  # share of the steps; paper: 0.1
    min_lr_ratio: float = 0.0  # floor of the schedule as a share of learning_rate
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    max_grad_norm: float = 1.0  # 0: no clipping
    batch_size: int = 8  # rows per optimizer step, all devices together; paper: 8 (2 x 4)
    epochs: int = 1  # paper: 1
    max_steps: int = -1  # optimizer steps; -1: as many as the epochs give
    val_fraction: float = 0.05  # paper: 5 % held out
    max_length: int = 3500  # tokens of prompt + completion; paper: 3500
    precision: str = "bf16"  # paper: bf16; fp32 on CPU
    neftune_alpha: float = 0.0
    ema_decay: float = 0.0  # moving average of the weights, which is validated and exported; 0: off
    select_best: bool = False  # export the weights that were the best at a validation
    select_by: str = "loss"  # best: the lowest held-out loss, or the highest accuracy
    early_stopping_patience: int = 0  # validations without improvement; 0: off
    overlong: str = "drop"  # rows longer than max_length: drop (counted) or error
    order: str = "shuffled"  # a curriculum: by_source, by_difficulty, by_length
    replay: float = 0.0  # share of a level's rows that come back among the later levels' rows
    pcgrad: str = "none"  # project conflicting gradients of sources: by module, or global
    accelerator: str = field(default="auto", metadata=_RUNTIME)
    devices: int = field(default=1, metadata=_RUNTIME)
    strategy: str = field(default="auto", metadata=_RUNTIME)
    threads: int = field(default=1, metadata=_RUNTIME)  # CPU threads of a job; 0: leave it to torch
    # What multiplies float32 matrices on a CPU; sums are rounded in another order
    cpu_matmul: str = field(default="torch", metadata=_RUNTIME)
    card: int | None = field(default=None, metadata=_RUNTIME)  # GB; None: the card at hand
    # Padded tokens of a forward pass: a number, or auto
    micro_batch_tokens: Any = field(default=16384, metadata=_RUNTIME)
    packing: bool = field(default=False, metadata=_RUNTIME)  # several rows in one sequence
    gradient_checkpointing: bool = field(default=False, metadata=_RUNTIME)
    checkpoint_every_n_steps: int = field(default=200, metadata=_RUNTIME)
    val_every_n_steps: int = field(default=0, metadata=_RUNTIME)  # 0: at the end of each epoch
    # Held-out problems that are solved at each validation; content where they select
    val_problems: int = field(default=0, metadata=_RUNTIME)
    log_every_n_steps: int = field(default=10, metadata=_RUNTIME)
    cosine_every_n_steps: int = field(default=0, metadata=_RUNTIME)  # of sources' gradients; 0: off
    progress: bool = field(default=True, metadata=_RUNTIME)

    def __post_init__(self) -> None:
        """Check ranges."""
        require_positive("trainer.learning_rate", self.learning_rate, "trainer.learning_rate=5e-6")
        require_choice("trainer.scheduler", self.scheduler, SCHEDULERS)
        require_rate("trainer.warmup_ratio", self.warmup_ratio, "trainer.warmup_ratio=0.1")
        require_rate("trainer.min_lr_ratio", self.min_lr_ratio, "trainer.min_lr_ratio=0.1")
        for key in ("weight_decay", "max_grad_norm", "neftune_alpha"):
            require_positive(f"trainer.{key}", getattr(self, key), f"trainer.{key}=1.0", zero=True)
        for key in ("beta1", "beta2", "ema_decay"):
            require(
                0.0 <= getattr(self, key) < 1.0,
                f"trainer.{key}",
                getattr(self, key),
                "at least 0 and below 1",
                f"trainer.{key}=0.9",
            )
        for key in ("batch_size", "epochs", "max_length", "devices"):
            require_positive(f"trainer.{key}", getattr(self, key), f"trainer.{key}=8")
        require_tokens("trainer.micro_batch_tokens", self.micro_batch_tokens)
        require(
            self.card is None or self.card in CARDS,
            "trainer.card",
            self.card,
            f"the memory of a card as it is sold, in GB: one of {', '.join(map(str, CARDS))}; "
            "null: that of the card at hand",
            "trainer.card=80",
        )
        for key in (
            *("checkpoint_every_n_steps", "val_every_n_steps", "val_problems"),
            *("early_stopping_patience", "cosine_every_n_steps"),
        ):
            require_positive(f"trainer.{key}", getattr(self, key), f"trainer.{key}=200", zero=True)
        require_positive("trainer.threads", self.threads, "trainer.threads=1", zero=True)
        require_positive(
            "trainer.log_every_n_steps", self.log_every_n_steps, "trainer.log_every_n_steps=10"
        )
        require(
            self.max_steps == -1 or self.max_steps > 0,
            "trainer.max_steps",
            self.max_steps,
            "a number of optimizer steps, or -1 for whole epochs",
            "trainer.max_steps=300",
        )
        require(
            0.0 <= self.val_fraction < 1.0,
            "trainer.val_fraction",
            self.val_fraction,
            "at least 0 and below 1",
            "trainer.val_fraction=0.05",
        )
        require_choice("trainer.precision", self.precision, PRECISIONS)
        require_choice("trainer.accelerator", self.accelerator, ACCELERATORS)
        require_choice("trainer.strategy", self.strategy, STRATEGIES)
        require_choice("trainer.cpu_matmul", self.cpu_matmul, CPU_MATMULS)
        self._check_shards()
        require_choice("trainer.order", self.order, ORDERS)
        require(
            0.0 <= self.replay < 1.0,
            "trainer.replay",
            self.replay,
            "at least 0 and below 1",
            "trainer.order=by_source trainer.replay=0.2",
        )
        require_choice("trainer.pcgrad", self.pcgrad, PROJECTIONS)
        require_choice("trainer.overlong", self.overlong, ("drop", "error"))
        require_choice("trainer.select_by", self.select_by, SELECTIONS)
        require(
            self.val_fraction > 0 or not (self.select_best or self.early_stopping_patience),
            "trainer.val_fraction",
            self.val_fraction,
            "above 0 when the best checkpoint or early stopping is asked for",
            "trainer.val_fraction=0.05",
        )
        require(
            self.select_by == "loss" or self.val_problems > 0,
            "trainer.val_problems",
            self.val_problems,
            "above 0 when weights are selected by accuracy",
            f"trainer.select_by={self.select_by} trainer.val_problems=64",
        )
        require(
            not (self.packing and self.neftune_alpha),
            "trainer.packing",
            self.packing,
            "not together with trainer.neftune_alpha, whose noise depends on a row's own length",
            "trainer.packing=false, or trainer.neftune_alpha=0",
        )

    @property
    def selects_by_accuracy(self) -> bool:
        """Whether held-out accuracy decides which weights are exported."""
        return self.select_by == "accuracy" and bool(
            self.select_best or self.early_stopping_patience
        )

    def _check_shards(self) -> None:
        """Refuse what cannot be done with weights that are spread over several devices."""
        if self.strategy != "fsdp":
            return
        require(
            self.devices > 1,
            "trainer.strategy",
            self.strategy,
            "it spreads the weights over several devices, and trainer.devices is 1",
            "trainer.devices=2, or trainer.strategy=auto",
        )
        require(
            not self.val_problems,
            "trainer.val_problems",
            self.val_problems,
            "0 with trainer.strategy=fsdp: a student writes with whole weights only",
            "trainer.val_problems=0, or trainer.strategy=ddp",
        )
        require(
            not self.ema_decay,
            "trainer.ema_decay",
            self.ema_decay,
            "not together with trainer.strategy=fsdp, which would need a second set of shards",
            "trainer.ema_decay=0, or trainer.strategy=ddp",
        )


@dataclass
class StartTrainerConfig:
    """How GRPO's start is trained where that differs from ``trainer``; None: as ``trainer`` says.

    The knobs are those of :class:`TrainerConfig` but for the machine's, which a job has once.
    """

    learning_rate: float | None = None
    scheduler: str | None = None
    warmup_ratio: float | None = None
    min_lr_ratio: float | None = None
    weight_decay: float | None = None
    beta1: float | None = None
    beta2: float | None = None
    max_grad_norm: float | None = None
    batch_size: int | None = None
    epochs: int | None = None
    max_steps: int | None = None
    val_fraction: float | None = None
    max_length: int | None = None
    precision: str | None = None
    neftune_alpha: float | None = None
    ema_decay: float | None = None
    select_best: bool | None = None
    select_by: str | None = None
    early_stopping_patience: int | None = None
    overlong: str | None = None
    order: str | None = None
    replay: float | None = None
    pcgrad: str | None = None
    micro_batch_tokens: Any = field(default=None, metadata=_RUNTIME)
    packing: bool | None = field(default=None, metadata=_RUNTIME)
    gradient_checkpointing: bool | None = field(default=None, metadata=_RUNTIME)
    checkpoint_every_n_steps: int | None = field(default=None, metadata=_RUNTIME)
    val_every_n_steps: int | None = field(default=None, metadata=_RUNTIME)
    val_problems: int | None = field(default=None, metadata=_RUNTIME)
    log_every_n_steps: int | None = field(default=None, metadata=_RUNTIME)
    cosine_every_n_steps: int | None = field(default=None, metadata=_RUNTIME)
    progress: bool | None = field(default=None, metadata=_RUNTIME)

    def over(self, trainer: TrainerConfig) -> TrainerConfig:
        """The trainer of the start: the job's, with what is said here.

        Raises:
            ConfigError: the two together cannot be; the message names keys of ``start.trainer``.
        """
        own = {key: value for key, value in vars(self).items() if value is not None}
        if not own:
            return trainer
        try:
            return replace(trainer, **own)
        except ConfigError as error:
            message = re.sub(r"(?<![\w.])trainer\.", "start.trainer.", str(error))
            raise ConfigError(message) from error
