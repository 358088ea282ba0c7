"""Which card a job computes on, and how much of its memory there is for tensors."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plan_tuning.config.training import CARDS, TrainerConfig

GB = 10**9  # a card sold as one of 24 GB has 24.1e9 to 25.8e9 bytes
USABLE = 0.9  # of a card; the rest is its context, cuBLAS, and gaps between tensors
_ANSWERS_S = 20.0
_MIB = 2**20


@dataclass(frozen=True)
class Card:
    """Memory that a job's tensors may take.

    Args:
        usable: bytes.
        name: as it is shown.
    """

    usable: float
    name: str


def planned_card(trainer: TrainerConfig, *, starts: bool = False) -> Card | None:
    """Say what a job may use: of the card that ``trainer.card`` names, else of the one at hand.

    With several devices, the emptiest card must do with the least: every rank makes passes of the
    same size.

    Args:
        trainer: settings of the job.
        starts: the job is about to begin here, so the card at hand counts even where a larger one
            is named; else the named one is planned for, wherever it is.

    Returns:
        None where the job runs on a CPU, or no card is named and none is at hand.
    """
    if trainer.accelerator == "cpu":
        return None
    named = None if trainer.card is None else sold_card(trainer.card)
    if named is not None and not starts:
        return named
    free = free_bytes(trainer.devices) if starts else _listed_bytes(trainer.devices)
    if free is None:
        return named
    at_hand = Card(USABLE * free, f"the card at hand, {free / GB:.0f} GB of it free")
    return at_hand if named is None or at_hand.usable < named.usable else named


@functools.cache
def _listed_bytes(devices: int) -> float | None:
    """Free memory for lists, whose many jobs are said to fit or not by one look at the cards."""
    return free_bytes(devices)


def has_bfloat16() -> bool:
    """Whether models compute in bfloat16 on the card: a card nobody has asked yet is taken to."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return True
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def sold_card(size: int) -> Card:
    """A card by the size that it is sold by, in GB."""
    return Card(USABLE * size * GB, f"a card of {size} GB")


def smallest_card(needed: float) -> int | None:
    """The smallest card (of the sizes that are sold) that holds so many bytes; None: none does."""
    return next((size for size in CARDS if needed <= USABLE * size * GB), None)


def free_bytes(devices: int) -> float | None:
    """Free memory of the card that a job will get, or the least of several; None: no card.

    What this process's own allocator has set aside and does not use counts as free. Where torch is
    loaded and finds a card, it is asked, for the driver's tool may be absent (a container), of
    another maker, or know a whole card where there is a part of one (MIG).
    """
    torch = sys.modules.get("torch")
    if torch is not None and not torch.cuda.is_available():
        torch = None
    # Cards of several processes are left alone until they begin: torch would take some of each.
    if torch is not None and (devices == 1 or torch.cuda.is_initialized()):
        return _asked(torch, devices)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    cards = _listed(visible)[:devices]
    if cards:
        return min(cards)
    return None if torch is None else _asked(torch, devices)


def _asked(torch: Any, devices: int) -> float:
    """The least free memory of the first cards, by torch."""
    return float(
        min(
            torch.cuda.mem_get_info(card)[0]
            + torch.cuda.memory_reserved(card)
            - torch.cuda.memory_allocated(card)
            for card in range(min(devices, torch.cuda.device_count()))
        )
    )


def share_of_card(needed: float) -> float:
    """The share of the card at hand that so many bytes are, and at most what is free for tensors.

    Args:
        needed: bytes.

    Returns:
        Above 0, below 1, rounded down to a thousandth.
    """
    import torch

    total = torch.cuda.mem_get_info()[1]
    usable = USABLE * (free_bytes(1) or total)
    return max(1, int(1000 * min(needed, usable) / total)) / 1000


def _listed(visible: str | None) -> list[float]:
    """Free bytes of the visible cards, as the driver's tool lists them, without loading torch."""
    tool = shutil.which("nvidia-smi")
    if tool is None or (visible is not None and not visible.strip()):
        return []
    chosen = [] if visible is None else [f"--id={visible}"]
    query = [tool, *chosen, "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        listed = subprocess.run(
            query, capture_output=True, text=True, timeout=_ANSWERS_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):  # a driver that hangs has no card to offer
        return []
    lines = listed.stdout.split() if listed.returncode == 0 else []
    return [float(line) * _MIB for line in lines if line.isdigit()]


def host_bytes() -> float | None:
    """Memory of this machine that is available; None where the system does not say."""
    file = Path("/proc/meminfo")
    if not file.is_file():
        return None
    for line in file.read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return float(line.split()[1]) * 1024
    return None
