"""Keep a student a language model while it learns senses: each step also trains on masked sequences of a store.

Three kinds of targets at a masked position: those of a fused store, the true token, or the student's own prediction
before training (learning without forgetting, Li and Hoiem 2016, arXiv 1606.09282). The last kind costs one forward over
the sequences that will be used and 2 KB a masked position. All predictions are made before training, so no second model
is in memory. It is the choice for a start that was trained on these sequences: it has memorised their true tokens, and
more training on them makes it a worse model of other text (docs/results/lexical.md).
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
"""Token ids that are kept of a prediction of the start; the mass of all others is kept as one more outcome.

Rise of the default student's held-out loss with 64 ids 0.031 nat, with all ids 0.021 (weight 4, one seed)."""


class OwnPredictions:
    """A model's predictions at the masked positions of some examples: P positions, K ids each, the mass outside."""

    def __init__(self, task: LanguageTask, example_G: NDArray[np.int64]) -> None:
        """Compute the predictions of the model of `task` as it is now."""
        import torch

        parts: list[tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]] = []
        with torch.inference_mode(), task.autocasting():
            for batch in token_batches(task.data.view.lengths_G()[example_G], task.batch_tokens):
                inputs = model_inputs(task.data.view, example_G[batch])
                tensors = task.lm.tensors(inputs.input_ids_BL, inputs.attention_BL, inputs.row_Q, inputs.column_Q)
                prob_QV = torch.softmax(task.lm.logits(*tensors).float(), dim=1)
                prob_QK, ids_QK = prob_QV.topk(min(OWN_KEEP, prob_QV.shape[1]), dim=1)
                parts.append((inputs.prediction_Q, ids_QK.int().cpu().numpy(), prob_QK.cpu().numpy()))
        prediction_P, ids_PK, prob_PK = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.argsort(prediction_P)
        self._prediction_P, self._ids_PK, self._prob_PK = prediction_P[order], ids_PK[order], prob_PK[order]

    def targets(self, prediction_Q: NDArray[np.int64], lm: MaskedLM) -> TargetBatch:
        """The predictions with these numbers, of those that were computed, as targets."""
        from pipeline.sparse.loss import TargetBatch

        row_Q = np.searchsorted(self._prediction_P, prediction_Q)
        ids_QK, prob_QK = self._ids_PK[row_Q].astype(np.int64), self._prob_PK[row_Q]
        rest_Q1 = np.maximum(0, 1 - prob_QK.sum(axis=1, keepdims=True))
        return TargetBatch(*lm.tensors(ids_QK, prob_QK, rest_Q1, np.zeros((len(row_Q), 1, 0), np.float32)))


class OwnPredictionsWindow(ShardWindow):
    """A window without fused targets, where the model's own predictions are the targets."""

    def __init__(self, data: TrainingData, shards: tuple[int, ...], predictions: OwnPredictions) -> None:
        super().__init__(data, shards)
        self._own = predictions

    def targets(self, prediction_Q: NDArray[np.int64], lm: MaskedLM) -> TargetBatch:
        """The model's own predictions as targets, on its device."""
        return self._own.targets(prediction_Q, lm)


class Rehearsal:
    """The masked sequences of each step, and the gradients of their loss."""

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
        """With `own` the targets are the predictions of `lm` as it is now, and `data` has no targets."""
        self._params, self._data, self._steps, self._seed = params, data, steps, seed
        self._task = LanguageTask(lm, params.loss, data=data, autocast=autocast, batch_tokens=batch_tokens)
        self._plan = self._planned()
        self._next = 0
        self._window: tuple[tuple[int, ...], ShardWindow] | None = None
        self._own: OwnPredictions | None = None
        if own:
            steps_ahead = itertools.islice(self._planned(), steps)
            self._own = OwnPredictions(self._task, np.unique(np.concatenate([step.example_B for step in steps_ahead])))

    def backward(self, number: int) -> StepDone:
        """Add the gradients of step `number`; numbers rise, and those that a resumed run did before are skipped."""
        step = next(self._plan)
        while self._next < number:
            step = next(self._plan)
            self._next += 1
        self._next += 1
        if self._window is None or self._window[0] != step.window:
            self._window = None  # frees the old targets before the new ones are read
            self._window = step.window, self._opened(step.window)
        weight = self._params.loss.targets_weight(number, self._steps)
        return self._task.backward(step, self._window[1], targets_weight=weight, scale=self._params.weight)

    def _opened(self, shards: tuple[int, ...]) -> ShardWindow:
        if self._own is None:
            return ShardWindow(self._data, shards)
        return OwnPredictionsWindow(self._data, shards, self._own)

    def _planned(self) -> Iterator[Step]:
        return plan_steps(
            self._data,
            step_tokens=self._params.step_tokens,
            seed=self._seed,
            window_shards=max(1, WINDOW_PREDICTIONS // self._data.plan.shard_rows),
        )
