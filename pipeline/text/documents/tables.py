"""Texts in columns: CSV, TSV and Parquet.

CSV is that of RFC 4180: a field that begins with a quotation mark is quoted, may span lines, and doubles the marks in
it. The delimiter is the one of `DELIMITERS` by which the header has the columns that are wanted. TSV is that of IANA's
text/tab-separated-values: a line is a record, a tab parts fields, and quotation marks are text. So a table of
tab-separated fields that are quoted, as spreadsheets and pandas write it, is read as CSV.
"""

from __future__ import annotations

import codecs
import csv
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.text.documents.decoding import Advance, not_utf8, raw_lines
from pipeline.text.documents.records import TEXT_LIMIT, Fields, Found, Rejected, printable, record
from storage.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

DELIMITERS = (",", ";", "\t", "|")
PARQUET_ROWS = 4096
UUID_BYTES = 16


def read_csv(file: Path, fields: Fields, advance: Advance) -> Iterator[Found | Rejected]:
    """One record a document, after a header line; a header that is repeated, as `cat` makes it, is skipped.

    Raises DataError when the header lacks a column that is wanted, and as `text_chunks` does.
    """
    return _read_rows(file, fields, advance, delimiters=DELIMITERS, quoted=True)


def read_tsv(file: Path, fields: Fields, advance: Advance) -> Iterator[Found | Rejected]:
    """One line a document, after a header line; raises as `read_csv`."""
    return _read_rows(file, fields, advance, delimiters=("\t",), quoted=False)


class _Lines:
    """Lines for the `csv` module; bytes that are no UTF-8 are kept in mind until the record is whole."""

    def __init__(self, file: Path, advance: Advance) -> None:
        self._file = file
        self._lines = raw_lines(file, advance)
        self.number = 0
        self.reason: str | None = None
        """Why the lines since it was last set to None are no UTF-8."""

    def __iter__(self) -> Iterator[str]:
        for raw in self._lines:
            self.number += 1
            line = raw.removeprefix(codecs.BOM_UTF8) + b"\n"  # files that were joined have a mark at each seam
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                self.reason = self.reason or not_utf8(self._file, error, of=f"line {self.number}")
                yield line.decode(errors="surrogateescape")


def _read_rows(
    file: Path, fields: Fields, advance: Advance, *, delimiters: tuple[str, ...], quoted: bool
) -> Iterator[Found | Rejected]:
    # The limit belongs to the module and not to a reader. A smaller one would refuse texts that other formats may have.
    csv.field_size_limit(max(TEXT_LIMIT, csv.field_size_limit()))
    lines = _Lines(file, advance)
    source = iter(lines)
    head = next((line for line in source if line.strip()), None)
    if head is None:
        return
    header, delimiter = _header(file, head, fields, delimiters, quoted=quoted)
    wanted = {fields.text, fields.name or "id", "source"}
    columns = {name: place for place, name in enumerate(header) if name in wanted}
    reader = csv.reader(source, delimiter=delimiter, quoting=_quoting(quoted), strict=True)
    while True:
        lines.reason, start = None, lines.number + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            yield Rejected(f"{file}:{start}", _unreadable(error, delimiter, quoted=quoted))
            continue
        where = f"{file}:{start}"
        if row is None:
            return
        if not row or row == header:
            continue
        if lines.reason:
            yield Rejected(where, lines.reason)
        elif len(row) != len(header):
            yield Rejected(
                where, f"expected {len(header)} fields as in the header, got {len(row)}{_hint(row, quoted=quoted)}"
            )
        elif not quoted and any(_is_quoted(row[place]) for place in columns.values()):
            yield Rejected(where, f"a quoted field, which TSV has not{_hint(row, quoted=quoted)}")
        else:
            yield record({name: row[place] for name, place in columns.items()}, fields, where)


def _quoting(quoted: bool) -> Any:
    return csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE


