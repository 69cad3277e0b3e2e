"""What a manifest may claim: kinds of numbers, places of files, and no more rows than its files can hold.

A megabyte can name 10**12 rows, in a manifest as in the metadata of an array. What is refused here is refused from the
manifest alone, before a file is opened or memory is allocated; `storage.metadata` does the same for what Zarr reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import fields
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from storage import strict
from storage.arrays import ArraySpec
from storage.strict import Refused

if TYPE_CHECKING:
    from storage.manifest import Manifest, SplitPlan

DTYPES = frozenset(
    {*(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)), "float16", "float32", "float64"}
)
"""Dtypes of arrays: plain numbers; never objects, strings or anything with code behind it."""

ROW_DIMENSIONS_LIMIT = 3

ROW_ENTRIES_LIMIT = 2**20
"""Entries that a row of a ragged array may have; more than any vocabulary."""

ENTRIES_LIMIT = 65534
"""Most entries of a row of a ragged array: what a 16-bit count holds beside its fill value."""

CLAIM_LIMIT = 1000
"""Bytes in memory that one byte of shard files may stand for, over a split. Stores of real teachers have 1.5 to 6; made
for the purpose, 40 where lists of up to 256 hold three entries and 200 where rows of 512 hold ten tokens. The
compressor could do 30,000: a megabyte that fills 30 GB."""

CLAIM_FLOOR_BYTES = 64 * 1024 * 1024
"""This much may be claimed whatever the files hold: rows without any answer compress a thousandfold."""

SHARD_BYTES_LIMIT = 4 * 1024 * 1024 * 1024
"""Bytes in memory of one shard; shards of ours have about 0.1 GB."""


def array_specs(value: Any) -> dict[str, ArraySpec]:
    """The arrays of a manifest; raises Refused."""
    found = {
        strict.name(name, "arrays"): _array_spec(spec, f"arrays.{name}")
        for name, spec in strict.mapping(value, "arrays").items()
    }
    for name, spec in found.items():
        counts = found.get(spec.counted_by)
        if spec.counted_by and (counts is None or counts.row_shape or counts.counted_by or counts.dtype[0] != "u"):
            raise Refused(f"arrays.{name}: {strict.shown(spec.counted_by)} is no array that counts its entries")
        if bool(spec.counted_by) != bool(spec.most) or (spec.counted_by and spec.row_shape):
            raise Refused(f"arrays.{name}: neither one row shape nor a number of entries a row")
    return found


def _array_spec(value: Any, where: str) -> ArraySpec:
    spec = strict.members(value, [field.name for field in fields(ArraySpec)], where)
    dtype = strict.text(spec["dtype"], f"{where}.dtype")
    if dtype not in DTYPES:
        raise Refused(f"{where}.dtype: expected one of {', '.join(sorted(DTYPES))}, got {strict.shown(dtype)}")
    return ArraySpec(
        dtype=dtype,
        row_shape=tuple(sides(spec["row_shape"], f"{where}.row_shape")),
        counted_by=strict.text(spec["counted_by"], f"{where}.counted_by"),
        most=strict.count(spec["most"], f"{where}.most", most=ROW_ENTRIES_LIMIT),
    )


def sides(value: Any, where: str) -> list[int]:
    """The sides of one row of an array: few, and none of them 0; raises Refused."""
    found = strict.sequence(value, where)
    if len(found) > ROW_DIMENSIONS_LIMIT:
        raise Refused(f"{where}: {len(found)} dimensions; at most {ROW_DIMENSIONS_LIMIT} are read")
    return [strict.count(side, where, least=1, most=SHARD_BYTES_LIMIT) for side in found]


def entry_bytes(spec: ArraySpec) -> int:
    """Bytes in memory of one entry along the first axis; a Python integer, which cannot overflow."""
    return np.dtype(spec.dtype).itemsize * prod(spec.row_shape)


def row_bytes(spec: ArraySpec) -> int:
    """Bytes in memory of one row; of a ragged array, of a row with as many entries as it may have."""
    return entry_bytes(spec) * spec.row_entries


def shard_names(split: str, index: int, arrays: Mapping[str, ArraySpec]) -> set[str]:
    """Files of shard `index` of a split, relative to the store: where Zarr looks for them."""
    return {f"{split}/{name}/c/{index}{'/0' * len(spec.row_shape)}" for name, spec in arrays.items()}


def require(manifest: Manifest, *, own_file: str) -> None:
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
    """Refuse `claimed` bytes in memory that `stored` bytes of files cannot honestly hold; raises Refused."""
    if claimed > max(CLAIM_FLOOR_BYTES, CLAIM_LIMIT * stored):
        raise Refused(f"{where} would take {claimed} bytes of memory, but the files hold {stored} bytes")
