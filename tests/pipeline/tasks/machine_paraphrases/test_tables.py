"""The published corpus as tables: columns by name, a test set a dataset and method, bad rows named by file and line."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from pipeline.tasks.machine_paraphrases.tables import PLAIN_QUOTES, read_tables
from pipeline.tasks.paraphrase_data import read_sets
from storage.errors import DataError

HEADER = ["text", "label", "dataset", "method"]
TRAIN = [[f"train text {n}", n % 2, "wikipedia", ("original", "spinbot")[n % 2]] for n in range(8)]
TEST = [
    [f"{dataset} {method} {n}", int(method != "original"), dataset, method]
    for dataset in ("arxiv", "wikipedia")
    for method in ("original", "spinbot", "spinnerchief")
    for n in range(3)
]


def written(rows: list[list[object]], header: list[str]) -> str:
    """As pandas' to_csv(sep=tab, index=False) writes it: quoted where that is needed."""
    out = io.StringIO()
    csv.writer(out, delimiter="\t", lineterminator="\n").writerows([header, *rows])
    return out.getvalue()


def corpus(
    root: Path,
    train: list[list[object]] | None = None,
    test: list[list[object]] | None = None,
    header: list[str] = HEADER,
) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "train.tsv").write_text(written(TRAIN if train is None else train, header), encoding="utf-8")
    (root / "test.tsv").write_text(written(TEST if test is None else test, header), encoding="utf-8")
    return root


def texts(part: object) -> list[tuple[int, str]]:
    return [(entry.label, entry.text) for entry in part.entries]  # type: ignore[attr-defined]


def test_train_is_one_set_and_test_one_a_dataset_and_method_with_the_originals_of_the_dataset(tmp_path: Path) -> None:
    found = read_sets("published", corpus(tmp_path / "mpc"))
    names = [f"mpc/{dataset}-{method}" for dataset in ("arxiv", "wikipedia") for method in ("spinbot", "spinnerchief")]
    assert [one.name for one in found] == ["mpc/train", *names]
    assert found[0].train is not None
    assert found[0].train.first == [f"train text {n}" for n in range(8)]
    assert found[0].train.label_N.tolist() == [0, 1] * 4
    assert found[2].test is not None
    assert list(zip(found[2].test.label_N.tolist(), found[2].test.first, strict=True)) == [
        *((0, f"arxiv original {n}") for n in range(3)),
        *((1, f"arxiv spinnerchief {n}") for n in range(3)),
    ]
    assert len(set(found[2].test.group)) == 6
    assert len({one.identity for one in found}) == 5


def test_an_original_that_names_a_method_belongs_to_its_set_alone(tmp_path: Path) -> None:
    rows = [["o", 0, "arxiv", "spinbot"], ["p", 1, "arxiv", "spinbot"], ["q", 0, "arxiv", "spinnerchief"],
            ["r", 1, "arxiv", "spinnerchief"]]  # fmt: skip
    _, first, second = read_tables(corpus(tmp_path / "mpc", test=rows))
    assert texts(first) == [(0, "o"), (1, "p")]
    assert texts(second) == [(0, "q"), (1, "r")]


def test_columns_are_found_by_name_in_any_order_and_others_are_not_read(tmp_path: Path) -> None:
    header = ["", "method", "label", "note", "text", "dataset"]
    rows = [[n, method, label, "7", text, dataset] for n, (text, label, dataset, method) in enumerate(TEST)]
    assert read_tables(tmp_path) == []
    (tmp_path / "mpc").mkdir()
    (tmp_path / "mpc" / "test.tsv").write_text(written(rows, header), encoding="utf-8")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "test.tsv").write_text(written(TEST, HEADER), encoding="utf-8")
    there, plain = ([texts(part) for part in read_tables(tmp_path / name)] for name in ("mpc", "plain"))
    assert there == plain


def test_without_dataset_and_method_test_is_one_set(tmp_path: Path) -> None:
    rows = [row[:2] for row in TEST]
    found = read_tables(corpus(tmp_path / "mpc", train=[row[:2] for row in TRAIN], test=rows, header=HEADER[:2]))
    assert [(part.name, part.split) for part in found] == [("mpc/train", "train"), ("mpc/test", "test")]
    assert texts(found[1]) == [(row[1], row[0]) for row in TEST]


def test_quoted_fields_hold_tabs_marks_and_line_ends(tmp_path: Path) -> None:
    odd = ['"So," he said,\nand went', 'a "b" c', "tab\there"]
    rows = [*TEST, *([text, 1, "arxiv", "spinbot"] for text in odd)]
    part = read_tables(corpus(tmp_path / "mpc", test=rows))[1]
    assert [text for _, text in texts(part)][-3:] == ['"So," he said, and went', 'a "b" c', "tab here"]
    assert part.counts == {}


@pytest.mark.parametrize("first", ['"So," he said', '"never closed'])
def test_a_file_whose_marks_are_plain_characters_is_read_by_lines_and_counted(tmp_path: Path, first: str) -> None:
    root = corpus(tmp_path / "mpc")
    lines = ["\t".join(map(str, row)) for row in [HEADER, [first, 1, "arxiv", "spinbot"], *TEST]]
    (root / "test.tsv").write_text("\n".join([*lines, ""]), encoding="utf-8")
    part = read_tables(root)[1]
    assert texts(part)[0] == (1, first)
    assert len(part.entries) == 7
    assert part.counts == {PLAIN_QUOTES: 1}


