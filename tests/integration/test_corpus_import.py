"""An imported corpus as jobs take it: the printed command, test problems, a dry run's filters."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from composition import config_of
from imported_rows import ALL_KEYS, KEYS, ROWS, SET, Rows, imported, run, write

from plan_tuning.artifacts import is_complete
from plan_tuning.config.checks import ConfigError
from plan_tuning.job.dry_run import findings
from plan_tuning.job.graph import job_graph

pytestmark = pytest.mark.integration


def words_of(folder: Path, corpus: Path) -> list[str]:
    tested = write(folder / "tested.jsonl", [{"problem": "1 + 1?", "answer": "2"}])
    return [f"corpus.path={corpus}", "model=tiny_qwen3", f"paths.outputs={folder / 'jobs'}",
            f"evaluation.benchmarks=['mine={tested}']"]  # fmt: skip


def test_plans_of_test_problems_are_never_trained_on(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.jsonl", ROWS)
    corpus = imported(tmp_path, file, *ALL_KEYS, "--split", "test")
    assert is_complete(corpus)
    for method in ("m1", "m2", "grpo"):
        with pytest.raises(ConfigError, match=rf"evaluation\.plan_corpus={corpus}"):
            job_graph(config_of(*words_of(tmp_path, corpus), f"method={method}"))
    swap = ("method=m2", "evaluation.plan=teacher", f"evaluation.plan_corpus={corpus}")
    graph = job_graph(config_of(*words_of(tmp_path, corpus)[1:], *swap))
    assert {stage.fingerprint for stage in graph.plan_corpora} == {corpus.name}


def test_a_dry_run_filters_what_was_imported(tmp_path: Path) -> None:
    corpus = imported(tmp_path, write(tmp_path / "mine.jsonl", ROWS), *KEYS)

    def found(*words: str) -> list[str]:
        config = config_of(*words_of(tmp_path, corpus), *words)
        return [str(one) for one in findings([(config, job_graph(config))])]

    good = f"ok: {corpus}: filter=none keeps 2 of 3 trajectories, of 2 of 2 problems"
    assert good in found("method=m2", "filter=none")
    (error,) = [line for line in found("method=m1", "filter=none") if line.startswith("error")]
    assert "imported without executions" in error
    assert not any(str(corpus) in line for line in found("method=sft", "data.limit=1"))


SOCRATIC = [
    {"question": f"How many are {n} and 2?",
     "answer": f"How many? ** {n}+2=<<{n}+2={n + 2}>>{n + 2}\n#### {n + 2}"} for n in range(4)
]  # fmt: skip
CHAT = [
    {"messages": [{"role": "user", "content": "Is it so?"},
                  {"role": "assistant", "content": "<plan>1. Look.</plan>\\boxed{yes}"}],
     "answer": "yes"}
]  # fmt: skip
YES_OR_NO = [{"q": "Is it so?", "a": "yes", "plan": "1. Look.", "work": "It is \\boxed{yes}."}]
OWN = [{"problem": "Is it?", "answer": "no"}]


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("rows", "words", "tested"),
    [
        (SOCRATIC, (), [{**SOCRATIC[0], "question": "How many are 9 and 2?"}]),
        (ROWS, ALL_KEYS, [{"question": "1 + 7?", "gold": "8"}]),
        (
            YES_OR_NO,
            ("--problem-key", "q", "--answer-key", "a", "--style", "strategyqa"),
            [{"q": "Is it?", "a": True}],
        ),
        (CHAT, ("--style", "strategyqa"), OWN),
        ([{**row, "gold": "0"} for row in ROWS], (*KEYS[:2], "--problems", "known={}"), None),
    ],
    ids=["socratic", "flat", "yes_or_no", "chat", "joined"],
)
def test_the_command_that_is_printed_works(
    tmp_path: Path, rows: Rows, words: tuple[str, ...], tested: Rows | None, split: str
) -> None:
    known = write(tmp_path / "known.jsonl", SET)
    file = write(tmp_path / "mine.jsonl", rows)
    ran = run(tmp_path, file, *(word.format(known) for word in words), "--split", split)
    assert ran.exit_code == 0, ran.output + str(ran.exception)
    text = next(one for one in ran.output.splitlines() if one.startswith("use it: "))
    command = shlex.split(text.removeprefix("use it: "))[2:]  # another model: this one is there
    if tested is not None:
        place = str(write(tmp_path / "tested.jsonl", tested))
        command = [word.replace("TEST_FILE", place) for word in command]
    elif split == "train":  # what is joined is what is trained on: another file is needed
        other = write(tmp_path / "other.jsonl", OWN[:1])
        command = [word.replace(str(known), str(other)) for word in command]
    config = config_of("model=tiny_qwen3", f"paths.outputs={tmp_path / 'out'}", *command)
    found = findings([(config, job_graph(config))])
    assert [one.text for one in found if one.kind == "error"] == []
