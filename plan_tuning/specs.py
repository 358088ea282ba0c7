"""What each stage of a job depends on: Specs, their fingerprints, and the plan of a job.

Nothing here builds anything or imports a heavy library, so that a sweep can print its plan, drop
jobs that mean the same and find what is already done before a single job starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from plan_tuning.artifacts import canonical, fingerprint, folder_of, is_complete, read_manifest
from plan_tuning.config.checks import ConfigError
from plan_tuning.config.data import DataConfig, MicroworldDataConfig
from plan_tuning.config.microworld import MicroworldConfig
from plan_tuning.config.mixture import MixtureDataConfig
from plan_tuning.config.model import MicroModelConfig
from plan_tuning.config.run import Config
from plan_tuning.distillation.corpus import corpus_identity
from plan_tuning.tasks.benchmarks import data_identity
from plan_tuning.tasks.microworld import MICRO_PREFIX, benchmark_world
from plan_tuning.text.prompts import digest

# Bumped by hand when a stage's code changes what it writes for the same Spec.
STAGE_VERSIONS = {"bases": 1, "corpora": 1, "students": 1, "predictions": 1}

VOCABULARY_KEYS = ("num_names", "max_value", "max_operand")  # what of a world a base depends on


@dataclass(frozen=True)
class StagePlan:
    """One stage of a job: its artifact, and whether it is already there."""

    kind: str  # bases, corpora, students, predictions
    key: str  # fingerprint
    spec: Mapping[str, Any]
    upstream: Mapping[str, str]  # role -> fingerprint
    folder: Path
    label: str = ""  # benchmark of a prediction
    is_external: bool = False  # given by path

    @property
    def is_done(self) -> bool:
        """Whether the artifact is complete on disk."""
        return is_complete(self.folder)

    @property
    def is_available(self) -> bool:
        """Whether there is nothing to build: complete, or given by the user as it is."""
        return self.is_external or self.is_done


@dataclass(frozen=True)
class JobPlan:
    """All stages of a job. ``None`` marks what the job does not need."""

    base: StagePlan | None
    corpus: StagePlan | None
    student: StagePlan | None
    predictions: tuple[StagePlan, ...]

    @property
    def stages(self) -> tuple[StagePlan, ...]:
        """The stages in the order in which they are built."""
        head = (self.base, self.corpus, self.student)
        return (*(stage for stage in head if stage is not None), *self.predictions)

    @property
    def key(self) -> str:
        """Two jobs with equal keys mean the same."""
        return "+".join(stage.key for stage in (self.predictions or self.stages))

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to build."""
        return all(stage.is_done for stage in self.predictions or self.stages)


def artifacts_root(config: Config) -> Path:
    """Where artifacts lie."""
    return Path(config.paths.outputs) / "artifacts"


def calls_folder(config: Config) -> Path:
    """Where paid answers lie."""
    return Path(config.paths.outputs) / "calls"


def world_of(config: Config) -> MicroworldConfig:
    """The micro-world of this job: that of its data, else the default one."""
    if isinstance(config.data, MixtureDataConfig):
        return config.data.world
    if isinstance(config.data, MicroworldDataConfig):
        return MicroworldConfig(**config.data.world())  # type: ignore[arg-type]
    return MicroworldConfig()


def problems_identity(data: DataConfig) -> dict[str, Any]:
    """What determines the training problems.

    Raises:
        ConfigError: ``data.path`` does not exist.
    """
    if isinstance(data, MixtureDataConfig):
        return {"mixture": [problems_identity(part) for part in data.parts().values()]}
    identity: dict[str, Any] = {"name": data.name, "split": data.split, "seed": data.seed}
    if data.fraction < 1.0:
        identity["fraction"] = data.fraction
    if data.limit is not None:
        identity["limit"] = data.limit
    if isinstance(data, MicroworldDataConfig):
        # A family is the same problems whatever the choice of data that names it is called.
        world = MicroworldConfig(**data.world())  # type: ignore[arg-type]
        return identity | {"name": MICRO_PREFIX, "world": canonical(world)}
    if data.path is not None and not Path(data.path).expanduser().exists():
        raise ConfigError(
            "data.path",
            data.path,
            f"an existing folder with {data.split}.jsonl or {data.split}.parquet, or one file",
            f"data={data.name} data.path=FOLDER",
        )
    return identity | {"source": data_identity(data.name, data.split, data.path, data.revision)}


