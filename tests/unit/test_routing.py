"""Routers: who is asked, by the source or by the nearest training problems."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from plan_tuning.config.merge import MergeConfig
from plan_tuning.config.microworld import MicroworldConfig
from plan_tuning.students.loading import StudentError
from plan_tuning.students.routing import (
    RoutingError,
    hashed_ngrams,
    read_router,
    votes,
    write_router,
)
from plan_tuning.tasks.microworld_problems import load_microworld

SOURCES = ("microworld_a", "microworld_b")


def adapters(folder: Path, *, base: str = "base") -> dict[str, Path]:
    found = {}
    for source in SOURCES:
        found[source] = folder / source
        found[source].mkdir(parents=True)
        settings = {"base_model_name_or_path": base}
        (found[source] / "adapter_config.json").write_text(json.dumps(settings))
        (found[source] / "manifest.json").write_text("{}")
    return found


def problems(split: str, count: int) -> dict[str, list[str]]:
    worlds = {source: MicroworldConfig(family=source[-1], test_size=count) for source in SOURCES}
    return {
        source: [p.problem for p in load_microworld(world, split, limit=count)]
        for source, world in worlds.items()
    }


def test_the_nearest_neighbours_know_the_nouns_of_a_family(tmp_path: Path) -> None:
    out = tmp_path / "routed"
    knobs = MergeConfig("router", router="nearest", neighbours=5)
    facts = write_router(out, adapters(tmp_path / "of"), knobs, problems("train", 60))
    assert facts == {"students": 2, "known_problems": 120}
    router = read_router(out)
    for source, texts in problems("test", 40).items():
        chosen = router.choose(texts, ["nobody says"] * 40)
        assert chosen.count(source) >= 36
    assert {path.name for path in router.folders[SOURCES[0]].iterdir()} == {"adapter_config.json"}


def test_the_oracle_goes_by_the_source_alone(tmp_path: Path) -> None:
    out = tmp_path / "routed"
    write_router(out, adapters(tmp_path / "of"), MergeConfig("router"), {})
    router = read_router(out)
    assert router.choose(["a text", "a text"], list(SOURCES)) == list(SOURCES)
    with pytest.raises(RoutingError, match=r"aime2024.*merge\.router=nearest"):
        router.choose(["a text"], ["aime2024"])


def test_votes_count_and_ties_go_to_the_more_similar() -> None:
    similarity = np.array([[0.9, 0.2, 0.3, 0.8], [0.1, 0.7, 0.6, 0.9]])
    labels = np.array([0, 0, 1, 1])
    assert votes(similarity, labels, 1, 2) == [0, 1]
    assert votes(similarity, labels, 2, 2) == [0, 1]  # one each in the first row: 0.9 beats 0.8
    assert votes(similarity, labels, 3, 2) == [1, 1]


def test_ngrams_tell_the_order_of_words() -> None:
    vectors = hashed_ngrams(["a b c", "c b a", "a b c"])
    assert vectors[0] @ vectors[2] == pytest.approx(1.0)
    assert 0.3 < vectors[0] @ vectors[1] < 0.7


def test_students_that_cannot_be_routed_are_refused(tmp_path: Path) -> None:
    found = adapters(tmp_path / "of")
    whole = tmp_path / "whole"
    whole.mkdir()
    with pytest.raises(StudentError, match=r"whole weights.*adapter=lora"):
        write_router(tmp_path / "x", found | {"microworld_b": whole}, MergeConfig("router"), {})
    other = adapters(tmp_path / "other", base="elsewhere")
    mixed = {SOURCES[0]: found[SOURCES[0]], SOURCES[1]: other[SOURCES[1]]}
    with pytest.raises(StudentError, match="different bases"):
        write_router(tmp_path / "y", mixed, MergeConfig("router"), {})
