"""The steps of a distillation run: loss, clipping, optimiser, held-out curve, checkpoints that resume bit for bit."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.train.data import WINDOW_PREDICTIONS, ShardWindow, Step, TrainingData, plan_steps
from pipeline.train.objective import LanguageTask
from pipeline.train.params import StudentParams, TrainingParams
from storage.records.sequences import Masks, Sequences

if TYPE_CHECKING:
    import torch

    from pipeline.models.masked_lm import MaskedLM


log = logging.getLogger(__name__)


PASSES_SILENT = 1.1
"""Passes over the same blanks up to which nothing is said; with two, labels alone lost 0.14 nat (README)."""


def learning_rate(step: int, params: TrainingParams) -> float:
    """Linear warm-up, then linear decay to 0 at the last step; `step` counts from 0."""
    warmup = max(1, round(params.warmup * params.steps))
    if step < warmup:
        return params.learning_rate * (step + 1) / warmup
    return params.learning_rate * (params.steps - step) / max(1, params.steps - warmup)


class Trainer:
    """The training loop and its resumable state."""

    def __init__(
        self,
        lm: MaskedLM,
        student: StudentParams,
        params: TrainingParams,
        *,
        data: TrainingData,
        heldout: tuple[Sequences, Masks],
        special: dict[str, int],
        autocast: torch.dtype,
        batch_tokens: int,
    ) -> None:
        from pipeline.models.optimizer import adamw, choose_attention

        self.lm, self.loss, self.params, self.data = lm, student.loss, params, data
        self.heldout, self.special, self.batch_tokens = heldout, special, batch_tokens
        choose_attention(lm.model, device=lm.device, autocast=autocast, tokens=int(data.view.lengths_G().max()))
        self.optimizer = adamw(
            lm.model.parameters(), learning_rate=params.learning_rate, weight_decay=params.weight_decay
        )
        self.state: dict[str, Any] = {"curve": [], "losses": [], "tokens": 0, "predictions": 0}
        self.task = LanguageTask(lm, student.loss, data=data, autocast=autocast, batch_tokens=batch_tokens)

    def run(self, checkpoints: Path, *, checkpoint_seconds: float) -> None:
        """Train to the last step, from the newest checkpoint if there is one."""
        from pipeline.core.progress import Progress
        from pipeline.models import checkpoints as files

        done = 0
        if found := files.restore(checkpoints, model=self.lm.model, optimizer=self.optimizer):
            done, self.state = found
            log.info("continuing from step %d of %d", done, self.params.steps)
        else:
            self._evaluate(0)
        marks = {round(self.params.steps * i / self.params.evaluations) for i in range(1, self.params.evaluations + 1)}
        window: tuple[tuple[int, ...], ShardWindow] | None = None
        saved = time.monotonic()
        plan = plan_steps(
            self.data,
            step_tokens=self.params.step_tokens,
            seed=self.params.seed,
            window_shards=max(1, WINDOW_PREDICTIONS // self.data.plan.shard_rows),
        )
        with Progress(self.params.steps, unit="steps", label="train", done=done) as progress:
            for number, step in zip(range(self.params.steps), plan, strict=False):
                if number < done:
                    continue
                if window is None or window[0] != step.window:
                    window = None  # let the old one go before the new one is read
                    window = step.window, ShardWindow(self.data, step.window)
                self.step(number, step, window[1])
                if number + 1 in marks:
                    self._evaluate(number + 1)
                if time.monotonic() - saved >= checkpoint_seconds:
                    files.save(
                        checkpoints, step=number + 1, model=self.lm.model, optimizer=self.optimizer, state=self.state
                    )
                    saved = time.monotonic()
                progress.advance(1)

    def step(self, number: int, step: Step, window: ShardWindow) -> None:
        """One optimiser step, the `number`-th from 0, and a line of its losses in the state."""
        import torch

        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(number, self.params)
        done = self.task.backward(step, window, targets_weight=self.loss.targets_weight(number, self.params.steps))
        torch.nn.utils.clip_grad_norm_(self.lm.model.parameters(), self.params.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.state["tokens"] += done.tokens
        self.state["predictions"] += done.labels
        self.state["losses"].append([round(float(total), 5) for total in done.means])

    def _evaluate(self, step: int) -> None:
        from pipeline.evaluate.predictions import heldout_nll

        self.lm.model.eval()
        with self.task.autocasting():
            nll = heldout_nll(self.lm, *self.heldout, batch_tokens=self.batch_tokens, special=self.special)
        self.lm.model.train()
        self.state["curve"].append([step, round(nll, 5)])
        log.info("step %d of %d: held-out NLL %.4f", step, self.params.steps, nll)
