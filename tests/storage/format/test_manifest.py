"""Manifest, identity, shard plan. Refusals of a reader are in the contract suite."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import SchemaMismatch, ShardCorrupt, StoreMissing
from storage.format.arrays import ArraySpec
from storage.format.manifest import (
    FileEntry,
    Manifest,
    ShardEntry,
    SplitPlan,
    canonical,
    digest,
    file_sha256,
    identity_of,
)
from storage.format.manifest_parse import parse_manifest, read_manifest, shard_names, write_manifest

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(rows=st.integers(0, 10_000), shard_rows=st.integers(1, 300))
def test_shards_cover_the_rows_once_and_only_the_last_is_short(rows: int, shard_rows: int) -> None:
    plan = SplitPlan(rows=rows, shard_rows=shard_rows)
    bounds = [plan.bounds(i) for i in range(plan.shards)]
    assert [row for start, stop in bounds for row in range(start, stop)] == list(range(rows))
    assert all(stop - start == shard_rows for start, stop in bounds[:-1])
    assert all(stop > start for start, stop in bounds)


@settings(deadline=None)
@given(value=json_values)
def test_canonical_survives_json(value: Any) -> None:
    assert canonical(json.loads(canonical(value))) == canonical(value)
    assert digest(value) == hashlib.sha256(canonical(value).encode()).hexdigest()


def test_canonical_is_sorted_tight_and_unescaped() -> None:
    assert canonical({"b": [1, 2.5], "a": "ß"}) == '{"a":"ß","b":[1,2.5]}'


def test_keys_that_are_numbers_hash_as_they_are_read_back() -> None:
    value = {2: "b", 10: "a"}
    assert digest(value) == digest(json.loads(json.dumps(value)))


def test_nothing_but_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"nll": float("nan")})


INPUTS: dict[str, Any] = {"kind": "logits", "revision": 1, "inputs": {"keep": 4}, "parents": {"masks": "ab"}}


def test_identity_is_the_same_on_every_machine() -> None:
    """Pinned: changing how it is computed makes every store in the world stale."""
    assert identity_of(**INPUTS) == "7bb1605bc96fb235eedddc85b7691b3c544affa100803664d0597d51e8363af1"


@pytest.mark.parametrize(
    "change",
    [{"kind": "targets"}, {"revision": 2}, {"inputs": {"keep": 5}}, {"parents": {"masks": "ac"}}, {"parents": {}}],
)
def test_every_part_of_the_inputs_changes_the_identity(change: dict[str, Any]) -> None:
    assert identity_of(**{**INPUTS, **change}) != identity_of(**INPUTS)


names = st.text("abcxyz019_-", min_size=1, max_size=6).filter(lambda name: name[0] != "-")
"""Lower case: names that differ in case alone are refused, as files on some systems."""
hashes = st.text("0123456789abcdef", min_size=64, max_size=64)
entries = st.builds(FileEntry, bytes=st.integers(0, 2**40), sha256=hashes)
row_shapes = st.lists(st.integers(1, 9), max_size=3).map(tuple)
plain_arrays = st.builds(ArraySpec, dtype=st.sampled_from(["uint8", "uint16", "float32"]), row_shape=row_shapes)
ragged_arrays = st.builds(ArraySpec, dtype=st.just("uint16"), counted_by=st.just("count"), most=st.integers(1, 9))


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Any that a writer could make, of a few arrays, and some shards left out."""
    inputs = draw(st.dictionaries(st.text(max_size=6), json_values, max_size=3))
    parents = draw(st.dictionaries(names, hashes, max_size=2))
    splits = draw(
        st.dictionaries(
            names, st.builds(SplitPlan, rows=st.integers(0, 9), shard_rows=st.integers(1, 9)), min_size=1, max_size=3
        )
    )
    arrays = draw(st.dictionaries(names.map(str.upper), plain_arrays, max_size=3))
    if draw(st.booleans()):
        arrays |= {"count": ArraySpec(dtype="uint16"), "entries": draw(ragged_arrays)}
    shards = []
    for split, plan in splits.items():
        for index in draw(st.sets(st.integers(0, max(0, plan.shards - 1)), max_size=3)):
            files = shard_names(split, index, arrays) or {f"{split}-{index}.arrow"}
            entry = {name: draw(entries) for name in sorted(files)}
            rows = draw(st.integers(0, plan.shard_rows))
            shards.append(ShardEntry(split=split, index=index, rows=rows, files=entry))
    return Manifest(
        kind="logits",
        revision=3,
        identity=identity_of(kind="logits", revision=3, inputs=inputs, parents=parents),
        inputs=inputs,
        parents=parents,
        facts=draw(st.dictionaries(st.text(max_size=6), json_values, max_size=3)),
        splits=splits,
        arrays=arrays,
        shards=tuple(shards),
        files=draw(st.dictionaries(names.map("constants/{}/zarr.json".format), entries, max_size=2)),
    )


@settings(deadline=None)
@given(manifest=manifests())
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, manifest: Manifest) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    assert read_manifest(folder) == manifest
    assert read_manifest(folder).to_json() == manifest.to_json()


