"""What predictions depend on: the questions, who answers them, with whose plans, who executes.

Plain values for the Specs of :mod:`plan_tuning.job.specs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from plan_tuning.artifacts import hashed_values
from plan_tuning.config.checks import ConfigError, require
from plan_tuning.config.run import Config
from plan_tuning.tasks.microworld_problems import MICRO_PREFIX
from plan_tuning.text.prompts import prompt_fingerprint


@dataclass(frozen=True)
class Party:
    """Someone who answers: a student, an untrained model or a teacher."""

    spec: Mapping[str, Any]  # what determines its answers
    upstream: Mapping[str, str] = field(default_factory=dict)  # artifacts that it is made of


def needs_student(config: Config) -> bool:
    """Whether the student under test takes part; a swap of all plans can do without it."""
    is_swap = config.method.name == "m2" and config.evaluation.plan in ("none", "teacher", "true")
    return not is_swap or config.executor.name == "self"


def check_swap(config: Config) -> None:
    """Refuse a plan swap that cannot be.

    Raises:
        ConfigError: the method executes no plans, or the plans are known nowhere.
    """
    plan = config.evaluation.plan
    require(
        plan == "own" or config.method.name == "m2",
        "evaluation.plan",
        plan,
        f"only m2 has its plans executed in a call of their own, not {config.method.name}",
        f"method=m2 evaluation.plan={plan}",
    )
    real = [name for name in config.benchmarks if not name.startswith(MICRO_PREFIX)]
    require(
        plan != "true" or not real,
        "evaluation.plan",
        plan,
        f"true plans are known in the micro-world only, not for {', '.join(real)}",
        "evaluation.plan=teacher",
    )


def question_spec(
    benchmark: str, source: Mapping[str, Any], config: Config, *, tag: str
) -> dict[str, Any]:
    """Name the questions, and how answers are decoded and graded."""
    evaluation = config.evaluation
    spec: dict[str, Any] = {
        "benchmark": benchmark,
        "source": dict(source),
        "limit": evaluation.limit,
        "max_new_tokens": evaluation.max_new_tokens,
        "temperature": evaluation.temperature,
        "num_samples": evaluation.num_samples,
        "grading": hashed_values(evaluation.grading),
        "prompt": config.prompt.name,
        "prompts": prompt_fingerprint("student"),
    }
    if evaluation.temperature > 0:
        spec |= {
            "top_p": evaluation.top_p,
            "top_k": evaluation.top_k,
            "seed": evaluation.seed,
        }
    if evaluation.stop:
        spec["stop"] = list(evaluation.stop)
    if tag:
        spec["domain_tag"] = tag
    return spec


def answer_spec(
    questions: Mapping[str, Any], config: Config, party: Party, *, protocol: str
) -> dict[str, Any]:
    """Say what one call depends on: of a student, or of an executor that solves by itself."""
    engine = {} if "teacher" in party.spec else engine_spec(config)
    return {**questions, "protocol": protocol, **party.spec, **engine}


def execution_spec(
    questions: Mapping[str, Any],
    config: Config,
    student: Party | None,
    executor: Party | None,
    plan_corpus: str | None,
) -> dict[str, Any]:
    """Say what m2's two calls depend on.

    Args:
        questions: see :func:`question_spec`.
        config: the job.
        student: who plans; None where its plans are not asked for.
        executor: who executes; None: the student.
        plan_corpus: fingerprint of the corpus that the teacher's plans come from.
    """
    evaluation = config.evaluation
    spec: dict[str, Any] = {
        **questions,
        "protocol": "m2",
        **({} if student is None else student.spec),
        "max_plan_tokens": evaluation.max_plan_tokens,
        "executor": config.executor.name,
        **engine_spec(config),
    }
    if executor is not None:
        spec |= {f"executor_{key}": value for key, value in executor.spec.items()}
        if "teacher" in executor.spec:
            spec["executor_prompt"] = prompt_fingerprint("execute")
    if evaluation.plan_stop:
        spec["plan_stop"] = list(evaluation.plan_stop)
    if evaluation.plan != "own":
        spec["plan"] = evaluation.plan
        if evaluation.plan in ("teacher", "true"):  # nobody plans
            del spec["max_plan_tokens"]
            spec.pop("plan_stop", None)
    if plan_corpus is not None:
        spec["plan_corpus"] = plan_corpus
    return spec


def engine_spec(config: Config) -> dict[str, Any]:
    """Name the engine, where it is not this project's own: its kernels round otherwise."""
    evaluation = config.evaluation
    if evaluation.engine == "server":
        return {"engine": "server", "served_model": evaluation.server.model}
    return {} if evaluation.engine == "native" else {"engine": evaluation.engine}


def teacher_party(config: Config) -> Party:
    """Name the large model that executes, with the words in which it is asked to solve.

    Raises:
        ConfigError: the scripted teacher would have to execute plans of real problems.
    """
    teacher = config.executor_teacher
    real = [name for name in config.benchmarks if not name.startswith(MICRO_PREFIX)]
    if teacher.backend == "scripted" and real:
        raise ConfigError(
            "executor.teacher",
            "scripted",
            f"the scripted teacher can only solve the micro-world, not {', '.join(real)}",
            "executor=teacher teacher=openai_compatible teacher.api_base=http://127.0.0.1:8000/v1",
        )
    return Party({"teacher": {**teacher.spec(), "prompt": prompt_fingerprint("solve")}})
