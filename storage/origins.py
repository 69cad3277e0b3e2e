"""Folders that are filled from a URL as their store is read, and emptied when they grow too large.

`mirror` puts a store's manifest into a folder of a cache, and beside the folder a file that says where it is from. Who
opens the folder as a store, in any process, then fetches a file when it is first read (`storage.reader`). The manifest
has size and SHA-256 of every other file. The server is not trusted: of a file no more bytes are read than the manifest
says, and it gets its name in the cache only when its hash is right. A file is fetched once, also where several
processes share the cache: the others wait.

The cache has one folder for every manifest, named by its hash. So an updated store is another folder, and a cached file
never becomes wrong. Such a folder is an incomplete store; it may be deleted while no reader is open. Shards that were
not read for the longest time are removed when a folder has more bytes than `mirror` was told, never while one is read.

Fetching costs the transfer, one hash as the bytes arrive, and one when the reader checks the file as usual. A scheme
needs its fsspec package (s3fs, gcsfs, aiohttp for https), which also finds the credentials.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from storage.atomic import disk, held, holds, write_bytes
from storage.errors import FetchFailed, SchemaMismatch, ShardCorrupt
from storage.format import untrusted
from storage.format.manifest import MANIFEST, MANIFEST_BYTES_LIMIT, FileEntry, Manifest
from storage.format.manifest_parse import parse_manifest

READ_BYTES = 1024 * 1024
"""Bytes read and written at a time."""
TRIES = 3
"""Attempts to fetch a file when the connection breaks."""
TRANSFERS = 8
"""Files fetched at once: a shard has about ten, and each takes a while to begin from an object store."""
CONNECT_SECONDS = 30
SILENCE_SECONDS = 60
"""A server that sends nothing for this time has failed."""
NAME_CHARACTERS = 32
"""Of the manifest's SHA-256, in the name of a cache folder."""

AGAIN = "Run the same again; fetched files are kept"


OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "az"}
"""Schemes without folders: a name with slashes needs none."""
ORIGIN = ".origin.json"
"""Ending of the file beside a folder that says where its files are from; it is no part of a store that is handed on."""
SHARDS = "*/*/c/**/*"
"""Files of shards, which are removed when there are too many; metadata and constants stay."""


def mirror(url: str, cache: Path, *, most_bytes: int | None = None) -> Path:
    """The folder of the store at `url` in `cache`, with its manifest; `most_bytes` of shards are kept there, or all.

    Raises FetchFailed when there is no sound manifest.
    """
    origin = Origin(url)
    manifest, data = origin.manifest()
    folder = cache / f"{manifest.kind}-{sha256(data)[:NAME_CHARACTERS]}"
    place(data, folder / MANIFEST)
    with disk(folder, FetchFailed):
        said = json.dumps({"most_bytes": most_bytes, "url": url}, sort_keys=True)
        write_bytes(folder.with_name(f"{folder.name}{ORIGIN}"), said.encode())
    return folder


def mirrored(folder: Path) -> Mirror | None:
    """The mirror whose folder this is, maybe through a link; None for a folder that is filled from nowhere."""
    real = folder.resolve()
    said = real.with_name(f"{real.name}{ORIGIN}")
    if not said.is_file():
        return None
    found = json.loads(said.read_text(encoding="utf-8"))
    return Mirror(real, found["url"], most_bytes=found["most_bytes"])


