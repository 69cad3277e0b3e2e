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
    with pytest.raises(DataError, match=r"t\.jsonl: no document that can be read as jsonl"):
        survey(tmp_path / "t.jsonl")
