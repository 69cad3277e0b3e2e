"""Whole stores: two hand-made teachers whose dense distributions are known, fused in every way that a user can choose.

`test_mixture` tests a fused row in detail; here whole stores are compared with the dense mixture.
"""

from __future__ import annotations

import logging
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.config import decode
from pipeline.executor.base import LocalExecutor
from pipeline.fuse import fitted as fuse_fitted
from pipeline.fuse import job as fuse_job
from pipeline.fuse.fuse import fuse
from pipeline.fuse.params import FusionParams
from pipeline.text.corpus_view import MaskedSequences
from storage.documents import DocumentStore
from storage.errors import (
    DataError,
    ParamsError,
    StaleParent,
    StoreError,
    StoreMissing,
    VocabularyError,
)
from storage.format.manifest import MANIFEST, Manifest
from storage.format.manifest_parse import read_manifest
from storage.reader import Store
from storage.records.base import SPLITS
from storage.records.logits import SparseLogits
from storage.records.sequences import Masks, Sequences
from storage.records.targets import FusedTargets
from storage.writer import StoreWriter
from tests.helpers.distributions import cooled
from tests.helpers.reference import restore_fused, restore_teacher
from tests.helpers.stores import TINY_TEXT, TinyStores
from tests.helpers.teacher_stores import TEMPERATURES, World, make_world

BASIC: dict[str, Any] = {
    "teachers": ["alpha", "beta"], "weighting": "entropy", "tau": 1.0, "calibrated": True, "prior": "equal",
    "temperature": 1.0, "keep": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_stores: TinyStores) -> World:
    return make_world(tiny_stores, tmp_path_factory.mktemp("made") / "data", keep=8, fusions=())


@pytest.fixture(scope="module")
def made_with_low_rank_tails(tmp_path_factory: pytest.TempPathFactory, tiny_stores: TinyStores) -> World:
    """alpha's tails have four coordinates, beta's two."""
    return make_world(tiny_stores, tmp_path_factory.mktemp("low_rank") / "data", keep=8, tail_rank=4, fusions=())


@pytest.fixture(scope="module")
def made_with_draws(tmp_path_factory: pytest.TempPathFactory, tiny_stores: TinyStores) -> World:
    return make_world(tiny_stores, tmp_path_factory.mktemp("drawn") / "data", keep=4, draws=6, fusions=())


def copy_of(world: World, workplace: Path) -> World:
    shutil.copytree(world.data, workplace / "data", symlinks=True)
    return replace(world, data=workplace / "data")


@pytest.fixture
def world(workplace: Path, made: World) -> World:
    return copy_of(made, workplace)


@pytest.fixture
def low_rank(workplace: Path, made_with_low_rank_tails: World) -> World:
    return copy_of(made_with_low_rank_tails, workplace)


@pytest.fixture
def drawn(workplace: Path, made_with_draws: World) -> World:
    return copy_of(made_with_draws, workplace)


def params(**changes: Any) -> FusionParams:
    return decode(BASIC | changes, FusionParams, where="params.yaml: fusions.mixed")


def run(
    world: World,
    *,
    name: str = "mixed",
    threads: int = 2,
    declared: Any = ("alpha", "beta"),
    documents: Path | None = None,
    **changes: Any,
) -> Manifest:
    data = world.data
    return fuse(
        params(**changes), MaskedSequences.open_pair(data / "sequences", data / "masks"), logits=data / "logits",
        out=data / "targets" / name, declared=declared, documents=documents, executor=LocalExecutor(threads=threads),
    )  # fmt: skip


def open_targets(world: World, name: str = "mixed") -> Store[FusedTargets]:
    return Store(world.data / "targets" / name, FusedTargets)


def edit_facts(store: Path, **changes: Any) -> None:
    manifest = read_manifest(store)
    (store / MANIFEST).write_text(replace(manifest, facts=manifest.facts | changes).to_json())


def restored(world: World, name: str, column: int) -> np.ndarray:
    """A teacher's probabilities by student id, restored from its store by definition; NaN where it did not answer."""
    store = Store(world.data / "logits" / name, SparseLogits)
    dense_PV = restore_teacher(
        store.read("heldout"), bias_JV=store.constant("tail_bias_JV"), basis_DV=basis_of(store, "tail_basis_DV"),
        column=column, temperature=TEMPERATURES[column],
    )  # fmt: skip
    return dense_PV[:, ::-1] if name == world.reversed_teacher else dense_PV


