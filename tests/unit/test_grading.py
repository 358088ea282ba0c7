"""What text work alone decides: verdicts, typed comparison, policy. No process is started here."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plan_tuning.config.checks import ConfigError
from plan_tuning.config.grading import GradingConfig, SandboxConfig, grading_from
from plan_tuning.grading.arithmetic import evaluate
from plan_tuning.grading.equivalence import compare, gold_defect
from plan_tuning.grading.grader import Grader
from plan_tuning.grading.guards import is_safe
from plan_tuning.grading.normalisation import normalise
from plan_tuning.grading.scalars import Criteria
from plan_tuning.records import Problem, Verdict


def equal(gold: str, answer: str, style: str = "math", **options: object) -> bool | None:
    config = GradingConfig(**options)  # type: ignore[arg-type]
    return compare(gold, answer, Criteria(config, style=style))


RIGHT = [
    ("70000", r"70\,000"), ("70000", "70 000"), ("1250", "1,250"), ("1250", "1250."),
    ("1250", "**1250**"), ("-5", "−5"), ("42", "４２"), ("1/2", "½"), (r"\frac{5}{2}", "2½"),
    (r"\frac{1}{2}", ".5"), (r"\frac{1}{2}", r"\frac12"), (r"\frac{3}{4}", r"\dfrac{6}{8}"),
    (r"-\frac37", r"\frac{3}{-7}"), (r"\frac{14}{3}", r"4\frac{2}{3}"), ("3.5", "3 1/2"),
    (r"\frac13", r"0.\overline{3}"), ("120", "5!"), ("10", r"\binom52"), ("1024", "4^5"),
    ("300000000", r"3\times 10^8"), (r"6.02\times10^{23}", "6.02e23"), ("2", r"\sqrt4"),
    (r"2^{100}", "1267650600228229401496703205376"), (r"10^{-20}", "0.00000000000000000001"),
    ("18", "18 eggs"), ("18", r"18\text{ eggs}"), (r"10\text{ meters}", r"10\text{ m}"),
    (r"10\text{ cm}^2", "10 square centimeters"), (r"60\text{ mph}", "60 miles per hour"),
    ("5", r"\$5.00"), ("5", "€5"), ("3000000", "3 million"), ("24", "2 dozen"), ("7", "seven"),
    (r"90^\circ", "90"), (r"90^\circ", "90 degrees"), ("50\\%", "50"), ("50\\%", r"\frac12"),
    ("25", "25%"), ("0.25", "25%"), ("1,2", r"\{2, 1\}"), ("1,2", r"1 \text{ and } 2"),
    ("-2,2", r"\pm 2"), ("2,3", r"x=2\text{ or }x=3"), ("2,3", "x = 3, 2"), ("x=2,3", "2,3"),
    (r"(1,2),(3,4)", r"(3,4)\text{ and }(1,2)"), ("[2,5)", r"\left[2,\,5.0\right)"),
    (r"(-\infty,3]", r"x\in(-\infty, 3]"), ("[-3,5)", r"-3\leq x<5"), ("x>2", "2<x"),
    (r"(0,1)\cup(2,3)", r"(2,3) \cup (0,1)"), ("(1,2)", r"\big(1,\frac42\big)"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix}1&2\\3&\frac82\end{bmatrix}"),
    ("5", "x=5"), ("5", "x=2+3=5"), ("x=5", "5"), ("25", "m+n=25"),
    ("f(x)=x", "f(t)=t"), ("x=2, y=3", "y=3, x=2"), (r"\text{even}", "Even"),
    (r"\text{Evelyn}", r"\textbf{Evelyn}"), (r"\text{(C)}", "C"), ("B", r"\text{(B)}"),
    ("B", "B."), (r"\text{(A)}", r"(A)\ 5"), ("2516_8", "2516_{8}"),
    ("1101_2", r"1101_{\text{two}}"), ("12:30", r"12:30\text{ p.m.}"), ("2:3", "4:6"),
    (r"k \geqslant 2", r"k\ge 2"),
    (r"\emptyset", r"\varnothing"), ("5", "The number of ways is 5"),
    (r"\frac34", r"\text{The probability is } \frac{3}{4}"), ("20", "approximately 20"),
    ("(3,2),(-3,2)", r"(\pm3,2)"), ("(3,2),(-3,2),(3,-2),(-3,-2)", r"(\pm 3, \pm 2)"),
    (r"\text{June 20}", "June 20"), ("A,C", "C, A"), ("x", r"\text{Row, a column} = x"),
    ("11,\\! 111,\\! 100", "11111100"),
]  # fmt: skip
WRONG = [
    ("42", "43"), ("42", "4 2"), ("42", "-42"), ("42", "4.2"), ("10000", "10001"),
    ("1000000", "1000001"), ("42", "42 or 43"), ("42", "not 42"), ("42", r"\text{unknown}"),
    ("42", "?"), ("3", "3 million"), ("7", "7 and a half"), (r"\frac{100}{3}", "33.3"),
    (r"10^{-20}", r"10^{-21}"), (r"\frac{1}{2^{98}}", r"\frac{1}{2^{88}}"),
    (r"\frac{1}{2004!}", "0"), ("50", "0.5"), ("50", "5%"), ("50\\%", "500"), ("0.5", "50"),
    (r"10\text{ cm}", r"10\text{ m}"), (r"10\text{ cm}^2", r"10\text{ cm}"), ("1,2", "1"),
    ("1,2", "1,3"), ("1,2", "1,2,2"), ("1,2", "(1,2)"), (r"\pm 2021", "2021"), ("[0,1]", "(0,1)"),
    ("[0,1]", "[0,1)"), ("[0,1]", "[1,0]"), ("(1,2)", "(2,1)"), ("(1,2)", "(1,2,3)"),
    ("(2,3)", r"\{2,3\}"), (r"(0,1)\cup(2,3)", "(0,1)"), ("x>2", r"x\ge2"), ("x>2", "y>2"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}"),
    (r"\begin{pmatrix}1&2\end{pmatrix}", "3"), ("5", "x=4"), ("5", "x=5+1"), ("5", "2x-10=0"),
    ("x=2, y=3", "x=3, y=3"), (r"\text{even}", "odd"), (r"\text{even}", r"\text{not even}"),
    (r"\text{(C)}", "D"), ("B", "(C)"), ("2516_8", "2516_7"), ("2516_8", "2515_8"),
    ("2516_8", "2516"), ("12:00", "1:00"), ("2:03", "2:3"), ("1:2:3", "1:3:2"), ("2:3", "2:5"),
    ("42", r"\lim_{x\to 0} 42"), ("42", "__import__('os')"),
    ("x", "Clearly state the value"), ("(3,2),(-3,-2)", r"(\pm 3, \pm 2)"), ("42", "is not 42"),
    (r"\text{June 20}", "June 21"), ("5", "The number of ways is not 5"),
    ("42", "9^{9^{9^{9}}}"), ("42", "7" * 20000), ("42", "\u202e24"), ("42", ""),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "answer"), RIGHT)
def test_equal_answers(gold: str, answer: str) -> None:
    assert equal(gold, answer) is True


@pytest.mark.parametrize(("gold", "answer"), WRONG)
def test_different_answers(gold: str, answer: str) -> None:
    assert equal(gold, answer) is False


@pytest.mark.parametrize(
    ("style", "gold", "answer", "expected"),
    [
        ("aime", "025", "25", True),
        ("aime", "7", "007", True),
        ("aime", "7", "7.5", False),
        ("strategyqa", "yes", "True", True),
        ("strategyqa", "no", "No, because it rained.", True),
        ("strategyqa", "no", "yes", False),
        ("strategyqa", "yes", "maybe", False),
        ("strategyqa", "yes", "yes or no", False),
        ("strategyqa", "no", "yes or no", False),
        ("strategyqa", "no", "not no, it is yes", False),
        ("strategyqa", "yes", "not no, it is yes", True),
        ("microworld", "23", " 23 ", True),
        ("microworld", "23", "24", False),
        ("microworld", "23", "46/2", False),
    ],
)
def test_styles(style: str, gold: str, answer: str, expected: bool) -> None:
    assert equal(gold, answer, style) is expected


@pytest.mark.parametrize(
    ("options", "gold", "answer", "expected"),
    [
        ({"percent": "same"}, "50\\%", "0.5", False),
        ({"percent": "same"}, "50\\%", "50", True),
        ({"percent": "exact"}, "50\\%", "50", False),
        ({"units": "required"}, r"5\text{ cm}", "5", False),
        ({"units": "required"}, r"5\text{ cm}", "5 cm", True),
        ({"accept_unsimplified": False}, "120", "5!", False),
        ({"accept_unsimplified": False}, r"\frac12", r"\frac24", False),
        ({"accept_unsimplified": False}, r"\frac12", "1/2", True),
        ({"accept_missing_base": True}, "2516_8", "2516", True),
        ({"rounding": 0.01}, r"\frac{100}{3}", "33.3", True),
        ({"rounding": 0.0}, r"\frac13", "0.3333333333", False),
        ({}, r"\frac13", "0.3333333333", True),
    ],
)
def test_policy_is_an_option(
    options: dict[str, object], gold: str, answer: str, expected: bool
) -> None:
    assert equal(gold, answer, **options) is expected


def test_units_tolerance_and_several_values_of_a_problem() -> None:
    with Grader() as grader:
        rough = Problem("a", "", "4.2", style="olympiadbench", unit="%", tolerance=0.1)
        assert grader.grade(r"\boxed{4.25\%}", rough).is_correct
        assert grader.grade(r"\boxed{4.31}", rough).verdict is Verdict.WRONG
        area = Problem("b", "", "$166$", style="olympiadbench", unit="$cm^2$")
        assert grader.grade(r"\boxed{166\text{ cm}^2}", area).is_correct
        assert grader.grade(r"\boxed{166\text{ m}^2}", area).verdict is Verdict.WRONG
        several = Problem("c", "", "100,200", style="olympiadbench", is_multiple_answer=True)
        assert grader.grade(r"\boxed{200,100}", several).is_correct
        assert grader.grade(r"\boxed{100}", several).verdict is Verdict.WRONG
        either = Problem("d", "", "080", style="aime", accepted_answers=("081",))
        assert grader.grade(r"\boxed{81}", either).is_correct
        assert grader.grade(r"\boxed{82}", either).verdict is Verdict.WRONG


@pytest.mark.parametrize(
    ("completion", "finish_reason", "require_box", "verdict", "is_strict"),
    [
        (r"\boxed{42}", "stop", False, Verdict.CORRECT, True),
        ("#### 42", "stop", False, Verdict.CORRECT, False),
        ("#### 42", "stop", True, Verdict.NO_ANSWER, False),
        (r"\boxed{41}", "stop", False, Verdict.WRONG, False),
        ("no idea", "stop", False, Verdict.NO_ANSWER, False),
        (r"\boxed{42", "stop", False, Verdict.TRUNCATED, False),
        (r"\boxed{42} so", "length", False, Verdict.CORRECT, True),
        ("we get 42", "length", False, Verdict.TRUNCATED, False),
    ],
)
def test_verdicts(
    completion: str, finish_reason: str, require_box: bool, verdict: Verdict, is_strict: bool
) -> None:
    problem = Problem("p", "", "42", style="gsm8k")
    with Grader() as grader:
        grade = grader.grade(
            completion, problem, finish_reason=finish_reason, require_box=require_box
        )
    assert (grade.verdict, grade.is_strict) == (verdict, is_strict)
    assert grade.is_correct == (verdict is Verdict.CORRECT)


@pytest.mark.parametrize(
    ("gold", "style", "is_bad"),
    [
        ("", "math", True), ("  ", "gsm8k", True), ("?", "math", True),
        (r"\frac{1}{2", "math", True),
        ("x" * 4000, "math", True), ("twelve apples", "gsm8k", True), ("1,250", "gsm8k", False),
        ("1000", "aime", True), ("-1", "aime", True), ("007", "aime", False),
        ("perhaps", "strategyqa", True), ("No", "strategyqa", False), ("2.5", "microworld", True),
        ("23", "microworld", False), (r"[2,5)", "math", False), (r"\text{even}", "math", False),
    ],
)  # fmt: skip
def test_gold_defects(gold: str, style: str, is_bad: bool) -> None:
    assert (gold_defect(gold, style) is not None) == is_bad
    if is_bad:
        with Grader() as grader:
            grade = grader.grade(f"\\boxed{{{gold}}}", Problem("p", "", gold, style=style))
        assert grade.verdict is Verdict.BAD_GOLD
        assert not grade.is_correct


def test_text_work_starts_no_process() -> None:
    problem = Problem("p", "", "23", style="microworld")
    with Grader() as grader:
        grades = grader.grade_many([(f"\\boxed{{ {n} }}", problem) for n in range(20, 30)])
        assert grader.pool.pids == []
    assert [n for n, grade in zip(range(20, 30), grades, strict=True) if grade.is_correct] == [23]


def test_finish_reasons_must_match_the_batch() -> None:
    with Grader() as grader, pytest.raises(ValueError, match="1 finish reasons for 2 completions"):
        grader.grade_many([("a", Problem("p", "", "1"))] * 2, finish_reasons=["stop"])


@pytest.mark.parametrize(
    ("text", "value"),
    [("1+2*3", "7"), ("-2^2", "-4"), (r"\frac{1}{2}+\frac{1}{3}", "5/6"), ("2(3)(4)", "24"),
     ("8^{1/3}", "2"), (r"\sqrt[3]{-27}", "-3"), ("1.5e3", "1500"), (r"2\frac{1}{3}", "7/3")],
)  # fmt: skip
def test_arithmetic(text: str, value: str) -> None:
    assert str(evaluate(text)) == value


@pytest.mark.parametrize(
    "text",
    ["", "x", "1 2", "1/2(3)", "2^{0.5}", "9^{9^{9}}", "(10^{9})!", "5!!", "1/0", "0^{-1}", "((1)",
     "1" * 5000, r"\binom{10}{11}", "(" * 100 + "1" + ")" * 100, r"\frac{1}{0}", "2^{10^{9}}"],
)  # fmt: skip
def test_what_is_no_exact_number(text: str) -> None:
    assert evaluate(text) is None


@pytest.mark.parametrize(
    "text",
    ["9^{9^{9^{9}}}", "2^{10^{9}}", "100000!", "((100!)!)!", r"\binom{1000000}{5}", "1e99999",
     "(x+1)^{10000}", r"\undefined{3}", "import os;", "((1)", "7" * 400, r"\int_0^1 x dx",
     "1+" * 500 + "1", "4 2"],
)  # fmt: skip
def test_costly_or_unknown_texts_are_not_safe(text: str) -> None:
    assert not is_safe(text)


def test_what_the_gold_uses_is_safe_in_the_answer() -> None:
    assert not is_safe(r"\sum_{k=1}^{n}k")
    assert is_safe(r"\sum_{k=1}^{n}k", like=r"\sum_{i=1}^{n}i")


@pytest.mark.parametrize(
    ("options", "key"),
    [({"percent": "yes"}, "percent"), ({"rounding": 1.0}, "rounding"), ({"wall_s": 0.0}, "wall_s"),
     ({"memory_mb": 10}, "memory_mb"), ({"num_workers": 0}, "num_workers"),
     ({"cache_size": -1}, "cache_size"), ({"units": "never"}, "units")],
)  # fmt: skip
def test_config_is_range_checked(options: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError, match=rf"evaluation\.grading\.{key}="):
        GradingConfig(**options)  # type: ignore[arg-type]


LATEX = st.lists(
    st.sampled_from(
        ["\\frac", "{", "}", "1", "23", "x", "n", "(", ")", "[", "]", "\\{", "\\}", ",", "+", "-",
         "^", "_", "\\sqrt", "\\pm", "\\cup", "\\text{", "cm", "%", "\\%", "=", "<", "\\le", ":",
         " ", "\\\\", "&", "\\begin{pmatrix}", "\\end{pmatrix}", "!", ".", "½", "²", "√", "\\left",
         "$", "\\", "and", "é", "\\infty", "°", "*", "\\overline{3}", "e9"]
    ),
    max_size=25,
).map("".join)  # fmt: skip


@settings(deadline=None, derandomize=True, max_examples=400)
@given(st.one_of(LATEX, st.text(max_size=60)), st.one_of(LATEX, st.text(max_size=60)))
def test_no_pair_of_answers_is_too_strange(gold: str, answer: str) -> None:
    for style in ("math", "gsm8k", "olympiadbench"):
        assert equal(gold, answer, style) in (True, False, None)


@settings(deadline=None, derandomize=True, max_examples=400)
@given(st.one_of(LATEX, st.text(max_size=60)))
def test_a_valid_gold_equals_itself(gold: str) -> None:
    if gold_defect(gold) is None:
        assert equal(gold, gold) is True


NUMBERS = st.one_of(
    st.integers(-(10**6), 10**6).map(str),
    st.fractions(max_denominator=50).map(lambda q: f"\\frac{{{q.numerator}}}{{{q.denominator}}}"),
    st.decimals(-1000, 1000, places=3).map(str),
    st.lists(st.integers(-9, 9).map(str), min_size=1, max_size=4).map(",".join),
    st.tuples(st.integers(-9, 9), st.integers(-9, 9)).map(lambda p: f"({p[0]},{p[1]})"),
)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(NUMBERS, NUMBERS)
def test_equality_of_numbers_and_lists_is_symmetric(first: str, second: str) -> None:
    assert equal(first, second) == equal(second, first)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.one_of(LATEX, st.text(max_size=60)))
def test_normalising_twice_changes_nothing_for_equal_texts(text: str) -> None:
    assert normalise(text) == normalise(f" {text} ") or text != text.strip()


def test_unknown_fields_of_a_manifest_are_passed_over() -> None:
    told = {"rounding": 0.0, "of_tomorrow": 1, "sandbox": {"time_s": 9, "of_tomorrow": 2}}
    assert grading_from(told) == GradingConfig(rounding=0.0, sandbox=SandboxConfig(time_s=9))
