"""Inputs of lexical training: its stores, opened once, their identity, and the words to learn from."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.lexical.batches import BatchBuilder, open_batch_builder
from pipeline.lexical.params import NO_SOFT_LABELS, LexicalParams, ReadingParams
from pipeline.lexical.soft_labels import open_soft_labels, read_soft_labels
from pipeline.models.identity import model_digest
from pipeline.senses.instances import Instances
from pipeline.senses.leakage import shows_heldout
from pipeline.senses.lexicon import Lexicon
from pipeline.text.corpus_view import MaskedCorpus
from pipeline.text.ragged import Int
from pipeline.text.tokenizer import FastTokenizer, load_tokenizer
from pipeline.train.train import open_targets
from storage.documents import DocumentStore
from storage.errors import DataError, ParamsError, VocabularyError
from storage.format.manifest import digest
from storage.reader import Store
from storage.records.targets import FusedTargets
from storage.tables import TableStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class RehearsalInputs:
    """The masked sequences that keep a student a language model."""

    corpus: MaskedCorpus
    targets: Store[FusedTargets] | None
    """None for true tokens alone, and for the start's own predictions."""
    own_targets: bool
    """True where the start's own predictions are the targets."""

    @staticmethod
    def open(params: LexicalParams, corpus: MaskedCorpus, *, tokens: int, name: str) -> RehearsalInputs | None:
        """The stores that student `name` rehearses on, or None where it does not.

        tokens is the size of the start's vocabulary. Raises VocabularyError when the stores have another one.
        """
        if params.language_model is None:
            return None
        vocabulary = corpus.masks.facts["vocabulary"]
        if vocabulary != tokens:
            raise VocabularyError(
                f"{corpus.masks.path}: {vocabulary} ids, but the start of lexical.{name} has {tokens}. "
                "Start from a model with the students' tokenizer"
            )
        own = params.own_targets
        targets = None if own else open_targets(params.targets, params.language_model.loss, masks=corpus.masks)
        return RehearsalInputs(corpus=corpus, targets=targets, own_targets=own)

    @property
    def identity(self) -> str:
        """The identity of these inputs, a part of the student's."""
        if self.own_targets:
            # Words of the first version, which identities hash.
            return f"own answers to {self.corpus.masks.identity}"
        return self.corpus.masks.identity if self.targets is None else self.targets.identity

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return int(self.corpus.sequences.manifest.arrays["input_ids_NL"].row_shape[0])


@dataclass(frozen=True, kw_only=True, slots=True)
class LexicalInputs:
    """All that one lexical student is made from."""

    start: Path
    tokenizer: FastTokenizer
    lexicon: Lexicon
    senses: dict[str, Instances]
    """Stores of words in context, by name."""
    documents: DocumentStore
    """Texts of its held-out split are kept from the student."""
    soft_labels: TableStore | None
    rehearsal: RehearsalInputs | None

    @staticmethod
    def open(params: LexicalParams, corpus: MaskedCorpus, *, lexicon: Path, senses: Path, name: str) -> LexicalInputs:
        """Open the stores of student `name`; senses is the folder of stores of words in context.

        Raises StaleParent when stores do not belong together, VocabularyError when masked sequences have another
        vocabulary than the start, ParamsError when soft labels have a weight and no store.
        """
        start = Path(params.start)
        tokenizer = load_tokenizer(start)
        inventory = Lexicon.open(lexicon)
        opened = {entry: Instances.open(senses / entry, lexicon=inventory) for entry in params.senses}
        return LexicalInputs(
            start=start,
            tokenizer=tokenizer,
            lexicon=inventory,
            senses=opened,
            documents=corpus.documents,
            soft_labels=_soft_labels(params),
            rehearsal=RehearsalInputs.open(params, corpus, tokens=len(tokenizer.tokens), name=name),
        )

    def parents(self) -> dict[str, str]:
        """Identities of the stores that every lexical student is made from, by name."""
        return {
            "lexicon": self.lexicon.identity,
            **{f"senses/{name}": found.identity for name, found in self.senses.items()},
            "documents": self.documents.identity,
        }

    def teachers(self, params: LexicalParams) -> dict[str, str]:
        """Identities of the stores of teachers' predictions that the student learns from, as its record names them."""
        stores = {
            "targets": None if self.rehearsal is None else self.rehearsal.targets,
            "soft_labels": self.soft_labels if params.soft_labels else None,  # a control learns nothing of them
        }
        return {name: store.identity for name, store in stores.items() if store is not None}

    def identity(self, params: LexicalParams) -> str:
        """The student's identity: of its settings and inputs, without paths."""
        settings = params.model_dump(by_alias=True, exclude={"start", "soft_labels_from", "targets"})
        return digest(
            {
                "lexical": settings,
                "parents": self.parents(),
                "start": model_digest(self.start),
                "beliefs": [] if self.soft_labels is None else [self.soft_labels.identity] * len(self.senses),
                "targets": None if self.rehearsal is None else self.rehearsal.identity,
            }
        )

    def heldout_texts(self) -> Iterator[str]:
        """The documents whose text is kept from the student, read a batch at a time."""
        for batch in self.documents.batches("heldout", columns=["text"]):
            yield from batch.column("text").to_pylist()


