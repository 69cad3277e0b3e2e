"""Read texts from common formats: JSON Lines, plain text, CSV, TSV, Parquet, a data set's folder, WordNet.

Every reader yields one `Found` for each document and one `Rejected` for each record that is none, with its file and
line. Nothing is repaired: the caller counts bad records and knows how many are tolerated. Files of a folder are read in
order of their path. Memory holds one line, one record, one Parquet batch or one part of a text file.

A new format is one more `read_*` function, its endings in `pipeline.text.documents.files`, and a line in `READERS`.
"""

from __future__ import annotations

import codecs
import hashlib
import itertools
import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pipeline.text.documents.decoding import Advance, not_utf8, raw_lines, text_chunks
from pipeline.text.documents.files import ENDINGS, input_files, kind_of, skipped, visible_files
from pipeline.text.documents.records import Fields, Found, Rejected, record
from pipeline.text.documents.tables import read_csv, read_parquet, read_tsv
from pipeline.text.params import InputParams

PAGE_WORDS = 85
"""Words of a WordNet page: with punctuation about 120 tokens, one window of the default length."""

LARGE_FILE_CHARACTERS = 100_000
"""A longer text file, about 40 pages, is cut at its empty lines: else one file would be one document."""

EMPTY_LINES = re.compile(r"((?:\r?\n[ \t]*){2,})")
JOINED = "\n\N{ZERO WIDTH NO-BREAK SPACE}"
"""A byte order mark at the beginning of a line: files were joined."""


def input_paths(params: InputParams) -> list[Path]:
    """All files of an input, in the order in which they are read; raises DataError when there is none."""
    return input_files(Path(params.path), *ENDINGS[params.kind])


def skipped_files(params: InputParams) -> Counter[str]:
    """How many files of the input's folder are not read, by ending; hidden ones are not counted."""
    path = Path(params.path)
    if params.kind == "wordnet" or not path.is_dir():
        return Counter()
    return skipped(visible_files(path), input_paths(params))


def input_documents(params: InputParams, file: Path, advance: Advance) -> Iterator[Found | Rejected]:
    """The documents of one file of an input; of a WordNet, those of its folder."""
    root, fields = Path(params.path), Fields(text=params.text, name=params.id)
    if params.kind == "wordnet":
        return read_wordnet(root)
    return read_file(kind_of(file) if params.kind == "dataset" else params.kind, file, root, fields, advance)


def read_file(kind: str, file: Path, root: Path, fields: Fields, advance: Advance) -> Iterator[Found | Rejected]:
    """The documents of a file of `kind` at or below `root`; raises DataError when it cannot be read."""
    if kind == "text":
        return read_text_file(file, file.relative_to(root).as_posix() if file != root else file.name, advance)
    return READERS[kind](file, fields, advance)


def read_json_lines(file: Path, fields: Fields, advance: Advance) -> Iterator[Found | Rejected]:
    """One JSON object a line; empty lines are skipped.

    Raises DataError as `text_chunks` does.
    """
    for number, raw in enumerate(raw_lines(file, advance), start=1):
        where = f"{file}:{number}"
        line = raw.removeprefix(codecs.BOM_UTF8)  # files that were joined have a mark at each seam
        if not line.strip():
            continue
        try:
            value = json.loads(line.decode())
        except UnicodeDecodeError as error:
            yield Rejected(where, f"no JSON in UTF-8: {not_utf8(file, error, of='the line')}")
        except (ValueError, RecursionError) as error:
            yield Rejected(where, f"no JSON in UTF-8: {error}{_other_layout(file, line, number)}")
        else:
            hint = _other_layout(file, line, number) if isinstance(value, list) else ""
            found = record(value, fields, where)
            yield Rejected(where, found.reason + hint) if hint and isinstance(found, Rejected) else found


def _other_layout(file: Path, line: bytes, number: int) -> str:
    """What to do with JSON that is not one object a line, where the first line shows that."""
    array = line.lstrip().startswith(b"[")
    if number > 1 or not (array or line.strip() == b"{"):
        return ""
    query = "'.[]'" if array else "."
    name, to = shlex.quote(file.name), shlex.quote(f"{file.name.partition('.')[0]}.lines.jsonl")
    return f". Expected one object a line. Convert the file: jq -c {query} {name} > {to}"


def read_text_file(file: Path, name: str, advance: Advance) -> Iterator[Found | Rejected]:
    """One document; a large file gives one for each block between empty lines, named by a hash of its text.

    Not by its number: an inserted paragraph would renumber every later one and so change its split.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    text, line, large, read = "", 1, False, 0
    chunk = b""
    try:
        for chunk in itertools.chain(text_chunks(file, advance), [b""]):
            text = (text + decoder.decode(chunk, final=not chunk)).replace(JOINED, "\n")
            read += len(chunk)
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
        before = error.object[: error.start].decode()
        line += text.count("\n") + before.count("\n")
        held = len(error.object) - len(chunk)
        yield Rejected(f"{file}:{line}", not_utf8(file, error, of="the file", before=read - held))
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


READERS = {"jsonl": read_json_lines, "csv": read_csv, "tsv": read_tsv, "parquet": read_parquet}
"""By kind of file; text and WordNet are named by their files."""
