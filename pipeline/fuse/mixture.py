"""The mixture of several teachers' restored distributions, row by row, without a dense vector a row.

The target is p(v) = sum_t w_t p_t(v) over student ids v. Each p_t has the teacher's listed tokens at their student
ids; the rest of its mass is spread over the ids it does not list, in proportion to exp(bias + coordinates @ basis) of
its low-rank tail. So a teacher that does not list v still gives it a share of its tail. Tokens without a counterpart
count towards the tail. The probabilities of several tokens of one student id are added up.

Kept are the M most likely of the ids that any teacher lists. The mass outside them is kept as each teacher's share and
coordinates, so it is restored as the same mixture of the same tails. This is exact when every listed id is among the M.
Drawn ids count as listed ones. No weight reads the draws and the mixture is linear, so it stays an unbiased estimate
where the M hold all of them. A teacher none of whose listed tokens has a counterpart has no weight.

Lists are sorted by id, equal ids are added up by shifted sums, and the sums are sorted by size. All of it is
whole-array NumPy, which releases the interpreter lock and gives the same bits under any number of threads. The speed is
measured by `python -m benchmarks.speed --only fuse`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.fuse.gate import Gate, evidence
from pipeline.fuse.teacher import RestoredRows, Teacher, blocks, restore_block, tail_at
from pipeline.fuse.weighting import Weighting, weights
from storage.format.arrays import sentinel
from storage.records.base import id_dtype
from storage.records.logits import SparseLogits
from storage.records.targets import FusedTargets


@dataclass(frozen=True, kw_only=True, slots=True)
class Entries:
    """All lists of B rows side by side, E = T * K entries sorted by id and then by rank in their list."""

    ids_BE: NDArray[np.uint32]
    """V where there is none."""
    p_BE: NDArray[np.float32]
    """Weight times probability."""
    bit_BE: NDArray[Any]
    """The list it is from, as the bit 1 << t; 0 where there is none."""
    order_BE: NDArray[np.intp]
    """Its place before sorting: by rank, then by teacher."""


def fuse_shard(
    records: Sequence[SparseLogits],
    teachers: Sequence[Teacher],
    *,
    keep: int,
    weighting: Weighting,
    tau: float,
    label_P: NDArray[np.int64] | None = None,
    log_prior_PT: NDArray[np.float64] | None = None,
    gate: Gate | None = None,
    source_P: NDArray[np.int64] | None = None,
) -> FusedTargets:
    """Fuse the same rows of T teachers, whose true tokens are label_P; only a correction reads them.

    log_prior_PT is added to the teachers' log priors; the weighting `learned` needs a gate and the
    numbers of the sources of text, source_P. The result's `gold_logprob`
    is of their full softmax, whatever is listed; with a correction, of the corrected one divided by what the restored
    row was.
    """
    fused = _unanswered(len(records[0]), teachers, keep=keep)
    log_prior_T = np.array([teacher.log_prior for teacher in teachers])
    for block, parts in blocks(records):
        _fuse_block(
            parts,
            teachers,
            FusedTargets(**{name: values[block] for name, values in fused.arrays().items()}),
            weighting=weighting,
            tau=tau,
            label_B=None if label_P is None else label_P[block],
            log_prior_BT=log_prior_T if log_prior_PT is None else log_prior_T + log_prior_PT[block],
            gate=gate,
            source_B=None if source_P is None else source_P[block],
        )
    return fused


def _unanswered(rows: int, teachers: Sequence[Teacher], *, keep: int) -> FusedTargets:
    """Rows that no teacher has answered."""
    ids = np.dtype(id_dtype(teachers[0].vocabulary))
    tail_rank = max(teacher.tail_rank for teacher in teachers)
    return FusedTargets(
        ids_PM=np.full((rows, keep), sentinel(ids), ids),
        logprob_PM=np.full((rows, keep), np.nan, np.float32),
        weight_PT=np.full((rows, len(teachers)), np.nan, np.float32),
        tail_PT=np.full((rows, len(teachers)), np.nan, np.float32),
        gold_logprob_P=np.full(rows, np.nan, np.float32),
        sketch_PTD=np.zeros((rows, len(teachers), tail_rank), np.int8),
    )


def _fuse_block(
    parts: Sequence[SparseLogits],
    teachers: Sequence[Teacher],
    fused: FusedTargets,
    *,
    weighting: Weighting,
    tau: float,
    label_B: NDArray[np.int64] | None,
    log_prior_BT: NDArray[np.float64],
    gate: Gate | None,
    source_B: NDArray[np.int64] | None,
) -> None:
    """Fill the rows of `fused` that some teacher answered."""
    pairs = list(zip(parts, teachers, strict=True))
    block = restore_block(parts, teachers)
    score_BT = None
    if gate is not None:
        assert source_B is not None, "a gate needs the sources of text"
        score_BT = gate.scores(evidence(block, teachers, rarity_V=gate.rarity_V), source_B)
    weight_BT = weights(
        weighting,
        entropy_PT=block.entropy_BT,
        gold_logprob_PT=np.stack([part.gold_logprob_PJ[:, teacher.weight_column] for part, teacher in pairs], axis=1),
        covered_PT=block.covered_BT,
        log_prior_PT=log_prior_BT,
        tau=tau,
        score_PT=score_BT,
    )
    ids_BM, p_BM, tail_BT = _mix(block.rows, weight_BT, teachers, keep=fused.ids_PM.shape[1])
    # The stored values are rounded, so a row's sum is not quite 1: scale it to 1.
    total_B = np.maximum(p_BM.sum(axis=1) + tail_BT.sum(axis=1), np.finfo(np.float32).tiny)[:, None]
    p_BM, tail_BT = p_BM / total_B, tail_BT / total_B
    listed_BM = p_BM > 0
    np.copyto(fused.ids_PM[:, : ids_BM.shape[1]], ids_BM, casting="same_kind", where=listed_BM)
    log_p_BM = np.log(p_BM, out=np.zeros_like(p_BM), where=listed_BM)
    np.copyto(fused.logprob_PM[:, : ids_BM.shape[1]], log_p_BM, casting="same_kind", where=listed_BM)
    answered_B = block.covered_BT.any(axis=1)
    fused.weight_PT[answered_B] = weight_BT[answered_B]
    fused.tail_PT[answered_B] = tail_BT[answered_B]
    gold_BT = np.stack([part.gold_logprob_PJ[:, teacher.column] for part, teacher in pairs], axis=1).astype(np.float64)
    for t, teacher in enumerate(teachers):
        if teacher.correction is not None:
            assert label_B is not None, "a correction needs the true tokens"
            gold_BT[:, t] += np.log(teacher.correction.ratio_V[label_B]) - block.log_total_BT[:, t]
    fused.gold_logprob_P[answered_B] = _log_mean(gold_BT, weight_BT)[answered_B]
    for t, (part, teacher) in enumerate(pairs):
        fused.sketch_PTD[answered_B, t, : teacher.tail_rank] = part.sketch_PD[answered_B]


def _log_mean(log_p_BT: NDArray[np.floating], weight_BT: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log of the weighted mean of exp(log_p); teachers of weight 0 are not read."""
    score_BT = np.where(weight_BT > 0, log_p_BT, -np.inf).astype(np.float64)
    largest_B1 = score_BT.max(axis=1, keepdims=True)
    largest_B1[~np.isfinite(largest_B1)] = 0
    mean_B = (weight_BT * np.exp(score_BT - largest_B1)).sum(axis=1)
    return np.asarray(largest_B1[:, 0] + np.log(mean_B, out=np.full(len(mean_B), np.nan), where=mean_B > 0))


