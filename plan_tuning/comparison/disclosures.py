"""The table -> what is said of its test sets and training data before anybody believes it."""

from __future__ import annotations

from plan_tuning.comparison.runs import Run
from plan_tuning.comparison.tables import Row, Table
from plan_tuning.config.data import INTERNAL_SPLIT
from plan_tuning.tasks.published_tests import name_test_problems

_SHOWN_ROWS = 6


def disclosures(table: Table) -> list[str]:
    """Name internal splits, and rows that were trained on published test problems."""
    lines = []
    internal = [name for name in table.benchmarks if name.endswith(INTERNAL_SPLIT)]
    if internal:
        lines.append(
            f"{', '.join(internal)}: an internal split, held out of the file that the students are "
            "trained on. Its figures are none on a published benchmark."
        )
    seen: dict[str, list[str]] = {}
    for row in table.rows:
        if words := _test_problems(row):
            seen.setdefault(words, []).append(table.label(row))
    for words, labels in seen.items():
        more = f" and {len(labels) - _SHOWN_ROWS} more" if labels[_SHOWN_ROWS:] else ""
        lines.append(f"Trained on {words}: {'; '.join(labels[:_SHOWN_ROWS])}{more}.")
    return lines


def _test_problems(row: Row) -> str:
    """What the row's students saw of published test splits, the most of any seed."""
    most: dict[str, int] = {}
    for run in row.runs:
        for name, count in (run.result.trained_on_test_problems or {}).items():
            most[name] = max(count, most.get(name, 0))
    return name_test_problems(most)


def exported_facts(run: Run, benchmark: str) -> dict[str, str]:
    """What whoever reads one figure of a job elsewhere must know of it; absent where all is well.

    Returns:
        ``internal_split``, where the test problems were held out of the training file;
        ``trained_on_test_problems``, of published test splits; ``seen_in_training``, how many of
        this benchmark's problems stand among the training problems.
    """
    facts = {}
    if benchmark.endswith(INTERNAL_SPLIT):
        size, seed = (run.settings.get(f"data.{key}") for key in ("holdout", "holdout_seed"))
        facts["internal_split"] = (
            f"held out of the file of the training problems (data.holdout={size}, "
            f"data.holdout_seed={seed}); no published benchmark"
        )
    if words := name_test_problems(run.result.trained_on_test_problems or {}):
        facts["trained_on_test_problems"] = words
    if count := (run.result.seen_in_training or {}).get(benchmark):
        facts["seen_in_training"] = str(count)
    return facts
