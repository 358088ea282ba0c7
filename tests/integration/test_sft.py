"""SFT on tiny students: what is trained, what is logged, and that a killed run loses nothing."""

import csv
import json
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from pytorch_lightning.loggers import CSVLogger
from safetensors.torch import load_file

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.config.training import MethodConfig, TrainerConfig
from plan_tuning.students.loading import load_student
from plan_tuning.text.formats import render_completion, student_messages
from plan_tuning.training.checkpoints import latest_checkpoint
from plan_tuning.training.lightning import TrainingError, TrainingRun
from plan_tuning.training.logs import CurveFile
from plan_tuning.training.sft import batches
from plan_tuning.training.sft.batches import RowError, TrainingRow
from plan_tuning.training.sft.fit import SFTSettings, train_student
from plan_tuning.training.sft.module import SFTModule

from .sft_world import make_rows

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("one_thread")]

MODEL = ModelConfig(name="tiny_qwen3", kind="tiny", family="qwen3")
TRAINER = {
    "learning_rate": 5e-3,
    "precision": "fp32",
    "accelerator": "cpu",
    "max_length": 300,
    "val_fraction": 0.0,
    "log_every_n_steps": 1,
    "micro_batch_tokens": 256,
}


def train(folder: Path, base: Path, *, rows=None, adapter="full", loggers=(), method=None, **knobs):
    return train_student(
        TrainingRun(folder, folder.parent / "run", list(loggers)),
        SFTSettings(
            model=MODEL,
            adapter=AdapterConfig(name=adapter, dropout=0.1 if adapter == "lora" else 0.0),
            trainer=TrainerConfig(**{**TRAINER, **knobs}),
            method=method or MethodConfig(name="m1"),
            seed=3,
        ),
        base,
        make_rows(24) if rows is None else rows,
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def assert_equal_weights(first: Path, second: Path) -> None:
    one, two = weights(first), weights(second)
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


def test_the_loss_falls_and_every_segment_is_logged_apart(base: Path, tmp_path: Path):
    log = CSVLogger(tmp_path, name="log", version="", flush_logs_every_n_steps=1)
    facts = train(tmp_path / "student", base, loggers=[log], epochs=6, val_fraction=0.1)
    assert facts["steps"] == 17  # ceil(6 epochs * 22 rows / 8)
    assert facts["final_loss"] < 0.6 * facts["first_loss"]
    assert facts["val_rows"] == 2
    assert facts["val_loss"] == facts["best_val_loss"]
    header = (tmp_path / "log" / "metrics.csv").read_text().splitlines()[0]
    for key in (
        "train/loss/plan",
        "train/loss/solution",
        "train/accuracy/plan",
        "train/grad_norm",
        "train/learning_rate",
        "val/loss/plan",
    ):
        assert key in header.split(",")
    names = {path.name for path in (tmp_path / "student").iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= names
    assert {"generation_config.json", "chat_template.jinja"} <= names
    assert "checkpoints" not in names


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_every_module_is_in_train_mode_during_fit(
    base: Path, tmp_path: Path, adapter: str, monkeypatch: pytest.MonkeyPatch
):
    modes: list[bool] = []
    step = SFTModule.training_step

    def spy(self, batch, batch_idx):
        modes.extend(module.training for module in self.model.modules())
        return step(self, batch, batch_idx)

    monkeypatch.setattr(SFTModule, "training_step", spy)
    train(tmp_path / "student", base, adapter=adapter, max_steps=2)
    assert modes
    assert all(modes)


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_gradient_checkpointing_recomputes_and_changes_nothing(
    base: Path, tmp_path: Path, adapter: str, monkeypatch: pytest.MonkeyPatch
):
    from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP

    calls = {"count": 0}
    forward = Qwen3MLP.forward

    def counted(self, states):
        calls["count"] += 1
        return forward(self, states)

    monkeypatch.setattr(Qwen3MLP, "forward", counted)
    counts = []
    for on in (False, True):
        calls["count"] = 0
        train(
            tmp_path / f"student_{on}",
            base,
            adapter=adapter,
            max_steps=2,
            gradient_checkpointing=on,
        )
        counts.append(calls["count"])
    assert counts[1] > counts[0]
    one, two = weights(tmp_path / "student_False"), weights(tmp_path / "student_True")
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-5, rtol=1e-4)


KNOBS = {"max_steps": 12, "checkpoint_every_n_steps": 3, "neftune_alpha": 5.0, "val_fraction": 0.1}


class _StopAt(CSVLogger):
    """A logger that fails at a step, as a full disk would."""

    def __init__(self, folder: Path, step: int) -> None:
        super().__init__(folder, name="log", version="")
        self.step = step

    def log_metrics(self, metrics, step=None):
        if "train/loss" in metrics and step is not None and step >= self.step:
            raise OSError("no space left on device")


@pytest.mark.parametrize(("adapter", "ema_decay"), [("full", 0.0), ("full", 0.9), ("lora", 0.0)])
def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one(
    base: Path, tmp_path: Path, adapter: str, ema_decay: float
):
    knobs = {**KNOBS, "ema_decay": ema_decay}
    whole = train(tmp_path / "whole", base, adapter=adapter, **knobs)
    log = _StopAt(tmp_path, 7)
    with pytest.raises(OSError, match="no space"):
        train(tmp_path / "parts", base, adapter=adapter, loggers=[log], **knobs)
    saved = latest_checkpoint(tmp_path / "parts" / "checkpoints")
    assert saved is not None
    assert saved.name == "step-000000006.ckpt"
    names = torch.load(saved, weights_only=True)["state_dict"]
    assert all("lora_" in name for name in names) == (adapter == "lora")
    facts = train(tmp_path / "parts", base, adapter=adapter, **knobs)
    assert facts["resumed_from_step"] == 6
    for key in ("steps", "first_loss", "final_loss", "tokens", "val_loss", "best_step"):
        assert facts[key] == whole[key], key
    assert_equal_weights(tmp_path / "whole", tmp_path / "parts")


def test_kill_9_leaves_a_checkpoint_that_finishes_bit_equal(base: Path, tmp_path: Path):
    knobs = {**KNOBS, "max_steps": 100, "checkpoint_every_n_steps": 5}
    script = (
        "import sys, torch; sys.path.insert(0, sys.argv[1]); torch.set_num_threads(1)\n"
        "from pathlib import Path; from integration import test_sft\n"
        f"test_sft.train(Path(sys.argv[2]), Path(sys.argv[3]), **{knobs!r})\n"
    )
    folder = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(Path(__file__).parents[1]), str(folder), str(base)]
    )
    while latest_checkpoint(folder / "checkpoints") is None:
        assert process.poll() is None, "the run ended before its first checkpoint"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "config.json").exists()
    facts = train(folder, base, **knobs)
    assert facts["resumed_from_step"] > 0
    train(tmp_path / "whole", base, **knobs)
    assert_equal_weights(folder, tmp_path / "whole")


