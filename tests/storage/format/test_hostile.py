"""A hostile store with valid checksums and identity is refused before it costs memory or runs code.

Not tested here: an attacker who knows a fault in the compressor's C code. The fuzzers run longer as
`python -m benchmarks.robustness.fuzz`.
"""

from __future__ import annotations

import json
import struct
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import Blosc

from benchmarks.robustness import fuzz
from benchmarks.robustness.watch import Watch
from storage.errors import SchemaMismatch, ShardCorrupt
from storage.format import manifest_parse, zarr_headers
from storage.format.arrays import (
    ArraySpec,
    create_array,
    shard_file,
    write_shard,
)
from storage.format.manifest import SCHEMA
from storage.format.manifest_parse import parse_manifest, read_manifest
from storage.format.zarr_headers import (
    Gate,
    require_array,
    require_constant,
    require_shard,
)
from storage.testing import fixtures, samples
from storage.testing.mutations import sealed

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Kind to the bytes of a good manifest."""
    folder = tmp_path_factory.mktemp("bodies")
    made = {}
    for kind in fixtures.KINDS:
        fixtures.write(kind, folder / kind, folder / "work", seed=0)
        made[kind] = (folder / kind / "manifest.json").read_bytes()
    return made


def forged(data: bytes, edit: Edit) -> bytes:
    body = json.loads(data)
    edit(body)
    return sealed(body)


def at(*path: str | int, value: Any) -> Edit:
    """Set the value at a path of keys and places."""

    def edit(body: Any) -> None:
        for key in path[:-1]:
            body = body[key]
        body[path[-1]] = value

    return edit


def rename(*path: str, old: str, new: str) -> Edit:
    def edit(body: Any) -> None:
        for key in path:
            body = body[key]
        body[new] = body.pop(old)

    return edit


def first_shard(change: Edit) -> Edit:
    return lambda body: change(body["shards"][0])


FILE = "train/column_P/c/0"
ENTRY = {"bytes": 1, "sha256": "0" * 64}
DEEP: list[Any] = []
for _ in range(40):
    DEEP = [DEEP]

REFUSALS: list[tuple[str, Edit, str]] = [
    ("true as a count", at("revision", value=True), "revision: expected an integer from 0 to .*, got True"),
    ("a float as a count", at("splits", "train", "rows", value=22.0), r"splits\.train\.rows: expected an int.*22\.0"),
    ("a string as a count", at("splits", "train", "rows", value="22"), r"splits\.train\.rows: expected an integer"),
    ("negative rows", at("splits", "train", "rows", value=-1), r"splits\.train\.rows: expected an integer from 0"),
    ("no rows a shard", at("splits", "train", "shard_rows", value=0), r"shard_rows: expected an integer from 1"),
    ("a trillion rows", at("splits", "train", "rows", value=10**12), r"splits\.train: 1000000000000 rows would take"),
    ("a number without end", at("splits", "train", "rows", value=10**300), "got an integer of 997 bits"),
    ("a shard of terabytes", lambda b: b["splits"].update(heldout={"rows": 10**12, "shard_rows": 10**12}),
     r"shards of \d+ bytes in memory; at most 4294967296"),
    ("wide rows", at("arrays", "column_P", "row_shape", value=[2**31]), "in memory; at most|does not belong"),
    ("many dimensions", at("arrays", "column_P", "row_shape", value=[1] * 9), "9 dimensions; at most 3"),
    ("an empty side", at("arrays", "column_P", "row_shape", value=[0]), "row_shape: expected an integer from 1"),
    ("objects", at("arrays", "column_P", "dtype", value="object"), r"arrays\.column_P\.dtype: expected one of float16"),
    ("structured", at("arrays", "column_P", "dtype", value="u1,V9999999999"), "dtype: expected one of"),
    ("counted by nothing", at("arrays", "column_P", "counted_by", value="x"), "'x' is no array that counts"),
    ("counted by itself", lambda b: b["arrays"]["column_P"].update(counted_by="column_P", most=3),
     "is no array that counts"),
    ("entries of nothing", at("arrays", "column_P", "most", value=3), "neither one row shape nor a number"),
    ("endless rows", lambda b: b["arrays"]["column_P"].update(counted_by="copy_P", most=2**40), "most: expected"),
    ("a split that leaves", rename("splits", old="train", new="../train"), "splits: expected a name of letters"),
    ("an array that leaves", rename("arrays", old="column_P", new="a/b"), "arrays: expected a name of letters"),
    ("a kind with a line break", at("kind", value="masks\nError: all is well"), r"kind: expected a name.*masks\\nErr"),
    ("an escape sequence", at("kind", value="\x1b[2J"), r"kind: expected a name.*\\x1b"),
    ("a parent of no hash", at("parents", "masks", value="../x"), r"parents\.masks: expected 64 hexadecimal digits"),
    ("a parent that leaves", at("parents", value={"../x": "0" * 64}), "parents: expected a plain relative path"),
    ("two shards in one place", lambda b: b["shards"].append(b["shards"][0]), "shard train/0 is listed twice"),
    ("a shard of no split", first_shard(lambda shard: shard.update(split="other")), "shard other/0 .*no such split"),
    ("a shard beyond the plan", first_shard(lambda shard: shard.update(index=7)), "shard train/7 .*does not fit"),
    ("a shard too long", first_shard(lambda shard: shard.update(rows=9)), "of 9 rows does not fit the plan: 22 rows"),
    ("a shard without a file", first_shard(lambda shard: shard["files"].pop(FILE)), f"shard train/0: no file {FILE}"),
    ("a shard with another's file", first_shard(lambda shard: shard["files"].update({"train/column_P/c/1": ENTRY})),
     "the file train/column_P/c/1 does not belong to it"),
    ("a file in two places", at("files", FILE, value=ENTRY), f"the file {FILE.lower()} is listed twice"),
    ("a file in other letters", at("files", "Train/copy_p/zarr.JSON", value=ENTRY), "is listed twice"),
    ("the manifest as a file", at("files", "manifest.json", value=ENTRY), r"manifest\.json is listed twice"),
    ("a negative size", first_shard(lambda s: s["files"].update({FILE: {**ENTRY, "bytes": -1}})), f"{FILE}: expec"),
    ("a short hash", first_shard(lambda s: s["files"].update({FILE: {**ENTRY, "sha256": "0" * 40}})), "64 hex"),
    ("a file without a hash", first_shard(lambda s: s["files"].update({FILE: {"bytes": 1}})), f"{FILE}: no 'sha256'"),
    ("a file with more", first_shard(lambda s: s["files"].update({FILE: {**ENTRY, "url": "x"}})), "unknown key 'url'"),
    ("an unknown key", at("codec", value="pickle"), "manifest: unknown key 'codec'"),
    ("no arrays", lambda b: b.pop("arrays"), "manifest: no 'arrays'"),
    ("arrays in a list", at("arrays", value=[]), "arrays: expected an object, got a list of 0"),
    ("shards in an object", at("shards", value={}), "shards: expected a list, got an object of 0"),
    ("too deep", at("facts", "x", value=DEEP), "nested more than 32 deep"),
    ("not a number", at("facts", "x", value=float("nan")), "NaN is no JSON"),
    ("half a character", at("facts", "x", value="\ud800"), "cannot be hashed|surrogates not allowed"),
    ("other inputs", at("inputs", "seed", value=9), ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("edit", "message"), [case[1:] for case in REFUSALS[:-1]], ids=[case[0] for case in REFUSALS[:-1]]
)
def test_what_a_manifest_may_not_say(bodies: dict[str, bytes], edit: Edit, message: str) -> None:
    with pytest.raises(SchemaMismatch, match=message) as caught:
        parse_manifest(forged(bodies["masks"], edit))
    said = str(caught.value)
    assert said.isascii()
    assert said.isprintable()
    assert len(said) < 500


def test_an_edit_that_contradicts_nothing_is_another_store(bodies: dict[str, bytes]) -> None:
    """What a checksum cannot tell: a forger who computes identity and checksum anew has made another store."""
    before, after = (parse_manifest(data) for data in (bodies["masks"], forged(bodies["masks"], REFUSALS[-1][1])))
    assert before.identity != after.identity
    assert parse_manifest(forged(bodies["masks"], at("facts", "x", value=1))).identity == before.identity


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "a\\b", "C:x", "", "a//b", "a\0", "é", ".x", "x/../y", "a/" * 9 + "a"]
)
@pytest.mark.parametrize("place", ["files", "shards"])
def test_paths_that_leave_the_folder(bodies: dict[str, bytes], path: str, place: str) -> None:
    def edit(body: dict[str, Any]) -> None:
        (body["files"] if place == "files" else body["shards"][0]["files"])[path] = ENTRY

    for kind in ("masks", "documents"):
        with pytest.raises(SchemaMismatch, match="files: expected a plain relative path"):
            parse_manifest(forged(bodies[kind], edit))


def test_a_key_that_stands_twice(bodies: dict[str, bytes]) -> None:
    """Two readers may take two values: one is shown to the auditor, the other is used."""
    text = bodies["masks"].decode().replace('"rows": 22,', '"rows": 22, "rows": 22,')
    with pytest.raises(SchemaMismatch, match="the key 'rows' stands twice"):
        parse_manifest(text.encode())


@settings(deadline=None)
@given(
    rows=st.integers(1, 2**53),
    width=st.integers(1, 1000),
    stored=st.integers(0, 2**45),
    shard_rows=st.integers(1, 2**53),
)
def test_no_manifest_claims_more_than_its_files_could_hold(rows: int, width: int, stored: int, shard_rows: int) -> None:
    """The bound as it is documented: a thousand bytes a byte, 64 MiB free, 4 GiB a shard."""
    plan = {"rows": rows, "shard_rows": shard_rows}
    shard = {"split": "train", "index": 0, "rows": 1, "files": {"train/x/c/0/0": {"bytes": stored, "sha256": "0" * 64}}}
    body = {
        "format": "belief-store", "schema": SCHEMA, "kind": "plain", "revision": 1, "inputs": {}, "parents": {},
        "facts": {}, "splits": {"train": plan}, "shards": [shard], "files": {}, "identity": "",
        "arrays": {"x": {"dtype": "uint16", "row_shape": [width], "counted_by": "", "most": 0}},
    }  # fmt: skip
    claimed = rows * width * 2
    possible = claimed <= max(2**26, 1000 * stored) and min(rows, shard_rows) * width * 2 <= 2**32
    try:
        parse_manifest(sealed(body))
    except SchemaMismatch as error:
        assert not possible, error  # noqa: PT017
    else:
        assert possible


# zarr.json and chunks.

SPEC = ArraySpec(dtype="uint16", row_shape=(3,))


@pytest.fixture
def array(tmp_path: Path) -> Path:
    create_array(tmp_path / "a", SPEC, rows=20, shard_rows=8)
    write_shard(tmp_path / "a", SPEC, index=0, shard_rows=8, values=np.arange(24, dtype=np.uint16).reshape(8, 3))
    return tmp_path / "a"


def inner(change: Edit) -> Edit:
    return lambda body: change(body["codecs"][0]["configuration"])


CODEC = {"name": "numcodecs.pickle", "configuration": {}}
METADATA: list[tuple[str, Edit, str]] = [
    ("a trillion rows", at("shape", 0, value=10**12), r"shape: expected \[20, 3\], got \[1000000000000, 3\]"),
    ("fewer rows", at("shape", 0, value=19), "shape: expected"),
    ("rows as a float", at("shape", 0, value=20.0), r"shape: expected \[20, 3\], got \[20\.0, 3\]"),
    ("another dtype", at("data_type", value="float64"), 'data_type: expected "uint16", got "float64"'),
    ("an object dtype", at("data_type", value={"name": "fixed_length_utf32"}), "data_type: expected"),
    ("zero as fill", at("fill_value", value=0), "fill_value: expected 65535, got 0"),
    ("another shard", at("chunk_grid", "configuration", "chunk_shape", value=[16, 3]), "chunk_grid: expected"),
    ("another codec", at("codecs", value=[CODEC]), "not sharded and compressed as a store's arrays are"),
    ("a codec within", inner(lambda c: c["codecs"].append(CODEC)), "codecs: expected"),
    (
        "a codec instead of zstd",
        inner(lambda c: c["codecs"][1]["configuration"].update(cname="zlib")),
        "codecs: expected",
    ),
    ("a codec on the index", inner(lambda c: c["index_codecs"].append(CODEC)), "codecs: expected"),
    ("a chunk of terabytes", inner(lambda c: c.update(chunk_shape=[10**12, 3])), "not sharded and compressed"),
    (
        "chunks that do not divide",
        inner(lambda c: c.update(chunk_shape=[3, 3])),
        "inner chunks of 3 entries in shards of 8",
    ),
    ("no checksum", inner(lambda c: c["codecs"].pop()), "codecs: expected"),
    ("the index in front", inner(lambda c: c.update(index_location="start")), "codecs: expected"),
    ("nothing", lambda body: body.clear(), "not sharded and compressed"),
    ("a transformer", at("storage_transformers", value=[CODEC]), "storage_transformers: expected"),
    ("attributes", at("attributes", value={"x": 1}), r"attributes: expected \{\}"),
    ("an extension", at("extension", value={"must_understand": False}), "unknown key 'extension'"),
    ("a group", at("node_type", value="group"), "node_type: expected"),
]


@pytest.mark.parametrize(("edit", "message"), [case[1:] for case in METADATA], ids=[case[0] for case in METADATA])
def test_metadata_is_what_our_writer_writes(array: Path, edit: Edit, message: str) -> None:
    body = json.loads((array / "zarr.json").read_bytes())
    edit(body)
    (array / "zarr.json").write_text(json.dumps(body), encoding="utf-8")
    with pytest.raises(SchemaMismatch, match=rf"zarr\.json: .*{message}.*Run: x$"):
        require_array(array, SPEC, rows=20, shard_rows=8, remedy="Run: x")


@pytest.mark.parametrize("text", ["", "[]", "null", "[" * 10**5, '{"shape": 1, "shape": 2}', " " * 10**5])
def test_metadata_that_is_no_metadata(array: Path, text: str) -> None:
    (array / "zarr.json").write_text(text, encoding="utf-8")
    with pytest.raises(SchemaMismatch, match=r"zarr\.json: no metadata of an array: "):
        require_array(array, SPEC, rows=20, shard_rows=8, remedy="")


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(sorted(manifest_parse.DTYPES)),
    row=st.lists(st.integers(1, 30), max_size=3).map(tuple),
    rows=st.integers(0, 50),
    shard_rows=st.integers(1, 40),
    most=st.integers(0, 9),
)
def test_all_that_our_writer_writes_passes(
    tmp_path_factory: pytest.TempPathFactory, dtype: str, row: tuple[int, ...], rows: int, shard_rows: int, most: int
) -> None:
    spec = ArraySpec(dtype=dtype, counted_by="n", most=most) if most else ArraySpec(dtype=dtype, row_shape=row)
    path = tmp_path_factory.mktemp("array")
    create_array(path, spec, rows=rows, shard_rows=shard_rows)
    entries = require_array(path, spec, rows=rows, shard_rows=shard_rows, remedy="")
    whole = spec.shard_entries(shard_rows)
    assert whole % entries == 0
    for index in range(-(-rows // shard_rows)):
        values = np.ones((min(shard_rows, rows - index * shard_rows), *spec.row_shape), dtype)
        write_shard(path, spec, index=index, shard_rows=shard_rows, values=values)
        file, size = shard_file(path, spec, index), entries * manifest_parse.entry_bytes(spec)
        require_shard(file, chunks=whole // entries, chunk_bytes=size, remedy="")
        with pytest.raises(ShardCorrupt, match=f"unfolds to {size} bytes; expected {size + 1}"):
            require_shard(file, chunks=whole // entries, chunk_bytes=size + 1, remedy="")


def shard_of(path: Path, chunk: bytes, *, offset: int | None = None, length: int | None = None) -> Path:
    """A shard file with one chunk, whose index says where it lies."""
    place = struct.pack("<QQ", 0 if offset is None else offset, len(chunk) if length is None else length)
    path.write_bytes(chunk + place + b"\0\0\0\0")
    return path


def test_a_chunk_that_would_fill_the_memory(tmp_path: Path) -> None:
    """A frame of half a megabyte that unfolds to 128 MB, and one of 20 bytes that says so."""
    bomb = Blosc(cname="zstd", clevel=9, shuffle=Blosc.NOSHUFFLE).encode(np.zeros(2**27, np.uint8)) + b"\0\0\0\0"
    assert len(bomb) < 2**19
    lie = struct.pack("<BBBBIII", 2, 1, 4 << 5, 1, 2**31 - 1, 2**20, 16) + b"\0\0\0\0"
    for chunk, size in ((bomb, 2**27), (lie, 2**31 - 1)):
        tracemalloc.start()
        with pytest.raises(ShardCorrupt, match=f"shard: a chunk unfolds to {size} bytes; expected 48. Run: x$"):
            require_shard(shard_of(tmp_path / "shard", chunk), chunks=1, chunk_bytes=48, remedy="Run: x")
        assert tracemalloc.get_traced_memory()[1] < 2**20
        tracemalloc.stop()


@pytest.mark.parametrize("compressor", ["blosclz", "lz4", "zlib"])
def test_other_compressors_are_not_reached(tmp_path: Path, compressor: str) -> None:
    chunk = Blosc(cname=compressor).encode(np.zeros(48, np.uint8)) + b"\0\0\0\0"
    with pytest.raises(ShardCorrupt, match="not compressed as a store's chunks are"):
        require_shard(shard_of(tmp_path / "shard", chunk), chunks=1, chunk_bytes=48, remedy="")


@pytest.mark.parametrize(("offset", "length"), [(1, None), (2**63, 2**63), (2**64 - 1, 0), (0, 2**64 - 1), (10**6, 1)])
def test_an_index_that_points_elsewhere(tmp_path: Path, offset: int, length: int | None) -> None:
    chunk = Blosc(cname="zstd").encode(np.zeros(48, np.uint8)) + b"\0\0\0\0"
    with pytest.raises(ShardCorrupt, match="a chunk lies outside the file"):
        require_shard(
            shard_of(tmp_path / "shard", chunk, offset=offset, length=length), chunks=1, chunk_bytes=48, remedy=""
        )


def test_an_index_larger_than_the_file(tmp_path: Path) -> None:
    with pytest.raises(ShardCorrupt, match="the index of its 1000000000000 chunks alone takes more"):
        require_shard(shard_of(tmp_path / "shard", b""), chunks=10**12, chunk_bytes=48, remedy="")


def test_a_chunk_that_was_left_out_is_fill(tmp_path: Path) -> None:
    none = 2**64 - 1
    require_shard(shard_of(tmp_path / "shard", b"", offset=none, length=none), chunks=1, chunk_bytes=48, remedy="")


# Constants and whole stores.


@pytest.fixture
def store(tmp_path: Path) -> Path:
    samples.write_logits(tmp_path / "store", tmp_path / "work")
    return tmp_path / "store"


def test_constants_of_our_writer_pass(store: Path) -> None:
    gate = Gate(store, read_manifest(store), remedy="")
    for name in ("order_V", "prior"):
        gate.constant(name)
    manifest = read_manifest(store)
    for shard in manifest.shards:
        gate.shard(shard.split, shard.index, manifest.arrays)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (at("shape", value=[10**12]), "shape would take 4000000000000 bytes of memory, but"),
        (at("shape", value=[0]), "shape: expected an integer from 1"),
        (at("shape", value=[2]), "chunk_grid: expected"),
        (at("data_type", value="string"), "data_type: 'string'"),
        (at("codecs", value=[CODEC]), "no constant of a store"),
        (at("shape", value=[1, 1, 1, 1, 1]), "4 dimensions; at most 3"),
    ],
)
def test_metadata_of_constants(store: Path, edit: Edit, message: str) -> None:
    path = store / "constants" / "prior"
    body = json.loads((path / "zarr.json").read_bytes())
    edit(body)
    (path / "zarr.json").write_text(json.dumps(body), encoding="utf-8")
    with pytest.raises(SchemaMismatch, match=message):
        require_constant(path, stored=1000, remedy="")


def test_a_constant_whose_chunk_is_another(store: Path) -> None:
    path = store / "constants" / "prior"
    zarr.create_array(store=str(store / "other"), shape=(9,), chunks=(9,), dtype="float32")[...] = 1
    (path / "c" / "0").write_bytes(b"\0" * 40)
    with pytest.raises(ShardCorrupt, match="not compressed as a store's chunks are"):
        require_constant(path, stored=1000, remedy="")
    (path / "c" / "0").unlink()
    with pytest.raises(ShardCorrupt, match="constants/prior/c/0: missing"):
        require_constant(path, stored=1000, remedy="")


def test_metadata_module_needs_no_decoder() -> None:
    """What guards the decoders must not call one."""
    assert not {"zarr", "numcodecs"} & set(vars(zarr_headers))


# The fuzzers, briefly.


def test_fuzzed_manifests(bodies: dict[str, bytes]) -> None:
    found = fuzz.fuzz_manifests(list(bodies.values()), cases=2000, seed=1)
    assert found.failures == []
    assert found.accepted > 60, "mutations that change nothing essential must be accepted"
    assert found.refused > 1000
    assert len(found.reached) > 25, "as many different refusals: deep code is reached"


def test_fuzzed_stores(tmp_path: Path) -> None:
    found = fuzz.fuzz_stores(tmp_path, cases=60, seed=1, kinds=("masks", "logits", "documents"))
    assert found.failures == []
    assert found.refused > 30


def test_fuzzed_archives(tmp_path: Path) -> None:
    found = fuzz.fuzz_archives(tmp_path, cases=150, seed=1)
    assert found.failures == []
    assert found.refused > 100
    assert len(found.reached) > 15


def test_the_watch_sees_what_it_must(tmp_path: Path) -> None:
    """Reads and writes outside, writes inside, processes; not modules that are imported."""
    watch, store = Watch(), tmp_path / "store"
    store.mkdir()
    (store / "file").touch()
    (tmp_path / "secret").touch()
    (store / "link").symlink_to(tmp_path / "secret")
    with watch.over(store) as seen:
        (store / "file").read_bytes()
        Path(fuzz.__file__).read_bytes()
        assert seen == []
        (tmp_path / "secret").read_bytes()
        (store / "link").read_bytes()
        (store / "file").write_bytes(b"x")
        (store / "file").rename(tmp_path / "moved")
        subprocess.run(["true"], check=True)
    assert [line.split()[0] for line in seen if "/dev/null" not in line] == [
        "open", "open", "open", "os.rename", "os.rename", "subprocess.Popen",
    ]  # fmt: skip
    with watch.over(tmp_path, may_write=True) as seen:
        (tmp_path / "moved").rename(store / "file")
        (store / "file").write_bytes(b"x")
    assert seen == []
