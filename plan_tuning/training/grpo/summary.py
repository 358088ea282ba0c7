"""What a GRPO training will do, said before it begins, with warnings of what rarely works."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from plan_tuning.config.grpo import GRPOConfig
from plan_tuning.config.training import PromptConfig, TrainerConfig
from plan_tuning.students.loading import Student
from plan_tuning.training.grpo.data import PlannedProblem
from plan_tuning.training.grpo.policy import shares_prompts
from plan_tuning.training.grpo.rollout import problem_prompt

logger = logging.getLogger(__name__)

_LOOKED_AT = 32  # problems whose prompts are measured
_SEQUENCE_EPSILON = 0.01  # a wider clipping range of a whole completion's ratio clips nothing


def forward_passes(
    method: GRPOConfig, *, prompt_tokens: float, budget: int, is_shared: bool
) -> tuple[int, int]:
    """Estimate the passes of a step whose completions are all as long as they may be.

    Args:
        method: sizes of a step.
        prompt_tokens: mean length of a prompt.
        budget: padded tokens of a pass.
        is_shared: a prompt is read once for its group.

    Returns:
        Passes with gradients, and passes for log-probabilities only (old and reference policy).

    >>> method = GRPOConfig(prompts_per_step=4, group_size=8, max_new_tokens=100, beta=0.1)
    >>> forward_passes(method, prompt_tokens=80, budget=1000, is_shared=True)
    (4, 4)
    """
    rows = method.prompts_per_step * method.group_size
    per_row = method.max_new_tokens + prompt_tokens / (method.group_size if is_shared else 1)
    rows_per_update = math.ceil(rows / method.mini_batches)
    rows_per_pass = max(1, int(budget // per_row))
    updates = method.mini_batches * method.buffer_epochs
    kinds = int(not method.is_on_policy) + int(method.has_reference)
    return updates * math.ceil(rows_per_update / rows_per_pass), kinds * math.ceil(
        rows / rows_per_pass
    )


def log_summary(
    method: GRPOConfig,
    trainer: TrainerConfig,
    prompt: PromptConfig,
    student: Student,
    problems: Sequence[PlannedProblem],
) -> None:
    """Log what a step is made of, and warn of settings that rarely mean what they say."""
    total = method.total_steps(len(problems))
    lengths = [
        len(problem_prompt(student.tokenizer, planned.problem, method, prompt))
        for planned in problems[:_LOOKED_AT]
    ]
    mean = sum(lengths) / len(lengths)
    trained, forward_only = forward_passes(
        method,
        prompt_tokens=mean,
        budget=trainer.micro_batch_tokens,
        is_shared=shares_prompts(method, trainer),
    )
    logger.info(
        "GRPO: %d steps of %d prompts (about %d tokens) x %d = %d completions (up to %d tokens), "
        "%d optimizer steps each, at most about %d forward and backward passes, and %d "
        "for log-probabilities only, of up to %d tokens; %d problems with a teacher_plan, "
        "seen %.2f times",
        total,
        method.prompts_per_step,
        round(mean),
        method.group_size,
        method.prompts_per_step * method.group_size,
        method.max_new_tokens,
        method.mini_batches * method.buffer_epochs,
        trained,
        forward_only,
        trainer.micro_batch_tokens,
        len(problems),
        total * method.prompts_per_step / len(problems),
    )
    logger.info(
        "train/loss says little in GRPO (on-policy it is about 0 whatever is learned): watch "
        "train/reward/*, train/kl, train/entropy and train/dead_rate"
    )
    _warn(method)


def _warn(method: GRPOConfig) -> None:
    if method.group_size < 4:
        logger.warning(
            "method.group_size=%d: a group in which all answers are right or all are wrong teaches "
            "nothing, and most small groups are like that; 8 is usual",
            method.group_size,
        )
    if method.loss == "gspo" and method.epsilon_low > _SEQUENCE_EPSILON:
        logger.warning(
            "method.loss=gspo clips one ratio a completion, which hardly leaves 1: "
            "method.epsilon_low=%g never clips. Usual: method.epsilon_low=3e-4 "
            "method.epsilon_high=4e-4",
            method.epsilon_low,
        )
    if method.importance_cap == 1.0:
        logger.warning(
            "method.importance_cap=1 only ever lowers a token's weight, never raises it; about 2 "
            "is usual"
        )
