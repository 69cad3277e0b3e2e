"""The text that is taught, trained and judged on: documents, their sequences, and the masked positions in these."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.text.vocabulary import decode_pieces
from storage.reader import Store
from storage.records.sequences import Masks, Sequences
from storage.tables import DocumentStore


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskedCorpus:
    """Three stores that belong together."""

    documents: DocumentStore
    sequences: Store[Sequences]
    masks: Store[Masks]

    @staticmethod
    def open(documents: Path, sequences: Path, masks: Path) -> MaskedCorpus:
        """Open the stores; raises StaleParent unless the sequences are of these documents and the masks of these.

        Raises StoreMissing, WrongKind or SchemaMismatch for what is no such store.
        """
        corpus = MaskedCorpus(
            documents=DocumentStore(documents), sequences=Store(sequences, Sequences), masks=Store(masks, Masks)
        )
        corpus.sequences.require_parent("documents", corpus.documents)
        corpus.masks.require_parent("sequences", corpus.sequences)
        return corpus

    @property
    def pieces(self) -> list[str]:
        """The students' vocabulary: the text of each token, by id."""
        return decode_pieces(self.sequences.constant("pieces_utf8"))

    @property
    def special(self) -> dict[str, int]:
        """Ids of the special tokens by role: pad, unk, mask and so on."""
        special: dict[str, int] = self.sequences.facts["special"]
        return special
