"""A sweep's question -> registration.json in its folder, before its first job."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from plan_tuning.artifacts import write_atomic
from plan_tuning.comparison.claims import read_claims
from plan_tuning.comparison.registered import (
    REGISTRATION_FILE,
    Amendment,
    Registered,
    read_registration,
    write_text,
)
from plan_tuning.config.checks import ConfigError
from plan_tuning.job.eval_spec import benchmark_of
from plan_tuning.job_record import RESULT_FILE
from plan_tuning.sweep.jobs import Job, shown_words

logger = logging.getLogger(__name__)


def check_registration(jobs: Sequence[Job]) -> None:
    """Refuse a registration of what the sweep cannot show.

    Raises:
        ConfigError: a claim is unknown, no job is tested on the primary benchmark, or the seeds
            are not those of the jobs.
    """
    config = jobs[0].config
    made = config.registration
    known = [claim["id"] for claim in read_claims()]
    for name in made.claims:
        if name not in known:
            raise ConfigError(
                "registration.claims",
                name,
                f"claims of the paper: {', '.join(known)}",
                f"'registration.claims=[{known[0]}]'",
            )
    names = [benchmark_of(entry, config)[0] for entry in config.benchmarks]
    if made.benchmark is not None and made.benchmark not in names:
        raise ConfigError(
            "registration.benchmark",
            made.benchmark,
            f"one of the benchmarks of the sweep: {', '.join(names)}",
            f"registration.benchmark={names[0]}",
        )
    seeds = sorted({job.config.seed for job in jobs})
    if made.seeds and sorted(made.seeds) != seeds:
        listed = ",".join(str(seed) for seed in seeds)
        raise ConfigError(
            "registration.seeds",
            made.seeds,
            f"the seeds of the jobs, {listed}; without any these are registered",
            f"'registration.seeds=[{listed}]'",
        )


def register(jobs: Sequence[Job], folder: Path) -> Registered | None:
    """Write the registration of a sweep, or what the same sweep has changed in it since.

    The same jobs and the same question leave the file as it is, byte for byte.

    Returns:
        What is registered; None where the experiment registers nothing.
    """
    config = jobs[0].config
    before = read_registration(folder)
    if not config.registration.is_made:
        if before is not None:
            logger.warning("%s stays: this command registers nothing", folder / REGISTRATION_FILE)
        return before
    now = datetime.now(UTC).isoformat(timespec="seconds")
    num_results = sum(1 for _ in folder.glob(f"*/{RESULT_FILE}"))
    made = Registered.of(
        config.registration,
        benchmark=benchmark_of(config.benchmarks[0], config)[0],
        seeds=[job.config.seed for job in jobs],
        jobs={job.name: " ".join(shown_words(job)) for job in jobs},
        when=now,
        num_results=num_results,
    )
    if before is not None:
        changes = before.changes(made)
        last = before.amendments[-1].changes if before.amendments else ()
        if not changes or changes == last:
            return before
        amendment = Amendment(now, num_results, changes)
        made = replace(before, amendments=(*before.amendments, amendment))
        for line in changes:
            logger.warning("differs from what was registered: %s", line)
    elif num_results:
        logger.warning(
            "registered after %d results were there: nothing is confirmatory", num_results
        )
    write_atomic(folder / REGISTRATION_FILE, write_text(made))
    return made
