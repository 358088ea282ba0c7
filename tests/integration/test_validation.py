"""Held-out problems solved while a student is trained: measured, logged, and chosen by."""

import json
from pathlib import Path

import pytest
import torch
from pytorch_lightning.loggers import CSVLogger

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.evaluation import EvaluationConfig
from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.config.training import MethodConfig, PromptConfig, TrainerConfig
from plan_tuning.evaluation.predictions import solve
from plan_tuning.evaluation.writers import LocalWriter, WaitingWriter
from plan_tuning.grading.grader import Grader
from plan_tuning.records import Problem
from plan_tuning.students.loading import load_student
from plan_tuning.text.formats import render_completion, student_messages
from plan_tuning.training.lightning import TrainingRun
from plan_tuning.training.sft.batches import TrainingRow
from plan_tuning.training.sft.fit import SAMPLES_FILE, SFTSettings, train_student
from plan_tuning.training.validation import HeldOutEvaluation

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("one_thread")]

MODEL = ModelConfig(name="tiny_qwen3", kind="tiny", family="qwen3")
EVALUATION = EvaluationConfig(max_new_tokens=80, max_plan_tokens=24, temperature=0.7, num_samples=3)
PROBLEMS = [Problem(f"p{i}", f"{i} + 3 = ?", "7" if i % 3 else "5") for i in range(24)]
KNOBS = {
    "learning_rate": 1e-2,
    "precision": "fp32",
    "accelerator": "cpu",
    "val_fraction": 0.4,
    "val_problems": 6,
    "val_every_n_steps": 15,
    "max_steps": 60,
    "batch_size": 14,
    "checkpoint_every_n_steps": 13,
    "micro_batch_tokens": 512,
    "log_every_n_steps": 1,
}


@pytest.fixture(scope="module")
def grader():
    with Grader() as opened:
        yield opened


def rows(method: str) -> list[TrainingRow]:
    """All solutions say 7, which is right for two problems of three."""
    return [
        TrainingRow(
            problem.id,
            student_messages(problem.problem, method=method, prompt="matched", style="math"),
            render_completion(
                method, plan="Add.", execution="So \\boxed{7}.", solution="", answer="7"
            ),
        )
        for problem in PROBLEMS
    ]


def train(folder: Path, base: Path, grader: Grader, method: str = "m1", **options):
    knobs = {**KNOBS, **options.pop("knobs", {})}
    evaluation = HeldOutEvaluation(
        PROBLEMS, method, PromptConfig(), EVALUATION, grader, options.pop("executor", None)
    )
    return train_student(
        TrainingRun(folder, folder.parent / "run", options.pop("loggers", []), **options),
        SFTSettings(
            model=MODEL,
            adapter=AdapterConfig(name="full"),
            trainer=TrainerConfig(**knobs),
            method=MethodConfig(name=method),
            seed=3,
        ),
        base,
        rows(method),
        evaluation,
    )


def samples(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / SAMPLES_FILE).read_text().splitlines()]


def test_accuracy_is_that_of_the_exported_student_on_the_held_out_problems(base, tmp_path, grader):
    tables: list[tuple[str, int]] = []
    log = CSVLogger(tmp_path, name="log", version="", flush_logs_every_n_steps=1)
    facts = train(
        tmp_path / "student",
        base,
        grader,
        loggers=[log],
        log_table=lambda name, found: tables.append((name, len(found))),
    )
    written = samples(tmp_path / "student")
    assert [row["step"] for row in written] == [s for s in (15, 30, 45, 60) for _ in range(6)]
    assert tables == [("val_samples", 6)] * 4
    asked = {row["problem_id"] for row in written}
    assert len(asked) == 6
    # Sampling settings are for the test: in between every problem gets one greedy answer.
    student = load_student(tmp_path / "student", MODEL)
    found = solve(
        student,
        [problem for problem in PROBLEMS if problem.id in asked],
        method="m1",
        prompt="matched",
        evaluation=EvaluationConfig(max_new_tokens=80),
        benchmark="again",
        grader=grader,
    )
    assert facts["val_accuracy"] == sum(row.is_correct for row in found) / 6 > 0
    assert facts["best_val_accuracy"] >= facts["val_accuracy"]
    lines = (tmp_path / "log" / "metrics.csv").read_text().splitlines()
    assert {"val/accuracy", "val/loss"} <= set(lines[0].split(","))


def test_a_resumed_run_measures_what_an_uninterrupted_one_measures(base, tmp_path, grader):
    class Full(CSVLogger):
        def log_metrics(self, metrics, step=None):
            if step is not None and step >= 31:
                raise OSError("no space left on device")

    whole = train(tmp_path / "whole", base, grader)
    with pytest.raises(OSError, match="no space"):
        train(tmp_path / "parts", base, grader, loggers=[Full(tmp_path, name="l", version="")])
    assert {row["step"] for row in samples(tmp_path / "parts")} == {15, 30}
    facts = train(tmp_path / "parts", base, grader)
    assert facts["resumed_from_step"] == 26
    assert samples(tmp_path / "parts") == samples(tmp_path / "whole")
    for key in ("val_accuracy", "best_val_accuracy", "best_step", "val_loss"):
        assert facts[key] == whole[key], key


