"""``reward.plan`` -> what its kind is handed: encoder and classifiers, opened once; a grader."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from plan_tuning.config.reward import HASHED, PlanRewardConfig
from plan_tuning.grading.grader import Grader
from plan_tuning.records import Completion, Problem
from plan_tuning.rewards.hashed_encoder import HashedEncoder
from plan_tuning.rewards.plan_cases import Means, SentenceEncoder
from plan_tuning.rewards.rules import correct_reward
from plan_tuning.text.thoughts import split_thoughts


def opened_means(config: PlanRewardConfig, means: Means | None = None) -> Means:
    """Open what a kind of plan reward compares texts with; nothing where it compares none.

    Args:
        config: of the reward.
        means: what is there already.

    Raises:
        StudentError: a folder holds no such model.
        TeacherError: the server's key is missing.
    """
    means = means or Means()
    if not config.weight or "encoder" not in config.needs:
        return means
    found = replace(means, embed=_encoder(config))
    if config.kind != "roscoe":
        return found
    from plan_tuning.students.text_classifier import load_classifier

    if config.nli is not None:
        found = replace(found, contradicts=load_classifier(Path(config.nli), "contradiction"))
    if config.grammar is not None:
        found = replace(found, grammatical=load_classifier(Path(config.grammar), "acceptable"))
    return found


async def is_right(grader: Grader, execution: Completion, problem: Problem) -> bool | None:
    """Grade what a frozen executor writes behind a plan, as a student's completion is graded.

    Thoughts are taken off, and only a boxed answer counts: a reward pays for nothing less.

    Returns:
        None where the grader failed or the gold answer cannot be graded against.
    """
    said = split_thoughts(execution.text)
    grade = await grader.grade_async(
        said.text,
        problem,
        finish_reason="length" if said.is_open else execution.finish_reason,
        require_box=True,
    )
    earned = correct_reward(grade.verdict)
    return None if earned is None else bool(earned)


def _encoder(config: PlanRewardConfig) -> SentenceEncoder:
    if config.encoder == HASHED:
        return HashedEncoder()
    if config.is_served:
        from plan_tuning.teachers.embedding_server import EmbeddingServer

        return EmbeddingServer(str(config.encoder), config.encoder_model, config.encoder_key_env)
    from plan_tuning.students.sentence_encoder import load_encoder

    return load_encoder(Path(str(config.encoder)))
