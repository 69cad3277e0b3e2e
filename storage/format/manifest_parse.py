"""Read a `manifest.json`, and refuse impossible values: wrong types, paths outside the folder, rows no file can hold.

A manifest may be untrusted. Reading one costs at most a few times `MANIFEST_BYTES_LIMIT` of memory. Every value is
checked for type and range, every path for leaving the folder, and the claimed sizes against the files that are listed.
The checksum finds damage and careless edits. It does not show whom to trust: anyone who can write a manifest can
compute its checksum.

A megabyte can name 10**12 rows, in a manifest as in the metadata of an array. Here such claims are refused from the
manifest alone, before a file is opened or memory is allocated; `storage.format.zarr_headers` does the same for the
metadata that Zarr reads.
"""

from __future__ import annotations

import hashlib
import stat
from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import fields
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from storage.atomic import write_bytes
from storage.errors import SchemaMismatch, StoreMissing
from storage.format import untrusted
from storage.format.arrays import ArraySpec
from storage.format.manifest import (
    FORMAT,
    MANIFEST,
    MANIFEST_BYTES_LIMIT,
    SCHEMA,
    FileEntry,
    Manifest,
    ShardEntry,
    SplitPlan,
    canonical_of_parsed,
    identity_inputs,
)
from storage.format.untrusted import Refused

DTYPES = frozenset(
    {*(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)), "float16", "float32", "float64"}
)
"""Dtypes of arrays: plain numbers; never objects, strings or types that run code."""

ROW_DIMENSIONS_LIMIT = 3

ROW_ENTRIES_LIMIT = 2**20
"""Entries that a row of a ragged array may have; more than any vocabulary."""

CLAIM_LIMIT = 1000
"""Bytes in memory that one byte of shard files may stand for, over a split. Stores of real teachers stay below 10, and
extreme ones, whose rows are nearly empty, below 300. The compressor could reach 30,000: a megabyte that fills 30 GB."""

CLAIM_FLOOR_BYTES = 64 * 1024 * 1024
"""Always allowed: rows without any answer compress a thousandfold."""

SHARD_BYTES_LIMIT = 4 * 1024 * 1024 * 1024
"""Bytes in memory of one shard; this project's have about 0.1 GB."""


def array_specs(value: Any) -> dict[str, ArraySpec]:
    """The arrays of a manifest; raises Refused."""
    found = {
        untrusted.name(name, "arrays"): _array_spec(spec, f"arrays.{name}")
        for name, spec in untrusted.mapping(value, "arrays").items()
    }
    for name, spec in found.items():
        counts = found.get(spec.counted_by)
        if spec.counted_by and (counts is None or counts.row_shape or counts.counted_by or counts.dtype[0] != "u"):
            raise Refused(f"arrays.{name}: {untrusted.shown(spec.counted_by)} is no array that counts its entries")
        if bool(spec.counted_by) != bool(spec.most) or (spec.counted_by and spec.row_shape):
            raise Refused(f"arrays.{name}: neither one row shape nor a number of entries a row")
    return found


def _array_spec(value: Any, where: str) -> ArraySpec:
    spec = untrusted.members(value, [field.name for field in fields(ArraySpec)], where)
    dtype = untrusted.text(spec["dtype"], f"{where}.dtype")
    if dtype not in DTYPES:
        raise Refused(f"{where}.dtype: expected one of {', '.join(sorted(DTYPES))}, got {untrusted.shown(dtype)}")
    return ArraySpec(
        dtype=dtype,
        row_shape=tuple(sides(spec["row_shape"], f"{where}.row_shape")),
        counted_by=untrusted.text(spec["counted_by"], f"{where}.counted_by"),
        most=untrusted.count(spec["most"], f"{where}.most", most=ROW_ENTRIES_LIMIT),
    )


def sides(value: Any, where: str) -> list[int]:
    """The sides of one row of an array: few, and none of them 0; raises Refused."""
    found = untrusted.sequence(value, where)
    if len(found) > ROW_DIMENSIONS_LIMIT:
        raise Refused(f"{where}: {len(found)} dimensions; at most {ROW_DIMENSIONS_LIMIT} are read")
    return [untrusted.count(side, where, least=1, most=SHARD_BYTES_LIMIT) for side in found]


