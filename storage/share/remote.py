"""Stores behind URLs: s3://, gs://, https://, file://, memory:// and whatever else fsspec reads.

The manifest is fetched first and has size and SHA-256 of every other file. The server is not trusted: of a file no more
bytes are read than the manifest says, and it gets its name in the cache only when its hash is right. A file is fetched
once, when it is first read, also where several processes share the cache: the others wait.

The cache has one folder for every manifest, named by its hash. So an updated store is another folder, and a cached file
never becomes wrong. Such a folder is an incomplete store; it may be deleted while no reader is open.

Fetching costs the transfer, one hash as the bytes arrive, and one when the reader checks the file as usual. A scheme
needs its fsspec package (s3fs, gcsfs, aiohttp for https), which also finds the credentials.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, TypeVar

from storage.atomic import disk, held, holds, staged
from storage.errors import FetchFailed, SchemaMismatch, ShardCorrupt
from storage.format import untrusted
from storage.format.manifest import MANIFEST, MANIFEST_BYTES_LIMIT, FileEntry, Manifest
from storage.format.manifest_parse import parse_manifest
from storage.reader import Store
from storage.records.base import Record
from storage.share.archive import there_already

R = TypeVar("R", bound=Record)

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


def open_remote(url: str, record: type[R], *, cache: Path) -> Store[R]:
    """Open the store of records `record` at `url`; its files are fetched into `cache` when they are first read.

    Raises FetchFailed when there is no sound manifest, WrongKind or SchemaMismatch for another store; reading then
    raises FetchFailed and DiskRefused beside what `Store` raises.
    """
    origin = _Origin(url)
    manifest, data = origin.manifest()
    folder = cache / f"{manifest.kind}-{_sha256(data)[:NAME_CHARACTERS]}"
    _place(data, folder / MANIFEST)
    return _RemoteStore(folder, record, origin)


def fetch(url: str, out: Path) -> None:
    """Download the whole store at `url`, of any kind, and publish it at `out`: checked, whole or not at all.

    Where the same store is at `out` already, it is checked and left as it is. An interrupted fetch continues. Raises
    FetchFailed, also for another thing at `out`, ShardCorrupt when the store there is damaged, DiskRefused, and
    WorkBusy when another process fetches to `out`.
    """
    origin = _Origin(url)
    manifest, data = origin.manifest()
    listed = manifest.files | {name: entry for shard in manifest.shards for name, entry in shard.files.items()}
    with disk(out, FetchFailed):
        if there_already(out, data, listed, origin=url, refusal=FetchFailed):
            return
        with staged(out, purpose="fetch", keep=True) as workshop:
            content = workshop / _sha256(data)[:NAME_CHARACTERS]
            content.mkdir(exist_ok=True)
            origin.bring_all(listed, content)
            _place(data, content / MANIFEST)
            content.rename(out)


class _RemoteStore(Store[R]):
    """A store whose folder is filled as it is read."""

    def __init__(self, path: Path, record: type[R], origin: _Origin) -> None:
        self._origin = origin
        super().__init__(path, record, remedy=f"Ask the owner of {origin.url} to publish it again")

    def _check_files(self, files: dict[str, FileEntry]) -> None:
        lacking = {}
        for name, entry in files.items():
            try:
                super()._check_files({name: entry})
            except ShardCorrupt:  # not there yet, or the cache was damaged
                lacking[name] = entry
        self._origin.bring_all(lacking, self.path)
        super()._check_files(lacking)


class _Interrupted(FetchFailed):
    """The connection failed; a new attempt may succeed."""


class _Origin:
    """The server's folder: files by name, of which only the expected bytes are read."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        scheme = self.url.partition("://")[0]
        if "::" in self.url or (scheme in {"http", "https"} and ("?" in self.url or "#" in self.url)):
            raise FetchFailed(f"{url}: expected the plain address of a folder, without ::, ? and #")
        self._streams = scheme in {"http", "https"}
        with self._named(self.url):
            from fsspec.core import url_to_fs

            self._files, self._root = url_to_fs(self.url, **(_http_options() if self._streams else {}))

    def manifest(self) -> tuple[Manifest, bytes]:
        """The manifest, parsed and as it is."""
        data = b"".join(self._chunks(MANIFEST, most=MANIFEST_BYTES_LIMIT + 1))
        try:
            return parse_manifest(data), data
        except SchemaMismatch as error:
            raise FetchFailed(f"{self.url}/{MANIFEST}: {error}. Check the address") from error

    def bring_all(self, files: dict[str, FileEntry], folder: Path) -> None:
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


def _place(data: bytes, file: Path) -> None:
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


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
