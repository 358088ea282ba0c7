"""The record of one job: result.json, written by job/ and read by comparison/.

The file outlives the version that wrote it: :func:`parse_result` reads what an older version left
out, what a newer one added, and says what is wrong with anything else.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from plan_tuning.records import FURTHER, UNLESS_NONE, field_types

RESULT_FILE = "result.json"
RESULT_SCHEMA = 1
_SCALARS = (str, int, float, bool)


@dataclass(frozen=True, slots=True)
class Figures:
    """What graded predictions come to; shares are 0..1, and a figure of nothing is None."""

    accuracy: float | None = None
    low: float | None = None  # 95 %
    high: float | None = None
    n: int = 0  # problems
    num_samples: int = 0  # per problem, at most
    num_correct: int = 0  # samples
    strict_accuracy: float | None = None  # boxed answers only
    strict_low: float | None = None
    strict_high: float | None = None
    answered_rate: float | None = None
    mean_completion_tokens: float | None = None
    no_answer_rate: float | None = None
    truncated_rate: float | None = None
    timeout_rate: float | None = None
    bad_gold_rate: float | None = None
    error_rate: float | None = None
    further: Mapping[str, Any] = field(default_factory=dict, metadata=FURTHER)  # pass@k, maj@k, …


@dataclass(frozen=True, slots=True)
class BenchmarkMetrics(Figures):
    """The figures of one benchmark, and of each level of difficulty in it."""

    by_difficulty: Mapping[str, Figures] = field(default_factory=dict)


def parse_metrics(figures: Mapping[str, Any]) -> BenchmarkMetrics:
    """Read the metrics that a manifest of predictions holds."""
    metrics: BenchmarkMetrics = _convert(BenchmarkMetrics, figures)
    return metrics


@dataclass(frozen=True, slots=True)
class ConditionFigures:
    """Log-probabilities of the reference executions behind the plans of one condition, in nats."""

    n: int = 0  # problems that have such a plan
    per_token: float | None = None  # mean over problems of sum / tokens
    log_prob: float | None = None  # mean over problems of the sum over the execution's tokens
    tokens: int = 0  # of all these executions


@dataclass(frozen=True, slots=True)
class ContrastFigures:
    """The mean difference of two conditions over the problems that have both, in nats a token."""

    value: float | None = None
    low: float | None = None  # 95 %, over problems
    high: float | None = None
    n: int = 0


@dataclass(frozen=True, slots=True)
class FollowedFigures:
    """How often the answer changes as an edited plan says; shares are 0..1."""

    edit: str = ""  # step_dropped, number_swapped
    n: int = 0  # plans that were edited and executed
    rate: float | None = None  # None: not measurable
    low: float | None = None  # 95 %
    high: float | None = None


@dataclass(frozen=True, slots=True)
class PlanValue:
    """What plans are worth to a student on one benchmark (experiments/METHOD.md section 10)."""

    subject: str = ""  # whose plans are compared with others and edited; empty: there are none
    way: str = "none"  # under which condition the student is asked in its own way: own, none
    problems: int = 0  # with a reference execution that grades right
    left_out: Mapping[str, int] = field(default_factory=dict)  # problems without one, by reason
    conditions: Mapping[str, ConditionFigures] = field(default_factory=dict)
    contrasts: Mapping[str, ContrastFigures] = field(default_factory=dict)  # "own - other", …
    followed: FollowedFigures = field(default_factory=FollowedFigures)


def parse_plan_value(figures: Mapping[str, Any]) -> PlanValue:
    """Read the figures that a manifest of plan values holds."""
    found: PlanValue = _convert(PlanValue, figures)
    return found


@dataclass(frozen=True, slots=True)
class CorpusFacts:
    """The corpus that a job's student learned from, and what the filter took of it."""

    path: str = ""  # relative to the job's folder
    funnel: Mapping[str, int] = field(default_factory=dict)
    teacher_answers: int | None = None  # of the whole corpus, whoever bought them
    cost_usd: float | None = None  # of these; None: the price is unknown
    rows: int | None = field(default=None, metadata=UNLESS_NONE)  # None: nothing was trained
    reasons: Mapping[str, int] | None = field(default=None, metadata=UNLESS_NONE)
    further: Mapping[str, Any] = field(default_factory=dict, metadata=FURTHER)  # by_source, …


@dataclass(frozen=True, slots=True)
class Compute:
    """What a part of a job computed; padding and validations do not count."""

    trained_tokens: int = 0  # read forward and backward
    generated_tokens: int = 0
    read_tokens: int = 0  # forward only: prompts, log-probabilities of completions
    flops: float | None = 0.0  # operations, see plan_tuning/students/flops.py; None: unknown
    seconds: float = 0.0  # wall time

    def __add__(self, other: Compute) -> Compute:
        """Add up two parts; what is unknown of one is unknown of both."""
        is_known = self.flops is not None and other.flops is not None
        return Compute(
            self.trained_tokens + other.trained_tokens,
            self.generated_tokens + other.generated_tokens,
            self.read_tokens + other.read_tokens,
            (self.flops or 0.0) + (other.flops or 0.0) if is_known else None,
            round(self.seconds + other.seconds, 3),
        )


@dataclass(frozen=True, slots=True)
class JobCompute:
    """What a job rests on, whoever built it; None: not recorded."""

    training: Compute | None = None  # of the student, from the untrained model on; 0 without one
    start: Compute | None = None  # of these, what the student that training began from cost
    base: Compute | None = None  # beside: of an untrained model that was made here
    evaluation: Compute | None = None  # of all predictions


