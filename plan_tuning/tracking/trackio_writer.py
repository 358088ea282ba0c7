"""The process that writes a job's trackio run: JSON lines from standard input, a row each.

The first line holds the arguments of ``trackio.init``; ``open`` is answered when the run is open.
Then come ``{"values": {...}, "step": 3 | null}`` and ``{"table": NAME, "columns": [...], "rows":
[...]}``, and ``{"finish": true}``. A pipe that ends without it finishes the run as well: what a
killed job reported is kept.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


def messages(lines: TextIO) -> Iterator[dict[str, Any]]:
    """Read messages up to the end, of the run or of whoever writes them."""
    for line in lines:
        if not line.endswith("\n"):  # its writer was killed within it
            return
        message = json.loads(line)
        if "finish" in message:
            return
        yield message


def logged_points(project: str, run: str, run_id: str) -> set[tuple[int, str]]:
    """List what the run holds already: pairs of step and metric."""
    from trackio.sqlite_storage import SQLiteStorage

    rows = SQLiteStorage.get_logs(project, run, run_id=run_id)
    return {(row["step"], key) for row in rows for key in row if row["step"] is not None}


def main() -> None:
    """Write one run."""
    answers = sys.stdout
    arriving = messages(sys.stdin)
    init = next(arriving)
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        import trackio

        run = trackio.init(**init, resume="allow", embed=False)
        known = logged_points(run.project, run.name, run.id)
        print("open", file=answers, flush=True)
        for message in arriving:
            if "table" in message:
                table = trackio.Table(columns=message["columns"], data=message["rows"])
                run.log({message["table"]: table})
                continue
            step = message["step"]
            # A resumed job repeats its curves from their first step on.
            new = {key: value for key, value in message["values"].items()
                   if (step, key) not in known}  # fmt: skip
            if new:
                run.log(new, step=step)
        trackio.finish()


if __name__ == "__main__":
    main()
