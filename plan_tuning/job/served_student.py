"""The student of a job behind a server that is there already: who it is, and how it is asked."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from plan_tuning.artifacts import is_complete, read_manifest
from plan_tuning.config.evaluation import EvaluationConfig
from plan_tuning.config.model import ModelConfig
from plan_tuning.evaluation.identity import Identity
from plan_tuning.evaluation.writers import EngineWriter
from plan_tuning.job.stages import Stage
from plan_tuning.students.flops import writing
from plan_tuning.students.generation.probe import read_probe
from plan_tuning.students.generation.protocol import Engine, EngineError, EngineLostError
from plan_tuning.students.generation.token_server import TokenServer
from plan_tuning.students.loading import StudentError
from plan_tuning.students.outline import load_outline

logger = logging.getLogger(__name__)


def identity_of(where: str | Path, stage: Stage | None, max_gap: float | None) -> Identity:
    """Say who a server should answer as.

    Args:
        where: the folder, path or hub id of the weights under test.
        stage: of which artifact they are, where they are one.
        max_gap: nats; see :class:`Identity`.
    """
    folder = Path(where)
    facts = read_manifest(folder)["facts"] if is_complete(folder) else {}
    return Identity(str(where) if stage is None else stage.fingerprint, read_probe(facts), max_gap)


def token_writer(
    evaluation: EvaluationConfig, where: str | Path, model: ModelConfig, identity: Identity
) -> EngineWriter | None:
    """Find out who the server answers as, and ask it in tokens where it has them.

    Args:
        evaluation: names the server.
        where: the folder, path or hub id of the weights under test.
        model: how they are loaded.
        identity: of these; compared as far as the server speaks of tokens, whatever is asked later.

    Returns:
        None where it has to be asked in messages.

    Raises:
        ConfigError: it answers with other weights.
        EngineError: it shall be asked in tokens, and has none or does not answer.
    """
    server = evaluation.server
    try:
        outline = load_outline(where, model)
        tokens = TokenServer(
            str(server.api_base),
            server.model,
            outline.vocabulary,
            api_key=None if server.api_key_env is None else os.environ.get(server.api_key_env),
            concurrency=server.concurrency,
            timeout_s=server.timeout_s,
        )
        with tokens:
            identity.check(tokens)
    except EngineLostError:  # is not there now, which says nothing of how it is asked
        raise
    except (EngineError, StudentError) as error:
        if server.protocol == "tokens":
            raise
        logger.info("the server is asked in messages and its weights are not verified: %s", error)
        return None
    if server.protocol == "chat":
        return None

    @contextmanager
    def lend(_: int) -> Iterator[Engine]:
        with tokens:
            identity.check(tokens)
            yield tokens

    measure = partial(writing, outline.causal_lm)
    return EngineWriter(outline.vocabulary, lend, evaluation, measure)
