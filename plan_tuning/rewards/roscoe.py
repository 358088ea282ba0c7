r"""Plans -> ROSCOE's scores (Golovneva et al. 2023, arXiv 2212.07919), and their mean as a reward.

Of three chains of sentences: s, the problem's sentences; h, the plan's steps; r, the golden plan's.
cos'(a, b) = (1 + cos) / 2 compares two sentences, align(a -> b)_i = max_j cos'(a_i, b_j), and MA is
the mean of that vector. All scores are 1 where all is well and 0 where nothing is.

``compat=parlai`` computes what the authors' code does (ParlAI, projects/roscoe/score.py):
scores of whole chains scale a cosine twice, into [.5, 1]; repetition_step is half of what it could
be, in [0, .5], and jumps to 1 for a plan of one step, which so earns more than any longer plan;
coherence hands (later step, earlier text) to the entailment model. ``compat=paper`` scales once,
gives a plan of one step 0.5, as two steps that have nothing in common, and asks in the order of the
text.

Scores of a contradiction model (discourse_representation, coherence_*) and of a grammar model
(grammar_*) take those models behind a protocol. **Untested with their published weights**: what is
tested is the arithmetic, given probabilities. Perplexities are left out: on LaTeX they say little.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from plan_tuning.config.reward import GRAMMAR_SCORES, NLI_SCORES, PlanRewardConfig
from plan_tuning.rewards.plan_cases import (
    Array,
    Contradiction,
    Grammar,
    Means,
    PlanCase,
    PlanRewardError,
    SentenceEncoder,
)
from plan_tuning.text.plan_edits import plan_steps

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_JOINT = ". "  # between the sentences of a whole chain
_UNRELATED = 0.5  # cos' of two sentences that have nothing in common


async def roscoe(
    cases: Sequence[PlanCase], config: PlanRewardConfig, means: Means
) -> list[float | None]:
    """Reward plans by the mean of ``reward.plan.scores``, each in [0, 1].

    Raises:
        PlanRewardError: nobody handed an encoder over, or the models that a score needs.
    """
    embed = means.embed
    if embed is None:
        raise PlanRewardError("ROSCOE compares sentences: nobody handed an encoder over")
    found: list[float | None] = []
    all_chains = [chains_of(case, embed, config.compat) for case in cases]
    texts = dict.fromkeys(text for chains in all_chains for text in chains.sentences)
    if texts:  # in few passes or requests; encoders remember what they have read
        embed(list(texts))
    for chains in all_chains:
        scores = [score(name, chains, means.contradicts, means.grammatical)
                  for name in config.scores]  # fmt: skip
        known = [value for value in scores if value is not None]
        found.append(float(np.mean(known)) if known else None)
    return found


class Chains:
    """The sentences of a problem (s), of a plan (h) and of its golden plan (r), and their vectors.

    Args:
        problem: s, as one text.
        plan: h, by steps.
        golden: r, by steps; none: scores that need it are unknown.
        embed: the sentence encoder.
        compat: paper or parlai.
    """

    def __init__(
        self,
        problem: str,
        plan: Sequence[str],
        golden: Sequence[str],
        embed: SentenceEncoder,
        compat: str = "paper",
    ) -> None:
        sentences = [part for part in _SENTENCE_END.split(problem.strip()) if part.strip()]
        self.texts = {"s": sentences, "h": list(plan), "r": list(golden)}
        self.is_parlai = compat == "parlai"
        self._embed = embed
        self._vectors: dict[tuple[str, ...], Array] = {}

    @property
    def sentences(self) -> list[str]:
        """List all sentences."""
        return [text for texts in self.texts.values() for text in texts]

    def align(self, first: str, second: str) -> Array:
        """Say how near each sentence of one chain comes to any of another one, (n,) in [0, 1]."""
        return np.asarray(self._alike(self.texts[first], self.texts[second]).max(axis=1))

    def align_words(self, first: str, second: str) -> Array:
        """Do the same word by word."""
        words = [[word for text in self.texts[name] for word in text.split()]
                 for name in (first, second)]  # fmt: skip
        return np.asarray(self._alike(*words).max(axis=1))

    def whole(self, first: str, second: str) -> float:
        """Compare two whole chains: cos', which ParlAI's code scales a second time."""
        joined = [[_JOINT.join(self.texts[name])] for name in (first, second)]
        alike = float(self._alike(*joined)[0, 0])
        return (1.0 + alike) / 2.0 if self.is_parlai else alike

    def repeated(self) -> float | None:
        """Take the most alike pair of steps, cos'; None of a single step."""
        if len(self.texts["h"]) < 2:
            return None
        alike = self._alike(self.texts["h"], self.texts["h"])
        return float(alike[np.tril_indices(len(alike), -1)].max())

    def repeated_words(self) -> float | None:
        """Take the pair of steps whose words are most alike on average; None of a single step."""
        steps = [text.split() for text in self.texts["h"]]
        pairs = [
            float(self._alike(later, earlier).max(axis=1).mean())
            for earlier, later in itertools.combinations(steps, 2)
        ]
        return max(pairs) if pairs else None

    def _alike(self, first: Sequence[str], second: Sequence[str]) -> Array:
        """Compare all of one list with all of another: cos', (n, m)."""
        a, b = self._unit(first), self._unit(second)
        return np.asarray((1.0 + np.clip(a @ b.T, -1.0, 1.0)) / 2.0)

    def _unit(self, texts: Sequence[str]) -> Array:
        key = tuple(texts)
        if key not in self._vectors:
            found = np.asarray(self._embed(texts), float)
            lengths = np.linalg.norm(found, axis=1, keepdims=True)
            self._vectors[key] = found / np.maximum(lengths, 1e-12)
        return self._vectors[key]


