"""The nine tasks of GLUE (Wang et al. 2018, arXiv 1804.07461): what each asks, and its examples from published files.

A folder holds `<task>/train.tsv` and `dev.tsv`, as GLUE publishes them (`.tsv.gz` is read too); MNLI has two dev files.
Fields are separated by tabs and nothing is quoted: a quotation mark is a character. Columns are found by their header,
except in CoLA, which has none. A row that is not as published is refused with file and line. Two defects of the
published files are known and skipped, and counted: rows of QQP that are cut short or lack a question, and rows of MNLI
whose annotators agreed on no label ("-"). On the hub the same data lie as Parquet, with classes as
numbers.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np

from pipeline.sources.fallback import Route, first_that_works
from pipeline.sources.hub import fetch_snapshot
from pipeline.tasks.finetune.examples import Examples
from pipeline.tasks.params import TaskName
from storage.errors import DataError

HUB = "nyu-mll/glue"
HIGHEST = 5.0
"""STS-B's values lie in [0, 5]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What a task asks, and the columns of its files."""

    texts: tuple[str, ...]
    """Columns of the text, or of the two texts."""
    label: str
    classes: tuple[str, ...] = ("0", "1")
    """Labels as written in the file, class 0 first, as on the hub; empty for regression."""
    metrics: tuple[str, ...] = ("accuracy",)
    header: tuple[str, ...] | None = None
    """Names of the columns where the file has no header line."""
    dev: dict[str, str] = field(default_factory=lambda: {"": "dev"})
    """Name of a part of the dev set to its file without ending."""
    hub: str
    """Configuration on the hub."""
    hub_texts: tuple[str, ...]

    @property
    def outputs(self) -> int:
        """Classes, or 1 for regression."""
        return len(self.classes) or 1


ENTAILMENT = ("entailment", "not_entailment")
PAIR = ("sentence1", "sentence2")
TASKS: dict[str, Task] = {
    "CoLA": Task(
        texts=("sentence",),
        label="label",
        metrics=("matthews",),
        header=("source", "label", "mark", "sentence"),
        hub="cola",
        hub_texts=("sentence",),
    ),
    "SST-2": Task(texts=("sentence",), label="label", hub="sst2", hub_texts=("sentence",)),
    "MRPC": Task(
        texts=("#1 String", "#2 String"), label="Quality", metrics=("f1", "accuracy"), hub="mrpc", hub_texts=PAIR
    ),
    "STS-B": Task(texts=PAIR, label="score", classes=(), metrics=("pearson", "spearman"), hub="stsb", hub_texts=PAIR),
    "QQP": Task(
        texts=("question1", "question2"),
        label="is_duplicate",
        metrics=("f1", "accuracy"),
        hub="qqp",
        hub_texts=("question1", "question2"),
    ),
    "MNLI": Task(
        texts=PAIR,
        label="gold_label",
        classes=("entailment", "neutral", "contradiction"),
        dev={"matched": "dev_matched", "mismatched": "dev_mismatched"},
        hub="mnli",
        hub_texts=("premise", "hypothesis"),
    ),
    "QNLI": Task(
        texts=("question", "sentence"),
        label="label",
        classes=ENTAILMENT,
        hub="qnli",
        hub_texts=("question", "sentence"),
    ),
    "RTE": Task(texts=PAIR, label="label", classes=ENTAILMENT, hub="rte", hub_texts=PAIR),
    "WNLI": Task(texts=PAIR, label="label", hub="wnli", hub_texts=PAIR),
}
WIC = Task(texts=PAIR, label="label", classes=("F", "T"), hub="wic", hub_texts=PAIR)
"""Word in context, which is none of GLUE's and has files of its own (`pipeline.tasks.wic.data`)."""
ALL_TASKS = {**TASKS, "WiC": WIC}
assert tuple(ALL_TASKS) == get_args(TaskName)


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskData:
    """Examples of one task."""

    train: Examples
    dev: dict[str, Examples]
    """By the names of `Task.dev`."""
    skipped: dict[str, int]
    """Known defects, by kind; those of all files together."""


def read_folder(folder: Path, name: str) -> TaskData:
    """Examples of a task from GLUE's files in `folder/<task>`; raises DataError."""
    task, skipped = TASKS[name], Counter[str]()
    read = {
        part: read_tsv(_published(folder / name, stem), name, skipped)
        for part, stem in {"train": "train", **task.dev}.items()
    }
    train = read.pop("train")
    return TaskData(train=train, dev=read, skipped=dict(skipped))


def read_tsv(file: Path, name: str, skipped: Counter[str]) -> Examples:
    """Examples of one file; adds known defects to `skipped`. Raises DataError naming file, line and expectation."""
    task = TASKS[name]
    lines = _lines(file)
    header = list(task.header or next(lines, (0, []))[1])
    missing = [column for column in (*task.texts, task.label) if column not in header]
    if missing:
        raise DataError(
            f"{file}: line 1: expected a header with the columns {', '.join((*task.texts, task.label))}, "
            f"got {header[:12]}. Give GLUE's published file"
        )
    columns = [header.index(column) for column in (*task.texts, task.label)]
    rows: list[tuple[list[str], float]] = []
    for number, fields in lines:
        defect = _defect(name, fields, header, columns)
        if defect is not None:
            skipped[defect] += 1
            continue
        where = f"{file}: line {number}"
        if len(fields) != len(header):
            raise DataError(f"{where}: expected {len(header)} fields separated by tabs, got {len(fields)}")
        *texts, label = (fields[column] for column in columns)
        rows.append((_texts(texts, where), _label(task, label, where)))
    return _examples(task, rows, file)


