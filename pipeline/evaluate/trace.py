"""Follow one document through all stores: its text, its masked positions, and all predictions there.

Reads the shards the document lies in and no others. Students are run, one in memory after the other, on the examples of
this document only.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.core.config import nearest
from pipeline.core.runtime import Runtime
from pipeline.evaluate.predictions import masked_logits
from pipeline.evaluate.results import training_record
from pipeline.evaluate.top_tokens import SHOWN_TOKENS, spelled, tops_of
from pipeline.text.corpus_view import MaskedCorpus
from pipeline.text.vocabulary import decode_tokens
from storage.documents import DocumentStore
from storage.errors import DataError
from storage.reader import Store
from storage.records.base import SPLITS, Record
from storage.records.logits import SparseLogits
from storage.records.sequences import Masks, Sequences
from storage.records.targets import FusedTargets

R = TypeVar("R", bound=Record)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The prediction of one teacher, fusion or student at one masked position."""

    name: str
    role: str
    """For example "teacher, weight 0.52"."""
    truth: float
    """Probability of the true token; NaN without a prediction."""
    top: list[tuple[str, float]]
    """Most likely tokens and their probabilities; empty without a prediction."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One document in all stores. P masked positions, in the order of the mask store."""

    doc_id: str
    split: str
    source: str
    text: str
    examples: list[str]
    """The text of each example with its masked positions numbered."""
    truth_P: list[str]
    """The true token of each masked position."""
    predictions_P: list[list[Prediction]]


@dataclass(frozen=True, kw_only=True)
class Stores:
    """The stores that predict for a document; students are model folders."""

    corpus: MaskedCorpus
    logits: dict[str, Store[SparseLogits]]
    targets: Store[FusedTargets]
    students: dict[str, Path]

    @staticmethod
    def open(data: Path, *, teachers: Sequence[str], targets: Path, students: dict[str, Path]) -> Stores:
        """Open everything under `data`; raises StoreMissing, or StaleParent when the stores do not belong together."""
        corpus = MaskedCorpus.open(data / "documents", data / "sequences", data / "masks")
        logits = {name: Store(data / "logits" / name, SparseLogits) for name in teachers}
        fused = Store(targets, FusedTargets)
        answered: list[Store[Any]] = [*logits.values(), fused]
        for store in answered:
            store.require_parent("masks", corpus.masks)
        for folder in students.values():
            training_record(folder, sequences=corpus.sequences, masks=corpus.masks)
        return Stores(corpus=corpus, logits=logits, targets=fused, students=students)


def trace(stores: Stores, doc_id: str | None, *, runtime: Runtime) -> Trace:
    """Follow the document `doc_id` of any split, or by default the first held-out one that has a masked position.

    Raises DataError with the nearest id when there is no such document.
    """
    split, row = _first(stores) if doc_id is None else _find(stores.corpus.documents, doc_id)
    document = stores.corpus.documents.read(split).slice(row, 1).to_pylist()[0]
    sequences, first = _windows(stores.corpus.sequences, split, row)
    everything = stores.corpus.masks.read(split)
    mine = (everything.sequence_P >= first) & (everything.sequence_P < first + len(sequences))
    prediction_P = np.flatnonzero(mine)
    masks = Masks(**{name: array[mine] for name, array in everything.arrays().items()})
    masks = Masks(masks.copy_P, (masks.sequence_P - first).astype(np.uint32), masks.column_P, masks.label_P)
    tokens = stores.corpus.tokens
    found: list[list[Prediction]] = [[] for _ in prediction_P]
    if len(prediction_P):
        columns = [
            *_teachers(stores, split, prediction_P),
            _fusion(stores.targets, _rows(stores.targets, split, prediction_P), masks, tokens),
            *_students(stores, sequences, masks, tokens, runtime=runtime),
        ]
        found = [list(at_position) for at_position in zip(*columns, strict=True)]
    return Trace(
        doc_id=document["doc_id"],
        split=split,
        source=document["source"],
        text=document["text"],
        examples=list(_examples(document["text"], sequences, masks)),
        truth_P=[spelled(tokens[label]) for label in masks.label_P],
        predictions_P=found,
    )


