"""What a head is fine-tuned on: texts or pairs of texts with labels, and the order in which they are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.text.ragged import WINDOW_BATCHES
from pipeline.text.tokenizer import FastTokenizer
from storage.errors import ParamsError


def epoch_batches(length_N: NDArray[np.int64], batch: int, *, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Cut N examples into batches of `batch` (the last may be smaller), each example once, in random order.

    Examples are shuffled, sorted by length within windows of WINDOW_BATCHES batches, and the batches shuffled.
    """
    order_N = rng.permutation(len(length_N))
    window = batch * WINDOW_BATCHES
    batches = []
    for start in range(0, len(order_N), window):
        rows = order_N[start : start + window]
        rows = rows[np.argsort(-length_N[rows], kind="stable")]
        batches += [rows[first : first + batch] for first in range(0, len(rows), batch)]
    return [batches[number] for number in rng.permutation(len(batches))]


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples:
    """N texts, or pairs of texts, with their labels."""

    first: list[str]
    second: list[str] | None
    """The second texts of pairs; None for single texts."""
    label_N: NDArray[Any]
    """int64 classes from 0, or float64 values to regress on."""
    span_N22: NDArray[np.int64] | None = None
    """[start, end) of a word of the first and one of the second text, in characters, where the task is about these."""

    def __post_init__(self) -> None:
        lengths = {len(self.first), len(self.label_N), len(self.first if self.second is None else self.second)}
        lengths |= set() if self.span_N22 is None else {len(self.span_N22)}
        if len(lengths) > 1:
            raise ValueError(f"texts and labels of different number: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.first)

    def only(self, rows: NDArray[np.int64]) -> Examples:
        """Some of the examples, in the order of `rows`."""
        return Examples(
            first=[self.first[row] for row in rows],
            second=None if self.second is None else [self.second[row] for row in rows],
            label_N=self.label_N[rows],
            span_N22=None if self.span_N22 is None else self.span_N22[rows],
        )

    def content(self) -> list[Any]:
        """All of it, as an identity hashes it."""
        spans = [] if self.span_N22 is None else [self.span_N22.tolist()]
        return [self.first, self.second, self.label_N.tolist(), *spans]


def span_tokens(examples: Examples, *, tokenizer: FastTokenizer, max_tokens: int) -> NDArray[np.int64] | None:
    """[N, 2, 2]: tokens [start, end) of each word of `examples.span_N22`, in the encoded pair; None without words.

    Tokens of a word are those that share a character with it. Raises ParamsError for a word that truncation cut away.
    """
    if examples.span_N22 is None or examples.second is None:
        return None
    tokenizer.backend.enable_truncation(max_tokens, strategy="longest_first")
    found_N22 = np.zeros(examples.span_N22.shape, np.int64)
    pairs = list(zip(examples.first, examples.second, strict=True))
    for number, encoding in enumerate(tokenizer.backend.encode_batch(pairs)):
        for text, (start, end) in enumerate(examples.span_N22[number].tolist()):
            tokens = [
                place
                for place, (owner, (first, last)) in enumerate(
                    zip(encoding.sequence_ids, encoding.offsets, strict=True)
                )
                if owner == text and first < end and last > start
            ]
            if not tokens:
                raise ParamsError(
                    f"finetune.max_tokens: the word at characters {start} to {end} of {pairs[number][text][:40]!r} "
                    f"lies beyond {max_tokens} tokens. Raise it"
                )
            found_N22[number, text] = tokens[0], tokens[-1] + 1
    return found_N22
