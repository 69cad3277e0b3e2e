"""Sequences and Masks: windows of the reference vocabulary, and the masked positions of each.

Shapes are named by suffix: N sequences, L tokens a sequence, P predictions (masked positions, flat over sequences and
mask copies), K listed entries per teacher, S entries drawn from the rest, M listed after fusion, T teachers, J
temperatures, D coordinates of a row's low-rank tail, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from storage.format.arrays import ArraySpec, sentinel
from storage.records.base import Record, id_dtype, require


@dataclass(frozen=True, slots=True)
class Sequences(Record):
    """Windows of documents in the reference vocabulary (the students')."""

    kind: ClassVar[str] = "sequences"
    stage: ClassVar[str] = "tokenize"

    document_N: NDArray[np.uint32]
    """Row of the document in the split's table."""
    window_N: NDArray[np.uint32]
    """Number of the window within its document."""
    length_N: NDArray[np.uint16]
    """Tokens in use, special tokens included; the rest of the row is padding (sentinel)."""
    input_ids_NL: NDArray[Any]
    """Token ids of the reference vocabulary; sentinel beyond `length`."""
    word_NL: NDArray[np.int16]
    """Number of the word a token belongs to, from 0 in each window; -1 at special tokens and padding."""
    char_start_NL: NDArray[np.int32]
    """First character of the token in the document's text; -1 where `word` is -1."""
    char_end_NL: NDArray[np.int32]
    """One past its last character; -1 where `word` is -1."""

    @staticmethod
    def specs(*, tokens: int, vocabulary: int) -> dict[str, ArraySpec]:
        """Arrays of a store of sequences of at most `tokens` tokens."""
        row = (tokens,)
        return {
            "document_N": ArraySpec(dtype="uint32"),
            "window_N": ArraySpec(dtype="uint32"),
            "length_N": ArraySpec(dtype="uint16"),
            "input_ids_NL": ArraySpec(dtype=id_dtype(vocabulary), row_shape=row),
            "word_NL": ArraySpec(dtype="int16", row_shape=row),
            "char_start_NL": ArraySpec(dtype="int32", row_shape=row),
            "char_end_NL": ArraySpec(dtype="int32", row_shape=row),
        }

    def check(self) -> None:
        """Refuse holes and rows whose padding does not begin at `length`."""
        Record.check(self)
        no_length = sentinel(self.length_N.dtype)
        require(not bool((self.length_N == no_length).any()), "sequences: a row has no length; its shard is missing")
        used_NL = np.arange(self.input_ids_NL.shape[1]) < self.length_N[:, None]
        filled_NL = self.input_ids_NL != sentinel(self.input_ids_NL.dtype)
        require(bool((used_NL == filled_NL).all()), "sequences: padding does not begin at the row's length")


@dataclass(frozen=True, slots=True)
class Masks(Record):
    """The masked positions, chosen once on words of the text; ordered by copy, sequence, column."""

    kind: ClassVar[str] = "masks"
    stage: ClassVar[str] = "mask"

    copy_P: NDArray[np.uint16]
    """Mask copy the prediction belongs to; a (copy, sequence) pair is one example."""
    sequence_P: NDArray[np.uint32]
    """Row in the split's sequences."""
    column_P: NDArray[np.uint16]
    """Token within the sequence."""
    label_P: NDArray[Any]
    """The true token, reference vocabulary."""

    @staticmethod
    def specs(*, vocabulary: int) -> dict[str, ArraySpec]:
        """Arrays of a mask store over a reference vocabulary of `vocabulary` ids."""
        return {
            "copy_P": ArraySpec(dtype="uint16"),
            "sequence_P": ArraySpec(dtype="uint32"),
            "column_P": ArraySpec(dtype="uint16"),
            "label_P": ArraySpec(dtype=id_dtype(vocabulary)),
        }

    def check(self) -> None:
        """Refuse holes and predictions out of order or twice in one copy."""
        Record.check(self)
        hole = bool((self.label_P == sentinel(self.label_P.dtype)).any())
        require(not hole, "masks: a prediction has no label; its shard is missing")
        key_P = (
            (self.copy_P.astype(np.uint64) << np.uint64(48))
            | (self.sequence_P.astype(np.uint64) << np.uint64(16))
            | self.column_P.astype(np.uint64)
        )
        require(bool((key_P[1:] > key_P[:-1]).all()), "masks: predictions are not ordered by copy, sequence, column")
