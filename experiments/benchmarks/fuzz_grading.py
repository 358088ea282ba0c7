"""Throws hostile and random texts at the grader and checks what must hold for every one of them.

Run: python experiments/benchmarks/fuzz_grading.py 600 [--seed 1]

Checked: nothing raises; extraction and text comparison stay under a second; a verdict comes within
the wall limit plus one second; an answer equal to a valid gold is never wrong; a number with one
digit changed is never right, in whatever spelling, sentence and ornament it stands; a set of reals
is the same in every notation, and another one with one end changed; equality of numbers, lists and
expressions is symmetric. A finding is printed with what reproduces it, and ends the run with exit
code 1.
"""

from __future__ import annotations

import argparse
import random
import string
import sys
import time
from collections.abc import Callable

from plan_tuning.config.grading import GradingConfig
from plan_tuning.grading.answers import extract
from plan_tuning.grading.equivalence import gold_defect
from plan_tuning.grading.grader import Grader
from plan_tuning.records import Problem, Verdict

STYLES = ("gsm8k", "math", "olympiadbench", "aime", "strategyqa", "microworld")
TEXT_S = 1.0  # of extraction and text comparison of 200,000 characters on a busy core
WALL_S = 2.0
REPEATS = 10
UNICODE = "½²³√π∞−×÷≤≥∪∈°４２\u202e\u00a0\u200b\ud800é中🙂\x00\x1b"
FRAGMENTS = (
    "\\boxed{", "}", "{", "\\frac", "\\frac{1}{2}", "\\sqrt{", "\\sqrt[3]{", "\\left(", "\\right)",
    "(", ")", "[", "]", "$", "$$", "\\[", "\\]", "\\(", "\\)", "####", "<answer>", "</answer>",
    "<think>", "</think>", "<plan>", "</plan>", "<output>", "</output>", "</s>", "The answer is ",
    "Question:", "\n", " ", "\\\\", "&", "\\begin{pmatrix}", "\\end{pmatrix}", "\\text{", "\\pm",
    "^", "^{", "_", "_{8}", "!", "%", "\\%", "\\cup", "\\infty", ",", ";", ":", "=", "\\le", "<",
    "\\sum", "\\int", "\\lim", "\\binom", "\\log", "\\sin", "x", "n", "i", "e", "\\pi", "cm",
    "\\over ", "\\choose ", "\\bar{", "\\dot{", "\\textcolor{", "\\mathbb{R}", "\\in ", "\\{",
    "\\}", "\\mid ", "\\cancel{", "<b>", "</b>", "<del>", "&minus;", "~~", "minus ", "not ",
    "between ", " million", " to ", "{,}", "\\,", "\u00bd", "\u2713", "\u2192", "0.333...",
    "|x|", "\\setminus ", " and ", " or ", "yes", "no", "e9", "10", "999999999", ".", "-", "+", "*",
    "/", "**", "`", "'",
)  # fmt: skip
HOSTILE = (
    lambda r: "^".join(["9"] * r.randint(3, 9)),
    lambda r: "9^{" * r.randint(1, 60) + "9" + "}" * r.randint(0, 60),
    lambda r: "(" * r.randint(1, 4000) + "x",
    lambda r: "\\frac{" * r.randint(1, 3000) + "1",
    lambda r: "\\sqrt{" * r.randint(1, 40) + "2" + "}" * 40,
    lambda r: str(r.randint(1, 10**6)) + "!" * r.randint(1, 5),
    lambda r: f"\\binom{{{10 ** r.randint(1, 12)}}}{{{10 ** r.randint(1, 11)}}}",
    lambda r: f"(x+{r.randint(1, 9)})^{{{r.randint(1, 10**6)}}}",
    lambda r: f"\\sum_{{k=1}}^{{{10 ** r.randint(1, 12)}}} k^k",
    lambda r: "+".join(f"x_{{{k}}}^{r.randint(2, 9)}" for k in range(r.randint(2, 300))),
    lambda r: ",".join(str(r.randint(0, 99)) for _ in range(r.randint(2, 3000))),
    lambda r: "7" * r.randint(1, 20000),
    lambda r: f"{r.randint(1, 9)}e{r.randint(1, 10**9)}",
    lambda r: " " * r.randint(1, 50000) + "42",
    lambda r: "\\[" * r.randint(1, 30000),
    lambda r: "$" * r.randint(1, 30000),
    lambda r: "answer" + " " * r.randint(1, 50000),
    lambda r: "\\sin(" * r.randint(1, 39) + "x" + ")" * 39,
    lambda r: "x^{y^{z}}" * r.randint(1, 60),
    lambda r: "\\int_0^{x} " * r.randint(1, 20) + "e^{-t^2} dt",
    lambda r: "__import__('os').system('true')",
    lambda r: "|" * r.randint(1, 300) + "x",
    lambda r: "\\gcd(" + "9" * r.randint(1, 250) + ",6)",
    lambda r: f"\\lfloor {r.randint(1, 9)}^{{{r.randint(1, 19999)}}}/7\\rfloor",
    lambda r: "{" * r.randint(1, 3000) + "5" + "}" * 3000,
    lambda r: "<b " * r.randint(1, 20000),
    lambda r: "<del>" * r.randint(1, 20000),
    lambda r: "1 \\over " * r.randint(1, 300),
    lambda r: "{" * r.randint(1, 300) + "1 \\over 2" + "}" * 300,
    lambda r: "5 or " * r.randint(1, 20000),
    lambda r: "1 + " * r.randint(1, 20000) + "1",
    lambda r: "#### 5 " + "(" * r.randint(1, 20000),
    lambda r: "9 500" * r.randint(1, 20000),
    lambda r: "(1,2)\\cup" * r.randint(1, 60) + "(3,4)",
    lambda r: "0." + "12" * r.randint(1, 20000) + "...",
)  # fmt: skip


