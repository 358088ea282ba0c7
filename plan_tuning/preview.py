"""One job before it runs: its stages, its teacher's calls and their price (``dry_run=true``)."""

from __future__ import annotations

from rich.console import Console

from plan_tuning.config.run import Config
from plan_tuning.inputs import load_problems
from plan_tuning.specs import calls_folder
from plan_tuning.stages import JobPlan


def describe(config: Config, plan: JobPlan) -> None:
    """Show what the job would do (``dry_run=true``): stages, teacher calls, price, prompts."""
    console = Console()
    for stage in plan.stages:
        state = "done" if stage.is_done else "to build"
        console.print(f"{stage.kind:<11} {stage.key} {state:<8} {stage.label}", highlight=False)
    if plan.corpus is not None and not plan.corpus.is_done and config.uses_teacher:
        from plan_tuning.distillation.estimate import dry_run, render_estimate

        problems = load_problems(config)
        estimate = dry_run(problems, config.teacher, config.distillation, calls_folder(config))
        console.print(render_estimate(estimate, config.teacher))
