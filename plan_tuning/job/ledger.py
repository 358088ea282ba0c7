"""Jobs -> the bytes that each stage holds at its widest moments, by cause, before it is built.

A stage goes through phases (the widest moment of a pass, its end, rollouts, a validation); its peak
is that of the largest. Phases and causes are those of :mod:`plan_tuning.students.footprint`; what
a GRPO step keeps beside the student, :mod:`plan_tuning.training.grpo.policy` says. Nothing heavy is
imported, and nothing is read but a ``config.json``.
"""

from __future__ import annotations

from collections.abc import Iterator

from plan_tuning.config.checks import AUTO
from plan_tuning.config.evaluation import EvaluationConfig
from plan_tuning.config.extensions import record
from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.job_parts import needs_student
from plan_tuning.config.model import ModelConfig
from plan_tuning.config.run import Config
from plan_tuning.config.training import TrainerConfig
from plan_tuning.job.cards import has_bfloat16
from plan_tuning.job.decoding_memory import decoding, served
from plan_tuning.job.graph import JobGraph
from plan_tuning.job.stage_memory import (
    DECODED,
    MICRO,
    MOST,
    PROMPT_TOKENS,
    ROLLOUTS,
    Causes,
    Phase,
    Sizes,
    StageMemory,
)
from plan_tuning.job.train_spec import start_config
from plan_tuning.students.footprint import (
    FLOAT,
    HALF,
    Rows,
    Training,
    cast_bytes,
    end_bytes,
    frozen_cast_bytes,
    head_bytes,
    head_gradient_bytes,
    input_bytes,
    outer_bytes,
    token_bytes,
    trained_parameters,
    weight_bytes,
)
from plan_tuning.students.shapes import Shape, is_published_rounded, shape_of


def job_memory(config: Config, graph: JobGraph) -> list[StageMemory]:
    """List the stages that a job has to build on a card, with what they hold.

    Stages of a model whose shape nobody knows are left out, see :func:`unknown_models`.
    """
    found = [
        _training(name, one, config, begins_from_adapter=_begins_from_adapter(name, config, graph))
        for name, one in _trainings(config, graph)
    ]
    if _is_tested(config, graph):
        found.append(_evaluation(config, graph))
    return [stage for stage in found if stage is not None]


def unknown_models(config: Config, graph: JobGraph) -> list[str]:
    """Name the models of what a job has to build whose shapes nobody knows."""
    trainings, is_tested = list(_trainings(config, graph)), _is_tested(config, graph)
    models = []
    is_served = "server" in record("engine", config.evaluation.engine).needs
    if trainings or (is_tested and not is_served):
        models.append(config.model)
    executing, needs = config.executor.model, record("executor", config.executor.name).needs
    executes = config.method.has_two_calls and (trainings or is_tested)
    if executes and "model" in needs and executing is not None:
        models.append(executing)
    return [model.name for model in models if shape_of(model) is None]


def _trainings(config: Config, graph: JobGraph) -> Iterator[tuple[str, Config]]:
    """The trainings that are left, by name, with their settings."""
    if "train" not in config.stages:
        return
    if graph.start is not None and not graph.start.is_available:
        yield "start", start_config(config)
    if graph.student is not None and not graph.merged and not graph.student.is_available:
        yield "train", config


def _is_tested(config: Config, graph: JobGraph) -> bool:
    stages = (*graph.predictions, *graph.executor_predictions, *graph.plan_values)
    return "evaluate" in config.stages and any(not stage.is_done for stage in stages)


def _begins_from_adapter(name: str, config: Config, graph: JobGraph) -> bool:
    """Whether a training's start is an adapter, which is merged in float32 before it is rounded."""
    begins = name == "train" and graph.start is not None
    return begins and config.adapter.name != "full" and config.adapter.export != "merged"


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
        shards=trainer.devices if trainer.strategy == "fsdp" else 1,
        is_eager=config.model.attention == "eager",
        group=method.group_size if isinstance(method, GRPOConfig) else 1,
        dropout=adapter.dropout if adapter.name != "full" else 0.0,
    )


def _label(model: ModelConfig, source: str) -> str:
    return f"{model.name}, shape from {source}" if source != "made here" else model.name


