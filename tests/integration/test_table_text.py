"""What a reader sees first: signs, one line under the table, and whose calls a row rests on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sweep_builder import make_corpus, make_job, trajectories

from plan_tuning.comparison.comparison_files import compare
from plan_tuning.comparison.differences import Difference
from plan_tuning.comparison.table_text import (
    LEGEND_ENTRIES,
    LEGEND_LINE,
    accuracy_table,
    difference_text,
)

pytestmark = pytest.mark.integration


def difference(low: float, high: float, p: float) -> Difference:
    return Difference((low + high) / 2, low, high, 300, 9, 1, p, p, (0.1, 0.2, 0.3), (0, 1, 2))


@pytest.mark.parametrize(
    ("low", "high", "p", "end"),
    [
        (0.4, 0.9, 0.08, "p=0.080 ? more seeds needed"),
        (-0.9, -0.4, 0.08, "p=0.080 ? more seeds needed"),
        (-0.1, 0.3, 0.08, "p=0.080 ?"),
        (0.4, 0.9, 0.01, "p=0.010 ▲"),
        (-0.9, -0.4, 0.01, "p=0.010 ▼"),
    ],
)
def test_undecided_is_not_equal(low: float, high: float, p: float, end: str) -> None:
    assert difference_text(difference(low, high, p)).endswith(end)
    assert "=" not in difference_text(difference(low, high, p)).replace("p=", "")


def test_under_the_table_is_one_line_and_the_way_to_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for method in ("sft", "m1"):
        make_job(tmp_path, method=method, accuracies={"a": 0.5}, n=20)
    compare([tmp_path])
    printed = capsys.readouterr().out.replace("\n", " ")
    assert LEGEND_LINE in printed
    assert f"{tmp_path}/report.html#reading" in printed.replace(" ", "")
    assert "Student's t" not in printed
    markdown = (tmp_path / "comparison.md").read_text()
    assert "](#reading-the-table)" in markdown
    assert "## Reading the table" in markdown
    page = (tmp_path / "report.html").read_text()
    assert '<a href="#reading">' in page
    assert '<section id="reading">' in page
    for entry in LEGEND_ENTRIES:
        assert f"- {entry}" in markdown


def _with_corpus(job: Path, *, built: bool, calls: int, usd: float, key: str = "c") -> None:
    path = job / "result.json"
    result = json.loads(path.read_text())
    result["corpus"] |= {"teacher_answers": 1000, "cost_usd": 2.0}
    result["fingerprints"]["corpus"] = key
    result["stages"]["distill"]["is_cached"] = not built
    result |= {"teacher_calls": calls, "cost_usd": usd}
    path.write_text(json.dumps(result))


def test_rows_of_one_corpus_rest_on_the_same_answers(tmp_path: Path) -> None:
    """Whichever job came first has bought them; that is said once, above the table."""
    corpus = tmp_path / "artifacts" / "corpora" / "c"
    make_corpus(corpus, trajectories(4))
    sweep = tmp_path / "mine"
    make_job(sweep, method="sft", accuracies={"a": 0.5}, n=20)
    for number, chosen in enumerate(("none", "two_stage")):
        job = make_job(sweep, filter=chosen, accuracies={"a": 0.5}, n=20, corpus=corpus)
        _with_corpus(job, built=not number, calls=0 if number else 990, usd=0.0 if number else 2.0)
    judged = make_job(sweep, method="grpo", accuracies={"a": 0.5}, n=20, corpus=corpus)
    _with_corpus(judged, built=False, calls=50, usd=0.25)
    comparison = compare([sweep], console=False)
    head, rows = accuracy_table(comparison.table)
    places = head.index("answers"), head.index("USD")
    assert [tuple(row[i] for i in places) for row in rows] == [
        ("0", "0.00"), ("1,000", "2.00"), ("1,000", "2.00"), ("1,050", "2.25"),
    ]  # fmt: skip
    assert "They bought 1,040 teacher calls for 2.25 USD." in comparison.summary


def test_the_page_says_whose_selection_a_funnel_counts(tmp_path: Path) -> None:
    corpus = tmp_path / "artifacts" / "corpora" / "c"
    make_corpus(corpus, trajectories(4))
    job = make_job(tmp_path / "mine", filter="none", accuracies={"a": 0.5}, corpus=corpus)
    path = job / "result.json"
    result = json.loads(path.read_text())
    result["corpus"]["funnel"] = {"problems": 40, "good_score": 30, "selected": 25}
    path.write_text(json.dumps(result))
    compare([tmp_path / "mine"], console=False)
    page = (tmp_path / "mine" / "report.html").read_text()
    assert "<td>kept by filter two_stage</td>" in page
    assert "<td>selected</td>" not in page


def test_debug_runs_are_left_out_only_beside_others(tmp_path: Path) -> None:
    make_job(tmp_path, method="m1", accuracies={"a": 0.5}, debug=True, name="fast")
    alone = compare([tmp_path], console=False)
    assert len(alone.table.rows) == 1
    assert alone.holes == ()
    assert any("debug runs" in line for line in alone.warnings)
    make_job(tmp_path, method="sft", accuracies={"a": 0.5})
    beside = compare([tmp_path], console=False)
    assert len(beside.results.completed) == 1
    assert beside.holes == ("1 debug runs are left out, for there are others",)
