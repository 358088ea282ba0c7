"""What a frozen executor does without a plan, by problem: found once, kept where a resume finds it.

A value depends, in its last bits, on which problems share a pass, and a resumed training meets
other gaps than the one that was killed: so what was found is written down, and read again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any


class Baselines(MutableMapping[str, float]):
    """A mapping from names to numbers in a file of JSON lines, to which every new one is added.

    Args:
        path: the file; a last line that a killed process has not finished is left out.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, float] = {}
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        whole, _, rest = text.rpartition("\n")
        for line in whole.splitlines():
            name, value = json.loads(line)
            self._known[name] = float(value)
        if rest:
            path.write_text(whole + "\n" if whole else "", encoding="utf-8")

    def __getitem__(self, name: str) -> float:
        """Look a number up."""
        return self._known[name]

    def __setitem__(self, name: str, value: float) -> None:
        """Note a number, here and in the file."""
        self.update({name: value})

    def update(self, *found: Any, **named: float) -> None:
        """Note many numbers by one write: a process that is killed has noted all or none."""
        new = dict(*found, **named)
        self._known |= new
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(item) + "\n" for item in new.items()))

    def __delitem__(self, name: str) -> None:
        """Forget a number here; the file keeps it."""
        del self._known[name]

    def __iter__(self) -> Iterator[str]:
        """Name what is known."""
        return iter(self._known)

    def __len__(self) -> int:
        """Count what is known."""
        return len(self._known)
