"""Batches of words in context and glosses, as the two objectives read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.lexical.context import LexicalView
from pipeline.lexical.params import Reading, ReadingParams
from pipeline.senses.instances import Instances
from pipeline.senses.lexicon import Lexicon
from pipeline.text.ragged import Int, Ragged

if TYPE_CHECKING:
    from pipeline.text.tokenizer import FastTokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class LexicalBatch:
    """I instances with C candidates in all, as arrays; D distinct sequences on the gloss side (bi)."""

    context: Ragged
    """Sequences that hold the word: windows (bi) or one a candidate with its gloss (cross)."""
    segment: Ragged | None
    """Token types of `context` (cross)."""
    gloss: Ragged | None
    """Distinct glosses (bi)."""
    text_D: Int
    """Numbers of the distinct glosses (bi)."""
    sequence_I: Int
    """Context of each instance (bi)."""
    first_I: Int
    last_I: Int
    gloss_C: Int
    """Gloss of each candidate (bi), or its sequence (cross)."""
    start_I1: Int
    """Candidates of instance i are start[i] to start[i + 1]."""
    instance_I: Int
    """Instances in the view."""
    candidate_C: Int
    """Candidates in the view."""


class BatchBuilder:
    """Makes batches of a view for one way of reading."""

    def __init__(
        self,
        view: LexicalView,
        *,
        reading: Reading,
        full: Ragged,
        bare: Ragged,
        tokenizer: FastTokenizer,
    ) -> None:
        self.view, self.reading, self.full, self.bare, self.tokenizer = view, reading, full, bare, tokenizer
        quote = tokenizer.backend.encode('"', add_special_tokens=False).ids
        self._quote = np.array(quote, np.int32)

    def batch(self, instance_I: Int, *, kept: NDArray[np.bool_] | None = None) -> LexicalBatch:
        """The batch of some instances, with the candidates that `kept` [all candidates of the view] allows."""
        view = self.view
        length = view.candidates.lengths()[instance_I]
        start = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
        candidate_C = np.arange(start[-1]) + np.repeat(view.candidates.start_R1[instance_I] - start[:-1], length)
        if kept is not None:
            keep_C = kept[candidate_C]
            length = np.add.reduceat(keep_C.astype(np.int64), start[:-1])
            candidate_C = candidate_C[keep_C]
            start = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
        # An example must not be found again in its own gloss.
        text_C = view.candidates.flat[candidate_C] * 2 + np.repeat(view.bare_I[instance_I], length)
        if self.reading == "bi":
            return self._bi(instance_I, start, candidate_C, text_C)
        return self._cross(instance_I, start, candidate_C, text_C)

    def text_of_candidates(self) -> Int:
        """Number of the gloss text of every candidate of the view."""
        bare_C = np.repeat(self.view.bare_I, self.view.candidates.lengths())
        return np.asarray(self.view.candidates.flat * 2 + bare_C)

    def _bi(self, instance_I: Int, start: Int, candidate_C: Int, text_C: Int) -> LexicalBatch:
        window_W, sequence_I = np.unique(self.view.window_I[instance_I], return_inverse=True)
        text_D, gloss_C = np.unique(text_C, return_inverse=True)
        return LexicalBatch(
            context=self.view.windows.take(window_W),
            segment=None,
            gloss=self.texts(text_D),
            text_D=text_D,
            sequence_I=sequence_I.astype(np.int64),
            first_I=self.view.first_I[instance_I],
            last_I=self.view.last_I[instance_I],
            gloss_C=gloss_C.astype(np.int64),
            start_I1=start,
            instance_I=instance_I,
            candidate_C=candidate_C,
        )

    def texts(self, text_D: Int) -> Ragged:
        """Gloss texts: even numbers whole, odd ones without examples."""
        rows = [(self.bare if text % 2 else self.full)[text // 2] for text in text_D.tolist()]
        return Ragged.of(rows, np.int32)

    def _cross(self, instance_I: Int, start: Int, candidate_C: Int, text_C: Int) -> LexicalBatch:
        prefix = len(self.tokenizer.prefix)
        sequences, segments = [], []
        for number, instance in enumerate(instance_I.tolist()):
            window = self.view.windows[int(self.view.window_I[instance])]
            first, last = int(self.view.first_I[instance]), int(self.view.last_I[instance])
            context = np.concatenate([window[:first], self._quote, window[first:last], self._quote, window[last:]])
            for text in text_C[start[number] : start[number + 1]].tolist():
                gloss = (self.bare if text % 2 else self.full)[text // 2][prefix:]
                sequences.append(np.concatenate([context, gloss]))
                segments.append(np.repeat([0, 1], [len(context), len(gloss)]))
        return LexicalBatch(
            context=Ragged.of(sequences, np.int32),
            segment=Ragged.of(segments, np.int32),
            gloss=None,
            text_D=np.zeros(0, np.int64),
            sequence_I=np.arange(len(instance_I)),
            first_I=self.view.first_I[instance_I],
            last_I=self.view.last_I[instance_I],
            gloss_C=np.arange(len(candidate_C)),
            start_I1=start,
            instance_I=instance_I,
            candidate_C=candidate_C,
        )


def open_batch_builder(
    reading: ReadingParams, objective: str, instances: Instances, lexicon: Lexicon, tokenizer: Any, *, split: str | None
) -> Any:
    """Windows and gloss texts of instances, ready to be made into batches."""
    from pipeline.lexical.context import lexical_view, meaning_tokens

    view = lexical_view(instances, lexicon, tokenizer, split=split, context_tokens=reading.context_tokens)
    texts = {
        shown: meaning_tokens(
            lexicon, tokenizer, wanted=np.unique(view.candidates.flat), most=reading.gloss_tokens, examples=shown
        )
        for shown in {False, reading.examples}
    }
    return BatchBuilder(
        view,
        reading="bi" if objective.startswith("bi") else "cross",
        full=texts[reading.examples],
        bare=texts[False],
        tokenizer=tokenizer,
    )
