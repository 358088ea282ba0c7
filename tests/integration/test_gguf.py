"""A GGUF file as a student: found by its content, dequantised once, then like any other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from composition import config_of, graph
from safetensors.torch import load_file

from plan_tuning.artifacts import build
from plan_tuning.config.checks import ConfigError
from plan_tuning.job.dry_run import findings
from plan_tuning.job.graph import job_graph
from plan_tuning.job.machine import check_machine
from plan_tuning.job.train import make_base, training_provenance
from plan_tuning.students import gguf
from plan_tuning.students.loading import StudentError, load_student
from plan_tuning.students.shapes import parse_shape, shape_of

pytest.importorskip("gguf", reason="the extra gguf is not installed")

from .gguf_files import write_gguf

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny.gguf and, in tiny/, the student that it was made of."""
    folder = tmp_path_factory.mktemp("gguf")
    write_gguf(folder / "tiny", folder / "tiny.gguf")
    return folder


def words(file: Path, *more: str) -> tuple[str, ...]:
    return ("model=path", f"model.path={file}", *more)


def test_the_weights_are_those_of_the_file_as_it_rounds_them(files: Path, tmp_path: Path) -> None:
    facts = gguf.dequantise(tmp_path / "base", files / "tiny.gguf")
    assert facts["rounding"] == (
        "rounded in tiny.gguf: 99.8 % of the weights as Q8_0; 0.2 % F32 are not rounded"
    )
    assert 9 < facts["bits_per_weight"] < 10  # 8.5 for the blocks, and the vocabulary
    before, after = (
        load_file(files / "tiny/model.safetensors"),
        load_file(tmp_path / "base/model.safetensors"),
    )
    assert before.keys() == after.keys()
    for name, weights in after.items():
        assert weights.dtype == torch.float32
        step = before[name].abs().max() / 127
        assert 0 < (weights - before[name]).abs().max() <= step if weights.ndim == 2 else True
    student = load_student(tmp_path / "base", config_of(*words(files / "tiny.gguf")).model)
    assert student.tokenizer.chat_template == (files / "tiny/chat_template.jinja").read_text()
    assert facts["rounding"] in (tmp_path / "base" / "README.md").read_text()


def test_its_shape_is_known_before_it_is_dequantised(files: Path) -> None:
    shape = parse_shape(gguf.settings_of(files / "tiny.gguf"))
    assert shape == parse_shape(json.loads((files / "tiny/config.json").read_text()))
    assert shape_of(config_of(*words(files / "tiny.gguf")).model) == (shape, "tiny.gguf")


def test_a_file_is_known_by_its_content(files: Path, tmp_path: Path) -> None:
    first = graph(*words(files / "tiny.gguf", "method=sft"))
    renamed = tmp_path / "other name.bin"
    shutil.copy(files / "tiny.gguf", renamed)
    assert graph(*words(renamed, "method=sft")).fingerprint == first.fingerprint
    with renamed.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\1")
    other = graph(*words(renamed, "method=sft"))
    assert first.base is not None
    assert other.base is not None
    assert other.base.fingerprint != first.base.fingerprint
    assert other.fingerprint != first.fingerprint
    assert first.base.kind == "bases"
    assert first.student is not None
    assert first.student.upstream["base"] == first.base.fingerprint
    # a file has no revisions: the word is without effect
    again = graph(*words(files / "tiny.gguf", "method=sft", "model.revision=abc"))
    assert again.fingerprint == first.fingerprint


def test_the_base_is_built_once_and_its_rounding_stands_in_a_students_card(
    files: Path, tmp_path: Path
) -> None:
    more = ("method=sft", f"paths.outputs={tmp_path}")
    config = config_of(*words(files / "tiny.gguf", *more))
    stages = job_graph(config)
    base, student = stages.base, stages.student
    assert base is not None
    assert student is not None
    assert "weights of the base" not in training_provenance(config, student)

    def built() -> bool:
        root = config.paths.artifacts
        return build(
            root, "bases", base.fingerprint,
            lambda folder: make_base(config, config.model, folder), spec=base.spec,
        )  # fmt: skip

    assert built()
    assert not built()
    card = training_provenance(config, student)
    assert card["weights of the base"].startswith("rounded in tiny.gguf: 99.8 %")
    assert json.loads((base.folder / "manifest.json").read_text())["spec"]["kind"] == "gguf"


def test_files_that_are_no_student(files: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="an existing GGUF file") as absent:
        graph(*words(tmp_path / "absent.gguf"))
    assert "fetch" not in str(absent.value)
    with pytest.raises(ConfigError, match="plan-tuning fetch smollm2 --out models"):
        graph("model=smollm2_135m_q4")
    text = tmp_path / "text.gguf"
    text.write_text("weights")
    with pytest.raises(ConfigError, match="which this file is not"):
        graph(*words(text))
    half = tmp_path / "half.gguf"
    half.write_bytes((files / "tiny.gguf").read_bytes()[:100_000])
    with pytest.raises(StudentError, match=r"half\.gguf cannot be dequantised"):
        gguf.dequantise(tmp_path / "base", half)


def test_without_the_reader_nothing_is_begun(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf.importlib.util, "find_spec", lambda name: None)
    config = config_of(*words(files / "tiny.gguf", "method=sft", f"paths.outputs={tmp_path}"))
    stages = job_graph(config)
    with pytest.raises(ConfigError, match=r"pip install 'plan-tuning\[gguf\]'"):
        check_machine(config, stages)
    errors = [str(f) for f in findings([(config, stages)]) if f.kind == "error"]
    assert any("plan-tuning[gguf]" in error for error in errors)
