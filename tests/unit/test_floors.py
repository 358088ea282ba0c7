"""The four laws as far as the source shows them: imports run one way, files stay readable."""

from __future__ import annotations

import ast
import collections
import functools
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

FLOORS = {
    "__main__": 7, "main": 7, "cli": 7,  "sweep": 7,
    "experiment": 6, "job": 6,
    "training": 5, "comparison": 5,
    "distillation": 4, "evaluation": 4,
    "teachers": 3, "students": 3, "rewards": 3,
    "tasks": 2,
    "text": 1, "grading": 1,
    "records": 0, "job_record": 0, "interruption": 0, "config": 0,
    "artifacts": 0, "tracking": 0, "statistics": 0,
}  # fmt: skip
# Rooms of one floor that may use each other, in this order.
ORDER = ["interruption", "records", "job_record", "artifacts", "statistics", "config",
         "tracking", "grading", "text", "job", "experiment", "sweep", "cli", "main",
         "__main__"]  # fmt: skip
HEAVY = ("torch", "transformers", "litellm", "wandb", "datasets", "pytorch_lightning", "pandas")
PURE_ROOMS = ("text", "records", "job_record", "statistics", "grading")
# The rules of grading are text work; these alone start processes or wait for them.
GRADING_PROCESSES = ("grader.py", "pool.py", "worker.py")
PROCESSES = ("subprocess", "multiprocessing", "threading", "asyncio", "select", "signal", "os",
             "resource", "pathlib", "socket", "shutil", "tempfile")  # fmt: skip
IMPURE = ("pytorch_lightning", "hydra", "omegaconf", "litellm", "wandb", "aiohttp", "sqlite3")


BANNED = {"utils", "helpers", "common", "misc", "base"}
NUM_ROOMS = 22
MIRRORED = ("sft", "grpo")  # the two trainings of training/, whose modules bear the same names


def sources(root: Path) -> list[Path]:
    return sorted((root / "plan_tuning").rglob("*.py"))


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