def formula(r: random.Random, depth: int = 0) -> str:
    """Write a random well-formed formula."""
    if depth > 3 or r.random() < 0.3:
        return r.choice(
            ("x", "n", "\\pi", str(r.randint(0, 99)), f"{r.randint(0, 9)}.{r.randint(0, 99)}")
        )
    a, b = formula(r, depth + 1), formula(r, depth + 1)
    return r.choice(
        (
            f"\\frac{{{a}}}{{{b}}}",
            f"\\sqrt{{{a}}}",
            f"({a}+{b})",
            f"{a}-{b}",
            f"({a})({b})",
            f"{a}\\cdot {b}",
            f"({a})^{{{r.randint(0, 5)}}}",
            f"\\log_{{2}}({a})",
            f"\\sin({a})",
            f"\\lfloor {a}\\rfloor",
            f"\\binom{{{r.randint(0, 9)}}}{{{r.randint(0, 9)}}}",
        )
    )


MINUS = ("-", "\u2212", "\u2013", "\u2010", "\u2011", "\u2012", "\ufe63", "minus ", "negative ")
GROUPS = (
    "", ",", "{,}", "\\,", "{\\,}", ",\\!", "\\;", "\\ ", "\u00a0", "\u202f", "\u2009", " ",
    "'", "\u2019",
)  # fmt: skip
CURRENCY = ("", "", "$", "US$", "USD ", "\u20ac", "C$")
FRAMES = (
    "{}", "{}", "{}", "**{}**", "<b>{}</b>", "<span class='a'>{}</span>",
    "\U0001f389 {} \U0001f389", "\u2192 {}", "\u27a1\ufe0f {}", "{} \u2714", "\u2705 {}", "=> {}",
    "`{}`",
)  # fmt: skip
FORMULA_FRAMES = (
    "{}",
    "{}",
    "\\textcolor{{red}}{{{}}}",
    "{{\\Large {}}}",
    "\\mathbf{{{}}}",
    "{{{}}}",
)
SENTENCES = (
    "The answer is {}.", "So the answer is {}", "#### {}", "#### {} (checked twice)", "Answer: {}",
    "#### {}, which is the total", "**Final answer:** {}", "#### Answer\n{}", "<answer>{}</answer>",
    "The answer is {}, because it was counted.", "### Answer\n\n{}", "\\boxed{{{}}}",
)  # fmt: skip
NUMERIC_SENTENCES = ("It comes to {}.", "They have {} apples.", "The answer is {} apples, not 3.")


