"""What earlier commits called their artifacts: every job still finds them.

tests/data/fingerprints.json holds the stages of every job of every experiment, and of jobs chosen
by hand, as commit 2e415db addressed them. A line changes only together with a STAGE_VERSION.
The experiments' part is compared in test_experiments.py, which composes them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from composition import graph

from plan_tuning.job.graph import JobGraph

pytestmark = pytest.mark.integration

DATA = Path(__file__).resolve().parent.parent / "data" / "fingerprints.json"
FINGERPRINTS: dict[str, dict[str, Any]] = json.loads(DATA.read_text(encoding="utf-8"))


def described(job: JobGraph) -> dict[str, Any]:
    """A graph as the file holds it."""
    stages = [" ".join(filter(None, (s.kind, s.label, s.fingerprint))) for s in job.stages]
    return {"key": job.fingerprint, "stages": stages}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, corpus, student and report by path: their content counts, not where they lie."""
    folder = tmp_path_factory.mktemp("files")
    row = {"question": "1+1?", "answer": "It is 2.\n#### 2"}
    for split in ("train", "test"):
        path = folder / "gsm8k" / f"{split}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(row) + "\n")
    for name, content in (("student/config.json", "{}"), ("corpus/rows.txt", "rows")):
        (folder / name).parent.mkdir()
        (folder / name).write_text(content)
    (folder / "contaminated.json").write_text("{}")
    return folder


@pytest.mark.parametrize("words", FINGERPRINTS["chosen"])
def test_a_job_chosen_by_hand(words: str, files: Path, tmp_path: Path) -> None:
    given = words.replace("{files}", str(files)).split()
    assert described(graph(*given, f"paths.outputs={tmp_path}")) == FINGERPRINTS["chosen"][words]
