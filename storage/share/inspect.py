"""Describe stores from their manifests alone, whatever their size.

Every value is shown as one line of printable characters of limited length: a manifest may be untrusted.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from storage.errors import StoreError
from storage.format.manifest import CONSTANTS, MANIFEST, FileEntry, Manifest, ShardEntry
from storage.format.manifest_parse import read_manifest

SHOWN_CHARACTERS = 160
"""Longest value in a line."""
SHARDS_SHOWN = 8
SHORT_IDENTITY = 12
PROVENANCE = "provenance"
"""The fact with the origins of models and texts, see `pipeline.models.provenance`."""


def plain(value: Any) -> str:
    """`value`, JSON, for people: short, in one line, of printable characters."""
    text = _plain(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}..."


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{_plain(key)} {_plain(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value) or "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else json.dumps(value)
    return "".join(mark if mark.isprintable() else "?" for mark in text[: SHOWN_CHARACTERS + 1])


def size(count: int) -> str:
    """Bytes, for people."""
    for unit, step in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= step:
            return f"{count / step:.1f} {unit}"
    return f"{count} B"


def split_bytes(manifest: Manifest) -> dict[str, int]:
    """Bytes on disk of the shards of each split."""
    found: Counter[str] = Counter(dict.fromkeys(manifest.splits, 0))
    for shard in manifest.shards:
        found[shard.split] += sum(entry.bytes for entry in shard.files.values())
    return dict(found)


def array_bytes(manifest: Manifest) -> dict[str, int]:
    """Bytes on disk of the shards of each array, over all splits; {} for a store of tables."""
    found: Counter[str] = Counter(dict.fromkeys(manifest.arrays, 0))
    if manifest.arrays:
        for shard in manifest.shards:
            for name, entry in shard.files.items():
                found[name.split("/")[1]] += entry.bytes
    return dict(found)


def constant_bytes(manifest: Manifest) -> dict[str, int]:
    """Bytes on disk of each array that belongs to the store as a whole."""
    found: Counter[str] = Counter()
    for name, entry in manifest.files.items():
        parts = name.split("/")
        if parts[0] == CONSTANTS and len(parts) > 2:
            found[parts[1]] += entry.bytes
    return dict(sorted(found.items()))


def licence_lines(manifest: Manifest) -> list[str]:
    """Models and texts that the store stands on, with licences, as far as the store says."""
    provenance = _mapping(manifest.facts.get(PROVENANCE))
    lines = [f"model {_model(entry)}" for entry in _entries(provenance, "models")]
    lines += [f"text {plain(e.get('name'))}: {_licence(e)}" for e in _entries(provenance, "texts")]
    licences = _mapping(manifest.facts.get("licences"))
    return lines + [f"text {plain(name)}: {plain(licence) or 'licence unknown'}" for name, licence in licences.items()]


def _model(entry: Mapping[str, Any]) -> str:
    where = f" ({plain(entry['hub'])} at {plain(entry.get('revision'))})" if entry.get("hub") else ""
    adapter = f" with adapter {plain(entry['adapter'])}" if entry.get("adapter") else ""
    return f"{plain(entry.get('name'))}{where}{adapter}: {_licence(entry)}"


def _licence(entry: Mapping[str, Any]) -> str:
    return plain(entry["licence"]) if entry.get("licence") else "licence unknown"


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _entries(value: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found = value.get(name)
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def describe(manifest: Manifest) -> Iterator[str]:
    """A store in lines: what it is, what it was made from, what it holds, how many bytes each part takes."""
    yield f"kind        {manifest.kind}, method revision {manifest.revision}"
    yield f"identity    {manifest.identity}"
    for name, identity in manifest.parents.items():
        yield f"parent      {name} {identity}"
    for name, value in manifest.facts.items():
        if name not in (PROVENANCE, "licences"):
            yield f"fact        {plain(name)}: {plain(value)}"
    rows = sum(plan.rows for plan in manifest.splits.values())
    stored = split_bytes(manifest)
    for name, plan in manifest.splits.items():
        yield (
            f"split       {name}: {plan.rows} rows in {plan.shards} shards of up to {plan.shard_rows}, "
            f"{size(stored[name])}"
        )
    total = sum(stored.values())
    yield f"rows        {rows}, {size(total)}, {total / max(1, rows):.2f} bytes a row"
    for name, count in array_bytes(manifest).items():
        spec = manifest.arrays[name]
        shape = f"up to {spec.most} a row, as {spec.counted_by} says" if spec.counted_by else f"row {spec.row_shape}"
        yield f"array       {name}: {spec.dtype}, {shape}, {count / max(1, rows):.2f} bytes a row"
    for name, count in constant_bytes(manifest).items():
        yield f"constant    {name}: {size(count)}"
    yield from (f"licence     {line}" for line in licence_lines(manifest))
    for name, value in flat(manifest.inputs):
        yield f"input       {name}: {value}"


def flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Leaves of a JSON object as (dotted name, plain value), in order of names."""
    if isinstance(value, dict) and value:
        for key in sorted(value):
            yield from flat(value[key], f"{name}.{plain(key)}" if name else plain(key))
    else:
        yield name, plain(value)


