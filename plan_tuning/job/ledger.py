"""Jobs -> the bytes that each stage holds at its widest moments, by cause, before it is built.

A stage goes through phases (the widest moment of a pass, its end, rollouts, a validation); its peak
is that of the largest. Phases and causes are those of :mod:`plan_tuning.students.footprint`; what
a GRPO step keeps beside the student, :mod:`plan_tuning.training.grpo.policy` says. Nothing heavy is
imported, and nothing is read but a ``config.json``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from plan_tuning.config.checks import AUTO
from plan_tuning.config.evaluation import EvaluationConfig
from plan_tuning.config.extensions import record
from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.model import ModelConfig
from plan_tuning.config.run import Config
from plan_tuning.config.training import TrainerConfig
from plan_tuning.job.graph import JobGraph
from plan_tuning.job.train_spec import start_config
from plan_tuning.students.footprint import (
    FLOAT,
    HALF,
    Rows,
    Training,
    cache_bytes,
    cast_bytes,
    end_bytes,
    frozen_cast_bytes,
    head_bytes,
    head_gradient_bytes,
    input_bytes,
    outer_bytes,
    read_bytes,
    token_bytes,
    trained_parameters,
    weight_bytes,
)
from plan_tuning.students.shapes import Shape, shape_of

MICRO = "trainer.micro_batch_tokens"
ROLLOUTS = "method.generation_batch_tokens"
DECODED = "evaluation.batch_tokens"
PROMPT_TOKENS = 256  # of a problem with its instructions, where nobody has counted
_READ_AT_ONCE = 16_384  # tokens of prompts that the native engine reads in one pass
_GRANULE = 256  # tokens that found sizes are multiples of
_MOST = 2**21  # tokens beyond which nobody looks

Causes = dict[str, float]
Sizes = Mapping[str, int]


@dataclass(frozen=True)
class Phase:
    """A moment of a stage, and what lies on the card then, in bytes by cause."""

    name: str
    causes: Causes

    @property
    def total(self) -> float:
        """All causes together."""
        return sum(self.causes.values())


@dataclass(frozen=True)
class StageMemory:
    """What a stage holds, as a function of the sizes of its passes.

    Args:
        name: start, train or evaluate.
        model: the preset, and where its shape is from.
        phases: from sizes (tokens by key) to the widest moments.
        needed: sizes below which nothing can be done: one row.
        given: sizes that the configuration gives, as far as a step can fill them; auto is absent.
        ceilings: sizes beyond which nothing is gained: all rows of a step at once.
        host: bytes of the machine's memory while weights are loaded.
    """

    name: str
    model: str
    phases: Callable[[Sizes], list[Phase]]
    needed: Sizes
    given: Sizes
    ceilings: Sizes
    host: float

    def widest(self, sizes: Sizes) -> Phase:
        """The phase that holds most."""
        return max(self.phases(sizes), key=lambda phase: phase.total)

    @property
    def least(self) -> Phase:
        """The widest moment with one row a pass."""
        return self.widest(self.needed)

    def largest(self, key: str, usable: float) -> int | None:
        """The most tokens of one key that fit beside the least of the others; None: not a row."""

        def fits(tokens: int) -> bool:
            return self.widest({**self.needed, key: tokens}).total <= usable

        low = self.needed[key]
        if not fits(low):
            return None
        high = max(low, min(self.ceilings[key], _MOST))
        if fits(high):
            return high
        while high - low > _GRANULE:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return max(low // _GRANULE * _GRANULE, self.needed[key])

    def sizes(self, usable: float | None) -> dict[str, int]:
        """The sizes that the stage would run with: those that are given, else the largest."""
        found = {}
        for key, least in self.needed.items():
            largest = None if usable is None else self.largest(key, usable)
            found[key] = self.given.get(key) or largest or least
        return found


def job_memory(config: Config, graph: JobGraph) -> list[StageMemory]:
    """List the stages that a job has to build on a card, with what they hold.

    Stages of a model whose shape nobody knows are left out.
    """
    found = [
        _training(name, one, config)
        for name, stage, one in (
            ("start", graph.start, start_config(config) if graph.start is not None else config),
            ("train", None if graph.merged else graph.student, config),
        )
        if stage is not None and not stage.is_available and "train" in config.stages
    ]
    is_tested = any(not s.is_done for s in (*graph.predictions, *graph.executor_predictions))
    if is_tested and "evaluate" in config.stages:
        found.append(_evaluation(config))
    return [stage for stage in found if stage is not None]


def training_of(config: Config, trainer: TrainerConfig, *, is_grpo: bool) -> Training:
    """Say what of a job's settings decides the memory of its passes."""
    adapter, method = config.adapter, config.method
    shares = isinstance(method, GRPOConfig) and method.shared_prompt and is_grpo
    return Training(
        adapter=adapter.name,
        rank=adapter.rank,
        is_bf16=trainer.precision == "bf16",
        rounds_base=adapter.rounds_base(trainer.precision, trainer.strategy)
        and config.model.dtype == "float32",
        recomputes=trainer.gradient_checkpointing,
        shares_prompts=shares and not trainer.gradient_checkpointing,
        is_grpo=is_grpo,
        device="cpu" if trainer.accelerator == "cpu" else "cuda",
        group=method.group_size if isinstance(method, GRPOConfig) else 1,
        dropout=adapter.dropout if adapter.name != "full" else 0.0,
    )


