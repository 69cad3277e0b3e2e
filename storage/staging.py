"""Files and folders that appear whole or not at all, made by one process at a time.

What is being made lies under a hidden name beside its place, and is renamed when it is finished. A lock on that name
keeps a second process out; it ends with the process that holds it, however that ends, so there is nothing to clear up.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from storage.errors import DiskRefused, StoreError, WorkBusy
from storage.manifest import MANIFEST, FileEntry
from storage.work import DISK_REFUSALS

log = logging.getLogger(__name__)


@contextlib.contextmanager
def held(path: Path, *, wait: bool) -> Iterator[IO[bytes]]:
    """The file at `path`, open to read and write, created or as a killed process left it, and nobody else's.

    Whoever holds it may rename or remove it. Waits for another holder, or raises WorkBusy.
    """
    while True:
        stream = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+b")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            raise WorkBusy(f"{path}: another process is at it. Wait for it, or stop it and run this again") from None
        # Whoever held it before may have renamed or removed it just now; then it is no lock any more.
        if path.exists() and os.path.samestat(os.fstat(stream.fileno()), path.lstat()):
            break
        stream.close()
    with stream:
        yield stream


@contextlib.contextmanager
def staged(out: Path, *, purpose: str, keep: bool) -> Iterator[Path]:
    """A hidden folder beside `out` in which one process at a time works; removed at the end.

    It holds what a killed run left there; with `keep`, also what one did that failed. Raises WorkBusy.
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


def there_already(
    out: Path, data: bytes, listed: Mapping[str, FileEntry], *, origin: str, refusal: type[StoreError]
) -> bool:
    """Whether the store of the manifest `data` with the files `listed` is at `out`, whole; False when nothing is there.

    Costs one hash of it: a manifest says what its store was, not what became of it. Raises `refusal` when another thing
    is there, and ShardCorrupt when it is this store with a file that is missing or changed.
    """
    if not os.path.lexists(out):
        return False
    if not holds(out / MANIFEST, data):
        raise refusal(f"{out}: is there already, and is not the store of {origin}. Remove it, or name another path")
    for name, entry in listed.items():
        entry.require_in(out, name, remedy=f"{out} is this store, damaged: remove it, and run the same again")
    log.info("%s: the same store is there already, all of its %d files as they were sealed", out, len(listed) + 1)
    return True


def holds(file: Path, data: bytes) -> bool:
    """Whether there is a file with just these bytes; one of another size is not read."""
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
