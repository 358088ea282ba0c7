"""Prompts to completions by a server that reads and writes token ids, as vLLM does.

One request of ``/v1/completions`` a row, with a seed of its own, so that what is drawn for a row
hangs on no other row. A prompt goes out as token ids and its completion comes back as token ids
(``return_token_ids``): no text is tokenised twice. Log-probabilities are those of the server, and
adapters are loaded and unloaded while it runs.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from plan_tuning.records import Completion
from plan_tuning.students.generation.protocol import (
    EngineError,
    EngineLostError,
    Key,
    Progress,
    Sampling,
    StaleWeightsError,
    Vocabulary,
    check_call,
)
from plan_tuning.students.generation.server_calls import Call, RefusedError, ServerCalls, quoted

_ALL_TOKENS = -1  # the servers' word for top_k: off
_TOLD = 20  # candidates for the next token that a server of default settings tells
_COMPLETIONS = "/completions"
_AWAY = (502, 503, 504)  # what stands before a server that is away answers


class TokenProtocolError(EngineError):
    """A server that does not take prompts as token ids and give completions as such."""


class TokenServer:
    """A server behind one address; see :class:`plan_tuning.students.generation.protocol.Engine`.

    Args:
        api_base: up to and including ``/v1``.
        served_model: the name that it serves the weights by; empty: its only one.
        vocabulary: of these weights; texts are read from tokens here.
        api_key: sent as a bearer token.
        concurrency: requests under way.
        timeout_s: of one answer.
    """

    def __init__(
        self,
        api_base: str,
        served_model: str,
        vocabulary: Vocabulary,
        *,
        api_key: str | None = None,
        concurrency: int = 64,
        timeout_s: float = 600.0,
    ) -> None:
        self.served_model = served_model
        self.api_key = api_key
        self._vocabulary = vocabulary
        self._calls = ServerCalls(
            api_base, api_key=api_key, concurrency=concurrency, timeout_s=timeout_s
        )
        self.api_base = self._calls.api_base
        self._version = ""
        self._is_owner = True  # of the adapter of that version
        self._card: dict[str, Any] = {}

    @property
    def weight_version(self) -> str:
        """Which weights it answers with: "" those that it serves, else the adapter's name."""
        return self._version

    def facts(self) -> Mapping[str, Any]:
        """Say what its answers hang on beside the Spec: how the server names its weights."""
        known = {key: self._card.get(key) for key in ("id", "root", "parent") if self._card}
        return {"protocol": "tokens", **({"served": known} if known else {})}

    def __enter__(self) -> Self:
        """Find the model, and find out whether token ids come back.

        Raises:
            TokenProtocolError: they do not.
            EngineError: nobody answers, or no such model is served.
        """
        self._version = ""
        cards = self.cards()
        bases = [card for card in cards if not card.get("parent")]
        if not self.served_model and len(bases) == 1:
            self.served_model = str(bases[0]["id"])
        self._card = self._find(cards)
        try:
            self.next_tokens([self._vocabulary.end_ids[0]], count=1)
        except EngineLostError:
            raise
        except EngineError as error:
            raise TokenProtocolError(
                f"{self.api_base} does not take and give token ids ({error}); a chat server "
                "answers with evaluation.server.protocol=chat"
            ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        raised: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the server as it was found: without an adapter of ours."""
        if self._version and self._is_owner and raised is None:
            with suppress(EngineError):  # it may have ended by itself
                self._unload(self._version)
        self._version = ""

    def card(self) -> Mapping[str, Any]:
        """Ask what the server says of the weights that answer: root is their folder.

        Raises:
            EngineLostError: nobody answers.
            EngineError: it has none of that name.
        """
        return self._find(self.cards())

    def _find(self, cards: Sequence[dict[str, Any]]) -> dict[str, Any]:
        name = self._version or self.served_model
        found = [card for card in cards if card.get("id") == name]
        if not found:
            names = ", ".join(str(card.get("id")) for card in cards) or "none"
            raise EngineError(
                f"{self.api_base} serves no model {name or '(which one?)'}: it has {names}. Give "
                "one of these names"
            )
        return found[0]

    def cards(self) -> list[dict[str, Any]]:
        """List what ``/v1/models`` serves, adapters among them.

        Raises:
            EngineLostError: nobody answers.
            EngineError: the answer is no list of models.
        """
        with self._losses(_AWAY):
            found = self._calls.once("GET", "/models")
        cards = found.get("data") if isinstance(found, dict) else None
        if not isinstance(cards, list) or not all(isinstance(card, dict) for card in cards):
            raise EngineError(f"{self.api_base}/models answered no list of models")
        return cards

    def next_tokens(self, prompt: Sequence[int], *, count: int = _TOLD) -> dict[int, float]:
        """Ask which tokens are likeliest behind a prompt, at temperature 1.

        Args:
            prompt: token ids.
            count: how many; servers tell 20 unless they were started otherwise.

        Returns:
            Log-probability by token id.

        Raises:
            EngineLostError: it ended meanwhile.
            EngineError: it refused, or says something else.
        """
        asked = self._request(prompt, Sampling(1, temperature=1.0, return_log_probs=True), seed=0)
        asked |= {"logprobs": count, "return_tokens_as_token_ids": True}
        with self._losses():
            choice = self._choice(self._calls.once("POST", _COMPLETIONS, asked), prompt)
        try:
            told = choice["logprobs"]["top_logprobs"][0]
            found = {int(name.removeprefix("token_id:")): float(p) for name, p in told.items()}
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise EngineError(f"no log-probabilities by token id: {quoted(choice)}") from error
        if not found:
            raise EngineError(f"no log-probabilities by token id: {quoted(choice)}")
        return found

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        keys: Sequence[Key],
        sampling: Sampling,
        progress: Progress | None = None,
    ) -> list[Completion]:
        """Continue every prompt.

        Args:
            prompts: token ids.
            keys: of each prompt: the address of its noise.
            sampling: the same for all.
            progress: told whenever a row ends.

        Returns:
            Completions in the order of ``prompts``.

        Raises:
            EngineLostError: the server ended meanwhile; nothing of the call is returned.
            StaleWeightsError: it answered in another model's name.
            EngineError: it refused, or an answer is not one.
        """
        check_call(prompts, keys)
        gate = asyncio.Semaphore(self._calls.concurrency)
        done: list[int] = []

        async def one(call: Call, prompt: Sequence[int], key: Key) -> Completion:
            asked = self._request(prompt, sampling, seed=row_seed(sampling.seed, key))
            async with gate:
                answer = await call("POST", _COMPLETIONS, asked)
            completion = self._completion(answer, prompt, sampling)
            done.append(len(completion.token_ids))
            if progress is not None:
                progress(len(done), sum(done))
            return completion

        async def all_of(call: Call) -> list[Completion]:
            rows = [
                asyncio.ensure_future(one(call, prompt, key))
                for prompt, key in zip(prompts, keys, strict=True)
            ]
            try:
                return await asyncio.gather(*rows)
            finally:  # of one that failed the others are worth nothing
                for row in rows:
                    row.cancel()
                await asyncio.gather(*rows, return_exceptions=True)

        with self._losses():
            return self._calls.together(all_of)

    @contextmanager
    def _losses(self, dead: Container[int] = range(500, 600)) -> Iterator[None]:
        """Tell a server that was started anew, or whose engine is dead, from one that refuses.

        Args:
            dead: statuses of one whose engine is dead; what is asked of adapters is refused with
                500, too.
        """
        try:
            yield
        except RefusedError as refused:
            is_forgotten = refused.status == 404 and self._version
            if is_forgotten or refused.status in dead:
                raise EngineLostError(str(refused)) from refused
            raise

    def load_adapter(self, folder: Path, version: str) -> None:
        """Answer with an adapter from now on; the one before it is unloaded.

        Args:
            folder: where the server reads it.
            version: the name that it gets there.

        Raises:
            EngineLostError: it ended meanwhile.
            EngineError: it takes none, or not this one; the message has its words.
        """
        # Not repeated: what was done before an answer got lost would be refused the second time.
        named = {"lora_name": version, "lora_path": str(folder)}
        with self._losses(_AWAY):
            self._calls.once("POST", "/load_lora_adapter", named, tries=1)
        before = self._version if self._is_owner else ""
        self._version, self._is_owner = version, True
        if before:
            self._unload(before)

    def adopt(self, version: str) -> None:
        """Answer with an adapter from now on that another process loads and unloads.

        Args:
            version: its name there.
        """
        self._version, self._is_owner = version, False

    def unload_adapters(self, prefix: str) -> list[str]:
        """Unload the adapters whose names begin so: those that an earlier attempt left.

        Returns:
            Their names.

        Raises:
            EngineError: it refused.
        """
        cards = self.cards()
        left = [str(c["id"]) for c in cards if c.get("parent") and c["id"].startswith(prefix)]
        for name in left:
            self._unload(name)
        return left

    def _unload(self, name: str) -> None:
        with self._losses(_AWAY):
            self._calls.once("POST", "/unload_lora_adapter", {"lora_name": name}, tries=1)

    def _request(self, prompt: Sequence[int], sampling: Sampling, *, seed: int) -> dict[str, Any]:
        """Say everything that a server would fill in from the student's generation config."""
        asked: dict[str, Any] = {
            "model": self._version or self.served_model,
            "prompt": list(prompt),
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or _ALL_TOKENS,
            "repetition_penalty": 1.0,
            "seed": seed,
            "stop_token_ids": list(self._vocabulary.end_ids),
            "return_token_ids": True,
        }
        if sampling.stop_strings:
            asked |= {"stop": list(sampling.stop_strings), "include_stop_str_in_output": True}
        if sampling.return_log_probs:
            asked["logprobs"] = 0  # of the sampled token alone
        return asked

    def _choice(self, answer: Any, prompt: Sequence[int]) -> dict[str, Any]:
        """Take the one completion out of an answer to this prompt.

        Raises:
            StaleWeightsError: it is of another model.
            EngineError: there is none, or another prompt was read.
        """
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
            raise EngineError(f"{self.api_base} answered no completion: {quoted(answer)}")
        if self._version and answer.get("model") != self._version:
            raise StaleWeightsError(
                f"{self.api_base} answered with {answer.get('model')}, not {self._version}"
            )
        choice: dict[str, Any] = choices[0]
        if not isinstance(choice.get("token_ids"), list):
            raise EngineError(f"no token ids in the answer: {quoted(choice)}")
        if choice.get("prompt_token_ids") != list(prompt):
            raise EngineError(f"{self.api_base} read another prompt than the one that was sent")
        return choice

    def _completion(self, answer: Any, prompt: Sequence[int], sampling: Sampling) -> Completion:
        choice = self._choice(answer, prompt)
        tokens = tuple(int(token) for token in choice["token_ids"])
        reason = {"length": "length", "stop": "stop"}.get(str(choice.get("finish_reason")))
        if reason is None or not tokens or len(tokens) > sampling.max_new_tokens:
            raise EngineError(f"{self.api_base} gave a completion up: {quoted(choice)}")
        if reason == "stop" and isinstance(choice.get("stop_reason"), str):
            reason = "stop_string"
        log_probs: tuple[float, ...] = ()
        if sampling.return_log_probs:
            told = (choice.get("logprobs") or {}).get("token_logprobs") or ()
            log_probs = tuple(float(value) for value in told if value is not None)
            if len(log_probs) != len(tokens):
                raise EngineError(f"{len(tokens)} tokens came with {len(log_probs)} log-probs")
        return Completion(
            text=self._vocabulary.tokenizer.decode(tokens, skip_special_tokens=True),
            token_ids=tokens,
            finish_reason=reason,
            prompt_tokens=len(prompt),
            log_probs=log_probs,
            weight_version=self._version,
        )


def row_seed(seed: int, key: Key) -> int:
    """Make the seed of one row, below 2**63: a function of (seed, problem, sample) alone."""
    text = f"{seed}\x1f{key[0]}\x1f{key[1]}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
