"""What only algebra decides, through the real workers."""

from __future__ import annotations

import pytest

from plan_tuning.config.grading import GradingConfig
from plan_tuning.grading.grader import Grader
from plan_tuning.records import Problem, Verdict

pytestmark = pytest.mark.integration

RIGHT = [
    (r"2\sqrt{2}", r"\sqrt8"), (r"\frac{\sqrt2}{2}", r"\frac{1}{\sqrt2}"), ("2\\sqrt2", "2√2"),
    (r"\frac{\pi}{2}", r"0.5\pi"), ("x^2-1", "(x-1)(x+1)"), (r"\sqrt{x^2}", r"\left|x\right|"),
    (r"\sin^2 x", r"1-\cos^2 x"), (r"\tan 45^\circ", "1"), (r"\cos 15^\circ",
    r"\frac{\sqrt6+\sqrt2}{4}"), ("3", r"\log_2 8"), ("3", r"\log_{2}{8}"),
    (r"\log_2 3", r"\frac{\ln 3}{\ln 2}"), ("3+4i", "4i+3"), (r"\frac{1}{1+i}", r"\frac{1-i}{2}"),
    (r"e^{i\pi}", "-1"), (r"\sqrt{3+2\sqrt2}", r"1+\sqrt2"), (r"\sqrt[3]{16}", r"2\sqrt[3]{2}"),
    (r"\frac{n(n+1)}{2}", r"\binom{n+1}{2}"), (r"\left\lceil\frac n2\right\rceil",
    r"\lfloor (n+1)/2\rfloor"), ("(-1)^n", "(-1)^{n+2}"), ("n!", r"n\cdot(n-1)!"),
    ("2^{2n}", "4^n"), ("ab", "ba"), (r"\frac{x}{y}", "xy^{-1}"), ("y=2x+3", "2x-y+3=0"),
    ("y=2x+3", "2x+3"), ("x^2+y^2=4", "2x^2+2y^2=8"), ("f(x)=2x+1", "f(t)=2t+1"),
    (r"$f(n)=n$, $g(n)=1$", "g(n)=1, f(n)=n"), (r"(3,\frac{\pi}{2})", r"(3,\pi/2)"),
    (r"1\pm\sqrt3", r"1-\sqrt3, 1+\sqrt3"), (r"\sqrt2", "1.41421356237"), (r"\frac{d!}{2(d-2)!}",
    r"\frac{d(d-1)}{2}"), (r"\arctan 1", r"\frac{\pi}{4}"), ("0.1x", r"\frac{x}{10}"),
]  # fmt: skip
WRONG = [
    ("x^2-1", "(x-1)(x+2)"), (r"\sqrt{x^2}", "x"), (r"\frac{\pi}{6}", "30"), (r"\pi", "3.14"),
    (r"\pi", r"\frac{22}{7}"), (r"\sqrt2", "1.414"), (r"e^{i\pi}", "1"), ("3+4i", "3+4"),
    ("3+4i", "4+3i"), (r"\sqrt[3]{16}", r"2\sqrt2"), (r"\frac{n(n+1)}{2}", r"\binom n2"),
    (r"\lfloor\sqrt{n-1}\rfloor", r"\lfloor\sqrt{n-3}\rfloor"), ("(-1)^n", "1"), ("2^{2n}", "2^n"),
    (r"\lfloor n/2\rfloor", "n/2"), ("ab", "a+b"), (r"\frac xy", r"\frac yx"), ("42", "42ab"),
    ("2", "2x"), ("x", "y"), ("a_1", "a_2"), ("x_1+x_2", "x_1+x_3"), ("y=2x+3", "y=2x+4"),
    ("y=2x+3", "2x-y-3=0"), ("x^2+y^2=4", "x^2+y^2=2"), ("4", "x^2+y^2"), ("x=3", "y=3"),
    (r"$f(n)=n$, $g(n)=1$", "g(n)=n, f(n)=1"), (r"\frac{d!}{2k(d-k)!}", r"\frac{d!}{9k(d-k)!}"),
    (r"\sqrt2,-\sqrt2", r"\pm2"), (r"\frac{\pi}{2004!}", "0"), ("e^{2x}", "2e^x"),
    (r"\log_{10}250", r"\log_{10}251"), ("42", r"\frac{42}{0}"), ("42", r"42x^0+\frac{x}{0}"),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "answer"), RIGHT)
def test_equal_formulas(grader: Grader, gold: str, answer: str) -> None:
    problem = Problem("p", "", gold, style="olympiadbench")
    assert grader.grade(f"\\boxed{{{answer}}}", problem).verdict is Verdict.CORRECT
    turned = Problem("q", "", answer, style="olympiadbench")
    if "," not in gold and "=" not in gold and "f(" not in gold:
        assert grader.grade(f"\\boxed{{{gold}}}", turned).verdict is Verdict.CORRECT


@pytest.mark.parametrize(("gold", "answer"), WRONG)
def test_different_formulas(grader: Grader, gold: str, answer: str) -> None:
    problem = Problem("p", "", gold, style="olympiadbench")
    assert grader.grade(f"\\boxed{{{answer}}}", problem).verdict is Verdict.WRONG


def test_a_plain_gold_may_ask_for_a_plain_answer() -> None:
    with Grader(GradingConfig(accept_unsimplified=False)) as strict:
        verdict = strict.grade(r"\boxed{\log_2 8}", Problem("p", "", "3")).verdict
        assert verdict is Verdict.WRONG
        assert strict.pool.pids == []
