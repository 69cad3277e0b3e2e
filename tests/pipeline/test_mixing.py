"""Fused rows against the mixture of dense float64 distributions, built entry by entry from the definition."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import mixing
from pipeline.mixing import Teacher, fuse_shard
from pipeline.sparse import OUTSIDE_MINIMUM, restore_fused, restore_teacher
from pipeline.weighting import Weighting, weights
from storage.arrays import sentinel
from storage.records import FusedTargets, SparseLogits

TEMPERATURES = [1.0, 1.3, 2.6]


def beliefs(
    generator: np.random.Generator, rows: int, vocabulary: int, *, keep: int, coverage: float = 0.8
) -> tuple[SparseLogits, np.ndarray]:
    """A teacher's record from random dense logits, and its tail priors [J, V] over these rows."""
    logits = generator.normal(0, generator.uniform(0.5, 4), (rows, vocabulary))
    logp_PJV = np.stack([logits / t for t in TEMPERATURES], axis=1)
    logp_PJV -= np.log(np.exp(logp_PJV).sum(axis=2, keepdims=True))
    ids = np.argsort(-logits, axis=1)[:, :keep]
    gold = generator.integers(0, vocabulary, rows)
    kept = np.zeros((rows, vocabulary), bool)
    np.put_along_axis(kept, ids, True, axis=1)
    outside = np.where(kept[:, None], 0, np.exp(logp_PJV))
    raw = logp_PJV[:, 0]
    with np.errstate(divide="ignore"):
        tail = np.log(outside[:, 0].sum(axis=1))
    lse = np.stack([np.log(np.exp(raw / t).sum(axis=1)) for t in TEMPERATURES], axis=1)
    columns = {
        "ids_PK": ids.astype(np.uint16),
        "logprob_PK": np.take_along_axis(raw, ids, axis=1).astype(np.float16),
        "tail_P": tail.astype(np.float32),
        "gold_id_P": gold.astype(np.uint16),
        "gold_logprob_P": raw[np.arange(rows), gold].astype(np.float32),
        "entropy_PJ": -(np.exp(logp_PJV) * logp_PJV).sum(axis=2).astype(np.float32),
        "lse_PJ": lse.astype(np.float32),
    }
    silent = generator.random(rows) > coverage
    for name, values in columns.items():
        columns[name] = values.copy()
        columns[name][silent] = sentinel(values.dtype)
    prior_JV = outside.sum(axis=0) + 1e-6
    record = SparseLogits(**columns)
    record.check()
    return record, prior_JV / prior_JV.sum(axis=1, keepdims=True)


