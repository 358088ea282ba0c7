"""Documents to a base model: the stand-in for pretraining, once, before any student is trained.

Phase 1 reads look-up documents only, until the running loss is below a gate: the skill appears in
a sharp transition whose step varies, so a fixed length would be unsafe. Phase 2 mixes arithmetic,
stories and executions of given plans. Both gates are hard: a base that misses one is not written.

A build that was interrupted goes on from its last checkpoint to the same weights: the documents of
a step depend on the seed and the step alone.
"""

from __future__ import annotations

import logging
import math
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from plan_tuning import interruption
from plan_tuning.config.microworld import MicroBaseConfig
from plan_tuning.config.model import MicroModelConfig
from plan_tuning.job_record import Compute
from plan_tuning.records import to_json
from plan_tuning.students.flops import ModelSize, Passes
from plan_tuning.students.memory import keep_freed_memory
from plan_tuning.students.micro import (
    build_model,
    build_tokenizer,
    save_micro,
    world_vocabulary,
)
from plan_tuning.tasks.microworld_documents import (
    DOMAIN_SHARES,
    LOOKUP_SHARES,
    MIXTURE_SHARES,
    Document,
    document_makers,
    draw_document,
)

logger = logging.getLogger(__name__)

IGNORE_INDEX = -100
Progress = Callable[[str, int, int], None]
"""Called with the phase, the step and the last step of that phase."""

_PHASES = ("lookup", "mixture")
_BUCKET = 16  # batches whose documents are sorted by length together
_WARMUP_RATIO = 0.05
_MIN_LR_RATIO = {"lookup": 0.5, "mixture": 0.05}
_BETAS = (0.9, 0.98)
_WEIGHT_DECAY = 0.01
_MAX_GRAD_NORM = 1.0
_SMOOTHING = 0.95  # of the running loss that the gate looks at
_CHECKPOINT = "training_state.pt"
_CHECKPOINT_EVERY = 250
_PROBE_SEED = 99


class BaseTrainingError(ValueError):
    """The base did not learn what it has to know; nothing trained from it would mean anything."""


def train_base(
    folder: Path,
    config: MicroModelConfig,
    *,
    progress: Progress | None = None,
    max_steps: int | None = None,
) -> dict[str, Any]:
    """Train the micro-world's base and save it as a pretrained model.

    Uses as many threads as torch is set to; one is the fastest for a model of this size.

    Args:
        folder: receives model and tokenizer; may hold the checkpoint of an interrupted build.
        config: architecture, recipe and the world whose vocabulary it speaks.
        progress: told about every step.
        max_steps: cap of each phase for a debug run. The gates are then off and the base is
            of no use; the returned facts say so under ``is_capped``.

    Returns:
        Plain facts for a manifest: steps, losses, probes, tokens, CPU seconds.

    Raises:
        BaseTrainingError: a gate was not reached.
    """
    trainer = _BaseTrainer(folder, config, progress=progress, max_steps=max_steps)
    # Vanishing gradients of a nearly perfect model would be slow to compute with. Put back behind
    # it, so that what is trained next in this process does not depend on who built the base.
    keep_freed_memory()
    torch.set_flush_denormal(True)
    try:
        for phase in _PHASES:
            trainer.run(phase)
    finally:
        torch.set_flush_denormal(False)
    trainer.model.eval()
    probes = probe_base(trainer.model, trainer.tokenizer, config)
    logger.info("probes of the base: %s", probes)
    if max_steps is None:
        _check_probes(probes, config.base)
    save_micro(folder, trainer.model, trainer.tokenizer)
    (folder / _CHECKPOINT).unlink(missing_ok=True)
    return {
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "vocabulary": len(trainer.tokenizer),
        "steps": trainer.steps,
        "losses": {phase: round(loss, 5) for phase, loss in trainer.losses.items()},
        "probes": probes,
        "tokens": trainer.tokens,
        "cpu_s": round(trainer.cpu_s, 1),
        **trainer.computed(),
        "is_capped": max_steps is not None,
    }


