"""A blank path, as of a variable that the shell does not know, is refused wherever it is given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from plan_tuning.cli import check_words
from plan_tuning.config.checks import ConfigError
from plan_tuning.config.registration import register, resource_folder
from plan_tuning.config.typed import typed

register()
# Together these bring every key that names a file, a folder or an address.
VARIANTS = [
    (),
    ("method=grpo", "reward=plan", "executor=model"),
    ("data=gsm8k_math", "model=tiny_qwen3", "method=sft"),
]


@pytest.fixture(autouse=True)
def hydra_app() -> Iterator[None]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(resource_folder("conf")), version_base="1.3"):
        yield
    GlobalHydra.instance().clear()


def optional_keys(node: Any, prefix: str = "") -> Iterator[tuple[str, type]]:
    """Keys of texts that may be null, with the schema that each belongs to."""
    kind: Any = OmegaConf.get_type(node)
    hints = {f.name: str(f.type) for f in fields(kind)} if is_dataclass(kind) else {}
    for name in node:
        if hints.get(name) == "str | None":
            yield f"{prefix}{name}", kind
        elif not OmegaConf.is_missing(node, name) and isinstance(node[name], DictConfig):
            yield from optional_keys(node[name], f"{prefix}{name}.")


@pytest.mark.parametrize("blank", ["", "  "], ids=["empty", "spaces"])
def test_every_text_that_may_be_null_may_not_be_blank(blank: str) -> None:
    tried: set[tuple[str, type]] = set()
    for variant in VARIANTS:
        composed = compose("config", list(variant))
        OmegaConf.set_readonly(composed, False)
        found = set(optional_keys(composed)) - tried
        assert found, f"{variant} has no schema that the variants before it do not have"
        tried |= found
        for key, _ in sorted(found, key=str):
            spoilt = composed.copy()
            OmegaConf.update(spoilt, key, blank)
            with pytest.raises(ConfigError, match=rf"^{key.replace('.', '[.]')}='{blank}' .*unset"):
                typed(spoilt)
    paths = {"data.path", "corpus.path", "student.path", "start.path", "model.path"}
    assert paths <= {key for key, _ in tried}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("paths.outputs=", r"paths\.outputs=''.*unset.*paths\.outputs=multirun_outputs"),
        ("paths.outputs='  '", r"paths\.outputs='  '"),
        ("evaluation.benchmarks=['gsm8k= ']", r"gsm8k= .*\[\"gsm8k=FOLDER\"\]"),
    ],
)
def test_blank_paths_that_always_have_a_value(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        typed(compose("config", [override]))


@pytest.mark.parametrize("key", ["run", "sweep"])
def test_blank_folders_of_hydra(key: str) -> None:
    composed = compose("config", [f"hydra.{key}.dir="], return_hydra_config=True)
    with pytest.raises(ConfigError, match=rf"hydra\.{key}\.dir='' .*paths\.outputs="):
        typed(composed)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["compare", ""], "compare"),
        (["compare", "x", "--out", " "], "--out"),
        (["grade", "x.jsonl", "--out="], "--out"),
        (["contamination", "--train", "gsm8k", "--test", ""], "--test"),
        (["corpus", "status", "--outputs", ""], "--outputs"),
    ],
)
def test_blank_arguments_of_subcommands(words: list[str], named: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{named}='' .*unset"):
        check_words(words)
    check_words([word.strip() or "x" for word in words if not word.endswith("=")])
