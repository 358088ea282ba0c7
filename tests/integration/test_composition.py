"""Compositions that share what they read: equal to Hydra's own, never out of date, no leaks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Any

import pytest
from composition import CONF
from hydra import compose, initialize_config_dir
from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, ListConfig, OmegaConf

from plan_tuning import main  # noqa: F401 - registers schemas, and lets compositions share
from plan_tuning.config import composition
from plan_tuning.config.composition import remember_compositions

pytestmark = pytest.mark.integration

LINES = [
    "",
    "experiment=quickstart seed=3",
    "experiment=main method=m2 filter=plan_only data.limit=8",
    "method=grpo reward=plan_and_answer start=sft",
    "method=sft adapter=qlora model=qwen3_1_7b trainer=gpu_bf16",
    "method=m1 teacher@executor.teacher=replay executor=teacher",
    "model@executor.model=micro executor=model start=path",
    "model=tiny_llama +data.benchmarks_dir=x ~debug",
    "hydra/launcher=joblib hydra.launcher.n_jobs=2",
    "method=none_such",
    "seed=many",
    "no_such_key=1",
]
# Hydra's own methods, by where they are looked up.
OWN = [
    (ConfigRepository, "load_config", composition._load),
    (ConfigLoaderImpl, "_compose_config_from_defaults_list", composition._merge),
    (CachingConfigRepository, "__init__", composition._init),
    (defaults_list, "_create_interpolation_map", composition._map_choices),
]


def composed(line: str = "", folder: Path = CONF) -> DictConfig:
    with initialize_config_dir(str(folder), version_base="1.3"):
        return compose("config", line.split(), return_hydra_config=folder == CONF)


def nodes(node: Any) -> Any:
    """All that the nodes of a configuration know of themselves."""
    known = node._metadata
    own = (type(node), known.ref_type, known.object_type, known.optional, known.key, known.flags)
    content = node._content if isinstance(node, DictConfig | ListConfig) else node._value()
    if isinstance(content, dict):
        return own, [(key, nodes(child)) for key, child in content.items()]
    if isinstance(content, list):
        return own, [nodes(child) for child in content]
    return own, content


def outcome(line: str) -> Any:
    try:
        return nodes(composed(line))
    except HydraException as error:
        return type(error), str(error)


@pytest.fixture
def forgotten() -> None:
    """Nothing is remembered when the test begins."""
    composition._entries.clear()


@pytest.fixture
def schema() -> Iterator[ConfigStore]:
    """A store of schemas that forgets `own_schema` afterwards."""
    store = ConfigStore.instance()
    yield store
    store.repo.pop("own_schema.yaml", None)


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("line", LINES)
def test_equal_to_hydras_own(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as plain:
        for place, name, method in OWN:
            plain.setattr(place, name, method)
        expected = outcome(line)
        assert not composition._entries
    assert outcome(line) == expected
    first = len(composition._entries)
    assert first
    assert outcome(line) == expected
    assert len(composition._entries) == first  # the second time all was known


def test_it_may_be_asked_for_twice() -> None:
    remember_compositions()
    assert composition._load is not ConfigRepository.load_config
    assert outcome("seed=1") == outcome("seed=1")


def test_an_edited_file_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("value: 1\n", encoding="utf-8")
    times = os.stat(file)
    assert composed("", tmp_path).value == 1
    file.write_text("value: 2\n", encoding="utf-8")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # nothing but the text tells
    assert composed("", tmp_path).value == 2
    file.unlink()
    with pytest.raises(MissingConfigException, match="Cannot find primary config"):
        composed("", tmp_path)


def test_an_edited_choice_is_seen(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("defaults: [_self_, size: small]\n", encoding="utf-8")
    (tmp_path / "size").mkdir()
    (tmp_path / "size" / "small.yaml").write_text("rows: 1\n", encoding="utf-8")
    assert composed("", tmp_path) == {"size": {"rows": 1}}
    (tmp_path / "size" / "small.yaml").write_text("# @package _global_\nrows: 1\n", "utf-8")
    assert composed("", tmp_path) == {"rows": 1}
    with pytest.raises(MissingConfigException, match="Could not find 'size/large'"):
        composed("size=large", tmp_path)
    (tmp_path / "size" / "large.yaml").write_text("rows: 9\n", encoding="utf-8")
    assert composed("size=large", tmp_path) == {"size": {"rows": 9}}


def test_a_choice_may_follow_another_one(tmp_path: Path) -> None:
    listed = "defaults: [_self_, size: small, speed: '${size}']\n"
    (tmp_path / "config.yaml").write_text(listed, encoding="utf-8")
    for group, name in [("size", "small"), ("size", "large"), ("speed", "small"),
                        ("speed", "large")]:  # fmt: skip
        (tmp_path / group).mkdir(exist_ok=True)
        (tmp_path / group / f"{name}.yaml").write_text(f"is: {name}\n", encoding="utf-8")
    for name in ("small", "large", "small"):
        assert composed(f"size={name}", tmp_path) == {"size": {"is": name}, "speed": {"is": name}}


def test_another_folder_of_choices_is_another_configuration(tmp_path: Path) -> None:
    (tmp_path / "filter").mkdir()
    (tmp_path / "filter" / "none.yaml").write_text("name: mine\n", encoding="utf-8")
    (tmp_path / "filter" / "mine.yaml").write_text("name: none\nmax_rows: 7\n", encoding="utf-8")
    search = f"hydra.searchpath=[file://{tmp_path}]"
    assert composed(f"{search} filter=mine").filter.max_rows == 7
    assert composed(f"{search} filter=none").filter.name == "none"  # the project's comes first
    with pytest.raises(MissingConfigException, match="Could not find 'filter/mine'"):
        composed("filter=mine")


def test_what_one_changes_is_nobody_elses() -> None:
    expected = outcome("method=m2")
    config = composed("method=m2")
    OmegaConf.set_struct(config, False)
    config.method.name = "another"
    config.hydra.overrides.task.append("seed=7")
    config.tags.append("word")
    del config.data
    assert outcome("method=m2") == expected


def test_a_schema_that_is_stored_later_is_seen(tmp_path: Path, schema: ConfigStore) -> None:
    @dataclass
    class Wide:
        rows: int = 1
        columns: int = 2

    (tmp_path / "config.yaml").write_text("defaults: [own_schema, _self_]\n", encoding="utf-8")
    schema.store("own_schema", {"rows": 1})
    assert composed("", tmp_path) == {"rows": 1}
    schema.store("own_schema", {"rows": 2})
    assert composed("", tmp_path) == {"rows": 2}
    schema.store("own_schema", Wide)  # of a class that cannot be pickled, and is not remembered
    for _ in range(2):
        config = composed("columns=4", tmp_path)
        assert config == {"rows": 1, "columns": 4}
        assert OmegaConf.get_type(config) is Wide
    other = make_dataclass("Wide", [("rows", int, 3), ("columns", int, 5)])
    schema.store("own_schema", other)
    assert composed("", tmp_path) == {"rows": 3, "columns": 5}


@pytest.mark.usefixtures("forgotten")
def test_the_longest_unused_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composition, "MOST_ENTRIES", 3)
    asked: list[str] = []

    def value(name: str) -> str:
        return composition._remembered(name, lambda: asked.append(name) or name.upper())

    assert [value(name) for name in "abcadab"] == list("ABCADAB")
    assert asked == list("abcdb")
