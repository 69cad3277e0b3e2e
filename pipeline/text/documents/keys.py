"""Find equal keys among any number of rows on disk: a hash table in buckets, one of them in memory at a time.

Rows lie in pieces, files that processes wrote one by one. Beside each piece stand the keys of its rows, sorted. A
bucket is a range of keys: its rows are a slice of every piece, so that equal keys of all pieces meet in one bucket
(Grace hash join, Kitsuregawa, Tanaka and Moto-oka 1983). Memory is that of a bucket, whatever the number of rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEYS = np.dtype([("high", "<u8"), ("low", "<u8"), ("row", "<u4"), ("value", "<u8")])
"""A key of 128 bits, the row of the piece that has it, and a number for whoever compares rows of one key."""

SHORT_KEYS = np.dtype([("high", "<u8"), ("row", "<u4"), ("value", "u1")])
"""The same with a key of 64 bits, where a few rows that meet by chance do no harm."""

PLACES = np.dtype([("piece", "<u4"), ("row", "<u4")])
"""Rows of pieces."""

BUCKET_ROWS = 2**19
"""Rows of a bucket, on average: some 60 MB while it is sorted."""


def text_keys(texts: Iterable[str]) -> dict[str, NDArray[np.uint64]]:
    """The key of each text, `high` and `low`, equal where the texts are: 128 bits of BLAKE2b."""
    found = b"".join(hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts)
    high_low = np.frombuffer(found, "<u8").reshape(-1, 2)
    return {"high": high_low[:, 0], "low": high_low[:, 1]}


def write_keys(path: Path, dtype: np.dtype[Any], columns: dict[str, NDArray[Any]]) -> None:
    """Write the keys of a piece, sorted; columns are those of `KEYS` or of `SHORT_KEYS`."""
    keys = np.zeros(len(columns["high"]), dtype)
    for name, values in columns.items():
        keys[name] = values
    np.save(path, keys[np.lexsort((keys["row"], *_of_key(keys)))], allow_pickle=False)


def _of_key(keys: NDArray[Any]) -> list[NDArray[np.uint64]]:
    """The columns that make the key, the first last, as `lexsort` has them."""
    return [keys[name] for name in ("low", "high") if name in (keys.dtype.names or ())]


def bucket_count(rows: int) -> int:
    """Buckets for so many keys in all."""
    return max(1, -(-rows // BUCKET_ROWS))


def read_bucket(pieces: Sequence[Path], bucket: int, buckets: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Keys of a bucket, N of them, sorted by key, piece and row; and the piece [N] of each."""
    low, high = (np.uint64(min(2**64 - 1, edge * 2**64 // buckets)) for edge in (bucket, bucket + 1))
    parts, sizes = [], []
    for path in pieces:
        keys = np.load(path, mmap_mode="r", allow_pickle=False)
        begin = _first_from(keys, low) if bucket else 0
        end = _first_from(keys, high) if bucket + 1 < buckets else len(keys)
        parts.append(np.array(keys[begin:end]))
        sizes.append(end - begin)
    joined = np.concatenate(parts)
    piece_N = np.repeat(np.arange(len(pieces)), sizes)
    order = np.lexsort((joined["row"], piece_N, *_of_key(joined)))
    return joined[order], piece_N[order]


def _first_from(keys: NDArray[Any], key: np.uint64) -> int:
    """The first of the sorted keys that is not below `key`: by bisection, which reads a few of them from the disk."""
    low, high = 0, len(keys)
    while low < high:
        middle = (low + high) // 2
        if keys["high"][middle] < key:
            low = middle + 1
        else:
            high = middle
    return low


def groups(keys: NDArray[Any]) -> NDArray[np.int64]:
    """The number of the group [N] of each of N sorted keys: equal keys are a group."""
    if not len(keys):
        return np.zeros(0, np.int64)
    new = np.any([column[1:] != column[:-1] for column in _of_key(keys)], axis=0)
    return np.concatenate([[0], np.cumsum(new)])


def write_places(path: Path, piece_N: NDArray[Any], row_N: NDArray[Any]) -> None:
    """Write rows of pieces, sorted, each once."""
    places = np.zeros(len(piece_N), PLACES)
    places["piece"], places["row"] = piece_N, row_N
    np.save(path, np.unique(places), allow_pickle=False)


def rows_in(files: Iterable[Path], piece: int) -> NDArray[np.int64]:
    """Rows of one piece among all that `write_places` wrote to `files`, sorted, each once."""
    found = []
    for path in files:
        places = np.load(path, mmap_mode="r", allow_pickle=False)
        begin, end = np.searchsorted(np.ascontiguousarray(places["piece"]), [piece, piece + 1])
        found.append(np.array(places["row"][begin:end], np.int64))
    return np.unique(np.concatenate([*found, np.zeros(0, np.int64)]))
