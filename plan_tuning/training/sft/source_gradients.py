"""The gradients of a step, source by source: projected where they conflict, or only compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from plan_tuning.config.training import TrainerConfig
from plan_tuning.training.gradients import Gradient, cosines, modules_of, projected
from plan_tuning.training.sft.batches import EncodedRow

_CONFLICTS = 7  # tells the order of projections from other draws of a seed


class SourceGradients:
    """Takes the gradients of a step apart, and puts them together again.

    With a single source there is nothing to tell apart, whatever is asked for.

    Args:
        trained: the trained weights, by name.
        trainer: ``pcgrad`` and ``cosine_every_n_steps``.
        seed: of the training.
        sources: of all rows.
    """

    def __init__(
        self,
        trained: Mapping[str, torch.nn.Parameter],
        trainer: TrainerConfig,
        seed: int,
        sources: Sequence[str],
    ) -> None:
        self._trained = trained
        self._seed = seed
        self._every = trainer.cosine_every_n_steps
        self._taken: list[Gradient] = []
        self._sources = list(dict.fromkeys(sources))
        has_several = len(self._sources) > 1
        self.projects = has_several and trainer.pcgrad != "none"
        self._measures = has_several and self._every > 0
        names = list(trained)
        is_modular = trainer.pcgrad == "module"
        self._groups = list(modules_of(names).values()) if is_modular else [names]

    def parts(self, rows: Sequence[EncodedRow]) -> list[list[EncodedRow]]:
        """Split the rows of a step by source, in the order of the sources; none is empty."""
        found = [[row for row in rows if row.source == name] for name in self._sources]
        return [part for part in found if part]

    def is_measured(self, step: int) -> bool:
        """Whether the cosines of a step are logged."""
        return self._measures and (step + 1) % self._every == 0

    def take(self) -> None:
        """Keep the gradients that the weights hold as those of the next source, and clear them."""
        taken = {}
        for name, weight in self._trained.items():
            own = weight.grad
            taken[name] = torch.zeros_like(weight) if own is None else own.detach()
            weight.grad = None
        self._taken.append(taken)

    def put_together(self, step: int) -> None:
        """Give the weights the sum of what was taken, without the parts that conflict."""
        total = projected(self._taken, self._groups, seed=[self._seed, step, _CONFLICTS])
        for name, weight in self._trained.items():
            weight.grad = total[name]

    def measured(self, step: int) -> dict[str, float]:
        """Compare what was taken in a step where that is asked for, and forget it.

        Returns:
            ``train/gradient_cosine/<module>``, and the share of modules in conflict.
        """
        taken, self._taken = self._taken, []
        if not self.is_measured(step) or len(taken) < 2:
            return {}
        found = cosines(taken)
        conflicts = [value < 0 for module, value in found.items() if module != "all"]
        share = {"train/conflicting_modules": sum(conflicts) / len(conflicts)} if conflicts else {}
        return {f"train/gradient_cosine/{key}": value for key, value in found.items()} | share
