"""What `cohesive init` takes a text to be."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from pipeline.project import survey as survey_module
from pipeline.project.survey import survey, text_kind
from storage.errors import DataError

TEXTS = [f"Text number {i} has some more words than a title." for i in range(30)]


def test_the_kind_is_that_of_the_ending_or_of_the_first_bytes(tmp_path: Path) -> None:
    contents = {
        "a.csv": ("csv", b"text\n"),
        "b.TSV": ("tsv", b"text\tn\nplain\t1\n"),
        "c.tsv": ("csv", b'text\tn\n"a ""word"""\t1\n'),
        "d.ndjson.xz": ("jsonl", b""),
        "e.md": ("text", b""),
        "noending": ("jsonl", b'\n {"text": "a"}\n'),
        "packed.dat": ("jsonl", gzip.compress(b'{"text": "a"}\n')),
        "words": ("text", b"some words\n"),
        "magic": ("parquet", b"PAR1"),
        "array.json": ("jsonl", b'[\n {"text": "a"}\n]'),
        "stage": ("text", b"[Music] plays\n"),
    }
    for name, (kind, content) in contents.items():
        (tmp_path / name).write_bytes(content)
        assert text_kind(tmp_path / name) == kind, name
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a.txt", "b.txt", "c.csv", "LICENSE"):
        (folder / name).touch()
    assert text_kind(folder) == "text"


def test_the_column_with_text_is_found_in_every_kind_of_table(tmp_path: Path) -> None:
    rows = [{"id": i, "title": "Short", "doc": {"body": text}} for i, text in enumerate(TEXTS)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    (tmp_path / "t.jsonl").write_text("bad\n" + "\n".join(map(json.dumps, rows)), encoding="utf-8")
    for name in ("t.parquet", "t.jsonl"):
        seen = survey(tmp_path / name)
        assert (seen.params.text, seen.columns, seen.documents, seen.exact) == (
            "doc.body", ("doc.body", "title"), 30, True,
        )  # fmt: skip
    with (tmp_path / "t.csv").open("w", newline="") as stream:
        csv.writer(stream, delimiter=";").writerows([("text", "longer"), *(("a b", text) for text in TEXTS)])
    seen = survey(tmp_path / "t.csv")
    assert (seen.params.text, seen.columns) == ("text", ("text", "longer"))


def test_a_column_of_words_comes_before_a_longer_one_of_addresses(tmp_path: Path) -> None:
    rows = [("url", "sentence", "id"), *((f"https://example.org/{'long-' * 20}{i}", TEXTS[i], i) for i in range(30))]
    with (tmp_path / "t.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    assert survey(tmp_path / "t.csv").columns == ("sentence", "url", "id")
    chinese = [("code", "正文"), *((f"x{i}", "这是一个没有空格的句子") for i in range(30))]
    with (tmp_path / "c.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(chinese)
    assert survey(tmp_path / "c.csv").params.text == "正文"


@pytest.mark.parametrize(
    ("header", "warns"),
    [
        ("A dog sleeps here.", True),
        ("x" * 61, True),
        ("the text of the review", False),
        ("no.", False),
    ],
)
def test_a_header_that_looks_like_text_is_warned_of(tmp_path: Path, header: str, warns: bool) -> None:
    (tmp_path / "t.csv").write_text("\n".join([header, *TEXTS]), encoding="utf-8")
    warning = survey(tmp_path / "t.csv").warning
    assert bool(warning) is warns
    if warns:
        assert f"{header[:60]!r} looks like text. If it is, put a line with names, such as text, above it" in warning
    (tmp_path / "t.jsonl").write_text(json.dumps({header: TEXTS[0]}), encoding="utf-8")
    assert survey(tmp_path / "t.jsonl").warning == "", "fields of objects always have names"


def test_files_of_a_folder_that_are_not_read_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\n".join(["text", *TEXTS]), encoding="utf-8")
    assert survey(tmp_path).left == {}
    (tmp_path / "b.jsonl").touch()
    (tmp_path / "c.csv").write_text("\n".join(["text", *TEXTS]), encoding="utf-8")
    assert survey(tmp_path).left == {".jsonl": 1}
    assert survey(tmp_path / "a.csv").left == {}


def test_the_size_of_a_long_text_is_estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_module, "SAMPLE_DOCUMENTS", 50)
    lines = [json.dumps({"text": text}) for text in TEXTS * 100]
    (tmp_path / "t.jsonl").write_text("\n".join(lines), encoding="utf-8")
    seen = survey(tmp_path / "t.jsonl")
    assert not seen.exact
    assert seen.documents == pytest.approx(3000, rel=0.3)
    assert seen.tokens == pytest.approx(3000 * len(TEXTS[15]) / 4.5, rel=0.3)


def test_what_holds_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent: expected texts .*, found nothing"):
        survey(tmp_path / "absent")
    with pytest.raises(DataError, match=r"expected texts .*, found a folder without any"):
        survey(tmp_path)
    (tmp_path / "t.jsonl").write_text("[]\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"t\.jsonl: no document can be read as jsonl"):
        survey(tmp_path / "t.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("t.csv", "id,text\n1,café\n".encode("latin-1"), r"t\.csv:2: byte 6 of line 2 is 0xe9.*iconv -f WINDOWS-1252"),
        (
            "t.json",
            b'[\n {"text": "a"},\n {"text": "b"}\n]',
            r"t\.json:1: .*Expected one object a line.*jq -c '\.\[\]' t\.json >",
        ),
        ("t.json", b'[{"text": "a"}]', r"t\.json:1: expected an object, got list.*jq -c '\.\[\]' t\.json >"),
        ("t.jsonl", b'{"text": " "}\n', r"no document can be read as jsonl\. There is no text"),
    ],
)
def test_the_first_reason_of_the_reader_is_passed_on(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=reason):
        survey(tmp_path / name)
