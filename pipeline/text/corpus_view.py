"""The corpus of teaching, training and evaluation: documents, their sequences, and the masked positions in these."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.text.vocabulary import decode_tokens
from storage.documents import DocumentStore
from storage.reader import Store
from storage.records.sequences import Masks, Sequences


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskedSequences:
    """Two stores that belong together. A student trains on them without the text, which a licence may keep private."""

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