def basis_of(store: Store[Any], name: str) -> np.ndarray | None:
    return store.constant(name) if {"sketch_PD", "sketch_PTD"} & set(store.manifest.arrays) else None


def check_mixture(world: World, column: int) -> np.ndarray:
    """Check the store "mixed" against the mixture of the teachers' stores, which is returned, and dense truth."""
    store = open_targets(world)
    fused = store.read("heldout")
    gold, entropy = [], []
    for name in ("alpha", "beta"):
        gold.append(cooled(world.dense[name], TEMPERATURES[column])[np.arange(len(fused)), world.label_P])
        calibrated = cooled(world.dense[name], TEMPERATURES[1])  # weights are read at the fitted temperature itself
        entropy.append(-(calibrated * np.log(calibrated)).sum(axis=1))
    answers = np.array([restored(world, name, column) for name in ("alpha", "beta")])
    weight = np.exp(-np.array(entropy)) * np.isfinite(answers[:, :, 0])
    weight /= weight.sum(axis=0)
    # An entropy is stored to 1/128 of a nat, so a ratio of weights to 1/64; a weight itself to 1/500.
    np.testing.assert_allclose(fused.weight_PT, weight.T, atol=1 / 256 + 1 / 500)
    expected = np.log((weight * gold).sum(axis=0))
    np.testing.assert_allclose(fused.gold_logprob_P, expected, atol=2 / 256 + 1 / 64)

    mixture = (fused.weight_PT.T[:, :, None].astype(np.float64) * np.nan_to_num(answers)).sum(axis=0)
    found = restore_fused(fused, bias_TV=store.constant("tail_bias_TV"), basis_TDV=basis_of(store, "tail_basis_TDV"))
    assert_close_roots(found, mixture)
    return mixture


def assert_close_roots(found: np.ndarray, expected: np.ndarray) -> None:
    """Roots of probabilities are stored to 1/256, those of tails to 1/500; scaling a row to sum 1 adds to both."""
    error = np.abs(np.sqrt(found) - np.sqrt(expected))
    assert (error <= 0.007 + 0.015 * np.sqrt(expected)).all(), f"a root is {error.max()} off"
    assert error.mean() < 2e-3


@pytest.mark.parametrize(("temperature", "column"), [(1.0, 1), (2.0, 2)])
def test_a_store_holds_the_mixture_of_the_teachers(world: World, temperature: float, column: int):
    run(world, temperature=temperature)
    check_mixture(world, column)
    store = open_targets(world)
    assert "sketch_PTD" not in store.manifest.arrays
    bias = store.constant("tail_bias_TV")
    np.testing.assert_allclose(np.exp(bias).sum(axis=1), 1, rtol=1e-6)
    for name, bias_V in zip(("alpha", "beta"), bias, strict=True):
        own = Store(world.data / "logits" / name, SparseLogits).constant("tail_bias_JV")[column]
        np.testing.assert_allclose(bias_V, own[::-1] if name == "beta" else own, atol=1e-5)


@pytest.mark.parametrize(("temperature", "column"), [(1.0, 1), (2.0, 2)])
def test_tails_of_different_rank_are_carried_over(low_rank: World, temperature: float, column: int):
    run(low_rank, temperature=temperature)
    mixture = check_mixture(low_rank, column)
    store = open_targets(low_rank)
    with pytest.raises(AssertionError, match="a root is"):  # without the low-rank tails the same comparison fails
        assert_close_roots(
            restore_fused(store.read("heldout"), bias_TV=store.constant("tail_bias_TV"), basis_TDV=None), mixture
        )
    basis, rows = store.constant("tail_basis_TDV"), store.read("heldout")
    assert basis.dtype == np.float16 and basis.shape == (2, 4, store.facts["vocabulary"])
    assert rows.sketch_PTD.shape[1:] == (2, 4)
    for t, (name, size) in enumerate((("alpha", 4), ("beta", 2))):
        teacher = Store(low_rank.data / "logits" / name, SparseLogits)
        own = teacher.constant("tail_basis_DV").astype(np.float64) / TEMPERATURES[column]
        np.testing.assert_allclose(basis[t, :size], own[:, ::-1] if name == "beta" else own, rtol=2e-3, atol=1e-6)
        codes = teacher.read("heldout").sketch_PD
        np.testing.assert_array_equal(rows.sketch_PTD[:, t, :size], codes)
        assert codes.any()
    assert not basis[1, 2:].any() and not rows.sketch_PTD[:, 1, 2:].any()


