"""Problems and a teacher -> the corpus artifact: parquet, a dataset card, and facts.

A corpus folder holds ``trajectories.parquet`` (every candidate of every problem),
``problems.parquet`` (the problems with their human solutions) and ``README.md``, the card that
lets ``datasets.load_dataset`` read the folder.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from plan_tuning.artifacts import hashed_values, write_atomic
from plan_tuning.config.grading import GradingConfig
from plan_tuning.config.teacher import DistillationConfig, TeacherConfig
from plan_tuning.distillation.card import write_card
from plan_tuning.distillation.funnel import Tally, unscored_filters
from plan_tuning.distillation.given_plans import given_trajectories
from plan_tuning.distillation.monitor import Monitor
from plan_tuning.distillation.parquet import RecordWriter, write_records
from plan_tuning.distillation.synthesis import distil
from plan_tuning.grading.grader import Grader
from plan_tuning.records import Problem, Trajectory, Verdict, from_json, to_json
from plan_tuning.tasks.dataset_plans import VERSION as DATASET_PLANS
from plan_tuning.tasks.published_tests import known_test_problems
from plan_tuning.tasks.regrading import VERSIONS, Regrading, StoredAnswer, regrade, remembered
from plan_tuning.teachers.caller import Caller
from plan_tuning.teachers.errors import HolesError
from plan_tuning.teachers.factory import open_caller
from plan_tuning.teachers.usage import Usage
from plan_tuning.text.prompts import REQUESTS, prompt_fingerprint, words_fingerprint
from plan_tuning.text.thoughts import holds_thoughts

logger = logging.getLogger(__name__)

STAGE_VERSION = 1
TRAJECTORIES = "trajectories.parquet"
PROBLEMS = "problems.parquet"
# A job reads its corpus twice, and a sweep's jobs of one process read the same few again. A larger
# file is read in no time beside a training on it, which needs the memory.
_KEPT_CORPORA = 4
_KEPT_BYTES = 4 * 2**20  # of the file, which is compressed


OnUsage = Callable[[int, float | None], None]
"""Told how many calls were bought and what they cost in USD; None: a price is unknown."""


class CorpusError(ValueError):
    """A folder is no corpus."""


def corpus_spec(
    problems_spec: Mapping[str, Any],
    teacher: TeacherConfig,
    distillation: DistillationConfig,
    grading: GradingConfig,
    tasks: Sequence[str] = (),
) -> dict[str, Any]:
    """Say what determines a corpus, for its fingerprint: plain values, no file is read but prompts.

    Args:
        problems_spec: what determines the problems and their order.
        teacher: only its spec counts, and whether samples are seeded.
        distillation: sampling, limits, parsers; the window and the breaker do not count.
        grading: the Answer Verifier's policy.
        tasks: that the problems are of; those with words of their own count.
    """
    asked = dict(teacher.spec())
    if not teacher.is_asked:
        return {
            "problems": dict(problems_spec),
            "teacher": {**asked, "version": DATASET_PLANS},
            "grading": hashed_values(grading),
        }
    if not teacher.seeded:
        asked["seeded"] = False
    given = {"plans": DATASET_PLANS} if distillation.has_given_plans else {}
    words = words_fingerprint(tasks)
    return {
        **given,
        **({"task_prompts": words} if words else {}),
        "problems": dict(problems_spec),
        "teacher": asked,
        "distillation": hashed_values(distillation),
        "grading": hashed_values(grading),
        "prompts": {name: prompt_fingerprint(name) for name in REQUESTS},
    }


def make_corpus(
    folder: Path,
    problems: Sequence[Problem],
    teacher: TeacherConfig,
    distillation: DistillationConfig,
    grading: GradingConfig,
    calls: Path,
    *,
    progress: bool,
    on_usage: OnUsage | None = None,
) -> dict[str, Any]:
    """Distil a corpus into ``folder``; replies that the store holds are not bought again.

    Args:
        folder: exists; what an interrupted run left there is overwritten.
        problems: in the order in which they are asked and written.
        teacher: who is asked.
        distillation: how.
        grading: the Answer Verifier's policy.
        calls: the store's folder.
        progress: show a live table (plain log lines off a terminal).
        on_usage: told once what was bought, also where the distillation ends in an error.

    Returns:
        Facts for the manifest: funnel, kept rates by filter, calls, tokens and cost of what was
        bought, models that answered.

    Raises:
        TeacherError: the teacher cannot go on; its exit code and message say why and what to do.
    """
    usage = Usage(teacher.model)
    try:
        return asyncio.run(
            _make(folder, problems, teacher, distillation, grading, calls, usage, progress=progress)
        )
    finally:  # calls in flight have landed by now
        if on_usage is not None:
            on_usage(usage.bought, usage.usd)


async def _make(
    folder: Path,
    problems: Sequence[Problem],
    teacher: TeacherConfig,
    distillation: DistillationConfig,
    grading: GradingConfig,
    calls: Path,
    usage: Usage,
    *,
    progress: bool,
) -> dict[str, Any]:
    started = time.perf_counter()
    with Grader(grading) as grader:
        if not teacher.is_asked:
            tally = await _take(folder, problems, grader)
        else:
            async with open_caller(
                teacher, calls, max_failed_rate=distillation.max_failed_rate, usage=usage
            ) as caller:
                for is_last in (False, True):
                    usage.left_out = 0
                    tally = await _distil(
                        folder, problems, caller, grader, distillation, teacher, is_shown=progress
                    )
                    if is_last or not usage.left_out:
                        break
                    logger.info("%d calls kept failing: they are retried once", usage.left_out)
    if usage.left_out and not distillation.allow_holes:
        raise HolesError(
            f"{usage.left_out} calls to {teacher.model} failed to the end, each in two rounds of "
            f"{teacher.max_attempts} attempts. Every answer that arrived is kept, and the same "
            "command asks for the missing ones alone; to make the corpus without them: "
            "distillation.allow_holes=true"
        )
    if usage.left_out:
        logger.warning("%d calls failed to the end; the corpus lacks them", usage.left_out)
    write_records(folder / PROBLEMS, Problem, problems)
    known = known_test_problems(problem.problem for problem in problems)
    facts = {
        **tally.facts(),
        **VERSIONS,
        "calls": {
            "bought": usage.bought,
            "cached": usage.cached,
            "failed_attempts": usage.failed_attempts,
            "left_out": usage.left_out,
        },
        "tokens": {"prompt": usage.prompt_tokens, "completion": usage.completion_tokens},
        "cost_usd": {"corpus": _rounded(usage.total_usd), "this_run": _rounded(usage.usd)},
        "teacher": teacher.spec(),
        "served_models": sorted(usage.served_models),
        "distil_s": round(time.perf_counter() - started, 3),
        **grader.facts(),
        **({"test_problems": known} if known else {}),
    }
    write_card(folder, facts, problems, distillation)
    return facts


def _rounded(usd: float | None) -> float | None:
    return None if usd is None else round(usd, 6)


async def _take(folder: Path, problems: Sequence[Problem], grader: Grader) -> Tally:
    """Write the plans and executions that came with the problems; nobody is asked."""
    tally = Tally(len(problems), unscored_filters(problems))
    with RecordWriter(folder / TRAJECTORIES, Trajectory) as writer:
        async for rows in given_trajectories(problems, grader):
            tally.add(rows)
            writer.add(rows)
    logger.info("%s", tally.line())
    return tally


async def _distil(
    folder: Path,
    problems: Sequence[Problem],
    caller: Caller,
    grader: Grader,
    distillation: DistillationConfig,
    teacher: TeacherConfig,
    *,
    is_shown: bool,
) -> Tally:
    """Make every request about every problem and write the trajectories."""
    tally = Tally(len(problems))
    with (
        Monitor(len(problems), tally, caller, is_shown=is_shown) as monitor,
        RecordWriter(folder / TRAJECTORIES, Trajectory) as writer,
    ):

        def on_progress(rows: tuple[Trajectory, ...]) -> None:
            tally.add(rows)
            monitor.update()

        async for rows in distil(
            problems,
            caller.ask,
            grader,
            distillation,
            window=distillation.window or 2 * teacher.concurrency,
            on_progress=on_progress,
        ):
            writer.add(rows)
    return tally


def write_trajectories(path: Path, rows: Iterable[Trajectory]) -> None:
    """Export trajectories to one file, which appears only when it is complete.

    Raises:
        CorpusError: the file's ending is neither .jsonl nor .parquet.
    """
    if path.suffix == ".jsonl":
        lines = (json.dumps(to_json(row), ensure_ascii=False) for row in rows)
        write_atomic(path, "".join(f"{line}\n" for line in lines))
    elif path.suffix == ".parquet":
        partial = path.with_name(f".{path.name}.tmp")
        try:
            write_records(partial, Trajectory, rows)
            partial.replace(path)
        except OSError as error:  # arrow names no file
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
    else:
        raise CorpusError(f"{path}: choose a name that ends in .jsonl or .parquet")


def read_trajectories(path: Path) -> list[Trajectory]:
    """Read all candidates of a corpus; one that holds thoughts is named, with what to do about it.

    Args:
        path: a corpus folder, or its trajectories.parquet.

    Raises:
        CorpusError: there is no such file, or it holds no trajectories.
    """
    rows, holding = _read_once(path)
    if holding:
        _name_thoughts(path, holding, len(rows))
    if not path.is_dir():
        return list(rows)
    found = _judged_again(path, rows)
    return [_with_verdict(row, found.changed.get(_row_key(row))) for row in rows]


def verdicts_of_today(folder: Path) -> Regrading:
    """Say what today's grader changes in a corpus.

    Raises:
        CorpusError: there is no such corpus.
    """
    return _judged_again(folder, _read_once(folder)[0])


def _read_once(path: Path) -> tuple[tuple[Trajectory, ...], int]:
    """Read all candidates as they were written, and count those that hold thoughts.

    A small file that has not changed since this process read it is not read again.
    """
    file = _file(path, TRAJECTORIES)
    state = file.stat()
    read = _trajectories_of if state.st_size > _KEPT_BYTES else _kept
    return read(file, state.st_dev, state.st_ino, state.st_mtime_ns, state.st_size)


def _trajectories_of(file: Path, *_state: int) -> tuple[tuple[Trajectory, ...], int]:
    rows = tuple(_restore(Trajectory, row) for row in _read(file, TRAJECTORIES))
    holding = sum(
        any(map(holds_thoughts, (row.constraints, row.plan, row.score_text, row.execution)))
        for row in rows
    )
    return rows, holding


_kept = functools.lru_cache(maxsize=_KEPT_CORPORA)(_trajectories_of)


def _judged_again(folder: Path, rows: Sequence[Trajectory]) -> Regrading:
    """Have today's grader read what an earlier one judged; remembered beside the corpus."""
    found = remembered(folder)
    if found is not None:
        return found
    known = {p.id: p for p in read_problems(folder)} if (folder / PROBLEMS).is_file() else {}
    answers = []
    for row in rows:
        if row.verdict is None:
            continue
        problem = known.get(row.problem_id) or Problem(
            id=row.problem_id, problem=row.problem, answer=row.answer, style=row.style
        )
        reason = "length" if row.execution_status == "truncated" else "stop"
        answers.append(StoredAnswer(_row_key(row), row.execution, problem, row.verdict, reason))
    return regrade(folder, answers)


