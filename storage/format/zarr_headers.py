"""`zarr.json` and the headers of chunks, read and refused before Zarr reads them.

Zarr trusts its input. A `zarr.json` may name 10**12 rows, any codec that some installed package registers, or a
chunk of a terabyte; a Blosc frame of a kilobyte may unfold to two gigabytes. So an array is opened only when its
metadata is, value for value, that of this project's writer, and a chunk is decoded only when its frame states the
number of bytes that the array needs. Nothing here decompresses; a shard costs one small read a chunk.

Formats: Zarr v3 core, sharding_indexed 1.0, Blosc 1 frames (c-blosc README_CHUNK_FORMAT.rst).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from storage.errors import SchemaMismatch, ShardCorrupt
from storage.format import manifest_parse, untrusted
from storage.format.arrays import ArraySpec, sentinel
from storage.format.manifest import CONSTANTS, Manifest
from storage.format.untrusted import Refused

METADATA_BYTES_LIMIT = 64 * 1024
"""Size of a `zarr.json`; this project's have about 1 kB."""

CHUNK_BYTES_LIMIT = 1024 * 1024 * 1024
"""Bytes in memory of one inner chunk; usually half a megabyte, or a whole shard of a prime number of rows."""

NO_CHUNK = 2**64 - 1
"""Offset and length in a shard's index of a chunk that is all fill and was left out."""

INDEX_ENTRY_BYTES = 16
CHECKSUM_BYTES = 4
FRAME_HEADER = struct.Struct("<BBBBIII")
"""Blosc: version, that of the codec, flags, width of a value, bytes unfolded, bytes of a block, bytes of the frame."""
FRAME_VERSION = 2
FRAME_ZSTD = 4
MESSAGE_CHARACTERS = 80

_PLAIN = {"name": "bytes", "configuration": {"endian": "little"}}
_CHECKSUM = {"name": "crc32c"}


class Gate:
    """Checks metadata and chunks of a store, whose files match its manifest, before Zarr reads them.

    Raises SchemaMismatch or ShardCorrupt.
    """

    def __init__(self, path: Path, manifest: Manifest, *, remedy: str) -> None:
        self._path = path
        self._manifest = manifest
        self._remedy = remedy
        self._entries: dict[tuple[str, str], int] = {}

    def array(self, split: str, name: str) -> None:
        """Check the metadata of one array of a split, once."""
        if (split, name) not in self._entries:
            plan, spec, path = self._manifest.splits[split], self._manifest.arrays[name], self._path / split / name
            self._entries[split, name] = require_array(
                path, spec, rows=plan.rows, shard_rows=plan.shard_rows, remedy=self._remedy
            )

    def shard(self, split: str, index: int, specs: Mapping[str, ArraySpec]) -> None:
        """Check the chunks of one shard, in the arrays `specs`."""
        shard_rows = self._manifest.splits[split].shard_rows
        for name, spec in specs.items():
            self.array(split, name)
            entries = self._entries[split, name]
            (file,) = manifest_parse.shard_names(split, index, {name: spec})
            chunks, chunk_bytes = spec.shard_entries(shard_rows) // entries, entries * manifest_parse.entry_bytes(spec)
            require_shard(self._path / file, chunks=chunks, chunk_bytes=chunk_bytes, remedy=self._remedy)

    def constant(self, name: str) -> None:
        """Check the metadata and the chunk of one constant."""
        path = self._path / CONSTANTS / name
        stored = sum(file.bytes for file in self._manifest.constant_files(name).values())
        require_constant(path, stored=stored, remedy=self._remedy)


def require_array(path: Path, spec: ArraySpec, *, rows: int, shard_rows: int, remedy: str) -> int:
    """Refuse the array at `path` unless its `zarr.json` is that of `rows` rows of `spec` in shards of `shard_rows`.

    Only bytes, blosc with zstd, crc32c and sharding_indexed are accepted as codecs, in the writer's order. Returns the
    entries of an inner chunk; these and the level of compression are the writer's choice. Raises SchemaMismatch.
    """
    file = path / "zarr.json"
    found = _read(file, remedy)
    shard_entries = spec.shard_entries(shard_rows)
    try:
        sharding = untrusted.sequence(found.get("codecs"), "codecs")[0]["configuration"]
        entries = untrusted.count(sharding["chunk_shape"][0], "inner chunk", least=1, most=shard_entries)
        blosc = _blosc(sharding["codecs"])
    except (Refused, KeyError, IndexError, TypeError):
        raise SchemaMismatch(f"{file}: not sharded and compressed as a store's arrays are. {remedy}") from None
    if shard_entries % entries or entries * manifest_parse.entry_bytes(spec) > CHUNK_BYTES_LIMIT:
        raise SchemaMismatch(f"{file}: inner chunks of {entries} entries in shards of {shard_entries}. {remedy}")
    configuration = {
        "chunk_shape": [entries, *spec.row_shape],
        "codecs": _chunk_codecs(spec.dtype, blosc),
        "index_codecs": [_PLAIN, _CHECKSUM],
        "index_location": "end",
    }
    codecs = [{"name": "sharding_indexed", "configuration": configuration}]
    shape, shard = list(spec.shape(rows, shard_rows)), [shard_entries, *spec.row_shape]
    _require_equal(found, _metadata(spec.dtype, shape=shape, chunk=shard, codecs=codecs), file, remedy)
    return entries


