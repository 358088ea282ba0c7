"""Rewards by part -> what is reported about them, and what the whole is worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]


def weighted_total(rewards: Mapping[str, Array], weights: Mapping[str, float]) -> Array:
    """Sum the parts with their weights; a part that is unknown (NaN) makes the sum unknown.

    Advantages treat unknown parts with more care; this is the figure for logs and early stopping.

    >>> weighted_total({"correct": np.array([1.0, 0.0])}, {"correct": 2.0}).tolist()
    [2.0, 0.0]
    """
    total: Array = np.sum(
        [weights[name] * np.asarray(rewards[name], float) for name in weights], axis=0
    )
    return total


def summarize(rewards: Mapping[str, Array], weights: Mapping[str, float]) -> dict[str, float]:
    """Report each part: mean, spread, share that is known, correlation with being correct.

    A plan reward that does not rise together with correctness is being gamed, or judges badly.

    Args:
        rewards: by part, each (P, G); NaN: not known.
        weights: of the parts; a part without one is reported but counts nothing.

    Returns:
        ``reward/<part>`` (the mean), ``reward/<part>/{std,coverage,correlation}``, ``reward/total``
        and ``reward/total/std``; figures that cannot be computed are left out.

    >>> summarize({"correct": np.array([[1.0, 0.0]])}, {"correct": 2.0})["reward/total"]
    1.0
    """
    out: dict[str, float] = {}
    correct = rewards.get("correct")
    for name, values in rewards.items():
        known = ~np.isnan(values)
        out[f"reward/{name}/coverage"] = float(known.mean()) if known.size else 0.0
        if not known.any():
            continue
        out[f"reward/{name}"] = float(values[known].mean())
        out[f"reward/{name}/std"] = float(values[known].std())
        if correct is not None and name != "correct":
            both = known & ~np.isnan(correct)
            found = _correlation(values[both], correct[both])
            if found is not None:
                out[f"reward/{name}/correlation"] = found
    total = weighted_total(rewards, weights)
    known = ~np.isnan(total)
    if known.any():
        out["reward/total"] = float(total[known].mean())
        out["reward/total/std"] = float(total[known].std())
    return out


def _correlation(first: Array, second: Array) -> float | None:
    """Pearson's r; None where either does not vary."""
    if len(first) < 2 or first.std() < 1e-12 or second.std() < 1e-12:
        return None
    return float(np.corrcoef(first, second)[0, 1])
