"""What a text on disk is: its kind, the columns that hold text and ids, and about how much there is.

A guess for `cohesive init`, from names and from the first documents; `ingest` reads what params.yaml then says.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from pipeline.core.endings import PACKED_ENDINGS
from pipeline.text.documents.decoding import raw_lines
from pipeline.text.documents.files import ENDINGS, has_ending, kind_of, visible_files
from pipeline.text.documents.readers import input_documents, input_paths
from pipeline.text.documents.records import Found
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


def survey(path: Path) -> Surveyed:
    """Look at the file or folder at `path`; raises DataError when it is not there or nothing in it can be read."""
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
    lengths = [len(text) for text in itertools.islice(_texts(params, files), SAMPLE_DOCUMENTS)]
    if not lengths:
        raise DataError(f"{path}: no document that can be read as {kind}. Give --text a file or folder of texts")
    exact, mean = len(lengths) < SAMPLE_DOCUMENTS, sum(lengths) / len(lengths)
    documents = len(lengths) if exact else max(len(lengths), int(size / max(1.0, mean)))
    return Surveyed(
        params=params,
        documents=documents,
        tokens=int(documents * mean / CHARACTERS_A_TOKEN),
        exact=exact,
        columns=columns,
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
    return "jsonl" if first.lstrip(b"\xef\xbb\xbf \t").startswith(b"{") else "text"


def _quoted(file: Path) -> bool:
    """Whether a table with tabs doubles quotation marks, as CSV does."""
    return any(b'""' in line for line in itertools.islice(raw_lines(file, _silent), SAMPLE_ROWS))


def _text_columns(kind: Kind, file: Path) -> tuple[str, ...]:
    """Names of columns with text: `text` first where it is one, then by their mean length."""
    lengths: Counter[str] = Counter()
    for row in itertools.islice(_rows(kind, file), SAMPLE_ROWS):
        for name, value in _strings(row):
            lengths[name] += len(value)
    return tuple(sorted(lengths, key=lambda name: (name != "text", -lengths[name], name)))


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


def _texts(params: InputParams, files: list[Path]) -> Iterator[str]:
    for file in files:
        for item in input_documents(params, file, _silent):
            if isinstance(item, Found) and item.text.strip():
                yield item.text


def _silent(_: int) -> None:
    """Ignore progress."""
