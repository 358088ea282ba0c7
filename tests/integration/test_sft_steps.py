"""One optimizer step of SFT: its gradient, its precision, its noise, and rows that break it."""

import json
import math
import traceback
from pathlib import Path

import pytest
import torch
from pytorch_lightning.loggers import CSVLogger
from safetensors.torch import load_file

from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.config.training import MethodConfig, TrainerConfig
from plan_tuning.records import Segment, SegmentKind
from plan_tuning.training.lightning import TrainingError, TrainingRun
from plan_tuning.training.sft import module as sft
from plan_tuning.training.sft.batches import MicroBatch, TrainingRow
from plan_tuning.training.sft.fit import SFTSettings, train_student
from plan_tuning.training.sft.module import SFTModule

from .sft_world import make_rows

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("one_thread")]

MODEL = ModelConfig(name="tiny_qwen3", kind="tiny", family="qwen3")


def train(folder: Path, base: Path, *, rows=None, loggers=(), **knobs):
    settings = {
        "learning_rate": 5e-3, "precision": "fp32", "accelerator": "cpu", "max_length": 300,
        "val_fraction": 0.0, "log_every_n_steps": 1, "max_steps": 1, "warmup_ratio": 0.0,
    }  # fmt: skip
    return train_student(
        TrainingRun(folder, folder.parent / "run", list(loggers)),
        SFTSettings(
            model=MODEL,
            adapter=AdapterConfig(),
            trainer=TrainerConfig(**{**settings, **knobs}),
            method=MethodConfig(name="m1"),
            seed=3,
        ),
        base,
        make_rows(16) if rows is None else rows,
    )


@pytest.fixture
def gradients(monkeypatch: pytest.MonkeyPatch) -> list[list[torch.Tensor]]:
    """The gradients of every step, before they are clipped."""
    found: list[list[torch.Tensor]] = []
    clip = torch.nn.utils.clip_grad_norm_

    def spy(parameters, *args, **kwargs):
        found.append([p.grad.clone() for p in parameters])
        return clip(parameters, *args, **kwargs)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
    return found


@pytest.mark.parametrize("budget", [64, 256])
def test_micro_batches_do_not_change_the_gradient(
    base: Path, tmp_path: Path, budget: int, gradients
):
    """AdamW's step hides a gradient's scale, so the gradients themselves are compared."""
    sizes = []
    split = SFTModule.step_batches

    def counted(self, step: int) -> list[MicroBatch]:
        sizes.append(len(split(self, step)))
        return split(self, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SFTModule, "step_batches", counted)
        patch.setattr(sft, "pass_overhead", lambda model, device: 10_000)
        train(tmp_path / "whole", base, micro_batch_tokens=100_000)
        train(tmp_path / "split", base, micro_batch_tokens=budget)
    assert sizes[0] == 1 < sizes[1]
    for one, two in zip(*gradients, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-6)


def test_bfloat16_computes_and_float32_is_kept(base: Path, tmp_path: Path):
    checked: list[bool] = []
    check = sft.check_projection

    def spy(*args):
        checked.append(torch.is_autocast_enabled("cpu"))
        return check(*args)

    losses = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sft, "check_projection", spy)
        for precision in ("fp32", "bf16"):
            facts = train(tmp_path / precision, base, precision=precision, max_steps=3)
            losses[precision] = facts["final_loss"]
    assert checked == [False, True], "the projection is checked as it is computed"
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=2e-2)
    kept = load_file(tmp_path / "bf16" / "model.safetensors")
    assert {tensor.dtype for tensor in kept.values()} == {torch.float32}
    other = load_file(tmp_path / "fp32" / "model.safetensors")
    start = load_file(base / "model.safetensors")
    for name, tensor in kept.items():
        moved, gap = (other[name] - start[name]).norm(), (tensor - other[name]).norm()
        assert gap < 0.5 * moved, name


