"""One step of masked-LM training: two losses at the masked positions of some examples, and their gradients.

It is all that distillation does. Lexical training adds it to its own loss, to keep the student a language model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.models.precision import autocast
from pipeline.text.inputs import model_inputs, token_batches
from pipeline.train.data import Step
from pipeline.train.params import LossParams
from pipeline.train.processes import ALONE, Processes
from storage.errors import OutOfMemory

if TYPE_CHECKING:
    import torch

    from pipeline.models.masked_lm import MaskedLM
    from pipeline.models.working_copy import WorkingCopy
    from pipeline.sparse.loss import TargetBatch, Term
    from storage.reader import Store
    from storage.records.targets import FusedTargets


SHAPES = 16
"""Widths and numbers of masked positions are filled up to multiples of it.

A CPU's kernels are compiled for each shape anew, which takes several times as long as a product of a few hundred
rows; few distinct shapes are found compiled."""


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Part of a step, on the model's device."""

    inputs: list[torch.Tensor]
    """Arguments of `MaskedLM.logits`; after the masked positions, some that fill up a multiple of `SHAPES`."""
    label_Q: torch.Tensor
    targets: TargetBatch | None


@dataclass(frozen=True, kw_only=True, slots=True)
class StepDone:
    """Counts and losses of a step."""

    tokens: int
    labels: int
    means: tuple[float, float]
    """Mean target loss and mean label loss, nats."""


class Predicted(Protocol):
    """Targets that are in memory."""

    def targets(self, prediction_Q: NDArray[np.int64], lm: MaskedLM) -> TargetBatch:
        """Those of these rows of the mask store, on the model's device."""


class LanguageTask:
    """A model, the constants of its targets, and the weights of the two losses."""

    def __init__(
        self,
        lm: MaskedLM,
        loss: LossParams,
        *,
        store: Store[FusedTargets] | None,
        autocast: torch.dtype,
        batch_tokens: int,
        processes: Processes = ALONE,
        copy: WorkingCopy | None = None,
    ) -> None:
        """`copy`: what `lm` runs, whose gradients are then those of the model it was made of."""
        from pipeline.sparse.loss import Tails

        self.lm, self.loss, self.processes, self._copy = lm, loss, processes, copy
        self.autocast, self.batch_tokens = autocast, batch_tokens
        self.temperature = 1.0 if store is None else float(store.facts["temperature"])
        self.tails = None if store is None else Tails.of(store, device=lm.device)

    def backward(
        self, step: Step, *, targets_weight: float, scale: float = 1.0, own: Predicted | None = None
    ) -> StepDone:
        """Add the gradients of this process's part of a step, times `scale`, to the model's.

        The parts of all processes add up to the gradients of the step; counts and losses are those of the step. With
        `own` the targets are its, and not those of the window. Raises OutOfMemory when the gradients do not fit.
        """
        import torch

        try:
            return self._backward(step, targets_weight=targets_weight, scale=scale, own=own)
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(
                f"train: the gradients of {self.batch_tokens:,} tokens at once do not fit in the memory of "
                f"{self.lm.device}. Lower runtime.batch_tokens, which changes the speed only, and run the stage again: "
                "it continues from its last checkpoint"
            ) from error

    def _backward(self, step: Step, *, targets_weight: float, scale: float, own: Predicted | None) -> StepDone:
        from pipeline.sparse.loss import weighted_loss

        micro, labels = self._micro_batches(step, own), step.labels
        targets = sum(int((batch.targets.ids_BM[:, 0] >= 0).sum()) for batch in micro if batch.targets is not None)
        (targets,) = self.processes.sums(np.array([targets]))
        totals = np.zeros(2)
        for batch in micro:
            with self.autocasting():
                logits = self.lm.logits(*batch.inputs)[: len(batch.label_Q)].float()
            # Sums are divided by all masked positions of the step, with or without a target. So the weight of a
            # position depends neither on how a step is cut nor on how many positions have a target.
            terms = self._terms(batch, targets_weight=targets_weight / labels, labels_weight=self.loss.labels / labels)
            loss, found = weighted_loss(logits, list(terms.values()))
            (scale * loss).backward()  # type: ignore[no-untyped-call]
            self.collect()
            sums = {name: float(term.total) for name, term in zip(terms, found, strict=True)}
            totals += [sums.get("targets", 0.0) / max(1, targets), sums.get("labels", 0.0) / labels]
        totals = self.processes.sums(totals)
        return StepDone(tokens=step.tokens, labels=labels, means=(float(totals[0]), float(totals[1])))

    def collect(self) -> None:
        """Have the model that is learned hold the gradients of the last backward; called after each."""
        if self._copy is not None:
            self._copy.collect()

    def autocasting(self) -> Any:
        """Matrix products in the chosen dtype."""
        return autocast(self.lm.device, self.autocast)

    def _micro_batches(self, step: Step, own: Predicted | None) -> list[MicroBatch]:
        batches, window = [], step.window
        for batch in token_batches(window.view.lengths_G()[step.example_B], self.batch_tokens):
            inputs = model_inputs(window.view, step.example_B[batch], multiple=SHAPES)
            # An example at the border of a window is in two windows; each trains on the positions whose targets it has.
            kept = window.contains(inputs.prediction_Q)
            prediction_Q = inputs.prediction_Q[kept]
            label_Q = window.label_P[prediction_Q].astype(np.int64)
            filled = 0, -len(prediction_Q) % SHAPES
            batches.append(
                MicroBatch(
                    inputs=self.lm.tensors(
                        inputs.input_ids_BL,
                        inputs.attention_BL,
                        np.pad(inputs.row_Q[kept], filled),
                        np.pad(inputs.column_Q[kept], filled),
                    ),
                    label_Q=self.lm.tensors(label_Q)[0],
                    targets=window.targets(prediction_Q, self.lm)
                    if own is None
                    else own.targets(window.prediction_P[prediction_Q], self.lm),
                )
            )
        return batches

    def _terms(self, batch: MicroBatch, *, targets_weight: float, labels_weight: float) -> dict[str, Term]:
        """The target loss and the label loss; labels of weight 0 are left out."""
        from pipeline.sparse.loss import label_term, target_term

        terms = {}
        if batch.targets is not None:
            terms["targets"] = target_term(
                batch.targets, self.tails, temperature=self.temperature, tail=self.loss.tail, weight=targets_weight
            )
        if self.loss.labels:
            terms["labels"] = label_term(batch.label_Q, weight=labels_weight)
        return terms
