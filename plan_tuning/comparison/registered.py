"""A sweep's registration.json -> what may be claimed of its results, and what was changed since.

The sweep writes the file before its first job: the question, its yardstick and the resolved jobs.
A claim is confirmatory where it was registered; everything else that a table shows is exploratory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from plan_tuning.artifacts import fingerprint_of
from plan_tuning.comparison.claims import Finding
from plan_tuning.comparison.runs import ComparisonError, Results, Run
from plan_tuning.config.comparison import RegistrationConfig
from plan_tuning.records import from_json, to_json

REGISTRATION_FILE = "registration.json"
_VERSION = 1
_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Amendment:
    """What the same sweep was changed to later: a line for each change."""

    when: str  # UTC
    num_results: int  # that were there, and could have been looked at
    changes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Registered:
    """What was written down before the first job; paths and secrets are no part of it.

    Attributes:
        benchmark: the primary one.
        jobs: name of the job's folder -> its overrides.
        digest: of all but ``when`` and ``amendments``.
        num_results: that lay in the sweep's folder when it was registered. Above 0 nothing is
            confirmatory, for they could have been looked at.
    """

    hypothesis: str
    claims: tuple[str, ...]
    metric: str
    benchmark: str
    smallest_effect: float | None  # points
    seeds: tuple[int, ...]
    jobs: Mapping[str, str]
    when: str  # UTC
    digest: str = ""
    amendments: tuple[Amendment, ...] = field(default_factory=tuple)
    num_results: int = 0

    @classmethod
    def of(
        cls,
        config: RegistrationConfig,
        *,
        benchmark: str,
        seeds: Iterable[int],
        jobs: Mapping[str, str],
        when: str,
        num_results: int = 0,
    ) -> Registered:
        """Resolve a registration with the jobs that it is about.

        Args:
            config: what the experiment registers.
            benchmark: the primary one, where ``config`` names none.
            seeds: of the jobs, which are registered where ``config`` names none.
            jobs: name of the job's folder -> its overrides.
            when: UTC.
            num_results: that are in the sweep's folder already.
        """
        made = cls(
            hypothesis=" ".join((config.hypothesis or "").split()),
            claims=tuple(sorted(config.claims)),
            metric=config.metric,
            benchmark=config.benchmark or benchmark,
            smallest_effect=config.smallest_effect,
            seeds=tuple(sorted(set(config.seeds or seeds))),
            jobs=dict(sorted(jobs.items())),
            when=when,
            num_results=num_results,
        )
        return replace(made, digest=made._content_digest())

    def _content_digest(self) -> str:
        left_out = {"when", "amendments"} | ({"num_results"} if self.num_results == 0 else set())
        content = to_json(replace(self, digest=""))
        content = {key: value for key, value in content.items() if key not in left_out}
        return fingerprint_of(content, stage="registration", version=_VERSION)

    @property
    def is_intact(self) -> bool:
        """Whether the content is the one that the digest was made of."""
        return self.digest == self._content_digest()

    @property
    def can_confirm(self) -> bool:
        """Whether it was written before any result, and has been left as it was written."""
        return self.num_results == 0 and self.is_intact

    def changes(self, other: Registered) -> tuple[str, ...]:
        """Say what ``other``, registered later, has changed."""
        lines = [
            f"{name}: {_text(getattr(self, name))} became {_text(getattr(other, name))}"
            for name in ("hypothesis", "claims", "metric", "benchmark", "smallest_effect", "seeds")
            if getattr(self, name) != getattr(other, name) and (name != "seeds" or self.seeds)
        ]
        removed = [job for job in self.jobs if job not in other.jobs]
        added = [job for job in other.jobs if job not in self.jobs]
        if removed:
            lines.append(f"{len(removed)} jobs removed: {_listed(self.jobs[j] for j in removed)}")
        if added:
            lines.append(f"{len(added)} jobs added: {_listed(other.jobs[j] for j in added)}")
        return tuple(lines)


def read_registration(folder: Path) -> Registered | None:
    """Read a sweep's registration; None where nothing was registered.

    Raises:
        ComparisonError: the file is there and cannot be read.
    """
    path = folder / REGISTRATION_FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        amendments = tuple(from_json(Amendment, item) for item in content.get("amendments", ()))
        return replace(from_json(Registered, content), amendments=amendments)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ComparisonError(f"{path} cannot be read: {error}") from error


def write_text(registered: Registered) -> str:
    """Render the file."""
    return json.dumps(to_json(registered), indent=1, ensure_ascii=False) + "\n"


def with_kinds(
    found: Sequence[Finding], registered: Registered | None
) -> tuple[tuple[Finding, ...], tuple[str, ...]]:
    """Mark the findings that were registered.

    Returns:
        The findings, and a line for registered claims that the table does not test as registered.
    """
    if registered is None:
        return tuple(found), ()
    about = [
        item
        for item in found
        if item.id in registered.claims and item.benchmark == registered.benchmark
    ]
    fitting = [item for item in about if _has_seeds(item, registered)]
    kept = {id(item) for item in fitting} if registered.can_confirm else set()
    marked = tuple(replace(item, is_confirmatory=id(item) in kept) for item in found)
    shown, as_registered = {item.id for item in about}, {item.id for item in fitting}
    unseen = [name for name in registered.claims if name not in shown]
    others = [name for name in registered.claims if name in shown - as_registered]
    return marked, (
        *([f"no two rows are what is compared by {', '.join(unseen)}"] if unseen else []),
        *([f"compared on other seeds than the registered: {', '.join(others)}"] if others else []),
    )


def _has_seeds(finding: Finding, registered: Registered) -> bool:
    seeds = set(finding.difference.seeds)
    return not registered.seeds or not seeds or seeds == set(registered.seeds)


def registration_lines(
    registered: Registered | None,
    results: Results,
    untested: Sequence[str] = (),
    *,
    smallest_effect: float | None = None,
) -> list[str]:
    """Say what was registered, and every deviation from it.

    Args:
        registered: of the sweep; None: nothing was.
        results: of the sweep.
        untested: lines of :func:`with_kinds`.
        smallest_effect: points, that the comparison uses; None: none.
    """
    if registered is None:
        return ["Nothing was registered before the first job: every claim here is exploratory."]
    effect = registered.smallest_effect
    yardstick = [
        f"{registered.metric} on {registered.benchmark}",
        *([f"smallest effect {effect:g} points"] if effect else []),
        *([f"seeds {_listed(registered.seeds)}"] if registered.seeds else []),
    ]
    after = f" after {registered.num_results} results were there" if registered.num_results else ""
    lines = [
        f"Registered {registered.when}{after} ({registered.digest}): {registered.hypothesis}. By "
        f"{', '.join(yardstick)}. {_confirmatory(registered)}"
    ]
    found = deviations(registered, results, untested, smallest_effect=smallest_effect)
    lines += [f"Deviation: {line}." for line in found] or ["No deviation from the registration."]
    return lines


def _confirmatory(registered: Registered) -> str:
    if not registered.can_confirm:
        return "Nothing is confirmatory: every claim here is exploratory."
    if not registered.claims:
        return "It names no claim that this table tests: every difference here is exploratory."
    return (
        f"Confirmatory are the claims {', '.join(registered.claims)} on {registered.benchmark}; "
        "all else is exploratory."
    )


def deviations(
    registered: Registered,
    results: Results,
    untested: Sequence[str] = (),
    *,
    smallest_effect: float | None = None,
) -> list[str]:
    """List what differs from the registration, a line each.

    Args:
        registered: of the sweep.
        results: of the sweep.
        untested: lines of :func:`with_kinds`.
        smallest_effect: points, that the comparison uses; None: none.
    """
    lines = [
        f"{change} ({item.when}, with {item.num_results} results there)"
        for item in registered.amendments
        for change in item.changes
    ]
    if not registered.is_intact:
        lines.insert(0, f"{REGISTRATION_FILE} was edited: its content has another digest")
    if registered.num_results:
        lines.insert(0, f"registered after {registered.num_results} results were there")
    if smallest_effect != registered.smallest_effect:
        lines.append(
            f"smallest effect: {_points(registered.smallest_effect)} registered, "
            f"{_points(smallest_effect)} used"
        )
    done = {run.folder.name: run for run in results.completed}
    missing = [job for job in registered.jobs if job not in done]
    if missing:
        lines.append(
            f"{len(missing)} of {len(registered.jobs)} registered jobs have no result: "
            f"{_listed(registered.jobs[job] for job in missing)}"
        )
    own = [run for name, run in done.items() if name in registered.jobs]
    extra = [name for name in done if name not in registered.jobs]
    if extra:
        lines.append(f"{len(extra)} results are of jobs that were not registered: {_listed(extra)}")
    if own and registered.seeds:
        lines += _seed_lines(registered, own)
    if own and not any(registered.benchmark in run.result.metrics for run in own):
        lines.append(f"no job has a result on {registered.benchmark}")
    lines += untested
    if own and any(run.result.debug for run in own):
        lines.append("these are debug runs")
    return lines


def _seed_lines(registered: Registered, runs: Sequence[Run]) -> list[str]:
    seeds = {run.seed for run in runs}
    left_out = sorted(set(registered.seeds) - seeds)
    added = sorted(seeds - set(registered.seeds))
    return [
        *([f"registered seeds without a result: {_listed(left_out)}"] if left_out else []),
        *([f"seeds that were not registered: {_listed(added)}"] if added else []),
    ]


def _points(value: float | None) -> str:
    return "none" if value is None else f"{value:g} points"


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(str(item) for item in value)}]"
    return "none" if value is None else str(value)


def _listed(values: Any) -> str:
    texts = [str(value) for value in values]
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more
