"""`manifest.json`: the kind of a store, its inputs, and the checksum of every file in it.

The identity is a hash of a store's inputs, not of its content: a SHA-256 over kind, schema, method revision,
parameters, hashes of weights and tokenizers, and the parents' identities. Runs with the same inputs have the same
identity on any machine. The checksums beside it are of the content.
"""

from __future__ import annotations

import hashlib
import json
import stat
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from storage.errors import ShardCorrupt
from storage.format import untrusted
from storage.format.arrays import ArraySpec

CARD = "README.md"


FORMAT = "belief-store"
"""The name on disk; it is older than the terms of the code."""
SCHEMA = 2
MANIFEST = "manifest.json"
CONSTANTS = "constants"
MANIFEST_BYTES_LIMIT = 32 * 1024 * 1024
"""A manifest holds about 1.7 kB a shard; a larger file is refused unread."""


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: the form that is hashed."""
    # Through JSON first: it turns keys into strings, and numbers sort differently from their digits.
    return canonical_of_parsed(json.loads(json.dumps(value, allow_nan=False)))


def canonical_of_parsed(value: Any) -> str:
    """The same for a value that was parsed from JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256, hexadecimal, of the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256, hexadecimal, of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def identity_of(*, kind: str, revision: int, inputs: dict[str, Any], parents: dict[str, str]) -> str:
    """Identity of a store of `kind` made by method `revision` from `inputs` (JSON) and `parents` (name to identity)."""
    return digest(identity_inputs(kind=kind, revision=revision, inputs=inputs, parents=parents))


def identity_inputs(*, kind: str, revision: int, inputs: dict[str, Any], parents: dict[str, str]) -> dict[str, Any]:
    """The object whose digest is the identity."""
    return {"kind": kind, "schema": SCHEMA, "revision": revision, "inputs": inputs, "parents": parents}


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitPlan:
    """How many rows a split has, and how they are cut into shards."""

    rows: int
    shard_rows: int

    def __post_init__(self) -> None:
        assert self.rows >= 0 and self.shard_rows > 0, self

    @staticmethod
    def from_json(value: Any, where: str) -> SplitPlan:
        """Read a plan as `asdict` wrote it; raises Refused."""
        plan = untrusted.members(value, ("rows", "shard_rows"), where)
        rows = untrusted.count(plan["rows"], f"{where}.rows")
        return SplitPlan(rows=rows, shard_rows=untrusted.count(plan["shard_rows"], f"{where}.shard_rows", least=1))

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

    @staticmethod
    def from_json(value: Any, where: str) -> FileEntry:
        """Read an entry as `asdict` wrote it; raises Refused."""
        entry = untrusted.members(value, ("bytes", "sha256"), where)
        return FileEntry(bytes=untrusted.count(entry["bytes"], where), sha256=untrusted.sha256(entry["sha256"], where))

    def require(self, path: Path, *, remedy: str) -> None:
        """Raise ShardCorrupt, naming the file, when the one at `path` is missing, a link, unreadable or another.

        A file of another size is not read.
        """
        try:
            found = path.lstat()
            if stat.S_ISLNK(found.st_mode):
                raise ShardCorrupt(f"{path}: a symbolic link; a store consists of plain files. {remedy}")
            if not stat.S_ISREG(found.st_mode):
                raise ShardCorrupt(f"{path}: no plain file. {remedy}")
            expected = f"expected {self.bytes} bytes, sha256 {self.sha256[:12]}"
            if found.st_size != self.bytes:
                raise ShardCorrupt(f"{path}: {expected}; got {found.st_size} bytes. {remedy}")
            sha256 = file_sha256(path)
        except (FileNotFoundError, NotADirectoryError):
            raise ShardCorrupt(f"{path}: missing. {remedy}") from None
        except OSError as error:
            raise ShardCorrupt(f"{path}: cannot be read: {error.strerror}. {remedy}") from error
        if sha256 != self.sha256:
            raise ShardCorrupt(f"{path}: {expected}; got {found.st_size} bytes, {sha256[:12]}. {remedy}")

    def require_in(self, store: Path, name: str, *, remedy: str) -> None:
        """The same for the file `name` of a store; no folder between the two may be a link either.

        The store's own folder may be one: that is its owner's choice, what lies inside came with the store.
        """
        folder = store
        for part in name.split("/")[:-1]:
            folder /= part
            if folder.is_symlink():
                raise ShardCorrupt(f"{folder}: a symbolic link; a store consists of plain files. {remedy}")
        self.require(store / name, remedy=remedy)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardEntry:
    """One sealed shard and its files, paths relative to the store."""

    split: str
    index: int
    rows: int
    files: dict[str, FileEntry]

    @staticmethod
    def from_json(value: dict[str, Any]) -> ShardEntry:
        """Read an entry as `asdict` wrote it, in a journal of our own: its paths may lead to sidecars."""
        files = {name: FileEntry(**entry) for name, entry in value["files"].items()}
        return ShardEntry(split=value["split"], index=value["index"], rows=value["rows"], files=files)


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What a reader needs: what the store is, what it was made from, how it is cut and the hash of every file."""

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

    def constant_files(self, name: str) -> dict[str, FileEntry]:
        """Files of an array that belongs to the store as a whole; none when there is no such constant."""
        prefix = f"{CONSTANTS}/{name}/"
        return {file: entry for file, entry in self.files.items() if file.startswith(prefix)}

    def to_json(self) -> str:
        """Deterministic text of the manifest, with a checksum over all the rest."""
        body = {"format": FORMAT, "schema": SCHEMA, **asdict(self)}
        body["checksum"] = digest(body)
        return json.dumps(body, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
