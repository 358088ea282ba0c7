"""Group ``filter``: which of the teacher's trajectories become training rows."""

from __future__ import annotations

from dataclasses import dataclass, field

from plan_tuning.config.checks import require, require_choice, require_positive, require_rate
from plan_tuning.config.extensions import check_extension

# What helps where a filter asks for scores that there are not.
UNSCORED_ADVICE = (
    "filter=recompute (executions with annotated equations), filter=answer_only or filter=none; "
    "or have a teacher verify and execute the same plans: teacher=openai_compatible "
    "teacher.api_base=http://127.0.0.1:8000/v1 distillation.plans=dataset"
)
SELECTIONS = ("first", "best", "random", "all", "diverse")


@dataclass
class FilterConfig:
    """Two independent verifiers and a choice among the candidates that pass them."""

    name: str = "two_stage"
    plan: bool = True  # keep plans with plan_score >= plan_score_threshold
    answer: bool = True  # keep executions whose answer is right
    plan_score_threshold: int = 80  # -100..100; paper: 80
    selection: str = "best"  # per problem: best-scored (paper), first, random, all, diverse
    max_rows: int | None = None  # equal-size subsampling: at most so many rows, chosen by `seed`
    seed: int = 42
    drop_leaks: bool = False  # drop plans that hold the answer or a box
    # Keep executions whose annotated equations recompute exactly and end at the gold number
    recompute: bool = False
    diverse_below: float = 0.8  # selection=diverse: plans as alike as this or more are left out
    extension: str | None = field(default=None, metadata={"runtime": True})  # what brings it

    def __post_init__(self) -> None:
        """Check ranges."""
        check_extension("filter", self.name, self.extension)
        require(
            -100 <= self.plan_score_threshold <= 100,
            "filter.plan_score_threshold",
            self.plan_score_threshold,
            "a plan score between -100 and 100",
            "filter.plan_score_threshold=80",
        )
        require_choice("filter.selection", self.selection, SELECTIONS)
        require_positive("filter.max_rows", self.max_rows, "filter.max_rows=1000")
        require_rate("filter.diverse_below", self.diverse_below, "filter.diverse_below=0.8")
