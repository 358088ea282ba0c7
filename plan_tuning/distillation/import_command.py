"""The subcommand ``plan-tuning corpus import``: anybody's trajectories become a corpus.

A plain function with typer annotations; corpus_command.py registers it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plan_tuning.config.data import RowForm
from plan_tuning.config.extensions import DEFAULT_METHOD, TWO_CALLS, find, own_styles

if TYPE_CHECKING:
    from plan_tuning.distillation.trajectory_file import TrajectoryFile

_SOCRATIC = "gsm8k_socratic"  # the set whose reader knows that form
_OTHER_TEST = "math500"  # for whoever is trained on the test problems of the set itself


def _column(text: str, default: str) -> Any:
    """Make an option that names a column."""
    return typer.Option(help=text, metavar="COLUMN", show_default=default)


def import_file(
    source: Annotated[
        str,
        typer.Argument(
            help="JSONL, JSON, parquet or CSV file, one trajectory a row, or the id of a data set "
            "on the Hub.",
            metavar="FILE|HUB_ID",
        ),
    ],
    problem_key: Annotated[str | None, _column("Of the problem.", "problem")] = None,
    answer_key: Annotated[str | None, _column("Of the gold answer.", "answer")] = None,
    plan_key: Annotated[str | None, _column("Of the plan.", "plan")] = None,
    execution_key: Annotated[str | None, _column("Of the execution.", "none")] = None,
    score_key: Annotated[str | None, _column("Of the plan's score, -100 to 100.", "none")] = None,
    solution_key: Annotated[str | None, _column("Of the human rationale.", "none")] = None,
    id_key: Annotated[str | None, _column("Of the problem's id.", "none")] = None,
    difficulty_key: Annotated[str | None, _column("Of the problem's difficulty.", "none")] = None,
    messages_key: Annotated[str | None, _column("Of the messages (chat).", "messages")] = None,
    shape: Annotated[
        str,
        typer.Option(
            help="flat: a column each; chat: messages with <plan>…</plan> in the assistant's turn; "
            "socratic: GSM8K's lines of 'sub-question ** step'; auto: the first row tells.",
        ),
    ] = "auto",
    style: Annotated[
        str, typer.Option(help=f"How answers are graded: {', '.join(own_styles())}.")
    ] = "math",
    split: Annotated[
        str, typer.Option(help="train, or test: for plan swaps, never trained on.")
    ] = "train",
    name: Annotated[
        str | None, typer.Option(help="Name of the set, in ids and tables.", show_default="FILE's")
    ] = None,
    problems: Annotated[
        str | None,
        typer.Option(
            help="Take problems, ids and gold answers from a set, for rows that hold no answer: "
            "SET, SET=PATH or FILE. Rows are found by --id-key, else by the problem's text.",
            metavar="SET",
            show_default="none",
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(help="Only rows with this value; repeatable.", metavar="COLUMN=VALUE"),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave rows out that cannot be used, and count them.")
    ] = False,
    run_code: Annotated[
        bool,
        typer.Option(
            "--run-code",
            help="Run executions that are programs, in the sandbox, with the tests of --problems.",
        ),
    ] = False,
    revision: Annotated[str, typer.Option(help="Of the data set on the Hub.")] = "main",
    hub_config: Annotated[
        str | None, typer.Option(help="Configuration on the Hub.", show_default="the only one")
    ] = None,
    hub_split: Annotated[
        str | None, typer.Option(help="Split on the Hub.", show_default="--split")
    ] = None,
    outputs: Annotated[Path, typer.Option(help="Root of all results (paths.outputs).")] = Path(
        "multirun_outputs"
    ),
) -> None:
    """Make a corpus of somebody's trajectories: checked, graded, with funnel and card."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress

    from plan_tuning.artifacts import read_manifest
    from plan_tuning.config.grading import GradingConfig
    from plan_tuning.distillation.corpus_import import import_corpus
    from plan_tuning.distillation.panels import status_table
    from plan_tuning.distillation.trajectory_file import TrajectoryFile
    from plan_tuning.distillation.trajectory_rows import Columns, RowReading
    from plan_tuning.tasks.published_tests import name_test_problems

    keys = {
        "problem": problem_key,
        "answer": answer_key,
        "plan": plan_key,
        "execution": execution_key,
        "score": score_key,
        "solution": solution_key,
        "id": id_key,
        "difficulty": difficulty_key,
        "messages": messages_key,
    }
    named: dict[str, Any] = {role: column for role, column in keys.items() if column is not None}
    if problems is not None:  # the set has the answers, and by an id the problem as well
        named = {"answer": None, **({} if id_key is None else {"problem": None}), **named}
    columns = Columns(**named)
    given = TrajectoryFile(
        source,
        RowReading(shape, columns, style),
        split=split,
        name=name,
        problems=problems,
        where=_values(where or ()),
        skip_bad=skip_bad,
        revision=revision,
        hub_config=hub_config,
        hub_split=hub_split,
    )
    with Progress(
        "grading", BarColumn(), MofNCompleteColumn(), console=Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task("", total=None)
        folder, is_new = import_corpus(
            given,
            outputs,
            GradingConfig(run_code=run_code),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    manifest = read_manifest(folder)
    Console().print(status_table(folder, manifest))
    if not is_new:
        typer.echo("imported before: nothing was done again")
    known = manifest["facts"].get("test_problems", {})
    if known and given.split == "train":
        typer.echo(
            f"note: among these are {name_test_problems(known)}. Whoever is trained on them is "
            "refused on that benchmark; for plan swaps alone, import them with --split test"
        )
    typer.echo(f"use it: {_use(given, folder, manifest['facts'])}")


def _values(where: Sequence[str]) -> dict[str, str]:
    """Read what --where says.

    Raises:
        ConfigError: an entry is no COLUMN=VALUE.
    """
    from plan_tuning.config.checks import require

    for entry in where:
        column, equals, _ = entry.partition("=")
        require(bool(column and equals), "--where", entry, "COLUMN=VALUE", "--where model=gpt-4o")
    return {entry.partition("=")[0]: entry.partition("=")[2] for entry in where}


def _use(given: TrajectoryFile, folder: Path, facts: Mapping[str, Any]) -> str:
    """Write a command that uses a corpus for what it holds."""
    form, benchmark = _tested(given, facts)
    tested = f'evaluation.benchmarks=["{benchmark}"]'
    words = ["plan-tuning", "model=qwen3_0_6b"]
    if given.split == "test":
        swap = [
            "stages=[evaluate]",  # the executor is no student, and nobody else is asked
            f"method={TWO_CALLS}",
            "evaluation.plan=teacher",
            f"evaluation.plan_corpus={folder.name}",
        ]
        return shlex.join([*words, *swap, *form, tested])
    order = ("two_stage", "answer_only", "plan_only")
    kept = next((one for one in order if facts["kept_problems"].get(one)), "none")
    method = DEFAULT_METHOD if facts["funnel"].get("executed") else TWO_CALLS
    chosen = [f"corpus.path={folder}", f"method={method}", f"filter={kept}"]
    return shlex.join([*words, *chosen, *form, tested])


def _tested(given: TrajectoryFile, facts: Mapping[str, Any]) -> tuple[list[str], str]:
    """Name a test set whose rows have the form of the imported ones.

    Returns:
        The words that say how its rows are read, and the benchmark.
    """
    from plan_tuning.tasks.published_tests import PUBLISHED_TESTS

    name, path = given.joined or (given.set_name, "TEST_FILE")
    imported = facts["imported"]
    is_socratic = given.joined is None and imported["shape"] == "socratic"
    if is_socratic:
        name = _SOCRATIC
    if given.split == "train" and any(
        name in PUBLISHED_TESTS[known].benchmarks for known in facts.get("test_problems", {})
    ):
        return [], _OTHER_TEST
    if is_socratic:
        return [f"data={_SOCRATIC}"], f"{name}={path}"
    if path is None:
        return [], name
    if find("data", name) is not None:  # a published set is read in its own form
        return [], f"{name}={path}"
    defaults, columns = RowForm(), given.reading.columns
    form = [] if given.reading.style == defaults.style else [f"data.style={given.reading.style}"]
    if given.joined is None and imported["shape"] == "flat":
        read = {"problem": columns.problem, "answer": columns.answer}
        for key, column in read.items():
            if column not in (None, getattr(defaults.keys, key)):
                form.append(f"data.keys.{key}={column}")
    return ["data=jsonl", f"data.name={name}", *form] if form else [], f"{name}={path}"
