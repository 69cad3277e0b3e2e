"""The steps of a distillation run: loss, clipping, optimiser, held-out curve. A resumed run gives the same weights."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipeline.core.tracking import Curves
from pipeline.models.optimizer import adamw, choose_attention, linear_schedule, update
from pipeline.train.data import WINDOW_PREDICTIONS, Step, TrainingData, plan_steps
from pipeline.train.loop import run_steps
from pipeline.train.objective import LanguageTask
from pipeline.train.params import StepsParams, StudentParams
from pipeline.train.processes import ALONE, Processes
from storage.records.sequences import Masks, Sequences

if TYPE_CHECKING:
    from pipeline.evaluate.heldout import DocumentTokens
    from pipeline.models.masked_lm import MaskedLM


log = logging.getLogger(__name__)


EPOCHS_SILENT = 1.1
"""Epochs over the same masked positions above which a warning is logged: true tokens are
then learned by heart (docs/results/students.md)."""


class Trainer:
    """A student, what it learns from, and the resumable state of its training."""

    def __init__(
        self,
        lm: MaskedLM,
        student: StudentParams,
        params: StepsParams,
        *,
        data: TrainingData,
        heldout: tuple[Sequences | DocumentTokens, Masks],
        special: dict[str, int],
        dtype: torch.dtype,
        batch_tokens: int,
        processes: Processes = ALONE,
    ) -> None:
        """`lm` is learned, in float32; with a `dtype` of bfloat16 a copy of it computes (`WorkingCopy`)."""
        from pipeline.models.masked_lm import MaskedLM
        from pipeline.models.working_copy import WorkingCopy

        self.loss, self.params, self.data = student.loss, params, data
        self.heldout, self.special, self.batch_tokens = heldout, special, batch_tokens
        self.processes = processes
        choose_attention(lm.model, device=lm.device, dtype=dtype, tokens=data.text.width)
        self.model: torch.nn.Module = lm.model
        self._copy = None if dtype == torch.float32 else WorkingCopy(lm.model)
        self.lm = lm if self._copy is None else MaskedLM(self._copy.model, lm.device)
        self.optimizer = adamw(
            lm.model.parameters(), learning_rate=params.learning_rate, weight_decay=params.weight_decay
        )
        self.steps = params.steps
        self.evaluated_after = {round(params.steps * i / params.evaluations) for i in range(1, params.evaluations + 1)}
        self.state: dict[str, Any] = {name: [] for name in ("curve", "curve_document_means", "losses")}
        self.state |= {"tokens": 0, "predictions": 0}
        self.tensors: dict[str, torch.Tensor] = {}
        self.task = LanguageTask(
            self.lm,
            student.loss,
            store=data.targets,
            autocast=torch.float32,
            batch_tokens=batch_tokens,
            processes=processes,
            copy=self._copy,
        )

    def run(self, checkpoints: Path, *, checkpoint_seconds: float, curves: Curves | None = None) -> None:
        """Train to the last step, from the newest checkpoint if there is one; the first process writes checkpoints."""
        if not self.processes.first:
            checkpoint_seconds = math.inf
        run_steps(self, self.plan, checkpoints, checkpoint_seconds=checkpoint_seconds, label="train", curves=curves)

    def plan(self, done: int) -> Iterator[Step]:
        """The steps from the `done`-th on."""
        return plan_steps(
            self.data,
            step_tokens=self.params.step_tokens,
            seed=self.params.seed,
            window_shards=max(1, WINDOW_PREDICTIONS // self.data.text.plan.shard_rows),
            done=done,
            share=self.processes.share,
        )

    def begin(self) -> None:
        """Evaluate the student as it starts."""
        self._evaluate(0)

    def step(self, number: int, planned: Step) -> None:
        """One optimiser step, the `number`-th from 0, and an evaluation where the held-out curve has a point."""
        self.learn(number, planned)
        if number + 1 in self.evaluated_after:
            self._evaluate(number + 1)

    def learn(self, number: int, planned: Step) -> None:
        """One optimiser step, and a line of its losses in the state."""
        self.refresh()
        done = self.task.backward(planned, targets_weight=self.loss.targets_weight(number, self.steps))
        self.processes.sum_gradients(self.model.parameters())
        rate = linear_schedule(number, self.steps, warmup=self.params.warmup, peak=self.params.learning_rate)
        update(self.optimizer, self.model.parameters(), learning_rate=rate, gradient_clip=self.params.gradient_clip)
        self.state["tokens"] += done.tokens
        self.state["predictions"] += done.labels
        self.state["losses"].append([round(float(total), 5) for total in done.means])

    def plain(self) -> dict[str, Any]:
        """The state, which is JSON data."""
        return self.state

    def measured(self, steps: int, *, every: int) -> dict[str, float]:
        """Mean losses of the last `every` steps, the learning rate, and the held-out NLL where it was evaluated."""
        found = {}
        if steps and steps % every == 0:
            means = np.mean(self.state["losses"][-every:], axis=0)
            found = {"targets_loss": float(means[0]), "labels_loss": float(means[1])}
            found["learning_rate"] = float(self.optimizer.param_groups[0]["lr"])
        if self.state["curve"][-1][0] == steps:
            found["heldout_nll"] = self.state["curve"][-1][1]
        return found

    def refresh(self) -> None:
        """Have the next forward compute with the weights as they are now."""
        if self._copy is not None:
            self._copy.refresh()

    def _evaluate(self, step: int) -> None:
        if not self.processes.first:
            return
        from pipeline.evaluate.heldout import document_means
        from pipeline.evaluate.predictions import heldout_nll

        self.refresh()
        self.lm.model.eval()
        nll_P = heldout_nll(self.lm, *self.heldout, batch_tokens=self.batch_tokens, special=self.special)
        self.lm.model.train()
        nll = float(nll_P.mean())
        self.state["curve"].append([step, round(nll, 5)])
        self.state["curve_document_means"].append(document_means(*self.heldout, nll_P).round(5).tolist())
        log.info("step %d of %d: held-out NLL %.4f", step, self.steps, nll)
