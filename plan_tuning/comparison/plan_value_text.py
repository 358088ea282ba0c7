"""What plans are worth -> text, CSV and JSON. Pure functions."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

from plan_tuning.comparison.differences import Difference
from plan_tuning.comparison.plan_values import LIKELIHOOD, SUBJECT, PlanWorth, Worth
from plan_tuning.comparison.table_text import SIGNS, p_text, percent
from plan_tuning.statistics.intervals import Interval

_TITLES = {
    "none": "no plan",
    "own": "its own",
    "teacher": "the teacher's",
    "dataset": "the data set's",
    "true": "the true one",
    "other": "another problem's",
    "shuffled": "its steps shuffled",
    "number_swapped": "a number swapped",
    "step_dropped": "a step dropped",
}
_CSV_HEAD = (
    "row", "benchmark", "plan", "quantity", "value", "low", "high", "n", "seeds", "p", "p_holm",
    "direction",
)  # fmt: skip
VALUE_LEGEND = (
    "Log-probability of the same reference executions (graded right; nats, higher is better), "
    "teacher-forced, behind the student's own plan or, where its method writes none, behind none. "
    "Δ: difference to the baseline, a token; resolves: half of its interval, so smaller "
    "differences stay undecided here. Intervals, p, ▲ ▼ ? and † as in the table of "
    "accuracies, paired by problem and corrected by Holm over this table; definitions in "
    "experiments/METHOD.md section 10."
)
WORTH_LEGEND = (
    "Nats a token by which the reference execution is likelier behind the row's plan than behind "
    "the column's (the last columns: behind the column's than behind the row's). n stands where an "
    "edit applies to some plans only. follows: how often the answer changes as an edited plan says."
)


def likelihood_table(found: PlanWorth) -> tuple[list[str], list[list[str]]]:
    """Titles and rows of the log-probabilities."""
    rows = []
    for worth in found.rows:
        item = worth.likelihood
        mark = "†" if item.is_single_seed else ""
        behind = "its own plan" if worth.way == "own" else "no plan"
        rows.append(
            [
                worth.label,
                worth.benchmark,
                behind,
                f"{item.num_problems}" + (f" (−{worth.left_out})" if worth.left_out else ""),
                f"{_interval(Interval(item.per_token, item.low, item.high, 0))}{mark}",
                f"{item.log_prob:.1f}",
                value_text(item.difference),
                resolution_text(item.difference),
            ]
        )
    head = [
        *("row", "benchmark", "asked with", "n"),
        *("log P a token", "log P", "Δ a token", "resolves"),
    ]
    return head, rows


def worth_table(found: PlanWorth) -> tuple[list[str], list[list[str]]]:
    """Titles and rows of what plans are worth; rows of methods without plans are left out."""
    names = found.contrasts
    has_followed = any(worth.followed.edit for worth in found.rows)
    rows = []
    for worth in found.rows:
        if not worth.subject:
            continue
        n = worth.likelihood.num_problems
        cells = [value_text(worth.contrasts.get(name), n) for name in names]
        rows.append(
            [worth.label, worth.benchmark, _TITLES[worth.subject], *cells]
            + ([followed_text(worth)] if has_followed else [])
        )
    head = ["row", "benchmark", "plan", *map(contrast_title, names)]
    return head + (["follows"] if has_followed else []), rows


def contrast_title(name: str) -> str:
    """Name a contrast for people.

    >>> contrast_title("its plan - other"), contrast_title("true - its plan")
    ("− another problem's", 'the true one −')
    """
    first, _, second = name.partition(" - ")
    return f"− {_TITLES[second]}" if first == SUBJECT else f"{_TITLES[first]} −"


def value_text(item: Difference | None, n: int | None = None) -> str:
    """``+0.108 [+0.046, +0.170] p=0.001 ▲``; with its n where that is not ``n``."""
    if item is None:
        return "–"
    text = _interval(Interval(item.value, item.low, item.high, 0), sign=True)
    mark = "†" if item.is_single_seed else ""
    text += f" {p_text(item.p_holm)} {SIGNS[item.direction]}{mark}"
    if n is not None and item.num_problems != n:
        text += f" (n={item.num_problems})"
    return text


def resolution_text(item: Difference | None) -> str:
    """``0.062``: how large a difference has to be before its interval excludes 0."""
    if item is None or math.isnan(item.low) or math.isnan(item.high):
        return "–"
    return f"{(item.high - item.low) / 2:.3f}"


def followed_text(worth: Worth) -> str:
    """``93.1 % [90.0, 95.4] of 280``, or why there is no figure."""
    item = worth.followed
    if not item.edit:
        return "–"
    if item.rate is None:
        return f"not measurable ({item.n} plans with a number)" if item.n else "nothing to edit"
    low, high = (percent(bound or 0.0) for bound in (item.low, item.high))
    return f"{percent(item.rate)} % [{low}, {high}] of {item.n}"


def correlation_lines(found: PlanWorth) -> list[str]:
    """One line a benchmark: how the measures and accuracy rank the arms."""
    lines = []
    for benchmark in dict.fromkeys(item.benchmark for item in found.correlations):
        parts = []
        for item in found.correlations:
            if item.benchmark != benchmark:
                continue
            name = "log P a token" if item.measure == LIKELIHOOD else "its plan − another problem's"
            rank = item.found
            shown = "no spread" if math.isnan(rank.rho) else f"ρ = {rank.rho:.2f}, {p_text(rank.p)}"
            parts.append(f"{name}: {shown}, {rank.n} arms")
        lines.append(f"{benchmark}, rank correlation with accuracy. {'; '.join(parts)}.")
    return lines


def _interval(interval: Interval, *, sign: bool = False) -> str:
    values = (interval.value, interval.low, interval.high)
    shown = ["–" if math.isnan(v) else f"{v:+.3f}" if sign else f"{v:.3f}" for v in values]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]"


def values_csv(found: PlanWorth) -> str:
    """Render one line per row, benchmark and quantity, in nats a token; unknown is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_CSV_HEAD)
    for worth in found.rows:
        item = worth.likelihood
        head = [worth.label, worth.benchmark]
        figures = [_plain(value) for value in (item.per_token, item.low, item.high)]
        counts = [item.num_problems, item.num_seeds]
        writer.writerow([*head, worth.way, "log_prob_per_token", *figures, *counts, "", "", ""])
        total = [round(item.log_prob, 6), "", ""]
        writer.writerow([*head, worth.way, "log_prob", *total, *counts, "", "", ""])
        listed = dict(worth.contrasts)
        if item.difference is not None:
            listed = {"difference to the baseline": item.difference, **listed}
        for name, difference in listed.items():
            figures = [_plain(v) for v in (difference.value, difference.low, difference.high)]
            tests = [_plain(difference.p), _plain(difference.p_holm), difference.direction]
            counts = [difference.num_problems, len(difference.seeds)]
            writer.writerow([*head, worth.subject, name, *figures, *counts, *tests])
        followed = worth.followed
        if followed.rate is not None:
            figures = [_plain(v) for v in (followed.rate, followed.low, followed.high)]
            counts = [followed.n, item.num_seeds]
            writer.writerow(
                [*head, worth.subject, f"followed {followed.edit}", *figures, *counts, "", "", ""]
            )
    return text.getvalue()


