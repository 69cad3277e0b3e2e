"""The gate against its formula over dense float64 rows, and its fit against a general optimiser and known gates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from pipeline.fuse.gate import SCALE_F, Answers, Gate, answers, evidence, fit_gate, rarity
from pipeline.fuse.teacher import Teacher, restore_block
from pipeline.fuse.weighting import weights
from storage.records.logits import SparseLogits
from tests.helpers.distributions import TailOf, softmax, sparse_logits
from tests.helpers.reference import restore_teacher

TEMPERATURES = [1.0, 1.3]
VOCABULARY = 40


def teachers_of(
    seed: int, *, coverages: list[float], rows: int = 60, tail_rank: int = 3
) -> tuple[list[SparseLogits], list[Teacher], np.ndarray, np.ndarray]:
    """Teachers that number the students' ids in their own orders, their restored dense rows [T, P, V], and labels."""
    rng = np.random.default_rng(seed)
    label_P = rng.integers(0, VOCABULARY, rows)
    records, readers, dense = [], [], []
    for t, coverage in enumerate(coverages):
        to_student = rng.permutation(VOCABULARY)
        own_P = np.argsort(to_student)[label_P]
        logits_PV = rng.normal(0, 1.5, (rows, VOCABULARY))
        logits_PV[np.arange(rows), own_P] += 1.0 + t
        dense_PV = softmax(logits_PV)
        tail = TailOf.plain(dense_PV, keep=6, temperatures=TEMPERATURES)
        if tail_rank:
            tail = TailOf.low_rank(dense_PV, rank=tail_rank, step=0.3, temperatures=TEMPERATURES)
        record = sparse_logits(dense_PV, own_P, keep=6, tail=tail, covered_P=rng.random(rows) < coverage)
        readers.append(
            Teacher.of(
                to_student,
                tail.bias_JV[1],
                tail.basis_DV,
                vocabulary=VOCABULARY,
                column=1,
                temperature=TEMPERATURES[1],
                weight_column=1,
            )
        )
        records.append(record)
        restored_PV = restore_teacher(
            record, bias_JV=tail.bias_JV, basis_DV=tail.basis_DV if tail_rank else None, column=1,
            temperature=TEMPERATURES[1],
        )  # fmt: skip
        dense.append(restored_PV[:, np.argsort(to_student)])
    return records, readers, np.stack(dense), label_P


def test_rarity_counts_one_more_of_each() -> None:
    assert rarity(np.array([0, 1, 5])) == pytest.approx(np.log([9 / 1, 9 / 2, 9 / 6]))


@pytest.mark.parametrize("tail_rank", [0, 3])
@pytest.mark.parametrize("coverages", [[1.0], [1.0, 0.7], [0.8, 0.9, 0.5]])
def test_evidence_is_that_of_dense_rows(coverages: list[float], tail_rank: int) -> None:
    records, readers, dense_TPV, label_P = teachers_of(3, coverages=coverages, tail_rank=tail_rank)
    rarity_V = np.random.default_rng(1).gamma(2.0, 3.0, VOCABULARY)
    found_PTF = evidence(restore_block(records, readers), readers, rarity_V=rarity_V) * SCALE_F
    covered_TP = np.isfinite(dense_TPV[:, :, 0])
    for row in range(len(label_P)):
        top = {}
        for t in np.flatnonzero(covered_TP[:, row]).tolist():
            listed = readers[t].lookup_V1[records[t].ids_PK[row]].astype(int)
            top[t] = int(listed[dense_TPV[t, row, listed].argmax()])
        for t in range(len(coverages)):
            if t not in top:
                assert found_PTF[row, t].tolist() == [0, 0, 0, 0]
                continue
            log_p_V = np.log(dense_TPV[t, row])
            others = [log_p_V[top[u]] for u in top if u != t]
            entropy = float(records[t].entropy_PJ[row, 1])
            expected = [-entropy, log_p_V[top[t]], np.mean(others) if others else 0.0, rarity_V[top[t]]]
            assert found_PTF[row, t] == pytest.approx(expected, abs=2e-3)


def test_priors_of_teachers_and_sources_are_part_of_what_is_fitted() -> None:
    records, readers, _, label_P = teachers_of(6, coverages=[1.0, 0.7])
    readers = [replace(reader, log_prior=float(t)) for t, reader in enumerate(readers)]
    source_P, by_source_ST = np.arange(60) % 2, np.array([[0.0, 0.0], [0.5, -0.5]])
    found = answers([(records, label_P, source_P)], readers, rarity_V=np.zeros(VOCABULARY), log_prior_ST=by_source_ST)
    assert set(map(tuple, found.log_prior_PT[found.source_P == 0])) == {(0.0, 1.0)}
    assert set(map(tuple, found.log_prior_PT[found.source_P == 1])) == {(0.5, 0.5)}


