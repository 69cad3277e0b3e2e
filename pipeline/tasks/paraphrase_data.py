"""Read what detectors of machine paraphrases are trained and tested on, from three layouts into one shape.

Rewritten: the sets of `pipeline.tasks.rewrite`, a folder each; every (rewriter, share) becomes a set with train and
test.

Published: the machine-paraphrase corpus of Wahle et al. 2022 (arXiv 2103.11909, zenodo.org/record/3608000, unpacked as
in their `prepare_data.sh`) and of Foltýnek et al. 2020. Anywhere under the root, a set is a folder such as
`spinbot/corpus/paragraphs/wikipedia_paragraphs_train` that holds `og` with originals and `mg` with machine-paraphrased
paragraphs, a .txt file each, `1234-ORIG-5.txt` and `1234-SPUN-5.txt`; what stands before the mark names the document.
For `og` also `orig`, `original` or `originals`, for `mg` also `machine`, `spun`, `sp` or `paraphrased` are read. A set
whose folder is `train`, or ends in `_train`, is for training, every other one for testing. Text that is not UTF-8 is
ISO-8859-1, as which their code reads all of it. The same corpus as the hub has it (jpwahle/machine-paraphrase-dataset)
is a folder with train.tsv and test.tsv, or Parquet, that have a text a row with its label, dataset and method; see
`pipeline.tasks.machine_paraphrases.tables`.

Pairs: TSV, plain or .gz, with a header that names label, sentence1 and sentence2, or the columns of the Microsoft
Research Paraphrase Corpus (Quality, #1 String, #2 String) or of QQP (is_duplicate, question1, question2); quotation
marks are plain characters. A label is 0 or 1, also written 0.0 and 1.0. A pair with a placeholder for a sentence
(PLACEHOLDERS) is skipped and counted, and so is a row of QQP that is cut short, as GLUE's published file has them.
A folder holds train.tsv and test.tsv (or dev.tsv); a single file is split here. Pairs that share a sentence, compared
without case and spaces, directly or over other pairs, stay on one side; of a given split, pairs of train that share a
sentence with test are dropped.

A file or line that is no text (wrong encoding, number of fields, label, empty) is skipped and counted; more than
`entries.BAD_SHARE` of them are refused, and so is a truncated gzip.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.core.seeds import unit_hash
from pipeline.tasks.machine_paraphrases.entries import refuse_bad
from pipeline.tasks.machine_paraphrases.folders import MACHINE, ORIGINAL, read_folders
from pipeline.tasks.machine_paraphrases.tables import read_tables
from pipeline.tasks.rewrite import KIND, REVISION, SCHEMA, TABLE
from pipeline.text.documents.decoding import raw_lines
from storage.errors import DataError
from storage.format.manifest import digest
from storage.tables import TableStore

Kind = Literal["rewritten", "published", "pairs"]

PAIRS_TEST_SHARE = 0.2
"""Share of the groups of pairs that tests, where a file has no split."""

HEADERS = (
    ("label", "sentence1", "sentence2"),
    ("Quality", "#1 String", "#2 String"),
    ("is_duplicate", "question1", "question2"),
)
"""Columns of label and sentences that a file of pairs may have; the first is ours."""
PLACEHOLDERS = ("ns", "n/a", "nan", "null", "none")
"""What stands, in any case, where published sets have no sentence (google-research-datasets/paws#15 for "NS")."""
LABELS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}


