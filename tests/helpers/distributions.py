"""Records of teachers and fusions made by hand from dense float64 distributions, without the code that makes them.

The dense distributions are what tests compare with. `tests.helpers.teacher_stores` writes such records into stores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.format.arrays import sentinel
from storage.records.base import id_dtype
from storage.records.logits import SparseLogits
from storage.records.targets import FusedTargets

Dense = NDArray[np.float64]


def softmaxes(rng: np.random.Generator, gold_P: NDArray[Any], vocabulary: int, *, knows: float = 3.0) -> Dense:
    """Random distributions [P, V] that lean towards the true token."""
    logits_PV = rng.normal(size=(len(gold_P), vocabulary)) * 2
    logits_PV[np.arange(len(gold_P)), gold_P] += knows
    return softmax(logits_PV)


def softmax(logits_PV: Dense) -> Dense:
    """Plain softmax over the last axis."""
    weights = np.exp(logits_PV - logits_PV.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def cooled(dense_PV: Dense, temperature: float) -> Dense:
    """The distributions at another temperature."""
    return softmax(np.log(dense_PV) / temperature)


@dataclass(frozen=True, kw_only=True)
class TailOf:
    """How a teacher's tails are written down: constants of its store, and codes of dense rows."""

    temperatures: list[float]
    bias_JV: NDArray[np.float32]
    basis_DV: NDArray[np.float16]
    """D may be 0."""

    @staticmethod
    def plain(dense_PV: Dense, *, keep: int, temperatures: list[float]) -> TailOf:
        """One prior for all rows: the log of the mean distribution outside the `keep` most likely ids."""
        prior_JV = np.stack([tail_prior(cooled(dense_PV, temperature), keep=keep) for temperature in temperatures])
        return TailOf(
            temperatures=temperatures,
            bias_JV=np.log(prior_JV).astype(np.float32),
            basis_DV=np.zeros((0, dense_PV.shape[1]), np.float16),
        )

    @staticmethod
    def low_rank(dense_PV: Dense, *, rank: int, step: float, temperatures: list[float]) -> TailOf:
        """`rank` principal directions of the log-probabilities around their mean."""
        score_PV = _centred(dense_PV)
        mean_V = score_PV.mean(axis=0)
        _, _, right_DV = np.linalg.svd(score_PV - mean_V, full_matrices=False)
        return TailOf(
            temperatures=temperatures,
            bias_JV=np.stack([np.log(softmax(mean_V / t)) for t in temperatures]).astype(np.float32),
            basis_DV=(step * right_DV[:rank]).astype(np.float16),
        )

    def codes(self, dense_PV: Dense) -> NDArray[np.int8]:
        """Least-squares coordinates of the rows, rounded."""
        excess_PV = _centred(dense_PV) - (self.bias_JV[0] - self.bias_JV[0].mean())
        coordinate_PD = excess_PV @ np.linalg.pinv(self.basis_DV.astype(np.float64))
        return np.rint(coordinate_PD).clip(-127, 127).astype(np.int8)

    def exponent(self, code_D: NDArray[np.int8], column: int) -> NDArray[np.float64]:
        """Of all ids: outside a list p is proportional to its exponential."""
        coordinates_V = code_D.astype(np.float64) @ self.basis_DV.astype(np.float64)
        return np.asarray(self.bias_JV[column] + coordinates_V / self.temperatures[column])

    def constants(self, order_V: NDArray[np.uint32]) -> dict[str, NDArray[Any]]:
        """What a teacher's store holds of it."""
        basis = {"tail_basis_DV": self.basis_DV} if len(self.basis_DV) else {}
        return {"tail_bias_JV": self.bias_JV, "order_V": order_V, **basis}


def _centred(dense_PV: Dense) -> Dense:
    score_PV = np.log(dense_PV)
    return score_PV - score_PV.mean(axis=1, keepdims=True)


