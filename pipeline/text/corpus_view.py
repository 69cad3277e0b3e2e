"""The corpus of teaching, training and evaluation: documents, their sequences, and the masked positions in these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from numpy.typing import NDArray

from pipeline.text.vocabulary import decode_tokens
from storage.documents import DocumentStore
from storage.reader import Store
from storage.records.sequences import Masks, Sequences


class SequenceTexts(Sequence[str]):
    """The text of the document of each of N sequences of a split, read a shard of documents at a time.

    Neighbouring sequences are of neighbouring documents, so whoever goes through them in order reads each shard once.
    """

    def __init__(self, documents: DocumentStore, split: str, document_N: NDArray[Any]) -> None:
        self._documents, self._split, self._document_N = documents, split, document_N
        self._shard: tuple[int, Any] = (-1, None)
        self._last: tuple[int, str] = (-1, "")

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
        found = self._last  # read once: another thread may replace it meanwhile
        if found[0] != document:
            number, place = divmod(document, self._documents.plan(self._split).shard_rows)
            shard = self._shard
            if shard[0] != number:
                shard = self._shard = number, self._documents.shard(self._split, number).column("text")
            found = self._last = document, shard[1][place].as_py()
        return found[1]


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
