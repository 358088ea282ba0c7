"""Groups ``method`` (grpo) and ``start``: reinforcement after plan tuning."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from plan_tuning.config.checks import (
    AUTO,
    require,
    require_choice,
    require_positive,
    require_tokens,
)
from plan_tuning.config.evaluation import DECODINGS, ServerAddress
from plan_tuning.config.extensions import DEFAULT_METHOD, OWN_ENGINE, find, records
from plan_tuning.config.filter import FilterConfig
from plan_tuning.config.teacher import is_loopback
from plan_tuning.config.training import (
    SCHEDULERS,
    MethodConfig,
    StartTrainerConfig,
    TrainerConfig,
)

LOSSES = ("grpo", "dapo", "bnpo", "dr_grpo", "gspo", "cispo")
KL_ESTIMATORS = ("k1", "k2", "k3")
KL_WEIGHTINGS = ("plain", "ratio")
KL_PLACES = ("loss", "reward")
SCALINGS = ("group", "batch", "none")
BASELINES = ("mean", "leave_one_out")
CREDITS = ("uniform", "segment", "segment_strict", "plan_amplified")
TRUNCATIONS = ("keep", "mask", "penalise")
SAMPLER_DTYPES = ("auto", "float32", "bfloat16")
REFERENCE_DTYPES = ("float32", "bfloat16")
ROUNDED_CAP = 2.0  # what importance_cap=auto is where rollouts are rounded otherwise than passes
UNTRAINED, GIVEN = "base", "path"  # starts that no job trains

_RUNTIME = {"runtime": True}


def _rollout_engines() -> tuple[str, ...]:
    """Those that tell the log-probabilities of what they write, or a server that may."""
    return tuple(e.name for e in records("engine") if {"log_probs", "server"} & set(e.needs))


@dataclass
class RolloutServerConfig(ServerAddress):
    """A server of the start's weights that is given each step's adapter (method.engine=server)."""

    place: ClassVar[str] = "method.server"

    concurrency: int = field(default=256, metadata=_RUNTIME)


@dataclass
class GRPOConfig(MethodConfig):
    """Group-relative policy optimisation (experiments/METHOD.md section 5).

    ``trainer`` gives GRPO its hardware, weight decay, betas and precision; everything else about
    the optimisation is here. The start is trained as ``start.trainer`` says, so it is the very
    artifact of the plain job. The loss weights that are inherited are those of its training.
    """

    name: str = "grpo"
    # Length of the training
    epochs: int = 1  # passes over the problems; paper: 1
    steps: int = -1  # GRPO steps; -1: as many as the epochs give
    prompts_per_step: int = 32  # paper: batch 32 (problems or completions: not stated)
    group_size: int = 8  # completions per problem (TRL: num_generations)
    # Sampling
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    accept_truncated_sampling: bool = False  # top_p < 1 or top_k > 0 make ratios wrong: say so
    max_new_tokens: int = 1024
    # Who writes rollouts: this process, a vLLM that the job starts, or a server that is there
    engine: str = "native"
    server: RolloutServerConfig = field(default_factory=RolloutServerConfig, metadata=_RUNTIME)
    # Where each step's adapter is written for it; None: into the memory of this machine
    sync_dir: str | None = field(default=None, metadata=_RUNTIME)
    # Optimisation
    learning_rate: float = 5e-6  # paper: 5e-6
    scheduler: str = "cosine"  # paper: cosine
    warmup_ratio: float = 0.1
    min_lr_ratio: float = 0.0
    max_grad_norm: float = 1.0  # 0: no clipping
    mini_batches: int = 1  # optimizer steps per pass over the rollouts
    buffer_epochs: int = 1  # passes over the rollouts of a step (mu)
    # Objective
    loss: str = "grpo"  # paper: DeepSeekMath's
    epsilon_low: float = 0.2
    epsilon_high: float | None = (
        None  # None: as epsilon_low; cispo: 1 + epsilon_high caps the ratio
    )
    ratio_cap: float | None = None  # upper bound of the ratio where the advantage is negative
    # Truncated importance sampling against the sampler: a cap, auto or None (off)
    importance_cap: Any = None
    off_policy_bound: float | None = None  # bad completions further from the policy are left out
    beta: float = 0.04  # weight of the KL term; 0: no reference policy at all
    kl_estimator: str = "k3"
    kl_weighting: str = "plain"
    kl_in: str = "loss"
    reference_dtype: str = "float32"  # of the copy that the KL refers to where all are trained
    entropy_bonus: float = 0.0
    # Advantages
    baseline: str = "mean"
    scaling: str = "group"
    std_epsilon: float = 1e-4
    dead_tolerance: float = 1e-6  # a group whose rewards differ by no more teaches nothing
    drop_dead_groups: bool = True
    max_redraws: int = 0  # dynamic sampling: at most so many more draws for dead groups; 0: off
    credit: str = "uniform"
    plan_amplification: float = 0.2  # credit=plan_amplified: share of the advantage's size
    # Completions that hit max_new_tokens
    truncation: str = "keep"
    overlong_buffer: int = 0  # truncation=penalise: tokens over which the penalty grows to 1
    # Held-out accuracy, and when to give up
    val_problems: int = 0  # problems held out from the training problems; 0: none
    val_every_n_steps: int = field(default=0, metadata=_RUNTIME)  # 0: only at the end
    stop_kl: float | None = None  # stop when k3 to the start exceeds this on average
    stop_entropy: float | None = None  # stop when the mean entropy falls below this (nats)
    stop_reward_drop: float | None = None  # stop when the reward falls so far below its best
    stop_flops: float | None = None  # stop when the training has computed so many operations
    # Hardware and logs
    shared_prompt: bool = field(default=True, metadata=_RUNTIME)  # read a group's prompt once
    merged_sampler: bool = field(default=True, metadata=_RUNTIME)  # sample adapters merged
    decoding: str = field(default="auto", metadata=_RUNTIME)  # of the rollouts, as evaluation's
    sampler_dtype: str = field(default="auto", metadata=_RUNTIME)
    generation_batch_tokens: Any = field(default=65536, metadata=_RUNTIME)  # or auto
    # Sampler against trainer, mean over tokens; None: 0.002 in float32, else 0.2; 0: unchecked
    max_log_prob_gap: float | None = field(default=None, metadata=_RUNTIME)
    checkpoint_every_n_steps: int = field(default=10, metadata=_RUNTIME)  # 0: none
    log_completions_every_n_steps: int = field(default=10, metadata=_RUNTIME)  # 0: none

    def __post_init__(self) -> None:
        """Check ranges."""
        require_choice("method.name", self.name, ("grpo",))
        require(
            not self.is_continued,
            "method.continued_steps",
            self.continued_steps,
            "0 for grpo, which goes on from its start anyway",
            "method=m1 method.continued_steps=250",
        )
        for key in ("epochs", "prompts_per_step", "max_new_tokens", "mini_batches"):
            require_positive(f"method.{key}", getattr(self, key), f"method.{key}=8")
        for key in ("temperature", "learning_rate", "buffer_epochs"):
            require_positive(f"method.{key}", getattr(self, key), f"method.{key}=1")
        require_tokens("method.generation_batch_tokens", self.generation_batch_tokens)
        for key in (
            *("ratio_cap", "off_policy_bound", "plan_amplification"),
            *("stop_kl", "stop_entropy", "stop_reward_drop", "stop_flops"),
        ):
            require_positive(f"method.{key}", getattr(self, key), f"method.{key}=2")
        for key in (
            *("plan_weight", "solution_weight", "beta", "entropy_bonus", "max_grad_norm", "top_k"),
            *("max_redraws", "overlong_buffer", "val_problems", "val_every_n_steps"),
            *("dead_tolerance", "std_epsilon", "log_completions_every_n_steps"),
            *("max_log_prob_gap", "checkpoint_every_n_steps"),
        ):
            require_positive(f"method.{key}", getattr(self, key), f"method.{key}=0.1", zero=True)
        for key, choices in (
            ("engine", _rollout_engines()),
            ("scheduler", SCHEDULERS),
            ("loss", LOSSES),
            ("kl_estimator", KL_ESTIMATORS),
            ("kl_weighting", KL_WEIGHTINGS),
            ("kl_in", KL_PLACES),
            ("baseline", BASELINES),
            ("scaling", SCALINGS),
            ("credit", CREDITS),
            ("truncation", TRUNCATIONS),
            ("decoding", DECODINGS),
            ("sampler_dtype", SAMPLER_DTYPES),
            ("reference_dtype", REFERENCE_DTYPES),
        ):
            require_choice(f"method.{key}", getattr(self, key), choices)
        require(
            self.group_size >= 2,
            "method.group_size",
            self.group_size,
            "2 or more: an advantage compares the completions of a group",
            "method.group_size=8",
        )
        require(
            self.steps == -1 or self.steps > 0,
            "method.steps",
            self.steps,
            "a number of GRPO steps, or -1 for whole epochs",
            "method.steps=100",
        )
        self._check_server()
        self._check_objective()
        self._check_kl()

    def _check_server(self) -> None:
        if self.engine != "server":
            return
        require(
            bool(self.server.api_base),
            "method.server.api_base",
            self.server.api_base,
            "method.engine=server needs the address of a server of the start's weights",
            "method.server.api_base=http://127.0.0.1:8000/v1, or method.engine=vllm",
        )
        require(
            self.sync_dir is not None or is_loopback(str(self.server.api_base)),
            "method.sync_dir",
            self.sync_dir,
            "a folder that the server's machine sees under the same path: adapters go through it",
            "method.sync_dir=/shared/adapters",
        )

    def _check_objective(self) -> None:
        require(
            0.0 < self.epsilon_low < 1.0,
            "method.epsilon_low",
            self.epsilon_low,
            "above 0 and below 1 (gspo: about 3e-4)",
            "method.epsilon_low=0.2",
        )
        require_positive("method.epsilon_high", self.epsilon_high, "method.epsilon_high=0.28")
        require(
            self.ratio_cap is None or self.ratio_cap > 1.0 + self.clip_high,
            "method.ratio_cap",
            self.ratio_cap,
            f"above 1 + epsilon_high = {1 + self.clip_high:g}",
            "method.ratio_cap=4",
        )
        cap = self.importance_cap
        is_number = isinstance(cap, int | float) and not isinstance(cap, bool)
        require(
            cap is None or cap == AUTO or (is_number and cap >= 1.0),
            "method.importance_cap",
            cap,
            "auto, null, or 1 or more: a lower cap would weigh every token down, on-policy ones "
            "too",
            "method.importance_cap=2",
        )
        require(
            0.0 < self.top_p <= 1.0,
            "method.top_p",
            self.top_p,
            "above 0 and at most 1",
            "method.top_p=1.0",
        )
        require(
            self.accept_truncated_sampling or (self.top_p >= 1.0 and self.top_k == 0),
            "method.top_p" if self.top_p < 1.0 else "method.top_k",
            self.top_p if self.top_p < 1.0 else self.top_k,
            "full sampling only: the trainer's probabilities know nothing of top-p and top-k, so "
            "the ratios would be wrong",
            "method.top_p=1.0 method.top_k=0, or method.accept_truncated_sampling=true",
        )
        require(
            self.truncation != "penalise" or 0 < self.overlong_buffer <= self.max_new_tokens,
            "method.overlong_buffer",
            self.overlong_buffer,
            "with truncation=penalise: above 0 and at most method.max_new_tokens",
            "method.overlong_buffer=64",
        )

        require(
            self.stop_flops is None or self.scheduler == "constant",
            "method.stop_flops",
            self.stop_flops,
            "with method.scheduler=constant: another schedule would be cut off on its way down",
            "method.scheduler=constant method.stop_flops=1e12",
        )

    def _check_kl(self) -> None:
        require(
            self.stop_kl is None or self.beta > 0,
            "method.stop_kl",
            self.stop_kl,
            "with method.beta=0 no KL is computed, so nothing would ever stop",
            "method.stop_kl=null, or method.beta=0.001",
        )
        if self.kl_in != "reward":
            return
        require(
            self.beta > 0,
            "method.kl_in",
            self.kl_in,
            "with method.beta=0 there is no KL to put anywhere",
            "method.kl_in=loss, or method.beta=0.04",
        )
        for key, default in (("kl_estimator", "k3"), ("kl_weighting", "plain")):
            require(
                getattr(self, key) == default,
                f"method.{key}",
                getattr(self, key),
                "method.kl_in=reward always takes k1 off the rewards, unweighted: leave "
                f"method.{key} as it is by default",
                f"method.{key}={default}",
            )

    @property
    def clip_high(self) -> float:
        """The upper clipping range."""
        return self.epsilon_low if self.epsilon_high is None else self.epsilon_high

    @property
    def has_reference(self) -> bool:
        """Whether a reference policy is needed."""
        return self.beta > 0

    @property
    def is_served(self) -> bool:
        """Whether rollouts come from a server."""
        return self.engine != OWN_ENGINE

    @property
    def is_on_policy(self) -> bool:
        """Whether a step's rollouts are used for one optimizer step only."""
        return self.mini_batches * self.buffer_epochs == 1

    def resolved(self, precision: str) -> GRPOConfig:
        """Say what auto is, by the precision and the engine and never by the machine.

        Args:
            precision: ``trainer.precision``.
        """
        if self.importance_cap != AUTO:
            return self
        cap = ROUNDED_CAP if precision == "bf16" or self.is_served else None
        return dataclasses.replace(self, importance_cap=cap)

    def total_steps(self, num_problems: int) -> int:
        """Count the GRPO steps of a training."""
        if self.steps > 0:
            return self.steps
        return math.ceil(self.epochs * num_problems / self.prompts_per_step)

    def optimisation(self, trainer: TrainerConfig) -> TrainerConfig:
        """The trainer's settings with GRPO's own rates."""
        return dataclasses.replace(
            trainer,
            learning_rate=self.learning_rate,
            scheduler=self.scheduler,
            warmup_ratio=self.warmup_ratio,
            min_lr_ratio=self.min_lr_ratio,
            max_grad_norm=self.max_grad_norm,
        )


def start_names() -> tuple[str, ...]:
    """What GRPO may begin from: the untrained model, a plain job's student, one given by path."""
    trained = [one.name for one in records("method") if one.is_supervised and one.calls == 1]
    return (UNTRAINED, *trained, GIVEN)


@dataclass
class StartConfig:
    """What GRPO begins from; ``filter`` selects the start's training rows, not the golden plans."""

    name: str = DEFAULT_METHOD  # a supervised method of one call, base or path
    path: str | None = None
    filter: FilterConfig = field(default_factory=FilterConfig)
    trainer: StartTrainerConfig | None = field(default_factory=StartTrainerConfig)

    def __post_init__(self) -> None:
        """Check ranges."""
        require_choice("start.name", self.name, start_names())
        require(
            (self.name == GIVEN) == (self.path is not None),
            "start.path",
            self.path,
            "the folder of a student, with start=path and only there",
            "start=path start.path=multirun_outputs/artifacts/students/FINGERPRINT",
        )

    @property
    def learns_trajectories(self) -> bool:
        """Whether a start is trained here on trajectories that its filter keeps."""
        found = find("method", self.name)
        return found is not None and "corpus" in found.needs
