"""Tab completion behind a subcommand, through the script that bash is given."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from plan_tuning.cli import completions
from plan_tuning.main import SUBCOMMANDS

pytestmark = pytest.mark.integration

BASH = shutil.which("bash")

# What bash does at a tab: it sets the variables, calls the function, and shows COMPREPLY.
TAB = """
eval "$(plan-tuning -sc install=bash)"
COMP_LINE="$LINE"; COMP_POINT=${#LINE}
COMP_WORDS=($LINE); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
if [ "${LINE: -1}" = " " ]; then COMP_CWORD=$((COMP_CWORD + 1)); fi
hydra_bash_completion
printf '%s\\n' "${COMPREPLY[@]}"
complete -p plan-tuning
"""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("corpus ", ["status", "show", "refilter", "export"]),
        ("corpus st", ["status"]),
        ("corpus nowhere ", []),
        ("corpus export --pu", ["--push"]),
        ("corpus export --push ", []),
        ("corpus status ", []),
        ("compare --bas", ["--baseline"]),
        ("compare multirun_", []),
        ("compare --wandb --ou", ["--out"]),
        ("grade rows.jsonl --out ", []),
    ],
)
def test_subcommands_and_options_are_completed_and_paths_left_to_the_shell(
    line: str, expected: list[str]
) -> None:
    found = completions(f"plan-tuning {line}", SUBCOMMANDS)
    assert found is not None
    assert set(expected) <= set(found)
    assert bool(found) == bool(expected)


@pytest.mark.parametrize("line", ["", "comp", "method=", "method=m1 fil"])
def test_everything_else_is_hydras(line: str) -> None:
    assert completions(f"plan-tuning {line}", SUBCOMMANDS) is None


@pytest.mark.skipif(BASH is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("corpus st", ["status"]),
        ("compar", ["compare", "comparison."]),
        ("compare multirun_", []),
        ("method=m", ["method=m1", "method=m2"]),
        ("no_such_word x", []),
    ],
)
def test_bash_completes_and_writes_nothing_into_the_prompt(
    tmp_path: Path, line: str, expected: list[str]
) -> None:
    command = tmp_path / "bin" / "plan-tuning"
    command.parent.mkdir()
    start = "import sys; from plan_tuning.main import main; sys.exit(main())"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$(dirname "$0")/run.py" "$@"\n')
    (command.parent / "run.py").write_text(f"import sys; sys.argv[0] = 'plan-tuning'\n{start}\n")
    command.chmod(0o755)
    ran = subprocess.run(
        [str(BASH), "-c", TAB],
        cwd=tmp_path,
        env=os.environ
        | {"PATH": f"{command.parent}:{os.environ['PATH']}", "LINE": f"plan-tuning {line}"},
        capture_output=True,
        text=True,
        check=False,
    )
    *found, rule = ran.stdout.splitlines()
    assert [word for word in found if word] == expected
    assert ran.stderr == ""
    assert "-o default" in rule, "where nothing is offered, bash completes file names"
