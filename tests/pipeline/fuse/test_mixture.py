"""Fused rows against the mixture of dense float64 distributions, built entry by entry from the definition."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.fuse import mixture
from pipeline.fuse import teacher as teacher_module
from pipeline.fuse.mixture import fuse_shard
from pipeline.fuse.teacher import OUTSIDE_MINIMUM, Teacher
from pipeline.fuse.weighting import Weighting, weights
from pipeline.sparse.tail import NO_COUNTERPART
from storage.records.logits import SparseLogits
from storage.records.targets import FusedTargets
from tests.helpers.distributions import TailOf, cooled, softmax, sparse_logits
from tests.helpers.reference import restore_fused, restore_teacher

TEMPERATURES = [1.0, 1.3, 2.6]


def teacher_rows(
    rng: np.random.Generator, rows: int, vocabulary: int, *, keep: int, coverage: float = 1.0, tail_rank: int = 0,
    draws: int = 0,
) -> tuple[SparseLogits, TailOf, np.ndarray]:  # fmt: skip
    """Lists of up to `keep` of random distributions (all of `keep` with coverage 1), how tails are read, and these."""
    dense = softmax(rng.normal(0, rng.uniform(0.5, 4), (rows, vocabulary)))
    gold = rng.integers(0, vocabulary, rows)
    tail = TailOf.plain(dense, keep=keep, temperatures=TEMPERATURES)
    if tail_rank:
        tail = TailOf.low_rank(dense, rank=min(tail_rank, rows), step=0.3, temperatures=TEMPERATURES)
    lengths = keep if coverage == 1 or keep == 0 else rng.integers(1, keep, rows, endpoint=True)
    covered = rng.random(rows) < coverage
    record = sparse_logits(dense, gold, keep=lengths, tail=tail, covered_P=covered, draws=draws, seed=rows)
    return record, tail, dense


def reader(
    to_student: np.ndarray, tail: TailOf, *, vocabulary: int, column: int = 0, weight_column: int = 0,
    log_prior: float = 0.0,
) -> Teacher:  # fmt: skip
    return Teacher.of(
        to_student, tail.bias_JV[column], tail.basis_DV, vocabulary=vocabulary, column=column,
        temperature=TEMPERATURES[column], weight_column=weight_column,
        log_prior=log_prior,
    )  # fmt: skip


def scene(
    seed: int, *, teachers: int, rows: int = 12, vocabulary: int = 30, keep: int = 5, coverage: float = 0.8,
    bridges: str = "any", column: int = 1, tail_rank: int = 0, draws: int = 0,
) -> tuple[list[SparseLogits], list[Teacher], list[TailOf]]:  # fmt: skip
    """Teachers of differing size whose tokens have a counterpart, none or a shared one ("any"), or the same ids.

    The first has tails of `tail_rank` coordinates, each further one one fewer.
    """
    rng = np.random.default_rng(seed)
    records, readers, tails = [], [], []
    for t in range(teachers):
        own = vocabulary if bridges == "same" else int(rng.integers(max(keep, vocabulary // 2) + 1, 2 * vocabulary))
        record, tail, _ = teacher_rows(
            rng, rows, own, keep=keep, coverage=coverage, tail_rank=max(0, tail_rank - t), draws=draws
        )
        to_student = np.arange(own) if bridges == "same" else rng.integers(-1, vocabulary, own)
        to_student[0] = max(0, to_student[0])
        records.append(record)
        tails.append(tail)
        readers.append(
            reader(to_student, tail, vocabulary=vocabulary, column=column, weight_column=1, log_prior=0.3 * t)
        )
    return records, readers, tails


def entries(record: SparseLogits, teacher: Teacher, row: int) -> dict[int, float]:
    """Probability of each student id that the row lists or has drawn."""
    ids = record.ids_PK[row][record.ids_PK[row] < 65535]
    power = np.exp(record.logprob_PK[row, : len(ids)].astype(np.float64) / teacher.temperature)
    tail = float(record.tail_PJ[row, teacher.column])
    listed = [*zip(ids, (1 - tail) * power / max(power.sum(), 1e-300), strict=True)]
    drawn = record.drawn_ids_PS[row] < 65535
    listed += [*zip(record.drawn_ids_PS[row][drawn], tail * record.drawn_share_PS[row][drawn], strict=True)]
    found: dict[int, float] = {}
    for token, p in listed:
        student = int(teacher.lookup_V1[token])
        if student < teacher.vocabulary:
            found[student] = found.get(student, 0.0) + float(p)
    return found


def restored(record: SparseLogits, teacher: Teacher, row: int) -> tuple[dict[int, float], np.ndarray, float]:
    """One teacher's entries over student ids, its tail at every other id and that tail's mass, in float64."""
    listed = entries(record, teacher, row)
    others = np.array([v not in listed for v in range(teacher.vocabulary)]) & (teacher.prior_V1[:-1] > 0)
    bias = teacher.bias_V1[:-1].astype(np.float64)
    if teacher.tail_rank:
        has_tail = bool(others.any())
        code = record.sketch_PD[row].astype(np.float64)
        exponent = (
            bias + teacher.basis_V1D[:-1].astype(np.float64) @ code - float(record.spread_PJ[row, teacher.column])
        )
        share = np.where(others, np.exp(np.minimum(exponent, 0)), 0)
    else:
        outside = np.exp(bias[others]).sum()
        has_tail = bool(outside > OUTSIDE_MINIMUM * 1.5)
        share = np.where(others, np.exp(bias), 0) / max(outside, 1e-300)
    mass = sum(listed.values())
    scale = max(1.0, mass) if has_tail else mass
    listed = {v: p / scale for v, p in listed.items()}
    tail = 1 - mass / scale if has_tail else 0.0
    return listed, tail * share, tail


def near_limit(records: list[SparseLogits], teachers: list[Teacher]) -> bool:
    """Whether some list holds almost all its prior knows, where 1 - sum in float32 has few digits left."""
    for record, teacher in zip(records, teachers, strict=True):
        for row in np.flatnonzero(record.covered_P()):
            others = np.setdiff1d(np.arange(teacher.vocabulary), list(entries(record, teacher, row)))
            if teacher.prior_V1[others].sum() < 1e-3:
                return True
    return False


def check_against_dense(
    records: list[SparseLogits], teachers: list[Teacher], fused: FusedTargets, tolerance: float
) -> None:
    fused.check()
    keep = fused.ids_PM.shape[1]
    for row in range(len(fused)):
        lists = [
            entries(record, teacher, row) if record.covered_P()[row] else {}
            for record, teacher in zip(records, teachers, strict=True)
        ]
        answering = [t for t, listed in enumerate(lists) if listed]
        if not answering:
            assert (fused.ids_PM[row] == 65535).all() and (fused.sketch_PTD[row] == 0).all()
            assert np.isnan(fused.logprob_PM[row]).all() and np.isnan(fused.gold_logprob_P[row])
            assert np.isnan(fused.weight_PT[row]).all() and np.isnan(fused.tail_PT[row]).all()
            continue
        union = sorted(set().union(*lists))
        mixture, parts = dict.fromkeys(union, 0.0), {}
        for t in answering:
            listed, share, tail = parts[t] = restored(records[t], teachers[t], row)
            for v in union:
                mixture[v] += float(fused.weight_PT[row, t]) * listed.get(v, float(share[v]))
        ids = fused.ids_PM[row][fused.ids_PM[row] != 65535].astype(int).tolist()
        assert len(set(ids)) == len(ids) == min(keep, len(union)) and set(ids) <= set(union)
        expected_tail = np.zeros(len(teachers))
        for t, (listed, share, tail) in parts.items():
            inside = sum(float(share[v]) for v in ids if v not in listed)
            lost = sum(p for v, p in listed.items() if v not in ids)
            expected_tail[t] = float(fused.weight_PT[row, t]) * (max(tail - inside, 0) + lost)
        total = sum(mixture[v] for v in ids) + expected_tail.sum()
        found = fused.logprob_PM[row][: len(ids)].astype(np.float64)
        assert (np.diff(found) <= 0).all()
        # A tail is 1 minus a float32 sum, so what it gives to an id is exact to some 1e-7.
        np.testing.assert_allclose(np.exp(found), [mixture[v] / total for v in ids], rtol=tolerance, atol=3e-7)
        best = sorted(mixture.values(), reverse=True)[: len(ids)]
        np.testing.assert_allclose([mixture[v] for v in ids], best, rtol=tolerance, atol=3e-7)
        np.testing.assert_allclose(fused.tail_PT[row], expected_tail / total, rtol=tolerance, atol=2e-6)
        for t in answering:
            np.testing.assert_array_equal(fused.sketch_PTD[row, t, : teachers[t].tail_rank], records[t].sketch_PD[row])


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    teachers=st.integers(1, 3),
    vocabulary=st.integers(20, 60),
    keep=st.integers(1, 16),
    fused_keep=st.integers(1, 40),
    coverage=st.sampled_from([1.0, 0.7, 0.2]),
    column=st.integers(0, 2),
    bridges=st.sampled_from(["any", "same"]),
    tail_rank=st.sampled_from([0, 0, 2, 5]),
)
def test_fusing_is_the_dense_mixture(
    seed, teachers, vocabulary, keep, fused_keep, coverage, column, bridges, tail_rank
):
    records, readers, _ = scene(
        seed, teachers=teachers, vocabulary=vocabulary, keep=keep, coverage=coverage, column=column, bridges=bridges,
        tail_rank=tail_rank,
    )  # fmt: skip
    fused = fuse_shard(records, readers, keep=fused_keep, weighting="entropy", tau=1.0)
    check_against_dense(records, readers, fused, 2e-3 if near_limit(records, readers) else 1e-4)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    teachers=st.integers(1, 3),
    keep=st.sampled_from([0, 3]),
    draws=st.integers(1, 12),
    bridges=st.sampled_from(["any", "same"]),
)
def test_drawn_ids_are_entries_like_listed_ones(seed, teachers, keep, draws, bridges):
    records, readers, _ = scene(seed, teachers=teachers, keep=keep, draws=draws, bridges=bridges)
    fused = fuse_shard(records, readers, keep=60, weighting="entropy", tau=1.0)
    check_against_dense(records, readers, fused, 2e-3 if near_limit(records, readers) else 1e-4)
    if bridges == "same":
        np.testing.assert_allclose(np.nan_to_num(fused.tail_PT), 0, atol=1e-6)


@pytest.mark.parametrize("tail_rank", [0, 4])
@pytest.mark.parametrize("column", [0, 2])
def test_with_every_listed_id_kept_the_whole_mixture_is_restored(tail_rank: int, column: int):
    """Of one vocabulary and with room for the union nothing but rounding is lost, whatever the shapes of the tails."""
    records, readers, tails = scene(
        21, teachers=3, rows=40, vocabulary=80, keep=6, bridges="same", column=column, tail_rank=tail_rank, coverage=0.9
    )
    fused = fuse_shard(records, readers, keep=18, weighting="entropy", tau=1.0)
    mixture = np.zeros((40, 80))
    for t, (record, tail) in enumerate(zip(records, tails, strict=True)):
        dense = restore_teacher(
            record, bias_JV=tail.bias_JV, basis_DV=tail.basis_DV, column=column, temperature=TEMPERATURES[column]
        )
        mixture += np.nan_to_num(fused.weight_PT[:, t, None] * dense)
    bias = np.stack([teacher.bias_V1[:-1] for teacher in readers])
    basis = np.zeros((3, max(1, tail_rank), 80))
    for t, teacher in enumerate(readers):
        basis[t, : teacher.tail_rank] = teacher.basis_V1D[:-1].T
    answered = fused.covered_P()
    found = restore_fused(fused, bias_TV=bias, basis_TDV=basis if tail_rank else None)
    np.testing.assert_allclose(found[answered], mixture[answered], rtol=1e-4, atol=1e-7)
    assert answered.sum() > 30
    assert fused.sketch_PTD.shape == (40, 3, tail_rank)


def test_drawing_is_right_on_average():
    """Many rows of one distribution, each with its own draws: their fused mean is the full softmax."""
    rng = np.random.default_rng(3)
    dense = np.repeat(softmax(rng.normal(0, 2, (1, 25))), 6000, axis=0)
    tail = TailOf.plain(dense[:1], keep=2, temperatures=TEMPERATURES)
    record = sparse_logits(
        dense, np.zeros(6000, int), keep=2, tail=tail, covered_P=np.ones(6000, bool), draws=5, seed=1
    )
    fused = fuse_shard(
        [record], [reader(np.arange(25), tail, vocabulary=25, column=1)], keep=7, weighting="uniform", tau=1.0
    )
    mean = np.zeros(26)
    np.add.at(mean, np.minimum(fused.ids_PM, 25), np.nan_to_num(np.exp(fused.logprob_PM.astype(np.float64))))
    expected = cooled(dense[0], TEMPERATURES[1])
    error = np.sqrt(expected * (1 - expected) / (5 * 6000))
    np.testing.assert_array_less(np.abs(mean[:-1] / 6000 - expected), 4 * error + 1e-6)


@pytest.mark.parametrize("weighting", [name for name in get_args(Weighting) if name != "learned"])
@pytest.mark.parametrize("draws", [0, 6])
def test_weights_are_taken_at_their_own_column(weighting: Weighting, draws: int):
    records, readers, _ = scene(3, teachers=3, column=2 if draws == 0 else 1, draws=draws, keep=2)
    fused = fuse_shard(records, readers, keep=20, weighting=weighting, tau=0.7)
    answered = fused.covered_P()
    expected = weights(
        weighting,
        entropy_PT=np.stack([record.entropy_PJ[:, 1] for record in records], axis=1),
        gold_logprob_PT=np.stack([record.gold_logprob_PJ[:, 1] for record in records], axis=1),
        covered_PT=np.stack([
            [bool(entries(record, teacher, row)) and record.covered_P()[row] for row in range(12)]
            for record, teacher in zip(records, readers, strict=True)
        ], axis=1),
        log_prior_PT=np.array([0, 0.3, 0.6]),
        tau=0.7,
    )  # fmt: skip
    np.testing.assert_allclose(fused.weight_PT[answered], expected[answered], rtol=1e-4, atol=1e-7)


def test_gold_is_exact_and_needs_no_list():
    records, readers, _ = scene(4, teachers=2, keep=2, column=2)
    fused = fuse_shard(records, readers, keep=2, weighting="uniform", tau=1.0)
    for row in np.flatnonzero(fused.covered_P()):
        p = sum(
            float(fused.weight_PT[row, t]) * np.exp(float(record.gold_logprob_PJ[row, 2]))
            for t, record in enumerate(records)
            if record.covered_P()[row]
        )
        assert fused.gold_logprob_P[row] == pytest.approx(np.log(p), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("tail_rank", [0, 3])
@pytest.mark.parametrize("keep", [5, 8])
def test_one_teacher_of_the_same_vocabulary_is_the_identity(keep: int, tail_rank: int):
    (record,), (teacher,), (tail,) = scene(
        5, teachers=1, rows=200, vocabulary=60, keep=5, bridges="same", column=0, tail_rank=tail_rank
    )
    fused = fuse_shard([record], [teacher], keep=keep, weighting="entropy", tau=1.0)
    answered = record.covered_P()
    np.testing.assert_array_equal(fused.covered_P(), answered)
    np.testing.assert_array_equal(fused.ids_PM[:, 5:], 65535)
    np.testing.assert_array_equal(fused.ids_PM[:, :5], record.ids_PK)
    np.testing.assert_allclose(fused.logprob_PM[:, :5], record.logprob_PK, atol=1e-5)
    np.testing.assert_allclose(fused.gold_logprob_P, record.gold_logprob_PJ[:, 0], atol=1e-6)
    np.testing.assert_array_equal(fused.weight_PT[answered], 1)
    np.testing.assert_allclose(fused.tail_PT[:, 0], record.tail_PJ[:, 0], atol=1e-6)
    np.testing.assert_array_equal(fused.sketch_PTD[:, 0], record.sketch_PD)
    expected = restore_teacher(record, bias_JV=tail.bias_JV, basis_DV=tail.basis_DV, column=0, temperature=1.0)
    found = restore_fused(fused, bias_TV=teacher.bias_V1[None, :-1], basis_TDV=teacher.basis_V1D[None, :-1].mT)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def flat(vocabulary: int) -> TailOf:
    """The uniform prior."""
    bias = np.full((len(TEMPERATURES), vocabulary), -np.log(vocabulary), np.float32)
    return TailOf(temperatures=TEMPERATURES, bias_JV=bias, basis_DV=np.zeros((0, vocabulary), np.float16))


def one_row(*, ids: list[int], logprob: list[float], tail: float) -> SparseLogits:
    """A list at one temperature."""
    return SparseLogits.from_arrays({
        "ids_PK": np.array([ids], np.uint16), "logprob_PK": np.array([logprob], np.float32),
        "drawn_ids_PS": np.zeros((1, 0), np.uint16), "drawn_share_PS": np.zeros((1, 0), np.float32),
        "tail_PJ": np.array([[tail]], np.float32), "gold_logprob_PJ": np.array([[-1.0]], np.float32),
        "gold_place_P": np.array([-1], np.int32), "entropy_PJ": np.array([[1.0]], np.float32),
        "sketch_PD": np.zeros((1, 0), np.int8), "spread_PJ": np.zeros((1, 1), np.float32),
    })  # fmt: skip


def test_ties_keep_the_order_of_the_lists():
    tied = one_row(ids=[9, 3, 12, 1], logprob=[-1.5] * 4, tail=1 - 4 * np.exp(-1.5))
    teacher = reader(np.arange(20), flat(20), vocabulary=20)
    fused = fuse_shard([tied], [teacher], keep=3, weighting="uniform", tau=1.0)
    assert fused.ids_PM.tolist() == [[9, 3, 12]]
    backwards = replace(tied, ids_PK=tied.ids_PK[:, ::-1].copy())
    fused = fuse_shard([tied, backwards], [teacher, teacher], keep=4, weighting="uniform", tau=1.0)
    assert fused.ids_PM.tolist() == [[9, 1, 3, 12]]  # ranks 1 and 1, then 2 and 2: the first teacher first


@pytest.mark.parametrize("tail_rank", [0, 2])
def test_everything_listed_and_nothing_left_over(tail_rank: int):
    """K = V: there is nothing outside the list, and the mixture is that of the lists."""
    records, readers, _ = scene(
        6, teachers=2, vocabulary=12, keep=12, bridges="same", coverage=1.0, tail_rank=tail_rank, column=0
    )
    fused = fuse_shard(records, readers, keep=12, weighting="uniform", tau=1.0)
    check_against_dense(records, readers, fused, 2e-3)
    np.testing.assert_allclose(fused.tail_PT, 0, atol=1e-6)


@pytest.mark.parametrize("tail_rank", [0, 2])
def test_a_tail_with_nowhere_to_go_is_shared_out(tail_rank: int):
    """All tokens with a counterpart are listed, and half of the mass is not at them."""
    record, tail, dense = teacher_rows(np.random.default_rng(12), 6, 20, keep=4, tail_rank=tail_rank)
    to_student = np.full(20, -1)
    to_student[record.ids_PK[0, :2]] = [0, 1]
    fused = fuse_shard([record], [reader(to_student, tail, vocabulary=2)], keep=4, weighting="uniform", tau=1.0)
    p = np.sort(dense[0])[::-1][:2]
    np.testing.assert_allclose(np.exp(fused.logprob_PM[0, :2]), p / p.sum(), rtol=1e-5)
    assert fused.tail_PT[0, 0] == 0


@pytest.mark.parametrize("tail_rank", [0, 2])
def test_tokens_without_a_counterpart_go_to_the_tail(tail_rank: int):
    record, tail, _ = teacher_rows(np.random.default_rng(7), 8, 20, keep=4, tail_rank=tail_rank)
    to_student = np.arange(20)
    to_student[record.ids_PK[:, 0]] = -1
    teacher = reader(to_student, tail, vocabulary=20)
    fused = fuse_shard([record], [teacher], keep=4, weighting="uniform", tau=1.0)
    lost = np.where(to_student[record.ids_PK] < 0, np.exp(record.logprob_PK.astype(np.float64)), 0).sum(axis=1)
    assert (lost > 0).all()
    np.testing.assert_allclose(fused.tail_PT[:, 0], record.tail_PJ[:, 0] + lost, atol=1e-5)
    assert teacher.prior_V1.sum() == pytest.approx(1, rel=1e-5)
    assert (teacher.bias_V1[np.flatnonzero(to_student < 0)] == NO_COUNTERPART).all()


def test_tokens_of_one_student_id_add_up():
    record, _, _ = teacher_rows(np.random.default_rng(8), 6, 20, keep=4)
    teacher = reader(np.arange(20) // 20, flat(20), vocabulary=2)
    assert teacher.merges
    fused = fuse_shard([record], [teacher], keep=4, weighting="uniform", tau=1.0)
    assert (fused.ids_PM[:, 0] == 0).all() and (fused.ids_PM[:, 1:] == 65535).all()
    np.testing.assert_allclose(fused.logprob_PM[:, 0], 0, atol=1e-6)  # the only student id that the teacher knows


@pytest.mark.parametrize("column", [0, 2])
def test_tails_are_translated_token_by_token(column: int):
    rng = np.random.default_rng(9)
    bias = np.log(rng.dirichlet(np.ones(7)))
    basis = rng.normal(size=(2, 7))
    temperature = TEMPERATURES[column]
    teacher = Teacher.of(
        np.array([3, -1, 0, 3, 4, -1, 3]), bias, basis, vocabulary=6, column=column, temperature=temperature,
        weight_column=0,
    )  # fmt: skip
    p = np.exp(bias)
    matched = p[[0, 2, 3, 4, 6]].sum()
    shared = p[[0, 3, 6]].sum()
    np.testing.assert_allclose(
        teacher.prior_V1, [p[2] / matched, 0, 0, shared / matched, p[4] / matched, 0, 0], rtol=1e-6
    )
    np.testing.assert_allclose(np.exp(teacher.bias_V1), teacher.prior_V1, rtol=1e-6)
    np.testing.assert_allclose(teacher.basis_V1D[0], basis[:, 2] / temperature, rtol=1e-6)
    mean = (p[[0, 3, 6]] * basis[:, [0, 3, 6]]).sum(axis=1) / shared
    np.testing.assert_allclose(teacher.basis_V1D[3], mean / temperature, rtol=1e-6)
    assert (teacher.basis_V1D[[1, 2, 5, 6]] == 0).all()
    assert teacher.lookup_V1.tolist() == [3, 6, 0, 3, 4, 6, 3, 6]
    assert teacher.merges and teacher.tail_rank == 2 and teacher.vocabulary == 6


@pytest.mark.parametrize("tail_rank", [0, 5])
def test_rows_add_up_whatever_was_rounded_before(tail_rank: int):
    """Sums of logs as they come off the disk: each row misses 1 by up to a hundredth, the fused one does not."""
    records, readers, _ = scene(13, teachers=2, rows=60, vocabulary=90, keep=10, bridges="same", tail_rank=tail_rank)
    rng = np.random.default_rng(0)
    rough = [
        replace(
            record,
            tail_PJ=(record.tail_PJ * rng.uniform(0.98, 1.02, record.tail_PJ.shape)).clip(0, 1).astype(np.float32),
            spread_PJ=np.round(record.spread_PJ * 32) / np.float32(32),
        )
        for record in records
    ]
    fused = fuse_shard(rough, readers, keep=12, weighting="entropy", tau=1.0)
    answered = fused.covered_P()
    total = np.nansum(np.exp(fused.logprob_PM.astype(np.float64)), axis=1) + fused.tail_PT.sum(axis=1)
    np.testing.assert_allclose(total[answered], 1, atol=2e-6)
    fused.check()


def test_large_vocabularies_sort_by_wide_keys():
    records, readers, _ = scene(9, teachers=2, vocabulary=40, keep=6, bridges="same", coverage=1.0)
    shift = 60_000_000
    wide = [
        replace(
            teacher, lookup_V1=np.where(teacher.lookup_V1 < 40, teacher.lookup_V1 + shift, shift + 40).astype(np.uint32)
        )
        for teacher in readers
    ]
    sorted_entries = [
        mixture._sorted_entries(
            [
                mixture.RestoredRows(
                    ids_BK=teacher.lookup_V1.take(record.ids_PK),
                    p_BK=np.exp(record.logprob_PK),
                    tail_B=np.ones(12, np.float32),
                    log_rate_B=np.zeros(12, np.float32),
                    coordinates_BD=np.zeros((12, 0), np.float32),
                )
                for record, teacher in zip(records, teachers, strict=True)
            ],
            np.full((12, 2), 0.5, np.float32),
            vocabulary,
        )
        for teachers, vocabulary in ((readers, 40), (wide, shift + 40))
    ]
    narrow, wider = sorted_entries
    np.testing.assert_array_equal(narrow.ids_BE + shift, wider.ids_BE)
    np.testing.assert_array_equal(narrow.p_BE, wider.p_BE)
    np.testing.assert_array_equal(narrow.bit_BE, wider.bit_BE)
    np.testing.assert_array_equal(narrow.order_BE, wider.order_BE)


@pytest.mark.parametrize(("tail_rank", "draws"), [(0, 0), (4, 0), (0, 5)])
def test_rows_are_independent_of_the_block(monkeypatch: pytest.MonkeyPatch, tail_rank: int, draws: int):
    records, readers, _ = scene(10, teachers=3, rows=50, tail_rank=tail_rank, draws=draws)
    whole = fuse_shard(records, readers, keep=7, weighting="entropy", tau=1.0)
    monkeypatch.setattr(teacher_module, "BLOCK_ROWS", 7)
    cut = fuse_shard(records, readers, keep=7, weighting="entropy", tau=1.0)
    for name, values in whole.arrays().items():
        np.testing.assert_array_equal(cut.arrays()[name], values, err_msg=name)
