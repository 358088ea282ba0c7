"""What a sweep registers before its first job, and how the comparison speaks of it."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from composition import config_of, jobs_of
from sweep_builder import make_job

from plan_tuning.comparison.comparison import Comparison
from plan_tuning.comparison.comparison_files import compare
from plan_tuning.comparison.registered import REGISTRATION_FILE, read_registration
from plan_tuning.comparison.runs import ComparisonError
from plan_tuning.config.checks import ConfigError
from plan_tuning.config.comparison import ComparisonConfig, RegistrationConfig
from plan_tuning.config.effects import idle_registration
from plan_tuning.sweep.jobs import Job
from plan_tuning.sweep.preregistration import check_registration, register

pytestmark = pytest.mark.integration

WORDS = (
    "method=sft,m1",
    "registration.hypothesis=M1 beats SFT",
    "registration.claims=[planning_beats_sft]",
    "registration.smallest_effect=5",
    "registration.seeds=[0,1,2]",
)


Jobs = Callable[..., list[Job]]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    """The jobs of a command line, composed once; where their results lie is each test's matter."""
    outputs = tmp_path_factory.mktemp("outputs")

    @functools.cache
    def composed(*words: str) -> list[Job]:
        return jobs_of(outputs, *(words or (*WORDS, "seed=0,1,2")))

    return composed


def _finish(folder: Path, jobs: list[Job]) -> None:
    for job in jobs:
        method = job.config.method.name
        make_job(
            folder,
            name=job.name,
            method=method,
            seed=job.config.seed,
            accuracies={"microworld": 0.9 if method == "m1" else 0.5, "other": 0.5},
        )


def _compared(folder: Path) -> Comparison:
    return compare([folder], console=False)


def test_what_was_registered_is_confirmatory_and_all_else_exploratory(
    tmp_path: Path, swept: Jobs
) -> None:
    jobs, folder = swept(), tmp_path / "mine"
    registered = register(jobs, folder)
    assert registered is not None
    assert (registered.hypothesis, registered.benchmark) == ("M1 beats SFT", "microworld")
    assert sorted(registered.jobs) == sorted(job.name for job in jobs)
    _finish(folder, jobs)
    found = _compared(folder)
    kinds = {item.benchmark: item.is_confirmatory for item in found.findings}
    assert kinds == {"microworld": True, "other": False}
    assert found.registration[0].endswith(
        "M1 beats SFT. By accuracy on microworld, smallest effect 5 points, seeds 0, 1, 2. "
        "Confirmatory are the claims planning_beats_sft on microworld; all else is exploratory."
    )
    assert found.registration[1:] == ("No deviation from the registration.",)
    text = (folder / "comparison.md").read_text()
    assert "resolved: yes, confirmatory" in text
    assert found.table.smallest_effect == pytest.approx(0.05)
    content = json.loads((folder / "comparison.json").read_text())
    assert content["registration"] == list(found.registration)


def test_the_same_sweep_keeps_its_registration_byte_for_byte(tmp_path: Path, swept: Jobs) -> None:
    folder = tmp_path / "mine"
    first = register(swept(), folder)
    content = (folder / REGISTRATION_FILE).read_bytes()
    assert register(swept(), folder) == first
    assert (folder / REGISTRATION_FILE).read_bytes() == content


def test_a_change_shows_and_keeps_what_was_registered(tmp_path: Path, swept: Jobs) -> None:
    folder = tmp_path / "mine"
    jobs = swept()
    first = register(jobs, folder)
    _finish(folder, jobs)
    changed = ("method=m1,m2", "registration.hypothesis=M2 beats all", *WORDS[2:-1], "seed=0,1,2,3")
    more = swept(*changed)
    register(more, folder)
    register(more, folder)  # the same change again is one change
    after = read_registration(folder)
    assert first is not None
    assert after is not None
    assert after.digest == first.digest
    assert replace(after, amendments=()) == first
    ((amendment),) = after.amendments
    assert amendment.num_results == 6
    assert amendment.changes[0] == "hypothesis: M1 beats SFT became M2 beats all"
    assert amendment.changes[1] == "seeds: [0, 1, 2] became [0, 1, 2, 3]"
    assert amendment.changes[2].startswith("3 jobs removed: method=sft seed=0")
    assert amendment.changes[3].startswith("5 jobs added: ")
    _finish(folder, [job for job in more if job.config.seed == 3])
    lines = _compared(folder).registration
    assert any("became M2 beats all" in line and "with 6 results there" in line for line in lines)
    assert any("2 results are of jobs that were not registered" in line for line in lines)


def test_what_is_missing_is_a_deviation(tmp_path: Path, swept: Jobs) -> None:
    folder = tmp_path / "mine"
    jobs = swept()
    register(jobs, folder)
    _finish(folder, [job for job in jobs if job.config.seed < 2])
    found = _compared(folder)
    assert not any(item.is_confirmatory for item in found.findings)
    assert any("2 of 6 registered jobs have no result" in line for line in found.registration)
    assert "Deviation: registered seeds without a result: 2." in found.registration
    assert (
        "Deviation: compared on other seeds than the registered: planning_beats_sft."
        in found.registration
    )