@settings(deadline=None)
@given(manifest=manifests(), data=st.data())
def test_any_edit_that_keeps_it_json_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, manifest: Manifest, data: st.DataObject
) -> None:
    body = json.loads(manifest.to_json())
    key = data.draw(st.sampled_from(sorted(set(body) - {"format", "schema"})))
    body[key] = data.draw(json_values.filter(lambda value: canonical(value) != canonical(body[key])))
    folder = tmp_path_factory.getbasetemp()
    (folder / "manifest.json").write_text(json.dumps(body), encoding="utf-8")
    with pytest.raises(SchemaMismatch, match=r"manifest\.json: changed since it was sealed"):
        read_manifest(folder)


def test_a_manifest_is_read_from_bytes_as_from_a_file(tmp_path: Path) -> None:
    inputs = {"keep": 4}
    identity = identity_of(kind="logits", revision=1, inputs=inputs, parents={})
    parts: dict[str, Any] = {"facts": {}, "splits": {}, "arrays": {}, "shards": ()}
    manifest = Manifest(kind="logits", revision=1, identity=identity, inputs=inputs, parents={}, **parts)
    assert parse_manifest(manifest.to_json().encode()) == manifest
    with pytest.raises(SchemaMismatch, match=r"^not a manifest of this format: no JSON"):
        parse_manifest(b"\xff")


def test_what_would_be_refused_is_not_written(tmp_path: Path) -> None:
    identity = identity_of(kind="logits", revision=1, inputs={}, parents={})
    parts: dict[str, Any] = {"inputs": {}, "parents": {}, "splits": {}, "arrays": {}, "shards": ()}
    sound = Manifest(kind="logits", revision=1, identity=identity, facts={}, **parts)
    write_manifest(sound, tmp_path)
    with pytest.raises(SchemaMismatch, match="at most 1048576 are read"):
        write_manifest(replace(sound, facts={"x": [0] * 2**20}), tmp_path)
    assert read_manifest(tmp_path) == sound
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_file_hash_is_the_plain_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc" * 100_000)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(b"abc" * 100_000).hexdigest()
    entry = FileEntry.of(tmp_path / "file")
    entry.require(tmp_path / "file", remedy="Run: x")
    entry.require_in(tmp_path, "file", remedy="Run: x")
    (tmp_path / "file").write_bytes(b"abc" * 100_000 + b"d")
    with pytest.raises(ShardCorrupt, match=r"file: expected 300000 bytes, sha256 .*; got 300001 bytes\. Run: x$"):
        entry.require(tmp_path / "file", remedy="Run: x")
    (tmp_path / "file").write_bytes(b"abd" * 100_000)
    with pytest.raises(ShardCorrupt, match=r"file: expected 300000 bytes, sha256 .*; got 300000 bytes, .*\. Run: x$"):
        entry.require_in(tmp_path, "file", remedy="Run: x")


def test_a_file_of_another_size_is_not_read(tmp_path: Path) -> None:
    """A terabyte that takes no room: reading it would take an hour."""
    (tmp_path / "file").touch()
    os.truncate(tmp_path / "file", 10**12)
    with pytest.raises(ShardCorrupt, match=r"expected 3 bytes, .*; got 1000000000000 bytes"):
        FileEntry(bytes=3, sha256="0" * 64).require(tmp_path / "file", remedy="")


def test_only_plain_files_below_plain_folders_are_read(tmp_path: Path) -> None:
    store = tmp_path / "store"
    (store / "train").mkdir(parents=True)
    (store / "train" / "file").write_bytes(b"abc")
    entry = FileEntry.of(store / "train" / "file")
    (tmp_path / "alias").symlink_to(store)
    entry.require_in(tmp_path / "alias", "train/file", remedy="")
    (store / "link").symlink_to(store / "train" / "file")
    (store / "folder").symlink_to(store / "train")
    os.mkfifo(store / "pipe")
    for name, said in (
        ("link", "link: a symbolic link"),
        ("folder/file", "folder: a symbolic link"),
        ("pipe", "pipe: no plain file"),
        ("train", "train: no plain file"),
        ("train/file/x", "x: missing"),
        ("train/other", "other: missing"),
    ):
        with pytest.raises(ShardCorrupt, match=f"{said}.*Run: x$"):
            entry.require_in(store, name, remedy="Run: x")


def test_a_manifest_is_a_plain_file(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("{}", encoding="utf-8")
    (tmp_path / "manifest.json").symlink_to(tmp_path / "other")
    with pytest.raises(SchemaMismatch, match=r"manifest\.json: a symbolic link"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").unlink()
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(StoreMissing, match=r"no sealed store here \(manifest\.json is no file\)"):
        read_manifest(tmp_path)
    with pytest.raises(StoreMissing, match="no sealed store here"):
        read_manifest(tmp_path / "other")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").touch(mode=0)
    with pytest.raises(StoreMissing, match=r"manifest\.json: cannot be read: Permission denied"):
        read_manifest(tmp_path)
    (tmp_path / "file").write_bytes(b"abc")
    entry = FileEntry.of(tmp_path / "file")
    (tmp_path / "file").chmod(0)
    with pytest.raises(ShardCorrupt, match="file: cannot be read: Permission denied"):
        entry.require(tmp_path / "file", remedy="")