def scene(
    seed: int, *, teachers: int, rows: int = 12, vocabulary: int = 30, keep: int = 5, coverage: float = 0.8,
    bridges: str = "any", column: int = 1,
) -> tuple[list[SparseLogits], list[Teacher]]:  # fmt: skip
    """Teachers of differing size whose pieces have a counterpart, none or a shared one ("any"), or the same ids."""
    generator = np.random.default_rng(seed)
    records, readers = [], []
    for t in range(teachers):
        own = vocabulary if bridges == "same" else int(generator.integers(max(keep, vocabulary // 2), 2 * vocabulary))
        record, prior_JV = beliefs(generator, rows, own, keep=keep, coverage=coverage)
        to_student = np.arange(own) if bridges == "same" else generator.integers(-1, vocabulary, own)
        prior = np.zeros(vocabulary)
        np.add.at(prior, to_student[to_student >= 0], prior_JV[column][to_student >= 0])
        records.append(record)
        readers.append(
            Teacher.of(
                to_student, (prior / prior.sum()).astype(np.float32), column=column, temperature=TEMPERATURES[column],
                weight_column=1, weight_temperature=TEMPERATURES[1], log_prior=0.3 * t,
            )
        )  # fmt: skip
    return records, readers


def restored(record: SparseLogits, teacher: Teacher, row: int) -> np.ndarray:
    """One teacher's distribution over student ids, by its definition, in float64."""
    vocabulary = teacher.vocabulary
    dense = np.zeros(vocabulary)
    listed = set()
    for piece, logprob in zip(record.ids_PK[row], record.logprob_PK[row].astype(np.float64), strict=True):
        student = int(teacher.lookup_V1[piece])
        if student < vocabulary:
            listed.add(student)
            dense[student] += np.exp(logprob / teacher.temperature - float(record.lse_PJ[row, teacher.column]))
    others = np.array([v not in listed for v in range(vocabulary)])
    prior = teacher.prior_V1[:-1].astype(np.float64) * others
    if prior.sum() <= OUTSIDE_MINIMUM * 1.5:
        return dense / dense.sum()
    dense /= max(1, dense.sum())
    return dense + (1 - dense.sum()) * prior / prior.sum()


def near_limit(records: list[SparseLogits], teachers: list[Teacher]) -> bool:
    """Whether some list holds almost all its prior knows, where 1 - sum in float32 has few digits left."""
    for record, teacher in zip(records, teachers, strict=True):
        for pieces in record.ids_PK[record.covered_P()]:
            others = np.setdiff1d(np.arange(teacher.vocabulary), teacher.lookup_V1[pieces])
            if teacher.prior_V1[others].sum() < 1e-3:
                return True
    return False


def check_against_dense(records: list[SparseLogits], teachers: list[Teacher], fused: FusedTargets, tolerance: float):
    fused.check()
    prior_TV = np.stack([teacher.prior_V1[:-1] for teacher in teachers])
    dense = restore_fused(fused, prior_TV)
    keep = fused.ids_PM.shape[1]
    for row in range(len(fused)):
        lists = [
            teacher.lookup_V1[record.ids_PK[row]] if record.covered_P()[row] else np.zeros(0, np.uint32)
            for record, teacher in zip(records, teachers, strict=True)
        ]
        answering = [t for t, ids in enumerate(lists) if (ids < teachers[t].vocabulary).any()]
        if not answering:
            assert (fused.ids_PM[row] == 65535).all()
            assert np.isnan(fused.logprob_PM[row]).all() and np.isnan(fused.gold_logprob_P[row])
            assert np.isnan(fused.weight_PT[row]).all() and np.isnan(fused.tail_PT[row]).all()
            continue
        weight = fused.weight_PT[row].astype(np.float64)
        parts = {t: weight[t] * restored(records[t], teachers[t], row) for t in answering}
        mixture = sum(parts.values())
        union = {int(v) for ids in lists for v in ids} - {teachers[0].vocabulary}
        ids = fused.ids_PM[row][fused.ids_PM[row] != 65535].astype(int)
        assert len(set(ids)) == len(ids) == min(keep, len(union)) and set(ids) <= union
        found = fused.logprob_PM[row][: len(ids)].astype(np.float64)
        assert (np.diff(found) <= 0).all()
        np.testing.assert_allclose(found, np.log(mixture[ids]), rtol=2**-11, atol=tolerance)
        np.testing.assert_allclose(mixture[ids], np.sort(mixture[list(union)])[::-1][: len(ids)], rtol=tolerance)
        others = np.setdiff1d(np.arange(len(mixture)), ids)
        for t in range(len(teachers)):
            expected = parts[t][others].sum() if t in parts else 0
            assert fused.tail_PT[row, t] == pytest.approx(expected, rel=tolerance, abs=1e-6)
        if len(union) <= keep:  # then the rest is restored as the mixture itself
            np.testing.assert_allclose(dense[row][others], mixture[others], rtol=tolerance, atol=1e-6)


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
)
def test_fusing_is_the_dense_mixture(seed, teachers, vocabulary, keep, fused_keep, coverage, column, bridges):
    records, readers = scene(
        seed, teachers=teachers, vocabulary=vocabulary, keep=keep, coverage=coverage, column=column, bridges=bridges
    )
    fused = fuse_shard(records, readers, keep=fused_keep, weighting="entropy", tau=1.0)
    check_against_dense(records, readers, fused, 2e-3 if near_limit(records, readers) else 1e-4)


@pytest.mark.parametrize("weighting", get_args(Weighting))
def test_weights_are_taken_at_their_own_column(weighting: Weighting):
    records, readers = scene(3, teachers=3, column=2)
    fused = fuse_shard(records, readers, keep=20, weighting=weighting, tau=0.7)
    answered = fused.covered_P()
    expected = weights(
        weighting,
        entropy_PT=np.stack([record.entropy_PJ[:, 1] for record in records], axis=1),
        max_logprob_PT=np.stack([record.logprob_PK[:, 0] / 1.3 - record.lse_PJ[:, 1] for record in records], axis=1),
        gold_logprob_PT=np.stack([record.gold_logprob_P / 1.3 - record.lse_PJ[:, 1] for record in records], axis=1),
        covered_PT=np.stack([record.covered_P() for record in records], axis=1),
        log_prior_T=np.array([0, 0.3, 0.6]),
        tau=0.7,
    )
    np.testing.assert_allclose(fused.weight_PT[answered], expected[answered], rtol=1e-3)  # the lists are float16


def test_gold_is_exact_and_needs_no_list():
    records, readers = scene(4, teachers=2, keep=2, column=2)
    fused = fuse_shard(records, readers, keep=2, weighting="uniform", tau=1.0)
    for row in np.flatnonzero(fused.covered_P()):
        p = sum(
            float(fused.weight_PT[row, t])
            * np.exp(float(record.gold_logprob_P[row]) / 2.6 - float(record.lse_PJ[row, 2]))
            for t, record in enumerate(records)
            if record.covered_P()[row]
        )
        assert fused.gold_logprob_P[row] == pytest.approx(np.log(p), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("keep", [5, 8])
def test_one_teacher_of_the_same_vocabulary_is_the_identity(keep: int):
    (record,), (reader,) = scene(5, teachers=1, rows=200, vocabulary=60, keep=5, bridges="same", column=0)
    fused = fuse_shard([record], [reader], keep=keep, weighting="entropy", tau=1.0)
    answered = record.covered_P()
    np.testing.assert_array_equal(fused.covered_P(), answered)
    np.testing.assert_array_equal(fused.ids_PM[:, 5:], 65535)
    np.testing.assert_array_equal(fused.ids_PM[:, :5], record.ids_PK)  # in the same order, through float16 ties
    np.testing.assert_allclose(
        fused.logprob_PM[answered, :5].astype(np.float32), record.logprob_PK[answered].astype(np.float32), atol=4e-3
    )
    np.testing.assert_allclose(fused.gold_logprob_P[answered], record.gold_logprob_P[answered], atol=1e-6)
    np.testing.assert_array_equal(fused.weight_PT[answered], 1)
    np.testing.assert_allclose(fused.tail_PT[answered, 0], np.exp(record.tail_P[answered]), atol=2e-3)
    teacher = restore_teacher(record, reader.prior_V1[:-1], column=0, temperature=1.0)
    np.testing.assert_allclose(restore_fused(fused, reader.prior_V1[None, :-1]), teacher, rtol=2e-3, atol=2e-4)


def test_ties_keep_the_order_of_the_lists():
    record, _ = beliefs(np.random.default_rng(11), 1, 20, keep=4, coverage=1.0)
    ids = np.array([[9, 3, 12, 1]], np.uint16)
    tied = replace(record, ids_PK=ids, logprob_PK=np.full((1, 4), -1.5, np.float16))
    reader = Teacher.of(
        np.arange(20), np.full(20, 0.05), column=0, temperature=1.0, weight_column=0, weight_temperature=1.0
    )
    fused = fuse_shard([tied], [reader], keep=3, weighting="uniform", tau=1.0)
    assert fused.ids_PM.tolist() == [[9, 3, 12]]
    backwards = replace(tied, ids_PK=ids[:, ::-1].copy())
    fused = fuse_shard([tied, backwards], [reader, reader], keep=4, weighting="uniform", tau=1.0)
    assert fused.ids_PM.tolist() == [[9, 1, 3, 12]]  # ranks 1 and 1, then 2 and 2: the first teacher first


def test_everything_listed_and_nothing_left_over():
    """K = V: the prior has nothing outside the list, and the mixture is that of the lists."""
    records, readers = scene(6, teachers=2, vocabulary=12, keep=12, bridges="same", coverage=1.0)
    fused = fuse_shard(records, readers, keep=12, weighting="uniform", tau=1.0)
    check_against_dense(records, readers, fused, 2e-3)
    np.testing.assert_allclose(fused.tail_PT, 0, atol=1e-6)


def test_pieces_without_a_counterpart_go_to_the_tail():
    record, _ = beliefs(np.random.default_rng(7), 8, 20, keep=4, coverage=1.0)
    to_student = np.arange(20)
    to_student[record.ids_PK[:, 0]] = -1
    reader = Teacher.of(
        to_student, np.full(20, 0.05), column=0, temperature=1.0, weight_column=0, weight_temperature=1.0
    )
    fused = fuse_shard([record], [reader], keep=4, weighting="uniform", tau=1.0)
    lost = np.where(to_student[record.ids_PK] < 0, np.exp(record.logprob_PK.astype(np.float64)), 0).sum(axis=1)
    assert (lost > 0).all()
    np.testing.assert_allclose(fused.tail_PT[:, 0], np.exp(record.tail_P) + lost, atol=2e-3)


def test_pieces_of_one_student_id_add_up():
    record, _ = beliefs(np.random.default_rng(8), 6, 20, keep=4, coverage=1.0)
    reader = Teacher.of(
        np.arange(20) // 20, np.array([0.4, 0.6]), column=0, temperature=1.0, weight_column=0, weight_temperature=1.0
    )
    assert reader.merges
    fused = fuse_shard([record], [reader], keep=4, weighting="uniform", tau=1.0)
    assert (fused.ids_PM[:, 0] == 0).all() and (fused.ids_PM[:, 1:] == 65535).all()
    np.testing.assert_allclose(
        np.exp(fused.logprob_PM[:, 0].astype(np.float64)),
        np.exp(record.logprob_PK.astype(np.float64)).sum(1),
        rtol=3e-3,
    )


def test_rounded_logs_above_one_leave_no_tail_and_stay_within_the_tolerance():
    """64 equal entries round up by almost 2e-3 in float16, the most there can be."""
    record = SparseLogits(
        ids_PK=np.arange(64, dtype=np.uint16)[None],
        logprob_PK=np.full((1, 64), np.nextafter(np.float16(-np.log(64)), np.float16(0))),
        tail_P=np.array([-20.0], np.float32),
        gold_id_P=np.array([0], np.uint16),
        gold_logprob_P=np.array([-np.log(64)], np.float32),
        entropy_PJ=np.array([[np.log(64)]], np.float32),
        lse_PJ=np.zeros((1, 1), np.float32),
    )
    reader = Teacher.of(
        np.arange(70), np.full(70, 1 / 70), column=0, temperature=1.0, weight_column=0, weight_temperature=1.0
    )
    fused = fuse_shard([record], [reader], keep=64, weighting="uniform", tau=1.0)
    fused.check()
    assert fused.tail_PT[0, 0] == 0


def test_large_vocabularies_sort_by_wide_keys():
    records, readers = scene(9, teachers=2, vocabulary=40, keep=6, bridges="same", coverage=1.0)
    shift = 60_000_000
    wide = [
        replace(
            reader, lookup_V1=np.where(reader.lookup_V1 < 40, reader.lookup_V1 + shift, shift + 40).astype(np.uint32)
        )
        for reader in readers
    ]
    entries = [
        mixing._sorted_entries(
            [mixing.Beliefs(
                ids_BK=reader.lookup_V1.take(record.ids_PK), p_BK=np.exp(record.logprob_PK.astype(np.float32)),
                outside_B=np.ones(12, np.float32), rate_B=np.ones(12, np.float32),
            ) for record, reader in zip(records, teachers, strict=True)],
            np.full((12, 2), 0.5, np.float32), vocabulary,
        ) for teachers, vocabulary in ((readers, 40), (wide, shift + 40))
    ]  # fmt: skip
    np.testing.assert_array_equal(entries[0].ids_BE + shift, entries[1].ids_BE)
    np.testing.assert_array_equal(entries[0].p_BE, entries[1].p_BE)
    np.testing.assert_array_equal(entries[0].bit_BE, entries[1].bit_BE)
    np.testing.assert_array_equal(entries[0].order_BE, entries[1].order_BE)


def test_rows_are_independent_of_the_block(monkeypatch: pytest.MonkeyPatch):
    records, readers = scene(10, teachers=3, rows=50)
    whole = fuse_shard(records, readers, keep=7, weighting="entropy", tau=1.0)
    monkeypatch.setattr(mixing, "BLOCK_ROWS", 7)
    cut = fuse_shard(records, readers, keep=7, weighting="entropy", tau=1.0)
    for name, values in whole.arrays().items():
        np.testing.assert_array_equal(cut.arrays()[name], values, err_msg=name)
