"""The store of arrays: the contract every store keeps, and what only arrays can have wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import zarr

from storage.errors import RecordInvalid, SchemaMismatch, ShardCorrupt, StaleParent
from storage.reader import Store
from storage.records import FusedTargets, Masks, Sequences, SparseLogits
from storage.writer import StoreWriter
from tests.storage import samples
from tests.storage.contract import StoreContract


class TestArrayStore(StoreContract):
    remedy: ClassVar[str] = "Run: dvc repro teach@store"
    kills: ClassVar[int] = 24

    write = staticmethod(samples.write_logits)

    def open(self, out: Path) -> Store[SparseLogits]:
        return Store(out, SparseLogits)

    def read_all(self, out: Path) -> None:
        store = self.open(out)
        for split in samples.SPLITS:
            store.read(split)
        store.constant("prior")

    def lock_name(self, out: Path) -> str:
        return f"logits-{out.name}"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    samples.write_logits(tmp_path / "store", tmp_path / "work")
    return tmp_path / "store"


def test_shards_and_splits_hold_the_same_rows_as_plain_zarr(store: Path) -> None:
    opened = Store(store, SparseLogits)
    assert opened.facts == {"vocabulary": samples.VOCABULARY, "temperature": 1.25}
    for split, plan in samples.SPLITS.items():
        whole = opened.read(split)
        assert len(whole) == plan.rows
        for name, array in whole.arrays().items():
            raw = zarr.open_array(store / split / name, mode="r")[...]
            assert raw.dtype == array.dtype
            np.testing.assert_array_equal(array, raw)
            parts = [opened.shard(split, i).arrays()[name] for i in range(plan.shards)]
            np.testing.assert_array_equal(np.concatenate([array[:0], *parts]), array)
    np.testing.assert_array_equal(opened.constant("prior"), zarr.open_array(store / "constants/prior", mode="r")[...])


def test_bytes_on_disk_are_the_files(store: Path) -> None:
    opened = Store(store, SparseLogits)
    for split in samples.SPLITS:
        files = [path for path in (store / split).rglob("*") if path.is_file() and path.name != "zarr.json"]
        assert opened.bytes_on_disk(split) == sum(path.stat().st_size for path in files)


def test_stale_parent_names_both(tmp_path: Path) -> None:
    with masks_writer(tmp_path / "masks", tmp_path, seed=0) as writer:
        finish(writer)
    masks = Store(tmp_path / "masks", Masks)
    samples.write_logits(tmp_path / "logits", tmp_path / "work", parents={"masks": masks.identity})
    Store(tmp_path / "logits", SparseLogits).require_parent("masks", masks)
    with masks_writer(tmp_path / "masks", tmp_path, seed=1) as writer:
        finish(writer)
    other = Store(tmp_path / "masks", Masks)
    with pytest.raises(StaleParent) as caught:
        Store(tmp_path / "logits", SparseLogits).require_parent("masks", other)
    words = [str(tmp_path / "logits"), masks.identity[:12], str(tmp_path / "masks"), other.identity[:12]]
    assert all(word in str(caught.value) for word in [*words, "Run: dvc repro teach@logits"])
    with pytest.raises(StaleParent, match="made from sequences none"):
        Store(tmp_path / "logits", SparseLogits).require_parent("sequences", other)


def masks_writer(out: Path, folder: Path, *, seed: int) -> StoreWriter:
    specs, splits = Masks.specs(vocabulary=samples.VOCABULARY), samples.SPLITS
    inputs, root = {"seed": seed}, folder / "masks-work"
    return StoreWriter(out, Masks, specs=specs, splits=splits, inputs=inputs, parents={}, work_root=root)


def finish(writer: StoreWriter) -> None:
    for shard in writer.missing():
        writer.write(shard, samples.rows_of(samples.masks(shard.stop), shard.start, shard.stop))
    writer.seal(facts={})


@pytest.mark.parametrize(
    ("record", "stage"),
    [(Sequences, "tokenize"), (Masks, "mask"), (FusedTargets, "fuse@store"), (SparseLogits, "teach@store")],
)
def test_the_remedy_is_the_stage_that_makes_it(tmp_path: Path, record: Any, stage: str) -> None:
    with pytest.raises(Exception, match=f"Run: dvc repro {stage}$"):
        Store(tmp_path / "store", record)


def test_missing_shard_does_not_read_as_fill(store: Path) -> None:
    """What plain zarr gives for it: NaN, silently. The reader names the file."""
    (store / "train" / "tail_P" / "c" / "1").unlink()
    assert np.isnan(zarr.open_array(store / "train/tail_P", mode="r")[16:32]).all()
    with pytest.raises(ShardCorrupt, match=r"train/tail_P/c/1: missing\. Run: dvc repro teach@store"):
        Store(store, SparseLogits).shard("train", 1)
    assert len(Store(store, SparseLogits).shard("train", 0)) == 16, "other shards can be read"


def test_a_shard_the_manifest_does_not_list(store: Path) -> None:
    body = samples.manifest_of(store)
    samples.edit_manifest(store, {"shards": body["shards"][1:]}, resealed=True)
    for read in (lambda opened: opened.shard("train", 0), lambda opened: opened.read("train")):
        with pytest.raises(ShardCorrupt, match="shard train/0 is not in the manifest"):
            read(Store(store, SparseLogits))


def test_rows_of_a_shard_that_do_not_fit_the_plan(store: Path) -> None:
    body = samples.manifest_of(store)
    body["shards"][0]["rows"] = 15
    samples.edit_manifest(store, {"shards": body["shards"]}, resealed=True)
    with pytest.raises(ShardCorrupt, match="shard train/0 is not in the manifest"):
        Store(store, SparseLogits).shard("train", 0)


def test_other_arrays_than_the_record(store: Path) -> None:
    body = samples.manifest_of(store)
    del body["arrays"]["tail_P"]
    samples.edit_manifest(store, {"arrays": body["arrays"]}, resealed=True)
    with pytest.raises(SchemaMismatch, match=r"expected arrays \[.*'tail_P'\], got .* Run: dvc repro teach@store"):
        Store(store, SparseLogits)


def test_array_that_differs_from_the_manifest(store: Path) -> None:
    body = samples.manifest_of(store)
    body["arrays"]["tail_P"]["dtype"] = "float64"
    samples.edit_manifest(store, {"arrays": body["arrays"]}, resealed=True)
    with pytest.raises(SchemaMismatch, match=r"train/tail_P: expected float64 \(\), got float32"):
        Store(store, SparseLogits).read("train")


def test_values_that_break_the_record_are_refused_on_reading(store: Path) -> None:
    """A writer of another make, whose hashes are right and whose numbers are not."""
    array = zarr.open_array(store / "heldout/logprob_PK", mode="r+")
    array[...] = np.float16(-0.1)
    body = samples.manifest_of(store)
    name = "heldout/logprob_PK/c/0/0"
    for shard in body["shards"]:
        if name in shard["files"]:
            found = samples.file_hashes(store)[name]
            shard["files"][name] = {"bytes": (store / name).stat().st_size, "sha256": found}
    samples.edit_manifest(store, {"shards": body["shards"]}, resealed=True)
    with pytest.raises(RecordInvalid, match="kept mass and tail do not add up to 1"):
        Store(store, SparseLogits).read("heldout")


def test_a_constant_that_is_not_there(store: Path) -> None:
    with pytest.raises(SchemaMismatch, match=r"store: has no constant tail_prior\. Run: dvc repro teach@store"):
        Store(store, SparseLogits).constant("tail_prior")


def test_a_damaged_constant(store: Path) -> None:
    samples.flip(store / "constants/prior/c/0")
    with pytest.raises(ShardCorrupt, match="constants/prior/c/0: expected"):
        Store(store, SparseLogits).constant("prior")
