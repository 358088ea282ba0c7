"""What a reward lacks on a corpus is said before anything is loaded or asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.registration import register
from plan_tuning.config.typed import composed
from plan_tuning.distillation.corpus import (
    PROBLEMS,
    TRAJECTORIES,
    write_records,
    write_trajectories,
)
from plan_tuning.job.audit import AuditRequest, run_audit
from plan_tuning.records import Problem, Trajectory

PROGRAM = "def add(a, b):\n    return a + b"
WORDS = ("model=smollm2_135m",)
register()
RUN = (*WORDS, "evaluation.grading.run_code=true")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    rows = [
        Trajectory("p", number, "Add two numbers.", PROGRAM, "", plan, style="code")
        for number, plan in enumerate(("1. Add both.\n2. Return it.", "1. Return the sum."))
    ]
    write_trajectories(tmp_path / TRAJECTORIES, rows)
    return tmp_path


@pytest.mark.parametrize("kind", ["executability", "uplift"])
def test_programs_that_may_not_run_are_named_first(corpus: Path, kind: str) -> None:
    with pytest.raises(ConfigError, match=r"programs.*evaluation\.grading\.run_code=true"):
        run_audit(composed(WORDS), AuditRequest(corpus, (kind,)))
    problem = Problem("p", "Add two numbers.", PROGRAM, style="code")
    write_records(corpus / PROBLEMS, Problem, [problem])
    with pytest.raises(ConfigError, match=r"no problems\.parquet with their tests"):
        run_audit(composed(RUN), AuditRequest(corpus, (kind,)))


def test_without_the_problems_nobody_has_their_tests(corpus: Path) -> None:
    with pytest.raises(ConfigError, match=r"no problems\.parquet with their tests"):
        run_audit(composed(RUN), AuditRequest(corpus, ("executability",)))


def test_what_lacks_something_is_left_out_of_all(corpus: Path) -> None:
    """Those that execute are named as skipped; those that ask nobody are audited."""
    request = AuditRequest(corpus, ("all",), retested=0, probed=0)
    micro = composed(("model=micro", "trainer=micro"))
    found = run_audit(micro, request)
    assert {one.name for one in found.rewards} == {"steps", "embedding", "roscoe"}
    assert {"executability", "uplift", "likelihood"} <= set(found.skipped)
