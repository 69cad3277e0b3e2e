"""Open a sealed store and read whole shards of it.

A shard's files are checked against the manifest the first time they are touched: a missing Zarr shard would read as
fill values, silently. Rows are never gathered at random from compressed shards, which is slow; callers load whole
shards, or runs of neighbouring rows, and shuffle in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from storage.errors import RecordInvalid, SchemaMismatch, ShardCorrupt, StaleParent, StoreMissing, WrongKind
from storage.format import arrays
from storage.format.arrays import ArraySpec, sentinel
from storage.format.manifest import CONSTANTS, FileEntry, SplitPlan
from storage.format.manifest_parse import read_manifest, shard_names
from storage.format.zarr_headers import Gate
from storage.origins import mirrored
from storage.records.base import Record
from storage.records.layout import layout_faults

R = TypeVar("R", bound=Record)

GAP_ROWS = 256
"""Rows between two that are wanted which are read with them rather than left out: opening a chunk costs more."""


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
        self._mirror = mirrored(path)
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
        with self._reading():
            self._check_metadata(split)
            self._check_shard(split, index, self.manifest.arrays)
            return self._rows(split, *self.plan(split).bounds(index))

    def read(self, split: str) -> R:
        """All rows of a split."""
        return self.rows(split, 0, self.plan(split).rows)

    def rows(self, split: str, start: int, stop: int) -> R:
        """Rows [start, stop) of a split, checked; only chunks that hold some of them are decoded.

        Raises as `shard` does.
        """
        with self._reading():
            self._check_metadata(split)
            for index in self._shards_of(split, start, stop):
                self._check_shard(split, index, self.manifest.arrays)
            return self._rows(split, start, stop)

    def columns_at(self, split: str, row_N: NDArray[np.int64], names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Arrays `names`, none of them ragged, at rows that rise; of a shard only their files are read.

        Rows between two that are less than `GAP_ROWS` apart are read and dropped. Raises ShardCorrupt as `shard` does;
        values are not checked against the record's rules, which need the other arrays.
        """
        self._check_metadata(split)
        specs = {name: self.manifest.arrays[name] for name in names}
        columns = {name: np.zeros((len(row_N), *spec.row_shape), spec.dtype) for name, spec in specs.items()}
        borders = np.flatnonzero(np.diff(row_N) > GAP_ROWS) + 1
        for place in np.split(np.arange(len(row_N)), borders):
            if len(place):
                start, stop = int(row_N[place[0]]), int(row_N[place[-1]]) + 1
                with self._reading():
                    for index in self._shards_of(split, start, stop):
                        self._check_shard(split, index, specs)
                    for name in names:
                        columns[name][place] = self._entries(split, name, start, stop)[row_N[place] - start]
        return columns

    def constant(self, name: str) -> NDArray[Any]:
        """An array that belongs to the store as a whole, such as a tail prior."""
        found = self.manifest.constant_files(name)
        if not found:
            raise SchemaMismatch(f"{self.path}: has no constant {name}. {self.remedy}")
        self._check_files(found)
        self._gate.constant(name)
        path = self.path / CONSTANTS / name
        return self._decoded(path, lambda: arrays.read_whole(path))

    def _reading(self) -> AbstractContextManager[None]:
        """Files that are checked within stay until its end, also where a cache removes old ones."""
        return nullcontext() if self._mirror is None else self._mirror.reading()

    def bytes_on_disk(self, split: str) -> int:
        """Bytes of all shard files of a split."""
        return sum(
            file.bytes for shard in self.manifest.shards if shard.split == split for file in shard.files.values()
        )

    def _shards_of(self, split: str, start: int, stop: int) -> range:
        """The shards that rows [start, stop) lie in."""
        shard_rows = self.plan(split).shard_rows
        return range(start // shard_rows, -(-stop // shard_rows))

    def _rows(self, split: str, start: int, stop: int) -> R:
        """The record of neighbouring rows, checked."""
        specs = self.manifest.arrays
        if self._needed is None:
            self._needed = {name: self.constant(name) for name in self.record.needs}
        columns: dict[str, NDArray[Any]] = {}
        for name, spec in specs.items():
            if not spec.counted_by:
                columns[name] = self._entries(split, name, start, stop)
        for name, spec in specs.items():
            if spec.counted_by:
                columns[name] = self._ragged(split, name, start, stop, columns[spec.counted_by])
        try:
            return self.record.decode(columns, specs, self._needed)
        except RecordInvalid as error:
            shards = self._shards_of(split, start, stop)
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

    def _ragged(self, split: str, name: str, start: int, stop: int, count_P: NDArray[Any]) -> NDArray[Any]:
        """Entries of a ragged array, whose shards are filled from the front, at rows [start, stop) of these counts."""
        plan, spec = self.plan(split), self.manifest.arrays[name]
        parts = [np.zeros(0, spec.dtype)]
        for index in self._shards_of(split, start, stop):
            begin, end = plan.bounds(index)
            first, last = max(begin, start), min(end, stop)
            before = self._counted(split, spec, self._entries(split, spec.counted_by, begin, first))
            size = self._counted(split, spec, count_P[first - start : last - start])
            shard_entries = spec.shard_entries(plan.shard_rows)
            # To the shard's end one more than counted, which must be fill: with a count too small, later rows would be
            # shifted.
            stretch = min(before + size + 1, shard_entries) if last == end else before + size
            entries = self._entries(split, name, index * shard_entries + before, index * shard_entries + stretch)
            if bool((entries[size:] != sentinel(spec.dtype)).any()):
                raise RecordInvalid(
                    f"{self.path}: {split}/{name}: shard {index} has more entries than the {before + size} that "
                    f"{spec.counted_by} counts. {self.remedy}"
                )
            parts.append(entries[:size])
        return np.concatenate(parts)

    def _counted(self, split: str, spec: ArraySpec, count_P: NDArray[Any]) -> int:
        """Entries of rows of a ragged array; refuses a count above the most that a row may have."""
        if bool((count_P > spec.most).any()):
            raise RecordInvalid(
                f"{self.path}: {split}/{spec.counted_by}: a row of {int(count_P.max())} entries, at most {spec.most} "
                f"are allowed, or a hole. {self.remedy}"
            )
        return int(count_P.sum(dtype=np.int64))

    def _require_arrays(self) -> None:
        """Refuse arrays that the record lacks, incomplete groups of arrays, and arrays of another layout."""
        found, groups = set(self.manifest.arrays), self.record.groups()
        whole = all(not group & found or group <= found for group in groups)
        if not whole or not groups[0] <= found or not found <= frozenset().union(*groups):
            expected = " and maybe ".join(str(sorted(group)) for group in groups)
            raise SchemaMismatch(f"{self.path}: expected arrays {expected}, got {sorted(found)}. {self.remedy}")
        if faults := layout_faults(self.record, self.manifest.arrays):
            raise SchemaMismatch(f"{self.path}: {faults[0]}. {self.remedy}")

    def _check_shard(self, split: str, index: int, specs: Mapping[str, ArraySpec]) -> None:
        """Check a shard's files of the arrays `specs`."""
        start, stop = self.plan(split).bounds(index)
        entry = self._shards.get((split, index))
        if entry is None or entry.rows != stop - start:
            raise ShardCorrupt(f"{self.path}: shard {split}/{index} is not in the manifest. {self.remedy}")
        names = entry.files.keys() if specs.keys() == self.manifest.arrays.keys() else shard_names(split, index, specs)
        if self._mirror is not None or not self._checked.issuperset(names):
            self._check_files({name: entry.files[name] for name in names})
            self._gate.shard(split, index, specs)

    def _check_metadata(self, split: str) -> None:
        self.plan(split)
        names = {f"{split}/{name}/zarr.json" for name in self.manifest.arrays}
        if not names <= self.manifest.files.keys():
            raise SchemaMismatch(f"{self.path}: the manifest does not list the arrays of {split}. {self.remedy}")
        self._check_files({name: self.manifest.files[name] for name in names})
        for name in self.manifest.arrays:
            self._gate.array(split, name)

    def _check_files(self, files: dict[str, FileEntry]) -> None:
        if self._mirror is not None:
            self._mirror.bring(files)
            return
        for name, expected in files.items():
            if name in self._checked:
                continue
            expected.require_in(self.path, name, remedy=self.remedy)
            self._checked.add(name)