def _label(model: ModelConfig, source: str) -> str:
    return f"{model.name}, shape from {source}" if source != "made here" else model.name


def _training(name: str, config: Config, job: Config) -> StageMemory | None:
    """The memory of a training: ``config`` is the job's, or that of its start."""
    found = shape_of(config.model)
    if found is None:
        return None
    shape, source = found
    method, trainer = config.method, config.trainer
    grpo = method if isinstance(method, GRPOConfig) else None
    training = training_of(config, trainer, is_grpo=grpo is not None)
    shards = trainer.devices if trainer.strategy == "fsdp" else 1
    executor = _executor_shape(config)
    if grpo is None:
        rows, step = Rows(trainer.max_length), trainer.batch_size * trainer.max_length
        needed = {MICRO: trainer.max_length}
        is_validated = bool(trainer.val_problems and trainer.val_fraction)
        tested = trainer.val_problems if is_validated else 0
    else:
        rows = Rows(PROMPT_TOKENS + grpo.max_new_tokens, PROMPT_TOKENS)
        step = grpo.prompts_per_step * grpo.group_size * rows.length
        needed = {MICRO: rows.length, ROLLOUTS: rows.length}
        tested = grpo.val_problems
    answer = PROMPT_TOKENS + config.evaluation.max_new_tokens
    if tested:
        needed[DECODED] = answer
    ceilings = {MICRO: step, ROLLOUTS: step, DECODED: max(answer, tested * answer)}

    def phases(sizes: Sizes) -> list[Phase]:
        lasting = _lasting(shape, training, trainer, grpo, shards)
        passes = _passes(shape, training, lasting, rows, sizes[MICRO], shards)
        if grpo is not None:
            drawn = _decoding(shape, HALF if training.is_bf16 else FLOAT, sizes[ROLLOUTS], rows)
            passes.append(Phase("rollouts", {**lasting, **drawn}))
        if tested:
            passes.append(_validation(lasting, shape, training, sizes[DECODED], answer, executor))
        return passes

    return StageMemory(
        name, _label(config.model, source), phases, needed,
        _given(needed, ceilings, trainer, grpo, job.evaluation), ceilings,
        _host_of_training(shape, training, trainer, executor),
    )  # fmt: skip


def _given(
    needed: Sizes,
    ceilings: Sizes,
    trainer: TrainerConfig,
    grpo: GRPOConfig | None,
    evaluation: EvaluationConfig,
) -> dict[str, int]:
    """The sizes of the configuration; a pass has one row at least, and at most those of a step."""
    said = {
        MICRO: trainer.micro_batch_tokens,
        ROLLOUTS: AUTO if grpo is None else grpo.generation_batch_tokens,
        DECODED: evaluation.batch_tokens,
    }
    return {
        key: max(least, min(int(said[key]), ceilings[key]))
        for key, least in needed.items()
        if said[key] != AUTO
    }


def _lasting(
    shape: Shape, training: Training, trainer: TrainerConfig, grpo: GRPOConfig | None, shards: int
) -> Causes:
    """What lies there from the first step to the last."""
    trained = trained_parameters(shape, training)
    causes: Causes = {
        "weights": weight_bytes(shape, training) / shards,
        "optimizer": 2 * FLOAT * trained / shards,
    }
    if trainer.ema_decay:
        causes["average"] = FLOAT * trained
    if grpo is None:
        return causes
    if training.is_full and grpo.has_reference:
        width = HALF if grpo.reference_dtype == "bfloat16" else FLOAT
        causes["reference"] = shape.parameters * width
    copied = _copy_bytes(shape, training, grpo)
    return {**causes, "copy for rollouts": copied} if copied else causes


def _copy_bytes(shape: Shape, training: Training, grpo: GRPOConfig) -> float:
    """Bytes of the copy that writes rollouts; weights that it has in common are not in it."""
    width = HALF if training.is_bf16 and training.device == "cuda" else FLOAT
    if grpo.sampler_dtype != "auto":
        width = HALF if grpo.sampler_dtype == "bfloat16" else FLOAT
    if training.is_full:
        return 0 if width == FLOAT else shape.parameters * width
    if training.adapter == "qlora" or not grpo.merged_sampler:
        return 0
    matrices = shape.layers * shape.linear_weights
    is_common = (width == HALF) == training.rounds_base
    return (matrices if is_common else shape.parameters) * width


