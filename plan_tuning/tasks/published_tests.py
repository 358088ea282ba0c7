"""Problems -> how many of them are problems of a published test split, whatever file they stand in.

Known is a digest of each test problem, not its text: 12 hex digits of SHA-256 over the words and
numbers of the question (case, punctuation and spacing dropped, as :func:`tokens` splits them). So a
test split is found offline, under any file name and in any row form; a paraphrase is not.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources

from plan_tuning.tasks.contamination import tokens

_DIGITS = 12  # a foreign question is taken for one of 2,000 once in 10**11


@dataclass(frozen=True, slots=True)
class PublishedTest:
    """A published test split whose problems are known by their digests."""

    title: str  # as people call the set
    benchmarks: tuple[str, ...]  # names of data sets whose test split asks these problems


PUBLISHED_TESTS: Mapping[str, PublishedTest] = {
    "gsm8k": PublishedTest("GSM8K", ("gsm8k", "gsm8k_socratic")),
    "olympiadbench": PublishedTest("OlympiadBench", ("olympiadbench",)),
}


def question_digest(text: str) -> str:
    """Digest a question such that its case, punctuation and spacing do not count.

    >>> question_digest("What is 1 + 1?") == question_digest("what is  1+1")
    True
    """
    return hashlib.sha256(" ".join(tokens(text)).encode()).hexdigest()[:_DIGITS]


def known_test_problems(questions: Iterable[str]) -> dict[str, int]:
    """Count the questions that stand in a published test split.

    Args:
        questions: texts of problems, of any origin.

    Returns:
        Counts by a key of PUBLISHED_TESTS; sets without any are left out.
    """
    asked = [question_digest(question) for question in questions]
    counts = {name: sum(digest in _digests(name) for digest in asked) for name in PUBLISHED_TESTS}
    return {name: count for name, count in counts.items() if count}


def name_test_problems(counts: Mapping[str, int]) -> str:
    """Name what :func:`known_test_problems` found, for people.

    >>> name_test_problems({"gsm8k": 1319})
    '1319 GSM8K test problems'
    """
    return ", ".join(
        f"{count} {PUBLISHED_TESTS[name].title if name in PUBLISHED_TESTS else name} test problems"
        for name, count in counts.items()
    )


@functools.cache
def _digests(name: str) -> frozenset[str]:
    file = resources.files("plan_tuning.tasks").joinpath(f"test_digests/{name}.txt")
    lines = file.read_text(encoding="ascii").splitlines()
    return frozenset(line for line in lines if not line.startswith("#"))
