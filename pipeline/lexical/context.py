"""Lexical instances as a model reads them: windows of context around each sentence, and the texts of meanings.

A window holds one sentence (or a part of a long one) with as many tokens of its neighbours in the same document as fit,
equally many on both sides where there is text. All words of a sentence that have senses share its window, so a
bi-encoder reads it once.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.senses.instances import EXAMPLES, Instances
from pipeline.senses.lexicon import Lexicon
from pipeline.text.ragged import Int, Ragged
from pipeline.text.tokenizer import FastTokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class LexicalView:
    """Windows and the instances in them, in one vocabulary. W windows, I instances, C candidates in all, M meanings."""

    windows: Ragged
    """Token ids [W rows], special tokens included."""
    window_I: Int
    first_I: Int
    """First column of the word in its window."""
    last_I: Int
    """One after the last."""
    candidates: Ragged
    """Meanings of each instance's candidates [I rows]."""
    gold: NDArray[np.bool_]
    """Which candidates are right, along `candidates.flat`; none where the word is not annotated."""
    row_I: Int
    """Row of the instance in its store."""
    bare_I: NDArray[np.bool_]
    """True where the context is an example of the inventory: glosses must not show it."""

    def __len__(self) -> int:
        return len(self.window_I)


@dataclass(slots=True)
class _Part:
    """Tokens [start, stop) of a document of tokens [low, high), and its words: first token, last + 1, instance."""

    start: int
    stop: int
    low: int
    high: int
    words: list[tuple[int, int, int]]

    def takes(self, other: _Part, room: int) -> bool:
        """Whether the next part is of the same document and fits with this one into `room` tokens."""
        return other.low == self.low and self.start <= other.start and other.stop - self.start <= room


def lexical_view(
    instances: Instances,
    lexicon: Lexicon,
    tokenizer: FastTokenizer,
    *,
    split: str | None,
    context_tokens: int,
    packed: bool = False,
) -> LexicalView:
    """Cut sentences of a split (None: all) into windows of at most `context_tokens` tokens, special tokens included.

    With `packed` a window holds the words of as many sentences in a row as fit.
    """
    texts = instances.sentences["text"].to_pylist()
    encodings = tokenizer.backend.encode_batch(texts, add_special_tokens=False)
    tokens = Ragged.of([encoding.ids for encoding in encodings], np.int32)
    room = context_tokens - len(tokenizer.prefix) - len(tokenizer.suffix)
    rows = _rows_of_split(instances, split)
    sentence_I = instances.rows["sentence"].to_numpy().astype(np.int64)
    start_I, end_I = (instances.rows[name].to_numpy().astype(np.int64) for name in ("start", "end"))
    low_N, high_N = _document_bounds(instances.sentences, tokens)
    parts: list[_Part] = []
    for sentence, group in groupby(rows.tolist(), key=lambda row: int(sentence_I[row])):
        offsets = np.array(encodings[sentence].offsets, np.int64).reshape(-1, 2)
        spans = [(row, *_columns(offsets, int(start_I[row]), int(end_I[row]))) for row in group]
        here = int(tokens.start_R1[sentence])
        length = len(offsets)
        for chunk in range(0, max(1, length), room):
            inside = [span for span in spans if chunk <= span[1] < chunk + room]
            if not inside:
                continue
            stop = max([min(length, chunk + room), *(min(span[2], chunk + room) for span in inside)])
            words = [(here + first, here + min(last, stop), row) for row, first, last in inside]
            part = _Part(here + chunk, here + stop, int(low_N[sentence]), int(high_N[sentence]), words)
            if packed and parts and parts[-1].takes(part, room):
                parts[-1].stop = part.stop
                parts[-1].words += part.words
            else:
                parts.append(part)
    windows: list[NDArray[Any]] = []
    places: list[tuple[int, int, int, int]] = []
    for number, part in enumerate(parts):
        low, high = _widen(part.start, part.stop, room, part.low, part.high)
        windows.append(np.concatenate([tokenizer.prefix, tokens.flat[low:high], tokenizer.suffix]))
        shift = len(tokenizer.prefix) - low
        places += [(number, first + shift, last + shift, row) for first, last, row in part.words]
    place = np.array(places, np.int64).reshape(-1, 4)
    row_I = place[:, 3]
    candidates, gold = _candidates(instances.rows, row_I, lexicon)
    source_I = instances.sentences["source"].to_numpy(zero_copy_only=False)[sentence_I[row_I]]
    return LexicalView(
        windows=Ragged.of(windows, np.int32),
        window_I=place[:, 0],
        first_I=place[:, 1],
        last_I=place[:, 2],
        candidates=candidates,
        gold=gold,
        row_I=row_I,
        bare_I=np.asarray(source_I == EXAMPLES),
    )


