"""Exported students: plain transformers and peft load them and compute the same logits."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.model import AdapterConfig, ModelConfig
from plan_tuning.config.training import MethodConfig, TrainerConfig
from plan_tuning.students.adapters import wrap
from plan_tuning.students.export import export_student
from plan_tuning.students.generation.native_engine import generate
from plan_tuning.students.loading import (
    StudentError,
    cast_weights,
    load_student,
    merge_for_inference,
)
from plan_tuning.students.templates import prompt_ids
from plan_tuning.students.tiny import make_tiny
from plan_tuning.text.formats import render_completion, student_messages
from plan_tuning.training.lightning import TrainingRun
from plan_tuning.training.sft.batches import TrainingRow
from plan_tuning.training.sft.fit import SFTSettings, train_student

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.integration,
    # peft reads a property that transformers has renamed
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),
]

FAMILIES = ("qwen3", "gemma3", "llama")
MESSAGES = student_messages("4 + 3 = ?", method="m2", prompt="matched", style="math")
SAMPLES = {"keys": [("p", 0)], "max_new_tokens": 16}


def model_config(family: str) -> ModelConfig:
    return ModelConfig(name=f"tiny_{family}", kind="tiny", family=family)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Students of every family, fully and with an adapter, beside their bases."""
    root = tmp_path_factory.mktemp("artifacts")
    rows = [
        TrainingRow(
            f"p{index}",
            student_messages(f"{index} + 3 = ?", method="m2", prompt="matched", style="math"),
            render_completion("m2", plan="Add.", execution="", solution="", answer=""),
        )
        for index in range(8)
    ]
    folders = {}
    for family in FAMILIES:
        base = root / "bases" / family
        make_tiny(base, family, 0)
        folders[family, "base"] = base
        for adapter in ("full", "lora"):
            folder = root / "students" / f"{family}_{adapter}"
            train_student(
                TrainingRun(folder, root / "run"),
                SFTSettings(
                    model=model_config(family),
                    adapter=AdapterConfig(name=adapter, rank=4, alpha=64),
                    trainer=TrainerConfig(
                        learning_rate=2e-2,
                        precision="fp32",
                        accelerator="cpu",
                        val_fraction=0.0,
                        max_steps=6,
                        max_length=200,
                    ),
                    method=MethodConfig(name="m2"),
                    seed=0,
                ),
                base,
                rows,
            )
            folders[family, adapter] = folder
    return folders