def test_noise_is_bound_by_a_rows_own_length(base: Path, tmp_path: Path):
    alpha, found = 5.0, []
    add = SFTModule._add_noise

    def spy(self, module, inputs, output):
        noisy = add(self, module, inputs, output)
        if module.training and self._lengths is not None:
            largest = (noisy - output).abs().amax(dim=(1, 2))
            bounds = [alpha / math.sqrt(int(n) * output.shape[2]) for n in self._lengths]
            found.extend(zip(largest.tolist(), bounds, strict=True))
        return noisy

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SFTModule, "_add_noise", spy)
        patch.setattr(sft, "pass_overhead", lambda model, device: 10_000)  # padded together
        train(tmp_path / "student", base, neftune_alpha=alpha)
    assert len({round(bound, 6) for _, bound in found}) > 2
    for largest, bound in found:
        assert 0.95 * bound < largest <= bound * 1.0001


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_only_the_offending_rows_are_named(base: Path, tmp_path: Path, where: str):
    """One row has a word of its own, whose embedding (or its gradient) is broken."""
    rows = make_rows(8)
    odd = TrainingRow("odd", rows[0].messages, (Segment(SegmentKind.PLAN, "Zzyzx ~~ ^^"),))
    broken = {}

    def breaks(self):
        ids = self.rows[-1].ids
        others = torch.cat([row.ids for row in self.rows[:-1]])
        broken["id"] = int(next(token for token in ids if token not in others))
        weight = self.student.causal_lm.get_input_embeddings().weight
        if where == "loss":
            hook = self.student.causal_lm.get_input_embeddings().register_forward_hook(
                lambda module, inputs, output: torch.where(
                    (inputs[0] == broken["id"])[..., None], float("nan"), output
                )
            )
        else:
            hook = self.student.causal_lm.get_input_embeddings().register_forward_hook(
                lambda module, inputs, output: _Broken.apply(
                    output, (inputs[0] == broken["id"])[..., None]
                )
            )
        assert weight.requires_grad
        broken["hook"] = hook

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SFTModule, "on_train_start", breaks)
        with pytest.raises(TrainingError, match=r"on problems odd; all ids .*rank0"):
            train(tmp_path / "student", base, rows=[*rows[:7], odd], batch_size=8)
    written = json.loads((tmp_path / "run" / "nonfinite_rows.rank0.json").read_text())
    assert written["rows"] == ["odd"]
    assert len(written["step_rows"]) == 8


class _Broken(torch.autograd.Function):
    """Passes values on; gradients of the marked places are infinite."""

    @staticmethod
    def forward(ctx, output, mark):
        ctx.save_for_backward(mark)
        return output.clone()

    @staticmethod
    def backward(ctx, gradient):
        (mark,) = ctx.saved_tensors
        return torch.where(mark, float("inf"), gradient), None


def test_rows_are_left_out_for_reasons_that_are_told_apart(base: Path, tmp_path: Path):
    rows = make_rows(6)
    long = TrainingRow("long", rows[0].messages, (Segment(SegmentKind.PLAN, "Add. " * 400),))
    ended = TrainingRow("ended", rows[0].messages, (Segment(SegmentKind.PLAN, "A <|im_end|> b"),))
    mute = TrainingRow("mute", rows[0].messages, (Segment(SegmentKind.PLAN, "A", weight=0.0),))
    facts = train(tmp_path / "student", base, rows=[*rows, long, ended, mute])
    assert facts["dropped_reasons"] == {"overlong": 1, "special_token": 1, "no_loss": 1}
    assert facts["dropped_ids"] == ["long", "ended", "mute"]
    assert facts["rows"] == 6
    # overlong=error is about length alone
    assert train(tmp_path / "b", base, rows=[*rows, ended], overlong="error")["dropped_rows"] == 1


def test_training_is_the_same_whatever_the_process_did_before(base: Path, tmp_path: Path):
    """Denormal numbers are flushed by every training, whatever was done before."""
    torch.set_flush_denormal(False)
    try:
        assert torch.tensor([1e-40]).mul(1.0).item() > 0
        train(tmp_path / "student", base)
        assert torch.tensor([1e-40]).mul(1.0).item() == 0
    finally:
        torch.set_flush_denormal(False)


def test_the_loss_is_three_frames_of_ours_away(base: Path, tmp_path: Path):
    """Who reads the code from the training's entry finds the loss at once."""
    ways = set()

    def look(module, inputs):
        frames = [f for f, _ in traceback.walk_stack(None)]
        ours = [f.f_code for f in frames if "plan_tuning/training/" in f.f_code.co_filename]
        ways.add(tuple(code.co_name for code in reversed(ours)))

    hook = torch.nn.modules.module.register_module_forward_pre_hook(look)
    try:
        train(tmp_path / "student", base)
    finally:
        hook.remove()
    in_steps = {way for way in ways if "training_step" in way}
    assert in_steps == {("train_student", "training_step", "_loss")}


def test_the_bar_shows_the_loss(base: Path, tmp_path: Path):
    shown = {}
    end = SFTModule.on_fit_end

    def spy(self):
        shown.update(self.trainer.progress_bar_metrics)
        return end(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SFTModule, "on_fit_end", spy)
        log = CSVLogger(tmp_path, name="log", version="", flush_logs_every_n_steps=1)
        facts = train(tmp_path / "student", base, loggers=[log])
    assert shown["train/loss"] == pytest.approx(facts["first_loss"], rel=1e-5)
