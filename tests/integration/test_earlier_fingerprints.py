"""What earlier commits called their artifacts: every job still finds them.

tests/data/fingerprints.json holds the stages of every job of every experiment, and of jobs chosen
by hand, as commit 2e415db addressed them. A line changes only together with a STAGE_VERSION.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from planning import NAMES, jobs_of

from plan_tuning.config.registration import resource_folder
from plan_tuning.config.typed import typed
from plan_tuning.job.graph import JobGraph, job_graph

pytestmark = pytest.mark.integration

DATA = Path(__file__).resolve().parent.parent / "data" / "fingerprints.json"
FINGERPRINTS: dict[str, dict[str, Any]] = json.loads(DATA.read_text(encoding="utf-8"))
HIDDEN = ("paths.outputs=", "experiment=")


def described(graph: JobGraph) -> dict[str, Any]:
    """A graph as the file holds it."""
    stages = [" ".join(filter(None, (s.kind, s.label, s.fingerprint))) for s in graph.stages]
    return {"key": graph.fingerprint, "stages": stages}


@pytest.mark.parametrize("name", NAMES)
def test_every_job_of_an_experiment(name: str, tmp_path: Path) -> None:
    found = {
        " ".join(word for word in job.overrides if not word.startswith(HIDDEN)): described(
            job.graph
        )
        for job in jobs_of(tmp_path, f"experiment={name}")
    }
    earlier = FINGERPRINTS["experiments"][name]
    assert {words: found.get(words) for words in earlier} == earlier


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


@pytest.fixture
def hydra_app() -> Iterator[None]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(resource_folder("conf")), version_base="1.3"):
        yield
    GlobalHydra.instance().clear()


@pytest.mark.parametrize("words", FINGERPRINTS["chosen"])
def test_a_job_chosen_by_hand(words: str, files: Path, tmp_path: Path, hydra_app: None) -> None:
    given = words.replace("{files}", str(files)).split()
    graph = job_graph(typed(compose("config", [*given, f"paths.outputs={tmp_path}"])))
    assert described(graph) == FINGERPRINTS["chosen"][words]
