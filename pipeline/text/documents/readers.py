"""Read texts from common formats: JSON Lines, plain text, Parquet, a data set's folder, WordNet.

Every reader yields one `Found` for each document and one `Rejected` for each record that is none, with its file and
line. Nothing is repaired: the caller counts bad records and knows how many are tolerated. Files of a folder are read in
order of their path. Memory holds one line, one Parquet batch or one part of a text file.

A new format is one more `read_*` function, its endings, and a line in `input_paths` and `input_documents`.
"""

from __future__ import annotations

import codecs
import hashlib
import itertools
import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.text.params import InputParams
from storage.errors import DataError

JSON_LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
PLAIN_TEXT = (".txt", ".txt.gz", ".txt.zst")
PARQUET = (".parquet",)
PAGE_WORDS = 85
"""Words of a WordNet page: with punctuation about 120 tokens, one window of the default length."""

WORDNET = (*(f"{kind}.{pos}" for kind in ("data", "index") for pos in ("adj", "adv", "noun", "verb")), "lexnames")
"""Files that decide the text of synsets; the folder's other files say how it was obtained, and may differ."""

LARGE_FILE_CHARACTERS = 100_000
"""A longer text file, about 40 pages, is cut at its empty lines: else one file would be one document."""

EMPTY_LINES = re.compile(r"((?:\r?\n[ \t]*){2,})")
CHUNK_BYTES = 1 << 20
PARQUET_ROWS = 4096
ZSTD_WINDOW_BYTES = 1 << 31
"""Files compressed with `zstd --long` need more than the decoder's default."""

Advance = Callable[[int], None]
"""Called with the number of file bytes that were read."""


@dataclass(frozen=True, slots=True)
class Found:
    """One document as it stands in the input."""

    where: str
    """File and line."""
    name: str | None
    """Its id in the input, when it has one."""
    source: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """One record that is no document."""

    where: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Fields:
    """Names of a record's fields."""

    text: str
    name: str | None
    """None: "id" where a record has it."""


def input_paths(params: InputParams) -> list[Path]:
    """All files of an input, in the order in which they are read; raises DataError when there is none."""
    path = Path(params.path)
    if params.kind == "dataset":
        return dataset_files(path)
    endings = {"jsonl": JSON_LINES, "text": PLAIN_TEXT, "parquet": PARQUET, "wordnet": WORDNET}
    return input_files(path, endings[params.kind])


def input_documents(params: InputParams, file: Path, advance: Advance) -> Iterator[Found | Rejected]:
    """The documents of one file of an input; of a WordNet, those of its folder."""
    root, fields = Path(params.path), Fields(text=params.text, name=params.id)
    if params.kind == "wordnet":
        yield from read_wordnet(root)
    elif params.kind == "text":
        yield from read_text_file(file, file.relative_to(root).as_posix() if file != root else file.name, advance)
    elif file.name.endswith(PARQUET) or params.kind == "parquet":
        yield from read_parquet(file, fields, advance)
    else:
        yield from read_json_lines(file, fields, advance)


