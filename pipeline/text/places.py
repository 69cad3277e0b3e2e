"""The kinds of masked positions at which teachers of other vocabularies differ most.

A position belongs to its word: all tokens of a word are of one kind.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.text.ragged import runs
from pipeline.text.vocabulary import is_punctuation
from storage.records.sequences import Masks, Sequences

PLACES = ("first word", "punctuation", "capital", "several tokens", "single token")
"""The first that fits counts. First word: of the window. Punctuation: all its characters are. Capital: its text is not
that of its lower case. Several tokens: of the students' vocabulary."""

POSITIONS_AT_ONCE = 2**14
"""Their rows of 128 tokens take 4 MB, and the characters of their words about as much."""


def place_of_each(texts: Sequence[str], sequences: Sequences, masks: Masks) -> NDArray[np.int64]:
    """Index in `PLACES` of each masked position [P].

    texts has the text of the document of each sequence [N]. Each is asked for once a mask copy, in the order of the
    masks, so memory is that of some thousand positions.
    """
    parts = [
        _places(
            texts,
            sequences,
            masks.sequence_P[start : start + POSITIONS_AT_ONCE].astype(np.int64),
            masks.column_P[start : start + POSITIONS_AT_ONCE].astype(np.int64),
        )
        for start in range(0, len(masks), POSITIONS_AT_ONCE)
    ]
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _places(
    texts: Sequence[str], sequences: Sequences, row_Q: NDArray[np.int64], column_Q: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Of positions at columns [Q] of sequences [Q]."""
    word_Q = sequences.word_NL[row_Q, column_Q]
    inside_QL = sequences.word_NL[row_Q] == word_Q[:, None]
    tokens_Q, first_Q = inside_QL.sum(axis=1), inside_QL.argmax(axis=1)
    start_Q = sequences.char_start_NL[row_Q, first_Q].astype(np.int64)
    end_Q = sequences.char_end_NL[row_Q, first_Q + tokens_Q - 1].astype(np.int64)
    punctuation_Q, capital_Q = _spelling(texts, row_Q, start_Q, end_Q)
    fits = [word_Q == 0, punctuation_Q, capital_Q, tokens_Q > 1]
    return np.select(fits, np.arange(len(fits)).tolist(), default=len(fits))


def _spelling(
    texts: Sequence[str], row_Q: NDArray[np.int64], start_Q: NDArray[np.int64], end_Q: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether all characters [start, end) of a text are punctuation, and whether any is a capital, [Q] each."""
    new_Q = np.ones(len(row_Q), bool)
    new_Q[1:] = row_Q[1:] != row_Q[:-1]
    text_Q, first = np.cumsum(new_Q) - 1, np.flatnonzero(new_Q)
    low_T, high_T = np.minimum.reduceat(start_Q, first), np.maximum.reduceat(end_Q, first)
    spans = zip(row_Q[first].tolist(), low_T.tolist(), high_T.tolist(), strict=True)
    shown = [texts[row][low:high] for row, low, high in spans]
    codes = np.frombuffer("".join(shown).encode("utf-32-le"), np.uint32)
    offset_T = np.cumsum(high_T - low_T) - high_T
    length_Q = end_Q - start_Q
    position_C, within_C = runs(length_Q)
    code_C = codes[(offset_T[text_Q] + start_Q)[position_C] + within_C]
    # Letters are looked up once each: a text has some hundred different ones.
    letters, letter_C = np.unique(code_C, return_inverse=True)
    punctuation_V = np.array([is_punctuation(chr(code)) for code in letters.tolist()], bool)
    capital_V = np.array([chr(code) != chr(code).lower() for code in letters.tolist()], bool)
    marks_Q, capitals_Q = (
        np.bincount(position_C[table_V[letter_C]], minlength=len(row_Q)) for table_V in (punctuation_V, capital_V)
    )
    return marks_Q == length_Q, capitals_Q > 0
