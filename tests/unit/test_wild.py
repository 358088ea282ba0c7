"""Numbers as models write them in sentences: which one is stated, and where none is."""

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


MORE_NUMBERS = [
    ("#### 72.", "72", True), ("#### 72!", "72", True), ("#### 72 [verified]", "72", True),
    ("#### 72 = 48 + 24", "72", True), ("#### 72 (approx)", "72", True),
    ("#### ANSWER: 72", "72", True), ("#### The total is 72", "72", True),
    ("#### Total: 72", "72", True), ("#### x = 72", "72", True), ("#### 72 <- total", "72", True),
    ("#### 72, checked by 48+24=72", "72", True), ("#### 72: total", "72", True),
    ("#### 72 // comment", "72", True), ("#### 72 # comment", "72", True),
    ("#### 72 dollars (72.00)", "72", True), ("#### 72 → total", "72", True),
    ("####72", "72", True), ("#### $72 per day", "72", True),
    ("#### 72 apples and oranges", "72", True), ("#### 72 eggs; 6 dozen", "72", True),
    ("#### 72\n\nLet me verify: 48 + 24 = 72.", "72", True),
    ("#### 72 (i.e. 6 dozen)", "72", True), ("#### 72, not 73", "72", True),
    ("#### Answer:\n**72**", "72", True), ("#### **Answer**\n\n72 apples", "72", True),
    ("#### Solution\nShe has 48 + 24 = 72.\n#### 72", "72", True),
    ("#### 72 (48 + 25)", "72", True), ("#### 7 2", "72", False), ("#### 72nd", "72", True),
    ("#### 72/2", "72", False), ("#### 72 x 2", "72", False), ("#### 72k", "72", False),
    ("#### 72-", "72", True), ("#### 72,", "72", True), ("#### 72 minus 2", "72", False),
    ("The answer is (-5).", "-5", True), ("The answer is (-5).", "5", False),
    (r"$-\!5$", "-5", True), (r"The answer is $-\,5$.", "-5", True),
    ("The answer is minus five.", "-5", True), ("The answer is minus five.", "5", False),
    ("The temperature is –5 degrees.", "-5", True), ("The temperature is –5 degrees.", "5", False),
    ("She is 5 below zero: –5", "-5", True), ("Net change: (−5)", "-5", True),
    ("x = –5", "-5", True), ("x = –5", "5", False), ("A: –5", "-5", True), ("A: –5", "5", False),
    ("A: -5", "5", False), ("loses –$5", "5", False), ("answer is −5°C", "-5", True),
    ("answer is −5°C", "5", False), ("The answer is — 5.", "5", True),
    ("The answer is -1,250.", "-1250", True), ("The answer is −1 250.", "-1250", True),
    ("The answer is −1 250.", "1250", False), ("It costs $1.5M.", "1500000", True),
    ("The answer is 2 × 10³.", "2000", True), ("The answer is 2 × 10³.", "2", False),
    ("The answer is one and a half.", "1", False),
    ("The answer is half a million.", "500000", True),
    ("The answer is 1.5 times 10^6.", "1500000", True), ("The answer is 2/3.", "2", False),
    ("The answer is 2⁄3.", "2", False), ("The answer is ⅔.", "2", False),
    ("The answer is 2 ⅔.", "2", False), ("The answer is 12.5%.", "12.5", True),
    ("The answer is 1.5 billion dollars.", "1500000000", True),
    ("The answer is 1.5 billion dollars.", "1.5", False), ("He is 5' 7\" tall.", "5", False),
    ("The answer is 5'7\".", "5", False), ("The answer is 10:30 am.", "10", False),
    ("The answer is 10:30 a.m.", "30", False), ("The answer is 3:2.", "3", False),
    ("The answer is 3 : 2.", "3", False), ("The answer is 2 to the power of 3.", "2", False),
    ("The answer is 2^3.", "8", True), ("The answer is 2³.", "2", False),
    ("The answer is 2³.", "8", True), ("The answer is 2.5e3 dollars.", "2500", True),
    ("The answer is 1.5E6", "1500000", True), ("The answer is 1.5e6", "1.5", False),
    ("The answer is 1,500 thousand.", "1500000", True),
    ("The answer is 2 million and 500 thousand.", "2000000", False),
    ("The answer is √16.", "4", True), ("The answer is √16.", "16", False),
    (r"The answer is $\sqrt{16}$.", "16", False), ("The answer is 1 1/2 hours.", "1", False),
    ("The answer is 1-1/2 hours.", "1", False), ("The answer is 12/05/2020.", "12", False),
    ("The answer is 5, 7, and 9.", "5", False), ("The answer is 5 (or 7).", "5", False),
    ("The answer is 5; 7.", "5", False), ("The answer is 5 & 7.", "5", False),
    ("The answer is 5...7", "5", False), ("The answer is 5~7.", "5", False),
    ("The answer is x = 5 and y = 7.", "5", False), ("The answer is 5 < x < 7.", "5", False),
    ("The answer is 5 and/or 7.", "5", False), ("The answer is 5, or 7.", "5", False),
    ("The answer is 5 - 7.", "5", False), ("The answer is 5 times 7.", "5", False),
    ("The answer is certainly not 5.", "5", False), ("The answer is anything but 5.", "5", False),
    ("The answer is other than 5.", "5", False), ("The answer is not equal to 5.", "5", False),
    ("The answer is ≠ 5.", "5", False), ("The answer cannot be 5.", "5", False),
    ("The answer is definitely not 5.", "5", False), ("The answer is 5/7/9.", "5", False),
    ("The answer is 5 plus 7.", "5", False), ("The answer is the sum of 5 and 7.", "5", False),
    ("The answer is in the range 5-7.", "5", False), ("The answer is at most 5 or 6.", "5", False),
    ("The answer is 5? No, 7.", "5", True), ("The answer is 5 or 5.", "5", True),
    ("The answer is 5 (five).", "5", True), ("The answer is 5, i.e. five.", "5", True),
    ("The answer is 5.0.", "5", True), ("The answer is 5.", "5", True),
    ("The answer is 5 of the 7.", "5", True), ("The answer is $5 and 50 cents.", "5", False),
    ("The answer is 5 dollars and 50 cents.", "5", False),
    ("The answer is no longer 5.", "5", False), ("The answer is twice 5.", "5", False),
    ("The answer is double 5.", "5", False), ("The answer is half of 10.", "10", False),
    ("The answer is less than or equal to 5.", "5", False),
    ("The answer is greater than 5.", "5", False), ("The answer is 5+.", "5", True),
    ("The answer is {5, 7}.", "5", False), ("The answer is (5, 7).", "5", False),
    ("The answer is [5, 7].", "5", False), ("The answer is 5 apples, 7 oranges.", "5", False),
    ("The answer is 5:7.", "5", False),
    ("The answer is 5 if it rains and 7 otherwise.", "5", False),
    ("The answer is 5 × 7 = 35.", "35", True), ("The answer is 5.5.", "5", False),
    (r"The answer is 5\cdot7", "5", False), (r"The answer is $5 \text{ or } 7$.", "5", False),
    (r"The answer is \(5, 7\).", "5", False), ("The answer is from $5 to $7.", "5", False),
    ("The answer is 5 per 7 days.", "5", True), ("The answer is 5 miles per hour.", "5", True),
    ("The answer is 2 5", "5", False), ("The answer is 1st.", "1", True),
    (r"The answer is: $\boxed{}$ 9{,}500", "9500", False), ("total of 9,500 apples", "9500", True),
    ("total of 9, 500 apples", "9500", False), ("The answer is $ 9,500 $", "9500", True),
    (r"The answer is \$9{,}500.", "9500", True), (r"The answer is \$9,500.00", "9500", True),
    ("The answer is 9 500 000.", "9500000", True), ("The answer is 9.500.", "9500", False),
    ("In 2020 300 people came", "300", True),
    ("The answer is 9{,}500{,}000 people", "9500000", True),
    ("The answer is 9\u2007500", "9500", True), ("The answer is 9\u2008500", "9500", True),
    ("The answer is 9\u3000500", "9500", True), ("The answer is 9\u200b500", "9500", True),
    ("The answer is 9&nbsp;500", "9500", True), ("The answer is 9&thinsp;500", "9500", True),
    ("The answer is 9&#8239;500", "9500", True),
    (r"The answer is $9\mathord{,}500$", "9500", True), ("The answer is ９，５００", "9500", True),
    ("The answer is ９５００", "9500", True), ("Answer: 0.5", "0.5", True),
    ("The answer is .5", "0.5", True), ("The answer is 0,5.", "5", False),
    ("She pays US$29.", "29", True), ("She pays 29USD.", "29", True),
    ("She pays 29€.", "29", True), ("She pays £29.50", "29.5", True),
    ("She pays NT$1,250", "1250", True), ("She pays Rs. 1,250/-", "1250", True),
    ("She pays ₹1,25,000", "125000", True), ("She pays R$29", "29", True),
    ("She pays $29/day.", "29", True), ("₩29", "29", True), ("₽29", "29", True),
    ("29 kr", "29", True), ("Thus, 5 x 3 = <<5*3=15>>15 apples\nA: 15", "15", True),
    ("so 5 times 3 is 15.", "15", True), ("He ate 15 apples in 3 days.", "3", True),
    ("15 apples (3 per day)", "3", True),
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


@pytest.mark.parametrize(("text", "gold", "expected"), MAGNITUDES + MORE_NUMBERS)
def test_magnitudes(grader: Grader, text: str, gold: str, expected: bool) -> None:
    grade = grader.grade(text, Problem("p", "", gold, style="gsm8k"))
    assert grade.is_correct is expected, grade
