"""The table and the paper's claims -> agrees, disagrees or undecided, with the paper's number.

A number is printed only beside a real benchmark that it was published for. On other benchmarks,
the micro-world's among them, only the direction of the claim is compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

from plan_tuning.comparison.choices import IRRELEVANT, can_matter, distance, values_of
from plan_tuning.comparison.differences import Difference, OutcomeReader, corrected, difference
from plan_tuning.comparison.tables import Row, Table

NOT_PUBLIC = "not public"
VERDICTS = ("agrees", "disagrees", "undecided")
INCONSISTENT = "inconsistent"
_NUMBER_CONDITIONS = ("model", "method", "data")


@dataclass(frozen=True)
class Finding:
    """One claim of the paper beside what two rows of the table say about it."""

    id: str
    ablation: str  # code of the paper's experiment
    claim: str
    certainty: str
    row: str
    against: str
    benchmark: str
    direction: str  # what the paper claims: higher, lower or inconsistent
    published: str  # the paper's number, or NOT_PUBLIC
    difference: Difference
    accuracies: tuple[float, float]  # of ``against`` and of ``row``, 0..1
    verdict: str = "undecided"
    is_confirmatory: bool = False  # registered before the first job


def read_claims() -> list[Mapping[str, Any]]:
    """Read the package's published.yaml."""
    import yaml

    text = files("plan_tuning.comparison").joinpath("published.yaml").read_text(encoding="utf-8")
    claims: list[Mapping[str, Any]] = yaml.safe_load(text)["claims"]
    return claims


def findings(table: Table, reader: OutcomeReader) -> list[Finding]:
    """Compare every pair of rows that a claim is about, on every benchmark that both have.

    The tests are corrected for the number of these comparisons.
    """
    found = [
        finding
        for claim in read_claims()
        for row, against in _pairs(table, claim)
        for finding in _compare(table, claim, row, against, reader)
    ]
    tested = corrected(
        {index: item.difference for index, item in enumerate(found)},
        smallest_effect=table.smallest_effect,
    )
    found = [replace(item, difference=tested[index]) for index, item in enumerate(found)]
    directions: dict[str, list[str]] = {}
    for item in found:
        directions.setdefault(item.id, []).append(item.difference.direction)
    return [replace(item, verdict=_verdict(item, directions[item.id])) for item in found]


def _verdict(finding: Finding, directions: Sequence[str]) -> str:
    """Judge one comparison; inconsistency is judged over all comparisons of its claim.

    One decided difference shows no inconsistency, and no consistency either.
    """
    if finding.direction == INCONSISTENT:
        decided = [direction for direction in directions if direction != "undecided"]
        if len(set(decided)) > 1:
            return "agrees"
        is_consistent = len(decided) > 1 and len(decided) == len(directions)
        return "disagrees" if is_consistent else "undecided"
    if finding.difference.direction == "undecided":
        return "undecided"
    return "agrees" if finding.difference.direction == finding.direction else "disagrees"


def silence(table: Table, found: Sequence[Finding]) -> list[str]:
    """Say which swept choices no line of the claims is about, and whether a claim is public."""
    swept = [key for key in table.swept if len({row.values for row in table.rows}) > 1]
    claims = read_claims()
    compared = {item.id for item in found}
    known = {key for claim in claims for key in (*claim["row"], *claim["against"])}
    shown = {
        key for claim in claims if claim["id"] in compared
        for key in (*claim["row"], *claim["against"])
    }  # fmt: skip
    lines = []
    unknown = [key for key in swept if key not in known]
    if unknown:
        lines.append(f"No claim is public about {_listed(unknown)}.")
    unmatched = [key for key in swept if key in known - shown]
    if unmatched:
        lines.append(
            f"No two rows are what a claim of the paper about {_listed(unmatched)} compares."
        )
    if not swept:
        lines.append("A single row is nothing that a claim of the paper could be compared with.")
    return lines


def _listed(keys: Sequence[str]) -> str:
    return keys[0] if len(keys) == 1 else f"{', '.join(keys[:-1])} or {keys[-1]}"


def _pairs(table: Table, claim: Mapping[str, Any]) -> list[tuple[Row, Row]]:
    """Rows of the claim's two sides that agree in every other swept choice."""
    conditions = {*claim["row"], *claim["against"]}
    others = [i for i, key in enumerate(table.swept) if key not in conditions]
    fitting = [row for row in table.rows if _allows(row, claim.get("both", {}))]
    return [
        (row, against)
        for row in fitting
        if _matches(table, row, claim["row"])
        for against in fitting
        if against is not row
        and _matches(table, against, claim["against"])
        and not distance([row.values[i] for i in others], [against.values[i] for i in others])
    ]


def choice(table: Table, row: Row, key: str) -> str:
    """A row's choice for ``key``, whether or not it was swept."""
    if key in table.swept:
        return row.values[table.swept.index(key)]
    found = {values_of(run).get(key, IRRELEVANT) for run in row.runs}
    return found.pop() if len(found) == 1 else IRRELEVANT


def _matches(table: Table, row: Row, conditions: Mapping[str, Sequence[str]]) -> bool:
    return bool(row.cells) and all(
        choice(table, row, key) in allowed for key, allowed in conditions.items()
    )


def _allows(row: Row, conditions: Mapping[str, Sequence[str]]) -> bool:
    """Whether a row's runs have the choices, wherever these can matter to them."""
    return all(
        value in conditions[key]
        for run in row.runs
        for key, value in values_of(run).items()
        if key in conditions and can_matter(run, key)
    )


def _compare(
    table: Table, claim: Mapping[str, Any], row: Row, against: Row, reader: OutcomeReader
) -> list[Finding]:
    found = []
    for name in table.benchmarks:
        if name not in row.cells or name not in against.cells:
            continue
        if name not in claim.get("benchmarks", table.benchmarks):
            continue
        item = difference(against.runs_for(name), row.runs_for(name), name, reader)
        if item is None:
            continue
        found.append(
            Finding(
                id=claim["id"],
                ablation=claim["ablation"],
                claim=claim["claim"],
                certainty=claim["certainty"]
                + ("; the comparison is inferred" if "comparator" in claim else ""),
                row=table.label(row),
                against=table.label(against),
                benchmark=name,
                difference=item,
                accuracies=(against.cells[name].accuracy, row.cells[name].accuracy),
                direction=claim["direction"],
                published=_published(table, claim, row, name),
            )
        )
    return found


def _published(table: Table, claim: Mapping[str, Any], row: Row, benchmark: str) -> str:
    """Print the claim's numbers for this benchmark, the most specific ones where there are any."""
    fitting = [
        number
        for number in claim.get("numbers", ())
        if benchmark in number["benchmark"]
        and all(
            choice(table, row, key) in number[key] for key in _NUMBER_CONDITIONS if key in number
        )
    ]
    specific = [number for number in fitting if "model" in number]
    return "; ".join(_number(number) for number in specific or fitting) or NOT_PUBLIC


def _number(number: Mapping[str, Any]) -> str:
    where = f"({number['note']}; {number['certainty']})"
    if "gain" in number:
        about = "about " if number.get("approximate") else ""
        return f"{about}{number['gain']:+g} % {where}"
    return f"{number['against']:g} -> {number['row']:g} {where}"
