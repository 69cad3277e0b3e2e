"""From stored sequences and masks to model inputs.

An *example* is one sequence with the masked positions of one mask copy. A `View` holds all examples of a split in one
vocabulary: the students' (`reference_view`) or a teacher's (`pipeline.text.alignment`). So teaching, training and
evaluation build their inputs with the same code. Predictions stay in the order of the mask store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.text.ragged import runs
from storage.format.arrays import sentinel
from storage.records.sequences import Masks, Sequences


@dataclass(frozen=True, kw_only=True, slots=True)
class CutWords:
    """Masked words that a vocabulary cuts differently from the reference. W words."""

    example_W: NDArray[np.int64]
    prediction_W: NDArray[np.int64]
    """First prediction; those of a word's other reference tokens follow it."""
    reference_tokens_W: NDArray[np.int64]
    column_W: NDArray[np.int64]
    """Column of the first of this vocabulary's tokens; the others follow it."""
    tokens_W: NDArray[np.int64]
    """How many these are."""
    spaced_W: NDArray[np.bool_]
    """True where a space stands before the word."""


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """All examples of a split in one vocabulary. G examples, N sequences, L tokens, P predictions."""

    ids_NL: NDArray[Any]
    """Token ids before masking; anything beyond `length`."""
    length_N: NDArray[np.int64]
    """Tokens in use."""
    sequence_G: NDArray[np.int64]
    """Sequence of each example."""
    start_G1: NDArray[np.int64]
    """Predictions of example g are rows start[g] to start[g + 1] of the mask store."""
    column_P: NDArray[np.int64]
    """Column of each prediction in this view; -1 where this vocabulary cuts the word differently."""
    masked_start_G1: NDArray[np.int64]
    """Masked positions of example g are entries masked_start[g] to masked_start[g + 1] of `masked_column`."""
    masked_column: NDArray[np.int64]
    """Columns that hold the mask token."""
    mask_id: int
    pad_id: int
    respelt_P: NDArray[np.bool_] | None = None
    """True where a word begins without a space and its tokens are to be exchanged for those with a space mark
    (`pipeline.text.vocabulary.space_variants`); None: nowhere."""
    cut_words: CutWords | None = None
    """Words whose predictions have no column, where the vocabulary has tokens of their own for them; None: no other
    vocabulary was asked."""

    def lengths_G(self) -> NDArray[np.int64]:
        """Tokens of each example."""
        return self.length_N[self.sequence_G]


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenRows:
    """What a model reads of N sequences: a sixth of their record, which also has words and characters."""

    input_ids_NL: NDArray[Any]
    length_N: NDArray[np.uint16]


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """One batch: B examples of L tokens with Q predictions."""

    input_ids_BL: NDArray[np.int64]
    attention_BL: NDArray[np.int64]
    """1 at tokens, masked ones included; 0 at padding."""
    row_Q: NDArray[np.int64]
    column_Q: NDArray[np.int64]
    prediction_Q: NDArray[np.int64]
    """Row of each prediction in the mask store."""


def group_examples(masks: Masks) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split predictions, ordered by copy and sequence, into examples: sequence_G and start_G1."""
    key_P = (masks.copy_P.astype(np.int64) << 32) | masks.sequence_P.astype(np.int64)
    first_G = np.flatnonzero(np.diff(key_P, prepend=-1)).astype(np.int64)
    return masks.sequence_P[first_G].astype(np.int64), np.append(first_G, len(masks)).astype(np.int64)


def reference_view(sequences: Sequences | TokenRows, masks: Masks, *, special: dict[str, int]) -> View:
    """The students' view: predictions and masked positions are the same."""
    sequence_G, start_G1 = group_examples(masks)
    column_P = masks.column_P.astype(np.int64)
    return View(
        ids_NL=sequences.input_ids_NL,
        length_N=sequences.length_N.astype(np.int64),
        sequence_G=sequence_G,
        start_G1=start_G1,
        column_P=column_P,
        masked_start_G1=start_G1,
        masked_column=column_P,
        mask_id=special["mask"],
        pad_id=special["pad"],
    )


def token_batches(length_G: NDArray[np.int64], batch_tokens: int) -> list[NDArray[np.int64]]:
    """Cut examples, longest first, into batches of at most `batch_tokens` tokens with padding; at least one each.

    Sorting by length keeps padding to a few per cent. Ties keep their order, so the cut is deterministic.
    """
    order = np.argsort(-length_G, kind="stable")
    batches = []
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // int(length_G[order[start]]))
        batches.append(order[start : start + size])
        start += size
    return batches


def model_inputs(view: View, batch: NDArray[np.int64], *, multiple: int = 1) -> Inputs:
    """Inputs of the examples `batch`, padded to the longest of them, rounded up to a multiple within the view."""
    sequence_B = view.sequence_G[batch]
    length_B = view.length_N[sequence_B]
    width = min(-(-int(length_B.max()) // multiple) * multiple, view.ids_NL.shape[1])
    used_BL = np.arange(width) < length_B[:, None]
    ids_BL = np.where(used_BL, view.ids_NL[sequence_B, :width], view.pad_id).astype(np.int64)
    masked_row, masked = _ranges(view.masked_start_G1, batch)
    ids_BL[masked_row, view.masked_column[masked]] = view.mask_id
    row_Q, prediction_Q = _ranges(view.start_G1, batch)
    column_Q = view.column_P[prediction_Q]
    answered_Q = column_Q >= 0
    return Inputs(
        input_ids_BL=ids_BL,
        attention_BL=used_BL.astype(np.int64),
        row_Q=row_Q[answered_Q],
        column_Q=column_Q[answered_Q],
        prediction_Q=prediction_Q[answered_Q],
    )


def _ranges(start_G1: NDArray[np.int64], batch: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each example of the batch, its row number in the batch repeated, and the entries of its range."""
    row, within = runs(start_G1[batch + 1] - start_G1[batch])
    return row, start_G1[batch][row] + within


def no_id(ids: NDArray[Any]) -> NDArray[np.bool_]:
    """True where an id array holds the sentinel."""
    return np.asarray(ids == sentinel(ids.dtype))
