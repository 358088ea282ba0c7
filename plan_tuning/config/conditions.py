"""Under which choices each key of the configuration is read; a key without a condition always is.

``CONDITIONS`` is data: :mod:`plan_tuning.config.effects` leaves what is not read out of every
fingerprint, and says to whoever typed it why it does nothing and which word would change that.
"""

from __future__ import annotations

from dataclasses import fields

from plan_tuning.config.extensions import record
from plan_tuning.config.job_parts import (
    asks_teacher,
    distils,
    draws_problems,
    executes_here,
    has_executor,
    is_one_file,
    is_tested,
    is_trained,
    passes_are_rounded,
    reads_problems,
    reads_world,
    runs_programs,
    starts_server,
    tests_internal_split,
    uses_corpus,
    validates,
    values_given_plans,
)
from plan_tuning.config.merge import ROUTER
from plan_tuning.config.microworld import MicroworldConfig
from plan_tuning.config.mixture import MixtureDataConfig
from plan_tuning.config.reward_conditions import REWARD
from plan_tuning.config.run import Config
from plan_tuning.config.training_conditions import (
    TRAINING,
    Condition,
    IsRead,
    filter_conditions,
)

_UNTRAINED = "method={job.method.name} trains no student in this job"
_LEARN = "method=m1"
_NO_CORPUS = "method={job.method.name} uses no teacher's trajectories in this job"
_WORLD = tuple(f"data.{f.name}" for f in fields(MicroworldConfig))
_VOCABULARY = ("num_names", "max_value", "max_operand")
_DECODING = ("limit", "temperature", "num_samples", "benchmarks", "decontaminate", "engine")
_OF_RULES = {"density": "ties", "scale": "ties", "seed": "dare_ties"}  # with a choice that reads it
_MERGE_KNOBS = {
    **_OF_RULES,
    "rank": "linear",
    **dict.fromkeys(("router", "neighbours", "encoder"), ROUTER),
}


def _merges_with(key: str) -> IsRead:
    """Whether the rule of the merge reads a knob, also one from outside."""
    if key in _OF_RULES:
        return lambda job: job.merge.is_merged and key in record("merge", job.merge.name).needs
    return lambda job: job.merge.is_merged and job.merge.is_routed == (key != "rank")


def _is_own_mix(job: Config) -> bool:
    """Whether the problems are made here, or come from several sources."""
    return job.data.is_microworld or isinstance(job.data, MixtureDataConfig)


def _engine_needs(job: Config) -> tuple[str, ...]:
    """What the engine of the evaluation is handed."""
    return record("engine", job.evaluation.engine).needs


