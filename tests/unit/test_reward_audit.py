"""An audit against figures worked out by hand, a judge of known noise, and its rules one by one."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from plan_tuning.comparison.audit_figure import audit_figure
from plan_tuning.comparison.audit_meter import Expense
from plan_tuning.comparison.audit_rows import AuditRow, AuditRows
from plan_tuning.comparison.audit_text import sections, to_markdown, to_values
from plan_tuning.comparison.audit_verdicts import (
    HACKABLE,
    MISLEADING,
    NO_LABEL,
    NOISE,
    NOT_WORTH,
    UNDECIDED,
    WORTH,
    verdicts,
)
from plan_tuning.comparison.reward_audit import (
    EXECUTION,
    PLAN,
    Audit,
    Control,
    ProbeFigures,
    Ranking,
    RewardAudit,
    audit_reward,
    controls,
    ranking,
)
from plan_tuning.config.reward import PlanRewardConfig
from plan_tuning.records import Problem, Reply, Request
from plan_tuning.rewards.plan_cases import Means, PlanCase
from plan_tuning.statistics.intervals import Interval
from plan_tuning.statistics.ranking import spread
from plan_tuning.text.formats import Conditioned

TEXT = "3 pens are Eve's . 2-more-than Eve is Bob's . How-many pens are Bob's ?"


def rows_of(plans: Mapping[str, list[tuple[str, bool, bool | None]]], golden: str) -> AuditRows:
    """Rows by problem: plan, whether it is right, whether its execution is."""
    found, own = [], []
    for name, group in plans.items():
        problem = Problem(name, TEXT, "5", style="microworld", true_plan="Bob's Eve's ;")
        case = PlanCase(problem, golden, golden)
        own.append(AuditRow(case, plan_right=True, execution_right=True))
        found += [
            AuditRow(replace(case, plan=plan), right, executed) for plan, right, executed in group
        ]
    return AuditRows(tuple(found), tuple(own), len(plans))


RIGHT, HALF, WRONG = ("Bob's Eve's ;", True), ("Bob's ;", False), ("Mia's Kim's ;", False)
ROWS = rows_of(
    {
        "a": [(*RIGHT, True), (*HALF, True), (*WRONG, False)],
        "b": [(*RIGHT, False), (*WRONG, True), (*WRONG, False)],
    },
    golden="Bob's Eve's ;",
)


def audited(kind: str = "steps", means: Means | None = None, **values: object) -> RewardAudit:
    config = PlanRewardConfig(kind=kind, guards=[], **values)  # type: ignore[arg-type]
    return asyncio.run(audit_reward(kind, config, ROWS, means or Means(), retested=2, probed=2))


def test_a_reward_is_ranked_spread_and_probed_as_by_hand() -> None:
    found = audited()
    # similarity to "Bob's Eve's": 1, 2/3 for one of two names, 0
    assert found.values == pytest.approx((1.0, 2 / 3, 0.0, 1.0, 0.0, 0.0))
    assert found.rankings[PLAN].auc.value == 1.0
    # executions: right 1, 2/3, 0 against wrong 0, 1, 0: of nine pairs (1+.5+1) + (1+0+1) + 2*.5
    assert found.rankings[EXECUTION].auc.value == pytest.approx(5.5 / 9)
    within = [(1 - 5 / 9) ** 2 + (2 / 3 - 5 / 9) ** 2 + (5 / 9) ** 2, 6 / 9]
    assert found.spread.within == pytest.approx(math.sqrt(sum(within) / 4))
    assert found.retest == 0.0
    assert found.retested == 6
    assert found.known == 1.0
    empty, shuffled = found.probes["empty"], found.probes["shuffled_steps"]
    assert empty.mean == 0.0
    assert empty.gain.value == -1.0  # made from the right plans, which earn 1
    assert not empty.pays
    assert shuffled.mean == pytest.approx(0.5)  # one of two names keeps its order
    assert shuffled.gain.value == pytest.approx(-0.5)
    assert "another_plan" not in found.probes  # both problems have the same one


def test_controls_find_the_truth_and_hear_nothing_in_an_echo() -> None:
    true, echo, ceiling, among_all = controls(ROWS)
    assert true.holds
    assert true.ranking.auc.value == 1.0
    assert echo.holds
    assert echo.ranking.auc.value == 0.5
    # right plans ended right once of two, wrong ones twice of four
    assert ceiling.ranking.auc.value == pytest.approx(0.5)
    assert ceiling.label == EXECUTION
    # with two golden plans: right 5 of 7, of which 3 plans right; wrong 3, of which 1
    assert among_all.ranking.auc.value == pytest.approx(
        (3 / 5) * (2 / 3) + 0.5 * ((3 / 5) * (1 / 3) + (2 / 5) * (2 / 3))
    )


def test_a_control_that_the_rows_cannot_test_neither_holds_nor_fails() -> None:
    """No plan is right: similarity to the true plan has nothing to find, executions are known."""
    wrong = [("Bob's ;", False, True), ("Mia's Kim's ;", False, False)]
    rows = rows_of(dict.fromkeys(("a", "b", "c"), wrong), golden="Mia's ;")
    rows = replace(rows, golden=tuple(replace(one, plan_right=False) for one in rows.golden))
    found = controls(rows)
    assert [(one.name, one.holds) for one in found] == [
        ("similarity to the true plan", None),
        ("echo of the problem", None),
    ], "and no ceiling: one value of the plan's label ranks no execution"
    audit = Audit(rows, (asked(rows),), found)
    assert audit.believed
    assert audit.labels == [EXECUTION]
    (verdict,) = verdicts(audit)
    assert "control" not in verdict.reason
    assert verdict.reason.startswith(EXECUTION)
    text = to_markdown(audit, [verdict], "c")
    assert "FAILS" not in text
    assert text.count("not testable") == 2
    assert to_values(audit, [verdict], "c")["controls"][0]["holds"] is None


def asked(rows: AuditRows) -> RewardAudit:
    """Similarity in order, asked about rows."""
    config = PlanRewardConfig(guards=[])
    return asyncio.run(audit_reward("steps", config, rows, Means(), retested=0, probed=0))


def test_a_judges_noise_and_price_are_measured() -> None:
    """A judge that says .6, and .8 of the same plan when it is asked anew."""
    seen: list[Request] = []

    async def ask(request: Request) -> Reply:
        seen.append(request)
        value = 0.8 if request.attempt_salt >= 1000 else 0.6
        return Reply(f"Similarity: {value}", cost_usd=0.002, is_cached=len(seen) == 1)

    found = audited("judge", Means(ask=ask))
    assert set(found.values) == {0.6}
    assert found.retest == pytest.approx(0.2 / math.sqrt(2))
    assert found.spread.dead == 1.0
    expense = found.expense
    assert (expense.calls, expense.cached) == (6, 1)
    assert expense.per_thousand(expense.usd or 0) == pytest.approx(2.0)
    assert expense.per_thousand(expense.calls) == 1000
    same = verdict_of(found)  # of everything, so there is nothing to hack
    assert (same.word, same.reason) == (NOISE, "all plans earn the same")


def test_an_unknown_price_and_an_unread_reply_stay_unknown() -> None:
    async def ask(request: Request) -> Reply:
        is_read = "Mia" not in request.messages[-1]["content"]
        return Reply("Similarity: 0.9" if is_read else "no idea", cost_usd=None)

    found = audited("judge", Means(ask=ask))
    assert found.values == (0.9, 0.9, None, 0.9, None, None)
    assert found.known == 0.5
    assert found.expense.usd is None
    assert found.rankings[EXECUTION].auc.n == 3


def test_a_reward_that_reads_a_right_execution_is_not_ranked_by_that_label() -> None:
    """Log-probabilities that count how many names of the true plan stand in front."""

    def log_probs(texts: Sequence[Conditioned]) -> list[list[float]]:
        return [[float(text.before.count("Bob's") + text.before.count("Eve's"))] for text in texts]

    read = replace(
        ROWS, rows=tuple(replace(r, case=replace(r.case, execution="5")) for r in ROWS.rows)
    )
    config = PlanRewardConfig(kind="likelihood", guards=[])
    means = Means(log_probs=log_probs)
    found = asyncio.run(audit_reward("likelihood", config, read, means, retested=1, probed=1))
    assert set(found.rankings) == {PLAN}
    assert found.rankings[PLAN].auc.value == 1.0
    assert found.expense.passes == 2 + 5  # a problem's baseline, and its distinct plans
    audit = Audit(read, (found,), ())
    (_, (_, lines), _) = sections(audit, verdicts(audit))[1]
    assert lines[0][3:] == ["(reads one)", "(reads one)", "100 %"]
    only = replace(read, rows=tuple(replace(row, plan_right=None) for row in read.rows))
    (verdict,) = verdicts(Audit(only, (replace(found, rankings={}),), ()))
    assert verdict.word == NO_LABEL


def made(
    name: str,
    values: Sequence[float | None],
    *,
    seconds: float = 1.0,
    calls: int = 0,
    generated: int = 0,
    passes: int = 0,
    probes: Mapping[str, ProbeFigures] | None = None,
    retest: float = 0.0,
    rows: AuditRows | None = None,
) -> RewardAudit:
    """A reward with given figures on many problems."""
    chosen = rows or MANY
    pairs = [(r, v) for r, v in zip(chosen.rows, values, strict=True) if v is not None]
    return RewardAudit(
        name=name,
        values=tuple(values),
        rankings={PLAN: ranking(pairs, PLAN)},
        by_kind={},
        spread=spread([value for _, value in pairs], [row.problem_id for row, _ in pairs]),
        retest=retest,
        retested=len(values),
        expense=Expense(len(values), seconds, calls=calls, generated=generated, passes=passes),
        guarded=0.0,
        probes=probes or {},
    )


MANY = rows_of(
    {f"p{i}": [(*RIGHT, None), (*WRONG, None)] for i in range(60)}, golden="Bob's Eve's ;"
)
GOOD = [float(row.plan_right or 0) + 0.1 * (i % 3) for i, row in enumerate(MANY.rows)]
FAIR = [v if i % 5 else 1.0 - v for i, v in enumerate(GOOD)]
BLIND = [float(i // 2 % 7 + i % 2 * (1 if i // 2 % 2 else -1)) for i in range(120)]


def verdict_of(reward: RewardAudit, *others: RewardAudit, holds: bool = True):  # type: ignore[no-untyped-def]
    control = Control("control", PLAN, Ranking(Interval(0.4, 0.3, 0.5, 9), Interval(0, 0, 0, 0)),
                      "AUC of .95", holds)  # fmt: skip
    rows = ROWS if len(reward.values) == len(ROWS.rows) else MANY
    return verdicts(Audit(rows, (reward, *others), (control,)))[0]


def test_verdicts_follow_their_rules_in_order() -> None:
    assert verdict_of(made("good", GOOD)).word == WORTH
    assert verdict_of(made("good", GOOD), holds=False).reason.endswith("control fails: control")
    assert verdict_of(made("upside", [-v for v in GOOD])).word == MISLEADING
    assert verdict_of(made("noisy", GOOD, retest=5.0)).word == NOISE
    blind = verdict_of(made("blind", BLIND))
    assert (blind.word, blind.reason.endswith("is not told from chance")) == (UNDECIDED, True)
    paying = ProbeFigures(0.9, Interval(0.2, 0.1, 0.3, 60))
    hacked = verdict_of(made("hacked", GOOD, probes={"echo": paying}))
    assert hacked.word == HACKABLE
    assert hacked.reason.startswith("echo earns +0.200 [+0.100, +0.300]")


def test_what_costs_more_has_to_rank_better() -> None:
    cheap = made("cheap", FAIR)
    better = verdict_of(made("dear", GOOD, calls=120), cheap)
    assert (better.word, "that cheap knows too" in better.reason) == (WORTH, True)
    assert verdict_of(made("dear", FAIR, calls=120), made("cheap", GOOD)).word == NOT_WORTH
    nearly = [v if i != 7 else -v for i, v in enumerate(FAIR)]
    same = verdict_of(made("dear", nearly, calls=120), cheap)
    assert same.word == UNDECIDED
    assert "are resolved" in same.reason
    # as quick as makes no difference: neither is the cheaper one
    assert verdict_of(made("one", GOOD, seconds=1.5), made("two", GOOD)).word == WORTH
    # at equal cost only a better one is a reason against it
    assert verdict_of(made("one", FAIR), made("two", GOOD)).word == NOT_WORTH
    assert verdict_of(made("one", FAIR), made("two", FAIR)).word == WORTH
    # a reward that a probe earns by is no yardstick
    probes = {"echo": ProbeFigures(0.9, Interval(0.2, 0.1, 0.3, 60))}
    assert (
        verdict_of(made("dear", FAIR, calls=9), made("hacked", GOOD, probes=probes)).word == WORTH
    )


def test_two_that_never_err_on_few_rows_are_undecided() -> None:
    rows = rows_of({name: [(*RIGHT, None), (*WRONG, None)] for name in "abcdefghij"}, golden="x")
    values = [float(bool(row.plan_right)) for row in rows.rows]
    few = [
        made(name, values, calls=calls, rows=rows) for name, calls in (("dear", 9), ("cheap", 0))
    ]
    found = verdicts(Audit(rows, tuple(few), ()))[0]
    assert found.word == UNDECIDED
    assert found.reason.startswith("too few rows")
    assert "nan" not in found.reason


def test_a_reward_at_its_floor_is_no_hack() -> None:
    """Of all plans the same; or of honest ones so little that a hack has nothing to lose."""
    free = {"echo": ProbeFigures(0.0, Interval(0.0, -0.005, 0.005, 60))}
    constant = verdict_of(made("floor", [0.0] * 120, probes=free))
    assert (constant.word, constant.reason) == (NOISE, "all plans earn the same")
    by_problem = verdict_of(made("problems", [float(i // 2) for i in range(120)], probes=free))
    assert (by_problem.word, by_problem.reason) == (NOISE, "all plans of a problem earn the same")
    assert not free["echo"].pays
    assert ProbeFigures(0.5, Interval(0.0, -0.005, 0.005, 60)).pays
    assert ProbeFigures(0.3, Interval(0.3, 0.2, 0.4, 60)).pays, "a gain is one, above a floor too"


def test_the_rival_is_the_strongest_on_the_rows_that_both_know() -> None:
    """Of its own easy rows one is perfect; of the common ones another ranks better."""
    dear = made("dear", [v if i < 80 else 1.0 - v for i, v in enumerate(GOOD)], calls=120)
    easy = made("easy", [None if i < 80 else v for i, v in enumerate(FAIR)])
    even = made("even", [None if i >= 80 else v for i, v in enumerate(FAIR)])
    nothing = made("nothing", [None] * 119 + [1.0])
    found = verdict_of(dear, even, easy, nothing)
    assert found.word == NOT_WORTH
    assert "that easy knows too" in found.reason
    alone = verdict_of(made("dear", GOOD, calls=120), nothing)
    assert (alone.word, "too few rows" in alone.reason) == (UNDECIDED, True)


def test_what_is_counted_is_compared_before_time() -> None:
    """A busy core makes no reward dear: texts, then passes, and time where both are equal."""
    cases: list[tuple[dict[str, int], dict[str, int], bool]] = [
        ({"generated": 480}, {"passes": 900}, True),
        ({"generated": 480}, {"generated": 240}, True),
        ({"passes": 120}, {}, True),
        ({"passes": 120}, {"passes": 120}, False),
    ]
    for dear, cheap, is_dearer in cases:
        slow = made("slow but cheap", GOOD, seconds=1.9, **cheap)  # type: ignore[arg-type]
        found = verdict_of(made("dear", FAIR, seconds=1.0, **dear), slow)  # type: ignore[arg-type]
        assert found.word == NOT_WORTH
        assert ("which costs less" in found.reason) == is_dearer


def test_without_labels_nothing_is_said_of_right_and_wrong() -> None:
    bare = replace(MANY, rows=tuple(replace(row, plan_right=None) for row in MANY.rows))
    reward = replace(made("good", GOOD), rankings={})
    audit = Audit(bare, (reward,), ())
    assert audit.labels == []
    (verdict,) = verdicts(audit)
    assert verdict.word == NO_LABEL
    assert "spread" in verdict.reason
    text = to_markdown(audit, [verdict], "c")
    assert "| good | no label |" in text
    assert "Labels: none" in text


def test_tables_values_and_figure_hold_what_was_found() -> None:
    reward = audited()
    audit = Audit(ROWS, (reward,), controls(ROWS), {"judge": "it asks a large model"})
    found = verdicts(audit)
    titles = [title for title, _, _ in sections(audit, found)]
    assert titles == ["Verdicts", "How well rewards rank",
                      "Steadiness, and what a thousand plans take", "Hack probes"]  # fmt: skip
    values = to_values(audit, found, "c")
    (one,) = values["rewards"]
    assert one["rankings"][EXECUTION]["auc"]["value"] == pytest.approx(5.5 / 9)
    assert one["verdict"] == found[0].word
    assert values["skipped"] == {"judge": "it asks a large model"}
    text = to_markdown(audit, found, "c")
    assert "not audited: judge, it asks a large model" in text
    assert "0.611" in text
    figure = audit_figure(audit, found)
    assert figure.svg.startswith("<?xml")
    assert figure.svg == audit_figure(audit, found).svg


def test_planted_kinds_are_told_apart_one_by_one() -> None:
    problem = Problem("x", "2+2", "4", style="gsm8k")
    case = PlanCase(problem, "1. Add.\n2. Halve.", "1. Add.\n2. Halve.")
    rows = tuple(
        AuditRow(replace(case, problem=replace(problem, id=name), plan=plan), kind=kind,
                 plan_right=kind == "reworded")
        for name in ("x", "y")
        for kind, plan in (
            ("reworded", "1. Add.\n2. Now halve."),
            ("step_dropped", "1. Add."),
            ("step_repeated", "1. Add.\n2. Halve.\n"),
        )
    )  # fmt: skip
    found = asyncio.run(
        audit_reward("steps", PlanRewardConfig(guards=[]), AuditRows(rows, (), 2), Means(),
                     retested=0, probed=0)
    )  # fmt: skip
    assert {kind: one.value for kind, one in found.by_kind.items()} == {
        "step_dropped": 1.0,
        "step_repeated": 0.0,
    }
    assert math.isnan(found.retest)
    assert found.probes == {}