def differences(first: Manifest, second: Manifest) -> list[str]:
    """In what two stores differ, one line each; [] when they hold the same data, made of the same.

    Shards are compared by the hashes of their files, so nothing but the manifests is read.
    """
    lines: list[str] = []
    for name in ("kind", "revision", "identity", "parents", "inputs", "facts"):
        lines += _changed(name, getattr(first, name), getattr(second, name))
    plans = [{name: [plan.rows, plan.shard_rows] for name, plan in one.splits.items()} for one in (first, second)]
    lines += _changed("splits", plans[0], plans[1])
    for name in sorted(first.arrays.keys() | second.arrays.keys()):
        if (one := first.arrays.get(name)) != (other := second.arrays.get(name)):
            lines.append(f"arrays.{name}: {one or 'none'} | {other or 'none'}")
    for split in sorted(first.splits.keys() | second.splits.keys()):
        lines += _changed_shards(split, _shards(first, split), _shards(second, split))
    for name in sorted(first.files.keys() | second.files.keys()):
        if first.files.get(name) != second.files.get(name):
            lines.append(f"file {name}: {_hash(first.files.get(name))} | {_hash(second.files.get(name))}")
    return lines


def _changed(where: str, first: Any, second: Any) -> Iterator[str]:
    """Leaves that differ; compared whole, shown short."""
    if isinstance(first, dict) and isinstance(second, dict):
        for key in sorted(first.keys() | second.keys()):
            name = f"{where}.{plain(key)}"
            if key in first and key in second:
                yield from _changed(name, first[key], second[key])
            else:
                yield f"{name}: {plain(first[key]) if key in first else 'none'} | " + (
                    plain(second[key]) if key in second else "none"
                )
    elif json.dumps(first, sort_keys=True) != json.dumps(second, sort_keys=True):
        yield f"{where}: {plain(first)} | {plain(second)}"


def _shards(manifest: Manifest, split: str) -> dict[int, ShardEntry]:
    return {shard.index: shard for shard in manifest.shards if shard.split == split}


def _changed_shards(split: str, first: dict[int, ShardEntry], second: dict[int, ShardEntry]) -> list[str]:
    every = sorted(first.keys() | second.keys())
    other = [index for index in every if first.get(index) != second.get(index)]
    if not other:
        return []
    shown = ", ".join(map(str, other[:SHARDS_SHOWN])) + (", ..." if len(other) > SHARDS_SHOWN else "")
    return [f"shards of {split}: {len(other)} of {len(every)} differ: {shown}"]


def _hash(entry: FileEntry | None) -> str:
    return entry.sha256[:SHORT_IDENTITY] if entry else "none"


def stores_under(folder: Path) -> dict[Path, Manifest | StoreError]:
    """Manifests of all stores in `folder`, by path, or why they cannot be read; hidden folders are left out."""
    found: dict[Path, Manifest | StoreError] = {}
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if MANIFEST in files:
            folders[:] = []
            path = Path(place)
            try:
                found[path] = read_manifest(path)
            except StoreError as error:
                found[path] = error
    return found


def stale_parents(path: Path, stores: Mapping[Path, Manifest | StoreError]) -> tuple[list[str], list[str]]:
    """Parents of the store at `path` that are other ones now, and those that `stores` does not have.

    The parent "masks" of data/logits/x is looked for at data/logits/masks, then at data/masks, and so on upwards.
    """
    manifest = stores[path]
    assert isinstance(manifest, Manifest), path
    stale, absent = [], []
    for name, identity in manifest.parents.items():
        beside = (stores.get(folder / name) for folder in path.parents if folder / name != path)
        parent = next((store for store in beside if isinstance(store, Manifest)), None)
        if parent is None:
            absent.append(name)
        elif parent.identity != identity:
            stale.append(name)
    return stale, absent