def entry_bytes(spec: ArraySpec) -> int:
    """Bytes in memory of one entry along the first axis; a Python integer, which cannot overflow."""
    return np.dtype(spec.dtype).itemsize * prod(spec.row_shape)


def row_bytes(spec: ArraySpec) -> int:
    """Bytes in memory of one row; of a ragged array, of a row with as many entries as it may have."""
    return entry_bytes(spec) * spec.row_entries


def shard_names(split: str, index: int, arrays: Mapping[str, ArraySpec]) -> set[str]:
    """Files of shard `index` of a split, relative to the store: where Zarr looks for them."""
    return {f"{split}/{name}/c/{index}{'/0' * len(spec.row_shape)}" for name, spec in arrays.items()}


def require_claims(manifest: Manifest, *, own_file: str) -> None:
    """Refuse shards and files that are listed twice or elsewhere than they belong, and more rows than can be.

    own_file is the manifest's, which lists all others. Raises Refused.
    """
    names = Counter([own_file, *(name.lower() for name in manifest.files)])
    seen: set[tuple[str, int]] = set()
    for shard in manifest.shards:
        where = f"shard {shard.split}/{shard.index}"
        plan = manifest.splits.get(shard.split)
        if plan is None or shard.index >= max(1, plan.shards) or shard.rows > plan.shard_rows:
            planned = f"{plan.rows} rows in shards of {plan.shard_rows}" if plan else "no such split"
            raise Refused(f"{where} of {shard.rows} rows does not fit the plan: {planned}")
        if (shard.split, shard.index) in seen:
            raise Refused(f"{where} is listed twice")
        seen.add((shard.split, shard.index))
        _require_files(shard.files.keys(), manifest, where, shard_names(shard.split, shard.index, manifest.arrays))
        names.update(name.lower() for name in shard.files)
    # In lower case: there are file systems on which two names that differ in case are one file.
    name, times = max(names.items(), key=lambda item: item[1], default=("", 0))
    if times > 1:
        raise Refused(f"the file {name} is listed twice")
    for split, plan in manifest.splits.items():
        _require_possible(manifest, split, plan)


def _require_files(names: Set[str], manifest: Manifest, where: str, expected: set[str]) -> None:
    if not manifest.arrays:
        if len(names) != 1:
            raise Refused(f"{where}: expected one file, got {len(names)}")
    elif names != expected:
        extra, missing = sorted(names - expected), sorted(expected - names)
        raise Refused(f"{where}: {f'the file {extra[0]} does not belong to it' if extra else f'no file {missing[0]}'}")


def _require_possible(manifest: Manifest, split: str, plan: SplitPlan) -> None:
    width = max(1, sum(row_bytes(spec) for spec in manifest.arrays.values()))
    shard_bytes = min(plan.rows, plan.shard_rows) * width
    if shard_bytes > SHARD_BYTES_LIMIT:
        raise Refused(f"splits.{split}: shards of {shard_bytes} bytes in memory; at most {SHARD_BYTES_LIMIT} are read")
    stored = sum(entry.bytes for shard in manifest.shards if shard.split == split for entry in shard.files.values())
    require_possible(plan.rows * width, stored, f"splits.{split}: {plan.rows} rows")


def require_possible(claimed: int, stored: int, where: str) -> None:
    """Refuse `claimed` bytes in memory that `stored` bytes of files cannot hold; raises Refused."""
    if claimed > max(CLAIM_FLOOR_BYTES, CLAIM_LIMIT * stored):
        raise Refused(f"{where} would take {claimed} bytes of memory, but the files hold {stored} bytes")


def write_manifest(manifest: Manifest, store: Path) -> None:
    """Put the manifest into the folder of a store, whole or not at all, as the last file of it.

    Raises SchemaMismatch for one that `read_manifest` would refuse.
    """
    data = manifest.to_json().encode()
    parse_manifest(data)
    write_bytes(store / MANIFEST, data)


def parse_manifest(data: bytes) -> Manifest:
    """The manifest in the bytes of a `manifest.json`, wherever they come from.

    Raises SchemaMismatch, in one line, when it is not one that this version understands or that could be true.
    """
    if len(data) > MANIFEST_BYTES_LIMIT:
        raise SchemaMismatch(f"{len(data)} bytes; a manifest has at most {MANIFEST_BYTES_LIMIT}")
    try:
        return _decode(untrusted.parse(data))
    except Refused as error:
        raise SchemaMismatch(f"not a manifest of this format: {error}") from error


