"""The table -> text: Markdown, CSV, LaTeX and JSON. Pure functions of a comparison's parts."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

from plan_tuning.comparison.choices import IRRELEVANT
from plan_tuning.comparison.claims import NOT_PUBLIC, VERDICTS, Finding
from plan_tuning.comparison.differences import Difference
from plan_tuning.comparison.tables import Cell, Row, Table

_SIGNS = {"higher": "▲", "lower": "▼", "undecided": "="}
LEGEND = (
    "Accuracy in percent: mean over seeds [95 % interval over seeds, Student's t]; † one seed "
    "only: the interval is Wilson's over problems and says nothing about other seeds. Δ: "
    "difference to the baseline in points [95 % paired bootstrap over problems], p: McNemar "
    "(mid-p) pooled over seeds, Holm-corrected over this table; ▲ ▼ where p < 0.05, the interval "
    "excludes 0 and every seed has the same sign, = where that is undecided. -: the choice cannot "
    "change this row. time/job: mean wall time, + where finished stages were taken over."
)
CLAIMS_LEGEND = (
    "Verdicts compare the direction only, by the same rule as ▲ ▼, corrected for the number of "
    "these comparisons. In brackets after a claim: where it was read (the abstract, or summaries "
    "of the paper). Published numbers stand only beside the benchmark they belong to."
)


def percent(value: float, *, sign: bool = False) -> str:
    """Print a share as percent with one decimal; nothing known is a dash.

    >>> percent(0.1234), percent(-0.02, sign=True)
    ('12.3', '-2.0')
    """
    if math.isnan(value):
        return "–"
    return f"{100 * value:+.1f}" if sign else f"{100 * value:.1f}"


def accuracy_text(cell: Cell | None) -> str:
    """``93.1 [91.0, 95.2]``, with a dagger where the interval is over problems only."""
    if cell is None:
        return "–"
    if math.isnan(cell.low):
        return percent(cell.accuracy)
    mark = "†" if cell.is_single_seed else ""
    return f"{percent(cell.accuracy)} [{percent(cell.low)}, {percent(cell.high)}]{mark}"


def difference_text(item: Difference | None) -> str:
    """``+12.0 [9.1, 15.0] p=0.001 ▲``."""
    if item is None:
        return "–"
    text = percent(item.value, sign=True)
    if math.isnan(item.p_holm):
        return f"{text} (not paired)"
    interval = f"[{percent(item.low, sign=True)}, {percent(item.high, sign=True)}]"
    return f"{text} {interval} {p_text(item.p_holm)} {_SIGNS[item.direction]}"


def p_text(p: float) -> str:
    """``p=0.031``, or ``p<0.001``."""
    if math.isnan(p):
        return "p –"
    return "p<0.001" if p < 0.001 else f"p={p:.3f}"


def seeds_text(row: Row) -> str:
    """Number of seeds, with the failed ones."""
    seeds = max((cell.num_seeds for cell in row.cells.values()), default=0)
    return f"{seeds} ({row.num_failed} failed)" if row.num_failed else str(seeds)


def duration(seconds: float) -> str:
    """Print seconds as people say them.

    >>> duration(4.21), duration(75), duration(7300)
    ('4.2 s', '1.2 min', '2.0 h')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def time_text(row: Row) -> str:
    """Mean wall time per job; ``+`` where finished stages were taken over and cost nothing."""
    if not row.runs:
        return "–"
    return duration(row.wall_s) + (" +" if row.is_cached else "")


def cost_text(row: Row) -> str:
    """What the row's jobs paid to the teacher."""
    return "unknown" if row.cost_usd is None else f"{row.cost_usd:.2f}"


def accuracy_table(table: Table) -> tuple[list[str], list[list[str]]]:
    """Titles and rows of the readable table of accuracies."""
    head = [*table.swept, "seeds"]
    for name in table.benchmarks:
        problems = [row.cells[name].num_problems for row in table.rows if name in row.cells]
        sizes = sorted({min(problems, default=0), max(problems, default=0)})
        head.append(f"{name} (n={'–'.join(str(n) for n in sizes)})")
    rows = [
        [
            *row.values,
            seeds_text(row),
            *(accuracy_text(row.cells.get(name)) for name in table.benchmarks),
            time_text(row),
            f"{row.teacher_calls:,}",
            cost_text(row),
        ]
        for row in table.rows
    ]
    return [*head, "time/job", "calls", "USD"], rows


