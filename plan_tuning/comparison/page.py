"""A finished comparison -> report.html: one file that works offline, tables without scripts."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template

from plan_tuning.comparison.browser import browser_payload
from plan_tuning.comparison.claims import VERDICTS
from plan_tuning.comparison.comparison import Comparison
from plan_tuning.comparison.diagnostics import leak_rates, threshold_curve
from plan_tuning.comparison.drawing import Figure
from plan_tuning.comparison.figures import draw_figures
from plan_tuning.comparison.filter_comparison import UNNAMED
from plan_tuning.comparison.interference_text import (
    LEGEND,
    interference_table,
    transfer_matrix,
    verdict,
)
from plan_tuning.comparison.learning_table import LEARNING_LEGEND, learning_table
from plan_tuning.comparison.plan_value_figure import worth_figure
from plan_tuning.comparison.plan_value_text import (
    VALUE_LEGEND,
    WORTH_LEGEND,
    correlation_lines,
    likelihood_table,
    worth_table,
)
from plan_tuning.comparison.runs import corpus_files, read_predictions, read_trajectories
from plan_tuning.comparison.table_text import (
    CLAIMS_LEGEND,
    LEGEND_ENTRIES,
    LEGEND_LINE,
    REWARDS_LEGEND,
    accuracy_table,
    difference_text,
    finding_table,
    reward_table,
)
from plan_tuning.comparison.tables import Table
from plan_tuning.distillation.filter_effects import LEGEND as EFFECTS_LEGEND
from plan_tuning.distillation.filter_effects import effect_rows

_MAX_CORPORA = 6
# A corpus is counted before a job filters it: these two are of a fixed filter, whatever the job's.
_FUNNEL_TITLES = {"good_score": "score of 80 or more", "selected": "kept by filter two_stage"}


def report_page(comparison: Comparison, *, title: str) -> str:
    """Render the page."""
    table = comparison.table
    payload = browser_payload(table, comparison.results.runs)
    parts = {
        "title": escape(title),
        "summary": escape(comparison.summary),
        "warnings": "".join(
            f'<p class="warning">{escape(line)}</p>' for line in comparison.warnings
        ),
        "table": _accuracies(table),
        "plan_values": _mixed_training(comparison)
        + _plan_values(comparison)
        + _filter_effects(comparison),
        "plans_link": '<a href="#plans">Plans</a>' if comparison.worth.rows else "",
        "claims": _claims(comparison),
        "figures": "".join(figure_html(figure) for figure in comparison_figures(comparison)),
        "corpus": _funnels(comparison),
        "reading": "".join(f"<li>{escape(line)}</li>" for line in LEGEND_ENTRIES),
        "missing": _missing(comparison.holes),
        "left_out": escape(payload.left_out),
        "data": payload.packed(),
        "style": _asset("page.css"),
        "script": _asset("page.js"),
    }
    return Template(_asset("page.html")).substitute(parts)


def _asset(name: str) -> str:
    return files("plan_tuning.comparison").joinpath("assets", name).read_text(encoding="utf-8")


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Render cells that are HTML already."""
    titles = "".join(f"<th>{escape(text)}</th>" for text in head)
    lines = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{titles}</tr>{lines}</table></div>'


def _accuracies(table: Table) -> str:
    if not table.rows:
        return "<p>No job has left a result yet.</p>"
    head, rows = accuracy_table(table)
    first = len(table.swept) + 1
    lines = []
    for row, texts in zip(table.rows, rows, strict=True):
        line = [escape(text) for text in texts]
        for offset, name in enumerate(table.benchmarks):
            cell = row.cells.get(name)
            if cell is None:
                continue
            item = cell.difference
            delta, direction = "", ""
            if item is not None:
                delta, direction = f"Δ {difference_text(item)}", item.direction
            elif row.baseline is None:
                delta = "baseline"
            line[first + offset] += (
                f'<span class="delta {direction}">{_kept_together(delta)}</span>'
            )
        lines.append(line)
    more = '<a href="#reading">Every mark and figure</a>'
    legend = f'<p class="dim">{escape(LEGEND_LINE)} {more}</p>'
    basis = f"<p>{escape(table.basis)}</p>" if table.basis else ""
    return _html_table(head, lines) + basis + legend + _rewards(table)


def _kept_together(text: str) -> str:
    """Let no sign stand alone on a line."""
    shown = escape(text)
    for sign in ("▲", "▼", "≈", "?"):
        shown = shown.replace(f" {sign}", f"&nbsp;{sign}")
    return shown


def _rewards(table: Table) -> str:
    head, rows = reward_table(table)
    if not rows:
        return ""
    cells = [[escape(text) for text in row] for row in rows]
    legend = f'<p class="dim">{escape(REWARDS_LEGEND)}</p>'
    learned = _text_table(*learning_table(table)) + _dim(LEARNING_LEGEND)
    return f"<h3>Rewards of GRPO</h3>{_html_table(head, cells)}{legend}{learned}"


def _filter_effects(comparison: Comparison) -> str:
    """The section of what filters do to plans; nothing unless it was asked for."""
    if not comparison.effects:
        return ""
    parts = [
        f"<h3>{escape(one.source or UNNAMED)}, {one.corpora} corpora</h3>"
        + _text_table(*effect_rows(one.effects))
        for one in comparison.effects
    ]
    title = "Plans before and after the filters"
    return f"<section><h2>{title}</h2>{''.join(parts)}{_dim(EFFECTS_LEGEND)}</section>"


