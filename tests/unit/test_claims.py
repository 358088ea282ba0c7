"""The paper's claims beside the table: which rows count, which numbers are printed, verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sweep_builder import make_job

from plan_tuning.comparison.claims import NOT_PUBLIC, Finding, findings, read_claims, silence
from plan_tuning.comparison.differences import OutcomeReader
from plan_tuning.comparison.runs import load
from plan_tuning.comparison.table_text import finding_summary, finding_table
from plan_tuning.comparison.tables import build_table


def _found(folder: Path) -> list[Finding]:
    reader = OutcomeReader()
    return findings(build_table(load([folder]), reader=reader), reader)


def _silence(folder: Path) -> list[str]:
    reader = OutcomeReader()
    table = build_table(load([folder]), reader=reader)
    return silence(table, findings(table, reader))


def _findings(folder: Path) -> list[tuple[str, str, str]]:
    return [(item.benchmark, item.verdict, item.published) for item in _found(folder)]


def test_the_direction_of_a_claim_is_compared_without_a_number_on_the_microworld(
    tmp_path: Path,
) -> None:
    for seed in range(3):
        make_job(tmp_path, method="sft", seed=seed, accuracies={"microworld": 0.2})
        make_job(tmp_path, method="m1", seed=seed, accuracies={"microworld": 0.9})
    assert _findings(tmp_path) == [("microworld", "agrees", NOT_PUBLIC)]
    _, ((claim, _, text, _),) = finding_table(_found(tmp_path))
    assert claim.startswith("T2: plan-tuned students")
    assert text.startswith("agrees: 15.6 -> 91.7, +76.1 [")
    assert text.endswith(", 3 seeds, resolved: yes")


def test_a_verdict_of_one_seed_is_marked_wherever_it_is_printed(tmp_path: Path) -> None:
    make_job(tmp_path, method="sft", accuracies={"microworld": 0.2})
    make_job(tmp_path, method="m1", accuracies={"microworld": 0.9})
    make_job(tmp_path, method="m2", accuracies={"microworld": 0.9})
    _, lines = finding_table(_found(tmp_path))
    assert [line[2].partition(":")[0] for line in lines] == ["agrees†", "agrees†", "undecided†"]
    assert [line[2].partition(", 1 seed, ")[2] for line in lines] == [
        "resolved: yes",
        "resolved: yes",
        "resolved: no",
    ]
    _, summary = finding_summary(_found(tmp_path))
    assert summary[0][1] == "agrees 2†"


@pytest.mark.parametrize(
    ("model", "data", "benchmark", "number"),
    [
        ("qwen3_8b", "math", "math500", "53.2 -> 79.4"),
        ("qwen3_8b", "gsm8k", "math500", NOT_PUBLIC),
        ("qwen3_8b", "math", "gsm8k", NOT_PUBLIC),
        ("qwen3_4b", "math", "math500", "about +7 % (average gain on GSM8K and MATH; abstract); "
         "about +20 %"),
        ("qwen3_4b", "gsm8k", "gsm8k", "about +7 %"),
        ("qwen3_8b", "math", "aime_1983_2024", "5.57 -> 31.51"),
        ("qwen3_4b", "gsm8k", "aime_1983_2024", "about +12 %"),
        ("qwen3_8b", "math", "aime2024", NOT_PUBLIC),
        ("qwen3_4b", "gsm8k", "olympiadbench", "about +10 %"),
        ("qwen3_4b", "strategyqa", "olympiadbench", NOT_PUBLIC),
    ],
)  # fmt: skip
def test_a_number_stands_only_beside_the_benchmark_model_and_data_it_belongs_to(
    tmp_path: Path, model: str, data: str, benchmark: str, number: str
) -> None:
    make_job(tmp_path, method="sft", model=model, data=data, accuracies={benchmark: 0.8})
    make_job(tmp_path, method="m2", model=model, data=data, accuracies={benchmark: 0.2})
    ((name, verdict, published),) = _findings(tmp_path)
    assert (name, verdict) == (benchmark, "disagrees")
    assert published.startswith(number)


@pytest.mark.parametrize(
    ("choices", "settings"),
    [
        ({"method": "m2"}, {"evaluation.plan": "none"}),
        ({"method": "m2"}, {"evaluation.plan": "other"}),
        ({"method": "m2"}, {"evaluation.plan": "true"}),
        ({"method": "m2", "executor": "teacher"}, {}),
        ({"method": "m1", "filter": "none"}, {}),
        ({"method": "m1"}, {"filter.plan_score_threshold": 50}),
        ({"method": "m1"}, {"filter.max_rows": 1000}),
        ({"method": "m1"}, {"data.mixing.domain_tag": True}),
    ],
)
def test_only_students_like_the_papers_count_as_plan_tuned(
    tmp_path: Path, choices: dict[str, str], settings: dict[str, Any]
) -> None:
    make_job(tmp_path, method="sft", accuracies={"microworld": 0.2})
    make_job(tmp_path, accuracies={"microworld": 0.9}, settings=settings, **choices)
    assert _findings(tmp_path) == []


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, 1),
        ({"data.mixing.strategy": "tempered"}, 0),
        ({"data.mixing.strategy": "equal_tokens"}, 0),
        ({"data.mixing.domain_tag": True}, 0),
        ({"trainer.order": "by_source"}, 0),
        ({"trainer.batch_size": 8}, 0),
    ],
)
def test_only_a_plain_mixture_counts_as_figure_4(
    tmp_path: Path, settings: dict[str, Any], count: int
) -> None:
    plain = {"data.mixing.strategy": "concatenate", "data.mixing.domain_tag": False}
    make_job(tmp_path, data="gsm8k", method="m1", accuracies={"gsm8k": 0.8, "math500": 0.1})
    make_job(tmp_path, data="gsm8k_math", method="m1", settings=plain | settings,
             accuracies={"gsm8k": 0.3, "math500": 0.4})  # fmt: skip
    found = _findings(tmp_path)
    assert found == [("gsm8k", "agrees", "about -2 % (Figure 4; summary)")] * count


def test_claims_compare_rows_that_agree_in_everything_else(tmp_path: Path) -> None:
    for seed in range(3):
        accuracies = {"none": 0.3, "plan_only": 0.5, "answer_only": 0.3, "two_stage": 0.5}
        for filters, accuracy in accuracies.items():
            make_job(
                tmp_path,
                method="m1",
                filter=filters,
                seed=seed,
                n=200,
                accuracies={"microworld": accuracy},
            )
    found = {(item.id, item.row, item.against): item.verdict for item in _found(tmp_path)}
    assert found == {
        ("two_stages_beat_one", "filter=two_stage", "filter=plan_only"): "undecided",
        ("filtering_is_key", "filter=two_stage", "filter=none"): "agrees",
        ("filtering_is_key", "filter=two_stage", "filter=answer_only"): "agrees",
    }


def test_the_single_stage_of_table_3_is_the_plan_verifier_alone(tmp_path: Path) -> None:
    for filters in ("plan_only", "answer_only", "two_stage"):
        make_job(tmp_path, data="gsm8k", method="m1", filter=filters, accuracies={"gsm8k": 0.5})
    published = {item.against: item.published for item in _found(tmp_path)}
    assert published == {
        "filter=plan_only": "83.32 -> 87.11 (Table 3, single stage: the Plan Verifier alone, "
        "model unknown; summary)",
        "filter=answer_only": NOT_PUBLIC,
    }


def test_the_threshold_of_80_is_compared_with_none_and_said_to_be_inferred(tmp_path: Path) -> None:
    for threshold, accuracy in ((-100, 0.4), (50, 0.6), (80, 0.9)):
        for seed in range(3):
            make_job(
                tmp_path,
                seed=seed,
                n=200,
                settings={"filter.plan_score_threshold": threshold},
                accuracies={"microworld": accuracy},
            )
    (item,) = _found(tmp_path)
    assert (item.id, item.verdict) == ("threshold_80", "agrees")
    assert (item.certainty, item.published) == ("code; the comparison is inferred", NOT_PUBLIC)


def _rewards(folder: Path, by_start: dict[str, tuple[float, float]]) -> None:
    for start, accuracies in by_start.items():
        for reward, accuracy in zip(("answer", "plan_and_answer"), accuracies, strict=True):
            for seed in range(3):
                make_job(folder, method="grpo", start=start, reward=reward, seed=seed, n=200,
                         accuracies={"microworld": accuracy})  # fmt: skip


@pytest.mark.parametrize(
    ("by_start", "verdict"),
    [
        ({"base": (0.3, 0.8), "m1": (0.8, 0.3)}, "agrees"),
        ({"base": (0.3, 0.8), "m1": (0.3, 0.8)}, "disagrees"),
        ({"base": (0.3, 0.8), "m1": (0.5, 0.5)}, "undecided"),
        ({"base": (0.3, 0.8)}, "undecided"),
    ],
)
def test_inconsistency_is_judged_over_all_rows_of_the_claim(
    tmp_path: Path, by_start: dict[str, tuple[float, float]], verdict: str
) -> None:
    _rewards(tmp_path, by_start)
    found = _found(tmp_path)
    assert {item.id for item in found} == {"plan_reward_is_inconsistent"}
    assert [item.verdict for item in found] == [verdict] * len(by_start)


def test_where_nothing_is_public_this_is_said(tmp_path: Path) -> None:
    for count in (1, 2):
        make_job(tmp_path, accuracies={"microworld": 0.5}, settings={"distillation.samples": count})
    assert _silence(tmp_path) == ["No claim is public about distillation.samples."]


def test_claims_whose_other_side_is_missing_are_not_called_absent(tmp_path: Path) -> None:
    for threshold in (50, 80):
        settings = {"filter.plan_score_threshold": threshold}
        make_job(tmp_path, accuracies={"microworld": 0.5}, settings=settings)
    (line,) = _silence(tmp_path)
    assert line == (
        "No two rows are what a claim of the paper about filter.plan_score_threshold compares."
    )


# experiments/METHOD.md section 6, and nothing else:
# (claim, benchmarks, model, method, values, certainty)
_PUBLISHED = {
    ("planning_beats_sft", "gsm8k", None, None, (7,), "abstract"),
    ("planning_beats_sft", "math", None, None, (7,), "abstract"),
    ("planning_beats_sft", "olympiadbench", None, None, (10,), "abstract"),
    ("planning_beats_sft", "aime_1983_2024", None, None, (12,), "abstract"),
    ("planning_beats_sft", "gsm8k", None, None, (7,), "summary"),
    ("planning_beats_sft", "math", None, None, (20,), "summary"),
    ("planning_beats_sft", "math", "qwen3_8b", "m2", (53.2, 79.4), "summary"),
    ("planning_beats_sft", "aime_1983_2024", "qwen3_8b", "m2", (5.57, 31.51), "summary"),
    ("two_stages_beat_one", "gsm8k", None, None, (83.32, 87.11), "summary"),
    ("two_stages_beat_one", "aime_1983_2024", None, None, (22.72, 32.05), "summary"),
    ("mixing_costs", "gsm8k", None, None, (-2,), "summary"),
}
_CLAIMS = {
    "planning_beats_sft": ("higher", "abstract", None),
    "plan_only_beats_joint": ("higher", "summary", None),
    "two_stages_beat_one": ("higher", "summary", None),
    "filtering_is_key": ("higher", "summary", "inferred"),
    "threshold_80": ("higher", "code", "inferred"),
    "mixing_costs": ("lower", "summary", None),
    "plan_reward_is_inconsistent": ("inconsistent", "summary", "inferred"),
    "plan_reward_drops_on_aime": ("lower", "summary", "inferred"),
}


def test_published_numbers_and_claims_are_those_of_the_paper_and_no_others() -> None:
    claims = read_claims()
    assert {
        claim["id"]: (claim["direction"], claim["certainty"], claim.get("comparator"))
        for claim in claims
    } == _CLAIMS
    numbers = [(claim["id"], number) for claim in claims for number in claim.get("numbers", ())]
    assert len(numbers) == len(_PUBLISHED)
    found = set()
    for name, number in numbers:
        benchmarks = set(number["benchmark"])
        assert len(benchmarks) == 1 or benchmarks == {"math", "math500"}
        values = tuple(number[key] for key in ("gain", "against", "row") if key in number)
        model, method = (number[key][0] if key in number else None for key in ("model", "method"))
        found.add((name, min(benchmarks), model, method, values, number["certainty"]))
    assert found == _PUBLISHED
