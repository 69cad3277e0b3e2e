"""CSV, TSV and Parquet as people have them, each row of a table one document."""

from __future__ import annotations

import csv
import io
import uuid
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from pipeline.text.documents.readers import read_json_lines
from pipeline.text.documents.records import Fields, Found, Rejected
from pipeline.text.documents.tables import read_csv, read_parquet, read_tsv
from storage.errors import DataError

PLAIN = Fields(text="text", name=None)
CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufeff"), min_size=1, max_size=20)


def ignore(_: int) -> None:
    """No progress."""


def written(folder: Path, content: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def texts(found: Iterator[Found | Rejected]) -> list[str]:
    return [item.text if isinstance(item, Found) else f"rejected: {item.reason}" for item in found]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@given(rows=st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=8))
def test_what_the_standard_library_writes_as_csv_is_read(
    tmp_path_factory: pytest.TempPathFactory, delimiter: str, rows: list[tuple[str, str, str]]
) -> None:
    """Text with any delimiter, quotation mark and line end comes back; a CR in the header line's place too."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerows([("id", "source", "text"), *rows])
    path = written(tmp_path_factory.mktemp("c"), out.getvalue())
    found = list(read_csv(path, PLAIN, ignore))
    assert [(item.name, item.source, item.text) for item in found if isinstance(item, Found)] == rows
    assert len(found) == len(rows)


@given(rows=st.lists(st.tuples(*[st.text(st.characters(codec="utf-8", exclude_characters='\r\n\t\ufeff"'))] * 2)))
def test_fields_of_tsv_are_parted_by_tabs_alone(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    lines = ["text\tmore", *("\t".join(row) for row in rows)]
    path = written(tmp_path_factory.mktemp("t"), "\n".join(lines), "t.tsv")
    assert texts(read_tsv(path, PLAIN, ignore)) == [text for text, _ in rows]


def test_columns_are_chosen_by_name_and_lines_are_counted_as_they_stand(tmp_path: Path) -> None:
    path = written(tmp_path, '\ufeffkey,body\r\n\r\nk1,"over\r\ntwo lines, and ""more"""\r\nk2,plain\r\n')
    first, second = read_csv(path, Fields(text="body", name="key"), ignore)
    assert first == Found(f"{path}:3", "k1", None, 'over\r\ntwo lines, and "more"')
    assert second == Found(f"{path}:5", "k2", None, "plain")


def test_a_field_of_megabytes_is_read(tmp_path: Path) -> None:
    """The csv module's own limit is 131,072 characters."""
    text = 'a "word", and\n' * 200_000
    path = written(tmp_path, "text\n" + '"' + text.replace('"', '""') + '"\n')
    assert texts(read_csv(path, PLAIN, ignore)) == [text]


def test_a_bad_record_is_named_and_the_next_one_read(tmp_path: Path) -> None:
    path = written(tmp_path, b'text,n\ngood,1\n"said" he,2\ncaf\xe9,3\nshort\ngood,1\n"open,4\n')
    found = list(read_csv(path, PLAIN, ignore))
    assert [item.where.rpartition(":")[2] for item in found] == ["2", "3", "4", "5", "6", "7"]
    assert [isinstance(item, Found) for item in found] == [True, False, False, False, True, False]
    reasons = [item.reason for item in found if isinstance(item, Rejected)]
    assert "no CSV: ',' expected after '\"'" in reasons[0]
    assert "byte 4 of line 4 is 0xe9, which is no UTF-8" in reasons[1]
    assert "iconv -f WINDOWS-1252 -t UTF-8 t.csv > t.utf8.csv" in reasons[1]
    assert reasons[2] == "expected 2 fields as in the header, got 1"
    assert "unexpected end of data" in reasons[3]


def test_joined_files_repeat_their_mark_and_header(tmp_path: Path) -> None:
    """Row 21: what `cat a.csv b.csv` makes of files with a byte order mark."""
    one, two = "\ufefftext\nfirst\n", "\ufefftext\nsecond\n"
    assert texts(read_csv(written(tmp_path, one + two), PLAIN, ignore)) == ["first", "second"]


def test_quotation_marks_are_text_in_tsv_and_quoted_fields_are_not_misread(tmp_path: Path) -> None:
    path = written(tmp_path, 'text\tn\n"Go," he said\t1\n"Go!"\t2\n5" wide\t3\n', "t.tsv")
    assert texts(read_tsv(path, PLAIN, ignore)) == ['"Go," he said', '"Go!"', '5" wide']
    quoted = written(tmp_path, 'text\tn\n"He said ""Go"""\t1\n"a\nb"\t2\n', "q.tsv")
    one, two, _ = texts(read_tsv(quoted, PLAIN, ignore))
    assert one == "rejected: a quoted field, which TSV has not. Fields are quoted: set kind: csv"
    assert two == "rejected: expected 2 fields as in the header, got 1. Fields are quoted: set kind: csv"
    assert texts(read_csv(quoted, PLAIN, ignore)) == ['He said "Go"', "a\nb"]