def _sorted_entries(predictions: Sequence[RestoredRows], weight_BT: NDArray[np.float32], vocabulary: int) -> Entries:
    rank_E = np.concatenate([np.arange(prediction.ids_BK.shape[1]) for prediction in predictions])
    teacher_E = np.repeat(np.arange(len(predictions)), [prediction.ids_BK.shape[1] for prediction in predictions])
    order_E = np.argsort(rank_E, kind="stable")
    ids_BE = np.concatenate([prediction.ids_BK for prediction in predictions], axis=1).take(order_E, axis=1)
    p_BE = np.concatenate([prediction.p_BK * weight_BT[:, t, None] for t, prediction in enumerate(predictions)], axis=1)
    bits = len(order_E).bit_length()
    # 32-bit keys sort faster than 64-bit ones.
    key_BE: NDArray[Any] = ids_BE.astype(np.uint32 if (vocabulary + 1) << bits <= 2**32 else np.uint64)
    key_BE <<= bits
    key_BE |= np.arange(len(order_E), dtype=key_BE.dtype)
    key_BE.sort(axis=1)
    order_BE = (key_BE & ((1 << bits) - 1)).astype(np.intp)
    ids_BE = (key_BE >> bits).astype(np.uint32)
    lists = np.min_scalar_type((1 << len(predictions)) - 1).type
    bit_E = np.array([lists(1 << t) for t in teacher_E[order_E]])
    return Entries(
        ids_BE=ids_BE,
        p_BE=_pick(p_BE, order_E.take(order_BE)),
        bit_BE=bit_E.take(order_BE) * (ids_BE < vocabulary),
        order_BE=order_BE,
    )


