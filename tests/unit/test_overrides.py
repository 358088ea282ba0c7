"""The words of a command line: options anywhere, and the quoting that Hydra understands."""

from __future__ import annotations

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from plan_tuning import main  # noqa: F401 - registers schemas and experiments
from plan_tuning.config.checks import ConfigError
from plan_tuning.config.typed import composed
from plan_tuning.sweep.overrides import _quoted, check_overrides, ordered

WORDS = ("compare", "grade")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("-m method=sft,m1 seed=0", "-m method=sft,m1 seed=0"),
        ("method=sft,m1 -m seed=0", "-m method=sft,m1 seed=0"),
        ("method=sft,m1 --multirun seed=0 ~x", "--multirun method=sft,m1 seed=0 ~x"),
        ("a=1 --cfg job b=2 --resolve", "--cfg job --resolve a=1 b=2"),
        ("a=1 --config-dir d b=1 -cn n", "--config-dir d -cn n a=1 b=1"),
        ("", ""),
    ],
)
def test_options_may_stand_anywhere(line: str, expected: str) -> None:
    assert " ".join(ordered(line.split())) == expected


VALUES = ["a=b", "/x(1)/y", "a,b", "it's", 'say "x"', "back\\", 'b\\"q', "[,", "{a", "a b=c",
          "a]b", "#x", "$HOME=", "é=", "\\", "x\\\\=", "{", "}", "'", '"']  # fmt: skip


@pytest.mark.parametrize("value", VALUES)
def test_the_shown_quoting_gives_the_very_text(value: str) -> None:
    override = OverridesParser.create().parse_override(_quoted("data.path", value))
    assert override.value() == value


@pytest.mark.parametrize(
    ("words", "pastes"),
    [
        (["data.path=a=b"], """'data.path="a=b"'"""),
        (["data.path=/x(1)"], """'data.path="/x(1)"'"""),
        (["evaluation.benchmarks=[gsm8k=DIR,math500]"],
         """'evaluation.benchmarks=["gsm8k=DIR",math500]'"""),
        (["evaluation.benchmarks=gsm8k=DIR"], """'evaluation.benchmarks=["gsm8k=DIR"]'"""),
        (["data.path=a,b"], """-m data.path=a,b for a job of each, or 'data.path="a,b"'"""),
        (["tags=a,b"], "-m tags=a,b for a job of each, or 'tags=[a,b]' for one list"),
        (["-m", "seed=0,1", "data.path=a=b"], """'data.path="a=b"'"""),
        (["comapre"], "neither KEY=VALUE nor a subcommand (compare, grade)"),
    ],
)  # fmt: skip
def test_the_message_pastes(words: list[str], pastes: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_overrides(words, WORDS)
    assert pastes in str(refused.value)
    if "'" in pastes and " or " not in pastes:
        check_overrides(shlex.split(pastes), WORDS)


@pytest.mark.parametrize(
    "words",
    [["-m", "seed=0,1"], ["experiment=quickstart", "seed=0,1"], ["hydra.mode=MULTIRUN", "seed=0,1"],
     ["~method"], ["+data.sources.gsm8k={path: DIR}"], ["tags=[a,b]"], ["data.path=a b"]],
)  # fmt: skip
def test_what_works_is_left_alone(words: list[str]) -> None:
    check_overrides(words, WORDS)


def test_a_command_that_is_no_job_composes_as_one_and_says_what_is_wrong() -> None:
    config = composed(["reward.plan.samples=8", "seed=3"])
    assert (config.reward.plan.samples, config.seed) == (8, 3)
    with pytest.raises(ConfigError, match=r"there is no such key.*reward\.plan\.samples"):
        composed(["reward.plan.sampls=8"])
    with pytest.raises(ConfigError, match="overrides=seed is not allowed: KEY=VALUE"):
        composed(["seed"])
