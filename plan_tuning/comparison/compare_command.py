"""The subcommand ``plan-tuning compare``."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from plan_tuning.comparison.comparison import Comparison
    from plan_tuning.tracking.tracker import Tracker

_MAX_TABLE_ROWS = 10_000  # that W&B shows


class Latex(StrEnum):
    """How much of the table LaTeX shows."""

    FULL = "full"
    COMPACT = "compact"


def compare(
    folders: Annotated[
        list[Path], typer.Argument(help="Sweeps, or folders of single jobs.", metavar="DIR...")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Where to write; by default the first folder.")
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="Rows to compare with: a method, or key=value pairs joined by commas."),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(help="Write the figure of accuracies to this file too.", metavar="FILE.svg"),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(help="Replace a comparison that was made from files which are missing here."),
    ] = False,
    smallest_effect: Annotated[
        float | None,
        typer.Option(
            help="Points that would matter: a corrected interval within ± these is called "
            "equivalent. Default: the sweep's own."
        ),
    ] = None,
    by_compute: Annotated[
        bool,
        typer.Option(
            "--compute",
            help="Show what each row's training cost, and which differences are between equals.",
        ),
    ] = False,
    noise: Annotated[
        Path | None,
        typer.Option(
            help="Counts of experiments/benchmarks/generation.py --noise, beside differences that "
            "are smaller.",
            metavar="FILE.json",
        ),
    ] = None,
    latex: Annotated[
        Latex,
        typer.Option(
            help="full: comparison.tex, an appendix; compact: comparison_compact.tex beside it, "
            "accuracy ± interval for a paper."
        ),
    ] = Latex.FULL,
    benchmarks: Annotated[
        str, typer.Option(help="Of the compact table, joined by commas; default: all.")
    ] = "",
    columns: Annotated[
        str,
        typer.Option(help="Of the compact table: swept choices, seeds, time/job, answers, USD."),
    ] = "",
    plans: Annotated[
        bool,
        typer.Option(
            "--plans", help="Show what each filter does to plans: diversity and coherence."
        ),
    ] = False,
    wandb: Annotated[
        bool,
        typer.Option(help="Log it as a W&B run too: offline, or where WANDB_MODE=online says so."),
    ] = False,
    wandb_project: Annotated[str, typer.Option(help="W&B project.")] = "plan-tuning",
) -> None:
    """Compare finished jobs: a table here, comparison.{md,csv,tex,json} and report.html on disk."""
    from plan_tuning.comparison.comparison_files import compare as run
    from plan_tuning.comparison.inference_noise import read_noise
    from plan_tuning.comparison.latex import Compact
    from plan_tuning.comparison.runs import ComparisonError

    if figure is not None and figure.suffix != ".svg":
        typer.echo(
            f"error: --figure={figure}: figures are written as .svg, for example "
            f"--figure {figure.with_suffix('.svg')}",
            err=True,
        )
        raise typer.Exit(2)
    compact = None
    if latex is Latex.COMPACT:
        compact = Compact(_listed(benchmarks), _listed(columns))
    elif benchmarks or columns:
        typer.echo("error: --benchmarks and --columns choose for --latex compact", err=True)
        raise typer.Exit(2)
    try:
        if smallest_effect is not None and not 0 < smallest_effect <= 100:
            raise ComparisonError(
                f"--smallest-effect={smallest_effect:g}: points of accuracy, above 0 and at most "
                "100; for example --smallest-effect 2"
            )
        comparison = run(
            folders,
            out=out,
            baseline=baseline,
            force=force,
            compact=compact,
            smallest_effect=smallest_effect,
            by_compute=by_compute,
            noise=None if noise is None else read_noise(noise),
            with_plans=plans,
        )
    except ComparisonError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    if figure is not None:
        write_figure(comparison, figure)
    if wandb:
        command = log_to_wandb(comparison, out or folders[0], wandb_project)
        typer.echo(f"W&B run written offline; upload it with: {command}" if command else "logged")


def write_figure(comparison: Comparison, path: Path) -> None:
    """Write the figure of accuracies, the first one of the report page, as SVG."""
    from plan_tuning.artifacts import write_atomic
    from plan_tuning.comparison.figures import accuracy_figure

    drawn = accuracy_figure(comparison.table)
    if drawn is None:
        typer.echo(f"error: no job has accuracies to draw, {path} is not written", err=True)
        raise typer.Exit(2)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, drawn.svg)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def log_to_wandb(comparison: Comparison, folder: Path, project: str) -> str | None:
    """Log what a sweep came to as one run of its own.

    It holds the table and the claims as numbers, the mean of each row on each benchmark with its
    spread between seeds in the summary, each figure, the report page, all files, and where each
    job's own run is: its address online; offline its id and folder, relative to ``folder``.

    Args:
        comparison: finished, its files written.
        folder: W&B's files go below it.
        project: of W&B.

    Returns:
        The command that uploads an offline run; None for one that was logged online.
    """
    from plan_tuning.artifacts import fingerprint_of
    from plan_tuning.comparison.exports import numeric_findings, numeric_rows, summary_numbers
    from plan_tuning.comparison.page import comparison_figures, figure_html
    from plan_tuning.config.run import LoggerConfig
    from plan_tuning.tracking.tracked_job import track

    runs = comparison.results.completed
    sweeps = sorted({run.result.sweep for run in runs if run.result.sweep})
    keys = sorted(run.result.key for run in runs)
    with track(
        LoggerConfig(project=project, max_table_rows=_MAX_TABLE_ROWS),
        folder=folder,
        run_id=f"compare-{fingerprint_of(keys, stage='comparison', version=1)}",
        name=f"compare {' '.join(sweeps) or folder.name}",
        group=sweeps[0] if len(sweeps) == 1 else None,
        job_type="compare",
        tags=["comparison", *sweeps],
        values={"sweeps": sweeps, "jobs": len(runs), "swept": list(comparison.table.swept)},
    ) as tracker:
        tracker.log_table("comparison", numeric_rows(comparison.table))
        tracker.log_table("claims", numeric_findings(comparison.findings))
        tracker.log_table("runs", _tracked_runs(comparison, folder, project, tracker))
        drawn = comparison_figures(comparison)
        pages = {f"figures/{figure.name}": figure_html(figure) for figure in drawn}
        for path in comparison.files:
            if path.suffix == ".html":
                pages[path.stem] = path.read_text(encoding="utf-8")
        tracker.log_pages(pages)
        tracker.log_results(summary_numbers(comparison.table))
        tracker.log_files(f"comparison-{folder.resolve().name}", comparison.files)
        return tracker.sync_command


def _tracked_runs(
    comparison: Comparison, folder: Path, project: str, tracker: Tracker
) -> list[dict[str, Any]]:
    """Say where each compared job's W&B run is; what a job without one has is None."""
    from plan_tuning.tracking.tracker import last_run

    lines = []
    for row in comparison.table.rows:
        for run in row.runs:
            found = last_run(run.folder)
            run_id, place, link = None, None, None
            if found is not None:
                run_id = found[0]
                place = os.path.relpath(found[1].resolve(), folder.resolve())
                link = tracker.link(
                    run_id,
                    project=run.settings.get("logger.project", project),
                    entity=run.settings.get("logger.entity"),
                )
            lines.append(
                {
                    **{"row": comparison.table.label(row), "seed": run.seed, "job": run.name},
                    **{"run": run_id, "folder": place, "link": link},
                }
            )
    return lines