class Mirror:
    """A folder that is filled from a URL."""

    def __init__(self, folder: Path, url: str, *, most_bytes: int | None) -> None:
        self.url = url
        self._folder, self._most_bytes = folder, most_bytes
        self._lock = folder.with_name(f"{folder.name}.lock")
        self._origin: Origin | None = None
        self._brought = 0 if most_bytes is None else most_bytes  # an earlier process may have left more
        self._checked: set[str] = set()

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Nothing is removed while the block reads what `bring` brought; afterwards the oldest shards may be."""
        if self._most_bytes is None:
            yield
            return
        with self._lock.open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH)
            yield
        if self._brought >= self._most_bytes // 8:  # to look at all files after each read would take long
            self._trim()

    def bring(self, files: Mapping[str, FileEntry]) -> None:
        """Fetch those of the store's files that are not here, or were damaged."""
        lacking = {}
        for name, entry in files.items():
            if name in self._checked and (self._folder / name).is_file():
                os.utime(self._folder / name)
                continue
            try:
                entry.require_in(self._folder, name, remedy="")
            except ShardCorrupt:
                lacking[name] = entry
        if lacking:
            self._origin = self._origin or Origin(self.url)
            self._origin.bring_all(lacking, self._folder)
            self._brought += sum(entry.bytes for entry in lacking.values())
            for name, entry in lacking.items():
                entry.require_in(self._folder, name, remedy=f"Ask the owner of {self.url} to publish it again")
        self._checked |= files.keys()

    def _trim(self) -> None:
        """Remove the shards that were not read for the longest time, unless another thread or process reads."""
        assert self._most_bytes is not None
        with self._lock.open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            found = [(path, path.stat()) for path in self._folder.glob(SHARDS) if path.is_file()]
            left = sum(status.st_size for _, status in found)
            for path, status in sorted(found, key=lambda item: item[1].st_mtime_ns):
                if left <= self._most_bytes:
                    break
                path.unlink()
                left -= status.st_size
            self._brought = 0


class _Interrupted(FetchFailed):
    """The connection failed; a new attempt may succeed."""


