"""Interference and the share that comes back, from jobs on disk and from plain figures."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
from sweep_builder import make_job

from plan_tuning.comparison.comparison_files import compare
from plan_tuning.comparison.differences import OutcomeReader
from plan_tuning.comparison.interference import (
    ALL,
    Interference,
    _share,
    interferences,
    mitigation_of,
    sources_of,
)
from plan_tuning.comparison.interference_text import interference_table, transfer_matrix, verdict
from plan_tuning.comparison.runs import load
from plan_tuning.comparison.tables import build_table

pytestmark = pytest.mark.integration

MIXED = {"data.sources.microworld_a.tag": "a", "data.sources.microworld_c.tag": "b"}
TESTS = ("microworld_a", "microworld_c")


def sweep(folder: Path, *, mixed: float = 0.5, repaired: float = 0.9) -> Path:
    """Two sources, their mixture, and two mitigations of which one does nothing."""
    for seed in range(3):
        for data, family, other in (("microworld", "a", 1), ("microworld_c", "c", 0)):
            accuracies = dict.fromkeys(TESTS, 0.9)
            accuracies[TESTS[other]] = 0.1
            settings = {"data.family": family}
            make_job(folder, accuracies=accuracies, seed=seed, settings=settings, data=data, n=120)
        both = {"data": "microworld_conflict", "seed": seed, "n": 120}
        make_job(folder, accuracies=dict.fromkeys(TESTS, mixed), settings=MIXED, **both)
        make_job(
            folder,
            accuracies=dict.fromkeys(TESTS, repaired),
            settings=MIXED,
            merge="router",
            **both,
        )
        settings = MIXED | {"trainer.pcgrad": "module"}
        make_job(folder, accuracies=dict.fromkeys(TESTS, mixed), settings=settings, **both)
    return folder


def found_in(folder: Path) -> Interference:
    (found,) = interferences(build_table(load([folder])), OutcomeReader())
    return found


def test_a_mixture_is_compared_with_its_sources_own_students(tmp_path: Path) -> None:
    found = found_in(sweep(tmp_path))
    assert list(found.singles) == list(TESTS)
    assert {row.runs[0].choices["data"] for row in found.singles.values()} == {
        "microworld", "microworld_c"
    }  # fmt: skip
    assert mitigation_of(found.mixed) == ""
    assert [effect.source for effect in found.effects] == [*TESTS, ALL]
    for effect in found.effects:
        assert 0.2 < effect.low < effect.value < effect.high < 0.6
        assert effect.direction == "higher"
    by_label = {one.label: one for one in found.mitigations}
    assert set(by_label) == {"merge=router oracle", "pcgrad=module"}
    routed, projected = by_label["merge=router oracle"], by_label["pcgrad=module"]
    assert routed.shares[ALL].value == pytest.approx(1.0, abs=0.1)
    assert routed.shares[ALL].low < 1.0 < routed.shares[ALL].high
    assert abs(projected.shares[ALL].value) < 0.1
    assert projected.effects[-1].direction == "undecided"


def test_the_verdict_names_what_helps_and_what_could_not_be_resolved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    comparison = compare([sweep(tmp_path)])
    printed = capsys.readouterr().out
    assert "What it costs, and what comes back" in printed
    assert "What each reward taught" not in printed, "nothing was rewarded here"
    text = (tmp_path / "comparison.md").read_text()
    costs, helps, undecided = [line for line in text.splitlines() if line[:5] in
                               ("Mixin", "Bring", "Undec")]  # fmt: skip
    assert "Mixing costs +" in costs
    assert helps.startswith("Brings accuracy back on every source: merge=router oracle (")
    assert "pcgrad=module" in undecided
    assert "could not be resolved" in undecided
    head, rows = transfer_matrix(comparison.interferences[0])
    assert head == ["trained on", *TESTS, "trained tokens"]
    assert [row[0] for row in rows[:3]] == [f"{name} alone" for name in TESTS] + [
        "all sources, mixed"
    ]
    assert '"interferences"' in (tmp_path / "comparison.json").read_text()
    assert 'id="mixed"' in (tmp_path / "report.html").read_text()


def test_what_helps_one_source_alone_is_said_to(tmp_path: Path) -> None:
    sweep(tmp_path)
    for seed in range(3):
        settings = MIXED | {"trainer.order": "by_source"}
        accuracies = {TESTS[0]: 0.4, TESTS[1]: 0.9}
        both = {"data": "microworld_conflict", "seed": seed, "n": 120}
        make_job(tmp_path, accuracies=accuracies, settings=settings, **both)
    (line,) = [text for text in verdict(found_in(tmp_path)) if "not on every source" in text]
    assert line.startswith("Brings accuracy back over all, though not on every source: order=by_s")
    assert f"{TESTS[0]} -" in line


def test_without_interference_there_is_no_share(tmp_path: Path) -> None:
    found = found_in(sweep(tmp_path, mixed=0.9))
    assert found.total.direction == "undecided"
    assert all(not one.shares for one in found.mitigations)
    assert "Undecided whether mixing costs anything" in verdict(found)[0]
    _, rows = interference_table(found)
    assert not [row for row in rows if "share" in row[0]]


def test_other_settings_are_no_partners(tmp_path: Path) -> None:
    """A mixture of half the epochs is not compared with students of whole ones."""
    sweep(tmp_path)
    for seed in range(3):
        settings = MIXED | {"trainer.epochs": 5}
        accuracies = dict.fromkeys(TESTS, 0.3)
        make_job(
            tmp_path,
            accuracies=accuracies,
            settings=settings,
            seed=seed,
            data="microworld_conflict",
        )
    for path in tmp_path.glob("*/result.json"):
        if "trainer.epochs" not in path.parent.name:
            text = path.read_text().replace('"trainer": {', '"trainer": {"epochs": 10, ')
            path.write_text(text)
    found = found_in(tmp_path)
    assert "epochs" not in " ".join(one.label for one in found.mitigations)


def test_sources_are_told_by_the_settings(tmp_path: Path) -> None:
    make_job(tmp_path, accuracies={"gsm8k": 0.5}, data="gsm8k")
    make_job(tmp_path, accuracies={"gsm8k": 0.5}, data="microworld_mixed", settings=MIXED)
    assert sorted(sources_of(run) for run in load([tmp_path]).runs) == [
        ("gsm8k",), ("microworld_a", "microworld_c")
    ]  # fmt: skip


def test_the_shares_interval_covers_the_true_share() -> None:
    """Half of what is lost comes back: 80 draws, of which about 95 % hold one half."""
    random.seed(0)
    covered = 0
    for _ in range(80):
        lost, gained = {}, {}
        for seed in range(3):
            shift = random.gauss(0, 0.02)
            lost[seed], gained[seed] = {}, {}
            for problem in range(80):
                fails = random.random() < 0.5 + shift
                comes_back = fails and random.random() < 0.5
                lost[seed][str(problem)] = float(fails)
                gained[seed][str(problem)] = float(comes_back)
        share = _share(gained, lost)
        covered += share.low <= 0.5 <= share.high
    assert covered >= 72
    assert _share({}, {0: {"p": 1.0}}).value != _share({0: {"p": 1.0}}, {0: {"p": 1.0}}).value
    assert math.isnan(_share({0: {"p": 1.0}}, {0: {"p": 0.0}}).value)
