"""Who executes M2's plans in a validation: the adapter switched off, or a model off the card."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from composition import config_of

from plan_tuning.evaluation.writers import WaitingWriter
from plan_tuning.job.graph import job_graph
from plan_tuning.job.models import Models, rank_models
from plan_tuning.job.train import Training, held_out_evaluation
from plan_tuning.training.validation import HeldOutEvaluation

pytestmark = pytest.mark.integration

WORDS = ("method=m2", "data.limit=20", "trainer.val_problems=4", "trainer.val_fraction=0.25",
         "filter=none")  # fmt: skip


def evaluation_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> object:
    """What a job's training is validated with; no weights are there, and none are looked for."""
    loaded: list[object] = []
    monkeypatch.setattr(Models, "_load", lambda *args, **_: loaded.append(args))
    config = config_of(*WORDS, f"paths.outputs={tmp_path}", *words)
    student = job_graph(config).student
    assert student is not None
    with ExitStack() as resources:
        training = Training(config, student, None, None, tmp_path, None)
        found = held_out_evaluation(training, rank_models(config, resources))
    assert not loaded, "weights are read when plans are executed first"
    return found


@pytest.mark.parametrize(
    ("words", "executes_with_base"),
    [
        (["adapter=lora"], True),
        (["adapter=full"], False),
        (["adapter=lora", "method.continued_steps=4"], False),
        (["adapter=lora", "executor=model", "executor.model.path=any/model"], False),
    ],
)
def test_a_second_model_is_never_on_the_card_all_training_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], executes_with_base: bool
) -> None:
    found = evaluation_of(tmp_path, monkeypatch, *words)
    assert isinstance(found, HeldOutEvaluation)
    assert found.executes_with_base is executes_with_base
    if executes_with_base:
        assert found.executor is None
    else:
        assert isinstance(found.executor, WaitingWriter)


def test_a_student_that_executes_itself_has_no_executor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = evaluation_of(tmp_path, monkeypatch, "adapter=lora", "executor=self")
    assert isinstance(found, HeldOutEvaluation)
    assert found.executor is None
    assert not found.executes_with_base
