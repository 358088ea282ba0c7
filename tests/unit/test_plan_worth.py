"""Plan values of many jobs: paired, crossed with seeds, corrected, ranked, shown and left out."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import random
from collections.abc import Mapping
from pathlib import Path

import pytest
from scipy import stats
from sweep_builder import make_job

from plan_tuning.comparison.comparison_files import compare
from plan_tuning.comparison.evidence import keep_evidence
from plan_tuning.comparison.plan_value_figure import worth_figure
from plan_tuning.comparison.plan_value_text import (
    contrast_title,
    correlation_lines,
    likelihood_table,
    worth_table,
)
from plan_tuning.comparison.plan_values import LIKELIHOOD, PlanWorth, plan_worth
from plan_tuning.comparison.runs import load
from plan_tuning.comparison.tables import Table, build_table
from plan_tuning.statistics.tests import spearman

TOKENS = 20


def add_values(
    job: Path,
    worth: Mapping[str, float],
    *,
    subject: str = "own",
    n: int = 60,
    noise: float = 0.02,
    tokens: int = TOKENS,
) -> None:
    """Give a job plan values on the benchmark ``world``: mean nats a token by condition."""
    result = json.loads((job / "result.json").read_text())
    lines = []
    for condition, level in worth.items():
        for i in range(n):
            draw = random.Random(f"{i}").gauss(0, 0.3)  # how hard a problem is, for all alike
            own = random.Random(f"{job.name}/{condition}/{i}").gauss(0, noise)
            total = tokens * (level + draw + own)
            row = {"problem_id": f"world-{i}", "condition": condition, "log_prob": total}
            lines.append(json.dumps(row | {"tokens": tokens, "plan": ""}))
    path = job / "plan_values.jsonl"
    path.write_text("\n".join(lines) + "\n")
    result["plan_value"] = {
        "world": {
            "subject": subject,
            "way": "own" if subject == "own" else "none",
            "problems": n,
            "left_out": {"no_solution": 2},
            "followed": {"edit": "step_dropped", "n": 40, "rate": 0.75, "low": 0.6, "high": 0.86},
        }
    }
    result["plan_values"] = {"world": "plan_values.jsonl"}
    result["fingerprints"]["plan_values"] = {"world": f"v{abs(hash(job.name))}"}
    (job / "result.json").write_text(json.dumps(result))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("values") / "mine"
    plans = {"none": -1.0, "own": -0.5, "other": -0.9, "step_dropped": -0.52, "true": -0.45}
    for seed in (0, 1, 2):
        job = make_job(folder, method="sft", seed=seed, accuracies={"world": 0.3})
        add_values(job, {"none": -1.1}, subject="")
        job = make_job(folder, method="m1", seed=seed, accuracies={"world": 0.8})
        add_values(job, plans)
        job = make_job(folder, method="m2", seed=seed, accuracies={"world": 0.6})
        add_values(job, {"none": -1.0, "own": -0.8, "other": -0.8})
    job = make_job(folder, method="zero_shot", seed=0, accuracies={"world": 0.1})
    add_values(job, {"none": -1.4, "true": -1.3, "other": -1.35}, subject="true")
    return folder


@pytest.fixture(scope="module")
def table(sweep: Path) -> Table:
    return build_table(load([sweep]))


@pytest.fixture(scope="module")
def worth(table: Table) -> PlanWorth:
    return plan_worth(table)


def row_of(worth: PlanWorth, label: str):
    return next(item for item in worth.rows if item.label == label)


def test_contrasts_are_paired_by_problem_and_crossed_with_seeds(worth: PlanWorth) -> None:
    m1 = row_of(worth, "m1")
    assert m1.subject == "own"
    assert list(m1.contrasts) == [
        "its plan - none",
        "true - its plan",
        "its plan - other",
        "its plan - step_dropped",
    ]
    found = m1.contrasts["its plan - other"]
    # The spread of problems (0.3) cancels in pairs: the interval is as narrow as the noise.
    assert found.value == pytest.approx(0.4, abs=0.01)
    assert found.high - found.low < 0.1
    assert (found.num_problems, found.seeds, found.direction) == (60, (0, 1, 2), "higher")
    assert found.p <= found.p_holm
    assert row_of(worth, "m2").contrasts["its plan - other"].direction == "undecided"
    assert not row_of(worth, "sft").contrasts


def test_a_model_that_plans_nothing_is_valued_by_given_plans(worth: PlanWorth) -> None:
    base = row_of(worth, "zero_shot")
    assert (base.subject, base.way) == ("true", "none")
    assert base.contrasts["its plan - other"].value == pytest.approx(0.05, abs=0.02)
    assert base.contrasts["its plan - other"].seeds == ()  # no seed can change it
    assert not base.likelihood.is_single_seed


def test_likelihoods_are_compared_with_the_baseline_in_each_ones_own_way(worth: PlanWorth) -> None:
    m1, sft = row_of(worth, "m1").likelihood, row_of(worth, "sft").likelihood
    assert sft.difference is None
    assert m1.difference is not None
    assert m1.difference.value == pytest.approx(0.6, abs=0.01)  # -0.5 behind a plan, -1.1 without
    assert m1.difference.direction == "higher"
    assert m1.log_prob == pytest.approx(TOKENS * m1.per_token)
    lower = row_of(worth, "zero_shot").likelihood.difference
    assert lower is not None
    assert lower.direction == "lower"


def test_identical_arms_give_exactly_zero(tmp_path: Path) -> None:
    for method in ("sft", "sft_teacher_cot"):
        job = make_job(tmp_path / "s", method=method, seed=0, accuracies={"world": 0.5})
        add_values(job, {"none": -1.0}, subject="", noise=0.0)
    found = plan_worth(build_table(load([tmp_path / "s"])))
    same = row_of(found, "sft_teacher_cot").likelihood.difference
    assert same is not None
    assert (same.value, same.low, same.high, same.p_holm) == (0.0, 0.0, 0.0, 1.0)


def test_executions_of_other_tokens_are_not_compared(tmp_path: Path) -> None:
    for method, tokens in (("sft", 20), ("sft_teacher_cot", 31)):
        job = make_job(tmp_path / "s", method=method, seed=0, accuracies={"world": 0.5})
        add_values(job, {"none": -1.0}, subject="", tokens=tokens)
    found = plan_worth(build_table(load([tmp_path / "s"])))
    assert row_of(found, "sft_teacher_cot").likelihood.difference is None


def test_arms_are_ranked_as_accuracy_ranks_them(worth: PlanWorth) -> None:
    likely, plans = (item.found for item in worth.correlations)
    assert worth.correlations[0].measure == LIKELIHOOD
    assert likely.n == 4  # not 10: the seeds of an arm are no further students
    assert likely.rho == 1.0
    assert likely.p == pytest.approx(2 / 24)  # the least that four arms allow
    assert plans.n == 3  # sft has no plans
    assert "rank correlation with accuracy" in correlation_lines(worth)[0]


@pytest.mark.parametrize("n", [3, 6, 12])
def test_spearman_is_scipys_and_all_orders(n: int) -> None:
    draw = random.Random(n)
    one = [round(draw.gauss(0, 1), 1) for _ in range(n)]
    two = [round(x + draw.gauss(0, 1), 1) for x in one]
    found = spearman(one, two)
    expected = stats.spearmanr(one, two)
    assert found.rho == pytest.approx(expected.statistic)
    if n == 12:
        assert found.p == pytest.approx(expected.pvalue, abs=0.03)
        return
    first, second = (
        [round(2 * rank) - n - 1 for rank in stats.rankdata(values)] for values in (one, two)
    )
    totals = [
        abs(sum(a * b for a, b in zip(first, order, strict=True)))
        for order in itertools.permutations(second)
    ]
    assert found.p == pytest.approx(sum(t >= totals[0] for t in totals) / len(totals))


def test_spearman_of_nothing_that_varies() -> None:
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]).rho)
    with pytest.raises(ValueError, match="cannot be paired"):
        spearman([1.0], [])


def test_the_files_of_a_comparison_hold_it(sweep: Path, tmp_path: Path) -> None:
    compare([sweep], out=tmp_path, console=False)
    text = (tmp_path / "comparison.md").read_text()
    assert "## What a plan is worth" in text
    assert "− another problem's" in text
    content = json.loads((tmp_path / "comparison.json").read_text())["plan_values"]
    m1 = next(row for row in content["rows"] if row["label"] == "m1")
    assert m1["contrasts"]["its plan - other"]["direction"] == "higher"
    assert (m1["problems"], m1["left_out"], m1["followed"]["n"]) == (60, 2, 120)
    lines = list(csv.DictReader(io.StringIO((tmp_path / "comparison_plan_values.csv").read_text())))
    other = [line for line in lines if line["quantity"] == "its plan - other"]
    assert {line["row"] for line in other} == {"m1", "m2", "zero_shot"}
    page = (tmp_path / "report.html").read_text()
    assert 'id="plans"' in page
    assert 'id="figure-plan_value"' in page


def test_a_comparison_without_plan_values_says_nothing_of_them(tmp_path: Path) -> None:
    job = make_job(tmp_path / "s", method="sft", seed=0, accuracies={"world": 0.5})
    compare([job], out=tmp_path, console=False)
    assert not (tmp_path / "comparison_plan_values.csv").exists()
    assert "plan_values" not in json.loads((tmp_path / "comparison.json").read_text())
    assert "What a plan is worth" not in (tmp_path / "report.html").read_text()


def test_a_copied_sweep_takes_its_plan_values_along(sweep: Path, tmp_path: Path) -> None:
    """What lies in a job's folder travels anyway: here it lies elsewhere, as artifacts do."""
    job = make_job(tmp_path / "s", method="m1", seed=0, accuracies={"world": 0.5})
    add_values(job, {"none": -1.0, "own": -0.5, "other": -0.7})
    (tmp_path / "artifacts").mkdir()
    (job / "plan_values.jsonl").rename(tmp_path / "artifacts" / "plan_values.jsonl")
    result = json.loads((job / "result.json").read_text())
    result["plan_values"] = {"world": "../../artifacts/plan_values.jsonl"}
    (job / "result.json").write_text(json.dumps(result))
    before = plan_worth(build_table(load([tmp_path / "s"])))
    keep_evidence(tmp_path / "s", load([tmp_path / "s"]).runs)
    (tmp_path / "artifacts" / "plan_values.jsonl").unlink()
    assert plan_worth(build_table(load([tmp_path / "s"]))) == before
    assert before.rows