def _plain(value: float | None) -> float | str:
    return "" if value is None or math.isnan(value) else round(value, 6)


def values_json(found: PlanWorth) -> dict[str, Any]:
    """Turn it into JSON values; what is unknown is null."""
    return {
        "rows": [_row_json(worth) for worth in found.rows],
        "rank_correlations": [
            {
                "benchmark": item.benchmark,
                "measure": item.measure,
                **{"rho": _null(item.found.rho), "p": _null(item.found.p), "n": item.found.n},
            }
            for item in found.correlations
        ],
    }


def _row_json(worth: Worth) -> dict[str, Any]:
    item, followed = worth.likelihood, worth.followed
    return {
        "label": worth.label,
        "benchmark": worth.benchmark,
        "plan": worth.subject,
        "asked_with": worth.way,
        "left_out": worth.left_out,
        "log_prob_per_token": item.per_token,
        "low": _null(item.low),
        "high": _null(item.high),
        "log_prob": item.log_prob,
        "problems": item.num_problems,
        "seeds": item.num_seeds,
        "difference": None if item.difference is None else _difference_json(item.difference),
        "contrasts": {name: _difference_json(found) for name, found in worth.contrasts.items()},
        "followed": {
            **{"edit": followed.edit, "n": followed.n, "rate": followed.rate},
            **{"low": followed.low, "high": followed.high},
        },
    }


def _difference_json(item: Difference) -> dict[str, Any]:
    return {
        **{"value": item.value, "low": _null(item.low), "high": _null(item.high)},
        **{"problems": item.num_problems, "p": _null(item.p), "p_holm": _null(item.p_holm)},
        **{"seeds": list(item.seeds), "by_seed": list(item.by_seed), "direction": item.direction},
    }


def _null(value: float) -> float | None:
    return None if math.isnan(value) else value
