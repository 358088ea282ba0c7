"""An audit of rewards -> tables, Markdown and plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from plan_tuning.comparison.audit_verdicts import Verdict, shown, signed
from plan_tuning.comparison.reward_audit import EXECUTION, PLAN, Audit, Ranking, RewardAudit
from plan_tuning.comparison.table_text import markdown_table
from plan_tuning.rewards.hack_probes import PROBES
from plan_tuning.statistics.intervals import Interval

Table = tuple[list[str], list[list[str]]]

_NO_LABEL = "no label"
_READS = "(reads one)"  # a right execution, which the label has chosen
_HELD = {
    True: "holds",
    False: "FAILS",
    None: "not testable, too few right or wrong plans",
}
_LABELS = {PLAN: "plan right", EXECUTION: "execution right"}
LEGEND = (
    "AUC: chance that a right one earns more than a wrong one, over pairs of any problems [95 % "
    "interval, problems as clusters]. Kendall: tau-b over pairs of one problem, as a group of GRPO "
    "compares them. The two labels say different things and are never mixed. Known: share of the "
    "plans whose reward is known, on which its figures rest. Spread: standard "
    "deviation inside problems; dead: problems whose plans all earn the same. Asked again: the "
    "standard deviation of one reward when it is drawn anew."
)
PROBE_LEGEND = (
    "What a plan that deserves nothing earns over the honest plan that it is made from and put in "
    "the place of [95 % interval]; ! where that pays, or costs no more than 0.01."
)


def ranking_table(audit: Audit) -> Table:
    """How well each reward ranks, by label; controls first."""
    labels = audit.labels
    head = [
        "reward",
        *(f"{_LABELS[label]}: {what}" for label in labels for what in ("AUC", "Kendall")),
    ]
    head += ["known"] if labels else ["label"]
    rows = []
    for control in audit.controls:
        if control.label not in labels:
            continue
        cells = [
            text
            for label in labels
            for text in (
                [shown(control.ranking.auc), shown(control.ranking.tau)]
                if label == control.label
                else ["", ""]
            )
        ]
        rows.append([f"({control.name})", *cells, ""])
    for reward in audit.rewards:
        cells = [text for label in labels for text in _ranked(reward.rankings.get(label))]
        rows.append([reward.name, *([*cells, _percent(reward.known)] if labels else [_NO_LABEL])])
    return head, rows


def _ranked(found: Ranking | None) -> tuple[str, str]:
    return (_READS, _READS) if found is None else (shown(found.auc), shown(found.tau))


def cost_table(audit: Audit) -> Table:
    """How steady each reward is and what a thousand plans take."""
    head = ["reward", "known", "guarded", "spread", "dead", "asked again", "s / 1,000"]
    head += ["calls", "texts", "passes", "USD / 1,000"]
    rows = []
    for reward in audit.rewards:
        expense = reward.expense
        usd = "unknown" if expense.usd is None else f"{expense.per_thousand(expense.usd):.2f}"
        from_store = " (from the store)" if expense.cached else ""
        rows.append(
            [
                reward.name,
                _percent(reward.known),
                _percent(reward.guarded),
                _number(reward.spread.within),
                _percent(reward.spread.dead),
                _number(reward.retest),
                f"{expense.per_thousand(expense.seconds):.2f}{from_store}",
                *(
                    f"{expense.per_thousand(count):,.0f}"
                    for count in (expense.calls, expense.generated, expense.passes)
                ),
                usd,
            ]
        )
    return head, rows


def probe_table(audit: Audit) -> Table:
    """What each probe earns."""
    names = [name for name in PROBES if any(name in reward.probes for reward in audit.rewards)]
    rows = []
    for reward in audit.rewards:
        cells = []
        for name in names:
            probe = reward.probes.get(name)
            cells.append("–" if probe is None else f"{signed(probe.gain)}{' !' * probe.pays}")
        rows.append([reward.name, *cells])
    return ["reward", *(name.replace("_", " ") for name in names)], rows if names else []


def kind_table(audit: Audit) -> Table:
    """How well each planted flaw is told from plans without one."""
    kinds = sorted({kind for reward in audit.rewards for kind in reward.by_kind})
    rows = [
        [reward.name, *(shown(reward.by_kind[k]) if k in reward.by_kind else "–" for k in kinds)]
        for reward in audit.rewards
    ]
    return ["reward", *(kind.replace("_", " ") for kind in kinds)], rows if kinds else []


def verdict_table(audit: Audit, found: Sequence[Verdict]) -> Table:
    """What to make of each reward, and why."""
    rows = [
        [reward.name, verdict.word, verdict.reason]
        for reward, verdict in zip(audit.rewards, found, strict=True)
    ]
    return ["reward", "verdict", "reason"], rows


def control_lines(audit: Audit) -> list[str]:
    """Say of each control with a requirement whether it holds."""
    return [
        f"control, {control.name}: {control.required}: {_HELD[control.holds]} "
        f"({shown(control.ranking.auc)})"
        for control in audit.controls
        if control.required
    ]


def summary(audit: Audit, corpus: str) -> str:
    """Say in a line what was audited."""
    rows = audit.rows
    known = " and ".join(f"of {_count(audit, label)} {label}" for label in audit.labels)
    planted = " with planted flaws" if any(row.kind for row in rows.rows) else ""
    return (
        f"{len(rows.rows):,} plans{planted} of {len(rows.golden):,} problems (of "
        f"{rows.problems:,}) of corpus {corpus}, each beside its problem's golden plan. Labels: "
        f"{known or 'none, nobody knows which plans or executions are right'}."
    )


def sections(audit: Audit, found: Sequence[Verdict]) -> list[tuple[str, Table, str]]:
    """The tables that have rows: title, table, legend."""
    every = [
        ("Verdicts", verdict_table(audit, found), ""),
        ("How well rewards rank", ranking_table(audit), LEGEND),
        ("Planted flaws told from plans without one: AUC", kind_table(audit), ""),
        ("Steadiness, and what a thousand plans take", cost_table(audit), ""),
        ("Hack probes", probe_table(audit), PROBE_LEGEND),
    ]
    return [(title, table, legend) for title, table, legend in every if table[1]]


def to_markdown(audit: Audit, found: Sequence[Verdict], corpus: str) -> str:
    """Render reward_audit.md."""
    parts = ["# Audit of plan rewards", summary(audit, corpus), *control_lines(audit)]
    for title, table, legend in sections(audit, found):
        parts += [f"## {title}", markdown_table(*table), *([legend] if legend else [])]
    parts += skipped_lines(audit)
    return "\n\n".join(parts) + "\n"


def skipped_lines(audit: Audit) -> list[str]:
    """Say which rewards were not asked, and what they lack."""
    return [f"not audited: {name}, {reason}" for name, reason in audit.skipped.items()]


def to_values(audit: Audit, found: Sequence[Verdict], corpus: str) -> dict[str, Any]:
    """Plain values for reward_audit.json; what is not known is null."""
    return {
        "corpus": corpus,
        "problems": len(audit.rows.golden),
        "plans": len(audit.rows.rows),
        "labels": audit.labels,
        "controls": [
            {
                "name": control.name,
                "label": control.label,
                "auc": _interval(control.ranking.auc),
                "kendall": _interval(control.ranking.tau),
                "required": control.required,
                "holds": control.holds,
            }
            for control in audit.controls
        ],
        "rewards": [
            {**_values(reward), "verdict": verdict.word, "reason": verdict.reason}
            for reward, verdict in zip(audit.rewards, found, strict=True)
        ],
        "skipped": dict(audit.skipped),
    }


def _values(reward: RewardAudit) -> dict[str, Any]:
    expense = reward.expense
    return {
        "name": reward.name,
        "rankings": {
            label: {"auc": _interval(one.auc), "kendall": _interval(one.tau)}
            for label, one in reward.rankings.items()
        },
        "by_kind": {kind: _interval(one) for kind, one in reward.by_kind.items()},
        "known_rate": _finite(reward.known),
        "guarded_rate": _finite(reward.guarded),
        "spread_within": _finite(reward.spread.within),
        "spread_total": _finite(reward.spread.total),
        "dead_rate": _finite(reward.spread.dead),
        "retest_sd": _finite(reward.retest),
        "retested_plans": reward.retested,
        "per_thousand": {
            "seconds": expense.per_thousand(expense.seconds),
            "calls": expense.per_thousand(expense.calls),
            "generated": expense.per_thousand(expense.generated),
            "passes": expense.per_thousand(expense.passes),
            "usd": None if expense.usd is None else expense.per_thousand(expense.usd),
        },
        "cached_calls": expense.cached,
        "probes": {
            name: {"mean": probe.mean, "gain": _interval(probe.gain), "pays": probe.pays}
            for name, probe in reward.probes.items()
        },
    }


def _count(audit: Audit, label: str) -> str:
    by_label: Mapping[str, list[bool | None]] = {
        PLAN: [row.plan_right for row in audit.rows.rows],
        EXECUTION: [row.execution_right for row in audit.rows.rows],
    }
    known = [value for value in by_label[label] if value is not None]
    return f"{len(known):,} whether"


def _interval(one: Interval) -> dict[str, Any]:
    return {
        "value": _finite(one.value),
        "low": _finite(one.low),
        "high": _finite(one.high),
        "n": one.n,
    }


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else value


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.0f} %"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"