def test_what_is_registered_beside_results_confirms_nothing(tmp_path: Path, swept: Jobs) -> None:
    folder = tmp_path / "mine"
    jobs = swept()
    _finish(folder, jobs)
    registered = register(jobs, folder)
    assert registered is not None
    assert (registered.num_results, registered.is_intact) == (6, True)
    found = _compared(folder)
    assert not any(item.is_confirmatory for item in found.findings)
    assert "Nothing is confirmatory" in found.registration[0]
    assert found.registration[1] == "Deviation: registered after 6 results were there."


def test_an_edited_file_confirms_nothing(tmp_path: Path, swept: Jobs) -> None:
    folder = tmp_path / "mine"
    jobs = swept()
    register(jobs, folder)
    _finish(folder, jobs)
    path = folder / REGISTRATION_FILE
    path.write_text(path.read_text().replace('"smallest_effect": 5.0', '"smallest_effect": 2.0'))
    found = _compared(folder)
    assert not any(item.is_confirmatory for item in found.findings)
    assert "registration.json was edited: its content has another digest" in found.registration[1]


def test_the_seeds_of_the_jobs_are_registered_where_none_are_named(
    tmp_path: Path, swept: Jobs
) -> None:
    words = (*WORDS[:-1], "seed=42,43,44")
    folder = tmp_path / "mine"
    jobs = swept(*words)
    registered = register(jobs, folder)
    assert registered is not None
    assert registered.seeds == (42, 43, 44)
    _finish(folder, jobs)
    found = _compared(folder)
    assert any(item.is_confirmatory for item in found.findings)
    assert found.registration[1:] == ("No deviation from the registration.",)


def test_another_smallest_effect_is_a_deviation(tmp_path: Path, swept: Jobs) -> None:
    folder = tmp_path / "mine"
    jobs = swept()
    register(jobs, folder)
    _finish(folder, jobs)
    found = compare([folder], console=False, smallest_effect=20)
    assert found.registration[1:] == (
        "Deviation: smallest effect: 5 points registered, 20 points used.",
    )


def test_a_hypothesis_about_no_claim_confirms_nothing(tmp_path: Path, swept: Jobs) -> None:
    folder = tmp_path / "mine"
    jobs = swept("method=sft,m1", "registration.hypothesis=M1 beats SFT", "seed=0,1,2")
    register(jobs, folder)
    _finish(folder, jobs)
    found = _compared(folder)
    assert not any(item.is_confirmatory for item in found.findings)
    assert found.registration[0].endswith("every difference here is exploratory.")


def test_without_a_registration_everything_is_exploratory(tmp_path: Path, swept: Jobs) -> None:
    jobs = swept("method=sft,m1", "seed=0,1,2")
    assert register(jobs, tmp_path / "mine") is None
    _finish(tmp_path / "mine", jobs)
    (line,) = _compared(tmp_path / "mine").registration
    assert line.startswith("Nothing was registered")


def test_a_single_job_says_that_it_registers_nothing() -> None:
    assert idle_registration(config_of("method=m1")) == ""
    line = idle_registration(config_of("method=m1", "registration.hypothesis=M1 beats SFT"))
    assert line.startswith("No effect: registration")


def test_several_sweeps_together_confirm_nothing(tmp_path: Path, swept: Jobs) -> None:
    jobs = swept()
    for name in ("mine", "yours"):
        register(jobs, tmp_path / name)
        _finish(tmp_path / name, jobs)
    found = compare([tmp_path / "mine", tmp_path / "yours"], console=False)
    assert not any(item.is_confirmatory for item in found.findings)


def test_a_registration_that_is_no_registration(tmp_path: Path) -> None:
    (tmp_path / REGISTRATION_FILE).write_text("{}")
    with pytest.raises(ComparisonError, match=r"registration\.json cannot be read"):
        read_registration(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"claims": ["t3"]}, "claims of the paper: planning_beats_sft"),
        ({"benchmark": "gsm8k"}, "one of the benchmarks of the sweep: microworld"),
        ({"seeds": [7]}, "the seeds of the jobs, 42"),
    ],
)
def test_a_registration_of_what_the_sweep_cannot_show(
    swept: Jobs, wrong: dict[str, Any], says: str
) -> None:
    (job,) = swept("method=m1", "registration.hypothesis=M1 beats SFT")
    made = replace(job.config.registration, **wrong)
    with pytest.raises(ConfigError, match=says):
        check_registration([replace(job, config=replace(job.config, registration=made))])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: RegistrationConfig(benchmark="gsm8k"), "a sentence, where anything else"),
        (lambda: RegistrationConfig(hypothesis=" ", seeds=[1]), "a sentence"),
        (lambda: RegistrationConfig(hypothesis="x", seeds=[1, 1]), "each seed once"),
        (lambda: RegistrationConfig(hypothesis="x", metric="f1"), "choose one of accuracy"),
        (lambda: RegistrationConfig(hypothesis="x", smallest_effect=0), "points of accuracy"),
        (lambda: ComparisonConfig(smallest_effect=101), "points of accuracy"),
    ],
)
def test_values_that_cannot_be(make: type, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()
