"""Manifest, identity, shard plan. What a reader refuses stands in the contract suite."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.arrays import ArraySpec
from storage.errors import SchemaMismatch, ShardCorrupt
from storage.manifest import (
    FileEntry,
    Manifest,
    ShardEntry,
    SplitPlan,
    canonical,
    digest,
    file_sha256,
    identity_of,
)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(rows=st.integers(0, 10_000), shard_rows=st.integers(1, 300))
def test_shards_cover_the_rows_once_and_only_the_last_is_short(rows: int, shard_rows: int) -> None:
    plan = SplitPlan(rows=rows, shard_rows=shard_rows)
    bounds = [plan.bounds(i) for i in range(plan.shards)]
    assert [row for start, stop in bounds for row in range(start, stop)] == list(range(rows))
    assert all(stop - start == shard_rows for start, stop in bounds[:-1])
    assert all(stop > start for start, stop in bounds)


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


QUESTION: dict[str, Any] = {"kind": "logits", "revision": 1, "inputs": {"keep": 4}, "parents": {"masks": "ab"}}


def test_identity_is_the_same_on_every_machine() -> None:
    """Pinned: changing how it is computed makes every store in the world stale."""
    assert identity_of(**QUESTION) == "81dab4250c3d87c831386727c49c353a596d89798f0ac807dd0a46258d7467e7"


@pytest.mark.parametrize(
    "change",
    [{"kind": "targets"}, {"revision": 2}, {"inputs": {"keep": 5}}, {"parents": {"masks": "ac"}}, {"parents": {}}],
)
def test_every_part_of_the_question_changes_the_identity(change: dict[str, Any]) -> None:
    assert identity_of(**{**QUESTION, **change}) != identity_of(**QUESTION)


names = st.text(st.characters(categories=["Ll", "Nd"]), min_size=1, max_size=6)
entries = st.builds(
    FileEntry, bytes=st.integers(0, 2**40), sha256=st.text("0123456789abcdef", min_size=64, max_size=64)
)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    inputs = draw(st.dictionaries(names, json_values, max_size=3))
    parents = draw(st.dictionaries(names, names, max_size=2))
    return Manifest(
        kind="logits",
        revision=3,
        identity=identity_of(kind="logits", revision=3, inputs=inputs, parents=parents),
        inputs=inputs,
        parents=parents,
        facts=draw(st.dictionaries(names, json_values, max_size=3)),
        splits=draw(st.dictionaries(names, st.builds(SplitPlan, rows=st.integers(0, 9), shard_rows=st.integers(1, 9)))),
        arrays=draw(
            st.dictionaries(
                names,
                st.builds(ArraySpec, dtype=st.just("uint16"), row_shape=st.lists(st.integers(1, 9)).map(tuple)),
                max_size=3,
            )
        ),
        shards=tuple(
            draw(
                st.lists(
                    st.builds(
                        ShardEntry,
                        split=names,
                        index=st.integers(0, 9),
                        rows=st.integers(0, 9),
                        files=st.dictionaries(names, entries, max_size=2),
                    ),
                    max_size=3,
                )
            )
        ),
        files=draw(st.dictionaries(names, entries, max_size=2)),
    )


@given(manifest=manifests())
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, manifest: Manifest) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    assert Manifest.read(folder) == manifest
    assert Manifest.read(folder).to_json() == manifest.to_json()


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
        Manifest.read(folder)


def test_file_hash_is_the_plain_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc" * 100_000)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(b"abc" * 100_000).hexdigest()
    entry = FileEntry.of(tmp_path / "file")
    entry.require(tmp_path / "file", remedy="Run: x")
    (tmp_path / "file").write_bytes(b"abc" * 100_000 + b"d")
    with pytest.raises(ShardCorrupt, match=r"file: expected 300000 bytes, .* got 300001 bytes, .*\. Run: x$"):
        entry.require(tmp_path / "file", remedy="Run: x")