def test_drawn_tails_are_mixed_like_lists(drawn: World):
    run(drawn, keep=32)
    mixture = check_mixture(drawn, 1)
    rows = open_targets(drawn).read("heldout")
    assert ((mixture > 0).sum(axis=1) == (rows.ids_PM != 65535).sum(axis=1)).all()
    assert (rows.tail_PT[rows.covered_P()] < 2e-5).all()  # what rounding leaves is stored as 1/250 squared at least


@pytest.mark.parametrize("changes", [{"temperature": 2.0}, {"calibrated": False}])
def test_draws_stand_for_the_calibrated_temperature_alone(drawn: World, changes: dict[str, Any]):
    message = (
        r"fusions.mixed: .*logits/alpha holds draws.*expected calibrated: true and temperature: 1.0"
        r".*teachers.alpha.keep"
    )
    with pytest.raises(ParamsError, match=message):
        run(drawn, **changes)


@pytest.mark.parametrize("name", ["world", "low_rank"])
def test_ids_are_ordered_by_the_tails_of_all_teachers(name: str, request: pytest.FixtureRequest):
    run(request.getfixturevalue(name))
    store = open_targets(request.getfixturevalue(name))
    order = store.constant("order_V")
    mass = np.exp(store.constant("tail_bias_TV").astype(np.float64)).sum(axis=0)
    assert sorted(order.tolist()) == list(range(store.facts["vocabulary"]))
    assert (np.diff(mass[order]) <= 1e-9).all()


def test_the_store_says_what_it_is(world: World):
    manifest = run(world)
    masks = Store(world.data / "masks", Masks)
    assert manifest.splits == masks.manifest.splits
    assert manifest.parents["masks"] == masks.identity
    assert manifest.parents["logits/beta"] == read_manifest(world.data / "logits" / "beta").identity
    assert manifest.inputs["calibrated"] is True
    facts = manifest.facts
    assert facts["teachers"] == ["alpha", "beta"] and facts["temperature"] == 1.0 and facts["keep"] == 16
    assert facts["vocabulary"] == masks.facts["vocabulary"]
    assert facts["bridges"]["beta"] == {"exact": facts["vocabulary"], "folded": 0, "none": 0}
    store = open_targets(world)
    for split in SPLITS:
        rows = store.read(split)
        weight = rows.weight_PT[rows.covered_P()].astype(np.float64)
        assert facts["coverage"][split] == rows.covered_P().mean()
        # The means are of the weights before they were rounded to 1/250.
        assert facts["mean_weight"]["alpha"][split] == pytest.approx(weight[:, 0].mean(), abs=1 / 500)
        assert facts["mean_weight"]["alpha"][split] + facts["mean_weight"]["beta"][split] == pytest.approx(1, rel=1e-6)
        with np.errstate(divide="ignore", invalid="ignore"):
            entropy = -np.nan_to_num(weight * np.log(weight)).sum(axis=1)
        assert facts["weight_entropy"][split] == pytest.approx(entropy.mean(), abs=5e-3)


def test_raw_teachers_are_taken_as_they_answered(world: World):
    run(world, calibrated=False)
    fused = open_targets(world).read("heldout")
    gold = [world.dense[name][np.arange(len(fused)), world.label_P] for name in ("alpha", "beta")]
    expected = np.log((fused.weight_PT * np.array(gold).T).sum(axis=1))
    # Steps of the teachers' and the fused log-probability, and of the weights.
    np.testing.assert_allclose(fused.gold_logprob_P, expected, atol=2 / 256 + 1 / 64)
    check_temperature = restored(world, "alpha", 0)
    alone = fused.weight_PT[:, 0] == 1
    found = restore_fused(fused, bias_TV=open_targets(world).constant("tail_bias_TV"))
    np.testing.assert_allclose(np.sqrt(found[alone]), np.sqrt(check_temperature[alone]), atol=0.015)
    assert alone.sum() > 5


