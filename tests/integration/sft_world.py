"""What the SFT tests share: rows of a sum, with plans of four lengths."""

from __future__ import annotations

from plan_tuning.text.formats import render_completion, student_messages
from plan_tuning.training.sft.batches import TrainingRow


def make_rows(count: int) -> list[TrainingRow]:
    return [
        TrainingRow(
            f"p{index}",
            student_messages(f"{index} + 3 = ?", method="m1", prompt="matched", style="math"),
            render_completion(
                "m1",
                plan="Add both numbers. " * (index % 4 + 1),
                execution=f"{index} + 3 = {index + 3}, so \\boxed{{{index + 3}}}.",
                solution="",
                answer=str(index + 3),
            ),
        )
        for index in range(count)
    ]
