"""What a job says of itself: its label beside others, how far it is, where its results lie."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from composition import graph, jobs_of

from plan_tuning.job.result import JobContext, ending
from plan_tuning.sweep.jobs import labels
from plan_tuning.tracking.shared_terminal import has_terminal, label_lines
from plan_tuning.training.lightning import quiet
from plan_tuning.training.progress_lines import ProgressLines


@pytest.fixture
def root_handlers() -> Iterator[list[logging.Handler]]:
    """The root's handlers, as they were after the test."""
    root = logging.getLogger()
    before = [(handler, handler.formatter) for handler in root.handlers]
    yield root.handlers
    label_lines("")
    root.handlers[:] = [handler for handler, _ in before]
    for handler, formatter in before:
        handler.setFormatter(formatter)


def test_labels_say_what_tells_the_jobs_apart(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, "method=sft,m1", "filter=none", "seed=0,1", "sweep_name=mine")
    assert sorted(labels(jobs).values()) == [
        "method=m1 seed=0", "method=m1 seed=1", "method=sft seed=0", "method=sft seed=1",
    ]  # fmt: skip
    assert set(labels(jobs)) == {job.name for job in jobs}


def test_labels_are_short_and_differ(tmp_path: Path) -> None:
    names = [f"tags=[{'long' * 20}{index}]" for index in range(2)]
    found = []
    for word in names:
        found += jobs_of(tmp_path, "method=sft", word, "seed=0")
    shown = list(labels(found).values())
    assert len(set(shown)) == 2
    assert all(len(label) < 60 and "[" not in label for label in shown)


def test_a_labelled_line_names_its_job_and_the_file_of_the_job_does_not(
    root_handlers: list[logging.Handler], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    shown = logging.StreamHandler(sys.stdout)
    file = logging.FileHandler(tmp_path / "run.log", encoding="utf-8")
    root_handlers += [shown, file]
    label_lines("method=m1 seed=0 100%")
    logging.getLogger("plan_tuning").warning("a line of %d words", 5)
    file.close()
    assert "[method=m1 seed=0 100%] WARNING a line of 5 words" in capsys.readouterr().out
    assert (tmp_path / "run.log").read_text(encoding="utf-8") == "a line of 5 words\n"
    assert not has_terminal()


class Line(pl.LightningModule):
    """Fits a number; a step is a batch, as in both trainings."""

    def __init__(self, total_steps: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.finished_steps, self.total_steps = 0, total_steps

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = (self.weight**2).sum()
        self.log_dict({"train/loss": loss, "train/reward/total": 1.5})
        self.finished_steps += 1
        return loss


@pytest.mark.parametrize(("every_s", "count"), [(0.0, 3), (60.0, 0)])
def test_a_training_says_step_loss_and_time_left(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, every_s: float, count: int
) -> None:
    caplog.set_level(logging.INFO, "plan_tuning.training.progress_lines")
    with quiet():
        trainer = pl.Trainer(
            accelerator="cpu", max_steps=3, logger=False, callbacks=[ProgressLines(every_s)],
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            default_root_dir=str(tmp_path),
        )  # fmt: skip
        trainer.fit(Line(3), torch.utils.data.DataLoader(range(3)))
    lines = [message for message in caplog.messages if message.startswith("training: ")]
    assert len(lines) == count
    if lines:
        assert lines[0].startswith("training: step 1 of 3, loss 1.0000, reward 1.5000, ")
        assert lines[-1].endswith(" 0 s left")


def test_the_last_line_says_where_everything_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "multirun_outputs" / "single" / "a job"
    alone = ending(JobContext(folder, "job", None), graph("method=m1"))
    assert alone.startswith("result: multirun_outputs/single/a job/result.json; student: multirun_")
    assert alone.endswith("report: plan-tuning compare 'multirun_outputs/single/a job'")
    one = JobContext(tmp_path / "multirun_outputs" / "mine" / "job", "job", "mine")
    untrained = ending(one, graph("method=zero_shot"))
    assert "; predictions: multirun_outputs/artifacts/predictions/" in untrained
    assert untrained.endswith("report, when the sweep ends: multirun_outputs/mine/report.html")
