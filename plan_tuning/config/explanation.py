"""The knobs of a choice, as its files explain them: ``plan-tuning --help method=grpo``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from plan_tuning.config.suggestions import choices, unknown_choice

# A base of the same group, in a file's defaults list.
_BASE = re.compile(r"^  - (\w+)(?:\s+#.*)?$", re.MULTILINE)


def explanation(group: str, choice: str, folders: Sequence[Path]) -> str:
    """Show a choice's file, and behind it the files that it builds on, which explain the rest.

    Args:
        group: its group, a folder's name.
        choice: a file's name.
        folders: those like conf/, the project's first.

    Raises:
        ConfigError: there is no such choice.
    """
    known = choices(folders)
    shown: list[str] = []
    waiting = [choice]
    while waiting:
        name = waiting.pop(0)
        files = [folder / group / f"{name}.yaml" for folder in folders]
        file = next((path for path in files if path.is_file()), None)
        if file is None:
            raise unknown_choice(group, name, known)
        text = file.read_text(encoding="utf-8").rstrip()
        shown.append(
            f"== {group}={name} ({file.parent.parent.name}/{group}/{name}.yaml) ==\n{text}"
        )
        waiting += [base for base in _BASE.findall(text) if base != "_self_"]
    return "\n\n".join(shown)


def explanations(words: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Explain every word ``GROUP=CHOICE`` of a command line; other words are passed over.

    Raises:
        ConfigError: a group has no such choice.
    """
    groups = choices(folders)
    found = []
    for word in words:
        group, is_choice, choice = word.partition("=")
        if is_choice and group in groups:
            found += [explanation(group, name, folders) for name in choice.split(",")]
    return found
