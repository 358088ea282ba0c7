"""What the arms of experiment=first_real learn from the same problems of the real file."""

from __future__ import annotations

from pathlib import Path

import pytest
from composition import config_of

from plan_tuning.distillation.corpus import make_corpus
from plan_tuning.job.inputs import load_problems
from plan_tuning.training.sft.batches import TrainingRow
from plan_tuning.training.sft.data import training_rows

pytestmark = pytest.mark.integration


def learned(method: str, folder: Path, *words: str) -> dict[str, TrainingRow]:
    """The rows of a method, from a corpus of the data set's plans where it learns from one."""
    config = config_of(
        "data=gsm8k_socratic", "teacher=dataset", "filter=none", "model=tiny_qwen3",
        f"method={method}", *words,
    )  # fmt: skip
    problems = load_problems(config)
    corpus = folder if config.method.needs_corpus else None
    if corpus is not None and not corpus.exists():
        corpus.mkdir()
        make_corpus(
            corpus, problems, config.teacher, config.distillation, config.evaluation.grading,
            folder.parent / "calls", progress=False,
        )  # fmt: skip
    rows, _ = training_rows(
        method=config.method, prompt=config.prompt, chosen=config.filter, problems=problems,
        corpus=corpus,
    )  # fmt: skip
    return {row.problem_id: row for row in rows}


def test_sft_teacher_cot_learns_the_text_of_sft(shared: Path, tmp_path: Path) -> None:
    file = shared / "data" / "gsm8k_socratic" / "test.jsonl"
    words = (f"data.path={file}", "data.limit=60", "data.holdout=64")
    sft = learned("sft", tmp_path / "corpus", *words)
    control = learned("sft_teacher_cot", tmp_path / "corpus", *words)
    assert len(sft) == len(control) == 60
    for name, row in control.items():
        assert row.messages == sft[name].messages
        assert "".join(s.text for s in row.segments) == "".join(s.text for s in sft[name].segments)
    m1 = learned("m1", tmp_path / "corpus", *words)
    assert all(
        "".join(s.text for s in m1[n].segments).endswith("".join(s.text for s in row.segments))
        for n, row in control.items()
    )
    assert not any("<<" in s.text for row in m1.values() for s in row.segments)
