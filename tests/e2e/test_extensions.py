"""README's table "Extend", row by row: one file of Python and one of YAML, and a job with each."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from .conftest import results
from .warm import WarmCommand

pytestmark = pytest.mark.e2e

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
EXTEND = README.partition("\n## Extend\n")[2].partition("\n## ")[0]
ROW = re.compile(r"^\| ([^|`]+) \| `(\w+)/mine\.yaml` \| `([^`]+)`[^|]*\| `([^`]+)` \|$", re.M)
FAST = ("debug=fast", "logger=csv", "seed=0", "evaluation.benchmarks=[microworld]")
FILES = {
    "data": (
        """
from plan_tuning.records import Problem

def mine(row, default_id, source):
    return Problem(default_id, row["q"], row["a"], solution=row["why"], source=source)
""",
        "{name: mine, path: '???', extension: mine.py, benchmarks: [mine]}",
    ),
    "teacher": (
        """
from dataclasses import dataclass, replace

from plan_tuning.config.extensions import Extension
from plan_tuning.config.teacher import TeacherConfig
from plan_tuning.teachers.scripted import ScriptedTeacher

EXTENSION = Extension("teacher", "mine", attribute="Mine", schema="MineConfig")

@dataclass
class MineConfig(TeacherConfig):
    score: int = 95

class Mine:
    def __init__(self, config):
        self.score, self.plans = config.score, ScriptedTeacher(config.scripted)

    async def complete(self, request):
        reply = await self.plans.complete(request)
        return replace(reply, text=f"Score: {self.score}") if request.role == "verify" else reply
""",
        "{defaults: [/schema/teacher@_here_: mine, _self_], backend: mine, model: mine,\n"
        " score: 90, extension: mine.py}",
    ),
    "filter": (
        """
def mine(row, config):
    return "plan_is_long" if len(row.plan.split()) > 5 else None
""",
        "{defaults: [none, _self_], name: mine, extension: mine.py}",
    ),
    "method": (
        r"""
from plan_tuning.config.extensions import Extension
from plan_tuning.records import Segment, SegmentKind

EXTENSION = Extension(
    "method", "mine", needs=("corpus",), learns=("plan", "execution"), asked_as="sft"
)

def mine(learned, answer):
    yield Segment(SegmentKind.SOLUTION, f"<output>\n{learned['execution']}\n</output>\n")
    yield Segment(SegmentKind.PLAN, f"<plan>\n{learned['plan']}\n</plan>")
""",
        "{name: mine, extension: mine.py}",
    ),
    "executor": (
        r"""
def mine(problem, plan):
    return f"\\boxed{{{len(plan.split())}}}"
""",
        "{name: mine, extension: mine.py}",
    ),
    "evaluation": (
        """
import torch

from plan_tuning.records import Completion

def mine(student, prompts, *, max_new_tokens, **settings):
    found = []
    for prompt in prompts:
        asked = torch.tensor([prompt])
        told = student.causal_lm.generate(
            asked, attention_mask=torch.ones_like(asked), max_new_tokens=max_new_tokens,
            do_sample=False, eos_token_id=list(student.end_ids), pad_token_id=student.pad_id,
        )[0, len(prompt):].tolist()
        text = student.tokenizer.decode(told, skip_special_tokens=True)
        found.append(Completion(text, tuple(told), "stop", len(prompt)))
    return found
""",
        "{defaults: [micro, _self_], engine: mine, extension: mine.py}",
    ),
    "merge": (
        """
def mine(tensors, shares):
    return tensors[0] + 2 * (tensors[1] - tensors[0])
""",
        "{name: mine, extension: mine.py}",
    ),
}


def shown(language: str) -> str:
    """The first file of a language that README shows in full: the reward's."""
    text, *_ = re.findall(rf"```{language}\n(.*?)```", EXTEND, re.DOTALL)
    return str(text)


def source_of(group: str) -> tuple[str, str]:
    return (shown("python"), shown("yaml")) if group == "reward" else FILES[group]


