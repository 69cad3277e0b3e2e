"""Predictions against dense distributions: exact ones for the loss, restored ones for what a list implies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.evaluate import predictions as module
from pipeline.evaluate.predictions import (
    UNRANKED,
    Reference,
    StoredTeacher,
    fusion_predictions,
    heldout_nll,
    kl_to_teacher,
    restored_fusion_nll,
    restored_teacher_nll,
    student_predictions,
    teacher_predictions,
)
from pipeline.models.masked_lm import masked_lm
from pipeline.sparse.restore import Restored, RestoredTargets
from storage.reader import Store
from storage.records.sequences import Masks, Sequences
from storage.records.targets import FusedTargets
from tests.helpers.distributions import TailOf, cooled, fused_targets, softmaxes, sparse_logits, tail_prior
from tests.helpers.reference import restore_fused, restore_teacher
from tests.helpers.stores import TinyStores
from tests.helpers.teacher_stores import write_targets

ROWS, VOCABULARY, KEEP = 60, 40, 6
TEMPERATURES = [1.0, 1.4, 2.8]


def teacher_of(
    dense_PV: np.ndarray,
    gold_P: np.ndarray,
    *,
    to_student_V: np.ndarray | None = None,
    keep: int = KEEP,
    tail_rank: int = 0,
    draws: int = 0,
) -> StoredTeacher:
    """A teacher that does not answer every seventh prediction."""
    covered_P = np.arange(len(gold_P)) % 7 != 3
    tail = TailOf.plain(dense_PV, keep=keep, temperatures=TEMPERATURES)
    if tail_rank:
        tail = TailOf.low_rank(dense_PV, rank=tail_rank, step=0.25, temperatures=TEMPERATURES)
    return StoredTeacher(
        restored=Restored(
            record=sparse_logits(dense_PV, gold_P, keep=keep, tail=tail, covered_P=covered_P, draws=draws),
            temperatures=tuple(TEMPERATURES),
            bias_JV=torch.from_numpy(tail.bias_JV),
            basis_DV=torch.from_numpy(tail.basis_DV).float() if tail_rank else None,
        ),
        to_student_V=np.arange(dense_PV.shape[1]) if to_student_V is None else to_student_V,
    )


def restored_rows(teacher: StoredTeacher, column: int) -> np.ndarray:
    restored = teacher.restored
    return restore_teacher(
        teacher.rows,
        bias_JV=restored.bias_JV.numpy(),
        basis_DV=None if restored.basis_DV is None else restored.basis_DV.numpy(),
        column=column,
        temperature=TEMPERATURES[column],
    )


def some_beliefs(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    gold_P = rng.integers(0, VOCABULARY, ROWS)
    return softmaxes(rng, gold_P, VOCABULARY), gold_P


@pytest.mark.parametrize("column", [0, 1, 2])
def test_a_teacher_is_evaluated_as_its_dense_distributions_would_be(column: int) -> None:
    dense_PV, gold_P = some_beliefs()
    teacher = teacher_of(dense_PV, gold_P)
    predictions = teacher_predictions(teacher, gold_P, column=column)
    at_PV = cooled(dense_PV, TEMPERATURES[column])
    covered_P = np.arange(ROWS) % 7 != 3
    assert np.array_equal(predictions.covered_P, covered_P)
    for row in np.flatnonzero(covered_P):
        p_V = at_PV[row]
        assert predictions.nll_P[row] == pytest.approx(-np.log(p_V[gold_P[row]]), abs=1e-5)
        assert predictions.confidence_P[row] == pytest.approx(p_V.max(), rel=1e-5)
        assert predictions.top_P[row] == p_V.argmax()
        rank = int((p_V > p_V[gold_P[row]]).sum())
        assert predictions.rank_P[row] == rank if rank < KEEP else predictions.rank_P[row] >= KEEP
    assert 0 < (predictions.rank_P[covered_P] == 0).sum() < covered_P.sum()


def test_what_a_teacher_does_not_answer_is_marked_so() -> None:
    dense_PV, gold_P = some_beliefs()
    predictions = teacher_predictions(teacher_of(dense_PV, gold_P), gold_P)
    assert np.isnan(predictions.nll_P[3])
    assert np.isnan(predictions.confidence_P[3])
    assert predictions.top_P[3] == -1
    assert predictions.rank_P[3] == UNRANKED
    assert np.isnan(predictions.kl_P).all()


def test_a_teacher_is_evaluated_in_the_students_vocabulary() -> None:
    """Ids 0 and 1 of the teacher are the student's 7 ("Dog" and "dog"); id 2 has no counterpart."""
    to_student_V = np.array([7, 7, -1, 5])
    dense_PV = np.array([[0.6, 0.3, 0.06, 0.04], [0.1, 0.2, 0.4, 0.3], [0.1, 0.2, 0.65, 0.05]])
    gold_P = np.array([1, 3, 0])
    predictions = teacher_predictions(
        teacher_of(dense_PV, gold_P, to_student_V=to_student_V, keep=3), to_student_V[gold_P]
    )
    assert predictions.top_P.tolist() == [7, -1, -1]
    assert predictions.rank_P.tolist() == [0, 1, 1]
    assert predictions.nll_P == pytest.approx(-np.log([0.3, 0.3, 0.1]), abs=1e-6)


