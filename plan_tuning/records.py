"""What travels between the stages: problems, trajectories, segments, completions, predictions.

Everything here is a frozen value without behaviour of its own, and every record that is written to
disk goes through :func:`to_json` and :func:`from_json`, so a file written by one stage is read back
as equal values by the next one.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

T = TypeVar("T")

FURTHER = {"json": "further"}  # marks the field whose keys stand among the record's own
UNLESS_NONE = {"json": "unless_none"}  # marks a field whose key is absent where it is None

Message = Mapping[str, str]
"""One chat message: ``{"role": "system" | "user" | "assistant", "content": text}``."""


class Verdict(StrEnum):
    """What the grader says about one final answer; only ``CORRECT`` earns a reward."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    TRUNCATED = "truncated"
    TIMEOUT = "timeout"
    BAD_GOLD = "bad_gold"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of a data set with its gold answer.

    ``true_plan`` is what only the micro-world knows; it is never a training target of a real set.
    """

    id: str
    problem: str
    answer: str
    solution: str = ""  # the human rationale
    source: str = ""  # the data set, for example gsm8k
    style: str = "math"  # grading style: gsm8k, math, olympiadbench, aime, strategyqa, microworld
    difficulty: str = ""  # level, depth or year: the key of metrics by difficulty
    accepted_answers: tuple[str, ...] = ()  # alternatives to `answer` that are also right
    is_multiple_answer: bool = False  # `answer` lists several values, all of them required
    unit: str = ""  # a unit that may stand behind the answer
    tolerance: float | None = None  # absolute tolerance of a numeric answer
    true_plan: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Request:
    """One question to a large model; all of it but ``role`` and ``problem_id`` is content."""

    role: str  # what is asked for: constraints, plan, verify, execute, judge
    messages: tuple[Message, ...]
    temperature: float
    max_tokens: int
    top_p: float = 1.0
    sample_index: int = 0  # the k-th sample of the same prompt is another request
    seed: int | None = None  # sent to providers that take one
    problem_id: str = ""  # for the records and the logs only
    attempt_salt: int = 0  # > 0: another sample, because the earlier answer was unusable
    extra: Mapping[str, Any] = field(default_factory=dict)  # further fields of a server's request


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a :class:`Request`, new or from the store.

    As a backend returns it, ``text`` is what the provider sent. As it is handed to whoever asked,
    the model's thoughts are cut off it: ``thoughts + text`` is what the provider sent.
    """

    text: str
    status: str = "ok"  # ok, truncated, empty, refused, filtered, rejected
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = None  # None: the price is unknown
    served_model: str = ""
    is_cached: bool = False
    key: str = ""  # content address in the store
    thoughts: str = ""  # what stood before the text, with its tags


Ask = Callable[[Request], Awaitable[Reply]]
"""The one way to a large model; experiment.py hands it to whoever needs answers."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One candidate plan of one problem, with everything the teacher said about it.

    ``plan_score`` is an integer in [-100, 100], None where the verifier could not be read;
    ``verdict`` is None where the plan was not executed.
    """

    problem_id: str
    candidate: int  # 0 .. N-1
    problem: str
    answer: str  # gold
    solution: str  # human rationale
    plan: str
    constraints: str = ""
    plan_status: str = "ok"  # ok, empty, truncated, refused, filtered, rejected
    plan_score: int | None = None
    # parsed, unparsed, out_of_range, missing, unscored (nobody was asked)
    score_status: str = "missing"
    score_text: str = ""  # the verifier's whole reply
    execution: str = ""
    # A data set's own execution with its equations as <<a=b>>, for filter=recompute; never learned
    annotated_execution: str | None = field(default=None, metadata=UNLESS_NONE)
    execution_status: str = "missing"  # missing: not executed; absent: imported without one
    execution_answer: str = ""  # final answer that the grader extracted
    verdict: Verdict | None = None  # of execution_answer against the gold answer
    duplicate_of: int | None = None  # an earlier candidate with the same plan: its calls are shared
    source: str = ""
    difficulty: str = ""
    style: str = "math"
    true_plan: str = ""
    call_keys: tuple[str, ...] = ()  # store keys: constraints, plan, verify, execute
    cost_usd: float | None = 0.0  # None: a price is unknown

    @property
    def is_correct(self) -> bool:
        """Whether the Answer Verifier keeps this trajectory."""
        return self.verdict is Verdict.CORRECT


