"""A finished corpus and the store of calls -> tables and panels for a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plan_tuning.artifacts import is_complete
from plan_tuning.config.filter import FilterConfig
from plan_tuning.distillation.corpus import TRAJECTORIES, CorpusError
from plan_tuning.distillation.filters import FilterResult
from plan_tuning.distillation.funnel import Checks, funnel_rows
from plan_tuning.job_record import RESULT_FILE
from plan_tuning.records import Trajectory
from plan_tuning.teachers.pricing import shown_usd
from plan_tuning.teachers.store import CallStore

if TYPE_CHECKING:
    from rich.console import RenderableType

_SHOWN_IDS = 5


def find_corpus(name: str | None, outputs: Path) -> Path:
    """Find a corpus.

    Args:
        name: its folder or fingerprint (its beginning will do); a folder of a job or of a sweep
            that rests on it. None: the newest.
        outputs: root of results; fingerprints are looked up there.

    Raises:
        CorpusError: there is none, or several are meant.
    """
    if name is not None and (Path(name) / TRAJECTORIES).is_file():
        return Path(name)
    root = outputs / "artifacts" / "corpora"
    if name is not None and Path(name).is_dir():
        return _corpus_of_results(Path(name))
    finished = [folder for folder in root.glob("*") if is_complete(folder)] if root.is_dir() else []
    if name is not None:
        finished = [folder for folder in finished if folder.name.startswith(name)]
    if not finished:
        wanted = f"corpus {name!r}" if name is not None else "corpus"
        raise CorpusError(
            f"there is no finished {wanted} in {root}. Make one, for example: "
            f"plan-tuning 'stages=[distill]' paths.outputs={outputs}; or give the folder of one"
        )
    if name is not None and len(finished) > 1:
        raise CorpusError(
            f"{name}: several corpora begin like that: "
            f"{', '.join(sorted(folder.name for folder in finished))}"
        )
    return max(finished, key=lambda folder: (folder / TRAJECTORIES).stat().st_mtime)


def _corpus_of_results(folder: Path) -> Path:
    """Find the one corpus that a job, or all jobs of a sweep, rest on.

    Raises:
        CorpusError: there is no result, none names a corpus, or they name several.
    """
    found: set[Path] = set()
    for file in [*folder.glob(RESULT_FILE), *folder.glob(f"*/{RESULT_FILE}")]:
        facts = json.loads(file.read_text(encoding="utf-8")).get("corpus") or {}
        if facts.get("path"):
            found.add((file.parent / facts["path"]).resolve())
    if len(found) == 1:
        return found.pop()
    if not found:
        raise CorpusError(
            f"{folder} is neither a corpus nor a folder of results that rest on one; for example: "
            "plan-tuning corpus status multirun_outputs"
        )
    listed = "".join(f"\n  {path}" for path in sorted(found))
    raise CorpusError(f"{folder} rests on {len(found)} corpora; name one of them:{listed}")


def status_table(folder: Path, manifest: Mapping[str, Any]) -> RenderableType:
    """Lay out a corpus's funnel, what filters keep, and its costs."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    facts = manifest["facts"]
    funnel = Table(title=f"corpus {folder.name}", title_justify="left")
    funnel.add_column("passed")
    funnel.add_column("count", justify="right")
    for title, count in funnel_rows(facts["funnel"]):
        funnel.add_row(title, str(count))
    filters = Table(title="filters", title_justify="left")
    for column in ("filter", "problems kept", "rate"):
        filters.add_column(column, justify="left" if column == "filter" else "right")
    for name, count in facts["kept_problems"].items():
        filters.add_row(name, str(count), f"{facts['kept_rate'][name]:.1%}")
    auc = facts["score_auc"]
    lines = [
        f"folder: {folder}",
        *_origin(manifest),
        "score against right execution, AUC: " + ("not defined" if auc is None else f"{auc:.3f}"),
        f"verifier replies: {facts['score_status']}; the released parser differs on "
        f"{facts['released_parser_differs']}",
    ]
    return Group(funnel, filters, Text("\n".join(lines)))


def _origin(manifest: Mapping[str, Any]) -> list[str]:
    """Say in lines who wrote the plans, and what they cost."""
    facts = manifest["facts"]
    created = manifest["provenance"]["created"]
    imported = facts.get("imported")
    if imported is not None:
        left_out = sum(imported["left_out"].values())
        return [
            f"imported: {imported['rows']} rows of {imported['from']} ({imported['shape']}), "
            f"{imported['split']} problems; {left_out} rows left out",
            f"made: {created}, {facts['import_s']:.0f} s",
        ]
    served = ", ".join(facts["served_models"]) or "unknown"
    return [
        f"teacher: {facts['teacher']['model']} (served: {served})",
        f"made: {created}, {facts['distil_s']:.0f} s",
        f"calls of that run: {facts['calls']['bought']} asked, {facts['calls']['cached']} from the "
        f"store, {facts['calls']['left_out']} left out; "
        f"cost of the corpus: {shown_usd(facts['cost_usd']['corpus'])}",
    ]


