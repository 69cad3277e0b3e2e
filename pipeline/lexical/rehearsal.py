"""Keep a student a language model while it learns something else: each step also brings masked sequences of a store.

What is right at a masked position: a fused store's targets, the true tokens, or what the student itself predicted
before it began (learning without forgetting, Li and Hoiem 2016, arXiv 1606.09282). The last costs one forward over the
sequences that will be brought, and 2 KB a masked position; the student is asked once, so that no second model is in
memory. It is the choice for a start that was trained on these very sequences: it has memorised their true tokens, and
training on them again makes it a worse model of other text (docs/results/lexical.md).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.lexical.params import RehearsalParams
from pipeline.text.inputs import model_inputs, token_batches
from pipeline.train.data import WINDOW_PREDICTIONS, ShardWindow, Step, TrainingData, plan_steps
from pipeline.train.objective import LanguageTask, StepDone

if TYPE_CHECKING:
    import torch

    from pipeline.models.masked_lm import MaskedLM
    from pipeline.sparse.loss import TargetBatch


OWN_KEEP = 256
"""Ids of an answer of the student itself; all others are one outcome more, so that their sum is kept and not their
shape. With 64 the default student's held-out loss rose by 0.031 nat, with all ids by 0.021 (weight 4, one seed)."""


class OwnAnswers:
    """What a model said at the blanks of some passes: P predictions, K ids each and the mass outside these."""

    def __init__(self, task: LanguageTask, passes_G: NDArray[np.int64]) -> None:
        """Ask the model of `task` as it is now."""
        import torch

        parts: list[tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]] = []
        with torch.inference_mode(), task.autocasting():
            for batch in token_batches(task.data.view.lengths_G()[passes_G], task.batch_tokens):
                asked = model_inputs(task.data.view, passes_G[batch])
                inputs = task.lm.tensors(asked.input_ids_BL, asked.attention_BL, asked.row_Q, asked.column_Q)
                answer_QV = torch.softmax(task.lm.logits(*inputs).float(), dim=1)
                prob_QK, ids_QK = answer_QV.topk(min(OWN_KEEP, answer_QV.shape[1]), dim=1)
                parts.append((asked.prediction_Q, ids_QK.int().cpu().numpy(), prob_QK.cpu().numpy()))
        prediction_P, ids_PK, prob_PK = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.argsort(prediction_P)
        self._prediction_P, self._ids_PK, self._prob_PK = prediction_P[order], ids_PK[order], prob_PK[order]

    def targets(self, prediction_Q: NDArray[np.int64], lm: MaskedLM) -> TargetBatch:
        """The answers at predictions that were asked about, and the mass outside them."""
        from pipeline.sparse.loss import TargetBatch

        row_Q = np.searchsorted(self._prediction_P, prediction_Q)
        ids_QK, prob_QK = self._ids_PK[row_Q].astype(np.int64), self._prob_PK[row_Q]
        rest_Q1 = np.maximum(0, 1 - prob_QK.sum(axis=1, keepdims=True))
        return TargetBatch(*lm.tensors(ids_QK, prob_QK, rest_Q1, np.zeros((len(row_Q), 1, 0), np.float32)))


class OwnAnswersWindow(ShardWindow):
    """A window without fused targets, whose predictions have own answers."""

    def __init__(self, data: TrainingData, shards: tuple[int, ...], answers: OwnAnswers) -> None:
        super().__init__(data, shards)
        self._answers = answers

    def targets(self, prediction_Q: NDArray[np.int64], lm: MaskedLM) -> TargetBatch:
        """The answers at predictions in the window, on the model's device."""
        return self._answers.targets(prediction_Q, lm)


class Rehearsal:
    """The masked sequences of each step, and their gradients."""

    def __init__(
        self,
        lm: MaskedLM,
        params: RehearsalParams,
        *,
        data: TrainingData,
        own: bool,
        autocast: torch.dtype,
        batch_tokens: int,
        steps: int,
        seed: int,
    ) -> None:
        """`own`: the targets are what `lm` answers now; `data` has none then."""
        self._params, self._data, self._steps, self._seed = params, data, steps, seed
        self._task = LanguageTask(lm, params.loss, data=data, autocast=autocast, batch_tokens=batch_tokens)
        self._plan = self._planned()
        self._next = 0
        self._window: tuple[tuple[int, ...], ShardWindow] | None = None
        self._own: OwnAnswers | None = None
        if own:
            steps_ahead = itertools.islice(self._planned(), steps)
            self._own = OwnAnswers(self._task, np.unique(np.concatenate([step.passes for step in steps_ahead])))

    def backward(self, number: int) -> StepDone:
        """Add the gradients of step `number`; numbers rise, and those that a resumed run did before are skipped."""
        step = next(self._plan)
        while self._next < number:
            step = next(self._plan)
            self._next += 1
        self._next += 1
        if self._window is None or self._window[0] != step.window:
            self._window = None  # let the old one go before the new one is read
            self._window = step.window, self._opened(step.window)
        weight = self._params.loss.targets_weight(number, self._steps)
        return self._task.backward(step, self._window[1], targets_weight=weight, scale=self._params.weight)

    def _opened(self, shards: tuple[int, ...]) -> ShardWindow:
        return ShardWindow(self._data, shards) if self._own is None else OwnAnswersWindow(self._data, shards, self._own)

    def _planned(self) -> Iterator[Step]:
        return plan_steps(
            self._data,
            step_tokens=self._params.step_tokens,
            seed=self._seed,
            window_shards=max(1, WINDOW_PREDICTIONS // self._data.plan.shard_rows),
        )
