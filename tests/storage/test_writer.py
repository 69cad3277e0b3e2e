"""Writing a store: round trips through plain zarr, resuming, sealing. Kills and damage are in the contract suite."""

from __future__ import annotations

import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import RecordInvalid
from storage.format.arrays import ArraySpec
from storage.format.manifest import SplitPlan
from storage.reader import Store
from storage.records.logits import SparseLogits
from storage.testing import samples
from storage.testing.samples import Plain, fill, logits_writer, seal
from storage.work import Workspace
from storage.writer import Shard, StoreWriter

DTYPES = st.sampled_from(["uint8", "uint16", "uint32", "int16", "int32", "float16", "float32"])
SHARDS = 5
"""Shards of the sample store: 4 of train, none of calibration, 1 of heldout."""


@settings(max_examples=15, deadline=None)
@given(
    narrow=DTYPES,
    wide=DTYPES,
    width=st.integers(1, 40),
    rows=st.lists(st.integers(0, 60), min_size=1, max_size=3),
    shard_rows=st.integers(1, 70),
    seed=st.integers(0, 99),
)
def test_any_numbers_come_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory,
    narrow: str,
    wide: str,
    width: int,
    rows: list[int],
    shard_rows: int,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("store")
    specs = {"narrow_P": ArraySpec(dtype=narrow), "wide_PK": ArraySpec(dtype=wide, row_shape=(width,))}
    splits = {f"split{i}": SplitPlan(rows=count, shard_rows=shard_rows) for i, count in enumerate(rows)}
    made = {
        name: samples.plain(plan.rows, seed=seed, narrow=narrow, wide=wide, width=width)
        for name, plan in splits.items()
    }
    writer = StoreWriter(
        folder / "out", Plain, specs=specs, splits=splits, inputs={}, parents={}, workspace=Workspace(folder / "work")
    )
    with writer:
        for shard in writer.missing():
            writer.write(shard, samples.rows_of(made[shard.split], shard.start, shard.stop))
        writer.seal(facts={})
    store = Store(folder / "out", Plain)
    for split, expected in made.items():
        read = store.read(split)
        for name, array in expected.arrays().items():
            raw = zarr.open_array(folder / "out" / split / name, mode="r")[...]
            assert raw.tobytes() == read.arrays()[name].tobytes() == array.tobytes()
            assert raw.dtype == read.arrays()[name].dtype == array.dtype


