"""Rows of documents in pieces on disk, and the shards that are made of those rows that stay.

What a round of `ingest` or `corpus` reads or writes is a list of pieces: Arrow files of record batches, each with about
as much text as a shard. Which rows of a piece stay, a round before has decided. A shard of the store is a range of the
rows that stay, of all pieces in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import ipc

from storage.tables import DOCUMENT_SCHEMA

PIECE_SCHEMA = DOCUMENT_SCHEMA.append(pa.field("where", pa.string()))
"""Of a piece that ingest reads: what it becomes, and the place in the input for messages."""


def piece_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """The record batches of a piece that this run wrote, one in memory at a time."""
    with pa.memory_map(str(path)) as source:
        reader = ipc.open_file(source)
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


def kept_rows(
    pieces: Sequence[Callable[[], Iterator[pa.RecordBatch]]],
    kept_of: Callable[[int], NDArray[np.bool_]],
    counts: Sequence[int],
    *,
    start: int,
    stop: int,
) -> Iterator[pa.RecordBatch]:
    """Documents [start, stop) of those that stay, in the order of the pieces.

    kept_of gives the rows of a piece that stay, counts how many those are.
    """
    end = np.cumsum(counts)
    for piece in range(int(np.searchsorted(end, start, side="right")), int(np.searchsorted(end, stop)) + 1):
        if piece >= len(pieces) or not counts[piece]:
            continue
        place = int(end[piece]) - counts[piece]  # of the piece's first row among all that stay
        kept, row = kept_of(piece), 0
        for batch in pieces[piece]():
            mine = np.flatnonzero(kept[row : row + len(batch)])
            first, last = max(start - place, 0), min(stop - place, len(mine))
            if first < last:
                yield batch.select(DOCUMENT_SCHEMA.names).take(pa.array(mine[first:last]))
            row, place = row + len(batch), place + len(mine)
            if place >= stop:
                break