def test_the_most_accurate_weights_are_exported(base, tmp_path, grader, monkeypatch):
    """Accuracies are scripted, for a peak in the middle; everything else is real."""
    from plan_tuning.training.validation import GeneratedAccuracy

    peak = {15: 0.1, 30: 0.9, 45: 0.5, 60: 0.9}
    monkeypatch.setattr(GeneratedAccuracy, "measure", lambda self, m: peak[m.finished_steps])
    knobs = {"select_best": True, "select_by": "accuracy", "scheduler": "constant"}
    facts = train(tmp_path / "by_accuracy", base, grader, knobs=knobs)
    losses = {}
    for step in (30, 60):
        short = {"scheduler": "constant", "max_steps": step, "val_problems": 0}
        losses[step] = train(tmp_path / f"steps{step}", base, grader, knobs=short)["val_loss"]
    best = min((30, 60), key=losses.__getitem__)  # among equals the lower loss decides
    assert facts["best_step"] == best
    one = load_student(tmp_path / "by_accuracy", MODEL).model.state_dict()
    two = load_student(tmp_path / f"steps{best}", MODEL).model.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in two)
    stopping = {"early_stopping_patience": 1, "select_by": "accuracy"}
    assert train(tmp_path / "stopped", base, grader, knobs=stopping)["steps"] == 45


def test_m2_is_evaluated_with_its_executor(base, tmp_path, grader):
    executor = LocalWriter(load_student(base, MODEL), EVALUATION)
    facts = train(
        tmp_path / "student", base, grader, "m2", executor=executor, knobs={"max_steps": 15}
    )
    written = samples(tmp_path / "student")
    assert len(written) == 6
    assert 0.0 <= facts["val_accuracy"] <= 1.0
    assert all(row["tokens"] > 24 for row in written), "both calls are counted"


def test_problems_are_solved_in_the_precision_of_the_training(base, tmp_path, grader):
    from plan_tuning.training import validation

    seen = []
    solving = validation.solve

    def spy(*args, **kwargs):
        seen.append(torch.is_autocast_enabled("cpu"))
        return solving(*args, **kwargs)

    knobs = {"precision": "bf16", "max_steps": 15}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "solve", spy)
        facts = train(tmp_path / "student", base, grader, knobs=knobs)
    assert seen == [True]
    assert not torch.is_autocast_enabled("cpu")
    assert len(samples(tmp_path / "student")) == 6
    assert 0.0 <= facts["val_accuracy"] <= 1.0


def test_selection_by_accuracy_needs_problems():
    with pytest.raises(ConfigError, match=r"trainer.val_problems=0.*trainer.val_problems=64"):
        TrainerConfig(select_by="accuracy", select_best=True)
    with pytest.raises(ConfigError, match="select_by"):
        TrainerConfig(select_by="taste")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_base_that_executes_is_the_adapter_switched_off(base, tmp_path, grader, precision):
    """The same answers as those of a second model, which no card has to hold."""
    trainings = {}
    for is_base in (False, True):
        folder = tmp_path / str(is_base)
        executor = None if is_base else LocalWriter(load_student(base, MODEL), EVALUATION)
        evaluation = HeldOutEvaluation(
            *(PROBLEMS, "m2", PromptConfig(), EVALUATION, grader, executor),
            executes_with_base=is_base,
        )
        knobs = {**KNOBS, "max_steps": 15, "precision": precision}
        train_student(
            TrainingRun(folder, tmp_path / "run"),
            SFTSettings(MODEL, AdapterConfig(name="lora", rank=4), TrainerConfig(**knobs),
                        MethodConfig(name="m2"), 3),
            base, rows("m2"), evaluation,
        )  # fmt: skip
        trainings[is_base] = samples(folder)
    assert trainings[True] == trainings[False] != []


def test_an_executor_waits_off_the_card(base):
    """It is loaded when plans are executed first, and leaves the card behind them."""
    placed, loads = [], []

    def load():
        loads.append(1)
        student = load_student(base, MODEL)
        move = student.model.to
        student.model.to = lambda place: placed.append(place) or move("cpu")
        return student

    writer = WaitingWriter(load, "cuda:0", EVALUATION)
    assert not loads
    for _ in range(2):
        asked = [writer.execution_request(PROBLEMS[1], "Add.")]
        found = writer.write([("p1", 0)], asked, max_new_tokens=4, phase="executing", progress=None)
        assert found[0].num_tokens > 0
    assert loads == [1]
    assert placed == ["cuda:0", "cpu"] * 2
