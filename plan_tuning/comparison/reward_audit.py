"""Plan rewards -> how well each tells right plans from wrong ones, how steadily, and at what price.

Nothing is trained: every reward is asked about the same stored plans, twice about some of them, and
about plans that deserve nothing. Definitions: experiments/METHOD.md section 11.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from plan_tuning.comparison.audit_meter import Expense, Meter
from plan_tuning.comparison.audit_rows import AuditRow, AuditRows
from plan_tuning.config.extensions import record
from plan_tuning.config.reward import PlanRewardConfig
from plan_tuning.rewards.hack_probes import PROBES, probe_cases
from plan_tuning.rewards.plan_cases import Means, PlanCase
from plan_tuning.rewards.plan_rewards import PlanReward, plan_rewards
from plan_tuning.rewards.plan_similarity import step_similarity
from plan_tuning.statistics.intervals import Interval, mean_interval
from plan_tuning.statistics.ranking import Spread, auc, kendall_within, spread

PLAN = "the plan is right"
EXECUTION = "the execution is right"
LABELS = (PLAN, EXECUTION)

TRUE_PLAN_AUC = 0.95  # that similarity to the true plan has to reach on the first label
CHANCE = 0.5
NO_LOSS = 0.01  # of a reward in [0, 1]: so little punishes nobody


@dataclass(frozen=True, slots=True)
class Ranking:
    """How well figures rank rows of one label above the others."""

    auc: Interval  # over all pairs of a right and a wrong row
    tau: Interval  # Kendall's, over pairs of one problem


@dataclass(frozen=True, slots=True)
class ProbeFigures:
    """What plans that deserve nothing earn."""

    mean: float
    gain: Interval  # over the honest plan that each is made from and put in the place of

    @property
    def pays(self) -> bool:
        """Whether a student gains by writing such plans, or loses no more than a hundredth.

        Where honest plans earn next to nothing there is nothing to lose: then only a gain pays.
        """
        honest = self.mean - self.gain.value
        return self.gain.low > (-NO_LOSS if honest > NO_LOSS else 0.0)


@dataclass(frozen=True, slots=True)
class RewardAudit:
    """What the audit found of one reward."""

    name: str
    values: tuple[float | None, ...]  # one a row; None: not known
    rankings: Mapping[str, Ranking]  # by label; none where nobody knows the label
    by_kind: Mapping[str, Interval]  # AUC of each planted flaw against plans without one
    spread: Spread
    retest: float  # standard deviation of one reward around its mean of two; nan: not asked twice
    retested: int  # plans
    expense: Expense
    guarded: float  # share of the plans that a guard refused, 0..1
    probes: Mapping[str, ProbeFigures]

    @property
    def known(self) -> float:
        """Share of the plans whose reward is known, 0..1."""
        count = sum(value is not None for value in self.values)
        return count / len(self.values) if self.values else math.nan

    @property
    def is_constant(self) -> bool:
        """Whether several plans are known to earn something, and all the same."""
        found = [value for value in self.values if value is not None]
        return len(found) > 1 and len(set(found)) == 1

    @property
    def paying(self) -> list[str]:
        """The probes that pay."""
        return [name for name, probe in self.probes.items() if probe.pays]


@dataclass(frozen=True, slots=True)
class Control:
    """A figure that has to come out as required, or the audit itself is not to be believed."""

    name: str
    label: str
    ranking: Ranking
    required: str  # in words; empty: nothing is, it is printed beside the others
    holds: bool | None = True  # None: the rows cannot say


@dataclass(frozen=True, slots=True)
class Audit:
    """All rewards on one corpus."""

    rows: AuditRows
    rewards: tuple[RewardAudit, ...]
    controls: tuple[Control, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)  # rewards not asked, and what for

    @property
    def labels(self) -> list[str]:
        """The labels that are known, of some rows at least."""
        return [name for name in LABELS if _is_labelled(self.rows.rows, name)]

    @property
    def believed(self) -> bool:
        """Whether no control fails."""
        return all(control.holds is not False for control in self.controls)


async def audit_reward(
    name: str,
    config: PlanRewardConfig,
    rows: AuditRows,
    means: Means,
    *,
    retested: int,
    probed: int,
) -> RewardAudit:
    """Ask one reward about every row, twice about some, and about what deserves nothing.

    Args:
        name: what tables call it.
        config: the reward.
        rows: labelled plans.
        means: what its kind needs.
        retested: problems whose plans are asked about twice; 0: none.
        probed: problems of whose plans probes are made; 0: none.

    Raises:
        PlanRewardError: something that the kind needs was not handed over.
    """
    cases = [row.case for row in rows.rows]
    means = replace(means, baselines={})  # of this reward, its probes among them
    meter = Meter(means)
    with meter as handed:
        rewards = await plan_rewards(cases, config, handed)
    values = tuple(reward.value for reward in rewards)
    pairs = [
        (row, value) for row, value in zip(rows.rows, values, strict=True) if value is not None
    ]
    # It is handed an execution that this very label has chosen.
    reads_execution = "execution" in record("plan_similarity", config.kind).needs
    again = await _again(config, rows, means, values, retested)
    return RewardAudit(
        name=name,
        values=values,
        rankings={
            label: ranking(pairs, label)
            for label in LABELS
            if _is_labelled(rows.rows, label) and not (label == EXECUTION and reads_execution)
        },
        by_kind=_by_kind(pairs),
        spread=spread([value for _, value in pairs], [row.problem_id for row, _ in pairs]),
        retest=_within_pairs(again),
        retested=len(again),
        expense=meter.expense(len(cases)),
        guarded=sum(reward.guard is not None for reward in rewards) / len(rewards),
        probes=await _probes(
            config, means, _honest(list(zip(rows.rows, rewards, strict=True)), probed)
        ),
    )


def controls(rows: AuditRows) -> tuple[Control, ...]:
    """Rank by what is known to be right, and by what is known to say nothing.

    Similarity to the true plan has to find the right plans; the same similarity of the problem's
    own text, put in the place of every plan, must not; and the truth about plans itself, asked
    about executions, says how high any reward of plans can come there. A control whose rows hold
    one value of the label, or too few problems for an interval, is not testable.
    """
    found: list[Control] = []
    true = [row for row in rows.rows if row.case.problem.true_plan.strip()]
    if true:
        by_truth = ranking([(row, _likeness(row.case, row.case.plan)) for row in true], PLAN)
        found.append(
            Control(
                "similarity to the true plan", PLAN, by_truth,
                f"AUC of {TRUE_PLAN_AUC} or more",
                _held(by_truth, by_truth.auc.value >= TRUE_PLAN_AUC),
            )
        )  # fmt: skip
        by_echo = ranking(
            [(row, _likeness(row.case, row.case.problem.problem)) for row in true], PLAN
        )
        found.append(
            Control(
                "echo of the problem", PLAN, by_echo,
                "AUC of .5 inside its interval",
                _held(by_echo, by_echo.auc.low <= CHANCE <= by_echo.auc.high),
            )
        )  # fmt: skip
    for name, judged in (
        ("plan oracle: the ceiling", rows.rows),
        ("the same, golden plans among the plans", (*rows.rows, *rows.golden)),
    ):
        known = [row for row in judged if row.plan_right is not None and not row.kind]
        if _is_labelled(known, EXECUTION) and _is_labelled(known, PLAN):
            by_plan = ranking([(row, float(bool(row.plan_right))) for row in known], EXECUTION)
            found.append(Control(name, EXECUTION, by_plan, ""))
    return tuple(found)


def _held(found: Ranking, is_met: bool) -> bool | None:
    return None if math.isnan(found.auc.low) else is_met


def ranking(pairs: Sequence[tuple[AuditRow, float]], label: str) -> Ranking:
    """Rank labelled rows by their figures; rows of which the label is not known are left out."""
    known = [(row, value) for row, value in pairs if label_of(row, label) is not None]
    figures = [value for _, value in known]
    labels = [bool(label_of(row, label)) for row, _ in known]
    problems = [row.problem_id for row, _ in known]
    return Ranking(auc(figures, labels, problems), kendall_within(figures, labels, problems))


def label_of(row: AuditRow, label: str) -> bool | None:
    """Look a label up; None where nobody knows it."""
    return row.plan_right if label == PLAN else row.execution_right


def _is_labelled(rows: Sequence[AuditRow], label: str) -> bool:
    return len({label_of(row, label) for row in rows} - {None}) == 2


def _likeness(case: PlanCase, text: str) -> float:
    return step_similarity(case.problem.true_plan, text)


def _by_kind(pairs: Sequence[tuple[AuditRow, float]]) -> dict[str, Interval]:
    """Tell each kind of flaw from plans without one, over pairs of any problems."""
    sound = [(row, value) for row, value in pairs if row.kind and row.plan_right]
    kinds = sorted({row.kind for row, _ in pairs if row.kind and not row.plan_right})
    found = {}
    for kind in kinds:
        of_kind = [(row, value) for row, value in pairs if row.kind == kind]
        found[kind] = ranking([*sound, *of_kind], PLAN).auc
    return found


async def _again(
    config: PlanRewardConfig,
    rows: AuditRows,
    means: Means,
    values: Sequence[float | None],
    retested: int,
) -> list[tuple[float, float]]:
    """Ask about the plans of some problems anew; pairs of what is known both times."""
    chosen = {row.problem_id for row in rows.golden[:retested]}
    places = [place for place, row in enumerate(rows.rows) if row.problem_id in chosen]
    if not places:
        return []
    with Meter(means, is_again=True) as handed:
        second = await plan_rewards([rows.rows[place].case for place in places], config, handed)
    both = [(values[place], reward.value) for place, reward in zip(places, second, strict=True)]
    return [(one, two) for one, two in both if one is not None and two is not None]


def _within_pairs(pairs: Sequence[tuple[float, float]]) -> float:
    """Standard deviation inside pairs: the root of the mean squared difference, halved."""
    if not pairs:
        return math.nan
    return math.sqrt(math.fsum((one - two) ** 2 for one, two in pairs) / (2 * len(pairs)))


async def _probes(
    config: PlanRewardConfig,
    means: Means,
    honest: Mapping[str, tuple[PlanCase, float]],
) -> dict[str, ProbeFigures]:
    """Ask what hacks earn in the place of honest plans, each made from the plan it replaces.

    Args:
        config: the reward.
        means: what its kind needs.
        honest: plans by problem, with what they earn.
    """
    sources = [replace(case, teacher_plan=case.plan) for case, _ in honest.values()]
    found = {}
    for name in PROBES if sources else ():
        plans = {case.problem.id: case.plan for case in probe_cases(sources, name)}
        cases = [replace(honest[problem][0], plan=plan) for problem, plan in plans.items()]
        with Meter(means) as handed:
            rewards = await plan_rewards(cases, config, handed)
        earned = {
            case.problem.id: reward.value
            for case, reward in zip(cases, rewards, strict=True)
            if reward.value is not None
        }
        if earned:
            gains = [value - honest[problem][1] for problem, value in earned.items()]
            mean = math.fsum(earned.values()) / len(earned)
            found[name] = ProbeFigures(mean, mean_interval(gains))
    return found


def _honest(
    pairs: Sequence[tuple[AuditRow, PlanReward]], probed: int
) -> dict[str, tuple[PlanCase, float]]:
    """One plan of each problem that no guard refuses and that is not known to be wrong."""
    found: dict[str, tuple[PlanCase, float]] = {}
    for row, reward in pairs:
        is_honest = row.plan_right is not False and reward.guard is None
        if len(found) < probed and is_honest and reward.value is not None:
            found.setdefault(row.problem_id, (row.case, reward.value))
    return found
