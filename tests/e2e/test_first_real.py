"""experiment=first_real in its cheap form: the flow with a tiny student and a few rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Run, results

pytestmark = pytest.mark.e2e

PEOPLE = ("Ada", "Ben", "Chloe", "Dev", "Ella", "Farid", "Grace", "Hugo")


def write_socratic(path: Path, count: int) -> None:
    """Rows in the published form; every seventh has an equation that does not recompute."""
    rows = []
    for k in range(count):
        name, cups, more = PEOPLE[k % len(PEOPLE)], k + 2, 2 * k + 3
        half, total = 2 * cups, 2 * cups + more
        said = half + 1 if k % 7 == 6 else half
        rows.append(
            {
                "question": f"{name} buys {cups} boxes of 2 cups and finds {more}. How many cups?",
                "answer": f"How many cups are bought? ** {cups}*2=<<{cups}*2={said}>>{half} cups\n"
                f"How many in all? ** {half}+{more}=<<{half}+{more}={total}>>{total} cups\n"
                f"#### {total}",
            }
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_first_real_ends_in_a_table_of_log_probabilities(plan_tuning: Run, tmp_path: Path) -> None:
    write_socratic(tmp_path / "rows.jsonl", 60)
    ran = plan_tuning(
        "experiment=first_real", "model=tiny_qwen3", "data.path=rows.jsonl", "data.holdout=8",
        "debug=fast", "logger=csv", "hydra/launcher=basic",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr + ran.stdout
    sweep = tmp_path / "multirun_outputs" / "first_real"
    found = {(row["choices"]["method"], row["choices"]["adapter"]): row for row in results(sweep)}
    assert set(found) == {
        ("zero_shot", "full"), ("sft", "full"), ("m1", "full"), ("m2", "full"), ("m1", "lora"),
    }  # fmt: skip
    benchmark = "gsm8k_socratic_internal_split"
    for (method, _), row in found.items():
        assert row["teacher_calls"] == 0
        assert row["metrics"][benchmark]["n"] == 8
        values = row["plan_value"][benchmark]
        assert values["problems"] == 8
        expected = {"none"} if method == "sft" else {"none", "dataset", "other"}
        assert expected <= set(values["conditions"])
    text = (sweep / "comparison.md").read_text()
    assert "log P a token" in text
    assert "internal split" in text
