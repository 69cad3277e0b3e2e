"""Keep a student a language model while it learns senses: each step also trains on masked sequences of a store.

Three kinds of targets at a masked position: those of a fused store, the true token, or the student's own prediction
before training (learning without forgetting, Li and Hoiem 2016, arXiv 1606.09282). The last kind costs one forward over
the sequences that will be used and 2 KB a masked position. All predictions are made before training, so no second model
is in memory. It is the choice for a start that was trained on these sequences: it has memorised their true tokens, and
more training on them makes it a worse model of other text (docs/results/lexical.md).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.lexical.params import RehearsalParams
from pipeline.text.inputs import View, model_inputs, token_batches
from pipeline.text.ragged import Ragged, runs
from pipeline.train.data import WINDOW_PREDICTIONS, Step, TrainingData, plan_steps
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

    def __init__(self, task: LanguageTask, steps: Iterable[Step]) -> None:
        """Compute the predictions of the model of `task` as it is now, at all examples of some steps."""
        import torch

        view, number_P = _examples_of(steps)
        parts: list[tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]] = []
        with torch.inference_mode(), task.autocasting():
            for batch in token_batches(view.lengths_G(), task.batch_tokens):
                inputs = model_inputs(view, batch)
                tensors = task.lm.tensors(inputs.input_ids_BL, inputs.attention_BL, inputs.row_Q, inputs.column_Q)
                prob_QV = torch.softmax(task.lm.logits(*tensors).float(), dim=1)
                prob_QK, ids_QK = prob_QV.topk(min(OWN_KEEP, prob_QV.shape[1]), dim=1)
                parts.append((number_P[inputs.prediction_Q], ids_QK.int().cpu().numpy(), prob_QK.cpu().numpy()))
        prediction_P, ids_PK, prob_PK = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.argsort(prediction_P)
        self._prediction_P, self._ids_PK, self._prob_PK = prediction_P[order], ids_PK[order], prob_PK[order]

    def targets(self, prediction_Q: NDArray[np.int64], lm: MaskedLM) -> TargetBatch:
        """The predictions of these rows of the mask store, of those that were computed, as targets."""
        from pipeline.sparse.loss import TargetBatch

        row_Q = np.searchsorted(self._prediction_P, prediction_Q)
        ids_QK, prob_QK = self._ids_PK[row_Q].astype(np.int64), self._prob_PK[row_Q]
        rest_Q1 = np.maximum(0, 1 - prob_QK.sum(axis=1, keepdims=True))
        return TargetBatch(*lm.tensors(ids_QK, prob_QK, rest_Q1, np.zeros((len(row_Q), 1, 0), np.float32)))


def _examples_of(steps: Iterable[Step]) -> tuple[View, NDArray[np.int64]]:
    """Each example of some steps once, in the order of the mask store, and the rows of their masked positions there."""
    ids, lengths, sizes, numbers, columns = [], [], [], [], []
    for window, of_window in itertools.groupby(steps, key=lambda step: step.window):
        view = window.view
        used_G = np.unique(np.concatenate([step.example_B for step in of_window]))
        row, within = runs(view.start_G1[used_G + 1] - view.start_G1[used_G])
        entry = view.start_G1[used_G][row] + within
        ids.append(view.ids_NL[view.sequence_G[used_G]])
        lengths.append(view.lengths_G()[used_G])
        sizes.append(np.bincount(row, minlength=len(used_G)))
        numbers.append(window.prediction_P[entry])
        columns.append(view.column_P[entry])
        special = view.mask_id, view.pad_id
    start_G1 = np.concatenate([[0], np.cumsum(np.concatenate(sizes))]).astype(np.int64)
    number = Ragged(flat=np.concatenate(numbers), start_R1=start_G1)
    # Windows of other epochs, and those on both sides of a border, may have an example again.
    chosen_G = np.unique(number.flat[start_G1[:-1]], return_index=True)[1]
    column = Ragged(flat=np.concatenate(columns), start_R1=start_G1).take(chosen_G)
    view = View(
        ids_NL=np.concatenate(ids)[chosen_G],
        length_N=np.concatenate(lengths)[chosen_G],
        sequence_G=np.arange(len(chosen_G)),
        start_G1=column.start_R1,
        column_P=column.flat,
        masked_start_G1=column.start_R1,
        masked_column=column.flat,
        mask_id=special[0],
        pad_id=special[1],
    )
    return view, number.take(chosen_G).flat


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
        self._task = LanguageTask(lm, params.loss, store=data.targets, autocast=autocast, batch_tokens=batch_tokens)
        self._plan: Iterator[Step] | None = None
        self._own = OwnPredictions(self._task, itertools.islice(self._planned(0), steps)) if own else None

    def backward(self, number: int) -> StepDone:
        """Add the gradients of step `number`; numbers rise one by one from the first that is given."""
        if self._plan is None:
            self._plan = self._planned(number)
        weight = self._params.loss.targets_weight(number, self._steps)
        return self._task.backward(next(self._plan), own=self._own, targets_weight=weight, scale=self._params.weight)

    def _planned(self, done: int) -> Iterator[Step]:
        return plan_steps(
            self._data,
            step_tokens=self._params.step_tokens,
            seed=self._seed,
            window_shards=max(1, WINDOW_PREDICTIONS // self._data.text.plan.shard_rows),
            done=done,
        )
