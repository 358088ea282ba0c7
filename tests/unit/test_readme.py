"""Every command that the README shows is one that the configuration understands."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
import yaml
from composition import composed, jobs_of
from typer.testing import CliRunner

from plan_tuning.cli import app
from plan_tuning.config.registration import ExperimentSearchPath, add_experiments, schemas
from plan_tuning.config.suggestions import known_keys
from plan_tuning.main import SUBCOMMANDS, help_text

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


def test_the_help_names_every_subcommand() -> None:
    listed = re.search(r"compare finished runs +\(also: ([^)]*)\)", help_text())
    assert listed is not None
    assert {"compare", *listed.group(1).split(", ")} == set(SUBCOMMANDS)


def knobs() -> list[str]:
    """The keys of the table "knob | key", without the values that follow some of them."""
    table = (ROOT / "README.md").read_text("utf-8").partition("| knob | key |")[2].partition("\n\n")
    cells = [line.split("|")[2] for line in table[0].splitlines()[2:]]
    return [key for cell in cells for key in re.findall(r"(?<![@a-z])[a-z]+\.[a-z_.]+[a-z]", cell)]


def test_every_knob_of_the_table_exists() -> None:
    assert len(knobs()) >= 20
    known = known_keys(ROOT / "conf", schemas())
    assert [key for key in knobs() if key not in known] == []


def test_the_grid_file_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ExperimentSearchPath, "own_folders", [])
    text = (ROOT / "README.md").read_text("utf-8")
    (shown,) = re.findall(r"```yaml\n(defaults:.*?)```", text, re.DOTALL)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.yaml").write_text(shown)
    add_experiments([tmp_path])
    assert len(jobs_of(tmp_path / "outputs", "experiment=mine")) == 6


def test_the_two_commands_stand_alone() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    install = 'python -m pip install -c constraints.txt -e ".[dev,sweep]"'
    assert f"{install} && plan-tuning experiment=quickstart" in text
    tests = "python -m pytest -n 2 --dist=worksteal"
    assert f"{install} && {tests}" in text
    assert f"\n{tests}\n" in (ROOT / ".ci" / "run").read_text("utf-8")


def named_in(path: Path) -> set[str]:
    """The functions, classes and fields of a module, or the keys of a YAML file."""
    if path.suffix == ".yaml":
        return set(yaml.safe_load(path.read_text("utf-8")))
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


def places() -> list[tuple[str, str]]:
    """File and name of every row of the table "Where is …"."""
    table = (ROOT / "README.md").read_text("utf-8").partition("## Where is …")[2].partition("\n## ")
    return re.findall(r"^\|[^|]+\| `([^`]+)` \| `([^`]+)` \|$", table[0], re.MULTILINE)


def test_the_table_of_places_is_whole() -> None:
    assert len(places()) >= 12


@pytest.mark.parametrize(("file", "name"), places())
def test_a_place_holds_what_it_names(file: str, name: str) -> None:
    path = ROOT / "plan_tuning" / file
    assert path.is_file()
    assert name in named_in(path)


def texts() -> list[tuple[str, str]]:
    """The files that may cite the method, each as one line: a citation may be wrapped."""
    paths = [
        path
        for folder in ("plan_tuning", "conf", "experiments", "tests")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in (".py", ".yaml") and path != Path(__file__)
    ]
    return [
        (path.relative_to(ROOT).as_posix(), re.sub(r"\s*\n[\s#]*", " ", path.read_text("utf-8")))
        for path in paths
    ]


def test_cited_sections_of_the_method_exist() -> None:
    page = (ROOT / "experiments" / "METHOD.md").read_text("utf-8")
    sections = {body.partition(".")[0]: body for body in page.split("\n## ")[1:]}
    known = set(sections)
    for number, body in sections.items():
        known |= {f"{number}.{item}" for item in re.findall(r"^(\d)\. ", body, re.MULTILINE)}
    known |= set(re.findall(r"^\| ([A-Z]\d) \|", sections["7"], re.MULTILINE))
    assert set(sections) == {str(number) for number in range(1, 13)}
    num_cited = 0
    for path, text in texts():
        cited = re.findall(r"experiments/METHOD\.md(?: section ([\d.]*\d)|, ([A-Z]\d))", text)
        assert text.count("METHOD.md") == len(cited), f"{path}: a citation names no section"
        assert not [place for pair in cited if (place := "".join(pair)) not in known], path
        num_cited += len(cited)
    assert num_cited >= 35


def test_every_ablation_has_an_experiment() -> None:
    page = (ROOT / "experiments" / "METHOD.md").read_text("utf-8")
    rows = re.findall(r"^\| [A-Z]\d \|.*\| (.*) \|$", page, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    files = {path.stem for path in (ROOT / "experiments").glob("*.yaml")}
    assert len(rows) == 11
    assert named == files - {"quickstart", "first_real"}


def test_the_program_publishes_what_the_method_page_does() -> None:
    page = (ROOT / "experiments" / "METHOD.md").read_text("utf-8")
    table = page.partition("## 6.")[2].partition("## 7.")[0]
    file = ROOT / "plan_tuning" / "comparison" / "published.yaml"
    claims = yaml.safe_load(file.read_text("utf-8"))["claims"]
    numbers = {
        abs(entry[key])
        for claim in claims
        for entry in claim.get("numbers", [])
        for key in ("row", "against", "gain")
        if key in entry
    }
    shown = {float(number) for number in re.findall(r"(?<![\w.])\d+(?:\.\d+)?", table)}
    assert numbers
    assert numbers <= shown