def test_priors_multiply_the_weights(world: World):
    run(world, name="numbers", weighting="uniform", prior={"alpha": 3, "beta": 1.0})
    both = open_targets(world, "numbers").read("heldout").weight_PT
    shared = both[both[:, 1] > 0]
    np.testing.assert_allclose(shared, [[0.75, 0.25]] * len(shared), atol=1 / 500 + 1e-6)


@pytest.mark.parametrize(("calibrated", "column"), [(True, 1), (False, 0)])
def test_a_prior_by_calibration_compares_teachers_where_all_answer(world: World, calibrated: bool, column: int):
    """Against the loss of the dense distributions; what `teach` says of the positions that each answers counts not."""
    for name, nll in (("alpha", 1.5), ("beta", 2.5)):
        edit_facts(world.data / "logits" / name, calibration={"nll": nll, "nll_raw": 9.0})
    manifest = run(world, weighting="uniform", prior="calibration", calibrated=calibrated)
    records = [Store(world.data / "logits" / name, SparseLogits).read("calibration") for name in ("alpha", "beta")]
    both = np.arange(len(records[0])) % 5 != 0
    loss_T = [-record.gold_logprob_PJ[both, column].mean(dtype=np.float64) for record in records]
    share = 1 / (1 + np.exp(loss_T[0] - loss_T[1]))
    assert abs(share - 0.5) > 0.05 and abs(share - 1 / (1 + np.exp(-1.0))) > 0.02
    weight_PT = open_targets(world).read("heldout").weight_PT
    shared = weight_PT[weight_PT[:, 1] > 0]
    np.testing.assert_allclose(shared, [[share, 1 - share]] * len(shared), atol=1 / 500 + 1e-6)
    assert manifest.identity != run(world, name="plain", weighting="uniform", calibrated=calibrated).identity


def test_a_prior_by_calibration_needs_positions_that_all_answer(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fuse_fitted, "common_nll", lambda _, teachers: np.full(teachers, np.nan))
    with pytest.raises(DataError, match=r"fusions.mixed.prior: calibration compares .* and there are none"):
        run(world, prior="calibration")


def test_teachers_of_equal_skill_weigh_the_same_whatever_they_leave_out():
    """One answers the easier 60 % of the positions: its own mean loss is lower, and says nothing of its skill."""
    loss_P = np.random.default_rng(0).gamma(2.0, 1.5, 5000)
    easy_P = loss_P < np.quantile(loss_P, 0.6)
    noise_PT = np.random.default_rng(1).normal(0, 0.3, (5000, 3))
    logprob_PT = -loss_P[:, None] + noise_PT - [0, 0, 0.5]
    logprob_PT[~easy_P, 1] = np.nan
    found_T = fuse_fitted.common_nll(
        ([logprob_PT[start : start + 1000, t] for t in range(3)] for start in range(0, 5000, 1000)), teachers=3
    )
    np.testing.assert_allclose(found_T - found_T[0], [0, 0, 0.5], atol=0.03)
    np.testing.assert_allclose(found_T, -logprob_PT[easy_P].mean(axis=0))
    assert np.nanmean(-logprob_PT[:, 1]) < np.mean(-logprob_PT[:, 0]) - 1
    assert np.isnan(fuse_fitted.common_nll([], teachers=2)).all()


def source_of_positions(world: World, split: str = "heldout") -> np.ndarray:
    documents = DocumentStore(world.data / "documents").read(split).column("source").to_pylist()
    sequences, masks = Store(world.data / "sequences", Sequences), Store(world.data / "masks", Masks)
    return np.array(documents)[sequences.read(split).document_N[masks.read(split).sequence_P]]