def test_a_list_stored_as_nothing_has_the_evidence_of_its_first_known_id() -> None:
    """At a high temperature the listed mass may be stored as 0, and the first id may have no counterpart."""
    records, readers, _, _ = teachers_of(3, coverages=[1.0, 1.0], tail_rank=0)
    records[0].tail_PJ[:] = 1
    readers[0].lookup_V1[records[0].ids_PK[0, 0]] = VOCABULARY
    rarity_V = np.arange(VOCABULARY, dtype=np.float64)
    found_PTF = evidence(restore_block(records, readers), readers, rarity_V=rarity_V) * SCALE_F
    assert found_PTF[0, 0, 3] == readers[0].lookup_V1[records[0].ids_PK[0, 1]]
    assert np.isfinite(found_PTF).all()


def test_answers_are_the_restored_probabilities_of_true_tokens_where_two_teachers_answer() -> None:
    records, readers, dense_TPV, label_P = teachers_of(5, coverages=[0.8, 0.9, 0.5], rows=2500, tail_rank=0)
    source_P = np.arange(2500)
    given_answers = answers([(records, label_P, source_P)], readers, rarity_V=np.zeros(VOCABULARY))
    covered_TP = np.isfinite(dense_TPV[:, :, 0])
    use_P = covered_TP.sum(axis=0) > 1
    assert given_answers.source_P.tolist() == source_P[use_P].tolist()  # across the blocks that are read at once
    np.testing.assert_array_equal(given_answers.covered_PT, covered_TP.T[use_P])
    expected_PT = np.nan_to_num(dense_TPV[:, np.arange(2500), label_P].T[use_P])
    np.testing.assert_allclose(given_answers.p_PT, expected_PT, rtol=2e-3, atol=1e-6)


def made_answers(rng: np.random.Generator, rows: int, gate: Gate, *, coverage: float) -> Answers:
    """Positions whose true outcome, of five, is drawn from the mixture that the gate makes of the teachers'."""
    teachers, sources = gate.source_ST.shape[1], len(gate.source_ST)
    f_PTF = rng.normal(size=(rows, teachers, 4))
    source_P = rng.integers(0, sources, rows)
    covered_PT = rng.random((rows, teachers)) < coverage
    covered_PT[:, :2] = True
    score_PT = f_PTF @ gate.slope_F + gate.teacher_T + gate.source_ST[source_P]
    weight_PT = softmax(np.where(covered_PT, score_PT, -np.inf))
    outcome_PTO = rng.dirichlet(np.full(5, 0.2), (rows, teachers))
    mixture_PO = np.einsum("pt,pto->po", weight_PT, outcome_PTO)
    y_P = (mixture_PO.cumsum(axis=1) < rng.random((rows, 1))).sum(axis=1).clip(max=4)
    p_PT = np.where(covered_PT, outcome_PTO[np.arange(rows), :, y_P], 0)
    log_prior_PT = np.zeros((rows, teachers))
    return Answers(evidence_PTF=f_PTF, p_PT=p_PT, covered_PT=covered_PT, log_prior_PT=log_prior_PT, source_P=source_P)


KNOWN = Gate(
    slope_F=np.array([1.5, -0.8, 0.0, 0.5]),
    teacher_T=np.array([0.6, 0.0, -0.6]),
    source_ST=np.array([[0.8, -0.8, 0.0], [-0.8, 0.8, 0.0]]),
    rarity_V=np.zeros(3),
)


def test_a_known_gate_is_found_again() -> None:
    """With as many positions that the penalty is nothing beside them."""
    given_answers = made_answers(np.random.default_rng(0), 60_000, KNOWN, coverage=0.7)
    found = fit_gate(given_answers, sources=2, tau=1.0, rarity_V=np.zeros(3))
    assert found.slope_F == pytest.approx(KNOWN.slope_F, abs=0.08)
    by_source = found.teacher_T + found.source_ST
    assert by_source - by_source.mean(axis=1, keepdims=True) == pytest.approx(
        KNOWN.teacher_T + KNOWN.source_ST, abs=0.1
    )


def test_weights_follow_skill_and_not_coverage() -> None:
    """The first teacher answers everywhere, the second a fifth of it and better."""
    skilled = Gate(
        slope_F=np.zeros(4), teacher_T=np.array([-1.0, 1.0]), source_ST=np.zeros((1, 2)), rarity_V=np.zeros(3)
    )
    given_answers = made_answers(np.random.default_rng(4), 20_000, skilled, coverage=1.0)
    given_answers.covered_PT[:, 1] = np.random.default_rng(5).random(20_000) < 0.2
    given_answers.p_PT[:] *= given_answers.covered_PT
    found = fit_gate(given_answers, sources=1, tau=1.0, rarity_V=np.zeros(3))
    total = found.teacher_T + found.source_ST[0]
    assert total[1] - total[0] == pytest.approx(2.0, abs=0.3)


