"""Under which choices the keys of ``reward`` are read."""

from __future__ import annotations

from plan_tuning.config.job_parts import is_grpo, rewards_plans
from plan_tuning.config.reward import GRAMMAR_SCORES, NLI_SCORES
from plan_tuning.config.training_conditions import Condition

REWARD: tuple[Condition, ...] = (
    Condition(("reward",), is_grpo, "method={job.method.name} earns no rewards", "method=grpo"),
    Condition(
        tuple(
            f"reward.plan.{key}"
            for key in (
                *("kind", "metric", "guards", "votes", "swap", "temperature"),
                *("max_reply_tokens", "wait_s", "encoder", "encoder_model", "encoder_key_env"),
                *("scores", "compat", "nli", "grammar", "samples", "likelihood_scale"),
            )
        ),
        rewards_plans,
        "reward.plan.weight=0: plans earn nothing",
        "reward=plan_and_answer",
    ),
    Condition(
        ("reward.plan.metric",),
        lambda job: job.reward.plan.kind == "steps",
        "reward.plan.kind={job.reward.plan.kind} has a measure of its own",
        "reward.plan.kind=steps",
    ),
    Condition(
        tuple(f"reward.plan.{key}" for key in ("encoder", "encoder_model", "encoder_key_env")),
        lambda job: "encoder" in job.reward.plan.needs,
        "reward.plan.kind={job.reward.plan.kind} has no encoder",
        "reward.plan.kind=embedding",
    ),
    Condition(
        ("reward.plan.encoder_key_env",),
        lambda job: job.reward.plan.is_served,
        "reward.plan.encoder={job.reward.plan.encoder} is no server",
        "reward.plan.encoder=http://127.0.0.1:8000/v1 reward.plan.encoder_model=mpnet",
    ),
    Condition(
        tuple(f"reward.plan.{key}" for key in ("scores", "compat", "nli", "grammar")),
        lambda job: job.reward.plan.kind == "roscoe",
        "reward.plan.kind={job.reward.plan.kind} has no scores of ROSCOE",
        "reward.plan.kind=roscoe reward.plan.encoder=hashed",
    ),
    Condition(
        ("reward.plan.nli",),
        lambda job: bool({*NLI_SCORES} & {*job.reward.plan.scores}),
        "none of reward.plan.scores asks a model of contradictions",
        "'reward.plan.scores=[coherence_step]'",
    ),
    Condition(
        ("reward.plan.grammar",),
        lambda job: bool({*GRAMMAR_SCORES} & {*job.reward.plan.scores}),
        "none of reward.plan.scores asks a model of grammar",
        "'reward.plan.scores=[grammar_step]'",
    ),
    Condition(
        ("reward.plan.executor",),
        lambda job: job.reward.uses_frozen,
        "no reward has a plan carried out",
        "reward=plan_and_answer reward.plan.kind=uplift",
    ),
    Condition(
        tuple(
            f"reward.plan.{key}"
            for key in ("engine", "execution_temperature", "max_execution_tokens")
        ),
        lambda job: job.reward.writes_executions,
        "no reward has an execution written",
        "reward=plan_and_answer reward.plan.kind=uplift",
    ),
    Condition(
        ("reward.plan.samples",),
        lambda job: "generate" in job.reward.plan.needs,
        "reward.plan.kind={job.reward.plan.kind} has no execution written",
        "reward.plan.kind=uplift",
    ),
    Condition(
        ("reward.plan.likelihood_scale",),
        lambda job: job.reward.plan.kind == "likelihood",
        "reward.plan.kind={job.reward.plan.kind} is no gain of a log-probability",
        "reward.plan.kind=likelihood",
    ),
    Condition(
        ("reward.plan.votes", "reward.plan.swap"),
        lambda job: job.reward.judges_plans and job.reward.plan.kind == "judge",
        "nobody compares two plans",
        "reward=plan_and_answer reward.plan.kind=judge",
    ),
    Condition(
        (
            *(f"reward.plan.{key}" for key in ("temperature", "max_reply_tokens", "wait_s")),
            "reward.judge",
        ),
        lambda job: job.reward.uses_judge,
        "nobody judges plans",
        "reward=plan_and_answer reward.plan.kind=judge",
    ),
)
