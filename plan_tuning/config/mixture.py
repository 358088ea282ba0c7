"""Group ``data``, choices that mix several sources: what goes in, and how it is mixed."""

from __future__ import annotations

from dataclasses import dataclass, field

from plan_tuning.config.checks import ConfigError, require, require_choice, require_positive
from plan_tuning.config.data import DataConfig, MicroworldDataConfig
from plan_tuning.config.microworld import FAMILIES, MicroworldConfig

STRATEGIES = ("concatenate", "tempered", "equal_tokens")
MICRO_SOURCES = {f"microworld_{family}": family for family in FAMILIES}


@dataclass
class SourceConfig:
    """One source of a mixture."""

    path: str | None = None  # folder or file; None: the Hub
    revision: str | None = None  # commit on the Hub; None: the revision that was tested
    tag: str = ""  # word that a domain tag says; empty: the source's name


@dataclass
class MixingConfig:
    """How the rows of the sources become one training set; it asks the teacher nothing."""

    strategy: str = "concatenate"
    temperature: float = 2.0  # tempered: a source of n rows gets a share of n ** (1 / temperature)
    rows: int | None = None  # tempered: rows of the mixture, repeats among them; None: as there are
    seed: int = 42  # which rows are drawn
    domain_tag: bool = False  # write the source's tag before the problem, at test time as well

    def __post_init__(self) -> None:
        """Check ranges."""
        require_choice("data.mixing.strategy", self.strategy, STRATEGIES)
        require(
            self.temperature >= 1.0,
            "data.mixing.temperature",
            self.temperature,
            "1 (shares as the sources are) or more (towards equal shares)",
            "data.mixing.temperature=2",
        )
        require_positive("data.mixing.rows", self.rows, "data.mixing.rows=10000")


@dataclass
class MixtureDataConfig(DataConfig):
    """Several sources at once; ``limit`` and ``fraction`` hold for each of them.

    So a source gives the mixture exactly the problems that it gives a student of its own.
    """

    sources: dict[str, SourceConfig] = field(default_factory=dict)  # in the order of a curriculum
    mixing: MixingConfig = field(default_factory=MixingConfig)
    world: MicroworldConfig = field(default_factory=MicroworldConfig)  # of the micro sources

    def __post_init__(self) -> None:
        """Check ranges, and that there is something to mix.

        Raises:
            ConfigError: a value is out of range, or there are fewer than two sources.
        """
        super().__post_init__()
        if self.name == "???":
            return
        example = f"data={self.name} '+data.sources.gsm8k={{path: FOLDER}}'"
        require(
            len(self.sources) >= 2,
            "data.sources",
            ", ".join(self.sources) or "{}",
            "a mixture has at least two sources",
            example,
        )
        if self.path is not None:
            first = next(iter(self.sources))
            raise ConfigError(
                "data.path",
                self.path,
                "every source of a mixture has a path of its own",
                f"data.sources.{first}.path=FOLDER",
            )

    @property
    def is_microworld(self) -> bool:
        """Whether every source is made offline."""
        return all(name in MICRO_SOURCES for name in self.sources)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks of its sources."""
        return tuple(dict.fromkeys(task for part in self.parts().values() for task in part.tasks))

    @property
    def can_be_cut(self) -> bool:
        """Every source has a test set of its own."""
        return False

    def parts(self) -> dict[str, DataConfig]:
        """Every source as the ``data`` of a job of its own."""
        return {name: self._part(name, source) for name, source in self.sources.items()}

    def _part(self, name: str, source: SourceConfig) -> DataConfig:
        common = {
            "name": name,
            "split": self.split,
            "limit": self.limit,
            "fraction": self.fraction,
            "seed": self.seed,
        }
        if name in MICRO_SOURCES:
            knobs = {**vars(self.world), "family": MICRO_SOURCES[name]}
            return MicroworldDataConfig(**common, **knobs)  # type: ignore[arg-type]
        return DataConfig(**common, path=source.path, revision=source.revision)  # type: ignore[arg-type]

    def tag_of(self, name: str) -> str:
        """The domain tag of a source, or of a benchmark whose name begins with a source's.

        ``math500`` is asked with the tag of ``math``; a benchmark of no source has no tag.
        """
        if not self.mixing.domain_tag:
            return ""
        source = self.source_of(name)
        return (self.sources[source].tag or source) if source else ""

    def source_of(self, name: str) -> str:
        """The source that a benchmark belongs to: the longest that its name begins with, or none.

        ``math500`` belongs to ``math``.
        """
        fitting = [source for source in self.sources if name.startswith(source)]
        return max(fitting, key=len, default="")
