"""All that determines a student, and the base and the corpus that it stands on.

A Spec is what is hashed; a fingerprint is its hash. Hashed are the problems, the teacher and how it
distils (a student has the fingerprint of the corpus instead), what the filter does, the base model,
the start, the adapter, the method with the loss weights that it reads, the optimisation, the
prompts, the seed and the mixing; for GRPO also the reward and the judge. Not hashed are paths,
ports and keys, names of choices, logging, concurrency, and fields with metadata ``runtime``:
devices, threads, micro-batches, checkpoints. A field at its first default is left out, so that a
new knob orphans no student, and so is what nothing in the job reads: it was set to that default
before (:func:`plan_tuning.config.effects.effective`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from plan_tuning.artifacts import (
    file_fingerprint,
    folder_fingerprint,
    hashed_values,
    is_complete,
    read_manifest,
)
from plan_tuning.config.checks import ConfigError
from plan_tuning.config.data import DataConfig, MicroworldDataConfig, OwnDataConfig
from plan_tuning.config.extensions import extension_spec, find, record
from plan_tuning.config.filter import FilterConfig
from plan_tuning.config.grading import GradingConfig, SandboxConfig
from plan_tuning.config.grpo import UNTRAINED, GRPOConfig
from plan_tuning.config.merge import MergeConfig
from plan_tuning.config.mixture import MixtureDataConfig
from plan_tuning.config.model import MicroModelConfig, ModelConfig
from plan_tuning.config.reward import PlanRewardConfig, RewardConfig
from plan_tuning.config.run import Config
from plan_tuning.config.sources import merged_students
from plan_tuning.config.training import MethodConfig
from plan_tuning.distillation.corpus import corpus_spec
from plan_tuning.students import gguf
from plan_tuning.tasks.benchmarks import source_spec
from plan_tuning.tasks.microworld_problems import MICRO_PREFIX
from plan_tuning.text.prompts import prompt_fingerprint, words_fingerprint

# What of the micro-world its base depends on.
VOCABULARY_KEYS = ("num_names", "max_value", "max_operand")
# What GRPO's method says about the training of its start alone; the start's fingerprint has it.
_OF_THE_START = ("plan_weight", "solution_weight", "problems")
# What GRPO takes from the trainer, beside the hardware.
_OF_THE_TRAINER = ("weight_decay", "beta1", "beta2", "precision")


def problems_spec(data: DataConfig) -> dict[str, Any]:
    """What determines the training problems.

    Raises:
        ConfigError: ``data.path`` does not exist.
    """
    if isinstance(data, MixtureDataConfig):
        return {"mixture": [problems_spec(part) for part in data.parts().values()]}
    spec: dict[str, Any] = {"name": data.name, "split": data.split}
    is_made = isinstance(data, MicroworldDataConfig)
    if is_made or data.limit is not None or data.fraction < 1.0:
        spec["seed"] = data.seed  # otherwise all problems are taken, in the set's order
    if data.fraction < 1.0:
        spec["fraction"] = data.fraction
    if data.limit is not None:
        spec["limit"] = data.limit
    if data.holdout is not None:
        spec["holdout"] = holdout_spec(data)
    if isinstance(data, MicroworldDataConfig):
        # A family is the same problems whatever the choice of data that names it is called.
        return spec | {"name": MICRO_PREFIX, "world": hashed_values(data.world())}
    if data.path is not None and not Path(data.path).expanduser().exists():
        raise ConfigError(
            "data.path",
            data.path,
            f"an existing folder with {data.split}.jsonl, .parquet, .json or .csv, or one file",
            "data.path=FOLDER",
        )
    source = source_spec(data.name, data.split, data.path, data.revision, data.form)
    return spec | {"source": source}


def holdout_spec(data: DataConfig) -> dict[str, Any]:
    """What determines an internal split, given the problems that it is cut out of."""
    return {"questions": data.holdout, "seed": data.holdout_seed}


def check_own_name(data: DataConfig) -> None:
    """Refuse to call a set of one's own as a published one, whose rows are read otherwise.

    Raises:
        ConfigError: the name is taken.
    """
    if isinstance(data, OwnDataConfig) and (
        find("data", data.name) is not None or data.name.startswith(MICRO_PREFIX)
    ):
        raise ConfigError(
            "data.name",
            data.name,
            "a name of your own: this one is a published set's, which data= chooses",
            "data.name=mine",
        )


def distillation_spec(
    problems: Mapping[str, Any], config: Config, tasks: Sequence[str] | None = None
) -> dict[str, Any]:
    """What determines a corpus of ``problems``, of the training set or of a test set.

    Args:
        problems: what determines them.
        config: the job.
        tasks: that they are of; None: those of the training set.
    """
    asked = config.data.tasks if tasks is None else tasks
    grading = grading_of(config.evaluation.grading, asked)
    return corpus_spec(problems, config.teacher, config.distillation, grading, asked)


def grading_of(grading: GradingConfig, tasks: Sequence[str]) -> GradingConfig:
    """What of the grading has an effect: how programs are run has none on other answers."""
    if any("run_code" in record("task", name).needs for name in tasks):
        return grading
    return replace(grading, run_code=False, sandbox=SandboxConfig())


def is_made_here(model: ModelConfig) -> bool:
    """Whether an untrained model is an artifact: drawn and trained here, or dequantised.

    Raises:
        ConfigError: ``model.path`` names a file that is absent or no GGUF file.
    """
    return model.kind != "pretrained" or gguf.file_of(model.path) is not None


def base_spec(model: ModelConfig, config: Config) -> dict[str, Any]:
    """What determines an untrained model that is made here; of a GGUF file its content."""
    file = gguf.file_of(model.path)
    if file is not None:
        state = file.stat()
        found = _content_fingerprint(file.absolute(), state.st_size, state.st_mtime_ns)
        return {"kind": "gguf", "file": found}
    spec: dict[str, Any] = {"kind": model.kind, "family": model.family, "seed": model.seed}
    if isinstance(model, MicroModelConfig):
        spec["vocabulary"] = {key: getattr(model.world, key) for key in VOCABULARY_KEYS}
        spec["base"] = hashed_values(model.base)
        if model.domains:
            spec["domains"] = True
        if config.debug.max_steps is not None:
            spec["debug_max_steps"] = config.debug.max_steps
    return spec


@cache
def _content_fingerprint(file: Path, size: int, mtime_ns: int) -> str:
    """Hash a large file once a process, unless it changes."""
    return file_fingerprint(file)


def model_spec(model: ModelConfig, base: str | None) -> dict[str, Any]:
    """What determines the weights of a model that this job does not train.

    Args:
        model: the choice of model.
        base: fingerprint of the base, where it is made here.
    """
    path = Path(str(model.path)).expanduser()
    if base is not None:
        spec: dict[str, Any] = {"base": base}
    elif is_complete(path):  # an artifact, wherever it lies
        spec = {"artifact": read_manifest(path)["fingerprint"]}
    elif path.is_dir():
        spec = {"folder": folder_fingerprint(path)}
    else:
        spec = {"path": str(model.path), "revision": model.revision}
    return spec | {"dtype": model.dtype}


def student_spec(
    config: Config, *, base: str | None, start: str | None, corpus: str | None
) -> dict[str, Any]:
    """What determines a student that this job trains.

    Args:
        config: the job.
        base: fingerprint of the base, where it is made here.
        start: fingerprint of the student that training begins from; None: the untrained model.
        corpus: fingerprint of the corpus, where the method learns from one.
    """
    spec: dict[str, Any] = {
        "model": model_spec(config.model, base),
        "adapter": _adapter_spec(config),
        "prompt": config.prompt.name,
        "prompts": prompt_fingerprint("student"),
        "seed": config.seed,
    }
    if words := words_fingerprint(config.data.tasks):
        spec["task_prompts"] = words
    if start is not None:
        spec["start"] = start
    if isinstance(config.method, GRPOConfig):
        spec |= _grpo_spec(config, config.method)
    else:
        spec |= {"method": _method_spec(config.method), "trainer": _trainer_spec(config)}
    if corpus is None:
        spec["problems"] = problems_spec(config.data)
    else:
        spec |= {"corpus": corpus, "filter": filter_spec(config)}
    if isinstance(config.data, MixtureDataConfig):
        spec["mixing"] = _mixing_spec(config.data)
    return spec


def merge_spec(config: Config, students: Sequence[str], base: str | None) -> dict[str, Any]:
    """What determines a student that others are merged to.

    Args:
        config: the job.
        students: fingerprints of those that are merged.
        base: fingerprint of the base, where it is made here.
    """
    merge = config.merge
    spec: dict[str, Any] = {"merge": merge.name, "students": list(students)}
    if merge.is_routed:
        return spec | _router_spec(config)
    spec["weights"] = merge.shares_of(len(students))
    needs = record("merge", merge.name).needs
    if "base" in needs:
        spec |= {key: getattr(merge, key) for key in ("scale", "density", "seed") if key in needs}
        spec["model"] = model_spec(config.model, base)
        if merge.name == "task_arithmetic":  # as they are
            spec["weights"] = merge.weights or [1.0] * len(students)
    if merge.rank is not None:
        spec["rank"] = merge.rank
    return spec | extension_spec("merge", merge.name, merge, MergeConfig)


def _router_spec(config: Config) -> dict[str, Any]:
    """What a router chooses by, beside the adapters themselves."""
    merge = config.merge
    sources = [student.source for student in merged_students(config)]
    spec: dict[str, Any] = {"sources": sources, "router": merge.router}
    if merge.router == "oracle":
        return spec
    encoder = None if merge.encoder is None else folder_fingerprint(Path(merge.encoder))
    known = {"neighbours": merge.neighbours, "encoder": encoder}
    return spec | known | {"problems": problems_spec(config.data)}


def has_start(config: Config) -> bool:
    """Whether the training begins from a student, not from the untrained model."""
    if config.student.path is not None:
        return False
    if isinstance(config.method, GRPOConfig):
        return config.start.name != UNTRAINED
    return config.method.is_continued


def start_config(config: Config) -> Config:
    """The plain job that makes what this one begins from: the same artifact as that job's."""
    if not isinstance(config.method, GRPOConfig):
        return replace(config, method=replace(config.method, continued_steps=0))
    weights = {key: getattr(config.method, key) for key in _OF_THE_START}
    method = MethodConfig(name=config.start.name, **weights)
    return replace(config, method=method, filter=config.start.filter, trainer=config.start_trainer)


