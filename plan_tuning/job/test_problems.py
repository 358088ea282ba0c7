"""A job -> which published test problems its student is trained on, and what that forbids.

A file is known by its questions (:mod:`plan_tuning.tasks.published_tests`), whatever it is called.
Training on such a file is allowed, it is named wherever the student is, and the student is never
measured on the benchmark whose problems it has seen. Nor is it measured on the questions that it is
trained on where both files ask the same, whatever their names; some of them in another test set are
counted and warned of (:func:`plan_tuning.job.inputs.count_seen`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from plan_tuning.artifacts import fingerprint_of, is_complete, read_manifest
from plan_tuning.config.checks import ConfigError
from plan_tuning.config.extensions import record
from plan_tuning.config.job_parts import needs_student
from plan_tuning.config.model import ModelConfig
from plan_tuning.config.run import Config
from plan_tuning.distillation.corpus import PROBLEMS, read_problems, read_trajectories
from plan_tuning.job.data_findings import reading_of
from plan_tuning.job.eval_spec import benchmark_of
from plan_tuning.job.graph import JobGraph
from plan_tuning.job.inputs import load_benchmark, load_problems, source_parts
from plan_tuning.job.train_spec import holdout_spec, problems_spec
from plan_tuning.tasks.contamination import tokens
from plan_tuning.tasks.json_rows import DataError
from plan_tuning.tasks.published_tests import (
    PUBLISHED_TESTS,
    known_test_problems,
    name_test_problems,
    question_digest,
)

FACT = "test_problems"
"""Key of the counts in the manifests of corpora and students; absent where there are none."""

_READ: dict[str, tuple[str, ...]] = {}  # questions, by the fingerprint of the training problems
_WAY_ROUND = "data.holdout=100 'evaluation.benchmarks=[]'"


def check_test_problems(config: Config, graph: JobGraph) -> dict[str, int]:
    """Count the published test problems that a job's models are trained on, by test split.

    Raises:
        ConfigError: a benchmark of the job asks them, or questions that are trained on here, or
            the internal split is no longer one.
    """
    if graph.student is None and not graph.predictions:
        return {}
    questions = _training_questions(config, graph)
    given = _most(map(_fact, _given_folders(config, graph)))
    made = [_fact(stage.folder) for stage in (graph.student, graph.start) if stage]
    found = _most([given, *made, known_test_problems(questions)])
    if "evaluate" in config.stages:
        for entry in config.benchmarks:
            _check_name(entry, config, found)
            _check_questions(entry, config, questions, given)
        _check_internal_split(config, graph)
    return found


def facts_of_training(
    config: Config, corpus: Path | None, start: Path | str | None
) -> dict[str, Any]:
    """Say in the manifest of a student which test problems it was trained on; nothing for none.

    Args:
        config: the job.
        corpus: that it learns from; None: from the data.
        start: the student that its training begins from, if any.
    """
    questions = _questions_of_data(config) if corpus is None else _questions(corpus)
    folders = [*_folder_of(config.model), *([] if start is None else [Path(start)])]
    together = _most([known_test_problems(questions), *map(_fact, folders)])
    return {FACT: together} if together else {}


def facts_of_students(folders: Iterable[Path]) -> dict[str, Any]:
    """Say in the manifest of a merged student what those were trained on that it is made of."""
    together = _most(map(_fact, folders))
    return {FACT: together} if together else {}


def _given_folders(config: Config, graph: JobGraph) -> list[Path]:
    """Folders of models from elsewhere that take part: what they learned, their manifests say."""
    folders = [stage.folder for stage in graph.merged]
    for stage in (graph.student, graph.start):
        if stage is not None and stage.is_external:
            folders.append(stage.folder)
    is_given = config.student.path is not None or bool(graph.merged)
    answers_untrained = graph.student is None and needs_student(config)
    if answers_untrained or (graph.student is not None and not is_given):
        folders += _folder_of(config.model)
    if config.method.has_two_calls and "evaluate" in config.stages:
        needs = record("executor", config.executor.name).needs
        folders += _folder_of(config.model) if "base" in needs else []
        folders += _folder_of(config.executor.model) if "model" in needs else []
    return folders


def _folder_of(model: ModelConfig | None) -> list[Path]:
    """The folder of a model that may be a student of another job; none for a hub id or a file."""
    folder = None if model is None or model.path is None else Path(model.path).expanduser()
    return [folder] if folder is not None and folder.is_dir() else []


def _training_questions(config: Config, graph: JobGraph) -> tuple[str, ...]:
    """What is learned in this job, as far as it lies on this disk."""
    is_given = config.student.path is not None or bool(graph.merged)
    if graph.student is None or (is_given and not graph.sources):
        return ()
    if graph.corpus is not None and graph.corpus.is_available:
        return _questions(graph.corpus.folder)
    return () if config.corpus.path is not None else _questions_of_data(config)


def _most(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    together: dict[str, int] = {}
    for found in counts:
        for name, count in found.items():
            together[name] = max(count, together.get(name, 0))
    return together


def _fact(folder: Path) -> dict[str, int]:
    """What the manifest of a student says; nothing where it has none."""
    if not is_complete(folder):
        return {}
    found: dict[str, int] = read_manifest(folder)["facts"].get(FACT, {})
    return found


def _questions_of_data(config: Config) -> tuple[str, ...]:
    """Read the training problems; the Hub's training splits hold no known test problems."""
    if all(part.path is None for part in source_parts(config.data).values()):
        return ()
    fingerprint = fingerprint_of(problems_spec(config.data), stage="problems", version=1)
    if fingerprint not in _READ:
        _READ[fingerprint] = tuple(problem.problem for problem in load_problems(config))
    return _READ[fingerprint]


