"""Parts of a stage's work: a few files each, made by any process, whole or not at all, and kept until the stage ends.

A stage that must know something of its whole input before it can write, such as how many rows a split gets, works in
rounds. What a round finds lies as parts beside the store's content, so that a run that was killed continues with the
parts that are missing, and no round holds what another one found in memory. A part may also be a file of the store.

The rule is that of `storage.attempts`: one process, the driver, holds the work folder. Any other makes a part in a
folder that nobody else has, closes its files and says what their checksums are. The driver renames the folder into its
place and writes the journal line.
"""

from __future__ import annotations

import json
import logging
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from storage.atomic import write_bytes
from storage.errors import ShardCorrupt, StoreError
from storage.format.manifest import FileEntry
from storage.work import Resumed, WorkFolder

PARTS = "parts"
ATTEMPTS = "part-attempts"

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class PartAttempt:
    """A whole part that lies beside the others, closed and complete."""

    name: str
    folder: Path
    """Absolute."""
    files: dict[str, FileEntry]


class Parts(Resumed):
    """The parts in a work folder, which is held while this is open.

    A name is a path such as "read/00003". Raises what `WorkFolder` raises.
    """

    def __init__(self, work: WorkFolder) -> None:
        self.work = work
        self._files: dict[str, dict[str, FileEntry]] = {}

    def _take_up(self) -> None:
        """Find what an earlier run finished."""
        shutil.rmtree(self.work.path / ATTEMPTS, ignore_errors=True)
        found = {
            line["part"]: {name: FileEntry(**entry) for name, entry in line["files"].items()}
            for line in self.work.entries()
        }
        for part, files in found.items():
            if not self.folder(part).is_dir():
                continue  # a round that is over
            if all(_is(self.folder(part) / name, entry) for name, entry in files.items()):
                self._files[part] = files
            else:
                log.warning("%s: part %s does not match its journal line; it is made again", self.work.path, part)
        if self._files:
            log.info("%s: continuing, %d parts are done", self.work.out, len(self._files))

    @property
    def root(self) -> Path:
        """The folder of all parts, absolute: what a process that reads parts is given."""
        return self.work.path.resolve() / PARTS

    def folder(self, name: str) -> Path:
        """Where the files of a part lie."""
        return self.work.path / PARTS / name

    def files(self, name: str) -> dict[str, FileEntry]:
        """The files of a part that is there, relative to its folder."""
        return self._files[name]

    def has(self, name: str) -> bool:
        """Whether a part is there."""
        return name in self._files

    def accept(self, attempt: PartAttempt) -> None:
        """Take a part that was made, by a rename; one that is there stays.

        Raises ShardCorrupt when a file is not what the process that made it says.
        """
        if attempt.name not in self._files:
            try:
                for name, entry in attempt.files.items():
                    entry.require(attempt.folder / name, remedy="Run the same command to continue")
            except ShardCorrupt:
                shutil.rmtree(attempt.folder, ignore_errors=True)
                raise
            target = self.folder(attempt.name)
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            attempt.folder.rename(target)
            files = {name: asdict(entry) for name, entry in attempt.files.items()}
            self.work.append({"part": attempt.name, "files": files})
            self._files[attempt.name] = attempt.files
        shutil.rmtree(attempt.folder, ignore_errors=True)

    def recall(self, name: str) -> Any:
        """JSON data that an earlier run of this identity remembered; None where there is none."""
        path = self.work.path / f"{name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def remember(self, name: str, value: Any) -> Any:
        """Keep JSON data, which outlives the round that it was found in; returns it as it will be recalled."""
        write_bytes(self.work.path / f"{name}.json", json.dumps(value, sort_keys=True).encode())
        return self.recall(name)

    def forget(self, *rounds: str) -> None:
        """Remove the parts whose names begin with "<round>/": nobody reads them any more."""
        for name in rounds:
            shutil.rmtree(self.folder(name), ignore_errors=True)
        self._files = {part: files for part, files in self._files.items() if part.partition("/")[0] not in rounds}

    @contextmanager
    def desk(self) -> Iterator[Path]:
        """An absolute folder in which other processes make parts; it is removed when the run is over."""
        folder = self.work.path.resolve() / ATTEMPTS / uuid.uuid4().hex
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder.parent, ignore_errors=True)


def make_part(desk: Path, name: str, make: Callable[[Path], None]) -> PartAttempt:
    """A part whose files `make` writes into the folder that it is given; in any process that sees the desk.

    Raises StoreError when the run that wants it is over, or its folder cannot be seen from here.
    """
    folder = desk / uuid.uuid4().hex
    try:
        folder.mkdir()  # and not its parents: they are gone when the run is over
    except FileNotFoundError:
        raise StoreError(
            f"{desk}: not there, so part {name} was not made. Either the run that asked for it is over, or this "
            "machine does not share the file system: stores must lie on one that the driver and all workers see at the "
            "same path"
        ) from None
    make(folder)
    files = {
        path.relative_to(folder).as_posix(): FileEntry.of(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }
    return PartAttempt(name=name, folder=folder, files=files)


def _is(path: Path, entry: FileEntry) -> bool:
    return path.is_file() and FileEntry.of(path) == entry
