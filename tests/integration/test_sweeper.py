"""Sweeps before they start: unions of grids, equal jobs, the plan, and who gets which card."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import filelock
import pytest
from hydra.core.utils import JobReturn, JobStatus
from planning import calls_of, jobs_of, sweeper_of

from plan_tuning import launching
from plan_tuning.config.checks import ConfigError
from plan_tuning.config.run import Config
from plan_tuning.launching import check_processes, claim_card, deal, visible_cards
from plan_tuning.sweeper import check_folders, grid_arguments, print_plan

pytestmark = pytest.mark.integration

JOBLIB = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"
SLURM = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"


def overrides(jobs: list) -> list[str]:
    return [" ".join(w for w in job.overrides if not w.startswith("paths.")) for job in jobs]


def test_grids_are_a_union_and_equal_jobs_run_once(tmp_path: Path) -> None:
    with sweeper_of(f"paths.outputs={tmp_path}") as sweeper:
        sweeper.grids = [
            {"method": "sft,m1", "filter": "none,two_stage"},
            {"method": ["m1", "m2"], "filter": "two_stage"},
        ]
        jobs = sweeper.jobs([f"paths.outputs={tmp_path}"])
    assert overrides(jobs) == [
        "method=sft filter=none",  # the filter changes nothing for sft
        "method=m1 filter=none",
        "method=m1 filter=two_stage",
        "method=m2 filter=two_stage",
    ]


def test_the_command_line_narrows_and_extends_every_grid(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, "experiment=quickstart", "seed=7", "method=m1,m2", "filter=none")
    assert overrides(jobs) == [
        "experiment=quickstart seed=7 method=m1 filter=none",
        "experiment=quickstart seed=7 method=m2 filter=none",
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, "true"),
        (None, "null"),
        ([1, 2.5], "1,2.5"),
        ("a,b", "a,b"),
        ((True, None), "true,null"),
    ],
)
def test_values_of_a_grid(value: object, expected: str) -> None:
    assert grid_arguments({"key": value}, []) == [f"key={expected}"]


@pytest.mark.parametrize(
    ("words", "calls"),
    [
        # 1 + 3 N calls a problem; smaller corpora are parts of larger ones
        (("distillation.num_candidates=1,3",), 2000 * 10),
        (("data.fraction=0.1,0.5",), 1000 * 10),
        (("seed=0,1", "data.fraction=0.1"), 2 * 200 * 10),
        (("data=microworld,microworld_mixed",), 2 * 2000 * 10),
        (("filter=none,two_stage", "method=m1,m2,sft_teacher_cot"), 2000 * 10),
    ],
)
def test_teacher_calls_are_counted_once(tmp_path: Path, words: tuple[str, ...], calls: int) -> None:
    assert f"at most {calls:,} " in calls_of(jobs_of(tmp_path, *words))


def test_methods_without_a_corpus_ask_nobody(tmp_path: Path) -> None:
    assert calls_of(jobs_of(tmp_path, "method=sft,zero_shot")) == "Teacher calls: none."


@pytest.mark.usefixtures("four_cards")
@pytest.mark.parametrize(
    ("trainer", "launcher", "environment", "message"),
    [
        ({}, {"tasks_per_node": 2}, {}, "this whole command 2 times.*tasks_per_node=1"),
        ({}, None, {"LOCAL_RANK": "0", "WORLD_SIZE": "4"}, "4 times.*without torchrun"),
        ({}, None, {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}, "srun --ntasks=1"),
        ({}, {"_target_": JOBLIB, "n_jobs": 2}, {}, "hydra/launcher=basic"),
        ({"devices": 5}, {}, {}, r"4 can be seen here.*trainer\.devices=4"),
    ],
)
def test_devices_that_would_not_be_there_are_refused(
    trainer: dict, launcher: dict | None, environment: dict[str, str], message: str
) -> None:
    config = job_config(**{"devices": 2, **trainer})
    with pytest.raises(ConfigError, match=message):
        check_processes(config, launcher, environment)


@pytest.mark.usefixtures("four_cards")
def test_a_job_starts_its_processes_itself_wherever_it_is_alone() -> None:
    config = job_config(devices=2)
    check_processes(config, None, {})
    check_processes(config, {"_target_": SLURM, "tasks_per_node": 1}, {})
    check_processes(job_config(devices=8), {"_target_": SLURM, "tasks_per_node": 1}, {})
    check_processes(config, None, {"SLURM_PROCID": "0", "SLURM_NTASKS": "2"})  # sbatch, once
    check_processes(job_config(devices=2, accelerator="cpu"), {"_target_": JOBLIB, "n_jobs": 2}, {})
    check_processes(job_config(), {"_target_": JOBLIB, "n_jobs": 2, "tasks_per_node": 2}, {})
    assert claim_card(config, JOBLIB) is None


def job_config(**trainer: object) -> Config:
    from plan_tuning.config.data import MicroworldDataConfig
    from plan_tuning.config.training import TrainerConfig

    return Config(
        data=MicroworldDataConfig(name="microworld"),
        trainer=dataclasses.replace(TrainerConfig(), **trainer),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("cards", "taken", "worker", "expected"),
    [
        (["0", "1"], set(), 7, "0"),
        (["0", "1"], {"0"}, 7, "1"),
        (["0", "1"], {"0", "1"}, 7, "1"),  # more workers than cards: they share by turns
        (["0", "1"], {"0", "1"}, 8, "0"),
        (["MIG-a"], set(), 3, "MIG-a"),
        ([], set(), 3, None),
    ],
)
def test_cards_are_dealt_out(
    cards: list[str], taken: set[str], worker: int, expected: str | None
) -> None:
    assert deal(cards, taken, worker) == expected


@pytest.fixture
def four_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,6,7")
    monkeypatch.setattr(launching, "_claim", [])


@pytest.mark.usefixtures("four_cards")
def test_a_worker_claims_the_first_card_that_no_other_process_holds(tmp_path: Path) -> None:
    with filelock.FileLock(tmp_path / "2.lock"):
        assert claim_card(job_config(), JOBLIB, tmp_path) == "3"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    assert claim_card(job_config(), JOBLIB, tmp_path) is None, "one claim a process"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"


@pytest.mark.usefixtures("four_cards")
@pytest.mark.parametrize(
    ("launcher", "accelerator"), [(JOBLIB, "cpu"), (SLURM, "auto"), ("BasicLauncher", "cuda")]
)
def test_no_card_is_claimed_where_nobody_shares_one(
    tmp_path: Path, launcher: str, accelerator: str
) -> None:
    assert claim_card(job_config(accelerator=accelerator), launcher, tmp_path) is None
    assert visible_cards() == ["2", "3", "6", "7"]


def _claim_and_wait(folder: str, results: multiprocessing.Queue, go: object) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = "0,1,2"
    results.put(claim_card(job_config(), JOBLIB, Path(folder)))
    go.wait(30)  # type: ignore[attr-defined]


def test_workers_at_the_same_time_have_different_cards(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results, go = context.Queue(), context.Event()
    workers = [
        context.Process(target=_claim_and_wait, args=(str(tmp_path), results, go)) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    claimed = sorted(results.get(timeout=60) for _ in workers)
    go.set()
    for worker in workers:
        worker.join()
    assert claimed == ["0", "1", "2"]
    assert deal(["0", "1", "2"], set(), 0) == "0"
    with filelock.FileLock(tmp_path / "0.lock", timeout=0):
        pass  # a worker that ended leaves its card


def test_the_plan_has_a_column_for_every_kind_of_stage(tmp_path: Path, capsys) -> None:
    """A plan of 80 columns and more: each cell under its own heading."""
    jobs = jobs_of(tmp_path, "method=grpo,sft", "reward=answer", "logger=csv")
    print_plan(jobs, tmp_path / "s")
    text = capsys.readouterr().out
    (head,) = [line for line in text.splitlines() if " job " in line]
    names = [cell.strip() for cell in head.strip("┃").split("┃")]
    assert names == ["job", "base", "corpus", "start", "student", "predictions"]
    rows = [line.strip("│").split("│") for line in text.splitlines() if line.startswith("│")]
    cells = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}
    assert cells["method=grpo"] == ["build", "build", "build", "build", "build 4"]
    assert cells["method=sft"] == ["shared", "-", "-", "build", "build 4"]
    assert "In all jobs: reward=answer" in text
    print_plan(jobs[1:], tmp_path / "s")
    assert " start " not in capsys.readouterr().out


def test_several_experiments_in_one_command_are_refused(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        jobs_of(tmp_path, "experiment=micro_main,micro_filtering")
    assert "plan-tuning compare" in capsys.readouterr().err


def test_a_debug_job_has_a_folder_of_its_own(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, "method=sft", "debug=none,fast")
    assert len({job.name for job in jobs}) == 2


def test_results_of_other_settings_are_not_written_over(tmp_path: Path, capsys) -> None:
    (job,) = jobs_of(tmp_path, "method=sft", "seed=1")
    folder = tmp_path / job.name
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps({"status": "completed", "key": "another"}))
    with pytest.raises(SystemExit, match="2"):
        check_folders([job], tmp_path)
    assert "sweep_name=" in capsys.readouterr().err
    for kept in (
        {"status": "failed", "key": "another"},
        {"status": "completed", "key": job.plan.key},
    ):
        (folder / "result.json").write_text(json.dumps(kept))
        check_folders([job], tmp_path)
    with pytest.raises(SystemExit, match="2"):
        check_folders([job, job], tmp_path)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_lost_worker_costs_no_other_job(tmp_path: Path, times: int) -> None:
    """A launcher that loses its workers loses all jobs of the batch; those go on."""
    launches: list[list[str]] = []

    def seeds_of(batch: list[list[str]]) -> list[str]:
        return [next(word for word in words if word.startswith("seed=")) for words in batch]

    def end(seed: int, status: str) -> None:
        folder = tmp_path / jobs[seed].name
        folder.mkdir(exist_ok=True)
        ended = {"status": status, "key": jobs[seed].plan.key, "error": {"message": "no rows"}}
        (folder / "result.json").write_text(json.dumps(ended))

    class Losing:
        def launch(self, batch: list[list[str]], initial_job_idx: int) -> list[JobReturn]:
            launches.append(seeds_of(batch))
            if len(launches) == 1:
                end(0, "completed")
                end(3, "failed")
            if len(launches) <= times and "seed=1" in launches[-1]:
                raise BrokenProcessPool("a process was terminated abruptly")
            return [JobReturn(overrides=words, status=JobStatus.COMPLETED) for words in batch]

    jobs = jobs_of(tmp_path, "method=sft", "seed=0,1,2,3")
    end(2, "failed")  # of an earlier sweep: it says nothing about this one
    past = time.time() - 60
    os.utime(tmp_path / jobs[2].name / "result.json", (past, past))
    with sweeper_of(f"paths.outputs={tmp_path}") as sweeper:
        sweeper.launcher = Losing()
        found = sweeper._launch(jobs, tmp_path, 0)
    assert launches[:2] == [["seed=0", "seed=1", "seed=2", "seed=3"], ["seed=1", "seed=2"]]
    assert launches[2:] == ([["seed=1"], ["seed=2"]] if times > 1 else [])
    states = dict(zip(seeds_of([item.overrides for item in found]), found, strict=True))
    completed = {seed for seed, item in states.items() if item.status is JobStatus.COMPLETED}
    assert len(states) == 4
    assert completed == {"seed=0", "seed=2"} | ({"seed=1"} if times < 3 else set())
