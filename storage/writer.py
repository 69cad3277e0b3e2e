"""Write a store shard by shard, resumably, and seal it once.

A shard is written whole by one writer: all its arrays, then a journal line with every file's checksum. On a later run
of the same identity the line counts only if the files still match. `seal()` is an explicit last call and not part of
`__exit__`: an exception must never publish an incomplete store.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from storage.atomic import beside, link_or_copy, write_bytes
from storage.format import arrays
from storage.format.arrays import ArraySpec, sentinel
from storage.format.manifest import CARD, FileEntry, Manifest, ShardEntry, SplitPlan, identity_of
from storage.format.manifest_parse import parse_manifest, write_manifest
from storage.reader import Store
from storage.records.base import Record
from storage.work import Resumed, WorkFolder, Workspace

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """A shard to be written: rows [start, stop) of a split."""

    split: str
    index: int
    start: int
    stop: int

    def __str__(self) -> str:
        return f"{self.split}/{self.index}"


class StoreWriter(Resumed):
    """Writes one store of `record`s to `out` through a work folder.

    inputs and parents enter the identity; splits is the shard plan; constants are those the record needs to be encoded.
    Raises WorkBusy when another process writes it.
    """

    def __init__(
        self,
        out: Path,
        record: type[Record],
        *,
        specs: Mapping[str, ArraySpec],
        splits: Mapping[str, SplitPlan],
        inputs: dict[str, Any],
        parents: dict[str, str],
        workspace: Workspace,
        constants: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        self.record = record
        self.constants = dict(constants or {})
        self.specs = dict(specs)
        self.splits = dict(splits)
        self.inputs = inputs
        self.parents = parents
        self.identity = identity_of(kind=record.kind, revision=record.revision, inputs=inputs, parents=parents)
        self.work = WorkFolder(out, name=f"{record.kind}-{out.name}", identity=self.identity, workspace=workspace)
        self._done: dict[tuple[str, int], ShardEntry] = {}

    def _take_up(self) -> None:
        """Write the metadata, and find the shards that an earlier run finished."""
        for split, plan in self.splits.items():
            for name, spec in self.specs.items():
                path = self.work.content / split / name
                arrays.create_array(path, spec, rows=plan.rows, shard_rows=plan.shard_rows)
        for line in self.work.entries():
            entry = ShardEntry.from_json(line)
            if self._intact(entry):
                self._done[entry.split, entry.index] = entry
            else:
                log.warning(
                    "%s: shard %s/%d does not match its journal line; it is made again",
                    self.work.path,
                    entry.split,
                    entry.index,
                )
        if self._done:
            log.info("%s: continuing, %d of %d shards are done", self.work.out, len(self._done), len(self._plan()))

    def _plan(self) -> list[Shard]:
        return [
            Shard(split=split, index=index, start=plan.bounds(index)[0], stop=plan.bounds(index)[1])
            for split, plan in self.splits.items()
            for index in range(plan.shards)
        ]

    def missing(self) -> Iterator[Shard]:
        """Shards that are not yet on disk, in plan order."""
        return (shard for shard in self._plan() if (shard.split, shard.index) not in self._done)

    def write(self, shard: Shard, record: Record, *, sidecar: Mapping[str, NDArray[Any]] | None = None) -> None:
        """Write one whole shard; `sidecar` arrays are kept with it until `seal`, unpublished.

        Raises RecordInvalid when the record breaks its own rules: a store never holds what its reader would refuse.
        """
        assert isinstance(record, self.record), shard
        content = self.work.content
        files = write_shard(
            content, shard, record, specs=self.specs, constants=self.constants, shard_rows=self._shard_rows(shard)
        )
        self._finish(shard, files | write_sidecars(content, shard, sidecar or {}))

    def accept(self, shard: Shard, attempt: Path, files: Mapping[str, FileEntry]) -> None:
        """Move a whole shard that another process wrote under `attempt` into the content, unless it is there already.

        files are its files by name relative to `attempt`, which are also their names in the content. `attempt` lies in
        the work folder, and no process writes there any more. Raises ShardCorrupt, before anything is moved, when a
        file differs from its reported checksum.
        """
        if (shard.split, shard.index) in self._done:
            return
        for name, entry in files.items():
            entry.require(attempt / name, remedy="What was finished is kept: run the same command to continue")
        for name in files:
            target = self.work.content / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (attempt / name).replace(target)
        self._finish(shard, dict(files))

    def _shard_rows(self, shard: Shard) -> int:
        return self.splits[shard.split].shard_rows

    def _finish(self, shard: Shard, files: dict[str, FileEntry]) -> None:
        """Write the journal line of a finished shard."""
        entry = ShardEntry(split=shard.split, index=shard.index, rows=shard.stop - shard.start, files=files)
        self.work.append(asdict(entry))
        self._done[shard.split, shard.index] = entry

    def adopt(self, shard: Shard, other: Store[Any], *, sidecar: Mapping[str, NDArray[Any]] | None = None) -> None:
        """Link or copy a whole shard from another sealed store of the same arrays.

        The caller has read the shard, so its files match its manifest.
        """
        (source,) = [
            entry for entry in other.manifest.shards if (entry.split, entry.index) == (shard.split, shard.index)
        ]
        assert source.rows == shard.stop - shard.start and other.manifest.arrays == self.specs, shard
        for name in source.files:
            target = self.work.content / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            link_or_copy(str(other.path / name), str(target))
        self._finish(shard, source.files | write_sidecars(self.work.content, shard, sidecar or {}))

    def sidecars(self, name: str, split: str) -> Iterator[NDArray[Any]]:
        """The sidecar arrays `name` of a split, in shard order."""
        for index in range(self.splits[split].shards):
            yield np.load(self.work.path / "sidecar" / f"{name}-{split}-{index}.npy", allow_pickle=False)

    def arrays_file(self, name: str) -> Path:
        """The file in which `remember_arrays` keeps the arrays of `name`."""
        return self.work.path / f"{name}.npz"

    def remember_arrays(self, name: str, make: Callable[[], dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
        """The arrays that `make` returned in the first run of this identity; a resumed run reads them from the file."""
        path = self.arrays_file(name)
        if not path.exists():
            with beside(path) as partial, partial.open("wb") as stream:
                np.savez(stream, allow_pickle=False, **make())
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)

    def seal(
        self,
        *,
        facts: dict[str, Any],
        constants: Mapping[str, NDArray[Any]] | None = None,
        card: Callable[[Manifest], str] | None = None,
    ) -> Manifest:
        """Write constants and manifest and publish the store; every shard must be there.

        card gives the text of the store's README.md from the manifest, which does not list README.md yet.
        """
        left = [str(shard) for shard in self.missing()]
        assert not left, f"seal of {self.work.out} with shards missing: {left[:5]}"
        content = self.work.content
        shutil.rmtree(content / "constants", ignore_errors=True)
        for name, values in {**self.constants, **(constants or {})}.items():
            _write_constant(content / "constants" / name, values)
        metadata = [content / split / name / "zarr.json" for split in self.splits for name in self.specs]
        constant_files = [path for path in (content / "constants").rglob("*") if path.is_file()]
        files = {path.relative_to(content).as_posix(): FileEntry.of(path) for path in [*metadata, *constant_files]}
        shards = tuple(_published(self._done[shard.split, shard.index]) for shard in self._plan())
        self._keep_only({*files, *(name for shard in shards for name in shard.files)})
        manifest = Manifest(
            kind=self.record.kind,
            revision=self.record.revision,
            identity=self.identity,
            inputs=self.inputs,
            parents=self.parents,
            facts=facts,
            splits=self.splits,
            arrays=self.specs,
            shards=shards,
            files=files,
        )
        if card is not None:
            # From the manifest as it will be parsed, so that the card can be made again from the file.
            written = write_bytes(content / CARD, card(parse_manifest(manifest.to_json().encode())).encode())
            manifest = replace(manifest, files=files | {CARD: FileEntry.of(written)})
        write_manifest(manifest, content)
        self.work.publish()
        return manifest

    def _keep_only(self, names: set[str]) -> None:
        """Remove files of a killed write or an older version: a store holds only files that its manifest lists."""
        for path in self.work.content.rglob("*"):
            if path.is_file() and path.relative_to(self.work.content).as_posix() not in names:
                path.unlink()

    def _intact(self, entry: ShardEntry) -> bool:
        for name, expected in entry.files.items():
            path = self.work.content / name
            if not path.is_file() or FileEntry.of(path) != expected:
                return False
        return True


def write_shard(
    content: Path,
    shard: Shard,
    record: Record,
    *,
    specs: Mapping[str, ArraySpec],
    constants: Mapping[str, NDArray[Any]],
    shard_rows: int,
) -> dict[str, FileEntry]:
    """Write the arrays of one whole shard under `content`, where their metadata lies; their files, relative to it.

    Raises RecordInvalid when the record breaks its own rules.
    """
    assert len(record) == shard.stop - shard.start, shard
    record.check()
    files = {}
    encoded = record.encode(specs, constants)
    assert encoded.keys() == specs.keys(), (sorted(encoded), sorted(specs))
    for name, values in encoded.items():
        spec = specs[name]
        assert values.dtype == np.dtype(spec.dtype) and values.shape[1:] == spec.row_shape, (name, values.dtype)
        path = content / shard.split / name
        arrays.write_shard(path, spec, index=shard.index, shard_rows=shard_rows, values=values)
        file = arrays.shard_file(path, spec, shard.index)
        files[file.relative_to(content).as_posix()] = FileEntry.of(file)
    return files


def write_sidecars(content: Path, shard: Shard, sidecar: Mapping[str, NDArray[Any]]) -> dict[str, FileEntry]:
    """Write arrays that are kept with a shard until its store is sealed, beside `content`; returns their files.

    A file is replaced, never edited.
    """
    files = {}
    for name, values in sidecar.items():
        file = content.parent / "sidecar" / f"{name}-{shard.split}-{shard.index}.npy"
        file.parent.mkdir(exist_ok=True)
        file.unlink(missing_ok=True)
        np.save(file, values, allow_pickle=False)
        files[os.path.relpath(file, content)] = FileEntry.of(file)
    return files


def _published(entry: ShardEntry) -> ShardEntry:
    files = {name: file for name, file in entry.files.items() if not name.startswith("..")}
    return ShardEntry(split=entry.split, index=entry.index, rows=entry.rows, files=files)


def _write_constant(path: Path, values: NDArray[Any]) -> None:
    """Write a constant of the store, whole; replaced, never edited, as its files may be linked."""
    array = zarr.create_array(
        store=str(path),
        shape=values.shape,
        chunks=values.shape,
        dtype=values.dtype,
        compressors=arrays.compressors(values.dtype),
        fill_value=sentinel(values.dtype),
        overwrite=True,
        config={"write_empty_chunks": True},
    )
    array[...] = values
