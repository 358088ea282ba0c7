"""Shapes of models without their weights, and the table of published ones."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from composition import CONF, config_of
from omegaconf import OmegaConf

from plan_tuning.config.model import ModelConfig
from plan_tuning.students import shapes
from plan_tuning.students.shapes import PUBLISHED, TABLE, Shape, parse_shape, shape_of

# Parameters of the language model that are published, in millions, and the places they are rounded
# to: Qwen3's model cards (parameters, and those without embeddings); Gemma 3's report, table 1
# (embeddings and others, without the vision encoder's 417M); Meta's and SmolLM2's cards.
COUNTS = {
    "Qwen/Qwen3-0.6B": (600, 440, 10),
    "Qwen/Qwen3-1.7B": (1700, 1400, 100),
    "Qwen/Qwen3-4B": (4000, 3600, 100),
    "Qwen/Qwen3-8B": (8200, 6950, 50),
    "google/gemma-3-1b-it": (302 + 698, 698, 1),
    "google/gemma-3-4b-it": (675 + 3209, 3209, 5),
    "google/gemma-3-12b-it": (1012 + 10_759, 10_759, 10),
    "meta-llama/Llama-3.2-1B-Instruct": (1230, None, 10),
    "HuggingFaceTB/SmolLM2-135M-Instruct": (134.5, None, 0.1),
    "HuggingFaceTB/SmolLM2-360M-Instruct": (362, None, 1),
}
GEMMA_4B = {  # as published: values that are the class's defaults are left out
    "architectures": ["Gemma3ForConditionalGeneration"],
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560, "intermediate_size": 10_240, "model_type": "gemma3_text",
        "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "vision_config": {"hidden_size": 1152, "num_hidden_layers": 27},
}  # fmt: skip
QWEN_8B = {
    "head_dim": 128, "hidden_size": 4096, "intermediate_size": 12_288, "max_window_layers": 36,
    "model_type": "qwen3", "num_attention_heads": 32, "num_hidden_layers": 36,
    "num_key_value_heads": 8, "sliding_window": None, "tie_word_embeddings": False,
    "use_sliding_window": False, "vocab_size": 151_936,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_the_table_has_the_published_numbers_of_parameters(name: str) -> None:
    whole, body, places = COUNTS[name]
    shape = PUBLISHED[name]
    assert shape.parameters / 1e6 == pytest.approx(whole, abs=places)
    if body is not None:
        tables = shape.embedding * (1 if shape.is_tied else 2)
        assert (shape.parameters - tables) / 1e6 == pytest.approx(body, abs=places)


def test_every_preset_of_a_pretrained_model_is_in_the_table() -> None:
    paths = {OmegaConf.load(path).get("path") for path in (CONF / "model").glob("*.yaml")}
    hub_ids = {path for path in paths if path and not path.endswith(".gguf")}
    assert hub_ids == PUBLISHED.keys() == COUNTS.keys()
    for file in {path for path in paths if path} - hub_ids:
        assert shape_of(ModelConfig(name="quantised", path=file))


def test_a_configuration_file_is_read() -> None:
    assert parse_shape(QWEN_8B) == PUBLISHED["Qwen/Qwen3-8B"]
    assert parse_shape(GEMMA_4B) == PUBLISHED["google/gemma-3-4b-it"]
    assert parse_shape({**QWEN_8B, "model_type": "mamba"}) is None
    assert parse_shape({"model_type": "llama"}) is None


def test_a_folder_comes_before_the_table(tmp_path: Path) -> None:
    folder = tmp_path / "student"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(QWEN_8B), encoding="utf-8")
    model = ModelConfig(name="mine", path=str(folder))
    assert shape_of(model) == (PUBLISHED["Qwen/Qwen3-8B"], "config.json of student")
    assert shape_of(ModelConfig(name="mine", path="nobody/unknown")) is None


def test_without_hub_and_cache_the_table_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = shape_of(config_of("model=qwen3_4b", "data=gsm8k", "method=sft").model)
    assert found == (PUBLISHED["Qwen/Qwen3-4B"], TABLE)


@pytest.mark.parametrize("family", ["qwen3", "gemma3", "llama"])
def test_tiny_shapes_are_those_of_the_models_that_are_made(family: str) -> None:
    from plan_tuning.students.tiny import build_tiny

    made, _ = build_tiny(family, 0)
    found = shape_of(ModelConfig(name=f"tiny_{family}", kind="tiny", family=family))
    assert found is not None
    assert parse_shape(made.config.to_dict()) == found[0]
    assert found[0].parameters == sum(p.numel() for p in made.parameters())


def test_the_micro_shape_is_that_of_the_model_that_is_made() -> None:
    from plan_tuning.students.micro import build_model, build_tokenizer, world_vocabulary

    model = config_of().model
    made = build_model(model.base, build_tokenizer(world_vocabulary(model.world)), seed=0)
    found = shape_of(model)
    assert found is not None
    assert found[0].parameters == sum(p.numel() for p in made.parameters())
    assert found[0].sliding_layers == made.config.layer_types.count("sliding_attention")


def test_an_image_tower_counts_for_nothing() -> None:
    shape = parse_shape(GEMMA_4B)
    assert isinstance(shape, Shape)
    assert shape.layers == 34
    assert (shape.sliding_layers, shape.window) == (29, 1024)


class Hub(BaseHTTPRequestHandler):
    """Sends on to whatever address a path holds; writes down who was told which token."""

    told: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        self.told.append((self.headers["Host"], self.headers["Authorization"]))
        _, _, target = self.path.partition("?to=")
        self.send_response(307 if target else 200)
        if target:
            self.send_header("Location", target)
        self.end_headers()
        self.wfile.write(b"" if target else b"{}")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def hosts() -> Iterator[tuple[str, str]]:
    """A hub and a store that files lie in."""
    Hub.told.clear()
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Hub) for _ in range(2)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    first, second = (f"127.0.0.1:{server.server_address[1]}" for server in servers)
    yield first, second
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_token_stays_with_the_hub(hosts: tuple[str, str]) -> None:
    hub, store = hosts
    address = f"http://{hub}/a?to=/b?to=http://{store}/c"
    assert shapes._fetched(address, {"Authorization": "Bearer secret"}) == b"{}"
    assert Hub.told == [(hub, "Bearer secret"), (hub, "Bearer secret"), (store, None)]
