"""Every format gives the same documents, and damage is named by file and line."""

from __future__ import annotations

import gzip
import json
import lzma
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet

from pipeline.core.endings import JSON_LINES
from pipeline.text.documents.files import ENDINGS, input_files
from pipeline.text.documents.readers import (
    LARGE_FILE_CHARACTERS,
    input_documents,
    input_paths,
    read_json_lines,
    read_text_file,
    read_wordnet,
    skipped_files,
)
from pipeline.text.documents.records import Fields, Found, Rejected
from pipeline.text.documents.tables import read_parquet
from pipeline.text.params import InputParams
from storage.errors import DataError
from tests.helpers.stores import TINY_TEXT, write_jsonl

PLAIN = Fields(text="text", name=None)


def ignore(_: int) -> None:
    """No progress."""


def lines_of(path: Path, content: bytes, fields: Fields = PLAIN) -> list[Found | Rejected]:
    path.write_bytes(content)
    return list(read_json_lines(path, fields, ignore))


def texts_of(found: Iterator[Found | Rejected] | list[Found | Rejected]) -> list[str]:
    return [item.text for item in found if isinstance(item, Found)]


def frames(raw: bytes, compress: str) -> bytes:
    """Two frames one after the other, as parallel compressors and `cat` make them."""
    half = len(raw) // 2
    if compress == "zst":
        coder = zstandard.ZstdCompressor()
        return coder.compress(raw[:half]) + coder.compress(raw[half:])
    return gzip.compress(raw[:half]) + gzip.compress(raw[half:])


@pytest.mark.parametrize("compress", ["gz", "zst"])
def test_compressed_lines_read_like_plain_ones_across_frames(tmp_path: Path, compress: str) -> None:
    plain = write_jsonl(tmp_path / "t.jsonl")
    expected = texts_of(read_json_lines(plain, PLAIN, ignore))
    assert expected == list(TINY_TEXT)
    packed = tmp_path / f"t.jsonl.{compress}"
    packed.write_bytes(frames(plain.read_bytes(), compress))
    read: list[int] = []
    assert texts_of(read_json_lines(packed, PLAIN, read.append)) == expected
    assert sum(read) == packed.stat().st_size


@pytest.mark.parametrize("compress", ["gz", "zst"])
def test_a_file_that_was_not_copied_whole_is_refused(tmp_path: Path, compress: str) -> None:
    whole = frames(write_jsonl(tmp_path / "t.jsonl").read_bytes(), compress)
    cut = tmp_path / f"cut.jsonl.{compress}"
    cut.write_bytes(whole[:-20])
    with pytest.raises(DataError, match=rf"cut\.jsonl\.{compress}: the compressed file ends too early"):
        list(read_json_lines(cut, PLAIN, ignore))
    cut.write_bytes(b"this is no archive at all")
    with pytest.raises(DataError, match=rf"cut\.jsonl\.{compress}: cannot be read"):
        list(read_json_lines(cut, PLAIN, ignore))


