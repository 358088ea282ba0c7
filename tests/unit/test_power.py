"""Power against simulated tables that go through the comparison's own rule, and known figures."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from sweep_builder import make_job
from typer.testing import CliRunner

from plan_tuning.cli import app
from plan_tuning.comparison.differences import OutcomeReader
from plan_tuning.comparison.runs import load
from plan_tuning.comparison.tables import build_table
from plan_tuning.comparison.variances import num_comparisons, variances
from plan_tuning.statistics.intervals import crossed
from plan_tuning.statistics.power import (
    LEVEL,
    Components,
    assumed,
    components,
    pooled,
    power,
    problems_needed,
    seeds_needed,
    smallest_difference,
)

REPEATS = 500  # experiments/benchmarks/power.py draws more
SETTINGS = [
    (Components(0.03, 0.0002, 0.12), 300, 3),
    (Components(0.05, 0.002, 0.10), 60, 5),
    (Components(0.20, 0.0, 0.05), 40, 2),
    (Components(0.0, 0.001, 0.20), 200, 4),
]


def _table(
    difference: float, parts: Components, problems: int, seeds: int, draw: np.random.Generator
) -> list[list[float]]:
    table: list[list[float]] = (
        difference
        + draw.normal(0, math.sqrt(parts.by_problem), problems)
        + draw.normal(0, math.sqrt(parts.by_seed), (seeds, 1))
        + draw.normal(0, math.sqrt(parts.residual), (seeds, problems))
    ).tolist()
    return table


def _is_decided(table: list[list[float]]) -> bool:
    found = crossed(table)
    return found.p < LEVEL and found.interval.low > 0


@pytest.mark.parametrize(("parts", "problems", "seeds"), SETTINGS)
def test_power_is_that_of_simulated_crossed_data(
    parts: Components, problems: int, seeds: int
) -> None:
    draw = np.random.default_rng(1)
    seen = smallest_difference(parts, problems=problems, seeds=seeds)
    for difference in (0.7 * min(seen, 0.4), 0.0):
        drawn = parts.holding(difference)
        tables = [_table(difference, drawn, problems, seeds, draw) for _ in range(REPEATS)]
        found = [crossed(table) for table in tables]
        for comparisons in (1, 5):
            level = LEVEL / comparisons
            rate = np.mean([one.p < level and one.interval.low > 0 for one in found])
            predicted = power(
                difference, parts, problems=problems, seeds=seeds, comparisons=comparisons
            )
            noise = 2 * math.sqrt(max(predicted * (1 - predicted), 0.002) / REPEATS)
            assert abs(predicted - rate) < 0.03 + noise
            if difference == 0.0:  # in one direction
                assert rate <= level / 2 + 3 * math.sqrt(level / 2 / REPEATS)


def test_power_of_right_and_wrong_answers() -> None:
    draw = np.random.default_rng(2)
    tables = []
    for _ in range(REPEATS):
        ease = draw.normal(0, 1.5, 200)
        one, two = (
            (draw.normal(ease + shift, 1.0, (3, 200)) > 0).astype(float) for shift in (0.0, 0.35)
        )
        tables.append((one, two))
    parts = pooled([components(one.tolist(), two.tolist()) for one, two in tables])
    gain = float(np.mean([two.mean() - one.mean() for one, two in tables]))
    rate = np.mean([_is_decided((two - one).tolist()) for one, two in tables])
    predicted = power(gain, parts, problems=200, seeds=3)
    assert 0.2 < predicted < 0.8
    assert abs(predicted - rate) < 0.03 + 2 * math.sqrt(0.25 / REPEATS)


def test_components_are_those_that_the_data_were_drawn_with() -> None:
    draw = np.random.default_rng(3)
    parts = Components(0.04, 0.003, 0.10)
    found = []
    for _ in range(300):
        base = np.tile(draw.normal(0, 0.5, 80), (4, 1))
        table = np.array(_table(0.1, parts, 80, 4, draw))
        found.append(components(base.tolist(), (base + table).tolist()))
    mean = pooled(found)
    assert mean.by_problem == pytest.approx(parts.by_problem, rel=0.05)
    assert mean.by_seed == pytest.approx(parts.by_seed, rel=0.15)
    assert mean.residual == pytest.approx(parts.residual, rel=0.05)
    assert mean.problem == pytest.approx(0.25, rel=0.05)


@pytest.mark.parametrize(
    ("share", "points"),
    [(0.05, (1.7, 2.8, 3.6)), (0.10, (2.4, 4.0, 5.1)), (0.15, (3.0, 4.8, 6.2))],
)
def test_one_run_an_arm(share: float, points: tuple[float, ...]) -> None:
    parts = assumed(share)
    sizes = (1319, 500, 300)
    found = [100 * smallest_difference(parts, problems=n, seeds=1) for n in sizes]
    assert [round(value, 1) for value in found] == list(points)


def test_problems_for_two_points() -> None:
    shares = (0.05, 0.10, 0.15)
    assert [problems_needed(0.02, assumed(s), seeds=1) for s in shares] == [979, 1960, 2941]


def test_seeds_for_two_points_on_gsm8k() -> None:
    """Normal quantiles give 5, 11 and 20; Student's, which the comparison uses, ask for more."""
    spreads = (0.005, 0.010, 0.015)
    parts = [assumed(0.15, seed_sd=spread, by_problem=0.03) for spread in spreads]
    assert [seeds_needed(0.02, one, problems=1319) for one in parts] == [7, 12, 21]
    assert [seeds_needed(0.02, one, problems=500) for one in parts] == [None, None, None]


