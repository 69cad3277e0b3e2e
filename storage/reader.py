"""Open a sealed store and read whole shards of it.

A shard's files are checked against the manifest the first time they are touched: a missing Zarr shard would read as
fill values, silently. Rows are never gathered at random from compressed shards, which is slow; callers load whole
shards and shuffle in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from storage.errors import RecordInvalid, SchemaMismatch, ShardCorrupt, StaleParent, StoreMissing, WrongKind
from storage.format import arrays
from storage.format.arrays import sentinel
from storage.format.manifest import CONSTANTS, FileEntry, SplitPlan
from storage.format.manifest_parse import read_manifest
from storage.format.zarr_headers import Gate
from storage.records.base import Record
from storage.records.layout import layout_faults

R = TypeVar("R", bound=Record)


class Sealed(Protocol):
    """A store of any kind, as a parent."""

    path: Path

    @property
    def identity(self) -> str:
        """SHA-256 of what the store was made from."""


class Store(Generic[R]):
    """A sealed store of records `R`.

    remedy is what a refusal tells the user to do; by default, to run the command that makes the store. Raises
    StoreMissing, WrongKind or SchemaMismatch on opening.
    """

    def __init__(self, path: Path, record: type[R], *, remedy: str = "") -> None:
        self.path = path
        self.record = record
        self.remedy = remedy or f"Run: dvc repro {record.stage.format(name=path.name)}"
        try:
            self.manifest = read_manifest(path)
        except (StoreMissing, SchemaMismatch) as error:
            raise type(error)(f"{error}. {self.remedy}") from error
        if self.manifest.kind != record.kind:
            raise WrongKind(f"{path}: expected a store of {record.kind}, got {self.manifest.kind}. {self.remedy}")
        if self.manifest.revision != record.revision:
            raise SchemaMismatch(
                f"{path}: expected method revision {record.revision}, got {self.manifest.revision}. {self.remedy}"
            )
        self._require_arrays()
        self._shards = {(shard.split, shard.index): shard for shard in self.manifest.shards}
        self._checked: set[str] = set()
        self._gate = Gate(path, self.manifest, remedy=self.remedy)
        self._needed: dict[str, NDArray[Any]] | None = None
        self._opened: dict[Path, Any] = {}

    @property
    def identity(self) -> str:
        """SHA-256 of what the store was made from."""
        return self.manifest.identity

    @property
    def facts(self) -> dict[str, Any]:
        """Numbers and names that follow from the data."""
        return self.manifest.facts

    def require_parent(self, name: str, parent: Sealed) -> None:
        """Refuse when this store was made from another `name` than `parent`."""
        made_from = self.manifest.parents.get(name, "none")
        if made_from != parent.identity:
            raise StaleParent(
                f"{self.path}: made from {name} {made_from[:12]}, but {parent.path} is {parent.identity[:12]}. "
                f"{self.remedy}"
            )

    def plan(self, split: str) -> SplitPlan:
        """Rows and shards of a split; raises SchemaMismatch when the store has none of that name."""
        if split not in self.manifest.splits:
            raise SchemaMismatch(f"{self.path}: has no split {split}. {self.remedy}")
        return self.manifest.splits[split]

    def shard(self, split: str, index: int) -> R:
        """One whole shard, checked.

        Raises ShardCorrupt when a file is missing or changed since sealing, RecordInvalid when values break the record.
        """
        self._check_metadata(split)
        self._check_shard(split, index)
        return self._rows(split, range(index, index + 1))

    def read(self, split: str) -> R:
        """All rows of a split."""
        self._check_metadata(split)
        shards = range(self.plan(split).shards)
        for index in shards:
            self._check_shard(split, index)
        return self._rows(split, shards)

    def constant(self, name: str) -> NDArray[Any]:
        """An array that belongs to the store as a whole, such as a tail prior."""
        found = self.manifest.constant_files(name)
        if not found:
            raise SchemaMismatch(f"{self.path}: has no constant {name}. {self.remedy}")
        self._check_files(found)
        self._gate.constant(name)
        path = self.path / CONSTANTS / name
        return self._decoded(path, lambda: arrays.read_whole(path))

    def bytes_on_disk(self, split: str) -> int:
        """Bytes of all shard files of a split."""
        return sum(
            file.bytes for shard in self.manifest.shards if shard.split == split for file in shard.files.values()
        )

    def _rows(self, split: str, shards: range) -> R:
        """The record of neighbouring shards, checked."""
        plan, specs = self.plan(split), self.manifest.arrays
        start = min(shards.start * plan.shard_rows, plan.rows)
        stop = min(shards.stop * plan.shard_rows, plan.rows)
        if self._needed is None:
            self._needed = {name: self.constant(name) for name in self.record.needs}
        columns: dict[str, NDArray[Any]] = {}
        for name, spec in specs.items():
            if not spec.counted_by:
                columns[name] = self._entries(split, name, start, stop)
        for name, spec in specs.items():
            if spec.counted_by:
                columns[name] = self._ragged(split, name, shards, columns[spec.counted_by])
        try:
            return self.record.decode(columns, specs, self._needed)
        except RecordInvalid as error:
            where = f"{self.path}: {split}, shards {shards.start} to {shards.stop - 1}"
            raise RecordInvalid(f"{where}: {error}. {self.remedy}") from error

    def _entries(self, split: str, name: str, start: int, stop: int) -> NDArray[Any]:
        path, spec = self.path / split / name, self.manifest.arrays[name]
        values = self._decoded(path, lambda: arrays.read_entries(self._array(path), start=start, stop=stop))
        if values.dtype != np.dtype(spec.dtype) or values.shape != (stop - start, *spec.row_shape):
            raise SchemaMismatch(
                f"{path}: expected {spec.dtype} {spec.row_shape}, got {values.dtype} {values.shape[1:]}. {self.remedy}"
            )
        return values

    def _array(self, path: Path) -> Any:
        if path not in self._opened:
            self._opened[path] = arrays.open_entries(path)
        return self._opened[path]

    def _decoded(self, path: Path, read: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """The result of `read`. Any exception is ShardCorrupt: a decoder may fail on untrusted bytes in any way."""
        try:
            return read()
        except MemoryError:
            raise
        except Exception as error:
            raise ShardCorrupt(f"{path}: a chunk cannot be decoded ({type(error).__name__}). {self.remedy}") from error

    def _ragged(self, split: str, name: str, shards: range, count_P: NDArray[Any]) -> NDArray[Any]:
        """Entries of a ragged array, whose shards are filled from the front."""
        plan, spec = self.plan(split), self.manifest.arrays[name]
        if bool((count_P > spec.most).any()):
            raise RecordInvalid(
                f"{self.path}: {split}/{spec.counted_by}: a row of {int(count_P.max())} entries, at most {spec.most} "
                f"are allowed, or a hole. {self.remedy}"
            )
        parts = []
        for place, index in enumerate(shards):
            size = int(count_P[place * plan.shard_rows : (place + 1) * plan.shard_rows].sum(dtype=np.int64))
            start = index * spec.shard_entries(plan.shard_rows)
            # One more than counted, which must be fill: with a count too small, later rows would be shifted.
            entries = self._entries(split, name, start, start + min(size + 1, spec.shard_entries(plan.shard_rows)))
            if bool((entries[size:] != sentinel(spec.dtype)).any()):
                raise RecordInvalid(
                    f"{self.path}: {split}/{name}: shard {index} has more entries than the {size} that "
                    f"{spec.counted_by} counts. {self.remedy}"
                )
            parts.append(entries[:size])
        return np.concatenate(parts) if parts else np.zeros(0, spec.dtype)

    def _require_arrays(self) -> None:
        """Refuse arrays that the record lacks, incomplete groups of arrays, and arrays of another layout."""
        found, groups = set(self.manifest.arrays), self.record.groups()
        whole = all(not group & found or group <= found for group in groups)
        if not whole or not groups[0] <= found or not found <= frozenset().union(*groups):
            expected = " and maybe ".join(str(sorted(group)) for group in groups)
            raise SchemaMismatch(f"{self.path}: expected arrays {expected}, got {sorted(found)}. {self.remedy}")
        if faults := layout_faults(self.record, self.manifest.arrays):
            raise SchemaMismatch(f"{self.path}: {faults[0]}. {self.remedy}")

    def _check_shard(self, split: str, index: int) -> None:
        start, stop = self.plan(split).bounds(index)
        entry = self._shards.get((split, index))
        if entry is None or entry.rows != stop - start:
            raise ShardCorrupt(f"{self.path}: shard {split}/{index} is not in the manifest. {self.remedy}")
        if not entry.files.keys() <= self._checked:
            self._check_files(entry.files)
            self._gate.shard(split, index)

    def _check_metadata(self, split: str) -> None:
        self.plan(split)
        names = {f"{split}/{name}/zarr.json" for name in self.manifest.arrays}
        if not names <= self.manifest.files.keys():
            raise SchemaMismatch(f"{self.path}: the manifest does not list the arrays of {split}. {self.remedy}")
        self._check_files({name: self.manifest.files[name] for name in names})
        for name in self.manifest.arrays:
            self._gate.array(split, name)

    def _check_files(self, files: dict[str, FileEntry]) -> None:
        for name, expected in files.items():
            if name in self._checked:
                continue
            expected.require_in(self.path, name, remedy=self.remedy)
            self._checked.add(name)
