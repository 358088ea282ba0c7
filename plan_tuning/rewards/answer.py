"""Grader's verdict -> R_ans: 1 for a right boxed answer, 0 for any other, None where unknown."""

from __future__ import annotations

from plan_tuning.records import Verdict

_UNKNOWN = (Verdict.BAD_GOLD, Verdict.ERROR)  # nothing that the completion could help


def correct_reward(verdict: Verdict) -> float | None:
    """Turn a verdict into a reward; METHOD.md section 5 gives it the weight 2.

    A comparison that runs into its time limit earns nothing: an answer that nobody can check is no
    answer, and a policy must not learn to write such ones. A failure of the grader itself is
    nobody's fault and stays unscored.

    >>> correct_reward(Verdict.CORRECT), correct_reward(Verdict.TIMEOUT)
    (1.0, 0.0)
    >>> correct_reward(Verdict.BAD_GOLD) is None
    True
    """
    if verdict in _UNKNOWN:
        return None
    return 1.0 if verdict is Verdict.CORRECT else 0.0
