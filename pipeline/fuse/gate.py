"""Learned prediction weighting: a softmax over teachers whose scores are linear in what is known of a position.

w_t(x) = softmax_t(theta . f_t(x) + b_t + c_(s(x), t) + log pi_t(x)) with the evidence f_t (`evidence`), a number b_t
for each teacher, a number c_(s, t) for each source of text s and teacher t, and the prior pi of the settings. It is
fitted to the true tokens y of the train and calibration splits and used without them. The fit maximises

sum_x log sum_t w_t(x) p_t(y_x | x) - (k_theta |theta - theta_0|^2 + k_b |b|^2 + k_c |c|^2) / 2

with theta_0 the entropy weights, and p_t as it is restored, since a student learns from that. The penalty keeps a
source of few positions near the teachers' own numbers, and a gate of few positions near the entropy weights. This is
stacking (Wolpert 1992, doi:10.1016/S0893-6080(05)80023-1) of densities (Smyth and Wolpert 1999,
doi:10.1023/A:1007511322260) by a mixture of experts of which the gate alone learns (Jacobs et al. 1991,
doi:10.1162/neco.1991.3.1.79). The objective is not concave; L-BFGS starts at theta_0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from pipeline.fuse.teacher import Block, Teacher, blocks, probability_at, restore_block
from pipeline.fuse.weighting import softmax
from storage.records.logits import SparseLogits

EVIDENCE = ("entropy", "peak", "agreement", "rarity")
"""Columns of f_t, in their order."""

SCALE_F = np.array([2.0, 1.0, 2.0, 2.5])
"""Each column is divided by this, so that the penalty weighs them alike; rough spreads on dictionary text."""

SLOPE_PENALTY, TEACHER_PENALTY, SOURCE_PENALTY = 10.0, 0.1, 2.0
"""k_theta, k_b and k_c. How good a teacher is differs most and shows soonest, so b is hardly held."""

LEAST_PROBABILITY = 1e-9
"""Floor of the probabilities whose logarithm is evidence, and of those the gate is fitted to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """Fitted numbers, float64."""

    slope_F: NDArray[np.float64]
    """theta, in units of `SCALE_F`."""
    teacher_T: NDArray[np.float64]
    """b."""
    source_ST: NDArray[np.float64]
    """c; 0 for a source without positions to be fitted to."""
    rarity_V: NDArray[np.float64]
    """Of the students' ids, as `rarity` gives it."""

    def scores(self, evidence_PTF: NDArray[np.float64], source_P: NDArray[np.int64]) -> NDArray[np.float64]:
        """Theta . f + b + c [P, T], nats, of positions in texts of the given sources."""
        return np.asarray(evidence_PTF @ self.slope_F + self.teacher_T + self.source_ST[source_P])


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What a gate is fitted to: P positions that at least two of T teachers cover."""

    evidence_PTF: NDArray[np.float64]
    p_PT: NDArray[np.float64]
    """Each teacher's restored probability of the true token."""
    covered_PT: NDArray[np.bool_]
    log_prior_PT: NDArray[np.float64]
    source_P: NDArray[np.int64]


def rarity(label_V: NDArray[np.integer]) -> NDArray[np.float64]:
    """Minus the log frequency [V] of each id among true tokens counted in label_V, nats, with one more of each."""
    return np.asarray(np.log(label_V.sum() + len(label_V)) - np.log(label_V + 1.0))


def evidence(block: Block, teachers: Sequence[Teacher], *, rarity_V: NDArray[np.float64]) -> NDArray[np.float64]:
    """The evidence [B, T, F], scaled; 0 for teachers that do not cover a row, whose values are not read.

    entropy: minus the entropy of the full softmax, nats. peak: log of the largest listed probability. agreement: mean
    over the other covering teachers of log p_t at the id that each of them finds most likely; 0 without others. rarity:
    `rarity` of the id that t finds most likely.
    """
    covered_BT, count = block.covered_BT, len(teachers)
    f_BTF = np.zeros((*covered_BT.shape, len(EVIDENCE)))
    top_BT = np.zeros(covered_BT.shape, np.int64)
    f_BTF[:, :, 0] = -block.entropy_BT
    for t, rows in enumerate(block.rows):
        # Stored probabilities may be 0: an id is none only where there is no other.
        listed_BK = np.where(rows.ids_BK < len(rarity_V), rows.p_BK, -1)
        best_B1 = listed_BK.argmax(axis=1)[:, None]
        f_BTF[:, t, 1] = _log(np.take_along_axis(rows.p_BK, best_B1, axis=1)[:, 0])
        top_BT[:, t] = np.where(covered_BT[:, t], np.take_along_axis(rows.ids_BK, best_B1, axis=1)[:, 0], 0)
    for t, (rows, teacher) in enumerate(zip(block.rows, teachers, strict=True)):
        for u in range(count):
            if u != t:
                f_BTF[:, t, 2] += _log(probability_at(rows, teacher, top_BT[:, u])) * covered_BT[:, u]
    f_BTF[:, :, 2] /= np.maximum(covered_BT.sum(axis=1, keepdims=True) - covered_BT, 1)
    f_BTF[:, :, 3] = rarity_V[top_BT]
    return np.asarray(np.where(covered_BT[:, :, None], f_BTF, 0) / SCALE_F)


