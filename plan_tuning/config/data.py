"""Group ``data``: the training problems, and the test sets that belong to them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields

from plan_tuning.config.checks import require, require_choice, require_positive
from plan_tuning.config.extensions import (
    DEFAULT_TASK,
    check_extension,
    find,
    own_styles,
    task_of,
)
from plan_tuning.config.microworld import MICRO_STYLES, MicroworldConfig

SPLITS = ("train", "test")
INTERNAL_SPLIT = "_internal_split"  # ends the name of a benchmark that is no published test set
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass
class KeyNames:
    """Which field of a row is what; a file may lack the last three."""

    problem: str = "problem"
    answer: str = "answer"
    solution: str = "solution"
    id: str = "id"
    difficulty: str = "difficulty"


@dataclass
class RowForm:
    """How a row of one's own is read: its fields, and how its answers are graded."""

    style: str = "math"
    keys: KeyNames = field(default_factory=KeyNames)


@dataclass
class DataConfig:
    """Where training problems come from and how many of them are used."""

    name: str = "???"
    path: str | None = None  # folder or file; without it the set is loaded from the Hub
    revision: str | None = None  # commit on the Hub; None: the revision that was tested
    split: str = "train"  # test: to distil teacher plans for a plan swap; never trained on
    limit: int | None = None  # at most so many problems
    fraction: float = 1.0  # share of the problems; smaller shares are subsets of larger ones
    seed: int = 42  # order from which limit and fraction take the first
    holdout: int | None = None  # an internal split: so many questions are tested, never trained on
    holdout_seed: int = 42  # which ones
    benchmarks: list[str] = field(default_factory=list)  # default of evaluation.benchmarks
    extension: str | None = field(default=None, metadata={"runtime": True})  # what brings it

    def __post_init__(self) -> None:
        """Check ranges."""
        self._check_extension()
        require_choice("data.split", self.split, SPLITS)
        require_positive("data.limit", self.limit, "data.limit=1000")
        require(
            0.0 < self.fraction <= 1.0,
            "data.fraction",
            self.fraction,
            "above 0 and at most 1",
            "data.fraction=0.25",
        )
        require_positive("data.holdout", self.holdout, "data.holdout=100")
        require(
            self.holdout is None or self.can_be_cut,
            "data.holdout",
            self.holdout,
            f"null: {self.name} has test sets of its own, and several sources are not cut",
            "data=gsm8k_socratic data.path=FILE data.holdout=100",
        )

    def _check_extension(self) -> None:
        check_extension("data", self.name, self.extension)

    @property
    def is_microworld(self) -> bool:
        """Whether the problems are made offline."""
        return False

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that its problems are of; none is read for it."""
        found = find("data", self.name)
        return (DEFAULT_TASK if found is None else found.task or DEFAULT_TASK,)

    @property
    def can_be_cut(self) -> bool:
        """Whether an internal split can be taken out of it: one file, or one set of the Hub."""
        return True

    @property
    def internal_split(self) -> str | None:
        """Name of the benchmark that is cut out of the training problems; None: none is."""
        return None if self.holdout is None else f"{self.name}{INTERNAL_SPLIT}"

    @property
    def form(self) -> RowForm:
        """How rows of a set that is none of the published ones are read."""
        return RowForm()

    @property
    def words(self) -> str:
        """How it is chosen on a command line."""
        return f"data={self.name}"


@dataclass
class MicroworldDataConfig(DataConfig, MicroworldConfig):
    """The offline world: its problems are made, not read; its knobs are keys of ``data`` too."""

    def __post_init__(self) -> None:
        """Check the ranges of both parents."""
        DataConfig.__post_init__(self)
        MicroworldConfig.__post_init__(self)

    @property
    def is_microworld(self) -> bool:
        """Whether the problems are made offline."""
        return True

    @property
    def tasks(self) -> tuple[str, ...]:
        """The task of its question."""
        return (task_of(MICRO_STYLES[self.question]).name,)

    @property
    def can_be_cut(self) -> bool:
        """Its test sets are made apart from the training problems."""
        return False

    def world(self) -> MicroworldConfig:
        """The knobs that determine the world's problems, without those of ``data``."""
        return MicroworldConfig(**{f.name: getattr(self, f.name) for f in fields(MicroworldConfig)})


@dataclass
class OwnDataConfig(DataConfig):
    """Problems of one's own, from a file or a folder: rows of problem and answer."""

    style: str = "math"  # how answers are graded: a style of one of the tasks
    keys: KeyNames = field(default_factory=KeyNames)

    def __post_init__(self) -> None:
        """Check ranges; the set itself is its default benchmark."""
        super().__post_init__()
        require_choice("data.style", self.style, own_styles())
        require(
            self.name == "???" or bool(_NAME.fullmatch(self.name)),
            "data.name",
            self.name,
            "letters, digits, '_', '-' and '.': it names the set in metrics and tables",
            "data.name=mine",
        )
        names = list(vars(self.keys).values())
        require(
            all(names) and len(set(names)) == len(names),
            "data.keys",
            vars(self.keys),
            "five different names of fields",
            "data.keys.problem=question data.keys.answer=final_answer",
        )
        if not self.benchmarks:
            self.benchmarks = [self.name]

    def _check_extension(self) -> None:
        """What a module brings along for a set of one's own is its task."""
        check_extension("task", task_of(self.style).name, self.extension)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The task of its style."""
        return (task_of(self.style).name,)

    @property
    def words(self) -> str:
        """How it is chosen on a command line."""
        return f"data=jsonl data.name={self.name} data.path={self.path}"

    @property
    def form(self) -> RowForm:
        """How its rows are read, and those of test files that are none of the published sets."""
        return RowForm(self.style, self.keys)