def logits_of(model, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_plain_libraries_compute_the_same_logits(trained, family: str, adapter: str):
    folder = trained[family, adapter]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = prompt_ids(tokenizer, MESSAGES)
    if adapter == "full":
        plain = AutoModelForCausalLM.from_pretrained(folder)
    else:
        settings = json.loads((folder / "adapter_config.json").read_text())
        base = AutoModelForCausalLM.from_pretrained(settings["base_model_name_or_path"])
        before = logits_of(base, ids)
        plain = PeftModel.from_pretrained(base, folder)
    ours = load_student(folder, model_config(family))
    assert prompt_ids(ours.tokenizer, MESSAGES) == ids
    expected = logits_of(plain.eval(), ids)
    assert torch.equal(logits_of(ours.model, ids), expected)
    if adapter == "lora":
        assert (expected - before).abs().max() > 0.1  # the adapter does something
        merged = merge_for_inference(load_student(folder, model_config(family)))
        assert not hasattr(merged.model, "peft_config")
        torch.testing.assert_close(logits_of(merged.model, ids), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_holds_all_that_a_server_needs(trained, family: str):
    base = load_student(trained[family, "base"], model_config(family))
    for adapter in ("full", "lora"):
        folder = trained[family, adapter]
        names = {path.name for path in folder.iterdir()}
        weights = "model" if adapter == "full" else "adapter_model"
        assert {f"{weights}.safetensors", "tokenizer.json", "chat_template.jinja"} <= names
        assert {"generation_config.json", "README.md"} <= names
        assert not any(name.endswith((".bin", ".pt", ".ckpt")) for name in names)
        ends = GenerationConfig.from_pretrained(folder).eos_token_id
        assert sorted(ends) == sorted(base.end_ids)
        card = (folder / "README.md").read_text()
        assert "| steps | 6 |" in card
        assert str(folder.parent.parent) not in card
        assert ("adapter.export=merged" in card) == (adapter == "lora")  # how to do without a base


def test_adapters_find_a_base_that_was_moved_along(trained, tmp_path: Path):
    root = trained["qwen3", "base"].parent.parent
    moved = tmp_path / "elsewhere"
    shutil.copytree(root, moved)
    settings_file = moved / "students" / "qwen3_lora" / "adapter_config.json"
    settings = json.loads(settings_file.read_text())
    settings["base_model_name_or_path"] = "/nowhere/bases/qwen3"
    settings_file.write_text(json.dumps(settings))
    student = load_student(settings_file.parent, model_config("qwen3"))
    assert student.origin["base"] == str(moved / "bases" / "qwen3")
    shutil.rmtree(moved / "bases")
    with pytest.raises(StudentError, match="/nowhere/bases/qwen3") as error:
        load_student(settings_file.parent, model_config("qwen3"))
    assert f"Copy it to {moved / 'bases' / 'qwen3'}" in str(error.value)
    assert "adapter.export=merged" in str(error.value)


def test_generation_of_merged_and_unmerged_adapters_agrees(trained):
    folder = trained["gemma3", "lora"]
    student = load_student(folder, model_config("gemma3"))
    prompts = [prompt_ids(student.tokenizer, MESSAGES)]
    plain = generate(student, prompts, **SAMPLES)
    assert plain == generate(merge_for_inference(student), prompts, **SAMPLES)


@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_rounding_the_weights_is_loading_them_rounded(tmp_path: Path, family: str):
    make_tiny(tmp_path / "base", family, 0)
    student = load_student(tmp_path / "base", model_config(family))
    cast_weights(student.model, torch.bfloat16)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.bfloat16)
    far = {
        "input_ids": torch.tensor([[5, 9, 30, 7]]),
        "position_ids": torch.tensor([[0, 1000, 2000, 3000]]),
    }
    with torch.no_grad():
        assert torch.equal(student.model(**far).logits, loaded(**far).logits)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder.mkdir(), "neither config.json nor adapter_config.json"),
        (lambda folder: None, r"model\.path"),
    ],
)
def test_folders_that_hold_no_student(tmp_path: Path, make, message: str):
    folder = tmp_path / "student"
    make(folder)
    with pytest.raises(StudentError, match=message):
        load_student(folder, model_config("qwen3"))