def _passes(
    shape: Shape, training: Training, lasting: Causes, rows: Rows, tokens: int, shards: int
) -> list[Phase]:
    """The widest moments of a pass that is not the first one of its step."""
    trained = trained_parameters(shape, training)
    there: Causes = {
        **lasting,
        "gradients": FLOAT * trained / shards,
        "casts": cast_bytes(shape, training) / shards,
    }
    if frozen := frozen_cast_bytes(shape, training):
        there["frozen casts"] = frozen
    if shards > 1:  # a layer before and a layer behind are gathered as well
        there["gathered layers"] = (2 * shape.linear_weights + shape.embedding) * training.width
    kept = token_bytes(shape, training, rows) * tokens
    waiting = head_gradient_bytes(shape, training)
    head = head_bytes(shape, training, round(tokens * rows.new_share(training)))
    if training.recomputes:
        outer = (input_bytes(shape, training, rows) + outer_bytes(shape, training)) * tokens
        widest = [
            Phase("a layer computed again",
                  {**there, "activations": kept, "head's gradient": waiting}),
            Phase("output layer", {**there, "activations": outer, "head chunk": head}),
        ]  # fmt: skip
    else:
        widest = [Phase("output layer", {**there, "activations": kept, "head chunk": head})]
    end = end_bytes(shape, training)
    if end:
        widest.append(Phase("end of a pass", {**there, "gradients on their way": end}))
    return widest


def _decoding(shape: Shape, width: int, tokens: int, rows: Rows) -> Causes:
    """Keys and values of ``tokens`` tokens, the reading of prompts, and logits of all rows.

    Rows are as many as have a prompt and as much again to say.
    """
    count = max(1, tokens // max(2 * PROMPT_TOKENS, 1)) if tokens > rows.length else 1
    read = min(tokens, _READ_AT_ONCE) * read_bytes(shape, width)
    logits = count * shape.vocabulary * (width + 2 * FLOAT)
    return {"KV cache": cache_bytes(shape, width) * tokens, "reading and logits": read + logits}


def _validation(
    lasting: Causes,
    shape: Shape,
    training: Training,
    tokens: int,
    answer: int,
    executor: Shape | None,
) -> Phase:
    """Held-out problems are solved with the weights that are trained, under autocast."""
    width = HALF if training.is_bf16 else FLOAT
    there = {**lasting, "casts": cast_bytes(shape, training)}
    there |= _decoding(shape, width, tokens, Rows(answer))
    if executor is not None:  # comes from the machine's memory and goes back
        there["validation's executor"] = executor.parameters * width
    return Phase("validation", there)


def _executor_shape(config: Config) -> Shape | None:
    """The model that executes m2's plans beside the student; None: none on this machine."""
    if not config.method.has_two_calls:
        return None
    needs, model = record("executor", config.executor.name).needs, config.executor.model
    if "model" in needs and model is not None:
        found = shape_of(model)
        return None if found is None else found[0]
    is_beneath = config.adapter.name == "lora" and not config.method.continued_steps
    if "base" in needs and not is_beneath:
        found = shape_of(config.model)
        return None if found is None else found[0]
    return None


def _host_of_training(
    shape: Shape, training: Training, trainer: TrainerConfig, executor: Shape | None
) -> float:
    """Bytes of the machine's memory: every process reads all weights before they move."""
    width = HALF if training.rounds_base or training.adapter == "qlora" else FLOAT
    waiting = 0 if executor is None else executor.parameters * HALF
    return trainer.devices * (shape.parameters * width + waiting)


def _evaluation(config: Config) -> StageMemory | None:
    """The memory of an evaluation: the student, and m2's executor beside it."""
    evaluation = config.evaluation
    is_served = "server" in record("engine", evaluation.engine).needs
    found = None if is_served else shape_of(config.model)
    if found is None:
        return None
    shape, source = found
    width = FLOAT if config.trainer.accelerator == "cpu" else HALF
    answer = PROMPT_TOKENS + evaluation.max_new_tokens
    plain = replace(config.adapter, name="full")  # merged weights execute beside the base
    executor = _executor_shape(replace(config, adapter=plain))
    has_own = executor is not None and not (config.method.has_two_calls and _is_untrained(config))

    def phases(sizes: Sizes) -> list[Phase]:
        causes: Causes = {"weights": shape.parameters * width}
        if executor is not None and has_own:
            causes["executor"] = executor.parameters * width
        return [Phase("decoding", causes | _decoding(shape, width, sizes[DECODED], Rows(answer)))]

    given = evaluation.batch_tokens
    return StageMemory(
        "evaluate", _label(config.model, source), phases, {DECODED: answer},
        {} if given == AUTO else {DECODED: max(answer, int(given))}, {DECODED: _MOST},
        shape.parameters * width,
    )  # fmt: skip


def _is_untrained(config: Config) -> bool:
    """Whether the model under test is the base itself, which then executes as well."""
    return not config.method.is_trained and config.executor.name == "base"
