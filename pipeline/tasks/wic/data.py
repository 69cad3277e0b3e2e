"""WiC, word in context (Pilehvar and Camacho-Collados 2019, arXiv 1808.09121): its examples, in three layouts.

As published: `train.data.txt` and `train.gold.txt`, likewise `dev`, in one folder or in folders `train` and `dev`. A
line of data has the word, its part of speech (N or V), the places "i-j" of the word among the tokens of either
sentence, from 0, and the two sentences, whose tokens are separated by spaces; all between tabs. A line of gold is T,
the same meaning, or F. As SuperGLUE publishes it: `train.jsonl` and `val.jsonl`; as the hub has it: Parquet files of
the parts `train` and `validation`. Both have the columns sentence1, sentence2, start1, end1, start2 and end2
(characters) and label (true or 1, false or 0). What is not so is refused with file and line, or row from 0. Models are
scored on dev, as on GLUE's tasks.

A classifier reads both sentences as one sequence. Its head reads the pooled sequence and, beside it, the vectors of the
word in either sentence, as the baseline of SuperGLUE does (Wang et al. 2019, arXiv 1905.00537).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.sources.fallback import Route, first_that_works
from pipeline.sources.hub import fetch_snapshot
from pipeline.tasks.finetune.examples import Examples
from pipeline.tasks.glue_data import TaskData
from pipeline.text.documents.decoding import raw_lines
from storage.errors import DataError

HUB = "aps/super_glue"
PARTS = {"train": ("train",), "dev": ("dev", "val", "validation")}
"""Names of the parts in any of the layouts."""
LABELS = {"F": 0, "T": 1}
COLUMNS = ("sentence1", "sentence2", "start1", "end1", "start2", "end2", "label")

_PLACES = re.compile(r"(\d+)-(\d+)")

Row = tuple[str, str, tuple[tuple[int, int], tuple[int, int]], int]
"""Both sentences, [start, end) of the word in each, in characters, and the label."""


def read_wic(folder: Path) -> TaskData:
    """Examples of both parts, in whichever layout `folder` has; raises DataError with file and line."""
    read = {part: _read_part(folder, part) for part in PARTS}
    return TaskData(train=read["train"], dev={"": read["dev"]}, skipped={})


def fetch_wic(revision: str) -> TaskData:
    """Examples from the hub's Parquet files at a commit, or its cache; raises SourceError or DataError."""
    obtain = partial(fetch_snapshot, HUB, revision, patterns=["wic/train*.parquet", "wic/val*.parquet"], kind="dataset")
    _, folder = first_that_works(
        "glue WiC",
        [Route(name="hub", what=f"the hub ({HUB} at {revision[:8]})", obtain=obtain)],
        by_hand="get WiC's published folder, with train.data.txt, and put it as WiC into what glue.data names",
    )
    return read_wic(folder / "wic")


def _read_part(folder: Path, part: str) -> Examples:
    for name in PARTS[part]:
        for parent in (folder, folder / name):
            data = parent / f"{name}.data.txt"
            if data.is_file():
                return _examples(data, _published(data, parent / f"{name}.gold.txt"))
        if (folder / f"{name}.jsonl").is_file():
            return _examples(folder / f"{name}.jsonl", _json_rows(folder / f"{name}.jsonl"))
        if tables := sorted(folder.glob(f"{name}*.parquet")):
            return _examples(folder / f"{name}*.parquet", _parquet_rows(tables))
    raise DataError(
        f"{folder / part}.data.txt: not found. Give WiC as published (train.data.txt, train.gold.txt, dev.data.txt, "
        "dev.gold.txt), or SuperGLUE's train.jsonl and val.jsonl, or the hub's Parquet files, or leave WiC out of "
        "glue.tasks"
    )


