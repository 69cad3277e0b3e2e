"""Read all of a store and list its faults.

Reading for training checks the files that it reads and stops at the first fault. An audit reads every file and every
row and continues after a fault, so it also shows which parts are sound. It hashes and decodes all files, which costs
about as much as reading the store twice, with one shard in memory at a time. Nothing is changed or repaired.

It finds damage, omissions and inconsistencies. It cannot find a consistent forgery: values, hashes and checksum that
were all rewritten are another valid store, and only its owner can say which one to trust.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from storage.documents import DocumentStore
from storage.errors import DistillError, RecordInvalid, SchemaMismatch
from storage.format import untrusted
from storage.format.manifest import CONSTANTS, MANIFEST, Manifest
from storage.format.manifest_parse import read_manifest
from storage.format.zarr_headers import Gate
from storage.reader import Store
from storage.records.base import Record
from storage.records.invariants import constant_faults, first_and_last, record_faults
from storage.records.layout import RECORDS
from storage.records.logits import SparseLogits
from storage.records.targets import FusedTargets
from storage.tables import COLUMNS, DOCUMENTS, columns_of, read_table

P = ParamSpec("P")
T = TypeVar("T")

REMEDY = "Fetch the store again, or make it again"
MISSING_SHOWN = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that is wrong with a store."""

    kind: str
    """"manifest", "file" (missing, changed, unreadable), "link", "stray" (not listed), "plan" (shards missing or of the
    wrong size), "metadata" (zarr.json), "shard" (not decodable), "record" (values), "constant" or "fact"."""
    where: str
    """File or folder relative to the store, split, or split/shard."""
    message: str
    """One line."""

    def __str__(self) -> str:
        return f"{self.kind} {self.where}: {self.message}"


def audit(path: Path) -> list[Finding]:
    """Everything that is wrong with the store at `path`, of any kind; [] when it is sound.

    Raises StoreMissing when there is no readable manifest, and no other exception.
    """
    try:
        manifest = read_manifest(path)
    except SchemaMismatch as error:
        return [Finding(kind="manifest", where=MANIFEST, message=f"{_line(error)}. {REMEDY}")]
    audit = _Audit(path, manifest)
    audit.tree()
    audit.plan()
    audit.files()
    if manifest.kind == DOCUMENTS:
        audit.documents()
    elif manifest.kind in RECORDS:
        audit.arrays(RECORDS[manifest.kind])
    elif COLUMNS in manifest.facts:
        audit.tables()
    else:
        audit.add("manifest", MANIFEST, f"unknown kind {manifest.kind}. A newer version may read it")
    return audit.findings


def _line(error: Exception) -> str:
    text = str(error) if isinstance(error, DistillError) else f"{type(error).__name__}: {untrusted.shown(str(error))}"
    return " ".join(text.split())