@pytest.mark.parametrize("draws", [0, 400])
def test_tokens_that_are_one_students_token_add_up(draws: int) -> None:
    """As in a fusion of the teacher alone, so the two are comparable; against sums of the dense rows."""
    dense_PV, gold_P = some_beliefs(1)
    to_student_V = np.arange(VOCABULARY) // 2
    to_student_V[-4:] = -1
    label_P = to_student_V[gold_P]
    teacher = teacher_of(dense_PV, gold_P, to_student_V=to_student_V, keep=0 if draws else VOCABULARY, draws=draws)
    predictions = teacher_predictions(teacher, label_P, column=1)
    at_PV = cooled(dense_PV, TEMPERATURES[1])
    if draws:
        drawn = teacher.rows
        at_PV = np.zeros_like(at_PV)
        for row in np.flatnonzero(predictions.covered_P):
            known_S = drawn.drawn_share_PS[row] > 0
            at_PV[row, drawn.drawn_ids_PS[row][known_S]] = drawn.drawn_share_PS[row][known_S]
    sums_PS = np.stack([at_PV[:, to_student_V == student].sum(axis=1) for student in range(18)], axis=1)
    unmatched_P = at_PV[:, to_student_V < 0].max(axis=1)
    changed = 0
    for row in np.flatnonzero(predictions.covered_P):
        best = sums_PS[row].max()
        assert predictions.confidence_P[row] == pytest.approx(max(best, unmatched_P[row]), rel=1e-4)
        if best > unmatched_P[row] and np.sum(np.isclose(sums_PS[row], best)) == 1:
            assert predictions.top_P[row] == sums_PS[row].argmax()
            changed += bool(at_PV[row].argmax() // 2 != sums_PS[row].argmax())
            if label_P[row] >= 0 and not draws:
                above = (sums_PS[row] > sums_PS[row, label_P[row]]).sum()
                above += (at_PV[row, to_student_V < 0] > sums_PS[row, label_P[row]]).sum()
                assert predictions.rank_P[row] == above
    assert changed > 0


def test_what_was_drawn_is_evaluated_beside_what_is_listed() -> None:
    """Without a list the most drawn id is the answer; with one, an id drawn often may come before a listed one."""
    dense_PV, gold_P = some_beliefs()
    drawn = teacher_of(dense_PV, gold_P, keep=0, draws=400)
    predictions = teacher_predictions(drawn, gold_P, column=1)
    at_PV = cooled(dense_PV, TEMPERATURES[1])
    covered_P = predictions.covered_P
    assert np.array_equal(predictions.top_P[covered_P], drawn.rows.drawn_ids_PS[covered_P, 0])
    assert predictions.confidence_P[covered_P] == pytest.approx(at_PV.max(axis=1)[covered_P], abs=0.1)
    for row in np.flatnonzero(covered_P):
        drawn_ids = drawn.rows.drawn_ids_PS[row].tolist()
        found = gold_P[row] in drawn_ids
        assert predictions.rank_P[row] == (drawn_ids.index(gold_P[row]) if found else 400)
    assert 0 < (predictions.rank_P[covered_P] == 400).sum() < covered_P.sum()

    mixed = teacher_predictions(teacher_of(dense_PV, gold_P, keep=1, draws=1), gold_P, column=1)
    for row in np.flatnonzero(covered_P):
        p_V = at_PV[row]
        most = max(p_V.max(), 1 - p_V.max())  # one draw stands for all that is not listed
        assert mixed.confidence_P[row] == pytest.approx(most, rel=1e-5)
        assert (mixed.top_P[row] == p_V.argmax()) == (p_V.max() > 0.5)


def test_a_fusion_is_evaluated_as_its_dense_mixture_would_be() -> None:
    rng = np.random.default_rng(1)
    label_P = rng.integers(0, VOCABULARY, ROWS)
    dense_TPV = np.stack([softmaxes(rng, label_P, VOCABULARY), softmaxes(rng, label_P, VOCABULARY)])
    weight_PT = rng.dirichlet([1, 1], ROWS)
    covered_P = np.arange(ROWS) != 4
    predictions = fusion_predictions(
        fused_targets(dense_TPV, weight_PT, label_P, keep=KEEP, covered_P=covered_P), label_P
    )
    mixture_PV = np.einsum("pt,tpv->pv", weight_PT, dense_TPV)
    for row in np.flatnonzero(covered_P):
        p_V = mixture_PV[row]
        rank = int((p_V > p_V[label_P[row]]).sum())
        assert predictions.nll_P[row] == pytest.approx(-np.log(p_V[label_P[row]]), abs=1e-5)
        assert predictions.confidence_P[row] == pytest.approx(p_V.max(), rel=1e-5)
        assert predictions.top_P[row] == p_V.argmax()
        assert predictions.rank_P[row] == rank if rank < KEEP else predictions.rank_P[row] >= KEEP
    assert (predictions.covered_P == covered_P).all()
    assert predictions.rank_P[4] == UNRANKED


@pytest.mark.parametrize(("column", "tail_rank"), [(0, 0), (1, 5)])
def test_a_teachers_restored_loss_is_that_of_its_restored_rows_with_the_spellings_of_a_token_added_up(
    column: int, tail_rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(2)
    label_P = rng.integers(0, VOCABULARY, ROWS)
    to_student_V = np.concatenate([rng.permutation(VOCABULARY), rng.integers(0, VOCABULARY, 5), [-1, -1]])
    gold_P = np.array([int(np.flatnonzero(to_student_V == label)[0]) for label in label_P])
    teacher = teacher_of(
        softmaxes(rng, gold_P, len(to_student_V)), gold_P, to_student_V=to_student_V, tail_rank=tail_rank
    )
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 7 * len(to_student_V))

    found_P = restored_teacher_nll(teacher, label_P, column=column)

    own_PV = to_student_V == label_P[:, None]
    expected_P = -np.log(np.where(own_PV, restored_rows(teacher, column), 0).sum(axis=1))
    assert found_P is not None
    assert found_P[teacher.rows.covered_P()] == pytest.approx(expected_P[teacher.rows.covered_P()], abs=1e-5)
    assert np.isnan(found_P[~teacher.rows.covered_P()]).all()
    assert np.nanmax(np.abs(found_P - teacher_predictions(teacher, label_P, column=column).nll_P)) > 0.1


def test_draws_have_no_restored_loss() -> None:
    dense_PV, gold_P = some_beliefs()
    assert restored_teacher_nll(teacher_of(dense_PV, gold_P, draws=9), gold_P, column=1) is None


def merged(p_V: np.ndarray, ids_M: np.ndarray) -> np.ndarray:
    """The outcomes of a list and one for the rest."""
    return np.append(p_V[ids_M], 1 - p_V[ids_M].sum())


@pytest.mark.parametrize(("column", "tail_rank", "draws"), [(0, 0, 0), (2, 0, 0), (2, 5, 0), (1, 0, 9)])
def test_divergence_to_a_teacher_equals_that_of_the_restored_distributions(
    column: int, tail_rank: int, draws: int
) -> None:
    """The teacher's vocabulary is the student's shuffled, with two spellings of some tokens and three unknown ones."""
    rng = np.random.default_rng(2)
    label_P = rng.integers(0, VOCABULARY, ROWS)
    to_student_V = np.concatenate([rng.permutation(VOCABULARY), rng.integers(0, VOCABULARY, 5), [-1, -1, -1]])
    gold_P = np.array([int(np.flatnonzero(to_student_V == label)[0]) for label in label_P])
    own_PV = softmaxes(rng, gold_P, len(to_student_V))
    teacher = teacher_of(own_PV, gold_P, to_student_V=to_student_V, tail_rank=tail_rank, draws=draws)
    other_PV = softmaxes(rng, label_P, VOCABULARY)
    fused = fused_targets(other_PV[None], np.ones((ROWS, 1)), label_P, keep=KEEP, covered_P=np.arange(ROWS) != 5)

    found_P = kl_to_teacher(fused, teacher, column=column)

    restored_PV = restored_rows(teacher, column)
    for row in range(ROWS):
        if row == 5 or row % 7 == 3:
            assert np.isnan(found_P[row])
            continue
        q_V = np.zeros(VOCABULARY)
        known = to_student_V >= 0
        np.add.at(q_V, to_student_V[known], restored_PV[row][known])
        ids_M = fused.ids_PM[row].astype(int)
        kept_M = np.exp(fused.logprob_PM[row].astype(np.float64))
        p = np.append(kept_M, float(fused.tail_PT[row].sum()))
        p /= p.sum()
        expected = (p * np.log(p / np.maximum(merged(q_V, ids_M), 1e-12))).sum()
        assert found_P[row] == pytest.approx(expected, abs=1e-5)
    assert np.nanmean(found_P) > 0.1


def test_divergence_does_not_depend_on_how_much_is_compared_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    dense_PV, label_P = some_beliefs(6)
    teacher = teacher_of(some_beliefs(7)[0], label_P)
    fused = fused_targets(dense_PV[None], np.ones((ROWS, 1)), label_P, keep=KEEP, covered_P=np.ones(ROWS, bool))
    whole_P = kl_to_teacher(fused, teacher, column=0)
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 5 * VOCABULARY)
    assert kl_to_teacher(fused, teacher, column=0) == pytest.approx(whole_P, rel=1e-5, abs=1e-7, nan_ok=True)