def _training(
    name: str, config: Config, job: Config, *, begins_from_adapter: bool
) -> StageMemory | None:
    """The memory of a training: ``config`` is the job's, or that of its start."""
    found = shape_of(config.model)
    if found is None:
        return None
    shape, source = found
    method, trainer = config.method, config.trainer
    grpo = method if isinstance(method, GRPOConfig) else None
    training = training_of(config, trainer, is_grpo=grpo is not None)
    reads_rounded = is_published_rounded(config.model) and not begins_from_adapter
    is_beneath = config.adapter.name == "lora" and not config.method.continued_steps
    executor = _executor_shape(config, is_beneath=is_beneath)
    if grpo is None:
        rows, step = Rows(trainer.max_length), trainer.batch_size * trainer.max_length
        needed = {MICRO: trainer.max_length}
        is_validated = bool(trainer.val_problems and trainer.val_fraction)
        tested = trainer.val_problems if is_validated else 0
    else:
        rows = Rows(PROMPT_TOKENS + grpo.max_new_tokens, PROMPT_TOKENS)
        step = grpo.prompts_per_step * grpo.group_size * rows.length
        needed = {MICRO: rows.length} | ({} if grpo.engine == "server" else {ROLLOUTS: rows.length})
        tested = grpo.val_problems
    uses_frozen = grpo is not None and config.reward.uses_frozen
    frozen = shape.parameters * _inference_width(config) if uses_frozen else 0
    answer = PROMPT_TOKENS + config.evaluation.max_new_tokens
    if tested:
        needed[DECODED] = answer
    ceilings = {MICRO: step, ROLLOUTS: step, DECODED: max(answer, tested * answer)}

    def phases(sizes: Sizes) -> list[Phase]:
        lasting = _lasting(shape, training, trainer, grpo)
        width = HALF if training.is_bf16 else FLOAT
        if grpo is not None and grpo.engine == "vllm":
            server = served(shape, width, sizes[ROLLOUTS], training.device)
            lasting = {**lasting, "server of rollouts": sum(server.values())}
        if frozen:
            lasting["frozen executor"] = frozen
        passes = _passes(shape, training, lasting, rows, sizes[MICRO])
        if grpo is not None and not grpo.is_served:
            drawn = decoding(shape, width, sizes[ROLLOUTS], rows)
            passes.append(Phase("rollouts", {**lasting, **drawn}))
        if grpo is not None and frozen:  # while the policy waits
            tokens = sizes[ROLLOUTS]
            carried = PROMPT_TOKENS + config.reward.plan.max_execution_tokens
            read = decoding(shape, _inference_width(config), tokens, Rows(carried))
            passes.append(Phase("plans carried out", {**lasting, **read}))
        if tested:
            passes.append(_validation(lasting, shape, training, sizes[DECODED], answer, executor))
        return passes

    return StageMemory(
        name, _label(config.model, source), phases, needed,
        _given(needed, ceilings, trainer, grpo, job.evaluation), ceilings,
        _host_of_training(shape, training, trainer, executor, reads_rounded=reads_rounded)
        + frozen * trainer.devices,
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
    shape: Shape, training: Training, trainer: TrainerConfig, grpo: GRPOConfig | None
) -> Causes:
    """What lies there from the first step to the last."""
    trained = trained_parameters(shape, training)
    causes: Causes = {
        "weights": weight_bytes(shape, training) / training.shards,
        "optimizer": 2 * FLOAT * trained / training.shards,
    }
    if trainer.devices > 1 and training.shards == 1:  # DDP's, beside the gradients themselves
        causes["buckets"] = FLOAT * trained
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
    if training.adapter == "qlora" or not grpo.merged_sampler or grpo.is_served:
        return 0
    matrices = shape.layers * shape.linear_weights
    is_common = (width == HALF) == training.rounds_base
    return (matrices if is_common else shape.parameters) * width