def _pick(values_BE: NDArray[Any], entry_BM: NDArray[np.intp]) -> NDArray[Any]:
    """The entries of each row at entry_BM; faster than `np.take_along_axis`."""
    rows, entries = values_BE.shape
    return values_BE.take(entry_BM + np.arange(0, rows * entries, entries)[:, None])


def _mix(
    predictions: Sequence[RestoredRows], weight_BT: NDArray[np.float32], teachers: Sequence[Teacher], *, keep: int
) -> tuple[NDArray[np.uint32], NDArray[np.float32], NDArray[np.float32]]:
    """The `keep` most likely listed ids of the mixture, their probabilities (0 where there are fewer), and tail_BT.

    Equal ids stand together, at most T of them; the first of such a run stands for it. Equal probabilities keep the
    order of the lists: stored probabilities have few levels, so ties are common.
    """
    entries = _sorted_entries(predictions, weight_BT, teachers[0].vocabulary)
    runs = [entries.ids_BE[:, shift:] == entries.ids_BE[:, :-shift] for shift in range(1, len(predictions))]
    first_BE = entries.ids_BE < teachers[0].vocabulary
    if runs:
        first_BE[:, 1:] &= ~runs[0]
    p_BE, lists_BE = entries.p_BE.copy(), entries.bit_BE.copy()
    for shift, equal in enumerate(runs, 1):
        p_BE[:, :-shift] += entries.p_BE[:, shift:] * equal
        lists_BE[:, :-shift] |= entries.bit_BE[:, shift:] * equal
    unlisted = _unlisted(entries.ids_BE, first_BE, lists_BE, predictions, teachers)
    for t, tail_BE in enumerate(unlisted):
        p_BE += tail_BE * weight_BT[:, t, None]
    p_BE *= first_BE

    best_BM, kept_BE = _largest(p_BE, entries.order_BE, keep)
    kept_BE &= first_BE
    tail_BT = np.full(weight_BT.shape, np.nan, np.float32)
    for t, prediction in enumerate(predictions):
        inside_B = (unlisted[t] * kept_BE).sum(axis=1) if unlisted else 0
        tail_BT[:, t] = weight_BT[:, t] * np.maximum(prediction.tail_B - inside_B, 0)
    if p_BE.shape[1] > keep:
        with_equals_BE = kept_BE.copy()
        for shift, equal in enumerate(runs, 1):
            with_equals_BE[:, shift:] |= equal & kept_BE[:, :-shift]
        lost_BE = entries.p_BE * ~with_equals_BE
        for t in range(len(predictions)):
            tail_BT[:, t] += (lost_BE * (entries.bit_BE == 1 << t)).sum(axis=1)
    return _pick(entries.ids_BE, best_BM), _pick(p_BE, best_BM), tail_BT


def _unlisted(
    ids_BE: NDArray[np.uint32],
    first_BE: NDArray[np.bool_],
    lists_BE: NDArray[Any],
    predictions: Sequence[RestoredRows],
    teachers: Sequence[Teacher],
) -> list[NDArray[np.float32]]:
    """For each teacher, its tail at ids it does not list itself and 0 at the others; empty for a single teacher."""
    if len(teachers) == 1:
        return []
    index_X = ids_BE.astype(np.intp).ravel()
    parts = []
    for t, (prediction, teacher) in enumerate(zip(predictions, teachers, strict=True)):
        place_N = np.flatnonzero(first_BE & (lists_BE & (1 << t) == 0))
        tail_BE = np.zeros(ids_BE.shape, np.float32)
        tail_BE.ravel()[place_N] = tail_at(prediction, teacher, place_N // ids_BE.shape[1], index_X.take(place_N))
        parts.append(tail_BE)
    return parts


def _largest(
    p_BE: NDArray[np.float32], order_BE: NDArray[np.intp], keep: int
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Positions of the `keep` largest of each row, largest first, ties by `order_BE`; and where they stand.

    The bits of floats that are not negative are ordered as the floats are, so the complement of the bits sorts
    downwards. One integer holds complement, order and position.
    """
    entries = p_BE.shape[1]
    bits = entries.bit_length()
    key_BE = (~p_BE.view(np.uint32)).astype(np.uint64)
    key_BE <<= bits
    key_BE |= order_BE.astype(np.uint64)
    key_BE <<= bits
    key_BE |= np.arange(entries, dtype=np.uint64)
    ranked_BM = np.sort(key_BE, axis=1)[:, :keep]
    return (ranked_BM & ((1 << bits) - 1)).astype(np.intp), key_BE <= ranked_BM[:, -1:]
