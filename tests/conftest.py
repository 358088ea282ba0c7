"""Shared fixtures: the folder of real data, quiet threads."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# One thread a process: on small models two threads beside another busy process are far slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).resolve().parent.parent
SHARED_VARIABLE = "PLAN_TUNING_SHARED"
REAL_VARIABLE = "PLAN_TUNING_REAL_GGUF"
VLLM_VARIABLE = "PLAN_TUNING_VLLM"
WEIGHTS_VARIABLE = "PLAN_TUNING_REAL_WEIGHTS"


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and tools; tests that need it skip where it is absent."""
    folder = Path(os.environ.get(SHARED_VARIABLE, ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(
            f"{folder} is absent; set {SHARED_VARIABLE} to the folder with data/ and tools/"
        )
    return folder


@pytest.fixture(scope="session")
def real_gguf() -> Path:
    """The GGUF file of a pretrained student; tests that need it skip where it is absent."""
    pytest.importorskip("gguf", reason="the extra gguf is not installed")
    file = os.environ.get(REAL_VARIABLE)
    if not file:
        pytest.skip(
            f"{REAL_VARIABLE} names no file; plan-tuning fetch smollm2 --out models gets it"
        )
    return Path(file).expanduser().resolve(strict=True)


@pytest.fixture(scope="session")
def real_vllm() -> str:
    """The program of a real vLLM; tests that need it skip where none is named."""
    program = os.environ.get(VLLM_VARIABLE)
    if not program:
        pytest.skip(f"{VLLM_VARIABLE} names no program: /ENV/bin/vllm of an environment with vLLM")
    return program


@pytest.fixture(scope="session")
def real_weights() -> Path:
    """A folder of pretrained weights; tests that need it skip where none is named."""
    folder = os.environ.get(WEIGHTS_VARIABLE)
    if not folder:
        pytest.skip(f"{WEIGHTS_VARIABLE} names no folder of a pretrained student's weights")
    return Path(folder).expanduser().resolve(strict=True)


@pytest.fixture(autouse=True)
def subnormal_numbers() -> Iterator[None]:
    """What trains rounds subnormal numbers to 0 in its process, which this one shares."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_flush_denormal(False)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tests that compare sums, or run a small model often, compute with one thread."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Python's own handler of SIGINT, which a shell's background job does not start with."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)
