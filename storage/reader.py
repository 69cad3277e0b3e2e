"""Open a sealed store and read whole shards of it.

A shard's files are checked against the manifest the first time they are touched: a missing Zarr shard would read as
fill values, silently. Rows are never gathered at random from compressed shards (80-210 ms for 512 rows); callers load
shards and shuffle in memory.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from storage import arrays
from storage.errors import SchemaMismatch, ShardCorrupt, StaleParent, StoreMissing, WrongKind
from storage.manifest import FileEntry, Manifest, SplitPlan
from storage.records import Record

R = TypeVar("R", bound=Record)


class Sealed(Protocol):
    """A store of any kind, as a parent."""

    path: Path

    @property
    def identity(self) -> str:
        """SHA-256 of what the store was made from."""


class Store(Generic[R]):
    """A sealed store of records `R`.

    Raises StoreMissing, WrongKind or SchemaMismatch on opening; the message names the command that makes the store.
    """

    def __init__(self, path: Path, record: type[R]) -> None:
        self.path = path
        self.record = record
        self.remedy = f"Run: dvc repro {record.stage.format(name=path.name)}"
        try:
            self.manifest = Manifest.read(path)
        except (StoreMissing, SchemaMismatch) as error:
            raise type(error)(f"{error}. {self.remedy}") from error
        if self.manifest.kind != record.kind:
            raise WrongKind(f"{path}: expected a store of {record.kind}, got {self.manifest.kind}. {self.remedy}")
        if self.manifest.revision != record.revision:
            raise SchemaMismatch(
                f"{path}: expected method revision {record.revision}, got {self.manifest.revision}. {self.remedy}"
            )
        expected_arrays, found_arrays = {field.name for field in fields(record)}, set(self.manifest.arrays)
        if found_arrays != expected_arrays:
            raise SchemaMismatch(
                f"{path}: expected arrays {sorted(expected_arrays)}, got {sorted(found_arrays)}. {self.remedy}"
            )
        self._shards = {(shard.split, shard.index): shard for shard in self.manifest.shards}
        self._checked: set[str] = set()

    @property
    def identity(self) -> str:
        """SHA-256 of what the store was made from."""
        return self.manifest.identity

    @property
    def facts(self) -> dict[str, Any]:
        """What the data turned out to be."""
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
        """Rows and shards of a split."""
        return self.manifest.splits[split]

    def shard(self, split: str, index: int) -> R:
        """One whole shard, checked.

        Raises ShardCorrupt when a file is missing or not what was sealed, RecordInvalid when values break the record.
        """
        self._check_metadata(split)
        self._check_shard(split, index)
        return self._rows(split, *self.plan(split).bounds(index))

    def read(self, split: str) -> R:
        """All rows of a split."""
        self._check_metadata(split)
        for index in range(self.plan(split).shards):
            self._check_shard(split, index)
        return self._rows(split, 0, self.plan(split).rows)

    def constant(self, name: str) -> NDArray[Any]:
        """An array that belongs to the store as a whole, such as a tail prior."""
        prefix = f"constants/{name}/"
        found = {file: entry for file, entry in self.manifest.files.items() if file.startswith(prefix)}
        if not found:
            raise SchemaMismatch(f"{self.path}: has no constant {name}. {self.remedy}")
        self._check_files(found)
        path = self.path / "constants" / name
        return arrays.read_whole(path)

    def bytes_on_disk(self, split: str) -> int:
        """Bytes of all shard files of a split."""
        return sum(
            file.bytes for shard in self.manifest.shards if shard.split == split for file in shard.files.values()
        )

    def _rows(self, split: str, start: int, stop: int) -> R:
        columns: dict[str, NDArray[Any]] = {}
        for name, spec in self.manifest.arrays.items():
            path = self.path / split / name
            values = arrays.read_rows(path, start=start, stop=stop)
            if values.dtype != np.dtype(spec.dtype) or values.shape != (stop - start, *spec.row_shape):
                raise SchemaMismatch(
                    f"{path}: expected {spec.dtype} {spec.row_shape}, got {values.dtype} {values.shape[1:]}. "
                    f"{self.remedy}"
                )
            columns[name] = values
        return self.record.from_arrays(columns)

    def _check_shard(self, split: str, index: int) -> None:
        start, stop = self.plan(split).bounds(index)
        entry = self._shards.get((split, index))
        if entry is None or entry.rows != stop - start:
            raise ShardCorrupt(f"{self.path}: shard {split}/{index} is not in the manifest. {self.remedy}")
        self._check_files(entry.files)

    def _check_metadata(self, split: str) -> None:
        names = {f"{split}/{name}/zarr.json" for name in self.manifest.arrays}
        if not names <= self.manifest.files.keys():
            raise SchemaMismatch(f"{self.path}: the manifest does not list the arrays of {split}. {self.remedy}")
        self._check_files({name: self.manifest.files[name] for name in names})

    def _check_files(self, files: dict[str, FileEntry]) -> None:
        for name, expected in files.items():
            if name in self._checked:
                continue
            expected.require(self.path / name, remedy=self.remedy)
            self._checked.add(name)
