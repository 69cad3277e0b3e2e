"""Whole stores: two hand-made teachers whose dense distributions are known, fused by every path a user can take.

What a fused row is, is held by test_mixing; here it is checked once against the dense mixture.
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

from pipeline import fusion
from pipeline.config import decode
from pipeline.fusion import IN_FLIGHT, FusionParams, fuse
from pipeline.sparse import restore_fused, restore_teacher
from storage.errors import ParamsError, StaleParent, StoreError, StoreMissing, VocabularyError
from storage.manifest import MANIFEST, Manifest
from storage.reader import Store
from storage.records import SPLITS, FusedTargets, Masks, SparseLogits
from storage.writer import StoreWriter
from tests.beliefs import World, cooled, make_world
from tests.fakes import TinyStores

BASIC: dict[str, Any] = {
    "teachers": ["alpha", "beta"], "weighting": "entropy", "tau": 1.0, "calibrated": True, "prior": "equal",
    "temperature": 1.0, "keep": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_stores: TinyStores) -> World:
    return make_world(tiny_stores, tmp_path_factory.mktemp("made") / "data", keep=8, fusions=())


@pytest.fixture
def world(workplace: Path, made: World) -> World:
    shutil.copytree(made.data, workplace / "data", symlinks=True)
    return replace(made, data=workplace / "data")


def params(**changes: Any) -> FusionParams:
    return decode(BASIC | changes, FusionParams, where="params.yaml: fusions.mixed")


def run(
    world: World, *, name: str = "mixed", threads: int = 2, declared: Any = ("alpha", "beta"), **changes: Any
) -> Manifest:
    data = world.data
    return fuse(
        params(**changes), sequences=data / "sequences", masks=data / "masks", logits=data / "logits",
        out=data / "targets" / name, declared=declared, threads=threads,
    )  # fmt: skip


def open_targets(world: World, name: str = "mixed") -> Store[FusedTargets]:
    return Store(world.data / "targets" / name, FusedTargets)


def edit_facts(store: Path, **changes: Any) -> None:
    manifest = Manifest.read(store)
    (store / MANIFEST).write_text(replace(manifest, facts=manifest.facts | changes).to_json())


@pytest.mark.parametrize(("temperature", "column"), [(1.0, 1), (2.0, 2)])
def test_a_store_holds_the_mixture_of_the_teachers(world: World, temperature: float, column: int):
    run(world, temperature=temperature)
    store = open_targets(world)
    fused = store.read("heldout")
    prior_TV = store.constant("tail_prior_TV")
    at = [1.0, 1.25, 2.5][column]
    restored, gold, entropy = [], [], []
    for name in ("alpha", "beta"):
        teacher = Store(world.data / "logits" / name, SparseLogits)
        dense = restore_teacher(
            teacher.read("heldout"), teacher.constant("tail_prior_JV")[column], column=column, temperature=at
        )
        restored.append(dense[:, ::-1] if name == world.reversed_teacher else dense)
        gold.append(cooled(world.dense[name], at)[np.arange(len(fused)), world.label_P])
        calibrated = cooled(world.dense[name], 1.25)  # weights are read at the fitted temperature itself
        entropy.append(-(calibrated * np.log(calibrated)).sum(axis=1))
    covered = np.isfinite(np.array(restored)[:, :, 0])
    weight = np.exp(-np.array(entropy)) * covered
    weight /= weight.sum(axis=0)
    np.testing.assert_allclose(fused.weight_PT, weight.T, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(fused.gold_logprob_P, np.log((weight * gold).sum(axis=0)), rtol=1e-4, atol=1e-5)
    mixture = (weight[:, :, None] * np.nan_to_num(restored)).sum(axis=0)
    np.testing.assert_allclose(restore_fused(fused, prior_TV), mixture, rtol=5e-3, atol=1e-6)
    np.testing.assert_allclose(prior_TV.sum(axis=1), 1, rtol=1e-6)


def test_the_store_says_what_it_is(world: World):
    manifest = run(world)
    masks = Store(world.data / "masks", Masks)
    assert manifest.splits == masks.manifest.splits
    assert manifest.parents["masks"] == masks.identity
    assert manifest.parents["logits/beta"] == Manifest.read(world.data / "logits" / "beta").identity
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
        assert facts["mean_weight"]["alpha"][split] == pytest.approx(weight[:, 0].mean(), rel=1e-9)
        with np.errstate(divide="ignore", invalid="ignore"):
            entropy = -np.nan_to_num(weight * np.log(weight)).sum(axis=1)
        assert facts["weight_entropy"][split] == pytest.approx(entropy.mean(), rel=1e-9)


def test_raw_teachers_are_taken_as_they_answered(world: World):
    run(world, calibrated=False)
    fused = open_targets(world).read("heldout")
    gold = [world.dense[name][np.arange(len(fused)), world.label_P] for name in ("alpha", "beta")]
    expected = np.log((fused.weight_PT * np.array(gold).T).sum(axis=1))
    np.testing.assert_allclose(fused.gold_logprob_P, expected, rtol=1e-4, atol=1e-5)


def test_priors_multiply_the_weights(world: World):
    run(world, name="numbers", weighting="uniform", prior={"alpha": 3, "beta": 1.0})
    both = open_targets(world, "numbers").read("heldout").weight_PT
    np.testing.assert_allclose(both[both[:, 1] > 0], [[0.75, 0.25]] * int((both[:, 1] > 0).sum()))
    for name, nll in (("alpha", 1.5), ("beta", 2.5)):
        edit_facts(world.data / "logits" / name, calibration={"nll": nll, "nll_raw": 9.0})
    run(world, name="fitted", weighting="uniform", prior="calibration")
    both = open_targets(world, "fitted").read("heldout").weight_PT
    share = 1 / (1 + np.exp(-1.0))
    np.testing.assert_allclose(both[both[:, 1] > 0][0], [share, 1 - share], rtol=1e-6)


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


def test_few_shards_are_in_memory_at_once(world: World, monkeypatch: pytest.MonkeyPatch):
    lock = threading.Lock()
    begun, most = 0, 0
    written = 0
    real_fuse, real_write = fusion.fuse_shard, StoreWriter.write

    def counted_fuse(*arguments: Any, **more: Any) -> FusedTargets:
        nonlocal begun, most
        with lock:
            begun += 1
            most = max(most, begun - written)
        return real_fuse(*arguments, **more)

    def counted_write(self: StoreWriter, shard: Any, record: Any, **more: Any) -> None:
        nonlocal written
        real_write(self, shard, record, **more)
        written += 1

    monkeypatch.setattr(fusion, "fuse_shard", counted_fuse)
    monkeypatch.setattr(StoreWriter, "write", counted_write)
    manifest = run(world, threads=1)
    assert begun == written == len(manifest.shards) > IN_FLIGHT
    assert most <= IN_FLIGHT


def test_a_folder_params_does_not_name_is_refused(world: World):
    (world.data / "logits" / ".beta.staged").mkdir()
    (world.data / "logits" / ".gitignore").write_text("/alpha\n")
    message = r"data/logits/beta: the store of a teacher that params.yaml does not name.*python -m stages.prune"
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
    from tests.fakes import tiny_masks

    other = tiny_masks(tmp_path / "other", tiny_tokenizer, seed=1)
    with pytest.raises(
        StaleParent, match=r"logits/alpha: made from masks [0-9a-f]{12}, but .*Run: dvc repro teach@alpha"
    ):
        fuse(
            params(), sequences=other.sequences, masks=other.masks, logits=world.data / "logits",
            out=world.data / "targets" / "mixed", declared=("alpha", "beta"), threads=1,
        )  # fmt: skip


def test_a_temperature_that_was_not_kept_is_refused(world: World):
    message = (
        r"fusions.mixed.temperature: .*logits/alpha has statistics at 1.0, 2.0, got 4.0.*teachers.alpha.temperatures"
    )
    with pytest.raises(ParamsError, match=message):
        run(world, temperature=4.0)


def test_a_teacher_without_a_shared_piece_is_refused(world: World, monkeypatch: pytest.MonkeyPatch):
    real = fusion.decode_pieces
    seen: list[int] = []

    def foreign(pieces: Any) -> list[str]:
        seen.append(1)
        return real(pieces) if len(seen) == 1 else [f"{piece}?" for piece in real(pieces)]

    monkeypatch.setattr(fusion, "decode_pieces", foreign)
    with pytest.raises(VocabularyError, match=r"logits/alpha: none of its \d+ pieces has a counterpart"):
        run(world)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"calibrated": False, "temperature": 2.0}, r"temperature must be 1.0 when calibrated is false, got 2.0"),
        ({"prior": {"alpha": 1.0, "gamma": 1.0}}, r"prior names 'gamma', no teacher of this fusion"),
        ({"prior": {"alpha": 1.0, "bta": 1.0}}, r"no teacher of this fusion \(did you mean 'beta'\?\)"),
        ({"prior": {"alpha": 1.0}}, r"prior has no number for teacher 'beta'"),
        ({"prior": {"alpha": 1.0, "beta": 0}}, r"prior: must be equal, calibration, or a positive number for each"),
        ({"prior": "best"}, r"prior: must be equal, calibration, or a positive number for each teacher, got 'best'"),
        ({"prior": True}, r"prior: must be equal, calibration"),
        ({"teachers": ["alpha", "alpha"]}, r"teachers: names a teacher twice"),
        ({"teachers": []}, r"teachers: List should have at least 1 item"),
        ({"weighting": "entropie"}, r"weighting: Input should be 'entropy', 'max', 'gold', 'ca_mkd' or 'uniform'"),
        ({"tau": 0.0}, r"tau: Input should be greater than 0"),
        ({"keep": 0}, r"keep: Input should be greater than or equal to 1"),
        ({"tua": 1.0}, r"unknown key 'tua' \(did you mean 'tau'\?\)"),
    ],
)
def test_impossible_settings_are_refused_by_their_path(changes: dict[str, Any], message: str):
    with pytest.raises(ParamsError, match=r"^params.yaml: fusions.mixed.*" + message):
        params(**changes)