def test_a_prior_by_source_multiplies_the_weights_there(world: World):
    prior = {"by_source": {"dog": {"alpha": 3}, "cat": {"alpha": 1.0, "beta": 4}, "*": {"beta": 2}}}
    manifest = run_with_documents(world, weighting="uniform", prior=prior)
    assert manifest.inputs["prior"] == prior
    assert manifest.parents["documents"] == DocumentStore(world.data / "documents").identity
    seen = set()
    for split in SPLITS:
        both = open_targets(world).read(split).weight_PT
        for source, weight_T in zip(source_of_positions(world, split), both, strict=True):
            share = {"dog": 3 / 4, "cat": 1 / 5}.get(source, 1 / 3)
            expected = [share, 1 - share] if weight_T[1] > 0 else [1, 0]
            np.testing.assert_allclose(weight_T, expected, atol=1 / 500 + 1e-6)
            seen.add(source)
    assert {"dog", "cat", "cow"} <= seen
    with_entropy = run_with_documents(world, name="entropy", prior=prior)
    assert with_entropy.identity != run(world, name="plain").identity


def test_a_source_that_no_document_has_is_refused(world: World):
    message = r"fusions.mixed.prior.by_source.dgo: no document has this source \(did you mean 'dog'\?\)"
    with pytest.raises(ParamsError, match=message):
        run_with_documents(world, prior={"by_source": {"dgo": {"alpha": 2}, "*": {"beta": 2}}})


def run_with_documents(world: World, **more: Any) -> Manifest:
    return run(world, documents=world.data / "documents", **more)


@pytest.mark.parametrize("fixture", ["world", "low_rank"])
def test_learned_weights_are_those_of_the_fitted_gate(fixture: str, request: pytest.FixtureRequest):
    """What the store says of its gate, applied to what its reader can read of the teachers, gives its weights."""
    world = request.getfixturevalue(fixture)
    manifest = run_with_documents(world, weighting="learned", tau=2.0)
    gate = manifest.facts["gate"]
    assert set(gate["slopes"]) == {"entropy", "peak", "agreement", "rarity"}
    assert set(gate["teachers"]) == {"alpha", "beta"} and "dog" in gate["sources"]
    names = ("alpha", "beta")
    answers = [restored(world, name, 1) for name in names]
    label_P = Store(world.data / "masks", Masks).read("train").label_P.astype(np.int64)
    count_V = np.bincount(label_P, minlength=answers[0].shape[1])
    rarity_V = -np.log((count_V + 1) / (count_V + 1).sum())
    store = open_targets(world)
    weight_PT, sources = store.read("heldout").weight_PT, source_of_positions(world)
    records = [Store(world.data / "logits" / name, SparseLogits).read("heldout") for name in names]
    # What is stored has few levels, so two ids may be the most likely: the first of the list counts.
    top_PT = np.stack([record.ids_PK[:, 0].astype(int) for record in records], axis=1)
    top_PT[:, 1] = len(count_V) - 1 - top_PT[:, 1]  # beta numbers them the other way round
    compared = 0
    for row, source in enumerate(sources):
        if np.isnan(answers[1][row, 0]):
            assert weight_PT[row].tolist() == [1, 0]
            continue
        top = top_PT[row]
        scores = [
            -gate["slopes"]["entropy"] * records[t].entropy_PJ[row, 1]
            + gate["slopes"]["peak"] * np.log(answers[t][row, top[t]])
            + gate["slopes"]["agreement"] * np.log(max(answers[t][row, top[1 - t]], 1e-9))
            + gate["slopes"]["rarity"] * rarity_V[top[t]]
            + gate["teachers"][name]
            + gate["sources"].get(source, {}).get(name, 0.0)
            for t, name in enumerate(names)
        ]
        expected = 1 / (1 + np.exp(scores[1] - scores[0]))
        assert weight_PT[row, 0] == pytest.approx(expected, abs=1 / 500 + 2e-3)
        compared += 1
    assert compared > 20


