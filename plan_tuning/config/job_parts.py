"""Which parts of the program a job uses, from its configuration alone."""

from __future__ import annotations

from pathlib import Path

from plan_tuning.config.data import MicroworldDataConfig
from plan_tuning.config.evaluation import DISTILLED_HERE
from plan_tuning.config.extensions import (
    DEFAULT_METHOD,
    DEFAULT_TASK,
    PLAIN,
    Extension,
    find,
    record,
    task_of,
)
from plan_tuning.config.grpo import GIVEN, UNTRAINED, GRPOConfig
from plan_tuning.config.microworld import MICRO_STYLES, QUESTIONS
from plan_tuning.config.mixture import MICRO_SOURCES, MixtureDataConfig
from plan_tuning.config.run import Config
from plan_tuning.config.sources import trains_sources
from plan_tuning.config.training import TrainerConfig


def is_tested(job: Config) -> bool:
    """Whether anything is evaluated."""
    return "evaluate" in job.stages


def needs_student(job: Config) -> bool:
    """Whether the student under test takes part; a swap of all plans can do without it."""
    is_swap = job.method.has_two_calls and job.evaluation.plan in ("none", "teacher", "true")
    return not is_swap or "student" in record("executor", job.executor.name).needs


def is_trained(job: Config) -> bool:
    """Whether a student takes part that these settings train, be it there already."""
    takes_part = needs_student(job) if is_tested(job) else set(job.stages) != {"distill"}
    is_merged = job.merge.is_merged and not trains_sources(job)
    is_given = job.student.path is not None or is_merged
    return takes_part and job.method.is_trained and not is_given


def is_grpo(job: Config) -> bool:
    """Whether a student takes part that GRPO trains."""
    return isinstance(job.method, GRPOConfig) and is_trained(job)


def starts_server(job: Config) -> bool:
    """Whether a training has its rollouts written by a vLLM server of its own."""
    return is_grpo(job) and isinstance(job.method, GRPOConfig) and job.method.engine == "vllm"


def trains_start(job: Config) -> bool:
    """Whether GRPO begins from a student that these settings train."""
    return is_grpo(job) and job.start.name not in (UNTRAINED, GIVEN)


def trainings(job: Config) -> list[TrainerConfig]:
    """The supervised trainings of a job: its student's, or its start's."""
    if is_grpo(job):
        return [job.start_trainer] if trains_start(job) else []
    return [job.trainer] if is_trained(job) else []


def passes_are_rounded(job: Config) -> bool:
    """Whether a training reads float32 weights in bfloat16, and holds all of them on each card."""
    trained = [*trainings(job), *([job.trainer] if is_grpo(job) else [])]
    is_bf16 = any(t.precision == "bf16" and t.strategy != "fsdp" for t in trained)
    return is_bf16 and job.model.dtype == "float32"


def taught_by(job: Config) -> Extension | None:
    """The method whose rows are learned from: the job's, or that of GRPO's start."""
    found = find("method", job.start.name if is_grpo(job) else job.method.name)
    return found if found is not None and found.is_supervised else None


def may_learn_rationales(job: Config) -> bool:
    """Whether all problems can be learned, without a corpus, or those that a filter keeps."""
    method = taught_by(job)
    return method is not None and "corpus" not in method.needs


def learns_rationales(job: Config) -> bool:
    """Whether all training problems are learned, with their human solutions."""
    if is_grpo(job):
        return trains_start(job) and may_learn_rationales(job) and job.method.problems == "all"
    return is_trained(job) and not job.method.needs_corpus


def uses_corpus(job: Config) -> bool:
    """Whether trajectories are made or learned from."""
    return set(job.stages) == {"distill"} or (is_trained(job) and job.method.needs_corpus)


def is_one_file(job: Config) -> bool:
    """Whether the model is a file, which has no revisions, and no folder or hub id."""
    return job.model.path is not None and Path(job.model.path).expanduser().is_file()


def distils(job: Config) -> bool:
    """Whether a corpus of these settings goes in, of training problems or of a test set."""
    is_own = uses_corpus(job) and job.corpus.path is None
    evaluation = job.evaluation
    is_swapped = executes(job) and evaluation.plan == "teacher" and evaluation.plan_corpus is None
    is_compared = values_given_plans(job) and evaluation.plan_value_corpus == DISTILLED_HERE
    return is_own or is_swapped or is_compared