@dataclass(frozen=True, kw_only=True)
class LexicalData:
    """A view, the instances of it that are learned from, and a teacher's soft labels of them."""

    batch_builder: BatchBuilder
    instance_I: Int
    """Instances to learn from: more than one candidate, and gold or soft labels."""
    soft_label_C: NDArray[np.float32] | None
    """One for each candidate of the view; NaN without a teacher's soft label."""
    gold_weight: float
    soft_label_weight: float
    left_out: int
    """Instances that are not learned from because they would show held-out text."""


def lexical_data(
    inputs: LexicalInputs,
    reading: ReadingParams,
    objective: str,
    *,
    gold_weight: float,
    soft_label_weight: float,
    heldout: Iterable[str],
    packed: bool = False,
) -> LexicalData:
    """The words of the train split that have several senses and are annotated or have soft labels.

    Words that would show the student one of the texts `heldout` are left out. Raises DataError when none is left.
    """
    instances = Instances.joined(list(inputs.senses.values()))
    builder = open_batch_builder(
        reading, objective, instances, inputs.lexicon, inputs.tokenizer, split="train", packed=packed
    )
    view = builder.view
    soft_label_C = None
    if inputs.soft_labels is not None:
        soft_label_C = read_soft_labels(inputs.soft_labels, inputs.senses, row_I=view.row_I, candidates=view.candidates)
    useful_I = view.candidates.lengths() > 1
    if soft_label_C is None and len(view):
        useful_I &= np.add.reduceat(view.gold, view.candidates.start_R1[:-1]) > 0
    shown_I = useful_I & shows_heldout(instances, inputs.lexicon, heldout)[view.row_I]
    left_out = int(shown_I.sum())
    if left_out:
        log.info("%d of %d words left out: they would show it held-out text", left_out, int(useful_I.sum()))
    instance_I = np.flatnonzero(useful_I & ~shown_I)
    if not len(instance_I):
        raise DataError(
            f"senses {', '.join(inputs.senses)}: no word with several senses to learn from"
            + (f" but {left_out} that would show the student held-out text. Give other text" if left_out else "")
        )
    return LexicalData(
        batch_builder=builder,
        instance_I=instance_I,
        soft_label_C=soft_label_C,
        gold_weight=gold_weight,
        soft_label_weight=soft_label_weight,
        left_out=left_out,
    )


def _soft_labels(params: LexicalParams) -> TableStore | None:
    if params.soft_labels == 0 and (params.learns_senses or params.soft_labels_from == NO_SOFT_LABELS):
        return None  # a control opens its student's store all the same: the words with soft labels count its steps
    if params.soft_labels_from == NO_SOFT_LABELS:
        raise ParamsError(
            "lexical: soft_labels has a weight but no store. Set soft_labels_from to data/soft_labels/NAME"
        )
    return open_soft_labels(Path(params.soft_labels_from), params.senses)
