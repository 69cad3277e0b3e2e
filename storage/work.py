"""A folder in which a stage works, so that it can be killed at any moment and continue.

DVC empties an output before it runs the stage, so nothing that must survive may lie there. A stage writes into
`.work/<name>-<identity>/content`, adds one fsynced line to `journal.jsonl` per finished piece, and publishes at the
end. Publishing links the files into the output: the folder stays until the next different run of the stage, so that a
kill between publishing and DVC's own bookkeeping costs nothing, and links share the bytes on disk.
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
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from storage.errors import WorkBusy

WORK_ROOT = Path(".work")
IDENTITY_CHARACTERS = 16

log = logging.getLogger(__name__)


class WorkFolder:
    """Holds the lock of one (name, identity) while it is open; one process at a time.

    Raises WorkBusy on entry, naming the holder, when another process has it.
    """

    def __init__(self, out: Path, *, name: str, identity: str, root: Path = WORK_ROOT) -> None:
        self.out = out
        self.name = name
        self.root = root
        self.path = root / f"{name}-{identity[:IDENTITY_CHARACTERS]}"
        self.content = self.path / "content"
        self._journal = self.path / "journal.jsonl"
        self._lock: IO[str] | None = None

    def __enter__(self) -> Self:
        # One lock per name, not per identity: two runs with different params would publish to the same output.
        self.root.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self.root / f"{self.name}.lock", self.out)
        self.content.mkdir(parents=True, exist_ok=True)
        self._sweep()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._lock is not None
        self._lock.close()

    def entries(self) -> list[dict[str, Any]]:
        """Journal lines so far; a last line torn by a kill is not counted."""
        if not self._journal.exists():
            return []
        lines = self._journal.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1]]

    def append(self, entry: dict[str, Any]) -> None:
        """Add a journal line and wait until it is on disk."""
        whole = self._journal.read_bytes() if self._journal.exists() else b""
        torn = len(whole) - (whole.rfind(b"\n") + 1)
        with self._journal.open("ab") as stream:
            if torn:
                stream.truncate(len(whole) - torn)
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
        shutil.copytree(self.content, staged, copy_function=_link_or_copy)
        if self.out.exists():
            self.out.rename(retired)
        staged.rename(self.out)
        shutil.rmtree(retired, ignore_errors=True)
        (self.path / "published").touch()

    def _sweep(self) -> None:
        """Remove folders of finished runs of this name with another identity; unfinished ones may be resumed."""
        for other in self.root.glob(f"{self.name}-" + "[0-9a-f]" * IDENTITY_CHARACTERS):
            if other != self.path and (other / "published").exists():
                log.info("%s: removing the work folder of an earlier finished run", other)
                shutil.rmtree(other)


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


def _link_or_copy(source: str, target: str) -> str:
    with contextlib.suppress(OSError):
        os.link(source, target)
        return target
    shutil.copy2(source, target)
    return target