def benchmark_of(entry: str, config: Config) -> tuple[str, str | None]:
    """Split an entry ``NAME`` or ``NAME=PATH``; a set of ``data`` brings its own path along."""
    name, _, path = entry.partition("=")
    if not path and isinstance(config.data, MixtureDataConfig) and name in config.data.sources:
        return name, config.data.sources[name].path
    if not path and config.data.path is not None and name == config.data.name:
        return name, config.data.path
    return name, path or None


def plan_job(config: Config) -> JobPlan:
    """Compute every stage's fingerprint from the configuration alone.

    Raises:
        ConfigError: a path that the configuration names does not exist.
    """
    root = artifacts_root(config)
    base = _plan_base(config, root)
    is_distillation = set(config.stages) == {"distill"}
    needs_corpus = is_distillation or (config.method.needs_corpus and config.student.path is None)
    corpus = _plan_corpus(config, root) if needs_corpus else None
    has_student = config.method.is_trained or config.student.path is not None
    student = _plan_student(config, root, base, corpus) if has_student else None
    if is_distillation:
        return JobPlan(None, corpus, None, ())
    predictions: tuple[StagePlan, ...] = ()
    if "evaluate" in config.stages:
        predictions = tuple(
            _plan_predictions(entry, config, root, base, student) for entry in config.benchmarks
        )
        if not predictions:
            raise ConfigError(
                "evaluation.benchmarks",
                "[]",
                "at least one benchmark to evaluate on",
                "'evaluation.benchmarks=[gsm8k]'",
            )
    return JobPlan(base, corpus, student, predictions)


def _stage(
    kind: str,
    spec: Mapping[str, Any],
    root: Path,
    upstream: Mapping[str, str],
    label: str = "",
) -> StagePlan:
    key = fingerprint(spec, stage=kind, version=STAGE_VERSIONS[kind])
    return StagePlan(kind, key, spec, upstream, folder_of(root, kind, key), label)


def _external(kind: str, path: str, key: str) -> StagePlan:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            key, path, "an existing folder", f"{key}=multirun_outputs/artifacts/{kind}/…"
        )
    address = read_manifest(folder)["fingerprint"] if is_complete(folder) else str(folder.resolve())
    return StagePlan(kind, address, {"path": address}, {}, folder, is_external=True)


def _plan_base(config: Config, root: Path) -> StagePlan | None:
    model = config.model
    if model.kind == "pretrained":
        return None
    spec: dict[str, Any] = {"kind": model.kind, "family": model.family, "seed": model.seed}
    if isinstance(model, MicroModelConfig):
        vocabulary = {key: getattr(model.world, key) for key in VOCABULARY_KEYS}
        spec |= {"vocabulary": vocabulary, "base": canonical(model.base)}
        if config.debug.max_steps is not None:
            spec["debug_max_steps"] = config.debug.max_steps
    return _stage("bases", spec, root, {})


def model_identity(config: Config, base: StagePlan | None) -> dict[str, Any]:
    """What determines the weights before training."""
    model = config.model
    if base is not None:
        identity: dict[str, Any] = {"base": base.key}
    else:
        path = Path(str(model.path)).expanduser()
        where = str(path.resolve()) if path.is_dir() else str(model.path)
        identity = {"path": where, "revision": model.revision}
    return identity | {"dtype": model.dtype}


def _plan_corpus(config: Config, root: Path) -> StagePlan:
    if config.corpus.path is not None:
        return _external("corpora", config.corpus.path, "corpus.path")
    spec = corpus_identity(
        problems_identity(config.data),
        config.teacher,
        config.distillation,
        config.evaluation.grading,
    )
    return _stage("corpora", spec, root, {})


