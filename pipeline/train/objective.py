"""One step of masked-LM training: two losses at the masked positions of some examples, and their gradients.

It is all that distillation does. Lexical training adds it to its own loss, to keep the student a language model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.models.precision import autocast
from pipeline.text.inputs import model_inputs, token_batches
from pipeline.train.data import ShardWindow, Step, TrainingData
from pipeline.train.params import LossParams
from storage.errors import OutOfMemory

if TYPE_CHECKING:
    import torch

    from pipeline.models.masked_lm import MaskedLM
    from pipeline.sparse.loss import TargetBatch, Term


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Part of a step, on the model's device."""

    inputs: list[torch.Tensor]
    """Arguments of `MaskedLM.logits`."""
    label_Q: torch.Tensor
    targets: TargetBatch | None


@dataclass(frozen=True, kw_only=True, slots=True)
class StepDone:
    """Counts and losses of a step."""

    tokens: int
    labels: int
    means: tuple[float, float]
    """Mean target loss and mean label loss, nats."""


class LanguageTask:
    """A model, its data, and the weights of the two losses."""

    def __init__(
        self, lm: MaskedLM, loss: LossParams, *, data: TrainingData, autocast: torch.dtype, batch_tokens: int
    ) -> None:
        from pipeline.sparse.loss import Tails

        self.lm, self.loss, self.data = lm, loss, data
        self.autocast, self.batch_tokens = autocast, batch_tokens
        store = data.targets
        self.temperature = 1.0 if store is None else float(store.facts["temperature"])
        self.tails = None if store is None else Tails.of(store, device=lm.device)

    def backward(self, step: Step, window: ShardWindow, *, targets_weight: float, scale: float = 1.0) -> StepDone:
        """Add the gradients of a step, times `scale`, to the model's; raises OutOfMemory when they do not fit."""
        import torch

        try:
            return self._backward(step, window, targets_weight=targets_weight, scale=scale)
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(
                f"train: the gradients of {self.batch_tokens:,} tokens at once do not fit in the memory of "
                f"{self.lm.device}. Lower runtime.batch_tokens, which changes the speed only, and run the stage again: "
                "it continues from its last checkpoint"
            ) from error

    def _backward(self, step: Step, window: ShardWindow, *, targets_weight: float, scale: float) -> StepDone:
        from pipeline.sparse.loss import weighted_loss

        micro = self._micro_batches(step, window)
        labels = sum(len(batch.label_Q) for batch in micro)
        targets = sum(int((batch.targets.ids_BM[:, 0] >= 0).sum()) for batch in micro if batch.targets is not None)
        totals = np.zeros(2)
        for batch in micro:
            with self.autocasting():
                logits = self.lm.logits(*batch.inputs).float()
            # Sums are divided by all masked positions of the step, with or without a target. So the weight of a
            # position depends neither on how a step is cut nor on how many positions have a target.
            terms = self._terms(batch, targets_weight=targets_weight / labels, labels_weight=self.loss.labels / labels)
            loss, found = weighted_loss(logits, list(terms.values()))
            (scale * loss).backward()  # type: ignore[no-untyped-call]
            sums = {name: float(term.total) for name, term in zip(terms, found, strict=True)}
            totals += [sums.get("targets", 0.0) / max(1, targets), sums.get("labels", 0.0) / labels]
        tokens = int(self.data.view.lengths_G()[step.example_B].sum())
        return StepDone(tokens=tokens, labels=labels, means=(float(totals[0]), float(totals[1])))

    def autocasting(self) -> Any:
        """Matrix products in the chosen dtype."""
        return autocast(self.lm.device, self.autocast)

    def _micro_batches(self, step: Step, window: ShardWindow) -> list[MicroBatch]:
        batches = []
        for batch in token_batches(self.data.view.lengths_G()[step.example_B], self.batch_tokens):
            inputs = model_inputs(self.data.view, step.example_B[batch])
            # An example at the border of a window is in two windows; each trains on the positions whose targets it has.
            kept = window.contains(inputs.prediction_Q)
            prediction_Q = inputs.prediction_Q[kept]
            label_Q = self.data.masks.label_P[prediction_Q].astype(np.int64)
            batches.append(
                MicroBatch(
                    inputs=self.lm.tensors(
                        inputs.input_ids_BL, inputs.attention_BL, inputs.row_Q[kept], inputs.column_Q[kept]
                    ),
                    label_Q=self.lm.tensors(label_Q)[0],
                    targets=window.targets(prediction_Q, self.lm),
                )
            )
        return batches

    def _terms(self, batch: MicroBatch, *, targets_weight: float, labels_weight: float) -> dict[str, Term]:
        """The target loss and the label loss; a term without a weight is not computed."""
        from pipeline.sparse.loss import label_term, target_term

        terms = {}
        if batch.targets is not None:
            terms["targets"] = target_term(
                batch.targets, self.tails, temperature=self.temperature, tail=self.loss.tail, weight=targets_weight
            )
        if self.loss.labels:
            terms["labels"] = label_term(batch.label_Q, weight=labels_weight)
        return terms
