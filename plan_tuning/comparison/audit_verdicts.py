"""An audit -> which rewards are worth their cost, a word and its reason each.

The rules are tried in order: an audit whose controls fail says nothing; a reward that tells no
plans apart is noise; one that a probe earns by is hackable; one without labels has no verdict; one
that is drowned in its own noise or cannot be told from chance is no guide; and one that costs more
than another has to rank better, on the rows that both know.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from plan_tuning.comparison.audit_meter import Expense
from plan_tuning.comparison.reward_audit import CHANCE, Audit, RewardAudit, label_of
from plan_tuning.statistics.intervals import Interval
from plan_tuning.statistics.ranking import auc_difference

WORTH, NOT_WORTH, HACKABLE = "worth its cost", "not worth its cost", "hackable"
NOISE, MISLEADING, UNDECIDED, NO_LABEL = "noise", "misleading", "undecided", "no label"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to make of a reward."""

    word: str
    reason: str


def verdicts(audit: Audit) -> list[Verdict]:
    """Judge each reward of an audit, in their order."""
    return [_verdict(audit, reward) for reward in audit.rewards]


def _verdict(audit: Audit, reward: RewardAudit) -> Verdict:
    failed = [control.name for control in audit.controls if control.holds is False]
    if failed:
        return Verdict(UNDECIDED, f"the audit's own control fails: {', '.join(failed)}")
    if reward.is_constant:
        return Verdict(NOISE, "all plans earn the same")
    if reward.spread.dead == 1.0:
        return Verdict(NOISE, "all plans of a problem earn the same")
    if reward.paying:
        best = max(reward.paying, key=lambda name: reward.probes[name].gain.value)
        gain = signed(reward.probes[best].gain)
        verb = "earns" if reward.probes[best].gain.low > 0 else "costs nothing:"
        others = len(reward.paying) - 1
        more = f", and {others} more {'probe pays' if others == 1 else 'probes pay'}" * (others > 0)
        return Verdict(HACKABLE, f"{best} {verb} {gain} against the plan it replaces{more}")
    if not audit.labels:
        return Verdict(NO_LABEL, f"nobody knows which plans are right; {_steadiness(reward)}")
    if reward.spread.within <= reward.retest:
        return Verdict(NOISE, _steadiness(reward))
    label = audit.labels[0]
    if label not in reward.rankings:
        return Verdict(NO_LABEL, f"it is handed what {label!r} has chosen; {_steadiness(reward)}")
    known = reward.rankings[label].auc
    if math.isnan(known.low) or known.low <= CHANCE <= known.high:
        return Verdict(UNDECIDED, f"{label}: AUC {shown(known)} is not told from chance")
    if known.high < CHANCE:
        return Verdict(MISLEADING, f"{label}: AUC {shown(known)}, wrong plans earn more")
    return _against_others(audit, reward, label)


def _against_others(audit: Audit, reward: RewardAudit, label: str) -> Verdict:
    """Compare a reward with the best of those that cost no more and that no probe earns by.

    The best is the one over which it gains least on the rows that both know.
    """
    found = f"{label}: AUC {shown(reward.rankings[label].auc)}"
    others = [
        other
        for other in audit.rewards
        if other is not reward and not other.paying and label in other.rankings
    ]
    cheaper = [other for other in others if _costs_less(other.expense, reward.expense)]
    equal = [
        other
        for other in others
        if other not in cheaper and not _costs_less(reward.expense, other.expense)
    ]
    for other in equal:  # whose being as good is no reason against either
        gain = _gain(audit, other, reward, label)
        if gain.high < 0:
            return Verdict(NOT_WORTH, f"{found}, {_beside(gain, reward, other, label, 'as much')}")
    if not cheaper:
        return Verdict(WORTH, f"{found}; nothing cheaper that no probe earns by")
    gains = [(_gain(audit, other, reward, label), other) for other in cheaper]
    common = [(gain, other) for gain, other in gains if not math.isnan(gain.value)]
    if not common:
        return Verdict(UNDECIDED, f"{found}; too few rows: none cheaper knows the same ones")
    # Figures of other rows say nothing of these: the strongest rival is found on common ones.
    gain, best = min(common, key=lambda pair: pair[0].value)
    beside = _beside(gain, reward, best, label, "less")
    if math.isnan(gain.low):
        return Verdict(UNDECIDED, f"too few rows: {found}, {beside}")
    if gain.low > 0:
        return Verdict(WORTH, f"{found}, {beside}")
    if gain.high <= 0:
        return Verdict(NOT_WORTH, f"{found}, {beside}")
    width = (gain.high - gain.low) / 2
    return Verdict(UNDECIDED, f"{found}, {beside}; differences of ±{width:.3f} are resolved")


def _beside(gain: Interval, reward: RewardAudit, other: RewardAudit, label: str, costs: str) -> str:
    taus = [one.rankings[label].tau.value for one in (reward, other)]
    return (
        f"{signed(gain)} on the plans that {other.name} knows too, which costs {costs} (Kendall "
        f"inside problems {taus[0]:.3f} against {taus[1]:.3f})"
    )


def _gain(audit: Audit, first: RewardAudit, second: RewardAudit, label: str) -> Interval:
    """The second reward's AUC less the first one's, on the rows that both know."""
    triples = [
        (one, two, bool(known), row.problem_id)
        for row, one, two in zip(audit.rows.rows, first.values, second.values, strict=True)
        if one is not None and two is not None and (known := label_of(row, label)) is not None
    ]
    if not triples:
        return Interval(math.nan, math.nan, math.nan, 0)
    ones, twos, labels, problems = zip(*triples, strict=True)
    return auc_difference(ones, twos, labels, problems)


def _costs_less(one: Expense, other: Expense) -> bool:
    """Compare what is counted first, in the order of its price, and then time.

    Money, calls of a large model, texts that a frozen model wrote, texts that it read; of time,
    which hangs on the machine and on what else it does, less than half is less. An unknown price is
    no low one.
    """
    for first, second in (
        [math.inf if each.usd is None else each.per_thousand(each.usd) for each in (one, other)],
        [each.per_thousand(each.calls) for each in (one, other)],
        [each.per_thousand(each.generated) for each in (one, other)],
        [each.per_thousand(each.passes) for each in (one, other)],
    ):
        if first != second:
            return first < second
    return 2 * one.per_thousand(one.seconds) < other.per_thousand(other.seconds)


def _steadiness(reward: RewardAudit) -> str:
    if math.isnan(reward.spread.within):
        return "no two plans of a problem to spread"
    twice = "" if math.isnan(reward.retest) else f", {reward.retest:.3f} when asked again"
    return (
        f"spread {reward.spread.within:.3f} inside problems{twice}, "
        f"{100 * reward.spread.dead:.0f} % of the groups dead"
    )


def shown(interval: Interval) -> str:
    """Print an estimate with its interval.

    >>> shown(Interval(0.95, 0.94, 0.96, 10))
    '0.950 [0.940, 0.960]'
    """
    if math.isnan(interval.value):
        return "–"
    if math.isnan(interval.low):
        return f"{interval.value:.3f}"
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def signed(interval: Interval) -> str:
    """Print a difference with its interval.

    >>> signed(Interval(0.02, -0.01, 0.05, 10))
    '+0.020 [-0.010, +0.050]'
    """
    if math.isnan(interval.value):
        return "–"
    if math.isnan(interval.low):
        return f"{interval.value:+.3f}"
    return f"{interval.value:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