def meaning_tokens(lexicon: Lexicon, tokenizer: FastTokenizer, *, wanted: Int, most: int, examples: bool) -> Ragged:
    """Token ids of meanings' texts [M rows], at most `most` with special tokens; rows that are not wanted are empty."""
    room = most - len(tokenizer.prefix) - len(tokenizer.suffix)
    encodings = tokenizer.backend.encode_batch(lexicon.texts(wanted, examples=examples), add_special_tokens=False)
    rows: list[list[int]] = [[] for _ in range(len(lexicon.meanings))]
    for meaning, encoding in zip(wanted.tolist(), encodings, strict=True):
        rows[meaning] = [*tokenizer.prefix, *encoding.ids[:room], *tokenizer.suffix]
    return Ragged.of(rows, np.int32)


def _rows_of_split(instances: Instances, split: str | None) -> Int:
    """Rows of the split's instances, by sentence."""
    sentence_I = instances.rows["sentence"].to_numpy().astype(np.int64)
    order = np.argsort(sentence_I, kind="stable")
    if split is None:
        return order
    split_N = instances.sentences["split"].to_numpy(zero_copy_only=False)
    return np.asarray(order[split_N[sentence_I[order]] == split])


def _document_bounds(sentences: pa.Table, tokens: Ragged) -> tuple[Int, Int]:
    """Where the tokens of each sentence's document begin and end; documents are runs of sentences."""
    names = sentences["document_id"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    first = np.flatnonzero(np.diff(names, prepend=-1))
    document_N = np.cumsum(np.diff(names, prepend=names[:1]) != 0) if len(names) else names
    edge: Int = tokens.start_R1[np.append(first, len(names))]
    return edge[document_N], edge[document_N + 1]


def _columns(offsets: Int, start: int, end: int) -> tuple[int, int]:
    """Tokens that overlap the characters [start, end); at least one, also where the tokenizer dropped them."""
    first = int(np.searchsorted(offsets[:, 1], start, side="right"))
    last = int(np.searchsorted(offsets[:, 0], end, side="left"))
    first = min(first, max(0, len(offsets) - 1))
    return first, max(last, first + 1)


def _widen(start: int, stop: int, room: int, low: int, high: int) -> tuple[int, int]:
    """Grow [start, stop) to `room` tokens within [low, high), equally on both sides where there is text."""
    spare = max(0, room - (stop - start))
    left = min(spare // 2, start - low)
    right = min(spare - left, high - stop)
    left = min(spare - right, start - low)
    return start - left, stop + right


def _candidates(rows: pa.Table, row_I: Int, lexicon: Lexicon) -> tuple[Ragged, NDArray[np.bool_]]:
    taken = rows.take(row_I)
    candidates = taken["candidates"].to_pylist()
    gold = taken["gold"].to_pylist()
    right = [np.isin(senses, keys) for senses, keys in zip(candidates, gold, strict=True)]
    senses = Ragged.of(candidates, np.int64)
    return (
        Ragged(flat=lexicon.meaning_S[senses.flat], start_R1=senses.start_R1),
        np.concatenate([np.zeros(0, bool), *right]),
    )