def _mixed_training(comparison: Comparison) -> str:
    """The section of what mixing costs; nothing where nothing was mixed."""
    parts = []
    for found in comparison.interferences:
        parts += [_text_table(*transfer_matrix(found)), _text_table(*interference_table(found))]
        parts += [f"<p>{escape(line)}</p>" for line in verdict(found)]
    if not parts:
        return ""
    return f'<section id="mixed"><h2>Mixed training</h2>{"".join(parts)}{_dim(LEGEND)}</section>'


def _plan_values(comparison: Comparison) -> str:
    """The section of what plans are worth; nothing where it was not asked for."""
    worth = comparison.worth
    if not worth.rows:
        return ""
    parts = [_text_table(*likelihood_table(worth)), _dim(VALUE_LEGEND)]
    head, rows = worth_table(worth)
    if rows:
        parts += [_text_table(head, rows), _dim(WORTH_LEGEND)]
    parts += [f"<p>{escape(line)}</p>" for line in correlation_lines(worth)]
    return f'<section id="plans"><h2>What a plan is worth</h2>{"".join(parts)}</section>'


def _text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return _html_table(head, [[_kept_together(text) for text in row] for row in rows])


def _dim(text: str) -> str:
    return f'<p class="dim">{escape(text)}</p>'


def _claims(comparison: Comparison) -> str:
    silence = "".join(f"<p>{escape(line)}</p>" for line in comparison.silence)
    silence = "".join(f"<p>{escape(line)}</p>" for line in comparison.registration) + silence
    if not comparison.findings:
        return silence
    head, rows = finding_table(comparison.findings)
    cells = [[_verdict(text) for text in row] for row in rows]
    return _html_table(head, cells) + f'<p class="dim">{escape(CLAIMS_LEGEND)}</p>' + silence


def _verdict(text: str) -> str:
    """Set a verdict apart from its figures; other cells are text."""
    word, colon, figures = text.partition(": ")
    verdict = word.removesuffix("†")
    if not colon or verdict not in VERDICTS:
        return escape(text)
    return f'<strong class="{verdict}">{escape(word)}</strong>: {escape(figures)}'


def comparison_figures(comparison: Comparison) -> list[Figure]:
    """Draw what the page shows of the table, the corpora, the curves and the plans."""
    table = comparison.table
    rates: dict[str, Mapping[str, float]] = {}
    for row in table.rows:
        answers = [p for name in row.cells for r in row.runs_for(name)
                   for p in read_predictions(r, name)]  # fmt: skip
        rates[table.label(row)] = leak_rates(answers)
    paths = corpus_files(comparison.results.completed)
    curves = {
        path.parent.name: threshold_curve(rows)
        for path in paths[:_MAX_CORPORA]
        if (rows := read_trajectories(path))
    }
    drawn = draw_figures(table, corpora=curves, rates=rates)
    worth = worth_figure(table, comparison.worth)
    return drawn if worth is None else [*drawn, worth]


def figure_html(figure: Figure) -> str:
    """Embed a figure with its caption."""
    source = base64.b64encode(figure.svg.encode()).decode("ascii")
    return (
        f'<figure id="figure-{escape(figure.name)}">'
        f'<img alt="{escape(figure.title)}" src="data:image/svg+xml;base64,{source}">'
        f"<figcaption><b>{escape(figure.title)}.</b> {escape(figure.caption)}</figcaption></figure>"
    )


def _funnels(comparison: Comparison) -> str:
    """One funnel per row that learned from a corpus, summed over its seeds."""
    blocks = []
    for row in comparison.table.rows:
        corpora = [run.result.corpus for run in row.runs if run.result.corpus]
        if not corpora:
            continue
        counts = _sums([corpus.funnel for corpus in corpora])
        counts |= {"training rows": sum(corpus.rows or 0 for corpus in corpora)}
        reasons = _sums([corpus.reasons or {} for corpus in corpora])
        reasons.pop("kept", None)
        label = escape(comparison.table.label(row))
        blocks.append(
            f'<div class="funnel"><h3>{label}</h3>{_bars(counts)}'
            + (f"<h4>left out, by reason</h4>{_bars(reasons)}" if reasons else "")
            + "</div>"
        )
    if not blocks:
        return "<p>No row learned from a teacher's corpus.</p>"
    return f'<div class="funnels">{"".join(blocks)}</div>'


def _sums(mappings: Sequence[Mapping[str, int]]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for mapping in mappings:
        for key, value in mapping.items():
            totals[key] = totals.get(key, 0) + value
    return totals


def _bars(counts: Mapping[str, int]) -> str:
    most = max(counts.values(), default=0) or 1
    lines = "".join(
        f"<tr><td>{escape(_FUNNEL_TITLES.get(name) or name.replace('_', ' '))}</td>"
        f"<td>{count:,}</td>"
        f'<td class="bar-cell"><div class="fill" style="width:{100 * count / most:.1f}%"></div>'
        "</td></tr>"
        for name, count in counts.items()
    )
    return f"<table>{lines}</table>"


def _missing(holes: Sequence[str]) -> str:
    if not holes:
        return "<p>None.</p>"
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in holes) + "</ul>"
