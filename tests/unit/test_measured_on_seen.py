"""No model is measured on what it was trained on, by whichever key or name either is given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from composition import config_of, graph

from plan_tuning.artifacts import MANIFEST
from plan_tuning.config.checks import ConfigError
from plan_tuning.job.test_problems import FACT, check_test_problems, facts_of_training

SAID = "a benchmark that"
GSM8K = {"gsm8k": 1319}


def rows(path: Path, *numbers: int) -> Path:
    lines = [{"problem": f"How many are {n} and 1?", "answer": str(n + 1)} for n in numbers]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """The folder of a finished student whose manifest names what it was trained on."""
    folder = tmp_path / "student"
    folder.mkdir()
    manifest = {"schema": 1, "fingerprint": "f", "spec": {}, "facts": {FACT: GSM8K}}
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def checked(*words: str) -> dict[str, int]:
    return check_test_problems(config_of(*words), graph(*words))


@pytest.mark.parametrize(
    "method",
    [
        ("method=zero_shot", "model=path", "model.path={}"),
        ("method=sft", "model=path", "model.path={}"),
        ("method=m2", "model=path", "model.path={}", "evaluation.plan=none", "executor=base"),
        ("method=m2", "model=tiny_qwen3", "executor=model", "model@executor.model=path",
         "executor.model.path={}"),
        ("method=sft", "model=tiny_qwen3", "student.path={}", "stages=[evaluate]"),
    ],
)  # fmt: skip
def test_a_model_by_its_path_is_known_by_its_manifest(
    student: Path, tmp_path: Path, method: tuple[str, ...]
) -> None:
    rows(tmp_path / "train.jsonl", 1, 2)
    words = [word.format(student) for word in method]
    words += ["data=jsonl", "data.name=sums", f"data.path={tmp_path}", "teacher=openai_compatible",
              "teacher.api_base=http://127.0.0.1:1/v1"]  # fmt: skip
    with pytest.raises(ConfigError, match=SAID):
        checked(*words, "evaluation.benchmarks=[gsm8k]")
    other = rows(tmp_path / "mine.jsonl", 7, 8)
    assert checked(*words, f"evaluation.benchmarks=['mine={other}']") == GSM8K


def test_what_a_model_learned_goes_into_the_manifest_of_what_is_made_of_it(
    student: Path, tmp_path: Path
) -> None:
    rows(tmp_path / "train.jsonl", 1, 2)
    words = ("data=jsonl", "data.name=sums", f"data.path={tmp_path}", "method=sft", "model=path")
    config = config_of(*words, f"model.path={student}")
    assert facts_of_training(config, None, None) == {FACT: GSM8K}


def test_published_test_problems_are_refused_under_any_name(shared: Path) -> None:
    trained = shared / "data" / "gsm8k_socratic" / "test.jsonl"
    words = ("data=gsm8k_socratic", f"data.path={trained}", "method=sft", "model=tiny_qwen3")
    tested = shared / "data" / "gsm8k" / "test.jsonl"
    with pytest.raises(ConfigError, match=r"asks 24 GSM8K test problems(.|\n)*data\.holdout=100"):
        checked(*words, "data.limit=24", f"evaluation.benchmarks=['mine={tested}']")


def test_other_published_test_problems_than_those_learned_are_no_seen_ones(
    shared: Path, student: Path, tmp_path: Path
) -> None:
    lines = (shared / "data" / "gsm8k" / "test.jsonl").read_text("utf-8").splitlines()[:20]
    (tmp_path / "train.jsonl").write_text("\n".join(lines[:10]), "utf-8")
    (tmp_path / "other.jsonl").write_text("\n".join(lines[10:]), "utf-8")
    tested = f"evaluation.benchmarks=['mine={tmp_path / 'other.jsonl'}']"
    words = ("data=gsm8k", f"data.path={tmp_path}", "method=sft", tested)
    assert checked(*words, "model=tiny_qwen3") == {"gsm8k": 10}
    with pytest.raises(ConfigError, match=SAID):  # which ones it learned is not known
        checked(*words, "model=path", f"model.path={student}")


@pytest.mark.parametrize(
    ("train", "test", "is_seen"),
    [
        ((1, 2, 3), (1, 2, 3), True),
        ((1, 2, 3), (3, 2, 1), True),
        ((1, 2), (1, 2, 3), False),  # counted and warned of
        ((1, 2, 3), (2, 3), False),
        ((1, 2, 3), (3, 4, 5), False),
        ((1, 2, 3), (4, 5), False),
    ],
)
def test_equal_questions_are_refused(
    tmp_path: Path, train: tuple[int, ...], test: tuple[int, ...], is_seen: bool
) -> None:
    rows(tmp_path / "train.jsonl", *train)
    own = rows(tmp_path / "own.jsonl", *test)
    words = (
        "data=jsonl", "data.name=sums", f"data.path={tmp_path}", "method=sft", "model=tiny_qwen3",
        f"evaluation.benchmarks=['mine={own}']",
    )  # fmt: skip
    if is_seen:
        with pytest.raises(ConfigError, match=SAID):
            checked(*words)
        with pytest.raises(ConfigError, match=SAID):
            checked(*words, "data.limit=1")
    else:
        assert checked(*words) == {}


@pytest.mark.parametrize("share", [(), ("data.limit=3",)])
def test_one_file_is_not_both_train_and_test(
    shared: Path, tmp_path: Path, share: tuple[str, ...]
) -> None:
    for file in (shared / "data" / "strategyqa" / "test.jsonl", rows(tmp_path / "a.jsonl", 1, 2)):
        name = "strategyqa" if file.parent.name == "strategyqa" else "sums"
        data = ("data=strategyqa",) if name == "strategyqa" else ("data=jsonl", "data.name=sums")
        words = (*data, f"data.path={file}", "model=tiny_qwen3", *share)
        tested = f"evaluation.benchmarks=['{name}={file}']"
        with pytest.raises(ConfigError, match=SAID):
            checked(*words, "method=sft", tested)
        assert checked(*words, "method=zero_shot", tested) == {}
