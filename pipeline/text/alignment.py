"""Masked words of the text, mapped to positions in another tokenizer's tokens.

A teacher gets the same characters with the same words masked, cut by its own tokenizer. It can answer a prediction when
the prediction's word consists of the same tokens in both vocabularies. Otherwise the word is masked all the same, so
that it never sees the true token, and `CutWords` says where (`pipeline.teach.words` makes predictions of it).

A teacher's tokens may carry the space before a word while the students' tokens carry none. Then a window's first word
gets its space, line breaks count as spaces, and a word that begins without a space is matched by its token with the
mark. A token over several words ("),") is cut at word borders where one of its words is masked, and stays whole
elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.text.inputs import CutWords, View, group_examples
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
    unspaced_l: NDArray[np.bool_]
    """True at reference tokens that begin a word without a space before it."""
    cut_off: NDArray[np.int64]
    """Words with tokens beyond the model's positions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Window:
    """The text of one window, and its words in the reference vocabulary. w words, l reference tokens."""

    text: str
    encoding: Any
    ids_l: NDArray[np.int64]
    word_l: NDArray[np.int64]
    """Word of each reference token; -1 at special tokens and padding."""
    begin_w: NDArray[np.int64]
    end_w: NDArray[np.int64]
    """Characters of each word in `text`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Vocabulary:
    """How a teacher's tokens are matched."""

    tokenizer: Any
    to_student_V: NDArray[np.int64]
    variant_V: NDArray[np.int64] | None
    positions: int


def teacher_view(
    texts: Sequence[str],
    sequences: Sequences,
    masks: Masks,
    *,
    tokenizer: Any,
    to_student_V: NDArray[np.int64],
    special: dict[str, int],
    positions: int,
    variant_V: NDArray[np.int64] | None = None,
) -> tuple[View, NDArray[Any]]:
    """The view of `masks` (whole examples) through `tokenizer`, and each prediction's true id in its vocabulary.

    texts holds each sequence's document text, one a row of `sequences`; only rows that `masks` uses are read.
    to_student_V is the vocabulary bridge, variant_V the result of `space_variants`; tokens beyond `positions` are cut
    off and their words not answerable. Returns the view and gold ids [P], the sentinel where the prediction is not
    answerable.
    """
    sequence_G, start_G1 = group_examples(masks)
    rows, row_of_G = np.unique(sequence_G, return_inverse=True)
    vocabulary = _Vocabulary(tokenizer=tokenizer, to_student_V=to_student_V, variant_V=variant_V, positions=positions)
    windows = _windows(texts, sequences, rows, vocabulary)
    cuts = [_cut(window, vocabulary) for window in windows]
    cut_of_G = row_of_G.astype(np.int64)
    column_P = np.full(len(masks), -1, np.int64)
    respelt_P = np.zeros(len(masks), bool)
    masked: list[NDArray[np.int64]] = []
    cut_words: list[tuple[int, ...]] = []
    for g, row in enumerate(row_of_G):
        cut = cuts[row]
        span = slice(start_G1[g], start_G1[g + 1])
        columns = masks.column_P[span].astype(np.int64)
        masked_words = sequences.word_NL[rows[row], columns]
        if variant_V is not None and _in_runs(cut, masked_words):
            cut = _cut(windows[row], vocabulary, apart=masked_words)
            cut_of_G[g] = len(cuts)
            cuts.append(cut)
        column_P[span] = cut.column_l[columns]
        respelt_P[span] = cut.unspaced_l[columns]
        masked.append(_masked_columns(cut, masked_words))
        cut_words += [
            (g, int(start_G1[g]) + place, *word)
            for place, *word in _cut_words(cut, windows[row].word_l, columns, masked_words)
        ]
    width = max((len(cut.ids_t) for cut in cuts), default=1)
    ids_NL = np.full((len(cuts), width), special["pad"], np.int64)
    for row, cut in enumerate(cuts):
        ids_NL[row, : len(cut.ids_t)] = cut.ids_t
    gold_P = np.full(len(masks), sentinel(id_dtype(len(to_student_V))), id_dtype(len(to_student_V)))
    row_P = np.repeat(cut_of_G, np.diff(start_G1))
    answered = column_P >= 0
    gold_P[answered] = ids_NL[row_P[answered], column_P[answered]]
    if variant_V is not None:
        respelt = answered & respelt_P
        gold_P[respelt] = variant_V[gold_P[respelt]]
    view = View(
        ids_NL=ids_NL,
        length_N=np.array([len(cut.ids_t) for cut in cuts], np.int64),
        sequence_G=cut_of_G,
        start_G1=start_G1,
        column_P=column_P,
        masked_start_G1=np.concatenate([[0], np.cumsum([len(columns) for columns in masked])]).astype(np.int64),
        masked_column=np.concatenate([*masked, np.zeros(0, np.int64)]),
        mask_id=special["mask"],
        pad_id=special["pad"],
        respelt_P=None if variant_V is None else respelt_P,
        cut_words=_as_arrays(cut_words),
    )
    return view, gold_P


