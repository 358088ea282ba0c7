"""Jobs on plans that come with the data: what is refused before any work, and what is hashed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from composition import config_of, graph

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.effects import idle_words
from plan_tuning.config.filter import FilterConfig
from plan_tuning.distillation.estimate import count_missing_calls, dry_run
from plan_tuning.distillation.filters import (
    RECOMPUTE,
    STANDARD_FILTERS,
    FilterError,
    filter_trajectories,
)
from plan_tuning.distillation.recomputation import OTHER_END
from plan_tuning.job.dry_run import check_data, findings
from plan_tuning.job.graph import job_graph
from plan_tuning.job.inputs import load_problems
from plan_tuning.records import Trajectory, Verdict, from_json, to_json
from plan_tuning.tasks.json_rows import DataError

NONE, PLAN_ONLY, ANSWER_ONLY, TWO_STAGE = STANDARD_FILTERS
SOCRATIC = ("data=gsm8k_socratic", "model=tiny_qwen3", "method=m1", "data.path={file}")
SERVER = ("teacher=openai_compatible", "teacher.api_base=http://127.0.0.1:9/v1")


def given_row(problem: str = "p", annotated: str | None = "<<2+3=5>>") -> Trajectory:
    return Trajectory(
        problem_id=problem, candidate=0, problem="2+3?", answer="5", solution="2+3=5",
        plan="1. Add.", score_status="unscored", execution="\\boxed{5}", execution_status="ok",
        execution_answer="5", verdict=Verdict.CORRECT, annotated_execution=annotated,
    )  # fmt: skip


@pytest.mark.parametrize("config", [PLAN_ONLY, TWO_STAGE], ids=lambda config: config.name)
def test_filters_by_score_say_what_is_missing(config: FilterConfig) -> None:
    with pytest.raises(FilterError, match=r"(?s)score.*none.*filter=recompute.*plans=dataset"):
        filter_trajectories([given_row()], config)


def test_filters_without_scores_keep_given_plans() -> None:
    rows = [given_row("a"), given_row("b", "<<2+3=5>> <<5+1=6>>")]
    for config in (NONE, ANSWER_ONLY):
        assert filter_trajectories(rows, config).kept_problems == 2
    assert filter_trajectories(rows, RECOMPUTE).reasons == {"kept": 1, OTHER_END: 1}


def test_recompute_needs_annotations_of_at_least_one_execution() -> None:
    with pytest.raises(FilterError, match="annotated equations"):
        filter_trajectories([given_row(annotated=None)], RECOMPUTE)
    rows = [given_row("a"), given_row("b", "")]
    assert filter_trajectories(rows, RECOMPUTE).reasons == {"kept": 1, "no_annotated_equation": 1}


def test_a_plan_without_an_execution_is_named() -> None:
    bare = dataclasses.replace(given_row(), execution="", execution_status="missing", verdict=None)
    assert filter_trajectories([bare], NONE).kept_problems == 1
    with pytest.raises(FilterError, match="without one: choose method=m2"):
        filter_trajectories([bare], NONE, needs_execution=True)


def test_annotations_stand_in_files_only_where_there_are_any() -> None:
    assert from_json(Trajectory, to_json(given_row())) == given_row()
    assert "annotated_execution" not in to_json(given_row(annotated=None))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    answers = [f"How many? ** {n}+1=<<{n}+1={n + 1}>>{n + 1}\n#### {n + 1}" for n in range(6)]
    rows = [{"question": f"What are {n} and 1?", "answer": a} for n, a in enumerate(answers)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def socratic(file: Path, *more: str) -> tuple[str, ...]:
    outputs = f"paths.outputs={file.parent / 'out'}"
    return (*(word.format(file=file) for word in SOCRATIC), outputs, "data.holdout=2", *more)


@pytest.mark.parametrize("chosen", ["plan_only", "two_stage"])
def test_a_filter_by_score_is_refused_before_any_work(file: Path, chosen: str) -> None:
    with pytest.raises(ConfigError, match=rf"filter={chosen} is not allowed.*filter=recompute"):
        config_of(*socratic(file, "teacher=dataset", f"filter={chosen}"))
    config_of(*socratic(file, "teacher=dataset", f"filter={chosen}", "stages=[distill]"))
    config_of(*socratic(file, "teacher=dataset", f"filter={chosen}", "method=sft"))


def test_the_start_of_grpo_is_filtered_without_scores_too(file: Path) -> None:
    words = socratic(file, "teacher=dataset", "filter=recompute", "method=grpo", "start=m1")
    with pytest.raises(ConfigError, match=r"filter@start\.filter=two_stage is not allowed"):
        config_of(*words)
    config_of(*words, "filter@start.filter=recompute")
    config_of(*words, "start=base")


@pytest.mark.parametrize("plans", ["teacher", "dataset"])
def test_equations_of_a_teacher_are_not_asked_for(file: Path, plans: str) -> None:
    words = socratic(file, *SERVER, f"distillation.plans={plans}", "filter=recompute")
    with pytest.raises(ConfigError, match=r"filter=recompute is not allowed.*teacher=dataset"):
        config_of(*words)
    config_of(*words, "stages=[distill]")
    config_of(*words, "corpus.path=somewhere")
    grpo = socratic(file, *SERVER, "method=grpo", "start=m1", "filter=none")
    with pytest.raises(ConfigError, match=r"filter@start\.filter=recompute is not allowed"):
        config_of(*grpo, "filter@start.filter=recompute")


def test_a_data_set_neither_judges_nor_executes(file: Path) -> None:
    given = socratic(file, "teacher=dataset", "filter=recompute")
    with pytest.raises(ConfigError, match=r"executor\.teacher=dataset is not allowed"):
        config_of(*given, "method=m2", "executor=teacher")
    with pytest.raises(ConfigError, match=r"reward\.judge=dataset is not allowed"):
        config_of(*given, "method=grpo", "start=base", "reward=plan", "reward.plan.kind=judge")


def test_made_problems_bring_no_plans() -> None:
    with pytest.raises(ConfigError, match=r"teacher=dataset is not allowed: .* bring no plans"):
        config_of("teacher=dataset", "filter=none")
    with pytest.raises(ConfigError, match=r"distillation\.plans=dataset is not allowed"):
        config_of("distillation.plans=dataset")


def test_data_without_plans_are_refused_before_any_work(tmp_path: Path) -> None:
    rows = [{"problem": "2+3?", "answer": "5", "solution": "2+3=5"}] * 1
    (tmp_path / "rows.jsonl").write_text(json.dumps(rows[0]) + "\n", encoding="utf-8")
    own = ("data=jsonl", "data.name=mine", f"data.path={tmp_path / 'rows.jsonl'}",
           "model=tiny_qwen3", "teacher=dataset", "filter=none", "stages=[distill]")  # fmt: skip
    config = config_of(*own)
    with pytest.raises(DataError, match=r"rows\.jsonl has none\. data=gsm8k_socratic"):
        check_data(config, job_graph(config))
    rows[0] |= {"plan": "1. Add.", "execution": "\\boxed{5}"}
    (tmp_path / "planned.jsonl").write_text(json.dumps(rows[0]) + "\n", encoding="utf-8")
    config = config_of(*own, f"data.path={tmp_path / 'planned.jsonl'}")
    check_data(config, job_graph(config))


@pytest.mark.parametrize(("data", "has_plans"), [("gsm8k", False), ("gsm8k_socratic", True)])
def test_sets_of_the_hub_are_known_to_bring_plans_or_not(data: str, has_plans: bool) -> None:
    config = config_of(f"data={data}", "teacher=dataset", "filter=none", "model=tiny_qwen3")
    errors = [f.text for f in findings([(config, job_graph(config))]) if f.kind == "error"]
    assert bool(errors) != has_plans, errors


def test_what_nobody_reads_moves_no_fingerprint(file: Path) -> None:
    words = socratic(file, "teacher=dataset", "filter=recompute")
    plain = graph(*words)
    idle = ("distillation.num_candidates=3", "distillation.plans=dataset", "teacher.label=other")
    assert graph(*words, *idle) == plain
    config = config_of(*words, idle[0])
    assert [str(found.word) for found in idle_words(config, idle[:1])] == [idle[0]]
    assert graph(*words, "filter=answer_only") != plain


def test_given_plans_move_a_teachers_corpus_only_where_they_are_taken(file: Path) -> None:
    words = socratic(file, *SERVER)
    assert graph(*words) == graph(*words, "distillation.plans=teacher")
    given = graph(*words, "distillation.plans=dataset")
    assert given != graph(*words)
    assert given == graph(*words, "distillation.plans=dataset", "distillation.num_candidates=3")


def test_a_teacher_of_given_plans_is_asked_three_times_a_problem(file: Path) -> None:
    config = config_of(*socratic(file, *SERVER, "distillation.plans=dataset"))
    problems = load_problems(config)
    calls = {"constraints": 4, "plan": 0, "verify": 4, "execute": 4}
    bound = count_missing_calls(len(problems), config.teacher, config.distillation)
    looked = dry_run(problems, config.teacher, config.distillation, file.parent / "calls")
    assert bound.to_buy == looked.to_buy == calls
    assert "plan" not in looked.first_prompts
    given = config_of(*socratic(file, "teacher=dataset", "filter=none"))
    assert count_missing_calls(4, given.teacher, given.distillation).calls == 0
