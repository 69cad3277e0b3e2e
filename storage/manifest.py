"""`manifest.json`: what a store is, what it was made from, and the checksum of every file in it.

Identity is content of the question, not of the answer: a SHA-256 over kind, schema, method revision, parameters, hashes
of weights and tokenizers, and the parents' identities. Two runs that ask the same thing have the same identity, on any
machine; the bytes are held by the checksums beside it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from storage.arrays import ArraySpec
from storage.errors import SchemaMismatch, ShardCorrupt, StoreMissing

FORMAT = "belief-store"
SCHEMA = 1
MANIFEST = "manifest.json"
MANIFEST_BYTES_LIMIT = 64 * 1024 * 1024
"""A manifest holds about 1 kB a shard; more than this is no manifest of ours and is refused unread."""


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: the form that is hashed."""
    # Once through JSON first: there keys are strings, and numbers sort otherwise than their digits.
    plain = json.loads(json.dumps(value, allow_nan=False))
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256, hexadecimal, of the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256, hexadecimal, of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def identity_of(*, kind: str, revision: int, inputs: dict[str, Any], parents: dict[str, str]) -> str:
    """Identity of a store of `kind` made by method `revision` from `inputs` (JSON) and `parents` (name to identity)."""
    question = {"kind": kind, "schema": SCHEMA, "revision": revision, "inputs": inputs, "parents": parents}
    return digest(question)


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitPlan:
    """How many rows a split has, and how they are cut into shards."""

    rows: int
    shard_rows: int

    def __post_init__(self) -> None:
        assert self.rows >= 0 and self.shard_rows > 0, self

    @property
    def shards(self) -> int:
        """Number of shards; the last may be short."""
        return -(-self.rows // self.shard_rows)

    def bounds(self, index: int) -> tuple[int, int]:
        """First row and one past the last row of shard `index`."""
        start = index * self.shard_rows
        return start, min(start + self.shard_rows, self.rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """Size and checksum of one file."""

    bytes: int
    sha256: str

    @staticmethod
    def of(path: Path) -> FileEntry:
        """Measure the file at `path`."""
        return FileEntry(bytes=path.stat().st_size, sha256=file_sha256(path))

    def require(self, path: Path, *, remedy: str) -> None:
        """Raise ShardCorrupt, naming the file, when the one at `path` is missing or another."""
        if not path.is_file():
            raise ShardCorrupt(f"{path}: missing. {remedy}")
        found = FileEntry.of(path)
        if found != self:
            raise ShardCorrupt(
                f"{path}: expected {self.bytes} bytes, sha256 {self.sha256[:12]}; "
                f"got {found.bytes} bytes, {found.sha256[:12]}. {remedy}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardEntry:
    """One sealed shard and its files, paths relative to the store."""

    split: str
    index: int
    rows: int
    files: dict[str, FileEntry]

    @staticmethod
    def from_json(value: dict[str, Any]) -> ShardEntry:
        """Read an entry as `asdict` wrote it."""
        files = {name: FileEntry(**entry) for name, entry in value["files"].items()}
        return ShardEntry(split=value["split"], index=value["index"], rows=value["rows"], files=files)


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """Everything a reader needs to know, and nothing it must be told."""

    kind: str
    revision: int
    identity: str
    inputs: dict[str, Any]
    """Parameters and hashes that entered the identity."""
    parents: dict[str, str]
    """Name of the parent store to its identity."""
    facts: dict[str, Any]
    """What the data turned out to be: vocabulary, counts, calibrated temperatures."""
    splits: dict[str, SplitPlan]
    arrays: dict[str, ArraySpec]
    shards: tuple[ShardEntry, ...]
    files: dict[str, FileEntry] = field(default_factory=dict)
    """Array metadata and constants."""

    def to_json(self) -> str:
        """Deterministic text of the manifest, with a checksum over all the rest."""
        body = {"format": FORMAT, "schema": SCHEMA, **asdict(self)}
        body["checksum"] = digest(body)
        return json.dumps(body, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @staticmethod
    def read(store: Path) -> Manifest:
        """Read and check the manifest of the store at `store`.

        Raises StoreMissing when there is none, SchemaMismatch when it is not one this version understands.
        """
        path = store / MANIFEST
        if not path.is_file():
            raise StoreMissing(f"{store}: no sealed store here ({MANIFEST} is missing)")
        size = path.stat().st_size
        if size > MANIFEST_BYTES_LIMIT:
            raise SchemaMismatch(f"{path}: {size} bytes; a manifest has at most {MANIFEST_BYTES_LIMIT}")
        try:
            return _decode(json.loads(path.read_text(encoding="utf-8")))
        except SchemaMismatch as error:
            raise SchemaMismatch(f"{path}: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError, RecursionError) as error:
            raise SchemaMismatch(f"{path}: not a manifest of this format: {error!r}") from error


def _decode(body: dict[str, Any]) -> Manifest:
    found = (body["format"], body["schema"])
    if found != (FORMAT, SCHEMA):
        raise SchemaMismatch(f"expected format {FORMAT} schema {SCHEMA}, got {found[0]} schema {found[1]}")
    checksum = body.pop("checksum")
    if checksum != digest(body):
        raise SchemaMismatch(f"changed since it was sealed: expected checksum {checksum}, got {digest(body)}")
    manifest = Manifest(
        kind=body["kind"],
        revision=body["revision"],
        identity=body["identity"],
        inputs=body["inputs"],
        parents=body["parents"],
        facts=body["facts"],
        splits={name: SplitPlan(**plan) for name, plan in body["splits"].items()},
        arrays={
            name: ArraySpec(dtype=spec["dtype"], row_shape=tuple(spec["row_shape"]))
            for name, spec in body["arrays"].items()
        },
        shards=tuple(ShardEntry.from_json(shard) for shard in body["shards"]),
        files={name: FileEntry(**entry) for name, entry in body["files"].items()},
    )
    expected = identity_of(
        kind=manifest.kind, revision=manifest.revision, inputs=manifest.inputs, parents=manifest.parents
    )
    if manifest.identity != expected:
        raise SchemaMismatch(f"identity {manifest.identity[:12]} is not the hash of its inputs ({expected[:12]})")
    return manifest