def _cut_words(
    cut: Cut, word_l: NDArray[np.int64], columns: NDArray[np.int64], masked_words: NDArray[Any]
) -> list[tuple[int, int, int, int, bool]]:
    """Masked words that have tokens of their own here, but no columns.

    Of each the first place in `columns`, the number of reference tokens, the first column and number of its tokens, and
    whether a space stands before it.
    """
    found = []
    for word in np.unique(masked_words[cut.column_l[columns] < 0]):
        places = np.flatnonzero(masked_words == word)
        overlap = np.flatnonzero((cut.first_word_t <= word) & (word <= cut.last_word_t))
        own = (cut.first_word_t[overlap] == word) & (cut.last_word_t[overlap] == word)
        whole = len(places) == np.count_nonzero(word_l == word) and word not in cut.cut_off
        if whole and len(overlap) and own.all() and overlap[-1] - overlap[0] == len(overlap) - 1:
            spaced = not cut.unspaced_l[columns[places[0]]]
            found.append((int(places[0]), len(places), int(overlap[0]), len(overlap), spaced))
    return found


def _as_arrays(words: list[tuple[int, ...]]) -> CutWords:
    example, prediction, reference_tokens, column, tokens, spaced = np.array(words, np.int64).reshape(-1, 6).T
    return CutWords(
        example_W=example,
        prediction_W=prediction,
        reference_tokens_W=reference_tokens,
        column_W=column,
        tokens_W=tokens,
        spaced_W=spaced.astype(bool),
    )


def _windows(
    texts: Sequence[str], sequences: Sequences, rows: NDArray[np.int64], vocabulary: _Vocabulary
) -> list[_Window]:
    starts, slices = [], []
    for row in rows:
        inside = sequences.word_NL[row] >= 0
        first = int(sequences.char_start_NL[row][inside][0])
        last = int(sequences.char_end_NL[row][inside][-1])
        if vocabulary.variant_V is None:
            text = texts[row][first:last]
        else:
            first -= int(first > 0 and texts[row][first - 1].isspace())
            text = "".join(" " if letter.isspace() else letter for letter in texts[row][first:last])
        starts.append(first)
        slices.append(text)
    encodings = vocabulary.tokenizer.encode_batch(slices)
    found = []
    for row, start, text, encoding in zip(rows, starts, slices, encodings, strict=True):
        word_l = sequences.word_NL[row].astype(np.int64)
        token_l = np.flatnonzero(word_l >= 0)
        word_of = word_l[token_l]
        words = np.arange(int(word_of[-1]) + 1)
        first_of_word = np.searchsorted(word_of, words, side="left")
        last_of_word = np.searchsorted(word_of, words, side="right") - 1
        found.append(
            _Window(
                text=text,
                encoding=encoding,
                ids_l=sequences.input_ids_NL[row].astype(np.int64),
                word_l=word_l,
                begin_w=sequences.char_start_NL[row][token_l][first_of_word].astype(np.int64) - start,
                end_w=sequences.char_end_NL[row][token_l][last_of_word].astype(np.int64) - start,
            )
        )
    return found


def _cut(window: _Window, vocabulary: _Vocabulary, *, apart: NDArray[Any] | None = None) -> Cut:
    """The window's tokens and their places; tokens over several words are split where one is in `apart`."""
    text, words = window.text, len(window.begin_w)
    space = np.fromiter((character.isspace() for character in text), bool, len(text))
    ids_t = np.array(window.encoding.ids, np.int64)
    offsets = np.array(window.encoding.offsets, np.int64).reshape(-1, 2)
    special_t = np.array(window.encoding.special_tokens_mask) != 0
    first_word_t, last_word_t = _words_of(offsets, special_t, space, window)
    if apart is not None:
        runs, wanted = np.flatnonzero(first_word_t < last_word_t), np.isin(np.arange(words), apart)
        ids_t, offsets, special_t = _split_runs(
            ids_t,
            offsets,
            special_t,
            [t for t in runs if wanted[first_word_t[t] : last_word_t[t] + 1].any()],
            window,
            vocabulary.tokenizer,
        )
        first_word_t, last_word_t = _words_of(offsets, special_t, space, window)
    cut_words = np.zeros(0, np.int64)
    if len(ids_t) > vocabulary.positions:  # keep the closing special token within the model's positions
        kept = np.append(np.arange(vocabulary.positions - 1), len(ids_t) - 1)
        lost = np.setdiff1d(np.arange(len(ids_t)), kept)
        cut_words = np.unique(np.concatenate([first_word_t[lost], last_word_t[lost]]))
        ids_t, first_word_t, last_word_t = ids_t[kept], first_word_t[kept], last_word_t[kept]

    word_l = window.word_l
    token_l = np.flatnonzero(word_l >= 0)
    word_of = word_l[token_l]
    # Where the reference's tokens carry the space before a word, the word begins with it.
    unspaced_w = ((window.begin_w == 0) | ~space[np.maximum(window.begin_w - 1, 0)]) & ~space[window.begin_w]
    unspaced_l = np.zeros(len(word_l), bool)
    unspaced_l[token_l] = unspaced_w[word_of] & (np.diff(word_of, prepend=-1) > 0)
    single_t = np.flatnonzero(first_word_t == last_word_t)
    same = np.bincount(first_word_t[single_t], minlength=words)[:words] == np.bincount(word_of, minlength=words)
    for t in np.flatnonzero(first_word_t < last_word_t):  # a token over several words makes all of them unanswerable
        same[first_word_t[t] : last_word_t[t] + 1] = False
    same[cut_words[(cut_words >= 0) & (cut_words < words)]] = False
    teacher_t = single_t[same[first_word_t[single_t]]]
    reference_l = token_l[same[word_of]]
    ids = ids_t[teacher_t]
    if vocabulary.variant_V is not None:
        ids = np.where(unspaced_l[reference_l], vocabulary.variant_V[ids], ids)
    equal = vocabulary.to_student_V[ids] == window.ids_l[reference_l]
    same[word_l[reference_l[~equal]]] = False
    matched = same[word_l[reference_l]]
    column_l = np.full(len(word_l), -1, np.int64)
    column_l[reference_l[matched]] = teacher_t[matched]
    return Cut(ids_t, first_word_t, last_word_t, column_l, unspaced_l, cut_words)


