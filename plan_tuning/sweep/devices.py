"""Jobs side by side on one machine: who gets which card, and who may start processes.

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
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.run import Config

logger = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"
_LIST_CARDS_S = 20.0
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
    if config.trainer.devices > 1:  # runs alone, on as many cards as it says
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


def launcher_facts(launcher: Mapping[str, Any]) -> dict[str, Any]:
    """Take out of Hydra's launcher what decides how many processes a job gets."""
    return {key: launcher.get(key) for key in ("_target_", "n_jobs", "tasks_per_node")}


def check_processes(
    config: Config,
    launcher: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Refuse several devices where that would end in more processes or fewer cards than meant.

    A job starts the ranks of its training by itself, from one process a job.

    Args:
        config: of the job.
        launcher: Hydra's, of a sweep.
        environment: where launchers leave word.

    Raises:
        ConfigError: this whole command runs several times already, or jobs side by side would
            train on the same cards, or there are fewer cards than devices.
    """
    devices = config.trainer.devices
    if devices == 1:
        return
    launcher = launcher or {}
    tasks = int(launcher.get("tasks_per_node") or 1)
    if "LOCAL_RANK" in environment:  # torchrun and its like
        tasks = max(tasks, int(environment.get("WORLD_SIZE", "1")))
    if "SLURM_PROCID" in environment:
        tasks = max(tasks, int(environment.get("SLURM_STEP_NUM_TASKS", "1")))
    if tasks > 1:
        raise ConfigError(
            "trainer.devices",
            devices,
            f"the launcher starts this whole command {tasks} times, and each of them would start "
            "the whole job or sweep again; a job starts the processes of its training by itself",
            f"plan-tuning … trainer.devices={devices} without torchrun, or with one task "
            "(srun --ntasks=1, hydra.launcher.tasks_per_node=1)",
        )
    if config.trainer.accelerator == "cpu":
        return
    cards = len(visible_cards())
    if cards and int(launcher.get("n_jobs") or 1) != 1:
        raise ConfigError(
            "trainer.devices",
            devices,
            "jobs side by side would train on the same cards; several cards a job means one job "
            "after another",
            f"trainer.devices={devices} hydra/launcher=basic",
        )
    # A cluster's nodes have cards of their own, which this machine does not know of.
    if 0 < cards < devices and "submitit" not in str(launcher.get("_target_", "")).lower():
        raise ConfigError(
            "trainer.devices",
            devices,
            f"one CUDA card a device, and {cards} can be seen here",
            f"trainer.devices={cards} trainer.strategy=auto",
        )
