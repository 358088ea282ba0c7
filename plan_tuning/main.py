"""The console command ``plan-tuning``: a Hydra app, with typer subcommands beside it.

``plan-tuning WORD …`` runs a subcommand where WORD is one of SUBCOMMANDS; the rest is Hydra's.
Nothing heavy is imported before a job starts, so ``--help`` and a configuration error are quick.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from plan_tuning.config.registration import register, resource_folder
from plan_tuning.config.typed import check_outputs, typed
from plan_tuning.launching import claim_card
from plan_tuning.sweeper import register_sweeper

SUBCOMMANDS = ("compare", "grade", "corpus", "contamination")
USER_ERROR = 2  # exit code of a configuration or input error

# At import, so that a launcher's worker processes have them too.
register()
register_sweeper()


class Preflight(Callback):  # type: ignore[misc]
    """Checks a single run's configuration before Hydra makes its folder."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Stop with one line on a configuration that cannot work."""
        try:
            checked = typed(config)
            check_outputs(checked)
            from plan_tuning.specs import plan_job

            plan_job(checked)
        except ValueError as error:
            stop(error)


def stop(error: Exception) -> None:
    """End the process with the error's one line and its exit code.

    Raises:
        SystemExit: always.
    """
    sys.stderr.write(f"error: {error}\n")
    raise SystemExit(getattr(error, "exit_code", USER_ERROR))


def job(config: DictConfig) -> float | None:
    """Run one job and return its objective: accuracy on the first benchmark."""
    from plan_tuning.experiment import run_job
    from plan_tuning.result import JobContext

    settings = HydraConfig.get()
    is_sweep = settings.mode == RunMode.MULTIRUN
    checked = typed(config)
    if is_sweep:
        claim_card(checked, str(settings.launcher._target_))
    folder = Path(settings.runtime.output_dir)
    context = JobContext(
        folder=folder,
        name=folder.name,
        sweep_name=checked.sweep_name if is_sweep else None,
        overrides=tuple(settings.overrides.task),
        choices={
            key: value
            for key, value in settings.runtime.choices.items()
            if not key.startswith("hydra") and "/" not in key
        },
    )
    try:
        return run_job(checked, context)
    except ValueError as error:
        if is_sweep:
            raise  # the sweeper goes on with the other jobs
        stop(error)
        return None


def main() -> None:
    """Entry point of the console script."""
    if len(sys.argv) > 1 and sys.argv[1] in SUBCOMMANDS:
        from plan_tuning import cli

        cli.run()
        return
    hydra.main(version_base="1.3", config_path=str(resource_folder("conf")), config_name="config")(
        job
    )()


if __name__ == "__main__":
    # The importable module, not __main__: launchers send the job to other processes by its name.
    from plan_tuning.main import main as run

    run()
