"""Jobs -> what they may buy of a teacher: calls for corpora, test plans, executions, judgements.

These are upper bounds from the configuration alone: nothing is read but local data files, so that a
sweep lists its jobs without a network, a key or a store.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from plan_tuning.artifacts import hashed_values, read_manifest
from plan_tuning.config.data import DataConfig, MicroworldDataConfig
from plan_tuning.config.evaluation import PLAN_CONDITIONS
from plan_tuning.config.extensions import record
from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.reward import HASHED
from plan_tuning.config.run import Config
from plan_tuning.config.teacher import TeacherConfig
from plan_tuning.distillation.estimate import (
    Estimate,
    count_executions,
    count_judgements,
    count_missing_calls,
)
from plan_tuning.job.graph import JobGraph
from plan_tuning.job.inputs import count_benchmark, count_problems, source_parts
from plan_tuning.job.stage_memory import PROMPT_TOKENS
from plan_tuning.students.shapes import shape_of


@dataclass(frozen=True)
class Expense:
    """One kind of calls of one sweep."""

    purpose: str
    estimates: tuple[Estimate, ...]

    @property
    def calls(self) -> int:
        """Calls at the most."""
        return sum(estimate.calls for estimate in self.estimates)


def teacher_line(jobs: Iterable[tuple[Config, JobGraph]]) -> str:
    """Say how many teacher calls a sweep needs at the most, and what they may cost."""
    listed = [one for config, graph in jobs for one in graph.jobs(config)]
    expenses = [
        expense
        for expense in (
            _corpora(listed),
            _test_plans(listed),
            _executions(listed),
            _judgements(listed),
        )
        if expense.calls
    ]
    if not expenses:
        return "Teacher calls: none."
    calls = sum(expense.calls for expense in expenses)
    cost = _cost(estimate for expense in expenses for estimate in expense.estimates)
    parts = ", ".join(f"{expense.calls:,} for {expense.purpose}" for expense in expenses)
    return (
        f"Teacher calls: at most {calls:,} ({cost}): {parts}; "
        "answers that are already stored are not asked again."
    )


def value_line(jobs: Iterable[tuple[Config, JobGraph]]) -> str:
    """Say how many texts are run through students to value plans; empty where none is.

    Each stage counts once. A text is a problem, a plan and the reference execution. Executed are
    edited plans, of the micro-world or where 100 plans or more hold a number.
    """
    texts: dict[str, int] = {}
    edited: dict[str, int] = {}
    for config, graph in jobs:
        for entry, stage in zip(config.benchmarks, graph.plan_values, strict=False):
            if stage.is_done:
                continue
            count = count_benchmark(entry, config)
            has_plans = config.method.record.takes_plans
            texts[stage.fingerprint] = count * (len(PLAN_CONDITIONS) if has_plans else 1)
            edited[stage.fingerprint] = 2 * count if has_plans else 0
    if not texts:
        return ""
    return (
        f"Plan values: at most {sum(texts.values()):,} texts in forward passes, and "
        f"{sum(edited.values()):,} executions of edited plans; no answer is generated again."
    )


def _cost(estimates: Iterable[Estimate]) -> str:
    low = high = 0.0
    for estimate in estimates:
        if estimate.usd_low is None or estimate.usd_high is None:
            return "price unknown"
        low, high = low + estimate.usd_low, high + estimate.usd_high
    return "free" if high == 0 else f"{low:.2f} to {high:.2f} USD"


def _corpora(jobs: Iterable[tuple[Config, JobGraph]]) -> Expense:
    """Count each call once: a corpus of fewer problems or candidates is part of a larger one."""
    needs: dict[str, tuple[int, Config]] = {}
    corpora = set()
    for config, graph in jobs:
        if graph.corpus is None or graph.corpus.is_done or not config.uses_teacher:
            continue
        corpora.add(graph.corpus.fingerprint)
        for name, part in source_parts(config.data).items():
            origin = _origin(name, part, config)
            count, largest = needs.get(origin, (0, config))
            most = max(largest, config, key=lambda c: c.distillation.candidates)
            needs[origin] = (max(count, count_problems(part)), most)
    estimates = tuple(
        count_missing_calls(count, config.teacher, config.distillation)
        for count, config in needs.values()
    )
    return Expense(f"{len(corpora)} {'corpus' if len(corpora) == 1 else 'corpora'}", estimates)


def _origin(name: str, part: DataConfig, config: Config) -> str:
    """Name the problems, the teacher and the settings that calls are shared by."""
    world = part.world() if isinstance(part, MicroworldDataConfig) else None
    seed = part.seed if world else 0  # other sets are the same problems in another order
    problems = (world or name, part.path, part.revision, part.split, seed)
    shared = replace(config.distillation, num_candidates=1, plan_temperature=1.0)
    settings = (config.distillation.plan_temperature, hashed_values(shared), config.teacher.spec())
    return repr((problems, settings))


def _test_plans(jobs: Iterable[tuple[Config, JobGraph]]) -> Expense:
    """Test sets that the jobs distil themselves, for a swap of plans or to value the teacher's."""
    needs = {
        stage.fingerprint: (count_benchmark(entry, config), config)
        for config, graph in jobs
        for corpora in (graph.plan_corpora, graph.value_corpora)
        for entry, stage in zip(config.benchmarks, corpora, strict=False)
        if not stage.is_available
    }
    estimates = tuple(
        count_missing_calls(count, config.teacher, config.distillation)
        for count, config in needs.values()
    )
    return Expense("plans of test sets", estimates)


