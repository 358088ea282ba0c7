"""Texts to vectors by an OpenAI-compatible server of embeddings, such as vLLM's pooling models.

Vectors are remembered while the process lives and are not stored: they are asked for by the
thousand, cost a forward pass of a small encoder, and are the same every time.
"""

from __future__ import annotations

import json
import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

import numpy as np

from plan_tuning.config.teacher import is_loopback
from plan_tuning.teachers.errors import FatalTeacherError, TeacherError, read_key
from plan_tuning.teachers.failures import scrub

logger = logging.getLogger(__name__)

_AT_ONCE = 256  # texts of a request
_REMEMBERED = 16_384  # texts
_TRIES = 5
_TIMEOUT_S = 120.0
_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)  # statuses after which a later try may succeed


class EmbeddingServer:
    """A sentence encoder behind a server.

    Args:
        address: up to and including ``/v1``.
        model: the name by which the server serves the encoder.
        key_env: NAME of the environment variable with the key; None: the server takes none.
        wait_s: seconds before the second try; each further one waits twice as long.

    Raises:
        FatalTeacherError: the variable is not set.
    """

    def __init__(
        self, address: str, model: str, key_env: str | None = None, *, wait_s: float = 1.0
    ) -> None:
        self._address = f"{address.rstrip('/')}/embeddings"
        self._model = model
        self._key = read_key(key_env, is_required=False)
        if key_env is not None and self._key is None:
            raise FatalTeacherError(
                f"reward.plan.encoder_key_env={key_env}: the environment variable is not set. Try: "
                f"export {key_env}=YOUR_KEY, then the same command again"
            )
        self._wait_s = wait_s
        self._opener = build_opener(*([ProxyHandler({})] if is_loopback(address) else []))
        self._known: OrderedDict[str, np.ndarray[Any, Any]] = OrderedDict()

    def __call__(self, texts: Sequence[str]) -> np.ndarray[Any, Any]:
        """Encode N texts, (N, D).

        Raises:
            TeacherError: the server does not answer, or with something else.
        """
        missing = [text for text in dict.fromkeys(texts) if text not in self._known]
        for first in range(0, len(missing), _AT_ONCE):
            part = missing[first : first + _AT_ONCE]
            self._known.update(zip(part, self._encode(part), strict=True))
        found = np.stack([self._known[text] for text in texts])
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return found

    def _encode(self, texts: Sequence[str]) -> list[np.ndarray[Any, Any]]:
        payload = json.dumps({"model": self._model, "input": list(texts)}).encode()
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        body = self._posted(Request(self._address, payload, headers))
        try:
            rows = sorted(json.loads(body)["data"], key=lambda row: int(row["index"]))
            vectors = [np.asarray(row["embedding"], np.float32) for row in rows]
        except (ValueError, KeyError, TypeError) as error:
            raise TeacherError(
                f"{self._address} answers with no embeddings ({type(error).__name__}: {error}): "
                "reward.plan.encoder names a server of embeddings, for example "
                "http://127.0.0.1:8000/v1"
            ) from error
        if len(vectors) != len(texts):
            raise TeacherError(
                f"{self._address} returned {len(vectors)} embeddings of {len(texts)} texts"
            )
        return vectors

    def _posted(self, request: Request) -> bytes:
        """Send a request, again where that may help; scrubbed of the key in what is said."""
        said = ""
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(self._wait_s * 2 ** (attempt - 1))
            try:
                with self._opener.open(request, timeout=_TIMEOUT_S) as response:
                    body: bytes = response.read()
                    return body
            except HTTPError as error:
                said = scrub(f"HTTP {error.code}: {error.reason}", (self._key or "",))
                error.close()
                if error.code not in _AGAIN:
                    raise FatalTeacherError(
                        f"{self._address} refuses texts for model {self._model} ({said}): check "
                        "reward.plan.encoder, encoder_model and encoder_key_env"
                    ) from None
            except (URLError, OSError, HTTPException) as error:
                said = scrub(str(error) or type(error).__name__, (self._key or "",))
            logger.warning("embeddings: %s; try %d of %d", said, attempt + 1, _TRIES)
        raise TeacherError(
            f"{self._address} gave no embeddings in {_TRIES} tries ({said}): the same command goes "
            "on once the server answers"
        )