@dataclass(frozen=True, kw_only=True, slots=True)
class Texts:
    """N labelled texts or pairs of texts."""

    first: list[str]
    second: list[str] | None
    label_N: NDArray[np.int64]
    """1: paraphrased by a machine, or a pair of paraphrases; else 0."""
    group: list[str]
    """What stays on one side of the split and is resampled as one: a document, or pairs that share sentences."""
    name: list[str]
    """Names whose hash chooses a part of the texts; an original and its rewriting share one."""

    def __len__(self) -> int:
        return len(self.first)

    def some(self, most: int) -> Texts:
        """At most `most` of them, chosen by a hash of their names, in their order; 0: all."""
        if most == 0 or len(self) <= most:
            return self
        ranked = sorted(range(len(self)), key=lambda row: (unit_hash("paraphrase-some", self.name[row]), row))
        return self.only(sorted(ranked[:most]))

    def only(self, rows: Iterable[int]) -> Texts:
        """Some of them."""
        rows = list(rows)
        return Texts(
            first=[self.first[row] for row in rows],
            second=None if self.second is None else [self.second[row] for row in rows],
            label_N=self.label_N[rows],
            group=[self.group[row] for row in rows],
            name=[self.name[row] for row in rows],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectionSet:
    """One set: to train on, to test on, or both."""

    name: str
    kind: Kind
    train: Texts | None
    test: Texts | None
    identity: str
    """SHA-256 of what it holds."""
    rewriter: str | None = None
    share: float | None = None
    """Of words replaced; None where that is not known."""
    counts: dict[str, int]
    """What was skipped or dropped, by reason."""


def read_sets(kind: Kind, path: Path) -> list[DetectionSet]:
    """All sets at `path`; raises DataError when there is none to train on or none to test on, and as the readers do."""
    if not path.exists():
        raise DataError(f"{path}: not found; expected {kind} data for paraphrase detection")
    readers = {"rewritten": read_rewritten, "published": read_published, "pairs": read_pairs}
    sets = readers[kind](path)
    for what, parts in (("train", [found.train for found in sets]), ("test", [found.test for found in sets])):
        known = [part for part in parts if part is not None]
        if not known or any(len(np.unique(part.label_N)) < 2 for part in known):
            got = [np.bincount(part.label_N, minlength=2).tolist() for part in known]
            raise DataError(
                f"{path}: expected texts of both labels to {what} on, got {got or 'none'} (of labels 0 and 1, by set)"
            )
    return sets


def read_rewritten(path: Path) -> list[DetectionSet]:
    """The sets of one rewriter, or of all rewriters whose folders lie in `path`, one a share."""
    folders = (
        [path]
        if (path / "manifest.json").is_file()
        else [found for found in sorted(path.glob("*/")) if not found.name.startswith(".")]
    )
    sets = []
    for folder in folders:
        made_by = f"rewrite@{folder.name}"
        store = TableStore(folder, kind=KIND, revision=REVISION, schemas={TABLE: SCHEMA}, made_by=made_by)
        rows = store.read(TABLE).to_pylist()
        for share in sorted({row["share"] for row in rows if row["label"] == 1}):
            mine = [row for row in rows if row["share"] in (0.0, share)]
            parts = {
                split: Texts(
                    first=[row["text"] for row in mine if row["split"] == split],
                    second=None,
                    label_N=np.array([row["label"] for row in mine if row["split"] == split], np.int64),
                    group=[row["document"] for row in mine if row["split"] == split],
                    name=[row["paragraph"] for row in mine if row["split"] == split],
                )
                for split in ("train", "test")
            }
            sets.append(
                DetectionSet(
                    name=f"{folder.name}-{share:g}",
                    kind="rewritten",
                    train=parts["train"],
                    test=parts["test"],
                    identity=digest({"store": store.identity, "share": share}),
                    rewriter=folder.name,
                    share=share,
                    counts=dict(store.manifest.facts["dropped"]),
                )
            )
    return sets


def read_published(path: Path) -> list[DetectionSet]:
    """The sets under `path` in the layout of folders and in that of tables; raises DataError when there is none."""
    parts = [*read_folders(path), *read_tables(path)]
    if not parts:
        raise DataError(
            f"{path}: no folder with {ORIGINAL[0]} and {MACHINE[0]} in it, and no train.tsv and test.tsv (or Parquet); "
            "expected SET/og/*.txt and SET/mg/*.txt, or tables with the columns text and label"
        )
    sets = []
    for part in parts:
        texts = Texts(
            first=[entry.text for entry in part.entries],
            second=None,
            label_N=np.array([entry.label for entry in part.entries], np.int64),
            group=[entry.group for entry in part.entries],
            name=[entry.name for entry in part.entries],
        )
        sets.append(
            DetectionSet(
                name=part.name,
                kind="published",
                train=texts if part.split == "train" else None,
                test=texts if part.split == "test" else None,
                identity=_identity(texts),
                counts=part.counts,
            )
        )
    return sets


def read_pairs(path: Path) -> list[DetectionSet]:
    """The pairs of one file, split here, or of a folder with train and test."""
    counts: Counter[str] = Counter()
    if path.is_file():
        texts = _read_pair_file(path, counts)
        held = [unit_hash("paraphrase-pairs", group) < PAIRS_TEST_SHARE for group in texts.group]
        train = texts.only(row for row, test in enumerate(held) if not test)
        test = texts.only(row for row, test in enumerate(held) if test)
    else:
        train = _read_pair_file(_split_file(path, ("train",)), counts)
        test = _read_pair_file(_split_file(path, ("test", "dev")), counts)
        known = {_key(text) for text in [*test.first, *(test.second or [])]}
        second = train.second or []
        clean = [n for n in range(len(train)) if not {_key(train.first[n]), _key(second[n])} & known]
        counts["pairs of train with a sentence of test"] = len(train) - len(clean)
        train = train.only(clean)
    name = path.name.removesuffix(".gz").removesuffix(".tsv")
    identity = digest([_identity(train), _identity(test)])
    return [DetectionSet(name=name, kind="pairs", train=train, test=test, identity=identity, counts=dict(counts))]


def _split_file(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        for ending in (".tsv", ".tsv.gz"):
            if (folder / f"{name}{ending}").is_file():
                return folder / f"{name}{ending}"
    raise DataError(f"{folder}: expected {' or '.join(f'{name}.tsv' for name in names)} (or .gz), found none")


def _read_pair_file(file: Path, counts: Counter[str]) -> Texts:
    lines = raw_lines(file, lambda _: None)
    header, columns = _header(file, next(lines, b""))
    rows: list[tuple[int, str, str]] = []
    mine: Counter[str] = Counter()
    for line in lines:
        row = _pair(line, columns, fields=len(header), may_be_short="is_duplicate" in header)
        if isinstance(row, str):
            mine[row] += 1
        else:
            rows.append(row)
    refuse_bad(file, mine, len(rows))
    counts.update(mine)
    groups = _groups([(_key(first), _key(second)) for _, first, second in rows])
    return Texts(
        first=[first for _, first, _ in rows],
        second=[second for _, _, second in rows],
        label_N=np.array([label for label, _, _ in rows], np.int64),
        group=groups,
        name=[f"{_key(first)}\t{_key(second)}" for _, first, second in rows],
    )


def _header(file: Path, line: bytes) -> tuple[list[str], list[int]]:
    """The names of all columns, and the places of label and sentences."""
    names = line.decode("utf-8-sig", errors="replace").rstrip("\r").split("\t")
    for known in HEADERS:
        if set(known) <= set(names):
            return names, [names.index(name) for name in known]
    others = " or ".join(", ".join(known) for known in HEADERS[1:])
    raise DataError(
        f"{file}: expected a header with {', '.join(HEADERS[0])} between tabs (or {others}), got {names!r:.80}"
    )


def _pair(line: bytes, columns: list[int], *, fields: int, may_be_short: bool) -> tuple[int, str, str] | str:
    """Label and sentences of one line, or what is wrong with it."""
    try:
        values = line.decode("utf-8").rstrip("\r").split("\t")
    except UnicodeDecodeError:
        return "bad: not UTF-8"
    if len(values) != fields:
        return "cut short" if may_be_short and len(values) < fields else "bad: number of fields"
    label, first, second = (values[column].strip() for column in columns)
    if label not in LABELS:
        none = label in ("-1", "-1.0")
        return "bad: label is -1, as of test parts without labels" if none else "bad: label is not 0 or 1"
    if not first or not second:
        return "bad: empty"
    if first.lower() in PLACEHOLDERS or second.lower() in PLACEHOLDERS:
        return "placeholder for a sentence"
    return LABELS[label], first, second


def _groups(keys: list[tuple[str, str]]) -> list[str]:
    """For each pair the smallest sentence among the pairs of its connected component."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for first, second in keys:
        low, high = sorted((root(first), root(second)))
        parent[high] = low  # the smallest is the root, whatever the order of the lines
    return [root(first) for first, _ in keys]


def _key(text: str) -> str:
    return " ".join(text.casefold().split())


def _identity(texts: Texts) -> str:
    return digest([texts.first, texts.second, texts.label_N.tolist(), texts.group])
