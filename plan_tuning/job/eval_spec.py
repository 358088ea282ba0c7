"""All that determines predictions: the questions, who answers them, with whose plans, who executes.

A Spec is what is hashed; a fingerprint is its hash. Hashed are the test set and how many of its
problems are asked, the prompts, decoding and grading, the engine where it is not this project's own
(its kernels round otherwise), and whoever takes part: a student by its fingerprint, an untrained
model by its base, folder or id, a teacher by its spec and the words in which it is asked. Not
hashed are batch sizes, ways of decoding that give the same tokens, ports and keys, and the report
of contamination: it changes how predictions are summarised, not what they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plan_tuning.artifacts import (
    file_fingerprint,
    folder_of,
    hashed_values,
    is_complete,
    read_manifest,
)
from plan_tuning.config.checks import ConfigError, require
from plan_tuning.config.data import MicroworldDataConfig
from plan_tuning.config.extensions import OWN_ENGINE, TWO_CALLS, extension_spec, record
from plan_tuning.config.job_parts import benchmark_task, runs_programs
from plan_tuning.config.microworld import MicroworldConfig
from plan_tuning.config.mixture import MixtureDataConfig
from plan_tuning.config.model import ModelConfig
from plan_tuning.config.run import Config
from plan_tuning.job.train_spec import grading_of, holdout_spec, model_spec
from plan_tuning.tasks.benchmarks import source_spec
from plan_tuning.tasks.microworld_problems import MICRO_PREFIX, benchmark_world
from plan_tuning.text.prompts import prompt_fingerprint, words_fingerprint


@dataclass(frozen=True)
class Party:
    """Someone who answers: a student, an untrained model or a teacher."""

    spec: Mapping[str, Any]  # what determines its answers
    upstream: Mapping[str, str] = field(default_factory=dict)  # artifacts that it is made of


def student_party(student: str, base: str | None) -> Party:
    """The student of a fingerprint, and the base that it was made of, where that is known."""
    own = {} if base is None else {"base": base}
    return Party({"student": student}, {"student": student, **own})


def model_party(model: ModelConfig, base: str | None) -> Party:
    """An untrained model; ``base`` is its fingerprint where it is made here."""
    return Party({"model": model_spec(model, base)}, {} if base is None else {"base": base})


def teacher_party(config: Config) -> Party:
    """Name the large model that executes, with the words in which it is asked to solve.

    Raises:
        ConfigError: the scripted teacher would have to execute plans of real problems.
    """
    teacher = config.executor_teacher
    real = [name for name in config.benchmarks if not name.startswith(MICRO_PREFIX)]
    if teacher.backend == "scripted" and real:
        raise ConfigError(
            "executor.teacher",
            "scripted",
            f"the scripted teacher can only solve the micro-world, not {', '.join(real)}",
            "executor=teacher teacher=openai_compatible teacher.api_base=http://127.0.0.1:8000/v1",
        )
    return Party({"teacher": {**teacher.spec(), "prompt": prompt_fingerprint("solve")}})


def executor_party(config: Config) -> Party:
    """Name the executor from outside that carries plans out."""
    return Party(extension_spec("executor", config.executor.name))


def check_swap(config: Config) -> None:
    """Refuse a plan swap that cannot be.

    Raises:
        ConfigError: the method executes no plans, or the plans are known nowhere.
    """
    plan = config.evaluation.plan
    require(
        plan == "own" or config.method.has_two_calls,
        "evaluation.plan",
        plan,
        f"only {TWO_CALLS} has its plans executed in a call of their own, not {config.method.name}",
        f"method={TWO_CALLS} evaluation.plan={plan}",
    )
    real = [name for name in config.benchmarks if not name.startswith(MICRO_PREFIX)]
    require(
        plan != "true" or not real,
        "evaluation.plan",
        plan,
        f"true plans are known in the micro-world only, not for {', '.join(real)}",
        "evaluation.plan=teacher",
    )


def check_programs(config: Config) -> None:
    """Refuse problems whose answers are programs where none may be run.

    Raises:
        ConfigError: it is so.
    """
    if runs_programs(config) and not config.evaluation.grading.run_code:
        raise ConfigError(
            "evaluation.grading.run_code",
            False,
            "true for problems whose answers are programs: they are graded by running them, in a "
            "sandbox (README: Other kinds of problems)",
            "evaluation.grading.run_code=true",
        )


def check_method(folder: Path, config: Config, words: str) -> None:
    """Refuse to ask a student otherwise than it was trained, as far as its manifest tells.

    Raises:
        ConfigError: it was trained with another method.
    """
    if not is_complete(folder) or not config.method.is_trained:
        return
    trained = read_manifest(folder)["spec"].get("method", {}).get("name", config.method.name)
    if trained != config.method.name:
        raise ConfigError(
            "method",
            config.method.name,
            f"the student in {folder} was trained with {trained} and is asked in that way",
            f"method={trained} {words}",
        )


def given_student(given: str, config: Config) -> str:
    """Find a finished student that is merged, by its fingerprint or its folder.

    Raises:
        ConfigError: it was trained with another method.
    """
    folder = folder_of(config.paths.artifacts, "students", given)
    path = folder if "/" not in given and is_complete(folder) else Path(given)
    check_method(path, config, f"merge={config.merge.name} 'merge.students=[…]'")
    return str(path)


def world_of(config: Config) -> MicroworldConfig:
    """The micro-world of this job's test sets: that of its data, else the default one."""
    if isinstance(config.data, MixtureDataConfig):
        return config.data.world
    if isinstance(config.data, MicroworldDataConfig):
        return config.data.world()
    return MicroworldConfig()


