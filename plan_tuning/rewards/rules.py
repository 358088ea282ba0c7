"""Rule-based rewards of one completion: R_ans, then format, length, leak and overlong penalty."""

from __future__ import annotations

import re

from plan_tuning.records import Verdict
from plan_tuning.text.plans import leaks

_FOLLOWED = re.compile(r"</plan>\s*<output>")
_UNKNOWN = (Verdict.BAD_GOLD, Verdict.ERROR)  # nothing that the completion could help
_BOXED = re.compile(r"\\boxed\s*\{\s*[^\s}]")


def correct_reward(verdict: Verdict) -> float | None:
    """Turn a verdict into a reward; experiments/METHOD.md section 5 gives it the weight 2.

    A comparison that runs into its time limit earns nothing: an answer that nobody can check is no
    answer, and a policy must not learn to write such ones. A failure of the grader itself is
    nobody's fault and stays unknown.

    >>> correct_reward(Verdict.CORRECT), correct_reward(Verdict.TIMEOUT)
    (1.0, 0.0)
    >>> correct_reward(Verdict.BAD_GOLD) is None
    True
    """
    if verdict in _UNKNOWN:
        return None
    return 1.0 if verdict is Verdict.CORRECT else 0.0


def format_reward(text: str) -> float:
    r"""Share of the expected form that a completion has, 0 to 1.

    A third each: a plan that is not empty comes first and the output follows at once, the output is
    closed and nothing stands behind it, the output holds a box.

    >>> format_reward("<plan>\n1. Add.\n</plan>\n<output>\n\\boxed{5}\n</output>")
    1.0
    >>> round(format_reward("<plan>\\boxed{5}</plan><output>5</output>"), 2)
    0.67
    """
    _, opened, output = text.rpartition("<output>")
    is_closed = bool(opened) and output.rstrip().endswith("</output>")
    found = (_begins_with_plan(text), is_closed, bool(opened and _BOXED.search(output)))
    return sum(found) / len(found)


def _begins_with_plan(text: str) -> bool:
    """Whether one plan that is not empty comes first and the output follows at once.

    Texts are searched once, from left to right: an unfinished plan
    may be as long as a completion can be.
    """
    before, opened, rest = text.partition("<plan>")
    followed = _FOLLOWED.search(rest)
    if not opened or before.strip() or followed is None:
        return False
    plan = rest[: followed.start()]
    return bool(plan.strip()) and "<plan>" not in plan


def length_reward(num_tokens: int, max_tokens: int) -> float:
    """Prefer short completions: 1 for none, 0 for as long as possible.

    >>> length_reward(25, 100)
    0.75
    """
    return 1.0 - min(num_tokens, max_tokens) / max_tokens


def leak_reward(plan: str, answer: str, problem: str) -> float:
    r"""1 where a plan holds neither a box nor the answer, else 0.

    >>> leak_reward("1. Add both.", "5", "2+3?"), leak_reward("1. It is \\boxed{5}.", "5", "2+3?")
    (1.0, 0.0)
    """
    return 0.0 if leaks(plan, answer, problem) else 1.0


def overlong_penalty(num_tokens: int, max_tokens: int, buffer: int) -> float:
    """DAPO's soft penalty (arXiv 2503.14476, section 3.4): 0, falling to -1 over the last tokens.

    Args:
        num_tokens: of the completion.
        max_tokens: longest completion.
        buffer: tokens before that over which the penalty grows.

    >>> [overlong_penalty(n, 100, 20) for n in (80, 90, 100)]
    [0.0, -0.5, -1.0]
    """
    over = num_tokens - (max_tokens - buffer)
    return -min(max(over, 0), buffer) / buffer if over > 0 else 0.0
