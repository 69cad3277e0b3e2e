"""Bytes of a text file as lines of UTF-8, however they were compressed, encoded and ended.

Compression is recognised by its first bytes and not by the file's name, for names get lost. UTF-16 and UTF-32 are
recognised by their byte order mark. Lines may end in LF, CR LF, or CR alone. Memory holds some megabytes, or the
longest line. What is no text, such as a ZIP archive, is refused with what to do.
"""

from __future__ import annotations

import bz2
import codecs
import lzma
import re
import shlex
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.errors import DataError

CHUNK_BYTES = 1 << 20
PACKED_BYTES = 1 << 16
"""Compressed bytes that are unpacked at once: text that repeats itself grows a thousandfold."""
ZSTD_WINDOW_BYTES = 1 << 31
"""Files compressed with `zstd --long` need more than the decoder's default."""

FIRST_BREAK = re.compile(rb"[\r\n]+")

Advance = Callable[[int], None]
"""Called with the number of file bytes that were read."""


def _zstd() -> Any:
    import zstandard

    return zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES).decompressobj()


@dataclass(frozen=True, slots=True)
class Compression:
    """A format of compressed frames."""

    name: str
    ending: str
    magic: re.Pattern[bytes]
    """What each frame begins with."""
    decoder: Callable[[], Any]
    """Of one frame: `decompress`, `eof` and `unused_data`, as in the standard library."""
    command: str
    """Writes the content to standard output."""


COMPRESSIONS = (
    Compression(
        "gzip", ".gz", re.compile(rb"\x1f\x8b\x08"), lambda: zlib.decompressobj(wbits=zlib.MAX_WBITS | 16), "gzip -dc"
    ),
    Compression("xz", ".xz", re.compile(rb"\xfd7zXZ\x00"), lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ), "xz -dc"),
    # After the size stands the number of a block or, in an empty file, of the end: text that begins with BZh has none.
    Compression(
        "bzip2", ".bz2", re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), bz2.BZ2Decompressor, "bzip2 -dc"
    ),
    # Skippable frames come first in what pzstd writes.
    Compression("zstd", ".zst", re.compile(rb"(\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18)"), _zstd, "zstd -dc"),
)  # fmt: skip

