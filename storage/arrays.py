"""The arrays a store is made of, and how each lies on disk.

Every array is Zarr v3, sharded along its first axis, zstd with a checksum inside each chunk (the shard index alone
is not enough: a flipped bit in chunk bytes would read back as data). Fill values are sentinels, never zero: a shard
that is missing reads as fill, silently, and a zero log-probability would mean certainty.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.buffer import Buffer
from zarr.codecs import ZstdCodec
from zarr.storage import MemoryStore

CHUNK_BYTES = 512 * 1024
"""Smallest uncompressed inner chunk, bytes: below this, reading is bound by calls, not by the disk."""

ZSTD_LEVEL = 3
"""Measured on real id and log-probability columns: level 1 is 10 % larger, higher levels gain under 2 %."""


def sentinel(dtype: np.dtype[Any] | str) -> Any:
    """The fill value of `dtype`: NaN for floats, the largest value for unsigned, the smallest for signed integers."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return float("nan")
    info = np.iinfo(kind)
    return int(info.max) if kind.kind == "u" else int(info.min)


@dataclass(frozen=True, kw_only=True, slots=True)
class ArraySpec:
    """One array of a store: its dtype and the shape of one row."""

    dtype: str
    """NumPy name, for example "uint16"."""
    row_shape: tuple[int, ...] = ()
    """Shape without the first axis; () for one value per row."""

    def chunk_rows(self, shard_rows: int) -> int:
        """Rows of an inner chunk: at least `CHUNK_BYTES`, and a divisor of the shard as Zarr demands."""
        row_bytes = np.dtype(self.dtype).itemsize * int(np.prod(self.row_shape, dtype=np.int64))
        rows = max(1, min(shard_rows, -(-CHUNK_BYTES // row_bytes)))
        while shard_rows % rows:
            rows += 1
        return rows


def create_array(path: Path, spec: ArraySpec, *, rows: int, shard_rows: int) -> None:
    """Write the metadata of an array of `rows` rows; nothing but `zarr.json` is created, shards that are there stay.

    The file is replaced, never trusted: it may be linked to one that was edited.
    """
    held: dict[str, Buffer] = {}
    zarr.create_array(
        store=MemoryStore(held),
        shape=(rows, *spec.row_shape),
        chunks=(spec.chunk_rows(shard_rows), *spec.row_shape),
        shards=(shard_rows, *spec.row_shape),
        dtype=spec.dtype,
        compressors=ZstdCodec(level=ZSTD_LEVEL, checksum=True),
        fill_value=sentinel(spec.dtype),
    )
    path.mkdir(parents=True, exist_ok=True)
    partial = path / "zarr.json.new"
    partial.write_bytes(held["zarr.json"].to_bytes())
    partial.replace(path / "zarr.json")


def shard_file(path: Path, spec: ArraySpec, index: int) -> Path:
    """Where Zarr keeps shard `index` of the array at `path`."""
    return path.joinpath("c", str(index), *(["0"] * len(spec.row_shape)))


def write_shard(path: Path, spec: ArraySpec, *, index: int, shard_rows: int, values: NDArray[Any]) -> None:
    """Write one whole shard; a partial write would read, change and rewrite it, and lose data when two do so."""
    # Zarr would read what lies there and merge, and stumble over a shard that is being replaced because it is broken.
    shard_file(path, spec, index).unlink(missing_ok=True)
    # Without write_empty_chunks a shard of nothing but fill values would leave no file, and look lost.
    array = zarr.open_array(store=str(path), mode="r+").with_config({"write_empty_chunks": True})
    array[index * shard_rows : index * shard_rows + len(values)] = values


def read_rows(path: Path, *, start: int, stop: int) -> NDArray[Any]:
    """Rows [start, stop) of the array at `path`; whole shards are the fast unit."""
    return np.asarray(zarr.open_array(store=str(path), mode="r")[start:stop])


def read_whole(path: Path) -> NDArray[Any]:
    """The whole array at `path`."""
    return np.asarray(zarr.open_array(store=str(path), mode="r")[...])
