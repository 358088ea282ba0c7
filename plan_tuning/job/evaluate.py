"""Configuration → one call: student → predictions, predictions → what plans are worth."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plan_tuning.config.extensions import OWN_ENGINE, record
from plan_tuning.config.run import Config
from plan_tuning.distillation.corpus import read_trajectories
from plan_tuning.job.inputs import load_benchmark
from plan_tuning.job.models import Models
from plan_tuning.job.result import (
    DECONTAMINATED,
    PLAN_VALUES_FILE,
    PREDICTIONS_FILE,
    Outcome,
    read_predictions,
    write_predictions,
)
from plan_tuning.job_record import Compute
from plan_tuning.records import Completion, Problem, to_json
from plan_tuning.tasks.regrading import VERSIONS

if TYPE_CHECKING:
    from plan_tuning.evaluation.plan_value import LogProbs
    from plan_tuning.evaluation.writers import Progress
    from plan_tuning.students.loading import Student

_PROBE_TOKENS = 8

logger = logging.getLogger(__name__)

Make = Callable[[Path], Mapping[str, Any]]
"""Writes an artifact into a folder and returns the facts of its manifest."""


def answer_call(
    config: Config,
    models: Models,
    entry: str,
    benchmark: str,
    *,
    method: str,
    corpus: Path | None = None,
) -> Make:
    """Make the call that answers one benchmark into a folder.

    Args:
        config: the job.
        models: who answers and who executes.
        entry: the benchmark as the configuration names it.
        benchmark: its name.
        method: whose prompt is asked; m2's executor by itself is asked as ``zero_shot``.
        corpus: where m2's plans are taken from that are swapped in.
    """
    return partial(_answer, config, models, entry, benchmark, method, corpus)


def _answer(
    config: Config,
    models: Models,
    entry: str,
    benchmark: str,
    method: str,
    corpus: Path | None,
    folder: Path,
) -> Mapping[str, Any]:
    from plan_tuning.evaluation.accuracy import summarize
    from plan_tuning.evaluation.predictions import solve, teacher_plans
    from plan_tuning.evaluation.progress import shown

    problems = load_benchmark(entry, config)
    has_two_calls = config.method.has_two_calls
    is_planned = has_two_calls and method == config.method.name
    plans = None
    if corpus is not None:
        plans = teacher_plans(read_trajectories(corpus))
    elif is_planned and config.evaluation.plan == "true":
        plans = {problem.id: problem.true_plan for problem in problems}
    # With given plans, or without any, nobody but m2's executor is asked.
    is_executor = plans is not None or (has_two_calls and not is_planned)
    asked = models.executor if is_executor else models.tested
    executor = models.executor if is_planned else None
    taking_part = {id(writer): writer for writer in (asked, executor) if writer is not None}
    for writer in taking_part.values():
        writer.computed = Compute()
    started = time.perf_counter()
    with shown(benchmark, is_wanted=config.evaluation.progress) as progress:
        predictions = solve(
            asked,
            problems,
            method=method,
            prompt=config.prompt,
            evaluation=config.evaluation,
            benchmark=benchmark,
            grader=models.grader,
            executor=executor,
            plans=plans,
            progress=progress,
        )
    write_predictions(folder / PREDICTIONS_FILE, predictions)
    seconds = round(time.perf_counter() - started, 3)
    computed = sum((w.computed for w in taking_part.values()), Compute(seconds=seconds))
    facts = {"metrics": to_json(summarize(predictions)), "problems": len(problems)}
    facts["compute"] = to_json(computed)
    graded = models.grader.facts()
    return {**facts, **asked.facts(), **models.identity_facts(asked), **graded, **VERSIONS}


def note_clean(outcome: Outcome, benchmark: str, path: Path, report: Path, folder: Path) -> None:
    """Report a benchmark once more, without the problems that the training set holds.

    Args:
        outcome: of the job; gets the figures, where any problem is left.
        benchmark: its name.
        path: of its predictions.
        report: of contamination.
        folder: of the job, which gets the predictions that count.
    """
    from plan_tuning.evaluation.accuracy import summarize
    from plan_tuning.tasks.contamination import contaminated_ids, covers

    report = report.expanduser()
    if benchmark not in covers(report):
        logger.info("%s is not in %s: reported as it is", benchmark, report)
        return
    ids = contaminated_ids(report, benchmark)
    clean = [row for row in read_predictions(path) if row.problem_id not in ids]
    if not clean:
        logger.warning("%s: every problem is contaminated, nothing is left", benchmark)
        return
    name = benchmark + DECONTAMINATED
    outcome.predictions[name] = folder / f"{name}.jsonl"
    write_predictions(outcome.predictions[name], clean)
    outcome.metrics[name] = summarize(clean)


def value_call(
    config: Config,
    models: Models,
    entry: str,
    benchmark: str,
    predictions: Path,
    corpus: Path | None,
) -> Make:
    """Make the call that writes what plans are worth on one benchmark into a folder.

    Args:
        config: the job.
        models: who carries plans out.
        entry: the benchmark as the configuration names it.
        benchmark: its name.
        predictions: the artifact whose plans are the student's own.
        corpus: a distilled test set with the teacher's plans; None: they are not compared.
    """
    return partial(_value, config, models, entry, benchmark, predictions, corpus)


def _value(
    config: Config,
    models: Models,
    entry: str,
    benchmark: str,
    predictions: Path,
    corpus: Path | None,
    folder: Path,
) -> Mapping[str, Any]:
    from plan_tuning.evaluation.edit_following import followed_edits
    from plan_tuning.evaluation.plan_conditions import conditions, own_plans, reference_execution
    from plan_tuning.evaluation.plan_value import Measurement, summarize_values
    from plan_tuning.evaluation.predictions import teacher_plans
    from plan_tuning.evaluation.progress import shown

    references: dict[str, tuple[Problem, str]] = {}
    left_out: Counter[str] = Counter()
    for problem in load_benchmark(entry, config):
        execution = reference_execution(problem)
        if not execution:
            left_out["no_solution"] += 1
        elif not models.grader.grade(execution, problem).is_correct:
            left_out["not_graded_right"] += 1
        else:
            references[problem.id] = (problem, execution)
    if not references:
        logger.warning(
            "%s: no problem has a solution that grades right (%s), so plans have no value here",
            benchmark,
            dict(left_out),
        )
        return {"figures": to_json(summarize_values([], "", left_out))}
    chosen = conditions(
        [problem for problem, _ in references.values()],
        config.method.name,
        own_plans(read_predictions(predictions / PREDICTIONS_FILE)),
        None if corpus is None else teacher_plans(read_trajectories(corpus)),
    )
    student = models.follower
    with shown(benchmark, is_wanted=config.evaluation.progress) as progress:
        measurement = Measurement(
            folder / PLAN_VALUES_FILE,
            student.tokenizer,
            _log_probs(student),
            method=config.method.name,
            prompt=config.prompt,
            batch_tokens=config.evaluation.batch_tokens,
            progress=progress,
        )
        rows = measurement.rows(references, chosen)
        followed = None
        if chosen.subject:
            followed = followed_edits(
                [problem for problem, _ in references.values()],
                chosen.plans[chosen.subject],
                tokenizer=student.tokenizer,
                generate=partial(_greedy, config, student, progress),
                grader=models.grader,
                method=config.method.name,
                prompt=config.prompt,
            )
    return {"figures": to_json(summarize_values(rows, chosen.subject, left_out, followed))}


def _log_probs(student: Student) -> LogProbs:
    """One forward pass of a student, whose family is one that the passes are right for."""
    import torch

    from plan_tuning.students.log_probs import check_projection, last_token_log_probs

    check_projection(student.causal_lm, torch.arange(_PROBE_TOKENS, device=student.device)[None])
    return partial(last_token_log_probs, student.causal_lm)


def _greedy(
    config: Config, student: Student, progress: Progress | None, prompts: Sequence[list[int]]
) -> list[Completion]:
    """Complete prompts greedily, as answers are written by this project's own engine."""
    from plan_tuning.students.generation.in_process import InProcessEngine
    from plan_tuning.students.generation.protocol import Sampling

    evaluation = config.evaluation
    engine = InProcessEngine(
        student,
        record("engine", OWN_ENGINE),
        batch_tokens=evaluation.batch_tokens,
        decoding=evaluation.decoding,
    )

    def tell(rows: int, tokens: int) -> None:
        if progress is not None:
            progress("following edits", rows, len(prompts), tokens)

    return engine.generate(
        prompts,
        keys=[("edit", place) for place in range(len(prompts))],
        sampling=Sampling(evaluation.max_new_tokens, stop_strings=tuple(evaluation.stop)),
        progress=tell,
    )
