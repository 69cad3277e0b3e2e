"""WiC in its three layouts, written by hand; every refusal by its file and line. The published files are not read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from pipeline.core.config import decode
from pipeline.tasks.finetune.examples import Examples
from pipeline.tasks.glue import evaluate_glue
from pipeline.tasks.params import GlueParams
from pipeline.tasks.wic.data import fetch_wic, read_wic
from storage.errors import DataError, ParamsError
from tests.helpers.stores import cpu_runtime

LINES = (
    "bank\tN\t4-1\tthe goat eats beside the-bank of stones\tThe banks are empty .",
    "hide\tV\t1-0\tit hides\thide !",
)
GOLD = ("F", "T")
ROWS = (
    {"word": "bank", "sentence1": "the goat eats beside the-bank of stones", "start1": 21, "end1": 29,
     "sentence2": "The banks are empty .", "start2": 4, "end2": 9, "label": False, "idx": 0, "version": 1.1},
    {"word": "hide", "sentence1": "it hides", "start1": 3, "end1": 8, "sentence2": "hide !", "start2": 0, "end2": 4,
     "label": True, "idx": 1, "version": 1.1},
)  # fmt: skip


def published(folder: Path, *, inside: bool = False) -> Path:
    for part in ("train", "dev"):
        where = folder / part if inside else folder
        where.mkdir(parents=True, exist_ok=True)
        (where / f"{part}.data.txt").write_text("\n".join(LINES) + "\n", encoding="utf-8")
        (where / f"{part}.gold.txt").write_text("\n".join(GOLD) + "\n", encoding="utf-8")
    return folder


def as_superglue(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for part in ("train", "val"):
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return folder


def as_on_the_hub(folder: Path) -> Path:
    folder.mkdir(parents=True)
    rows = [row | {"label": int(row["label"])} for row in ROWS]  # type: ignore[call-overload]
    for part in ("train", "validation"):
        for number, row in enumerate(rows):
            parquet.write_table(pa.Table.from_pylist([row]), folder / f"{part}-0000{number}-of-00002.parquet")
    return folder


def words(examples: Examples) -> list[tuple[str, str]]:
    assert examples.span_N22 is not None and examples.second is not None
    return [
        (first[a:b], second[c:d])
        for first, second, ((a, b), (c, d)) in zip(
            examples.first, examples.second, examples.span_N22.tolist(), strict=True
        )
    ]


@pytest.mark.parametrize(
    "write", [published, lambda folder: published(folder, inside=True), as_superglue, as_on_the_hub]
)
def test_all_layouts_hold_the_same_examples(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    data = read_wic(write(tmp_path / "WiC"))
    for examples in (data.train, data.dev[""]):
        assert examples.first == [row["sentence1"] for row in ROWS]
        assert examples.second == [row["sentence2"] for row in ROWS]
        assert words(examples) == [("the-bank", "banks"), ("hides", "hide")]
        assert examples.label_N.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("dev.data.txt", LINES[0].replace("\tN", ""), r"dev.data.txt: line 2: expected word, .* 5 fields .*, got 4"),
        (
            "dev.data.txt",
            LINES[0].replace("\tN\t", "\tA\t"),
            r"line 2: expected N or V for the part of speech, got 'A'",
        ),
        ("dev.data.txt", LINES[0].replace("4-1", "4"), r"line 2: expected the word's places as 'i-j', got '4'"),
        (
            "dev.data.txt",
            LINES[0].replace("4-1", "4-5"),
            r"line 2: the word's place is 5, but 'The banks .*' has 5 tokens",
        ),
        ("dev.gold.txt", "True", r"dev.gold.txt: line 2: expected T or F, got 'True'"),
        ("dev.gold.txt", "T\nT", r"dev.gold.txt: 3 lines; expected 2, as many as dev.data.txt has"),
        ("dev.gold.txt", None, r"dev.gold.txt: 1 lines; expected as many as dev.data.txt has, which goes on"),
    ],
)
def test_a_bad_line_is_refused_by_its_number(tmp_path: Path, name: str, line: str | None, message: str) -> None:
    folder = published(tmp_path / "WiC")
    first = (LINES if "data" in name else GOLD)[0]
    (folder / name).write_text("\n".join([first] if line is None else [first, line]) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_wic(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": -1}, r"train.jsonl: line 2: expected a label of 0 or 1, got -1; the test part has none"),
        ({"end1": 99}, r"train.jsonl: line 2: no word at characters 3 to 99 of 'it hides'"),
        ({"start2": 4, "end2": 5}, r"line 2: no word at characters 4 to 5 of 'hide !'"),
        ({"start1": "3"}, r"line 2: expected texts, and whole numbers"),
        ({"end2": None, "gone": ["start2", "label"]}, r"line 2: expected the columns .*; start2, label missing"),
    ],
)
def test_a_bad_row_is_refused_by_its_number(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = as_superglue(tmp_path / "WiC")
    row = {key: value for key, value in (ROWS[1] | change).items() if key not in change.get("gone", ())}
    (folder / "train.jsonl").write_text(json.dumps(ROWS[0]) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=message):
        read_wic(folder)


def test_what_is_not_there_or_no_file_of_its_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"WiC/train.data.txt: not found. Give WiC as published"):
        read_wic(tmp_path / "WiC")
    folder = published(tmp_path / "WiC")
    (folder / "train.gold.txt").unlink()
    with pytest.raises(DataError, match=r"train.gold.txt: not found; expected a line T or F"):
        read_wic(folder)
    for name, content, message in (
        ("train.data.txt", b"", "train.data.txt: expected examples, found none"),
        ("train.data.txt", b"b\xff", "train.data.txt: line 1: not UTF-8"),
    ):
        published(folder)
        (folder / name).write_bytes(content)
        if not content:
            (folder / "train.gold.txt").write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_wic(folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "train.jsonl").write_text("[1]\n")
    with pytest.raises(DataError, match=r"train.jsonl: line 1: expected an object, got list"):
        read_wic(tmp_path / "other")
    (tmp_path / "other" / "train.jsonl").write_text("{\n")
    with pytest.raises(DataError, match=r"train.jsonl: line 1: no JSON"):
        read_wic(tmp_path / "other")


def test_the_hub_is_asked_for_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def fetch(repo: str, revision: str, **rest: Any) -> Path:
        asked.append((repo, revision))
        as_on_the_hub(tmp_path / "cache" / "wic")
        return tmp_path / "cache"

    monkeypatch.setattr("pipeline.tasks.wic.data.fetch_snapshot", fetch)
    assert words(fetch_wic("a" * 40).train) == [("the-bank", "banks"), ("hides", "hide")]
    assert asked == [("aps/super_glue", "a" * 40)]


FINETUNE = {
    "epochs": 12, "learning_rate": 5e-3, "batch": 8, "warmup": 0.1, "weight_decay": 0.0, "max_tokens": 32,
    "pooling": "mean",
}  # fmt: skip
PARAMS = {
    "data": "data", "tasks": ["WiC"], "seeds": [0], "finetune": FINETUNE, "train_examples": 0, "dev_examples": 0,
    "bootstrap": 20,
}  # fmt: skip


def same_place(folder: Path) -> None:
    """Whether both words are the same animal: which words they are about is in the places alone."""
    animals = ("dog", "cat", "horse", "cow")
    lines, gold = [], []
    for one in animals:
        for two in animals:
            for first in range(2):
                pair = (one, two) if first == 0 else (two, one)
                text = f"the {pair[0]} sleeps and the {pair[1]} eats"
                place = 1 if first == 0 else 5
                lines.append(f"x\tN\t{place}-1\t{text}\tthe {animals[0]} sleeps")
                gold.append("T" if one == animals[0] else "F")
    folder.mkdir(parents=True)
    for part in ("train", "dev"):
        (folder / f"{part}.data.txt").write_text("\n".join(lines) + "\n")
        (folder / f"{part}.gold.txt").write_text("\n".join(gold) + "\n")


def test_a_model_learns_from_the_places_of_the_words(workplace: Path, tiny_mlm: Path) -> None:
    """The same sentences have both labels: only who is meant tells them apart."""
    same_place(workplace / "data" / "WiC")
    params = decode(PARAMS, GlueParams, where="glue")
    report = evaluate_glue(params, name="wic", model=tiny_mlm, runtime=cpu_runtime(batch_tokens=512))
    assert report["tasks"]["WiC"]["metrics"]["0"]["accuracy"] > 0.9
    assert report["average"]["of"] == ["WiC"] and report["metrics"]["average"]["n"] == 32


def test_a_word_beyond_the_longest_input_is_refused(workplace: Path, tiny_mlm: Path) -> None:
    same_place(workplace / "data" / "WiC")
    params = decode(PARAMS | {"finetune": FINETUNE | {"max_tokens": 9}}, GlueParams, where="glue")
    with pytest.raises(
        ParamsError, match=r"finetune.max_tokens: the word at characters 23 to 26 of 'the dog .* beyond 9"
    ):
        evaluate_glue(params, name="wic", model=tiny_mlm, runtime=cpu_runtime(batch_tokens=512))


def test_the_hub_needs_its_commit() -> None:
    hub = {"data": "hub", "revision": "a" * 40}
    with pytest.raises(ParamsError, match="wic_revision: missing; WiC of data: hub needs the commit"):
        decode(PARAMS | hub, GlueParams, where="glue")
    assert decode(PARAMS | hub | {"wic_revision": "b" * 40}, GlueParams, where="glue").wic_revision == "b" * 40
