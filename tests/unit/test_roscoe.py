"""ROSCOE against its formulas, by loops and by hand; hashed vectors are fixed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from plan_tuning.config.reward import NLI_SCORES
from plan_tuning.rewards.hashed_encoder import HashedEncoder
from plan_tuning.rewards.plan_cases import PlanRewardError
from plan_tuning.rewards.roscoe import GOLDEN_SCORES, PLAIN_SCORES, Chains, score

VECTORS = {"a": (1.0, 0.0), "b": (0.0, 1.0), "c": (3.0, 3.0), "d": (-2.0, 0.5)}


def embed(texts: Sequence[str]) -> np.ndarray[Any, Any]:
    return np.array([np.sum([VECTORS[c] for c in text if c in VECTORS], axis=0) for text in texts])


def cosine(first: str, second: str) -> float:
    a, b = embed([first])[0], embed([second])[0]
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def by_loops(s: list[str], h: list[str], r: list[str], compat: str) -> dict[str, float]:
    """All scores from the table of formulas, one sentence at a time."""

    def align(first: list[str], second: list[str]) -> list[float]:
        return [max((1 + cosine(a, b)) / 2 for b in second) for a in first]

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    def whole(first: list[str], second: list[str]) -> float:
        scaled = (1 + cosine(". ".join(first), ". ".join(second))) / 2
        return (1 + scaled) / 2 if compat == "parlai" else scaled

    pairs = [(1 + cosine(a, b)) / 2 for a, b in itertools.combinations(h, 2)]
    repetition = (
        (1 - max(pairs)) / 2 if compat == "parlai" and pairs
        else 1.0 if compat == "parlai" else 1 - max(pairs) if pairs else 0.5
    )  # fmt: skip
    return {
        "faithfulness_step": mean(align(h, s)),
        "faithfulness_ww": mean(align(h, s) + align(h, s)),  # every sentence is one word
        "informativeness_step": (mean(align(h, s)) + mean(align(s, h))) / 2,
        "informativeness_chain": whole(h, s),
        "repetition_step": repetition,
        "repetition_word": 1 - max(pairs) if pairs else 1.0 if compat == "parlai" else 0.5,
        "reasoning_alignment": mean(align(h, r)),
        "missing_step": min(align(r, h)),
        "redundancy": min(align(h, r)),
        "semantic_coverage_step": 1 - abs(mean(align(r, s)) - mean(align(h, s))),
        "semantic_coverage_chain": whole(h, r),
        "external_hallucination": 1 - max(
            (1 - x) * (1 - y) for x, y in zip(align(h, r), align(h, s), strict=True)),
        "common_sense_error": 1 - max(
            (1 - x) * (1 - y) for x, y in zip(align(r, h), align(r, s), strict=True)),
    }  # fmt: skip


@pytest.mark.parametrize("compat", ["paper", "parlai"])
@pytest.mark.parametrize(
    ("h", "r"), [(["a", "b"], ["a", "c"]), (["d", "c", "b"], ["b", "a"]), (["c"], ["a", "d"])]
)
def test_roscoe_s_scores_are_those_of_its_formulas(h: list[str], r: list[str], compat: str) -> None:
    chains = Chains("a\nb", h, r, embed, compat)
    expected = by_loops(["a", "b"], h, r, compat)
    assert set(expected) == {*PLAIN_SCORES, *GOLDEN_SCORES}
    for name, value in expected.items():
        assert score(name, chains) == pytest.approx(value), name


def test_roscoe_by_hand() -> None:
    chains = Chains("a\nb", ["a", "a"], ["a", "b"], embed)
    assert score("repetition_step", chains) == pytest.approx(0.0)
    assert score("missing_step", chains) == pytest.approx(0.5), (
        "b is nowhere: cos' of a right angle"
    )
    assert score("reasoning_alignment", chains) == pytest.approx(1.0)
    assert score("repetition_step", Chains("a", ["a", "a"], [], embed, "parlai")) == pytest.approx(
        0
    )
    alone = [
        score("repetition_step", Chains("a", ["a"], [], embed, c)) for c in ("paper", "parlai")
    ]
    assert alone == [0.5, 1.0], "the jump that a single step earns is the code's"
    assert score("missing_step", Chains("a", ["a"], [], embed)) is None
    assert score("faithfulness_step", Chains("a", [], ["a"], embed)) is None


def test_scores_of_models_take_them_behind_a_protocol() -> None:
    asked: list[tuple[str, str]] = []

    def contradicts(pairs: Sequence[tuple[str, str]]) -> list[float]:
        asked.extend(pairs)
        return [0.1 * (1 + place) for place in range(len(pairs))]

    steps = ["a", "b", "c"]
    found = {
        name: score(name, Chains("a\nd", steps, [], embed), contradicts) for name in NLI_SCORES
    }
    assert found == {
        "discourse_representation": pytest.approx(0.4), "coherence_step": pytest.approx(0.85),
        "coherence_step_max": pytest.approx(0.8), "coherence_step_vs_step": pytest.approx(0.7),
    }  # fmt: skip
    assert ("a. b", "c") in asked
    asked.clear()
    score("coherence_step", Chains("a", steps, [], embed, "parlai"), contradicts)
    assert asked == [("b", "a"), ("c", "a. b")], "the code's order: later step, earlier text"
    grammatical = {"a": 0.9, "b": 0.5, "c": 0.4}
    rated = [
        score(name, Chains("a", steps, [], embed), None, lambda s: [grammatical[x] for x in s])
        for name in ("grammar_step", "grammar_step_max")
    ]
    assert rated == [pytest.approx(0.6), pytest.approx(0.4)]
    with pytest.raises(PlanRewardError, match="grammar_step needs a model"):
        score("grammar_step", Chains("a", steps, [], embed))


def test_hashed_vectors_are_fixed_unit_and_nearer_for_shared_words() -> None:
    texts = ["Add the apples.", "add the apples", "Adding apples", "Halve the price", ""]
    found = HashedEncoder()(texts)
    assert np.linalg.norm(found, axis=1).tolist() == pytest.approx([1, 1, 1, 1, 0])
    near = found @ found[0]
    assert near[1] == pytest.approx(1.0)
    assert 1 > near[2] > near[3]
    assert np.flatnonzero(HashedEncoder()(["a"])[0]).tolist() == [341, 771]
