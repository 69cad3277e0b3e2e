"""One teacher as a fusion reads it: its store's rows restored in the students' vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.sparse.restore import listed_probability
from pipeline.sparse.tail import NO_COUNTERPART
from storage.records.logits import SparseLogits

OUTSIDE_MINIMUM = 1e-6
"""Least prior mass outside a list over which a tail is spread: about the rounding of 1 minus a float32 sum."""


BLOCK_ROWS = 1024
"""Rows fused at once: fewer cost more overhead a row, more cost memory."""


class Correction(Protocol):
    """A change of a teacher's rows that multiplies probabilities by one number a token (`pipeline.fuse.debias`)."""

    @property
    def ratio_V(self) -> NDArray[np.float64]:
        """By students' id."""
        ...

    def rows(self, rows: RestoredRows) -> tuple[RestoredRows, NDArray[np.float64]]:
        """The changed rows, and the natural log [B] of the sum that each was divided by to sum to 1 again."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Teacher:
    """How one teacher's records are read in a fusion; made by `Teacher.of`."""

    lookup_V1: NDArray[np.uint32]
    """Student id of each of its Vt ids, V where it has no counterpart; one more entry, V, for "no id"."""
    bias_V1: NDArray[np.float32]
    """Its tail's bias over the V student ids, `NO_COUNTERPART` where it has none; one more entry for "no id"."""
    prior_V1: NDArray[np.float32]
    """Exponential of the bias of its tail as its store has it, whatever the correction; sums to 1."""
    basis_V1D: NDArray[np.float32]
    """Its tail's basis over student ids, divided by `temperature`; D may be 0."""
    column: int
    """Of the statistics at the targets' temperature."""
    temperature: float
    """That of `column`."""
    weight_column: int
    """Of the statistics that its weight is computed from."""
    log_prior: float
    """Natural log of its prior weight, up to a constant."""
    merges: bool
    """Whether two of its tokens share a student id."""
    correction: Correction | None = None
    """Applied to its restored rows; `bias_V1` is then that of the corrected tails."""

    @staticmethod
    def of(
        to_student_V: NDArray[np.int64],
        bias_V: NDArray[np.floating],
        basis_DV: NDArray[np.floating],
        *,
        vocabulary: int,
        column: int,
        temperature: float,
        weight_column: int,
        log_prior: float = 0.0,
    ) -> Teacher:
        """A teacher by its bridge (-1 where there is no counterpart) and its tail's bias and basis over its own ids.

        The exponentials of the bias sum to 1. Several tokens of one student id share it: their exponentials add up, and
        their basis is the mean, weighted by them. A token without a counterpart takes no part of a tail; the others are
        scaled up to hold all of it.
        """
        matched_V = to_student_V >= 0
        student_V = to_student_V[matched_V]
        prior_V = np.exp(bias_V[matched_V].astype(np.float64))
        mass_V = np.bincount(student_V, weights=prior_V, minlength=vocabulary)
        known_V = mass_V > 0
        bias_V1 = np.full(vocabulary + 1, NO_COUNTERPART)
        bias_V1[:-1][known_V] = np.log(mass_V[known_V] / mass_V.sum())
        basis_V1D = np.zeros((vocabulary + 1, len(basis_DV)))
        for d, basis_V in enumerate(basis_DV[:, matched_V].astype(np.float64)):
            total_V = np.bincount(student_V, weights=prior_V * basis_V, minlength=vocabulary)
            basis_V1D[:-1, d] = np.divide(total_V, mass_V, out=np.zeros(vocabulary), where=known_V) / temperature
        lookup_V = np.where(matched_V, to_student_V, vocabulary)
        return Teacher(
            lookup_V1=np.append(lookup_V, vocabulary).astype(np.uint32),
            bias_V1=bias_V1.astype(np.float32),
            prior_V1=np.exp(bias_V1).astype(np.float32),
            basis_V1D=basis_V1D.astype(np.float32),
            column=column,
            temperature=temperature,
            weight_column=weight_column,
            log_prior=log_prior,
            merges=len(np.unique(student_V)) < len(student_V),
        )

    @property
    def vocabulary(self) -> int:
        """Number of student ids."""
        return len(self.bias_V1) - 1

    @property
    def tail_rank(self) -> int:
        """D, the number of coordinates of a row's tail."""
        return int(self.basis_V1D.shape[1])


@dataclass(frozen=True, kw_only=True, slots=True)
class RestoredRows:
    """B rows of one teacher in the students' vocabulary, restored: p_BK at ids_BK, a tail of tail_B elsewhere."""

    ids_BK: NDArray[np.uint32]
    """V where there is none."""
    p_BK: NDArray[np.float32]
    tail_B: NDArray[np.float32]
    """Mass that is not at ids_BK."""
    log_rate_B: NDArray[np.float32]
    """The tail at v is exp(log_rate + bias(v) + coordinates @ basis(v)); -inf where there is no tail."""
    coordinates_BD: NDArray[np.float32]


