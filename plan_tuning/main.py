"""The console command ``plan-tuning``: a Hydra app, with typer subcommands beside it.

``plan-tuning WORD …`` runs a subcommand where WORD is one of SUBCOMMANDS; the rest is Hydra's.
Nothing heavy is imported before a job starts, so ``--help`` and a configuration error are quick.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from string import Template
from typing import Any, NoReturn

import filelock
import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, MissingConfigException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from plan_tuning import interruption
from plan_tuning.artifacts import RESUME, storage_error
from plan_tuning.config.command_line import check_double_keys
from plan_tuning.config.composition import remember_compositions
from plan_tuning.config.effects import idle_line, idle_registration, idle_words
from plan_tuning.config.explanation import explanations
from plan_tuning.config.outside import choices_of, config_folders, load_folder
from plan_tuning.config.registration import (
    add_experiments,
    explained,
    register,
    resource_folder,
)
from plan_tuning.config.run import SweeperConfig
from plan_tuning.config.typed import check_outputs, typed
from plan_tuning.sweep.devices import check_processes, claim_card, launcher_facts
from plan_tuning.sweep.external import Search
from plan_tuning.sweep.overrides import check_overrides, ordered
from plan_tuning.sweep.sweeper import USER_ERROR, register_sweeper
from plan_tuning.tracking.shared_terminal import label_lines

APP_NAME = "plan-tuning"  # hydra.job.name, unless a sweep names each of its jobs
SUBCOMMANDS = (
    "compare",
    "power",
    "export",
    "grade",
    "corpus",
    "contamination",
    "fetch",
    "reward-audit",
)

logger = logging.getLogger(__name__)
search = Search()  # of this process, where it is one

# At import, so that a launcher's worker processes have them too; those of modules from outside,
# which plan_tuning.config.outside has read by now where this is a worker.
register()
register_sweeper()
remember_compositions()


class Preflight(Callback):  # type: ignore[misc]
    """Checks a single run's configuration before Hydra makes its folder."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Stop with one line on a configuration that cannot work."""
        note_ignored_interrupts()
        try:
            checked = typed(config)
            check_double_keys(config.hydra.overrides.task, [checked])
            check_outputs(checked)
            check_processes(checked)
            from plan_tuning.job.graph import job_graph

            graph = job_graph(checked)
            code = 0
            if checked.dry_run:
                from plan_tuning.job.dry_run import print_job

                if idle := idle_words(checked, config.hydra.overrides.task):
                    sys.stdout.write(f"{idle_line(idle)}\n")
                if line := idle_registration(checked):
                    sys.stdout.write(f"{line}\n")
                code = print_job(checked, graph)
        except ValueError as error:
            stop(error)
        if checked.dry_run:
            raise SystemExit(code)  # before Hydra makes the job's folder

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Begin a search where another sweeper than the project's own runs the jobs."""
        note_ignored_interrupts()
        if config.hydra.sweeper._target_ != SweeperConfig._target_:
            try:
                search.begin(
                    typed(config),
                    Path(config.hydra.sweep.dir),
                    launcher=launcher_facts(config.hydra.launcher),
                    trials=config.hydra.sweeper.get("n_trials", "?"),
                )
            except ValueError as error:
                stop(error)


