"""Choose the masked positions, once, before any teacher runs.

Whole words are masked: all tokens of a word together. Every masked position holds the mask token (100 %, not BERT's
80-10-10: a teacher that sees the true token gives no information about it). The words of a window are put in an order
drawn from the seed, the document's id and the window's number. Nothing else enters: not batch, order of documents,
splits or processes. Copy 0 takes words from the front of that order until it has its share of the tokens, and copy 1
continues where copy 0 stopped. So copies are disjoint, each word gets a target before any gets two, and more copies
leave the first as it was.

Every word can be masked, punctuation too, as in BERT's whole-word masking. A word with an unknown token cannot, because
the unknown token is no useful target, nor can a token of white space. The calibration and held-out splits have one
copy, drawn with a seed of its own, so their positions change with the rate alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.core.seeds import generator
from storage.records.sequences import Masks, Sequences

EVALUATION_SEED = 0
"""Seed of the calibration and held-out positions: scores of runs with other mask seeds stay comparable."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """Words of N windows, W in all, and the T tokens they consist of; both in text order."""

    row_W: NDArray[np.int64]
    """Window of the word."""
    tokens_W: NDArray[np.int64]
    """Tokens it has."""
    candidate_W: NDArray[np.bool_]
    """True where the word may be masked."""
    word_T: NDArray[np.int64]
    row_T: NDArray[np.int64]
    column_T: NDArray[np.int64]


def find_words(sequences: Sequences, *, unknown: int, white_space_V: NDArray[np.bool_]) -> Words:
    """Words of the windows; `white_space_V` is true at tokens of white space only."""
    row_T, column_T = np.nonzero(sequences.word_NL >= 0)
    number_T = sequences.word_NL[row_T, column_T]
    new_T = np.ones(len(row_T), bool)
    new_T[1:] = (row_T[1:] != row_T[:-1]) | (number_T[1:] != number_T[:-1])
    word_T = np.cumsum(new_T) - 1
    tokens_W = np.bincount(word_T)
    id_T = sequences.input_ids_NL[row_T, column_T].astype(np.int64)
    white_space_W = np.bincount(word_T, weights=white_space_V[id_T])
    unknowns_W = np.bincount(word_T, weights=id_T == unknown)
    return Words(
        row_W=row_T[new_T],
        tokens_W=tokens_W,
        candidate_W=(white_space_W < tokens_W) & (unknowns_W == 0),
        word_T=word_T,
        row_T=row_T,
        column_T=column_T,
    )


def draw_copies(
    words: Words, doc_ids: list[str], windows: list[int], *, rate: float, copies: int, seed: int
) -> NDArray[np.int64]:
    """The copy that each of W words is masked in, -1 for none; doc_ids and windows name the N windows.

    A copy takes at least one word where one is left, and stops at round(rate * tokens) tokens or within a word beyond.
    """
    count_N = np.bincount(words.row_W, minlength=len(doc_ids))
    draw_W = np.concatenate([
        generator(seed, "mask", doc_id, window).random(count)
        for doc_id, window, count in zip(doc_ids, windows, count_N.tolist(), strict=True)
    ])  # fmt: skip
    tokens_N = np.bincount(words.row_W, weights=words.tokens_W, minlength=len(doc_ids))
    share_N = np.maximum(1, np.floor(rate * tokens_N + 0.5)).astype(np.int64)

    candidate = np.flatnonzero(words.candidate_W)
    order = candidate[np.lexsort((draw_W[candidate], words.row_W[candidate]))]
    before = np.concatenate([[0], np.cumsum(words.tokens_W[order])])  # tokens before each word in that order
    last_N = np.cumsum(np.bincount(words.row_W[order], minlength=len(doc_ids)))
    begin_N = np.concatenate([[0], last_N[:-1]])
    copy_W = np.full(len(words.row_W), -1, np.int64)
    for copy in range(copies):
        end_N = np.minimum(np.searchsorted(before, before[begin_N] + share_N, side="left"), last_N)
        taken = np.repeat(begin_N - np.concatenate([[0], np.cumsum(end_N - begin_N)[:-1]]), end_N - begin_N)
        copy_W[order[taken + np.arange(len(taken))]] = copy
        begin_N = end_N
    return copy_W


def choose_masked_positions(
    sequences: Sequences,
    doc_ids: list[str],
    *,
    rate: float,
    copies: int,
    seed: int,
    unknown: int,
    white_space_V: NDArray[np.bool_],
) -> Masks:
    """The masked positions of N windows, whose documents are `doc_ids`; none in a window without a word to mask."""
    words = find_words(sequences, unknown=unknown, white_space_V=white_space_V)
    copy_W = draw_copies(words, doc_ids, sequences.window_N.tolist(), rate=rate, copies=copies, seed=seed)
    copy_T = copy_W[words.word_T]
    chosen = np.flatnonzero(copy_T >= 0)
    chosen = chosen[np.argsort(copy_T[chosen], kind="stable")]  # tokens are in order of window and column already
    row_P, column_P = words.row_T[chosen], words.column_T[chosen]
    return Masks(
        copy_P=copy_T[chosen].astype(np.uint16),
        sequence_P=row_P.astype(np.uint32),
        column_P=column_P.astype(np.uint16),
        label_P=sequences.input_ids_NL[row_P, column_P],
    )