@functools.lru_cache(maxsize=8)
def _questions(corpus: Path) -> tuple[str, ...]:
    """The questions of a corpus; one from elsewhere may hold trajectories alone."""
    if (corpus / PROBLEMS).is_file():
        return tuple(problem.problem for problem in read_problems(corpus))
    return tuple(dict.fromkeys(row.problem for row in read_trajectories(corpus)))


def _check_name(entry: str, config: Config, found: Mapping[str, int]) -> None:
    """Refuse a benchmark by its name, of which the questions need not lie on this disk."""
    name, _ = benchmark_of(entry, config)
    seen = {test: n for test, n in found.items() if name in PUBLISHED_TESTS[test].benchmarks}
    if seen:
        raise _seen(name, f"it is trained on {name_test_problems(seen)}")


def _check_questions(
    entry: str, config: Config, questions: tuple[str, ...], given: Mapping[str, int]
) -> None:
    """Refuse a file by its questions, whatever it is called.

    Args:
        entry: the benchmark.
        config: the job.
        questions: that are trained on here.
        given: test problems that models from elsewhere were trained on.
    """
    name, path = benchmark_of(entry, config)
    if path is None or name == config.data.internal_split or not (questions or given):
        return
    try:
        problems = reading_of(name, "test", path, config.data.form).problems
    except DataError:  # the predictions are there already, and their data are gone
        return
    asked = {question_digest(problem.problem): problem.problem for problem in problems}
    learned = _digests(questions)
    known = known_test_problems(asked.values())
    elsewhere = {test: count for test, count in known.items() if test in given}
    here = known_test_problems(asked[digest] for digest in asked.keys() & learned)
    if seen := _most([elsewhere, here]):
        raise _seen(entry, f"the file asks {name_test_problems(seen)}, and it is trained on such")
    if learned and asked.keys() in (learned, _of_training_files(config)):
        raise _seen(entry, f"the file's {len(asked)} questions are those of the training problems")


def _seen(entry: str, why: str) -> ConfigError:
    return ConfigError(
        "evaluation.benchmarks",
        entry,
        f"a benchmark that the student has not seen: {why}. Measure it on questions that are held "
        "out of the same file (they are called an internal split), or train on other problems",
        _WAY_ROUND,
    )


@functools.lru_cache(maxsize=4)
def _digests(questions: tuple[str, ...]) -> frozenset[str]:
    return frozenset(map(question_digest, questions))


def _of_training_files(config: Config) -> frozenset[str]:
    """Digests of all questions of the training files, whatever share of them is used."""
    if config.corpus.path is not None:
        return frozenset()
    return frozenset(
        question_digest(problem.problem)
        for part in source_parts(config.data).values()
        if part.path is not None
        for problem in reading_of(part.name, part.split, part.path, part.form).problems
    )


def _check_internal_split(config: Config, graph: JobGraph) -> None:
    """Refuse a corpus or a student from elsewhere that holds what is held out here."""
    internal = config.data.internal_split
    if internal is None or internal not in config.benchmarks or graph.student is None:
        return
    if config.student.path is not None:
        key, folder = "student.path", graph.student.folder
    elif config.corpus.path is not None and graph.corpus is not None:
        key, folder = "corpus.path", graph.corpus.folder
    else:
        return
    if _is_cut_alike(folder, config):
        return
    corpus = _corpus_of(folder) if key == "student.path" else folder
    if corpus is not None:
        held = {tuple(tokens(p.problem)) for p in load_benchmark(internal, config, is_tagged=False)}
        if not any(tuple(tokens(question)) in held for question in _questions(corpus)):
            return
    elif not _is_cut_of_same_file(folder, config):
        return  # nothing is known of it
    raise ConfigError(
        key,
        folder,
        f"one that was made without the questions of {internal}: it was cut otherwise, or not",
        f"data.holdout={config.data.holdout} without {key}, or another test set: "
        "'evaluation.benchmarks=[gsm8k]'",
    )


def _problems_of(folder: Path) -> Mapping[str, Any]:
    """What a student's or a corpus's manifest says of the problems; nothing where it does not."""
    if not is_complete(folder):
        return {}
    found: Mapping[str, Any] = read_manifest(folder)["spec"].get("problems", {})
    return found


def _is_cut_of_same_file(folder: Path, config: Config) -> bool:
    return bool(_problems_of(folder).get("source") == problems_spec(config.data)["source"])


def _is_cut_alike(folder: Path, config: Config) -> bool:
    """Whether the same questions of the same file were held out of what it was made from."""
    corpus = _corpus_of(folder)
    for known in (folder, *([] if corpus is None else [corpus])):
        is_same = _problems_of(known).get("holdout") == holdout_spec(config.data)
        if is_same and _is_cut_of_same_file(known, config):
            return True
    return False


def _corpus_of(student: Path) -> Path | None:
    """The corpus that a student learned from, where it lies beside it."""
    if not is_complete(student):
        return None
    upstream = read_manifest(student).get("upstream", {}).get("corpus")
    folder = student.parent.parent / "corpora" / str(upstream)
    return folder if upstream and is_complete(folder) else None