def _passes(
    shape: Shape, training: Training, lasting: Causes, rows: Rows, tokens: int
) -> list[Phase]:
    """The widest moments of a pass that is not the first one of its step."""
    trained = trained_parameters(shape, training)
    there: Causes = {
        **lasting,
        "gradients": FLOAT * trained / training.shards,
        "casts": cast_bytes(shape, training),
    }
    if frozen := frozen_cast_bytes(shape, training):
        there["frozen casts"] = frozen
    if training.shards > 1:  # a layer before and a layer behind are gathered as well
        gathered = 2 * shape.linear_weights + shape.tables
        there["gathered layers"] = gathered * training.width
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
    there |= decoding(shape, width, tokens, Rows(answer))
    if executor is not None:  # comes from the machine's memory and goes back
        there["validation's executor"] = executor.parameters * width
    return Phase("validation", there)


def _executor_shape(config: Config, *, is_beneath: bool) -> Shape | None:
    """The model that executes m2's plans beside the student; None: none on this machine.

    Args:
        config: of the job.
        is_beneath: the base is there without it, as the student with its adapter switched off.
    """
    if not config.method.has_two_calls:
        return None
    needs, model = record("executor", config.executor.name).needs, config.executor.model
    if "model" in needs and model is not None:
        found = shape_of(model)
        return None if found is None else found[0]
    if "base" in needs and not is_beneath:
        found = shape_of(config.model)
        return None if found is None else found[0]
    return None


def _host_of_training(
    shape: Shape,
    training: Training,
    trainer: TrainerConfig,
    executor: Shape | None,
    *,
    reads_rounded: bool,
) -> float:
    """Bytes of the machine's memory: processes read all weights before they move.

    Of a training whose weights are spread, the first process reads them and hands shards out.
    Rounded weights are read as such only where they lie so; all others are read in float32.
    """
    readers = 1 if trainer.strategy == "fsdp" else trainer.devices
    width = (
        HALF if (training.rounds_base or training.adapter == "qlora") and reads_rounded else FLOAT
    )
    waiting = 0 if executor is None else executor.parameters * HALF
    return readers * (shape.parameters * width + waiting)


def _inference_width(config: Config) -> int:
    """Bytes of a weight of a model that is loaded for inference."""
    return HALF if config.trainer.accelerator != "cpu" and has_bfloat16() else FLOAT


def _evaluation(config: Config, graph: JobGraph) -> StageMemory | None:
    """The memory of an evaluation: the student, unless it is served, and m2's executor beside it.

    Plans are valued by the weights of whoever carries them out, be the student served or not.
    """
    evaluation, has_two_calls = config.evaluation, config.method.has_two_calls
    values = any(not stage.is_done for stage in graph.plan_values)
    answers = any(not s.is_done for s in (*graph.predictions, *graph.executor_predictions))
    is_served = "server" in record("engine", evaluation.engine).needs
    is_own = not has_two_calls or "student" in record("executor", config.executor.name).needs
    shape, source = shape_of(config.model) or (None, "")
    is_loaded = (answers and not is_served) or (values and is_own)
    local = shape if is_loaded and needs_student(config) else None
    # Merged weights execute beside the base; a base that is tested here executes itself.
    is_base = graph.student is None and config.executor.name == "base" and local is not None
    executor = None if is_base else _executor_shape(config, is_beneath=False)
    named = {"decoding" if answers else "values of plans": local, "executing plans": executor}
    loaded = {phase: one for phase, one in named.items() if one is not None}
    if not loaded:
        return None
    width = _inference_width(config)
    answer = PROMPT_TOKENS + evaluation.max_new_tokens

    def phases(sizes: Sizes) -> list[Phase]:
        if "folder" in record("engine", evaluation.engine).needs:  # it holds one model at a time
            tokens = sizes[DECODED]
            device = "cpu" if config.trainer.accelerator == "cpu" else "cuda"
            return [Phase(name, served(one, width, tokens, device)) for name, one in loaded.items()]
        causes: Causes = {} if local is None else {"weights": local.parameters * width}
        if executor is not None:
            causes["executor"] = executor.parameters * width
        return [
            Phase(phase, causes | decoding(one, width, sizes[DECODED], Rows(answer)))
            for phase, one in loaded.items()
        ]

    given = evaluation.batch_tokens
    label = _label(config.model, source) if local is not None else "m2's executor"
    return StageMemory(
        "evaluate", label, phases, {DECODED: answer},
        {} if given == AUTO else {DECODED: max(answer, int(given))}, {DECODED: MOST},
        max(one.parameters for one in loaded.values()) * width,
    )  # fmt: skip
