"""The table -> text for readers: cells, Markdown, legends. Pure functions of its parts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from plan_tuning.comparison.claims import NOT_PUBLIC, VERDICTS, Finding
from plan_tuning.comparison.differences import Difference
from plan_tuning.comparison.disagreements import Disagreement
from plan_tuning.comparison.tables import Cell, Row, Table
from plan_tuning.statistics.intervals import mean_interval

SIGNS = {"higher": "▲", "lower": "▼", "undecided": "?", "equivalent": "≈"}
_NEEDS_SEEDS = "more seeds needed"
_SHOWN_PROBLEMS = 5
_SMALLEST_P = 0.001  # that is printed
LEGEND_LINE = (
    "[95 % interval], Δ points to the baseline: ▲ ▼ decided (p < 0.05, Holm), ≈ equivalent, "
    "? undecided; "
    "† one seed only; - cannot matter."
)
LEGEND_ENTRIES = (
    "Accuracy in percent: mean over seeds [95 % interval over seeds, Student's t].",
    "† one seed only: interval, p and ▲ ▼ are over problems and say nothing about other seeds, by "
    "which alone accuracies differ by several points; run three seeds or more before believing "
    "them.",
    "seeds any: no seed can change the row, its interval is Wilson's over problems.",
    "Δ: difference to the baseline in points [95 % interval over problems and seeds: crossed "
    "random effects, and at least Student's over the seeds' differences; one seed: paired "
    "bootstrap over problems], p of the same paired by problem (the larger of the crossed test and "
    "a permutation of problems; one seed: McNemar, mid-p), Holm-corrected over this table.",
    "▲ ▼ where p < 0.05 and the interval, which is not corrected, excludes 0; ? undecided, which "
    "is not equal: more seeds needed stands where the interval excludes 0 and p does not decide.",
    "≈ equivalent: undecided, and the interval at the level that Holm's correction leaves lies "
    "within ± the smallest effect of interest (comparison.smallest_effect). resolved: yes (▲ ▼, "
    "and that interval excludes 0), equivalent, or no. Where fewer than five answers differ the "
    "interval is as wide as the share of problems that may differ leaves it: 0 of 48 is not equal.",
    "-: the choice cannot change this row.",
    "time/job: mean wall time, + where finished stages were taken over.",
    "answers, USD: the teacher's answers that the row rests on and their price, whichever job "
    "bought them: those of its corpora, each corpus once, and those that its jobs asked for beside "
    "(judge, executor). Rows that share a corpus all count it, and equal answers were bought once; "
    "what was bought in all stands above the table, what a row's own jobs bought in the CSV and "
    "JSON (teacher_calls, cost_usd).",
)
LEGEND = " ".join(LEGEND_ENTRIES)
CLAIMS_LEGEND = (
    "Per line: the ablation's code, the accuracies of both rows, their difference, and whether it "
    "is resolved; confirmatory where it was registered before the first job. "
    "Verdicts compare the direction only, by the same rule as ▲ ▼, corrected for the number of "
    "these comparisons; † one seed, so nothing is known about others. A claim that something is "
    "inconsistent agrees where both directions are decided, and is judged over all its rows. In "
    "brackets after a claim: where it was read (the abstract, summaries of the paper, the released "
    "code), and whether the rows it is compared with are our reading. Published numbers stand only "
    "beside the benchmark, model and training set they belong to."
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
    """``+12.0 [9.1, 15.0] p=0.001 ▲``, with its seeds where they are not all of the row's."""
    if item is None:
        return "–"
    text = percent(item.value, sign=True)
    if math.isnan(item.p_holm):
        text += " (not tested: no predictions)"
    else:
        interval = f"[{percent(item.low, sign=True)}, {percent(item.high, sign=True)}]"
        mark = "†" if item.is_single_seed else ""
        sign = "equivalent" if item.resolved == "equivalent" else item.direction
        text += f" {interval} {p_text(item.p_holm)} {SIGNS[sign]}{mark}"
        text += f" {_NEEDS_SEEDS}" if item.needs_seeds else ""
    if item.is_partial:
        listed = ", ".join(str(seed) for seed in item.seeds)
        text += f" (seed{'s' if len(item.seeds) > 1 else ''} {listed})"
    return text


def p_text(p: float) -> str:
    """``p=0.031``, or ``p<0.001``."""
    if math.isnan(p):
        return "p –"
    return "p<0.001" if p < _SMALLEST_P else f"p={p:.3f}"