class SegmentKind(StrEnum):
    """What a piece of a training text is for."""

    PROMPT = "prompt"  # never supervised
    PLAN = "plan"
    SOLUTION = "solution"
    END = "end"  # end-of-turn tokens


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a training text; ``weight`` 0 means that its tokens carry no loss."""

    kind: SegmentKind
    text: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Completion:
    """What a student generated for one prompt and sample."""

    text: str
    token_ids: tuple[int, ...]  # without the prompt, with the end-of-text token where one came
    finish_reason: str  # stop (end-of-text), stop_string, length
    prompt_tokens: int
    log_probs: tuple[float, ...] = ()  # of the sampled tokens, where asked for
    weight_version: str = ""  # of which weights; empty: those that the engine was opened with


@dataclass(frozen=True, slots=True)
class Attempt:
    """A completion as a reward from outside sees it, graded already."""

    problem: Problem
    text: str  # the whole completion
    plan: str  # empty where it holds no finished plan
    teacher_plan: str
    verdict: Verdict  # of its boxed answer
    finish_reason: str  # stop, length
    num_tokens: int
    max_new_tokens: int  # the longest that a completion may be
    execution: str = ""  # a right one of the problem, not this completion's; empty: none is known


@dataclass(frozen=True, slots=True)
class Prediction:
    """One graded answer to one test problem; the rows that comparisons pair."""

    problem_id: str
    benchmark: str
    sample: int
    text: str  # as it was generated, for two calls by the executor; thoughts in it are not graded
    answer: str  # extracted final answer, empty where none was found
    rule: str  # extraction rule that found it
    verdict: Verdict
    is_correct: bool
    is_correct_strict: bool  # boxed answers only
    gold: str
    difficulty: str = ""
    plan: str = ""
    prompt: str = ""
    finish_reason: str = "stop"
    completion_tokens: int = 0  # of all calls of the student (and of its executor)


def to_json(record: Any) -> Any:
    """Turn a record into plain JSON values; tuples become lists, enums their values."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        values: dict[str, Any] = {}
        for f in dataclasses.fields(record):
            value = to_json(getattr(record, f.name))
            if f.metadata == FURTHER:
                values |= value
            elif value is not None or f.metadata != UNLESS_NONE:
                values[f.name] = value
        return values
    if isinstance(record, StrEnum):
        return str(record)
    if isinstance(record, Mapping):
        return {str(key): to_json(value) for key, value in record.items()}
    if isinstance(record, list | tuple):
        return [to_json(value) for value in record]
    return record


def from_json(kind: type[T], values: Mapping[str, Any]) -> T:
    """Build a record of ``kind`` from :func:`to_json`'s output.

    Args:
        kind: one of the dataclasses of this module.
        values: its fields; absent ones take their defaults, so older files stay readable.

    Raises:
        ValueError: a field without default is missing, or a key is unknown.
    """
    known, required = _fields(kind)  # type: ignore[arg-type]
    if not values.keys() <= known.keys():
        unknown = sorted(set(values) - set(known))
        raise ValueError(f"{kind.__name__} has no field {', '.join(unknown)}")
    if not required <= values.keys():
        missing = [name for name in known if name in required and name not in values]
        raise ValueError(f"{kind.__name__} lacks {', '.join(missing)}")
    restored = {}
    for name, value in values.items():
        restore = known[name]
        restored[name] = value if value is None or restore is None else restore(value)
    return kind(**restored)


Restore = Callable[[Any], Any]


@functools.cache
def _fields(kind: Any) -> tuple[Mapping[str, Restore | None], frozenset[str]]:
    """Say how each field of a record is restored (None: it stays), and which have no default."""
    hints = field_types(kind)
    fields = dataclasses.fields(kind)
    nothing = dataclasses.MISSING
    required = {f.name for f in fields if f.default is nothing and f.default_factory is nothing}
    return {f.name: _restore_of(hints[f.name]) for f in fields}, frozenset(required)


@functools.cache
def field_types(kind: Any) -> Mapping[str, Any]:
    """Types of a record's fields by name, looked up once."""
    return typing.get_type_hints(kind)


def _restore_of(hint: Any) -> Restore | None:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _restore_of(next(arg for arg in typing.get_args(hint) if arg is not type(None)))
    if origin is tuple:
        return tuple
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return hint
    return None