def difference_table(table: Table) -> tuple[list[str], list[list[str]]]:
    """Titles and rows of the differences; rows without a baseline are left out."""
    rows = [
        [
            table.label(row),
            table.label(table.rows[row.baseline]),
            *(
                difference_text(row.cells[name].difference if name in row.cells else None)
                for name in table.benchmarks
            ),
        ]
        for row in table.rows
        if row.baseline is not None
    ]
    return ["row", "baseline", *(f"Δ {name}" for name in table.benchmarks)], rows


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Render a GitHub table; bars and line breaks in cells are escaped."""
    lines = [[_bar(text) for text in head], ["---"] * len(head)]
    lines += [[_bar(text) for text in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _bar(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def finding_table(found: Sequence[Finding]) -> tuple[list[str], list[list[str]]]:
    """Titles and rows of the paper's claims: a line per pair of rows, a column per benchmark."""
    benchmarks = list(dict.fromkeys(item.benchmark for item in found))
    lines: dict[tuple[str, str, str], dict[str, Finding]] = {}
    for item in found:
        line = lines.setdefault((f"{item.claim} ({item.certainty})", item.row, item.against), {})
        line[item.benchmark] = item
    rows = []
    for (claim, row, against), items in lines.items():
        verdicts = [_finding_text(items[name]) if name in items else "–" for name in benchmarks]
        rows.append([claim, f"{row} − {against}", *verdicts, _numbers(list(items.values()))])
    return ["claim of the paper", "here", *benchmarks, "published"], rows


def finding_summary(found: Sequence[Finding]) -> tuple[list[str], list[list[str]]]:
    """Titles and rows of the short form: a line per claim, its verdicts counted over the rows."""
    benchmarks = list(dict.fromkeys(item.benchmark for item in found))
    rows = []
    for claim in dict.fromkeys(item.claim for item in found):
        cells = []
        for name in benchmarks:
            items = [item for item in found if (item.claim, item.benchmark) == (claim, name)]
            verdicts = [item.verdict for item in items]
            counts = [f"{word} {n}" for word in VERDICTS if (n := verdicts.count(word))]
            cells.append(_finding_text(items[0]) if len(items) == 1 else ", ".join(counts) or "–")
        rows.append([claim, *cells, _numbers([item for item in found if item.claim == claim])])
    return ["claim of the paper", *benchmarks, "published"], rows


def _numbers(found: Sequence[Finding]) -> str:
    """The paper's numbers beside these findings, each once."""
    public = [item for item in found if item.published != NOT_PUBLIC]
    texts = dict.fromkeys(f"{item.benchmark}: {item.published}" for item in public)
    return "; ".join(texts) or NOT_PUBLIC


def _finding_text(finding: Finding) -> str:
    item = finding.difference
    return f"{finding.verdict}: {percent(item.value, sign=True)} ({p_text(item.p_holm)})"


_DIFFERENCE_FIELDS = (
    "value", "low", "high", "num_problems", "num_seeds", "gained", "lost", "p", "p_holm"
)  # fmt: skip


