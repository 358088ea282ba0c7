"""A job -> which published test problems its student is trained on, and what that forbids.

A file is known by its questions (:mod:`plan_tuning.tasks.published_tests`), whatever it is called.
Training on such a file is allowed, it is named wherever the student is, and the student is never
measured on the benchmark whose problems it has seen.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from plan_tuning.artifacts import fingerprint_of, is_complete, read_manifest
from plan_tuning.config.checks import ConfigError
from plan_tuning.config.run import Config
from plan_tuning.distillation.corpus import PROBLEMS, read_problems, read_trajectories
from plan_tuning.job.eval_spec import benchmark_of
from plan_tuning.job.graph import JobGraph
from plan_tuning.job.inputs import load_benchmark, load_problems, source_parts
from plan_tuning.job.train_spec import holdout_spec, problems_spec
from plan_tuning.tasks.contamination import tokens
from plan_tuning.tasks.published_tests import (
    PUBLISHED_TESTS,
    known_test_problems,
    name_test_problems,
)

FACT = "test_problems"
"""Key of the counts in the manifests of corpora and students; absent where there are none."""

_COUNTED: dict[str, dict[str, int]] = {}  # by the fingerprint of the training problems


def check_test_problems(config: Config, graph: JobGraph) -> dict[str, int]:
    """Count the published test problems that a job's student is trained on, by test split.

    Raises:
        ConfigError: a benchmark of the job asks them, or the internal split is no longer one.
    """
    if graph.student is None:
        return {}
    found = _seen_in_training(config, graph)
    if "evaluate" in config.stages:
        _check_benchmarks(config, found)
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
    found = _of_data(config) if corpus is None else _of_corpus(corpus)
    together = _most([found, {} if start is None else _fact(Path(start))])
    return {FACT: together} if together else {}


def facts_of_students(folders: Iterable[Path]) -> dict[str, Any]:
    """Say in the manifest of a merged student what those were trained on that it is made of."""
    together = _most(map(_fact, folders))
    return {FACT: together} if together else {}


def _seen_in_training(config: Config, graph: JobGraph) -> dict[str, int]:
    folders = [stage.folder for stage in (graph.student, graph.start, *graph.merged) if stage]
    found = [_fact(folder) for folder in folders]
    is_given = config.student.path is not None or bool(graph.merged)
    if not is_given and graph.corpus is not None and graph.corpus.is_available:
        found.append(_of_corpus(graph.corpus.folder))
    elif not is_given and config.corpus.path is None:
        found.append(_of_data(config))
    return _most(found)


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


def _of_data(config: Config) -> dict[str, int]:
    """Read the training problems; the Hub's training splits hold none of these test problems."""
    if all(part.path is None for part in source_parts(config.data).values()):
        return {}
    fingerprint = fingerprint_of(problems_spec(config.data), stage="problems", version=1)
    if fingerprint not in _COUNTED:
        questions = (problem.problem for problem in load_problems(config))
        _COUNTED[fingerprint] = known_test_problems(questions)
    return _COUNTED[fingerprint]


def _of_corpus(folder: Path) -> dict[str, int]:
    return known_test_problems(_questions(folder))


@functools.lru_cache(maxsize=8)
def _questions(corpus: Path) -> tuple[str, ...]:
    """The questions of a corpus; one from elsewhere may hold trajectories alone."""
    if (corpus / PROBLEMS).is_file():
        return tuple(problem.problem for problem in read_problems(corpus))
    return tuple(dict.fromkeys(row.problem for row in read_trajectories(corpus)))


def _check_benchmarks(config: Config, found: Mapping[str, int]) -> None:
    for entry in config.benchmarks:
        name, _ = benchmark_of(entry, config)
        seen = {test: n for test, n in found.items() if name in PUBLISHED_TESTS[test].benchmarks}
        if seen:
            raise ConfigError(
                "evaluation.benchmarks",
                name,
                "a benchmark that the student has not seen: it is trained on "
                f"{name_test_problems(seen)}. Measure it on questions that are held out of the "
                "same file (they are called an internal split), or train on the training split",
                "data.holdout=100 'evaluation.benchmarks=[]'",
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
