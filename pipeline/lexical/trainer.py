"""The steps of lexical training: sense loss and rehearsal of the language model, with checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.core.seeds import generator
from pipeline.core.tracking import Curves
from pipeline.lexical.batches import micro_batches
from pipeline.lexical.classifier import SenseModel, candidate_scores, sense_loss
from pipeline.lexical.context import LexicalView
from pipeline.lexical.gloss_table import GlossTable, encoding_words
from pipeline.lexical.inputs import LexicalData
from pipeline.lexical.params import LexicalTrainingParams
from pipeline.models.optimizer import adamw, linear_schedule, update
from pipeline.models.precision import autocast
from pipeline.text.ragged import Int
from pipeline.train.loop import run_steps

if TYPE_CHECKING:
    from pipeline.lexical.rehearsal import Rehearsal


def plan_steps(view: LexicalView, instance_I: Int, *, step_words: int, seed: int) -> Iterator[tuple[int, Int]]:
    """Endless (epoch, instances) of steps: windows in random order, all words of a window in the same step."""
    by_window = np.argsort(view.window_I[instance_I], kind="stable")
    ordered = instance_I[by_window]
    first = np.flatnonzero(np.diff(view.window_I[ordered], prepend=-1))
    groups = np.split(ordered, first[1:])
    size = np.array([len(group) for group in groups])
    epoch = 0
    while True:
        order = generator(seed, "senses", epoch).permutation(len(groups))
        ends = (np.cumsum(size[order]) - 1) // step_words
        for numbers in np.split(order, np.flatnonzero(np.diff(ends)) + 1):
            yield epoch, np.concatenate([groups[number] for number in numbers])
        epoch += 1


def steps_of(data: LexicalData, params: LexicalTrainingParams) -> int:
    """Steps in all."""
    return max(1, round(params.epochs * len(data.instance_I) / params.step_words))


def kept_candidates(view: LexicalView, *, most: int, seed: int, epoch: int) -> NDArray[np.bool_]:
    """Bool for each candidate of the view: an epoch keeps all right ones, and random others up to `most` a word."""
    length_I = view.candidates.lengths()
    owner_C = np.repeat(np.arange(len(length_I)), length_I)
    draw_C = generator(seed, "candidates", epoch).random(len(owner_C))
    draw_C[view.gold] = -1.0
    order = np.lexsort((draw_C, owner_C))
    place = np.arange(len(order)) - np.repeat(view.candidates.start_R1[:-1], length_I)
    kept = np.zeros(len(order), bool)
    kept[order] = place < most
    return np.asarray(kept | view.gold)


class LexicalTrainer:
    """A sense model, what it learns from, and the resumable state of its training."""

    def __init__(
        self,
        model: SenseModel,
        data: LexicalData,
        params: LexicalTrainingParams,
        *,
        rehearsal: Rehearsal | None,
        pad: int,
        device: torch.device,
        autocast: torch.dtype,
        batch_tokens: int,
    ) -> None:
        self.model, self.data, self.params, self.rehearsal = model, data, params, rehearsal
        self.pad, self.device, self.autocast, self.batch_tokens = pad, device, autocast, batch_tokens
        self.optimizer = adamw(model.parameters(), learning_rate=params.learning_rate, weight_decay=params.weight_decay)
        self.steps = steps_of(data, params)
        self.state: dict[str, Any] = {"losses": []}
        self._kept: tuple[int, NDArray[np.bool_]] | None = None
        self._table: GlossTable | None = None
        if params.gloss_table is not None and self.learns_senses:
            self._table = GlossTable(
                model,
                data.batch_builder,
                params.gloss_table,
                pad=pad,
                dtype=autocast,
                batch_tokens=batch_tokens,
            )
        self.tensors = {} if self._table is None else {"glosses": self._table.vector_DH}

    @property
    def learns_senses(self) -> bool:
        """False for a control."""
        return self.data.gold_weight + self.data.soft_label_weight > 0

    def run(self, checkpoints: Path, *, checkpoint_seconds: float, curves: Curves | None = None) -> None:
        """Train to the last step, from the newest checkpoint if there is one."""
        self.model.train()
        run_steps(self, self._plan, checkpoints, checkpoint_seconds=checkpoint_seconds, label="lexical", curves=curves)

    def _plan(self, done: int) -> Iterator[tuple[int, Int]]:
        """The steps from the `done`-th on."""
        view = self.data.batch_builder.view
        steps = plan_steps(view, self.data.instance_I, step_words=self.params.step_words, seed=self.params.seed)
        return islice(steps, done, None)

    def begin(self) -> None:
        """Nothing is evaluated before the first step."""

    def step(self, number: int, planned: tuple[int, Int]) -> None:
        """One optimiser step, the `number`-th from 0, on some instances of an epoch."""
        epoch, instance_I = planned
        if self._kept is None or self._kept[0] != epoch:
            most, seed = self.params.most_candidates, self.params.seed
            self._kept = epoch, kept_candidates(self.data.batch_builder.view, most=most, seed=seed, epoch=epoch)
        self.learn(number, instance_I, self._kept[1])

    def learn(self, number: int, instance_I: Int, kept: NDArray[np.bool_]) -> None:
        """One optimiser step with the candidates that `kept` allows, and an entry of its losses in the state."""
        total = torch.zeros(2, device=self.device)
        if self.learns_senses:
            total += self._senses(number, instance_I, kept)
        if self.rehearsal is not None:
            self.rehearsal.backward(number)
        rate = linear_schedule(number, self.steps, warmup=self.params.warmup, peak=self.params.learning_rate)
        update(self.optimizer, self.model.parameters(), learning_rate=rate, gradient_clip=self.params.gradient_clip)
        self.state["losses"].append(total)

    def _senses(self, number: int, instance_I: Int, kept: NDArray[np.bool_]) -> torch.Tensor:
        """Gradients of a step's mean sense loss; returns [gold, soft labels], nats a word."""
        if self._table is None:
            return self._word_losses(instance_I, kept, words=len(instance_I))
        params = self._table.params
        if number % params.refresh_steps == 0:
            ahead = islice(self._plan(number), min(params.refresh_steps, self.steps - number))
            self._table.refresh(np.concatenate([planned for _, planned in ahead]))
        encoding_I = encoding_words(len(instance_I), words=params.encoding_words, seed=self.params.seed, step=number)
        total = self._word_losses(instance_I[encoding_I], kept, words=len(instance_I))
        return total + self._word_losses(instance_I[~encoding_I], kept, words=len(instance_I), table=self._table)

    def _word_losses(
        self, instance_I: Int, kept: NDArray[np.bool_], *, words: int, table: GlossTable | None = None
    ) -> torch.Tensor:
        """Gradients of the losses of some of a step's `words` words; returns [gold, soft labels], nats a word."""
        data, view = self.data, self.data.batch_builder.view
        total = torch.zeros(2, device=self.device)
        if not len(instance_I):
            return total
        cost = {} if table is None else {"gloss_tokens": 0}
        for rows in micro_batches(data.batch_builder, instance_I, batch_tokens=self.batch_tokens, **cost):
            batch = data.batch_builder.batch(rows, kept=kept)
            known = None if table is None else table.known()
            with autocast(self.device, self.autocast):
                score_C = candidate_scores(self.model, batch, pad=self.pad, device=self.device, glosses=known)
            soft_label_C = (
                None
                if data.soft_label_C is None
                else renormalised(data.soft_label_C[batch.candidate_C], batch.start_I1)
            )
            gold, taught = sense_loss(score_C, batch.start_I1, view.gold[batch.candidate_C], soft_label_C)
            loss = (data.gold_weight * gold + data.soft_label_weight * taught) / words
            loss.backward()  # type: ignore[no-untyped-call]
            total += torch.stack([gold.detach(), taught.detach()]) / words
        return total

    def plain(self) -> dict[str, Any]:
        """The state as JSON data: losses leave the device only here."""
        self.state["losses"] = [[round(float(value), 5) for value in entry] for entry in self.state["losses"]]
        return self.state

    def measured(self, steps: int, *, every: int) -> dict[str, float]:
        """Mean losses of the last `every` steps, and the learning rate."""
        if not steps or steps % every:
            return {}
        gold, taught = np.mean([[float(value) for value in entry] for entry in self.state["losses"][-every:]], axis=0)
        rate = float(self.optimizer.param_groups[0]["lr"])
        return {"gold_loss": float(gold), "soft_labels_loss": float(taught), "learning_rate": rate}


def renormalised(soft_label_C: NDArray[np.float32], start_I1: Int) -> NDArray[np.float32]:
    """Probabilities of the candidates that take part [C], scaled to sum to 1 for each instance; NaN rows stay NaN."""
    total_I = np.add.reduceat(soft_label_C, start_I1[:-1])
    whole: NDArray[np.float32] = soft_label_C / np.repeat(np.maximum(total_I, 1e-9), np.diff(start_I1))
    return whole.astype(np.float32)