def test_pickled_weights_are_not_read(trained, tmp_path: Path):
    folder = tmp_path / "pickled"
    shutil.copytree(trained["qwen3", "base"], folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(StudentError, match="safetensors"):
        load_student(folder, model_config("qwen3"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_qlora_says_what_it_needs(trained):
    with pytest.raises(ConfigError, match="CUDA"):
        load_student(
            trained["qwen3", "base"],
            model_config("qwen3"),
            for_training=True,
            adapter=AdapterConfig(name="qlora"),
        )


@pytest.mark.parametrize("export", ["auto", "adapter"])
def test_a_student_that_was_trained_on_from_an_adapter_reloads(
    trained, tmp_path: Path, export: str
):
    earlier, folder = trained["qwen3", "lora"], tmp_path / "students" / "later"
    row = TrainingRow(
        "p",
        MESSAGES,
        render_completion("m2", plan="Subtract.", execution="", solution="", answer=""),
    )
    train_student(
        TrainingRun(folder, tmp_path),
        SFTSettings(
            model=model_config("qwen3"),
            adapter=AdapterConfig(name="lora", rank=4, alpha=64, export=export),
            trainer=TrainerConfig(
                learning_rate=2e-2,
                precision="fp32",
                accelerator="cpu",
                val_fraction=0.0,
                max_steps=4,
                max_length=200,
            ),
            method=MethodConfig(name="m2"),
            seed=0,
        ),
        earlier,
        [row],
    )
    ids = torch.arange(20)[None]
    logits = {}
    for name, where in (("earlier", earlier), ("later", folder)):
        student = load_student(where, model_config("qwen3"))
        with torch.no_grad():
            logits[name] = student.model(input_ids=ids).logits
            merged = merge_for_inference(student).model(input_ids=ids).logits
        torch.testing.assert_close(merged, logits[name], rtol=1e-4, atol=1e-4)
    base = load_student(trained["qwen3", "base"], model_config("qwen3"))
    with torch.no_grad():
        logits["base"] = base.model(input_ids=ids).logits
    assert not torch.allclose(logits["later"], logits["base"], atol=1e-3)
    assert not torch.allclose(logits["later"], logits["earlier"], atol=1e-3)
    if export == "adapter":
        # What the later adapter adds is added to the earlier student, not to its base.
        adapter = PeftModel.from_pretrained(
            load_student(trained["qwen3", "base"], model_config("qwen3")).model, folder
        )
        with torch.no_grad():
            on_base = adapter(input_ids=ids).logits
        assert not torch.allclose(logits["later"], on_base, atol=1e-3)
        return
    # Plain libraries load no adapter upon an adapter, so whole weights are written.
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        assert torch.equal(plain(input_ids=ids).logits, logits["later"])
    card = (folder / "README.md").read_text()
    assert "library_name: transformers" in card
    assert "exported whole" in card


def test_an_adapter_can_be_exported_merged(trained, tmp_path: Path):
    """Equal to the adapter on its base, for plain transformers."""
    folder = tmp_path / "merged"
    student = load_student(
        trained["llama", "base"],
        model_config("llama"),
        for_training=True,
        adapter=AdapterConfig(name="lora", rank=4),
    )
    with torch.no_grad():
        for name, parameter in student.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    student.model.eval()
    ids = list(range(20))
    expected = logits_of(student.model, ids)
    export_student(
        student,
        folder,
        base=trained["llama", "base"],
        model=model_config("llama"),
        adapter=AdapterConfig(name="lora", rank=4, export="merged"),
        facts={"steps": 3},
        provenance={"method": "m1", "teacher": "a large one"},
    )
    assert not (folder / "adapter_config.json").exists()
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    torch.testing.assert_close(logits_of(plain, ids), expected, atol=1e-4, rtol=1e-4)
    card = (folder / "README.md").read_text()
    assert "| method | m1 |" in card
    assert "| teacher | a large one |" in card


def test_the_commit_of_the_base_is_recorded_and_loaded(
    trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What a hub's main branch holds later is not what the adapter belongs to."""
    student = load_student(
        trained["qwen3", "base"],
        model_config("qwen3"),
        for_training=True,
        adapter=AdapterConfig(name="lora", rank=4),
    )
    student.origin["revision"] = "abc123"  # resolved when the base came from the hub
    folder = tmp_path / "student"
    hub = ModelConfig(name="hub", path="someone/model")
    adapter = AdapterConfig(name="lora", rank=4)
    export_student(student, folder, base="someone/model", model=hub, adapter=adapter, facts={})
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "someone/model"
    assert settings["revision"] == "abc123"
    assert "| commit of that | abc123 |" in (folder / "README.md").read_text()
    asked = []

    def from_hub(source, *args, revision=None, **kwargs):
        asked.append((source, revision))
        return real(trained["qwen3", "base"], *args, **kwargs)

    real = AutoModelForCausalLM.from_pretrained
    tokenizers = AutoTokenizer.from_pretrained
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_hub)
    monkeypatch.setattr(
        AutoTokenizer,
        "from_pretrained",
        lambda source, **kwargs: tokenizers(
            folder if source == "someone/model" else source,
            **{key: value for key, value in kwargs.items() if key != "revision"},
        ),
    )
    load_student(folder, hub)
    assert asked == [("someone/model", "abc123")]


def test_an_unknown_family_gets_updates_everywhere_but_in_the_head(trained):
    student = load_student(
        trained["llama", "base"],
        ModelConfig(name="x", path="somewhere", family="auto"),
        for_training=True,
        adapter=AdapterConfig(name="lora", rank=2),
    )
    changed = {
        name.split(".lora_")[0] for name, _ in student.model.named_parameters() if "lora_" in name
    }
    linear = {
        f"base_model.model.{name}"
        for name, module in load_student(
            trained["llama", "base"], model_config("llama")
        ).model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }
    assert changed == linear


@pytest.mark.parametrize(
    ("family", "targets", "message"),
    [
        ("llama", ["q_proj", "qkv"], r"has no qkv; its linear layers are down_proj.*=family"),
        ("qwen3", "family", r"model\.family=qwen3.*has no gate_proj.*model\.family=auto"),
    ],
)
def test_targets_that_match_nothing_are_refused(trained, family, targets, message: str):
    from transformers import GPT2Config, GPT2LMHeadModel

    loaded = load_student(trained["llama", "base"], model_config("llama")).model
    if family == "qwen3":
        loaded = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=32))
        message = message.replace("has no gate_proj", "has no q_proj")
    with pytest.raises(ConfigError, match=message):
        wrap(
            loaded,
            ModelConfig(name="x", path="somewhere", family=family),
            AdapterConfig(name="lora", target_modules=targets),
        )
