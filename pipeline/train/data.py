"""The order of a student's training examples, and the fused targets of a window of shards.

An example is a sequence with the masked positions of one mask copy. The order depends on the masks and the seed only:
all students of a run see the same examples in the same steps, and a resumed run continues where it was. Targets are
read by windows of whole shards: memory does not grow with the store.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.seeds import generator
from pipeline.text.inputs import View, no_id
from storage.format.manifest import SplitPlan
from storage.reader import Store
from storage.records.sequences import Masks
from storage.records.targets import FusedTargets

if TYPE_CHECKING:
    from pipeline.models.masked_lm import MaskedLM
    from pipeline.sparse.loss import TargetBatch


WINDOW_PREDICTIONS = 131_072
"""Predictions whose targets are in memory at once, about 55 MB; examples are shuffled within a window."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """The examples of one optimiser step."""

    example_B: NDArray[np.int64]
    """Numbers of its examples."""
    window: tuple[int, ...]
    """Shards whose targets are in memory."""


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The train split: examples, true tokens, and fused targets (None for labels only)."""

    view: View
    masks: Masks
    plan: SplitPlan
    targets: Store[FusedTargets] | None


class ShardWindow:
    """The targets of some shards, in memory."""

    def __init__(self, data: TrainingData, shards: tuple[int, ...]) -> None:
        self._base = np.full(data.plan.shards, -1, np.int64)
        self._shard_rows = data.plan.shard_rows
        sizes = [int(np.subtract(*data.plan.bounds(shard)[::-1])) for shard in shards]
        self._base[list(shards)] = np.cumsum([0, *sizes[:-1]])
        self._columns: dict[str, NDArray[Any]] = {}
        if data.targets is None:
            return
        for shard, size in zip(shards, sizes, strict=True):
            # Shard by shard into one array: concatenating them all would take twice the memory.
            arrays = data.targets.shard("train", shard).arrays()
            rows = slice(int(self._base[shard]), int(self._base[shard]) + size)
            for name in ("ids_PM", "logprob_PM", "tail_PT", "sketch_PTD"):
                shape = sum(sizes), *arrays[name].shape[1:]
                column = self._columns.setdefault(name, np.zeros(shape, arrays[name].dtype))
                column[rows] = arrays[name]

    def contains(self, prediction_Q: NDArray[np.int64]) -> NDArray[np.bool_]:
        """True where a prediction's shard is in the window."""
        return np.asarray(self._base[prediction_Q // self._shard_rows] >= 0)

    def targets(self, prediction_Q: NDArray[np.int64], lm: MaskedLM) -> TargetBatch | None:
        """The fused targets of predictions in the window, on the model's device; None for labels only."""
        from pipeline.sparse.loss import TargetBatch

        if not self._columns:
            return None
        row_Q = self._base[prediction_Q // self._shard_rows] + prediction_Q % self._shard_rows
        ids = self._columns["ids_PM"][row_Q]
        none = no_id(ids)
        probability = np.where(none, 0, np.exp(self._columns["logprob_PM"][row_Q].astype(np.float32)))
        ids_long = np.where(none, -1, ids.astype(np.int64))
        tail = np.nan_to_num(self._columns["tail_PT"][row_Q])
        sketch = self._columns["sketch_PTD"][row_Q]
        return TargetBatch(*lm.tensors(ids_long, probability.astype(np.float32), tail.astype(np.float32), sketch))


def plan_steps(data: TrainingData, *, step_tokens: int, seed: int, window_shards: int) -> Iterator[Step]:
    """Steps without end: in each epoch windows of shards in random order, and examples shuffled within a window."""
    length_G = data.view.lengths_G()
    first_shard_G = data.view.start_G1[:-1] // data.plan.shard_rows
    last_shard_G = (data.view.start_G1[1:] - 1) // data.plan.shard_rows
    epoch = 0
    while True:
        shards = generator(seed, "shards", epoch).permutation(data.plan.shards)
        for number, start in enumerate(range(0, len(shards), window_shards)):
            window = tuple(sorted(int(shard) for shard in shards[start : start + window_shards]))
            inside = np.isin(first_shard_G, window) | np.isin(last_shard_G, window)
            examples = generator(seed, "passes", epoch, number).permutation(np.flatnonzero(inside))
            ends = np.cumsum(length_G[examples]) // step_tokens
            for example_B in np.split(examples, np.flatnonzero(np.diff(ends)) + 1):
                yield Step(example_B=example_B, window=window)
        epoch += 1