def store_table(store: CallStore, path: Path) -> RenderableType:
    """Lay out what the store of paid calls holds."""
    from rich.table import Table

    summary = store.summary()
    table = Table(title=f"store {path}", title_justify="left")
    for column in ("request", "replies", "by status"):
        table.add_column(column, justify="right" if column == "replies" else "left")
    for role, statuses in summary["calls"].items():
        table.add_row(role, str(sum(statuses.values())), _counts(statuses))
    failed = _counts(summary["failed_attempts"]) or "none"
    spent = f"{summary['usd']:.4f} USD"
    if summary["unpriced"]:
        spent += f" and {summary['unpriced']} replies of unknown price"
    table.caption = f"failed attempts: {failed}; spent: {spent}"
    return table


def trajectory_panels(rows: Sequence[Trajectory], problem_id: str) -> Iterator[RenderableType]:
    """Lay out all candidates of one problem.

    Raises:
        CorpusError: the corpus has no such problem.
    """
    from rich.panel import Panel
    from rich.text import Text

    found = [row for row in rows if row.problem_id == problem_id]
    if not found:
        ids = list(dict.fromkeys(row.problem_id for row in rows))
        raise CorpusError(
            f"the corpus has no problem {problem_id!r}; it has {len(ids)}, for example "
            f"{', '.join(ids[:_SHOWN_IDS])}"
        )
    first = found[0]
    yield Panel(
        Text(
            f"{first.problem}\n\ngold answer: {first.answer}\n\nconstraints:\n{first.constraints}"
        ),
        title=f"problem {problem_id}",
        title_align="left",
    )
    for row in found:
        score = row.score_status if row.plan_score is None else str(row.plan_score)
        title = f"candidate {row.candidate}: score {score}, {row.verdict or row.execution_status}"
        if row.duplicate_of is not None:
            title += f", same plan as candidate {row.duplicate_of}"
        body = (
            f"{row.plan or f'(plan: {row.plan_status})'}\n\n"
            f"verifier:\n{row.score_text.strip() or '(none)'}\n\n"
            f"execution ({row.execution_status}):\n{row.execution.strip() or '(none)'}\n\n"
            f"answer: {row.execution_answer or '(none)'}; cost: {shown_usd(row.cost_usd)}"
        )
        yield Panel(Text(body), title=title, title_align="left")


def call_panels(store: CallStore, problem_id: str) -> Iterator[RenderableType]:
    """Lay out the stored requests and replies about one problem."""
    from rich.panel import Panel
    from rich.text import Text

    for call in store.calls(problem_id):
        request = call["request"]
        prompt = "\n\n".join(f"[{m['role']}] {m['content']}" for m in request["messages"])
        title = (
            f"{call['role']} sample {call['sample_index']}.{call['attempt_salt']}: "
            f"{call['status']}, {call['served_model']}, "
            f"{call['prompt_tokens']}+{call['completion_tokens']} tokens, "
            f"{call['latency_s']:.2f} s, {call['attempts']} attempts, key {call['key'][:12]}"
        )
        yield Panel(Text(f"{prompt}\n\n[reply] {call['text']}"), title=title, title_align="left")


def filter_table(
    rows: Sequence[Trajectory], result: FilterResult, config: FilterConfig
) -> RenderableType:
    """Lay out what a filter keeps, why the rest goes, and what plans look like before and after."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    headline = Text(
        f"filter {config.name}: {result.kept_problems} of {result.problems} problems "
        f"({result.kept_rate:.1%}), {len(result.kept)} rows"
    )
    reasons = Table()
    reasons.add_column("candidates")
    reasons.add_column("count", justify="right")
    for reason, count in sorted(result.reasons.items(), key=lambda item: -item[1]):
        reasons.add_row(reason.replace("_", " "), str(count))
    before, after = Checks(), Checks()
    before.add(rows)
    after.add(result.kept)
    checks = Table(title="plans", title_justify="left")
    for column in ("check", "before", "after"):
        checks.add_column(column, justify="left" if column == "check" else "right")
    was, now = before.means(), after.means()
    for name, value in was.items():
        checks.add_row(name.replace("_", " "), f"{value:g}", f"{now.get(name, 0):g}")
    return Group(headline, reasons, checks)


def _counts(values: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in values.items())
