"""The corpus as the hub has it (jpwahle/machine-paraphrase-dataset): a table to train on and one to test on.

One text a row, in TSV (train.tsv, test.tsv, plain or .gz) or Parquet (train.parquet, train-*.parquet, train/*.parquet,
and the same of test). Columns are found by their names in the header, in any order: `text` and `label` (1: paraphrased;
0: original) must be there; `dataset` and `method` are used where both are; others are not read.

The table for training is one set. That for testing is cut into a set a dataset and method (wikipedia-spinbot): a method
is a value that rows of label 1 have, and an original belongs to the method it names or, where it names none, to every
set of its dataset. Originals and paraphrases are not aligned, so each text is a group of its own. A text of train that
stands in test too, compared without case and spaces, is dropped from train.

TSV is read as pandas writes it: a field that begins with a quotation mark is quoted, and may span lines. A file that
makes no sense so (text after a closing mark, a field with tabs over several lines, no end) is read again line by line
with quotation marks as plain characters, which is counted.
"""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pipeline.tasks.machine_paraphrases.entries import Entry, PublishedPart, Rejects, refuse_bad
from pipeline.text.documents.decoding import raw_lines
from pipeline.text.documents.tables import PARQUET_ROWS
from storage.errors import DataError

REQUIRED = ("text", "label")
KINDS = ("dataset", "method")
LABELS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
"""pandas writes whole numbers with a point when a column has gaps."""
PLAIN_QUOTES = "files with quotation marks as plain characters"

Row = tuple[str, list[Any]]
"""Where it stands (line 7, row 7), and its fields in the order of the header."""


def read_tables(path: Path) -> list[PublishedPart]:
    """The sets of the tables in the folder `path`; none when it holds no table."""
    found = {split: _files(path, split) for split in ("train", "test")}
    rejects = {split: Rejects() for split in found}
    rows = {split: [row for file in found[split] for row in _rows(file, rejects[split])] for split in found}
    parts = []
    if found["train"]:
        tested = {_key(entry.text) for entry, _ in rows["test"]}
        entries = [entry for entry, _ in rows["train"] if _key(entry.text) not in tested]
        dropped = len(rows["train"]) - len(entries)
        counts = {**rejects["train"].counts, **({"texts of train that test holds too": dropped} if dropped else {})}
        parts.append(_part(path, "train", entries, counts))
    if found["test"]:
        parts += [
            _part(path, "test", entries, dict(rejects["test"].counts), kind=kind)
            for kind, entries in _by_kind(rows["test"]).items()
        ]
    return parts


def _part(
    path: Path, split: Literal["train", "test"], entries: list[Entry], counts: dict[str, int], *, kind: str = ""
) -> PublishedPart:
    return PublishedPart(name=f"{path.name}/{kind or split}", split=split, entries=entries, counts=counts)


def _files(path: Path, split: str) -> list[Path]:
    """The tables of one split; raises DataError where it is there in two formats."""
    if not path.is_dir():
        return []
    tsv = [path / f"{split}{ending}" for ending in (".tsv", ".tsv.gz") if (path / f"{split}{ending}").is_file()]
    patterns = (f"{split}.parquet", f"{split}-*.parquet", f"{split}/*.parquet")
    parquet = [file for pattern in patterns for file in sorted(path.glob(pattern))]
    if len(tsv) > 1 or (tsv and parquet):
        both = ", ".join(file.relative_to(path).as_posix() for file in (*tsv, *parquet))
        raise DataError(f"{path}: expected {split} in one format, got {both}. Keep one of them")
    return tsv or parquet


