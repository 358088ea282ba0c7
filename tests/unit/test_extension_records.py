"""The records of what can be added: they are whole, and no other module keeps a list of names."""

from __future__ import annotations

import ast
import asyncio
import json
import math
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from plan_tuning.config import extensions, outside
from plan_tuning.config.checks import ConfigError
from plan_tuning.config.extensions import BUILT_IN, KINDS, Extension, extension_spec, names, record
from plan_tuning.config.filter import FilterConfig
from plan_tuning.config.grpo import StartConfig
from plan_tuning.config.reward import PlanRewardConfig, RewardConfig
from plan_tuning.config.training import MethodConfig
from plan_tuning.grading.grader import Grader
from plan_tuning.records import Ask, Completion, Problem, Reply, Request
from plan_tuning.training.grpo.reward import RewardError, RewardWorker
from plan_tuning.training.grpo.rollout import Rollout

# The modules that implement a method may name it.
OWN = {
    "config/extensions.py",
    "config/grpo.py",
    "comparison/choices.py",  # a group of settings
    *(f"training/grpo/{name}.py" for name in ("loss", "module")),
    "training/sft/module.py",
}


@pytest.mark.parametrize("one", BUILT_IN, ids=lambda one: f"{one.kind}-{one.name}")
def test_every_record_leads_to_what_it_names(one: Extension) -> None:
    assert callable(one.load()) or one.kind in ("data", "task")
    assert (one.config_class() is not None) == bool(one.schema)
    assert not extension_spec(one.kind, one.name), "a built-in record changes no fingerprint"


def test_the_methods_are_those_of_the_paper() -> None:
    learned = {one.name: (one.learns, one.loss_weights) for one in extensions.records("method")}
    both = ("plan_weight", "solution_weight")
    assert learned == {
        "zero_shot": ((), ()),
        "zero_shot_cot": ((), ()),
        "sft": (("solution",), both[1:]),
        "sft_teacher_cot": (("execution",), both[1:]),
        "m1": (("plan", "execution"), both),
        "m2": (("plan",), both[:1]),
        "grpo": (("rewards",), ()),
    }
    methods = [MethodConfig(name) for name in names("method") if name != "grpo"]
    assert [m.name for m in methods if m.needs_corpus] == ["sft_teacher_cot", "m1", "m2"]
    assert [m.name for m in methods if m.has_two_calls] == ["m2"]
    assert [m.name for m in methods if m.record.writes_plan] == ["m1", "m2"]
    assert record("method", "grpo").writes_plan


def test_no_other_module_names_a_method(root: Path) -> None:
    wrong = []
    for path in sorted((root / "plan_tuning").rglob("*.py")):
        relative = path.relative_to(root / "plan_tuning").as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and node.value in names("method"):
                wrong += [] if relative in OWN else [f"{relative}:{node.lineno} {node.value}"]
    assert not wrong


