"""pass@k, maj@k, avg@k and the summary of result.json."""

from __future__ import annotations

import itertools
import json

import pytest

from plan_tuning.evaluation.accuracy import ks_of, majority_at_k, pass_at_k, summarize
from plan_tuning.job_record import parse_metrics
from plan_tuning.records import Prediction, Verdict, to_json
from plan_tuning.statistics.intervals import wilson


def prediction(
    problem: str, sample: int = 0, verdict: Verdict = Verdict.CORRECT, **fields: object
) -> Prediction:
    right = verdict is Verdict.CORRECT
    values: dict[str, object] = {
        "text": "", "answer": "1" if right else "2", "rule": "boxed", "is_correct_strict": right,
        "gold": "1", "completion_tokens": 10,
    }  # fmt: skip
    values |= fields
    return Prediction(
        problem_id=problem,
        benchmark="b",
        sample=sample,
        verdict=verdict,
        is_correct=right,
        **values,
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_pass_at_k_is_the_mean_over_all_choices(n: int) -> None:
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        outcomes = [True] * c + [False] * (n - c)
        choices = list(itertools.combinations(outcomes, k))
        assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, choices)) / len(choices))


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 0), (4, 1, 5)])
def test_pass_at_k_refuses_impossible_counts(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="is outside"):
        pass_at_k(n, c, k)


@pytest.mark.parametrize(
    ("answers", "right", "k", "expected"),
    [
        (["4", "5", "4"], [True, False, True], 3, 1.0),
        (["4", "5", "5"], [True, False, False], 3, 0.0),
        (["4", "5"], [True, False], 2, 0.5),  # a tie is drawn
        (["1/2", "0.5", "7"], [True, True, False], 3, 1.0),  # right answers vote together
        (["", "", "4"], [False, False, True], 3, 1.0),  # no answer, no vote
        (["", ""], [False, False], 2, 0.0),
        (["5", "4", "4"], [False, True, True], 1, 0.0),  # the first k only
        (["3", "3.0", "4"], [False, False, True], 3, 0.0),  # wrong answers vote together too
        (["1,2", "2, 1", "4"], [False, False, True], 3, 0.0),
        (["no", "No.", "yes"], [False, False, True], 3, 0.0),
        (["3", "-3", "4"], [False, False, True], 3, pytest.approx(1 / 3)),
    ],
)
def test_majority(answers: list[str], right: list[bool], k: int, expected: float) -> None:
    assert majority_at_k(answers, right, k) == expected


def test_majority_refuses_impossible_counts() -> None:
    with pytest.raises(ValueError, match="outside"):
        majority_at_k(["4"], [True], 2)
    with pytest.raises(ValueError, match="verdicts"):
        majority_at_k(["4"], [], 1)


def test_ks() -> None:
    assert [ks_of(n) for n in (0, 1, 2, 3, 8)] == [[], [1], [1, 2], [1, 2, 3], [1, 2, 4, 8]]


def test_summary_of_one_sample_each() -> None:
    rows = [
        prediction("a", difficulty="2"),
        prediction("b", difficulty="2", is_correct_strict=False, completion_tokens=30),
        prediction("c", difficulty="10", verdict=Verdict.TRUNCATED, answer=""),
        prediction("d", difficulty="10", verdict=Verdict.NO_ANSWER, answer=""),
        prediction("e", difficulty="10", verdict=Verdict.TIMEOUT),
    ]
    figures = summarize(rows)
    interval = wilson(2, 5)
    assert (figures.accuracy, figures.low, figures.high) == (
        interval.value, interval.low, interval.high,
    )  # fmt: skip
    assert (figures.n, figures.num_correct, figures.strict_accuracy) == (5, 2, 0.2)
    for name in ("truncated_rate", "no_answer_rate", "timeout_rate"):
        assert getattr(figures, name) == pytest.approx(0.2)
    assert figures.bad_gold_rate == 0
    assert figures.answered_rate == pytest.approx(0.6)
    assert figures.mean_completion_tokens == pytest.approx(14.0)
    assert list(figures.by_difficulty) == ["2", "10"]  # by number, not by letter
    assert figures.by_difficulty["2"].accuracy == 1.0
    assert figures.further == {}
    content = json.loads(json.dumps(to_json(figures), allow_nan=False))
    assert parse_metrics(content) == figures


def test_summary_of_several_samples() -> None:
    rows = [
        prediction(problem, sample, Verdict.CORRECT if right else Verdict.WRONG)
        for problem, outcome in (("a", [1, 1, 0, 0]), ("b", [0, 0, 0, 0]), ("c", [1, 1, 1, 0]))
        for sample, right in enumerate(outcome)
    ]
    figures = summarize(rows)
    assert figures.n == 3
    assert figures.num_samples == 4
    assert figures.accuracy == figures.further["avg@4"] == pytest.approx(5 / 12)
    assert figures.further["pass@4"] == pytest.approx(2 / 3)
    assert figures.further["pass@1"] == pytest.approx(5 / 12)
    assert figures.further["pass@2"] == pytest.approx((5 / 6 + 0 + 1) / 3)
    assert figures.further["maj@4"] == pytest.approx((0.5 + 0 + 1) / 3)
    assert 0 <= figures.low <= figures.accuracy <= figures.high <= 1


@pytest.mark.parametrize(("outcome", "successes"), [((0, 0), 0), ((1, 1), 6), ((1, 0), 3)])
def test_equal_problems_have_an_interval(outcome: tuple[int, ...], successes: int) -> None:
    rows = [
        prediction(f"p{problem}", sample, Verdict.CORRECT if right else Verdict.WRONG)
        for problem in range(6)
        for sample, right in enumerate(outcome)
    ]
    figures = summarize(rows)
    expected = wilson(successes, 6)
    assert (figures.accuracy, figures.low, figures.high) == (
        expected.value, expected.low, expected.high,
    )  # fmt: skip
    assert figures.low < figures.high


def test_the_order_of_predictions_does_not_matter() -> None:
    rows = [
        prediction("a", sample, Verdict.CORRECT if sample % 3 else Verdict.WRONG)
        for sample in range(5)
    ]
    assert summarize(rows) == summarize(rows[::-1])


def test_summary_of_nothing_and_of_one_problem() -> None:
    empty = summarize([])
    assert (empty.accuracy, empty.low, empty.n) == (None, None, 0)
    single = summarize([prediction("a", sample) for sample in range(3)])
    assert (single.accuracy, single.low, single.high) == (1.0, None, None)
