"""The corpus of teaching, training and evaluation: documents, their sequences, and the masked positions in these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from pipeline.text.inputs import TokenRows
from pipeline.text.vocabulary import decode_tokens
from storage.documents import DocumentStore
from storage.reader import Store
from storage.records.sequences import Masks, Sequences


@dataclass(slots=True)
class _Held:
    """The shard and the text that were read last, with their numbers."""

    shard: tuple[int, Any] = (-1, None)
    last: tuple[int, str] = (-1, "")


class SequenceTexts(Sequence[str]):
    """The text of the document of each of N sequences of a split, read a shard of documents at a time.

    Neighbouring sequences are of neighbouring documents, so whoever goes through them in order reads each shard once.
    """

    def __init__(self, documents: DocumentStore, split: str, document_N: NDArray[Any]) -> None:
        self._documents, self._split, self._document_N = documents, split, document_N
        self._held = _Held()

    def of(self, document_N: NDArray[Any]) -> SequenceTexts:
        """Texts of other sequences of the split; both have the same shard in memory, that of the last one read."""
        others = SequenceTexts(self._documents, self._split, document_N)
        others._held = self._held
        return others

    def __len__(self) -> int:
        return len(self._document_N)

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> list[str]: ...

    def __getitem__(self, row: int | slice) -> str | list[str]:
        """Raises what `DocumentStore.shard` raises."""
        if isinstance(row, slice):
            return [self[number] for number in range(*row.indices(len(self)))]
        document = int(self._document_N[row])
        found = self._held.last  # read once: another thread may replace it meanwhile
        if found[0] != document:
            number, place = divmod(document, self._documents.plan(self._split).shard_rows)
            shard = self._held.shard
            if shard[0] != number:
                shard = self._held.shard = number, self._documents.shard(self._split, number).column("text")
            found = self._held.last = document, shard[1][place].as_py()
        return found[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples:
    """Whole examples of a split, P masked positions in N sequences; all that is read to train or teach on them."""

    prediction_P: NDArray[np.int64]
    """Row of each masked position in the mask store, rising."""
    masks: Masks
    """`sequence_P` counts the N sequences."""
    sequence_N: NDArray[np.int64]
    """Row of each sequence in the split, rising."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskedSequences:
    """Two stores that belong together. A student trains on them without the documents."""

    sequences: Store[Sequences]
    masks: Store[Masks]

    @staticmethod
    def open_pair(sequences: Path, masks: Path) -> MaskedSequences:
        """Open the stores; raises StaleParent unless the masks are of these sequences.

        Raises StoreMissing, WrongKind or SchemaMismatch for a folder that is no such store.
        """
        opened = MaskedSequences(sequences=Store(sequences, Sequences), masks=Store(masks, Masks))
        opened.masks.require_parent("sequences", opened.sequences)
        return opened

    def examples(self, split: str, bounds: Sequence[tuple[int, int]]) -> Examples:
        """All examples with a prediction in one of the ranges `bounds`, which rise: neighbouring shards share some.

        Of a neighbouring shard no more is read than an example can have there.
        """
        rows, width = self.masks.plan(split).rows, self.width
        numbers, parts, done = [np.zeros(0, np.int64)], [], 0
        for start, stop in bounds:
            if max(start, done) >= stop:
                continue  # an example that began before has it
            low = max(done, start - width)
            near = self.masks.rows(split, low, min(rows, stop + width))
            key = near.copy_P.astype(np.int64) << 32 | near.sequence_P.astype(np.int64)
            first = int(np.searchsorted(key, key[max(start, done) - low], side="left"))
            last = int(np.searchsorted(key, key[stop - 1 - low], side="right"))
            parts.append({name: values[first:last] for name, values in near.arrays().items()})
            numbers.append(np.arange(low + first, low + last))
            done = low + last
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        sequence_N, sequence_P = np.unique(columns["sequence_P"], return_inverse=True)
        masks = replace(Masks(**columns), sequence_P=sequence_P.astype(columns["sequence_P"].dtype))
        return Examples(prediction_P=np.concatenate(numbers), masks=masks, sequence_N=sequence_N.astype(np.int64))

    def sequence_rows(self, split: str, sequence_N: NDArray[np.int64]) -> Sequences:
        """Whole records of sequences, whose rows rise."""
        return Sequences(**self.sequences.columns_at(split, sequence_N, list(self.sequences.manifest.arrays)))

    def token_rows(self, split: str, sequence_N: NDArray[np.int64]) -> TokenRows:
        """What a model reads of sequences, whose rows rise."""
        return TokenRows(**self.sequences.columns_at(split, sequence_N, ("input_ids_NL", "length_N")))

    @property
    def width(self) -> int:
        """Most tokens of a sequence, so also most masked positions of an example."""
        return int(self.sequences.manifest.arrays["input_ids_NL"].row_shape[0])

    @property
    def tokens(self) -> list[str]:
        """The students' vocabulary: the text of each token, by id."""
        return decode_tokens(self.sequences.constant("pieces_utf8"))

    @property
    def special(self) -> dict[str, int]:
        """Ids of the special tokens by role: pad, unk, mask and so on."""
        special: dict[str, int] = self.sequences.facts["special"]
        return special


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskedCorpus(MaskedSequences):
    """Three stores that belong together."""

    documents: DocumentStore

    @staticmethod
    def open(documents: Path, sequences: Path, masks: Path) -> MaskedCorpus:
        """Open the stores; raises StaleParent unless the sequences are of these documents and the masks of these.

        Raises StoreMissing, WrongKind or SchemaMismatch for a folder that is no such store.
        """
        opened = MaskedSequences.open_pair(sequences, masks)
        corpus = MaskedCorpus(documents=DocumentStore(documents), sequences=opened.sequences, masks=opened.masks)
        corpus.sequences.require_parent("documents", corpus.documents)
        return corpus
