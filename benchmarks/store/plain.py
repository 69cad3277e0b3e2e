"""Lists of ids and log-probabilities as plain formats hold them, for comparison: raw files, Arrow IPC, Parquet.

Nothing is quantised, checked or described; a format is a function that writes into a folder and one that reads from it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import ipc

from storage.format.arrays import sentinel
from storage.records.logits import SparseLogits

Lists = tuple[NDArray[np.int32], NDArray[np.uint16], NDArray[np.float16]]
"""Where each row begins, and one number more; ids and log-probabilities of all rows end to end."""


def lists_of(record: SparseLogits) -> Lists:
    """What the plain formats hold of a record."""
    listed_PK = record.ids_PK != sentinel("uint16")
    offset_P = np.concatenate([[0], np.cumsum(listed_PK.sum(axis=1))]).astype(np.int32)
    return offset_P, record.ids_PK[listed_PK], record.logprob_PK[listed_PK].astype(np.float16)


def write_raw(folder: Path, lists: Lists, *, shard_rows: int) -> None:
    """Three raw files, whatever the shards."""
    arrays: tuple[NDArray[Any], ...] = lists
    for place, array in enumerate(arrays):
        raw = np.memmap(folder / f"{place}.raw", array.dtype, "w+", shape=array.shape)
        raw[...] = array
        raw.flush()


def read_raw(folder: Path) -> Lists:
    """Copied into memory, as the others are."""
    offset_P, ids_E, logprob_E = (
        np.array(np.memmap(folder / f"{place}.raw", dtype, "r"))
        for place, dtype in enumerate((np.int32, np.uint16, np.float16))
    )
    return offset_P, ids_E, logprob_E


def table_of(lists: Lists) -> pa.Table:
    """Two columns of lists."""
    offset_P, *entries = lists
    columns = [pa.ListArray.from_arrays(pa.array(offset_P), pa.array(array)) for array in entries]
    return pa.table(columns, names=["ids", "logprob"])


def lists_of_table(table: pa.Table) -> Lists:
    """Inverse of `table_of`, copied."""
    counts = [np.diff(chunk.offsets.to_numpy()) for chunk in table.column("ids").chunks]
    offset_P = np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int32)
    ids_E, logprob_E = (
        np.concatenate([chunk.flatten().to_numpy() for chunk in table.column(name).chunks])
        for name in ("ids", "logprob")
    )
    return offset_P, ids_E, logprob_E


def write_arrow(folder: Path, lists: Lists, *, shard_rows: int, compression: str | None) -> None:
    """One file, a record batch a shard."""
    table = table_of(lists)
    options = ipc.IpcWriteOptions(compression=compression, use_threads=False)
    with ipc.new_file(str(folder / "table.arrow"), table.schema, options=options) as sink:
        sink.write_table(table, max_chunksize=shard_rows)


def read_arrow(folder: Path) -> Lists:
    """Memory-mapped and copied."""
    options = ipc.IpcReadOptions(use_threads=False)
    return lists_of_table(ipc.open_file(pa.memory_map(str(folder / "table.arrow")), options=options).read_all())


def write_parquet(folder: Path, lists: Lists, *, shard_rows: int) -> None:
    """One file, a row group a shard, dictionaries where Parquet wants them."""
    pq.write_table(table_of(lists), folder / "table.parquet", compression="zstd", row_group_size=shard_rows)


def read_parquet(folder: Path) -> Lists:
    """Read and copied."""
    return lists_of_table(pq.read_table(folder / "table.parquet", use_threads=False))


PEERS: dict[str, tuple[Callable[..., None], Callable[[Path], Lists], dict[str, Any]]] = {
    "np.memmap": (write_raw, read_raw, {}),
    "Arrow IPC": (write_arrow, read_arrow, {"compression": None}),
    "Arrow IPC, zstd": (write_arrow, read_arrow, {"compression": "zstd"}),
    "Parquet, zstd": (write_parquet, read_parquet, {}),
}
