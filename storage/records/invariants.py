"""Checks of one shard beyond those that its record makes on every read: pure functions, for audits.

Each returns one line per kind of fault, with the number of rows that have it and the first of them. A record's own
`check()` keeps training safe and is cheap; these find mistakes of a writer and traces of a forger.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.format import untrusted
from storage.format.arrays import sentinel
from storage.format.untrusted import Refused
from storage.records.base import Record
from storage.records.hidden_states import HiddenStates
from storage.records.logits import SparseLogits
from storage.records.sequences import Masks, Sequences
from storage.records.targets import FusedTargets

ROOT_TOLERANCE = 1 / 32
"""Allowed difference of two square roots of one probability, both stored: twice the step of an 8-bit code of sqrt(p) at
64 steps. The true token's probability is encoded differently beside the list and in it."""

ENTROPY_TOLERANCE = 1 / 8
"""Allowed excess of an entropy over that of the uniform distribution, nats; fixed-point steps are 1/64."""

LOGPROB_TOLERANCE = 1e-6
"""Allowed excess of a log-probability over 0, nats: rounding of float32."""

PRIOR_TOLERANCE = 1e-2
"""Allowed difference from 1 of the sum of a prior stored in single or half precision over a vocabulary."""


def record_faults(record: Record, *, vocabulary: int) -> list[str]:
    """Faults of a decoded record of any kind, whose ids lie below `vocabulary`; one line each, [] when it is sound."""
    check = CHECKS.get(type(record))
    return [] if check is None else check(record, vocabulary)


