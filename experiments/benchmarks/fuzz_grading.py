"""Throws hostile and random texts at the grader and checks what must hold for every one of them.

Run: python experiments/benchmarks/fuzz_grading.py 600 [--seed 1]

Checked: nothing raises; extraction and text comparison stay under a second; a verdict comes within
the wall limit plus one second; an answer equal to a valid gold is never wrong; a number with one
digit changed is never right; equality of numbers, lists and expressions is symmetric. A finding is
printed with what reproduces it, and ends the run with exit code 1.
"""

from __future__ import annotations

import argparse
import random
import string
import sys
import time

from plan_tuning.config.grading import GradingConfig
from plan_tuning.grading.answers import extract
from plan_tuning.grading.equivalence import gold_defect
from plan_tuning.grading.grader import Grader
from plan_tuning.records import Problem, Verdict

STYLES = ("gsm8k", "math", "olympiadbench", "aime", "strategyqa", "microworld")
TEXT_S = 1.0  # of extraction and text comparison of 200,000 characters on a busy core
WALL_S = 2.0
UNICODE = "½²³√π∞−×÷≤≥∪∈°４２\u202e\u00a0\u200b\ud800é中🙂\x00\x1b"
FRAGMENTS = (
    "\\boxed{", "}", "{", "\\frac", "\\frac{1}{2}", "\\sqrt{", "\\sqrt[3]{", "\\left(", "\\right)",
    "(", ")", "[", "]", "$", "$$", "\\[", "\\]", "\\(", "\\)", "####", "<answer>", "</answer>",
    "<think>", "</think>", "<plan>", "</plan>", "<output>", "</output>", "</s>", "The answer is ",
    "Question:", "\n", " ", "\\\\", "&", "\\begin{pmatrix}", "\\end{pmatrix}", "\\text{", "\\pm",
    "^", "^{", "_", "_{8}", "!", "%", "\\%", "\\cup", "\\infty", ",", ";", ":", "=", "\\le", "<",
    "\\sum", "\\int", "\\lim", "\\binom", "\\log", "\\sin", "x", "n", "i", "e", "\\pi", "cm",
    " and ", " or ", "yes", "no", "e9", "10", "999999999", ".", "-", "+", "*", "/", "**", "`", "'",
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
    return _check_identity(grader, r, style) or _check_numbers(grader, r)


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