def test_a_gate_is_fitted_to_positions_of_train_and_calibration_evenly_spread(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    """Every third row of the two train shards that are read: the shards that are not do not make these rows fewer."""
    seen: list[tuple[list[SparseLogits], np.ndarray, np.ndarray]] = []
    real_answers = fuse_fitted.answers

    def spy(parts: Any, *others: Any, **more: Any) -> Any:
        seen.extend(parts)
        return real_answers(seen, *others, **more)

    monkeypatch.setattr(fuse_fitted, "answers", spy)
    masks = Store(world.data / "masks", Masks)
    train, calibration = masks.plan("train"), masks.plan("calibration")
    monkeypatch.setattr(fuse_fitted, "MOST_SHARDS", 2)
    most = 2 * train.shard_rows // 3
    monkeypatch.setattr(fuse_fitted, "GATE_POSITIONS", most)
    run_with_documents(world, weighting="learned")
    cuts = [("train", index, 3) for index in (0, train.shards - 1)]
    cuts += [("calibration", index, calibration.rows // most) for index in range(calibration.shards)]
    assert len(seen) == len(cuts) and train.shards > 2 and calibration.shards == 2
    for (records, label_P, source_P), (split, index, stride) in zip(seen, cuts, strict=True):
        np.testing.assert_array_equal(label_P, masks.shard(split, index).label_P[::stride])
        assert len(source_P) == len(label_P)
        for name, record in zip(("alpha", "beta"), records, strict=True):
            whole = Store(world.data / "logits" / name, SparseLogits).shard(split, index)
            np.testing.assert_array_equal(record.gold_logprob_PJ, whole.gold_logprob_PJ[::stride])


def test_learned_weights_fit_calibration_better_than_entropy(world: World):
    """And the better of two teachers, who answers less, counts more where both answer."""

    def loss(name: str) -> float:
        store = open_targets(world, name)
        dense = restore_fused(store.read("calibration"), bias_TV=store.constant("tail_bias_TV"))
        label_P = Store(world.data / "masks", Masks).read("calibration").label_P.astype(np.int64)
        return float(-np.log(dense[np.arange(len(label_P)), label_P]).mean())

    run(world, name="entropy")
    run_with_documents(world, name="learned", weighting="learned")
    assert loss("learned") < loss("entropy")
    weight_PT = open_targets(world, "learned").read("train").weight_PT
    assert weight_PT[weight_PT[:, 1] > 0, 1].mean() > 0.5


def test_what_decides_learned_weights_is_in_the_identity(world: World):
    learned = run_with_documents(world, name="learned", weighting="learned")
    assert learned.parents["documents"] == DocumentStore(world.data / "documents").identity
    entropy = run_with_documents(world, name="entropy")
    assert "documents" not in entropy.parents and "gate" not in entropy.facts
    others = [run_with_documents(world, name="tau", weighting="learned", tau=2.0), entropy]
    assert len({learned.identity, *(other.identity for other in others)}) == 3


def test_learned_weights_are_the_same_bytes_with_any_number_of_threads_and_with_debias(world: World):
    settings = {"weighting": "learned", "debias": {"counts": 2.0}}
    run_with_documents(world, threads=1, **settings)
    one = files_of(world.data / "targets" / "mixed")
    shutil.rmtree(world.data / "targets")
    shutil.rmtree(".work")
    run_with_documents(world, threads=5, **settings)
    assert files_of(world.data / "targets" / "mixed") == one


def test_learned_weights_of_one_teacher_are_one(world: World):
    run_with_documents(world, weighting="learned", teachers=["beta"])
    rows = open_targets(world).read("heldout")
    assert (rows.weight_PT[rows.covered_P()] == 1).all()


def test_without_the_documents_the_other_weightings_fuse(world: World):
    """A group that was given stores without the text."""
    (world.data / "documents").unlink()
    run_with_documents(world, name="entropy")
    message = (
        r"fusions.mixed: weighting learned reads the source of each document, but .*data/documents: no sealed store "
        r"here.* Without the documents choose weighting entropy or uniform"
    )
    with pytest.raises(StoreMissing, match=message):
        run_with_documents(world, weighting="learned")
    with pytest.raises(StoreMissing, match=r"prior by_source reads .*no store of documents was given"):
        run(world, prior={"by_source": {"dog": {"alpha": 2}}})


def test_documents_of_other_sequences_are_refused(world: World, tmp_path: Path):
    from tests.helpers.stores import tiny_documents

    other = tiny_documents(tmp_path / "other", texts=TINY_TEXT[:40])
    with pytest.raises(StaleParent, match=r"sequences: made from documents"):
        run(world, documents=other, weighting="learned")


def test_learned_weights_need_positions_that_two_teachers_answer(world: World, monkeypatch: pytest.MonkeyPatch):
    real_answers = fuse_fitted.answers
    monkeypatch.setattr(fuse_fitted, "answers", lambda _, *others, **more: real_answers([], *others, **more))
    message = r"fusions.mixed.weighting: learned is fitted to train and calibration positions that two"
    with pytest.raises(DataError, match=message):
        run_with_documents(world, weighting="learned")
    run_with_documents(world, weighting="learned", teachers=["alpha"])


def test_learned_weights_do_not_read_draws(drawn: World):
    message = r"fusions.mixed.weighting: learned reads which tokens are likely, and .*alpha holds draws.*alpha.keep"
    with pytest.raises(ParamsError, match=message):
        run_with_documents(drawn, weighting="learned")


def test_draws_are_not_corrected(drawn: World):
    message = (
        r"fusions.mixed.debias: a corrected row is divided by .*alpha holds draws.*no longer be unbiased.*alpha.keep"
    )
    with pytest.raises(ParamsError, match=message):
        run(drawn, debias={"counts": 1.0})


def test_one_teacher_alone(world: World):
    run(world, teachers=["beta"])
    store = open_targets(world)
    fused = store.read("heldout")
    assert store.facts["coverage"]["heldout"] == pytest.approx(0.8, abs=0.03)
    assert (fused.weight_PT[fused.covered_P()] == 1).all()
    assert np.isnan(fused.gold_logprob_P[~fused.covered_P()]).all()


def files_of(store: Path) -> dict[str, bytes]:
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def test_threads_change_no_byte(world: World):
    run(world, name="mixed", threads=1)
    one = files_of(world.data / "targets" / "mixed")
    (world.data / "targets" / "mixed").rename(world.data / "targets" / "one")
    shutil.rmtree(".work")
    run(world, name="mixed", threads=5)
    assert files_of(world.data / "targets" / "mixed") == one


def test_a_run_that_was_stopped_continues_and_ends_in_the_same_bytes(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    whole = files_of_fresh_run(world)
    written: list[Any] = []
    write = StoreWriter.write

    def stop_at_the_third(self: StoreWriter, shard: Any, record: Any, **more: Any) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        write(self, shard, record, **more)
        written.append(shard)

    monkeypatch.setattr(StoreWriter, "write", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(world, threads=1)
    assert not (world.data / "targets" / "mixed").exists()
    monkeypatch.setattr(StoreWriter, "write", write)
    with caplog.at_level(logging.INFO):
        run(world, threads=1)
    assert "continuing, 2 of" in caplog.text
    assert files_of(world.data / "targets" / "mixed") == whole


def files_of_fresh_run(world: World) -> dict[str, bytes]:
    run(world)
    made = files_of(world.data / "targets" / "mixed")
    shutil.rmtree(".work")
    shutil.rmtree(world.data / "targets")
    return made


@pytest.mark.parametrize("threads", [1, 3])
def test_a_shard_a_thread_is_in_memory(world: World, monkeypatch: pytest.MonkeyPatch, threads: int):
    lock = threading.Lock()
    begun, most = 0, 0
    written = 0
    real_fuse, real_write = fuse_job.fuse_shard, StoreWriter.write

    def counted_fuse(*arguments: Any, **more: Any) -> FusedTargets:
        nonlocal begun, most
        with lock:
            begun += 1
            most = max(most, begun - written)
        return real_fuse(*arguments, **more)

    def counted_write(self: StoreWriter, shard: Any, record: Any, **more: Any) -> None:
        nonlocal written
        real_write(self, shard, record, **more)
        with lock:
            written += 1

    monkeypatch.setattr(fuse_job, "fuse_shard", counted_fuse)
    monkeypatch.setattr(StoreWriter, "write", counted_write)
    manifest = run(world, threads=threads)
    assert begun == written == len(manifest.shards) > threads
    assert most <= threads


def test_a_folder_params_does_not_name_is_refused(world: World):
    (world.data / "logits" / ".beta.staged").mkdir()
    (world.data / "logits" / ".gitignore").write_text("/alpha\n")
    message = r"data/logits/beta: the store of a teacher that params.yaml does not name.*cohesive prune"
    with pytest.raises(StoreError, match=message):
        run(world, teachers=["alpha"], declared=("alpha",))
    run(world, teachers=["alpha"], declared=("alpha", "beta"))


def test_an_unknown_teacher_is_refused(world: World):
    with pytest.raises(
        ParamsError, match=r"fusions.mixed.teachers: no entry 'betta' in teachers \(did you mean 'beta'"
    ):
        run(world, teachers=["alpha", "betta"])


def test_a_teacher_that_was_not_asked_yet_is_refused(world: World):
    with pytest.raises(StoreMissing, match=r"logits/gamma: no sealed store here.*Run: dvc repro teach@gamma"):
        run(world, teachers=["gamma"], declared=("alpha", "beta", "gamma"))


def test_a_teacher_of_other_masks_is_refused(world: World, tiny_tokenizer: Path, tmp_path: Path):
    from tests.helpers.stores import tiny_masks

    other = tiny_masks(tmp_path / "other", tiny_tokenizer, seed=1)
    with pytest.raises(
        StaleParent, match=r"logits/alpha: made from masks [0-9a-f]{12}, but .*Run: dvc repro teach@alpha"
    ):
        fuse(
            params(), MaskedSequences.open_pair(other.sequences, other.masks), logits=world.data / "logits",
            out=world.data / "targets" / "mixed", declared=("alpha", "beta"),
        )  # fmt: skip


def test_a_temperature_that_was_not_kept_is_refused(world: World):
    message = (
        r"fusions.mixed.temperature: .*logits/alpha has statistics at 1.0, 2.0, got 4.0.*teachers.alpha.temperatures"
    )
    with pytest.raises(ParamsError, match=message):
        run(world, temperature=4.0)


def test_a_teacher_without_a_shared_token_is_refused(world: World, monkeypatch: pytest.MonkeyPatch):
    real = fuse_job.decode_tokens
    seen: list[int] = []

    def foreign(tokens: Any) -> list[str]:
        seen.append(1)
        return real(tokens) if len(seen) == 1 else [f"{token}?" for token in real(tokens)]

    monkeypatch.setattr(fuse_job, "decode_tokens", foreign)
    with pytest.raises(VocabularyError, match=r"logits/alpha: none of its \d+ tokens has a counterpart"):
        run(world)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"calibrated": False, "temperature": 2.0}, r"temperature must be 1.0 when calibrated is false, got 2.0"),
        ({"prior": {"alpha": 1.0, "gamma": 1.0}}, r"prior names 'gamma', no teacher of this fusion"),
        ({"prior": {"alpha": 1.0, "bta": 1.0}}, r"no teacher of this fusion \(did you mean 'beta'\?\)"),
        ({"prior": {"alpha": 1.0}}, r"prior has no number for teacher 'beta'"),
        ({"prior": {"alpha": 1.0, "beta": 0}}, r"prior: must be equal, calibration, by_source, or a positive number"),
        ({"prior": "best"}, r"prior: must be equal, .* or a positive number for each teacher, got 'best'"),
        ({"prior": {"by_source": {"dog": {"gamma": 2}}}}, r"prior names 'gamma', no teacher of this fusion"),
        ({"prior": {"by_source": {"dog": {"beta": -1}}}}, r"prior: by_source needs positive numbers .* for 'dog'"),
        ({"prior": {"by_source": {"dog": 2}}}, r"prior: by_source needs positive numbers .* for 'dog', got 2"),
        ({"prior": {"by_source": {}}}, r"prior: by_source needs .* at least one source"),
        ({"prior": {"by_source": 3}}, r"prior: by_source needs .* at least one source"),
        ({"prior": {}}, r"prior: must be equal, calibration"),
        ({"prior": {"by_source": {"dog": {}}}}, r"prior: by_source needs positive numbers .* for 'dog'"),
        ({"prior": True}, r"prior: must be equal, calibration"),
        ({"teachers": ["alpha", "alpha"]}, r"teachers: names a teacher twice"),
        ({"teachers": []}, r"teachers: List should have at least 1 item"),
        ({"weighting": "entropie"}, r"weighting: Input should be 'entropy', 'learned', 'gold', 'ca_mkd' or 'uniform'"),
        ({"tau": 0.0}, r"tau: Input should be greater than 0"),
        ({"keep": 0}, r"keep: Input should be greater than or equal to 1"),
        ({"tua": 1.0}, r"unknown key 'tua' \(did you mean 'tau'\?\)"),
    ],
)
def test_impossible_settings_are_refused_by_their_path(changes: dict[str, Any], message: str):
    with pytest.raises(ParamsError, match=r"^params.yaml: fusions.mixed.*" + message):
        params(**changes)
