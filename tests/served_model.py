"""The weights and the flags of a served model: what :mod:`tests.protocol_double` answers with."""

from __future__ import annotations

import argparse
import contextlib
import json
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_MAX_LOGPROBS = 20


class RefusedError(Exception):
    """What a request is answered with instead."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Served:
    """A model of transformers and the adapters that were loaded upon it."""

    def __init__(self, options: argparse.Namespace) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(1)
        self.torch = torch
        self.options = options
        self.tokenizer = AutoTokenizer.from_pretrained(options.model)
        self.model: Any = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
        self.model.eval()
        self.name = (options.served_model_name or [options.model])[0]
        self.adapters: dict[str, str] = {}  # folder of each name
        self.lock = threading.Lock()
        ends = self.model.generation_config.eos_token_id
        self.ends = {ends} if isinstance(ends, int) else set(ends or ())
        for given in options.lora_modules or ():
            name, _, folder = given.partition("=")
            self.load(name, folder)

    def wander(self) -> None:
        """Become another model of the same shape."""
        generator = self.torch.Generator().manual_seed(7)
        with self.lock, self.torch.no_grad():
            for weight in self.model.parameters():
                noise = self.torch.randn(weight.shape, generator=generator)
                weight.add_(noise * float(weight.std() if weight.numel() > 1 else 0.0))

    def load(self, name: str, folder: str, *, is_stale: bool = False) -> None:
        if not self.options.enable_lora:
            raise RefusedError(500, "LoRA is not enabled. Use --enable-lora")
        if name == self.name:
            raise RefusedError(400, f"The lora adapter '{name}' conflicts with a base model.")
        if name in self.adapters:
            raise RefusedError(400, f"The lora adapter '{name}' has already been loaded.")
        settings = Path(folder) / "adapter_config.json"
        if not settings.is_file():
            raise RefusedError(404, f"Loading lora {name} failed: No adapter found for {folder}")
        rank = json.loads(settings.read_text(encoding="utf-8"))["r"]
        if rank > self.options.max_lora_rank:
            raise RefusedError(
                500,
                f"LoRA rank {rank} is greater than max_lora_rank {self.options.max_lora_rank}.",
            )
        from peft import PeftModel

        with self.lock, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
            source = folder
            if is_stale and self.adapters:
                source = list(self.adapters.values())[-1]
            if isinstance(self.model, PeftModel):
                self.model.load_adapter(source, adapter_name=_module(name))
            else:
                self.model = PeftModel.from_pretrained(
                    self.model, source, adapter_name=_module(name)
                )
            self.model.eval()
            self.adapters[name] = source

    def unload(self, name: str) -> None:
        if name not in self.adapters:
            raise RefusedError(404, f"The lora adapter '{name}' cannot be found.")
        with self.lock:
            del self.adapters[name]
            if self.adapters:
                self.model.set_adapter(_module(next(iter(self.adapters))))
                self.model.delete_adapter(_module(name))
            else:
                self.model = self.model.unload()

    def cards(self) -> list[dict[str, Any]]:
        base = {
            "id": self.name,
            "object": "model",
            "owned_by": "vllm",
            "root": self.options.model,
            "parent": None,
            "max_model_len": self.limit,
        }
        return [base] + [
            {"id": name, "object": "model", "owned_by": "vllm", "root": folder, "parent": self.name}
            for name, folder in self.adapters.items()
        ]

    @property
    def limit(self) -> int:
        longest = int(self.model.config.max_position_embeddings)
        return min(longest, self.options.max_model_len or longest)

    def complete(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = asked.get("model")
        if name != self.name and name not in self.adapters:
            raise RefusedError(404, f"The model `{name}` does not exist.")
        prompts = asked["prompt"]
        if isinstance(prompts, str):
            prompts = [self.tokenizer(prompts)["input_ids"]]
        elif prompts and isinstance(prompts[0], int):
            prompts = [prompts]
        if (asked.get("logprobs") or 0) > (self.options.max_logprobs or _MAX_LOGPROBS):
            raise RefusedError(400, f"Requested logprobs of {asked['logprobs']} are too many")
        choices: list[dict[str, Any]] = []
        with self.lock, self._adapter(name):
            for prompt in prompts:
                if len(prompt) + asked.get("max_tokens", 16) > self.limit:
                    raise RefusedError(
                        400, f"This model's maximum context length is {self.limit} tokens."
                    )
                for sample in range(asked.get("n", 1)):
                    choices.append(self._choice(asked, prompt, len(choices), sample))
        written = sum(len(choice["token_ids"]) for choice in choices)
        read = sum(map(len, prompts))
        if not asked.get("return_token_ids"):
            for choice in choices:
                del choice["token_ids"], choice["prompt_token_ids"]
        return {
            "id": "cmpl-1",
            "object": "text_completion",
            "created": int(time.time()),
            "model": name,
            "choices": choices,
            "usage": {
                "prompt_tokens": read,
                "completion_tokens": written,
                "total_tokens": read + written,
            },
        }

    def _adapter(self, name: str | None) -> Any:
        """The weights of one name."""
        if name in self.adapters:
            self.model.set_adapter(_module(name))
            return contextlib.nullcontext()
        if self.adapters:
            return self.model.disable_adapter()
        return contextlib.nullcontext()

    def _choice(
        self, asked: dict[str, Any], prompt: Sequence[int], index: int, sample: int
    ) -> dict[str, Any]:
        torch = self.torch
        temperature = float(asked.get("temperature", 1.0))
        generator = torch.Generator()
        if asked.get("seed") is not None:
            generator.manual_seed(int(asked["seed"]) + sample)
        else:
            generator.seed()
        ends = set() if asked.get("ignore_eos") else self.ends
        ends = ends | set(asked.get("stop_token_ids") or ())
        stops = asked.get("stop") or []
        stops = [stops] if isinstance(stops, str) else stops
        tokens: list[int] = []
        chosen: list[float] = []
        tops: list[dict[str, float]] = []
        finish, reason, cache = "length", None, None
        ids = torch.tensor([list(prompt)])
        is_processed = self.options.logprobs_mode == "processed_logprobs"
        with torch.inference_mode():
            while len(tokens) < asked.get("max_tokens", 16):
                out = self.model(input_ids=ids, past_key_values=cache, use_cache=True)
                cache, logits = out.past_key_values, out.logits[0, -1].float()
                warm = logits / temperature if temperature else logits
                kept = self._kept(warm, asked)
                if temperature:
                    token = int(torch.multinomial(kept.softmax(-1), 1, generator=generator))
                else:
                    token = int(kept.argmax())
                told = (kept if is_processed else logits).log_softmax(-1)
                tokens.append(token)
                chosen.append(max(float(told[token]), -9999.0))
                tops.append(self._top(told, token, asked.get("logprobs") or 0))
                if token in ends:
                    finish = "stop"
                    break
                text = self.tokenizer.decode(tokens, skip_special_tokens=True)
                found = [stop for stop in stops if stop in text]
                if found:
                    finish, reason = "stop", found[0]
                    break
                ids = torch.tensor([[token]])
        names = [f"token_id:{token}" for token in tokens]
        return {
            "index": index,
            "text": self.tokenizer.decode(tokens, skip_special_tokens=True),
            "finish_reason": finish,
            "stop_reason": reason,
            "logprobs": None
            if asked.get("logprobs") is None
            else {"tokens": names, "token_logprobs": chosen, "top_logprobs": tops},
            "token_ids": tokens,
            "prompt_token_ids": list(prompt),
        }

    def _kept(self, logits: Any, asked: dict[str, Any]) -> Any:
        top_k, top_p = asked.get("top_k", 0), asked.get("top_p", 1.0)
        if top_k and top_k > 0:
            bound = logits.topk(min(top_k, len(logits))).values[-1]
            logits = logits.masked_fill(logits < bound, float("-inf"))
        if top_p < 1.0:
            ordered, places = logits.softmax(-1).sort(descending=True)
            gone = ordered.cumsum(-1) - ordered >= top_p
            logits = logits.index_fill(0, places[gone], float("-inf"))
        return logits

    def _top(self, told: Any, token: int, count: int) -> dict[str, float]:
        values, ids = told.topk(max(count, 1))
        found = {int(i): float(v) for v, i in zip(values, ids, strict=True)} if count else {}
        found.setdefault(token, float(told[token]))
        return {f"token_id:{i}": max(v, -9999.0) for i, v in found.items()}


def _module(name: str) -> str:
    """An adapter's name as torch takes it for a module's."""
    return name.replace(".", "_")


def flags_of(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the flags of ``vllm serve``; one that vLLM does not know is an error, as there."""
    parser = argparse.ArgumentParser(prog="vllm", allow_abbrev=False)
    serve = parser.add_subparsers(required=True).add_parser("serve", allow_abbrev=False)
    serve.add_argument("model")
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=0)
    serve.add_argument("--served-model-name", nargs="+")
    serve.add_argument("--api-key", nargs="+")
    serve.add_argument("--enable-lora", action="store_true")
    serve.add_argument("--lora-modules", nargs="+")
    serve.add_argument("--max-lora-rank", type=int, default=16)
    serve.add_argument("--logprobs-mode", default="raw_logprobs")
    for name in ("max-model-len", "max-loras", "max-cpu-loras", "max-logprobs", "seed"):
        serve.add_argument(f"--{name}", type=int)
    for name in (
        *("dtype", "gpu-memory-utilization", "kv-cache-memory-bytes", "tensor-parallel-size"),
        *("generation-config", "max-num-seqs", "max-num-batched-tokens", "revision", "tokenizer"),
        *("data-parallel-size", "attention-backend", "quantization", "limit-mm-per-prompt"),
        *("uvicorn-log-level", "lora-dtype", "block-size", "load-format", "download-dir"),
    ):
        serve.add_argument(f"--{name}")
    for name in (
        *("enforce-eager", "trust-remote-code", "enable-prefix-caching", "language-model-only"),
        *("enable-log-requests", "disable-log-stats", "skip-mm-profiling"),
        *("return-tokens-as-token-ids", "disable-uvicorn-access-log"),
    ):
        serve.add_argument(f"--{name}", action=argparse.BooleanOptionalAction)
    return parser.parse_args(arguments)