def test_a_teacher_fused_alone_is_no_distance_from_itself() -> None:
    dense_PV, label_P = some_beliefs(3)
    fused = fused_targets(dense_PV[None], np.ones((ROWS, 1)), label_P, keep=KEEP, covered_P=np.ones(ROWS, bool))
    kl_P = kl_to_teacher(fused, teacher_of(dense_PV, label_P), column=0)
    assert np.nanmax(np.abs(kl_P)) < 1e-6


@pytest.fixture(scope="module")
def heldout(tiny_stores: TinyStores) -> tuple[Sequences, Masks, dict[str, int], int]:
    sequences, masks = Store(tiny_stores.sequences, Sequences), Store(tiny_stores.masks, Masks)
    return sequences.read("heldout"), masks.read("heldout"), sequences.facts["special"], sequences.facts["vocabulary"]


@pytest.fixture(scope="module", params=[0, 3])
def reference(
    request: pytest.FixtureRequest,
    heldout: tuple[Sequences, Masks, dict[str, int], int],
    tmp_path_factory: pytest.TempPathFactory,
) -> Reference:
    """Fused targets at temperature 2 of two teachers, with plain and with low-rank tails; one row has none."""
    _, masks, _, vocabulary = heldout
    rng = np.random.default_rng(4)
    label_P = masks.label_P.astype(np.int64)
    dense_TPV = np.stack([softmaxes(rng, label_P, vocabulary), softmaxes(rng, label_P, vocabulary, knows=1.0)])
    size = request.param
    rows = fused_targets(
        dense_TPV,
        rng.dirichlet([2, 1], len(masks)),
        label_P,
        keep=KEEP,
        covered_P=np.arange(len(masks)) != 2,
        sketch_PTD=rng.integers(-9, 10, (len(masks), 2, size)).astype(np.int8),
    )
    store = write_targets(
        tmp_path_factory.mktemp("reference") / "targets" / "any",
        {"heldout": rows},
        bias_TV=np.log([tail_prior(dense_PV, keep=KEEP) for dense_PV in dense_TPV]),
        basis_TDV=rng.normal(0, 0.2, (2, size, vocabulary)) if size else None,
    )
    return Reference(rows=rows, store=store, temperature=2.0)


