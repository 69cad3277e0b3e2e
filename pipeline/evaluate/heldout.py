"""The held-out split, or the calibration split in its place, opened once for every evaluation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.core.seeds import generator
from pipeline.text.corpus_view import MaskedCorpus, MaskedSequences, SequenceTexts
from pipeline.text.inputs import TokenRows
from pipeline.text.vocabulary import decode_tokens
from storage.reader import Store
from storage.records.base import HELDOUT
from storage.records.sequences import Masks, Sequences


@dataclass(frozen=True, kw_only=True)
class Heldout:
    """A split that no student learns from: P predictions in D documents that have any."""

    sequences: Store[Sequences]
    masks: Store[Masks]
    rows: Sequences
    masked: Masks
    """Where the P predictions are made, and the true tokens there."""
    document_P: NDArray[np.int64]
    """Which of the D documents each prediction belongs to."""
    row_D: NDArray[np.int64]
    """Row of each document in the split's table."""
    source_D: list[str]
    texts: SequenceTexts
    """The text of each sequence's document, read when asked for."""

    @property
    def tokens(self) -> list[str]:
        """The students' vocabulary."""
        return decode_tokens(self.sequences.constant("pieces_utf8"))


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentTokens(TokenRows):
    """What the curve of a training reads of N sequences."""

    document_N: NDArray[Any]


def document_of_each(rows: Sequences | DocumentTokens, masks: Masks) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows [D] of the documents that have masked positions, rising, and which of them each position [P] is in."""
    row_D, document_P = np.unique(rows.document_N[masks.sequence_P], return_inverse=True)
    return row_D.astype(np.int64), document_P.astype(np.int64)


def document_means(rows: Sequences | DocumentTokens, masks: Masks, value_P: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of a value over the masked positions of each document [D] of `document_of_each`."""
    document_P = document_of_each(rows, masks)[1]
    return np.asarray(np.bincount(document_P, value_P) / np.bincount(document_P))


def curve_part(rows: Sequences | DocumentTokens, masks: Masks, *, positions: int) -> tuple[NDArray[np.int64], Masks]:
    """Rows of some documents, rising, and their masked positions: at least `positions`, or all of them; 0: all.

    A document is in whole or not at all. Which ones depends on the split alone, so all students have the same.
    """
    row_D, document_P = document_of_each(rows, masks)
    if not 0 < positions < len(masks):
        return row_D, masks
    order_D = generator(0, "curve").permutation(len(row_D))
    before_D = np.cumsum(np.bincount(document_P)[order_D]) - np.bincount(document_P)[order_D]
    chosen_D = np.zeros(len(row_D), bool)
    chosen_D[order_D[before_D < positions]] = True
    chosen_P = chosen_D[document_P]
    return row_D[chosen_D], Masks(**{name: values[chosen_P] for name, values in masks.arrays().items()})


def curve_text(corpus: MaskedSequences, *, positions: int) -> tuple[NDArray[np.int64], DocumentTokens, Masks]:
    """Rows of the documents of `curve_part`, their sequences and their masked positions: no other stays in memory."""
    store = corpus.sequences
    numbers, names = np.arange(store.plan(HELDOUT).rows), ("input_ids_NL", "length_N", "document_N")
    rows = DocumentTokens(**store.columns_at(HELDOUT, numbers, names))
    row_D, masks = curve_part(rows, corpus.masks.read(HELDOUT), positions=positions)
    chosen_N, sequence_P = np.unique(masks.sequence_P, return_inverse=True)
    part = DocumentTokens(
        input_ids_NL=rows.input_ids_NL[chosen_N],
        length_N=rows.length_N[chosen_N],
        document_N=rows.document_N[chosen_N],
    )
    return row_D, part, replace(masks, sequence_P=sequence_P.astype(masks.sequence_P.dtype))


def open_heldout(corpus: MaskedCorpus, split: str = HELDOUT) -> Heldout:
    """Read the held-out split of a corpus, or the calibration split, on which settings may be chosen."""
    rows, masked = corpus.sequences.read(split), corpus.masks.read(split)
    row_D, document_P = document_of_each(rows, masked)
    sources = [batch.column("source") for batch in corpus.documents.batches(split, columns=["source"])]
    return Heldout(
        sequences=corpus.sequences,
        masks=corpus.masks,
        rows=rows,
        masked=masked,
        document_P=document_P,
        row_D=row_D,
        source_D=pa.chunked_array(sources).take(row_D).to_pylist(),
        texts=SequenceTexts(corpus.documents, split, rows.document_N),
    )
