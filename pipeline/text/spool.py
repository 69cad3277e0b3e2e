"""Rows of a record that are found in order but counted only at the end: parts of a round, read again by ranges.

A part is an Arrow file with a record batch of some thousand rows for each record that was written, so that a range is
read without what lies before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import ipc

from storage.records.base import Record


def write_rows(path: Path, records: Iterable[Record]) -> list[int]:
    """Write the rows of records of one kind; returns how many each record has, which `read_rows` needs."""
    sizes: list[int] = []
    sink: Any = None
    try:
        for record in records:
            batch = pa.record_batch({name: _column(values) for name, values in record.arrays().items()})
            sink = sink or ipc.new_file(str(path), batch.schema, options=ipc.IpcWriteOptions(compression="lz4"))
            sink.write_batch(batch)
            sizes.append(len(record))
    finally:
        if sink is not None:
            sink.close()
    return sizes


def read_rows(parts: Sequence[tuple[Path, Sequence[int]]], start: int, stop: int) -> dict[str, NDArray[Any]]:
    """Arrays of rows [start, stop), at least one, of parts one after the other, each with the sizes of its records."""
    found: list[dict[str, NDArray[Any]]] = []
    first = 0
    for path, sizes in parts:
        size = sum(sizes)
        if first < stop and start < first + size:
            found += _rows_of(path, sizes, max(start - first, 0), min(stop - first, size))
        first += size
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def _rows_of(path: Path, sizes: Sequence[int], start: int, stop: int) -> list[dict[str, NDArray[Any]]]:
    found = []
    first = 0
    with pa.memory_map(str(path)) as source:
        reader = ipc.open_file(source)
        for number, size in enumerate(sizes):
            if first < stop and start < first + size:
                batch = reader.get_batch(number)
                rows = slice(max(start - first, 0), stop - first)
                found.append({name: _values(batch.column(name))[rows].copy() for name in batch.schema.names})
            first += size
    return found


def _column(values: NDArray[Any]) -> pa.Array:
    """A column of numbers, or of lists of equal length."""
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _values(column: pa.Array) -> NDArray[Any]:
    if pa.types.is_fixed_size_list(column.type):
        values: NDArray[Any] = column.flatten().to_numpy().reshape(len(column), column.type.list_size)
        return values
    return np.asarray(column.to_numpy())
