"""How another vocabulary sees the blanks that were decided on words of the text.

A teacher gets the same characters with the same words blanked, cut by its own tokenizer. A prediction is answerable
when the word it belongs to consists of the same pieces in both vocabularies; otherwise the teacher has no row there
(its weight will be 0), but the word is blank for it all the same, so that it never sees an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.text.inputs import View, group_passes
from storage.format.arrays import sentinel
from storage.records.base import id_dtype
from storage.records.sequences import Masks, Sequences


@dataclass(frozen=True, slots=True)
class Cut:
    """One window as a teacher's tokenizer cuts it. t teacher tokens, l reference tokens."""

    ids_t: NDArray[np.int64]
    """Special tokens included."""
    first_word_t: NDArray[np.int64]
    """First word of the window a token overlaps."""
    last_word_t: NDArray[np.int64]
    """Last word it overlaps; smaller than `first_word_t` where it overlaps none."""
    column_l: NDArray[np.int64]
    """Teacher column of each reference token; -1 where the word is cut differently."""


def teacher_view(
    texts: list[str],
    sequences: Sequences,
    masks: Masks,
    *,
    tokenizer: Any,
    to_student_V: NDArray[np.int64],
    special: dict[str, int],
    positions: int,
) -> tuple[View, NDArray[Any]]:
    """The view of `masks` (whole passes) through `tokenizer`, and each prediction's true id in its vocabulary.

    texts holds each sequence's document text, one a row of `sequences`; only rows that `masks` uses are read.
    to_student_V is the vocabulary bridge; tokens beyond `positions` are cut off and their words not answerable.
    Returns the view and gold ids [P], the sentinel where the prediction is not answerable.
    """
    sequence_G, start_G1 = group_passes(masks)
    rows, row_of_G = np.unique(sequence_G, return_inverse=True)
    cuts = _cut_windows(texts, sequences, rows, tokenizer=tokenizer, to_student_V=to_student_V, positions=positions)
    width = max((len(cut.ids_t) for cut in cuts), default=1)
    ids_NL = np.full((len(cuts), width), special["pad"], np.int64)
    for row, cut in enumerate(cuts):
        ids_NL[row, : len(cut.ids_t)] = cut.ids_t
    column_P = np.full(len(masks), -1, np.int64)
    blanks: list[NDArray[np.int64]] = []
    for g, row in enumerate(row_of_G):
        cut = cuts[row]
        span = slice(start_G1[g], start_G1[g + 1])
        columns = masks.column_P[span].astype(np.int64)
        column_P[span] = cut.column_l[columns]
        blanks.append(_blank_columns(cut, sequences.word_NL[rows[row], columns]))
    gold_P = np.full(len(masks), sentinel(id_dtype(len(to_student_V))), id_dtype(len(to_student_V)))
    row_P = np.repeat(row_of_G, np.diff(start_G1))
    answered = column_P >= 0
    gold_P[answered] = ids_NL[row_P[answered], column_P[answered]]
    view = View(
        ids_NL=ids_NL,
        length_N=np.array([len(cut.ids_t) for cut in cuts], np.int64),
        sequence_G=row_of_G.astype(np.int64),
        start_G1=start_G1,
        column_P=column_P,
        blank_start_G1=np.concatenate([[0], np.cumsum([len(blank) for blank in blanks])]).astype(np.int64),
        blank_column=np.concatenate([*blanks, np.zeros(0, np.int64)]),
        mask_id=special["mask"],
        pad_id=special["pad"],
    )
    return view, gold_P


