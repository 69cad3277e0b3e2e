"""Headers of Arrow files, read and refused before Arrow reads them.

Arrow allocates for each compressed buffer what the eight bytes before it say, and decompresses: a megabyte can say, and
give, 32 GB. Here only those sizes are added up, from the footer's list of record batches and each batch's own
header; nothing is decompressed and no buffer is read.

Formats: Arrow IPC file format 1.0 (format/File.fbs, Message.fbs), FlatBuffers internals.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from storage.errors import ShardCorrupt
from storage.format import manifest_parse
from storage.format.untrusted import Refused

MAGIC = b"ARROW1"
HEADER_BYTES_LIMIT = 16 * 1024 * 1024
"""Of a footer or of the header of one batch; this project's have a few hundred bytes, and 24 a batch in the footer."""
CONTINUATION = 0xFFFFFFFF
RECORD_BATCH = 3
BLOCK_BYTES = 24
BUFFER_BYTES = 16


def require_table(file: Path, *, remedy: str) -> None:
    """Refuse an Arrow file whose buffers would take more memory than `manifest_parse` allows a file of its size.

    Raises ShardCorrupt, also for damaged headers; Arrow checks the contents of the buffers.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            claimed = sum(_batch_bytes(stream, offset, length, size) for offset, length in _blocks(stream, size))
        manifest_parse.require_possible(claimed, size, "its record batches")
    except (Refused, struct.error) as error:
        raise ShardCorrupt(f"{file}: no table of a store: {error}. {remedy}") from None


def _blocks(stream: IO[bytes], size: int) -> Iterator[tuple[int, int]]:
    """Offset and length of the header of every record batch, as the footer lists them."""
    tail = _read(stream, size - 10, 10, size)
    (length,) = struct.unpack("<i", tail[:4])
    if tail[4:] != MAGIC or _read(stream, 0, 6, size) != MAGIC:
        raise Refused("no Arrow file")
    footer = _Flat(_read(stream, size - 10 - length, length, size))
    table = footer.root()
    dictionaries, batches = footer.vector(table, 2, BLOCK_BYTES), footer.vector(table, 3, BLOCK_BYTES)
    if dictionaries:
        raise Refused("it has dictionaries")
    for place in batches:
        yield footer.number("<q", place), footer.number("<i", place + 8)


def _batch_bytes(stream: IO[bytes], offset: int, length: int, size: int) -> int:
    """Bytes in memory of one record batch."""
    header = _read(stream, offset, length, size)
    mark, inner = struct.unpack_from("<Ii", header)
    if mark != CONTINUATION or not 0 <= inner <= length - 8:
        raise Refused("a record batch without its header")
    message = _Flat(header[8 : 8 + inner])
    root = message.root()
    if message.scalar(root, 1, "<B") != RECORD_BATCH:
        raise Refused("no record batch where the footer says so")
    batch = message.child(root, 2)
    compressed = message.field(batch, 3) is not None
    total = 0
    for place in message.vector(batch, 2, BUFFER_BYTES):
        start, stored = message.number("<q", place), message.number("<q", place + 8)
        if start < 0 or stored < 0:
            raise Refused("a buffer outside its batch")
        unfolded = -1
        if compressed and stored >= 8:
            (unfolded,) = struct.unpack("<q", _read(stream, offset + length + start, 8, size))
        total += stored if unfolded < 0 else unfolded
    return total


def _read(stream: IO[bytes], offset: int, length: int, size: int) -> bytes:
    if not 0 <= length <= HEADER_BYTES_LIMIT or not 0 <= offset <= size - length:
        raise Refused("a header lies outside the file")
    stream.seek(offset)
    return stream.read(length)


class _Flat:
    """As much of FlatBuffers as is needed; places are checked, for Python would count negative ones from the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def number(self, form: str, place: int) -> int:
        if place < 0:
            raise Refused("a header that points outside itself")
        found: int = struct.unpack_from(form, self._data, place)[0]
        return found

    def root(self) -> int:
        return self.number("<I", 0)

    def field(self, table: int, index: int) -> int | None:
        """Where field `index` of a table lies; None when it was left out."""
        vtable = table - self.number("<i", table)
        slot = 4 + 2 * index
        offset = self.number("<H", vtable + slot) if slot < self.number("<H", vtable) else 0
        return table + offset if offset else None

    def scalar(self, table: int, index: int, form: str) -> int:
        place = self.field(table, index)
        return 0 if place is None else self.number(form, place)

    def child(self, table: int, index: int) -> int:
        """The table that field `index` points to."""
        place = self.field(table, index)
        if place is None:
            raise Refused("a header without its fields")
        return place + self.number("<I", place)

    def vector(self, table: int, index: int, width: int) -> range:
        """Places of the items of a vector of structs."""
        if self.field(table, index) is None:
            return range(0)
        start = self.child(table, index)
        items = self.number("<I", start)
        if items * width > len(self._data):
            raise Refused("a header that points outside itself")
        return range(start + 4, start + 4 + items * width, width)