TURNING = {
    "learning_rate": 1e-2,
    "scheduler": "constant",
    "warmup_ratio": 0.0,
    "val_fraction": 0.3,
    "val_every_n_steps": 2,
    "select_best": True,
    "max_steps": 24,
}


def turning_rows() -> list[TrainingRow]:
    """Held-out rows contradict the others in the same words: their loss falls, then rises."""
    names = [f"p{index}" for index in range(12)]
    blank = torch.ones(2)
    encoded = [batches.EncodedRow(name, blank, blank, blank) for name in names]
    _, held_out = batches.split_validation(encoded, fraction=TURNING["val_fraction"], seed=3)
    odd = {row.problem_id for row in held_out}
    return [
        TrainingRow(
            name,
            student_messages(f"{name} + 3 = ?", method="m1", prompt="matched", style="math"),
            render_completion(
                "m1",
                plan="numbers both Add. Total the find."
                if name in odd
                else "Add both numbers. Find the Total.",
                execution="5 so 7" if name in odd else "so 5 is 7",
                solution="",
                answer="1",
            ),
        )
        for name in names
    ]


def test_the_best_weights_are_exported(base: Path, tmp_path: Path):
    facts = train(tmp_path / "best", base, rows=turning_rows(), **TURNING)
    assert 0 < facts["best_step"] < facts["steps"] == 24
    assert facts["best_val_loss"] < facts["val_loss"]
    short = {**TURNING, "max_steps": facts["best_step"], "select_best": False}
    train(tmp_path / "until_then", base, rows=turning_rows(), **short)
    assert_equal_weights(tmp_path / "best", tmp_path / "until_then")