def _row_key(row: Trajectory) -> str:
    return f"{row.problem_id}/{row.candidate}"


def _with_verdict(row: Trajectory, changed: Mapping[str, Any] | None) -> Trajectory:
    if changed is None:
        return row
    return replace(row, verdict=Verdict(changed["verdict"]), execution_answer=changed["answer"])


@functools.cache
def _name_thoughts(path: Path, holding: int, count: int) -> None:
    """Warn once of a corpus that teaches what the teacher only thought."""
    folder = path if path.is_dir() else path.parent
    is_artifact = folder.parent.name == "corpora"
    outputs = folder.parents[2] if is_artifact else Path("multirun_outputs")
    logger.warning(
        "%d of %d trajectories of %s hold the teacher's thoughts, and whoever is trained on them "
        "learns to think aloud. Rebuild the corpus without them from the stored replies, for "
        "nothing: plan-tuning corpus rebuild %s --outputs %s",
        holding,
        count,
        folder,
        shlex.quote(str(folder)),
        shlex.quote(str(outputs)),
    )


def read_problems(path: Path) -> list[Problem]:
    """Read the problems of a corpus, with their human solutions.

    Raises:
        CorpusError: there is no such file, or it holds no problems.
    """
    rows = _read(path, PROBLEMS)
    for row in rows:
        row["metadata"] = json.loads(row["metadata"] or "{}")
    return [_restore(Problem, row) for row in rows]


def _file(path: Path, name: str) -> Path:
    file = path / name if path.is_dir() else path
    if not file.is_file():
        raise CorpusError(
            f"corpus.path={path}: there is no {name}. Give a corpus folder, for example "
            "corpus.path=multirun_outputs/artifacts/corpora/FINGERPRINT"
        )
    return file


def _read(path: Path, name: str) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(_file(path, name)).to_pylist()
    return rows


def _restore(kind: type[Any], row: Mapping[str, Any]) -> Any:
    try:
        return from_json(kind, row)
    except (ValueError, KeyError) as error:
        raise CorpusError(f"the corpus has rows of another schema: {error}") from error
