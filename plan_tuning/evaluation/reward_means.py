"""``reward.plan`` -> the encoder and the classifiers that its kind is handed, opened once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from plan_tuning.config.reward import HASHED, PlanRewardConfig
from plan_tuning.rewards.hashed_encoder import HashedEncoder
from plan_tuning.rewards.plan_cases import Means, SentenceEncoder


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


def _encoder(config: PlanRewardConfig) -> SentenceEncoder:
    if config.encoder == HASHED:
        return HashedEncoder()
    if config.is_served:
        from plan_tuning.teachers.embedding_server import EmbeddingServer

        return EmbeddingServer(str(config.encoder), config.encoder_model, config.encoder_key_env)
    from plan_tuning.students.sentence_encoder import load_encoder

    return load_encoder(Path(str(config.encoder)))