class _Audit:
    """A store under audit, and the findings; parts that depend on an unsound one are not read."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self.findings: list[Finding] = []
        self.listed = manifest.files | {name: file for shard in manifest.shards for name, file in shard.files.items()}

    def add(self, kind: str, where: str, message: str) -> None:
        """Note a finding."""
        self.findings.append(Finding(kind=kind, where=where, message=message))

    def attempt(self, kind: str, where: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> list[T]:
        """What `function` returns, alone in a list; [] and a finding when it fails in any way.

        Untrusted bytes may make a decoder fail in any way, so every exception counts.
        """
        try:
            return [function(*args, **kwargs)]
        except Exception as error:
            self.add(kind, where, f"{_line(error)}{'' if isinstance(error, DistillError) else f'. {REMEDY}'}")
            return []

    def sound(self, places: Iterable[str]) -> bool:
        """Whether nothing was found at any of `places`."""
        return {finding.where for finding in self.findings}.isdisjoint(places)

    def tree(self) -> None:
        """Find links, special files, and files that the manifest does not list."""
        left = [self.path]
        while left:
            folder = left.pop()
            for entries in self.attempt("file", folder.relative_to(self.path).as_posix(), os.scandir, folder):
                for entry in sorted(entries, key=lambda found: found.name):
                    where = Path(entry.path).relative_to(self.path).as_posix()
                    if entry.is_symlink():
                        self.add("link", where, f"a symbolic link; a store consists of plain files. {REMEDY}")
                    elif entry.is_dir(follow_symlinks=False):
                        left.append(Path(entry.path))
                    elif where not in self.listed and where != MANIFEST:
                        self.add("stray", where, "not listed in the manifest. Remove it")

    def plan(self) -> None:
        """Shards that the plan has and the manifest does not list, and shards of another size than planned."""
        rows = {(shard.split, shard.index): shard.rows for shard in self.manifest.shards}
        for split, plan in self.manifest.splits.items():
            listed = {index for name, index in rows if name == split and index < plan.shards}
            if missing := plan.shards - len(listed):
                # Not a set of all planned indices: a forged plan may have any number of them.
                upto = range(min(plan.shards, len(listed) + MISSING_SHOWN))
                first = [str(index) for index in upto if index not in listed][:MISSING_SHOWN]
                what = f"{missing} of {plan.shards} shards are not listed, first {', '.join(first)}"
                self.add("plan", split, f"{what}. {REMEDY}")
            for index in sorted(listed):
                start, stop = plan.bounds(index)
                if rows[split, index] != stop - start:
                    self.add(
                        "plan", f"{split}/{index}", f"expected {stop - start} rows, got {rows[split, index]}. {REMEDY}"
                    )

    def files(self) -> None:
        """Size and checksum of every file in the manifest."""
        links = {finding.where for finding in self.findings if finding.kind == "link"}
        for name, entry in self.listed.items():
            if name not in links:
                self.attempt("file", name, entry.require_in, self.path, name, remedy=REMEDY)

    def documents(self) -> None:
        """Read every split's table: columns, rows, valid text, ids that are there and unique."""
        for opened in self.attempt("manifest", MANIFEST, DocumentStore, self.path):
            for split, plan in self.manifest.splits.items():
                ids: list[NDArray[np.uint64]] = []
                for shard in self.manifest.shards:
                    where = split if plan.shards <= 1 else f"{split}/{shard.index}"
                    if shard.split == split and self.sound([split, *shard.files]):
                        for table in self.attempt("shard", where, opened.shard, split, shard.index):
                            self.attempt("record", where, _require_documents, table)
                            ids.append(_hashes(table.column("doc_id").to_pylist()))
                if len(ids) > 1 and len(np.unique(np.concatenate(ids))) < sum(map(len, ids)):
                    self.add("record", split, f"documents of several shards that share an id. {REMEDY}")

    def tables(self) -> None:
        """Read every table: the columns that the facts name, the rows that the plan has, no nulls."""
        columns = self.manifest.facts[COLUMNS]
        if self.manifest.arrays or not isinstance(columns, dict) or columns.keys() != self.manifest.splits.keys():
            self.add("fact", COLUMNS, f"expected the columns of every table, got {untrusted.shown(columns)}. {REMEDY}")
            return
        for shard in self.manifest.shards:
            if self.sound([shard.split, *shard.files]):
                for table in self.attempt("shard", shard.split, read_table, self.path, shard, remedy=REMEDY):
                    self.attempt("record", shard.split, _require_table, table, columns[shard.split], rows=shard.rows)

    def arrays(self, record: type[Record]) -> None:
        """Decode and check every constant and every shard of a store of arrays."""
        for store in self.attempt("manifest", MANIFEST, Store, self.path, record):
            vocabulary = self.manifest.facts.get("vocabulary")
            if type(vocabulary) is not int or not 0 < vocabulary < 2**32:
                self.add("fact", "vocabulary", f"expected the number of ids, got {untrusted.shown(vocabulary)}")
                vocabulary = 2**32
            gate = Gate(self.path, self.manifest, remedy=REMEDY)
            self._constants(store, gate, vocabulary)
            if not self.sound(f"{CONSTANTS}/{name}" for name in record.needs):
                continue
            for split in self.manifest.splits:
                if self._metadata(gate, split):
                    self._shards(store, gate, split, vocabulary)

    def _constants(self, store: Store[Any], gate: Gate, vocabulary: int) -> None:
        """Constants of any name; findings stand at `constants/<name>`."""
        parts = [file.split("/") for file in self.manifest.files]
        names = {part[1] for part in parts if part[0] == CONSTANTS and len(part) > 2} | set(store.record.needs)
        for name in sorted(names):
            where, files = f"{CONSTANTS}/{name}", self.manifest.constant_files(name)
            if not files or not self.sound(files):
                self.add("constant", where, f"{'not read: a file is unsound' if files else 'missing'}. {REMEDY}")
            elif self.attempt("metadata", where, gate.constant, name):
                for values in self.attempt("constant", where, store.constant, name):
                    for faults in self.attempt("constant", where, constant_faults, name, values, vocabulary=vocabulary):
                        for fault in faults:
                            self.add("constant", where, fault)

    def _metadata(self, gate: Gate, split: str) -> bool:
        """Compare each `zarr.json` of a split with the manifest; whether all agree."""
        agree = True
        for name in self.manifest.arrays:
            where, file = f"{split}/{name}", f"{split}/{name}/zarr.json"
            if file not in self.manifest.files or not self.sound([file]):
                what = "not read: unsound" if file in self.manifest.files else "not listed in the manifest"
                self.add("metadata", where, f"zarr.json: {what}. {REMEDY}")
                agree = False
            elif not self.attempt("metadata", where, gate.array, split, name):
                agree = False
        return agree

    def _shards(self, store: Store[Any], gate: Gate, split: str, vocabulary: int) -> None:
        """Decode and check every shard of a split whose files are sound."""
        last: tuple[int, tuple[int, ...]] | None = None
        seen: dict[frozenset[str], int] = {}
        for entry in sorted((e for e in self.manifest.shards if e.split == split), key=lambda e: e.index):
            where = f"{split}/{entry.index}"
            if entry.index >= self.manifest.splits[split].shards or not self.sound([where, *entry.files]):
                continue
            if not self.attempt("shard", where, gate.shard, split, entry.index, self.manifest.arrays):
                continue
            for record in self.attempt("record", where, store.shard, split, entry.index):
                for faults in self.attempt("record", where, record_faults, record, vocabulary=vocabulary):
                    for fault in faults:
                        self.add("record", where, fault)
                keys = first_and_last(record)
                if last is not None and keys is not None and keys[0] <= last[1]:
                    self.add("record", where, f"begins before {split}/{last[0]} ends: out of order, or twice")
                last = (entry.index, keys[1]) if keys is not None else last
                content = frozenset(f"{name.split('/')[1]} {file.sha256}" for name, file in entry.files.items())
                answered = not isinstance(record, SparseLogits | FusedTargets) or bool(record.covered_P().any())
                if answered and seen.setdefault(content, entry.index) != entry.index:
                    self.add("record", where, f"holds the same bytes as {split}/{seen[content]}")


def _require_table(table: Any, columns: Any, *, rows: int) -> None:
    """Refuse a table whose columns or rows are not those that its store names."""
    if columns_of(table.schema) != columns or len(table.schema) != len(columns) or len(table) != rows:
        raise RecordInvalid(
            f"expected {rows} rows of the columns that facts.columns names, got {len(table)} rows of "
            f"{len(table.schema)} columns. {REMEDY}"
        )
    if empty := [name for name in table.column_names if table.column(name).null_count]:
        raise RecordInvalid(f"nulls in {', '.join(empty)}. {REMEDY}")


def _hashes(names: list[str | None]) -> NDArray[np.uint64]:
    """64 bits of each name: those of a split of any size fit into memory."""
    found = b"".join(hashlib.blake2b((name or "").encode(), digest_size=8).digest() for name in names)
    return np.frombuffer(found, np.uint64)


def _require_documents(table: Any) -> None:
    """Refuse a table of documents with nulls or with an id twice, which reading it does not check."""
    if any(column.null_count for column in table.columns):
        raise RecordInvalid(f"documents without text, source or id. {REMEDY}")
    if len(table.column("doc_id").unique()) != len(table):
        raise RecordInvalid(f"documents that share an id. {REMEDY}")