def filter_spec(config: Config) -> dict[str, Any]:
    """What a filter does: its name and knobs without effect are left out."""
    chosen = config.filter
    spec: dict[str, Any] = {"answer": chosen.answer, "selection": chosen.selection}
    if chosen.plan:
        spec["plan_score_threshold"] = chosen.plan_score_threshold
    if chosen.drop_leaks:
        spec["drop_leaks"] = True
    if chosen.recompute:
        spec["recompute"] = True
    if chosen.selection == "diverse":
        spec["diverse_below"] = chosen.diverse_below
    if chosen.max_rows is not None:
        spec["max_rows"] = chosen.max_rows
    if chosen.max_rows is not None or chosen.selection == "random":
        spec["seed"] = chosen.seed
    outside = extension_spec("filter", chosen.name, chosen, FilterConfig)
    if outside:  # its function may read any knob
        spec |= {key: value for key, value in hashed_values(chosen).items() if key != "name"}
    return spec | outside


def _adapter_spec(config: Config) -> dict[str, Any]:
    """Which weights are trained; ``export`` and the copy for servers count where chosen."""
    adapter = config.adapter
    copy = {} if adapter.export_dtype is None else {"export_dtype": adapter.export_dtype}
    if adapter.name == "full":
        return {"name": "full", **copy}
    keys = ("name", "rank", "alpha", "dropout", "target_modules")
    export = {} if adapter.export == "auto" else {"export": adapter.export}
    return {**{key: getattr(adapter, key) for key in keys}, **export, **copy}


