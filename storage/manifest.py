"""`manifest.json`: what a store is, what it was made from, and the checksum of every file in it.

Identity is content of the question, not of the answer: a SHA-256 over kind, schema, method revision, parameters, hashes
of weights and tokenizers, and the parents' identities. Two runs that ask the same thing have the same identity, on any
machine; the bytes are held by the checksums beside it.

A manifest may come from a stranger. Reading one costs at most a few times `MANIFEST_BYTES_LIMIT` of memory, whatever it
says; every value is checked for type and range, every path for leaving the folder, and what it claims to hold for being
possible in the files it lists. What a checksum cannot tell: whoever can write a manifest can compute its checksum.
It tells damage and careless edits from what was sealed; whom to trust it does not.
"""

from __future__ import annotations

import hashlib
import json
import stat
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from storage import claims, strict
from storage.arrays import ArraySpec
from storage.errors import SchemaMismatch, ShardCorrupt, StoreMissing
from storage.strict import Refused

FORMAT = "belief-store"
SCHEMA = 2
MANIFEST = "manifest.json"
CONSTANTS = "constants"
MANIFEST_BYTES_LIMIT = 32 * 1024 * 1024
"""A manifest holds about 1.7 kB a shard; more than this is no manifest of ours and is refused unread."""


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: the form that is hashed."""
    # Once through JSON first: there keys are strings, and numbers sort otherwise than their digits.
    return _canonical_of_parsed(json.loads(json.dumps(value, allow_nan=False)))


def _canonical_of_parsed(value: Any) -> str:
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
    return digest(_question(kind=kind, revision=revision, inputs=inputs, parents=parents))


def _question(*, kind: str, revision: int, inputs: dict[str, Any], parents: dict[str, str]) -> dict[str, Any]:
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
        plan = strict.members(value, ("rows", "shard_rows"), where)
        rows = strict.count(plan["rows"], f"{where}.rows")
        return SplitPlan(rows=rows, shard_rows=strict.count(plan["shard_rows"], f"{where}.shard_rows", least=1))

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
        entry = strict.members(value, ("bytes", "sha256"), where)
        return FileEntry(bytes=strict.count(entry["bytes"], where), sha256=strict.sha256(entry["sha256"], where))

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

    def constant_files(self, name: str) -> dict[str, FileEntry]:
        """Files of an array that belongs to the store as a whole; none when there is no such constant."""
        prefix = f"{CONSTANTS}/{name}/"
        return {file: entry for file, entry in self.files.items() if file.startswith(prefix)}

    def to_json(self) -> str:
        """Deterministic text of the manifest, with a checksum over all the rest."""
        body = {"format": FORMAT, "schema": SCHEMA, **asdict(self)}
        body["checksum"] = digest(body)
        return json.dumps(body, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_manifest(manifest: Manifest, store: Path) -> None:
    """Put the manifest into the folder of a store, whole or not at all, as the last file of it.

    Raises SchemaMismatch for one that `read_manifest` would refuse.
    """
    text = manifest.to_json()
    parse_manifest(text.encode())
    partial = store / f"{MANIFEST}.new"
    partial.write_text(text, encoding="utf-8")
    partial.replace(store / MANIFEST)


def parse_manifest(data: bytes) -> Manifest:
    """The manifest in the bytes of a `manifest.json`, wherever they come from.

    Raises SchemaMismatch, in one line, when it is not one that this version understands or that could be true.
    """
    if len(data) > MANIFEST_BYTES_LIMIT:
        raise SchemaMismatch(f"{len(data)} bytes; a manifest has at most {MANIFEST_BYTES_LIMIT}")
    try:
        return _decode(strict.parse(data))
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
    body = strict.mapping(value, "manifest")
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
    strict.members(body, ["format", "schema", *(entry.name for entry in fields(Manifest))], "manifest")
    manifest = Manifest(
        kind=strict.name(body["kind"], "kind"),
        revision=strict.count(body["revision"], "revision"),
        identity=strict.sha256(body["identity"], "identity"),
        inputs=strict.mapping(body["inputs"], "inputs"),
        parents=_parents(body["parents"]),
        facts=strict.mapping(body["facts"], "facts"),
        splits={
            strict.name(name, "splits"): SplitPlan.from_json(plan, f"splits.{name}")
            for name, plan in strict.mapping(body["splits"], "splits").items()
        },
        arrays=claims.array_specs(body["arrays"]),
        shards=tuple(_shard(shard) for shard in strict.sequence(body["shards"], "shards")),
        files=_files(body["files"], "files"),
    )
    expected = _digest_of_parsed(
        _question(kind=manifest.kind, revision=manifest.revision, inputs=manifest.inputs, parents=manifest.parents)
    )
    if manifest.identity != expected:
        raise SchemaMismatch(f"identity {manifest.identity[:12]} is not the hash of its inputs ({expected[:12]})")
    claims.require(manifest, own_file=MANIFEST)
    return manifest


def _plain(value: Any) -> str:
    """A value for a message, without quotes where it is a plain string."""
    return strict.shown(value).strip("'")


def _digest_of_parsed(body: dict[str, Any]) -> str:
    """What `digest` gives, for a value that JSON has just given: a third of the time."""
    try:
        return hashlib.sha256(_canonical_of_parsed(body).encode()).hexdigest()
    except (ValueError, RecursionError) as error:
        raise Refused(f"cannot be hashed: {strict.shown(str(error))}") from error


def _parents(value: Any) -> dict[str, str]:
    found = strict.mapping(value, "parents")
    return {
        strict.path(name, "parents"): strict.sha256(identity, f"parents.{name}") for name, identity in found.items()
    }


def _shard(value: Any) -> ShardEntry:
    shard = strict.members(value, ("split", "index", "rows", "files"), "shards")
    return ShardEntry(
        split=strict.name(shard["split"], "shards.split"),
        index=strict.count(shard["index"], "shards.index"),
        rows=strict.count(shard["rows"], "shards.rows"),
        files=_files(shard["files"], "shards.files"),
    )


def _files(value: Any, where: str) -> dict[str, FileEntry]:
    found = strict.mapping(value, where)
    return {strict.path(name, where): FileEntry.from_json(entry, name) for name, entry in found.items()}