def require_shard(file: Path, *, chunks: int, chunk_bytes: int, remedy: str) -> None:
    """Refuse a shard file unless each of its `chunks` inner chunks is left out or unfolds to `chunk_bytes` bytes.

    Raises ShardCorrupt. The checksums of index and chunks are Zarr's to check.
    """
    size = file.stat().st_size
    body = size - chunks * INDEX_ENTRY_BYTES - CHECKSUM_BYTES
    if body < 0:
        raise ShardCorrupt(f"{file}: {size} bytes; the index of its {chunks} chunks alone takes more. {remedy}")
    with file.open("rb") as stream:
        stream.seek(body)
        index = np.frombuffer(stream.read(chunks * INDEX_ENTRY_BYTES), "<u8").reshape(chunks, 2)
        for offset, length in index.tolist():
            if offset == NO_CHUNK and length == NO_CHUNK:
                continue
            if offset + length > body:
                raise ShardCorrupt(f"{file}: a chunk lies outside the file. {remedy}")
            stream.seek(offset)
            _require_frame(stream.read(FRAME_HEADER.size), chunk_bytes, length, file, remedy)


def require_constant(path: Path, *, stored: int, remedy: str) -> None:
    """Refuse the constant at `path`, whose files have `stored` bytes, unless it is one chunk of plain numbers.

    Its dtype and shape are its own; they must be possible in `stored` bytes, and the chunk's frame must agree. Raises
    SchemaMismatch or ShardCorrupt.
    """
    file = path / "zarr.json"
    found = _read(file, remedy)
    try:
        dtype = untrusted.text(found.get("data_type"), "data_type")
        if dtype not in manifest_parse.DTYPES:
            raise Refused(f"data_type: {untrusted.shown(dtype)}")
        shape = [untrusted.count(side, "shape", least=1) for side in untrusted.sequence(found.get("shape"), "shape")]
        manifest_parse.sides(shape[1:], "shape")
        claimed = np.dtype(dtype).itemsize * prod(shape)
        manifest_parse.require_possible(claimed, stored, "shape")
        codecs = _chunk_codecs(dtype, _blosc(untrusted.sequence(found.get("codecs"), "codecs")))
    except (Refused, KeyError, IndexError, TypeError) as error:
        raise SchemaMismatch(f"{file}: no constant of a store: {untrusted.shown(str(error))}. {remedy}") from None
    _require_equal(found, _metadata(dtype, shape=shape, chunk=shape, codecs=codecs), file, remedy)
    chunk = path.joinpath("c", *["0"] * len(shape))
    if not chunk.is_file():
        raise ShardCorrupt(f"{chunk}: missing. {remedy}")
    with chunk.open("rb") as stream:
        _require_frame(stream.read(FRAME_HEADER.size), claimed, chunk.stat().st_size, chunk, remedy)


def _require_frame(header: bytes, expected: int, length: int, file: Path, remedy: str) -> None:
    """Check a chunk's header: the decoder allocates and reads as many bytes as it states.

    Other compressors than zstd are refused although the decoder knows them: code that nothing needs to reach.
    """
    if len(header) == FRAME_HEADER.size:
        version, _, flags, _, unfolded, _, folded = FRAME_HEADER.unpack(header)
        if (version, flags >> 5) == (FRAME_VERSION, FRAME_ZSTD) and folded + CHECKSUM_BYTES == length:
            if unfolded == expected:
                return
            raise ShardCorrupt(f"{file}: a chunk unfolds to {unfolded} bytes; expected {expected}. {remedy}")
    raise ShardCorrupt(f"{file}: a chunk that is not compressed as a store's chunks are. {remedy}")


def _read(file: Path, remedy: str) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            data = stream.read(METADATA_BYTES_LIMIT + 1)
        if len(data) > METADATA_BYTES_LIMIT:
            raise Refused(f"more than {METADATA_BYTES_LIMIT} bytes")
        return untrusted.mapping(untrusted.parse(data), "metadata")
    except OSError as error:
        raise ShardCorrupt(f"{file}: cannot be read: {error.strerror}. {remedy}") from error
    except Refused as error:
        raise SchemaMismatch(f"{file}: no metadata of an array: {error}. {remedy}") from None


def _blosc(codecs: list[Any]) -> dict[str, Any]:
    """Configuration of a chunk's compressor; type size and level may be any, as they do not change how it is read."""
    found = codecs[1]["configuration"]
    return {
        "typesize": untrusted.count(found["typesize"], "typesize", least=1, most=255),
        "cname": "zstd",
        "clevel": untrusted.count(found["clevel"], "clevel", most=9),
        "shuffle": "shuffle",
        "blocksize": 0,
    }


def _chunk_codecs(dtype: str, blosc: dict[str, Any]) -> list[dict[str, Any]]:
    plain = _PLAIN if np.dtype(dtype).itemsize > 1 else {"name": "bytes"}
    return [plain, {"name": "blosc", "configuration": blosc}, _CHECKSUM]


def _metadata(dtype: str, *, shape: list[int], chunk: list[int], codecs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "shape": shape,
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": "NaN" if np.dtype(dtype).kind == "f" else sentinel(dtype),
        "codecs": codecs,
        "attributes": {},
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def _require_equal(found: dict[str, Any], expected: dict[str, Any], file: Path, remedy: str) -> None:
    """Compared as text: to Python true, 1 and 1.0 are equal, to other readers they are not."""
    for key in sorted(found.keys() - expected.keys()):
        raise SchemaMismatch(f"{file}: unknown key {untrusted.shown(key)}. {remedy}")
    for key, value in expected.items():
        wanted = json.dumps(value, sort_keys=True)
        got = json.dumps(found[key], sort_keys=True) if key in found else "nothing"
        if got != wanted:
            raise SchemaMismatch(
                f"{file}: {key}: expected {wanted[:MESSAGE_CHARACTERS]}, got {got[:MESSAGE_CHARACTERS]}. {remedy}"
            )