def _plan_student(
    config: Config, root: Path, base: StagePlan | None, corpus: StagePlan | None
) -> StagePlan:
    if config.student.path is not None:
        return _external("students", config.student.path, "student.path")
    spec: dict[str, Any] = {
        "model": model_identity(config, base),
        "adapter": _adapter_spec(config),
        "method": _method_spec(config),
        "trainer": _trainer_spec(config),
        "prompt": config.prompt.name,
        "prompts": digest("student"),
        "seed": config.seed,
    }
    upstream = {} if base is None else {"base": base.key}
    if corpus is None:
        spec["problems"] = problems_identity(config.data)
    else:
        spec |= {"corpus": corpus.key, "filter": _filter_spec(config)}
        upstream["corpus"] = corpus.key
    if isinstance(config.data, MixtureDataConfig):
        spec["mixing"] = config.data.mixing_spec()
    return _stage("students", spec, root, upstream)


def _plan_predictions(
    entry: str, config: Config, root: Path, base: StagePlan | None, student: StagePlan | None
) -> StagePlan:
    name, path = benchmark_of(entry, config)
    evaluation = config.evaluation
    if name.startswith(MICRO_PREFIX):
        source: dict[str, Any] = {"world": canonical(benchmark_world(name, world_of(config))[0])}
    else:
        source = data_identity(name, "test", path, None)
    spec: dict[str, Any] = {
        "benchmark": name,
        "source": source,
        "limit": evaluation.limit,
        "max_new_tokens": evaluation.max_new_tokens,
        "temperature": evaluation.temperature,
        "num_samples": evaluation.num_samples,
        "grading": canonical(evaluation.grading),
        "prompt": config.prompt.name,
        "prompts": digest("student"),
        "protocol": _protocol(config),
    }
    if evaluation.temperature > 0:
        spec |= {
            "top_p": evaluation.top_p,
            "top_k": evaluation.top_k,
            "seed": evaluation.seed,
        }
    if tag := domain_tag(name, config):
        spec["domain_tag"] = tag
    upstream: dict[str, str] = {}
    if student is None:
        spec["model"] = model_identity(config, base)
    else:
        spec["student"] = student.key
        upstream["student"] = student.key
    if config.method.name == "m2":
        spec["max_plan_tokens"] = evaluation.max_plan_tokens
        spec["executor"] = config.executor.name
        if config.executor.name == "base":
            spec["executor_model"] = model_identity(config, base)
    if base is not None:
        upstream["base"] = base.key
    return _stage("predictions", spec, root, upstream, name)


def domain_tag(benchmark: str, config: Config) -> str:
    """The tag that a student trained on a mixture sees before a benchmark's problems, or none."""
    is_told = isinstance(config.data, MixtureDataConfig) and config.method.is_trained
    return config.data.tag_of(benchmark) if is_told else ""


def _protocol(config: Config) -> str:
    return config.method.name if config.method.name in ("zero_shot_cot", "m2") else "one_call"


def _adapter_spec(config: Config) -> dict[str, Any]:
    if config.adapter.name == "full":
        return {"name": "full"}
    return dict(vars(config.adapter))


def _method_spec(config: Config) -> dict[str, Any]:
    method = config.method
    weights = {
        "m1": ("plan_weight", "solution_weight"),
        "m2": ("plan_weight",),
    }.get(method.name, ("solution_weight",))
    spec: dict[str, Any] = {"name": method.name}
    return spec | {key: getattr(method, key) for key in weights}


def _trainer_spec(config: Config) -> dict[str, Any]:
    trainer = config.trainer
    return {
        f.name: getattr(trainer, f.name)
        for f in fields(trainer)
        if not f.metadata.get("runtime", False)
        and getattr(trainer, f.name) != f.metadata.get("hash_default", f.default)
    }


def _filter_spec(config: Config) -> dict[str, Any]:
    """Reduce a filter to what it does: its name and knobs without effect are left out."""
    chosen = config.filter
    spec: dict[str, Any] = {"answer": chosen.answer, "selection": chosen.selection}
    if chosen.plan:
        spec["plan_score_threshold"] = chosen.plan_score_threshold
    if chosen.drop_leaks:
        spec["drop_leaks"] = True
    if chosen.max_rows is not None:
        spec["max_rows"] = chosen.max_rows
    if chosen.max_rows is not None or chosen.selection == "random":
        spec["seed"] = chosen.seed
    return spec
