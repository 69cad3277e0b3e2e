"""Descriptions of stores from their manifests alone."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import SchemaMismatch
from storage.format import manifest_parse
from storage.format.manifest import (
    FileEntry,
    Manifest,
    ShardEntry,
    SplitPlan,
    identity_of,
)
from storage.format.manifest_parse import read_manifest
from storage.records.logits import SparseLogits
from storage.share.inspect import (
    SHOWN_CHARACTERS,
    array_bytes,
    constant_bytes,
    describe,
    differences,
    licence_lines,
    plain,
    size,
    split_bytes,
    stale_parents,
    stores_under,
)
from storage.testing import fixtures, samples

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def manifest(
    *, kind: str = "logits", inputs: Any = None, parents: Any = None, facts: Any = None, **other: Any
) -> Manifest:
    inputs, parents = inputs or {}, parents or {}
    identity = identity_of(kind=kind, revision=1, inputs=inputs, parents=parents)
    plan: dict[str, Any] = {"splits": {}, "arrays": {}, "shards": (), **other}
    return Manifest(kind=kind, revision=1, identity=identity, inputs=inputs, parents=parents, facts=facts or {}, **plan)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    for kind in fixtures.KINDS:
        fixtures.write(kind, folder / kind, folder / "work", seed=1)
    samples.write_logits(folder / "more", folder / "work")
    return folder


# Values and sizes


@settings(max_examples=100, deadline=None)
@given(value=JSON)
def test_any_value_is_one_short_printable_line(value: Any) -> None:
    shown = plain(value)
    assert len(shown) <= SHOWN_CHARACTERS
    assert shown.isprintable()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"form": "topk", "k": 8}, "form topk, k 8"), ([1.0, 2.5], "1, 2.5"), (0.00312345678, "0.00312346"),
        (None, "null"), (True, "true"), ({}, "none"), ([], "none"), ("ähnlich", "ähnlich"), ("\x1b[2J\nx", "?[2J?x"),
        ("\u202ex", "?x"),
    ],
)  # fmt: skip
def test_values_for_people(value: Any, shown: str) -> None:
    assert plain(value) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_550_000, "2.5 MB"), (7 * 10**9, "7.0 GB")]
)
def test_sizes_for_people(count: int, shown: str) -> None:
    assert size(count) == shown


def disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != "zarr.json")


@pytest.mark.parametrize("kind", fixtures.KINDS)
def test_bytes_are_those_on_disk(made: Path, kind: str) -> None:
    found = read_manifest(made / kind)
    if kind == "documents":
        assert array_bytes(found) == {}
        assert split_bytes(found) == {name: (made / kind / f"{name}.arrow").stat().st_size for name in fixtures.PLAN}
        return
    assert split_bytes(found) == {split: disk(made / kind / split) for split in fixtures.PLAN}
    assert array_bytes(found) == {
        name: sum(disk(made / kind / split / name) for split in fixtures.PLAN) for name in found.arrays
    }


def test_constants_count_with_their_metadata(made: Path) -> None:
    folder = made / "more" / "constants"
    assert constant_bytes(read_manifest(made / "more")) == {
        path.name: sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        for path in sorted(folder.iterdir())
    }


# info


def test_a_store_in_lines(made: Path) -> None:
    lines = list(describe(read_manifest(made / "more")))
    text = "\n".join(lines)
    assert lines[0] == f"kind        logits, method revision {SparseLogits.revision}"
    assert f"identity    {samples.manifest_of(made / 'more')['identity']}" in lines
    assert f"parent      masks {'ab' * 32}" in lines
    assert "fact        temperature: 1.25" in lines and f"fact        vocabulary: {samples.VOCABULARY}" in lines
    assert "input       keep: 4" in lines and "input       model: 0123" in lines
    assert re.search(r"split       train: 50 rows in 4 shards of up to 16, [\d.]+ kB", text)
    assert re.search(r"split       calibration: 0 rows in 0 shards", text)
    total = sum(disk(made / "more" / split) for split in samples.SPLITS)
    assert re.search(rf"rows        66, [\d.]+ kB, {total / 66:.2f} bytes a row", text)
    assert "array       step_E: uint16, up to 6 a row, as count_P says" in text
    assert "constant    prior: " in text


@settings(max_examples=100, deadline=None)
@given(facts=st.dictionaries(st.text(), JSON, max_size=3), inputs=st.dictionaries(st.text(), JSON, max_size=3))
def test_any_facts_can_be_described(facts: dict[str, Any], inputs: dict[str, Any]) -> None:
    for key in ("provenance", "licences"):
        for value in (facts, list(facts.values()), "x"):
            for line in describe(manifest(facts=facts | {key: value}, inputs=inputs)):
                assert line.isprintable()


@settings(max_examples=100, deadline=None)
@given(provenance=JSON, entry=JSON)
def test_any_provenance_can_be_described(provenance: Any, entry: Any) -> None:
    for value in (provenance, {"models": provenance, "texts": entry}, {"models": [{"name": entry, "hub": provenance}]}):
        assert all(
            line.isprintable() for line in licence_lines(manifest(facts={"provenance": value, "licences": entry}))
        )


def test_licences_of_documents_and_of_what_came_of_them() -> None:
    model = {"name": "fox", "hub": "some/fox", "revision": "abc", "licence": "mit"}
    facts = {
        "provenance": {"models": [model], "texts": [{"name": "a", "licence": ""}]},
        "licences": {"b": "CC0", "c": ""},
    }
    assert licence_lines(manifest(facts=facts)) == [
        "model fox (some/fox at abc): mit",
        "text a: licence unknown",
        "text b: CC0",
        "text c: licence unknown",
    ]


def work_of_a_description(folder: Path, shards: int) -> int:
    """How many lines of Python run to read and describe a manifest of so many shards; a turn of a loop is a line."""
    specs = SparseLogits.specs(most=96, draws=0, temperatures=2, rank=16, vocabulary=30527)
    entry = FileEntry(bytes=200_000, sha256="ab" * 32)
    entries = tuple(
        ShardEntry(
            split="train", index=i, rows=4096, files=dict.fromkeys(manifest_parse.shard_names("train", i, specs), entry)
        )
        for i in range(shards)
    )
    plan = {"train": SplitPlan(rows=4096 * shards, shard_rows=4096)}
    folder.mkdir()
    (folder / "manifest.json").write_text(
        manifest(splits=plan, arrays=specs, shards=entries).to_json(), encoding="utf-8"
    )
    lines, before = 0, sys.gettrace()

    def count(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal lines
        lines += event == "line"
        return count

    sys.settrace(count)
    try:
        text = "\n".join(describe(read_manifest(folder)))
    finally:
        sys.settrace(before)
    assert f"train: {4096 * shards} rows in {shards} shards" in text
    return lines


def test_the_work_of_a_description_grows_no_faster_than_the_shards(tmp_path: Path) -> None:
    """Lines are counted, not seconds, which a busy machine changes: 1,000 shards once took 1.2 s where 0.1 is usual."""
    few = work_of_a_description(tmp_path / "few", 100)
    assert work_of_a_description(tmp_path / "many", 1000) < 11 * few


# diff


def test_a_store_does_not_differ_from_itself(made: Path) -> None:
    for kind in fixtures.KINDS:
        assert differences(read_manifest(made / kind), read_manifest(made / kind)) == []


def test_what_differs_is_named() -> None:
    first = manifest(inputs={"keep": {"k": 8}, "seed": 0}, parents={"masks": "a" * 64}, facts={"nll": 1.0, "old": 1})
    second = manifest(
        inputs={"keep": {"k": 9}, "seed": 0}, parents={"masks": "b" * 64}, facts={"nll": 1.0, "new": None}
    )
    assert differences(first, second) == [
        f"identity: {first.identity} | {second.identity}",
        f"parents.masks: {'a' * 64} | {'b' * 64}",
        "inputs.keep.k: 8 | 9",
        "facts.new: none | null",
        "facts.old: 1 | none",
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, True), (0, False), (1, 1.0), ("1", 1), (None, "null"), ([], {}), ("x" * 300 + "a", "x" * 300 + "b")],
)
def test_values_that_look_alike_differ(one: Any, other: Any) -> None:
    (line,) = differences(manifest(facts={"a": one}), manifest(facts={"a": other}))
    assert line.startswith("facts.a: ")


def test_shards_are_compared_by_hash(made: Path) -> None:
    first = read_manifest(made / "more")
    changed = [
        replace(shard, files={name: replace(entry, sha256="0" * 64) for name, entry in shard.files.items()})
        if (shard.split, shard.index) in {("train", 1), ("heldout", 0)}
        else shard
        for shard in first.shards
        if (shard.split, shard.index) != ("train", 3)
    ]
    assert differences(first, replace(first, shards=tuple(changed))) == [
        "shards of heldout: 1 of 1 differ: 0",
        "shards of train: 2 of 4 differ: 1, 3",
    ]


def test_plan_arrays_and_files_are_compared(made: Path) -> None:
    first = read_manifest(made / "more")
    name = "constants/prior/zarr.json"
    second = replace(
        first,
        splits={**first.splits, "train": SplitPlan(rows=50, shard_rows=25)},
        arrays={array: spec for array, spec in first.arrays.items() if array != "sketch_PD"},
        files={file: entry for file, entry in first.files.items() if file != name},
    )
    found = differences(first, second)
    assert "splits.train: 50, 16 | 50, 25" in found
    assert any(re.match(r"arrays.sketch_PD: ArraySpec.* \| none", line) for line in found)
    assert f"file {name}: {first.files[name].sha256[:12]} | none" in found


# ls


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    """masks of the sequences beside them; logits of the masks; targets of masks and logits."""
    kinds = {"sequences": {}, "masks": {"sequences": "sequences"}, "logits/fox": {"masks": "masks"}}
    kinds["targets/mixed"] = {"masks": "masks", "logits/fox": "logits/fox"}
    identities: dict[str, str] = {}
    for name, parents in kinds.items():
        found = manifest(kind=name.split("/")[0], parents={parent: identities[of] for parent, of in parents.items()})
        identities[name] = found.identity
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "manifest.json").write_text(found.to_json(), encoding="utf-8")
    return tmp_path


def test_stores_are_found_by_their_manifests(data: Path) -> None:
    (data / "logits" / ".fox.staged").mkdir()
    shutil.copy(data / "masks" / "manifest.json", data / "logits" / ".fox.staged")
    (data / "masks" / "inside").mkdir()
    shutil.copy(data / "masks" / "manifest.json", data / "masks" / "inside")
    found = [path.relative_to(data).as_posix() for path in stores_under(data)]
    assert found == ["logits/fox", "masks", "sequences", "targets/mixed"]
    assert stores_under(data / "nowhere") == {}


def test_parents_that_lie_beside_a_store_fit(data: Path) -> None:
    stores = stores_under(data)
    assert [stale_parents(path, stores) for path in stores] == [([], [])] * 4


def test_parents_that_changed_are_stale(data: Path) -> None:
    other = manifest(kind="masks", inputs={"seed": 1})
    (data / "masks" / "manifest.json").write_text(other.to_json(), encoding="utf-8")
    stores = stores_under(data)
    assert stale_parents(data / "logits" / "fox", stores) == (["masks"], [])
    assert stale_parents(data / "targets" / "mixed", stores) == (["masks"], [])


def test_parents_that_are_not_there_are_absent(data: Path) -> None:
    shutil.rmtree(data / "logits")
    (data / "masks" / "manifest.json").write_text("{}", encoding="utf-8")
    stores = stores_under(data)
    assert isinstance(stores[data / "masks"], SchemaMismatch)
    assert stale_parents(data / "targets" / "mixed", stores) == ([], ["logits/fox", "masks"])
    assert stale_parents(data / "targets" / "mixed", stores_under(data / "targets")) == ([], ["logits/fox", "masks"])