def test_a_teacher_that_answers_the_easy_positions_only_gains_no_weight() -> None:
    """Two teachers of one skill, one of which leaves out the 40 % of the positions at which both know least."""
    equal = Gate(slope_F=np.zeros(4), teacher_T=np.zeros(2), source_ST=np.zeros((1, 2)), rarity_V=np.zeros(3))
    given_answers = made_answers(np.random.default_rng(6), 20_000, equal, coverage=1.0)
    known_P = given_answers.p_PT.mean(axis=1)
    given_answers.covered_PT[:, 1] = known_P > np.quantile(known_P, 0.4)
    given_answers.p_PT[:] *= given_answers.covered_PT
    assert given_answers.p_PT[given_answers.covered_PT[:, 1], 1].mean() > given_answers.p_PT[:, 0].mean() + 0.1
    found = fit_gate(given_answers, sources=1, tau=1e6, rarity_V=np.zeros(3))
    total = found.teacher_T + found.source_ST[0]
    assert total[1] - total[0] == pytest.approx(0.0, abs=0.1)
    both = given_answers.covered_PT[:, 1]
    weight_PT = softmax(given_answers.evidence_PTF @ found.slope_F + total)
    assert weight_PT[both, 1].mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("tau", "prior"), [(0.7, 0.0), (3.0, 0.0), (3.0, 1.0)])
def test_the_fit_is_the_maximum_of_its_objective(tau: float, prior: float) -> None:
    """Against the formula with one column for each teacher and source, gradients by differences."""
    given_answers = made_answers(np.random.default_rng(7), 400, KNOWN, coverage=0.6)
    rows, teachers = given_answers.p_PT.shape
    given_answers.log_prior_PT[:] = np.random.default_rng(8).normal(0, 1, (2, teachers))[given_answers.source_P] * prior
    columns_PTX = np.concatenate(
        [
            given_answers.evidence_PTF,
            np.broadcast_to(np.eye(teachers), (rows, teachers, teachers)),
            (np.eye(2)[given_answers.source_P][:, None, :, None] * np.eye(teachers)[None, :, None, :]).reshape(
                rows, teachers, 2 * teachers
            ),
        ],
        axis=2,
    )
    start_X = np.zeros(columns_PTX.shape[2])
    start_X[0] = SCALE_F[0] / tau
    penalty_X = np.array([10.0] * 4 + [0.1] * teachers + [2.0] * 2 * teachers)

    def objective(x_X: np.ndarray) -> float:
        power_PT = np.exp(columns_PTX @ x_X + given_answers.log_prior_PT) * given_answers.covered_PT
        mixed_P = (power_PT * given_answers.p_PT).sum(axis=1) / power_PT.sum(axis=1)
        return float((penalty_X * (x_X - start_X) ** 2).sum() / 2 - np.log(np.maximum(mixed_P, 1e-9)).sum())

    expected = minimize(objective, start_X, method="BFGS", options={"gtol": 1e-3}).x
    found = fit_gate(given_answers, sources=2, tau=tau, rarity_V=np.zeros(3))
    found_X = np.concatenate([found.slope_F, found.teacher_T, found.source_ST.ravel()])
    assert objective(found_X) == pytest.approx(objective(expected), abs=2e-3)
    assert found_X == pytest.approx(expected, abs=0.02)


def test_one_teacher_leaves_the_gate_at_the_entropy_weights() -> None:
    records, readers, _, label_P = teachers_of(2, coverages=[0.8])
    alone = answers([(records, label_P, np.zeros(60, np.int64))], readers, rarity_V=np.zeros(VOCABULARY))
    assert alone.p_PT.shape == (0, 1)
    found = fit_gate(alone, sources=1, tau=2.0, rarity_V=np.zeros(VOCABULARY))
    assert (found.slope_F / SCALE_F).tolist() == [0.5, 0, 0, 0]
    assert not found.source_ST.any() and not found.teacher_T.any()
    nothing = answers([], readers, rarity_V=np.zeros(VOCABULARY))
    assert nothing.p_PT.shape == nothing.covered_PT.shape == (0, 1)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), teachers=st.integers(1, 4), coverage=st.sampled_from([1.0, 0.6, 0.2]))
def test_weights_are_shares_that_follow_their_teachers(seed: int, teachers: int, coverage: float) -> None:
    """Not negative, of sum 1 where somebody answers, 0 for who does not, and permuted as the teachers are."""
    records, readers, _, _ = teachers_of(seed, coverages=[coverage] * teachers, rows=25)
    rng = np.random.default_rng(seed)
    slope_F, number_T, rarity_V = rng.normal(size=4), rng.normal(size=teachers), rng.gamma(2.0, 3.0, VOCABULARY)

    def weigh(order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        chosen = [readers[t] for t in order]
        block = restore_block([records[t] for t in order], chosen)
        found = weights(
            "learned",
            entropy_PT=block.entropy_BT,
            gold_logprob_PT=np.full(block.entropy_BT.shape, np.nan),
            covered_PT=block.covered_BT,
            log_prior_PT=number_T[order],
            tau=1.0,
            score_PT=evidence(block, chosen, rarity_V=rarity_V) @ slope_F,
        )
        return found, block.covered_BT

    weight_PT, covered_PT = weigh(np.arange(teachers))
    assert (weight_PT >= 0).all() and not weight_PT[~covered_PT].any()
    np.testing.assert_allclose(weight_PT.sum(axis=1), covered_PT.any(axis=1), atol=1e-6)
    if teachers == 1:
        assert (weight_PT == covered_PT).all()
    order = rng.permutation(teachers)
    np.testing.assert_allclose(weigh(order)[0], weight_PT[:, order], atol=1e-5)
