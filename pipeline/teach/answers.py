"""A model's answers to one batch: at words that both vocabularies cut alike, and at the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from pipeline.teach.words import Word, WordOutcomes
    from pipeline.text.inputs import View


@dataclass(frozen=True, kw_only=True, slots=True)
class CutPlace:
    """A word that is cut differently, in a batch."""

    row_M: NDArray[np.int64]
    column_M: NDArray[np.int64]
    respelt_M: NDArray[np.bool_]
    prediction_N: NDArray[np.int64]
    """Of the view."""
    spaced: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The model's answers to a batch: at words that both vocabularies cut alike, and at others."""

    logits: torch.Tensor
    gold: torch.Tensor
    row: NDArray[Any]
    words: list[Word]
    size: int
    """Rows of the shard."""

    def ordinary(self) -> tuple[torch.Tensor, torch.Tensor, NDArray[Any]] | None:
        """Logits, gold ids and rows of words that are cut alike; None when there is none."""
        return (self.logits, self.gold, self.row) if len(self.row) else None

    def joined(
        self, words: WordOutcomes, shares_CX: NDArray[np.float64]
    ) -> tuple[torch.Tensor, torch.Tensor, NDArray[Any]]:
        """The same of all words, over the outcomes; of words across a shard's border only its own rows.

        A word with a token that has no outcome, as punctuation that the teacher lacks, stays without an answer.
        """
        import torch

        parts, golds, rows = [words.extend(self.logits)], [self.gold], [self.row]
        for word in self.words:
            if words.outcome_V[word.label_N].min() < 0:
                continue
            mine = (word.row_N >= 0) & (word.row_N < self.size)
            parts.append(words.rows(word, shares_CX)[torch.from_numpy(mine).to(self.logits.device)])
            golds.append(torch.from_numpy(words.outcome_V[word.label_N[mine]]).to(self.gold))
            rows.append(word.row_N[mine])
        return torch.cat(parts), torch.cat(golds), np.concatenate(rows)


def cut_places(view: View, batch: NDArray[np.int64], *, first: int, stop: int) -> list[CutPlace]:
    """Words of the examples `batch` that are cut differently, with a prediction in [first, stop) of the view."""
    cut = view.cut_words
    if cut is None:
        return []
    number_G = np.full(len(view.sequence_G), -1)
    number_G[batch] = np.arange(len(batch))
    inside_W = (cut.prediction_W < stop) & (cut.prediction_W + cut.reference_tokens_W > first)
    places = []
    for w in np.flatnonzero(inside_W & (number_G[cut.example_W] >= 0)).tolist():
        tokens = int(cut.tokens_W[w])
        places.append(
            CutPlace(
                row_M=np.full(tokens, number_G[cut.example_W[w]]),
                column_M=cut.column_W[w] + np.arange(tokens),
                respelt_M=(np.arange(tokens) == 0) & ~cut.spaced_W[w],
                prediction_N=cut.prediction_W[w] + np.arange(cut.reference_tokens_W[w]),
                spaced=bool(cut.spaced_W[w]),
            )
        )
    return places
