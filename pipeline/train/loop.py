"""The loop around training steps: continue from the newest checkpoint, step, save at intervals, report progress."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from pipeline.core.progress import Progress
from pipeline.core.tracking import Curves, interval
from pipeline.models import checkpoints as files

log = logging.getLogger(__name__)

Planned = TypeVar("Planned")
Planned_contra = TypeVar("Planned_contra", contravariant=True)


class Trainable(Protocol[Planned_contra]):
    """What `run_steps` trains."""

    steps: int
    state: dict[str, Any]
    """State besides weights and optimiser; a checkpoint's state is put here before the first step."""

    tensors: dict[str, torch.Tensor]
    """Tensors of the state, put here in place likewise."""

    @property
    def model(self) -> torch.nn.Module:
        """The model that is trained and saved."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimiser of its weights."""

    def begin(self) -> None:
        """Called before step 0, and not when a checkpoint is continued."""

    def step(self, number: int, planned: Planned_contra) -> None:
        """Take the `number`-th step, from 0, as planned."""

    def plain(self) -> dict[str, Any]:
        """The state as JSON data."""

    def measured(self, steps: int, *, every: int) -> Mapping[str, float]:
        """Points of curves after `steps` steps: of the last `every` ones at multiples of it, and what was evaluated."""


def run_steps(
    trainer: Trainable[Planned],
    plan: Callable[[int], Iterator[Planned]],
    checkpoints: Path,
    *,
    checkpoint_seconds: float,
    label: str,
    curves: Curves | None = None,
) -> None:
    """Train to the last step, from the newest checkpoint in the folder `checkpoints` if there is one.

    plan yields the input of each step from the one whose number it is given, so a continued run takes the same steps as
    an uninterrupted one.
    """
    done = 0
    if found := files.restore(checkpoints, model=trainer.model, optimizer=trainer.optimizer, tensors=trainer.tensors):
        done, trainer.state = found
        log.info("continuing from step %d of %d", done, trainer.steps)
    else:
        trainer.begin()
    saved, every = time.monotonic(), interval(trainer.steps)
    if curves and not done:
        curves.log(0, trainer.measured(0, every=every))
    with Progress(trainer.steps, unit="steps", label=label, done=done, curves=curves) as progress:
        for number, planned in zip(range(done, trainer.steps), plan(done), strict=False):
            trainer.step(number, planned)
            if curves:
                curves.log(number + 1, trainer.measured(number + 1, every=every))
            if time.monotonic() - saved >= checkpoint_seconds:
                files.save(
                    checkpoints,
                    step=number + 1,
                    model=trainer.model,
                    optimizer=trainer.optimizer,
                    state=trainer.plain(),
                    tensors=trainer.tensors,
                )
                saved = time.monotonic()
            progress.advance(1)
