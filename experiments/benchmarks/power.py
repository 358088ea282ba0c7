"""Predicted power beside simulated power; re-drawn test sets beside the interval of their spread.

    python experiments/benchmarks/power.py simulate
    python experiments/benchmarks/power.py redraws multirun_outputs/quickstart

``simulate`` draws crossed tables with known variances and decides each by the comparison's own
rule: the predicted power should be within 3 points, and false decisions within their level.
``redraws`` takes the students of two methods from a finished sweep of the micro-world, gives them
fifty-one fresh test sets, and compares the spread of their difference over fifty sets with the
95 % interval that the first set with its seeds predicts. It takes a few minutes; what is evaluated
is kept below the sweep's outputs, and the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
from scipy import stats

from plan_tuning.comparison.differences import OutcomeReader
from plan_tuning.comparison.runs import load, read_run
from plan_tuning.statistics.intervals import crossed
from plan_tuning.statistics.power import LEVEL, Components, power, smallest_difference

REDRAWS = 50
SETTINGS = [
    (Components(0.03, 0.0002, 0.12), 300, 3),
    (Components(0.05, 0.002, 0.10), 60, 5),
    (Components(0.20, 0.0, 0.05), 40, 2),
    (Components(0.0, 0.001, 0.20), 200, 4),
    (Components(0.05, 0.0005, 0.10), 1319, 3),
]


def simulate(repeats: int) -> None:
    """Print predicted and simulated power for every setting, at three sizes of the difference."""
    draw = np.random.default_rng(0)
    print("problem×arm seed×arm residual problems seeds k difference predicted simulated")
    worst = 0.0
    for parts, problems, seeds in SETTINGS:
        for comparisons in (1, 7):
            counts = {"problems": problems, "seeds": seeds, "comparisons": comparisons}
            seen = min(smallest_difference(parts, **counts), 0.5)
            for difference in (0.0, seen / 2, seen):
                drawn = parts.holding(difference)
                hits = 0
                for _ in range(repeats):
                    table = difference + draw.normal(0, math.sqrt(drawn.by_problem), problems)
                    table = table + draw.normal(0, math.sqrt(drawn.by_seed), (seeds, 1))
                    table = table + draw.normal(0, math.sqrt(drawn.residual), (seeds, problems))
                    found = crossed(table.tolist())
                    hits += found.p < LEVEL / comparisons and found.interval.low > 0
                predicted, rate = power(difference, parts, **counts), hits / repeats
                worst = max(worst, abs(predicted - rate))
                print(
                    f"{parts.by_problem:.3f} {parts.by_seed:.4f} {parts.residual:.3f} {problems} "
                    f"{seeds} {comparisons} {100 * difference:.1f} {predicted:.3f} {rate:.3f}"
                )
    print(f"largest deviation: {100 * worst:.1f} points of power, {repeats} tables each")


def redraws(sweep: Path, methods: tuple[str, str], size: int) -> None:
    """Print the spread of a difference over fresh test sets, and what one set predicts of it."""
    results = load([sweep])
    arms: list[list[Path]] = [[], []]
    for run in results.completed:
        choices = (run.choices.get("method"), run.choices.get("filter"))
        if choices in [(method, "two_stage") for method in methods]:
            folder = _evaluated(sweep, run.folder, size)
            arms[methods.index(str(choices[0]))].append(folder)
    if min(map(len, arms)) < 2:
        sys.exit(f"{sweep} holds fewer than two seeds of {methods[0]} or {methods[1]}")
    reader = OutcomeReader()
    tables = []
    for folders in arms:
        outcomes = [reader.outcomes(read_run(folder), "microworld") for folder in folders]
        tables.append(np.array([[float(v) for _, v in one.values()] for one in outcomes]))
    table = tables[1] - tables[0]  # (seeds, problems)
    sets = np.split(table, REDRAWS + 1, axis=1)
    first, others = sets[0], sets[1:]
    means = first.mean(axis=0)
    predicted = means.std(ddof=1) / math.sqrt(size)
    found = np.array([one.mean() for one in others]).std(ddof=1)
    # two independent estimates of one variance: their ratio is F-distributed
    low, high = stats.f.ppf([0.025, 0.975], REDRAWS - 1, size - 1)
    print(
        f"{methods[1]} - {methods[0]}, {len(table)} seeds, sets of {size} problems: sd of the "
        f"difference over {REDRAWS} re-draws {100 * found:.2f} points; one set predicts "
        f"{100 * predicted:.2f} [{100 * predicted * math.sqrt(low):.2f}, "
        f"{100 * predicted * math.sqrt(high):.2f}]"
    )


def _evaluated(sweep: Path, job: Path, size: int) -> Path:
    """Give a job's student fifty-one test sets in one; returns the new job's folder."""
    result = json.loads((job / "result.json").read_text(encoding="utf-8"))
    student = sweep.parent / "artifacts" / "students" / result["fingerprints"]["student"]
    name = f"redraws_{result['seed']}_{result['choices']['method']}"
    command = [
        *(sys.executable, "-m", "plan_tuning", f"method={result['choices']['method']}"),
        *("data=microworld", "model=micro", "teacher=scripted", f"seed={result['seed']}"),
        *(f"student.path={student}", "stages=[evaluate]", "evaluation.benchmarks=[microworld]"),
        *(f"data.test_size={size * (REDRAWS + 1)}", "logger=csv", f"paths.outputs={sweep.parent}"),
        f"hydra.run.dir={sweep.parent / name}",
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return sweep.parent / name


def main() -> None:
    """Run one of the two parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts = parser.add_subparsers(dest="part", required=True)
    simulated = parts.add_parser("simulate")
    simulated.add_argument("--repeats", type=int, default=4000)
    drawn = parts.add_parser("redraws")
    drawn.add_argument("sweep", type=Path)
    drawn.add_argument("--methods", nargs=2, default=("sft", "m1"))
    drawn.add_argument("--size", type=int, default=100)
    given = parser.parse_args()
    if given.part == "simulate":
        simulate(given.repeats)
    else:
        redraws(given.sweep, tuple(given.methods), given.size)


if __name__ == "__main__":
    main()