def test_a_header_without_the_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t\.csv: expected columns \['text'\] in the first line, got \['a', 'b'\]"):
        list(read_csv(written(tmp_path, "a;b\n1;2\n"), PLAIN, ignore))
    with pytest.raises(DataError, match=r"expected each column once in the header, got \['text'\] several times"):
        list(read_csv(written(tmp_path, "text,text\n1,2\n"), PLAIN, ignore))
    with pytest.raises(DataError, match=r"Fields are quoted: set kind: csv"):
        list(read_tsv(written(tmp_path, '"text"\t"n"\n', "t.tsv"), PLAIN, ignore))
    assert list(read_csv(written(tmp_path, ""), PLAIN, ignore)) == []


def test_excel_writes_utf_16_with_tabs(tmp_path: Path) -> None:
    """Its "Unicode text"."""
    path = written(tmp_path, '\ufeffid\ttext\r\n1\t"a ""word"""\r\n'.encode("utf-16-le"), "t.txt")
    assert texts(read_csv(path, PLAIN, ignore)) == ['a "word"']


def test_text_and_ids_may_stand_in_structs(tmp_path: Path) -> None:
    """Row 25; a field whose own name has a dot comes first."""
    nested = Fields(text="doc.text", name="meta.id")
    rows = [{"doc": {"text": text}, "meta": {"id": number, "by": "x"}} for text, number in (("one", 7), ("two", 8))]
    path = tmp_path / "n.parquet"
    parquet.write_table(pa.Table.from_pylist(rows), path)
    expected = [("7", "one"), ("8", "two")]
    found = list(read_parquet(path, nested, ignore))
    assert [(item.name, item.text) for item in found if isinstance(item, Found)] == expected
    lines = written(tmp_path, '{"doc": {"text": "one"}, "meta": {"id": 7}}\n{"doc.text": "two", "meta": {"id": 8}}\n')
    found = list(read_json_lines(lines, nested, ignore))
    assert [(item.name, item.text) for item in found if isinstance(item, Found)] == expected
    with pytest.raises(DataError, match=r"columns \['doc\.body'\], got \['doc\.text', 'meta\.id', 'meta\.by'\]"):
        list(read_parquet(path, Fields(text="doc.body", name=None), ignore))
    (bad,) = read_json_lines(written(tmp_path, '{"doc": ["text"]}'), Fields(text="doc.text", name=None), ignore)
    assert isinstance(bad, Rejected) and "expected a string in field 'doc.text', got None (has ['doc'])" in bad.reason


def test_text_of_bytes_and_ids_of_bytes(tmp_path: Path) -> None:
    """Row 25: a binary column of UTF-8; ids as UUIDs of 16 bytes, hashes of 4, and bytes of any length."""
    ids = [uuid.UUID(int=5), uuid.UUID(int=1 << 127)]
    kinds = {
        "uuid": (pa.array([each.bytes for each in ids], pa.binary(16)), [str(each) for each in ids]),
        "hash": (pa.array([b"\x00\x01ab", b"abcd"], pa.binary(4)), ["00016162", "61626364"]),
        "any": (pa.array([b"doc-1", b"\xff\x00"], pa.binary()), ["doc-1", "0xff00"]),
        "logical": (pa.array([each.bytes for each in ids], pa.uuid()), [str(each) for each in ids]),
    }
    path = tmp_path / "b.parquet"
    body = pa.array(["caf\xe9".encode(), b"caf\xe9"], pa.binary())
    parquet.write_table(pa.table({"body": body, **{name: column for name, (column, _) in kinds.items()}}), path)
    for name, (_, (first, _)) in kinds.items():
        good, bad = read_parquet(path, Fields(text="body", name=name), ignore)
        assert good == Found(f"{path}: row 1", first, None, "caf\xe9")
        assert isinstance(bad, Rejected)
        assert bad.reason == "byte 4 of field 'body' is 0xe9, which is no UTF-8. Write the column as strings"
    parquet.write_table(pa.table({"body": ["a", "b"], **{name: column for name, (column, _) in kinds.items()}}), path)
    for name, (_, expected) in kinds.items():
        found = list(read_parquet(path, Fields(text="body", name=name), ignore))
        assert [item.name for item in found if isinstance(item, Found)] == expected
