"""All nine formats with their oddities; refusals name file, line and expectation; the hub gives what the files give."""

from __future__ import annotations

import csv
import gzip
import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from pipeline.tasks.glue_data import (
    HUB,
    TASKS,
    fetch_from_hub,
    read_folder,
    read_tsv,
)
from storage.errors import DataError, SourceError
from tests.helpers.glue import HEADERS, LABELS, line, write_task
from tests.helpers.services import COMMIT, Hub

PAIRED = [name for name in TASKS if len(TASKS[name].texts) == 2]


@pytest.mark.parametrize("task", TASKS)
def test_each_task_reads_its_published_columns(tmp_path: Path, task: str) -> None:
    labels = LABELS[task]
    write_task(tmp_path, task, [line(task, label, f"first {label}", f"second {label}") for label in labels])
    data = read_folder(tmp_path, task)
    assert list(data.dev) == (["matched", "mismatched"] if task == "MNLI" else [""])
    for examples in (data.train, *data.dev.values()):
        assert examples.first == [f"first {label}" for label in labels]
        assert examples.second == ([f"second {label}" for label in labels] if task in PAIRED else None)
        expected = [0.0, 5.0] if task == "STS-B" else list(range(len(labels)))
        assert examples.label_N.tolist() == expected
        assert examples.label_N.dtype == (np.float64 if task == "STS-B" else np.int64)
    assert data.skipped == {}


@pytest.mark.parametrize("text", [
    'He said " no', '"', '""quoted"" ', "lone\rreturn", "line\u2028separator\x85here", " spaced ", "ümläut ☃", "\\t",
])  # fmt: skip
def test_quotes_and_odd_characters_are_text(tmp_path: Path, text: str) -> None:
    write_task(tmp_path, "RTE", [line("RTE", "entailment", text, text)])
    train = read_folder(tmp_path, "RTE").train
    assert train.second is not None
    assert (train.first, train.second) == ([text], [text])


words = st.text(st.characters(blacklist_characters="\t\r\n\ufeff", codec="utf-8"), min_size=1).filter(str.strip)


@given(st.lists(st.tuples(words, words, st.sampled_from(["0", "1"])), min_size=1, max_size=8))
def test_rows_read_as_the_csv_module_reads_them_unquoted(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]]
) -> None:
    folder = write_task(tmp_path_factory.mktemp("csv"), "WNLI", [line("WNLI", label, a, b) for a, b, label in rows])
    found = read_tsv(folder / "train.tsv", "WNLI", Counter())
    with (folder / "train.tsv").open(encoding="utf-8", newline="\n") as stream:
        expected = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert found.first == [row["sentence1"] for row in expected]
    assert found.second == [row["sentence2"] for row in expected]
    assert found.label_N.tolist() == [int(row["label"]) for row in expected]


def test_windows_line_ends_and_compressed_files_are_read(tmp_path: Path) -> None:
    folder = write_task(tmp_path, "MRPC", [line("MRPC", "1", "a", "b")])
    plain = (folder / "train.tsv").read_bytes().replace(b"\n", b"\r\n")
    (folder / "train.tsv").unlink()
    (folder / "train.tsv.gz").write_bytes(gzip.compress(plain))
    train = read_folder(tmp_path, "MRPC").train
    assert (train.first, train.second, train.label_N.tolist()) == (["a"], ["b"], [1])


def test_known_defects_are_skipped_and_counted(tmp_path: Path) -> None:
    rows = [line("QQP", "1", "what", "why"), "5\t6\t7\tcut short", line("QQP", "0", "", "why"), "1\t2\t3\ta\tb\t0"]
    write_task(tmp_path, "QQP", rows)
    data = read_folder(tmp_path, "QQP")
    assert (data.train.first, data.skipped) == (["what", "a"], {"cut short": 2, "no question": 2})
    write_task(tmp_path, "MNLI", [line("MNLI", "-", "a", "b"), line("MNLI", "neutral", "c", "d")])
    data = read_folder(tmp_path, "MNLI")
    assert (data.train.first, data.skipped) == (["c"], {"no agreed label": 3})


GOOD = line("RTE", "entailment", "a", "b")


