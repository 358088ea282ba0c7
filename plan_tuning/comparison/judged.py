"""Verdicts of an earlier grader in what is compared: judged again, counted, and students marked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from plan_tuning.artifacts import ArtifactError
from plan_tuning.comparison.runs import Results, Run, corpus_file, read_predictions
from plan_tuning.distillation.corpus import CorpusError, verdicts_of_today
from plan_tuning.evaluation.accuracy import summarize
from plan_tuning.evaluation.judgement import stored_answers
from plan_tuning.records import Prediction, Problem, from_json
from plan_tuning.tasks.benchmarks import load
from plan_tuning.tasks.json_rows import DataError
from plan_tuning.tasks.regrading import (
    VERSIONS,
    Regrading,
    plain_problem,
    regrade,
    remembered,
)

_DECONTAMINATED = "_decontaminated"  # such a file lies in the job's folder, its rows in another one
_SHOWN = 5


def judged_again(results: Results) -> tuple[Results, tuple[str, ...]]:
    """Have today's grader read what an earlier one judged, once for each artifact.

    Returns:
        The runs with today's verdicts and figures, and what there is to say about it.
    """
    reader = _Reader()
    runs = tuple(reader.judged(run) if run.is_completed else run for run in results.runs)
    return replace(results, runs=runs), tuple(reader.notes(runs))


class _Reader:
    """Reads every artifact once, however many runs share it."""

    def __init__(self) -> None:
        self._found: dict[Path, Regrading | None] = {}
        self._corpora: dict[Path, bool] = {}

    def judged(self, run: Run) -> Run:
        """Give a run today's verdicts and figures."""
        found: dict[str, Regrading] = {}
        for name, path in run.predictions.items():
            source = run.predictions.get(name.removesuffix(_DECONTAMINATED), path)
            regraded = self._regraded(run, name.removesuffix(_DECONTAMINATED), source)
            if regraded is not None and regraded.changed:
                found[name] = regraded
        if not found:
            return run
        again = replace(run, regraded=found)
        metrics = dict(run.result.metrics)
        for name in found:
            rows = [from_json(Prediction, row) for row in read_predictions(again, name)]
            if rows and name in metrics:
                metrics[name] = summarize(rows)
        return replace(again, result=replace(run.result, metrics=metrics))

    def _regraded(self, run: Run, benchmark: str, path: Path) -> Regrading | None:
        folder = path.parent.resolve()
        if folder not in self._found:
            self._found[folder] = self._regrade(run, benchmark, folder)
        return self._found[folder]

    def _regrade(self, run: Run, benchmark: str, folder: Path) -> Regrading | None:
        """Judge one artifact; None where it cannot be, because its problems are not known here."""
        try:
            found = remembered(folder)
            rows = [from_json(Prediction, row) for row in read_predictions(run, benchmark)]
        except (ArtifactError, ValueError):
            return Regrading()  # a damaged file is told elsewhere
        if found is not None or not rows:
            return found or Regrading()
        problems = _problems(run, benchmark, rows)
        return None if problems is None else regrade(folder, stored_answers(rows, problems))

    def notes(self, runs: tuple[Run, ...]) -> list[str]:
        """Say what changed, what could not be judged again, and whose training it concerns."""
        lines = []
        changed = sum(len(found.changed) for found in self._found.values() if found)
        total = sum(found.num_rows for found in self._found.values() if found)
        if total:
            lines.append(
                f"{changed} of {total} stored verdicts of an earlier grader changed when "
                f"version {VERSIONS['grader']} read the texts again."
            )
        unknown = [folder.name for folder, found in self._found.items() if found is None]
        if unknown:
            lines.append(
                f"{len(unknown)} predictions keep the verdicts of an earlier grader, because their "
                f"problems cannot be read here: {_listed(unknown)}."
            )
        marked = [run.name for run in runs if run.is_completed and self._training_changed(run)]
        if marked:
            lines.append(
                f"{len(marked)} students were trained on rows whose verdict has changed since, or "
                f"on rows that were chosen among such: {_listed(marked)}."
            )
        return lines

    def _training_changed(self, run: Run) -> bool:
        """Whether an earlier grader chose a run's training rows, and would not say the same now."""
        training = run.result.training or {}
        is_current = all(training.get(name, 1) >= version for name, version in VERSIONS.items())
        file = corpus_file(run)
        if is_current or file is None or run.result.fingerprints.student is None:
            return False
        folder = file.parent.resolve()
        if folder not in self._corpora:
            self._corpora[folder] = bool(_regraded_corpus(folder).changed)
        return self._corpora[folder]


def _regraded_corpus(folder: Path) -> Regrading:
    """Find what changed in a corpus; nothing where it cannot be read as a whole."""
    try:
        return remembered(folder) or verdicts_of_today(folder)
    except (CorpusError, ArtifactError):  # evidence that travelled, or a damaged file
        return Regrading()


def _problems(run: Run, benchmark: str, rows: list[Prediction]) -> Mapping[str, Problem] | None:
    """Find the problems of predictions: in what they say, or in the data that the job names."""
    plain = {row.problem_id: plain_problem(row.problem_id, row.gold, benchmark) for row in rows}
    if all(plain.values()):
        return {name: problem for name, problem in plain.items() if problem is not None}
    try:
        return {p.id: p for p in load(benchmark, split="test", path=_path(run, benchmark))}
    except DataError:
        return None


def _path(run: Run, benchmark: str) -> str | None:
    """The folder or file that a job read a benchmark from; None: the Hub."""
    for entry in run.settings.get("evaluation.benchmarks") or []:
        name, _, path = str(entry).partition("=")
        if name == benchmark and path:
            return path
    is_own = run.settings.get("data.name") == benchmark
    own = run.settings.get("data.path") if is_own else None
    return None if own is None else str(own)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