def test_what_no_number_can_show() -> None:
    spread = assumed(0.10, seed_sd=0.05)
    assert problems_needed(0.01, spread, seeds=2) is None
    assert smallest_difference(spread, problems=2, seeds=2, comparisons=100) == math.inf
    same = Components(0.0, 0.0, 0.0)
    assert power(0.0, same, problems=10, seeds=3) == 0.0


def test_counts_out_of_range() -> None:
    parts = assumed(0.1)
    for numbers in ({"problems": 1, "seeds": 1}, {"problems": 9, "seeds": 0}):
        with pytest.raises(ValueError, match="at least"):
            power(0.1, parts, **numbers)
    with pytest.raises(ValueError, match="outside"):
        assumed(1.2)
    with pytest.raises(ValueError, match="two at least"):
        components([[1.0, 0.0]], [[0.0, 1.0]])


def _sweep(folder: Path, seeds: int = 3) -> Path:
    for seed in range(seeds):
        for method, accuracy in (("sft", 0.5), ("m1", 0.6), ("m2", 0.55)):
            make_job(folder, accuracies={"gsm8k": accuracy}, seed=seed, n=80, method=method)
    return folder


def test_variances_of_finished_runs(tmp_path: Path) -> None:
    reader = OutcomeReader()
    table = build_table(load([_sweep(tmp_path / "mine")]), reader=reader)
    (found,) = variances(table, reader)
    assert (found.benchmark, found.problems, found.seeds, found.pairs) == ("gsm8k", 80, 3, 2)
    assert num_comparisons(table) == 2
    arms = {
        method: [
            [float(right) for _, right in reader.outcomes(run, "gsm8k").values()]
            for row in table.rows
            for run in row.runs
            if run.choices["method"] == method
        ]
        for method in ("sft", "m1", "m2")
    }
    expected = pooled([components(arms["sft"], arms[name]) for name in ("m1", "m2")])
    assert found.parts.by_problem == pytest.approx(expected.by_problem)
    assert found.parts.residual == pytest.approx(expected.residual)


def test_the_command(tmp_path: Path) -> None:
    runner = CliRunner()
    sweep = _sweep(tmp_path / "mine")
    result = runner.invoke(app, ["power", str(sweep), "--difference", "20"])
    assert result.exit_code == 0, result.output
    assert "From 9 finished runs; 2 comparisons" in result.output
    assert "gsm8k: 20 points need" in result.output
    assert "of 3 rows are" in result.output
    plain = runner.invoke(app, ["power", "--problems", "1319", "--seeds", "1"])
    assert "2.4" in plain.output
    assert "Assuming 10 % of problems differ and no spread between seeds" in plain.output


def test_what_a_difference_needs_on_other_numbers_of_problems_and_its_cost(tmp_path: Path) -> None:
    sweep = _sweep(tmp_path / "mine")
    make_job(sweep, accuracies={"gsm8k": 0.3}, n=80, method="zero_shot")
    words = ["power", str(sweep), "--difference", "20", "--problems", "80,900"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "seeds on 80 problems" in result.output
    assert "seeds on 900 problems" in result.output
    (line,) = [one for one in result.output.splitlines() if "that no seed changes" in one]
    seeds, jobs = int(line.split()[0]), int(line.split(" are ")[1].split()[0])
    assert "seeds of 3 rows and 1 that no seed changes are" in line
    assert jobs == 3 * seeds + 1
    words = ["power", str(sweep), "--difference", "0.1"]
    assert "No number of seeds is enough" in CliRunner().invoke(app, words).output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--seeds", "three"], "--seeds=three: whole numbers of 1 or more"),
        (["--problems", "1"], "--problems=1: whole numbers of 2 or more"),
        (["--differ", "0"], "--differ=0: 0.01 to 100; for example --differ 10"),
        (["nowhere"], "nowhere is not a folder"),
    ],
)
def test_wrong_words(words: list[str], says: str) -> None:
    result = CliRunner().invoke(app, ["power", *words])
    assert result.exit_code == 2
    assert says in result.output


def test_assumptions_beside_measured_runs_are_refused(tmp_path: Path) -> None:
    sweep = _sweep(tmp_path / "mine", seeds=1)
    result = CliRunner().invoke(app, ["power", str(sweep), "--differ", "5"])
    assert result.exit_code == 2
    assert "is an assumption" in result.output
    alone = CliRunner().invoke(app, ["power", str(sweep)])
    assert "how far seeds spread is not known" in alone.output