class World:
    """A folder with a configuration of its own, in which the command is run."""

    def __init__(self, folder: Path, warm: WarmCommand) -> None:
        self.folder, self.warm = folder, warm
        self.outputs = folder / "multirun_outputs"

    def write(self) -> None:
        for group in (*FILES, "reward"):
            python, text = source_of(group)
            place = self.folder / "my_conf" / group
            place.mkdir(parents=True)
            (place / "mine.py").write_text(python)
            (place / "mine.yaml").write_text(text)
        (self.folder / "rows").mkdir()
        for split, first in (("train", 0), ("test", 12)):
            some = range(first, first + 12)
            rows = [{"q": f"{n}+1?", "a": f"{n + 1}", "why": f"{n}+1={n + 1}"} for n in some]
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (self.folder / "rows" / f"{split}.jsonl").write_text(lines)

    def run(self, *words: str) -> CompletedProcess[str]:
        ran = self.warm.run(("--config-dir", "my_conf", *words), self.folder, 600)
        assert ran.returncode == 0, ran.stderr
        return ran

    def of(self, *words: str) -> dict[str, Any]:
        """Run one job and return its result."""
        before = set(self.outputs.glob("single/*"))
        self.run(*words)
        (folder,) = set(self.outputs.glob("single/*")) - before
        found: dict[str, Any] = json.loads((folder / "result.json").read_text())
        assert found["status"] == "completed"
        return found

    def manifest(self, kind: str, fingerprint: str) -> dict[str, Any]:
        path = self.outputs / "artifacts" / kind / fingerprint / "manifest.json"
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def weights(self, fingerprint: str) -> dict[str, torch.Tensor]:
        folder = self.outputs / "artifacts" / "students" / fingerprint
        return load_file(folder / "model.safetensors")

    def predictions(self, result: dict[str, Any]) -> list[dict[str, Any]]:
        (fingerprint,) = result["fingerprints"]["predictions"].values()
        path = self.outputs / "artifacts" / "predictions" / fingerprint / "predictions.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, warm: WarmCommand) -> World:
    made = World(tmp_path_factory.mktemp("outside"), warm)
    made.write()
    return made


Check = Callable[[World, dict[str, Any]], None]


def data(world: World, result: dict[str, Any]) -> None:
    assert result["metrics"]["mine"]["n"] == 8
    assert {row["gold"] for row in world.predictions(result)} == {str(n) for n in range(13, 21)}


def teacher(world: World, result: dict[str, Any]) -> None:
    corpus = world.manifest("corpora", result["fingerprints"]["corpus"])
    assert corpus["spec"]["teacher"]["extension"]["settings"] == {"score": 90}
    assert corpus["facts"]["calls"]["bought"] > 0
    assert result["corpus"]["reasons"].get("score_below_threshold", 0) == 0


def filter_(world: World, result: dict[str, Any]) -> None:
    assert result["corpus"]["reasons"]["plan_is_long"] > 0
    assert result["corpus"]["rows"] > 0
    spec = world.manifest("students", result["fingerprints"]["student"])["spec"]
    assert spec["filter"]["extension"]["name"] == "mine"


def method(world: World, result: dict[str, Any]) -> None:
    spec = world.manifest("students", result["fingerprints"]["student"])["spec"]
    assert spec["method"]["extension"]["version"] == 1
    assert result["corpus"]["rows"] > 0
    assert result["metrics"]["microworld"]["n"] == 8


def reward(world: World, result: dict[str, Any]) -> None:
    student = result["fingerprints"]["student"]
    folder = world.outputs / "artifacts" / "students" / student
    with (folder / "metrics.csv").open() as file:
        curves = list(csv.DictReader(file))
    known = [row for row in curves if row["train/reward/mine/coverage"]]
    assert known
    assert all(0.0 <= float(row["train/reward/mine/coverage"]) <= 1.0 for row in known)
    assert any(float(row["train/reward/mine/coverage"]) < 1.0 for row in known), "None is no 0"
    assert any(row["train/reward/mine/std"] for row in known)
    lines = (folder / "completions.jsonl").read_text().splitlines()
    assert all("reward_mine" in json.loads(line) for line in lines)
    spec = world.manifest("students", student)["spec"]
    assert spec["extensions"]["reward/mine"]["source"]