@pytest.fixture(scope="module")
def through(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample store, made without interruption."""
    folder = tmp_path_factory.mktemp("through")
    samples.write_logits(folder / "store", folder / "work")
    return folder / "store"


@pytest.fixture(scope="module")
def expected(through: Path) -> dict[str, str]:
    """Hashes of its files."""
    return samples.file_hashes(through)


@pytest.mark.parametrize("first", range(SHARDS + 1))
def test_interrupted_and_continued_gives_the_same_bytes(tmp_path: Path, expected: dict[str, str], first: int) -> None:
    out, work = tmp_path / "store", tmp_path / "work"
    with logits_writer(out, work) as writer:
        assert fill(writer, shards=first) == first
    assert not out.exists()
    with logits_writer(out, work) as writer:
        assert fill(writer) == SHARDS - first
        assert not out.exists()
        seal(writer)
    assert samples.file_hashes(out) == expected


def test_shards_from_threads_in_any_order(tmp_path: Path, expected: dict[str, str]) -> None:
    whole = {split: samples.logits(plan.rows, seed=1) for split, plan in samples.SPLITS.items()}
    with logits_writer(tmp_path / "store", tmp_path / "work") as writer:

        def write(shard: Shard) -> None:
            total = np.array([shard.start + shard.index / 7])
            record = samples.rows_of(whole[shard.split], shard.start, shard.stop)
            writer.write(shard, record, sidecar={"total": total})

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, list(writer.missing())[::-1]))
        assert len(writer.work.entries()) == SHARDS
        seal(writer)
    assert samples.file_hashes(tmp_path / "store") == expected


def test_finished_work_is_not_done_again(tmp_path: Path, expected: dict[str, str]) -> None:
    """DVC was killed after the stage published: its output is emptied and the stage runs again."""
    samples.write_logits(tmp_path / "store", tmp_path / "work")
    shutil.rmtree(tmp_path / "store")
    with logits_writer(tmp_path / "store", tmp_path / "work") as writer:
        assert fill(writer) == 0
        seal(writer)
    assert samples.file_hashes(tmp_path / "store") == expected


def damaged(folder: Path, name: str) -> Path:
    (path,) = folder.glob(f"*/{name}")
    samples.flip(path)
    return path


@pytest.mark.parametrize(
    "name", ["content/train/tail_PJ/c/1/0", "content/train/step_E/c/3", "sidecar/total-train-2.npy"]
)
def test_a_shard_that_changed_since_its_journal_line_is_made_again(
    tmp_path: Path, expected: dict[str, str], caplog: pytest.LogCaptureFixture, name: str
) -> None:
    out, work = tmp_path / "store", tmp_path / "work"
    with logits_writer(out, work) as writer:
        fill(writer, shards=4)
    damaged(work, name)
    index = {"c/1/0": 1, "E/c/3": 3, "2.npy": 2}[name[-5:]]
    with logits_writer(out, work) as writer:
        assert [str(shard) for shard in writer.missing()] == [f"train/{index}", "heldout/0"]
        fill(writer)
        seal(writer)
    assert f"shard train/{index} does not match its journal line; it is made again" in caplog.text
    assert samples.file_hashes(out) == expected


def test_a_shard_file_that_is_gone_is_made_again(tmp_path: Path, expected: dict[str, str]) -> None:
    out, work = tmp_path / "store", tmp_path / "work"
    with logits_writer(out, work) as writer:
        fill(writer)
    next(work.glob("*/content/heldout/code_E/c/0")).unlink()
    with logits_writer(out, work) as writer:
        assert [str(shard) for shard in writer.missing()] == ["heldout/0"]
        fill(writer)
        seal(writer)
    assert samples.file_hashes(out) == expected


def test_a_torn_journal_line_costs_one_shard(tmp_path: Path, expected: dict[str, str]) -> None:
    out, work = tmp_path / "store", tmp_path / "work"
    with logits_writer(out, work) as writer:
        fill(writer, shards=3)
    (journal,) = work.glob("*/journal.jsonl")
    journal.write_bytes(journal.read_bytes()[:-40])
    with logits_writer(out, work) as writer:
        assert [str(shard) for shard in writer.missing()] == ["train/2", "train/3", "heldout/0"]
        fill(writer)
        seal(writer)
    assert samples.file_hashes(out) == expected


def test_leftovers_of_killed_writes_are_not_published(tmp_path: Path, expected: dict[str, str]) -> None:
    out, work = tmp_path / "store", tmp_path / "work"
    with logits_writer(out, work) as writer:
        fill(writer)
        content = writer.work.content
        for name in ("manifest.json.new", "train/step_E/c/2.0123.partial", "train/other_P/c/0", "constants/old/c/0"):
            (content / name).parent.mkdir(parents=True, exist_ok=True)
            (content / name).write_text("of a killed or older run", encoding="utf-8")
        seal(writer)
    assert samples.file_hashes(out) == expected


def test_other_inputs_begin_anew(tmp_path: Path) -> None:
    out, work = tmp_path / "store", tmp_path / "work"
    with logits_writer(out, work) as writer:
        fill(writer, shards=2)
    with logits_writer(out, work, inputs={**samples.INPUTS, "keep": 5}) as writer:
        assert len(list(writer.missing())) == SHARDS
    with logits_writer(out, work) as writer:
        assert len(list(writer.missing())) == SHARDS - 2, "and the first one is still there"


def test_continuing_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with logits_writer(tmp_path / "store", tmp_path / "work") as writer:
        fill(writer, shards=2)
    assert "continuing" not in caplog.text
    with logits_writer(tmp_path / "store", tmp_path / "work"):
        pass
    assert f"{tmp_path / 'store'}: continuing, 2 of {SHARDS} shards are done" in caplog.text


def test_a_short_store_cannot_be_sealed(tmp_path: Path) -> None:
    with logits_writer(tmp_path / "store", tmp_path / "work") as writer:
        fill(writer, shards=4)
        with pytest.raises(AssertionError, match="shards missing: \\['heldout/0'\\]"):
            writer.seal(facts={})
    assert not (tmp_path / "store").exists()


def test_a_record_that_breaks_its_rules_is_not_written(tmp_path: Path) -> None:
    with logits_writer(tmp_path / "store", tmp_path / "work") as writer:
        shard = next(writer.missing())
        made = samples.logits(16)
        with pytest.raises(RecordInvalid, match="do not add up to 1"):
            writer.write(shard, replace(made, tail_PJ=made.tail_PJ + np.float32(1)))
        for wrong in (samples.masks(16), samples.logits(15), replace(made, sketch_PD=made.sketch_PD[:, :2])):
            with pytest.raises(AssertionError):
                writer.write(shard, wrong)
        assert writer.work.entries() == []


def test_what_the_first_run_decided_is_remembered(tmp_path: Path) -> None:
    made: list[int] = []

    def decide() -> dict[str, np.ndarray]:
        made.append(1)
        return {"temperature": np.array(len(made))}

    for _ in range(2):
        with logits_writer(tmp_path / "store", tmp_path / "work") as writer:
            assert writer.remember_arrays("fitted", decide) == {"temperature": np.array(1)}
            assert writer.arrays_file("fitted").is_file()
    assert len(made) == 1


def test_sidecars_are_kept_in_shard_order_and_not_published(tmp_path: Path, through: Path) -> None:
    with logits_writer(tmp_path / "store", tmp_path / "work") as writer:
        fill(writer)
        assert [float(array[0]) for array in writer.sidecars("total", "train")] == [
            0,
            16 + 1 / 7,
            32 + 2 / 7,
            48 + 3 / 7,
        ]
    assert not any("total" in path.name or path.suffix == ".npy" for path in through.rglob("*"))
    raw = zarr.open_array(through / "constants" / "prior", mode="r")
    np.testing.assert_array_equal(raw[...], np.array([96 + 6 / 7], np.float32))


def test_the_manifest_says_what_the_store_is(through: Path) -> None:
    body = samples.manifest_of(through)
    assert (body["format"], body["schema"], body["kind"], body["revision"]) == ("belief-store", 2, "logits", 2)
    assert body["inputs"] == samples.INPUTS
    assert body["parents"] == samples.PARENTS
    assert body["facts"] == {"temperature": 1.25, "vocabulary": samples.VOCABULARY}
    assert body["splits"]["train"] == {"rows": 50, "shard_rows": 16}
    assert body["arrays"]["tail_PJ"] == {"dtype": "uint8", "row_shape": [3], "counted_by": "", "most": 0}
    assert body["arrays"]["step_E"] == {"dtype": "uint16", "row_shape": [], "counted_by": "count_P", "most": 6}
    assert [(shard["split"], shard["index"], shard["rows"]) for shard in body["shards"]] == [
        ("train", 0, 16),
        ("train", 1, 16),
        ("train", 2, 16),
        ("train", 3, 2),
        ("heldout", 0, 16),
    ]
    assert Store(through, SparseLogits).identity == body["identity"]