def _published(data: Path, gold: Path) -> Iterator[Row]:
    if not gold.is_file():
        raise DataError(f"{gold}: not found; expected a line T or F for each line of {data.name}")
    labels = list(_lines(gold))
    count = 0
    for count, (where, line) in enumerate(_lines(data), start=1):
        fields = line.split("\t")
        if len(fields) != 5:
            raise DataError(
                f"{where}: expected word, part of speech, places 'i-j' and two sentences, 5 fields between tabs, got "
                f"{len(fields)}"
            )
        _, pos, places, *texts = fields
        if pos not in ("N", "V"):
            raise DataError(f"{where}: expected N or V for the part of speech, got {pos[:20]!r}")
        found = _PLACES.fullmatch(places)
        if found is None:
            raise DataError(f"{where}: expected the word's places as 'i-j', got {places[:20]!r}")
        spans = [_token_span(text, int(place), where) for text, place in zip(texts, found.groups(), strict=True)]
        if count > len(labels):
            raise DataError(f"{gold}: {len(labels)} lines; expected as many as {data.name} has, which goes on")
        at, label = labels[count - 1]
        if label not in LABELS:
            raise DataError(f"{at}: expected T or F, got {label[:20]!r}")
        yield texts[0], texts[1], (spans[0], spans[1]), LABELS[label]
    if count < len(labels):
        raise DataError(f"{gold}: {len(labels)} lines; expected {count}, as many as {data.name} has")


def _token_span(text: str, place: int, where: str) -> tuple[int, int]:
    tokens = list(re.finditer(r"\S+", text))
    if place >= len(tokens):
        raise DataError(f"{where}: the word's place is {place}, but {text[:40]!r} has {len(tokens)} tokens")
    return tokens[place].span()


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    """Place and text of each line."""
    for number, raw in enumerate(raw_lines(file, lambda _: None), start=1):
        where = f"{file}: line {number}"
        try:
            yield where, raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r")
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: not UTF-8: {error}") from error


def _json_rows(file: Path) -> Iterator[Row]:
    for where, line in _lines(file):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where}: no JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{where}: expected an object, got {type(row).__name__}")
        yield _row(row, where)


def _parquet_rows(files: list[Path]) -> Iterator[Row]:
    from pyarrow import ArrowException, parquet

    for file in files:
        try:
            rows = parquet.ParquetFile(file).read().to_pylist()
        except (ArrowException, OSError) as error:
            raise DataError(f"{file}: not readable as Parquet: {' '.join(str(error).split())[:200]}") from error
        for number, row in enumerate(rows):
            yield _row(row, f"{file}: row {number}")


def _row(row: Mapping[str, Any], where: str) -> Row:
    if missing := [name for name in COLUMNS if name not in row]:
        raise DataError(f"{where}: expected the columns {', '.join(COLUMNS)}; {', '.join(missing)} missing")
    if row["label"] not in (0, 1):  # True and False among them
        raise DataError(f"{where}: expected a label of 0 or 1, got {row['label']!r}; the test part has none")
    texts = row["sentence1"], row["sentence2"]
    spans = (row["start1"], row["end1"]), (row["start2"], row["end2"])
    for text, (start, end) in zip(texts, spans, strict=True):
        if not isinstance(text, str) or not isinstance(start, int) or not isinstance(end, int):
            raise DataError(f"{where}: expected texts, and whole numbers for the word's places")
        if not 0 <= start < end <= len(text) or not text[start:end].strip():
            raise DataError(f"{where}: no word at characters {start} to {end} of {text[:40]!r}")
    return texts[0], texts[1], spans, int(row["label"])


def _examples(file: Path, rows: Iterable[Row]) -> Examples:
    found = list(rows)
    if not found:
        raise DataError(f"{file}: expected examples, found none")
    return Examples(
        first=[first for first, _, _, _ in found],
        second=[second for _, second, _, _ in found],
        label_N=np.array([label for _, _, _, label in found], np.int64),
        span_N22=np.array([spans for _, _, spans, _ in found], np.int64),
    )