def benchmark_of(entry: str, config: Config) -> tuple[str, str | None]:
    """Split an entry ``NAME`` or ``NAME=PATH``; a set of ``data`` brings its own path along.

    Raises:
        ConfigError: that path is the file of the training problems.
    """
    name, _, path = entry.partition("=")
    if path:
        return name, path
    if name == config.data.internal_split:
        return name, config.data.path
    inherited = None
    if isinstance(config.data, MixtureDataConfig) and name in config.data.sources:
        inherited = config.data.sources[name].path
    elif name == config.data.name:
        inherited = config.data.path
    if inherited is not None and Path(inherited).expanduser().is_file():
        raise ConfigError(
            "evaluation.benchmarks",
            name,
            f"{inherited} is one file, the training problems: say where the test set lies",
            f"'evaluation.benchmarks=[\"{name}=TEST_FILE\"]'",
        )
    return name, inherited


def domain_tag(benchmark: str, config: Config) -> str:
    """The tag that a student trained on a mixture sees before a benchmark's problems, or none."""
    if not isinstance(config.data, MixtureDataConfig) or not config.method.is_trained:
        return ""
    return config.data.tag_of(benchmark)


def question_spec(entry: str, config: Config) -> dict[str, Any]:
    """What determines the questions of a benchmark, and how answers are decoded and graded."""
    evaluation = config.evaluation
    benchmark, path = benchmark_of(entry, config)
    if benchmark.startswith(MICRO_PREFIX):
        world, _ = benchmark_world(benchmark, world_of(config))
        source: dict[str, Any] = {"world": hashed_values(world)}
    elif benchmark == config.data.internal_split:
        data = config.data
        cut_from = source_spec(data.name, data.split, path, data.revision, data.form)
        source = {**cut_from, "holdout": holdout_spec(data)}
    else:
        source = source_spec(benchmark, "test", path, None, config.data.form)
    tasks = [benchmark_task(config, benchmark)]
    spec: dict[str, Any] = {
        "benchmark": benchmark,
        "source": source,
        "limit": evaluation.limit,
        "max_new_tokens": evaluation.max_new_tokens,
        "temperature": evaluation.temperature,
        "num_samples": evaluation.num_samples,
        "grading": hashed_values(grading_of(evaluation.grading, tasks)),
        "prompt": config.prompt.name,
        "prompts": prompt_fingerprint("student"),
    }
    if words := words_fingerprint(tasks):
        spec["task_prompts"] = words
    if evaluation.temperature > 0:
        spec |= {
            "top_p": evaluation.top_p,
            "top_k": evaluation.top_k,
            "seed": evaluation.seed,
        }
    if evaluation.stop:
        spec["stop"] = list(evaluation.stop)
    if tag := domain_tag(benchmark, config):
        spec["domain_tag"] = tag
    return spec


