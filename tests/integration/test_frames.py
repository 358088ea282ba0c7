"""How far it is from the command to a loss: what somebody has to read who looks for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import plan_tuning

pytestmark = pytest.mark.integration

MOST = 10
PACKAGE = Path(plan_tuning.__file__).parent
# A real job, in a process of its own, up to the first call of the loss.
CODE = """
import sys, traceback
from plan_tuning import main
from plan_tuning.training.sft.module import SFTModule

class Reached(RuntimeError):
    pass

def stop(*_, **__):
    raise Reached

SFTModule._loss = stop
try:
    main.main()
except Reached as reached:
    for frame in traceback.extract_tb(reached.__traceback__):
        print("frame", frame.filename, frame.name)
"""


def test_a_command_reaches_the_sft_loss_in_few_frames(tmp_path: Path) -> None:
    words = ["method=m1", "debug=fast", "logger=csv", "seed=0", "trainer.progress=false"]
    ran = subprocess.run(
        [sys.executable, "-c", CODE, *words],
        cwd=tmp_path,
        env={**os.environ, "HYDRA_FULL_ERROR": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    frames = [line.split()[1:] for line in ran.stdout.splitlines() if line.startswith("frame ")]
    ours = [
        f"{Path(path).relative_to(PACKAGE)}:{name}"
        for path, name in frames
        if Path(path).is_relative_to(PACKAGE)
    ]
    assert ours[0] == "main.py:main", ran.stderr
    assert ours[-1] == "training/sft/module.py:training_step"
    assert len(ours) + 1 <= MOST, "\n".join(ours)  # and the loss itself
