"""What each stage of a job depends on: Specs, their fingerprints, and the plan of a job.

Nothing here builds anything or imports a heavy library, so that a sweep can print its plan, drop
jobs that mean the same and find what is already done before a single job starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from plan_tuning.artifacts import (
    file_fingerprint,
    folder_fingerprint,
    folder_of,
    hashed_values,
    is_complete,
    read_manifest,
)
from plan_tuning.config.checks import ConfigError
from plan_tuning.config.data import DataConfig, MicroworldDataConfig
from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.microworld import MicroworldConfig
from plan_tuning.config.mixture import MixtureDataConfig
from plan_tuning.config.model import MicroModelConfig, ModelConfig
from plan_tuning.config.run import Config
from plan_tuning.distillation.corpus import corpus_spec
from plan_tuning.job.eval_spec import (
    Party,
    answer_spec,
    check_swap,
    execution_spec,
    needs_student,
    question_spec,
    teacher_party,
)
from plan_tuning.job.graph import JobGraph, Stage, external, stage
from plan_tuning.job.learning import adapter_spec, filter_spec, method_spec, trainer_spec
from plan_tuning.job.reinforcing import grpo_spec, has_start, start_config
from plan_tuning.tasks.benchmarks import source_spec
from plan_tuning.tasks.microworld_problems import MICRO_PREFIX, benchmark_world
from plan_tuning.text.prompts import prompt_fingerprint

VOCABULARY_KEYS = ("num_names", "max_value", "max_operand")  # what of a world a base depends on


def artifacts_root(config: Config) -> Path:
    """Where artifacts lie."""
    return Path(config.paths.outputs) / "artifacts"


def calls_folder(config: Config) -> Path:
    """Where paid answers lie."""
    return Path(config.paths.outputs) / "calls"


def world_of(config: Config) -> MicroworldConfig:
    """The micro-world of this job: that of its data, else the default one."""
    if isinstance(config.data, MixtureDataConfig):
        return config.data.world
    if isinstance(config.data, MicroworldDataConfig):
        return MicroworldConfig(**config.data.world())  # type: ignore[arg-type]
    return MicroworldConfig()


def problems_spec(data: DataConfig) -> dict[str, Any]:
    """What determines the training problems.

    Raises:
        ConfigError: ``data.path`` does not exist.
    """
    if isinstance(data, MixtureDataConfig):
        return {"mixture": [problems_spec(part) for part in data.parts().values()]}
    identity: dict[str, Any] = {"name": data.name, "split": data.split}
    is_made = isinstance(data, MicroworldDataConfig)
    if is_made or data.limit is not None or data.fraction < 1.0:
        identity["seed"] = data.seed  # otherwise all problems are taken, in the set's order
    if data.fraction < 1.0:
        identity["fraction"] = data.fraction
    if data.limit is not None:
        identity["limit"] = data.limit
    if isinstance(data, MicroworldDataConfig):
        # A family is the same problems whatever the choice of data that names it is called.
        world = MicroworldConfig(**data.world())  # type: ignore[arg-type]
        return identity | {"name": MICRO_PREFIX, "world": hashed_values(world)}
    if data.path is not None and not Path(data.path).expanduser().exists():
        raise ConfigError(
            "data.path",
            data.path,
            f"an existing folder with {data.split}.jsonl or {data.split}.parquet, or one file",
            f"data={data.name} data.path=FOLDER",
        )
    return identity | {"source": source_spec(data.name, data.split, data.path, data.revision)}


def benchmark_of(entry: str, config: Config) -> tuple[str, str | None]:
    """Split an entry ``NAME`` or ``NAME=PATH``; a set of ``data`` brings its own path along."""
    name, _, path = entry.partition("=")
    if path:
        return name, path
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


def job_graph(config: Config) -> JobGraph:
    """Compute every stage's fingerprint from the configuration alone.

    Raises:
        ConfigError: a path that the configuration names does not exist.
    """
    root = artifacts_root(config)
    base = _plan_base(config.model, config, root)
    is_distillation = set(config.stages) == {"distill"}
    is_evaluated = "evaluate" in config.stages
    if is_evaluated:
        check_swap(config)
    takes_part = not is_evaluated or needs_student(config)
    needs_corpus = config.method.needs_corpus and config.student.path is None and takes_part
    corpus = _plan_corpus(config, root) if needs_corpus or is_distillation else None
    has_student = (config.method.is_trained or config.student.path is not None) and takes_part
    start = _plan_start(config, root, base, corpus) if has_student else None
    student = _plan_student(config, root, base, corpus) if has_student else None
    if is_distillation:
        return JobGraph(None, corpus, None, ())
    if not is_evaluated:
        return JobGraph(base, corpus, student, (), start=start)
    if not config.benchmarks:
        raise ConfigError(
            "evaluation.benchmarks",
            "[]",
            "at least one benchmark to evaluate on",
            "'evaluation.benchmarks=[gsm8k]'",
        )
    return replace(_plan_evaluation(config, root, base, corpus, student), start=start)


def _view(config: Config) -> str:
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


def _plan_base(model: ModelConfig, config: Config, root: Path) -> Stage | None:
    if model.kind == "pretrained":
        return None
    spec: dict[str, Any] = {"kind": model.kind, "family": model.family, "seed": model.seed}
    if isinstance(model, MicroModelConfig):
        vocabulary = {key: getattr(model.world, key) for key in VOCABULARY_KEYS}
        spec |= {"vocabulary": vocabulary, "base": hashed_values(model.base)}
        if config.debug.max_steps is not None:
            spec["debug_max_steps"] = config.debug.max_steps
    return stage("bases", spec, root, {})


def model_spec(model: ModelConfig, base: Stage | None) -> dict[str, Any]:
    """What determines the weights of a model that this job does not train."""
    path = Path(str(model.path)).expanduser()
    if base is not None:
        identity: dict[str, Any] = {"base": base.fingerprint}
    elif is_complete(path):  # an artifact, wherever it lies
        identity = {"artifact": read_manifest(path)["fingerprint"]}
    elif path.is_dir():
        identity = {"folder": folder_fingerprint(path)}
    else:
        identity = {"path": str(model.path), "revision": model.revision}
    return identity | {"dtype": model.dtype}


def _plan_corpus(config: Config, root: Path) -> Stage:
    if config.corpus.path is not None:
        given = external("corpora", config.corpus.path, "corpus.path")
        _check_world_of_corpus(given.folder, config)
        if _is_of_test_set(given.folder) and "train" in config.stages:
            raise ConfigError(
                "corpus.path",
                config.corpus.path,
                "these are plans for test problems, and nothing is ever trained on those",
                "method=m2 evaluation.plan=teacher evaluation.plan_corpus=FOLDER",
            )
        return given
    spec = corpus_spec(
        problems_spec(config.data),
        config.teacher,
        config.distillation,
        config.evaluation.grading,
    )
    return stage("corpora", spec, root, {})


def _check_world_of_corpus(folder: Path, config: Config) -> None:
    """Refuse real problems for the micro student, whose vocabulary does not hold them."""
    if not is_complete(folder):
        return
    problems = read_manifest(folder)["spec"].get("problems", {})
    parts = problems.get("mixture", [problems])
    is_micro = all("world" in part for part in parts)
    if isinstance(config.model, MicroModelConfig) and not is_micro:
        raise ConfigError(
            "model",
            config.model.name,
            "the micro student knows the micro-world's words only, and the corpus is not of it",
            f"corpus.path={config.corpus.path} model=tiny_qwen3 data=gsm8k",
        )


def _is_of_test_set(folder: Path) -> bool:
    """Whether a corpus says of itself that its problems are a test set."""
    if not is_complete(folder):
        return False
    problems = read_manifest(folder)["spec"].get("problems", {})
    parts = problems.get("mixture", [problems])
    return any(str(part.get("split", "")).startswith("test") for part in parts)


def _plan_student(config: Config, root: Path, base: Stage | None, corpus: Stage | None) -> Stage:
    if config.student.path is not None:
        given = external("students", config.student.path, "student.path")
        _check_method(given.folder, config)
        return given
    spec: dict[str, Any] = {
        "model": model_spec(config.model, base),
        "adapter": adapter_spec(config),
        "prompt": config.prompt.name,
        "prompts": prompt_fingerprint("student"),
        "seed": config.seed,
    }
    upstream = {} if base is None else {"base": base.fingerprint}
    start = _plan_start(config, root, base, corpus)
    if start is not None:
        spec["start"] = upstream["start"] = start.fingerprint
    if isinstance(config.method, GRPOConfig):
        spec |= grpo_spec(config, config.method)
    else:
        spec |= {"method": method_spec(config), "trainer": trainer_spec(config)}
    if corpus is None:
        spec["problems"] = problems_spec(config.data)
    else:
        spec |= {"corpus": corpus.fingerprint, "filter": filter_spec(config)}
        upstream["corpus"] = corpus.fingerprint
    if isinstance(config.data, MixtureDataConfig):
        spec["mixing"] = config.data.mixing_spec()
    return stage("students", spec, root, upstream)


def _check_method(folder: Path, config: Config) -> None:
    """Refuse to ask a student otherwise than it was trained, as far as its manifest tells."""
    if not is_complete(folder) or not config.method.is_trained:
        return
    trained = read_manifest(folder)["spec"].get("method", {}).get("name", config.method.name)
    if trained != config.method.name:
        raise ConfigError(
            "method",
            config.method.name,
            f"the student in {folder} was trained with {trained} and is asked in that way",
            f"method={trained} student.path={config.student.path}",
        )


def _plan_start(
    config: Config, root: Path, base: Stage | None, corpus: Stage | None
) -> Stage | None:
    """Plan the student that training begins from; None where that is the untrained model."""
    if not has_start(config):
        return None
    if isinstance(config.method, GRPOConfig) and config.start.path is not None:
        return external("students", config.start.path, "start.path")
    plain = start_config(config)
    return _plan_student(plain, root, base, corpus if plain.method.needs_corpus else None)


def _plan_evaluation(
    config: Config,
    root: Path,
    base: Stage | None,
    corpus: Stage | None,
    student: Stage | None,
) -> JobGraph:
    """Plan the predictions, and what m2's stand on and are compared with."""
    untrained = _model_party(config.model, base)
    tested = untrained
    if student is not None:
        own = {} if base is None else {"base": base.fingerprint}
        tested = Party({"student": student.fingerprint}, {"student": student.fingerprint, **own})
    questions = [_questions(entry, config) for entry in config.benchmarks]

    def answers(party: Party, protocol: str) -> tuple[Stage, ...]:
        return tuple(
            stage(
                "predictions",
                answer_spec(question, config, party, protocol=protocol),
                root,
                party.upstream,
                str(question["benchmark"]),
            )
            for question in questions
        )

    if config.method.name != "m2":
        protocol = "zero_shot_cot" if config.method.name == "zero_shot_cot" else "one_call"
        if config.student.path is not None:
            protocol = config.method.name  # the student's own key does not say how it is asked
        return JobGraph(base, corpus, student, answers(tested, protocol), _view(config))
    executor_model = config.executor.model if config.executor.name == "model" else None
    executor_base = None if executor_model is None else _plan_base(executor_model, config, root)
    executor: Party | None = None  # the student itself
    if config.executor.name == "teacher":
        executor = teacher_party(config)
    elif executor_model is not None:
        executor = _model_party(executor_model, executor_base)
    elif config.executor.name == "base":
        executor = untrained
    alone = answers(executor or tested, "one_call")
    plans: tuple[Stage, ...] = ()
    if config.evaluation.plan == "none":
        predictions, alone = alone, ()
    else:
        if config.evaluation.plan == "teacher":
            plans = tuple(_plan_test_corpus(question, config, root) for question in questions)
        planner = tested if needs_student(config) else None
        predictions = tuple(
            stage(
                "predictions",
                execution_spec(
                    question, config, planner, executor, plans[place].fingerprint if plans else None
                ),
                root,
                {
                    **({} if executor is None else executor.upstream),
                    **({} if planner is None else planner.upstream),
                    **({"plan_corpus": plans[place].fingerprint} if plans else {}),
                },
                str(question["benchmark"]),
            )
            for place, question in enumerate(questions)
        )
    if not config.executor.zero_shot:
        alone = ()
    return JobGraph(base, corpus, student, predictions, _view(config), alone, plans, executor_base)


