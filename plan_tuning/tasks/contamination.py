"""Training set, test set -> overlap: which test problems a student may have seen in training.

A test problem is contaminated where at least half of its 13-grams stand in one training problem
(near), or where it reads the same after case, punctuation and spacing are dropped (exact; signs go
too, so a few are sign variants). Problems of fewer than 13 words can only be exact. Paraphrases are
not found: the figures are lower bounds.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from plan_tuning.config.grading import GradingConfig
from plan_tuning.grading.equivalence import compare
from plan_tuning.grading.scalars import Criteria
from plan_tuning.records import Problem

NGRAM = 13  # Brown et al. 2020, appendix C, and most reports since
THRESHOLD = 0.5
REPORT_SCHEMA = 1

_TOKEN = re.compile(r"[^\W_]+")


class ContaminationError(ValueError):
    """A contamination report that cannot be used."""


@dataclass(frozen=True, slots=True)
class Match:
    """A contaminated test problem and the training problem that overlaps most with it."""

    id: str
    train_id: str
    overlap: float  # share of the test problem's n-grams in that training problem
    is_exact: bool
    is_same_answer: bool


def tokens(text: str) -> list[str]:
    r"""Split a problem into the words and numbers that overlap is counted on.

    >>> tokens(r"Find $x^2 + 1$.")
    ['find', 'x', '2', '1']
    """
    return _TOKEN.findall(text.casefold())


def texts_of(problems: Iterable[Problem]) -> frozenset[tuple[str, ...]]:
    """Read problems without case, punctuation and spacing: what :func:`seen_ids` looks up in."""
    return frozenset(tuple(tokens(problem.problem)) for problem in problems)


def seen_ids(known: Collection[tuple[str, ...]], test: Iterable[Problem]) -> list[str]:
    """Find the test problems that read as a training problem does, in the order of the test set.

    Args:
        known: the training problems' texts, see :func:`texts_of`.
        test: problems of one benchmark.
    """
    return [problem.id for problem in test if tuple(tokens(problem.problem)) in known]


def overlaps(
    train: Sequence[Problem],
    test: Sequence[Problem],
    *,
    ngram: int = NGRAM,
    threshold: float = THRESHOLD,
) -> list[Match]:
    """Find the test problems that training problems contain, in the order of the test set.

    Args:
        train: problems that students are trained on.
        test: problems of one benchmark.
        ngram: length of the word sequences that are compared.
        threshold: share of a test problem's n-grams in one training problem, in (0, 1].

    Raises:
        ValueError: ngram or threshold is out of range.
    """
    if ngram < 1 or not 0.0 < threshold <= 1.0:
        raise ValueError(
            f"ngram={ngram}, threshold={threshold}: needs ngram of 1 or more and a threshold above "
            "0 and at most 1, for example --ngram 13 --threshold 0.5"
        )
    test_tokens = [tokens(problem.problem) for problem in test]
    test_grams = [_grams(words, ngram) for words in test_tokens]
    wanted = {gram for grams in test_grams for gram in grams}
    texts = {tuple(words) for words in test_tokens}
    places: dict[tuple[str, ...], list[int]] = {}
    same_text: dict[tuple[str, ...], int] = {}
    for index, problem in enumerate(train):
        words = tokens(problem.problem)
        for gram in _grams(words, ngram) & wanted:
            places.setdefault(gram, []).append(index)
        if tuple(words) in texts:
            same_text.setdefault(tuple(words), index)
    matches = []
    for problem, words, grams in zip(test, test_tokens, test_grams, strict=True):
        if not words:
            continue
        exact = same_text.get(tuple(words))
        counts = Counter(index for gram in grams for index in places.get(gram, ()))
        best, count = max(counts.items(), key=lambda item: (item[1], -item[0]), default=(-1, 0))
        overlap = count / len(grams) if grams else 0.0
        if exact is not None:
            best, overlap = exact, 1.0
        elif overlap < threshold:
            continue
        same = _same_answer(problem, train[best])
        matches.append(
            Match(problem.id, train[best].id, round(overlap, 4), exact is not None, same)
        )
    return matches


def _grams(words: Sequence[str], ngram: int) -> set[tuple[str, ...]]:
    return {tuple(words[start : start + ngram]) for start in range(len(words) - ngram + 1)}


def _same_answer(first: Problem, second: Problem) -> bool:
    criteria = Criteria.of(first, GradingConfig())
    return compare(first.answer, second.answer, criteria) is True


def report(
    train: Mapping[str, Sequence[Problem]],
    test: Mapping[str, Sequence[Problem]],
    specs: Mapping[str, Any],
    *,
    ngram: int = NGRAM,
    threshold: float = THRESHOLD,
) -> dict[str, Any]:
    """Compare every test set with all training sets together.

    Args:
        train: training sets by name.
        test: test sets by name.
        specs: what determines the rows of each set, for the record.
        ngram: see :func:`overlaps`.
        threshold: see :func:`overlaps`.

    Returns:
        JSON values; :func:`contaminated_ids` reads them back.
    """
    together = [problem for problems in train.values() for problem in problems]
    sets = {}
    for name, problems in test.items():
        matches = overlaps(together, problems, ngram=ngram, threshold=threshold)
        sets[name] = {
            "num_problems": len(problems),
            "num_contaminated": len(matches),
            "num_exact": sum(match.is_exact for match in matches),
            "num_same_answer": sum(match.is_same_answer for match in matches),
            "ids": [match.id for match in matches],
            "matches": [asdict(match) for match in matches],
        }
    return {
        "schema": REPORT_SCHEMA,
        "ngram": ngram,
        "threshold": threshold,
        "train": list(train),
        "identities": dict(specs),
        "test": sets,
    }


def covers(file: Path) -> frozenset[str]:
    """List the benchmarks that a report was made for; ask before :func:`contaminated_ids`.

    Raises:
        ContaminationError: the file is no report.
    """
    return frozenset(_read_report(file, "SET"))


def contaminated_ids(file: Path, benchmark: str) -> Collection[str]:
    """Read the contaminated ids of one benchmark from a report, for ``evaluation.decontaminate``.

    Raises:
        ContaminationError: the file is no report, or does not cover the benchmark.
    """
    ids = _read_report(file, benchmark)
    if benchmark not in ids:
        raise ContaminationError(
            f"evaluation.decontaminate={file} covers {', '.join(ids) or 'nothing'}, not "
            f"{benchmark}; make one with: {_command(file, benchmark)}"
        )
    return ids[benchmark]


def _read_report(file: Path, benchmark: str) -> dict[str, frozenset[str]]:
    make = _command(file, benchmark)
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
        return {name: frozenset(entry["ids"]) for name, entry in content["test"].items()}
    except OSError as error:
        raise ContaminationError(
            f"evaluation.decontaminate={file} cannot be read ({error.strerror}); "
            f"make it with: {make}"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ContaminationError(
            f"evaluation.decontaminate={file} is no contamination report; make one with: {make}"
        ) from error


def _command(file: Path, benchmark: str) -> str:
    return f"plan-tuning contamination --train SET --test {benchmark} --out {file}"
