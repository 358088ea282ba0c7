"""The subcommand ``plan-tuning compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
) -> None:
    """Compare finished jobs: a table here, comparison.{md,csv,tex,json} and report.html on disk."""
    from plan_tuning.comparison.report import compare as run
    from plan_tuning.comparison.results import ComparisonError

    try:
        run(folders, out=out, baseline=baseline)
    except ComparisonError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
