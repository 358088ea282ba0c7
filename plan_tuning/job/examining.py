"""How a student is examined while it is trained: on held-out training problems, as at test time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from plan_tuning.config.mixture import MixtureDataConfig
from plan_tuning.config.run import Config
from plan_tuning.job.inputs import load_problems
from plan_tuning.job.models import Roles

if TYPE_CHECKING:
    from plan_tuning.training.validation import HeldOutEvaluation


def examination(config: Config, roles: Roles, corpus: Path | None) -> HeldOutEvaluation | None:
    """Say how a student solves held-out training problems while it is trained.

    Args:
        config: of the training.
        roles: the grader, and who carries out m2's plans.
        corpus: whose problems are trained on; None: those of ``data``.

    Returns:
        None where no held-out problem is to be solved.
    """
    if not config.trainer.val_problems or not config.trainer.val_fraction:
        return None
    from plan_tuning.distillation.corpus import PROBLEMS, read_problems
    from plan_tuning.tasks.mixture import tagged
    from plan_tuning.training.validation import HeldOutEvaluation

    if corpus is not None and not (corpus / PROBLEMS).is_file():
        return None  # trajectories from elsewhere: nobody says how their problems are graded
    problems = load_problems(config) if corpus is None else read_problems(corpus)
    if isinstance(config.data, MixtureDataConfig):
        tags = {name: config.data.tag_of(name) for name in {p.source for p in problems}}
        problems = [replace(p, problem=tagged(p.problem, tags[p.source])) for p in problems]
    # With executor=self the student carries its plans out as it is at that moment.
    is_executed = config.method.name == "m2" and config.executor.name != "self"
    return HeldOutEvaluation(
        problems,
        config.method.name,
        config.prompt,
        config.evaluation,
        roles.grader,
        roles.executor if is_executed else None,
    )