ENCODINGS = (
    # The mark of UTF-32 begins with that of UTF-16, so it is looked for first.
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

FOREIGN = (
    (b"PK\x03\x04", "a ZIP archive or an office document", "unzip it, or save a table as CSV and set kind: csv"),
    (b"PAR1", "Parquet", "set kind: parquet"),
    (b"ARROW1", "an Arrow file", "write it as Parquet and set kind: parquet"),
    (b"%PDF-", "PDF", "extract its text: pdftotext FILE"),
    (b"7z\xbc\xaf'\x1c", "a 7-Zip archive", "unpack it: 7z x FILE"),
    (b"Rar!\x1a\x07", "a RAR archive", "unpack it: unrar x FILE"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old office document", "save a table as CSV and set kind: csv"),
    (b"\x04\x22\x4d\x18", "compressed by lz4", "unpack it: lz4 -d FILE"),
    (b"\x1f\x9d", "compressed by compress", "unpack it: gzip -d FILE"),
)
"""First bytes of what is no text, what it is, and what to do."""

TAR_MAGIC = slice(257, 262)


def raw_lines(file: Path, advance: Advance) -> Iterator[bytes]:
    """Lines as UTF-8, unpacked, without LF at their ends; raises DataError as `text_chunks` does."""
    rest = b""
    for chunk in text_chunks(file, advance):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    if rest:
        yield rest


def text_chunks(file: Path, advance: Advance) -> Iterator[bytes]:
    """The file's text as it is where that is UTF-8, else as UTF-8; LF instead of CR where lines end in CR alone.

    A byte order mark of UTF-8 stays. Raises DataError when the file is no text, UTF-16 that says so but is none or
    does not say so, and as `raw_chunks`.
    """
    return _with_line_feeds(_as_utf8(file, raw_chunks(file, advance)))


def raw_chunks(file: Path, advance: Advance) -> Iterator[bytes]:
    """Decompressed bytes; a file that ends too early is refused: half a corpus looks like a whole one."""
    try:
        with file.open("rb") as stream:
            form = _compression(file, stream.peek())
            frames = _Frames(form) if form else None
            while chunk := stream.read(CHUNK_BYTES):
                advance(len(chunk))
                yield from frames.unpacked(chunk) if frames else [chunk]
        if frames and frames.cut:
            raise DataError(f"{file}: the compressed file ends too early; it was not copied whole")
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error


def not_utf8(file: Path, error: UnicodeDecodeError, *, of: str, before: int = 0) -> str:
    """Which byte is no UTF-8, and how to convert the file.

    of says what the byte is counted in ("line 7"), of which `before` bytes stand before what was decoded.
    """
    place = before + error.start
    stem, dot, ending = file.name.partition(".")
    packed = next((form for form in COMPRESSIONS if file.name.lower().endswith(form.ending)), None)
    to = shlex.quote(f"{stem}.utf8{dot}{ending.rpartition('.')[0] if packed else ending}")
    name = shlex.quote(file.name)
    read = (
        f"{packed.command} {name} | iconv -f {_guess(error.object)}" if packed else f"iconv -f {_guess(error.object)}"
    )
    return (
        f"byte {place + 1} of {of} is 0x{error.object[error.start]:02x}, which is no UTF-8. Convert the file: "
        f"{read} -t UTF-8 {'' if packed else f'{name} '}> {to} (or from the encoding that it has)"
    )


def _guess(raw: bytes) -> str:
    """The likelier of the two encodings that most such files have."""
    try:
        raw.decode("cp1252")
    except UnicodeDecodeError:
        return "ISO-8859-1"
    return "WINDOWS-1252"


def _compression(file: Path, head: bytes) -> Compression | None:
    """How a file is compressed, by its first bytes; raises OSError when its name says so and the bytes do not."""
    for form in COMPRESSIONS:
        if form.magic.match(head):
            return form
    for form in COMPRESSIONS:
        if head and file.name.lower().endswith(form.ending):
            raise OSError(f"no {form.name} data, though its name ends in {form.ending}. If it is text, rename it")
    return None


def _as_utf8(file: Path, chunks: Iterable[bytes]) -> Iterator[bytes]:
    decoder, read = None, 0
    for number, raw in enumerate(chunks):
        chunk = raw
        if not number:
            _refuse_foreign(file, chunk)
            mark, encoding = next((pair for pair in ENCODINGS if chunk.startswith(pair[0])), (b"", ""))
            if encoding:
                decoder, read = codecs.getincrementaldecoder(encoding)(), len(mark)
                chunk = chunk[len(mark) :]
        if decoder is None:
            yield chunk
            continue
        yield _decoded(file, decoder, chunk, read, final=False)
        read += len(chunk)
    if decoder is not None:
        yield _decoded(file, decoder, b"", read, final=True)


def _decoded(file: Path, decoder: codecs.IncrementalDecoder, chunk: bytes, before: int, *, final: bool) -> bytes:
    try:
        return decoder.decode(chunk, final).encode()
    except UnicodeDecodeError as error:
        place = before - (len(error.object) - len(chunk)) + error.start + 1
        raise DataError(
            f"{file}: begins as {error.encoding.upper()} does, and is none at byte {place}: {error.reason}. "
            "Copy it whole, or write it as UTF-8"
        ) from error


def _refuse_foreign(file: Path, head: bytes) -> None:
    for magic, what, remedy in FOREIGN:
        if head.startswith(magic):
            raise DataError(f"{file}: is {what}, expected text. Remedy: {remedy}")
    if head[TAR_MAGIC] == b"ustar":
        raise DataError(f"{file}: is a tar archive, expected text. Remedy: unpack it: tar xf {shlex.quote(file.name)}")
    zero = [byte == 0 for byte in head[:4]]
    if zero in ([False, True, False, True], [True, False, True, False]):
        encoding = "UTF-16LE" if zero[1] else "UTF-16BE"
        raise DataError(
            f"{file}: looks like {encoding} without a byte order mark, expected UTF-8. Convert it: "
            f"iconv -f {encoding} -t UTF-8 {shlex.quote(file.name)}"
        )


def _with_line_feeds(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """LF for CR and CR LF where the first line ends in CR alone; else the chunks as they are."""
    alone: bool | None = None
    held = b""
    for raw in chunks:
        chunk, held = held + raw, b""
        if alone is None and (first := FIRST_BREAK.search(chunk)):
            alone = None if first.end() == len(chunk) and b"\n" not in first.group() else b"\n" not in first.group()
            if alone is None:  # the next chunk may begin with LF
                held = chunk
                continue
        if alone and chunk.endswith(b"\r"):
            chunk, held = chunk[:-1], b"\r"
        yield chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if alone else chunk
    if held:
        yield held.replace(b"\r", b"\n")


class _Frames:
    """Decodes a sequence of compressed frames; library decoders stop silently after the first, or at a cut."""

    def __init__(self, form: Compression) -> None:
        self._form = form
        self._decoder = form.decoder()
        self._began = False

    @property
    def cut(self) -> bool:
        """True when the bytes so far end within a frame."""
        return self._began

    def unpacked(self, chunk: bytes) -> Iterator[bytes]:
        """What so many more bytes hold, a megabyte or more at a time but for the last."""
        held: list[bytes] = []
        size = 0
        for start in range(0, len(chunk), PACKED_BYTES):
            held.append(self._decompress(chunk[start : start + PACKED_BYTES]))
            size += len(held[-1])
            if size >= CHUNK_BYTES:
                yield b"".join(held)
                held, size = [], 0
        if size:
            yield b"".join(held)

    def _decompress(self, chunk: bytes) -> bytes:
        import zstandard

        out = []
        # Zeros between frames and after the last are padding.
        while chunk := chunk if self._began else chunk.lstrip(b"\0"):
            self._began = True
            try:
                out.append(self._decoder.decompress(chunk))
            except zstandard.ZstdError as error:
                raise OSError(error) from error
            chunk = self._decoder.unused_data
            if self._decoder.eof:
                self._decoder, self._began = self._form.decoder(), False
        return b"".join(out)