def _method_spec(method: MethodConfig) -> dict[str, Any]:
    """The method with the loss weights that it reads."""
    continued = ("continued_steps",) if method.num_continued else ()
    spec = {key: getattr(method, key) for key in ("name", *continued, *method.record.loss_weights)}
    return spec | extension_spec("method", method.name, method, MethodConfig)


def _trainer_spec(config: Config) -> dict[str, Any]:
    """What of the optimisation is not at its first default; hardware and pace do not count."""
    trainer = config.trainer
    spec = {
        f.name: getattr(trainer, f.name)
        for f in fields(trainer)
        if not f.metadata.get("runtime", False)
        and getattr(trainer, f.name) != f.metadata.get("hash_default", f.default)
    }
    # How often is validated decides which weights are exported, if the best ones are.
    if trainer.val_every_n_steps and (trainer.select_best or trainer.early_stopping_patience):
        spec["val_every_n_steps"] = trainer.val_every_n_steps
    return spec | (_selection_spec(config) if trainer.selects_by_accuracy else {})


def _selection_spec(config: Config) -> dict[str, Any]:
    """What the accuracy depends on that chooses the exported weights."""
    evaluation, executor = config.evaluation, config.executor
    spec: dict[str, Any] = {
        "val_problems": config.trainer.val_problems,
        "max_new_tokens": evaluation.max_new_tokens,
        "grading": hashed_values(grading_of(evaluation.grading, config.data.tasks)),
        **({"stop": list(evaluation.stop)} if evaluation.stop else {}),
    }
    if not config.method.has_two_calls:
        return spec
    who: Any = None
    if executor.name == "teacher":
        who = config.executor_teacher.spec()
    elif executor.name == "model":
        who = hashed_values(executor.model)
    return spec | {
        "max_plan_tokens": evaluation.max_plan_tokens,
        **({"plan_stop": list(evaluation.plan_stop)} if evaluation.plan_stop else {}),
        "executor": {
            **{"name": executor.name, "who": who},
            **extension_spec("executor", executor.name),
        },
    }


