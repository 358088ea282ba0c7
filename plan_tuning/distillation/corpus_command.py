"""The subcommands ``plan-tuning corpus …``: import, look at, filter and export trajectories."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plan_tuning.distillation.import_command import import_file

if TYPE_CHECKING:
    from plan_tuning.config.filter import FilterConfig

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
app.command("import")(import_file)

Corpus = Annotated[
    str | None,
    typer.Argument(
        help="Folder or fingerprint of a corpus, or a folder of results whose corpus is meant: of "
        "a job, of a sweep, or the root, where it is the newest.",
        metavar="[DIR]",
        show_default="the newest of --outputs",
    ),
]
CorpusOption = Annotated[
    str | None, typer.Option("--corpus", help="The same as DIR.", metavar="DIR", hidden=True)
]
Outputs = Annotated[Path, typer.Option(help="Root of all results (paths.outputs).")]
FilterName = Annotated[
    str, typer.Option("--filter", help="none, plan_only, answer_only, two_stage or recompute.")
]
Threshold = Annotated[int, typer.Option(help="Lowest plan score that passes, -100 to 100.")]
Selection = Annotated[
    str | None,
    typer.Option(help="first, best, random, all or diverse; by default the filter's own."),
]
DropLeaks = Annotated[
    bool, typer.Option("--drop-leaks", help="Drop plans that hold the answer or a box.")
]
MaxRows = Annotated[int | None, typer.Option(help="At most so many rows.")]

_OUTPUTS = Path("multirun_outputs")
_THRESHOLD = 80
_WIDTH_OF_LOGS = 160


@app.command()
def status(corpus: Corpus = None, option: CorpusOption = None, outputs: Outputs = _OUTPUTS) -> None:
    """Show a corpus: its funnel, what filters keep, what it cost; and the store of paid calls."""
    from rich.console import Console

    from plan_tuning.artifacts import read_manifest
    from plan_tuning.distillation.panels import find_corpus, status_table, store_table
    from plan_tuning.teachers.store import FILE_NAME, CallStore

    corpus, outputs = _named(corpus, option, outputs)
    console = Console()
    store = outputs / "calls" / FILE_NAME
    if store.is_file() and os.access(store.parent, os.W_OK):
        with CallStore(store.parent) as calls:
            console.print(store_table(calls, store))
    elif store.is_file():
        console.print(f"{store}: read-only, so not opened", markup=False, soft_wrap=True)
    folder = find_corpus(corpus, outputs)
    console.print(status_table(folder, read_manifest(folder)))


@app.command()
def show(
    problem_id: Annotated[str, typer.Argument(help="The problem's id.", metavar="PROBLEM_ID")],
    corpus: Corpus = None,
    option: CorpusOption = None,
    outputs: Outputs = _OUTPUTS,
    prompts: Annotated[
        bool, typer.Option("--prompts", help="Show the stored requests as well.")
    ] = False,
) -> None:
    """Show one problem: constraints, plans, scores, executions, verdicts and costs."""
    from rich.console import Console

    from plan_tuning.distillation.corpus import read_trajectories
    from plan_tuning.distillation.panels import call_panels, find_corpus, trajectory_panels
    from plan_tuning.teachers.store import FILE_NAME, CallStore

    corpus, outputs = _named(corpus, option, outputs)
    console = Console()
    rows = read_trajectories(find_corpus(corpus, outputs))
    for panel in trajectory_panels(rows, problem_id):
        console.print(panel)
    store = outputs / "calls" / FILE_NAME
    if prompts and store.is_file():
        with CallStore(store.parent) as calls:
            for panel in call_panels(calls, problem_id):
                console.print(panel)


@app.command()
def refilter(
    corpus: Corpus = None,
    option: CorpusOption = None,
    outputs: Outputs = _OUTPUTS,
    name: FilterName = "two_stage",
    plan_score_threshold: Threshold = _THRESHOLD,
    selection: Selection = None,
    drop_leaks: DropLeaks = False,
    max_rows: MaxRows = None,
) -> None:
    """Show what a filter would keep, and why the rest goes; asks the teacher nothing."""
    from rich.console import Console

    from plan_tuning.distillation.corpus import read_trajectories
    from plan_tuning.distillation.filters import filter_trajectories
    from plan_tuning.distillation.panels import filter_table, find_corpus

    corpus, outputs = _named(corpus, option, outputs)
    config = _filter(name, plan_score_threshold, selection, drop_leaks, max_rows)
    rows = read_trajectories(find_corpus(corpus, outputs))
    Console().print(filter_table(rows, filter_trajectories(rows, config), config))


@app.command()
def diversity(
    corpus: Corpus = None, option: CorpusOption = None, outputs: Outputs = _OUTPUTS
) -> None:
    """Show how diverse and coherent plans are before and after each filter; asks nobody."""
    from rich.console import Console
    from rich.table import Table

    from plan_tuning.distillation.corpus import read_trajectories
    from plan_tuning.distillation.filter_effects import LEGEND, effect_rows, filter_effects
    from plan_tuning.distillation.panels import find_corpus

    corpus, outputs = _named(corpus, option, outputs)
    folder = find_corpus(corpus, outputs)
    head, rows = effect_rows(filter_effects(read_trajectories(folder)))
    table = Table(*head, title=f"plans of corpus {folder.name}", title_justify="left")
    for row in rows:
        table.add_row(*row)
    console = Console()
    console = console if console.is_terminal else Console(width=_WIDTH_OF_LOGS)
    console.print(table)
    console.print(LEGEND, highlight=False, markup=False)


@app.command()
def export(
    target: Annotated[Path, typer.Argument(help="File to write: .jsonl or .parquet.")],
    corpus: Corpus = None,
    option: CorpusOption = None,
    outputs: Outputs = _OUTPUTS,
    name: Annotated[
        str | None,
        typer.Option("--filter", help="Export only what this filter keeps; by default all rows."),
    ] = None,
    plan_score_threshold: Threshold = _THRESHOLD,
    selection: Selection = None,
    drop_leaks: DropLeaks = False,
    max_rows: MaxRows = None,
    push: Annotated[
        str | None,
        typer.Option(help="Also push to this dataset repository on the Hub (private)."),
    ] = None,
) -> None:
    """Write trajectories to one file, and push them to the Hub where asked to."""
    from plan_tuning.distillation.corpus import read_trajectories, write_trajectories
    from plan_tuning.distillation.filters import filter_trajectories
    from plan_tuning.distillation.panels import find_corpus

    corpus, outputs = _named(corpus, option, outputs)
    folder = find_corpus(corpus, outputs)
    rows = read_trajectories(folder)
    if name is not None:
        config = _filter(name, plan_score_threshold, selection, drop_leaks, max_rows)
        rows = filter_trajectories(rows, config).kept
    write_trajectories(target, rows)
    typer.echo(f"{len(rows)} trajectories of {folder} are in {target}")
    if push is not None:
        from datasets import load_dataset

        kind = "json" if target.suffix == ".jsonl" else "parquet"
        load_dataset(kind, data_files=str(target), split="train").push_to_hub(push, private=True)
        typer.echo(f"pushed to https://huggingface.co/datasets/{push}")


@app.command()
def rebuild(
    corpus: Corpus = None, option: CorpusOption = None, outputs: Outputs = _OUTPUTS
) -> None:
    """Make a corpus anew from its stored replies, without the teacher's thoughts; asks nobody."""
    from plan_tuning.distillation.panels import find_corpus
    from plan_tuning.distillation.rebuild import rebuild_corpus

    corpus, outputs = _named(corpus, option, outputs)
    folder = rebuild_corpus(find_corpus(corpus, outputs), outputs)
    typer.echo(f"the corpus without thoughts is in {folder}. Use it: corpus.path={folder}")


