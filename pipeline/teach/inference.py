"""Run a model at the masked positions of a split, in its own vocabulary, and return its logits by batches.

Where its tokenizer cuts a word differently, the predictions are those of `pipeline.teach.words`; they are given when
shares are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.text.corpus_view import MaskedCorpus, SequenceTexts
from storage.errors import OutOfMemory, VocabularyError
from storage.records.sequences import Masks, Sequences

if TYPE_CHECKING:
    import torch

    from pipeline.models.masked_lm import MaskedLM
    from pipeline.teach.answers import Answer
    from pipeline.teach.words import Word, WordOutcomes
    from pipeline.text.inputs import View
    from pipeline.text.tokenizer import FastTokenizer


T = TypeVar("T")
Reduce = Callable[["torch.Tensor", "torch.Tensor", NDArray[Any]], T]

log = logging.getLogger(__name__)

LOGITS_BYTES = 2**30
"""Most memory that the logits of one forward take in float32, on average."""


@dataclass(frozen=True, kw_only=True)
class TeacherInputs:
    """A model's inputs: texts, sequences and masked positions of the splits, and the bridge to its vocabulary."""

    corpus: MaskedCorpus
    tokenizer: FastTokenizer
    to_student_V: NDArray[np.int64]
    variant_V: NDArray[np.int64] | None
    """`space_variants` of its vocabulary."""
    positions: int
    batch_tokens: int
    words: WordOutcomes | None = None
    """Outcomes for words that it cuts differently; None: it has the students' words, or they are not asked for."""
    halved: list[int] = field(default_factory=list)
    """Tokens a forward after each time that memory ran out; the last one counts."""

    @staticmethod
    def open(
        folder: Path,
        lm: MaskedLM | None,
        corpus: MaskedCorpus,
        *,
        batch_tokens: int,
        students_tokenizer: Path | None = None,
    ) -> TeacherInputs:
        """The inputs for the model in `folder`, loaded as `lm`; without `lm` they can be read, but not run.

        students_tokenizer is the folder of the corpus' tokenizer; without it words that the model's tokenizer cuts
        differently get no prediction. Raises VocabularyError when model and tokenizer, or that folder and the corpus,
        do not belong together.
        """
        from pipeline.teach.words import word_outcomes
        from pipeline.text.tokenizer import load_tokenizer, shortened
        from pipeline.text.vocabulary import bridge, space_variants

        tokenizer = load_tokenizer(folder)
        if lm is not None:
            tokenizer = shortened(tokenizer, lm.vocabulary)
        words = None
        if students_tokenizer is not None:
            students = load_tokenizer(students_tokenizer)
            if students.identity != corpus.sequences.manifest.inputs["tokenizer"]:
                raise VocabularyError(
                    f"{students_tokenizer}: expected the tokenizer of {corpus.sequences.path}. Run: dvc repro tokenize"
                )
            words = word_outcomes(tokenizer, students)
        return TeacherInputs(
            corpus=corpus,
            tokenizer=tokenizer,
            to_student_V=bridge(tokenizer.tokens, corpus.tokens).to_student_V,
            variant_V=space_variants(tokenizer.tokens, corpus.tokens),
            positions=0 if lm is None else lm.positions,
            batch_tokens=batch_tokens,
            words=words,
        )

    @property
    def tokens(self) -> list[str]:
        """All that a row of predictions is over: the model's tokens, and after them those that only students have."""
        return self.tokenizer.tokens if self.words is None else self.words.tokens

    def split(self, name: str) -> SplitInputs:
        """Open one split."""
        texts = SequenceTexts(self.corpus.documents, name, np.zeros(0, np.int64))
        return SplitInputs(inputs=self, name=name, texts=texts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Excerpt:
    """Whole examples of a split, in memory."""

    low: int
    """The first prediction; the others follow it."""
    masks: Masks
    """`sequence_P` counts the rows of `sequences`."""
    sequences: Sequences
    texts: Sequence[str]
    """The document of each sequence."""


@dataclass(frozen=True, kw_only=True)
class SplitInputs:
    """One split of a `TeacherInputs`; the examples that were asked for last are in memory."""

    inputs: TeacherInputs
    name: str
    texts: SequenceTexts
    _last: list[tuple[int, int, Excerpt]] = field(default_factory=list, init=False)

    @property
    def rows(self) -> int:
        """Predictions of the split."""
        return self.inputs.corpus.masks.plan(self.name).rows

    def excerpt(self, start: int, stop: int) -> Excerpt:
        """Predictions [start, stop), widened to whole examples: positions of the neighbouring shard are masked too."""
        if not self._last or self._last[0][:2] != (start, stop):
            self._last.clear()
            corpus = self.inputs.corpus
            found = corpus.examples(self.name, [(start, stop)])
            sequences = corpus.sequence_rows(self.name, found.sequence_N)
            texts = self.texts.of(sequences.document_N)
            low = int(found.prediction_P[0])
            self._last.append((start, stop, Excerpt(low=low, masks=found.masks, sequences=sequences, texts=texts)))
        return self._last[0][2]

    def respelt(self, start: int, stop: int) -> NDArray[np.bool_]:
        """True where the logits of predictions [start, stop) have words' tokens exchanged (`space_variants`)."""
        view, _, low = self._view(start, stop)
        if view.respelt_P is None:
            return np.zeros(stop - start, bool)
        return view.respelt_P[start - low : stop - low]

    def answers(
        self, lm: MaskedLM, start: int, stop: int, *, shares_CX: NDArray[np.float64] | None = None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, NDArray[Any]]]:
        """Logits [Q, Vt], gold ids [Q] and rows [Q] counted from `start`, for predictions [start, stop), by batches.

        With shares as `map_logits`. An example that lies across the border of two shards runs for both, and each keeps
        its own predictions.
        """
        pairs = self.map_logits(lm, start, stop, lambda logits, gold, _: (logits, gold), shares_CX=shares_CX)
        for (logits, gold), row in pairs:
            yield logits, gold, row

    def map_logits(
        self,
        lm: MaskedLM,
        start: int,
        stop: int,
        reduce: Reduce[T],
        *,
        shares_CX: NDArray[np.float64] | None = None,
    ) -> Iterator[tuple[T, NDArray[Any]]]:
        """For each batch, `reduce(logits, gold ids, rows)` and the rows.

        With shares (`pipeline.teach.words.fit_shares`) words that are cut differently are among them, and logits and
        gold ids are those of `TeacherInputs.tokens`.
        """
        words = self.inputs.words

        def reduced(answer: Answer) -> tuple[T, NDArray[Any]] | None:
            joined = answer.ordinary() if words is None or shares_CX is None else answer.joined(words, shares_CX)
            return None if joined is None else (reduce(*joined), joined[2])

        yield from self._map_answers(lm, start, stop, reduced)

    def map_words(self, lm: MaskedLM, start: int, stop: int, reduce: Callable[[Word], T]) -> Iterator[T]:
        """`reduce` of each word of predictions [start, stop) that is cut differently."""
        for batch in self._map_answers(lm, start, stop, lambda answer: [reduce(word) for word in answer.words]):
            yield from batch

    def _map_answers(self, lm: MaskedLM, start: int, stop: int, reduce: Callable[[Answer], T | None]) -> Iterator[T]:
        """`reduce` of the answers to each batch, where it is not None.

        A batch that does not fit into the accelerator's memory, in the model or in `reduce`, is cut in two, and
        from then on batches have half as many tokens. Raises OutOfMemory when a single sequence does not fit.
        """
        import torch

        from pipeline.text.inputs import token_batches

        view, gold_P, low = self._view(start, stop)
        length_G = view.lengths_G()
        left_G = np.arange(len(length_G))
        rows_a_token = len(view.column_P) / max(1, int(length_G.sum()))
        fitting = int(LOGITS_BYTES / (4 * len(self.inputs.to_student_V) * max(rows_a_token, 1e-9)))
        while len(left_G):
            tokens = self.inputs.halved[-1] if self.inputs.halved else min(self.inputs.batch_tokens, fitting)
            done = 0
            batches = [left_G[batch] for batch in token_batches(length_G[left_G], tokens)]
            for batch in batches:
                try:
                    answer = self._forward(
                        lm,
                        view,
                        batch=batch,
                        gold_P=gold_P,
                        label_P=self.excerpt(start, stop).masks.label_P,
                        offset=low - start,
                        size=stop - start,
                    )
                    result = None if answer is None else reduce(answer)
                    del answer
                except torch.OutOfMemoryError:
                    break
                done += 1
                if result is not None:
                    yield result
            else:
                return
            # Outside the handler: its exception references the tensors of the forward that failed.
            if lm.device.type == "cuda":
                torch.cuda.empty_cache()
            self._halve(len(batches[done]), int(length_G[batches[done]].max()))
            left_G = np.sort(np.concatenate(batches[done:]))

    def _view(self, start: int, stop: int) -> tuple[View, NDArray[np.int64], int]:
        """The model's view for predictions [start, stop), their true ids, and the first prediction of both.

        Whole examples, so `view` and ids may hold more predictions than these.
        """
        from pipeline.text.alignment import teacher_view

        part = self.excerpt(start, stop)
        view, gold_P = teacher_view(
            part.texts,
            part.sequences,
            part.masks,
            tokenizer=self.inputs.tokenizer.backend,
            to_student_V=self.inputs.to_student_V,
            variant_V=self.inputs.variant_V,
            special=self.inputs.tokenizer.special,
            positions=self.inputs.positions,
        )
        return view, gold_P, part.low

    def _forward(
        self,
        lm: MaskedLM,
        view: View,
        *,
        batch: NDArray[np.int64],
        gold_P: NDArray[np.int64],
        label_P: NDArray[Any],
        offset: int,
        size: int,
    ) -> Answer | None:
        """One forward; None when none of its predictions lies in [0, size) after adding `offset`."""
        import torch

        from pipeline.teach.answers import Answer, cut_places
        from pipeline.teach.words import Word
        from pipeline.text.inputs import model_inputs

        inputs = model_inputs(view, batch)
        row = inputs.prediction_Q + offset
        mine = (row >= 0) & (row < size)
        places = [] if self.inputs.words is None else cut_places(view, batch, first=-offset, stop=size - offset)
        if not mine.any() and not places:
            return None
        ids, attention, row_Q, column_Q = lm.tensors(
            inputs.input_ids_BL,
            inputs.attention_BL,
            np.concatenate([inputs.row_Q[mine], *(place.row_M for place in places)]),
            np.concatenate([inputs.column_Q[mine], *(place.column_M for place in places)]),
        )
        (gold,) = lm.tensors(gold_P[inputs.prediction_Q[mine]].astype(np.int64))
        # Some models pad their output beyond the tokenizer's ids; no text has those.
        logits = lm.logits(ids, attention, row_Q, column_Q)[:, : len(self.inputs.to_student_V)]
        if view.respelt_P is not None and self.inputs.variant_V is not None:
            respelt = [view.respelt_P[inputs.prediction_Q[mine]], *(place.respelt_M for place in places)]
            respelt_Q, variant_V = lm.tensors(np.concatenate(respelt), self.inputs.variant_V)
            logits = torch.where(respelt_Q[:, None], logits[:, variant_V], logits)
        answer = Answer(logits=logits[: len(gold)], gold=gold, row=row[mine], words=[], size=size)
        done = len(gold)
        for place in places:
            answer.words.append(
                Word(
                    log_p_MV=logits[done : done + len(place.row_M)].float().log_softmax(dim=1),
                    row_N=place.prediction_N + offset,
                    label_N=label_P[place.prediction_N].astype(np.int64),
                    spaced=place.spaced,
                )
            )
            done += len(place.row_M)
        return answer

    def _halve(self, examples: int, longest: int) -> None:
        """Halve the tokens of a forward that did not fit: `examples` sequences, the longest of `longest` tokens."""
        if examples == 1:
            raise OutOfMemory(
                f"one sequence of {longest} tokens does not fit into the accelerator's memory beside the model. Free "
                "memory that other processes hold there, lower runtime.dtype to bfloat16, or set runtime.device: cpu"
            )
        tokens = examples * longest // 2
        log.warning(
            "%d sequences of up to %d tokens do not fit into memory: going on with %d tokens a forward; lower "
            "runtime.batch_tokens to have this from the start",
            examples,
            longest,
            tokens,
        )
        self.inputs.halved.append(tokens)
