"""Batches of words in context with the glosses of their candidate senses, as the two objectives encode them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.lexical.context import LexicalView, lexical_view, meaning_tokens
from pipeline.lexical.params import Reading, ReadingParams
from pipeline.senses.instances import Instances
from pipeline.senses.lexicon import Lexicon
from pipeline.text.ragged import Int, Ragged

if TYPE_CHECKING:
    from pipeline.text.tokenizer import FastTokenizer


MEAN_GLOSS_TOKENS = 24
"""Tokens of a gloss, as `micro_batches` estimates the cost of a candidate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossBatch:
    """I instances with C candidates in all: context and gloss of a candidate in one sequence."""

    sequences: Ragged
    """Token ids of each candidate's sequence [C rows]."""
    segments: Ragged
    """Token types of `sequences`: 0 for the context, 1 for the gloss."""
    start_I1: Int
    """Candidates of instance i are start[i] to start[i + 1]."""
    candidate_C: Int
    """Number of each candidate among all of the view."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BiBatch:
    """I instances with C candidates in all: W windows that hold the words, and D different glosses, each once."""

    windows: Ragged
    """Token ids of the windows [W rows]."""
    window_I: Int
    """Window of each instance, a row of `windows`."""
    first_I: Int
    """First column of the word in its window."""
    last_I: Int
    """One after the last."""
    glosses: Ragged
    """Token ids of the glosses [D rows]."""
    text_D: Int
    """Numbers of the gloss texts, rising."""
    gloss_C: Int
    """Gloss of each candidate, a row of `glosses`."""
    start_I1: Int
    """Candidates of instance i are start[i] to start[i + 1]."""
    candidate_C: Int
    """Number of each candidate among all of the view."""


LexicalBatch = CrossBatch | BiBatch


class BatchBuilder:
    """Makes batches of a view: `CrossBatch` for the reading "cross", `BiBatch` for "bi"."""

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
        # A gloss does not show its examples to a word that stands in an example of the inventory.
        text_C = view.candidates.flat[candidate_C] * 2 + np.repeat(view.bare_I[instance_I], length)
        if self.reading == "bi":
            return self._bi(instance_I, start, candidate_C, text_C)
        return self._cross(instance_I, start, candidate_C, text_C)

    def text_of_candidates(self) -> Int:
        """Number of the gloss text of every candidate of the view: twice its meaning, plus 1 without examples."""
        bare_C = np.repeat(self.view.bare_I, self.view.candidates.lengths())
        return np.asarray(self.view.candidates.flat * 2 + bare_C)

    def _bi(self, instance_I: Int, start_I1: Int, candidate_C: Int, text_C: Int) -> BiBatch:
        view_window_W, window_I = np.unique(self.view.window_I[instance_I], return_inverse=True)
        text_D, gloss_C = np.unique(text_C, return_inverse=True)
        return BiBatch(
            windows=self.view.windows.take(view_window_W),
            window_I=window_I.astype(np.int64),
            first_I=self.view.first_I[instance_I],
            last_I=self.view.last_I[instance_I],
            glosses=self.texts(text_D),
            text_D=text_D,
            gloss_C=gloss_C.astype(np.int64),
            start_I1=start_I1,
            candidate_C=candidate_C,
        )

    def texts(self, text_D: Int) -> Ragged:
        """Token ids of gloss texts by number: even numbers with examples, odd ones without."""
        rows = [(self.bare if text % 2 else self.full)[text // 2] for text in text_D.tolist()]
        return Ragged.of(rows, np.int32)

    def _cross(self, instance_I: Int, start_I1: Int, candidate_C: Int, text_C: Int) -> CrossBatch:
        prefix = len(self.tokenizer.prefix)
        sequences, segments = [], []
        for number, instance in enumerate(instance_I.tolist()):
            window = self.view.windows[int(self.view.window_I[instance])]
            first, last = int(self.view.first_I[instance]), int(self.view.last_I[instance])
            context = np.concatenate([window[:first], self._quote, window[first:last], self._quote, window[last:]])
            for text in text_C[start_I1[number] : start_I1[number + 1]].tolist():
                gloss = (self.bare if text % 2 else self.full)[text // 2][prefix:]
                sequences.append(np.concatenate([context, gloss]))
                segments.append(np.repeat([0, 1], [len(context), len(gloss)]))
        return CrossBatch(
            sequences=Ragged.of(sequences, np.int32),
            segments=Ragged.of(segments, np.int32),
            start_I1=start_I1,
            candidate_C=candidate_C,
        )


def micro_batches(
    builder: BatchBuilder, instance_I: Int, *, batch_tokens: int, gloss_tokens: int = MEAN_GLOSS_TOKENS
) -> list[Int]:
    """Cut a step's instances, in order, into runs that cost about `batch_tokens` tokens each.

    gloss_tokens is what a candidate is taken to cost: 0 where its gloss's vector is known.
    """
    view = builder.view
    length_I = view.windows.lengths()[view.window_I[instance_I]]
    count_I = view.candidates.lengths()[instance_I]
    if builder.reading == "cross":
        cost_I = count_I * (length_I + gloss_tokens)
    else:
        new_window = np.diff(view.window_I[instance_I], prepend=-1) != 0
        cost_I = count_I * gloss_tokens + np.where(new_window, length_I, 0)
    ends = (np.cumsum(cost_I) - 1) // batch_tokens
    return np.split(instance_I, np.flatnonzero(np.diff(ends)) + 1)


def open_batch_builder(
    reading: ReadingParams,
    objective: str,
    instances: Instances,
    lexicon: Lexicon,
    tokenizer: FastTokenizer,
    *,
    split: str | None,
    packed: bool = False,
) -> BatchBuilder:
    """Cut the instances of a split (None: all) into windows and tokenise the glosses of their candidates."""
    view = lexical_view(
        instances, lexicon, tokenizer, split=split, context_tokens=reading.context_tokens, packed=packed
    )
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