def _words_of(
    offsets: NDArray[np.int64], special_t: NDArray[np.bool_], space: NDArray[np.bool_], window: _Window
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last word each token overlaps; the last is smaller where it overlaps none."""
    begin_t = (
        offsets[:, 0] + space[np.minimum(offsets[:, 0], len(space) - 1)]
    )  # "Ġword" begins with the space before it
    inside_t = ~special_t & (offsets[:, 1] > begin_t)
    first_word_t = np.where(inside_t, np.searchsorted(window.end_w, begin_t, side="right"), len(window.end_w))
    last_word_t = np.where(inside_t, np.searchsorted(window.begin_w, offsets[:, 1], side="left") - 1, -1)
    return first_word_t, last_word_t


def _in_runs(cut: Cut, masked_words: NDArray[Any]) -> bool:
    """Whether a token over several words overlaps one of `masked_words`."""
    runs = cut.first_word_t < cut.last_word_t
    first, last = cut.first_word_t[runs], cut.last_word_t[runs]
    return bool(((first[:, None] <= masked_words) & (masked_words <= last[:, None])).any())


def _split_runs(
    ids_t: NDArray[np.int64],
    offsets: NDArray[np.int64],
    special_t: NDArray[np.bool_],
    runs: list[Any],
    window: _Window,
    tokenizer: Any,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """The tokens `runs` replaced by their parts that lie in one word each, where the vocabulary has all of these.

    A token whose spelling has another length than its text, as with letters beyond ASCII in bytes, stays whole.
    """
    parts: list[tuple[int, int, int]] = []
    number: list[int] = []
    for t in runs:
        begin, end = (int(value) for value in offsets[t])
        spelt = tokenizer.id_to_token(int(ids_t[t]))
        borders = [begin, *(int(place) for place in window.end_w if begin < place < end), end]
        found = [tokenizer.token_to_id(spelt[left - begin : right - begin]) for left, right in pairwise(borders)]
        if len(spelt) == end - begin and None not in found:
            parts += [(token, left, right) for token, (left, right) in zip(found, pairwise(borders), strict=True)]
            number += [int(t)] * len(found)
    if not parts:
        return ids_t, offsets, special_t
    kept = np.setdiff1d(np.arange(len(ids_t)), number)
    order = np.argsort(np.concatenate([kept, number]), kind="stable")
    replaced = np.array(parts, np.int64)
    return (
        np.concatenate([ids_t[kept], replaced[:, 0]])[order],
        np.concatenate([offsets[kept], replaced[:, 1:]])[order],
        np.concatenate([special_t[kept], np.zeros(len(replaced), bool)])[order],
    )


def _masked_columns(cut: Cut, masked_words: NDArray[Any]) -> NDArray[np.int64]:
    """Columns of all tokens that overlap a masked word."""
    words = int(max(cut.last_word_t.max(), masked_words.max())) + 1
    seen = np.zeros(words + 1, np.int64)
    seen[np.unique(masked_words) + 1] = 1
    before = np.cumsum(seen)
    overlaps = cut.first_word_t <= cut.last_word_t
    first = np.minimum(cut.first_word_t, words)
    return np.flatnonzero(overlaps & (before[np.maximum(cut.last_word_t, -1) + 1] > before[first])).astype(np.int64)