@app.command()
def card(corpus: Corpus = None, option: CorpusOption = None, outputs: Outputs = _OUTPUTS) -> None:
    """Print a corpus's dataset card."""
    from plan_tuning.distillation.card import CARD
    from plan_tuning.distillation.panels import find_corpus

    corpus, outputs = _named(corpus, option, outputs)
    typer.echo((find_corpus(corpus, outputs) / CARD).read_text(encoding="utf-8"))


def _named(corpus: str | None, option: str | None, outputs: Path) -> tuple[str | None, Path]:
    """Take the corpus from its place or from the option; a root of results is both at once."""
    from plan_tuning.config.checks import require

    require(
        corpus is None or option is None,
        "--corpus",
        option,
        f"one corpus, and {corpus} is named already",
        f"plan-tuning corpus status {corpus}",
    )
    name = corpus or option
    if name is not None and (Path(name) / "artifacts").is_dir():
        return None, Path(name)
    return name, outputs


def _filter(
    name: str, threshold: int, selection: str | None, drop_leaks: bool, max_rows: int | None
) -> FilterConfig:
    from dataclasses import replace

    from plan_tuning.config.checks import require_choice
    from plan_tuning.distillation.filters import RECOMPUTE, STANDARD_FILTERS

    known = {config.name: config for config in (*STANDARD_FILTERS, RECOMPUTE)}
    require_choice("--filter", name, known)
    return replace(
        known[name],
        plan_score_threshold=threshold,
        selection=selection or known[name].selection,
        drop_leaks=drop_leaks,
        max_rows=max_rows,
    )
