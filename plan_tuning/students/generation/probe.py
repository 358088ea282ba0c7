"""Is it the student that a server answers with? Sixteen tokens and what is likely to follow them.

A training writes its student's own figures into the manifest. Whoever is about to ask a server
compares what that says to the same tokens. Other weights, or the right ones with another adapter,
differ by tenths of a nat to nats; the precision of a server moves the mean by hundredths. Students
that are closer to each other than that cannot be told apart in this way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from plan_tuning.students.loading import Student

FACT = "probe"  # of the manifest
PROMPT_TOKENS = 16
CANDIDATES = 8  # next tokens that are compared
MAX_GAP = 0.15  # nats, mean over the candidates: what rounding explains, and quantisation does not


@dataclass(frozen=True, slots=True)
class Probe:
    """A prompt and the log-probabilities of the likeliest next tokens, at temperature 1."""

    prompt: tuple[int, ...]
    next_tokens: Mapping[int, float]

    def gap(self, told: Mapping[int, float]) -> float:
        """Average how far the candidates are from what a server says of them, in nats.

        A candidate that it does not name is at most as likely there as the last one named.

        Args:
            told: log-probability by token, the likeliest ones.

        >>> Probe((1,), {5: -1.0, 6: -2.0}).gap({5: -1.5, 6: -2.0})
        0.25
        """
        last = min(told.values())
        found = [
            abs(value - told[token]) if token in told else max(0.0, value - last)
            for token, value in self.next_tokens.items()
        ]
        return sum(found) / len(found)

    def as_facts(self) -> dict[str, Any]:
        """Write it as the manifest has it."""
        tokens, values = self.next_tokens.keys(), self.next_tokens.values()
        return {
            "prompt": list(self.prompt),
            "tokens": list(tokens),
            "log_probs": [round(value, 5) for value in values],
        }


def read_probe(facts: Mapping[str, Any]) -> Probe | None:
    """Take the probe out of a manifest's facts; None where its training wrote none."""
    found = facts.get(FACT)
    if found is None:
        return None
    pairs = zip(found["tokens"], found["log_probs"], strict=True)
    return Probe(tuple(found["prompt"]), dict(pairs))


def probe_of(student: Student, text: Sequence[int]) -> Probe:
    """Ask a student here what follows the last sixteen tokens of a text.

    Args:
        student: in whatever mode; its modules' modes are left as they were.
        text: token ids, at least one.
    """
    prompt = tuple(int(token) for token in text[-PROMPT_TOKENS:])
    log_probs = next_log_probs(student, prompt)
    values, tokens = log_probs.topk(min(CANDIDATES, len(log_probs)))
    return Probe(prompt, dict(zip(tokens.tolist(), values.tolist(), strict=True)))


@torch.no_grad()
def next_log_probs(
    student: Student, prompt: Sequence[int], *, temperature: float = 1.0
) -> torch.Tensor:
    """Compute the log-probabilities (V,) of all tokens behind a prompt, in float32.

    Args:
        student: in whatever mode.
        prompt: token ids.
        temperature: logits are divided by it.
    """
    model = student.causal_lm
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        ids = torch.tensor([list(prompt)], device=student.device)
        logits: torch.Tensor = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits
    finally:
        for module, mode in modes.items():
            module.training = mode
    return (logits[0, -1].float() / temperature).log_softmax(-1)
