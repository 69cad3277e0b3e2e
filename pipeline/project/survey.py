"""What a text on disk is: its kind, the columns that hold text and ids, and about how much there is.

A guess for `cohesive init`, from names and from the first documents; `ingest` reads what params.yaml then says.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from pipeline.core.endings import PACKED_ENDINGS
from pipeline.text.documents.decoding import raw_lines
from pipeline.text.documents.files import ENDINGS, has_ending, kind_of, visible_files
from pipeline.text.documents.readers import input_documents, input_paths, skipped_files
from pipeline.text.documents.records import Rejected
from pipeline.text.documents.tables import DELIMITERS
from pipeline.text.params import InputParams
from storage.errors import DataError

Kind = Literal["jsonl", "text", "csv", "tsv", "parquet"]
KINDS = ("jsonl", "text", "csv", "tsv", "parquet")

SAMPLE_DOCUMENTS = 2000
SAMPLE_ROWS = 100
"""Records in which the column of the text is looked for."""

CHARACTERS_A_TOKEN = 4.5
"""Of English and a WordPiece vocabulary, spaces included; good enough to choose a share of a text by."""
UNPACKED = 3
"""Times that text grows when it is unpacked, about."""

LONGEST_NAME = 60
"""Characters of a column's name; what is longer is likely text."""
SENTENCE_WORDS = 3
"""Words from which a name that ends as a sentence does is likely one."""
JSON_BEGIN = re.compile(rb"\{|\[\s*([{\"]|$)")
"""How the first line of a file of JSON begins: Lines, one object over several lines, or an array."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Surveyed:
    """One text."""

    params: InputParams
    documents: int
    """Exact up to SAMPLE_DOCUMENTS, beyond that estimated from the size of the files."""
    tokens: int
    """About."""
    exact: bool
    columns: tuple[str, ...]
    """Those with text, of a table or of JSON Lines; the first is `params.text`."""
    left: Counter[str] = field(default_factory=Counter)
    """Files of a folder that are not read, by ending."""
    warning: str = ""
    """What is likely wrong though it can be read; else empty."""


def survey(path: Path) -> Surveyed:
    """Look at the file or folder at `path`.

    Raises DataError when it is not there, or when no record or less than half of them can be read; then with the
    first reason that the reader has.
    """
    kind = text_kind(path)
    columns: tuple[str, ...] = ()
    named: dict[str, Any] = {}
    if kind != "text":
        columns = _text_columns(kind, input_paths(InputParams(kind=kind, path=str(path)))[0])
        if columns and columns[0] != "text":
            named = {"text": columns[0]}
    params = InputParams(kind=kind, path=str(path), **named)
    files = input_paths(params)
    size = sum(file.stat().st_size * (UNPACKED if has_ending(file, PACKED_ENDINGS) else 1) for file in files)
    rejected: list[Rejected] = []
    lengths = [len(text) for text in itertools.islice(_texts(params, files, rejected), SAMPLE_DOCUMENTS)]
    if not lengths or len(rejected) > len(lengths):
        what = "less than half of the records" if lengths else "no document"
        why = f"The first that cannot: {rejected[0].where}: {rejected[0].reason}" if rejected else "There is no text"
        raise DataError(f"{path}: {what} can be read as {kind}. {why}. Or give --text another file or folder")
    exact, mean = len(lengths) < SAMPLE_DOCUMENTS, sum(lengths) / len(lengths)
    documents = len(lengths) if exact else max(len(lengths), int(size / max(1.0, mean)))
    return Surveyed(
        params=params,
        documents=documents,
        tokens=int(documents * mean / CHARACTERS_A_TOKEN),
        exact=exact,
        columns=columns,
        left=skipped_files(params),
        warning=_headless(columns) if kind in ("csv", "tsv") else "",
    )


def text_kind(path: Path) -> Kind:
    """The kind of a file, or that of most files in a folder; raises DataError when there is none of a known kind."""
    if path.is_file():
        kinds = Counter([_file_kind(path)])
    else:
        known = tuple(ending for kind in KINDS for group in ENDINGS[kind] for ending in group)
        kinds = Counter(kind_of(file) for file in visible_files(path) if has_ending(file, known))
    if not kinds:
        here = "a folder without any" if path.is_dir() else "nothing"
        raise DataError(f"{path}: expected texts ({', '.join(KINDS)}), found {here}")
    return cast("Kind", kinds.most_common(1)[0][0])


def _file_kind(file: Path) -> str:
    """By the ending; else by the first bytes."""
    if any(has_ending(file, group) for kind in KINDS for group in ENDINGS[kind]):
        kind = kind_of(file)
        return "csv" if kind == "tsv" and _quoted(file) else kind
    with file.open("rb") as stream:
        if stream.read(4) == b"PAR1":
            return "parquet"
    first = next((line for line in raw_lines(file, _silent) if line.strip()), b"")
    return "jsonl" if JSON_BEGIN.match(first.strip(b"\xef\xbb\xbf \t\r")) else "text"


def _quoted(file: Path) -> bool:
    """Whether a table with tabs doubles quotation marks, as CSV does."""
    return any(b'""' in line for line in itertools.islice(raw_lines(file, _silent), SAMPLE_ROWS))


def _text_columns(kind: Kind, file: Path) -> tuple[str, ...]:
    """Names of columns with text: `text` first where it is one, then those of several words, then by length."""
    lengths: Counter[str] = Counter()
    values: Counter[str] = Counter()
    spaced: Counter[str] = Counter()
    for row in itertools.islice(_rows(kind, file), SAMPLE_ROWS):
        for name, value in _strings(row):
            lengths[name] += len(value)
            values[name] += bool(value.strip())
            spaced[name] += len(value.split()) > 1
    # Addresses may be longer than sentences, and have no spaces. Nor has text in Chinese; then the length decides.
    return tuple(
        sorted(lengths, key=lambda name: (name != "text", 2 * spaced[name] <= values[name], -lengths[name], name))
    )


def _headless(columns: tuple[str, ...]) -> str:
    """A warning where a column's name looks like text, as in a table without a header; else empty."""
    for name in columns:
        sentence = len(name.split()) >= SENTENCE_WORDS and name.rstrip("\"') ").endswith((".", "!", "?"))
        if len(name) > LONGEST_NAME or sentence:
            return (
                f"the first line is read as the columns' names, and {name[:LONGEST_NAME]!r} looks like text. If it is, "
                "put a line with names, such as text, above it"
            )
    return ""