def spelled(r: random.Random, whole: str, decimals: str, is_negative: bool) -> str:
    """Write a number in one of the ways in which models do."""
    mark = r.choice(GROUPS)
    first = len(whole) % 3 or 3
    parts = [whole[:first], *(whole[k : k + 3] for k in range(first, len(whole), 3))]
    number = mark.join(parts) + (f".{decimals}" if decimals else "")
    is_latex = "\\" in number or "{" in number
    text = r.choice(MINUS) + number if is_negative else number
    if is_latex:
        frame = r.choice(("${}$", "\\({}\\)"))
        return frame.format(r.choice(FORMULA_FRAMES).format(text))
    if is_negative:
        return text
    return r.choice(CURRENCY) + text


def _check_spellings(grader: Grader, r: random.Random) -> str | None:
    whole = str(r.randint(1, 10 ** r.randint(1, 8)))
    decimals = str(r.randint(1, 99)).rstrip("0") if r.random() < 0.2 else ""
    is_negative = r.random() < 0.4
    style = r.choice(("gsm8k", "gsm8k", "math"))
    sentences = SENTENCES + (NUMERIC_SENTENCES if style == "gsm8k" else ())
    gold = ("-" if is_negative else "") + whole + (f".{decimals}" if decimals else "")
    place = r.randrange(len(whole))
    digit = r.choice([d for d in string.digits[1:] if d != whole[place]])
    other = whole[:place] + digit + whole[place + 1 :]
    if abs(int(other) - int(whole)) <= 1e-6 * int(whole):
        return None  # within the rounding that is allowed beside decimals
    cases = (
        (whole, decimals, is_negative, True),
        (other, decimals, is_negative, False),
        (whole, decimals, not is_negative, False),
    )
    for digits, rest, sign, is_right in cases:
        text = r.choice(sentences).format(r.choice(FRAMES).format(spelled(r, digits, rest, sign)))
        grade = grader.grade(text, Problem("fuzz", "", gold, style=style))
        if grade.is_correct != is_right:
            return f"{grade.verdict} of {text!r} against {gold} ({style}): {grade.answer!r}"
    return None


def set_notations(low: int, high: int, is_closed: bool) -> dict[str, list[str]]:
    """Write some sets of reals with two ends, each in its notations."""
    less, more = ("\\le ", "\\ge ") if is_closed else ("<", ">")
    left, right = ("[", "]") if is_closed else ("(", ")")
    outer = f"(-\\infty,{low}{right}\\cup{left}{high},\\infty)"
    return {
        "inside": [
            f"{left}{low},{high}{right}", f"{low}{less}x{less}{high}",
            f"x\\in{left}{low},{high}{right}",
            f"\\{{x\\mid {low}{less}x{less}{high}\\}}", f"{high}{more}x{more}{low}",
            f"x{more}{low}\\text{{ and }}x{less}{high}",
            f"\\{{x\\in\\mathbb{{R}}:{low}{less}x{less}{high}\\}}",
        ],
        "outside": [
            outer, outer.replace("\\cup", "\\bigcup "), f"x{less}{low}\\text{{ or }}x{more}{high}",
            f"x{more}{high}\\text{{ or }}x{less}{low}", f"x\\in {outer}",
            outer.replace("\\cup", " U "),
            f"\\left\\{{x\\,\\middle|\\,x{less}{low}\\text{{ or }}x{more}{high}\\right\\}}",
            outer.replace("\\cup", "\\text{ or }"),
        ],
        "without": [
            f"x\\neq {low}", f"(-\\infty,{low})\\cup({low},\\infty)", f"\\R\\setminus\\{{{low}\\}}",
            f"\\mathbb{{R}}-\\{{{low}\\}}", f"x<{low}\\text{{ or }}x>{low}",
            f"\\{{x\\in\\R\\mid x\\ne {low}\\}}", f"\\text{{all real numbers except }}{low}",
        ],
        "listed": [
            f"{low},{high}", f"\\{{{low},{high}\\}}", f"x\\in\\{{{low},{high}\\}}",
            f"S=\\{{{high},{low}\\}}",
            f"x={low}\\text{{ or }}x={high}", f"\\{{{low}\\}}\\cup\\{{{high}\\}}",
        ],
    }  # fmt: skip


