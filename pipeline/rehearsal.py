"""Keep a student a language model while it learns something else: each step also brings masked sequences of a store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from pipeline.config import Section
from pipeline.curriculum import WINDOW_PREDICTIONS, Lesson, Step, Window, plan_steps
from pipeline.language_task import LanguageTask, LossParams, StepDone

if TYPE_CHECKING:
    import torch

    from pipeline.models import MaskedLM


class RehearsalParams(Section):
    """The language model's part in lexical training (the M of LMGC-M, Wahle et al. 2021, arXiv 2106.07967)."""

    weight: float = Field(gt=0)
    """Of the language model's loss, beside 1 for the senses."""
    step_tokens: int = Field(ge=1)
    """Tokens of masked sequences a step."""
    loss: LossParams
    """Weights of teachers' targets and true tokens, as of a student."""


class Rehearsal:
    """The masked sequences of each step, and their gradients."""

    def __init__(
        self,
        lm: MaskedLM,
        params: RehearsalParams,
        *,
        lesson: Lesson,
        autocast: torch.dtype,
        batch_tokens: int,
        steps: int,
        seed: int,
    ) -> None:
        self._params, self._lesson, self._steps, self._seed = params, lesson, steps, seed
        self._task = LanguageTask(lm, params.loss, lesson=lesson, autocast=autocast, batch_tokens=batch_tokens)
        self._plan = self._planned()
        self._next = 0
        self._window: tuple[tuple[int, ...], Window] | None = None

    def backward(self, number: int) -> StepDone:
        """Add the gradients of step `number`; numbers rise, and those that a resumed run did before are skipped."""
        step = next(self._plan)
        while self._next < number:
            step = next(self._plan)
            self._next += 1
        self._next += 1
        if self._window is None or self._window[0] != step.window:
            self._window = None  # let the old one go before the new one is read
            self._window = step.window, Window(self._lesson, step.window)
        weight = self._params.loss.targets_weight(number, self._steps)
        return self._task.backward(step, self._window[1], targets_weight=weight, scale=self._params.weight)

    def _planned(self) -> Iterator[Step]:
        return plan_steps(
            self._lesson,
            step_tokens=self._params.step_tokens,
            seed=self._seed,
            window_shards=max(1, WINDOW_PREDICTIONS // self._lesson.plan.shard_rows),
        )
