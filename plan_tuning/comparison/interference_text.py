"""Interference -> text for readers: the transfer matrix, what comes back, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from plan_tuning.comparison.interference import ALL, Effect, Interference, Mitigation, Share
from plan_tuning.comparison.table_text import SIGNS, accuracy_text, p_text, percent
from plan_tuning.comparison.tables import Row

MIXED = "all sources, mixed"
_KINDS = (
    "Brings accuracy back on every source",
    "Brings accuracy back over all, though not on every source",
    "Costs more than plain mixing",
    "Undecided",
)
LEGEND = (
    "Interference: the accuracy of a source's own student minus that of the plain mixture on the "
    "source's test problems, in points [95 % interval over problems and seeds], p "
    "Holm-corrected over a mixture and its rows. A share is what a row gains over the mixture by "
    "what the mixture loses, 100 % where it does as well as the sources' own students [95 %, "
    "linearised]; it stands only where interference is shown. all: the problems of all sources "
    "together. "
    "Definitions: experiments/METHOD.md section 12."
)


def transfer_matrix(found: Interference) -> tuple[list[str], list[list[str]]]:
    """Titles and rows of what was trained on what by what it is tested on, in percent."""
    benchmarks = list(found.benchmarks.values())
    lines: list[tuple[str, Row, float | None]] = [
        (f"{source} alone", row, found.tokens[source]) for source, row in found.singles.items()
    ]
    lines.append((MIXED, found.mixed, found.tokens[ALL]))
    lines += [(one.label, one.row, one.tokens) for one in found.mitigations]
    rows = [
        [
            label,
            *(accuracy_text(row.cells.get(name)) for name in benchmarks),
            "unknown" if tokens is None else f"{tokens:,.0f}",
        ]
        for label, row, tokens in lines
    ]
    return ["trained on", *benchmarks, "trained tokens"], rows


def interference_table(found: Interference) -> tuple[list[str], list[list[str]]]:
    """Titles and rows of what mixing costs, and of what each mitigation brings back."""
    sources = [effect.source for effect in found.effects]
    rows = [["interference (alone − mixed)", *(effect_text(effect) for effect in found.effects)]]
    for one in found.mitigations:
        gains = [effect_text(effect) for effect in one.effects]
        rows.append([f"{one.label} − mixed", *gains])
        if one.shares:
            texts = [share_text(one.shares.get(source)) for source in sources]
            rows.append([f"{one.label}: share that comes back", *texts])
    return ["", *sources], rows


def effect_text(effect: Effect) -> str:
    """``+12.0 [9.1, 15.0] p=0.001 ▲``."""
    if math.isnan(effect.value):
        return "–"
    interval = f"[{percent(effect.low, sign=True)}, {percent(effect.high, sign=True)}]"
    mark = "†" if effect.num_seeds == 1 else ""
    points = percent(effect.value, sign=True)
    return f"{points} {interval} {p_text(effect.p_holm)} {SIGNS[effect.direction]}{mark}"


def share_text(share: Share | None) -> str:
    """``85 % [70, 100]``."""
    if share is None or math.isnan(share.value):
        return "–"
    return f"{100 * share.value:.0f} % [{100 * share.low:.0f}, {100 * share.high:.0f}]"


def verdict(found: Interference) -> list[str]:
    """Say in a few lines what was found, and what could not be resolved."""
    total = found.total
    head = f"{found.label}: " if found.label else ""
    if total.direction == "higher":
        lines = [f"{head}Mixing costs {effect_text(total)} points over all sources."]
    elif total.direction == "lower":
        lines = [f"{head}Mixing helps: {effect_text(total)} points over all sources."]
    else:
        lines = [
            f"{head}Undecided whether mixing costs anything: {effect_text(total)} points over all "
            f"sources; {_resolvable(total)}."
        ]
    if found.has_equal_tokens is False:
        lines.append(
            "The mixture did not read the tokens that its sources' own students read together: "
            "part of the difference may be that."
        )
    kinds: dict[str, list[str]] = {words: [] for words in _KINDS}
    for one in found.mitigations:
        kinds[_kind(one)].append(_brought(one))
    lines += [f"{words}: {'; '.join(listed)}." for words, listed in kinds.items() if listed]
    return lines


def _kind(one: Mitigation) -> str:
    """What a row does: over all sources, and then whether on each of them."""
    *each, total = [effect.direction for effect in one.effects]
    if total == "higher":
        return _KINDS[0] if set(each) == {"higher"} else _KINDS[1]
    return _KINDS[2] if total == "lower" else _KINDS[3]


def _brought(one: Mitigation) -> str:
    *each, total = one.effects
    share = one.shares.get(ALL)
    if total.direction == "undecided":
        return f"{one.label} ({effect_text(total)}; {_resolvable(total)})"
    words = share_text(share) if share else effect_text(total)
    others = [effect for effect in each if effect.direction != total.direction]
    rest = [f"{effect.source} {effect_text(effect)}" for effect in others]
    return f"{one.label} ({'; '.join([words, *rest])})"


def _resolvable(effect: Effect) -> str:
    """How large a difference would have to be to stand out of the interval."""
    half = (effect.high - effect.low) / 2
    if math.isnan(half):
        return "no interval is known"
    return f"less than ±{percent(half)} points could not be resolved"


def interference_json(found: Sequence[Interference]) -> list[dict[str, Any]]:
    """The same for other programs; what is not known is null."""
    return [
        {
            "label": one.label,
            "benchmarks": dict(one.benchmarks),
            "interference": [_effect_json(effect) for effect in one.effects],
            "has_equal_tokens": one.has_equal_tokens,
            "mitigations": [
                {
                    "label": row.label,
                    "gains": [_effect_json(effect) for effect in row.effects],
                    "shares": {source: _numbers(vars(s)) for source, s in row.shares.items()},
                }
                for row in one.mitigations
            ],
            "verdict": verdict(one),
        }
        for one in found
    ]


def _effect_json(effect: Effect) -> dict[str, Any]:
    return _numbers(vars(effect)) | {"direction": effect.direction}


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in values.items()
    }