def lines(trace: Trace, *, positions: int) -> Iterator[str]:
    """The trace as text, with at most `positions` masked positions; 0 for all."""
    yield f"document {trace.doc_id} ({trace.split}, source {trace.source})"
    yield f"  {trace.text}"
    yield ""
    yield f"examples: {len(trace.examples)}, masked positions: {len(trace.truth_P)}"
    for text in trace.examples:
        yield f"  {text}"
    shown = len(trace.truth_P) if positions == 0 else min(positions, len(trace.truth_P))
    for number in range(shown):
        yield ""
        yield f"position {number + 1}: {trace.truth_P[number]}"
        names = max(len(prediction.name) for prediction in trace.predictions_P[number])
        roles = max(len(prediction.role) for prediction in trace.predictions_P[number])
        for prediction in trace.predictions_P[number]:
            head = f"  {prediction.name:<{names}}  {prediction.role:<{roles}}"
            if prediction.top:
                top = "  ".join(f"{token} {probability:.3f}" for token, probability in prediction.top)
                yield f"{head}  true {prediction.truth:.3f}  |  {top}"
            else:
                yield f"{head}  no prediction: the word is cut differently in its vocabulary"
    if shown < len(trace.truth_P):
        yield ""
        yield f"{len(trace.truth_P) - shown} more masked positions (--positions 0 shows all)"


def _find(documents: DocumentStore, doc_id: str) -> tuple[str, int]:
    import pyarrow.compute as pc

    for split in SPLITS:
        row = pc.index(documents.read(split).column("doc_id"), doc_id).as_py()
        if row >= 0:
            return split, int(row)
    ids = [name for split in reversed(SPLITS) for name in documents.read(split).column("doc_id").to_pylist()]
    alike = [name for name in ids if doc_id and doc_id in name][:1] or ids
    raise DataError(f"{documents.path}: no document '{doc_id}'{nearest(doc_id, alike) or _for_example(alike)}")


def _for_example(ids: list[str]) -> str:
    return f" (for example '{ids[0]}')" if ids else ""


