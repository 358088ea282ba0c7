"""The table → LaTeX: an appendix with everything, or a paper's compact table. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from plan_tuning.comparison.choices import IRRELEVANT
from plan_tuning.comparison.claims import Finding
from plan_tuning.comparison.runs import ComparisonError
from plan_tuning.comparison.table_text import (
    CLAIMS_LEGEND,
    LEGEND,
    accuracy_table,
    finding_table,
    p_text,
    percent,
    seeds_text,
)
from plan_tuning.comparison.tables import Cell, Table


@dataclass(frozen=True)
class Compact:
    """What a paper's table shows; empty: all benchmarks, all swept choices."""

    benchmarks: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()  # of the readable table, in this order


def to_latex(table: Table, found: Sequence[Finding]) -> str:
    """Render booktabs tables: accuracies with their differences, then the paper's claims."""
    head, texts = accuracy_table(table)
    first = len(table.swept) + 1
    last = first + len(table.benchmarks)
    lines = []
    for row, line in zip(table.rows, texts, strict=True):
        cells = [_tex_cell(row.cells.get(name)) for name in table.benchmarks]
        before = [*(_tex(value) for value in row.values), _tex(seeds_text(row))]
        lines.append([*before, *cells, *(_tex(text) for text in line[last:])])
    columns = "l" * len(table.swept) + "r" + "c" * len(table.benchmarks) + "rrr"
    titles = [_tex(text) for text in head]
    parts = ["% needs \\usepackage{booktabs}", _tabular(columns, titles, lines), _note(LEGEND)]
    if found:
        head, claims = finding_table(found)
        titles = [_tex(text) for text in head]
        columns = "p{4cm}p{4cm}" + "c" * (len(titles) - 3) + "p{4cm}"
        parts += ["\\bigskip"]
        parts += [_tabular(columns, titles, [[_tex(text) for text in line] for line in claims])]
        parts += [_note(CLAIMS_LEGEND)]
    return "\n\n".join(parts) + "\n"


def to_compact_latex(table: Table, chosen: Compact) -> str:
    """Render a booktabs table of accuracies with the half width of their intervals.

    Raises:
        ComparisonError: a benchmark or column is not in the table.
    """
    head, texts = accuracy_table(table)
    places = {title: i for i, title in enumerate(head)}
    names = [*table.swept, "seeds", "time/job", "answers", "USD"]
    last = {name.rpartition(".")[2]: name for name in names}
    asked = [last.get(name, name) for name in chosen.columns] or list(table.swept)
    benchmarks = chosen.benchmarks or table.benchmarks
    _check("--columns", asked, names)
    _check("--benchmarks", benchmarks, table.benchmarks)
    lines = [
        [
            *(
                _tex("--" if text[places[key]] == IRRELEVANT else text[places[key]])
                for key in asked
            ),
            *(_compact_cell(row.cells.get(name)) for name in benchmarks),
        ]
        for row, text in zip(table.rows, texts, strict=True)
        if row.cells
    ]
    titles = [_tex(name.rpartition(".")[2]) for name in asked] + [_stacked(n) for n in benchmarks]
    columns = "l" * len(asked) + "c" * len(benchmarks)
    body = (
        f"{{\\footnotesize\\setlength{{\\tabcolsep}}{{4pt}}\n{_tabular(columns, titles, lines)}}}"
    )
    return "\n\n".join(["% needs \\usepackage{booktabs}", body, _note(_caption(table))]) + "\n"


def _stacked(name: str) -> str:
    """Set the words of a long name below each other: its column is as wide as its figures."""
    words = name.split("_")
    return _tex(name) if len(words) == 1 else "\\shortstack{" + "\\\\".join(map(_tex, words)) + "}"


def _check(option: str, asked: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise ComparisonError(
            f"{option}: the table has no {', '.join(unknown)}; it has {', '.join(known)}. "
            f"For example: {option} {','.join(known[:2])}"
        )


def _compact_cell(cell: Cell | None) -> str:
    """Accuracy ± half its interval, with an arrow where it is above or below the baseline."""
    if cell is None:
        return "--"
    text = percent(cell.accuracy)
    if not math.isnan(cell.low):
        # Cut off at 0 or 1, an interval keeps its half width on its other side.
        half = max(cell.accuracy - cell.low, cell.high - cell.accuracy)
        text += f" $\\pm$ {percent(half)}"
    direction = cell.difference.direction if cell.difference else ""
    mark = {"higher": "\\uparrow", "lower": "\\downarrow"}.get(direction, "")
    mark += "\\dagger" if cell.is_single_seed else ""
    return f"{text}$^{{{mark}}}$" if mark else text


def _caption(table: Table) -> str:
    seeds = sorted({cell.num_seeds for row in table.rows for cell in row.cells.values()
                    if not cell.is_seedless})  # fmt: skip
    bases = dict.fromkeys(
        table.label(table.rows[row.baseline]) for row in table.rows if row.baseline is not None
    )
    parts = ["Accuracy in percent ± half the 95 % interval"]
    if seeds and seeds[-1] > 1:
        shown = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        parts[0] += (
            f" over {shown} seeds (Student's t; without seeds to vary: Wilson over problems)"
        )
    text = f"{parts[0]}."
    if any(cell.is_single_seed for row in table.rows for cell in row.cells.values()):
        text += " †: one seed, interval over problems."
    if bases:
        text += f" ▲ ▼: above or below {' or '.join(bases)} (paired, p < 0.05 after Holm)."
    return text


def _tabular(columns: str, head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Render a tabular of titles and cells that are LaTeX already.

    Every line starts with an empty group: LaTeX reads a bracket after a line break as its option.
    """
    titles = " & ".join(head)
    rows = [f"{{}}{' & '.join(line)} \\\\" for line in lines]
    return "\n".join(
        [
            f"\\begin{{tabular}}{{{columns}}}",
            "\\toprule",
            f"{{}}{titles} \\\\",
            "\\midrule",
            *rows,
            "\\bottomrule",
            "\\end{tabular}",
        ]
    )


def _note(legend: str) -> str:
    return f"\\par\\smallskip{{\\footnotesize {_tex(legend)}\\par}}"


def _tex_cell(cell: Cell | None) -> str:
    if cell is None:
        return "--"
    text = f"{percent(cell.accuracy)}"
    if not math.isnan(cell.low):
        dagger = "^\\dagger" if cell.is_single_seed else ""
        text += f" $[{percent(cell.low)}, {percent(cell.high)}]{dagger}$"
    item = cell.difference
    if item is not None:
        mark = {"higher": "\\uparrow", "lower": "\\downarrow"}.get(item.direction, "")
        mark += "^\\dagger" if mark and item.is_single_seed else ""
        value = f"${percent(item.value, sign=True)}$"
        if math.isnan(item.low):
            text += f" ({value})"
        else:
            text += f" ({value} $[{percent(item.low, sign=True)}, {percent(item.high, sign=True)}]"
            text += f"{mark}$, {_tex(p_text(item.p_holm))})"
    return text


_TEX = {
    "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}",
    "†": "$^\\dagger$", "±": "$\\pm$", "Δ": "$\\Delta$", "▲": "$\\uparrow$", "▼": "$\\downarrow$",
    "≈": "$\\approx$", "−": "$-$", "–": "--", "<": "$<$", ">": "$>$", "’": "'",
}  # fmt: skip


def _tex(text: str) -> str:
    return "".join(_TEX.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)