def test_a_broken_file_leaves_the_row_out(sweep: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path / "s", method="m1", seed=0, accuracies={"world": 0.5})
    add_values(job, {"none": -1.0, "own": -0.5})
    (job / "plan_values.jsonl").write_text('{"problem_id": 1}\n')
    assert plan_worth(build_table(load([tmp_path / "s"]))) == PlanWorth()


def test_text_and_figure(table: Table, worth: PlanWorth) -> None:
    head, rows = worth_table(worth)
    assert head[:3] == ["row", "benchmark", "plan"]
    assert {row[0] for row in rows} == {"m1", "m2", "zero_shot"}  # sft has none
    assert contrast_title("teacher - its plan") == "the teacher's −"
    followed = next(row for row in rows if row[0] == "m1")[-1]
    assert followed.startswith("75.0 % [")
    assert followed.endswith("of 120")
    _, likely = likelihood_table(worth)
    assert likely[0][3] == "60 (−2)"
    for cells, item in zip(likely, worth.rows, strict=True):
        found = item.likelihood.difference
        half = "–" if found is None else f"{(found.high - found.low) / 2:.3f}"
        assert cells[-1] == half
    figure = worth_figure(table, worth)
    assert figure is not None
    assert figure.svg.count("<svg") == 1
    assert "log-probability a token" in figure.caption
    assert worth_figure(table, PlanWorth()) is None
