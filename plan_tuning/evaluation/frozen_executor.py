"""A student that nobody trains -> what plan rewards are handed: ``generate`` and ``log_probs``.

It carries plans out where its method puts them: behind the tags of one call, or in the request of
an untrained model. It runs in whatever thread calls it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from plan_tuning.config.extensions import record
from plan_tuning.config.reward import PlanRewardConfig
from plan_tuning.evaluation.plan_value import passes, target_tokens
from plan_tuning.records import Completion
from plan_tuning.students.flops import Passes
from plan_tuning.students.generation.in_process import InProcessEngine
from plan_tuning.students.generation.protocol import Sampling
from plan_tuning.students.loading import Student
from plan_tuning.students.log_probs import check_projection, last_token_log_probs
from plan_tuning.students.templates import prompt_ids
from plan_tuning.text.formats import Conditioned

_PROBE_TOKENS = 8
_READ_AT_ONCE = 16_384  # tokens of a forward pass


class FrozenExecutor:
    """A frozen model, and what has gone through it.

    Args:
        student: loaded for inference.
        asked_as: method in whose words it is asked; ``zero_shot`` for one that nobody trained.
        config: engine and sampling of executions.
        seed: of what it draws.
        batch_tokens: tokens of a pass, and those that the cache of its engine has memory for.
    """

    def __init__(
        self,
        student: Student,
        *,
        asked_as: str,
        config: PlanRewardConfig,
        seed: int,
        batch_tokens: int,
    ) -> None:
        self.student = student
        self.asked_as = asked_as
        self.passes = Passes()
        self._config = config
        self._engine = InProcessEngine(
            student, record("engine", config.engine), batch_tokens=batch_tokens
        )
        self._seed = seed
        self._batch_tokens = batch_tokens
        ids = torch.arange(_PROBE_TOKENS, device=student.device)[None]
        check_projection(student.causal_lm, ids)

    def generate(
        self, texts: Sequence[Conditioned], keys: Sequence[tuple[str, int]]
    ) -> list[Completion]:
        """Write on behind each text's ``before``."""
        self._enter_thread()
        config, tokenizer = self._config, self.student.tokenizer
        rendered: dict[tuple[str, ...], list[int]] = {}
        prompts = []
        for text in texts:  # the samples of a plan ask the same
            name = (*(message["content"] for message in text.messages), text.before)
            if name not in rendered:
                begun = tokenizer(text.before, add_special_tokens=False)["input_ids"]
                rendered[name] = [*prompt_ids(tokenizer, text.messages), *begun]
            prompts.append(rendered[name])
        completions = self._engine.generate(
            prompts,
            keys=keys,
            sampling=Sampling(
                config.max_execution_tokens,
                temperature=config.execution_temperature,
                seed=self._seed,
            ),
        )
        sizes = [(len(p), len(c.token_ids)) for p, c in zip(prompts, completions, strict=True)]
        self.passes += Passes.of_completions((len(p) for p in rendered.values()), sizes)
        return completions

    def log_probs(self, texts: Sequence[Conditioned]) -> list[list[float]]:
        """Compute the log-probabilities of each text's target, passes of similar lengths."""
        self._enter_thread()
        found: dict[str, list[float]] = {}
        tokenizer = self.student.tokenizer
        tokens = {str(i): target_tokens(tokenizer, text) for i, text in enumerate(texts)}
        lengths = {name: len(ids) for name, (ids, _) in tokens.items()}
        for group in passes(lengths, min(self._batch_tokens, _READ_AT_ONCE)):
            computed = last_token_log_probs(
                self.student.causal_lm, [tokens[name] for name in group]
            )
            found.update(zip(group, computed, strict=True))
        self.passes += Passes.of_rows(
            (len(ids), len(ids) - first) for ids, first in tokens.values()
        )
        return [found[str(i)] for i in range(len(texts))]

    def _enter_thread(self) -> None:
        """Set what belongs to a thread: rewards are computed beside the training's own."""
        torch.set_flush_denormal(True)
        if self.student.device.type == "cuda":
            torch.cuda.set_device(self.student.device)

    def taken(self) -> Passes:
        """Hand over what has gone through it since the last time."""
        found, self.passes = self.passes, Passes()
        return found
