"""The subcommand ``plan-tuning contamination``: which test problems training sets contain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from plan_tuning.artifacts import write_atomic
from plan_tuning.records import Problem
from plan_tuning.tasks.benchmarks import read
from plan_tuning.tasks.contamination import NGRAM, THRESHOLD, report
from plan_tuning.tasks.json_rows import DataError


def contamination(
    train: Annotated[list[str], typer.Option(help="Training set: SET or SET=PATH; repeatable.")],
    test: Annotated[list[str], typer.Option(help="Test set: SET or SET=PATH; repeatable.")],
    out: Annotated[Path, typer.Option(help="Report, for evaluation.decontaminate=FILE.")],
    ngram: Annotated[int, typer.Option(help="Words in a sequence that is compared.")] = NGRAM,
    threshold: Annotated[
        float, typer.Option(help="Share of a test problem's sequences in one training problem.")
    ] = THRESHOLD,
) -> None:
    """Find the test problems that training sets contain (13-gram overlap)."""
    specs: dict[str, Any] = {}
    try:
        train_sets = dict(_problems(argument, "train", specs) for argument in train)
        test_sets = dict(_problems(argument, "test", specs) for argument in test)
        found = report(train_sets, test_sets, specs, ngram=ngram, threshold=threshold)
    except ValueError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(2) from error
    write_atomic(out, json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    table = Table("test set", "problems", "contaminated", "exact", "same answer")
    for name, entry in found["test"].items():
        share = entry["num_contaminated"] / entry["num_problems"]
        counts = (entry["num_exact"], entry["num_same_answer"])
        contaminated = f"{entry['num_contaminated']} ({share:.1%})"
        table.add_row(name, str(entry["num_problems"]), contaminated, *map(str, counts))
    Console().print(table)
    typer.echo(f"wrote {out}; use it with evaluation.decontaminate={out}")


def _problems(argument: str, split: str, specs: dict[str, Any]) -> tuple[str, list[Problem]]:
    name, equals, path = argument.partition("=")
    if equals and not path.strip():
        raise DataError(
            f"--{split} {argument}: no path stands behind {name}= (is a variable of the shell "
            f"unset?). Give --{split} {name}=FOLDER, or --{split} {name} to read it from the Hub"
        )
    reading = read(name, split=split, path=path or None)
    specs[f"{split}/{name}"] = reading.spec
    return name, reading.problems
