"""Stores behind URLs: s3://, gs://, https://, file://, memory:// and whatever else fsspec reads and writes.

Reading is `storage.origins`: a store is mirrored in a cache, whose files are fetched when they are first read. Writing
is `put`: the manifest comes last, so that what an interrupted one left is no store.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from storage.atomic import disk, staged
from storage.errors import FetchFailed, StoreError
from storage.format.manifest import MANIFEST
from storage.format.manifest_parse import parse_manifest
from storage.origins import NAME_CHARACTERS, TRANSFERS, Origin, mirror, place, sha256
from storage.reader import Store
from storage.records.base import Record
from storage.share.archive import there_already
from storage.work import WORK_ROOT

R = TypeVar("R", bound=Record)

log = logging.getLogger(__name__)


URL_CACHE = WORK_ROOT / "urls"
"""Where commands keep what they read of stores behind URLs."""
CACHE_GIGABYTES = "COHESIVE_CACHE_GB"
"""Environment variable: how much of each such store's shards is kept."""
CACHE_DEFAULT = 50.0


def is_url(place: str | Path) -> bool:
    """True for what fsspec opens, False for a path of this machine."""
    return "://" in str(place)


def open_remote(url: str, record: type[R], *, cache: Path, most_bytes: int | None = None) -> Store[R]:
    """Open the store of records `record` at `url`; its files are fetched into `cache` when they are first read.

    most_bytes is how much of its shards is kept there, None for all. Raises FetchFailed when there is no sound
    manifest, WrongKind or SchemaMismatch for another store; reading then raises FetchFailed and DiskRefused beside what
    `Store` raises.
    """
    folder = mirror(url, cache, most_bytes=most_bytes)
    return Store(folder, record, remedy=f"Ask the owner of {url} to publish it again")


def fetch(url: str, out: Path) -> None:
    """Download the whole store at `url`, of any kind, and publish it at `out`: checked, whole or not at all.

    Where the same store is at `out` already, it is checked and left as it is. An interrupted fetch continues. Raises
    FetchFailed, also for another thing at `out`, ShardCorrupt when the store there is damaged, DiskRefused, and
    WorkBusy when another process fetches to `out`.
    """
    origin = Origin(url)
    manifest, data = origin.manifest()
    listed = manifest.files | {name: entry for shard in manifest.shards for name, entry in shard.files.items()}
    with disk(out, FetchFailed):
        if there_already(out, data, listed, origin=url, refusal=FetchFailed):
            return
        with staged(out, purpose="fetch", keep=True) as workshop:
            content = workshop / sha256(data)[:NAME_CHARACTERS]
            content.mkdir(exist_ok=True)
            origin.bring_all(listed, content)
            place(data, content / MANIFEST)
            content.rename(out)


def local_store(place: str | Path) -> Path:
    """The folder of a store that a command was given: a path as it is, or that of the cache which a URL fills.

    Raises FetchFailed when no store is at the URL.
    """
    return mirror(str(place), URL_CACHE, most_bytes=_most_bytes()) if is_url(place) else Path(place)


def local_folder(place: str | Path) -> Path:
    """The same for a folder of stores, each by its name; at a URL all that are there now. Raises FetchFailed."""
    if not is_url(place):
        return Path(place)
    url = str(place).rstrip("/")
    folder = URL_CACHE / "folders" / hashlib.sha256(url.encode()).hexdigest()[:NAME_CHARACTERS]
    shutil.rmtree(folder, ignore_errors=True)
    with disk(folder, FetchFailed):
        folder.mkdir(parents=True)
        for name in Origin(url).stores():
            (folder / name).symlink_to(mirror(f"{url}/{name}", URL_CACHE, most_bytes=_most_bytes()).absolute())
    return folder


def _most_bytes() -> int:
    return int(float(os.environ.get(CACHE_GIGABYTES, CACHE_DEFAULT)) * 1e9)


def put(store: Path, url: str, *, replace: bool = False, work: Path = WORK_ROOT) -> int:
    """Upload the sealed store at `store`, of any kind, to `url`; the number of files that were sent.

    Its manifest is sent last. Where another store is there it is refused, or with `replace` taken away first. A file
    that this put sent before it was interrupted is not sent again: the names of such files are kept under `work`.
    Raises StoreError for another store, FetchFailed when the server refuses, ShardCorrupt when a file changed since it
    was sealed.
    """
    data = (store / MANIFEST).read_bytes()
    manifest = parse_manifest(data)
    listed = manifest.files | {name: entry for shard in manifest.shards for name, entry in shard.files.items()}
    origin = Origin(url)
    there = origin.stored_manifest()
    journal = work / "put" / f"{hashlib.sha256(f'{origin.url} {sha256(data)}'.encode()).hexdigest()}.txt"
    if there == data:
        log.info("%s: the same store is there already", url)
        return 0
    if there is not None:
        if not replace:
            raise StoreError(f"{url}: another store is there. Name another address, or give --replace")
        origin.remove(MANIFEST)
    with disk(journal, FetchFailed):
        journal.parent.mkdir(parents=True, exist_ok=True)
        sent = set(journal.read_text(encoding="utf-8").splitlines()) if journal.exists() else set()
    left = [name for name in sorted(listed) if name not in sent or origin.size(name) != listed[name].bytes]
    log.info("%s: sending %d of %d files", url, len(left), len(listed))

    def send(name: str) -> str:
        listed[name].require_in(store, name, remedy="Make the store again")
        origin.send(store / name, name)
        return name

    with ThreadPoolExecutor(TRANSFERS) as pool, journal.open("a", encoding="utf-8") as noted:
        try:
            for name in pool.map(send, left):
                noted.write(f"{name}\n")
                noted.flush()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    origin.send(store / MANIFEST, MANIFEST)
    journal.unlink()
    return len(left) + 1


@contextmanager
def outlet(out: str, *, work: Path = WORK_ROOT) -> Iterator[Path]:
    """Where to write the store that goes to `out`: a path as it is, or a folder whose store is put to a URL at the end.

    What is at the URL is replaced. When the upload is interrupted, the same block continues it.
    """
    if not is_url(out):
        yield Path(out)
        return
    name = out.rstrip("/").rpartition("/")[2]
    folder = work / "outbox" / hashlib.sha256(out.encode()).hexdigest()[:NAME_CHARACTERS] / name
    yield folder
    put(folder, out, replace=True, work=work)
    shutil.rmtree(folder)
