"""Jobs side by side: the same numbers whichever launcher runs them, and one builder a stage."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import Run, built, results

pytestmark = pytest.mark.e2e


def needs(plugin: str, extra: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        importlib.util.find_spec(f"hydra_plugins.{plugin}") is None,
        reason=f"the extra `{extra}` is not installed",
    )


SWEEP = ("-m", "method=sft,m1", "filter=none,two_stage", "seed=0", "debug=fast", "logger=csv")


def digests(outputs: Path, name: str) -> dict[str, Any]:
    """What a sweep found: job -> metrics and digest of its predictions."""
    found = {}
    for path in sorted((outputs / name).glob("*/result.json")):
        row = json.loads(path.read_text())
        texts = [(path.parent / where).read_bytes() for where in row["predictions"].values()]
        found[path.parent.name] = (row["metrics"], hashlib.sha256(b"".join(texts)).hexdigest())
    return found


@needs("hydra_joblib_launcher", "sweep")
def test_two_workers_find_the_same_numbers_as_one(plan_tuning: Run, tmp_path: Path) -> None:
    one = plan_tuning(*SWEEP, "sweep_name=same", "paths.outputs=one")
    assert one.returncode == 0, one.stderr
    two = plan_tuning(
        *SWEEP, "sweep_name=same", "paths.outputs=two", "hydra/launcher=parallel",
        "hydra.launcher.n_jobs=2",
    )  # fmt: skip
    assert two.returncode == 0, two.stderr
    assert digests(tmp_path / "one", "same") == digests(tmp_path / "two", "same")
    assert len(digests(tmp_path / "two", "same")) == 3
    assert set(built(tmp_path / "one")) == set(built(tmp_path / "two"))
    # jobs that waited for another's base or corpus say so instead of building it again
    for label in ("[method=sft filter=none]", "[method=m1 filter=two_stage]"):
        assert f"{label} INFO result: two/same/" in two.stdout, "whose line it is"
    assert "[" not in next((tmp_path / "two" / "same").glob("*/run.log")).read_text()[:20]
    shared = [key for key in built(tmp_path / "two") if key.split("/")[1] in ("bases", "corpora")]
    assert len(shared) == 2


@needs("hydra_submitit_launcher", "sweep")
def test_submitit_runs_every_job_in_a_process_of_its_own(plan_tuning: Run, tmp_path: Path) -> None:
    ran = plan_tuning(
        *SWEEP, "sweep_name=cluster", "hydra/launcher=submitit_local",
        "hydra.launcher.timeout_min=10",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    sweep = tmp_path / "multirun_outputs" / "cluster"
    assert [row["status"] for row in results(sweep)] == ["completed"] * 3
    assert (sweep / "comparison.md").is_file()
    assert list((sweep / ".submitit").iterdir())


@needs("hydra_submitit_launcher", "sweep")
def test_a_failed_job_of_a_cluster_is_a_hole(plan_tuning: Run, tmp_path: Path) -> None:
    ran = plan_tuning(
        "-m", "method=sft", "trainer.max_length=4,256", "seed=0", "debug=fast", "logger=csv",
        "sweep_name=cluster", "hydra/launcher=submitit_local",
    )  # fmt: skip
    assert ran.returncode == 1
    rows = results(tmp_path / "multirun_outputs" / "cluster")
    assert sorted(row["status"] for row in rows) == ["completed", "failed"]
    assert "failed" in (tmp_path / "multirun_outputs" / "cluster" / "comparison.md").read_text()


@needs("hydra_optuna_sweeper", "optuna")
def test_a_search_over_the_objective(plan_tuning: Run, tmp_path: Path) -> None:
    ran = plan_tuning(
        "-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1",
        "hydra.sweeper.direction=maximize", "trainer.learning_rate=interval(1e-4,1e-2)",
        "method=sft", "seed=0", "debug=fast", "logger=csv", "sweep_name=search",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert len(results(tmp_path / "multirun_outputs" / "search")) == 2