@functools.cache
def import_statements(path: Path) -> list[ast.Import | ast.ImportFrom]:
    """All of a file's, wherever in it they stand; every law asks for them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in import_statements(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif node.module:
            names.add(node.module)
            if node.module == "plan_tuning":
                names |= {f"plan_tuning.{alias.name}" for alias in node.names}
    return names


def test_imports_run_one_way(root: Path) -> None:
    wrong = []
    for path in sources(root):
        relative = path.relative_to(root / "plan_tuning")
        room = relative.parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        assert room in FLOORS, f"{relative} is in no room of the house"
        for name in imports_of(path):
            if not name.startswith("plan_tuning."):
                continue
            other = room_of(name)
            if other == room:
                continue
            same_floor = FLOORS[other] == FLOORS[room]
            in_order = (
                same_floor
                and room in ORDER
                and other in ORDER
                and ORDER.index(other) < ORDER.index(room)
            )
            if FLOORS[other] > FLOORS[room] or (same_floor and not in_order):
                wrong.append(f"{relative} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_only_teachers_import_a_provider(root: Path) -> None:
    for path in sources(root):
        if path.relative_to(root / "plan_tuning").parts[0] == "teachers":
            continue
        providers = {
            name for name in imports_of(path) if name.split(".")[0] in ("litellm", "openai")
        }
        assert not providers, f"{path} imports {providers}"


def test_the_heart_is_pure(root: Path) -> None:
    for path in sources(root):
        room = path.relative_to(root / "plan_tuning").parts[0].removesuffix(".py")
        if room in PURE_ROOMS:
            impure = {name for name in imports_of(path) if name.split(".")[0] in IMPURE}
            assert not impure, f"{path} imports {impure}"


def test_the_rules_of_grading_touch_no_process(root: Path) -> None:
    for path in sorted((root / "plan_tuning" / "grading").glob("*.py")):
        if path.name not in GRADING_PROCESSES:
            impure = {name for name in imports_of(path) if name.split(".")[0] in PROCESSES}
            assert not impure, f"{path} imports {impure}"


def test_dictconfig_ends_at_the_door(root: Path) -> None:
    allowed = {
        "main.py",
        "sweep/sweeper.py",
        "sweep/launch.py",
        "sweep/overrides.py",
        "config/composition.py",
        "config/registration.py",
        "config/typed.py",
    }
    for path in sources(root):
        relative = path.relative_to(root / "plan_tuning").as_posix()
        if relative not in allowed:
            used = {
                name for name in imports_of(path) if name.split(".")[0] in ("hydra", "omegaconf")
            }
            assert not used, f"{relative} imports {used}"


def test_files_stay_readable(root: Path) -> None:
    long = [
        f"{path.relative_to(root)}: {count} lines"
        for folder in ("plan_tuning", "tests", "experiments")
        for path in sorted((root / folder).rglob("*.py"))
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > 400
    ]
    assert not long, "\n".join(long)


def test_names_say_what_is_inside(root: Path) -> None:
    nameless = [path for path in sources(root) if {path.stem, path.parent.name} & BANNED]
    assert not nameless, f"{nameless}: name the noun, or put the functions beside their caller"


def test_the_house_has_few_rooms(root: Path) -> None:
    rooms = {path.relative_to(root / "plan_tuning").parts[0] for path in sources(root)}
    rooms -= {"__init__.py", "__main__.py"}
    assert len(rooms) <= NUM_ROOMS, f"{len(rooms)} rooms at the top: {sorted(rooms)}"


def test_a_name_leads_to_one_module(root: Path) -> None:
    """Exempt: config/, whose files bear their group's name, and the two trainings."""
    found: dict[str, set[str]] = collections.defaultdict(set)
    for path in sources(root):
        relative = path.relative_to(root / "plan_tuning")
        folder = relative.parent.as_posix()
        if path.stem != "__init__" and folder != "config":
            is_mirrored = folder in [f"training/{name}" for name in MIRRORED]
            found[path.stem].add("training/*" if is_mirrored else folder)
    twice = {name: sorted(folders) for name, folders in found.items() if len(folders) > 1}
    assert not twice, f"modules of one name: {twice}"


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def needs(path: Path, modules: Collection[str]) -> set[str]:
    """The modules that this one imports: at its top, inside a function, or for types alone."""
    found: set[str] = set()
    for node in import_statements(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & set(modules)
            found |= inside or {node.module}
    return found & set(modules)


def circles(graph: Mapping[str, Collection[str]]) -> list[list[str]]:
    """The groups of modules that reach each other."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        ahead = list(graph[start])
        while ahead:
            name = ahead.pop()
            if name not in seen:
                seen.add(name)
                ahead += graph[name]
        return seen

    reach = {name: reached(name) for name in graph}
    groups = {
        tuple(sorted(other for other in reach[name] if name in reach[other]))
        for name in graph
        if name in reach[name]
    }
    return sorted(map(list, groups))


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d"}}
    assert circles(graph) == [["b", "c"], ["d"]]


def test_no_two_modules_need_each_other(root: Path) -> None:
    paths = {module_name(path, root): path for path in sources(root)}
    # Under `python -m` a module names itself to be imported under its own name.
    graph = {name: needs(path, paths) - {name} for name, path in paths.items()}
    assert sum(map(len, graph.values())) > len(graph), "imports are not read"
    found = circles(graph)
    assert not found, "import circles:\n" + "\n".join(" <-> ".join(names) for names in found)


def test_the_two_trainings_do_not_import_each_other(root: Path) -> None:
    for one, other in (("sft", "grpo"), ("grpo", "sft")):
        for path in sorted((root / "plan_tuning" / "training" / one).glob("*.py")):
            wrong = [n for n in imports_of(path) if f"training.{other}" in n]
            assert not wrong, f"{path} imports {wrong}"
    for path in sorted((root / "plan_tuning" / "training").glob("*.py")):  # what both build on
        wrong = [n for n in imports_of(path) if "training.sft" in n or "training.grpo" in n]
        assert not wrong, f"{path} imports {wrong}"


@pytest.mark.parametrize(
    "module", ["plan_tuning.main", "plan_tuning.job.graph", "plan_tuning.experiment"]
)
def test_nothing_heavy_before_a_job_starts(module: str) -> None:
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
