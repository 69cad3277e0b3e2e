"""Headers of Arrow files, compared with Arrow's own reading of them."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import ipc

from storage.documents import DocumentStore
from storage.errors import SchemaMismatch, ShardCorrupt
from storage.format import arrow_headers as arrow
from storage.format import manifest_parse
from storage.tables import DOCUMENT_SCHEMA
from storage.testing import samples


def write(path: Path, table: pa.Table, *, compression: str | None = "zstd", rows: int = 8192) -> Path:
    with ipc.new_file(str(path), table.schema, options=ipc.IpcWriteOptions(compression=compression)) as sink:
        sink.write_table(table, max_chunksize=rows)
    return path


def claimed(path: Path) -> int:
    size = path.stat().st_size
    with path.open("rb") as stream:
        return sum(arrow._batch_bytes(stream, *block, size) for block in arrow._blocks(stream, size))


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(0, 300),
    compression=st.sampled_from(["zstd", "lz4", None]),
    size=st.integers(1, 400),
    seed=st.integers(0, 9),
)
def test_what_is_claimed_is_what_arrow_allocates(
    tmp_path_factory: pytest.TempPathFactory, rows: int, compression: str | None, size: int, seed: int
) -> None:
    """Up to the padding of each buffer to 8 bytes (64 in memory); three columns of two or three buffers a batch."""
    path = write(
        tmp_path_factory.getbasetemp() / "table",
        samples.documents(rows, source=f"s{seed}"),
        compression=compression,
        rows=size,
    )
    table = ipc.open_file(str(path)).read_all()
    batches = len(table.to_batches())
    exact = sum(
        buffer.size for batch in table.to_batches() for column in batch.columns for buffer in column.buffers() if buffer
    )
    assert exact - 8 * 9 * batches <= claimed(path) <= exact + 8 * 9 * batches
    arrow.require_table(path, remedy="")


def test_a_table_that_would_fill_the_memory(tmp_path: Path) -> None:
    """128 MB of one letter in five kilobytes."""
    path = write(tmp_path / "bomb", pa.table([["a" * 2**27], ["x"], ["y"]], schema=DOCUMENT_SCHEMA))
    assert path.stat().st_size < 10_000
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    with pytest.raises(
        ShardCorrupt, match=r"bomb: no table of a store: .* would take 1342177\d\d bytes of memory.*Run: x$"
    ):
        arrow.require_table(path, remedy="Run: x")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    assert pa.total_allocated_bytes() == before
    tracemalloc.stop()


def test_many_batches_are_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "table", samples.documents(200), rows=10)
    monkeypatch.setattr(manifest_parse, "CLAIM_LIMIT", 0)
    monkeypatch.setattr(manifest_parse, "CLAIM_FLOOR_BYTES", claimed(path) - 1)
    with pytest.raises(ShardCorrupt, match="would take"):
        arrow.require_table(path, remedy="")
    monkeypatch.setattr(manifest_parse, "CLAIM_FLOOR_BYTES", claimed(path))
    arrow.require_table(path, remedy="")


def test_dictionaries_are_not_ours(tmp_path: Path) -> None:
    path = write(tmp_path / "table", pa.table({"doc_id": pa.array(["a", "a"]).dictionary_encode()}))
    with pytest.raises(ShardCorrupt, match="it has dictionaries"):
        arrow.require_table(path, remedy="")


@pytest.mark.parametrize("data", [b"", b"ARROW1", b"ARROW1\0\0" + b"\xff\xff\xff\x7fARROW1", b"x" * 100, b"ARROW1" * 9])
def test_what_is_no_arrow_file(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "table").write_bytes(data)
    with pytest.raises(ShardCorrupt, match="table: no table of a store: "):
        arrow.require_table(tmp_path / "table", remedy="")


def test_any_damage_of_headers_is_refused_or_read(tmp_path: Path) -> None:
    """2000 files with three bytes changed: no other error, and no more than a few reads' worth of memory."""
    rng = random.Random(0)
    good = write(tmp_path / "good", samples.documents(20), rows=7).read_bytes()
    refused = 0
    for _ in range(2000):
        data = bytearray(good)
        for _ in range(3):
            data[rng.randrange(len(data))] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
        (tmp_path / "table").write_bytes(data)
        try:
            arrow.require_table(tmp_path / "table", remedy="")
        except ShardCorrupt:
            refused += 1
    assert 100 < refused < 1900


def test_a_store_of_documents_with_other_contents(tmp_path: Path) -> None:
    samples.write_sample_documents(tmp_path / "store", tmp_path / "work")
    store = DocumentStore(tmp_path / "store")
    with pytest.raises(SchemaMismatch, match=r"has no split other\. Run: dvc repro corpus"):
        store.read("other")
    for table in (samples.documents(4), pa.table({"text": ["a"] * 3})):
        write(tmp_path / "store" / "heldout.arrow", table)
        body = samples.manifest_of(tmp_path / "store")
        shard = next(shard for shard in body["shards"] if shard["split"] == "heldout")
        hashed = samples.file_hashes(tmp_path / "store")["heldout.arrow"]
        size = (tmp_path / "store" / "heldout.arrow").stat().st_size
        shard["files"] = {"heldout.arrow": {"bytes": size, "sha256": hashed}}
        samples.edit_manifest(tmp_path / "store", {"shards": body["shards"]}, resealed=True)
        with pytest.raises(SchemaMismatch, match=r"expected 3 rows of doc_id, source, text; got \d rows of \d columns"):
            DocumentStore(tmp_path / "store").read("heldout")


def test_offsets_that_lie_elsewhere(tmp_path: Path) -> None:
    """Arrow reads them unchecked: the text would be whatever stands in memory there."""
    samples.write_sample_documents(tmp_path / "store", tmp_path / "work")
    file = write(tmp_path / "store" / "heldout.arrow", samples.documents(3), compression=None)
    right = np.cumsum([0, *(len(text.encode()) for text in samples.documents(3).column("text").to_pylist())]).astype(
        "<i4"
    )
    wrong = np.array([0, 5, 4, 10**6], "<i4")
    data = file.read_bytes()
    assert data.count(right.tobytes()) == 1
    file.write_bytes(data.replace(right.tobytes(), wrong.tobytes()))
    body = samples.manifest_of(tmp_path / "store")
    shard = next(shard for shard in body["shards"] if shard["split"] == "heldout")
    size = (tmp_path / "store" / "heldout.arrow").stat().st_size
    hashed = samples.file_hashes(tmp_path / "store")["heldout.arrow"]
    shard["files"] = {"heldout.arrow": {"bytes": size, "sha256": hashed}}
    samples.edit_manifest(tmp_path / "store", {"shards": body["shards"]}, resealed=True)
    with pytest.raises(
        ShardCorrupt, match=r"heldout\.arrow: cannot be decoded \(ArrowInvalid\)\. Run: dvc repro corpus"
    ):
        DocumentStore(tmp_path / "store").read("heldout")
