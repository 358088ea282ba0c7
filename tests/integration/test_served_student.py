"""A student behind a server that is there already: verified, and asked in tokens or in messages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.evaluation import EvaluationConfig, ServerConfig
from plan_tuning.config.model import ModelConfig
from plan_tuning.config.training import PromptConfig
from plan_tuning.evaluation.predictions import solve
from plan_tuning.evaluation.writers import EngineWriter
from plan_tuning.grading.grader import Grader
from plan_tuning.job.served_student import identity_of, token_writer
from plan_tuning.records import Problem
from plan_tuning.students.generation.probe import probe_of
from plan_tuning.students.generation.protocol import EngineError
from plan_tuning.students.loading import Student, load_student

from ..protocol_double import Double, Fault
from .answer_server import Server, said

pytestmark = pytest.mark.usefixtures("one_thread")

MODEL = ModelConfig(name="tiny", kind="tiny", family="qwen3")
PROBLEMS = [Problem(f"p{i}", f"Ada has {i} cups and finds 2 more. How many?", "3") for i in (1, 5)]


@pytest.fixture(scope="module")
def folder(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student with the probe that its training would have written."""
    folder = tmp_path_factory.mktemp("artifacts") / "students" / "0123456789abcdef"
    shutil.copytree(start, folder)
    student = load_student(folder, MODEL)
    facts = {"probe": probe_of(student, list(range(100, 130))).as_facts()}
    (folder / "manifest.json").write_text(json.dumps({"facts": facts, "spec": {}}))
    return folder


@pytest.fixture(scope="module")
def student(folder: Path) -> Student:
    return load_student(folder, MODEL)


@pytest.fixture
def double(folder: Path) -> Iterator[Double]:
    with Double(folder, "--served-model-name", "mine") as double:
        double.options.model = "/mounted/model"  # as a container names it
        yield double


def evaluation(api_base: str, protocol: str = "auto") -> EvaluationConfig:
    server = ServerConfig(api_base=api_base, model="mine", protocol=protocol)
    return EvaluationConfig(engine="server", server=server, max_new_tokens=8)


def test_it_is_verified_and_asked_in_tokens(
    double: Double, folder: Path, student: Student, grader: Grader
) -> None:
    chosen, identity = evaluation(double.api_base), identity_of(folder, None, 0.15)
    writer = token_writer(chosen, folder, MODEL, identity)
    assert isinstance(writer, EngineWriter)
    assert identity.facts()["student_verified"] == "yes"
    assert identity.facts()["probe_gap"] < 1e-4
    answers = [
        solve(
            one, PROBLEMS, method="m1", prompt=PromptConfig(), evaluation=how,
            benchmark="b", grader=grader,
        )
        for one, how in ((writer, chosen), (student, EvaluationConfig(max_new_tokens=8)))
    ]  # fmt: skip
    assert [row.text for row in answers[0]] == [row.text for row in answers[1]]
    assert writer.facts()["served"] == {"id": "mine", "root": "/mounted/model", "parent": None}
    assert all(isinstance(one["prompt"][0], int) for one in double.completions())


def test_another_student_is_not_asked(double: Double, folder: Path) -> None:
    double.fault = Fault("wrong_model", after=1)
    identity = identity_of(folder, None, 0.15)
    with pytest.raises(ConfigError, match="Nothing was asked"):
        token_writer(evaluation(double.api_base), folder, MODEL, identity)
    assert identity.facts()["student_verified"] == "no"
    assert identity.facts()["probe_gap"] > 0.15


def test_messages_are_for_those_who_want_them_or_know_nothing_else(
    double: Double, folder: Path
) -> None:
    identity = identity_of(folder, None, 0.15)
    assert token_writer(evaluation(double.api_base, "chat"), folder, MODEL, identity) is None
    assert identity.facts()["student_verified"] == "yes", "it tells log-probabilities all the same"
    with Server(lambda path, payload: said("four")) as chat:
        identity = identity_of(folder, None, 0.15)
        assert token_writer(evaluation(f"{chat.root}/v1"), folder, MODEL, identity) is None
        assert identity.facts() == {"student_verified": "unknown"}
        with pytest.raises(EngineError):
            token_writer(evaluation(f"{chat.root}/v1", "tokens"), folder, MODEL, identity)