def test_a_fusions_restored_loss_is_that_of_what_students_learn_from(
    heldout: tuple[Sequences, Masks, dict[str, int], int], reference: Reference
) -> None:
    label_P = heldout[1].label_P.astype(np.int64)
    restored = RestoredTargets.of(reference.store, reference.rows, device=torch.device("cpu"))
    found_P = restored_fusion_nll(restored, label_P)
    dense_PV = restore_fused(
        reference.rows,
        bias_TV=reference.store.constant("tail_bias_TV"),
        basis_TDV=reference.store.constant("tail_basis_TDV") if reference.rows.sketch_PTD.shape[2] else None,
    )
    assert found_P == pytest.approx(-np.log(dense_PV[np.arange(len(label_P)), label_P]), abs=1e-4, nan_ok=True)
    assert np.flatnonzero(np.isnan(found_P)).tolist() == [2]


def test_a_true_token_without_probability_leaves_no_restored_loss(reference: Reference) -> None:
    """As a fusion of draws has it: a list without the true token, and no tail."""
    tails = RestoredTargets.of(reference.store, reference.rows, device=torch.device("cpu")).tails
    rows = replace(reference.rows, tail_PT=np.where(np.isnan(reference.rows.tail_PT), np.nan, np.zeros((), np.float32)))
    outside = int(np.setdiff1d(np.arange(VOCABULARY), rows.ids_PM[0])[0])
    label_P = np.full(len(rows), outside)
    assert restored_fusion_nll(RestoredTargets(record=rows, tails=tails), label_P) is None


