"""A routed student asks each problem's own adapter, also where two problems read alike."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plan_tuning.config.merge import MergeConfig
from plan_tuning.config.training import PromptConfig
from plan_tuning.evaluation.routed_writer import RoutedWriter
from plan_tuning.evaluation.text_writers import FunctionWriter
from plan_tuning.records import Problem
from plan_tuning.students.routing import write_router

SOURCES = ("one", "other")


def adapter(folder: Path) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "base"}))
    (folder / "manifest.json").write_text("{}")
    return folder


class Signed(FunctionWriter):
    """Answers every question with the name of its adapter."""

    def __init__(self, folder: Path) -> None:
        super().__init__(lambda problem, plan: folder.name)

    def write(self, keys: Sequence[Any], asked: Sequence[Any], **settings: Any) -> list[Any]:
        self._meant = {messages[-1]["content"]: ("", "") for messages in asked}
        return super().write(keys, asked, **settings)


def test_equal_texts_of_two_sources_go_to_their_own_adapters(tmp_path: Path) -> None:
    found = {source: adapter(tmp_path / source) for source in SOURCES}
    write_router(tmp_path / "routed", found, MergeConfig("router"), {})
    writer = RoutedWriter(tmp_path / "routed", Signed)
    problems = [
        Problem(id=source, problem="1 + 1?", answer="2", solution="", source=source, style="math")
        for source in SOURCES
    ]
    asked = [writer.request(problem, "m1", PromptConfig()) for problem in problems]
    assert asked[0] == asked[1]
    settings: dict[str, Any] = {"max_new_tokens": 4, "progress": None}
    for phase in ("planning", "executing"):
        keys = [(problem.id, 0) for problem in problems]
        answers = writer.write(keys, asked, phase=phase, **settings)
        assert [answer.text for answer in answers] == list(SOURCES)
    counts = dict.fromkeys(SOURCES, 1)
    assert writer.facts()["routed"] == {"planning": counts, "executing": counts}