def executes_here(job: Config) -> bool:
    """Whether plans are carried out by a model of this machine, which tells log-probabilities."""
    models = set(record("executor", job.executor.name).needs) - {"ask"}
    return not job.method.has_two_calls or bool(models)


def values_plans(job: Config) -> bool:
    """Whether reference executions are put behind plans."""
    is_own = not job.method.has_two_calls or job.evaluation.plan == "own"
    return is_tested(job) and job.evaluation.plan_value and is_own and executes_here(job)


def values_given_plans(job: Config) -> bool:
    """Whether these are a teacher's too."""
    return values_plans(job) and job.method.record.takes_plans


def reads_problems(job: Config) -> bool:
    """Whether the training problems are read."""
    return (uses_corpus(job) and job.corpus.path is None) or learns_rationales(job)


def tests_internal_split(job: Config) -> bool:
    """Whether the split that is cut out of the training problems is a test set of the job."""
    return is_tested(job) and job.data.internal_split in job.benchmarks


def reads_world(job: Config) -> bool:
    """Whether a problem of the micro-world is read."""
    tests_it = is_tested(job) and any(name.startswith("microworld") for name in job.benchmarks)
    has_it = isinstance(job.data, MicroworldDataConfig) or (
        isinstance(job.data, MixtureDataConfig) and bool({*job.data.sources} & {*MICRO_SOURCES})
    )
    return tests_it or (has_it and reads_problems(job))


def benchmark_task(job: Config, name: str) -> str:
    """Name the task of a test set's problems; none is read for it."""
    if name == job.data.internal_split:
        return job.data.tasks[0]
    if name.startswith("microworld"):
        asked = (q for q in QUESTIONS[1:] if f"{name}_".startswith(f"{MICRO_STYLES[q]}_"))
        return task_of(MICRO_STYLES[next(asked, QUESTIONS[0])]).name
    found = find("data", name)
    return task_of(job.data.form.style).name if found is None else found.task or DEFAULT_TASK


def tested_tasks(job: Config) -> tuple[str, ...]:
    """The tasks of a job's test sets."""
    names = [entry.partition("=")[0] for entry in job.benchmarks] if is_tested(job) else []
    return tuple(dict.fromkeys(benchmark_task(job, name) for name in names))


def runs_programs(job: Config) -> bool:
    """Whether answers are graded in this job that are programs."""
    grades_training = distils(job) or is_grpo(job) or validates(job)
    tasks = (*tested_tasks(job), *(job.data.tasks if grades_training else ()))
    return any("run_code" in record("task", name).needs for name in tasks)


def draws_problems(job: Config) -> bool:
    """Whether a seed decides which training problems there are."""
    data = job.data
    parts = data.parts().values() if isinstance(data, MixtureDataConfig) else [data]
    is_made = any(isinstance(part, MicroworldDataConfig) for part in parts)
    return reads_problems(job) and (is_made or data.limit is not None or data.fraction < 1.0)


def executes(job: Config) -> bool:
    """Whether plans are executed by a call of their own at test time."""
    return job.method.has_two_calls and is_tested(job)


def validates(job: Config) -> bool:
    """Whether held-out problems are solved while something is trained."""
    if isinstance(job.method, GRPOConfig) and is_grpo(job) and job.method.val_problems:
        return True
    return any(t.val_problems and t.val_fraction for t in trainings(job))


def has_executor(job: Config) -> bool:
    """Whether plans are executed at test time or in a validation."""
    return job.method.has_two_calls and (is_tested(job) or validates(job))


def asks_teacher(job: Config) -> bool:
    """Whether the teacher of the corpus is asked for anything."""
    judges = rewards_plans(job) and job.reward.uses_judge and job.reward.judge is None
    executes = has_executor(job) and job.executor.name == "teacher"
    return distils(job) or judges or (executes and job.executor.teacher is None)


def asked_as_start(job: Config) -> str:
    """In whose words the model that GRPO begins from is asked, while it is still as it was."""
    if job.start.name == UNTRAINED:
        return PLAIN
    return DEFAULT_METHOD if job.start.name == GIVEN else job.start.name


def has_frozen_executor(job: Config) -> bool:
    """Whether a frozen model carries plans out beside the policy, for a reward."""
    return is_grpo(job) and job.reward.uses_frozen


def rewards_plans(job: Config) -> bool:
    """Whether plans earn something."""
    return is_grpo(job) and job.reward.plan.weight > 0