def full_logits(model_folder: Path, heldout: tuple[Sequences, Masks, dict[str, int], int]) -> np.ndarray:
    """Logits [P, V] from the plain model: one sequence at a time, the head everywhere."""
    from transformers import AutoModelForMaskedLM

    sequences, masks, special, vocabulary = heldout
    model = AutoModelForMaskedLM.from_pretrained(model_folder).eval()
    logits_PV = np.full((len(masks), vocabulary), np.nan)
    key_P = masks.copy_P.astype(int) * 10**6 + masks.sequence_P
    for key in np.unique(key_P):
        mine = np.flatnonzero(key_P == key)
        row = int(masks.sequence_P[mine[0]])
        ids = sequences.input_ids_NL[row, : sequences.length_N[row]].astype(np.int64)
        ids[masks.column_P[mine]] = special["mask"]
        with torch.no_grad():
            logits_LV = model(input_ids=torch.from_numpy(ids)[None]).logits[0].double().numpy()
        logits_PV[mine] = logits_LV[masks.column_P[mine]]
    return logits_PV


def evaluated(lm: Any, heldout: tuple[Sequences, Masks, dict[str, int], int], **options: Any) -> module.Predictions:
    sequences, masks, special, _ = heldout
    return student_predictions(lm, sequences, masks, special=special, **options)


