"""A finished comparison: what the page, the terminal and the files of it are written from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from plan_tuning.comparison.claims import Finding, silence
from plan_tuning.comparison.disagreements import Disagreement
from plan_tuning.comparison.disclosures import disclosures
from plan_tuning.comparison.evidence import Reading
from plan_tuning.comparison.filter_comparison import CorporaEffects
from plan_tuning.comparison.interference import Interference
from plan_tuning.comparison.plan_values import PlanWorth
from plan_tuning.comparison.runs import Results
from plan_tuning.comparison.tables import Table


@dataclass(frozen=True)
class Comparison:
    """Jobs, their table, and what the table says about the paper's claims."""

    results: Results
    table: Table
    findings: tuple[Finding, ...]
    disagreements: tuple[Disagreement, ...]
    holes: tuple[str, ...]  # one line per job that is missing, failed or unreadable, and why
    reading: Reading = field(default_factory=Reading)  # of predictions and corpora
    files: tuple[Path, ...] = ()  # that were written of it
    worth: PlanWorth = field(default_factory=PlanWorth)  # of plans, where it was asked for
    interferences: tuple[Interference, ...] = ()  # of mixed training
    judged: tuple[str, ...] = ()  # what today's grader changed, a line each
    by_compute: bool = False  # the table by equal compute is shown too
    noise: tuple[str, ...] = ()  # what rounding alone changes, beside the differences
    registration: tuple[str, ...] = ()  # what was registered, and what differs from it
    effects: tuple[CorporaEffects, ...] = ()  # of filters on plans, where they were asked for
    effects_gap: str = ""  # what of them could not be counted

    @property
    def silence(self) -> list[str]:
        """Which swept choices no claim of the paper is compared for."""
        return silence(self.table, self.findings) if self.table.rows else []

    @property
    def summary(self) -> str:
        """One line: how many jobs are compared, how many are not, and what they bought."""
        results = self.results
        total = len(results.runs) + len(results.holes)
        calls = sum(run.result.teacher_calls for run in results.runs)
        costs = [run.result.cost_usd for run in results.runs]
        paid = math.fsum(cost for cost in costs if cost is not None)
        unknown = ", some at an unknown price" if None in costs else ""
        return (
            f"{len(results.completed)} of {total} jobs compared, {len(results.failed)} failed, "
            f"{len(results.holes)} without a readable result. "
            f"They bought {calls:,} teacher calls for {paid:.2f} USD{unknown}."
        )

    @property
    def warnings(self) -> list[str]:
        """What a reader must know before believing the table."""
        lines = [*disclosures(self.table), *self.table.notes, *self.judged]
        if self.reading.missing:
            lines.append(self.reading.advice)
        if self.effects_gap:
            lines.append(self.effects_gap)
        if not self.results.completed:
            lines.append("No job has completed: there is nothing to compare yet.")
        elif any(run.result.debug for run in self.results.completed):
            lines.append(
                "These are debug runs: their figures say that the code runs, nothing else."
            )
        return lines


def holes(results: Results, expected_jobs: int | None) -> list[str]:
    """List what is missing, a line each: jobs, results, figures.

    Args:
        results: what was found.
        expected_jobs: how many jobs were started; None: not known.
    """
    lines = [f"{run.name}: failed, {run.error or 'no error recorded'}" for run in results.failed]
    lines += [f"{hole.folder.name}: {hole.reason}" for hole in results.holes]
    lines += [f"{run.name}: {line}" for run in results.runs for line in run.defects]
    present = len(results.runs) + len(results.holes)
    if expected_jobs is not None and present < expected_jobs:
        lines.append(f"{expected_jobs - present} of {expected_jobs} jobs left nothing behind")
    if results.num_debug_left_out:
        lines.append(f"{results.num_debug_left_out} debug runs are left out, for there are others")
    return lines