def _grpo_spec(config: Config, method: GRPOConfig) -> dict[str, Any]:
    """What determines a GRPO student, beside its model, its corpus and its start.

    Of the reward its parts that are on count, not its name; of a judge who it is, and its words.
    """
    method = method.resolved(config.trainer.precision)
    extra = {name: weight for name, weight in config.reward.extra.items() if weight}
    plan = config.reward.plan
    plan = plan.identified() if plan.weight else PlanRewardConfig(weight=0.0)
    name = RewardConfig().name
    reward = replace(config.reward, name=name, judge=None, extra=extra, plan=plan)
    spec: dict[str, Any] = {
        "method": {k: v for k, v in hashed_values(method).items() if k not in _OF_THE_START},
        "reward": hashed_values(reward),
        "optimizer": {key: getattr(config.trainer, key) for key in _OF_THE_TRAINER},
    }
    if method.engine == "vllm" and (options := config.evaluation.vllm.spec()):
        spec["vllm_options"] = options
    if config.reward.uses_judge:
        spec["judge"] = config.judge.spec()
    if config.reward.judges_plans and reward.plan.kind == "verifier":
        spec["verifier_prompts"] = [prompt_fingerprint(n) for n in ("constraints", "verify")]
    elif config.reward.judges_plans:
        spec["judge_prompt"] = prompt_fingerprint("judge")
    brought = [("reward", name) for name in extra]
    brought += [("plan_similarity", reward.plan.kind)] if reward.plan.weight else []
    extensions = {f"{kind}/{name}": extension_spec(kind, name) for kind, name in brought}
    if found := {name: one["extension"] for name, one in extensions.items() if one}:
        spec["extensions"] = found
    grading = hashed_values(grading_of(config.evaluation.grading, config.data.tasks))
    # A reward from outside sees the verdict; one that has executions written grades them.
    if config.reward.answer_weight or extra or (grading and config.reward.writes_executions):
        spec["grading"] = grading
    return spec


def _mixing_spec(data: MixtureDataConfig) -> dict[str, Any]:
    """What of the mixing has an effect; limit and fraction are the problems'."""
    mixing = data.mixing
    spec: dict[str, Any] = {"sources": list(data.sources), "strategy": mixing.strategy}
    if mixing.strategy == "tempered":
        spec |= {"temperature": mixing.temperature, "rows": mixing.rows}
    spec |= {"seed": mixing.seed} if mixing.strategy != "concatenate" else {}
    if mixing.domain_tag:
        spec["tags"] = [data.tag_of(name) for name in data.sources]
    return spec