def _executions(jobs: Iterable[tuple[Config, JobGraph]]) -> Expense:
    """Answers of a teacher that executes M2's plans, and of the same one without any plan."""
    needs: dict[str, tuple[int, TeacherConfig]] = {}
    for config, graph in jobs:
        executor = record("executor", config.executor.name)
        if not config.method.has_two_calls or "ask" not in executor.needs:
            continue
        for stages in (graph.predictions, graph.executor_predictions):
            for entry, stage in zip(config.benchmarks, stages, strict=False):
                if not stage.is_done:
                    count = count_benchmark(entry, config) * config.evaluation.num_samples
                    needs[stage.fingerprint] = (count, config.executor_teacher)
    estimates = tuple(count_executions(count, teacher) for count, teacher in needs.values())
    return Expense("executions", estimates)


def _judgements(jobs: Iterable[tuple[Config, JobGraph]]) -> Expense:
    """Replies of the judge while students are trained: one a vote and order of each completion."""
    needs: dict[str, tuple[int, TeacherConfig]] = {}
    for config, graph in jobs:
        method, student = config.method, graph.student
        if student is None or student.is_available or not config.uses_judge:
            continue
        if isinstance(method, GRPOConfig):
            golden, judged = _count_golden(config, graph), config.reward.plan
            steps = method.total_steps(golden)
            replies = len(config.reward.asking)  # one each, as far as is known
            shared = 0
            if config.reward.judges_plans and judged.kind == "verifier":
                replies += 1
                shared = min(golden, steps * _prompts(method))  # the constraints of each problem
            elif config.reward.judges_plans:
                replies += judged.votes * (2 if judged.swap else 1)
            calls = steps * _prompts(method) * method.group_size * replies + shared
            needs[student.fingerprint] = (calls, config.judge)
    estimates = tuple(count_judgements(calls, judge) for calls, judge in needs.values())
    return Expense("judgements of plans", estimates)


def _prompts(method: GRPOConfig) -> int:
    """How many problems a step asks about at the most."""
    return method.prompts_per_step * (1 + method.max_redraws)


def reward_line(jobs: Iterable[tuple[Config, JobGraph]]) -> str:
    """Say what frozen models do for the rewards of GRPO, a step and in all; empty for none.

    Calls of a large model are the teacher line's. Each student counts once.
    """
    said: dict[str, int] = {}
    for config, graph in jobs:
        method, student, plan = config.method, graph.student, config.reward.plan
        is_left = student is not None and not student.is_available and "train" in config.stages
        if not isinstance(method, GRPOConfig) or not is_left or not plan.weight:
            continue
        golden = _count_golden(config, graph)
        plans = _prompts(method) * method.group_size
        steps = method.total_steps(golden)
        problems = min(golden, steps * _prompts(method))
        line = _frozen_work(config, plans, steps, problems, method.max_new_tokens)
        if line:
            said[line] = said.get(line, 0) + 1
    parts = [line + (f" ({count} students)" if count > 1 else "") for line, count in said.items()]
    return "Frozen models for rewards: " + "; ".join(parts) + "." if parts else ""


def _frozen_work(config: Config, plans: int, steps: int, problems: int, longest: int) -> str:
    """What one plan reward has frozen models do.

    Args:
        config: the job.
        plans: of a step, at the most.
        steps: of the training.
        problems: that are met.
        longest: tokens of a completion, as long as which a plan and an execution are taken to be.
    """
    plan = config.reward.plan
    if plan.kind in ("executability", "uplift"):
        each, alone = plan.samples, plan.samples * problems if plan.kind == "uplift" else 0
        most = PROMPT_TOKENS + plan.max_execution_tokens
        what = f"executions of up to {plan.max_execution_tokens} tokens"
    elif plan.kind == "likelihood":
        each, alone, most = 1, problems, PROMPT_TOKENS + longest
        what = "forward passes of a plan and an execution"
    elif "encoder" in plan.needs:
        by = "hashed n-grams, no model" if plan.encoder == HASHED else plan.encoder
        return f"{plan.kind} encodes the steps of {plans:,} plans a step ({by})"
    else:
        return ""
    total = plans * each * steps + alone
    found = shape_of(config.model)
    flops = math.nan if found is None else 2.0 * found[0].parameters * total * most
    cost = "" if found is None else f", at most {flops:.2g} operations"
    once = f", {alone:,} of them once a problem without a plan" if alone else ""
    return (
        f"{plan.kind} has {plans * each:,} {what} a step by {plan.executor}, "
        f"{total:,} in all{once}{cost}"
    )


def _count_golden(config: Config, graph: JobGraph) -> int:
    """How many problems may have a golden plan: those of the corpus, where it is there already."""
    if graph.corpus is not None and graph.corpus.is_done:
        return int(read_manifest(graph.corpus.folder)["facts"]["problems"])
    return sum(count_problems(part) for part in source_parts(config.data).values())
