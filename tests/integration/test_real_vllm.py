"""This project beside a real vLLM: the same greedy words, exact samples, adapters step by step.

Figures are logged: ``python -m pytest -m vllm -n 0 -o log_cli=true -o log_cli_level=INFO``. They
need a shape whose head size vLLM's attention takes (on a CPU 32, 64, 80 and others).
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import Qwen3Config, Qwen3ForCausalLM

from plan_tuning.config.evaluation import VLLMConfig
from plan_tuning.config.extensions import record
from plan_tuning.config.model import ModelConfig
from plan_tuning.config.training import PromptConfig
from plan_tuning.students.generation.in_process import InProcessEngine
from plan_tuning.students.generation.probe import next_log_probs
from plan_tuning.students.generation.protocol import Sampling, Vocabulary
from plan_tuning.students.generation.vllm_engine import VLLMEngine
from plan_tuning.students.generation.vllm_server import Serving, VLLMServer
from plan_tuning.students.loading import Student, load_student
from plan_tuning.students.micro import build_tokenizer, save_micro
from plan_tuning.students.templates import prompt_ids
from plan_tuning.tasks.microworld_text import SPECIAL_TOKENS
from plan_tuning.text.formats import student_messages

from .grpo_world import metrics, train
from .teacher_server import gsm8k

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("one_thread")]

logger = logging.getLogger(__name__)

EPSILON = 0.01  # between the two largest logits: where they are nearer, rounding chooses
ROWS, TOKENS = 64, 64
WORDS, DRAWN = 1024, 8192
STEPS = 10
CACHE = {"VLLM_CPU_KVCACHE_SPACE": "1"}  # GiB


def engine_of(
    program: str, weights: Path, student: Student, log: Path, **options: Any
) -> VLLMEngine:
    serving = Serving(
        str(weights),
        (program,),
        {"dtype": "float32", "max-model-len": 1024, "enforce-eager": True, **options},
        CACHE,
    )
    return VLLMEngine(
        VLLMServer(serving, log), Vocabulary(student.tokenizer, student.end_ids), concurrency=64
    )


def margin(student: Student, text: list[int]) -> float:
    """How far the likeliest next token is ahead of the second one."""
    first, second = next_log_probs(student, text).topk(2).values.tolist()
    return float(first - second)


def test_greedy_answers_are_the_same_wherever_rounding_does_not_choose(
    real_vllm: str, real_weights: Path, shared: Path, tmp_path: Path
) -> None:
    student = load_student(real_weights, ModelConfig(name="real", path=str(real_weights)))
    prompts = [
        prompt_ids(
            student.tokenizer,
            student_messages(p.problem, method="zero_shot", prompt=PromptConfig(), style=p.style),
        )
        for p in gsm8k(shared, ROWS)
    ]
    keys = [(str(row), 0) for row in range(ROWS)]
    sampling = Sampling(TOKENS, return_log_probs=True)
    own = InProcessEngine(student, record("engine", "native"), batch_tokens=16384).generate(
        prompts, keys=keys, sampling=sampling
    )
    with engine_of(real_vllm, real_weights, student, tmp_path / "vllm.log") as engine:
        served = engine.generate(prompts, keys=keys, sampling=sampling)
    equal, near, gaps = 0, [], []
    for prompt, mine, theirs in zip(prompts, own, served, strict=True):
        pairs = list(zip(mine.token_ids, theirs.token_ids, strict=False))
        place = next((k for k, (a, b) in enumerate(pairs) if a != b), len(pairs))
        gaps += [
            abs(a - b)
            for a, b in zip(mine.log_probs[:place], theirs.log_probs[:place], strict=True)
        ]
        if mine.token_ids == theirs.token_ids:
            assert mine.finish_reason == theirs.finish_reason
            equal += 1
        else:
            near.append(margin(student, [*prompt, *mine.token_ids[:place]]))
    logger.info(
        "greedy: %d of %d rows are equal token by token (%d tokens); where others part, the two "
        "largest logits differ by %s; log-probabilities differ by %.2g on average, %.2g at most",
        *(equal, ROWS, sum(len(c.token_ids) for c in own), [round(m, 5) for m in near]),
        *(float(np.mean(gaps)), max(gaps)),
    )
    assert all(value < EPSILON for value in near)
    assert equal >= ROWS // 2
    assert max(gaps) < 1e-2


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model of 1,024 words, none of which is much likelier than another."""
    folder = tmp_path_factory.mktemp("models") / "words"
    names = [*SPECIAL_TOKENS, *(f"w{k}" for k in range(WORDS - len(SPECIAL_TOKENS)))]
    tokenizer = build_tokenizer(names)
    shape = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        initializer_range=0.1,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(3)
    save_micro(folder, Qwen3ForCausalLM(shape), tokenizer)
    return folder