def test_byte_order_mark_windows_line_ends_and_empty_lines_are_no_errors(tmp_path: Path) -> None:
    found = lines_of(tmp_path / "w.jsonl", b'\xef\xbb\xbf{"text": "one"}\r\n\r\n{"text": "two"}')
    assert texts_of(found) == ["one", "two"]
    assert [item.where.rpartition(":")[2] for item in found] == ["1", "3"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": "half', "no JSON in UTF-8"),
        ("[" * 100_000, "no JSON in UTF-8"),
        ('["text"]', "expected an object, got list"),
        ('{"txet": "a", "id": 1}', r"expected a string in field 'text', got None \(has \['id', 'txet'\]\)"),
        ('{"text": 7}', "expected a string in field 'text', got 7"),
        ('{"text": "a", "id": true}', "expected a string or whole number in field 'id', got True"),
        ('{"text": "a", "id": [1]}', "expected a string or whole number in field 'id'"),
        (r'{"text": "half \ud800 a pair"}', "half of a surrogate pair"),
    ],
)
def test_a_bad_line_is_rejected_with_its_place_and_the_next_one_read(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "b.jsonl"
    good = '{"text": "a good line"}'
    first, second, third = lines_of(path, "\n".join([good, line, good]).encode())
    assert isinstance(first, Found)
    assert isinstance(third, Found)
    assert isinstance(second, Rejected)
    assert second.where == f"{path}:2"
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(second.reason)


def test_bytes_that_are_no_utf8_are_rejected_with_what_converts_them(tmp_path: Path) -> None:
    """Row 20."""
    (item,) = lines_of(tmp_path / "latin 1.jsonl", '{"text": "café"}'.encode("latin-1"))
    assert isinstance(item, Rejected)
    assert item.where.endswith("latin 1.jsonl:1")
    assert "byte 14 of the line is 0xe9, which is no UTF-8" in item.reason
    assert "iconv -f WINDOWS-1252 -t UTF-8 'latin 1.jsonl' > 'latin 1.utf8.jsonl'" in item.reason
    packed = tmp_path / "a.txt.gz"
    packed.write_bytes(gzip.compress("\ufeffeins\nzwei\n".encode() + b"caf\xe9 \x81"))
    (item,) = read_text_file(packed, "a", ignore)
    assert isinstance(item, Rejected)
    assert item.where == f"{packed}:3"
    assert "byte 17 of the file is 0xe9" in item.reason
    assert "gzip -dc a.txt.gz | iconv -f ISO-8859-1 -t UTF-8 > a.utf8.txt" in item.reason


def test_joined_files_keep_no_byte_order_mark(tmp_path: Path) -> None:
    """Row 21: `cat` of files that begin with one."""
    found = lines_of(tmp_path / "j.jsonl", b'\xef\xbb\xbf{"text": "one"}\n\xef\xbb\xbf{"text": "two"}\n')
    assert texts_of(found) == ["one", "two"]
    path = tmp_path / "j.txt"
    path.write_bytes(b"\xef\xbb\xbfone\n\xef\xbb\xbftwo\n")
    assert texts_of(read_text_file(path, "j.txt", ignore)) == ["one\ntwo\n"]


def test_json_in_utf_16_and_with_old_line_ends(tmp_path: Path) -> None:
    """Rows 21 and 22."""
    for content in (
        '\ufeff{"text": "one"}\r\n{"text": "zwölf"}\r\n'.encode("utf-16-le"),
        '{"text": "one"}\r{"text": "zwölf"}\r'.encode(),
    ):
        found = lines_of(tmp_path / "u.jsonl", content)
        assert texts_of(found) == ["one", "zwölf"]
        assert [item.where.rpartition(":")[2] for item in found] == ["1", "2"]


@pytest.mark.parametrize(
    ("content", "command"),
    [
        (b'[{"text": "a"}]', r"jq -c '\.\[\]' a\.json > a\.lines\.jsonl"),
        (b'{\n"text": "a"\n}', r"jq -c \. a\.json > a\.lines\.jsonl"),
    ],
)
def test_json_that_is_not_one_object_a_line_says_how_to_convert(tmp_path: Path, content: bytes, command: str) -> None:
    first, *_ = lines_of(tmp_path / "a.json", content)
    assert isinstance(first, Rejected)
    assert re.search(command, first.reason)


def test_a_large_text_file_with_old_line_ends_is_cut_too(tmp_path: Path) -> None:
    paragraphs = [f"Paragraph {i} says {text}" for i, text in enumerate(TINY_TEXT * 40)]
    path = tmp_path / "mac.txt"
    path.write_bytes("\r\r".join(paragraphs).encode())
    found = list(read_text_file(path, "mac.txt", ignore))
    assert texts_of(found) == paragraphs
    assert found[1].where == f"{path}:3"


def test_ids_are_used_where_given_and_demanded_where_named(tmp_path: Path) -> None:
    content = b'{"id": 7, "key": "k7", "text": "a", "source": "s"}\n{"text": "b", "source": 3}\n'
    first, second = lines_of(tmp_path / "i.jsonl", content)
    assert isinstance(first, Found)
    assert isinstance(second, Found)
    assert (first.name, first.source, second.name, second.source) == ("7", "s", None, None)
    first, second = lines_of(tmp_path / "i.jsonl", content, Fields(text="text", name="key"))
    assert isinstance(first, Found)
    assert first.name == "k7"
    assert isinstance(second, Rejected)


def test_parquet_gives_the_same_documents(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    table = pa.table({"id": range(3), "body": ["one", None, "three"], "weight": [0.1, 0.2, 0.3]})
    parquet.write_table(table, path)
    one, none, three = read_parquet(path, Fields(text="body", name="id"), ignore)
    assert one == Found(f"{path}: row 1", "0", None, "one")
    assert three == Found(f"{path}: row 3", "2", None, "three")
    assert isinstance(none, Rejected)
    with pytest.raises(DataError, match=r"expected columns \['text'\], got \['id', 'body', 'weight'\]. Set `text`"):
        list(read_parquet(path, PLAIN, ignore))
    path.write_bytes(b"PAR1 but not really PAR1")
    with pytest.raises(DataError, match=r"t\.parquet: no readable Parquet file"):
        list(read_parquet(path, PLAIN, ignore))


def test_a_short_text_file_is_one_document(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    path.write_text("First paragraph.\n\nSecond paragraph.\n", encoding="utf-8")
    (found,) = read_text_file(path, "note.txt", ignore)
    assert found == Found(str(path), "note.txt", None, "First paragraph.\n\nSecond paragraph.\n")
    path.write_bytes(b"caf\xe9")
    (bad,) = read_text_file(path, "note.txt", ignore)
    assert isinstance(bad, Rejected)
    assert "byte 4 of the file is 0xe9, which is no UTF-8. Convert the file: iconv -f WINDOWS-1252" in bad.reason


def test_a_large_text_file_is_cut_at_empty_lines_and_names_survive_an_insertion(tmp_path: Path) -> None:
    paragraphs = [f"Paragraph {i} says {text}\nin two lines." for i, text in enumerate(TINY_TEXT * 25)]
    assert len("".join(paragraphs)) > LARGE_FILE_CHARACTERS
    path = tmp_path / "book.txt"
    path.write_text("\n\n".join(paragraphs), encoding="utf-8")
    found = list(read_text_file(path, "book.txt", ignore))
    assert texts_of(found) == paragraphs
    assert found[1].where == f"{path}:4"
    before = {item.text: item.name for item in found if isinstance(item, Found)}
    path.write_text("\r\n \t\r\n".join([paragraphs[0], "A new one.", *paragraphs[1:]]), encoding="utf-8")
    after = {item.text: item.name for item in read_text_file(path, "book.txt", ignore) if isinstance(item, Found)}
    assert after.pop("A new one.")
    assert after == before


def test_files_of_a_folder_come_in_order_of_their_paths(tmp_path: Path) -> None:
    for name in ("b/1.jsonl.gz", "a.jsonl", "b/0.jsonl.zst", ".hidden/c.jsonl", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [file.relative_to(tmp_path).as_posix() for file in input_files(tmp_path, JSON_LINES)]
    assert names == ["a.jsonl", "b/0.jsonl.zst", "b/1.jsonl.gz"]
    dataset = ENDINGS["dataset"]
    assert [file.name for file in input_files(tmp_path, *dataset)] == ["a.jsonl", "0.jsonl.zst", "1.jsonl.gz"]
    (tmp_path / "README.txt").touch()  # beside tables a note, alone a text
    assert len(input_files(tmp_path, *dataset)) == 3
    (tmp_path / "b" / "part.parquet").touch()
    assert [file.name for file in input_files(tmp_path, *dataset)] == ["part.parquet"]


def test_upper_case_endings_are_found_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    """Row 29."""
    names = ("A.TXT", "b.md", "c.Txt.GZ", "d.json", "e.csv", "f.csv", "LICENSE", ".hidden.txt")
    for name in names:
        (tmp_path / name).touch()
    params = InputParams(kind="text", path=str(tmp_path))
    assert [file.name for file in input_paths(params)] == ["A.TXT", "c.Txt.GZ"]
    assert skipped_files(params) == {".csv": 2, ".json": 1, ".md": 1, "no ending": 1}
    for name in ("A.TXT", "c.Txt.GZ"):
        (tmp_path / name).unlink()
    assert [file.name for file in input_paths(params)] == ["b.md"]  # a folder of notes
    with pytest.raises(DataError, match=r"found none in it but 2 \.csv, 1 \.json, 1 \.md, 1 no ending"):
        input_paths(InputParams(kind="parquet", path=str(tmp_path)))


@pytest.mark.parametrize(
    ("kind", "name"), [("csv", "t.csv"), ("tsv", "t.tsv.gz"), ("dataset", "t.csv"), ("dataset", "t.tsv.gz")]
)
def test_kinds_of_tables_are_read_by_their_kind(tmp_path: Path, kind: Any, name: str) -> None:
    (tmp_path / name).write_bytes((gzip.compress if name.endswith("gz") else bytes)(b"body\na text\n"))
    params = InputParams(kind=kind, path=str(tmp_path), text="body")
    (file,) = input_paths(params)
    assert texts_of(input_documents(params, file, ignore)) == ["a text"]


def test_a_data_set_of_plain_texts_is_read(tmp_path: Path) -> None:
    (tmp_path / "en").mkdir()
    (tmp_path / "en" / "a.txt.xz").write_bytes(lzma.compress(b"a text\n"))
    params = InputParams(kind="dataset", path=str(tmp_path))
    (file,) = input_paths(params)
    (found,) = input_documents(params, file, ignore)
    assert isinstance(found, Found) and (found.name, found.text) == ("en/a.txt.xz", "a text\n")


def test_a_missing_input_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent: expected a file or a folder with files ending in \.jsonl, .*nothing"):
        input_files(tmp_path / "absent", JSON_LINES)
    with pytest.raises(DataError, match="found none in it"):
        input_files(tmp_path, JSON_LINES)
    with pytest.raises(
        DataError, match=r"files ending in \.parquet, \.jsonl, \.ndjson, \.csv.* \(or these and \.gz, \.xz"
    ):
        input_files(tmp_path, *ENDINGS["dataset"])


def synset(name: str, words: list[str], gloss: str, examples: list[str], lexname: str) -> SimpleNamespace:
    return SimpleNamespace(
        name=lambda: name,
        lemma_names=lambda: words,
        definition=lambda: gloss,
        examples=lambda: examples,
        lexname=lambda: lexname,
    )


def test_wordnet_reads_as_pages_of_words_glosses_and_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the NLTK reader; the real one is held by the tests of pipeline.sources.wordnet."""
    synsets = [
        synset("dog.n.01", ["dog", "domestic_dog"], "a member of the genus Canis", ["the dog barked"], "noun.animal"),
        synset("pup.n.01", ["pup"], "a young dog", [], "noun.animal"),
        synset("long.n.01", ["long"], "word " * 80, [], "noun.animal"),
        synset("oak.n.01", ["oak"], "a tree", [], "noun.plant"),
    ]
    reader = SimpleNamespace(all_synsets=lambda: iter(synsets))
    monkeypatch.setitem(sys.modules, "pipeline.sources.wordnet", SimpleNamespace(open_wordnet=lambda folder: reader))
    pages = list(read_wordnet(tmp_path))
    assert [(page.name, page.source) for page in pages] == [
        ("dog.n.01", "noun.animal"), ("long.n.01", "noun.animal"), ("oak.n.01", "noun.plant"),
    ]  # fmt: skip
    assert pages[0].text == "dog, domestic dog: a member of the genus Canis; the dog barked.\npup: a young dog."
    assert json.dumps(pages[0].where).endswith('dog.n.01"')
