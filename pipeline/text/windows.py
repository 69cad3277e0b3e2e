"""Cut encoded documents into windows of whole words.

Words are those of the tokenizer's pre-tokenizer, or of the text's spaces where it has none, so punctuation is a word of
its own. Windows of a document never overlap and are about equally long. Every token keeps its word number and its
characters in the document, so that words of the text are masked and found again in another tokenizer's tokens.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import dataclass
from itertools import chain, pairwise
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.text.ragged import runs
from storage.errors import DataError
from storage.format.arrays import sentinel
from storage.records.base import id_dtype
from storage.records.sequences import Sequences

if TYPE_CHECKING:
    from pipeline.text.tokenizer import FastTokenizer


MINIMUM_WORDS = 2
"""Words of the shortest window kept: a lone word has no context to predict it from."""

SPACES = np.array([code for code in range(0x3001) if chr(code).isspace()], np.uint32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Windows:
    """Windows of a batch of D documents: W windows over T tokens, flat."""

    document_W: NDArray[np.int64]
    """Document of the batch, from 0."""
    window_W: NDArray[np.int64]
    """Number within the document; windows that are too short count, so that numbers do not shift."""
    start_W: NDArray[np.int64]
    """First token."""
    stop_W: NDArray[np.int64]
    """One past the last token."""
    word_T: NDArray[np.int64]
    """Word of each token, counted through the batch."""
    counts: Counter[str]
    """words, short_windows (dropped), cut_words (longer than a window, cut inside the word)."""


def cut_windows(word_ids: list[list[int | None]], *, budget: int) -> Windows:
    """Cut the tokens of D documents, given each token's word, into windows of at most `budget` tokens.

    A word is cut only when it is longer than the budget by itself. Windows of one word are left out and counted.
    """
    size_D = np.array([len(words) for words in word_ids], np.int64)
    end_D = np.cumsum(size_D)
    # A token without a word (None becomes NaN) belongs to none: -1 makes it a word of its own kind.
    raw_T = np.nan_to_num(np.array(list(chain.from_iterable(word_ids)), np.float64), nan=-1)
    document_T = np.repeat(np.arange(len(size_D)), size_D)
    new_T = np.ones(len(raw_T), bool)
    new_T[1:] = (raw_T[1:] != raw_T[:-1]) | (document_T[1:] != document_T[:-1])
    first_of_word = np.flatnonzero(new_T)
    inside_T = np.arange(len(raw_T)) - first_of_word[np.cumsum(new_T) - 1]
    part_T = inside_T % budget == 0  # every word begins a part; one longer than the budget begins several
    parts = [*np.flatnonzero(part_T).tolist(), len(raw_T)]
    part_number_T = np.cumsum(part_T) - 1
    rows: list[tuple[int, int, int, int]] = []
    for document, (begin, end) in enumerate(zip((end_D - size_D).tolist(), end_D.tolist(), strict=True)):
        borders = _borders(parts, begin, end, budget=budget)
        rows += [(document, number, *border) for number, border in enumerate(pairwise(borders))]
    document_W, window_W, start_W, stop_W = np.array(rows, np.int64).reshape(-1, 4).T
    words_W = part_number_T[stop_W - 1] - part_number_T[start_W] + 1
    kept_W = words_W >= MINIMUM_WORDS
    counts = Counter(
        words=int(words_W[kept_W].sum()),
        short_windows=int((~kept_W).sum()),
        cut_words=int((part_T & ~new_T & (inside_T == budget)).sum()),
    )
    return Windows(
        document_W=document_W[kept_W],
        window_W=window_W[kept_W],
        start_W=start_W[kept_W],
        stop_W=stop_W[kept_W],
        word_T=part_number_T,
        counts=counts,
    )


def _borders(parts: list[int], begin: int, end: int, *, budget: int) -> list[int]:
    """Where the windows of the tokens [begin, end) begin, and `end`; `parts` are the places that may be cut.

    Hardly more windows than greedy filling gives, but about equally long: a last window of a few tokens has no context.
    """
    borders = [begin]
    while borders[-1] < end:
        left = end - borders[-1]
        windows = ceil(left / budget)
        stop = parts[bisect_left(parts, borders[-1] + ceil(left / windows))]
        if stop > borders[-1] + budget:
            stop = parts[bisect_right(parts, borders[-1] + budget) - 1]
        borders.append(stop)
    return borders


def encode_windows(
    texts: list[str], tokenizer: FastTokenizer, *, sequence_tokens: int
) -> tuple[Sequences, Counter[str]]:
    """All windows of `texts`, in order, and counts; `document_N` is the position in `texts`.

    Counts are those of `Windows`, the tokens without special ones, and how many of these are unknown.
    Raises DataError when special tokens leave no room for a word.
    """
    budget = sequence_tokens - len(tokenizer.prefix) - len(tokenizer.suffix)
    if budget < MINIMUM_WORDS:
        raise DataError(
            f"tokenize: sequence_tokens: {sequence_tokens} leave {budget} beside {tokenizer.folder}'s special tokens"
        )
    encodings = tokenizer.backend.encode_batch(texts, add_special_tokens=False)
    words = [tokenizer.words(text, encoding) for text, encoding in zip(texts, encodings, strict=True)]
    windows = cut_windows(words, budget=budget)
    length_W = windows.stop_W - windows.start_W
    row_S, within_S = runs(length_W)  # S tokens that lie in a window
    token_S = windows.start_W[row_S] + within_S
    column_S = len(tokenizer.prefix) + within_S
    ids_S = np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.int64)[token_S]
    start_T, end_T = _characters(texts, encodings)
    full_N = len(tokenizer.prefix) + length_W + len(tokenizer.suffix)

    dtype = id_dtype(len(tokenizer.tokens))
    shape = (len(length_W), sequence_tokens)
    ids_NL = np.full(shape, sentinel(dtype), dtype)
    ids_NL[:, : len(tokenizer.prefix)] = tokenizer.prefix
    ids_NL[row_S, column_S] = ids_S
    for i, special in enumerate(tokenizer.suffix):
        ids_NL[np.arange(len(full_N)), full_N - len(tokenizer.suffix) + i] = special
    word_NL = np.full(shape, -1, np.int16)
    word_NL[row_S, column_S] = windows.word_T[token_S] - windows.word_T[windows.start_W][row_S]
    start_NL, end_NL = np.full(shape, -1, np.int32), np.full(shape, -1, np.int32)
    start_NL[row_S, column_S] = start_T[token_S]
    end_NL[row_S, column_S] = end_T[token_S]
    sequences = Sequences(
        document_N=windows.document_W.astype(np.uint32),
        window_N=windows.window_W.astype(np.uint32),
        length_N=full_N.astype(np.uint16),
        input_ids_NL=ids_NL,
        word_NL=word_NL,
        char_start_NL=start_NL,
        char_end_NL=end_NL,
    )
    unknown = int((ids_S == tokenizer.special["unk"]).sum())
    return sequences, Counter({**windows.counts, "documents": len(texts), "tokens": len(ids_S), "unknown": unknown})


def _characters(texts: list[str], encodings: list[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and one past the last character of each token in its document; the space of a "Ġword" is not part of it."""
    pairs = chain.from_iterable(encoding.offsets for encoding in encodings)
    offsets = np.fromiter(chain.from_iterable(pairs), np.int64).reshape(-1, 2)
    start_T, end_T = offsets[:, 0], offsets[:, 1]
    codes = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
    length_D = np.array([len(text) for text in texts], np.int64)
    base_T = np.repeat(np.cumsum(length_D) - length_D, [len(encoding.ids) for encoding in encodings])
    left = np.flatnonzero(start_T + 1 < end_T)
    while len(left):
        left = left[np.isin(codes[base_T[left] + start_T[left]], SPACES)]
        start_T[left] += 1
        left = left[start_T[left] + 1 < end_T[left]]
    return start_T, end_T
