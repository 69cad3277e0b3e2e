"""The folder in which a stage works, so that it can be killed at any moment and continue.

DVC empties an output before it runs the stage, so unfinished work must lie elsewhere. A stage writes into
`.work/<name>-<identity>/content`, adds one fsynced line to `journal.jsonl` for each finished shard, and publishes at
the end. Publishing links the files into the output, and the folder stays until another stage begins: so a kill between
publishing and DVC's own bookkeeping loses nothing. (DVC copies the output into its cache, so a finished folder does
cost its size.)
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
import socket
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from storage.atomic import link_or_copy, refuse_disk, write_bytes
from storage.errors import WorkBusy

WORK_ROOT = Path(".work")
IDENTITY_CHARACTERS = 16
PUBLISHED = "published"
"""Marks a work folder whose content is, or was, at the output."""
DISCARDED = ".discarded"


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workspace:
    """The folder of all work folders, and the digest of the code that runs."""

    root: Path = WORK_ROOT
    code: str = ""
    """Digest of the modules that the running command imports; "" when it is unknown, and then it is not compared."""
    continued: set[str] = field(default_factory=set, compare=False)
    """Names of the work folders in which this process took up what an earlier one had made: its time is not all."""


class WorkFolder:
    """Holds the lock of one (name, identity) while it is open; one process at a time.

    Raises WorkBusy on entry, naming the holder, when another process has it, and DiskRefused, on entry and in place of
    an OSError that leaves the `with`, when the disk refuses to write.
    """

    def __init__(self, out: Path, *, name: str, identity: str, workspace: Workspace) -> None:
        self.out = out
        self.name = name
        self.root = workspace.root
        self.code = workspace.code
        self.workspace = workspace
        self.path = self.root / f"{name}-{identity[:IDENTITY_CHARACTERS]}"
        self.content = self.path / "content"
        self._journal = self.path / "journal.jsonl"
        self._lock: IO[str] | None = None

    def __enter__(self) -> Self:
        try:
            # One lock per name, not per identity: two runs with different params would publish to the same output.
            self.root.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self.root / f"{self.name}.lock", self.out)
            self._sweep()
            self._respect_code()
            self._mend_journal()
        except OSError as error:
            refuse_disk(error, self.out)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._lock is not None
        self._lock.close()
        refuse_disk(error, self.out)

    def entries(self) -> list[dict[str, Any]]:
        """Journal lines so far; a last line torn by a kill is not counted."""
        if not self._journal.exists():
            return []
        lines = self._journal.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1]]

    def append(self, entry: dict[str, Any]) -> None:
        """Add a journal line and wait until it is on disk."""
        with self._journal.open("ab") as stream:
            stream.write(json.dumps(entry, sort_keys=True).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())

    def publish(self) -> None:
        """Put `content` at the output, whole or not at all; replaces what is there."""
        for partial in self.content.rglob("*.partial"):
            partial.unlink()
        self.out.parent.mkdir(parents=True, exist_ok=True)
        staged = self.out.with_name(f".{self.out.name}.staged")
        retired = self.out.with_name(f".{self.out.name}.retired")
        for leftover in (staged, retired):
            shutil.rmtree(leftover, ignore_errors=True)
        shutil.copytree(self.content, staged, copy_function=link_or_copy)
        if self.out.exists():
            self.out.rename(retired)
        staged.rename(self.out)
        shutil.rmtree(retired, ignore_errors=True)
        self.finish()

    def finish(self) -> None:
        """Mark the work as finished; the folder is removed when another stage begins, or when the code changes."""
        (self.path / PUBLISHED).touch()

    def empty_content(self) -> None:
        """Empty the content, for a stage that writes all of it at once.

        After a finished run its files may be hard links to the output, which must not be changed.
        """
        shutil.rmtree(self.content)
        self.content.mkdir()

    def _respect_code(self) -> None:
        """Discard finished work of another version of the code; continue unfinished work, with a warning.

        DVC runs a stage again when a module that it imports changes, and must not get the old result. A long run that
        was interrupted may be continued after a change of the code; its owner decides.
        """
        marker = self.path / "code.sha256"
        if self.code and marker.exists() and marker.read_text(encoding="utf-8") != self.code:
            if (self.path / PUBLISHED).exists():
                log.info("%s: finished by another version of the code; beginning anew", self.path)
                _discard(self.path)
            else:
                log.warning("%s: begun by another version of the code; remove the folder to begin anew", self.path)
        if any(path.is_file() and path != marker for path in self.path.rglob("*")):
            self.workspace.continued.add(self.name)
        self.content.mkdir(parents=True, exist_ok=True)
        if self.code and not marker.exists():
            write_bytes(marker, self.code.encode())

    def _mend_journal(self) -> None:
        """Cut off a last line that was torn by a kill, so that the next line begins a line."""
        if not self._journal.exists():
            return
        whole = self._journal.read_bytes()
        os.truncate(self._journal, whole.rfind(b"\n") + 1)

    def _sweep(self) -> None:
        """Remove the folders of finished runs, of this stage and of others; unfinished runs may be resumed."""
        for other in finished_folders(self.root, mine=self.name):
            if other != self.path:
                _discard(other)


def finished_folders(root: Path = WORK_ROOT, *, mine: str | None = None) -> list[Path]:
    """Work folders whose result is published, and remains of removed ones, without those that a process holds.

    mine names the stage whose lock the caller holds.
    """
    found = []
    for path in sorted(root.glob("*-" + "[0-9a-f]" * IDENTITY_CHARACTERS + "*")):
        name = path.name.removesuffix(DISCARDED)[: -IDENTITY_CHARACTERS - 1]
        finished = path.suffix == DISCARDED or (path / PUBLISHED).exists()
        if finished and (name == mine or not _held(root / f"{name}.lock")):
            found.append(path)
    return found


class Resumed(ABC):
    """Holds its work folder while it is open, and begins with what an earlier run finished there."""

    work: WorkFolder

    def __enter__(self) -> Self:
        self.work.__enter__()
        try:
            self._take_up()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.work.__exit__(kind, error, trace)

    @abstractmethod
    def _take_up(self) -> None:
        """Find what an earlier run finished."""


def _held(lock: Path) -> bool:
    try:
        with lock.open(encoding="utf-8") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _discard(path: Path) -> None:
    """Remove a work folder; renamed first, so that a kill does not leave one that looks resumable."""
    renamed = path.with_name(path.name.removesuffix(DISCARDED) + DISCARDED)
    # Two stages that begin at once sweep the same folder: one may find it already removed by the other.
    with contextlib.suppress(FileNotFoundError):
        if renamed != path:
            shutil.rmtree(renamed, ignore_errors=True)
            path.rename(renamed)
        shutil.rmtree(renamed)


def _locked(path: Path, out: Path) -> IO[str]:
    stream = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.seek(0)
        holder = stream.read().strip() or "another process"
        stream.close()
        raise WorkBusy(f"{out}: is being written by {holder}. Wait for it, or stop it and run this again") from None
    stream.truncate(0)
    stream.write(f"process {os.getpid()} on {socket.gethostname()} ({' '.join(sys.argv[:4])})\n")
    stream.flush()
    return stream