def executor(world: World, result: dict[str, Any]) -> None:
    rows = world.predictions(result)
    assert [row["answer"] for row in rows] == [str(len(row["plan"].split())) for row in rows]
    assert result["executor_zero_shot"]["microworld"]["n"] == 8


def evaluation(world: World, result: dict[str, Any]) -> None:
    (fingerprint,) = result["fingerprints"]["predictions"].values()
    spec = world.manifest("predictions", fingerprint)["spec"]
    assert spec["engine"] == spec["engine_extension"]["name"] == "mine"
    texts = {row["problem_id"]: row["text"] for row in world.predictions(result)}
    usual = world.of("method=zero_shot", *FAST)
    assert texts == {row["problem_id"]: row["text"] for row in world.predictions(usual)}


def merge(world: World, result: dict[str, Any]) -> None:
    merged = world.weights(result["fingerprints"]["student"])
    spec = world.manifest("students", result["fingerprints"]["student"])["spec"]
    assert spec["weights"] == [0.5, 0.5]
    first, second = map(world.weights, spec["students"])
    for name, found in merged.items():
        meant = first[name].double() + 2 * (second[name].double() - first[name].double())
        assert torch.equal(found, meant.float()), name
    assert result["metrics"]["microworld"]["n"] == 8


CHECKS: dict[str, Check] = {
    "data": data, "teacher": teacher, "filter": filter_, "method": method, "reward": reward,
    "executor": executor, "evaluation": evaluation, "merge": merge,
}  # fmt: skip
# The cheapest job of each: ranks for the reward, which so is known in them too.
FURTHER = {
    "data": ["model=tiny_qwen3", "evaluation.benchmarks=[mine]"],
    "teacher": ["stages=[distill,train]"],
    "filter": ["stages=[distill,train]"],
    "reward": ["start=base", "trainer.devices=2", "stages=[distill,train]", "filter=none"],
}


def rows() -> list[tuple[str, str, str, str]]:
    return ROW.findall(EXTEND)


def test_readme_has_a_row_for_every_kind() -> None:
    assert {group for _, group, _, _ in rows()} == set(CHECKS)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[1])
def test_a_row_is_what_it_says(world: World, row: tuple[str, str, str, str]) -> None:
    _, group, signature, words = row
    assert signature in source_of(group)[0]
    if "FIRST" in words:
        usual = [world.of("method=sft", *FAST, "stages=[train]", f"trainer.learning_rate={rate}")
                 for rate in (1e-3, 2e-3)]  # fmt: skip
        for place, job in zip(("FIRST", "SECOND"), usual, strict=True):
            words = words.replace(place, job["fingerprints"]["student"])
    result = world.of(*shlex.split(words), *FAST, *FURTHER.get(group, []))
    CHECKS[group](world, result)


TASK = """
from plan_tuning.config.extensions import Extension
from plan_tuning.grading.answers import Extraction
from plan_tuning.tasks.task import Task

EXTENSION = Extension("task", "letters", attribute="TASK")

def extract(text, *, style, require_box=False):
    return Extraction(text[:1], "first", "found") if text else Extraction("", "", "none")

TASK = Task(
    words={"student": {"suffixes": {"matched": {"zero_shot": " Say a letter."}}}},
    extract=extract,
    compare=lambda gold, answer, criteria: gold == answer,
    gold_defect=lambda answer, style: None,
    difficulty=lambda problem: "a vowel" if problem.answer in "aeiou" else "another",
)
"""