def test_config_keeps_no_other_list_of_names(root: Path) -> None:
    wrong = []
    for path in sorted((root / "plan_tuning" / "config").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Tuple | ast.List | ast.Set) and path.name != "extensions.py":
                words = {n.value for n in node.elts if isinstance(n, ast.Constant)}
                wrong += [f"{path.name}: {words}" for kind in KINDS
                          if len(words & set(names(kind))) > 1]  # fmt: skip
    assert not wrong


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"kind": "colour", "name": "mine"}, r"extension\.kind=colour.*choose one of data"),
        ({"kind": "reward", "name": "not a name"}, r"extension\.name"),
        ({"kind": "reward", "name": "mine", "needs": ("money",)}, r"extension\.needs=money.*ask"),
        ({"kind": "method", "name": "mine", "learns": ("latin",)}, r"extension\.learns=latin"),
        ({"kind": "method", "name": "mine", "learns": ("execution",), "calls": 2}, r"\.calls=2"),
    ],
)
def test_a_record_with_unknown_words_is_refused(words: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Extension(**words)  # type: ignore[arg-type]


@pytest.fixture
def my_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of choices; what is read from it is forgotten at the end."""
    known = dict(extensions._RECORDS)
    monkeypatch.delenv(outside.VARIABLE, raising=False)
    yield tmp_path
    extensions._RECORDS.clear()
    extensions._RECORDS.update(known)
    extensions.task_of.cache_clear()


def write(folder: Path, group: str, python: str, text: str = "{extension: mine.py}") -> None:
    place = folder / group
    place.mkdir()
    (place / "mine.py").write_text(python)
    (place / "mine.yaml").write_text(text)
    outside.load_folder(folder)


ROLLOUTS = [
    Rollout(Problem("p1", "2+3?", "5"), "1. Add.", 0, (1,), Completion(text, (3, 4), "stop", 1),
            plan, 0)
    for text, plan in (
        ("<plan>\n1. Add.\n</plan>\n<output>\n\\boxed{5}\n</output>", "1. Add."), ("7", ""),
    )
]  # fmt: skip


def rewards(reward: RewardConfig) -> tuple[list[float], list[Request]]:
    """What the trainer makes of the reward ``mine``, and what it asks for that."""
    asked: list[Request] = []

    @asynccontextmanager
    async def opened() -> AsyncIterator[Ask]:
        async def ask(request: Request) -> Reply:
            asked.append(request)
            await asyncio.sleep(0)
            return Reply("0.25")

        yield ask

    with (
        Grader() as grader,
        RewardWorker(reward, grader, max_new_tokens=9, open_ask=opened) as worker,
    ):
        return [row["mine"] for row in worker.submit(ROLLOUTS).result()], asked


def test_none_and_nan_are_no_reward(my_conf: Path) -> None:
    write(my_conf, "reward", "def mine(attempt):\n    return len(attempt.plan) or None\n")
    found, asked = rewards(RewardConfig(extra={"mine": 0.5}))
    assert found[0] == 7.0
    assert math.isnan(found[1])
    assert not asked


def test_a_reward_may_ask_a_large_model(my_conf: Path) -> None:
    write(my_conf, "reward", """
from plan_tuning.config.extensions import Extension
from plan_tuning.records import Request

EXTENSION = Extension("reward", "mine", needs=("ask",))

async def mine(attempt, ask):
    words = ({"role": "user", "content": attempt.problem.problem + attempt.text},)
    return float((await ask(Request("judge", words, 0.0, 9))).text)
""")  # fmt: skip
    reward = RewardConfig(extra={"mine": 0.5})
    assert reward.uses_judge
    assert not RewardConfig(extra={"mine": 0.0}).uses_judge
    found, asked = rewards(reward)
    assert found == [0.25, 0.25]
    assert len(asked) == 2


def test_a_reward_that_is_no_number_is_an_error(my_conf: Path) -> None:
    write(my_conf, "reward", "def mine(attempt):\n    return 'much'\n")
    with pytest.raises(RewardError, match=r"the reward mine returned 'much' for problem p1"):
        rewards(RewardConfig(extra={"mine": 0.5}))


def test_a_reward_that_nobody_brings_or_can_compute_is_refused(my_conf: Path) -> None:
    with pytest.raises(ConfigError, match=r"reward\.extra=mine.*--config-dir"):
        RewardConfig(extra={"mine": 0.5})
    with pytest.raises(ConfigError, match=r"reward\.extra=format"):
        RewardConfig(extra={"format": 0.5})
    write(my_conf, "reward", """
from plan_tuning.config.extensions import Extension
EXTENSION = Extension("reward", "mine", needs=("log_probs",))
""")  # fmt: skip
    reward = RewardConfig(extra={"mine": 0.5})
    assert reward.uses_frozen
    with pytest.raises(RewardError, match=r"needs a frozen executor"):
        rewards(reward)


def test_plans_are_compared_by_a_function_from_outside(my_conf: Path) -> None:
    write(my_conf, "reward", """
from plan_tuning.config.extensions import Extension
EXTENSIONS = [Extension("plan_similarity", "mine"), Extension("reward", "mine", attribute="other")]

def mine(teacher_plan, plan):
    return 0.5

def other(attempt):
    return 1.0
""")  # fmt: skip
    plan = PlanRewardConfig(weight=1.0, kind="mine", guards=["answer"])
    with (
        Grader() as grader,
        RewardWorker(RewardConfig(plan=plan), grader, max_new_tokens=9) as worker,
    ):
        assert worker.submit(ROLLOUTS[:1]).result()[0]["plan"] == 0.5


def test_other_processes_are_told(my_conf: Path) -> None:
    write(my_conf, "method", """
from plan_tuning.config.extensions import Extension
EXTENSION = Extension("method", "mine", learns=("solution",), suffix=" Go.")
""")  # fmt: skip
    ((where, kind, stem),) = json.loads(os.environ[outside.VARIABLE])
    assert (where, kind, stem) == (str(my_conf / "method" / "mine.py"), "method", "mine")
    found = record("method", "mine")
    extensions._RECORDS.pop(("method", "mine"))
    outside.load_announced()
    assert record("method", "mine") == found
    assert StartConfig("mine").name == "mine", "GRPO begins from a method from outside as well"


def test_a_choice_names_what_its_module_brings(my_conf: Path) -> None:
    with pytest.raises(ConfigError, match=r"filter\.extension=mine\.py.*--config-dir"):
        FilterConfig(name="mine", extension="mine.py")
    write(my_conf, "filter", "def mine(row, config):\n    return None\n")
    assert FilterConfig(name="mine", extension="mine.py").name == "mine"
    assert len(extension_spec("filter", "mine")["extension"]["source"]) == 16


def test_a_module_by_its_dotted_name(my_conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (my_conf / "my_dotted_filter.py").write_text("def mine(row, config):\n    return 'no'\n")
    monkeypatch.syspath_prepend(my_conf)
    write(my_conf, "filter", "", "{extension: my_dotted_filter}")
    assert record("filter", "mine").load()(None, None) == "no"


def test_a_fault_of_the_module_shows_where_it_is(my_conf: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        write(my_conf, "filter", "1 / 0\n")
