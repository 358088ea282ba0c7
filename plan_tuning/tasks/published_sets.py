"""The published data sets: how the rows of each are read, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from plan_tuning.tasks.code import humaneval as humaneval_row
from plan_tuning.tasks.code import mbpp as mbpp_row
from plan_tuning.tasks.schemas import RowReader
from plan_tuning.tasks.schemas import aime as aime_row
from plan_tuning.tasks.schemas import gsm8k as gsm8k_row
from plan_tuning.tasks.schemas import gsm8k_socratic as gsm8k_socratic_row
from plan_tuning.tasks.schemas import math as math_row
from plan_tuning.tasks.schemas import olympiadbench as olympiadbench_row
from plan_tuning.tasks.schemas import strategyqa as strategyqa_row

_MATH_SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)


@dataclass(frozen=True, slots=True)
class HubSource:
    """Where a split lies on the Hub; ``configs`` and ``splits`` are concatenated in their order."""

    repository: str
    revision: str
    splits: tuple[str, ...]
    configs: tuple[str | None, ...] = (None,)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One data set: how its rows are read and where they come from."""

    name: str
    read_row: RowReader
    splits: Mapping[str, HubSource]
    num_rows: Mapping[str, int]  # rows of the published set; another number is worth a warning
    # split -> the source whose problems are taken out of it (MATH's 12,000 = all minus MATH-500)
    without: Mapping[str, HubSource] = field(default_factory=dict)
    has_plans: bool = False  # whether its rows on the Hub bring plans, see tasks/dataset_plans.py


_MATH_500 = HubSource(
    "HuggingFaceH4/MATH-500", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be", ("test",)
)
_GSM8K = ("openai/gsm8k", "740312add88f781978c0658806c59bc2815b9866")
_HENDRYCKS = ("EleutherAI/hendrycks_math", "21a5633873b6a120296cce3e2df9d5550074f4a3")

GSM8K = Benchmark(
    "gsm8k",
    gsm8k_row,
    {split: HubSource(*_GSM8K, (split,), ("main",)) for split in ("train", "test")},
    {"train": 7473, "test": 1319},
)
# The same problems, with a sub-question before each step of the rationale.
GSM8K_SOCRATIC = Benchmark(
    "gsm8k_socratic",
    gsm8k_socratic_row,
    {split: HubSource(*_GSM8K, (split,), ("socratic",)) for split in ("train", "test")},
    {"train": 7473, "test": 1319},
    has_plans=True,
)
# The split of PRM800K: 12,000 training problems, the rest is MATH-500.
MATH = Benchmark(
    "math",
    math_row,
    {"train": HubSource(*_HENDRYCKS, ("train", "test"), _MATH_SUBJECTS), "test": _MATH_500},
    {"train": 12000, "test": 500},
    without={"train": _MATH_500},
)
# The split of Hendrycks et al.; tested on MATH-500, a part of its 5,000 test problems.
MATH_7500 = Benchmark(
    "math_7500",
    math_row,
    {"train": HubSource(*_HENDRYCKS, ("train",), _MATH_SUBJECTS), "test": _MATH_500},
    {"train": 7500, "test": 500},
)
MATH500 = Benchmark("math500", math_row, {"test": _MATH_500}, {"test": 500})
OLYMPIADBENCH = Benchmark(
    "olympiadbench",
    olympiadbench_row,
    {
        "test": HubSource(
            "Hothan/OlympiadBench",
            "91184b52131e7fc9455fef848035173aea8cc01a",
            ("train",),
            ("OE_TO_maths_en_COMP",),
        )
    },
    {"test": 674},
)
# 933 problems of 1983-2024, which the paper calls "AIME 2024". 14 of them are AIME-2024-II:
# this set and aime2024 must not be added up.
AIME_1983_2024 = Benchmark(
    "aime_1983_2024",
    aime_row,
    {
        "test": HubSource(
            "di-zhang-fdu/AIME_1983_2024",
            "3e2cc86390666c5c756622afc0eeb9e6194496bc",
            ("train",),
        )
    },
    {"test": 933},
)
AIME2024 = Benchmark(
    "aime2024",
    aime_row,
    {
        "test": HubSource(
            "HuggingFaceH4/aime_2024",
            "2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
            ("train",),
        )
    },
    {"test": 30},
)
AIME2025 = Benchmark(
    "aime2025",
    aime_row,
    {"test": HubSource("math-ai/aime25", "563bb8404243c5f09de6ec262f2db674fe5bce9b", ("test",))},
    {"test": 30},
)
# The Hub's split (1,603 / 687), without decompositions, is not the upstream one (2,061 / 229): that
# needs a path.
STRATEGYQA = Benchmark(
    "strategyqa",
    strategyqa_row,
    {
        split: HubSource("ChilleD/StrategyQA", "705562638fe1d8ca6bb98c66fc8f94d45fda8c83", (split,))
        for split in ("train", "test")
    },
    {"train": 1603, "test": 687},
)
# Test problems alone: it has no training split.
HUMANEVAL = Benchmark(
    "humaneval",
    humaneval_row,
    {
        "test": HubSource(
            "openai/openai_humaneval",
            "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544",
            ("test",),
            ("openai_humaneval",),
        )
    },
    {"test": 164},
)
MBPP = Benchmark(
    "mbpp",
    mbpp_row,
    {
        split: HubSource(
            "google-research-datasets/mbpp",
            "4bb6404fdc6cacfda99d4ac4205087b89d32030c",
            (split,),
            ("full",),
        )
        for split in ("train", "test")
    },
    {"train": 374, "test": 500},
)
