"""Predictions -> an evaluation's figures: accuracy, pass@k, maj@k, avg@k and the rates behind them.

Pure functions of graded predictions. With several samples a problem, accuracy is avg@n: the mean
over problems of the mean over samples; its interval is Wilson's for one sample and Student's over
problems for several, because samples of one problem are not independent trials.
Where all problems have the same mean, Student's would have no width: it is Wilson's there too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from plan_tuning.grading.votes import vote_key
from plan_tuning.job_record import BenchmarkMetrics, Figures
from plan_tuning.records import Prediction, Verdict
from plan_tuning.statistics.intervals import Interval, mean_interval, wilson

_UNANSWERED = frozenset({Verdict.NO_ANSWER, Verdict.TRUNCATED})


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Estimate without bias the chance that one of k samples is right (Chen et al. 2021, eq. 1).

    Args:
        num_samples: n, samples drawn for the problem.
        num_correct: c, how many of them are right, 0..n.
        k: 1..n.

    Raises:
        ValueError: c or k is out of range.

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    if not 0 <= num_correct <= num_samples:
        raise ValueError(f"num_correct={num_correct} is outside 0..num_samples={num_samples}")
    if not 1 <= k <= num_samples:
        raise ValueError(f"k={k} is outside 1..num_samples={num_samples}")
    if num_samples - num_correct < k:
        return 1.0
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def majority_at_k(
    answers: Sequence[str],
    is_correct: Sequence[bool],
    k: int,
    *,
    key: Callable[[str], str] = vote_key,
) -> float:
    """Grade the most frequent answer among the first k samples.

    Samples without an answer (empty text) do not vote. Among answers that are equally frequent one
    is drawn at random, so the expected value is returned: the share of right ones among them.
    Right answers vote together however they are written; wrong ones by their ``key``, so
    that a wrong answer does not lose votes for being written in two ways.

    Args:
        answers: extracted answers, empty where none was found.
        is_correct: the verdict on each.
        k: 1..n; the first k samples are exchangeable with any other k.
        key: maps an answer to what it is counted as.

    Raises:
        ValueError: k is out of range, or the two sequences differ in length.

    >>> majority_at_k(["4", "5", "4.0"], [True, False, True], 3)
    1.0
    >>> majority_at_k(["3", "3.0", "4"], [False, False, True], 3)
    0.0
    """
    if len(answers) != len(is_correct):
        raise ValueError(f"{len(answers)} answers but {len(is_correct)} verdicts")
    if not 1 <= k <= len(answers):
        raise ValueError(f"k={k} is outside 1..{len(answers)}")
    votes: Counter[tuple[bool, str]] = Counter()
    for answer, right in zip(answers[:k], is_correct[:k], strict=True):
        if right:
            votes[True, ""] += 1
        elif answer.strip():
            votes[False, key(answer)] += 1
    if not votes:
        return 0.0
    most = max(votes.values())
    winners = [key for key, count in votes.items() if count == most]
    return sum(right for right, _ in winners) / len(winners)


def ks_of(num_samples: int) -> list[int]:
    """List the k worth reporting for n samples: the powers of two below n, and n.

    >>> ks_of(8), ks_of(5)
    ([1, 2, 4, 8], [1, 2, 4, 5])
    """
    powers = [2**i for i in range(num_samples.bit_length()) if 2**i < num_samples]
    return [*powers, num_samples] if num_samples else []


def summarize(predictions: Sequence[Prediction]) -> BenchmarkMetrics:
    """Turn graded predictions of one benchmark into the figures of result.json.

    Args:
        predictions: any number of samples a problem, in any order.

    Returns:
        Accuracies with their intervals (95 %), rates over samples and the same by difficulty; for
        several samples also ``pass@k``, ``maj@k`` and ``avg@n``. Figures of nothing are None.
    """
    levels = sorted({p.difficulty for p in predictions} - {""}, key=_difficulty_order)
    by_difficulty = {
        level: Figures(**_figures([p for p in predictions if p.difficulty == level]))
        for level in levels
    }
    return BenchmarkMetrics(**_figures(predictions), by_difficulty=by_difficulty)


def _difficulty_order(level: str) -> tuple[float, str]:
    digits = "".join(c for c in level if c.isdigit())
    return (float(digits) if digits else math.inf, level)


def _figures(predictions: Sequence[Prediction]) -> dict[str, Any]:
    by_problem: dict[str, list[Prediction]] = {}
    for prediction in sorted(predictions, key=lambda p: p.sample):
        by_problem.setdefault(prediction.problem_id, []).append(prediction)
    groups = list(by_problem.values())
    accuracy = _accuracy([[p.is_correct for p in group] for group in groups])
    strict = _accuracy([[p.is_correct_strict for p in group] for group in groups])
    figures: dict[str, Any] = {
        "accuracy": _plain(accuracy.value),
        "low": _plain(accuracy.low),
        "high": _plain(accuracy.high),
        "n": len(groups),
        "num_samples": max(map(len, groups), default=0),
        "num_correct": sum(p.is_correct for p in predictions),
        "strict_accuracy": _plain(strict.value),
        "strict_low": _plain(strict.low),
        "strict_high": _plain(strict.high),
        "answered_rate": _rate(predictions, lambda p: p.verdict not in _UNANSWERED),
        "mean_completion_tokens": _rate(predictions, lambda p: p.completion_tokens),
    }
    for verdict in Verdict:
        if verdict not in (Verdict.CORRECT, Verdict.WRONG):
            figures[f"{verdict}_rate"] = _rate(predictions, _is(verdict))
    num_samples = min(map(len, groups), default=0)
    if num_samples > 1:
        figures["further"] = _sampled(groups, num_samples)
    return figures


def _accuracy(outcomes: Sequence[Sequence[bool]]) -> Interval:
    if all(len(group) == 1 for group in outcomes):
        return wilson(sum(group[0] for group in outcomes), len(outcomes))
    means = [sum(group) / len(group) for group in outcomes]
    interval = mean_interval(means)
    if interval.n < 2:
        return interval
    if len(set(means)) == 1:  # no spread to estimate from: problems are the trials
        return wilson(means[0] * len(means), len(means))
    return Interval(interval.value, max(0.0, interval.low), min(1.0, interval.high), interval.n)


def _rate(predictions: Sequence[Prediction], value: Callable[[Prediction], float]) -> float | None:
    if not predictions:
        return None
    return math.fsum(value(p) for p in predictions) / len(predictions)


def _is(verdict: Verdict) -> Callable[[Prediction], bool]:
    return lambda prediction: prediction.verdict is verdict


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value


def _sampled(groups: Sequence[Sequence[Prediction]], num_samples: int) -> Mapping[str, float]:
    figures: dict[str, float] = {}
    for k in ks_of(num_samples):
        figures[f"pass@{k}"] = math.fsum(
            pass_at_k(len(group), sum(p.is_correct for p in group), k) for group in groups
        ) / len(groups)
        figures[f"maj@{k}"] = math.fsum(
            majority_at_k([p.answer for p in group], [p.is_correct for p in group], k)
            for group in groups
        ) / len(groups)
    figures[f"avg@{num_samples}"] = math.fsum(
        sum(p.is_correct for p in group) / len(group) for group in groups
    ) / len(groups)
    return figures
