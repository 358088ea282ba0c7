"""Sweeps before they start: unions of grids, equal jobs, their list, and who gets which card."""

from __future__ import annotations

import dataclasses
import io
import json
import multiprocessing
import os
from pathlib import Path

import filelock
import pytest
from composition import calls_of, jobs_of, sweeper_of

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.registration import ExperimentSearchPath, add_experiments
from plan_tuning.config.run import Config
from plan_tuning.sweep import devices
from plan_tuning.sweep.devices import check_processes, claim_card, deal, visible_cards
from plan_tuning.sweep.jobs import Job, check_names, job_table, print_jobs
from plan_tuning.sweep.sweeper import grid_arguments

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


GRID_FILE = """
sweep_name: mine
hydra:
  mode: MULTIRUN
  sweeper:
    grids:
      - {method: sft, seed: '0,1'}
      - {method: m1, filter: 'none,two_stage', seed: '0,1'}
"""


def test_experiments_lie_beside_ones_own_choices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--config-dir DIR`` finds DIR/experiments/mine.yaml."""
    monkeypatch.setattr(ExperimentSearchPath, "own_folders", [])
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.yaml").write_text(GRID_FILE)
    add_experiments([tmp_path, tmp_path / "elsewhere"])
    jobs = jobs_of(tmp_path / "outputs", "experiment=mine")
    assert len(jobs) == 6
    assert {job.config.sweep_name for job in jobs} == {"mine"}


def test_a_word_that_replaces_an_arm_of_a_grid_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with sweeper_of(f"paths.outputs={tmp_path}") as sweeper:
        sweeper.grids = [
            {"method": "sft,m1", "seed": "0,1"},
            {"method": "m2", "seed": "0,1"},
        ]
        words = [f"paths.outputs={tmp_path}"]
        assert len(sweeper.jobs([*words, "seed=0,1"])) == 6
        assert "replaces" not in caplog.text
        assert len(sweeper.jobs([*words, "method=sft,m1"])) == 4
    assert "method=sft,m1 replaces method=m2 of grid 2" in caplog.text
    assert "of grid 1" not in caplog.text
    assert "4 jobs instead of 6" in caplog.text


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
    monkeypatch.setattr(devices, "_claim", [])


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


@pytest.mark.parametrize(("method", "has_start"), [("m1", False), ("grpo", True)])
def test_the_list_has_a_header_over_every_cell(
    tmp_path: Path, method: str, has_start: bool
) -> None:
    jobs = jobs_of(tmp_path, f"method=sft,{method}")
    table = job_table(jobs, "title")
    headers = [str(column.header) for column in table.columns]
    assert ("start" in headers) == has_start
    assert headers[0] == "job"
    assert headers[-1] == "predictions"
    cells = {str(column.header): list(column.cells) for column in table.columns}
    assert {len(rows) for rows in cells.values()} == {len(jobs)}
    assert cells["corpus"] == ["-", "build"], "sft needs no corpus"
    assert cells["student"] == ["build", "build"]
    if has_start:
        assert cells["start"] == ["-", "build"]


def test_the_list_fits_eighty_columns_where_it_is_piped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    piped = io.StringIO()
    monkeypatch.setattr("sys.stdout", piped)
    jobs = jobs_of(tmp_path, "experiment=micro_rewards", "seed=0")
    print_jobs(jobs, Path("micro_rewards"))
    table = [line for line in piped.getvalue().splitlines() if line.startswith(("┃", "│"))]
    assert {len(line) for line in table} == {80}
    for header in ("base", "corpus", "start", "student", "predictions"):
        assert header in table[0], "a header that is cut says nothing"
    assert sum("reward=" in line for line in table) >= len(jobs)


@pytest.mark.parametrize(
    ("words", "explanation"),
    [
        ("experiment=micro_main,micro_filtering", "one after another"),
        ("sweep_name=a,b", "the sweep's folder"),
        ("dry_run=true,false", "the whole sweep"),
    ],
)
def test_what_a_sweep_has_one_of_is_not_swept(
    tmp_path: Path, words: str, explanation: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with sweeper_of(f"paths.outputs={tmp_path}") as sweeper, pytest.raises(SystemExit) as stopped:
        sweeper.jobs([words])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert words in message
    assert explanation in message


def test_a_debug_run_has_a_folder_of_its_own(tmp_path: Path) -> None:
    real, cheap = (
        jobs_of(tmp_path, "experiment=micro_filtering", "seed=0", *words)
        for words in ((), ("debug=fast",))
    )
    assert not {job.name for job in real} & {job.name for job in cheap}


def test_two_jobs_of_one_folder_are_refused(tmp_path: Path) -> None:
    one, two = jobs_of(tmp_path, "method=sft,m1")
    same = Job(two.overrides, two.config, two.graph, one.name)
    check_names([one, two])
    with pytest.raises(ConfigError, match="are both called"):
        check_names([one, same])


def test_a_finished_result_of_other_settings_is_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (job,) = jobs_of(tmp_path, "method=sft", "sweep_name=mine")
    path = tmp_path / "mine" / job.name / "result.json"
    path.parent.mkdir(parents=True)
    earlier = {"schema": 1, "sweep": "mine"}
    for status, key in (("completed", job.graph.fingerprint), ("failed", "other")):
        path.write_text(json.dumps({**earlier, "status": status, "key": key}))
        assert len(jobs_of(tmp_path, "method=sft", "sweep_name=mine")) == 1
    path.write_text(json.dumps({**earlier, "status": "completed", "key": "other"}))
    with pytest.raises(SystemExit) as stopped:
        jobs_of(tmp_path, "method=sft", "sweep_name=mine")
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert "sweep_name=mine is not allowed" in message
    assert "sweep_name=other" in message
    assert "no job was started" in message
