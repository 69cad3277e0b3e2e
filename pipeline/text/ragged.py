"""Rows of different lengths as one flat array with offsets, and texts encoded that way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.text.tokenizer import FastTokenizer

WINDOW_BATCHES = 32
"""Batches of similar length are cut from this many batches of shuffled examples: less padding, order still random."""
ENCODE_EXAMPLES = 8192
"""Examples encoded at once; their Python objects take some 50 MB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """N examples as tokens, end to end; example n is entries start[n] to start[n + 1]."""

    ids: NDArray[np.int32]
    types: NDArray[np.int8]
    """0 in the first text, 1 in the second, as far as the tokenizer's template tells them apart."""
    start_N1: NDArray[np.int64]

    @property
    def length_N(self) -> NDArray[np.int64]:
        """Tokens of each example, special ones included."""
        return np.diff(self.start_N1)

    def padded(self, rows_B: NDArray[np.int64], *, pad_id: int) -> tuple[NDArray[np.int64], ...]:
        """ids_BL, attention_BL (1 at tokens, 0 at padding) and types_BL, as wide as the longest of the rows."""
        length_B = self.start_N1[rows_B + 1] - self.start_N1[rows_B]
        column_L = np.arange(int(length_B.max()))
        used_BL = column_L < length_B[:, None]
        entry_BL = np.where(used_BL, self.start_N1[rows_B][:, None] + column_L, 0)
        ids_BL = np.where(used_BL, self.ids[entry_BL], pad_id).astype(np.int64)
        return ids_BL, used_BL.astype(np.int64), np.where(used_BL, self.types[entry_BL], 0).astype(np.int64)


def encode(first: list[str], second: list[str] | None, *, tokenizer: FastTokenizer, max_tokens: int) -> Encoded:
    """Tokens of texts, or of pairs, with the special tokens of the tokenizer's template; truncated longest first."""
    tokenizer.backend.enable_truncation(max_tokens, strategy="longest_first")
    texts: Iterator[Any] = iter(first)
    if second is not None:
        texts = zip(first, second, strict=True)
    ids, types, lengths = [np.zeros(0, np.int32)], [np.zeros(0, np.int8)], [0]
    while some := list(islice(texts, ENCODE_EXAMPLES)):
        for encoding in tokenizer.backend.encode_batch(some):
            ids.append(np.array(encoding.ids, np.int32))
            types.append(np.array(encoding.type_ids, np.int8))
            lengths.append(len(encoding.ids))
    return Encoded(ids=np.concatenate(ids), types=np.concatenate(types), start_N1=np.cumsum(lengths, dtype=np.int64))


Int = NDArray[np.int64]


def runs(length_R: Int) -> tuple[Int, Int]:
    """Row and place within it, from 0, of each entry of rows of these lengths, end to end."""
    row = np.repeat(np.arange(len(length_R)), length_R)
    return row, np.arange(len(row)) - (np.cumsum(length_R) - length_R)[row]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ragged:
    """Rows of different lengths, one after the other."""

    flat: NDArray[Any]
    start_R1: Int
    """Row r is flat[start[r] : start[r + 1]]."""

    @staticmethod
    def of(rows: list[Any], dtype: Any) -> Ragged:
        """Put rows end to end."""
        start = np.cumsum([0, *map(len, rows)]).astype(np.int64)
        return Ragged(
            flat=np.concatenate([np.zeros(0, dtype), *(np.asarray(row, dtype) for row in rows)]), start_R1=start
        )

    def __len__(self) -> int:
        return len(self.start_R1) - 1

    def lengths(self) -> Int:
        """Entries of each row."""
        return np.diff(self.start_R1)

    def __getitem__(self, row: int) -> NDArray[Any]:
        return self.flat[self.start_R1[row] : self.start_R1[row + 1]]

    def take(self, rows_B: Int) -> Ragged:
        """Some rows, in the order given."""
        length_B = self.start_R1[rows_B + 1] - self.start_R1[rows_B]
        row, within = runs(length_B)
        start_B1 = np.concatenate([[0], np.cumsum(length_B)]).astype(np.int64)
        return Ragged(flat=self.flat[self.start_R1[rows_B][row] + within], start_R1=start_B1)

    def padded(self, fill: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """As a rectangle [R, longest] filled up with `fill`, and 1 where an entry is."""
        used = np.arange(int(self.lengths().max(initial=1))) < self.lengths()[:, None]
        full = np.full(used.shape, fill, np.int64)
        full[used] = self.flat
        return full, used.astype(np.int64)