def chi_square(counts: Counter[int], log_probs: torch.Tensor) -> float:
    """The p-value of draws under a distribution; rare words are put together."""
    expected = log_probs.double().exp().numpy() * DRAWN
    observed = np.array([counts[token] for token in range(len(expected))], float)
    is_rare = expected < 5
    found, wanted = (
        np.append(side[~is_rare], side[is_rare].sum()) for side in (observed, expected)
    )
    kept = wanted > 0
    return float(stats.chisquare(found[kept], wanted[kept] * found.sum() / wanted.sum()).pvalue)


def test_samples_are_those_of_the_exact_probabilities(
    real_vllm: str, words: Path, tmp_path: Path
) -> None:
    student = load_student(words, ModelConfig(name="words", path=str(words)))
    prompt = student.tokenizer("<bos> <user> w1 w2 w3 <assistant>")["input_ids"]
    sampling = Sampling(1, temperature=0.7, return_log_probs=True)
    options = {"logprobs-mode": "processed_logprobs", "max-model-len": 256}
    with engine_of(real_vllm, words, student, tmp_path / "vllm.log", **options) as engine:
        rows = engine.generate(
            [prompt] * DRAWN, keys=[("p", k) for k in range(DRAWN)], sampling=sampling
        )
    counts = Counter(row.token_ids[0] for row in rows)
    right, wrong = (next_log_probs(student, prompt, temperature=t) for t in (0.7, 1.0))
    p_right, p_wrong = chi_square(counts, right), chi_square(counts, wrong)
    gap = max(abs(float(right[row.token_ids[0]]) - row.log_probs[0]) for row in rows)
    logger.info(
        "%d draws of %d words, %d of them seen: chi-square p=%.3g (against temperature 1: %.3g); "
        "log-probabilities differ by %.2g at most",
        *(DRAWN, len(right), len(counts), p_right, p_wrong, gap),
    )
    assert p_right > 1e-3
    assert p_wrong < 1e-6, "the test can tell"
    assert gap < 1e-3


@pytest.mark.usefixtures("digits")
def test_ten_steps_of_grpo(real_vllm: str, real_weights: Path, tmp_path: Path) -> None:
    """The reward is the share of digits, which ten steps can move."""
    model = ModelConfig(name="real", path=str(real_weights))
    settings: dict[str, Any] = {
        "steps": STEPS, "prompts_per_step": 2, "group_size": 4, "max_new_tokens": 16,
        "learning_rate": 5e-4, "beta": 0.0, "importance_cap": "auto",
    }  # fmt: skip
    vllm = VLLMConfig(command=real_vllm, options={"enforce_eager": True})
    folders = {engine: tmp_path / engine for engine in ("native", "vllm")}
    for engine, folder in folders.items():
        facts = train(
            folder, real_weights, adapter="lora", model=model, vllm=vllm, engine=engine, **settings
        )
        assert facts["steps"] == STEPS
    steps = metrics(folders["vllm"])
    rows = [
        json.loads(line)
        for line in (folders["vllm"] / "completions.jsonl").read_text().splitlines()
    ]
    assert {(row["step"], row["weight_version"]) for row in rows} == {
        (step, f"grpo-vllm-{step:06d}") for step in range(STEPS)
    }
    rewarded = {
        engine: [row["train/reward/total"] for row in metrics(folder)]
        for engine, folder in folders.items()
    }
    for name in ("train/sync_gap", "train/sampler_gap", "train/sampler_gap_max",
                 "train/importance_capped", "time/sync", "time/rollout"):  # fmt: skip
        logger.info("%s by step: %s", name, [float(f"{row[name]:.2g}") for row in steps])
    for engine, found in rewarded.items():
        logger.info("reward by step, %s: %s", engine, [round(value, 3) for value in found])
    assert all(row["train/sync_gap"] < 1e-2 for row in steps)
    assert all(row["train/sampler_gap"] < 1e-2 for row in steps)
    assert all(row["train/importance_capped"] == 0.0 for row in steps)
    for found in rewarded.values():
        assert np.mean(found[-3:]) > np.mean(found[:3])
