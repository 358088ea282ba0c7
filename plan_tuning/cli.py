"""Subcommands of ``plan-tuning`` beside the Hydra app: what is not a job takes no overrides."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup, TyperOption

from plan_tuning.artifacts import storage_error
from plan_tuning.comparison.compare_command import compare
from plan_tuning.comparison.export_command import export
from plan_tuning.comparison.power_command import power
from plan_tuning.config.checks import ConfigError
from plan_tuning.distillation.corpus_command import app as corpus
from plan_tuning.job.audit_command import reward_audit
from plan_tuning.students.fetch_command import fetch
from plan_tuning.tasks.contamination_command import contamination
from plan_tuning.tasks.grade_command import grade

app = typer.Typer(
    help="Subcommands of plan-tuning; everything else on its command line is a Hydra override.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(compare)
app.command()(power)
app.command()(export)
app.command()(grade)
app.command()(contamination)
app.command()(fetch)
app.command("reward-audit")(reward_audit)
app.add_typer(corpus, name="corpus", help="Import, look at, filter and export trajectories.")


def run() -> None:
    """Run a subcommand; a user's mistake ends in one line and exit code 2."""
    try:
        check_words(sys.argv[1:])
        app(prog_name="plan-tuning")
    except (ValueError, OSError) as raised:
        where = {
            "compare": "--out FOLDER",
            "export": "--out FOLDER",
            "corpus": "another file",
            "fetch": "--out FOLDER",
            "reward-audit": "--out FOLDER",
        }
        elsewhere = where.get(sys.argv[1], "--out FILE")
        error = storage_error(raised, Path(), f"Make room, or write elsewhere: {elsewhere}")
        if error is None and not isinstance(raised, ValueError):
            raise
        sys.stderr.write(f"error: {error or raised}\n")
        raise SystemExit(getattr(error or raised, "exit_code", 2)) from None


def completions(line: str, subcommands: Sequence[str]) -> list[str] | None:
    """Complete a command line of a subcommand.

    Args:
        line: what was typed so far, the command itself first.
        subcommands: those that need not be imported to be known.

    Returns:
        What may stand at its end: subcommands or options. Nothing where a path or a text is due,
        which the shell completes; None where the line is none of a subcommand.
    """
    words = line.split()[1:]
    last = "" if not words or line[-1].isspace() else words.pop()
    if not words or words[0] not in subcommands:
        return None
    command: Any = typer.main.get_command(app)
    context = command.make_context("plan-tuning", [], resilient_parsing=True)
    while words and isinstance(command, TyperGroup):
        following = command.get_command(context, words.pop(0))
        if following is None:
            return []
        command = following
    if isinstance(command, TyperGroup):
        return [name for name in command.list_commands(context) if name.startswith(last)]
    options = [p for p in command.get_params(context) if isinstance(p, TyperOption)]
    takes_value = {name for o in options if not o.is_flag for name in o.opts}
    if (words and words[-1] in takes_value) or not last.startswith("-"):
        return []
    shown = (name for option in options if not option.hidden for name in option.opts)
    return [name for name in shown if name.startswith(last)]


def check_words(words: Sequence[str]) -> None:
    """Refuse blank arguments: as a path they would mean the working directory.

    Args:
        words: of the command line, the subcommand first.

    Raises:
        ConfigError: a word, or what stands behind the ``=`` of an option, is blank.
    """
    name = words[0]
    for word in words[1:]:
        option, equals, value = word.partition("=")
        is_option = word.startswith("--")
        if not word.strip() or (is_option and equals and not value.strip()):
            raise ConfigError(
                f"{option if is_option else name}",
                "''",
                "a text that is not blank (is a variable of the shell unset?)",
                f"plan-tuning {words[0]} --help",
            )
        name = word if is_option else words[0]
