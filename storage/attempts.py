"""Shards of one store, written by many processes on many machines that share a file system.

The rule: one process, the driver, holds the lock of the work folder, and it alone touches the store's content and its
journal. Any other process writes a shard it was asked for as an attempt: whole, under a name that nobody else has, in a
folder of the driver's run beside the content. It closes the files, and then says which they are and what their
checksums are. The driver compares them with what lies there, renames them into the content and writes the journal line.

So it does not matter who dies, comes late or is asked twice. An attempt that was never reported, or is reported when
the shard is there already, is left where it is and removed with the run's folder. A straggler that wakes up when the
store is long sealed finds no folder to write to and fails; at worst it leaves files under `attempts`, which no store
contains and the next run removes. No file is ever opened for writing once it was reported, so none that is linked to
a published store is written through.
"""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.errors import StoreError
from storage.format import arrays
from storage.format.arrays import ArraySpec
from storage.format.manifest import FileEntry, SplitPlan
from storage.records.base import Record
from storage.writer import Shard, StoreWriter, write_shard, write_sidecars

ATTEMPTS = "attempts"
CONSTANTS = "constants.npz"

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """A whole shard that lies beside the store, closed and complete."""

    shard: Shard
    content: Path
    """Absolute; the names of `files` are relative to it as those of the store are to its own content."""
    files: dict[str, FileEntry]


@dataclass(frozen=True, kw_only=True, slots=True)
class Desk:
    """What another process needs to write shards of a store that a driver holds; small, and can be sent anywhere."""

    folder: Path
    """Of the driver's run, absolute: it must be the same folder to the driver and to who writes."""
    record: type[Record]
    specs: dict[str, ArraySpec]
    splits: dict[str, SplitPlan]

    def write(self, shard: Shard, record: Record, *, sidecar: Mapping[str, NDArray[Any]] | None = None) -> Attempt:
        """Write one whole shard as an attempt; touches nothing that any other process writes or has published.

        Raises RecordInvalid when the record breaks its own rules, StoreError when the driver's run is over or its
        folder cannot be seen from here.
        """
        assert isinstance(record, self.record), shard
        attempt = self.folder / f"{shard.split}-{shard.index}-{uuid.uuid4().hex}"
        content, shard_rows = attempt / "content", self.splits[shard.split].shard_rows
        try:
            attempt.mkdir()  # and not its parents: they are gone when the run is over
            with np.load(self.folder / CONSTANTS, allow_pickle=False) as held:
                constants = dict(held)
        except FileNotFoundError:
            raise StoreError(
                f"{self.folder}: not there, so shard {shard} was not written. Either the run that asked for it is "
                "over, or this machine does not share the file system: stores must lie on one that the driver and all "
                "workers see at the same path"
            ) from None
        for name, spec in self.specs.items():
            arrays.create_array(
                content / shard.split / name, spec, rows=self.splits[shard.split].rows, shard_rows=shard_rows
            )
        files = write_shard(
            content, shard, record, specs=self.specs, constants=constants, shard_rows=shard_rows
        ) | write_sidecars(content, shard, sidecar or {})
        return Attempt(shard=shard, content=content, files=files)


@contextmanager
def open_desk(writer: StoreWriter) -> Iterator[Desk]:
    """The desk of a writer that is held open, its constants decided; attempts are removed before and after."""
    attempts = writer.work.path.resolve() / ATTEMPTS
    shutil.rmtree(attempts, ignore_errors=True)
    folder = attempts / uuid.uuid4().hex
    folder.mkdir(parents=True)
    np.savez(folder / CONSTANTS, allow_pickle=False, **writer.constants)
    try:
        yield Desk(folder=folder, record=writer.record, specs=writer.specs, splits=writer.splits)
    finally:
        shutil.rmtree(attempts, ignore_errors=True)


def accept(writer: StoreWriter, attempt: Attempt) -> None:
    """Make an attempt the shard of the store, unless the shard is there already.

    Raises ShardCorrupt when a file is not what the process that wrote it said.
    """
    writer.accept(attempt.shard, attempt.content, attempt.files)
    shutil.rmtree(attempt.content.parent, ignore_errors=True)