def test_patience_ends_the_run(base: Path, tmp_path: Path):
    facts = train(
        tmp_path / "student", base, rows=turning_rows(), early_stopping_patience=2, **TURNING
    )
    assert facts["steps"] == facts["best_step"] + 4 < 24


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_a_validation_due_with_the_checkpoint_is_not_lost(
    base: Path, tmp_path: Path, ema_decay: float
):
    """The run dies right after the step that turns out to be the best one, and is resumed there."""
    knobs = {
        "rows": turning_rows(),
        **TURNING,
        "checkpoint_every_n_steps": 2,
        "ema_decay": ema_decay,
    }
    whole = train(tmp_path / "whole", base, **knobs)
    best = whole["best_step"]
    assert 0 < best < whole["steps"]
    with pytest.raises(OSError, match="no space"):
        train(tmp_path / "parts", base, loggers=[_StopAt(tmp_path, best)], **knobs)
    facts = train(tmp_path / "parts", base, **knobs)
    assert facts["resumed_from_step"] == best
    for key in ("best_step", "best_val_loss", "val_loss", "final_loss"):
        assert facts[key] == whole[key], key
    assert_equal_weights(tmp_path / "whole", tmp_path / "parts")


def test_averaged_weights_are_validated_and_exported(base: Path, tmp_path: Path):
    knobs = {"max_steps": 8, "learning_rate": 1e-2, "val_fraction": 0.3, "val_every_n_steps": 4}
    plain = train(tmp_path / "plain", base, **knobs)
    averaged = train(tmp_path / "averaged", base, ema_decay=0.9, **knobs)
    assert averaged["final_loss"] == plain["final_loss"], "what is optimised goes the same way"
    assert averaged["val_loss"] != plain["val_loss"]
    first, last, mean = (weights(f) for f in (base, tmp_path / "plain", tmp_path / "averaged"))
    for name in last:
        # An average lies nearer to the beginning than the last weights do.
        far, near = (last[name] - first[name]).norm(), (mean[name] - first[name]).norm()
        assert 0 < near < far, name
    best = train(tmp_path / "best", base, ema_decay=0.9, select_best=True, **knobs)
    if best["best_step"] == best["steps"]:
        assert_equal_weights(tmp_path / "best", tmp_path / "averaged")


def test_a_loss_that_is_no_number_stops_with_the_rows(base: Path, tmp_path: Path):
    with pytest.raises(TrainingError, match="learning_rate"):
        train(tmp_path / "student", base, max_steps=40, learning_rate=1e30)
    written = json.loads((tmp_path / "run" / "nonfinite_rows.rank0.json").read_text())
    assert len(written["rows"]) == 8, "the weights are broken, so every row is"
    assert written["step"] > 0


def test_overlong_rows_are_counted_or_refused(base: Path, tmp_path: Path):
    rows = make_rows(8)
    long = TrainingRow(
        "long",
        rows[0].messages,
        render_completion("m2", plan="Add. " * 400, execution="", solution="", answer=""),
    )
    facts = train(tmp_path / "student", base, rows=[*rows, long], max_steps=1)
    assert (facts["rows"], facts["dropped_rows"], facts["dropped_ids"]) == (8, 1, ["long"])
    with pytest.raises(RowError, match=r"long.*trainer\.max_length"):
        train(tmp_path / "other", base, rows=[*rows, long], max_steps=1, overlong="error")
    with pytest.raises(TrainingError, match="no row is left"):
        train(tmp_path / "none", base, rows=[long], max_steps=1)


def test_weights_of_zero_train_nothing_of_that_kind(base: Path, tmp_path: Path):
    log = CSVLogger(tmp_path, name="log", version="", flush_logs_every_n_steps=1)
    plan_only = MethodConfig(name="m1", plan_weight=1.0, solution_weight=0.0)
    curves = CurveFile(tmp_path / "curves.csv")
    knobs = {"max_steps": 3, "log_every_n_steps": 10}
    train(tmp_path / "student", base, method=plan_only, loggers=[log, curves], **knobs)
    header = (tmp_path / "log" / "metrics.csv").read_text().splitlines()[0]
    assert "train/loss/plan" in header
    assert "train/loss/solution" not in header
    with curves.path.open(encoding="utf-8") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["0"], "one of three is logged"


def test_fixed_steps_cycle_through_few_rows(base: Path, tmp_path: Path):
    facts = train(tmp_path / "student", base, rows=make_rows(3), max_steps=5)
    assert facts["steps"] == 5


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for CUDA where there is none")
def test_cuda_where_there_is_none(base: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"trainer\.accelerator"):
        train(tmp_path / "student", base, accelerator="cuda")


def test_a_student_can_begin_from_an_adapter_student(base: Path, tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(tmp_path / "first", base, adapter="lora", max_steps=3)
        second = train(tmp_path / "second", tmp_path / "first", adapter="full", max_steps=2)
    assert second["trained_parameters"] > 100_000
    loaded = load_student(tmp_path / "second", MODEL)
    assert not hasattr(loaded.model, "peft_config")