@pytest.mark.parametrize(("task", "row", "message"), [
    ("RTE", "1\ta\tentailment", r"train.tsv: line 3: expected 4 fields separated by tabs, got 3"),
    ("RTE", "1\ta\tb\tc\tentailment", r"line 3: expected 4 fields separated by tabs, got 5"),
    ("RTE", "", r"line 3: expected 4 fields separated by tabs, got 1"),
    ("RTE", "1\ta\tb\tmaybe", r"line 3: expected a label of entailment, not_entailment, got 'maybe'"),
    ("RTE", "1\t \tb\tentailment", r"line 3: expected text in every column, got an empty one"),
    ("QQP", "1\t2\t3\ta\tb\tc\t0", r"line 3: expected 6 fields separated by tabs, got 7"),
    ("QQP", "1\t2\t3\ta\tb\t-", r"line 3: expected a label of 0, 1, got '-'"),
    ("CoLA", "gj04\t1\tsentence", r"line 2: expected 4 fields separated by tabs, got 3"),
    ("STS-B", line("STS-B", "5.1", "a", "b"), r"line 3: expected a score from 0 to 5, got '5.1'"),
    ("STS-B", line("STS-B", "nan", "a", "b"), r"line 3: expected a score from 0 to 5, got 'nan'"),
    ("STS-B", line("STS-B", "high", "a", "b"), r"line 3: expected a score from 0 to 5, got 'high'"),
])  # fmt: skip
def test_rows_that_are_not_as_published_are_refused(tmp_path: Path, task: str, row: str, message: str) -> None:
    write_task(tmp_path, task, [line(task, LABELS[task][0], "a", "b"), row])
    with pytest.raises(DataError, match=message):
        read_folder(tmp_path, task)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"RTE/train.tsv: not found. Give GLUE's published folders"):
        read_folder(tmp_path, "RTE")
    folder = write_task(tmp_path, "RTE", [GOOD], stems=("train",))
    with pytest.raises(DataError, match=r"RTE/dev.tsv: not found"):
        read_folder(tmp_path, "RTE")
    write_task(tmp_path, "RTE", [GOOD])
    cases = [
        (
            f"{HEADERS['RTE']}\n{GOOD}\n".encode() + b"1\tcaf\xe9\tb\tentailment\n",
            r"line 3: expected UTF-8, got byte 0xe9",
        ),
        (
            f"{GOOD}\n".encode(),
            r"line 1: expected a header with the columns sentence1, sentence2, label, got \['0', 'a'",
        ),
        (b"", r"line 1: expected a header with the columns .* got \[\]"),
        (f"{HEADERS['RTE']}\n".encode(), r"dev.tsv: expected examples, found none"),
    ]
    for content, message in cases:
        (folder / "dev.tsv").write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_folder(tmp_path, "RTE")


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    rows = [line("RTE", "entailment", f"sentence {n} {n * 7919 % 1000}", "b") for n in range(2000)]
    folder = write_task(tmp_path, "RTE", rows)
    whole = gzip.compress((folder / "dev.tsv").read_bytes())
    (folder / "dev.tsv").unlink()
    flipped = bytes([*whole[:200], whole[200] ^ 255, *whole[201:]])
    for content in (whole[: len(whole) // 2], b"PK no gzip", flipped):
        (folder / "dev.tsv.gz").write_bytes(content)
        with pytest.raises(DataError, match=r"dev.tsv.gz: after line \d+: truncated or no gzip file: .*Fetch it again"):
            read_folder(tmp_path, "RTE")


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, bytes]], Hub]:
    """Offer files of GLUE's data set on a hub of this machine, with an empty cache."""
    constants = "huggingface_hub.constants"
    monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(f"{constants}.HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)

    def start(files: dict[str, bytes]) -> Hub:
        hub = Hub({HUB: files})
        monkeypatch.setattr(f"{constants}.ENDPOINT", hub.url)
        monkeypatch.setattr(
            f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        return hub

    return start


def table(**columns: list[object]) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(pa.table(columns), sink)
    return sink.getvalue()


@pytest.mark.parametrize("task", TASKS)
def test_the_hub_gives_what_the_files_give(tmp_path: Path, serve: Callable[[dict[str, bytes]], Hub], task: str) -> None:
    labels = LABELS[task]
    write_task(tmp_path, task, [line(task, label, f"first {label}", f"second {label}") for label in labels])
    expected = read_folder(tmp_path, task)
    numbers = [0.0, 5.0] if task == "STS-B" else list(range(len(labels)))
    texts = [[f"{which} {label}" for label in labels] for which in ("first", "second")]
    part = table(**dict(zip(TASKS[task].hub_texts, texts, strict=False)), label=numbers, idx=numbers)
    splits = ["train", *(f"validation_{part}" if part else "validation" for part in expected.dev)]
    files = {f"{TASKS[task].hub}/{split}-00000-of-00001.parquet": part for split in splits}
    with serve(files | {f"{TASKS[task].hub}/test-00000-of-00001.parquet": b"x", "README.md": b"x"}) as hub:
        found = fetch_from_hub(COMMIT, task)
    for ours, theirs in zip((found.train, *found.dev.values()), (expected.train, *expected.dev.values()), strict=True):
        assert (ours.first, ours.second) == (theirs.first, theirs.second)
        assert np.array_equal(ours.label_N, theirs.label_N) and ours.label_N.dtype == theirs.label_N.dtype
    assert not [path for path in hub.requests if path.endswith(("README.md", "test-00000-of-00001.parquet"))]


@pytest.mark.parametrize(("content", "message"), [
    (b"no parquet", r"train-00000-of-00001.parquet: not readable as Parquet"),
    (table(sentence1=["a"], sentence2=["b"], label=[-1]), r"row 0: expected a label of entailment, .*, got '-1'"),
    (table(sentence1=["a"], sentence2=[None], label=[1]), r"row 0: expected text in every column"),
    (table(premise=["a"], sentence2=["b"], label=[1]), r"expected the columns \['sentence1'\], got \['premise'"),
])  # fmt: skip
def test_a_hub_file_that_is_not_as_published_is_refused(
    serve: Callable[[dict[str, bytes]], Hub], content: bytes, message: str
) -> None:
    with serve({f"rte/{split}-00000-of-00001.parquet": content for split in ("train", "validation")}):
        with pytest.raises(DataError, match=message):
            fetch_from_hub(COMMIT, "RTE")


def test_a_hub_that_does_not_have_it_leads_to_what_a_person_can_do(
    serve: Callable[[dict[str, bytes]], Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve({"rte/train-00000-of-00001.parquet": table(sentence1=["a"], sentence2=["b"], label=[1])}):
        with pytest.raises(DataError, match=r"rte/validation\*.parquet: expected examples, found none"):
            fetch_from_hub(COMMIT, "RTE")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match=r"glue CoLA: could not be .*By hand: get GLUE's published folders"):
        fetch_from_hub("f" * 40, "CoLA")
