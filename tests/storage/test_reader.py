"""The store of arrays: the contract of every store, and faults that only arrays can have."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import zarr

from storage.errors import (
    RecordInvalid,
    SchemaMismatch,
    ShardCorrupt,
    StaleParent,
)
from storage.reader import Store
from storage.records.logits import SparseLogits
from storage.records.sequences import Masks, Sequences
from storage.records.targets import FusedTargets
from storage.testing import samples
from storage.testing.contract import StoreContract
from storage.work import Workspace
from storage.writer import StoreWriter


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


FORMS = [
    {"most": 6, "draws": 0, "rank": 3},
    {"most": 6, "draws": 5, "rank": 0},
    {"most": 0, "draws": 5, "rank": 0},
    {"most": samples.VOCABULARY, "draws": 0, "rank": 0},
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form.values())))
def test_shards_and_splits_hold_what_was_encoded(tmp_path: Path, form: dict[str, int]) -> None:
    specs, constants = samples.logits_specs(**form), {"order_V": samples.ORDER}
    made = {split: samples.logits(plan.rows, **form) for split, plan in samples.SPLITS.items()}
    with samples.logits_writer(tmp_path / "store", tmp_path / "work", specs=specs) as writer:
        for shard in writer.missing():
            writer.write(shard, samples.rows_of(made[shard.split], shard.start, shard.stop))
        writer.seal(facts={})
    opened = Store(tmp_path / "store", SparseLogits)
    for split, plan in samples.SPLITS.items():
        whole = opened.read(split)
        assert len(whole) == plan.rows
        parts = [opened.shard(split, i) for i in range(plan.shards)]
        expected = SparseLogits.decode(made[split].encode(specs, constants), specs, constants)
        for name, array in expected.arrays().items():
            assert whole.arrays()[name].tobytes() == array.tobytes(), name
            assert whole.arrays()[name].dtype == array.dtype
            joined = np.concatenate([array[:0], *(part.arrays()[name] for part in parts)])
            assert joined.tobytes() == array.tobytes(), name
        # Any run of rows: within a shard and across, lists too, whose places follow from the counts before them.
        for start in range(plan.rows):
            for stop in {start + 1, min(plan.rows, start + 3), plan.bounds(start // plan.shard_rows)[1], plan.rows}:
                for name, array in opened.rows(split, start, stop).arrays().items():
                    assert array.tobytes() == whole.arrays()[name][start:stop].tobytes(), (name, start, stop)


def test_plain_zarr_finds_every_entry_at_its_place(store: Path) -> None:
    plan, specs = samples.SPLITS["train"], samples.logits_specs()
    made = samples.logits(plan.rows, seed=1)
    for index in range(plan.shards):
        start, stop = plan.bounds(index)
        encoded = samples.rows_of(made, start, stop).encode(specs, {"order_V": samples.ORDER})
        for name, spec in specs.items():
            raw = zarr.open_array(store / "train" / name, mode="r")
            assert raw.dtype == np.dtype(spec.dtype)
            first = index * plan.shard_rows * spec.most if spec.counted_by else start
            np.testing.assert_array_equal(raw[first : first + len(encoded[name])], encoded[name])
            if spec.counted_by:
                rest = raw[first + len(encoded[name]) : first + plan.shard_rows * spec.most]
                assert (rest == raw.fill_value).all()


def test_facts_and_constants(store: Path) -> None:
    opened = Store(store, SparseLogits)
    assert opened.facts == {"vocabulary": samples.VOCABULARY, "temperature": 1.25}
    np.testing.assert_array_equal(opened.constant("prior"), zarr.open_array(store / "constants/prior", mode="r")[...])
    np.testing.assert_array_equal(opened.constant("order_V"), samples.ORDER)


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
    return StoreWriter(out, Masks, specs=specs, splits=splits, inputs=inputs, parents={}, workspace=Workspace(root))


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


@pytest.mark.parametrize("name", ["tail_PJ/c/1/0", "count_P/c/1", "step_E/c/1"])
def test_missing_shard_does_not_read_as_fill(store: Path, name: str) -> None:
    """What plain zarr gives for it: the fill value, silently. The reader names the file."""
    (store / "train" / name).unlink()
    array = name.split("/", maxsplit=1)[0]
    raw = zarr.open_array(store / "train" / array, mode="r")
    most = samples.logits_specs()[array].row_entries
    assert (raw[16 * most : 32 * most] == raw.fill_value).all()
    with pytest.raises(ShardCorrupt, match=rf"train/{name}: missing\. Run: dvc repro teach@store"):
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


@pytest.mark.parametrize("name", ["tail_PJ", "gold_at_P"])
def test_a_group_of_arrays_in_part(store: Path, name: str) -> None:
    """Statistics are in every store; a list needs its counts, steps, levels and places."""
    samples.drop_array(store, name)
    with pytest.raises(SchemaMismatch, match=rf"expected arrays \[.*'{name}'.*\], got .* Run: dvc repro teach@store"):
        Store(store, SparseLogits)


def test_an_array_that_no_record_has(store: Path) -> None:
    body = samples.manifest_of(store)
    other = {"dtype": "uint8", "row_shape": [], "counted_by": "", "most": 0}
    for shard in body["shards"]:
        file = f"{shard['split']}/other_P/c/{shard['index']}"
        shard["files"][file] = {"bytes": 100, "sha256": "ab" * 32}
    changes = {"arrays": {**body["arrays"], "other_P": other}, "shards": body["shards"]}
    samples.edit_manifest(store, changes, resealed=True)
    with pytest.raises(SchemaMismatch, match=r"expected arrays .*, got .*'other_P'.* Run: dvc repro teach@store"):
        Store(store, SparseLogits)


def test_array_that_differs_from_the_manifest(store: Path) -> None:
    body = samples.manifest_of(store)
    body["arrays"]["tail_PJ"]["row_shape"] = [4]
    samples.edit_manifest(store, {"arrays": body["arrays"]}, resealed=True)
    with pytest.raises(SchemaMismatch, match=r"train/tail_PJ/zarr\.json: shape: expected \[50, 4\], got \[50, 3\]"):
        Store(store, SparseLogits).read("train")


@pytest.mark.parametrize(
    ("key", "value", "got"), [("dtype", "uint16", r"uint16 \[1\]"), ("row_shape", [], r"uint8 \[0\]")]
)
def test_array_that_no_writer_lays_out_so(store: Path, key: str, value: Any, got: str) -> None:
    body = samples.manifest_of(store)
    body["arrays"]["tail_PJ"][key] = value
    for shard in body["shards"]:
        if key == "row_shape":
            shard["files"] = {name.replace("tail_PJ/c/0/0", "tail_PJ/c/0"): e for name, e in shard["files"].items()}
    if key == "row_shape":
        body["shards"] = [shard for shard in body["shards"] if shard["index"] == 0]
    samples.edit_manifest(store, {"arrays": body["arrays"], "shards": body["shards"]}, resealed=True)
    with pytest.raises(
        SchemaMismatch, match=rf"store: tail_PJ: expected uint8 \[1\], got {got}\. Run: dvc repro teach@"
    ):
        Store(store, SparseLogits)


def forge(store: Path, array: str, place: Any, value: int) -> None:
    """Change a value of the split heldout as a writer of another make would, whose hashes are right."""
    raw = zarr.open_array(store / "heldout" / array, mode="r+")
    raw[place] = value
    name = f"heldout/{array}/c/0{'/0' * (raw.ndim - 1)}"
    samples.relist(store, name)


@pytest.mark.parametrize(
    ("array", "place", "value", "message"),
    [
        ("count_P", 0, 7, r"heldout/count_P: a row of 7 entries, at most 6 are allowed, or a hole\. Run: dvc"),
        ("count_P", 0, 65535, r"heldout/count_P: a row of 65535 entries, at most 6 are allowed, or a hole\. Run: dvc"),
        (
            "count_P",
            0,
            0,
            r"heldout/code_E: shard 0 has more entries than the \d+ that count_P counts\. Run: dvc repro",
        ),
        ("count_P", 6, 6, "shards 0 to 0: fill values where data should be; a shard is missing. Run: dvc repro"),
        ("step_E", 0, 65535, "shards 0 to 0: fill values where data should be; a shard is missing. Run: dvc repro"),
        ("step_E", 0, 60_000, r"shards 0 to 0: lists: a rank of 60\d\d\d in a vocabulary of 100. Run: dvc repro"),
        ("code_E", 0, 0, "shards 0 to 0: lists: a value outside 1 to 128. Run: dvc repro"),
        ("code_E", 0, 129, "shards 0 to 0: lists: a value outside 1 to 128. Run: dvc repro"),
        ("gold_at_P", 6, 1, "shards 0 to 0: lists: the true token's place lies beyond its list. Run: dvc repro"),
        ("tail_PJ", (0, 1), 251, "shards 0 to 0: a mass code above 250. Run: dvc repro"),
        ("tail_PJ", (0, 1), 255, "shards 0 to 0: fill values where data should be; a shard is missing. Run: dvc repro"),
        ("entropy_PJ", (0, 1), 65534, "shards 0 to 0: logits: a row has some statistics and lacks others. Run: dvc"),
        ("sketch_PD", (0, 0), -128, "shards 0 to 0: fill values where data should be; a shard is missing. Run: dvc"),
        ("spread_PJ", (0, 0), -32768, "shards 0 to 0: fill values where data should be; a shard is missing. Run: dvc"),
    ],
)
def test_values_that_break_the_record_are_refused_on_reading(
    store: Path, array: str, place: Any, value: int, message: str
) -> None:
    forge(store, array, place, value)
    for read in (lambda opened: opened.shard("heldout", 0), lambda opened: opened.read("heldout")):
        with pytest.raises(RecordInvalid, match=message):
            read(Store(store, SparseLogits))


def test_a_constant_that_is_not_there(store: Path) -> None:
    with pytest.raises(SchemaMismatch, match=r"store: has no constant tail_prior\. Run: dvc repro teach@store"):
        Store(store, SparseLogits).constant("tail_prior")


def test_a_damaged_constant(store: Path) -> None:
    samples.flip(store / "constants/prior/c/0")
    with pytest.raises(ShardCorrupt, match="constants/prior/c/0: expected"):
        Store(store, SparseLogits).constant("prior")