class Origin:
    """The server's folder: files by name, of which only the expected bytes are read."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        scheme = self.url.partition("://")[0]
        if "::" in self.url or (scheme in {"http", "https"} and ("?" in self.url or "#" in self.url)):
            raise FetchFailed(f"{url}: expected the plain address of a folder, without ::, ? and #")
        self._streams = scheme in {"http", "https"}
        with self._named(self.url):
            from fsspec.core import url_to_fs

            self._objects = scheme in OBJECT_STORES
            self._files, self._root = url_to_fs(self.url, **(_http_options() if self._streams else {}))

    def manifest(self) -> tuple[Manifest, bytes]:
        """The manifest, parsed and as it is."""
        data = b"".join(self._chunks(MANIFEST, most=MANIFEST_BYTES_LIMIT + 1))
        try:
            return parse_manifest(data), data
        except SchemaMismatch as error:
            raise FetchFailed(f"{self.url}/{MANIFEST}: {error}. Check the address") from error

    def stored_manifest(self) -> bytes | None:
        """The manifest as it is, whatever it says; None where there is none."""
        with self._named(f"{self.url}/{MANIFEST}"):
            path = f"{self._root}/{MANIFEST}"
            self._files.invalidate_cache()
            return bytes(self._files.cat_file(path)) if self._files.exists(path) else None

    def stores(self) -> list[str]:
        """Names of the folders here that hold a store, sorted; of a server that lists its folders."""
        with self._named(self.url):
            names = {str(path).rstrip("/").rpartition("/")[2] for path in self._files.ls(self._root, detail=False)}
            return sorted(name for name in names if self._files.exists(f"{self._root}/{name}/{MANIFEST}"))

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where it is not there."""
        with self._named(f"{self.url}/{name}"):
            path = f"{self._root}/{name}"
            return int(self._files.info(path)["size"]) if self._files.exists(path) else None

    def remove(self, name: str) -> None:
        """Remove a file that is there."""
        with self._named(f"{self.url}/{name}"):
            self._files.rm_file(f"{self._root}/{name}")

    def send(self, file: Path, name: str) -> None:
        """Write a file there, whole, replacing what is there; tried again when the connection breaks."""
        path = f"{self._root}/{name}"
        for attempt in range(TRIES):
            try:
                with self._named(f"{self.url}/{name}"):
                    if not self._objects:
                        self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
                    self._files.put_file(str(file), path)
                return
            except _Interrupted:
                if attempt == TRIES - 1:
                    raise

    def bring_all(self, files: Mapping[str, FileEntry], folder: Path) -> None:
        """Fetch `files` that `folder` lacks, several at once; after a failure no further one is begun."""
        with ThreadPoolExecutor(TRANSFERS) as pool:
            waiting = [pool.submit(self._bring, name, entry, folder / name) for name, entry in files.items()]
            try:
                for one in waiting:
                    one.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _bring(self, name: str, entry: FileEntry, file: Path) -> None:
        """Put one file in its place, whole and as listed, or leave the place as it was."""
        with disk(file, FetchFailed):
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_name(f".{file.name}.partial")
            with held(partial, wait=True) as sink:
                try:
                    if _sound(file, entry):  # from an earlier run, or another process was faster
                        partial.unlink()
                        return
                    self._download(name, entry, sink)
                    partial.replace(file)
                except BaseException:
                    partial.unlink(missing_ok=True)
                    raise

    def _download(self, name: str, entry: FileEntry, sink: IO[bytes]) -> None:
        for attempt in range(TRIES):
            sink.seek(0)
            sink.truncate()
            found, size = hashlib.sha256(), 0
            try:
                for chunk in self._chunks(name, most=entry.bytes, size=entry.bytes):
                    found.update(chunk)
                    size += len(chunk)
                    sink.write(chunk)
                break
            except _Interrupted:
                if attempt == TRIES - 1:
                    raise
        sink.flush()
        if size != entry.bytes or found.hexdigest() != entry.sha256:
            raise FetchFailed(
                f"{self.url}/{name}: expected {entry.bytes} bytes, sha256 {entry.sha256[:12]}; got {size} bytes, "
                f"{found.hexdigest()[:12]}. Run the same again, or ask the store's owner to publish it again"
            )

    def _chunks(self, name: str, *, most: int, size: int | None = None) -> Iterator[bytes]:
        """The first `most` bytes of a file; a file whose stated size is not `size` is refused unread."""
        left = most
        with self._named(f"{self.url}/{name}"), contextlib.closing(self._opened(name, size, most)) as source:
            while left and (chunk := source.read(min(left, READ_BYTES))):
                left -= len(chunk)
                yield chunk

    def _opened(self, name: str, size: int | None, most: int) -> Any:
        path = f"{self._root}/{name}"
        if self._streams:
            # As a stream, which needs no sizes or ranges from the server. Giving a size saves a request for it.
            return self._files.open(path, "rb", block_size=0, size=1)
        found = self._files.info(path)["size"]
        if found > most or (size is not None and found != size):
            raise FetchFailed(
                f"{self.url}/{name}: expected {size if size is not None else f'at most {most}'} bytes; got {found} "
                "bytes. Ask the store's owner to publish it again"
            )
        return self._files.open(path, "rb")

    @contextlib.contextmanager
    def _named(self, what: str) -> Iterator[None]:
        """Make any exception one line: storage drivers may fail in any way."""
        try:
            yield
        except (FetchFailed, MemoryError):
            raise
        except FileNotFoundError:
            raise FetchFailed(f"{what}: is not there. Check the address, or ask the store's owner") from None
        except PermissionError as error:
            raise FetchFailed(
                f"{what}: access denied: {untrusted.shown(str(error))}. Check your credentials"
            ) from error
        except (ImportError, ValueError) as error:  # no driver, no such scheme
            raise FetchFailed(f"{what}: cannot be opened: {untrusted.shown(str(error))}") from error
        except Exception as error:
            said = untrusted.shown(f"{type(error).__name__}: {error}")
            raise _Interrupted(f"{what}: cannot be fetched: {said}. {AGAIN}") from error


def _http_options() -> dict[str, Any]:
    """Options for bytes as stored: a response that the server compressed is not decompressed and fails its hash."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
    headers = {"Accept-Encoding": "identity"}
    return {"client_kwargs": {"auto_decompress": False, "headers": headers, "timeout": timeout}}


def place(data: bytes, file: Path) -> None:
    """Put the manifest in its place, unless it is there."""
    with disk(file, FetchFailed):
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.partial")
        with held(partial, wait=True) as sink:
            if holds(file, data):
                partial.unlink()
                return
            sink.truncate(0)
            sink.write(data)
            sink.flush()
            partial.replace(file)


def _sound(file: Path, entry: FileEntry) -> bool:
    try:
        entry.require(file, remedy="")
    except ShardCorrupt:
        return False
    return True


def sha256(data: bytes) -> str:
    """Hash of bytes, as manifests write it."""
    return hashlib.sha256(data).hexdigest()