def chains_of(case: PlanCase, embed: SentenceEncoder, compat: str) -> Chains:
    """Split the texts of a case into their sentences and steps."""
    style = case.problem.style
    return Chains(
        case.problem.problem,
        plan_steps(case.plan, style),
        plan_steps(case.teacher_plan, style),
        embed,
        compat,
    )


def _repetition_step(c: Chains) -> float:
    alike = c.repeated()
    if c.is_parlai:
        return 1.0 if alike is None else (1.0 - alike) / 2.0
    return _UNRELATED if alike is None else 1.0 - alike


def _repetition_word(c: Chains) -> float:
    alike = c.repeated_words()
    alone = 1.0 if c.is_parlai else _UNRELATED
    return alone if alike is None else 1.0 - alike


def _faithfulness_ww(c: Chains) -> float:
    return float(np.concatenate([c.align("h", "s"), c.align_words("h", "s")]).mean())


def _semantic_coverage(c: Chains) -> float:
    return 1.0 - abs(float(c.align("r", "s").mean()) - float(c.align("h", "s").mean()))


def _worst_of_both(steps: Array, sentences: Array) -> float:
    """Take the sentence that neither chain supports."""
    return 1.0 - float(((1.0 - steps) * (1.0 - sentences)).max())


Score = Callable[[Chains], float]

PLAIN_SCORES: Mapping[str, Score] = {
    "faithfulness_step": lambda c: float(c.align("h", "s").mean()),
    "faithfulness_ww": _faithfulness_ww,
    "informativeness_step": lambda c: float(
        (c.align("h", "s").mean() + c.align("s", "h").mean()) / 2.0
    ),
    "informativeness_chain": lambda c: c.whole("h", "s"),
    "repetition_step": _repetition_step,
    "repetition_word": _repetition_word,
}
"""Of problem and plan alone. Echoing the problem has a faithfulness of 1: never take it alone."""

GOLDEN_SCORES: Mapping[str, Score] = {
    "reasoning_alignment": lambda c: float(c.align("h", "r").mean()),
    "missing_step": lambda c: float(c.align("r", "h").min()),
    "redundancy": lambda c: float(c.align("h", "r").min()),
    "semantic_coverage_step": _semantic_coverage,
    "semantic_coverage_chain": lambda c: c.whole("h", "r"),
    "external_hallucination": lambda c: _worst_of_both(c.align("h", "r"), c.align("h", "s")),
    "common_sense_error": lambda c: _worst_of_both(c.align("r", "h"), c.align("r", "s")),
}
"""Of the golden plan too."""


def contradiction_score(name: str, chains: Chains, contradicts: Contradiction) -> float:
    """Compute a score of a contradiction model; 1 where nothing contradicts.

    Args:
        name: of NLI_SCORES.
        chains: of a plan with one step at least.
        contradicts: the model.
    """
    steps = chains.texts["h"]
    if name == "discourse_representation":
        pairs = [(sentence, step) for sentence in chains.texts["s"] for step in steps]
        return 1.0 - max(contradicts(pairs), default=0.0)
    if name == "coherence_step_vs_step":
        pairs = list(itertools.combinations(steps, 2))
    else:
        pairs = [(_JOINT.join(steps[:i]), steps[i]) for i in range(1, len(steps))]
    if chains.is_parlai:
        pairs = [(later, earlier) for earlier, later in pairs]
    found = contradicts(pairs) if pairs else [0.0]
    return 1.0 - (float(np.mean(found)) if name == "coherence_step" else max(found))


def score(
    name: str,
    chains: Chains,
    contradicts: Contradiction | None = None,
    grammatical: Grammar | None = None,
) -> float | None:
    """Compute one score of a plan.

    Args:
        name: of ROSCOE_SCORES.
        chains: the texts.
        contradicts: the model of the scores in NLI_SCORES.
        grammatical: the model of the scores in GRAMMAR_SCORES.

    Returns:
        In [0, 1]; None for an empty plan, and where a golden plan is needed and absent.

    Raises:
        PlanRewardError: a model is needed and absent.
    """
    if not chains.texts["h"] or not chains.texts["s"]:
        return None
    if name in PLAIN_SCORES:
        return PLAIN_SCORES[name](chains)
    if name in GOLDEN_SCORES:
        return GOLDEN_SCORES[name](chains) if chains.texts["r"] else None
    if name in NLI_SCORES and contradicts is not None:
        return contradiction_score(name, chains, contradicts)
    if name in GRAMMAR_SCORES and grammatical is not None:
        found = grammatical(chains.texts["h"])
        return float(np.mean(found)) if name == "grammar_step" else min(found)
    raise PlanRewardError(f"ROSCOE's {name} needs a model that nobody handed over")