def sequences_faults(record: Sequences, vocabulary: int) -> list[str]:
    """Ids in the vocabulary; windows in order; words numbered from 0 without gaps; characters in order."""
    L = record.input_ids_NL.shape[1]
    used_NL = np.arange(L) < record.length_N[:, None]
    word_NL, inside_NL = record.word_NL.astype(np.int64), record.word_NL >= 0
    start_NL, end_NL = record.char_start_NL.astype(np.int64), record.char_end_NL.astype(np.int64)
    # Of the words alone: the number and the character reached so far, carried over special tokens.
    reached_NL = np.maximum.accumulate(np.where(inside_NL, word_NL, -1), axis=1)
    step_NL = word_NL - np.pad(reached_NL[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    read_NL = np.maximum.accumulate(np.where(inside_NL, start_NL, -1), axis=1)
    return [
        *_faults((record.length_N == 0) | (record.length_N > L), f"a length outside 1 to {L}"),
        *_faults((used_NL & (record.input_ids_NL >= vocabulary)).any(axis=1), f"an id outside {vocabulary}"),
        *_faults(~_ascending(record.document_N, record.window_N), "a window out of order or twice"),
        *_faults((inside_NL & ~used_NL).any(axis=1) | (word_NL < -1).any(axis=1), "a word number where no word is"),
        *_faults((inside_NL & ((step_NL < 0) | (step_NL > 1))).any(axis=1), "words that are not numbered one by one"),
        *_faults(((start_NL >= 0) != inside_NL).any(axis=1) | ((end_NL >= 0) != inside_NL).any(axis=1),
                 "characters without a word, or the reverse"),
        *_faults((inside_NL & ((end_NL < start_NL) | (start_NL < read_NL))).any(axis=1), "characters out of order"),
    ]  # fmt: skip


def masks_faults(record: Masks, vocabulary: int) -> list[str]:
    """Labels in the vocabulary; the order of predictions is the record's to check."""
    return _faults(record.label_P >= vocabulary, f"a label outside {vocabulary}")


def logits_faults(record: SparseLogits, vocabulary: int) -> list[str]:
    """Ids in the vocabulary and once a row; statistics in range; the true token's value agrees with list and tail."""
    covered_P = record.covered_P()
    entropy_PJ, logprob_PJ = record.entropy_PJ[covered_P], record.gold_logprob_PJ[covered_P]
    tail_PJ = record.tail_PJ[covered_P]
    highest = np.log(vocabulary) + ENTROPY_TOLERANCE
    faults = [
        *_id_faults(record.ids_PK, vocabulary, "an id"),
        *_id_faults(record.drawn_ids_PS, vocabulary, "a drawn id"),
        *_faults((record.gold_place_P >= 0) & ~covered_P, "a true token in a row without an answer"),
        *_faults(((entropy_PJ < 0) | (entropy_PJ > highest)).any(axis=1), "an impossible entropy", of=covered_P),
        *_faults((logprob_PJ > LOGPROB_TOLERANCE).any(axis=1), "a true token's probability above 1", of=covered_P),
        *_faults(((tail_PJ < 0) | (tail_PJ > 1 + ROOT_TOLERANCE)).any(axis=1), "an impossible tail", of=covered_P),
    ]
    root_P = np.exp(record.gold_logprob_PJ[:, 0] / 2)
    listed_P, most = record.gold_place_P >= 0, record.ids_PK.shape[1]
    place_P1 = record.gold_place_P.clip(0, max(0, most - 1))[:, None]
    if most:
        found_P = np.exp(np.take_along_axis(record.logprob_PK, place_P1, axis=1)[:, 0] / 2)
        differs_P = ~(np.abs(root_P - found_P) <= ROOT_TOLERANCE)
        faults += _faults(listed_P & covered_P & differs_P, "a true token whose value differs from the list's")
    above_P = root_P > np.sqrt(record.tail_PJ[:, 0].clip(0)) + ROOT_TOLERANCE
    return faults + _faults(~listed_P & covered_P & above_P, "an unlisted true token above the whole tail")


def hidden_faults(record: HiddenStates, vocabulary: int) -> list[str]:
    """True tokens in the vocabulary; the record checks that states are finite."""
    return _faults(record.covered_P() & (record.gold_id_P >= vocabulary), f"a true token outside {vocabulary}")


def targets_faults(record: FusedTargets, vocabulary: int) -> list[str]:
    """Ids in the vocabulary and once a row; shares in range; the true token's value is one of the list or in the tail.

    The true ids are in the masks, so the store alone shows no more.
    """
    covered_P = record.covered_P()
    weight_PT, tail_PT = record.weight_PT[covered_P], record.tail_PT[covered_P]
    outside_PT = (weight_PT < 0) | (weight_PT > 1 + ROOT_TOLERANCE) | (tail_PT < 0) | (tail_PT > 1 + ROOT_TOLERANCE)
    root_P = np.exp(record.gold_logprob_P[covered_P] / 2)
    listed_PM = np.exp(record.logprob_PM[covered_P] / 2)
    near_P = (np.abs(listed_PM - root_P[:, None]) <= ROOT_TOLERANCE).any(axis=1)
    in_tail_P = root_P <= np.sqrt(tail_PT.sum(axis=1).clip(0)) + ROOT_TOLERANCE
    return [
        *_id_faults(record.ids_PM, vocabulary, "an id"),
        *_faults(outside_PT.any(axis=1), "a weight or a tail outside 0 to 1", of=covered_P),
        *_faults(
            record.gold_logprob_P[covered_P] > LOGPROB_TOLERANCE, "a true token's probability above 1", of=covered_P
        ),
        *_faults(~(near_P | in_tail_P), "a true token whose value fits neither list nor tail", of=covered_P),
    ]


CHECKS: dict[type[Record], Callable[[Any, int], list[str]]] = {
    Sequences: sequences_faults,
    Masks: masks_faults,
    SparseLogits: logits_faults,
    HiddenStates: hidden_faults,
    FusedTargets: targets_faults,
}


def first_and_last(record: Record) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Sort keys of a record's first and last row, for records that are ordered over a whole split; None otherwise."""
    if not len(record) or not isinstance(record, Sequences | Masks):
        return None
    columns: tuple[NDArray[Any], ...] = (
        (record.document_N, record.window_N)
        if isinstance(record, Sequences)
        else (record.copy_P, record.sequence_P, record.column_P)
    )
    return tuple(int(column[0]) for column in columns), tuple(int(column[-1]) for column in columns)


def constant_faults(name: str, values: NDArray[Any], *, vocabulary: int) -> list[str]:
    """Faults of a constant of a store, by its name; one of unknown name must still be finite."""
    if name == "pieces_utf8":
        return _tokens_faults(values, vocabulary)
    if name == "order_V":
        whole = values.ndim == 1 and np.array_equal(np.sort(values), np.arange(vocabulary))
        return [] if whole else [f"no order of {vocabulary} ids"]
    if values.dtype.kind != "f":
        return []
    if not np.isfinite(values).all():
        return [f"{int((~np.isfinite(values)).sum())} values that are not finite"]
    if name.startswith(("tail_prior", "tail_bias")):
        prior = np.exp(values.astype(np.float64)) if name.startswith("tail_bias") else values.astype(np.float64)
        # A teacher's row in a fused store lacks the mass of tokens without a student id.
        sums, whole = prior.sum(axis=-1), name.endswith("JV")
        wrong = (sums > 1 + PRIOR_TOLERANCE) | (whole & (sums < 1 - PRIOR_TOLERANCE)) | (prior < 0).any(axis=-1)
        if values.shape[-1] != vocabulary or bool(np.any(wrong)):
            return [f"no distributions over {vocabulary} ids"]
    return []


def _tokens_faults(values: NDArray[Any], vocabulary: int) -> list[str]:
    try:
        tokens = untrusted.sequence(untrusted.parse(values.astype(np.uint8).tobytes()), "tokens")
    except Refused as error:
        return [f"no list of tokens: {error}"]
    if len(tokens) != vocabulary or not all(isinstance(token, str) for token in tokens):
        return [f"no list of {vocabulary} tokens"]
    return []


def _id_faults(ids_PK: NDArray[Any], vocabulary: int, what: str) -> list[str]:
    none = sentinel(ids_PK.dtype)
    sorted_PK = np.sort(ids_PK, axis=1)
    twice_P = ((sorted_PK[:, 1:] == sorted_PK[:, :-1]) & (sorted_PK[:, 1:] != none)).any(axis=1)
    outside_P = ((ids_PK >= vocabulary) & (ids_PK != none)).any(axis=1)
    return _faults(outside_P, f"{what} outside {vocabulary}") + _faults(twice_P, f"{what} twice in a row")


def _ascending(*columns: NDArray[Any]) -> NDArray[np.bool_]:
    """For each row, whether its key (`columns`, first the most significant) is larger than that of the row before."""
    larger = np.zeros(len(columns[0]), np.bool_)
    equal = np.ones(len(columns[0]), np.bool_)
    larger[:1] = True
    for column in columns:
        larger[1:] |= equal[1:] & (column[1:] > column[:-1])
        equal[1:] &= column[1:] == column[:-1]
    return larger


def _faults(bad: Any, what: str, *, of: NDArray[np.bool_] | None = None) -> list[str]:
    """One line when any row is bad; `of` marks the rows of the shard that `bad` speaks of."""
    rows = np.flatnonzero(bad)
    if not len(rows):
        return []
    first = rows[0] if of is None else np.flatnonzero(of)[rows[0]]
    return [f"{what}: {len(rows)} rows, the first is row {int(first)} of the shard"]