def test_two_plain_rows_are_not_taken_for_one_quoted_row(tmp_path: Path) -> None:
    """The first begins with a mark and the second has its end before a tab: as CSV they are one row of four fields."""
    root = corpus(tmp_path / "mpc")
    rows = [['"He went', 0, "arxiv", "original"], ['and said "so"', 0, "arxiv", "original"], *TEST]
    lines = ["\t".join(map(str, row)) for row in [HEADER, *rows]]
    (root / "test.tsv").write_text("\n".join([*lines, ""]), encoding="utf-8")
    assert (0, '"He went') in texts(read_tables(root)[1])


@pytest.mark.parametrize("layout", ["{}.parquet", "{}-00000-of-00001.parquet", "{}/0000.parquet"])
def test_parquet_gives_the_same_texts(tmp_path: Path, layout: str) -> None:
    for split, rows in (("train", TRAIN), ("test", TEST)):
        file = tmp_path / "mpc" / layout.format(split)
        file.parent.mkdir(parents=True, exist_ok=True)
        columns = dict(zip(HEADER, map(list, zip(*rows, strict=True)), strict=True))
        parquet.write_table(pa.table(columns), file)
    tsv = read_tables(corpus(tmp_path / "other" / "mpc"))
    assert [(part.name, texts(part)) for part in read_tables(tmp_path / "mpc")] == [
        (part.name, texts(part)) for part in tsv
    ]


def test_gzip_is_read_and_two_formats_of_one_split_are_refused(tmp_path: Path) -> None:
    root = corpus(tmp_path / "mpc")
    before = [texts(part) for part in read_tables(root)]
    data = (root / "test.tsv").read_bytes()
    (root / "test.tsv.gz").write_bytes(gzip.compress(data, mtime=0))
    with pytest.raises(DataError, match=r"mpc: expected test in one format, got test.tsv, test.tsv.gz. Keep one"):
        read_tables(root)
    (root / "test.tsv").unlink()
    assert [texts(part) for part in read_tables(root)] == before


def test_texts_of_train_that_test_holds_are_dropped_from_train(tmp_path: Path) -> None:
    train = [*TRAIN, ["ARXIV  original 0", 0, "wikipedia", "original"]]
    part = read_tables(corpus(tmp_path / "mpc", train=train))[0]
    assert [text for _, text in texts(part)] == [row[0] for row in TRAIN]
    assert part.counts == {"texts of train that test holds too": 1}


def test_labels_with_a_point_are_read(tmp_path: Path) -> None:
    rows = [[text, f"{label}.0", *kind] for text, label, *kind in TEST]
    assert np.mean([entry.label for entry in read_tables(corpus(tmp_path / "mpc", test=rows))[1].entries]) == 0.5


@pytest.mark.parametrize(("row", "first"), [
    (["text", 2, "arxiv", "spinbot"], "line 20: expected label 0 or 1, got '2'"),
    (["text", "", "arxiv", "spinbot"], "line 20: expected label 0 or 1, got ''"),
    ([" ", 1, "arxiv", "spinbot"], "line 20: expected a text, got ' '"),
    (["text", 1, "arxiv"], "line 20: expected 4 fields, got 3"),
])  # fmt: skip
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, row: list[object], first: str) -> None:
    root = corpus(tmp_path / "mpc", test=[*TEST, row])
    with pytest.raises(DataError, match=r"test.tsv: 1 of 19 entries cannot be used .*at most 1% may be") as refusal:
        read_tables(root)
    assert f"The first: {first}. Mend or remove them" in str(refusal.value)
    many = [[f"{text} {n}", *more] for text, *more in TEST for n in range(20)]
    part = read_tables(corpus(tmp_path / "mpc", test=[*many, row]))[1]
    assert sum(part.counts.values()) == 1, "one in 361 is counted"


def test_a_text_that_is_no_utf8_is_named(tmp_path: Path) -> None:
    root = corpus(tmp_path / "mpc")
    with (root / "test.tsv").open("ab") as stream:
        stream.write(b"caf\xe9\t1\tarxiv\tspinbot\n")
    with pytest.raises(DataError, match=r"test.tsv: 1 of 19 .*'not UTF-8': 1.*line 20: expected UTF-8, got b'caf"):
        read_tables(root)


@pytest.mark.parametrize("header", [["sentence", "label", "dataset", "method"], ["text", "text", "label", "x"]])
def test_a_header_without_the_columns_is_refused(tmp_path: Path, header: list[str]) -> None:
    with pytest.raises(DataError, match=r"train.tsv: line 1: expected a header with the columns text and") as no:
        read_tables(corpus(tmp_path / "mpc", header=header))
    assert f"got {header!r}" in str(no.value)


def test_a_damaged_parquet_file_and_one_without_columns_are_refused(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"body": ["x"], "label": [1]}), tmp_path / "test.parquet")
    with pytest.raises(DataError, match=r"test.parquet: line 1: expected a header .*got \['body', 'label'\]"):
        read_tables(tmp_path)
    (tmp_path / "test.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"test.parquet: no readable Parquet file"):
        read_tables(tmp_path)