def answer_spec(
    questions: Mapping[str, Any], config: Config, party: Party, *, protocol: str
) -> dict[str, Any]:
    """What determines answers in one call: a student's, or those of an executor by itself."""
    engine = {} if {"teacher", "extension"} & set(party.spec) else _engine_spec(config)
    return {**questions, "protocol": protocol, **party.spec, **engine}


def execution_spec(
    questions: Mapping[str, Any],
    config: Config,
    student: Party | None,
    executor: Party | None,
    plan_corpus: str | None,
) -> dict[str, Any]:
    """What determines answers in m2's two calls.

    Args:
        questions: see :func:`question_spec`.
        config: the job.
        student: who plans; None where its plans are not asked for.
        executor: who executes; None: the student.
        plan_corpus: fingerprint of the corpus that the teacher's plans come from.
    """
    evaluation = config.evaluation
    spec: dict[str, Any] = {
        **questions,
        "protocol": TWO_CALLS,
        **({} if student is None else student.spec),
        "max_plan_tokens": evaluation.max_plan_tokens,
        "executor": config.executor.name,
        **_engine_spec(config),
    }
    if executor is not None:
        spec |= {f"executor_{key}": value for key, value in executor.spec.items()}
        if "teacher" in executor.spec:
            spec["executor_prompt"] = prompt_fingerprint("execute")
    if evaluation.plan_stop:
        spec["plan_stop"] = list(evaluation.plan_stop)
    if evaluation.plan != "own":
        spec["plan"] = evaluation.plan
        if evaluation.plan in ("teacher", "true"):  # nobody plans
            del spec["max_plan_tokens"]
            spec.pop("plan_stop", None)
    if plan_corpus is not None:
        spec["plan_corpus"] = plan_corpus
    return spec


def value_spec(
    questions: Mapping[str, Any], config: Config, predictions: str, corpus: str | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """What determines plan values: the predictions, whose questions, student and plans they are of.

    Args:
        questions: see :func:`question_spec`.
        config: the job.
        predictions: their fingerprint.
        corpus: fingerprint of the corpus that the teacher's plans come from.

    Returns:
        The Spec, and the artifacts that go in, by role.
    """
    upstream = {"predictions": predictions} | ({} if corpus is None else {"plan_corpus": corpus})
    named = {"benchmark": questions["benchmark"], "method": config.method.name}
    return named | upstream, upstream


def report_fingerprint(config: Config) -> str:
    """Of the report of contamination: it changes how predictions are summarised, nothing else.

    Raises:
        ConfigError: there is no such file.
    """
    file = config.evaluation.decontaminate
    if file is None:
        return ""
    path = Path(file).expanduser()
    if not path.is_file():
        raise ConfigError(
            "evaluation.decontaminate",
            file,
            "an existing report of contamination",
            f"plan-tuning contamination --train math --test aime_1983_2024 --out {file}",
        )
    return file_fingerprint(path)


def _engine_spec(config: Config) -> dict[str, Any]:
    """The engine, where it is not this project's own."""
    evaluation = config.evaluation
    name, needs = evaluation.engine, record("engine", evaluation.engine).needs
    if name == OWN_ENGINE:
        return {}
    spec: dict[str, Any] = {"engine": name, **_named_spec("engine", name)}
    if "server" in needs:
        spec["served_model"] = evaluation.server.model
    if "folder" in needs and (options := evaluation.vllm.spec()):
        spec["vllm_options"] = options
    return spec


def _named_spec(kind: str, name: str) -> dict[str, Any]:
    """What determines an extension, under a key of its kind: nothing of a built-in one."""
    return {f"{kind}_{key}": value for key, value in extension_spec(kind, name).items()}
