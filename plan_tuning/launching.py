"""Jobs side by side on one machine: who gets which card, and what may not run in a sweep.

A launcher's worker processes all see every card, and every job takes the first one it sees. So a
worker claims a card of its own before torch is loaded; the claim ends with the process, so a
worker that died leaves nothing behind, and two sweeps on one machine do not meet on one card.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

import filelock

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.run import Config

logger = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"
_LIST_CARDS_S = 20.0
# Launchers that start each rank of a job themselves, or that give each job its own machine.
_CLUSTER_LAUNCHERS = ("Slurm",)

_claim: list[filelock.FileLock] = []  # held as long as this process lives


def visible_cards() -> list[str]:
    """List the cards that this process may use: what CUDA_VISIBLE_DEVICES names, else all."""
    named = os.environ.get(VISIBLE)
    if named is not None:
        return [card.strip() for card in named.split(",") if card.strip()]
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    listed = subprocess.run(
        [tool, "--list-gpus"], capture_output=True, text=True, timeout=_LIST_CARDS_S, check=False
    )
    lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return [str(index) for index in range(len(lines))] if listed.returncode == 0 else []


def deal(cards: Sequence[str], taken: Collection[str], worker: int) -> str | None:
    """Choose a worker's card: the first free one, else one shared by turns.

    >>> deal(["0", "1"], {"0"}, worker=5), deal(["0", "1"], {"0", "1"}, worker=5)
    ('1', '1')
    >>> deal([], set(), worker=0) is None
    True
    """
    free = [card for card in cards if card not in taken]
    if free:
        return free[0]
    return cards[worker % len(cards)] if cards else None


def claim_card(config: Config, launcher: str, folder: Path | None = None) -> str | None:
    """Give this worker process a card of its own; once, whatever jobs it runs after that.

    Args:
        config: of the job; one that runs on the CPU needs no card.
        launcher: the launcher's class; only joblib's workers share a machine without being told
            which card is theirs.
        folder: where claims lie; by default one for this user and machine.
    """
    if "joblib" not in launcher.lower() or config.trainer.accelerator == "cpu" or _claim:
        return None
    cards = visible_cards()
    if len(cards) < 2:
        return None
    where = folder or Path(tempfile.gettempdir()) / f"plan_tuning_cards_{os.getuid()}"
    where.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    while (card := deal(cards, taken, os.getpid())) is not None and card not in taken:
        lock = filelock.FileLock(where / f"{card}.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            taken.add(card)
            continue
        _claim.append(lock)
        break
    if card is not None:
        os.environ[VISIBLE] = card
        logger.info("this worker runs on card %s of %s", card, ", ".join(cards))
    return card


def check_processes(config: Config, launcher: str) -> None:
    """Refuse a job of several processes inside a sweep, where each would start the whole sweep.

    Raises:
        ConfigError: ``trainer.devices`` is above 1 under a launcher that does not start the ranks.
    """
    if config.trainer.devices > 1 and not any(name in launcher for name in _CLUSTER_LAUNCHERS):
        raise ConfigError(
            "trainer.devices",
            config.trainer.devices,
            "every further process of a job would start the whole sweep again; in a sweep, one "
            "card a job and several jobs side by side, or a cluster that starts the processes "
            "(hydra/launcher=submitit_slurm hydra.launcher.tasks_per_node=DEVICES)",
            "trainer.devices=1 hydra/launcher=joblib hydra.launcher.n_jobs=2",
        )
