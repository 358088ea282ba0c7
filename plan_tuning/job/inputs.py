"""What a job reads: its training problems and its test sets, as the configuration names them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from plan_tuning.config.data import DataConfig, MicroworldDataConfig
from plan_tuning.config.mixture import MixtureDataConfig
from plan_tuning.config.run import Config
from plan_tuning.distillation.corpus import PROBLEMS, read_problems
from plan_tuning.job.eval_spec import benchmark_of, domain_tag, world_of
from plan_tuning.records import Problem
from plan_tuning.tasks.benchmarks import benchmark_named, load
from plan_tuning.tasks.contamination import seen_ids, texts_of
from plan_tuning.tasks.internal_split import cut
from plan_tuning.tasks.json_rows import DataError
from plan_tuning.tasks.microworld_problems import MICRO_PREFIX, benchmark_world, load_microworld
from plan_tuning.tasks.mixture import tagged

logger = logging.getLogger(__name__)


def subset(
    problems: Sequence[Problem], *, fraction: float, limit: int | None, seed: int
) -> list[Problem]:
    """Take a share of the problems such that smaller shares are subsets of larger ones.

    The order in which problems are taken depends on ``seed`` and each problem's id alone; the
    chosen ones keep the order of the data set.

    Args:
        problems: the whole set.
        fraction: share in 0..1, at least one problem.
        limit: at most so many after that; None for no limit.
        seed: of the order.
    """
    count = max(1, round(fraction * len(problems)))
    count = count if limit is None else min(count, limit)
    if count >= len(problems):
        return list(problems)

    def draw(problem: Problem) -> bytes:
        return hashlib.sha256(f"{seed}\x1f{problem.id}".encode()).digest()

    taken = {problem.id for problem in sorted(problems, key=draw)[:count]}
    return [problem for problem in problems if problem.id in taken]


def source_parts(data: DataConfig) -> dict[str, DataConfig]:
    """The sources of a mixture, or the one source that the data are."""
    return data.parts() if isinstance(data, MixtureDataConfig) else {data.name: data}


def count_problems(data: DataConfig) -> int:
    """How many problems of one source a job uses at the most; none is made or fetched for it."""
    if isinstance(data, MicroworldDataConfig):
        size = data.train_size if data.split == "train" else data.test_size
    elif data.path is None and data.split in benchmark_named(data.name).num_rows:
        size = benchmark_named(data.name).num_rows[data.split]
    else:
        return len(_load(data))
    size -= data.holdout or 0
    share = max(1, round(data.fraction * size))
    return share if data.limit is None else min(share, data.limit)


def count_benchmark(entry: str, config: Config) -> int:
    """How many problems a benchmark has at the most; none is made or fetched for it.

    Raises:
        DataError: a file that holds them cannot be read.
    """
    name, path = benchmark_of(entry, config)
    if name.startswith(MICRO_PREFIX):
        size = benchmark_world(name, world_of(config))[0].test_size
    elif name == config.data.internal_split:
        size = config.data.holdout or 0
    elif path is None and "test" in benchmark_named(name).num_rows:
        size = benchmark_named(name).num_rows["test"]
    else:
        size = len(load(name, split="test", path=path, form=config.data.form))
    return size if config.evaluation.limit is None else min(size, config.evaluation.limit)


def load_problems(config: Config) -> list[Problem]:
    """Load the training problems (or those of ``data.split=test``).

    Raises:
        DataError: the data cannot be read; names file, row and field.
    """
    return _load(config.data)


def _load(data: DataConfig) -> list[Problem]:
    if isinstance(data, MixtureDataConfig):
        return _load_mixture(data)
    if isinstance(data, MicroworldDataConfig):
        limit = count_problems(data)
        return load_microworld(data.world(), data.split, limit=limit, seed=data.seed)
    problems, _ = _cut(data)
    return subset(problems, fraction=data.fraction, limit=data.limit, seed=data.seed)


def _cut(data: DataConfig) -> tuple[list[Problem], list[Problem]]:
    """Load the problems of one set, and take its internal split out where it has one."""
    problems = load(
        data.name, split=data.split, path=data.path, revision=data.revision, form=data.form
    )
    if data.holdout is None:
        return problems, []
    return cut(problems, count=data.holdout, seed=data.holdout_seed)


def _load_mixture(data: MixtureDataConfig) -> list[Problem]:
    """Load every source in its order; an id that two sources use is told apart by the source."""
    problems: dict[str, Problem] = {}
    for name, part in data.parts().items():
        for problem in _load(part):
            unique = f"{name}:{problem.id}" if problem.id in problems else problem.id
            problems[unique] = replace(problem, id=unique, source=name)
    return list(problems.values())


def load_benchmark(entry: str, config: Config, *, is_tagged: bool = True) -> list[Problem]:
    """Load a test set by its entry ``NAME`` or ``NAME=PATH``; the first ``evaluation.limit`` rows.

    Args:
        entry: the benchmark.
        config: the job.
        is_tagged: as the student sees the problems: as those of a mixture's source, with its tag.

    Raises:
        DataError: the data cannot be read.
    """
    name, path = benchmark_of(entry, config)
    if name.startswith(MICRO_PREFIX):
        problems = load_microworld(*benchmark_world(name, world_of(config)))
    elif name == config.data.internal_split:
        _, problems = _cut(config.data)
    else:
        problems = load(name, split="test", path=path, form=config.data.form)
    problems = problems[: config.evaluation.limit]
    if not is_tagged:
        return problems
    tag, data = domain_tag(name, config), config.data
    source = data.source_of(name) if isinstance(data, MixtureDataConfig) else ""
    return [replace(p, problem=tagged(p.problem, tag), source=source or p.source) for p in problems]


def training_texts(config: Config, corpus: Path | None) -> frozenset[tuple[str, ...]] | None:
    """Read the problems of a job's corpus or else of its data, to look test problems up in them.

    Args:
        config: the job.
        corpus: that the student learned from; None: from the data.

    Returns:
        Their texts (:func:`plan_tuning.tasks.contamination.texts_of`); None where they are unknown.
    """
    if corpus is not None and (corpus / PROBLEMS).is_file():
        return texts_of(read_problems(corpus))
    if config.corpus.path is not None:
        return None
    try:
        return texts_of(load_problems(config))
    except DataError as error:  # the student is there already, and its data are gone
        logger.info("the training problems cannot be compared with test sets: %s", error)
        return None


def count_seen(
    train: Collection[tuple[str, ...]], benchmark: str, entry: str, config: Config
) -> int | None:
    """Count the test problems that stand in the training problems, and warn of them.

    Args:
        train: what the student was made from, see :func:`training_texts`.
        benchmark: the test set's name.
        entry: the test set as the configuration names it.
        config: the job.

    Returns:
        How many; None where the test set cannot be read here.
    """
    try:
        test = load_benchmark(entry, config, is_tagged=False)
    except DataError as error:  # the predictions are there already, and their data are gone
        logger.info("%s cannot be compared with the training problems: %s", benchmark, error)
        return None
    seen = seen_ids(train, test)
    if seen:
        logger.warning(
            "%s: %d of %d test problems stand in the training problems (%s is one); for accuracy "
            "without them: plan-tuning contamination --train %s --test %s --out FILE, then "
            "evaluation.decontaminate=FILE",
            *(benchmark, len(seen), len(test), seen[0], config.data.name, benchmark),
        )
    return len(seen)