def _rows(kind: Kind, file: Path) -> Iterator[dict[str, Any]]:
    """Records with all their fields; what cannot be read is passed over, for `ingest` names it."""
    if kind == "parquet":
        from pyarrow import parquet

        with parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=SAMPLE_ROWS):
                yield from batch.to_pylist()
    elif kind == "jsonl":
        for line in raw_lines(file, _silent):
            with contextlib.suppress(ValueError, RecursionError):
                value = json.loads(line.decode("utf-8-sig"))
                if isinstance(value, dict):
                    yield value
    else:
        lines = (line.decode("utf-8-sig", errors="replace") + "\n" for line in raw_lines(file, _silent))
        head = next(lines, "").rstrip("\r\n")
        delimiter = max(DELIMITERS, key=head.count) if kind == "csv" else "\t"
        header = next(csv.reader([head], delimiter=delimiter), [])
        quoting: Any = csv.QUOTE_MINIMAL if kind == "csv" else csv.QUOTE_NONE
        with contextlib.suppress(csv.Error):
            for row in csv.reader(lines, delimiter=delimiter, quoting=quoting):
                yield dict(zip(header, row, strict=False))


def _strings(row: dict[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in row.items():
        if isinstance(value, dict):
            yield from _strings(value, f"{before}{name}.")
        elif isinstance(value, bytes):
            yield f"{before}{name}", value.decode(errors="replace")
        elif isinstance(value, str):
            yield f"{before}{name}", value


def _texts(params: InputParams, files: list[Path], rejected: list[Rejected]) -> Iterator[str]:
    """Texts of the documents; records that are none are put into `rejected`, and many of them end it."""
    for file in files:
        for item in input_documents(params, file, _silent):
            if isinstance(item, Rejected):
                rejected.append(item)
                if len(rejected) == SAMPLE_DOCUMENTS:
                    return
            elif item.text.strip():
                yield item.text


def _silent(_: int) -> None:
    """Ignore progress."""
