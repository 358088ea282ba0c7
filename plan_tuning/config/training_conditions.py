"""Under which choices the keys of training are read: method, start, trainer, filters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from plan_tuning.config.extensions import find
from plan_tuning.config.filter import FilterConfig
from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.job_parts import (
    is_grpo,
    is_trained,
    may_learn_rationales,
    taught_by,
    trainings,
    trains_start,
)
from plan_tuning.config.mixture import MixtureDataConfig
from plan_tuning.config.run import Config
from plan_tuning.config.training import TrainerConfig

IsRead = Callable[[Config], bool]
_OF_GRADIENTS = ("pcgrad", "cosine_every_n_steps")  # of several sources


@dataclass(frozen=True)
class Condition:
    """When keys are read, and what is said where they are not.

    Args:
        keys: each a key, or the beginning of one: ``reward`` is the group and all that is in it.
        is_read: whether anything in the job reads them.
        reason: why nothing does; ``{job.…}`` is a value of the job's configuration.
        cure: words with which they are read.
    """

    keys: tuple[str, ...]
    is_read: IsRead
    reason: str
    cure: str


def _all_of(*conditions: IsRead) -> IsRead:
    return lambda job: all(condition(job) for condition in conditions)


def _of_grpo(is_read: Callable[[GRPOConfig], bool]) -> IsRead:
    """Of a knob of ``method``, where that is GRPO."""
    return lambda job: isinstance(job.method, GRPOConfig) and is_read(job.method)


def _weighs(key: str) -> IsRead:
    """Whether a loss weight is read: by the method, or by that of the start."""

    def is_read(job: Config) -> bool:
        method = taught_by(job)
        return method is not None and key in method.loss_weights

    return is_read


def _training_conditions(prefix: str) -> list[Condition]:
    """Of the knobs of supervised training in ``trainer``, or of those in ``start.trainer``."""
    is_start = prefix.startswith("start.")

    def read(key: str, is_read: Callable[[TrainerConfig], bool]) -> IsRead:
        def condition(job: Config) -> bool:
            own = getattr(job.start.trainer, key, None) if trains_start(job) else None
            says_it = (own is not None) == is_start  # and not the other one of the two
            return says_it and any(is_read(training) for training in trainings(job))

        return condition

    trainer = "start_trainer" if is_start else "trainer"
    held_out = (f"{prefix}.val_fraction=0 holds no problem out", f"{prefix}.val_fraction=0.05")
    further: dict[str, tuple[Callable[[TrainerConfig], bool], str, str]] = {
        "epochs": (
            lambda t: t.max_steps <= 0,
            f"{prefix}.max_steps={{job.{trainer}.max_steps}} counts the steps",
            f"{prefix}.max_steps=-1",
        ),
        "min_lr_ratio": (
            lambda t: t.scheduler != "constant",
            f"{prefix}.scheduler=constant stays where it is",
            f"{prefix}.scheduler=cosine",
        ),
        "replay": (
            lambda t: t.order != "shuffled",
            f"{prefix}.order=shuffled has no levels",
            f"{prefix}.order=by_source",
        ),
        "select_by": (
            lambda t: bool(t.select_best or t.early_stopping_patience),
            "nothing is selected",
            f"{prefix}.select_best=true",
        ),
        **{
            key: (lambda t: t.val_fraction > 0, *held_out)
            for key in ("val_problems", "val_every_n_steps")
        },
    }
    if not is_start:  # the machine's knobs are the job's
        further["cpu_matmul"] = (
            lambda t: t.precision == "fp32" and t.accelerator != "cuda",
            "it multiplies float32 matrices on a CPU",
            "trainer.precision=fp32 trainer.accelerator=cpu",
        )
    plain = (
        *("learning_rate", "scheduler", "warmup_ratio", "max_grad_norm", "batch_size"),
        *("max_steps", "val_fraction", "max_length", "neftune_alpha", "ema_decay", "overlong"),
        *("order", "packing", "checkpoint_every_n_steps", "log_every_n_steps"),
        *("select_best", "early_stopping_patience", *_OF_GRADIENTS),
    )
    where = (
        ("no start is trained here, or method.name is not grpo", "method=grpo start=m1")
        if is_start
        else ("no supervised student is trained here by it", "method=m1")
    )
    return [
        *(
            Condition((f"{prefix}.{key}",), read(key, lambda _: True), *where)
            for key in (*plain, *further)
        ),
        *(
            Condition((f"{prefix}.{key}",), read(key, is_read), reason, cure)
            for key, (is_read, reason, cure) in further.items()
        ),
        Condition(
            tuple(f"{prefix}.{key}" for key in _OF_GRADIENTS),
            lambda job: isinstance(job.data, MixtureDataConfig) and not job.merge.is_merged,
            "no training here has several sources",
            "data=gsm8k_math adapter=lora merge=none",
        ),
    ]


def filter_conditions(prefix: str, chosen: Callable[[Config], FilterConfig]) -> list[Condition]:
    """Of the knobs of ``filter``, or of those of ``start.filter``."""
    choice = "filter" if prefix == "filter" else "filter@start.filter"

    def is_outside(job: Config) -> bool:  # its function may read any of them
        found = find("filter", chosen(job).name)
        return found is not None and found.is_outside

    return [
        Condition(
            (f"{prefix}.plan_score_threshold",),
            lambda job: chosen(job).plan or is_outside(job),
            f"{prefix}.plan=false: plans are kept whatever their score",
            f"{choice}=two_stage",
        ),
        Condition(
            (f"{prefix}.diverse_below",),
            lambda job: chosen(job).selection == "diverse" or is_outside(job),
            "plans are compared for a diverse selection only",
            f"{prefix}.selection=diverse",
        ),
        Condition(
            (f"{prefix}.seed",),
            lambda job: (
                is_outside(job)
                or chosen(job).max_rows is not None
                or chosen(job).selection == "random"
            ),
            "the filter draws nothing",
            f"{prefix}.selection=random",
        ),
    ]


_UNTRAINED = "method={job.method.name} trains no student in this job"
_LEARN = "method=m1"

TRAINING: tuple[Condition, ...] = (
    # method
    Condition(
        ("method.plan_weight",),
        _all_of(is_trained, _weighs("plan_weight")),
        "nobody learns a plan by it",
        "method=m1",
    ),
    Condition(
        ("method.solution_weight",),
        _all_of(is_trained, _weighs("solution_weight")),
        "nobody learns a solution by it",
        "method=m1",
    ),
    Condition(
        ("method.problems",),
        _all_of(is_trained, may_learn_rationales),
        "only sft has the choice",
        "method=sft",
    ),
    Condition(("method.continued_steps",), is_trained, _UNTRAINED, _LEARN),
    Condition(
        ("method.epochs",),
        _of_grpo(lambda m: m.steps <= 0),
        "method.steps={job.method.steps} counts the steps",
        "method.steps=-1",
    ),
    Condition(
        ("method.min_lr_ratio",),
        _of_grpo(lambda m: m.scheduler != "constant"),
        "method.scheduler=constant stays where it is",
        "method.scheduler=cosine",
    ),
    Condition(
        ("method.accept_truncated_sampling",),
        _of_grpo(lambda m: m.top_p < 1.0 or m.top_k > 0),
        "sampling is not truncated",
        "method.top_p=0.95",
    ),
    Condition(
        ("method.epsilon_low", "method.epsilon_high", "method.ratio_cap"),
        _of_grpo(lambda m: not m.is_on_policy),
        "on-policy every ratio is 1: mini_batches x buffer_epochs is one step a rollout",
        "method.mini_batches=2",
    ),
    Condition(
        ("method.ratio_cap",),
        _of_grpo(lambda m: m.loss != "cispo"),
        "cispo caps at 1 + epsilon_high",
        "method.loss=grpo",
    ),
    Condition(
        ("method.epsilon_low",),
        _of_grpo(lambda m: m.loss != "cispo" or m.epsilon_high is None),
        "cispo caps at 1 + epsilon_high",
        "method.loss=grpo",
    ),
    Condition(
        ("method.kl_estimator", "method.kl_weighting", "method.kl_in"),
        _of_grpo(lambda m: m.has_reference),
        "method.beta=0: there is no KL",
        "method.beta=0.04",
    ),
    Condition(
        ("method.reference_dtype",),
        lambda job: (
            isinstance(job.method, GRPOConfig)
            and job.method.has_reference
            and job.adapter.name == "full"
        ),
        "no copy of the start is kept: with an adapter it is the base, with method.beta=0 nobody",
        "adapter=full method.beta=0.04",
    ),
    Condition(
        ("method.scaling",),
        lambda job: job.reward.aggregation == "sum_then_normalise",
        "reward.aggregation=normalise_then_sum divides each part by its own spread",
        "reward.aggregation=sum_then_normalise",
    ),
    Condition(
        ("method.std_epsilon",),
        lambda job: (
            isinstance(job.method, GRPOConfig)
            and (job.method.scaling != "none" or job.reward.aggregation != "sum_then_normalise")
        ),
        "method.scaling=none divides by nothing",
        "method.scaling=group",
    ),
    Condition(
        ("method.plan_amplification",),
        _of_grpo(lambda m: m.credit == "plan_amplified"),
        "only credit=plan_amplified has it",
        "method.credit=plan_amplified",
    ),
    Condition(
        ("method.overlong_buffer",),
        _of_grpo(lambda m: m.truncation == "penalise"),
        "only truncation=penalise has it",
        "method.truncation=penalise",
    ),
    Condition(
        ("method.val_every_n_steps",),
        _of_grpo(lambda m: m.val_problems > 0),
        "method.val_problems=0 holds no problem out",
        "method.val_problems=32",
    ),
    Condition(
        ("method.merged_sampler", "method.sampler_dtype", "method.decoding"),
        _of_grpo(lambda m: not m.is_served),
        "method.engine={job.method.engine} writes rollouts elsewhere",
        "method.engine=native",
    ),
    Condition(
        ("method.generation_batch_tokens",),
        _of_grpo(lambda m: m.engine != "server"),
        "method.engine=server: the server holds what it has memory for",
        "method.engine=native",
    ),
    Condition(
        ("method.server",),
        _of_grpo(lambda m: m.engine == "server"),
        "method.engine={job.method.engine} asks no server that is there already",
        "method.engine=server",
    ),
    Condition(
        ("method.sync_dir",),
        _of_grpo(lambda m: m.is_served),
        "method.engine=native writes no adapters for anybody",
        "method.engine=vllm",
    ),
    Condition(
        ("method.merged_sampler",),
        lambda job: job.adapter.name == "lora",
        "adapter={job.adapter.name} has nothing to merge",
        "adapter=lora",
    ),
    Condition(
        ("method.shared_prompt",),
        lambda job: not job.trainer.gradient_checkpointing,
        "a checkpointed pass keeps no prompt to share",
        "trainer.gradient_checkpointing=false",
    ),
    # start
    Condition(("start",), is_grpo, "only method=grpo has a start", "method=grpo"),
    Condition(
        ("start.trainer",),
        trains_start,
        "start={job.start.name} is not trained here",
        "start=m1",
    ),
    Condition(
        ("start.filter",),
        lambda job: (
            trains_start(job) and (not may_learn_rationales(job) or job.method.problems == "kept")
        ),
        "start={job.start.name} is trained on no trajectories",
        "start=m1",
    ),
    *filter_conditions("start.filter", lambda job: job.start.filter),
    # trainer
    *_training_conditions("trainer"),
    *_training_conditions("start.trainer"),
    Condition(
        tuple(
            f"trainer.{key}"
            for key in (
                *("weight_decay", "beta1", "beta2", "precision", "devices", "strategy"),
                *("micro_batch_tokens", "gradient_checkpointing"),
            )
        ),
        is_trained,
        _UNTRAINED,
        _LEARN,
    ),
    Condition(
        ("trainer.strategy",),
        lambda job: job.trainer.devices > 1,
        "one device holds the model alone",
        "trainer.devices=2",
    ),
    Condition(
        ("trainer.card",),
        lambda job: job.trainer.accelerator != "cpu",
        "trainer.accelerator=cpu computes on no card",
        "trainer.accelerator=auto",
    ),
)