def read_manifest(store: Path) -> Manifest:
    """Read and check the manifest of the store at `store`.

    Raises StoreMissing when there is none, SchemaMismatch when it is not one this version understands.
    """
    path = store / MANIFEST
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            raise SchemaMismatch(f"{path}: a symbolic link; a store consists of plain files")
        if not stat.S_ISREG(mode):
            raise StoreMissing(f"{store}: no sealed store here ({MANIFEST} is no file)")
        with path.open("rb") as stream:
            data = stream.read(MANIFEST_BYTES_LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise StoreMissing(f"{store}: no sealed store here ({MANIFEST} is missing)") from None
    except OSError as error:
        raise StoreMissing(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return parse_manifest(data)
    except SchemaMismatch as error:
        raise SchemaMismatch(f"{path}: {error}") from error


def _decode(value: Any) -> Manifest:
    body = untrusted.mapping(value, "manifest")
    for key in ("format", "schema", "checksum"):
        if key not in body:
            raise Refused(f"no {key}")
    if (body["format"], body["schema"]) != (FORMAT, SCHEMA) or type(body["schema"]) is not int:
        raise SchemaMismatch(
            f"expected format {FORMAT} schema {SCHEMA}, got {_plain(body['format'])} schema {_plain(body['schema'])}"
        )
    checksum = body.pop("checksum")
    if checksum != (found := _digest_of_parsed(body)):
        raise SchemaMismatch(f"changed since it was sealed: expected checksum {_plain(checksum)}, got {found}")
    untrusted.members(body, ["format", "schema", *(entry.name for entry in fields(Manifest))], "manifest")
    manifest = Manifest(
        kind=untrusted.name(body["kind"], "kind"),
        revision=untrusted.count(body["revision"], "revision"),
        identity=untrusted.sha256(body["identity"], "identity"),
        inputs=untrusted.mapping(body["inputs"], "inputs"),
        parents=_parents(body["parents"]),
        facts=untrusted.mapping(body["facts"], "facts"),
        splits={
            untrusted.name(name, "splits"): SplitPlan.from_json(plan, f"splits.{name}")
            for name, plan in untrusted.mapping(body["splits"], "splits").items()
        },
        arrays=array_specs(body["arrays"]),
        shards=tuple(_shard(shard) for shard in untrusted.sequence(body["shards"], "shards")),
        files=_files(body["files"], "files"),
    )
    expected = _digest_of_parsed(
        identity_inputs(
            kind=manifest.kind, revision=manifest.revision, inputs=manifest.inputs, parents=manifest.parents
        )
    )
    if manifest.identity != expected:
        raise SchemaMismatch(f"identity {manifest.identity[:12]} is not the hash of its inputs ({expected[:12]})")
    require_claims(manifest, own_file=MANIFEST)
    return manifest


def _plain(value: Any) -> str:
    """A value for a message, without quotes where it is a plain string."""
    return untrusted.shown(value).strip("'")


def _digest_of_parsed(body: dict[str, Any]) -> str:
    """The result of `digest` for a value that was just parsed from JSON; faster."""
    try:
        return hashlib.sha256(canonical_of_parsed(body).encode()).hexdigest()
    except (ValueError, RecursionError) as error:
        raise Refused(f"cannot be hashed: {untrusted.shown(str(error))}") from error


def _parents(value: Any) -> dict[str, str]:
    found = untrusted.mapping(value, "parents")
    return {
        untrusted.path(name, "parents"): untrusted.sha256(identity, f"parents.{name}")
        for name, identity in found.items()
    }


def _shard(value: Any) -> ShardEntry:
    shard = untrusted.members(value, ("split", "index", "rows", "files"), "shards")
    return ShardEntry(
        split=untrusted.name(shard["split"], "shards.split"),
        index=untrusted.count(shard["index"], "shards.index"),
        rows=untrusted.count(shard["rows"], "shards.rows"),
        files=_files(shard["files"], "shards.files"),
    )


def _files(value: Any, where: str) -> dict[str, FileEntry]:
    found = untrusted.mapping(value, where)
    return {untrusted.path(name, where): FileEntry.from_json(entry, name) for name, entry in found.items()}