def _check_sets(grader: Grader, r: random.Random) -> str | None:
    low = r.randint(-50, 50)
    high = low + r.randint(1, 40)
    is_closed = r.random() < 0.5
    kind = r.choice(("inside", "outside", "without", "listed"))
    forms = set_notations(low, high, is_closed)
    gold, answer = r.choice(forms[kind]), r.choice(forms[kind])
    others = [set_notations(low - 1, high, is_closed)[kind]]
    others += [forms[other] for other in forms if other != kind]
    if kind in ("inside", "outside"):
        others.append(set_notations(low, high, not is_closed)[kind])
    for text, is_right in ((answer, True), (r.choice(r.choice(others)), False)):
        grade = grader.grade(f"\\boxed{{{text}}}", Problem("fuzz", "", gold))
        if grade.is_correct != is_right:
            return f"{grade.verdict} of {text!r} against {gold!r}"
    return None


def _check_notations(grader: Grader, r: random.Random) -> str | None:
    """Old fractions, recurring decimals and powers of ten, right and with another figure."""
    over, under = r.randint(1, 99), r.randint(2, 99)
    period = str(r.randint(1, 999))
    lead = r.randint(0, 9)
    nines = int("9" * len(period))
    mantissa, power = r.randint(11, 99), r.randint(2, 9)
    n, k = r.randint(3, 12), r.randint(1, 3)
    pairs = (
        (f"\\frac{{{over}}}{{{under}}}", (f"{over} \\over {under}", f"{{{over}\\over{under}}}",
         f"\\nicefrac{{{over}}}{{{under}}}", f"\\sfrac{{{over}}}{{{under}}}"),
         f"{over + 1} \\over {under}"),
        (f"\\frac{{{lead * nines + int(period)}}}{{{nines}}}", (f"{lead}.\\overline{{{period}}}",
         f"{lead}.\\bar{{{period}}}", f"{lead}.({period})", f"{lead}.{period * 4}..."),
         f"{lead}.\\bar{{{(int(period) + 1) % 10 ** len(period):0{len(period)}d}}}"),
        (str(mantissa * 10 ** (power - 1)), (f"{mantissa / 10}x10^{power}",
         f"{mantissa / 10}e{power}",
         f"{mantissa / 10} \\times 10^{{{power}}}", f"{mantissa / 10}*10**{power}"),
         f"{mantissa / 10}x10^{power + 1}"),
        (f"\\binom{{{n}}}{{{k}}}", (f"{n} \\choose {k}", f"{{{n} \\choose {k}}}"),
         f"{n + 1} \\choose {k}"),
    )  # fmt: skip
    gold, right, wrong = r.choice(pairs)
    for text, is_right in ((r.choice(right), True), (wrong, False)):
        grade = grader.grade(f"\\boxed{{{text}}}", Problem("fuzz", "", gold))
        if grade.is_correct != is_right:
            return f"{grade.verdict} of {text!r} against {gold!r}"
    return None


def random_text(r: random.Random) -> str:
    """Write a random text: fragments, Unicode, hostile parts, formulas."""
    kind = r.random()
    if kind < 0.25:
        return r.choice(HOSTILE)(r)
    if kind < 0.5:
        return "".join(r.choice(FRAGMENTS) for _ in range(r.randint(0, 60)))
    if kind < 0.6:
        return "".join(chr(r.randint(0, 0x10FFFF)) for _ in range(r.randint(0, 200)))
    if kind < 0.75:
        alphabet = string.printable + UNICODE
        return "".join(r.choice(alphabet) for _ in range(r.randint(0, 400)))
    if kind < 0.95:
        return formula(r)
    return r.choice(FRAGMENTS) * r.randint(1, 20000)