def fetch_from_hub(revision: str, name: str) -> TaskData:
    """Examples of a task from the hub's Parquet files at a commit, or its cache; raises SourceError or DataError."""
    task = TASKS[name]
    parts = {"train": "train"} | {part: f"validation{'_' * bool(part)}{part}" for part in task.dev}
    patterns = [f"{task.hub}/*{split}*.parquet" for split in parts.values()]
    obtain = partial(fetch_snapshot, HUB, revision, patterns=patterns, kind="dataset")
    _, folder = first_that_works(
        f"glue {name}",
        [Route(name="hub", what=f"the hub ({HUB} at {revision[:8]})", obtain=obtain)],
        by_hand=f"get GLUE's published folders, with {name}/train.tsv, and name what holds them as glue.data",
    )
    read = {part: _read_parquet(folder / task.hub, split, task) for part, split in parts.items()}
    train = read.pop("train")
    return TaskData(train=train, dev=read, skipped={})


def _read_parquet(folder: Path, split: str, task: Task) -> Examples:
    from pyarrow import ArrowException, parquet

    # The name of one split may end another's: validation_matched is in no name but its own, train in "train-" only.
    files = sorted(path for path in folder.glob("*.parquet") if path.stem.split("-0")[0].removeprefix("glue-") == split)
    rows: list[tuple[list[str], float]] = []
    for file in files:
        try:
            table = parquet.ParquetFile(file).read()
        except (ArrowException, OSError) as error:
            raise DataError(f"{file}: not readable as Parquet: {' '.join(str(error).split())[:200]}") from error
        if missing := {*task.hub_texts, "label"}.difference(table.column_names):
            raise DataError(f"{file}: expected the columns {sorted(missing)}, got {table.column_names}")
        for number, row in enumerate(table.to_pylist()):
            where = f"{file}: row {number}"
            label = task.classes[row["label"]] if row["label"] in range(len(task.classes)) else str(row["label"])
            rows.append((_texts([row[column] or "" for column in task.hub_texts], where), _label(task, label, where)))
    return _examples(task, rows, folder / f"{split}*.parquet")


def _published(folder: Path, stem: str) -> Path:
    for ending in (".tsv", ".tsv.gz"):
        if (folder / (stem + ending)).is_file():
            return folder / (stem + ending)
    raise DataError(
        f"{folder / stem}.tsv: not found. Give GLUE's published folders (<data>/<task>/train.tsv, dev.tsv), name their "
        "folder as glue.data, or leave the task out of glue.tasks"
    )


def _lines(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number from 1 and fields. Lines end at a line feed only: other separators that Unicode knows are text."""
    number = 0
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                text = line.decode(
                    "utf-8-sig" if number == 1 else "utf-8"
                )  # MRPC is published with a mark at its start
                yield number, text.removesuffix("\n").removesuffix("\r").split("\t")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: line {number}: expected UTF-8, got byte {error.object[error.start]:#04x}") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{file}: after line {number}: truncated or no gzip file: {error}. Fetch it again") from error
    except OSError as error:
        raise DataError(f"{file}: not readable: {error.strerror}") from error


def _defect(name: str, fields: list[str], header: list[str], columns: list[int]) -> str | None:
    """What is known to be wrong with rows of the published files; None for a row without a known defect."""
    if name == "QQP":
        if len(fields) < len(header):
            return "cut short"
        if len(fields) == len(header) and not all(fields[column].strip() for column in columns[:-1]):
            return "no question"
    if name == "MNLI" and len(fields) == len(header) and fields[columns[-1]] == "-":
        return "no agreed label"
    return None


def _texts(texts: list[str], where: str) -> list[str]:
    for text in texts:
        if not text.strip():
            raise DataError(f"{where}: expected text in every column, got an empty one")
    return texts


def _label(task: Task, label: str, where: str) -> float:
    if task.classes:
        if label not in task.classes:
            raise DataError(f"{where}: expected a label of {', '.join(task.classes)}, got {label[:40]!r}")
        return task.classes.index(label)
    try:
        value = float(label)
    except ValueError:
        value = math.nan
    if not 0 <= value <= HIGHEST:
        raise DataError(f"{where}: expected a score from 0 to {HIGHEST:g}, got {label[:40]!r}")
    return value


def _examples(task: Task, rows: list[tuple[list[str], float]], where: Path) -> Examples:
    if not rows:
        raise DataError(f"{where}: expected examples, found none")
    kind: Any = np.int64 if task.classes else np.float64
    return Examples(
        first=[texts[0] for texts, _ in rows],
        second=[texts[1] for texts, _ in rows] if len(task.texts) > 1 else None,
        label_N=np.array([label for _, label in rows], kind),
    )