def to_csv(table: Table) -> str:
    """Render one line per row and benchmark; shares are 0..1, what is unknown is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [*table.swept, "benchmark", "accuracy", "low", "high", "interval", "seeds", "failed"]
        + ["problems", "baseline"]
        + [f"difference_{name}" for name in _DIFFERENCE_FIELDS]
        + ["direction", "wall_s", "teacher_calls", "cost_usd"]
    )
    for row in table.rows:
        base = "" if row.baseline is None else table.label(table.rows[row.baseline])
        for name in table.benchmarks:
            cell = row.cells.get(name)
            item = cell.difference if cell else None
            figures: list[Any] = [""] * 3
            kind = ""
            if cell:
                figures = [cell.accuracy, cell.low, cell.high]
                kind = "problems" if cell.is_single_seed else "seeds"
            writer.writerow(
                [*row.values, name]
                + [_plain(value) for value in figures]
                + [kind, cell.num_seeds if cell else 0, row.num_failed]
                + [cell.num_problems if cell else 0, base]
                + [_plain(getattr(item, field)) if item else "" for field in _DIFFERENCE_FIELDS]
                + [item.direction if item else "", round(row.wall_s, 3), row.teacher_calls]
                + ["" if row.cost_usd is None else row.cost_usd]
            )
    return text.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else round(value, 6)
    return value


def to_latex(table: Table) -> str:
    """Render a booktabs table: accuracy with its interval, and the difference below."""
    columns = "l" * len(table.swept) + "r" + "c" * len(table.benchmarks)
    head = " & ".join(_tex(text) for text in (*table.swept, "seeds", *table.benchmarks))
    lines = [
        "% needs \\usepackage{booktabs}",
        f"\\begin{{tabular}}{{{columns}}}",
        "\\toprule",
        f"{head} \\\\",
        "\\midrule",
    ]
    for row in table.rows:
        texts = [*(_tex(value) for value in row.values), _tex(seeds_text(row))]
        texts += [_tex_cell(row.cells.get(name)) for name in table.benchmarks]
        lines.append(" & ".join(texts) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _tex_cell(cell: Cell | None) -> str:
    if cell is None:
        return "--"
    text = f"{percent(cell.accuracy)}"
    if not math.isnan(cell.low):
        dagger = "^\\dagger" if cell.is_single_seed else ""
        text += f" $[{percent(cell.low)}, {percent(cell.high)}]{dagger}$"
    if cell.difference is not None:
        star = "^{*}" if cell.difference.direction != "undecided" else ""
        text += f" (${percent(cell.difference.value, sign=True)}{star}$)"
    return text


_TEX = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}


def _tex(text: str) -> str:
    return "".join(_TEX.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)


def to_json(table: Table, found: Sequence[Finding]) -> dict[str, Any]:
    """Turn the table and the findings into JSON values; what is unknown is null."""
    return {
        "schema": 1,
        "swept": list(table.swept),
        "benchmarks": list(table.benchmarks),
        "rows": [_row_json(table, row) for row in table.rows],
        "claims": [
            {
                "claim": item.claim,
                "certainty": item.certainty,
                "row": item.row,
                "against": item.against,
                "benchmark": item.benchmark,
                "direction": item.direction,
                "published": item.published,
                "difference": _difference_json(item.difference),
                "verdict": item.verdict,
            }
            for item in found
        ],
        "notes": list(table.notes),
    }


def _row_json(table: Table, row: Row) -> dict[str, Any]:
    chosen = zip(table.swept, row.values, strict=True)
    return {
        "choices": {key: None if value == IRRELEVANT else value for key, value in chosen},
        "label": table.label(row),
        "jobs": [run.name for run in row.runs],
        "failed_seeds": row.num_failed,
        "baseline": None if row.baseline is None else table.label(table.rows[row.baseline]),
        "wall_s": row.wall_s,
        "is_cached": row.is_cached,
        "teacher_calls": row.teacher_calls,
        "cost_usd": row.cost_usd,
        "benchmarks": {
            name: {
                "accuracy": cell.accuracy,
                "low": _null(cell.low),
                "high": _null(cell.high),
                "interval_over": "problems" if cell.is_single_seed else "seeds",
                "seeds": {str(seed): value for seed, value in cell.by_seed.items()},
                "problems": cell.num_problems,
                "difference": _difference_json(cell.difference),
            }
            for name, cell in row.cells.items()
        },
    }


def _difference_json(item: Difference | None) -> dict[str, Any] | None:
    if item is None:
        return None
    figures = {name: _null(getattr(item, name)) for name in _DIFFERENCE_FIELDS}
    return figures | {"by_seed": list(item.by_seed), "direction": item.direction}


def _null(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