def _cut_windows(
    texts: list[str],
    sequences: Sequences,
    rows: NDArray[np.int64],
    *,
    tokenizer: Any,
    to_student_V: NDArray[np.int64],
    positions: int,
) -> list[Cut]:
    starts, slices = [], []
    for row in rows:
        inside = sequences.word_NL[row] >= 0
        first = int(sequences.char_start_NL[row][inside][0])
        last = int(sequences.char_end_NL[row][inside][-1])
        starts.append(first)
        slices.append(texts[row][first:last])
    encodings = tokenizer.encode_batch(slices)
    return [
        _cut(encoding, slices[i], starts[i], sequences, int(row), to_student_V=to_student_V, positions=positions)
        for i, (row, encoding) in enumerate(zip(rows, encodings, strict=True))
    ]


def _cut(
    encoding: Any,
    text: str,
    start: int,
    sequences: Sequences,
    row: int,
    *,
    to_student_V: NDArray[np.int64],
    positions: int,
) -> Cut:
    word_l = sequences.word_NL[row].astype(np.int64)
    token_l = np.flatnonzero(word_l >= 0)
    word_of = word_l[token_l]
    words = int(word_of[-1]) + 1
    first_of_word = np.searchsorted(word_of, np.arange(words), side="left")
    last_of_word = np.searchsorted(word_of, np.arange(words), side="right") - 1
    word_begin = sequences.char_start_NL[row][token_l][first_of_word] - start
    word_end = sequences.char_end_NL[row][token_l][last_of_word] - start

    ids_t = np.array(encoding.ids, np.int64)
    offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2)
    space = np.fromiter((character.isspace() for character in text), bool, len(text))
    begin_t = offsets[:, 0] + space[np.minimum(offsets[:, 0], len(text) - 1)]  # "Ġword" begins with the space before it
    inside_t = (np.array(encoding.special_tokens_mask) == 0) & (offsets[:, 1] > begin_t)
    first_word_t = np.where(inside_t, np.searchsorted(word_end, begin_t, side="right"), words)
    last_word_t = np.where(inside_t, np.searchsorted(word_begin, offsets[:, 1], side="left") - 1, -1)
    if len(ids_t) > positions:  # keep the closing special token where the model can see it
        kept = np.append(np.arange(positions - 1), len(ids_t) - 1)
        lost = np.setdiff1d(np.arange(len(ids_t)), kept)
        cut_words = np.unique(np.concatenate([first_word_t[lost], last_word_t[lost]]))
        ids_t, first_word_t, last_word_t = ids_t[kept], first_word_t[kept], last_word_t[kept]
    else:
        cut_words = np.zeros(0, np.int64)

    single_t = np.flatnonzero(first_word_t == last_word_t)
    same = np.bincount(first_word_t[single_t], minlength=words)[:words] == np.bincount(word_of, minlength=words)
    for t in np.flatnonzero(first_word_t < last_word_t):  # a token over several words spoils all of them
        same[first_word_t[t] : last_word_t[t] + 1] = False
    same[cut_words[(cut_words >= 0) & (cut_words < words)]] = False
    teacher_t = single_t[same[first_word_t[single_t]]]
    reference_l = token_l[same[word_of]]
    equal = to_student_V[ids_t[teacher_t]] == sequences.input_ids_NL[row, reference_l]
    same[word_l[reference_l[~equal]]] = False
    matched = same[word_l[reference_l]]
    column_l = np.full(len(word_l), -1, np.int64)
    column_l[reference_l[matched]] = teacher_t[matched]
    return Cut(ids_t, first_word_t, last_word_t, column_l)


def _blank_columns(cut: Cut, blank_words: NDArray[Any]) -> NDArray[np.int64]:
    """Columns of all tokens that overlap a blank word."""
    words = int(max(cut.last_word_t.max(), blank_words.max())) + 1
    seen = np.zeros(words + 1, np.int64)
    seen[np.unique(blank_words) + 1] = 1
    before = np.cumsum(seen)
    overlaps = cut.first_word_t <= cut.last_word_t
    first = np.minimum(cut.first_word_t, words)
    return np.flatnonzero(overlaps & (before[np.maximum(cut.last_word_t, -1) + 1] > before[first])).astype(np.int64)