# Where several conditions of a key fail, the first one gives the reason.
CONDITIONS: tuple[Condition, ...] = (
    # data
    Condition(
        ("data.limit", "data.fraction"),
        reads_problems,
        "this job reads no training problems",
        "method=m1 corpus.path=null",
    ),
    Condition(
        ("data.split",),
        lambda job: reads_problems(job) or tests_internal_split(job),
        "this job reads no training problems",
        "method=m1 corpus.path=null",
    ),
    Condition(
        ("data.seed",),
        draws_problems,
        "all training problems are taken, or none is read",
        "method=m1 data.fraction=0.5",
    ),
    Condition(
        ("data.path", "data.revision"),
        lambda job: (
            reads_problems(job)
            or tests_internal_split(job)
            or (is_tested(job) and job.data.name in job.benchmarks)
        ),
        "this job reads no problems of that set",
        "method=sft",
    ),
    Condition(
        ("data.revision",),
        lambda job: (
            (reads_problems(job) or tests_internal_split(job))
            and job.data.path is None
            and not _is_own_mix(job)
        ),
        "no training problems are loaded from the Hub under data.revision",
        "data=gsm8k data.path=null",
    ),
    Condition(
        ("data.holdout",),
        lambda job: reads_problems(job) or tests_internal_split(job),
        "this job reads no problems that could be cut",
        "method=sft",
    ),
    Condition(
        ("data.holdout_seed",),
        lambda job: job.data.holdout is not None,
        "data.holdout=null holds nothing out",
        "data.holdout=100",
    ),
    Condition(
        ("data.world.family",), lambda _: False, "each source has its family", "data=microworld_b"
    ),
    Condition(
        ("data.benchmarks",),
        lambda job: is_tested(job) and not job.evaluation.benchmarks and job.data.holdout is None,
        "evaluation.benchmarks or data.holdout names the test sets",
        "evaluation.benchmarks=[]",
    ),
    Condition(
        (*_WORLD, "data.world"),
        reads_world,
        "no problem of the micro-world is read",
        "data=microworld",
    ),
    Condition(
        ("data.mixing.temperature", "data.mixing.rows"),
        lambda job: (
            isinstance(job.data, MixtureDataConfig)
            and is_trained(job)
            and job.data.mixing.strategy == "tempered"
        ),
        "only the tempered strategy has it",
        "data.mixing.strategy=tempered",
    ),
    Condition(
        ("data.mixing.seed",),
        lambda job: (
            isinstance(job.data, MixtureDataConfig)
            and is_trained(job)
            and job.data.mixing.strategy != "concatenate"
        ),
        "concatenated sources are taken whole",
        "data.mixing.strategy=equal_tokens",
    ),
    Condition(("data.mixing.strategy",), is_trained, _UNTRAINED, _LEARN),
    Condition(
        tuple(f"data.mixing.{key}" for key in ("strategy", "temperature", "rows", "seed")),
        lambda job: not job.merge.is_merged,
        "merge={job.merge.name} mixes no rows",
        "merge=none",
    ),
    # merge
    Condition(
        ("merge.weights",),
        lambda job: job.merge.is_merged and not job.merge.is_routed,
        "merge={job.merge.name} weighs no students",
        "merge=linear",
    ),
    *(
        Condition(
            (f"merge.{key}",),
            _merges_with(key),
            "merge={job.merge.name} does not read it",
            f"merge={choice}",
        )
        for key, choice in _MERGE_KNOBS.items()
    ),
    *(
        Condition(
            (f"merge.{key}",),
            lambda job: job.merge.router == "nearest",
            "merge.router=oracle looks at no problem",
            "merge=router merge.router=nearest",
        )
        for key in ("neighbours", "encoder")
    ),
    # model, adapter
    Condition(
        ("model", "prompt", "student", "evaluation.plan", "merge"),
        lambda job: set(job.stages) != {"distill"},
        "stages=[distill] ends with the corpus",
        "stages=[distill,train,evaluate]",
    ),
    Condition(
        ("model.seed",),
        lambda job: job.model.kind != "pretrained",
        "pretrained weights are not drawn",
        "model=tiny_qwen3",
    ),
    Condition(
        ("model.revision",),
        lambda job: job.model.kind == "pretrained" and not is_one_file(job),
        "the weights are made here, or come from a file",
        "model=path model.path=HUB_ID",
    ),
    Condition(
        tuple(
            f"model.world.{f.name}" for f in fields(MicroworldConfig) if f.name not in _VOCABULARY
        ),
        lambda _: False,
        "the micro student's base depends on the vocabulary alone",
        "data.KEY, which is that of the problems",
    ),
    Condition(("adapter",), is_trained, _UNTRAINED, _LEARN),
    Condition(
        tuple(f"adapter.{key}" for key in ("rank", "alpha", "dropout", "target_modules", "export")),
        lambda job: job.adapter.name != "full",
        "adapter=full trains the weights themselves",
        "adapter=lora",
    ),
    Condition(
        ("adapter.base_dtype",),
        lambda job: job.adapter.name == "lora",
        "adapter={job.adapter.name} has no float weights that stay as they are",
        "adapter=lora",
    ),
    Condition(
        ("adapter.base_dtype",),
        passes_are_rounded,
        "no pass here rounds a float32 base that lies on one card",
        "model.dtype=float32 trainer.precision=bf16 trainer.strategy=auto",
    ),
    # teacher, distillation, filter
    Condition(("teacher",), asks_teacher, "this job asks no teacher", "method=m1"),
    Condition(
        ("teacher.scripted",),
        lambda job: job.teacher.backend == "scripted",
        "teacher.backend={job.teacher.backend} is no scripted teacher",
        "teacher=scripted",
    ),
    Condition(
        ("teacher.thinking",),
        lambda job: job.teacher.backend != "scripted",
        "the scripted teacher does not think",
        "teacher=openai_compatible teacher.api_base=URL",
    ),
    Condition(("teacher.seeded",), distils, "this job distils nothing", "method=m1"),
    Condition(("distillation",), distils, "this job distils nothing", "method=m1"),
    Condition(
        ("distillation",),
        lambda job: job.teacher.is_asked,
        "teacher={job.teacher.backend} takes the plans of the data set: nobody is asked",
        "teacher=openai_compatible teacher.api_base=URL",
    ),
    Condition(
        tuple(
            f"distillation.{key}"
            for key in ("num_candidates", "plan_temperature", "max_plan_tokens")
        ),
        lambda job: not job.distillation.has_given_plans,
        "distillation.plans=dataset: each problem brings its one plan",
        "distillation.plans=teacher",
    ),
    Condition(
        ("distillation.execute_threshold",),
        lambda job: job.distillation.execution == "retained",
        "distillation.execution=all executes every plan",
        "distillation.execution=retained",
    ),
    Condition(
        tuple(
            f"distillation.max_{role}_tokens"
            for role in ("constraints", "plan", "verify", "execute")
        ),
        lambda job: job.teacher.backend != "scripted",
        "the scripted teacher's replies are as long as they are",
        "teacher=openai_compatible teacher.api_base=URL",
    ),
    Condition(
        ("filter",),
        lambda job: is_trained(job) and job.method.needs_corpus,
        _NO_CORPUS,
        "method=m1",
    ),
    *filter_conditions("filter", lambda job: job.filter),
    Condition(("corpus.path",), uses_corpus, _NO_CORPUS, "method=m1"),
    # executor, evaluation
    Condition(
        ("executor",), has_executor, "only m2 has its plans executed by another call", "method=m2"
    ),
    Condition(
        ("executor.model",),
        lambda job: job.executor.name == "model",
        "executor={job.executor.name} is no model of its own",
        "executor=model",
    ),
    Condition(
        ("executor.teacher",),
        lambda job: job.executor.name == "teacher",
        "executor={job.executor.name} is no teacher",
        "executor=teacher",
    ),
    Condition(
        tuple(f"evaluation.{key}" for key in _DECODING),
        is_tested,
        "nothing is evaluated",
        "stages=[distill,train,evaluate]",
    ),
    Condition(
        ("evaluation.max_new_tokens", "evaluation.stop"),
        lambda job: is_tested(job) or validates(job),
        "nothing is evaluated",
        "stages=[distill,train,evaluate]",
    ),
    Condition(
        ("evaluation.top_p", "evaluation.top_k", "evaluation.seed"),
        lambda job: is_tested(job) and job.evaluation.temperature > 0,
        "evaluation.temperature=0 is greedy: nothing is sampled",
        "evaluation.temperature=0.7",
    ),
    Condition(
        ("evaluation.max_plan_tokens", "evaluation.plan_stop"),
        lambda job: (
            job.method.has_two_calls
            and (validates(job) or (is_tested(job) and job.evaluation.plan in ("own", "other")))
        ),
        "only m2's student writes a plan in a call of its own",
        "method=m2 evaluation.plan=own",
    ),
    Condition(
        ("evaluation.grading.run_code", "evaluation.grading.sandbox"),
        runs_programs,
        "no answer that is graded in this job is a program",
        "method=zero_shot 'evaluation.benchmarks=[humaneval]'",
    ),
    Condition(
        ("evaluation.grading.sandbox",),
        lambda job: job.evaluation.grading.run_code,
        "evaluation.grading.run_code=false runs no program",
        "evaluation.grading.run_code=true",
    ),
    Condition(
        ("evaluation.plan_value", "evaluation.plan_value_corpus"),
        is_tested,
        "nothing is evaluated",
        "stages=[distill,train,evaluate]",
    ),
    Condition(
        ("evaluation.plan_value", "evaluation.plan_value_corpus"),
        lambda job: not job.method.has_two_calls or job.evaluation.plan == "own",
        "evaluation.plan={job.evaluation.plan} has other plans executed than the student's",
        "evaluation.plan=own",
    ),
    Condition(
        ("evaluation.plan_value", "evaluation.plan_value_corpus"),
        executes_here,
        "executor={job.executor.name} tells no log-probabilities",
        "executor=base",
    ),
    Condition(
        ("evaluation.plan_value_corpus",),
        values_given_plans,
        "no plan of a teacher is compared",
        "method=m1 evaluation.plan_value=true",
    ),
    Condition(
        ("evaluation.server",),
        lambda job: is_tested(job) and "server" in _engine_needs(job),
        "evaluation.engine={job.evaluation.engine} asks no server",
        "evaluation.engine=server",
    ),
    Condition(
        ("evaluation.max_probe_gap",),
        lambda job: is_tested(job) and bool({"server", "folder"} & set(_engine_needs(job))),
        "evaluation.engine={job.evaluation.engine} has the student in this process",
        "evaluation.engine=vllm",
    ),
    Condition(
        ("evaluation.vllm",),
        lambda job: (is_tested(job) and "folder" in _engine_needs(job)) or starts_server(job),
        "evaluation.engine={job.evaluation.engine} starts no server",
        "evaluation.engine=vllm",
    ),
    Condition(
        ("seed",),
        lambda job: is_trained(job) or (job.data.is_microworld and draws_problems(job)),
        "nothing is trained or drawn by it",
        "method=m1",
    ),
    *TRAINING,
    *REWARD,
)
