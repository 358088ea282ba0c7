"""Every command that the README shows is one that the configuration understands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from composition import composed
from typer.testing import CliRunner

from plan_tuning.cli import app
from plan_tuning.main import SUBCOMMANDS

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = ["README.md", "experiments/README.md"]
FLAGS = ("--help", "--cfg", "-sc", "--hydra-help", "--info", "--config-dir", "--multirun")


def commands() -> list[tuple[str, str]]:
    """All ``plan-tuning …`` lines of fenced blocks, and where they stand."""
    found = []
    for page in PAGES:
        path = ROOT / page
        if not path.is_file():
            continue
        for block in re.findall(r"```(?:bash|sh)\n(.*?)```", path.read_text("utf-8"), re.DOTALL):
            joined = re.sub(r"\\\n\s*", " ", block)
            for line in joined.splitlines():
                for part in line.split("&&"):
                    text = re.split(r"\s#\s", part)[0].strip()
                    if text.startswith("plan-tuning"):
                        found.append((page, text))
    return found


@pytest.mark.parametrize(("page", "command"), commands(), ids=lambda value: value[:70])
def test_the_command_is_understood(page: str, command: str) -> None:
    words = shlex.split(command)[1:]
    if words[0] in SUBCOMMANDS:
        shown = CliRunner().invoke(app, [words[0], "--help"])
        assert shown.exit_code == 0
        return
    if any(flag in words for flag in FLAGS):
        return
    overrides = [word for word in words if word != "-m"]
    is_sweep = "-m" in words or "experiment" in command
    # a sweep is composed at the first of its choices
    first = [re.sub(r"=([^\[{,]*),.*", r"=\1", word) if is_sweep else word for word in overrides]
    composed(*first)


def test_the_two_commands_stand_alone() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    install = 'python -m pip install -c constraints.txt -e ".[dev,sweep]"'
    assert f"{install} && plan-tuning experiment=quickstart" in text
    tests = "python -m pytest -n 2 --dist=worksteal"
    assert f"{install} && {tests}" in text
    assert f"\n{tests}\n" in (ROOT / ".ci" / "run").read_text("utf-8")
