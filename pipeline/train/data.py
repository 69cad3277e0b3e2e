"""The order of a student's training examples, read window by window, one window ahead.

An example is a sequence with the masked positions of one mask copy. A window is some shards of masked positions: the
examples that have any of them, and their fused targets. In each epoch shards come in random order, and examples are
shuffled within a window. The order depends on the masks and the seed only: all students of a run see the same examples
in the same steps, and a resumed run continues where it was, on any number of processes. While the steps of a window
are taken a thread reads the next one: two windows are in memory, however large the store.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.core.seeds import generator
from pipeline.text.corpus_view import Examples, MaskedSequences
from pipeline.text.inputs import TokenRows, group_examples, no_id, reference_view
from storage.format.manifest import SplitPlan
from storage.reader import GAP_ROWS, Store
from storage.records.sequences import Masks, Sequences
from storage.records.targets import FusedTargets

if TYPE_CHECKING:
    from pipeline.models.masked_lm import MaskedLM
    from pipeline.sparse.loss import TargetBatch


WINDOW_PREDICTIONS = 131_072
"""Predictions whose targets are in memory at once, about 55 MB, and those of the next window beside them."""

TARGET_COLUMNS = ("ids_PM", "logprob_PM", "tail_PT", "sketch_PTD")

SAMPLED_SHARDS = 16
"""Shards whose examples are counted to say how long an epoch is; a store of no more is counted whole."""


class TrainingText(Protocol):
    """The sequences and masked positions of a train split."""

    plan: SplitPlan
    """Of the masked positions."""
    special: dict[str, int]
    width: int
    """Tokens of the longest sequence, or more."""

    def examples(self, bounds: Sequence[tuple[int, int]]) -> Examples:
        """As `MaskedSequences.examples`."""

    def token_rows(self, sequence_N: NDArray[np.int64]) -> TokenRows:
        """What a model reads of some sequences."""

    def lengths(self, sequence_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens of each of some sequences."""


