"""The subcommand ``plan-tuning reward-audit``: which plan rewards are worth their cost.

A plain function with typer annotations; cli.py registers it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from plan_tuning.comparison.audit_verdicts import Verdict
    from plan_tuning.comparison.reward_audit import Audit, RewardAudit

_WIDTH_OF_LOGS = 200
_OUTPUTS = Path("multirun_outputs")
_FOLDER = "reward_audits"


def reward_audit(
    corpus: Annotated[
        str,
        typer.Argument(
            help="Folder or fingerprint of a corpus, or a folder of results that rest on one: a "
            "job, a sweep, or the root, where it is the newest.",
            metavar="CORPUS",
        ),
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            help="Settings of rewards, judge and frozen executor, as a job takes them: "
            "reward.plan.samples=8 teacher=openai_compatible model=smollm2_135m start=path "
            "start.path=STUDENT seed=1.",
            metavar="KEY=VALUE...",
        ),
    ] = None,
    rewards: Annotated[
        str,
        typer.Option(
            help="Kinds of reward.plan joined by commas, or all of those that can be asked here.",
        ),
    ] = "all",
    plant: Annotated[
        bool,
        typer.Option(
            "--plant",
            help="Reward golden plans with planted flaws, and in other words, in place of the "
            "corpus's own candidates.",
        ),
    ] = False,
    problems: Annotated[
        int | None, typer.Option(help="Audit so many problems, drawn by seed.", show_default="all")
    ] = None,
    retest: Annotated[
        int, typer.Option(help="Problems whose plans are asked about twice; 0: none.")
    ] = 50,
    probe: Annotated[
        int, typer.Option(help="Problems of which hack probes are made; 0: none.")
    ] = 200,
    out: Annotated[
        Path | None,
        typer.Option(help="Where to write.", show_default="reward_audits/CORPUS below --outputs"),
    ] = None,
    outputs: Annotated[Path, typer.Option(help="Root of all results (paths.outputs).")] = _OUTPUTS,
    config_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder of your own choices, rewards among them, as a job takes it.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
) -> None:
    """Audit plan rewards on stored plans: what they tell, how steadily, for how much, how hackable.

    Writes reward_audit.{md,json,svg}.
    """
    from plan_tuning.config.checks import require_positive
    from plan_tuning.config.outside import load_folder
    from plan_tuning.config.typed import composed
    from plan_tuning.distillation.panels import find_corpus
    from plan_tuning.job.audit import AuditRequest, run_audit

    require_positive("--problems", problems, "--problems 500")
    require_positive("--retest", retest, "--retest 50", zero=True)
    require_positive("--probe", probe, "--probe 200", zero=True)
    if (Path(corpus) / "artifacts").is_dir():  # a root of results: its newest corpus
        folder, outputs = find_corpus(None, Path(corpus)), Path(corpus)
    else:
        folder = find_corpus(corpus, outputs)
    request = AuditRequest(
        folder,
        tuple(name.strip() for name in rewards.split(",") if name.strip()),
        limit=problems,
        retested=retest,
        probed=probe,
        is_planted=plant,
    )
    own: list[str] = []
    if config_dir is not None:
        load_folder(config_dir)
        own = [f"hydra.searchpath=['file://{config_dir.expanduser().resolve()}']"]
    config = composed([*(words or ()), *own, f"paths.outputs={outputs}"])
    audit = run_audit(config, request, _say)
    name = folder.resolve().name + ("-planted" if plant else "")
    target = out or outputs / _FOLDER / name
    _write(audit, name, target)


def _say(audited: RewardAudit) -> None:
    typer.echo(f"{audited.name}: {audited.expense.seconds:.1f} s", err=True)


def _write(audit: Audit, name: str, target: Path) -> None:
    from plan_tuning.artifacts import write_together
    from plan_tuning.comparison.audit_figure import audit_figure
    from plan_tuning.comparison.audit_text import to_markdown, to_values
    from plan_tuning.comparison.audit_verdicts import verdicts

    found = verdicts(audit)
    target.mkdir(parents=True, exist_ok=True)
    texts = {
        "reward_audit.md": to_markdown(audit, found, name),
        "reward_audit.json": json.dumps(to_values(audit, found, name), indent=2) + "\n",
        "reward_audit.svg": audit_figure(audit, found).svg,
    }
    write_together({target / file: text for file, text in texts.items()})
    _show(audit, found, name)
    typer.echo(f"Written: {target}: {', '.join(texts)}")


def _show(audit: Audit, found: Sequence[Verdict], name: str) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from plan_tuning.comparison.audit_text import (
        control_lines,
        sections,
        skipped_lines,
        summary,
    )

    console = Console()
    console = console if console.is_terminal else Console(width=_WIDTH_OF_LOGS)
    console.print(escape(summary(audit, name)))
    for line in control_lines(audit):
        console.print(escape(line))
    for title, (head, rows), legend in sections(audit, found):
        table = Table(title=title, title_justify="left")
        for text in head:
            table.add_column(escape(text), overflow="fold")
        for row in rows:
            table.add_row(*(escape(text) for text in row))
        console.print(table)
        if legend:
            console.print(f"[dim]{escape(legend)}[/]")
    for line in skipped_lines(audit):
        console.print(escape(line))
