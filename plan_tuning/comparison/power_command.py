"""The subcommand ``plan-tuning power``: what a comparison can see, before it is paid for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from plan_tuning.comparison.variances import JobCost, Variances
    from plan_tuning.statistics.power import Components

_PROBLEMS = "30,300,500,1319"  # AIME, a micro test set, MATH-500, GSM8K
_SEEDS = "1,3,5,10"
_WIDTH_OF_LOGS = 160
_HOUR = 3600
ONE_SEED = "1 seed: the difference of those two runs, which says nothing about other seeds."


def power(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Finished sweeps that tell how differences vary; none: assume it.",
            metavar="DIR...",
        ),
    ] = None,
    problems: Annotated[
        str | None, typer.Option(help="Numbers of test problems, joined by commas.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Numbers of seeds an arm, joined by commas.")] = _SEEDS,
    comparisons: Annotated[
        int | None,
        typer.Option(
            help="Differences in the table, for which its tests are corrected (Holm): rows beside "
            "the baseline times benchmarks. Default: those of DIR, or 1."
        ),
    ] = None,
    difference: Annotated[
        float | None, typer.Option(help="Points that should be seen: what do they need?")
    ] = None,
    differ: Annotated[
        float | None,
        typer.Option(
            help="Assumed percent of problems on which two runs differ; 10 where nothing is "
            "measured."
        ),
    ] = None,
    seed_spread: Annotated[
        float | None,
        typer.Option(help="Assumed standard deviation of accuracy over seeds, in points; 0."),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Rows that the others of DIR are compared with.")
    ] = None,
) -> None:
    """Say which differences n problems and s seeds show with 80 % power, and what one needs."""
    from plan_tuning.comparison.runs import ComparisonError
    from plan_tuning.statistics.power import ASSUMED_SHARE

    try:
        counts = None if problems is None else _numbers("problems", problems, least=2)
        seed_counts = _numbers("seeds", seeds, least=1)
        _check("comparisons", comparisons, 1, 100_000, "--comparisons 7")
        _check("difference", difference, 0.01, 100, "--difference 2")
        _check("differ", differ, 0.01, 100, "--differ 10")
        _check("seed-spread", seed_spread, 0, 50, "--seed-spread 1.5")
        if folders:
            for name, value in (("differ", differ), ("seed-spread", seed_spread)):
                if value is not None:
                    raise ComparisonError(
                        f"--{name}={value:g} is an assumption, and {folders[0]} is measured: give "
                        f"one of the two, for example: plan-tuning power --{name} {value:g}"
                    )
            _from_runs(folders, counts, seed_counts, comparisons, difference, baseline)
        else:
            _assumed(
                100 * ASSUMED_SHARE if differ is None else differ,
                seed_spread or 0.0,
                counts or _numbers("problems", _PROBLEMS, least=2),
                seed_counts,
                comparisons or 1,
                difference,
            )
    except ComparisonError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


def _numbers(name: str, text: str, *, least: int) -> list[int]:
    from plan_tuning.comparison.runs import ComparisonError

    words = [word.strip().replace("_", "") for word in text.split(",") if word.strip()]
    if not words or not all(word.isdigit() and int(word) >= least for word in words):
        example = _PROBLEMS if name == "problems" else _SEEDS
        raise ComparisonError(
            f"--{name}={text}: whole numbers of {least} or more, joined by commas; for example "
            f"--{name} {example}"
        )
    return sorted({int(word) for word in words})


def _check(name: str, value: float | None, low: float, high: float, example: str) -> None:
    from plan_tuning.comparison.runs import ComparisonError

    if value is not None and not low <= value <= high:
        raise ComparisonError(f"--{name}={value:g}: {low:g} to {high:g}; for example {example}")


def _from_runs(
    folders: Sequence[Path],
    counts: list[int] | None,
    seeds: Sequence[int],
    comparisons: int | None,
    difference: float | None,
    baseline: str | None,
) -> None:
    from plan_tuning.comparison.differences import OutcomeReader
    from plan_tuning.comparison.judged import judged_again
    from plan_tuning.comparison.runs import ComparisonError, load
    from plan_tuning.comparison.tables import build_table
    from plan_tuning.comparison.variances import JobCost, num_comparisons, variances

    results, _ = judged_again(load(folders))
    reader = OutcomeReader()
    table = build_table(results, baseline=baseline, reader=reader)
    measured = variances(table, reader)
    if not measured:
        raise ComparisonError(
            f"{folders[0]}: no two rows share a seed and predictions that differ; assume how they "
            "vary: plan-tuning power --differ 10 --seed-spread 1"
        )
    number = comparisons or max(1, num_comparisons(table))
    typer.echo(
        f"From {len(results.completed)} finished runs; {number} "
        f"comparison{'s' if number > 1 else ''}, corrected by Holm; 80 % power."
    )
    _show(_components_table(measured))
    cost = JobCost.of(table, results)
    for item in measured:
        sizes = counts or sorted({item.problems, 2 * item.problems, 4 * item.problems})
        title = f"{item.benchmark}: smallest difference that is seen, in points"
        _show(_grid(title, item.parts, sizes, seeds, number))
    if difference is not None:
        for item in measured:
            for size in counts or [item.problems]:
                typer.echo(f"{item.benchmark}: {_needed(difference, item.parts, size, number)}")
        _show_cost(measured, counts, difference, number, cost)
    if 1 in seeds:
        typer.echo(ONE_SEED)
    if any(item.seeds == 1 for item in measured):
        typer.echo(
            "One seed an arm: how far seeds spread is not known, and counted as nothing. "
            "With three seeds it is measured."
        )


def _assumed(
    share: float,
    spread: float,
    counts: Sequence[int],
    seeds: Sequence[int],
    comparisons: int,
    difference: float | None,
) -> None:
    from plan_tuning.comparison.variances import assumption
    from plan_tuning.statistics.power import assumed

    parts = assumed(share / 100, seed_sd=spread / 100)
    number = f"{comparisons} comparison{'s' if comparisons > 1 else ''}"
    typer.echo(f"A{assumption(share, spread)[1:]}; {number}, corrected by Holm; 80 % power.")
    title = "Smallest difference that is seen, in points"
    _show(_grid(title, parts, counts, seeds, comparisons))
    if 1 in seeds:
        typer.echo(ONE_SEED)
    if difference is not None:
        for count in counts:
            typer.echo(_needed(difference, parts, count, comparisons))


def _components_table(measured: Sequence[Variances]) -> tuple[str, list[str], list[list[str]]]:
    head = ["benchmark", "pairs", "seeds", "problems", "problem", "problem × arm", "seed × arm"]
    rows = [
        [
            item.benchmark,
            str(item.pairs),
            str(item.seeds),
            f"{item.problems:,}",
            *(
                f"{value:.4f}" if value == value else "–"  # nan
                for value in (item.parts.problem, item.parts.by_problem)
            ),
            "–" if item.seeds == 1 else f"{item.parts.by_seed:.6f}",
            "–" if item.seeds == 1 else f"{item.parts.residual:.4f}",
        ]
        for item in measured
    ]
    title = "Variances of a difference in one answer (the problem's own cancels in pairs)"
    return title, [*head, "residual"], rows


def _grid(
    title: str, parts: Components, counts: Sequence[int], seeds: Sequence[int], comparisons: int
) -> tuple[str, list[str], list[list[str]]]:
    from plan_tuning.comparison.variances import points
    from plan_tuning.statistics.power import smallest_difference

    rows = [
        [f"{count:,}"]
        + [
            points(
                smallest_difference(parts, problems=count, seeds=number, comparisons=comparisons)
            )
            for number in seeds
        ]
        for count in counts
    ]
    return title, ["problems", *(f"{n} seed{'s' if n > 1 else ''}" for n in seeds)], rows


def _needed(difference: float, parts: Components, problems: int, comparisons: int) -> str:
    from plan_tuning.statistics.power import problems_needed, seeds_needed

    wanted = difference / 100
    seeds = seeds_needed(wanted, parts, problems=problems, comparisons=comparisons)
    few = problems_needed(wanted, parts, seeds=3, comparisons=comparisons)
    by_seeds = (
        f"no number of seeds on {problems:,} problems"
        if seeds is None
        else f"{seeds} seeds on {problems:,} problems"
    )
    by_problems = "no number of problems" if few is None else f"{few:,} problems"
    return f"{difference:g} points need {by_seeds}, or {by_problems} with 3 seeds"


def _show_cost(
    measured: Sequence[Variances],
    counts: Sequence[int] | None,
    difference: float,
    comparisons: int,
    cost: JobCost,
) -> None:
    """Print what as many seeds cost as show the difference on every benchmark that can show it."""
    from plan_tuning.statistics.power import seeds_needed

    needed = [
        seeds_needed(difference / 100, item.parts, problems=size, comparisons=comparisons)
        for item in measured
        for size in counts or [item.problems]
    ]
    seeds = max((number for number in needed if number is not None), default=None)
    if seeds is None:
        typer.echo("No number of seeds is enough, so there is nothing to count the cost of.")
        return
    jobs = cost.jobs(seeds)
    once = f" and {cost.seedless_rows} that no seed changes" if cost.seedless_rows else ""
    time = "an unknown time (all finished jobs took stages over)"
    if cost.wall_s is not None:
        hours = jobs * cost.wall_s / _HOUR
        time = f"{hours:.1f} hours of jobs like the finished ones, one after another"
    usd = "at an unknown price" if cost.usd is None else f"for {jobs * cost.usd:.2f} USD"
    calls = f"{jobs * cost.calls:,.0f} teacher calls {usd}" if cost.calls else "no teacher calls"
    typer.echo(
        f"{seeds} seeds of {cost.rows} rows{once} are {jobs} jobs: {time}, {calls} beside the "
        "corpora, which all seeds share."
    )


def _show(shown: tuple[str, list[str], list[list[str]]]) -> None:
    from rich.console import Console
    from rich.table import Table

    title, head, rows = shown
    table = Table()
    for name in head:
        table.add_column(name, justify="left" if name == head[0] else "right")
    for row in rows:
        table.add_row(*row)
    console = Console()
    console = console if console.is_terminal else Console(width=_WIDTH_OF_LOGS)
    console.print(title, highlight=False)
    console.print(table)
