"""Answers as models write them: numbers in sentences, sets and intervals, notation, ornament."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from plan_tuning.config.grading import GradingConfig
from plan_tuning.grading.grader import Grader
from plan_tuning.records import Problem


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(GradingConfig(wall_s=60.0, num_workers=1)) as grader:
        yield grader


THOUSANDS = [
    (r"She earns $9{,}500$ in total.", "9500", True), (r"The answer is $9\,500$.", "9500", True),
    (r"The answer is $9{\,}500$.", "9500", True), (r"The answer is $9\;500$.", "9500", True),
    (r"The answer is $9\ 500$.", "9500", True), ("The answer is 9\u202f500.", "9500", True),
    ("The answer is 9\u2009500 dollars.", "9500", True), ("Total: 9\u00a0500", "9500", True),
    ("The answer is 9'500.", "9500", True), ("The answer is 9’500.", "9500", True),
    ("#### 9 500", "9500", True), (r"#### $9{,}500$", "9500", True), ("#### 9'500", "9500", True),
    (r"\(12{,}345{,}678\)", "12345678", True), ("The answer is 1.234.567.", "1234567", True),
    ("The answer is 1,00,000.", "100000", True), ("The answer is 9_500.", "9500", True),
    (r"The answer is $9{,}500.50$.", "9500.5", True), (r"\boxed{9{\,}500}", "9500", True),
    (r"\boxed{9'500}", "9500", True), (r"\boxed{12\,345\,678}", "12345678", True),
    (r"\boxed{9\thinspace 500}", "9500", True), (r"\boxed{9\text{,}500}", "9500", True),
    (r"The answer is $9,\!500$ dollars.", "9500", True),
    (r"The answer is $9{,}500$.", "500", False), ("The answer is 9\u00a0500.", "9", False),
    ("The answer is 9 500.", "500", False), ("The answer is 9'500.", "9", False),
    ("The answer is 1,00,000.", "1", False), (r"Total $9{,}501$", "9500", False),
    (r"The answer is $12{,}345{,}678$.", "12345", False), (r"\boxed{9'501}", "9500", False),
    ("The answer is 9 500.", "9.5", False), (r"The answer is $9{,}500$.", "95", False),
]  # fmt: skip
SIGNS = [
    ("So the answer is \u22125.", "-5", True), ("So the answer is \ufe635.", "-5", True),
    ("So the answer is \u20125.", "-5", True), ("So the answer is \u20105.", "-5", True),
    ("So the answer is minus 5.", "-5", True), ("So the answer is negative 5.", "-5", True),
    ("#### negative 5", "-5", True), ("#### \u20135", "-5", True), ("#### minus $5", "-5", True),
    (r"The answer is $\text{minus }5$.", "-5", True), ("He ends at \u22125.", "-5", True),
    ("The answer is -$5.", "-5", True), ("The answer is $-5.", "-5", True),
    ("The answer is \u2212$5.", "-5", True), ("The balance is -US$5", "-5", True),
    (r"\boxed{\text{negative }5}", "-5", True), (r"\boxed{\text{minus five}}", "-5", True),
    (r"\boxed{\text{minus }\frac12}", "-0.5", True), ("The answer is 7 minus 12.", "-5", True),
    ("The answer is &minus;5.", "-5", True), ("**\u20135**", "-5", True),
    ("So the answer is \u22125.", "5", False), ("So the answer is \ufe635.", "5", False),
    ("So the answer is \u20125.", "5", False), ("#### \u20135", "5", False),
    ("The answer is -$5.", "5", False), ("The answer is \u2212$5.", "5", False),
    ("The balance is -US$5", "5", False), ("#### minus $5", "5", False),
    ("The answer is Minus 5.", "5", False), (r"\boxed{\text{negative }5}", "5", False),
    ("The answer is &minus;5.", "5", False), ("The answer is 7 minus 12.", "7", False),
    ("The temperature fell to negative 12 degrees.", "12", False),
    ("The total cost \u2013 $5 \u2013 is low.", "5", True), ("It is a well-5 step.", "5", True),
    ("The answer is:\n- 5", "5", True), ("The answer is:\n\u2022 5", "5", True),
]  # fmt: skip
REMARKS = [
    ("#### 72 (48 + 24)", "72", True), ("#### 72, which is the total", "72", True),
    ("#### 72; checked", "72", True), ("#### 72 (seventy-two)", "72", True),
    ("#### Answer\n72", "72", True), ("#### Final Answer:\n\n72", "72", True),
    ("#### 72 - done", "72", True), ("#### 72 apples in total", "72", True),
    ("#### 72 because 48 + 24 = 72", "72", True), ("#### 72 since 70 + 2 is it", "72", True),
    ("#### **72**", "72", True), ("#### Answer: 72", "72", True),
    ("#### The answer is 72", "72", True), ("#### 72 ####", "72", True),
    ("#### \u2705 72", "72", True), ("#### 48 + 24 = 72", "72", True),
    ("#### $72.00 (rounded)", "72", True), ("#### <b>72</b>", "72", True),
    ("#### 72 (not 73)", "72", True), ("The answer is 72 (48 + 24).", "72", True),
    ("The answer is 5, because 12 - 7 = 5 and 3 + 4 = 7.", "5", True),
    ("#### 72 (48 + 24)", "48", False), ("#### 72 (48 + 24)", "24", False),
    ("#### 72 (not 73)", "73", False), ("#### 72, 73", "72", False),
    ("#### 72 or 73", "72", False), ("#### Answer\n72", "73", False),
    ("#### 1. First we add", "1", False), ("#### 72 + 1", "72", False),
    ("#### between 72 and 73", "72", False),
]  # fmt: skip
MAGNITUDES = [
    ("The answer is 1.5 million.", "1500000", True), ("#### 1.5 million", "1500000", True),
    ("The answer is $1.5 million.", "1500000", True), ("The answer is 3 thousand.", "3000", True),
    (r"The answer is $1.5$ million.", "1500000", True), ("The answer is 2E3.", "2000", True),
    ("The answer is 2.5e+3.", "2500", True),
    ("It takes 1.5 \u00d7 10\u2076 years", "1500000", True),
    ("The answer is 1.5x10^6.", "1500000", True), ("The answer is 1.5*10^6.", "1500000", True),
    ("The answer is 1.5 * 10**6.", "1500000", True), ("The answer is 10^6.", "1000000", True),
    (r"The answer is $1.5\times10^{6}$.", "1500000", True), ("It costs $2.5k.", "2500", True),
    (r"\boxed{1.5x10^6}", "1500000", True), (r"\boxed{1.5 \times 10^{6}}", "1500000", True),
    ("The answer is 3 millions.", "3000000", True), ("The answer is 2 dozen.", "24", True),
    ("The answer is 2 dozen.", "2", True), ("The answer is 1 4/5.", "1.8", True),
    ("The answer is 1\u00bd.", "1.5", True), ("The answer is 1 \u00bd hours.", "1.5", True),
    ("The answer is 2 and a half.", "2.5", True), ("The answer is 2 and 3/4.", "2.75", True),
    ("He walked 2 1/2 miles.", "2.5", True), (r"The answer is $2\frac{1}{2}$.", "2.5", True),
    (r"The answer is $\frac{1}{2}$.", "0.5", True), ("The answer is 3/4.", "0.75", True),
    ("The answer is 5^2.", "25", True), ("The answer is 5 squared.", "25", True),
    ("The answer is seven.", "7", True), ("The answer is 5%.", "5", True),
    ("The answer is 1.5 million.", "1.5", False), ("The answer is 2e3.", "2", False),
    ("The answer is 1.5 \u00d7 10^6.", "1.5", False), ("The answer is 1.5 x 10^6.", "10", False),
    ("It takes 1.5 \u00d7 10\u2076 years", "10", False),
    ("It takes 1.5 \u00d7 10^6.", "6", False), ("The answer is 3 thousand.", "3", False),
    ("It costs $2.5k.", "2.5", False), ("The answer is 1 4/5.", "4/5", False),
    ("The answer is 1 4/5.", "5", False), ("He walked 2 1/2 miles.", "2", False),
    ("The answer is 2 and a half.", "2", False), (r"The answer is $\frac{1}{2}$.", "1", False),
    (r"The answer is $\frac{1}{2}$.", "2", False), ("The answer is 1\u00bd hours.", "0.5", False),
    ("The answer is 10:30.", "30", False), ("The train leaves at 10:30.", "30", False),
    ("The ratio is 3:2.", "2", False), ("The answer is 5^2.", "5", False),
    ("The answer is 10^6.", "10", False), ("The answer is 1.5 million.", "1500001", False),
    ("The answer is 2e3.", "2001", False), ("The answer is 1 hour 20 minutes.", "1", False),
    ("It took 1 hour 20 minutes.", "20", False),
    ("The answer is 5 feet and 7 inches.", "5", False),
    ("The answer is 3 thousand 500.", "3000", False),
]  # fmt: skip
SEVERAL = [
    ("The answer is 5 or 7.", "5", False), ("The answer is 5 or 7.", "7", False),
    ("The answer is either 5 or 7.", "5", False), ("The answer is 5 to 7.", "5", False),
    ("The answer is between 5 and 7.", "5", False), ("The answer is between 5 and 7.", "7", False),
    ("It is between 5 and 7.", "7", False), ("She needs 5 or 7.", "7", False),
    ("It takes 5 to 7 hours.", "7", False), ("The answer is 5\u20137.", "5", False),
    ("The answer is 5-7.", "5", False), ("It takes 5\u20137 hours.", "7", False),
    ("The answer is from 5 to 7.", "5", False), ("The answer is not 5.", "5", False),
    ("The answer isn't 5.", "5", False), ("It is not 5.", "5", False),
    ("The answer is neither 5 nor 7.", "5", False), ("The answer is 5 and 7.", "5", False),
    ("The answer is 5, 7.", "5", False), ("The answer is 5, 6, or 7.", "5", False),
    ("The answer is 5 + 7.", "5", False), ("The answer is 5 \u00b1 2.", "5", False),
    ("The answer is 5 apples or 7 apples.", "5", False), ("The answer is $5$ or $7$.", "5", False),
    ("The answer is more than 5.", "5", False), ("The answer is less than 5.", "5", False),
    ("The answer is > 5.", "5", False), (r"The answer is $\ge 5$.", "5", False),
    ("The answer is 5x + 3.", "5", False), ("The answer is x + 5.", "5", False),
    ("The answer is 5 \u274c", "5", False), ("#### not 5", "5", False),
    ("The answer is 5 or possibly 7.", "5", False), ("The answer is 5 * 7.", "5", False),
    ("The answer is 5/7.", "5", False), ("The answer is 12 / 4.", "12", False),
    ("The answer is not 5 but 7.", "7", True), ("The answer is not 5, it is 7.", "7", True),
    ("The answer is 5, not 7.", "5", True), ("The answer is 5 instead of 7.", "5", True),
    ("The answer is 5 out of 20 students.", "5", True), ("The answer is 4.98 \u2248 5", "5", True),
    ("The answer is at least 5.", "5", True), ("The price rose from 5 to 7.", "7", True),
    ("The answer is 5 apples, and 7 are left over.", "5", True), ("It is 5th.", "5", True),
    ("The answer is 5, since 7 is too much.", "5", True), ("5 apples, 7 pears: 12", "12", True),
    ("The answer is about 5.", "5", True), ("The answer is exactly 5 apples.", "5", True),
    ("The answer is no more than 5.", "5", True), ("The answer is 10 => 5", "10", True),
]  # fmt: skip


NUMBERS = THOUSANDS + SIGNS + REMARKS + SEVERAL
AIME_NUMBERS = [case for case in NUMBERS if case[1].isdigit() and int(case[1]) < 1000]


@pytest.mark.parametrize(
    ("style", "text", "gold", "expected"),
    [("gsm8k", *case) for case in NUMBERS] + [("aime", *case) for case in AIME_NUMBERS],
)
def test_numbers_in_sentences(
    grader: Grader, style: str, text: str, gold: str, expected: bool
) -> None:
    grade = grader.grade(text, Problem("p", "", gold, style=style))
    assert grade.is_correct is expected, grade


@pytest.mark.parametrize(("text", "gold", "expected"), MAGNITUDES)
def test_magnitudes(grader: Grader, text: str, gold: str, expected: bool) -> None:
    grade = grader.grade(text, Problem("p", "", gold, style="gsm8k"))
    assert grade.is_correct is expected, grade


SETS = [
    (r"x \in \{1,2,3\}", "1,2,3", True), (r"S=\{1,2,3\}", r"\{1,2,3\}", True),
    (r"S = \{3,2,1\}", "1,2,3", True), (r"x∈{1,2,3}", "1,2,3", True), (r"\{1,2,3\}", "1,2,3", True),
    (r"(x,y)\in\{(1,2),(2,1)\}", "(1,2),(2,1)", True), (r"A\cup B=\{1,2\}", r"\{1,2\}", True),
    (r"\text{Solution set: }\{1,2\}", r"\{1,2\}", True), (r"\{1\}\cup\{2\}", "1,2", True),
    ("1,2,3", r"x \in \{1,2,3\}", True), (r"x \in \{5\}", "5", True), (r"\{\}", r"\emptyset", True),
    (r"\text{no solution}", r"\emptyset", True), (r"n \in \{1, 2\}", r"\{1,2\}", True),
    (r"\{x \in \mathbb{Z} \mid 0 < x < 4\}", "1,2,3", True), (r"a_1 \in \{1,2\}", "1,2", True),
    (r"\{x\mid x=1 \text{ or } x=2\}", "1,2", True),
    (r"x \in \{1,2,3\}", "1,2", False), (r"x \in \{1,2,4\}", "1,2,3", False),
    (r"S=\{1,2\}", "1,2,3", False), (r"x \notin \{1,2,3\}", "1,2,3", False),
    (r"x \in (1,3)", r"\{1,3\}", False), (r"x\in\{1,3\}", "(1,3)", False),
    (r"(x,y)\in\{(1,2),(2,1)\}", "(1,2),(1,2)", False), (r"(x,y)\in\{(1,2)\}", "(2,1)", False),
    (r"\{x \in \mathbb{Z} \mid 0 < x < 4\}", "(0,4)", False), (r"\{0\}", r"\emptyset", False),
]  # fmt: skip
INTERVALS = [
    (r"x<-2\text{ or }x>2", r"(-\infty,-2)\cup(2,\infty)", True),
    (r"x>2 \text{ or } x<-2", r"(-\infty,-2)\cup(2,\infty)", True),
    (r"x<-2 \lor x>2", r"(-\infty,-2)\cup(2,\infty)", True),
    (r"|x|>2", r"(-\infty,-2)\cup(2,\infty)", True), (r"|x|\le 2", "[-2,2]", True),
    (r"|x-1|<2", "(-1,3)", True), (r"(-\infty,-2)\cup(2,\infty)", "|x|>2", True),
    (r"(-∞, -2) U (2, ∞)", r"(-\infty,-2)\cup(2,\infty)", True),
    (r"(-\infty,-2)\bigcup(2,+\infty)", r"(-\infty,-2)\cup(2,\infty)", True),
    (r"(-\infty,-2) \text{ or } (2,\infty)", r"(-\infty,-2)\cup(2,\infty)", True),
    (r"x\in(-\infty,-2)\cup(2,\infty)", r"x<-2 \text{ or } x>2", True),
    (r"\{x\mid x<-2\}", r"(-\infty,-2)", True), (r"\{x : x<-2\}", r"(-\infty,-2)", True),
    (r"\{x\in\mathbb{R}\mid x<-2\}", r"(-\infty,-2)", True), (r"\{x|-1\le x<3\}", "[-1,3)", True),
    (r"\left\{x \,\middle|\, x \ge 0\right\}", r"[0,\infty)", True),
    (r"(-\infty,\infty)", r"\mathbb{R}", True), (r"\R", r"\mathbb{R}", True),
    (r"\mathbb R", r"(-\infty,\infty)", True), (r"\Bbb{R}", r"\mathbb{R}", True),
    (r"\text{all real numbers}", r"\mathbb{R}", True), (r"x\in\R", r"\mathbb{R}", True),
    (r"(-\infty, +\infty)", r"(-\infty,\infty)", True), ("ℝ", r"\mathbb{R}", True),
    (r"x\neq 2", r"(-\infty,2)\cup(2,\infty)", True), (r"\R\setminus\{2\}", r"x\ne 2", True),
    (r"\mathbb{R}-\{2\}", r"(-\infty,2)\cup(2,\infty)", True),
    (r"]-\infty,2[", r"(-\infty,2)", True), (r"x>2 \text{ and } x<5", "(2,5)", True),
    (r"2<x<5", "(2,5)", True), (r"x\in[2,5)", "[2,5)", True),
    (r"[1,2]\cup[2,3]", "1\\le x\\le 3", True), (r"(0,1)\cup\{1\}", "0<x\\le 1", True),
    (r"-\sqrt2<x<\sqrt2", r"(-\sqrt{2},\sqrt{2})", True), (r"(-\infty;2)", r"(-\infty,2)", True),
    (r"x<-2\text{ or }x>2", r"(-\infty,-2]\cup(2,\infty)", False),
    (r"x<-2\text{ or }x>3", r"(-\infty,-2)\cup(2,\infty)", False),
    (r"x<-2\text{ and }x>2", r"(-\infty,-2)\cup(2,\infty)", False),
    (r"x<-2", r"(-\infty,-2)\cup(2,\infty)", False),
    (r"|x|<2", r"(-\infty,-2)\cup(2,\infty)", False),
    (r"\{x\mid x\le -2\}", r"(-\infty,-2)", False), (r"\{x\mid x>-2\}", r"(-\infty,-2)", False),
    (r"\mathbb{Z}", r"\mathbb{R}", False), (r"\N", r"\mathbb{R}", False),
    (r"\R", r"\mathbb{Q}", False), (r"[0,\infty)", r"\mathbb{R}", False),
    (r"(-\infty,\infty)", r"x\ne 0", False), (r"\{y\mid y<-2\}", "x<-2", False),
    (r"x\neq 3", r"(-\infty,2)\cup(2,\infty)", False),
    (r"(1,2) \text{ or } (2,1)", r"(1,2)\cup(2,1)", False), (r"(-2,2)", r"[-2,2]", False),
    (r"-\sqrt2<x<\sqrt3", r"(-\sqrt{2},\sqrt{2})", False), (r"]2,5[", "[2,5]", False),
]  # fmt: skip
NOTATION = [
    (r"0.\bar{3}", r"\frac13", True), (r"0.\dot{3}", r"\frac13", True),
    (r"0.\bar3", r"\frac13", True), (r"0.1\bar{6}", r"\frac16", True),
    (r"0.\dot{1}4285\dot{7}", r"\frac17", True), (r"0.\overline{142857}", r"\frac17", True),
    ("0.3\u0305", r"\frac13", True), (r"-1.\bar{3}", r"-\frac43", True),
    (r"0.(3)", r"\frac13", True), ("0.333...", r"\frac13", True),
    (r"0.1666\ldots", r"\frac16", True), ("0.333…", r"\frac13", True),
    (r"33.\bar{3}\%", "33.\\overline{3}\\%", True), (r"3 \over 4", r"\frac34", True),
    (r"{3 \over 4}", "0.75", True), (r"-{3\over4}", r"-\frac34", True),
    (r"x={3 \over 4}", r"\frac34", True), (r"1 \over 2 \sqrt 3", r"\frac{1}{2\sqrt3}", True),
    (r"{\sqrt{3} \over 2}", r"\frac{\sqrt3}{2}", True),
    (r"\left({1 \over 2},{1\over3}\right)", r"(\frac12,\frac13)", True),
    (r"{{1 \over 2} \over 3}", r"\frac16", True), (r"{5 \choose 2}", "10", True),
    (r"5 \choose 2", r"\binom52", True), (r"2{5 \choose 2}", "20", True),
    (r"\nicefrac{3}{4}", r"\frac34", True), (r"\sfrac34", r"\frac34", True),
    (r"\textcolor{red}{5}", "5", True), (r"\color{red}{5}", "5", True),
    (r"{\color{blue} \frac34}", r"\frac34", True), (r"\colorbox{yellow}{5}", "5", True),
    (r"\textcolor{red}{\text{Answer: }5}", "5", True), (r"\Large{\frac34}", r"\frac34", True),
    (r"{\Huge 5}", "5", True), (r"\LARGE 5", "5", True), (r"\text{Answer: }5", "5", True),
    (r"\text{Answer: 5}", "5", True), (r"\text{Final answer: } \frac34", r"\frac34", True),
    (r"\textbf{Answer:}~5", "5", True), (r"\text{The answer is }5", "5", True),
    (r"\text{Option E}", "E", True), (r"\text{Option (E)}", r"\text{(E)}", True),
    ("option e", "E", True), (r"\text{Choice E: }5", "E", True), (r"\textbf{(E)}\ 42", "E", True),
    ("Answer: E", "E", True), (r"\mathrm{(E)}", "E", True), (r"E", r"\text{Option E}", True),
    ("[E]", "E", True), (r"\$29", "29", True), (r"\text{US\$}29", "29", True),
    ("USD 29", "29", True), ("29 USD", "29", True), (r"\text{USD }29", "29", True),
    ("€29", "29", True), ("C$29", "29", True), ("Rs. 29", "29", True), (r"3{:}30", "3:30", True),
    (r"<b>73</b>", "73", True), ("→ 73", "73", True), (r"\Rightarrow 73", "73", True),
    ("✅ 73", "73", True), ("73 \\checkmark", "73", True), ("7️⃣3️⃣", "73", True),
    ("km<sup>2</sup>", "km^2", True), (r"\cancel{72}73", "73", True), ("~~72~~ 73", "73", True),
    ("【73】", "73", True), ("73 🎉🎉", "73", True), (r"1{,}234{,}567", "1234567", True),
    (r"3{,}5", "3.5", True), (r"\mathbf{5}", "5", True), (r"0.\bar{3}", "0.3", False),
    (r"0.\bar{3}", r"\frac14", False), (r"0.\overline{3}", "0.33", False),
    (r"0.\dot{4}", r"\frac13", False), ("0.334...", r"\frac13", False),
    ("3.14...", r"\pi", False), (r"3 \over 4", r"\frac43", False),
    (r"3 \over 5", r"\frac34", False), (r"{5 \choose 3}", "5", False),
    (r"{5 \choose 1}", "10", False), (r"\nicefrac{4}{3}", r"\frac34", False),
    (r"\overline{34}", r"\frac34", False), (r"\textcolor{red}{5}", "6", False),
    (r"\textcolor{5}{6}", "5", False), (r"\text{Answer: }6", "5", False),
    (r"\text{Option D}", "E", False), (r"\text{Options D and E}", "E", False),
    (r"\text{not E}", "E", False), ("US$29", "28", False),
    ("29 cents", r"29\text{ dollars}", False), (r"3{:}30", "330", False), ("✅ 73", "37", False),
    ("73 ❌", "73", False), (r"\cancel{73}", "73", False), ("~~73~~ 72", "73", False),
    ("<sup>73</sup>", "73", False), ("73 → 74", "73", False), ("73 → 74", "74", False),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "gold", "expected"), SETS + INTERVALS + NOTATION)
def test_notation_in_a_box(grader: Grader, answer: str, gold: str, expected: bool) -> None:
    grade = grader.grade(f"So \\boxed{{{answer}}}.", Problem("p", "", gold))
    assert grade.is_correct is expected, grade


SENTENCES = [
    ("The answer is $x \\in \\{1,2,3\\}$.", "1,2,3", True), ("Final answer: 73 ✔", "73", True),
    ("The answer is $x<-2$ or $x>2$.", r"(-\infty,-2)\cup(2,\infty)", True),
    ("The answer is x < -2 or x > 2.", r"(-\infty,-2)\cup(2,\infty)", True),
    ("The answer is (-∞, -2) ∪ (2, ∞).", r"(-\infty,-2)\cup(2,\infty)", True),
    ("🎉 Answer: 73 🎉", "73", True), ("Answer: 👉 $73$ 👈", "73", True),
    ("Answer ➡️ 73", "73", True), ("**Final answer:** <strong>73</strong>", "73", True),
    ("<p>Answer: <b>73</b></p>", "73", True),
    ("<div>The answer is <span style='color:red'>73</span>.</div>", "73", True),
    ("Final answer: => 73", "73", True), ("Answer:&nbsp;73", "73", True),
    ("Answer: → $\\frac34$", r"\frac34", True), ("The answer is US$29.", "29", True),
    ("The answer is USD 29.", "29", True), ("The answer is 3¾ cups", "3.75", True),
    ("The answer is $\\frac{3}{4}$ cups.", "0.75", True), ("The answer is option E.", "E", True),
    ("The answer is (E) 42.", "E", True), ("The answer is 1.5 x 10^6.", "1500000", True),
    ("The answer is minus 5.", "-5", True),
    ("The answer is 73, because it is prime.", "73", True), ("#### 73 (a prime)", "73", True),
    ("#### $\\frac34$, which is less than one", r"\frac34", True),
    ("The answer is 9 500.", "9500", True), ("The answer is 5 or 7.", "5", False),
    ("The answer is not 5.", "5", False), ("The answer is between 5 and 7.", "5", False),
    ("The answer is 5 to 7.", "5", False), ("Final answer: 73 ✔", "7", False),
    ("Answer: <del>73</del> 72", "73", False), ("The answer is US$29.", "2", False),
    ("The answer is 3¾ cups", "3", False), ("The answer is option D.", "E", False),
    ("The answer is minus 5.", "5", False), ("He ends at –5", "5", False),
    ("The answer is x < -2 or x > 3.", r"(-\infty,-2)\cup(2,\infty)", False),
]  # fmt: skip


@pytest.mark.parametrize(("text", "gold", "expected"), SENTENCES)
def test_answers_in_sentences(grader: Grader, text: str, gold: str, expected: bool) -> None:
    grade = grader.grade(text, Problem("p", "", gold))
    assert grade.is_correct is expected, grade