def _questions(entry: str, config: Config) -> dict[str, Any]:
    name, path = benchmark_of(entry, config)
    if name.startswith(MICRO_PREFIX):
        source: dict[str, Any] = {
            "world": hashed_values(benchmark_world(name, world_of(config))[0])
        }
    else:
        source = source_spec(name, "test", path, None)
    return question_spec(name, source, config, tag=domain_tag(name, config))


def _model_party(model: ModelConfig, base: Stage | None) -> Party:
    upstream = {} if base is None else {"base": base.fingerprint}
    return Party({"model": model_spec(model, base)}, upstream)


def _plan_test_corpus(question: Mapping[str, Any], config: Config, root: Path) -> Stage:
    """Plan the distillation of a test set, whose plans are swapped in and never trained on."""
    given = config.evaluation.plan_corpus
    if given is not None:
        folder = folder_of(root, "corpora", given)
        path = folder if "/" not in given and is_complete(folder) else given
        return external("corpora", str(path), "evaluation.plan_corpus")
    problems = {key: question[key] for key in ("benchmark", "source", "limit")}
    spec = corpus_spec(
        {**problems, "split": "test"},
        config.teacher,
        config.distillation,
        config.evaluation.grading,
    )
    return stage("corpora", spec, root, {}, str(question["benchmark"]))


def domain_tag(benchmark: str, config: Config) -> str:
    """The tag that a student trained on a mixture sees before a benchmark's problems, or none."""
    if not isinstance(config.data, MixtureDataConfig) or not config.method.is_trained:
        return ""
    return config.data.tag_of(benchmark)
