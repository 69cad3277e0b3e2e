"""Bytes of texts as people have them: packed under any name, in any Unicode encoding, with any line end."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.endings import PACKED_ENDINGS
from pipeline.text.documents import decoding
from pipeline.text.documents.decoding import COMPRESSIONS, raw_chunks, raw_lines, text_chunks
from storage.errors import DataError

PACK: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "xz": lzma.compress,
    "bz2": bz2.compress,
    "zst": zstandard.ZstdCompressor().compress,
}
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\ufeff"), max_size=60).filter(
    lambda text: not text.startswith("\0")  # UTF-16-LE's mark and a NUL are the four bytes of UTF-32-LE's mark
)


def ignore(_: int) -> None:
    """No progress."""


def written(folder: Path, content: bytes, name: str = "t.txt") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["plain.txt", "right", "other.gz"])
@pytest.mark.parametrize("form", PACK)
def test_compression_is_known_by_its_bytes_whatever_the_name(tmp_path: Path, form: str, name: str) -> None:
    """Row 23: gzip, xz and bzip2 under a plain name; frames one after the other, with zeros as padding."""
    first, second = b"one line\n" * 1000, b"another\n"
    packed = PACK[form](first) + PACK[form](second) + bytes(8)
    read: list[int] = []
    path = written(tmp_path, packed, f"t.{form}" if name == "right" else name)
    assert b"".join(raw_chunks(path, read.append)) == first + second
    assert sum(read) == len(packed)


@pytest.mark.parametrize("form", PACK)
def test_a_cut_or_changed_archive_is_refused(tmp_path: Path, form: str) -> None:
    whole = PACK[form](bytes(range(1, 256)) * 50)
    with pytest.raises(DataError, match="plain: the compressed file ends too early; it was not copied whole"):
        list(raw_chunks(written(tmp_path, whole[:-5], "plain"), ignore))
    with pytest.raises(DataError, match="plain: cannot be read"):
        list(raw_chunks(written(tmp_path, whole + b"more text that is not packed", "plain"), ignore))


@pytest.mark.parametrize("form", PACK)
def test_a_name_that_promises_an_archive_is_held_to_it(tmp_path: Path, form: str) -> None:
    with pytest.raises(DataError, match=rf"t\.{form}: cannot be read: no .* data, though its name ends in \.{form}"):
        list(raw_chunks(written(tmp_path, b"plain text", f"t.{form}"), ignore))
    assert list(raw_chunks(written(tmp_path, b"", f"t.{form}"), ignore)) == []


@pytest.mark.parametrize("form", PACK)
def test_text_that_repeats_itself_comes_in_bounded_chunks(tmp_path: Path, form: str) -> None:
    """A packed megabyte may hold a gigabyte; 64 MB of it are some 40 kB in gzip and less in the others."""
    size = 64 << 20
    path = written(tmp_path, b"".join(PACK[form](b"a" * (1 << 20)) for _ in range(size >> 20)), "t")
    lengths = [len(chunk) for chunk in raw_chunks(path, ignore)]
    assert sum(lengths) == size
    assert form in ("bz2", "zst") or max(lengths) <= decoding.PACKED_BYTES * 1040 + decoding.CHUNK_BYTES


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@given(text=TEXTS)
def test_utf_16_and_32_with_a_mark_read_as_utf_8(
    tmp_path_factory: pytest.TempPathFactory, encoding: str, text: str
) -> None:
    """Row 21. Chunks of 7 bytes cut characters in two."""
    path = written(tmp_path_factory.mktemp("u"), ("\ufeff" + text).encode(encoding))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "CHUNK_BYTES", 7)
        assert b"".join(text_chunks(path, ignore)).decode() == text


def test_utf_16_that_is_cut_or_says_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t\.txt: begins as UTF-16-LE does, and is none at byte 7: truncated data"):
        list(raw_lines(written(tmp_path, "\ufeffab".encode("utf-16-le") + b"c"), ignore))
    for encoding in ("UTF-16LE", "UTF-16BE"):
        with pytest.raises(DataError, match=rf"looks like {encoding} without a .*iconv -f {encoding} -t UTF"):
            list(raw_lines(written(tmp_path, "text".encode(encoding)), ignore))


@given(lines=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=9), min_size=2))
@pytest.mark.parametrize("chunk_bytes", [1, 5, 1 << 20])
def test_lines_that_end_in_cr_alone_are_lines(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], chunk_bytes: int
) -> None:
    """Row 22. Of a file with other ends, the bytes stay as they are, a CR among them too."""
    folder = tmp_path_factory.mktemp("c")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "CHUNK_BYTES", chunk_bytes)
        lines = ["begin", *lines, "end"]
        for end in ("\r", "\n", "\r\n"):
            path = written(folder, end.join(lines).encode())
            if path.read_bytes()[4:8] in (b"\xff\xfe", b"\xfe\xff"):
                continue
            expected = "\n".join(lines) if end == "\r" else end.join(lines)
            assert b"".join(text_chunks(path, ignore)).decode() == expected
        mixed = written(folder, "\r\n".join(lines).encode() + b"a\rb\n")
        assert b"".join(text_chunks(mixed, ignore)) == mixed.read_bytes()
        old = written(folder, b"a\r\rb\r\nc\r")
        assert list(raw_lines(old, ignore)) == [b"a", b"", b"b", b"c"]


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("t.jsonl", "{}")
    return out.getvalue()


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("t.jsonl"))
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zipped(), "is a ZIP archive or an office document, expected text. Remedy: unzip it"),
        (tarred(), "is a tar archive, expected text. Remedy: unpack it: tar xf t.txt"),
        (b"PAR1 and more", "is Parquet, expected text. Remedy: set kind: parquet"),
        (b"%PDF-1.7", "is PDF, expected text. Remedy: extract its text"),
    ],
)
def test_what_is_no_text_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError) as refused:
        list(raw_lines(written(tmp_path, content), ignore))
    assert message in str(refused.value)


def test_the_endings_of_files_are_those_of_the_compressions() -> None:
    assert {form.ending for form in COMPRESSIONS} == set(PACKED_ENDINGS)
