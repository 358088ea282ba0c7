"""What does not exist is answered by what may be meant, from the whole configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from composition import CONF, config_of
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException, MissingConfigException

from plan_tuning.artifacts import hashed_values
from plan_tuning.config.checks import ConfigError
from plan_tuning.config.explanation import explanations
from plan_tuning.config.registration import explained, schemas
from plan_tuning.config.suggestions import RENAMED, known_keys
from plan_tuning.config.teacher import DistillationConfig


def answer(*words: str, folder: Path | None = None) -> str:
    """What a command line that cannot be composed is answered."""
    own = [] if folder is None else [f"hydra.searchpath=[file://{folder}]"]
    with (
        initialize_config_dir(str(CONF), version_base="1.3"),
        pytest.raises((ConfigCompositionException, MissingConfigException)) as caught,
    ):
        compose("config", [*words, *own])
    folders = [CONF] if folder is None else [CONF, folder]
    return str(explained(caught.value, words, CONF, folders))


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("trainer.learnin_rate=1", "trainer.learning_rate=1"),
        ("lora_rank=8", "adapter.rank=8"),
        ("adapter.r=8", "adapter.rank=8"),
        ("method.group_size=4", "method=grpo method.group_size=4"),
        ("method.num_generations=4", "method=grpo method.group_size=4"),
        ("num_candidates=3", "distillation.num_candidates=3"),
        ("filter.threshold=70", "filter.plan_score_threshold=70"),
        ("metod=m2", "method=m2"),
        ("method=m3", "method=m"),
        ("model=lora", "adapter=lora"),
        ("experiment=quikstart", "experiment=quickstart"),
        ("~trainer.epoch", "trainer.epochs"),
    ],
)
def test_the_nearest_of_the_whole_configuration(word: str, meant: str) -> None:
    found = answer(word)
    assert f"Try for example: {meant}" in found
    assert "+" not in found


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_spelling_names_the_new_one(old: str, new: str) -> None:
    assert answer(f"{old}=9").endswith(f"it is spelled {new}. Try for example: {new}=9")
    assert new in known_keys(CONF, schemas())


def test_limits_are_hashed_by_their_first_names() -> None:
    limits = {f"max_{role}_tokens": 9 for role in ("constraints", "plan", "verify", "execute")}
    hashed = hashed_values(DistillationConfig(**limits))
    assert set(hashed) == {f"max_tokens_{role}" for role in ("constraints", "plan", "verify",
                                                             "execute")}  # fmt: skip


def test_a_mistake_in_a_file_of_ones_own_is_named_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text("name: m1\nplan_wieght: 2\n")
    found = answer("method=mine", folder=tmp_path)
    assert "method.plan_weight" in found
    assert "method/mine" in found


def test_a_choice_that_resembles_none_may_be_ones_own() -> None:
    found = answer("reward=mine")
    assert "--config-dir FOLDER reward=mine" in found
    assert "merge=linear" not in found


def test_a_students_preset_is_no_executor() -> None:
    found = answer("data=gsm8k", "model=qwen3_4b", "executor=model",
                   "model@executor.model=tiny_llama")  # fmt: skip
    assert "trainer" in found
    weights = found.partition("Try for example: ")[2].split()
    config = config_of("data=gsm8k", "model=qwen3_4b", "teacher=replay", "method=m2",
                       "executor=model", *weights)  # fmt: skip
    assert config.executor.model is not None
    assert (config.executor.model.kind, config.executor.model.family) == ("tiny", "llama")
    assert config.trainer.learning_rate == 5e-6, "an executor brings no trainer"


def test_help_of_a_choice_shows_its_knobs_and_where_they_are_explained() -> None:
    (page,) = explanations(["--help", "trainer=micro", "seed=3"], [CONF])
    assert page.index("== trainer=micro") < page.index("== trainer=paper")
    assert "learning_rate: 2e-3" in page
    assert "share of the problems held out" in page
    (page,) = explanations(["method=grpo"], [CONF])
    assert "group_size: 8                 # completions per problem" in page
    with pytest.raises(ConfigError, match=r"trainer=micr .*trainer=micro"):
        explanations(["trainer=micr"], [CONF])
    assert explanations(["seed=3"], [CONF]) == []


def test_help_explains_ones_own_choices(tmp_path: Path) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text("# Mine.\ndefaults:\n  - m1\n  - _self_\n")
    (page,) = explanations(["method=mine"], [CONF, tmp_path])
    assert "# Mine." in page
    assert "plan_weight: 1.0" in page


def test_every_key_that_is_known_can_be_set() -> None:
    keys = known_keys(CONF, schemas())
    assert keys["method.group_size"] == "method=grpo"
    assert keys["data.mixing.strategy"].startswith("data=")
    assert keys["trainer.epochs"] == ""
    assert config_of(keys["method.group_size"], "method.group_size=4").method.name == "grpo"
