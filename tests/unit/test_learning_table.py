"""What each reward taught: read off curves, by hand."""

from __future__ import annotations

from pathlib import Path

from sweep_builder import make_job

from plan_tuning.comparison.learning_table import learning_table, learnings, target_accuracy
from plan_tuning.comparison.runs import load
from plan_tuning.comparison.tables import build_table

TIME = [1e9, 2e9, 3e9]


def job(folder: Path, seed: int, reward: str, accuracies: list[float], **further: float) -> None:
    curves = {
        "val/accuracy": accuracies,
        "train/dead_rate": [0.5, 0.25, 0.0],
        "train/flops": TIME,
        "train/probe/echo": [0.0, 0.0, further.get("echo", 0.0)],
        "train/probe/empty": [0.01, 0.0, 0.0],
    }
    make_job(folder, method="grpo", seed=seed, curves=curves, accuracies={"microworld": 0.5},
             reward=reward)  # fmt: skip


def test_steps_operations_dead_groups_and_hacks_are_those_of_the_curves(tmp_path: Path) -> None:
    for seed in (0, 1):
        job(tmp_path, seed, "answer", [0.2, 0.4 + seed / 10, 0.6])
        job(tmp_path, seed, "plan", [0.2, 0.2, 0.3 + seed / 5], echo=0.3)
    table = build_table(load([tmp_path]))
    found = learnings(table)
    assert target_accuracy(found) == (0.2 + 0.6) / 2
    head, rows = learning_table(table)
    assert head[5:7] == ["steps to 40.0 %", "operations to 40.0 %"]
    cells = {row[0].split("reward=")[1]: row[1:] for row in rows}
    assert cells["answer"] == [
        "2", "3", "20.0 [20.0, 20.0]", "60.0 [60.0, 60.0]", "6", "2.00e+09",
        "25.0 [25.0, 25.0]", "none",
    ]  # fmt: skip
    assert cells["plan"][3].startswith("40.0 [")
    assert cells["plan"][4:6] == ["11 (1 of 2 seeds)", "3.00e+09 (1 of 2 seeds)"]
    assert cells["plan"][7] == "echo 10.0 → 10.0"


def test_nothing_that_was_held_out_is_no_target(tmp_path: Path) -> None:
    curves = {"train/dead_rate": [0.0, 1.0]}
    make_job(tmp_path, method="grpo", curves=curves, accuracies={"microworld": 0.5})
    make_job(tmp_path, method="m1", accuracies={"microworld": 0.5})
    _, rows = learning_table(build_table(load([tmp_path])))
    assert rows == [["grpo", "1", "2", "–", "–", "never", "never", "50.0†", "none"]]
