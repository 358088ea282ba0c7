"""PCGrad and its cosines in a real training of an adapter on two sources."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pytorch_lightning.loggers import CSVLogger
from safetensors.torch import load_file

from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.config.training import MethodConfig, TrainerConfig
from plan_tuning.training.gradients import cosines, modules_of, projected
from plan_tuning.training.lightning import TrainingRun
from plan_tuning.training.sft.batches import TrainingRow
from plan_tuning.training.sft.fit import SFTSettings, train_student
from plan_tuning.training.sft.source_gradients import SourceGradients

from .sft_world import make_rows

pytestmark = [
    pytest.mark.integration,
    pytest.mark.usefixtures("one_thread"),
    # peft reads a property that transformers has renamed
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),
]

MODEL = ModelConfig(name="tiny_qwen3", kind="tiny", family="qwen3")
STEPS = 4


def rows_of_two() -> list[TrainingRow]:
    rows = make_rows(16)
    return [replace(row, source="ab"[place % 2]) for place, row in enumerate(rows)]


def train(
    folder: Path, base: Path, rows: list[TrainingRow], **knobs: object
) -> dict[str, torch.Tensor]:
    settings = {
        "learning_rate": 5e-2, "precision": "fp32", "accelerator": "cpu", "max_length": 300,
        "val_fraction": 0.0, "max_steps": STEPS, "warmup_ratio": 0.0, "log_every_n_steps": 1,
    }  # fmt: skip
    logger = CSVLogger(str(folder), name="", version="")
    train_student(
        TrainingRun(folder, folder.parent / "run", [logger]),
        SFTSettings(
            model=MODEL,
            adapter=AdapterConfig(name="lora", rank=2, alpha=4),
            trainer=TrainerConfig(**{**settings, **knobs}),
            method=MethodConfig(name="m1"),
            seed=3,
        ),
        base,
        rows,
    )
    return load_file(folder / "adapter_model.safetensors")


def logged(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as lines:
        return list(csv.DictReader(lines))


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(weight, second[name]) for name, weight in first.items())


def test_looking_at_cosines_changes_no_weight(base: Path, tmp_path: Path) -> None:
    plain = train(tmp_path / "plain", base, rows_of_two())
    seen = train(tmp_path / "seen", base, rows_of_two(), cosine_every_n_steps=2)
    assert equal(plain, seen)
    rows = [row for row in logged(tmp_path / "seen") if row["train/gradient_cosine/all"]]
    assert [int(row["step"]) for row in rows] == [1, 3]
    modules = {
        key.rpartition("/")[2] for key in rows[0] if key.startswith("train/gradient_cosine/")
    }
    assert "layers.0.self_attn.q_proj" in modules
    for row in rows:
        values = {m: float(row[f"train/gradient_cosine/{m}"] or "nan") for m in modules}
        assert all(-1.0001 <= value <= 1.0001 for value in values.values() if value == value)
        negative = [value < 0 for m, value in values.items() if m != "all" and value == value]
        share = sum(negative) / len(negative)
        assert float(row["train/conflicting_modules"]) == pytest.approx(share)


def test_projected_gradients_are_those_of_the_sources_alone(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a step trains with is PCGrad of the very gradients that each source gives alone."""
    taken: list[list[dict[str, torch.Tensor]]] = []
    summed: list[dict[str, torch.Tensor]] = []
    put = SourceGradients.put_together

    def spy(self: SourceGradients, step: int) -> None:
        taken.append([dict(gradient) for gradient in self._taken])
        put(self, step)
        summed.append({name: weight.grad.clone() for name, weight in self._trained.items()})

    monkeypatch.setattr(SourceGradients, "put_together", spy)
    for kind in ("module", "global"):
        taken.clear()
        summed.clear()
        train(tmp_path / kind, base, rows_of_two(), pcgrad=kind)
        assert len(taken) == STEPS
        both, total = taken[-1], summed[-1]
        assert len(both) == 2
        names = list(both[0])
        groups = list(modules_of(names).values()) if kind == "module" else [names]
        meant = projected(both, groups, seed=[0])  # two gradients meet in one order only
        for name in names:
            torch.testing.assert_close(total[name], meant[name])
        if kind == "module":
            found = {m: value for m, value in cosines(both).items() if m != "all"}
            changed = {
                module
                for module, own in modules_of(names).items()
                if not all(torch.allclose(total[n], both[0][n] + both[1][n]) for n in own)
            }
            assert changed == {module for module, value in found.items() if value < 0}


def test_one_source_has_nothing_to_tell_apart(base: Path, tmp_path: Path) -> None:
    plain = train(tmp_path / "plain", base, make_rows(16))
    asked = train(tmp_path / "asked", base, make_rows(16), pcgrad="module", cosine_every_n_steps=1)
    assert equal(plain, asked)
    assert "train/gradient_cosine/all" not in logged(tmp_path / "asked")[0]