def answers(
    parts: Iterable[tuple[Sequence[SparseLogits], NDArray[np.int64], NDArray[np.int64]]],
    teachers: Sequence[Teacher],
    *,
    rarity_V: NDArray[np.float64],
    log_prior_ST: NDArray[np.float64] | None = None,
) -> Answers:
    """What the gate is fitted to, from rows of the teachers' stores, their true tokens and their sources.

    log_prior_ST is added to the teachers' log priors. Positions that fewer than two teachers cover say nothing of
    weights and are left out.
    """
    found = []
    for records, label_P, source_P in parts:
        for place, cut in blocks(records):
            block = restore_block(cut, teachers)
            use_B = block.covered_BT.sum(axis=1) > 1
            p_BT = [probability_at(rows, of, label_P[place]) for rows, of in zip(block.rows, teachers, strict=True)]
            f_BTF = evidence(block, teachers, rarity_V=rarity_V)
            found.append((f_BTF[use_B], np.stack(p_BT, axis=1)[use_B], block.covered_BT[use_B], source_P[place][use_B]))
    f_PTF, p_PT, covered_PT, found_P = (
        [np.concatenate(column) for column in zip(*found, strict=True)]
        if found
        else [np.zeros((0, len(teachers), len(EVIDENCE))), *np.zeros((2, 0, len(teachers))), np.zeros(0)]
    )
    source_P = found_P.astype(np.int64)
    log_prior_PT = np.tile([teacher.log_prior for teacher in teachers], (len(source_P), 1))
    return Answers(
        evidence_PTF=f_PTF,
        p_PT=np.where(covered_PT, np.maximum(p_PT.astype(np.float64), LEAST_PROBABILITY), 0),
        covered_PT=covered_PT.astype(bool),
        log_prior_PT=log_prior_PT if log_prior_ST is None else log_prior_PT + log_prior_ST[source_P],
        source_P=source_P,
    )


def fit_gate(given: Answers, *, sources: int, tau: float, rarity_V: NDArray[np.float64]) -> Gate:
    """The gate that maximises the objective above; theta_0 has 1 / tau at the entropy and 0 elsewhere."""
    f_PTF, p_PT, source_P = given.evidence_PTF, given.p_PT, given.source_P
    teachers, columns = p_PT.shape[1], f_PTF.shape[2]
    prior_PT = np.where(given.covered_PT, given.log_prior_PT, -np.inf)
    start_X = np.zeros(columns + teachers + sources * teachers)
    start_X[0] = SCALE_F[0] / tau
    penalty_X = np.repeat([SLOPE_PENALTY, TEACHER_PENALTY, SOURCE_PENALTY], [columns, teachers, sources * teachers])

    def gate(x_X: NDArray[np.float64]) -> Gate:
        slope_F, teacher_T, source_X = np.split(x_X, [columns, columns + teachers])
        source_ST = source_X.reshape(sources, teachers)
        return Gate(slope_F=slope_F, teacher_T=teacher_T, source_ST=source_ST, rarity_V=rarity_V)

    def loss(x_X: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weight_PT = softmax(gate(x_X).scores(f_PTF, source_P) + prior_PT)
        mixed_P = (weight_PT * p_PT).sum(axis=1)
        # The posterior of each teacher given the true token, minus its weight.
        excess_PT = weight_PT * p_PT / mixed_P[:, None] - weight_PT
        excess_ST = np.zeros((sources, teachers))
        np.add.at(excess_ST, source_P, excess_PT)
        gradient_X = np.concatenate(
            [np.einsum("pt,ptf->f", excess_PT, f_PTF), excess_PT.sum(axis=0), excess_ST.ravel()]
        )
        away_X = x_X - start_X
        value = 0.5 * float(away_X @ (penalty_X * away_X)) - float(np.log(mixed_P).sum())
        return value, penalty_X * away_X - gradient_X

    return gate(minimize(loss, start_X, jac=True, method="L-BFGS-B").x)


def _log(p_B: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.asarray(np.log(np.maximum(p_B.astype(np.float64), LEAST_PROBABILITY)))
