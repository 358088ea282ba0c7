"""Subcommands of ``plan-tuning`` beside the Hydra app: what is not a job takes no overrides."""

from __future__ import annotations

import sys

import typer

from plan_tuning.comparison.compare_command import compare
from plan_tuning.distillation.corpus_command import app as corpus
from plan_tuning.tasks.contamination_command import contamination
from plan_tuning.tasks.grade_command import grade

app = typer.Typer(
    help="Subcommands of plan-tuning; everything else on its command line is a Hydra override.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(compare)
app.command()(grade)
app.command()(contamination)
app.add_typer(corpus, name="corpus", help="Look at, filter and export a corpus of trajectories.")


def run() -> None:
    """Run a subcommand; a user's mistake ends in one line and exit code 2."""
    try:
        app(prog_name="plan-tuning")
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(getattr(error, "exit_code", 2)) from None
