"""Evaluation on held-out problems while a student is trained: greedy, graded, and shown."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytorch_lightning as pl
import torch

from plan_tuning.config.evaluation import EvaluationConfig
from plan_tuning.config.extensions import OWN_ENGINE
from plan_tuning.config.training import PromptConfig
from plan_tuning.evaluation.predictions import solve
from plan_tuning.evaluation.writers import AdapterOffWriter, Writer
from plan_tuning.grading.grader import Grader
from plan_tuning.records import Prediction, Problem
from plan_tuning.training.distributed import Ranks
from plan_tuning.training.logs import CompletionLog

logger = logging.getLogger(__name__)

METRIC = "val/accuracy"


def greedy(evaluation: EvaluationConfig) -> EvaluationConfig:
    """Decode as a validation does: one greedy answer, by this process, with own plans."""
    return replace(
        evaluation, temperature=0.0, top_p=1.0, top_k=0, num_samples=1, plan="own",
        plan_corpus=None, engine=OWN_ENGINE, progress=False,
    )  # fmt: skip


@dataclass(frozen=True)
class HeldOutEvaluation:
    """Held-out problems, and how a student that is being trained is evaluated on them.

    ``evaluation`` is made greedy, see :func:`greedy`; ``executor`` carries out m2's plans, None:
    the student itself, or with ``executes_with_base`` the base beneath its adapter.
    """

    problems: Sequence[Problem]
    method: str
    prompt: PromptConfig
    evaluation: EvaluationConfig
    grader: Grader
    executor: Writer | None = None
    executes_with_base: bool = False

    def of(self, held_out: Sequence[str], count: int) -> HeldOutEvaluation:
        """Keep the first ``count`` problems of those that are held out."""
        names = dict.fromkeys(held_out)
        known = {problem.id: problem for problem in self.problems}
        return replace(self, problems=[known[name] for name in names if name in known][:count])


class GeneratedAccuracy(pl.Callback):
    """Measures accuracy on held-out problems; ranks share the work.

    Args:
        evaluation: the problems and how they are asked.
        log: receives the answers; the first rank writes them.
    """

    def __init__(self, evaluation: HeldOutEvaluation, log: CompletionLog | None = None) -> None:
        self.held_out = replace(evaluation, evaluation=greedy(evaluation.evaluation))
        self._executing = evaluation.evaluation  # an executor decodes as at test time
        self.log_of_completions = log
        self.accuracies: dict[int, float] = {}

    def measure(self, module: Any) -> float:
        """Solve the held-out problems with the module's student as it is now."""
        held_out, step = self.held_out, module.finished_steps
        executor = held_out.executor
        if held_out.executes_with_base:
            executor = AdapterOffWriter(module.student, self._executing)
        ranks = Ranks(module.trainer)
        # In the precision of the training. The weights stand still meanwhile, so that what autocast
        # keeps of them is right until this context, the outermost one, forgets it.
        with module.trainer.precision_plugin.forward_context():
            predictions = solve(
                module.student,
                held_out.problems[ranks.rank :: ranks.world],
                method=held_out.method,
                prompt=held_out.prompt,
                evaluation=held_out.evaluation,
                benchmark="validation",
                grader=held_out.grader,
                executor=executor,
            )
        right = torch.tensor(
            float(sum(row.is_correct for row in predictions)), device=module.device
        )
        self.accuracies[step] = float(ranks.reduce(right, "sum")) / len(held_out.problems)
        logger.info("step %d: held-out accuracy %.3f", step, self.accuracies[step])
        if self.log_of_completions is not None:
            shares = ranks.gather([_completion_row(step, prediction) for prediction in predictions])
            if ranks.rank == 0:
                self.log_of_completions.add([row for share in shares for row in share])
        return self.accuracies[step]

    def state_dict(self) -> dict[str, Any]:
        """Store what was measured."""
        return {"accuracies": dict(self.accuracies)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from there."""
        self.accuracies = dict(state_dict["accuracies"])


class AccuracyAtValidation(GeneratedAccuracy):
    """Measures whenever the held-out loss is measured, with the same weights."""

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Measure, and log beside the loss."""
        pl_module.log(METRIC, self.measure(pl_module), sync_dist=trainer.world_size > 1)


class AccuracyBySteps(GeneratedAccuracy):
    """Measures before the first step, every n steps, and after the last one.

    Args:
        evaluation: the problems and how they are asked.
        every_n_steps: 0: before the first and after the last step only.
    """

    def __init__(self, evaluation: HeldOutEvaluation, *, every_n_steps: int) -> None:
        super().__init__(evaluation)
        self.every_n_steps = every_n_steps

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Measure the start, which a resumed training has left behind."""
        if pl_module.finished_steps == 0:
            self._log(trainer, self.measure(pl_module), 0)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure where it is due."""
        step = pl_module.finished_steps
        is_last = step == pl_module.total_steps or bool(pl_module.stop_reason)
        if is_last or (self.every_n_steps and step % self.every_n_steps == 0):
            self._log(trainer, self.measure(pl_module), step - 1)

    def _log(self, trainer: pl.Trainer, accuracy: float, step: int) -> None:
        for logged in trainer.loggers:
            logged.log_metrics({METRIC: accuracy}, step=step)


def _completion_row(step: int, prediction: Prediction) -> Mapping[str, Any]:
    return {
        "step": step,
        "problem_id": prediction.problem_id,
        "plan": prediction.plan,
        "text": prediction.text,
        "answer": prediction.answer,
        "gold": prediction.gold,
        "verdict": str(prediction.verdict),
        "is_correct": prediction.is_correct,
        "tokens": prediction.completion_tokens,
        "finish": prediction.finish_reason,
    }
