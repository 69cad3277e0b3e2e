"""Shards of one store, written by many processes on many machines that share a file system.

The rule: one process, the driver, holds the lock of the work folder, and it alone changes the store's content and its
journal. Any other process writes its shard as an attempt: whole, under a unique name, in a folder of the driver's run
beside the content. It closes the files and then reports their names and checksums. The driver compares these with the
files, renames the files into the content and writes the journal line.

So a process may die, be late or compute a shard twice. An attempt that was never reported, or is reported when the
shard is already there, stays where it is and is removed with the run's folder. A process that continues after the store
was sealed finds no folder to write to and fails. At worst it leaves files under `attempts`, which no store contains and
the next run removes. No file is opened for writing after it was reported, so no file of a published store is changed
through a link.
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
class AttemptWriter:
    """Writes attempts in another process, for a store that a driver holds; small, and can be pickled."""

    folder: Path
    """Of the driver's run, absolute: driver and workers must see the same folder there."""
    record: type[Record]
    specs: dict[str, ArraySpec]
    splits: dict[str, SplitPlan]

    def write(self, shard: Shard, record: Record, *, sidecar: Mapping[str, NDArray[Any]] | None = None) -> Attempt:
        """Write one whole shard as an attempt; changes nothing that another process writes or has published.

        Raises RecordInvalid when the record breaks its own rules, StoreError when the driver's run is over or its
        folder cannot be seen from here.
        """
        assert isinstance(record, self.record), shard
        attempt = self.folder / f"{shard.split}-{shard.index}-{uuid.uuid4().hex}"
        content, shard_rows = attempt / "content", self.splits[shard.split].shard_rows
        try:
            attempt.mkdir()  # but not its parents: they are removed when the run is over
            with np.load(self.folder / CONSTANTS, allow_pickle=False) as held:
                constants = dict(held)
        except FileNotFoundError:
            raise StoreError(
                f"{self.folder}: not there, so shard {shard} was not written. Either the driver's run is "
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
def open_attempts(writer: StoreWriter) -> Iterator[AttemptWriter]:
    """The attempt writer of a store writer that is open and has its constants; removes attempts before and after."""
    attempts = writer.work.path.resolve() / ATTEMPTS
    shutil.rmtree(attempts, ignore_errors=True)
    folder = attempts / uuid.uuid4().hex
    folder.mkdir(parents=True)
    np.savez(folder / CONSTANTS, allow_pickle=False, **writer.constants)
    try:
        yield AttemptWriter(folder=folder, record=writer.record, specs=writer.specs, splits=writer.splits)
    finally:
        shutil.rmtree(attempts, ignore_errors=True)


def accept(writer: StoreWriter, attempt: Attempt) -> None:
    """Move an attempt into the store, unless the shard is already there.

    Raises ShardCorrupt when a file differs from its reported checksum.
    """
    writer.accept(attempt.shard, attempt.content, attempt.files)
    shutil.rmtree(attempt.content.parent, ignore_errors=True)