class StoredText:
    """The train split of a corpus; only what is asked for is read."""

    def __init__(self, corpus: MaskedSequences) -> None:
        self._corpus = corpus
        self.plan, self.special, self.width = corpus.masks.plan("train"), corpus.special, corpus.width

    def examples(self, bounds: Sequence[tuple[int, int]]) -> Examples:
        """Examples with a prediction in `bounds`."""
        return self._corpus.examples("train", bounds)

    def token_rows(self, sequence_N: NDArray[np.int64]) -> TokenRows:
        """Ids and lengths."""
        return self._corpus.token_rows("train", sequence_N)

    def lengths(self, sequence_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """Lengths alone."""
        return self._corpus.sequences.columns_at("train", sequence_N, ("length_N",))["length_N"].astype(np.int64)


class HeldText:
    """Sequences and masked positions that are in memory, as one shard."""

    def __init__(self, sequences: Sequences, masks: Masks, *, special: dict[str, int]) -> None:
        self._sequences, self._masks = sequences, masks
        self.plan, self.special = SplitPlan(rows=len(masks), shard_rows=len(masks)), special
        self.width = int(sequences.length_N[masks.sequence_P].max())

    def examples(self, bounds: Sequence[tuple[int, int]]) -> Examples:
        """All examples."""
        return Examples(
            prediction_P=np.arange(len(self._masks)), masks=self._masks, sequence_N=np.arange(len(self._sequences))
        )

    def token_rows(self, sequence_N: NDArray[np.int64]) -> TokenRows:
        """Ids and lengths."""
        return TokenRows(
            input_ids_NL=self._sequences.input_ids_NL[sequence_N], length_N=self._sequences.length_N[sequence_N]
        )

    def lengths(self, sequence_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """Lengths alone."""
        return self._sequences.length_N[sequence_N].astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The train split: examples, true tokens, and fused targets (None for labels only)."""

    text: TrainingText
    targets: Store[FusedTargets] | None

    def epoch_tokens(self) -> float:
        """Tokens of all examples of an epoch, by the masked positions of the first `SAMPLED_SHARDS` shards."""
        plan = self.text.plan
        rows = plan.bounds(min(plan.shards, SAMPLED_SHARDS) - 1)[1]
        found = self.text.examples([(0, rows)])
        return float(_lengths_G(self.text, found).sum()) * plan.rows / len(found.prediction_P)


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """Which examples of a step this process computes: its number, from 0, of so many processes."""

    number: int = 0
    of: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """The examples of one optimiser step."""

    window: ShardWindow
    example_B: NDArray[np.int64]
    """Examples of the window that this process computes."""
    labels: int
    """Masked positions that all processes train on."""
    tokens: int
    """Tokens of the examples of all processes."""

    @classmethod
    def of(cls, window: ShardWindow, examples: NDArray[np.int64]) -> Step:
        """The step of some examples of a window, whose process computes those that it has targets of."""
        return cls(
            window=window,
            example_B=examples[window.mine_G[examples]],
            labels=int(window.labels_G[examples].sum()),
            tokens=int(window.view.lengths_G()[examples].sum()),
        )


class ShardWindow:
    """The examples of some shards, in memory, with the targets of those that this process computes."""

    def __init__(self, data: TrainingData, shards: tuple[int, ...], *, share: Share = Share()) -> None:
        self.shards = shards
        found = data.text.examples(_bounds(data.text.plan, shards))
        self.view = reference_view(data.text.token_rows(found.sequence_N), found.masks, special=data.text.special)
        self.prediction_P = found.prediction_P
        """Row of each of the view's predictions in the mask store."""
        self.label_P = found.masks.label_P
        self._kept_P = np.isin(found.prediction_P // data.text.plan.shard_rows, shards)
        self.labels_G = np.add.reduceat(self._kept_P.astype(np.int64), self.view.start_G1[:-1])
        """Masked positions of each example that are trained on in this window."""
        self.mine_G = self._owner_G(data.text.plan, share.of) == share.number
        self._row_P = np.full(len(self.prediction_P), -1, np.int64)
        self._columns: dict[str, NDArray[Any]] = {}
        if data.targets is not None:
            self._read(data.targets, data.text.plan)

    def contains(self, prediction_Q: NDArray[np.int64]) -> NDArray[np.bool_]:
        """True where a prediction of the view is in one of the shards."""
        return np.asarray(self._kept_P[prediction_Q])

    def targets(self, prediction_Q: NDArray[np.int64], lm: MaskedLM) -> TargetBatch | None:
        """The fused targets of predictions of the view, on the model's device; None for labels only."""
        from pipeline.sparse.loss import TargetBatch

        if not self._columns:
            return None
        row_Q = self._row_P[prediction_Q]
        ids = self._columns["ids_PM"][row_Q]
        none = no_id(ids)
        probability = np.where(none, 0, np.exp(self._columns["logprob_PM"][row_Q].astype(np.float32)))
        ids_long = np.where(none, -1, ids.astype(np.int64))
        tail = np.nan_to_num(self._columns["tail_PT"][row_Q])
        sketch = self._columns["sketch_PTD"][row_Q]
        return TargetBatch(*lm.tensors(ids_long, probability.astype(np.float32), tail.astype(np.float32), sketch))

    def _owner_G(self, plan: SplitPlan, processes: int) -> NDArray[np.int64]:
        """The process of each example: shards are cut into as many runs of rows, and its first prediction decides.

        So each process reads a part of every shard, and no two the same.
        """
        place_P = np.where(self._kept_P, np.arange(len(self._kept_P)), len(self._kept_P))
        first_G = self.prediction_P[np.minimum.reduceat(place_P, self.view.start_G1[:-1])]
        shard_G = first_G // plan.shard_rows
        size_G = np.minimum(plan.shard_rows, plan.rows - shard_G * plan.shard_rows)
        return np.asarray((first_G - shard_G * plan.shard_rows) * processes // size_G)

    def _read(self, store: Store[FusedTargets], plan: SplitPlan) -> None:
        """Read the targets of this process's examples, a shard at a time: to join them would take twice the memory."""
        mine_P = np.flatnonzero(self._kept_P & np.repeat(self.mine_G, np.diff(self.view.start_G1)))
        self._row_P[mine_P] = np.arange(len(mine_P))
        number_P = self.prediction_P[mine_P]
        borders = (np.diff(number_P) > GAP_ROWS) | (np.diff(number_P // plan.shard_rows) > 0)
        for place in np.split(np.arange(len(mine_P)), np.flatnonzero(borders) + 1):
            if not len(place):
                continue
            start, stop = int(number_P[place[0]]), int(number_P[place[-1]]) + 1
            arrays = store.rows("train", start, stop).arrays()
            for name in TARGET_COLUMNS:
                values = arrays[name]
                column = self._columns.setdefault(name, np.zeros((len(mine_P), *values.shape[1:]), values.dtype))
                column[place] = values[number_P[place] - start]


def plan_steps(
    data: TrainingData, *, step_tokens: int, seed: int, window_shards: int, done: int = 0, share: Share = Share()
) -> Iterator[Step]:
    """Steps without end, from step `done`: windows of shards in random order, examples shuffled within a window.

    Of the windows whose steps are all done only lengths and masked positions are read.
    """
    windows = _windows(data, step_tokens=step_tokens, seed=seed, window_shards=window_shards, done=done, share=share)
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:
        ahead = pool.submit(next, windows)
        while True:
            window, steps = ahead.result()
            ahead = pool.submit(next, windows)
            for examples in steps:
                yield Step.of(window, examples)


def _windows(
    data: TrainingData, *, step_tokens: int, seed: int, window_shards: int, done: int, share: Share
) -> Generator[tuple[ShardWindow, list[NDArray[np.int64]]]]:
    """Windows without end, each with the examples of its steps, without the first `done` steps of all."""
    epoch, window = 0, None
    while True:
        shards = generator(seed, "shards", epoch).permutation(data.text.plan.shards)
        for number, start in enumerate(range(0, len(shards), window_shards)):
            chosen = tuple(sorted(int(shard) for shard in shards[start : start + window_shards]))
            if window is not None and window.shards == chosen:
                length_G = window.view.lengths_G()
            elif done:
                length_G = _lengths_G(data.text, data.text.examples(_bounds(data.text.plan, chosen)))
            else:
                window = ShardWindow(data, chosen, share=share)
                length_G = window.view.lengths_G()
            examples = generator(seed, "passes", epoch, number).permutation(np.arange(len(length_G)))
            ends = np.cumsum(length_G[examples]) // step_tokens
            steps = np.split(examples, np.flatnonzero(np.diff(ends)) + 1)
            left, done = steps[done:], max(0, done - len(steps))
            if left:
                if window is None or window.shards != chosen:
                    window = ShardWindow(data, chosen, share=share)
                yield window, left
        epoch += 1


def _bounds(plan: SplitPlan, shards: Sequence[int]) -> list[tuple[int, int]]:
    """Rows of shards, which rise; neighbours as one range."""
    bounds: list[tuple[int, int]] = []
    for shard in shards:
        start, stop = plan.bounds(shard)
        if bounds and bounds[-1][1] == start:
            start = bounds.pop()[0]
        bounds.append((start, stop))
    return bounds


def _lengths_G(text: TrainingText, found: Examples) -> NDArray[np.int64]:
    """Tokens of each example."""
    return text.lengths(found.sequence_N)[group_examples(found.masks)[0]]
