"""How much jobs will write, against the free space."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from plan_tuning.config.checks import Finding
from plan_tuning.config.model import ModelConfig
from plan_tuning.config.run import Config
from plan_tuning.job.data_findings import makes_corpus, reading_of
from plan_tuning.job.eval_spec import benchmark_of
from plan_tuning.job.graph import JobGraph
from plan_tuning.job.inputs import count_benchmark, count_problems, source_parts

_BYTES_PER_CALL = 4096  # of the store and the corpus together; of a prediction too
_FLOAT32, _HALF = 4, 2  # bytes of a weight
_OPTIMIZER = 2  # AdamW's numbers a weight
_NEARLY = 0.8  # of the free space
_SIZE = re.compile(r"(?i)(?<![a-z0-9])(\d+(?:[._]\d+)?)([bm])(?![a-z0-9])")

Job = tuple[Config, JobGraph]


def disk_findings(jobs: Sequence[Job]) -> Iterator[Finding]:
    """Compare what will be written with the free space."""
    if not jobs:
        return
    outputs = Path(jobs[0][0].paths.outputs)
    place = next(folder for folder in (outputs, *outputs.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    needed = _bytes_written(jobs)
    if not needed:
        return
    text = f"about {_shown(needed)} to write below {outputs}, {_shown(free)} free"
    if needed > free:
        yield Finding("error", f"{text}: choose another disk by paths.outputs=DIR")
    else:
        yield Finding("note" if needed > _NEARLY * free else "ok", text)


def _bytes_written(jobs: Sequence[Job]) -> int:
    """Estimate the artifacts that are to be built, each once, and the largest checkpoint."""
    kept: dict[str, int] = {}
    largest_checkpoint = 0
    for config, graph in jobs:
        for student in (graph.start, graph.student):
            if student is not None and not student.is_available:
                kept[student.fingerprint], checkpoint = _bytes_of_student(config)
                largest_checkpoint = max(largest_checkpoint, checkpoint)
        if graph.base is not None and is_dequantised(graph):
            kept[graph.base.fingerprint] = _parameters(config.model) * _FLOAT32
        corpus = graph.corpus
        if corpus is not None and makes_corpus(graph) and config.uses_teacher:
            calls = 1 + 3 * config.distillation.candidates
            count = sum(count_problems(part) for part in source_parts(config.data).values())
            kept[corpus.fingerprint] = count * calls * _BYTES_PER_CALL
        for entry, stage in zip(config.benchmarks, graph.predictions, strict=False):
            if not stage.is_done:
                rows = _count(entry, config) * config.evaluation.num_samples
                kept[stage.fingerprint] = rows * _BYTES_PER_CALL
    return sum(kept.values()) + largest_checkpoint


def _count(entry: str, config: Config) -> int:
    try:
        name, path = benchmark_of(entry, config)
        if path is None:
            return count_benchmark(entry, config)
        count = len(reading_of(name, "test", path, config.data.form).problems)
        return min(count, config.evaluation.limit or count)
    except (ValueError, OSError):
        return 0  # said by the check of the set


def _bytes_of_student(config: Config) -> tuple[int, int]:
    """Bytes of an exported student, and of its checkpoints while it is trained."""
    parameters, adapter = _parameters(config.model), config.adapter
    copy = 0 if adapter.export_dtype is None else parameters * _HALF  # for servers
    if adapter.name != "full":
        width = _FLOAT32 if config.model.dtype == "float32" else _HALF
        return (copy + parameters * width if adapter.export == "merged" else 0), 0
    weights = parameters * _FLOAT32
    checkpoint = weights * (1 + _OPTIMIZER) if config.trainer.checkpoint_every_n_steps else 0
    return copy + weights, checkpoint


def _parameters(model: ModelConfig) -> int:
    """Count a model's weights, by its files or by its name; 0 where neither says."""
    folder = Path(model.path).expanduser() if model.path else None
    if folder is not None and folder.is_dir():
        stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        return stored // 2  # half precision, as weights are published
    found = _SIZE.search(Path(model.path or "").name)
    if found is None:
        return 2 * folder.stat().st_size if folder is not None and folder.is_file() else 0
    number = float(found.group(1).replace("_", "."))
    return int(number * {"b": 1e9, "m": 1e6}[found.group(2).lower()])


def _shown(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


def is_dequantised(graph: JobGraph) -> bool:
    """Whether the base is a GGUF file's and not there yet."""
    base = graph.base
    return base is not None and not base.is_available and base.spec["kind"] == "gguf"