def test_a_task_comes_along_with_a_choice_of_data(world: World) -> None:
    place = world.folder / "my_conf" / "data"
    (place / "letters.py").write_text(TASK)
    text = "{defaults: [jsonl, _self_], name: alphabet, style: letters, path: abc.jsonl,\n"
    (place / "letters.yaml").write_text(f"{text} extension: letters.py}}")
    rows = [{"problem": f"Which letter is number {n}?", "answer": chr(97 + n)} for n in range(9)]
    (world.folder / "abc.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("data=letters", "method=zero_shot", "model=tiny_qwen3", *FAST,
             'evaluation.benchmarks=["alphabet=abc.jsonl"]')  # fmt: skip
    result = world.of(*words)
    assert set(result["metrics"]["alphabet"]["by_difficulty"]) == {"a vowel", "another"}
    found = world.predictions(result)
    assert all(row["answer"] == row["text"][:1] for row in found)
    (fingerprint,) = result["fingerprints"]["predictions"].values()
    spec = world.manifest("predictions", fingerprint)["spec"]
    assert spec["task_prompts"].startswith("letters:")
    assert spec["source"]["extension"]["name"] == "letters"
    (place / "letters.py").write_text(TASK + "# another thought\n")
    edited = world.run(*words, "dry_run=true").stdout
    assert fingerprint not in edited


def test_help_lists_what_is_outside(world: World) -> None:
    listed = world.run("--help").stdout
    assert re.search(r"^reward: .*plan_and_answer, mine$", listed, re.M)
    assert re.search(r"^data: .*, mine$", listed, re.M)


def test_an_edited_file_never_finds_the_old_student(world: World) -> None:
    words = ("method=grpo", "reward=mine", *FAST, *FURTHER["reward"], "dry_run=true")

    def student() -> str:
        (line,) = re.findall(r"^students +(\w+)", world.run(*words).stdout, re.M)
        return str(line)

    file = world.folder / "my_conf" / "reward" / "mine.py"
    before, text = student(), file.read_text()
    file.write_text(text + "\n# another thought\n")
    assert student() != before
    file.write_text(text)
    assert student() == before


@pytest.mark.skipif(
    importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher") is None,
    reason="the extra `sweep` is not installed",
)
def test_workers_of_a_launcher_have_them(world: World) -> None:
    world.run(
        "-m", "method=mine", "filter=none,mine", "teacher=mine", *FAST, "sweep_name=outside",
        "hydra/launcher=parallel", "hydra.launcher.n_jobs=2",
    )  # fmt: skip
    found = results(world.outputs / "outside")
    assert [row["status"] for row in found] == ["completed"] * 2
    assert len({row["fingerprints"]["student"] for row in found}) == 2
    # Whoever compares them later need not have the modules.
    compared = world.warm.run(("compare", "multirun_outputs/outside"), world.folder, 60)
    assert compared.returncode == 0, compared.stderr
    assert "mine" in compared.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{name: mine, extension: gone.py}", "gone.py is not allowed: an existing file"),
        ("{name: mine, extension: no.such.thing}", "no.such.thing is not allowed"),
        ("{name: mine, extension: empty.py}", "neither a record nor a mine"),
        ("{name: mine, extension: ", "mine.yaml is not allowed: a file of YAML"),
        ("{name: gsm8k, extension: taken.py}", "there is a data gsm8k already"),
    ],
)
def test_a_choice_without_its_module_is_refused(
    tmp_path: Path, warm: WarmCommand, text: str, message: str
) -> None:
    place = tmp_path / "my_conf" / "data"
    place.mkdir(parents=True)
    (place / "mine.yaml").write_text(text)
    (place / "empty.py").write_text("")
    (place / "taken.py").write_text(
        "from plan_tuning.config.extensions import Extension\n"
        'EXTENSION = Extension("data", "gsm8k", attribute="Extension")\n'
    )
    ran = warm.run(("--config-dir", "my_conf", "data=mine"), tmp_path, 60)
    assert ran.returncode == 2
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr
