"""Before the first question: is it the student that a server answers with?

Two things tell. The manifest of a student has a probe, what its training found to be likely behind
sixteen tokens, and a server is asked the same. And ``/v1/models`` names the folder that is served:
that of another artifact is another student. Where neither says anything, nobody knows.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from plan_tuning.config.checks import ConfigError
from plan_tuning.students.export import SERVING
from plan_tuning.students.generation.probe import Probe
from plan_tuning.students.generation.token_server import TokenServer

logger = logging.getLogger(__name__)

YES, NO, UNKNOWN = "yes", "no", "unknown"
_FINGERPRINT = re.compile(r"[0-9a-f]{16}")
_KINDS = ("students", "bases")  # folders of artifacts that can be served


class Identity:
    """Whether a server answers with a student, as far as it can be told.

    Args:
        name: fingerprint of the student, or the path or hub id of an untrained model.
        probe: of its manifest; None where it has none.
        max_gap: nats by which a server may differ; None: it is not compared.
    """

    def __init__(self, name: str, probe: Probe | None, max_gap: float | None) -> None:
        self.name = name
        self.verified = UNKNOWN
        self.gap: float | None = None
        self._probe = probe
        self._max_gap = max_gap
        self._is_told = False

    def facts(self) -> dict[str, Any]:
        """Say what was found, for the manifest of predictions."""
        found: dict[str, Any] = {"student_verified": self.verified}
        return found if self.gap is None else found | {"probe_gap": round(self.gap, 5)}

    def check(self, server: TokenServer) -> None:
        """Compare; for every opening of a server, which may be another one than before.

        Args:
            server: open.

        Raises:
            ConfigError: it answers with other weights.
            EngineError: it does not answer.
        """
        card = server.card()
        named = self._named(card)
        if self._probe is not None and self._max_gap is not None:
            self.gap = self._probe.gap(server.next_tokens(self._probe.prompt))
        is_far = self.gap is not None and self._max_gap is not None and self.gap > self._max_gap
        if named == NO or is_far:
            self.verified = NO
            raise self._refusal(server, card, named, is_far=is_far)
        self.verified = YES if named == YES or self.gap is not None else UNKNOWN
        level = logging.DEBUG if self._is_told else logging.INFO
        self._is_told = True
        logger.log(
            level,
            "does %s answer with the student %s? %s%s",
            server.served_model,
            self.name,
            self.verified,
            "" if self.gap is None else f" (log-probabilities differ by {self.gap:.2g} nats)",
        )

    def _named(self, card: Mapping[str, Any]) -> str:
        """Compare with the folder, or the id, that the server says it has.

        A folder of another name says nothing: a container sees it where it is mounted.
        """
        root = str(card.get("root") or "")
        if root == self.name:  # of a hub id nobody says which commit
            return YES if PurePosixPath(root).is_absolute() else UNKNOWN
        parts = PurePosixPath(root).parts
        parts = parts[:-1] if parts[-1:] == (SERVING,) else parts
        is_artifact = len(parts) > 1 and parts[-2] in _KINDS and _FINGERPRINT.fullmatch(parts[-1])
        if not is_artifact:
            return UNKNOWN
        return YES if parts[-1] == self.name else NO

    def _refusal(
        self, server: TokenServer, card: Mapping[str, Any], named: str, *, is_far: bool
    ) -> ConfigError:
        found = []
        if named == NO:
            found.append(f"it serves {card.get('root')}")
        if is_far:
            found.append(
                f"its log-probabilities differ from the student's by {self.gap:.3g} nats on "
                f"average, more than evaluation.max_probe_gap={self._max_gap:g}"
            )
        return ConfigError(
            "evaluation.server.model",
            server.served_model,
            f"{server.api_base} answers with other weights than the student {self.name}: "
            f"{' and '.join(found)}. Nothing was asked",
            "evaluation.engine=vllm, a server of that student, or for quantised weights a larger "
            "evaluation.max_probe_gap",
        )