def sparse_logits(
    dense_PV: Dense,
    gold_P: NDArray[Any],
    *,
    keep: int | NDArray[Any],
    tail: TailOf,
    covered_P: NDArray[np.bool_],
    draws: int = 0,
    seed: int = 0,
) -> SparseLogits:
    """What a teacher says of dense distributions; rows that are not covered are empty.

    keep is the length of all lists or of each ([P]; 0 only with draws, which are made at the second temperature).
    """
    rows, vocabulary = dense_PV.shape
    keep_P = np.broadcast_to(np.asarray(keep), rows)
    ids = np.dtype(id_dtype(vocabulary))
    most, columns, rng = int(keep_P.max()), len(tail.temperatures), np.random.default_rng(seed)
    made = SparseLogits(
        ids_PK=np.full((rows, most), sentinel(ids), ids),
        logprob_PK=np.full((rows, most), np.nan, np.float32),
        drawn_ids_PS=np.full((rows, draws), sentinel(ids), ids),
        drawn_share_PS=np.zeros((rows, draws), np.float32),
        tail_PJ=np.full((rows, columns), np.nan, np.float32),
        gold_logprob_PJ=np.full((rows, columns), np.nan, np.float32),
        gold_place_P=np.full(rows, -1, np.int32),
        entropy_PJ=np.full((rows, columns), np.nan, np.float32),
        sketch_PD=np.zeros((rows, len(tail.basis_DV)), np.int8),
        spread_PJ=np.full((rows, columns), np.nan, np.float32),
    )
    codes_PD = tail.codes(dense_PV)
    for row in np.flatnonzero(covered_P):
        listed = np.argsort(-dense_PV[row], kind="stable")[: keep_P[row]]
        made.ids_PK[row, : len(listed)] = listed
        made.logprob_PK[row, : len(listed)] = np.log(dense_PV[row, listed])
        made.gold_place_P[row] = [*listed.tolist(), gold_P[row]].index(gold_P[row])
        if made.gold_place_P[row] == len(listed):
            made.gold_place_P[row] = -1
        made.sketch_PD[row] = codes_PD[row]
        outside_V = np.ones(vocabulary, bool)
        outside_V[listed] = False
        for j, temperature in enumerate(tail.temperatures):
            at_V = cooled(dense_PV[row], temperature)
            made.tail_PJ[row, j] = at_V[outside_V].sum()
            made.gold_logprob_PJ[row, j] = np.log(at_V[gold_P[row]])
            made.entropy_PJ[row, j] = -(at_V * np.log(at_V)).sum()
            power_V = np.exp(tail.exponent(codes_PD[row], j)) * outside_V
            made.spread_PJ[row, j] = np.log(power_V.sum()) if outside_V.any() else 0
            if j == 1 and draws:
                drawn = rng.choice(vocabulary, draws, p=at_V * outside_V / (at_V * outside_V).sum())
                found, count = np.unique(drawn, return_counts=True)
                order = np.argsort(-count, kind="stable")
                made.drawn_ids_PS[row, : len(found)] = found[order]
                made.drawn_share_PS[row, : len(found)] = count[order] / draws
    made.check()
    return made


def tail_prior(dense_PV: Dense, *, keep: int) -> NDArray[np.float64]:
    """Mean distribution outside the `keep` most likely ids, [V]; sums to 1 and is nowhere 0."""
    outside_PV = dense_PV.copy()
    np.put_along_axis(outside_PV, np.argsort(-dense_PV, axis=1)[:, :keep], 0, axis=1)
    total_V = outside_PV.sum(axis=0) + 1e-9
    return np.asarray(total_V / total_V.sum())


def fused_targets(
    dense_TPV: Dense,
    weight_PT: Dense,
    label_P: NDArray[Any],
    *,
    keep: int,
    covered_P: NDArray[np.bool_],
    sketch_PTD: NDArray[np.int8] | None = None,
) -> FusedTargets:
    """The mixture of dense distributions over the students' ids, with the tails' coordinates, by default none."""
    teachers, rows, vocabulary = dense_TPV.shape
    ids = np.dtype(id_dtype(vocabulary))
    made = FusedTargets(
        ids_PM=np.full((rows, keep), sentinel(ids), ids),
        logprob_PM=np.full((rows, keep), np.nan, np.float32),
        weight_PT=np.full((rows, teachers), np.nan, np.float32),
        tail_PT=np.full((rows, teachers), np.nan, np.float32),
        gold_logprob_P=np.full(rows, np.nan, np.float32),
        sketch_PTD=np.zeros((rows, teachers, 0), np.int8) if sketch_PTD is None else sketch_PTD,
    )
    for row in np.flatnonzero(covered_P):
        p_V = weight_PT[row] @ dense_TPV[:, row]
        ids_M = np.argsort(-p_V, kind="stable")[:keep]
        ids_M = ids_M[p_V[ids_M] > 0]
        made.ids_PM[row, : len(ids_M)] = ids_M
        made.logprob_PM[row, : len(ids_M)] = np.minimum(np.log(p_V[ids_M]), 0)
        made.weight_PT[row] = weight_PT[row]
        outside_T = np.delete(dense_TPV[:, row], ids_M, axis=1).sum(axis=1)
        made.tail_PT[row] = weight_PT[row] * outside_T
        made.gold_logprob_P[row] = np.log(p_V[label_P[row]])
    made.check()
    return made
