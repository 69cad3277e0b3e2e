"""One file for a whole store: a tar archive that anyone can open, and that is checked before anything is published.

`pack` writes the manifest first, then every file that it lists, by name, without compression (arrays are compressed
already) and without owners or times: equal stores give equal archives. `unpack` takes an untrusted archive. It
reads one header at a time and accepts only plain files that the manifest lists, with their size and SHA-256; anything
else ends the import. Files are written into a hidden folder beside the output and renamed at the end, so that a
killed import leaves nothing at the output and is simply run again.

Both read the bytes once; memory does not grow with the store. Format: POSIX ustar headers; sizes of 8 GiB and
more in base 256, as GNU tar writes them.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import shutil
import stat
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from storage.atomic import disk, held, holds, staged
from storage.errors import ArchiveRefused, SchemaMismatch, ShardCorrupt, StoreError
from storage.format import untrusted
from storage.format.manifest import MANIFEST, MANIFEST_BYTES_LIMIT, FileEntry, Manifest
from storage.format.manifest_parse import parse_manifest, read_manifest
from storage.format.untrusted import Refused

log = logging.getLogger(__name__)


BLOCK = tarfile.BLOCKSIZE
READ_BYTES = 1024 * 1024
"""Bytes read and written at a time."""
USTAR_SIZE_LIMIT = 8**11
"""Sizes from here on do not fit the octal field of a header."""
END_BYTES_LIMIT = tarfile.RECORDSIZE + BLOCK
"""Most zeros at the end: two blocks, and what fills a record."""
MODE = 0o644
KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.DIRTYPE: "a folder",
}
"""Members that are no files, for messages; folders follow from the names of files."""

MAKE_AGAIN = "Nothing was exported. Fetch or make the store again"
FETCH_AGAIN = "Nothing was published. Fetch the archive again, or ask its owner to export it again"


def pack(store: Path, out: Path) -> Manifest:
    """Write the store at `store`, of any kind, as one archive to `out`, replacing what is there.

    Files that the manifest does not list stay behind. Raises StoreMissing or SchemaMismatch without a sound manifest,
    ShardCorrupt when a file changed since sealing, ArchiveRefused when `out` is a folder or lies in the store,
    WorkBusy when another process writes it, and DiskRefused; `out` then is what it was.
    """
    manifest = read_manifest(store)
    if out.is_dir() or store.resolve() in out.resolve().parents:
        raise ArchiveRefused(f"{out}: a folder, or in the store itself; expected the name of a file elsewhere")
    with disk(out, ArchiveRefused):
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = out.with_name(f".{out.name}.export")
        with held(partial, wait=False) as sink:
            try:
                sink.truncate(0)
                data = (store / MANIFEST).read_bytes()
                _write_member(sink, store, MANIFEST, io.BytesIO(data), FileEntry(bytes=len(data), sha256=_sha256(data)))
                for name, entry in sorted(_listed(manifest).items()):
                    with _plain_file(store, name) as source:
                        _write_member(sink, store, name, source, entry)
                sink.write(bytes(2 * BLOCK))
                sink.write(bytes(-sink.tell() % tarfile.RECORDSIZE))
                sink.flush()
                partial.replace(out)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
    return manifest


def unpack(archive: Path, out: Path) -> Manifest:
    """Publish the store in `archive` at `out`, whole and checked, or not at all.

    Where the same store is at `out` already, it is checked and left as it is. Raises ArchiveRefused for another thing
    there and for anything in the archive that `pack` does not write, ShardCorrupt when the store there is damaged,
    WorkBusy when another process imports to `out`, and DiskRefused.
    """
    with disk(archive, ArchiveRefused), _opened(archive) as stream:
        members = _Members(archive, stream)
        manifest, data = members.manifest()
        listed = _listed(manifest)
        if there_already(out, data, listed, origin=str(archive), refusal=ArchiveRefused):
            return manifest
        with staged(out, purpose="import", keep=False) as workshop:
            content = workshop / "content"
            shutil.rmtree(content, ignore_errors=True)  # a killed import left it
            content.mkdir()
            (content / MANIFEST).write_bytes(data)
            members.extract(listed, content)
            content.rename(out)
    return manifest


class _Members:
    """The members of an archive, one after the other; nothing but their own bytes is read."""

    def __init__(self, path: Path, stream: IO[bytes]) -> None:
        self._path = path
        self._stream = stream

    def manifest(self) -> tuple[Manifest, bytes]:
        """The first member, which must be a sound manifest of files that the archive is large enough to hold."""
        header = self._header()
        if header is None or (header.name, header.type) != (MANIFEST, tarfile.REGTYPE):
            found = "nothing" if header is None else untrusted.shown(header.name)
            raise self._refused(f"expected {MANIFEST} as its first member, got {found}")
        if not 0 <= header.size <= MANIFEST_BYTES_LIMIT:
            raise self._refused(f"a manifest of {header.size} bytes; at most {MANIFEST_BYTES_LIMIT} are read")
        data = self._exactly(header.size, MANIFEST)
        self._padding(header.size, MANIFEST)
        try:
            manifest = parse_manifest(data)
        except SchemaMismatch as error:
            raise self._refused(f"{MANIFEST}: {error}") from error
        listed = _listed(manifest)
        for name in listed:
            if any(folder.as_posix() in listed for folder in Path(name).parents):
                raise self._refused(f"{name} is listed in the folder of a file")
        left = os.fstat(self._stream.fileno()).st_size - self._stream.tell()
        needed = sum(BLOCK + entry.bytes + -entry.bytes % BLOCK for entry in listed.values())
        if left < needed:
            raise self._refused(f"truncated: {left} bytes follow the manifest, which lists {needed}")
        return manifest, data

    def extract(self, listed: dict[str, FileEntry], content: Path) -> None:
        """Write every listed file into the empty folder `content`; refuses whatever is not such a file."""
        left = dict(listed)
        while (header := self._header()) is not None:
            name = self._admitted(header, listed, left)
            file = content / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("xb") as sink:
                try:
                    copied = _copy(self._stream, sink, listed[name])
                except Refused as error:
                    raise self._refused(f"{name}: {error}") from None
            assert copied == header.size
            self._padding(header.size, name)
        if left:
            raise self._refused(f"{len(left)} of {len(listed)} files are missing, first {min(left)}")
        self._end()

    def _admitted(self, header: tarfile.TarInfo, listed: dict[str, FileEntry], left: dict[str, FileEntry]) -> str:
        """The name of a member that may be written, taken out of `left`."""
        if header.type != tarfile.REGTYPE:
            what = KINDS.get(header.type, f"a member of type {untrusted.shown(header.type.decode('latin-1'))}")
            raise self._refused(f"{untrusted.shown(header.name)}: {what}; a store consists of plain files")
        try:
            name = untrusted.path(header.name, "a member")
        except Refused as error:
            raise self._refused(str(error)) from None
        if name not in listed:
            raise self._refused(f"{name} is not listed in the manifest")
        if name not in left:
            raise self._refused(f"{name} is there twice")
        expected = left.pop(name).bytes
        if header.size != expected:
            raise self._refused(f"{name}: expected {expected} bytes, got {header.size}")
        return name

    def _header(self) -> tarfile.TarInfo | None:
        """The next header; None where the end begins. Only its description: nothing is followed or allocated."""
        block = self._stream.read(BLOCK)
        if block == bytes(BLOCK):
            return None
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise self._refused(f"no tar header {len(block)} bytes before {self._stream.tell()} ({error})") from None

    def _end(self) -> None:
        rest = self._stream.read(END_BYTES_LIMIT + 1)
        if len(rest) > END_BYTES_LIMIT or rest.strip(b"\0"):
            raise self._refused("something follows its end")

    def _padding(self, size: int, name: str) -> None:
        self._exactly(-size % BLOCK, name)

    def _exactly(self, size: int, name: str) -> bytes:
        data = self._stream.read(size)
        if len(data) != size:
            raise self._refused(f"truncated in {name}")
        return data

    def _refused(self, what: str) -> ArchiveRefused:
        return ArchiveRefused(f"{self._path}: {what}. {FETCH_AGAIN}")


def _listed(manifest: Manifest) -> dict[str, FileEntry]:
    return manifest.files | {name: entry for shard in manifest.shards for name, entry in shard.files.items()}


def _write_member(sink: IO[bytes], store: Path, name: str, source: IO[bytes], entry: FileEntry) -> None:
    """Header, bytes and padding of one file; raises ShardCorrupt when `source` is not `entry`."""
    sink.write(_header_of(store, name, entry.bytes))
    try:
        _copy(source, sink, entry)
        if source.read(1):
            raise Refused(f"expected {entry.bytes} bytes, got more")
    except Refused as error:
        raise ShardCorrupt(f"{store / name}: {error}. {MAKE_AGAIN}") from None
    sink.write(bytes(-entry.bytes % BLOCK))


def _header_of(store: Path, name: str, size: int) -> bytes:
    header = tarfile.TarInfo(name)
    header.size, header.mode = size, MODE
    try:
        if size < USTAR_SIZE_LIMIT:
            return header.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
        block = header.tobuf(tarfile.GNU_FORMAT, "ascii", "strict")
        if len(block) > BLOCK:
            raise ValueError("name is too long")
    except ValueError as error:
        raise ArchiveRefused(
            f"{store / name}: cannot stand in a tar header ({error}). Copy the folder instead"
        ) from None
    return block


def _copy(source: IO[bytes], sink: IO[bytes], entry: FileEntry) -> int:
    """Copy as many bytes as `entry` has; raises Refused when there are fewer, or others."""
    found = hashlib.sha256()
    left = entry.bytes
    while left:
        chunk = source.read(min(left, READ_BYTES))
        if not chunk:
            raise Refused(f"expected {entry.bytes} bytes, got {entry.bytes - left}")
        found.update(chunk)
        sink.write(chunk)
        left -= len(chunk)
    if found.hexdigest() != entry.sha256:
        raise Refused(f"expected sha256 {entry.sha256[:12]}, got {found.hexdigest()[:12]}")
    return entry.bytes


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _plain_file(store: Path, name: str) -> IO[bytes]:
    """The file `name` of a store, opened; raises ShardCorrupt when it or a folder before it is a link or no file."""
    path = store
    for part in name.split("/"):
        path /= part
        if path.is_symlink():
            raise ShardCorrupt(f"{path}: a symbolic link; a store consists of plain files. {MAKE_AGAIN}")
    if not path.is_file():
        raise ShardCorrupt(f"{path}: missing, or no plain file. {MAKE_AGAIN}")
    return path.open("rb")


def _opened(archive: Path) -> IO[bytes]:
    """The archive, for reading; a pipe or a device, which could block or never end, is refused unopened."""
    if not stat.S_ISREG(archive.stat().st_mode):
        raise ArchiveRefused(f"{archive}: no plain file; expected an archive made by export")
    return archive.open("rb")


def there_already(
    out: Path, data: bytes, listed: Mapping[str, FileEntry], *, origin: str, refusal: type[StoreError]
) -> bool:
    """Whether the store of the manifest `data` with the files `listed` is at `out`, whole; False when nothing is there.

    Hashes its files, because a manifest does not show what was changed later. Raises `refusal` when another thing
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