def _header(
    file: Path, line: str, fields: Fields, delimiters: tuple[str, ...], *, quoted: bool
) -> tuple[list[str], str]:
    """The names of the columns, and the delimiter that makes them."""
    wanted = {fields.text} | ({fields.name} if fields.name else set())
    tried: list[list[str]] = []
    for delimiter in delimiters:
        try:
            names = next(csv.reader([line], delimiter=delimiter, quoting=_quoting(quoted), strict=True))
        except csv.Error:
            continue
        tried.append(names)
        if wanted <= set(names):
            if twice := sorted({name for name in names if names.count(name) > 1 and name in {*wanted, "id", "source"}}):
                raise DataError(f"{file}: expected each column once in the header, got {twice} several times")
            return names, delimiter
    got = max(tried, key=len, default=[line.strip()])
    raise DataError(
        f"{file}: expected columns {sorted(wanted)} in the first line, got {got!s:.200}. Set `text` and `id` of the "
        f"input, or write a line with the names of the columns{_hint(got, quoted=quoted)}"
    )


def _unreadable(error: csv.Error, delimiter: str, *, quoted: bool) -> str:
    if not quoted:
        return f"no TSV: {error}"
    advice = ", or set kind: tsv when marks are text" if delimiter == "\t" else ""
    return f"no CSV: {error}. In a field that begins with a quotation mark, marks are doubled: mend the file{advice}"


def _hint(row: list[str], *, quoted: bool) -> str:
    return ". Fields are quoted: set kind: csv" if not quoted and any('"' in field for field in row) else ""


def _is_quoted(field: str) -> bool:
    """True of a field that the rules of CSV would change: quoted, with doubled marks in it."""
    return len(field) > 3 and field[0] == field[-1] == '"' and '""' in field[1:-1]


def read_parquet(file: Path, fields: Fields, advance: Advance) -> Iterator[Found | Rejected]:
    """One row a document; columns may be nested structs, text may be bytes, an id a UUID or bytes.

    Ids of 16 bytes are written as UUIDs, of another fixed size as hexadecimal digits. Raises DataError when the file is
    no Parquet or has no column of the text's name.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as table:
            schema = table.schema_arrow
            wanted = {fields.text} | ({fields.name} if fields.name else set())
            if any(_type_at(schema, name) is None for name in wanted):
                raise DataError(
                    f"{file}: expected columns {sorted(wanted)}, got {_names(schema)}. Set `text` and `id` of the input"
                )
            columns = [name for name in (*wanted, "id", "source") if _type_at(schema, name) is not None]
            id_of = _id_of(_type_at(schema, fields.name or "id"))
            row = 0
            for batch in table.iter_batches(batch_size=PARQUET_ROWS, columns=sorted(set(columns))):
                for value in batch.to_pylist():
                    row += 1
                    yield record(value, fields, f"{file}: row {row}", id_of=id_of)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: no readable Parquet file: {error}") from error
    advance(file.stat().st_size)


def _id_of(kind: pa.DataType | None) -> Callable[[bytes], str]:
    """How ids of bytes are written."""
    import pyarrow as pa

    if kind is None or not pa.types.is_fixed_size_binary(kind):
        return printable
    return _uuid if kind.byte_width == UUID_BYTES else _digits


def _uuid(raw: bytes) -> str:
    return str(uuid.UUID(bytes=raw))


def _digits(raw: bytes) -> str:
    return raw.hex()


def _type_at(schema: pa.Schema, name: str) -> pa.DataType | None:
    """The type of a column by its name, or by the path to it through structs; None when it is not there."""
    import pyarrow as pa

    if name in schema.names:
        return schema.field(name).type
    first, *rest = name.split(".")
    if first not in schema.names:
        return None
    found = schema.field(first).type
    for part in rest:
        place = found.get_field_index(part) if pa.types.is_struct(found) else -1
        if place < 0:
            return None
        found = found.field(place).type
    return found


def _names(schema: pa.Schema) -> list[str]:
    """All columns, those of structs by their paths."""
    import pyarrow as pa

    def below(name: str, kind: pa.DataType) -> list[str]:
        if not pa.types.is_struct(kind):
            return [name]
        inner = [kind.field(place) for place in range(kind.num_fields)]
        return [path for field in inner for path in below(f"{name}.{field.name}", field.type)]

    return [path for field in schema for path in below(field.name, field.type)]