def seeds_text(row: Row) -> str:
    """Number of seeds, with the failed ones; ``any`` where no seed can change the row."""
    seeds = str(max((cell.num_seeds for cell in row.cells.values()), default=0))
    if row.cells and all(cell.is_seedless for cell in row.cells.values()):
        seeds = "any"
    return f"{seeds} ({row.num_failed} failed)" if row.num_failed else seeds


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
    """What the teacher calls cost that the row rests on."""
    return "unknown" if row.rests_on_usd is None else f"{row.rests_on_usd:.2f}"


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
            f"{row.rests_on_calls:,}",
            cost_text(row),
        ]
        for row in table.rows
    ]
    return [*head, "time/job", "answers", "USD"], rows


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
        claim = f"{item.ablation}: {item.claim} ({item.certainty})"
        line = lines.setdefault((claim, item.row, item.against), {})
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
        first = next(item for item in found if item.claim == claim)
        certainty, code = first.certainty, first.ablation
        for name in benchmarks:
            items = [item for item in found if (item.claim, item.benchmark) == (claim, name)]
            verdicts = [item.verdict for item in items]
            counts = [f"{word} {n}" for word in VERDICTS if (n := verdicts.count(word))]
            mark = "†" if any(item.difference.is_single_seed for item in items) else ""
            several = ", ".join(counts) + mark if counts else "–"
            cells.append(_finding_text(items[0]) if len(items) == 1 else several)
        rows.append(
            [
                f"{code}: {claim} ({certainty})",
                *cells,
                _numbers([item for item in found if item.claim == claim]),
            ]
        )
    return ["claim of the paper", *benchmarks, "published"], rows


def _numbers(found: Sequence[Finding]) -> str:
    """The paper's numbers beside these findings, each once."""
    public = [item for item in found if item.published != NOT_PUBLIC]
    texts = dict.fromkeys(f"{item.benchmark}: {item.published}" for item in public)
    return "; ".join(texts) or NOT_PUBLIC


def _finding_text(finding: Finding) -> str:
    item = finding.difference
    seeds = (
        f"{len(item.seeds)} seed{'s' if len(item.seeds) > 1 else ''}" if item.seeds else "no seed"
    )
    mark = "†" if item.is_single_seed else ""
    interval = f"[{percent(item.low, sign=True)}, {percent(item.high, sign=True)}]"
    pair = " -> ".join(percent(accuracy) for accuracy in finding.accuracies)
    figures = f"{pair}, {percent(item.value, sign=True)} {interval} {p_text(item.p_holm)}"
    needed = f", {_NEEDS_SEEDS}" if item.needs_seeds else ""
    resolved = f", resolved: {item.resolved}" if item.resolved else ""
    kind = ", confirmatory" if finding.is_confirmatory else ""
    return f"{finding.verdict}{mark}: {figures}, {seeds}{needed}{resolved}{kind}"


DISAGREEMENTS_LEGEND = (
    "In more than half of the shared seeds; the full lists are in comparison.json."
)


def disagreement_table(found: Sequence[Disagreement]) -> tuple[list[str], list[list[str]]]:
    """Titles and rows of the problems that only a row or only its baseline solves."""
    rows = [
        [item.row, item.baseline, item.benchmark]
        + [_listed(problems) for problems in (item.only_row, item.only_baseline)]
        for item in found
    ]
    return ["row", "baseline", "benchmark", "only the row", "only the baseline"], rows


def _listed(problems: Sequence[str]) -> str:
    if not problems:
        return "0"
    more = ", …" if len(problems) > _SHOWN_PROBLEMS else ""
    return f"{len(problems)}: {', '.join(problems[:_SHOWN_PROBLEMS])}{more}"


REWARDS_LEGEND = (
    "Mean total reward at the beginning and at the end of GRPO, in the reward's own units [95 % "
    "interval over seeds, Student's t]; rewards of different rows are different sums."
)


def reward_table(table: Table) -> tuple[list[str], list[list[str]]]:
    """Titles and rows of what GRPO did to the reward that it maximised; no rows without any."""
    rows = []
    for row in table.rows:
        pairs = [
            (float(first), float(final))
            for run in row.runs
            if isinstance(first := (run.result.training or {}).get("first_reward"), int | float)
            and isinstance(final := (run.result.training or {}).get("final_reward"), int | float)
        ]
        if pairs:
            firsts, finals = zip(*pairs, strict=True)
            gains = [final - first for first, final in pairs]
            texts = [_mean_text(values) for values in (firsts, finals, gains)]
            rows.append([table.label(row), str(len(pairs)), *texts])
    return ["row", "seeds", "first reward", "final reward", "final − first"], rows


def _mean_text(values: Sequence[float]) -> str:
    interval = mean_interval(values)
    if math.isnan(interval.low):
        return f"{interval.value:.2f}†"
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