def test_a_student_is_evaluated_as_its_plain_model_would_be(
    tiny_mlm: Path,
    heldout: tuple[Sequences, Masks, dict[str, int], int],
    reference: Reference,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sequences, masks, special, vocabulary = heldout
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 3 * vocabulary)  # several chunks a batch
    with masked_lm(tiny_mlm, device=torch.device("cpu"), dtype=torch.float32) as lm:
        predictions = evaluated(lm, heldout, batch_tokens=100, reference=reference)
        nll_P = heldout_nll(lm, sequences, masks, batch_tokens=128, special=special)
    logits_PV = full_logits(tiny_mlm, heldout)
    logprob_PV = logits_PV - np.log(np.exp(logits_PV).sum(axis=1, keepdims=True))
    gold_P = logprob_PV[np.arange(len(masks)), masks.label_P.astype(int)]
    assert predictions.nll_P == pytest.approx(-gold_P, abs=1e-4)
    assert nll_P == pytest.approx(-gold_P, abs=1e-4)
    assert predictions.confidence_P == pytest.approx(np.exp(logprob_PV).max(axis=1), abs=1e-5)
    assert np.array_equal(predictions.top_P, logprob_PV.argmax(axis=1))
    assert np.array_equal(predictions.rank_P, (logprob_PV > gold_P[:, None]).sum(axis=1))
    assert predictions.covered_P.all()

    low_rank = bool(reference.rows.sketch_PTD.shape[2])
    p_PV = restore_fused(
        reference.rows,
        bias_TV=reference.store.constant("tail_bias_TV"),
        basis_TDV=reference.store.constant("tail_basis_TDV") if low_rank else None,
    )
    p_PV /= p_PV.sum(axis=1, keepdims=True)
    cooled_PV = logits_PV / 2 - np.log(np.exp(logits_PV / 2).sum(axis=1, keepdims=True))
    expected_P = (p_PV * (np.log(p_PV) - cooled_PV)).sum(axis=1)
    assert predictions.kl_P == pytest.approx(expected_P, abs=1e-4, nan_ok=True)
    assert np.flatnonzero(np.isnan(predictions.kl_P)).tolist() == [2]


def test_batches_and_the_reference_do_not_change_a_students_answers(
    tiny_mlm: Path, heldout: tuple[Sequences, Masks, dict[str, int], int]
) -> None:
    with masked_lm(tiny_mlm, device=torch.device("cpu"), dtype=torch.float32) as lm:
        small, large = evaluated(lm, heldout, batch_tokens=1), evaluated(lm, heldout, batch_tokens=10_000)
    assert small.nll_P == pytest.approx(large.nll_P, abs=1e-5)
    assert np.array_equal(small.rank_P, large.rank_P)
    assert np.isnan(small.kl_P).all()


def test_a_perfect_student_has_no_divergence(
    tiny_mlm: Path, heldout: tuple[Sequences, Masks, dict[str, int], int], tmp_path: Path
) -> None:
    """The reference is the student's own answers, restored from a list of everything."""
    _, masks, _, vocabulary = heldout
    p_PV = np.exp(full_logits(tiny_mlm, heldout))
    p_PV /= p_PV.sum(axis=1, keepdims=True)
    label_P = masks.label_P.astype(np.int64)
    rows = fused_targets(
        p_PV[None], np.ones((len(masks), 1)), label_P, keep=vocabulary, covered_P=np.ones(len(masks), bool)
    )
    assert isinstance(rows, FusedTargets)
    store = write_targets(tmp_path / "targets" / "own", {"heldout": rows}, bias_TV=np.zeros((1, vocabulary)))
    own = Reference(rows=rows, store=store, temperature=1.0)
    with masked_lm(tiny_mlm, device=torch.device("cpu"), dtype=torch.float32) as lm:
        predictions = evaluated(lm, heldout, batch_tokens=1000, reference=own)
    assert np.abs(predictions.kl_P).max() < 1e-5
