"""What a model is asked: the blanks of a split as its own vocabulary sees them, and its answers by batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from storage.errors import VocabularyError
from storage.manifest import digest, file_sha256
from storage.reader import Store
from storage.records import Masks, Sequences
from storage.tables import DocumentStore

if TYPE_CHECKING:
    import torch

    from pipeline.models import MaskedLM
    from pipeline.tokens import FastTokenizer


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """Everything a model is asked: texts, sequences and blanks of the splits, and the bridge to its vocabulary."""

    documents: DocumentStore
    sequences: Store[Sequences]
    masks: Store[Masks]
    tokenizer: FastTokenizer
    to_student_V: NDArray[np.int64]
    positions: int
    batch_tokens: int

    @staticmethod
    def open(folder: Path, lm: MaskedLM, *, documents: Path, sequences: Path, masks: Path, batch_tokens: int) -> Lesson:
        """The lesson for the model in `folder`, loaded as `lm`.

        Raises StaleParent when the stores do not belong together, VocabularyError when model and tokenizer do not.
        """
        from pipeline.tokens import load_tokenizer
        from pipeline.vocab import bridge, decode_pieces

        tokenizer = load_tokenizer(folder)
        stores = DocumentStore(documents), Store(sequences, Sequences), Store(masks, Masks)
        stores[1].require_parent("documents", stores[0])
        stores[2].require_parent("sequences", stores[1])
        if lm.vocabulary < len(tokenizer.pieces):
            raise VocabularyError(
                f"{folder}: the tokenizer has {len(tokenizer.pieces)} ids, the model {lm.vocabulary}: they do not "
                "belong together. Give the model with its own tokenizer"
            )
        return Lesson(
            documents=stores[0],
            sequences=stores[1],
            masks=stores[2],
            tokenizer=tokenizer,
            to_student_V=bridge(tokenizer.pieces, decode_pieces(stores[1].constant("pieces_utf8"))).to_student_V,
            positions=lm.positions,
            batch_tokens=batch_tokens,
        )

    def split(self, name: str) -> SplitLesson:
        """Load one split."""
        sequences = self.sequences.read(name)
        column = self.documents.read(name).column("text")
        texts = column.take(sequences.document_N.astype(np.int64)).to_pylist()
        return SplitLesson(lesson=self, texts=texts, sequences=sequences, masks=self.masks.read(name))


@dataclass(frozen=True, kw_only=True)
class SplitLesson:
    """One split of a `Lesson`, in memory."""

    lesson: Lesson
    texts: list[str]
    sequences: Sequences
    masks: Masks

    def whole_passes(self, start: int, stop: int) -> tuple[int, int]:
        """Predictions [start, stop) widened to whole passes: a blank of the neighbouring shard is blank here too."""
        key_P = (self.masks.copy_P.astype(np.int64) << 32) | self.masks.sequence_P.astype(np.int64)
        low = int(np.searchsorted(key_P, key_P[start], side="left"))
        high = int(np.searchsorted(key_P, key_P[stop - 1], side="right"))
        return low, high

    def answers(self, lm: MaskedLM, start: int, stop: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, NDArray[Any]]]:
        """Logits [Q, Vt], gold ids [Q] and rows [Q] counted from `start`, for predictions [start, stop), by batches.

        A pass that lies across the border of two shards runs in both, and each keeps its own predictions.
        """
        from pipeline.alignment import teacher_view
        from pipeline.batches import model_inputs, token_batches

        low, high = self.whole_passes(start, stop)
        part = Masks(**{name: array[low:high] for name, array in self.masks.arrays().items()})
        view, gold_P = teacher_view(
            self.texts,
            self.sequences,
            part,
            tokenizer=self.lesson.tokenizer.backend,
            to_student_V=self.lesson.to_student_V,
            special=self.lesson.tokenizer.special,
            positions=self.lesson.positions,
        )
        for batch in token_batches(view.lengths_G(), self.lesson.batch_tokens):
            inputs = model_inputs(view, batch)
            row = inputs.prediction_Q + low - start
            mine = (row >= 0) & (row < stop - start)
            if not mine.any():
                continue
            ids, attention, row_Q, column_Q = lm.tensors(
                inputs.input_ids_BL, inputs.attention_BL, inputs.row_Q[mine], inputs.column_Q[mine]
            )
            (gold,) = lm.tensors(gold_P[inputs.prediction_Q[mine]].astype(np.int64))
            # Some models pad their output beyond the tokenizer's ids; no text has those.
            logits = lm.logits(ids, attention, row_Q, column_Q)[:, : len(self.lesson.to_student_V)]
            yield logits, gold, row[mine]


def model_digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of what decides a model's answers: weights, configuration, tokenizer."""
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    names += [name for name in ("config.json", "tokenizer.json") if (folder / name).is_file()]
    return digest({name: file_sha256(folder / name) for name in names})