def _entries(part: SparseLogits, column: int, temperature: float) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Ids and probabilities of all that a row lists or has drawn; 0 where there is no id."""
    p_BK = listed_probability(part, column=column, temperature=temperature)
    if not part.drawn_ids_PS.shape[1]:
        return part.ids_PK, p_BK
    drawn_BS = part.drawn_share_PS * np.nan_to_num(part.tail_PJ[:, column, None])
    return np.concatenate([part.ids_PK, part.drawn_ids_PS], axis=1), np.concatenate([p_BK, drawn_BS], axis=1)


def restate(part: SparseLogits, teacher: Teacher) -> RestoredRows:
    """One teacher's rows in the students' vocabulary, before a correction.

    All mass that is not at an entry with a student id is tail. A list that holds every id the teacher has a prior for
    (with a plain tail: all but `OUTSIDE_MINIMUM` of the prior) is scaled to sum to 1, as no id is left for a tail.
    """
    ids_BK, p_BK = _entries(part, teacher.column, teacher.temperature)
    ids_BK = teacher.lookup_V1.take(ids_BK, mode="clip")  # the sentinel is clipped to the last entry, "no id"
    p_BK = p_BK * (ids_BK < teacher.vocabulary)
    if teacher.merges or part.drawn_ids_PS.shape[1]:
        ids_BK, p_BK = _add_equal_ids(ids_BK, p_BK, teacher.vocabulary)
    mass_B = p_BK.sum(axis=1)
    if teacher.tail_rank:
        spread_B = np.nan_to_num(part.spread_PJ[:, teacher.column])
        has_tail_B = (ids_BK < teacher.vocabulary).sum(axis=1) < np.count_nonzero(teacher.prior_V1)
    else:
        outside_B = 1 - teacher.prior_V1.take(ids_BK).sum(axis=1)
        has_tail_B = outside_B > OUTSIDE_MINIMUM
        spread_B = np.log(outside_B, out=np.zeros_like(outside_B), where=has_tail_B)
    total_B = np.where(has_tail_B, np.maximum(mass_B, 1), np.where(mass_B > 0, mass_B, 1)).astype(np.float32)
    tail_B = (1 - mass_B / total_B) * has_tail_B
    log_tail_B = np.log(tail_B, out=np.full_like(tail_B, -np.inf), where=tail_B > 0)
    return RestoredRows(
        ids_BK=ids_BK,
        p_BK=p_BK / total_B[:, None],
        tail_B=tail_B,
        log_rate_B=(log_tail_B - spread_B).astype(np.float32),
        coordinates_BD=part.sketch_PD.astype(np.float32),
    )


def _add_equal_ids(
    ids_BK: NDArray[np.uint32], p_BK: NDArray[np.float32], vocabulary: int
) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Give the first of equal ids in a row their sum, and the others no id."""
    order_BK = np.argsort(ids_BK, axis=1, kind="stable")
    ids_BK = np.take_along_axis(ids_BK, order_BK, axis=1)
    p_BK = np.take_along_axis(p_BK, order_BK, axis=1)
    for column in range(ids_BK.shape[1] - 1, 0, -1):
        equal_B = ids_BK[:, column] == ids_BK[:, column - 1]
        p_BK[:, column - 1] += p_BK[:, column] * equal_B
        p_BK[equal_B, column] = 0
        ids_BK[equal_B, column] = vocabulary
    return ids_BK, p_BK


def blocks(records: Sequence[SparseLogits]) -> Iterator[tuple[slice, list[SparseLogits]]]:
    """Cuts of at most `BLOCK_ROWS` neighbouring rows, the same of all records, and where they lie."""
    for start in range(0, len(records[0]), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        yield block, [only_rows(record, block) for record in records]


def only_rows(record: SparseLogits, rows: slice) -> SparseLogits:
    """Some rows of a record, as views."""
    return SparseLogits(**{name: values[rows] for name, values in record.arrays().items()})


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """The same B rows of T teachers, restored and corrected."""

    rows: list[RestoredRows]
    covered_BT: NDArray[np.bool_]
    """Whether any listed token has a counterpart."""
    entropy_BT: NDArray[np.float32]
    """Of the full softmax, nats; NaN where a teacher did not answer."""
    log_total_BT: NDArray[np.float64]
    """Natural log of the sum that a correction divided a row by; 0 without one."""


def restore_block(parts: Sequence[SparseLogits], teachers: Sequence[Teacher]) -> Block:
    """Restore the same rows of each teacher, and correct them."""
    rows = [restate(part, teacher) for part, teacher in zip(parts, teachers, strict=True)]
    log_total_BT = np.zeros((len(parts[0]), len(teachers)))
    for t, teacher in enumerate(teachers):
        if teacher.correction is not None:
            rows[t], log_total_BT[:, t] = teacher.correction.rows(rows[t])
    return Block(
        rows=rows,
        covered_BT=np.stack([(row.ids_BK < teachers[0].vocabulary).any(axis=1) for row in rows], axis=1),
        entropy_BT=np.stack(
            [part.entropy_PJ[:, teacher.weight_column] for part, teacher in zip(parts, teachers, strict=True)], axis=1
        ),
        log_total_BT=log_total_BT,
    )


def tail_at(rows: RestoredRows, teacher: Teacher, row_N: NDArray[np.intp], ids_N: NDArray[Any]) -> NDArray[np.float32]:
    """The tail [N] at ids that the rows row_N do not list."""
    exponent = np.einsum("nd,nd->n", rows.coordinates_BD.take(row_N, axis=0), teacher.basis_V1D.take(ids_N, axis=0))
    exponent += rows.log_rate_B.take(row_N) + teacher.bias_V1.take(ids_N)
    return np.asarray(np.minimum(np.exp(exponent), rows.tail_B.take(row_N)))


def probability_at(rows: RestoredRows, teacher: Teacher, ids_B: NDArray[np.integer]) -> NDArray[np.float32]:
    """The restored probability [B] of one id a row."""
    equal_BK = rows.ids_BK == ids_B[:, None]
    tail_B = tail_at(rows, teacher, np.arange(len(ids_B)), ids_B)
    return np.where(equal_BK.any(axis=1), (rows.p_BK * equal_BK).sum(axis=1), tail_B)