def _rows(file: Path, rejects: Rejects) -> Iterator[tuple[Entry, tuple[str, str]]]:
    """Texts of one file with their dataset and method ("" where unknown); unusable rows are counted.

    Raises DataError where the header lacks a column or more rows than BAD_SHARE are unusable.
    """
    mine = Rejects()
    good = 0
    names, rows = _parquet(file) if file.suffix == ".parquet" else _tsv(file, mine)
    columns = {name: place for place, name in enumerate(names)}
    for where, fields in rows:
        if len(fields) != len(names):
            mine.add("number of fields", where=where, expected=f"{len(names)} fields", got=len(fields))
            continue
        text, label = fields[columns["text"]], fields[columns["label"]]
        kind = tuple(str(fields[columns[name]]) for name in KINDS) if set(KINDS) <= set(columns) else ("", "")
        if not isinstance(text, str) or not text.strip():
            mine.add("empty", where=where, expected="a text", got=text)
        elif not _is_utf8(text):
            mine.add("not UTF-8", where=where, expected="UTF-8", got=text.encode("utf-8", "surrogateescape"))
        elif (number := LABELS.get(str(label if not isinstance(label, bool) else int(label)).strip())) is None:
            mine.add("label is not 0 or 1", where=where, expected="label 0 or 1", got=label)
        else:
            good += 1
            text = " ".join(text.split())
            yield Entry(label=number, text=text, group=_key(text), name=_key(text)), (kind[0], kind[1])
    refuse_bad(file, mine.counts, good, first=mine.first)
    rejects.counts.update(mine.counts)


def _by_kind(rows: list[tuple[Entry, tuple[str, str]]]) -> dict[str, list[Entry]]:
    """Test sets by name: paraphrases of one dataset by one method, with the originals that belong to them."""
    methods = {method for entry, (_, method) in rows if entry.label == 1}
    kinds = sorted({kind for entry, kind in rows if entry.label == 1})
    if kinds in ([], [("", "")]):
        return {"test": [entry for entry, _ in rows]}
    return {
        f"{dataset}-{method}": [
            entry
            for entry, (of, by) in rows
            if of == dataset and (by == method or (entry.label == 0 and by not in methods))
        ]
        for dataset, method in kinds
    }


def _header(file: Path, names: list[str]) -> list[str]:
    if not set(REQUIRED) <= set(names) or len(set(names)) < len(names):
        raise DataError(
            f"{file}: line 1: expected a header with the columns {' and '.join(REQUIRED)} (and {' and '.join(KINDS)}), "
            f"each once, got {names!r:.120}"
        )
    return names


def _parquet(file: Path) -> tuple[list[str], Iterator[Row]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as table:
            names = _header(file, table.schema_arrow.names)
            wanted = [name for name in names if name in (*REQUIRED, *KINDS)]
            batches = [batch.to_pydict() for batch in table.iter_batches(batch_size=PARQUET_ROWS, columns=wanted)]
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: no readable Parquet file: {error}") from error
    columns = zip(*([value for batch in batches for value in batch[name]] for name in wanted), strict=True)
    return wanted, ((f"row {number}", list(fields)) for number, fields in enumerate(columns, start=1))


def _tsv(file: Path, rejects: Rejects) -> tuple[list[str], Iterator[Row]]:
    try:
        rows = list(_quoted(_lines(file)))
    except csv.Error:
        rejects.counts[PLAIN_QUOTES] += 1
        rows = list(_unquoted(_lines(file)))
    return _header(file, rows[0][1] if rows else []), iter(rows[1:])


def _lines(file: Path) -> Iterator[str]:
    """Lines with their ends; bytes that are no UTF-8 stay recognisable."""
    for number, line in enumerate(raw_lines(file, lambda _: None)):
        text = (line if number else line.removeprefix(codecs.BOM_UTF8)).decode("utf-8", "surrogateescape")
        yield f"{text}\n"


def _quoted(lines: Iterator[str]) -> Iterator[Row]:
    """Rows as pandas writes them; raises csv.Error where the quotation marks do not stand so."""
    reader = csv.reader(lines, delimiter="\t", strict=True)
    start = 1
    for fields in reader:
        if any("\t" in field and "\n" in field for field in fields):
            raise csv.Error("a quoted field with tabs over several lines: several rows in one")
        if fields:
            yield f"line {start}", fields
        start = reader.line_num + 1


def _unquoted(lines: Iterable[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield f"line {number}", line.rstrip("\r\n").split("\t")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _key(text: str) -> str:
    return " ".join(text.casefold().split())