def parse_compute(figures: Mapping[str, Any] | None) -> Compute | None:
    """Read what a manifest says of its computing; None where it says nothing."""
    found: Compute | None = _convert(Compute | None, figures)
    return found


@dataclass(frozen=True, slots=True)
class StageTime:
    """What a stage of a job took, and whether all of it was there already."""

    wall_s: float = 0.0
    is_cached: bool = False


@dataclass(frozen=True, slots=True)
class JobError:
    """What ended a job: the error's class and its text."""

    type: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """The artifacts of a job by their role; None: the job has none."""

    base: str | None = None
    corpus: str | None = None
    start: str | None = None
    student: str | None = ""  # empty: not recorded
    predictions: Mapping[str, str] = field(default_factory=dict)  # by benchmark
    executor_zero_shot: Mapping[str, str] = field(default_factory=dict)
    plan_values: Mapping[str, str] | None = field(default=None, metadata=UNLESS_NONE)


@dataclass(frozen=True, slots=True)
class JobResult:
    """result.json: what a job leaves behind, the unit of comparison; paths are of its folder."""

    schema: int = RESULT_SCHEMA
    status: str = "failed"  # completed, failed
    error: JobError | None = None
    job: str = ""
    sweep: str | None = None  # None: a job outside a sweep
    debug: bool = False
    choices: Mapping[str, str | None] = field(default_factory=dict)  # group -> name of its file
    overrides: tuple[str, ...] = ()
    # What the job is without its seed, "-" where a choice cannot matter
    row: str | None = field(default=None, metadata=UNLESS_NONE)
    tags: tuple[str, ...] = ()
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)  # the whole configuration
    key: str = ""  # fingerprint of the job
    fingerprints: Fingerprints = field(default_factory=Fingerprints)
    objective: float | None = None  # accuracy on the first benchmark
    metrics: Mapping[str, BenchmarkMetrics] = field(default_factory=dict)  # by benchmark
    executor_zero_shot: Mapping[str, BenchmarkMetrics] = field(default_factory=dict)  # of m2
    predictions: Mapping[str, str] = field(default_factory=dict)  # by benchmark: file
    # What plans are worth, by benchmark, and the files of it; None: not asked for
    plan_value: Mapping[str, PlanValue] | None = field(default=None, metadata=UNLESS_NONE)
    plan_values: Mapping[str, str] | None = field(default=None, metadata=UNLESS_NONE)
    corpus: CorpusFacts | None = None
    training: Mapping[str, Any] | None = None  # facts of the student's manifest
    # Test problems that stand in the training problems, by benchmark; None: nothing was trained
    seen_in_training: Mapping[str, int] | None = field(default=None, metadata=UNLESS_NONE)
    # Problems of published test splits among the training problems, by set; None: there are none
    trained_on_test_problems: Mapping[str, int] | None = field(default=None, metadata=UNLESS_NONE)
    curves: str | None = None
    device: str = ""
    stages: Mapping[str, StageTime] = field(default_factory=dict)
    wall_s: float = 0.0
    # Tokens, operations and seconds of training and evaluation; None: not recorded
    compute: JobCompute | None = field(default=None, metadata=UNLESS_NONE)
    teacher_calls: int = 0  # bought by this run of the job
    cost_usd: float | None = None  # of those; None: the price is unknown
    created: str = ""  # UTC
    python: str = ""
    platform: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


class ResultError(ValueError):
    """What should be a result.json is none that this version reads."""


def parse_result(content: Any) -> JobResult:
    """Read the JSON of a result.json, of this version or of another one of its schema.

    Raises:
        ResultError: it is no object, of another schema, or a field cannot be what it should.
    """
    if not isinstance(content, Mapping):
        raise ResultError("result.json holds no object")
    if content.get("schema") != RESULT_SCHEMA:
        raise ResultError(
            f"result.json has schema {content.get('schema')!r}, this version reads {RESULT_SCHEMA}"
        )
    try:
        result: JobResult = _convert(JobResult, content)
        return result
    except (TypeError, ValueError, OverflowError) as error:
        raise ResultError(f"result.json does not have the expected fields: {error}") from error


def _convert(hint: Any, value: Any) -> Any:
    """Make of a JSON value what ``hint`` says, whoever wrote it.

    A record's absent and empty values are its defaults; unknown keys go to its ``further``.
    """
    arguments, is_record = typing.get_args(hint), dataclasses.is_dataclass(hint)
    if hint is Any:
        return value
    if type(None) in arguments:
        inner = next(arg for arg in arguments if arg is not type(None))
        is_none = value is None or (dataclasses.is_dataclass(inner) and not value)
        return None if is_none else _convert(inner, value)
    if typing.get_origin(hint) is tuple:
        return tuple(_convert(arguments[0], item) for item in value)
    if hint in _SCALARS:
        return hint(value)
    if not isinstance(value, Mapping):
        raise TypeError(f"{value!r} is no object")
    if not is_record:
        return {
            str(key): _convert(arguments[1], item)
            for key, item in value.items()
            if _is_optional(arguments[1]) or item not in (None, {})
        }
    hints = field_types(hint)
    known = {
        key: _convert(hints[key], item)
        for key, item in value.items()
        if key in hints and (item or _is_optional(hints[key]))
    }
    if "further" in hints:
        known["further"] = {key: item for key, item in value.items() if key not in hints}
    return hint(**known)


def _is_optional(hint: Any) -> bool:
    return hint is Any or type(None) in typing.get_args(hint)