def _first(stores: Stores) -> tuple[str, int]:
    split = "heldout"
    sequence = int(stores.corpus.masks.shard(split, 0).sequence_P[0])
    shard_rows = stores.corpus.sequences.plan(split).shard_rows
    shard = stores.corpus.sequences.shard(split, sequence // shard_rows)
    return split, int(shard.document_N[sequence % shard_rows])


def _windows(store: Store[Sequences], split: str, document: int) -> tuple[Sequences, int]:
    """The windows of a document and the row of the first; sequences lie in the order of their documents."""
    plan = store.plan(split)
    index = bisect_left(range(plan.shards), document, key=lambda i: int(store.shard(split, i).document_N[-1]))
    parts, first = [], plan.rows
    while index < plan.shards:
        shard = store.shard(split, index)
        mine = np.flatnonzero(shard.document_N == document)
        if not len(mine):
            break
        first = min(first, plan.bounds(index)[0] + int(mine[0]))
        parts.append(_take(shard, mine))
        index += 1
    if not parts:  # too short to be a window
        return _take(store.shard(split, 0), np.zeros(0, np.int64)), first
    return _join(parts), first


def _rows(store: Store[R], split: str, prediction_P: NDArray[np.int64]) -> R:
    """Rows of a split by number, ascending, from the shards they lie in."""
    shard_rows = store.plan(split).shard_rows
    index_P = prediction_P // shard_rows
    shards = [
        _take(store.shard(split, int(index)), prediction_P[index_P == index] % shard_rows)
        for index in np.unique(index_P)
    ]
    return _join(shards)


def _take(record: R, rows: NDArray[np.int64]) -> R:
    return type(record)(**{name: array[rows] for name, array in record.arrays().items()})


def _join(parts: Sequence[R]) -> R:
    arrays = [part.arrays() for part in parts]
    return type(parts[0])(**{name: np.concatenate([part[name] for part in arrays]) for name in arrays[0]})


def _examples(text: str, sequences: Sequences, masks: Masks) -> Iterator[str]:
    """The text of each example, "____[3]" for a masked word of one token, "____[3-4]" for one of two."""
    key_P = masks.copy_P.astype(np.int64) << 32 | masks.sequence_P
    for key in np.unique(key_P):
        prediction_P = np.flatnonzero(key_P == key)
        row = int(masks.sequence_P[prediction_P[0]])
        column_P = masks.column_P[prediction_P]
        starts, ends = sequences.char_start_NL[row], sequences.char_end_NL[row]
        inside = sequences.word_NL[row] >= 0
        parts, at = [], int(starts[inside][0])
        for word in dict.fromkeys(sequences.word_NL[row, column_P].tolist()):
            of_word = prediction_P[sequences.word_NL[row, column_P] == word] + 1
            columns = masks.column_P[of_word - 1]
            label = f"{of_word[0]}" if len(of_word) == 1 else f"{of_word[0]}-{of_word[-1]}"
            parts += [text[at : starts[columns[0]]], f"____[{label}]"]
            at = int(ends[columns[-1]])
        yield "".join([*parts, text[at : int(ends[inside][-1])]])


def _teachers(stores: Stores, split: str, prediction_P: NDArray[np.int64]) -> Iterator[list[Prediction]]:
    weight_PT = _rows(stores.targets, split, prediction_P).weight_PT
    fused: list[str] = stores.targets.facts["teachers"]
    for name, store in stores.logits.items():
        rows = _rows(store, split, prediction_P)
        tokens = decode_tokens(store.constant("pieces_utf8"))
        weights = weight_PT[:, fused.index(name)] if name in fused else [None] * len(rows)
        ids_PK, p_PK = _most_likely(rows)
        tops = tops_of(ids_PK, p_PK, list(map(spelled, tokens)))
        yield [
            Prediction(
                name=name,
                role="teacher, not fused" if weight is None else f"teacher, weight {np.nan_to_num(weight):.2f}",
                truth=float(np.exp(truth)),
                top=top,
            )
            for weight, truth, top in zip(weights, rows.gold_logprob_PJ[:, 0], tops, strict=True)
        ]


def _most_likely(rows: SparseLogits) -> tuple[NDArray[Any], NDArray[Any]]:
    """Ids, most likely first, and their probabilities: what is listed, or the draws of a teacher without lists."""
    if rows.ids_PK.shape[1]:
        return rows.ids_PK, np.exp(rows.logprob_PK.astype(np.float64))
    return rows.drawn_ids_PS, rows.drawn_share_PS


def _fusion(store: Store[FusedTargets], rows: FusedTargets, masks: Masks, tokens: list[str]) -> list[Prediction]:
    assert len(rows) == len(masks)
    tops = tops_of(rows.ids_PM, np.exp(rows.logprob_PM.astype(np.float64)), list(map(spelled, tokens)))
    return [
        Prediction(name=store.path.name, role="fused", truth=float(np.exp(truth)), top=top)
        for truth, top in zip(rows.gold_logprob_P, tops, strict=True)
    ]


def _students(
    stores: Stores, sequences: Sequences, masks: Masks, tokens: list[str], *, runtime: Runtime
) -> Iterator[list[Prediction]]:
    import torch

    from pipeline.models.masked_lm import masked_lm

    special = stores.corpus.special
    label_P = masks.label_P.astype(np.int64)
    names = list(map(spelled, tokens))
    for name, folder in stores.students.items():
        found: dict[int, Prediction] = {}
        with masked_lm(folder, device=runtime.device, dtype=torch.float32) as lm, torch.inference_mode():
            for logits_QV, row_Q in masked_logits(
                lm, sequences, masks, special=special, batch_tokens=runtime.batch_tokens
            ):
                probability_QV = logits_QV.softmax(dim=1).cpu()
                top = probability_QV.topk(min(SHOWN_TOKENS, probability_QV.shape[1]), dim=1)
                tops = tops_of(top.indices.numpy(), top.values.numpy(), names)
                for number, row in enumerate(row_Q.tolist()):
                    truth = float(probability_QV[number, label_P[row]])
                    found[row] = Prediction(name=name, role="student", truth=truth, top=tops[number])
        yield [found[row] for row in range(len(masks))]