def input_files(path: Path, endings: tuple[str, ...]) -> list[Path]:
    """The file at `path`, or all files of the folder with one of the endings, hidden ones left out, by relative path.

    Raises DataError when there is none.
    """
    if path.is_file():
        return [path]
    found = [
        file
        for file in sorted(path.rglob("*"), key=lambda file: file.relative_to(path).as_posix())
        if file.is_file()
        and file.name.endswith(endings)
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    if not found:
        here = "none in it" if path.is_dir() else "nothing"
        raise DataError(f"{path}: expected a file or a folder with files ending in {', '.join(endings)}, found {here}")
    return found


def dataset_files(path: Path) -> list[Path]:
    """Parquet files of a data set's folder, or JSON Lines when it has no Parquet."""
    for endings in (PARQUET, JSON_LINES):
        try:
            return input_files(path, endings)
        except DataError:
            continue
    raise DataError(f"{path}: expected a data set with {', '.join(PARQUET + JSON_LINES)} files, found none")


def read_json_lines(file: Path, fields: Fields, advance: Advance) -> Iterator[Found | Rejected]:
    """One JSON object a line; empty lines are skipped.

    Raises DataError when the compressed file is damaged.
    """
    for number, line in enumerate(raw_lines(file, advance), start=1):
        where = f"{file}:{number}"
        if not line.strip():
            continue
        try:
            value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except (ValueError, RecursionError) as error:
            yield Rejected(where, f"no JSON in UTF-8: {error}")
            continue
        yield _record(value, fields, where)


def read_parquet(file: Path, fields: Fields, advance: Advance) -> Iterator[Found | Rejected]:
    """One row a document.

    Raises DataError when the file is no Parquet or has no column of the text's name.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as table:
            have = table.schema_arrow.names
            wanted = {fields.text} | ({fields.name} if fields.name else set())
            if not wanted <= set(have):
                raise DataError(
                    f"{file}: expected columns {sorted(wanted)}, got {have}. Set `text` and `id` of the input"
                )
            columns = [name for name in have if name in {*wanted, "id", "source"}]
            row = 0
            for batch in table.iter_batches(batch_size=PARQUET_ROWS, columns=columns):
                for value in batch.to_pylist():
                    row += 1
                    yield _record(value, fields, f"{file}: row {row}")
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: no readable Parquet file: {error}") from error
    advance(file.stat().st_size)


def read_text_file(file: Path, name: str, advance: Advance) -> Iterator[Found | Rejected]:
    """One document; a large file gives one for each block between empty lines, named by a hash of its text.

    Not by its number: an inserted paragraph would renumber every later one and so change its split.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    text, line, large = "", 1, False
    try:
        for chunk in itertools.chain(raw_chunks(file, advance), [b""]):
            text += decoder.decode(chunk, final=not chunk)
            large = large or len(text) > LARGE_FILE_CHARACTERS
            if not large:
                continue
            parts = EMPTY_LINES.split(text)
            # The last part may go on in the next chunk, and so may the empty lines before it where it is empty.
            whole = len(parts) if not chunk else len(parts) - (1 if parts[-1].strip() else 2)
            for part in parts[: max(0, whole)]:
                if part.strip():
                    yield Found(f"{file}:{line}", f"{name}:{hash_name(part.strip())}", None, part)
                line += part.count("\n")
            text = "".join(parts[max(0, whole) :])
    except UnicodeDecodeError as error:
        yield Rejected(str(file), f"not UTF-8: {error}")
        return
    if not large:
        yield Found(str(file), name, None, text)


def read_wordnet(folder: Path) -> Iterator[Found]:
    """Pages of a dictionary: neighbouring synsets of one lexicographer file, a line each, some `PAGE_WORDS` in all.

    A line reads "word, word: definition; example; example."; the page is named after its first synset, its source is
    the file. One gloss alone has about 25 tokens, too few for a context, and neighbours in WordNet's files are related.
    """
    from pipeline.sources.wordnet import open_wordnet

    page = Page(folder)
    for synset in open_wordnet(folder).all_synsets():
        words = ", ".join(name.replace("_", " ") for name in synset.lemma_names())
        text = f"{words}: {'; '.join([synset.definition(), *synset.examples()])}"
        line = text.rstrip(" ;.") + "."
        if not page.takes(line, synset.lexname()):
            yield page.found()
            page = Page(folder)
        page.add(line, synset.name(), synset.lexname())
    if page.lines:
        yield page.found()


class Page:
    """Lines of one lexicographer file, in order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = self.source = ""
        self.lines: list[str] = []

    def takes(self, line: str, source: str) -> bool:
        """True while the line belongs here: the first always does."""
        words = sum(len(held.split()) for held in self.lines) + len(line.split())
        return not self.lines or (words <= PAGE_WORDS and source == self.source)

    def add(self, line: str, name: str, source: str) -> None:
        """Put a line at the end."""
        self.name, self.source = self.name or name, source
        self.lines.append(line)

    def found(self) -> Found:
        """The page as a document."""
        return Found(f"{self.folder}: {self.name}", self.name, self.source, "\n".join(self.lines))


def hash_name(text: str) -> str:
    """A name for a text without one: 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _record(value: Any, fields: Fields, where: str) -> Found | Rejected:
    if not isinstance(value, dict):
        return Rejected(where, f"expected an object, got {type(value).__name__}")
    text = value.get(fields.text)
    if not isinstance(text, str):
        return Rejected(
            where, f"expected a string in field '{fields.text}', got {text!r:.60} (has {sorted(value)[:8]})"
        )
    name = value.get(fields.name or "id")
    if isinstance(name, bool) or not isinstance(name, str | int | None) or (fields.name and name in (None, "")):
        return Rejected(where, f"expected a string or whole number in field '{fields.name or 'id'}', got {name!r:.60}")
    source = value.get("source")
    found = Found(
        where, str(name) if name not in (None, "") else None, source if isinstance(source, str) else None, text
    )
    try:
        "".join((found.text, found.name or "", found.source or "")).encode()
    except UnicodeEncodeError:
        return Rejected(where, "holds half of a surrogate pair (\\ud800 to \\udfff), which is no character")
    return found


def raw_lines(file: Path, advance: Advance) -> Iterator[bytes]:
    """Decompressed lines without their ends; raises DataError as `raw_chunks` does."""
    rest = b""
    for chunk in raw_chunks(file, advance):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    if rest:
        yield rest


def raw_chunks(file: Path, advance: Advance) -> Iterator[bytes]:
    """Decompressed bytes; a file that ends too early is refused: half a corpus looks like a whole one."""
    zstd = file.name.endswith(".zst")
    decoder: Any = _Zstd() if zstd else _Gzip() if file.name.endswith(".gz") else None
    try:
        with file.open("rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                advance(len(chunk))
                yield decoder.decompress(chunk) if decoder else chunk
        if decoder and not decoder.ended:
            raise DataError(f"{file}: the compressed file ends too early; it was not copied whole")
    except (OSError, zlib.error) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error


class _Frames:
    """Decodes a sequence of compressed frames; library decoders stop silently after the first, or at a cut."""

    def __init__(self) -> None:
        self._decoder = self._new()
        self._began = False

    def _new(self) -> Any:
        raise NotImplementedError

    @property
    def ended(self) -> bool:
        """True when the bytes so far end with a frame."""
        return not self._began

    def decompress(self, chunk: bytes) -> bytes:
        out = []
        while chunk:
            self._began = True
            out.append(self._decoder.decompress(chunk))
            chunk = self._decoder.unused_data
            if self._decoder.eof:
                self._decoder, self._began = self._new(), False
        return b"".join(out)


class _Gzip(_Frames):
    def _new(self) -> Any:
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)


class _Zstd(_Frames):
    def _new(self) -> Any:
        import zstandard

        return zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES).decompressobj()

    def decompress(self, chunk: bytes) -> bytes:
        import zstandard

        try:
            return super().decompress(chunk)
        except zstandard.ZstdError as error:
            raise OSError(error) from error