def check_one(grader: Grader, r: random.Random) -> str | None:
    """Run one round; return what was found, None where everything held."""
    style = r.choice(STYLES)
    text = random_text(r)
    if r.random() < 0.6:
        text = f"So \\boxed{{{text}}}" + r.choice(("", ".", " and \\boxed{2}", "\n####"))
    start = time.perf_counter()
    extract(text, style=style, require_box=r.random() < 0.5)
    if time.perf_counter() - start > TEXT_S:
        return f"extraction took {time.perf_counter() - start:.2f} s: style={style} {text[:200]!r}"
    gold = r.choice((str(r.randint(-999, 999)), formula(r), r.choice(("yes", "1,2", "[0,1)", "B"))))
    problem = Problem("fuzz", "", gold, style=style)
    start = time.perf_counter()
    grade = grader.grade(text, problem, finish_reason=r.choice(("stop", "length")))
    elapsed = time.perf_counter() - start
    if elapsed > WALL_S + 1.0 + TEXT_S:
        return f"verdict {grade.verdict} took {elapsed:.2f} s: gold={gold!r} {text[:200]!r}"
    return (
        _check_identity(grader, r, style)
        or _check_numbers(grader, r)
        or _repeated(_check_spellings, grader, r)
        or _repeated(_check_sets, grader, r)
        or _repeated(_check_notations, grader, r)
    )


def _repeated(
    check: Callable[[Grader, random.Random], str | None], grader: Grader, r: random.Random
) -> str | None:
    """Run a check that needs no algebra as often as the others take time."""
    return next((found for _ in range(REPEATS) if (found := check(grader, r))), None)


def _check_identity(grader: Grader, r: random.Random, style: str) -> str | None:
    gold = formula(r) if r.random() < 0.7 else random_text(r)[:500]
    if gold_defect(gold, style) is not None or not _fits_box(gold):
        return None
    verdict = grader.grade(f"\\boxed{{{gold}}}", Problem("fuzz", "", gold, style=style)).verdict
    return (
        f"equal to the gold but {verdict}: {gold!r} ({style})" if verdict is Verdict.WRONG else None
    )


def _fits_box(gold: str) -> bool:
    """Whether a box returns its content: no markup of completions, balanced braces."""
    found = extract(f"\\boxed{{{gold}}}")
    return found.answer.split() == gold.split()


def _check_numbers(grader: Grader, r: random.Random) -> str | None:
    gold = str(r.randint(10, 10 ** r.randint(2, 12)))
    if r.random() < 0.3:
        gold += "." + str(r.randint(1, 99999))
    position = r.choice([i for i, c in enumerate(gold) if c.isdigit()])
    digit = r.choice([c for c in string.digits if c != gold[position]])
    other = gold[:position] + digit + gold[position + 1 :]
    if abs(float(other) - float(gold)) <= 1e-6 * abs(float(gold)) and "." in gold:
        return None  # within the rounding that is allowed
    if grader.grade(f"\\boxed{{{other}}}", Problem("fuzz", "", gold)).is_correct:
        return f"one digit changed and right: gold {gold}, answer {other}"
    first, second = formula(r), formula(r)
    there = grader.grade(f"\\boxed{{{second}}}", Problem("fuzz", "", first)).verdict
    back = grader.grade(f"\\boxed{{{first}}}", Problem("fuzz", "", second)).verdict
    if {there, back} == {Verdict.CORRECT, Verdict.WRONG}:
        return f"not symmetric: {first!r} {second!r}"
    return None


def main() -> int:
    """Fuzz for the given time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seconds", type=float)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    findings, rounds = [], 0
    end = time.monotonic() + arguments.seconds
    with Grader(GradingConfig(wall_s=WALL_S, num_workers=1)) as grader:
        grader.grade(r"\boxed{\sqrt{8}}", Problem("start", "", r"2\sqrt{2}"))  # not timed: a start
        while time.monotonic() < end:
            seed = arguments.seed * 10**9 + rounds
            found = check_one(grader, random.Random(seed))
            rounds += 1
            if found:
                findings.append(found)
                print(f"seed {seed}: {found}", flush=True)
        killed = grader.pool.num_killed
    print(f"{rounds} rounds, {len(findings)} findings, {killed} workers ended by force")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
