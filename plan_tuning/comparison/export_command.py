"""The subcommand ``plan-tuning export``: finished jobs in the formats of other programs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    """What the files are for."""

    EVERY_EVAL_EVER = "every_eval_ever"
    INSPECT = "inspect"


def export(
    folders: Annotated[
        list[Path], typer.Argument(help="Sweeps, or folders of single jobs.", metavar="DIR...")
    ],
    to: Annotated[
        Format,
        typer.Option(
            help="every_eval_ever: records and rows of the shared schema 0.3; inspect: logs for "
            "`inspect view`."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; by default DIR/export of the first.")
    ] = None,
) -> None:
    """Write every finished job's figures and answers, a file or two for each benchmark."""
    from plan_tuning.artifacts import write_together
    from plan_tuning.comparison.every_eval_ever import every_eval_ever
    from plan_tuning.comparison.inspect_log import inspect_log, inspect_text
    from plan_tuning.comparison.judged import judged_again
    from plan_tuning.comparison.runs import ComparisonError, load, read_predictions

    try:
        results, notes = judged_again(load(folders))
    except ComparisonError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    folder = out if out is not None else folders[0] / "export"
    count = num_rows = 0
    missing = []
    for run in results.completed:
        for benchmark in run.result.metrics:
            rows = read_predictions(run, benchmark)
            if not rows:
                missing.append(f"{run.name}: {benchmark}")
                continue
            if to is Format.INSPECT:
                texts = inspect_text(inspect_log(run, benchmark, rows))
            else:
                texts = every_eval_ever(run, benchmark, rows).texts
            paths = {folder / name: text for name, text in texts.items()}
            for parent in {path.parent for path in paths}:
                parent.mkdir(parents=True, exist_ok=True)
            write_together(paths)
            count, num_rows = count + 1, num_rows + len(rows)
    for note in notes:
        typer.echo(note)
    for line in missing:
        typer.echo(f"left out, its predictions are missing or unreadable: {line}", err=True)
    if not count:
        typer.echo(f"error: {folders[0]}: no finished job has predictions to export", err=True)
        raise typer.Exit(2)
    typer.echo(f"{count} benchmarks of jobs, {num_rows:,} answers: {folder}")
    if to is Format.INSPECT:
        typer.echo(f"To look at them: inspect view --log-dir {folder / 'inspect'}")
