"""The subcommand ``plan-tuning grade``: verdicts on the predictions of any system.

A plain function with typer annotations; cli.py registers it. It adds files, a progress bar and a
summary to :mod:`plan_tuning.grading.grader`, no rules.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

from plan_tuning.artifacts import write_atomic
from plan_tuning.config.extensions import own_styles
from plan_tuning.config.grading import GradingConfig
from plan_tuning.grading.answer_rules import is_run
from plan_tuning.grading.grader import Grade, Grader
from plan_tuning.records import Problem, Verdict
from plan_tuning.tasks.code import read_tests
from plan_tuning.tasks.json_rows import DataError, json_lines
from plan_tuning.tasks.schemas import RowError

STYLES = (*own_styles(), "microworld")
_CHUNK = 512  # rows between two steps of the progress bar


def grade(
    file: Annotated[Path, typer.Argument(help="JSONL file, one prediction a row.")],
    out: Annotated[Path, typer.Option(help="Verdicts, one JSON row for each input row.")],
    prediction_key: Annotated[str, typer.Option(help="Field of the model's text.")] = "prediction",
    gold_key: Annotated[str, typer.Option(help="Field of the gold answer.")] = "gold",
    style: Annotated[str, typer.Option(help=f"Grading style: {', '.join(STYLES)}.")] = "math",
    style_key: Annotated[
        str | None, typer.Option(help="Field that holds each row's style, instead of --style.")
    ] = None,
    finish_reason_key: Annotated[
        str | None, typer.Option(help="Field that says 'length' where a text was cut off.")
    ] = None,
    require_box: Annotated[
        bool, typer.Option("--require-box", help="Accept boxed answers only.")
    ] = False,
    run_code: Annotated[
        bool,
        typer.Option(
            "--run-code",
            help="Run predictions of --style code in the sandbox; rows hold test and entry_point.",
        ),
    ] = False,
    workers: Annotated[int, typer.Option(help="Worker processes for symbolic comparison.")] = 2,
    wall_s: Annotated[float, typer.Option(help="Seconds that one comparison may take.")] = 5.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON on standard output.")
    ] = False,
) -> None:
    """Grade the predictions of any system with the project's one verifier."""
    errors = Console(stderr=True)
    try:
        rows = _read_rows(file)
        config = GradingConfig(num_workers=workers, wall_s=wall_s, run_code=run_code)
        items = [
            _item(file, number, row, prediction_key, gold_key, style, style_key)
            for number, row in rows
        ]
        reasons = [str(row.get(finish_reason_key or "", "stop")) for _, row in rows]
    except ValueError as error:
        errors.print(f"error: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(2) from error
    grades: list[Grade] = []
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Grader(config) as grader, Progress(*columns, console=errors, transient=True) as progress:
        task = progress.add_task("grading", total=len(items))
        for start in range(0, len(items), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            grades += grader.grade_many(
                items[chunk], finish_reasons=reasons[chunk], require_box=require_box
            )
            progress.update(task, completed=len(grades))
    lines = [_verdict_row(row, grade_) for (_, row), grade_ in zip(rows, grades, strict=True)]
    write_atomic(out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    bad = [
        problem.id
        for (_, problem), grade_ in zip(items, grades, strict=True)
        if grade_.verdict is Verdict.BAD_GOLD
    ]
    figures = summary(grades) | {"bad_gold_ids": bad, "out": str(out)}
    if as_json:
        typer.echo(json.dumps(figures))  # ASCII: any output can show it
    else:
        _print_summary(figures)


def summary(grades: Sequence[Grade]) -> dict[str, Any]:
    """Count verdicts and extraction rules; rates are shares of all rows, None for no rows."""
    total = len(grades)
    num_correct = sum(grade_.is_correct for grade_ in grades)
    return {
        "num_rows": total,
        "num_correct": num_correct,
        "accuracy": num_correct / total if total else None,
        "strict_accuracy": sum(grade_.is_strict for grade_ in grades) / total if total else None,
        "by_verdict": _counted(str(grade_.verdict) for grade_ in grades),
        "by_rule": _counted(grade_.rule or "none" for grade_ in grades),
    }


def _counted(values: Any) -> dict[str, int]:
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))


def _print_summary(figures: Mapping[str, Any]) -> None:
    console = Console()
    for title, key in (("verdict", "by_verdict"), ("extraction rule", "by_rule")):
        table = Table(title, "rows", "share")
        for name, count in figures[key].items():
            table.add_row(name, str(count), f"{count / figures['num_rows']:.1%}")
        console.print(table)
    console.print(
        f"{figures['num_correct']} of {figures['num_rows']} correct "
        f"({figures['accuracy']:.2%}; {figures['strict_accuracy']:.2%} by a box); "
        f"verdicts in {figures['out']}",
        highlight=False,
        soft_wrap=True,
    )
    if figures["bad_gold_ids"]:
        shown = ", ".join(figures["bad_gold_ids"][:20])
        console.print(f"gold answers that cannot be graded: {shown}", markup=False)


def _read_rows(file: Path) -> list[tuple[int, Mapping[str, Any]]]:
    if not file.is_file():
        raise DataError(f"{file} does not exist: give a JSONL file, one prediction a row")
    rows: list[tuple[int, Mapping[str, Any]]] = []
    for number, row in json_lines(file):
        if not isinstance(row, dict):
            raise DataError(f"{file}, row {number}: is {type(row).__name__}, expected an object")
        rows.append((number, row))
    if not rows:
        raise DataError(f"{file} holds no rows: give a file with one prediction a row")
    return rows


def _item(
    file: Path,
    number: int,
    row: Mapping[str, Any],
    prediction_key: str,
    gold_key: str,
    style: str,
    style_key: str | None,
) -> tuple[str, Problem]:
    for key in (prediction_key, gold_key, *([style_key] if style_key else [])):
        if key not in row:
            present = ", ".join(map(str, row))
            raise DataError(f"{file}, row {number}, field {key!r}: is absent (fields: {present})")
    chosen = str(row[style_key]) if style_key else style
    if chosen not in STYLES:
        raise DataError(
            f"{file}, row {number}: there is no style {chosen!r}; choose one of "
            f"{', '.join(STYLES)}, for example --style math"
        )
    tests: Mapping[str, str] = {}
    if is_run(chosen):
        try:
            tests = read_tests(row)
        except RowError as error:
            raise DataError(f"{file}, row {number}, field {error.field!r}: {error}") from error
    prediction, gold = row[prediction_key], row[gold_key]
    if isinstance(gold, list):
        gold = ", ".join(map(str, gold))
    return (
        "" if prediction is None else str(prediction),
        Problem(
            id=str(row.get("id", f"row {number}")),
            problem="",
            answer="" if gold is None else str(gold),
            style=chosen,
            is_multiple_answer=bool(row.get("is_multiple_answer", False)),
            unit=str(row.get("unit") or ""),
            metadata=tests,
        ),
    )


def _verdict_row(row: Mapping[str, Any], grade_: Grade) -> dict[str, Any]:
    out: dict[str, Any] = {"id": row["id"]} if "id" in row else {}
    return out | {
        "verdict": str(grade_.verdict),
        "answer": _encodable(grade_.answer),
        "rule": grade_.rule,
    }


def _encodable(text: str) -> str:
    """Replace lone surrogates, which JSON can hold and a UTF-8 file cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")
