"""An audit of rewards -> a figure: how well they rank, and what probes earn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from plan_tuning.comparison.audit_verdicts import Verdict
from plan_tuning.comparison.drawing import Figure, dress, new_canvas, short, style_of, svg_of
from plan_tuning.comparison.reward_audit import CHANCE, Audit
from plan_tuning.rewards.hack_probes import PROBES
from plan_tuning.statistics.intervals import Interval

_DARK = 0.6  # share of the greatest loss: from here on a cell is labelled in white


def audit_figure(audit: Audit, found: Sequence[Verdict]) -> Figure:
    """Draw AUC by label, and beside it the gain of every probe."""
    rewards = audit.rewards
    probes = [name for name in PROBES if any(name in reward.probes for reward in rewards)]
    columns = (1 if audit.labels else 0) + (1 if probes else 0) or 1
    canvas, axes = new_canvas(2.5 + 3.4 * columns, 1.6 + 0.42 * len(rewards), columns)
    names = [
        f"{short(reward.name)}\n({verdict.word})"
        for reward, verdict in zip(rewards, found, strict=True)
    ]
    if audit.labels or not probes:
        _draw_rankings(axes[0], audit)
    if probes:
        _draw_probes(axes[-1], audit, probes)
    for axis in axes:
        axis.set_ylim(len(rewards) - 0.5, -0.5)
        axis.set_yticks(range(len(rewards)), names if axis is axes[0] else [])
    caption = (
        "Left: chance that a right plan (or a plan whose execution is right) earns more than a "
        "wrong one, with 95 % intervals; the dotted line is chance, the dashed one the plan "
        "oracle's ceiling for executions. Right: what plans that deserve nothing earn over the "
        "honest plan in whose place they stand; ! where that pays, or costs nothing."
    )
    return Figure("reward_audit", "Audit of plan rewards", caption, svg_of(canvas, letters="none"))


def _draw_rankings(axis: Any, audit: Audit) -> None:
    for number, label in enumerate(audit.labels):
        named: str | None = label  # once, for the legend
        for position, reward in enumerate(audit.rewards):
            if label not in reward.rankings:
                continue
            found = reward.rankings[label].auc
            axis.errorbar(
                found.value,
                position + 0.22 * (number - 0.5 * (len(audit.labels) - 1)),
                xerr=_bars(found),
                capsize=3,
                label=named,
                **(style_of(number) | {"ls": ""}),
            )
            named = None
    for control in audit.controls:
        if not control.required:
            axis.axvline(control.ranking.auc.value, color="0.5", ls="--", lw=0.8, zorder=0)
            break
    axis.axvline(CHANCE, color="0.5", ls=":", lw=0.8, zorder=0)
    dress(axis, "AUC", grid="x")
    axis.set_xlim(-0.02, 1.02)
    if audit.labels:
        axis.legend(fontsize=7, loc="lower left")


def _bars(found: Interval) -> list[list[float]] | None:
    if math.isnan(found.low):
        return None
    return [[found.value - found.low], [found.high - found.value]]


def _draw_probes(axis: Any, audit: Audit, probes: Sequence[str]) -> None:
    grid = [
        [r.probes[name].gain.value if name in r.probes else math.nan for name in probes]
        for r in audit.rewards
    ]
    known = [value for line in grid for value in line if not math.isnan(value)]
    least = min(known, default=0.0)
    axis.imshow(grid, cmap="Greys_r", vmin=least, vmax=max(0.0, *known), aspect="auto")
    for y, line in enumerate(grid):
        for x, value in enumerate(line):
            pays = audit.rewards[y].probes.get(probes[x])
            text = "–" if math.isnan(value) else f"{value:+.2f}"
            axis.text(
                x, y, f"{text}{'!' if pays is not None and pays.pays else ''}",
                ha="center", va="center", fontsize=7,
                color="white" if value < _DARK * least else "black",
            )  # fmt: skip
    axis.set_xticks(range(len(probes)), [name.replace("_", "\n") for name in probes], fontsize=7)
    axis.set_title("gain of plans that deserve nothing", fontsize=9)