class _BaseTrainer:
    """The loop with the state that a checkpoint carries."""

    def __init__(
        self,
        folder: Path,
        config: MicroModelConfig,
        *,
        progress: Progress | None,
        max_steps: int | None,
    ) -> None:
        self.folder = folder
        self.config = config
        self.progress = progress
        self.max_steps = max_steps
        self.tokenizer = build_tokenizer(world_vocabulary(config.world, domains=config.domains))
        self.vocabulary = self.tokenizer.get_vocab()
        self.model = build_model(config.base, self.tokenizer, seed=config.seed)
        self.makers = document_makers(
            guided_max_depth=config.base.guided_max_depth, domains=config.domains
        )
        self.optimizer = self._new_optimizer()
        self.steps = dict.fromkeys(_PHASES, 0)
        self.losses: dict[str, float] = {}
        self.finished: list[str] = []
        self.tokens = 0
        self.passes: Passes | None = Passes()  # None: a checkpoint did not say
        self.cpu_s = 0.0
        self._resume()

    def _new_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            self.model.parameters(), lr=0.0, betas=_BETAS, weight_decay=_WEIGHT_DECAY, fused=True
        )

    def run(self, phase: str) -> None:
        """Train one phase to its end; a phase that the checkpoint has behind it is passed over."""
        if phase in self.finished:
            return
        base = self.config.base
        is_lookup = phase == "lookup"
        last = base.lookup_max_steps if is_lookup else base.mixture_steps
        if self.max_steps is not None:
            last = min(last, self.max_steps)
        peak = base.lookup_learning_rate if is_lookup else base.mixture_learning_rate
        self.model.train()
        start = time.process_time()
        for step, (input_ids, labels) in self._batches(phase, self.steps[phase], last):
            interruption.check()
            rate = peak * _schedule(step, last, floor=_MIN_LR_RATIO[phase])
            loss = self._step(input_ids, labels, rate)
            running = self.losses.get(phase, loss)
            self.losses[phase] = _SMOOTHING * running + (1 - _SMOOTHING) * loss
            self.steps[phase] = step + 1
            if self.progress is not None:
                self.progress(phase, step + 1, last)
            if is_lookup and self.losses[phase] < base.lookup_gate:
                break
            if (step + 1) % _CHECKPOINT_EVERY == 0:
                now = time.process_time()
                self.cpu_s, start = self.cpu_s + now - start, now
                self._save_checkpoint()
        self.cpu_s += time.process_time() - start
        logger.info(
            "base, %s: loss %.4f after %d steps", phase, self.losses[phase], self.steps[phase]
        )
        if is_lookup and self.max_steps is None and self.losses[phase] >= base.lookup_gate:
            raise BaseTrainingError(
                f"the base has not learnt to look up a fact: loss {self.losses[phase]:.3f} after "
                f"{self.steps[phase]} steps, the gate is {base.lookup_gate}. Try "
                f"model.base.lookup_max_steps={2 * base.lookup_max_steps} or model.seed="
                f"{self.config.seed + 1}"
            )
        self.finished.append(phase)
        self.optimizer = self._new_optimizer()
        self._save_checkpoint()

    def _step(self, input_ids: torch.Tensor, labels: torch.Tensor, rate: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Right padding lies behind every real token, so causal attention needs no mask; only the
        # learnt positions are projected to the vocabulary.
        output = self.model.model(input_ids=input_ids[:, :-1], use_cache=False)
        hidden = output.last_hidden_state  # (B, T-1, H)
        targets = labels[:, 1:]  # (B, T-1)
        is_learnt = targets != IGNORE_INDEX
        logits = self.model.lm_head(hidden[is_learnt])  # (learnt, V)
        loss = torch.nn.functional.cross_entropy(logits, targets[is_learnt])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), _MAX_GRAD_NORM)
        self.optimizer.step()
        return float(loss.item())

    def _batches(
        self, phase: str, first: int, last: int
    ) -> Iterator[tuple[int, tuple[torch.Tensor, torch.Tensor]]]:
        """Yield (step, batch); a bucket's documents depend on seed, phase and bucket alone."""
        mixture = DOMAIN_SHARES if self.config.domains else MIXTURE_SHARES
        shares = LOOKUP_SHARES if phase == "lookup" else mixture
        size = self.config.base.batch_size
        for bucket in range(first // _BUCKET, math.ceil(last / _BUCKET)):
            rng = random.Random(f"base/{self.config.seed}/{phase}/{bucket}")
            rows = [
                encode_document(
                    draw_document(rng, self.config.world, shares, self.makers), self.vocabulary
                )
                for _ in range(_BUCKET * size)
            ]
            rows.sort(key=lambda row: len(row[0]))
            batches = [rows[i : i + size] for i in range(0, len(rows), size)]
            rng.shuffle(batches)
            for offset, batch in enumerate(batches):
                step = bucket * _BUCKET + offset
                if first <= step < last:
                    self.tokens += sum(len(ids) for ids, _ in batch)
                    if self.passes is not None:
                        self.passes += Passes.of_rows(_sizes(*document) for document in batch)
                    yield step, collate(batch, pad_token_id=int(self.tokenizer.pad_token_id))

    def computed(self) -> dict[str, Any]:
        """Say what the training computed, in seconds of the CPU; nothing where that is unknown."""
        if self.passes is None:
            return {}
        flops = ModelSize.of(self.model).training(self.passes)
        found = Compute(self.passes.tokens, flops=flops, seconds=round(self.cpu_s, 3))
        return {"compute": to_json(found)}

    def _spec(self) -> dict[str, Any]:
        """Reduce the config to what determines the base: a checkpoint must agree with it."""
        world = self.config.world
        return {
            "base": asdict(self.config.base),
            "seed": self.config.seed,
            "vocabulary": [world.num_names, world.max_value, world.max_operand],
            **({"domains": True} if self.config.domains else {}),
            "max_steps": self.max_steps,
        }

    def _save_checkpoint(self) -> None:
        state = {
            "spec": self._spec(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps,
            "losses": self.losses,
            "finished": self.finished,
            "tokens": self.tokens,
            "passes": None if self.passes is None else list(astuple(self.passes)),
            "cpu_s": self.cpu_s,
        }
        partial = self.folder / f"{_CHECKPOINT}.partial"
        torch.save(state, partial)
        os.replace(partial, self.folder / _CHECKPOINT)

    def _resume(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / _CHECKPOINT
        if not path.is_file():
            return
        state = torch.load(path, weights_only=True)
        if state["spec"] != self._spec():
            logger.warning("%s belongs to another base: starting afresh", path)
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps = state["steps"]
        self.losses = state["losses"]
        self.finished = state["finished"]
        self.tokens = state["tokens"]
        passes = state.get("passes")
        self.passes = passes and Passes(*passes)
        self.cpu_s = state["cpu_s"]
        logger.info("the base goes on from its checkpoint: steps %s", self.steps)


def _schedule(step: int, last: int, *, floor: float) -> float:
    """Warm up linearly, then follow a cosine down to ``floor``: the share of the peak rate."""
    warmup = min(1.0, (step + 1) / max(1.0, _WARMUP_RATIO * last))
    cosine = 0.5 * (1 + math.cos(math.pi * (step + 1) / last))
    return warmup * (floor + (1 - floor) * cosine)


def encode_document(
    document: Document, vocabulary: Mapping[str, int]
) -> tuple[list[int], list[int]]:
    """Turn a document into token ids and labels; what is not learnt has label IGNORE_INDEX."""
    input_ids: list[int] = []
    labels: list[int] = []
    for text, is_learnt in document:
        ids = [vocabulary[word] for word in text.split()]
        input_ids += ids
        labels += ids if is_learnt else [IGNORE_INDEX] * len(ids)
    return input_ids, labels


def _sizes(ids: Sequence[int], labels: Sequence[int]) -> tuple[int, int]:
    """Count the tokens of a document that are read, and those of them that are projected."""
    return len(ids) - 1, sum(label != IGNORE_INDEX for label in labels[1:])


def collate(
    rows: list[tuple[list[int], list[int]]], *, pad_token_id: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad rows on the right: input ids and labels, both ``(B, T)``."""
    width = max(len(ids) for ids, _ in rows)
    input_ids = torch.full((len(rows), width), pad_token_id)
    labels = torch.full((len(rows), width), IGNORE_INDEX)
    for index, (ids, learnt) in enumerate(rows):
        input_ids[index, : len(ids)] = torch.tensor(ids)
        labels[index, : len(ids)] = torch.tensor(learnt)
    return input_ids, labels


@torch.no_grad()
def probe_base(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, config: MicroModelConfig
) -> dict[str, float]:
    """Measure what the base knows: share of learnt tokens predicted right, by kind of document."""
    makers = document_makers(guided_max_depth=config.base.guided_max_depth, domains=config.domains)
    vocabulary = tokenizer.get_vocab()
    probes = {}
    for kind, make in makers.items():
        rng = random.Random(f"base/probe/{_PROBE_SEED}/{kind}")
        rows = [
            encode_document(make(rng, config.world), vocabulary)
            for _ in range(config.base.probe_size)
        ]
        input_ids, labels = collate(rows, pad_token_id=int(tokenizer.pad_token_id))
        targets = labels[:, 1:]
        is_learnt = targets != IGNORE_INDEX
        predicted = model(input_ids=input_ids[:, :-1]).logits.argmax(-1)
        probes[kind] = round(float((predicted == targets)[is_learnt].float().mean()), 4)
    return probes


def _check_probes(probes: dict[str, float], base: MicroBaseConfig) -> None:
    failed = {kind: rate for kind, rate in probes.items() if rate < base.probe_gate}
    if failed:
        raise BaseTrainingError(
            f"the base does not know enough: {failed}, each has to reach {base.probe_gate}. Try "
            f"model.base.mixture_steps={2 * base.mixture_steps}"
        )
