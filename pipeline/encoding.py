"""Texts and pairs of texts as token arrays, and the batches they are learnt in.

All is encoded once and kept end to end, 5 bytes a token. A batch is padded to its own longest example only, and holds
examples of like length, so that little is padded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.tokens import FastTokenizer

WINDOW_BATCHES = 32
"""Batches of like length are cut from this many batches' worth of shuffled examples: less padding, still mixed."""
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


def epoch_batches(length_N: NDArray[np.int64], batch: int, *, chance: np.random.Generator) -> list[NDArray[np.int64]]:
    """Cut N examples into batches of `batch` (the last may be smaller), each example once, in random order.

    Examples are shuffled, sorted by length within windows of WINDOW_BATCHES batches, and the batches shuffled.
    """
    order_N = chance.permutation(len(length_N))
    window = batch * WINDOW_BATCHES
    batches = []
    for start in range(0, len(order_N), window):
        rows = order_N[start : start + window]
        rows = rows[np.argsort(-length_N[rows], kind="stable")]
        batches += [rows[first : first + batch] for first in range(0, len(rows), batch)]
    return [batches[number] for number in chance.permutation(len(batches))]
