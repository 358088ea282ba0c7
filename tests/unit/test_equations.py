"""Answers that are equations: which of them give a value, and which are still to be solved."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plan_tuning.config.grading import GradingConfig
from plan_tuning.grading.equivalence import compare
from plan_tuning.grading.grader import Grader
from plan_tuning.grading.scalars import Criteria
from plan_tuning.grading.votes import vote_key
from plan_tuning.records import Problem, Verdict

GIVE_FIVE = [
    "x=5", "5=x", "x = 2+3 = 5", "m+n=5", "m - n = 5", "a+b+c=5", r"\frac{m}{n}=5", "a^2+b^2=5",
    "ab+bc+ca=5", r"\frac1a+\frac1b=5", "f(3)=5", "f(10)=5", "f(f(2))=5", "f^{-1}(3)=5", "P(X=3)=5",
    "S_5=5", "a_{10}=5", "x_1+x_2=5", r"\alpha+\beta=5", r"\bar{x}=5", "AB=5", "AB+CD=5", "|AB|=5",
    "|z|=5", "[ABC]=5", r"\angle ABC=5", r"\cos A=5", r"\sin 2\theta=5", r"\sin^2x+\cos^2x=5",
    r"\lim_{x\to 0}f(x)=5", r"\int_0^1 10x\,dx=5", r"\gcd(10,15)=5", r"\text{lcm}(1,5)=5",
    r"\text{total}=5", "Total number of ways=5", "value of x=5", r"\text{Area of }ABC=5",
    r"3x=15 \Rightarrow x=5", r"x+3=8 \implies x = 5", r"10 \times 50\%=5", r"20\% of 25=5",
    r"2\text{ apples}+3\text{ apples}=5", "101_2=5", r"\sqrt{25}=5", r"\$20 - \$15 = \$5",
    r"x\approx 5", r"5.001\approx 5", "2 x 2 + 1 = 5",
]  # fmt: skip
DO_NOT_GIVE_FIVE = [
    "3x=5", "x+3=5", "x^2=5", "x/2=5", r"\frac{x}{2}=5", "7=5", "3-8=5", "x=7=5", "2x+3y=5",
    "x(x+1)=5", "A(A+1)=5", r"\sqrt{x}=5", "|x|=5", "2^x=5", "x!=5", r"\log x=5", r"x\cdot x=5",
    "-x=5", r"\frac{1}{x}=5", "(3,8)=5", r"\pi=5", "3x=15", r"3x=5\text{ cm}", "so 3x=5",
    r"3\text{ apples}=5", r"7\approx 5", r"\cos^2 x=5", r"2\cos x=5", "x+y+1=5", "x=5+1", "2(x)=5",
    r"y=1\Rightarrow 3x=5", r"1\text{ hour}=5", "=".join(["x", *["5"] * 40]),
]  # fmt: skip


def equal(gold: str, answer: str, style: str = "math") -> bool | None:
    return compare(gold, answer, Criteria(GradingConfig(), style=style))


@pytest.mark.parametrize("style", ["math", "gsm8k"])
@pytest.mark.parametrize("answer", GIVE_FIVE)
def test_equations_that_give_a_value(answer: str, style: str) -> None:
    assert equal("5", answer, style) is True


@pytest.mark.parametrize("style", ["math", "gsm8k"])
@pytest.mark.parametrize("answer", [a for a in DO_NOT_GIVE_FIVE if a != r"\pi=5"])
def test_equations_that_give_no_value(answer: str, style: str) -> None:
    assert equal("5", answer, style) is False


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [
        ("25", "m+n=25", True), ("60", r"1\text{ hour}=60\text{ minutes}", True),
        ("33.3", r"\frac{100}{3}=33.3", True), ("33.3", r"\frac{100}{3}\approx 33.3", True),
        (r"\frac13", r"\frac13\approx 0.33", True), ("25\\%", r"\frac14=25\%", True),
        ("2:3", "AB:BC=2:3", True), ("(1,2)", "(x,y)=(1,2)", True),
        ("(1,2)", "2(x,y)=(1,2)", False),
        (r"\begin{pmatrix}1&2\end{pmatrix}", r"A^{10}=\begin{pmatrix}1&2\end{pmatrix}", True),
        ("0", "x=0", True), ("0", "3-3=0", True), ("0", "x+y=0", False), ("0", "2x=0", False),
        ("2,3", "x=2, x=3", True), ("2,3", "x^2=2, y=3", False), ("x=5", "x=2+3=5", True),
        ("x=5", "x=7=5", False),
    ],
)  # fmt: skip
def test_other_values(gold: str, answer: str, expected: bool) -> None:
    assert equal(gold, answer) is expected


@pytest.mark.parametrize(
    ("completion", "verdict"),
    [
        ("The answer is x + 7 = 5", Verdict.WRONG),
        ("The answer is $3x = 5$.", Verdict.WRONG),
        ("The answer is x = 5.", Verdict.CORRECT),
        ("The answer is 12 - 7 = 5 apples.", Verdict.CORRECT),
        ("The answer is 20 apples - 15 = 5.", Verdict.CORRECT),
        ("The answer is 18 + 3x = 33, so x = 5.", Verdict.CORRECT),
        ("The answer is 2 x 2 + 1 = 5.", Verdict.CORRECT),
        (r"\boxed{3x=5}", Verdict.WRONG),
        ("#### 3x = 5", Verdict.WRONG),
    ],
)
def test_equations_in_a_sentence(completion: str, verdict: Verdict) -> None:
    with Grader() as grader:
        assert grader.grade(completion, Problem("p", "", "5", style="gsm8k")).verdict is verdict


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    st.integers(-99, 99), st.integers(2, 9), st.sampled_from("xynk"),
    st.sampled_from(["{a}{x}", "{x}+{a}", "{x}-{a}", "{x}^{a}", "{x}/{a}", r"\frac{{{x}}}{{{a}}}",
                     "{a}-{x}", "{a}({x}+1)", r"\sqrt{{{a}{x}}}", "{a}^{x}", "{x}^2+{a}{x}"]),
)  # fmt: skip
def test_an_equation_in_one_unknown_gives_no_value(n: int, a: int, x: str, form: str) -> None:
    side = form.format(a=a, x=x)
    assert equal(str(n), f"{side}={n}") is False
    assert equal(str(n), f"{x}={n}") is True


@pytest.mark.parametrize(
    "answers",
    [
        ("3", "3.0", "$3$", "x=3", "3 apples", r"\frac{6}{2}", "three", r"\boxed{3}"),
        ("1,2", "2, 1", r"\{1, 2\}", "1 and 2", r"x\in\{1,2\}", r"S=\{2,1\}"),
        ("x<-2 or x>2", r"(-\infty,-2)\cup(2,\infty)", r"\{x\mid |x|>2\}", "|x|>2"),
        ("9,500", "9 500", r"9{,}500", "9'500"),
        (r"(1,\frac12)", "(1, 0.5)"),
        ("yes", "Yes.", "true"),
        ("50%", r"50\%", "50 percent"),
        (r"\text{Evelyn}", "evelyn"),
        ("1,250", "1250", r"\$1250"),
    ],
)
def test_answers_that_vote_together(answers: tuple[str, ...]) -> None:
    assert len({vote_key(answer) for answer in answers}) == 1


def test_answers_that_do_not_vote_together() -> None:
    answers = [
        "3",
        "-3",
        "3x",
        "1,2",
        "(1,2)",
        "(2,1)",
        "50",
        "50%",
        "yes",
        "no",
        "",
        "3x=3",
        "x+1=3",
    ]
    assert len({vote_key(answer) for answer in answers}) == len(answers)
