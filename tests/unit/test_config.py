"""What choices bring; mistakes are refused with the key, the value and a fix."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest
from composition import CONF, GROUPS, composed, config_of

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.registration import ExperimentSearchPath, add_experiments, job_slug


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_file_says_when_to_choose_it(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("group", GROUPS)
def test_a_knob_is_explained_once(group: str) -> None:
    """Files of a group that repeat each other say `defaults: [base, _self_]` instead."""
    places: dict[str, str] = {}
    for path in sorted((CONF / group).glob("*.yaml")):
        for line in path.read_text(encoding="utf-8").splitlines():
            told = re.match(r"(\s*\w+): .*\S\s+# (?!as in )(.+)", line)
            if told:
                key = f"{told[1]}: {told[2]}"
                assert key not in places, f"{path.name} and {places[key]}: {key}"
                places[key] = path.name


def test_the_models_bring_their_trainer_and_the_command_line_wins() -> None:
    assert config_of().trainer.precision == "fp32"
    assert config_of("model=qwen3_0_6b", "data=gsm8k", "method=sft").trainer.learning_rate == 5e-6
    assert config_of("trainer=paper").trainer.batch_size == 8
    assert config_of("data=microworld").distillation.num_candidates < 5
    assert config_of("distillation.num_candidates=7").distillation.num_candidates == 7


def test_a_preset_leaves_what_an_experiment_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ExperimentSearchPath, "own_folders", [])
    (tmp_path / "experiments").mkdir()
    chosen = ["override /model: tiny_qwen3", "override /trainer: gpu_bf16"]
    for name, lines in (("one", chosen), ("two", chosen[::-1])):
        text = "".join(f"  - {line}\n" for line in [*lines, "_self_"])
        (tmp_path / "experiments" / f"{name}.yaml").write_text(f"defaults:\n{text}")
    add_experiments([tmp_path])
    for name in ("one", "two"):
        config = composed(f"experiment={name}")
        assert (config.model.name, config.trainer.micro_batch_tokens) == ("tiny_qwen3", 32768)


def test_a_seed_covers_the_micro_world() -> None:
    assert config_of("seed=7").data.seed == 7
    assert config_of("seed=7", "data=gsm8k", "model=tiny_qwen3", "method=sft").data.seed == 42


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.learning_rate=-1"], r"trainer\.learning_rate=-1.*above 0"),
        (["trainer.max_steps=0"], r"trainer\.max_steps=0"),
        (["trainer.val_fraction=1.0"], r"trainer\.val_fraction"),
        (["filter.plan_score_threshold=101"], r"between -100 and 100"),
        (["filter.selection=worst"], r"filter\.selection=worst.*first, best"),
        (["distillation.plan_temperature=0"], r"would all be equal"),
        (["distillation.num_candidates=0"], r"distillation\.num_candidates=0"),
        (["evaluation.num_samples=4"], r"evaluation\.temperature"),
        (["data.fraction=0"], r"data\.fraction"),
        (["data.limit=-5"], r"data\.limit=-5"),
        (["seed=-1"], r"seed=-1"),
        (["sweep_name=artifacts"], r"sweep_name=artifacts"),
        (["stages=[cook]"], r"stages=cook.*distill, train, evaluate"),
        (["data=gsm8k"], r"model=micro.*model=tiny_qwen3"),
        (["data=gsm8k", "model=tiny_qwen3"], r"teacher=scripted.*openai_compatible"),
        (["student.path=x"], r"student\.path=x"),
        (["data.split=test"], r"data\.split=test"),
        (["data.path=x"], r"data\.path=x"),
        (["method.plan_weight=0", "method=m2"], r"learn nothing"),
        (["teacher.price=cheap"], r"teacher\.price=cheap"),
        (["trainer.strategy=deepspeed"], r"trainer\.strategy=deepspeed.*auto, ddp, fsdp"),
        (["trainer.strategy=fsdp"], r"trainer\.devices is 1"),
        (["trainer=fsdp_bf16", "trainer.val_problems=4"], r"trainer\.val_problems=4.*strategy=ddp"),
        (["trainer=fsdp_bf16", "trainer.ema_decay=0.9"], r"trainer\.ema_decay=0\.9"),
        (["trainer=fsdp_bf16", "method=grpo"], r"fsdp.*strategy=ddp adapter=lora"),
        (["trainer=fsdp_bf16", "adapter=qlora"], r"four bits"),
        (["adapter.dropout=1"], r"adapter\.dropout"),
        (["evaluation.decoding=graphs"], r"evaluation\.decoding=graphs.*auto, dynamic, static"),
        (
            ["evaluation.decoding=static", "evaluation.engine=continuous_batching"],
            r"a decoder of its own",
        ),
        (["method=grpo", "method.decoding=graphs"], r"method\.decoding=graphs"),
        (["evaluation.benchmarks=[gsm8k,gsm8k]"], r"each benchmark once"),
        (["model.path=Qwen/Qwen3-0.6B"], r"model\.path=Qwen.*model=path model\.path=Qwen"),
        (["model.dtype=bfloat16"], r"model\.dtype=bfloat16.*model\.dtype=float32, or adapter=lora"),
        (["adapter=qlora", "adapter.export=merged"], r"adapter\.export=merged.*4-bit"),
        (["evaluation.stop=['']"], r"evaluation\.stop"),
        (
            ["evaluation.plan_stop=[x]", "evaluation.engine=continuous_batching"],
            r"engine=native",
        ),
        (["logger.name=tensorboard"], r"logger\.name=tensorboard.*csv, wandb_offline"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_name_key_value_and_what_is_allowed(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        config_of(*overrides)
    assert "Try for example: " in str(caught.value)


def test_errors_cross_processes_as_they_are() -> None:
    error = ConfigError("seed", -1, "0 or more", "seed=1")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_debug_caps_everything_that_costs_time() -> None:
    config = config_of("debug=fast", "data.limit=10", "evaluation.limit=100")
    assert config.data.limit == 10
    assert config.evaluation.limit == config.debug.max_test_problems
    assert config.trainer.max_steps == config.debug.max_steps
    assert config.evaluation.max_new_tokens <= 48


@pytest.mark.parametrize(
    "overrides",
    [
        "method=m1,seed=3",
        "teacher.api_base=http://127.0.0.1:8000/v1,data.path=../shared/data/gsm8k",
        "evaluation.benchmarks=[gsm8k,aime2024],method=m1",
        ",".join(f"trainer.some_long_key_{i}={i}" for i in range(30)),
        "data.path=/a/ü/💥 x",
    ],
)
def test_job_folders_have_safe_names(overrides: str) -> None:
    slug = job_slug(overrides)
    assert "/" not in slug
    assert "http" not in slug
    assert len(slug.encode()) < 120
    assert slug == job_slug(overrides)
    assert slug != job_slug(overrides + ",x=1")