def note_ignored_interrupts() -> None:
    """Say how to end a command that Ctrl-C does not reach.

    A shell starts the background jobs of a script with SIGINT ignored, and Python leaves a signal
    that it finds ignored as it is: whoever interrupts the script does not mean its jobs.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        sys.stderr.write(
            "note: started with Ctrl-C (SIGINT) ignored, as background jobs of a script are; "
            f"end it with: kill {os.getpid()} (the same command resumes)\n"
        )


def stop(error: Exception) -> NoReturn:
    """End the process with the error's one line and its exit code.

    Raises:
        SystemExit: always.
    """
    sys.stderr.write(f"error: {error}\n")
    raise SystemExit(getattr(error, "exit_code", USER_ERROR))


def job(config: DictConfig) -> float | None:
    """Run one job and return its objective: accuracy on the first benchmark."""
    from plan_tuning.experiment import run_job
    from plan_tuning.job.result import JobContext, job_choices

    replace_what_cannot_be_shown()  # in a launcher's worker process
    settings = HydraConfig.get()
    is_sweep = settings.mode == RunMode.MULTIRUN
    label_lines("" if settings.job.name == APP_NAME else settings.job.name)
    checked = typed(config)
    if not is_sweep and (idle := idle_words(checked, settings.overrides.task)):
        logger.warning("%s", idle_line(idle))
    if not is_sweep and (line := idle_registration(checked)):
        logger.warning("%s", line)
    if is_sweep:
        check_processes(checked)  # a cluster's node knows more than the machine that sent it here
        claim_card(checked, str(settings.launcher._target_))
    folder = Path(settings.runtime.output_dir)
    context = JobContext(
        folder=folder,
        name=folder.name,
        sweep_name=checked.sweep_name if is_sweep else None,
        overrides=tuple(settings.overrides.task),
        choices=job_choices(settings.runtime.choices),
        shares_process=is_sweep and str(settings.launcher._target_).endswith("BasicLauncher"),
    )
    try:
        with interruption.watched(), only_runner(folder):
            interruption.check()
            objective = run_job(checked, context)
            interruption.check()  # ends the sweep, whose next job would begin
            return objective
    except (ValueError, OSError) as raised:
        error = storage_error(raised, folder, RESUME) or raised
        if is_sweep or not isinstance(error, ValueError):
            raise error from raised  # the sweeper goes on with the other jobs
        stop(error)


def only_runner(folder: Path) -> AbstractContextManager[Any]:
    """Let one process at a time run the job of a folder; another one waits, then finds it done.

    The further processes of one job, which work for the first, are not kept out.
    """
    ranks = (os.environ.get(name, "0") for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    if any(rank != "0" for rank in ranks):
        return nullcontext()
    return filelock.FileLock(folder / ".job.lock")


def help_text(folders: Sequence[Path] = ()) -> str:
    """Write ``--help`` from conf/hydra/help/plan_tuning.yaml and the folders of choices.

    Hydra's own way there looks every group up through its whole search path, which takes seconds.
    """
    conf = resource_folder("conf")
    groups = choices_of(conf)
    groups["experiment"] = sorted(p.stem for p in resource_folder("experiments").glob("*.yaml"))
    for folder in folders:
        for name, choices in choices_of(folder).items():
            groups[name] = list(dict.fromkeys([*groups.get(name, []), *choices]))
    groups.pop("hydra", None)
    listed = "\n".join(f"{name}: {', '.join(choices)}" for name, choices in groups.items())
    page: Any = OmegaConf.load(conf / "hydra" / "help" / "plan_tuning.yaml")
    shown = {key: page[key].strip() for key in ("header", "footer")}
    return Template(page.template).substitute(APP_CONFIG_GROUPS=listed, **shown)


def _is_completed(words: Sequence[str]) -> bool:
    """Answer a shell that completes a command line, as far as it is not Hydra's to complete."""
    if not any(word.startswith("query=") for word in words):
        return False
    # Whatever cannot be completed is no text for somebody's prompt.
    sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for this process's life
    line = os.environ.get("COMP_LINE", "")
    typed = line.split()[1:]
    if len(typed) == 1 and not line[-1].isspace():
        found = [name for name in SUBCOMMANDS if name.startswith(typed[0])]
        sys.stdout.write("".join(f"{name}\n" for name in found))
        return bool(found) and typed[0] in SUBCOMMANDS
    if not typed or typed[0] not in SUBCOMMANDS:
        return False
    from plan_tuning import cli

    sys.stdout.write("".join(f"{word}\n" for word in cli.completions(line, SUBCOMMANDS) or ()))
    return True


def explain_composition(words: Sequence[str]) -> None:
    """End on a key or a choice that there is not with what may be meant, where Hydra advises `+`.

    Hydra composes every configuration, of a job or of a sweep, by one method, which is wrapped.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    compose = ConfigLoaderImpl.load_configuration

    def explaining(*arguments: Any, **named: Any) -> Any:
        try:
            return compose(*arguments, **named)
        except (ConfigCompositionException, MissingConfigException) as error:
            conf = resource_folder("conf")
            found = explained(error, words, conf, [conf, *config_folders(words)])
            if found is None:
                raise
            stop(found)

    ConfigLoaderImpl.load_configuration = explaining


def replace_what_cannot_be_shown() -> None:
    """Let an output that is not UTF-8 show a question mark for a character that it lacks.

    A table is no reason for a sweep to fail; files are UTF-8 whatever the terminal is.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def main() -> None:
    """Entry point of the console script: a subcommand, or Hydra's app.

    Raises:
        SystemExit: with the code of what went wrong; 130 where the user stopped it.
    """
    replace_what_cannot_be_shown()
    words = sys.argv[1:]
    with interruption.reported():
        if any(word in ("-sc", "--shell-completion") for word in words) and _is_completed(words):
            return
        if words and words[0] in SUBCOMMANDS:
            from plan_tuning import cli

            cli.run()
            return
        folders = config_folders(words)
        if "--help" in words or "-h" in words:
            folders = [resource_folder("conf"), *config_folders(words)]
            try:
                pages = explanations(words, folders)
            except ValueError as error:
                stop(error)
            sys.stdout.write("\n\n".join(pages or [help_text(folders[1:])]) + "\n")
            return
        try:
            for folder in folders:
                load_folder(folder)
            register()
            sys.argv[1:] = ordered(words)
            check_overrides(sys.argv[1:], SUBCOMMANDS)
        except ValueError as error:
            stop(error)
        add_experiments(folders)
        explain_composition(words)
        logging.raiseExceptions = False  # a log that cannot be written is no fault of a job
        app = hydra.main(
            version_base="1.3", config_path=str(resource_folder("conf")), config_name="config"
        )(job)
        try:
            app()
        finally:
            search.end()


if __name__ == "__main__":
    # The importable module, not __main__: launchers send the job to other processes by its name.
    from plan_tuning.main import main as start

    start()
