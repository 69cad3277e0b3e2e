"""Files and folders that appear whole or not at all, written by one process at a time.

They are written under a hidden name beside their place, and renamed when they are finished. A lock on that name keeps a
second process out. It ends with the process that holds it, even when that is killed, so no lock is ever left behind.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from storage.errors import DiskRefused, StoreError, WorkBusy

log = logging.getLogger(__name__)


@contextlib.contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A file beside `path` to be written, which takes its place when the block ends without an exception.

    `path` is replaced, never edited: it may be linked to a file that was published. Its folder is made where needed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.new")
    yield partial
    partial.replace(path)


def write_bytes(path: Path, data: bytes) -> Path:
    """Replace the file at `path`, whole or not at all; returns `path`."""
    with beside(path) as partial:
        partial.write_bytes(data)
    return path


@contextlib.contextmanager
def held(path: Path, *, wait: bool) -> Iterator[IO[bytes]]:
    """The file at `path`, open to read and write, created or as a killed process left it, and locked.

    The holder may rename or remove it. Waits for another holder, or raises WorkBusy.
    """
    while True:
        stream = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+b")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            raise WorkBusy(f"{path}: another process writes it. Wait for it, or stop it and run this again") from None
        # The previous holder may have renamed or removed the file; then this lock is worthless.
        if path.exists() and os.path.samestat(os.fstat(stream.fileno()), path.lstat()):
            break
        stream.close()
    with stream:
        yield stream


@contextlib.contextmanager
def staged(out: Path, *, purpose: str, keep: bool) -> Iterator[Path]:
    """A hidden folder beside `out` in which one process at a time works; removed at the end.

    It may hold files of a killed run; with `keep`, also those of a failed one. Raises WorkBusy.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    workshop = out.with_name(f".{out.name}.{purpose}")
    workshop.mkdir(exist_ok=True)
    with held(workshop / "lock", wait=False):
        try:
            yield workshop
        except BaseException:
            if not keep:
                shutil.rmtree(workshop, ignore_errors=True)
            raise
        shutil.rmtree(workshop, ignore_errors=True)


def holds(file: Path, data: bytes) -> bool:
    """Whether the file exists with exactly these bytes; one of another size is not read."""
    return file.is_file() and file.stat().st_size == len(data) and file.read_bytes() == data


@contextlib.contextmanager
def disk(path: Path, refusal: type[StoreError]) -> Iterator[None]:
    """Make an OSError one line: DiskRefused where the disk is at fault, otherwise `refusal`."""
    try:
        yield
    except OSError as error:
        where, remedy = error.filename or path, "Nothing was published: mend it, and run the same again"
        if error.errno in DISK_REFUSALS:
            raise DiskRefused(f"{where}: {DISK_REFUSALS[error.errno]}. {remedy}") from error
        raise refusal(f"{where}: {error.strerror or error}. {remedy}") from error


DISK_REFUSALS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the file would be larger than is allowed",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "not permitted",
    errno.EIO: "the disk fails",
}
"""Errors of the system for which the disk is at fault, not the stage."""


def link_or_copy(source: str, target: str) -> str:
    """Make `target` a hard link of the file `source`, or a copy where the file system has none; for `copytree`."""
    with contextlib.suppress(OSError):
        os.link(source, target)
        return target
    try:
        shutil.copy2(source, target)
    except OSError as error:
        refuse_disk(error, Path(target))  # copytree would make one error of many, without their numbers
        raise
    return target


def refuse_disk(error: BaseException | None, out: Path) -> None:
    """Raise DiskRefused when `error` says that the disk, and not the stage that writes `out`, is at fault."""
    if isinstance(error, OSError) and error.errno in DISK_REFUSALS:
        raise DiskRefused(
            f"{error.filename or out}: {DISK_REFUSALS[error.errno]}. What was finished is kept: make room or give "
            "access, and run the same command to continue"
        ) from error
