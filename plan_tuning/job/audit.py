"""A corpus and a configuration -> an audit of plan rewards: who is asked, who executes plans.

Rewards are those that GRPO trains with, called in the same way; nothing is trained here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from plan_tuning.artifacts import build
from plan_tuning.comparison.audit_rows import AuditRows, audit_rows
from plan_tuning.comparison.reward_audit import Audit, RewardAudit, audit_reward, controls
from plan_tuning.config.checks import ConfigError, require_choice
from plan_tuning.config.extensions import DEFAULT_METHOD, PLAIN, names, record
from plan_tuning.config.reward import HASHED, PlanRewardConfig
from plan_tuning.config.run import Config
from plan_tuning.distillation.corpus import PROBLEMS, read_problems, read_trajectories
from plan_tuning.evaluation.reward_means import is_right, opened_means
from plan_tuning.grading.answer_rules import is_run, problem_defect
from plan_tuning.grading.grader import Grader
from plan_tuning.job.graph import job_graph
from plan_tuning.job.machine import device_of, load_libraries, prepare_torch
from plan_tuning.job.train import make_base
from plan_tuning.rewards.plan_cases import Means
from plan_tuning.teachers.factory import open_caller
from plan_tuning.text.formats import is_micro

logger = logging.getLogger(__name__)

ALL = "all"
_FROZEN = {"generate", "log_probs"}
_BATCH_TOKENS = 16_384  # of a pass, where evaluation.batch_tokens leaves it open


@dataclass(frozen=True)
class AuditRequest:
    """What is audited.

    Args:
        corpus: its folder.
        kinds: of plan rewards, or ``all`` of those that can be asked here.
        limit: problems that are audited; None: all.
        retested: problems whose plans are asked about twice.
        probed: problems of which hack probes are made.
        is_planted: reward flawed variants of golden plans in place of the other candidates.
    """

    corpus: Path
    kinds: tuple[str, ...] = (ALL,)
    limit: int | None = None
    retested: int = 50
    probed: int = 200
    is_planted: bool = False


def run_audit(
    config: Config, request: AuditRequest, done: Callable[[RewardAudit], None] | None = None
) -> Audit:
    """Ask every reward.

    Args:
        config: rewards (``reward.plan``), the judge (``teacher``, ``reward.judge``), the frozen
            executor (``model``, or ``start=path``), the seed.
        request: corpus and extent.
        done: told of each reward when it is finished.

    Raises:
        ConfigError: a reward is unknown or lacks what it needs, or the corpus has no plans to ask
            about.
    """
    folder = request.corpus
    problems = read_problems(folder) if (folder / PROBLEMS).is_file() else []
    rows = audit_rows(
        read_trajectories(folder),
        problems,
        limit=request.limit,
        seed=config.seed,
        is_planted=request.is_planted,
    )
    chosen, skipped = _chosen(config, request.kinds, rows)
    found = asyncio.run(_asked(config, request, rows, chosen, done))
    return Audit(rows, tuple(found), controls(rows), skipped)


def _chosen(
    config: Config, kinds: Sequence[str], rows: AuditRows
) -> tuple[dict[str, PlanRewardConfig], dict[str, str]]:
    """The rewards that are asked, and why others are not.

    Raises:
        ConfigError: a reward that was named is unknown, or lacks what it needs.
    """
    known = names("plan_similarity")
    wanted = known if ALL in kinds else kinds
    chosen: dict[str, PlanRewardConfig] = {}
    skipped: dict[str, str] = {}
    for kind in wanted:
        require_choice("--rewards", kind, (*known, ALL))
        missing = _missing(config, kind, rows)
        if missing is not None and ALL not in kinds:
            raise ConfigError("--rewards", kind, *missing)
        if missing is not None:
            skipped[kind] = f"{missing[0]}: {missing[1]}"
            continue
        encoder = config.reward.plan.encoder or HASHED
        chosen[kind] = replace(config.reward.plan, kind=kind, weight=1.0, encoder=encoder)
    if not chosen:
        raise ConfigError("--rewards", ",".join(kinds), "nothing can be asked", "--rewards steps")
    return chosen, skipped


def _missing(config: Config, kind: str, rows: AuditRows) -> tuple[str, str] | None:
    """Say what a kind lacks here, and words that bring it; None where it has all."""
    needs = set(record("plan_similarity", kind).needs)
    in_micro_world = all(is_micro(row.case.problem.style) for row in rows.rows)
    judge = config.judge
    answers = judge.is_asked and (in_micro_world or judge.backend != "scripted")
    if "ask" in needs and not answers:
        return (
            "it asks a large model, and the scripted teacher knows the micro-world only",
            "teacher=openai_compatible teacher.model=NAME "
            "teacher.api_base=http://127.0.0.1:8000/v1",
        )
    if needs & _FROZEN and config.model.name == "micro" and not in_micro_world:
        return (
            "a frozen model carries plans out, and the micro student knows the micro-world only",
            "model=smollm2_135m",
        )
    return _missing_to_run(config, rows) if "generate" in needs else None


def _missing_to_run(config: Config, rows: AuditRows) -> tuple[str, str] | None:
    """Say what keeps executions from being graded where they are programs."""
    asked = [row.case.problem for row in rows.golden]
    programs = [problem for problem in asked if is_run(problem.style)]
    if programs and not config.evaluation.grading.run_code:
        return (
            "it grades executions, which are programs here: they are graded by running them, in a "
            "sandbox",
            "evaluation.grading.run_code=true",
        )
    if programs and all(problem_defect(problem) for problem in programs):
        return (
            f"it grades executions, which are programs here, and the corpus has no {PROBLEMS} with "
            "their tests",
            "plan-tuning corpus import FILE --problems humaneval=FILE --run-code",
        )
    return None


async def _asked(
    config: Config,
    request: AuditRequest,
    rows: AuditRows,
    chosen: Mapping[str, PlanRewardConfig],
    done: Callable[[RewardAudit], None] | None,
) -> list[RewardAudit]:
    found = []
    with Grader(config.evaluation.grading) as grader:
        async with _opened(config, chosen, grader) as means:
            for kind, reward in chosen.items():
                audited = await audit_reward(
                    kind,
                    reward,
                    rows,
                    opened_means(reward, means),
                    retested=request.retested,
                    probed=request.probed,
                )
                found.append(audited)
                if done is not None:
                    done(audited)
    return found


@asynccontextmanager
async def _opened(
    config: Config, chosen: Mapping[str, PlanRewardConfig], grader: Grader
) -> AsyncIterator[Means]:
    """Open the judge and load the frozen executor, where a reward needs them."""
    needs = {need for kind in chosen for need in record("plan_similarity", kind).needs}

    means = Means(grade=partial(is_right, grader), prompt=config.prompt.name)
    if needs & _FROZEN:
        means = _with_executor(config, means)
    if "ask" not in needs:
        yield means
        return
    async with open_caller(config.judge, config.paths.calls) as caller:
        yield replace(means, ask=caller.ask)


def _with_executor(config: Config, means: Means) -> Means:
    """Load who carries plans out: the untrained model, or the student of ``start=path``."""
    load_libraries()
    from plan_tuning.evaluation.frozen_executor import FrozenExecutor
    from plan_tuning.students.loading import load_for_inference

    prepare_torch(config.trainer)
    given = config.start.path
    where = Path(given).expanduser() if given is not None else _base(config)
    student = load_for_inference(where, config.model, device=device_of(config.trainer))
    tokens = config.evaluation.batch_tokens
    asked_as = PLAIN if given is None else DEFAULT_METHOD
    executor = FrozenExecutor(
        student,
        asked_as=asked_as,
        config=config.reward.plan,
        seed=config.seed,
        batch_tokens=tokens if isinstance(tokens, int) else _BATCH_TOKENS,
    )
    return replace(
        means, generate=executor.generate, log_probs=executor.log_probs, asked_as=asked_as
    )


def _base(config: Config) -> str | Path:
    """The untrained model: ours, made where it is absent, or the one that the user names."""
    stage = job_graph(config).base
    if stage is None:
        return str(config.model.path)
    if not stage.is_available:
        build(
            config.paths.artifacts,
            stage.kind,
            stage.fingerprint,
            partial(make_base, config, config.model),
            spec=stage.spec,
            upstream=stage.upstream,
        )
    return stage.folder
