"""One input to one table of documents, whatever its size: read in pieces, ids compared in buckets, written in shards.

Each round is a list of parts (`storage.parts`) that any executor makes:

    read/<file>       a file of the input as pieces of documents, with the keys of their ids
    ids/<bucket>      which of the documents with one id stay
    shard/<index>     a shard of the store

A document's row depends on the order of the files and of the records in them, not on who read what.
"""

from __future__ import annotations

import json
import logging
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import ipc

from pipeline.executor.base import Executor, LocalExecutor
from pipeline.text.documents import keys
from pipeline.text.documents.files import listed
from pipeline.text.documents.pieces import PIECE_SCHEMA, kept_rows, piece_batches
from pipeline.text.documents.readers import hash_name, input_documents, input_paths, skipped_files
from pipeline.text.documents.records import TEXT_LIMIT, Rejected
from pipeline.text.params import InputParams
from storage.documents import SHARD_BYTES, document_shard_rows, rebatched, seal_documents, write_document_batches
from storage.errors import DataError
from storage.format.manifest import Manifest, SplitPlan, file_sha256, identity_of
from storage.parts import Parts
from storage.tables import DOCUMENTS, REVISION
from storage.work import WorkFolder, Workspace

log = logging.getLogger(__name__)

ALL = "all"
"""The only split of an ingested text."""

PIECE_BYTES = SHARD_BYTES // 4
"""Text of a piece, which is made of Python strings: with them, its table and its keys some 100 MB."""
PIECE_ROWS = 2**16

TOO_LONG = f"a text of more than {TEXT_LIMIT} characters. Cut it"

INVISIBLE = ("Cc", "Cf")
"""Unicode categories of characters that nobody sees: control characters, and zero-width ones among the formats."""


def ingest(
    name: str, params: InputParams, out: Path, *, executor: Executor | None = None, workspace: Workspace = Workspace()
) -> Manifest:
    """Write the table of one input's documents to `out`; ids are "<name>:<id in the input>".

    Documents without a visible character are dropped and counted; files of a folder that the input does not read are
    counted too. `executor` makes the parts, by default this process.
    Raises DataError when the input is not there, when more than `bad_lines` of its records are unreadable, and when two
    different texts have the same id.
    """
    root, files, left = Path(params.path), input_paths(params), skipped_files(params)
    if left:
        log.warning("ingest %s: files in %s that kind %s does not read: %s", name, root, params.kind, listed(left))
    inputs = {
        "name": name,
        "input": params.model_dump(exclude={"path"}),
        "files": {
            file.relative_to(root).as_posix() if file != root else file.name: file_sha256(file) for file in files
        },
    }
    identity = identity_of(kind=DOCUMENTS, revision=REVISION, inputs=inputs, parents={})
    work = WorkFolder(out, name=f"{DOCUMENTS}-{out.name}", identity=identity, workspace=workspace)
    with nullcontext(executor) if executor is not None else LocalExecutor() as executing, Parts(work) as parts:
        found = parts.recall("rows")
        if found is None or not all(parts.has(f"shard/{index}") for index in range(found["shards"])):
            tasks = (root,) if params.kind == "wordnet" else tuple(files)
            job = _IngestJob(name=name, params=params, files=tasks, shown=root, parts=parts.root)
            found = parts.remember("rows", _rounds(job, parts, executing))
            _write(job, parts, executing, found)
        plan = SplitPlan(rows=found["rows"], shard_rows=found["shard_rows"])
        parts.forget("read", "ids")
        return seal_documents(
            work,
            {(ALL, index): parts.folder(f"shard/{index}") / "table.arrow" for index in range(plan.shards)},
            {ALL: plan},
            inputs=inputs,
            facts={"counts": found["counts"], "licence": params.licence, "first_bad": found["first_bad"]}
            | ({"skipped_files": dict(sorted(left.items()))} if left else {}),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _IngestJob:
    """All rounds of one input."""

    name: str
    params: InputParams
    files: tuple[Path, ...]
    shown: Path
    """The input as the user named it, for messages."""
    parts: Path
    """Folder of the parts, absolute."""
    pieces: tuple[str, ...] = ()
    """The pieces that were read, in order, without their endings."""
    buckets: int = 0
    counts: tuple[int, ...] = ()
    """Of each piece the rows that stay."""
    plan: SplitPlan | None = None

    @property
    def key(self) -> str:
        """Nothing is kept open."""
        return "ingest"

    def with_absolute_paths(self) -> _IngestJob:
        """The job for a process that is in another folder."""
        params = self.params.model_copy(update={"path": str(Path(self.params.path).absolute())})
        return replace(self, params=params, files=tuple(file.absolute() for file in self.files))

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Nothing."""
        yield None

    def make_part(self, tools: None, name: str, folder: Path, *, advance: Callable[[int], None]) -> None:
        """A part of any round."""
        stage, _, number = name.partition("/")
        if stage == "read":
            self._read(int(number), folder, advance)
        elif stage == "ids":
            self._compare_ids(int(number), folder)
            advance(1)
        else:
            self._write(int(number), folder, advance)

    def _read(self, number: int, folder: Path, advance: Callable[[int], None]) -> None:
        """Pieces of the documents of one file, and what was dropped."""
        pieces = _PieceWriter(folder)
        counts = Counter(empty=0, bad=0)
        first_bad: list[str] | None = None
        root = str(Path(self.params.path))
        for item in input_documents(self.params, self.files[number], advance):
            where = f"{self.shown}{item.where.removeprefix(root)}"
            if isinstance(item, Rejected) or len(item.text) > TEXT_LIMIT:
                counts["bad"] += 1
                first_bad = first_bad or [where, item.reason if isinstance(item, Rejected) else TOO_LONG]
                continue
            text = item.text.strip()
            if not has_visible(text):
                counts["empty"] += 1
                continue
            pieces.add(f"{self.name}:{item.name or hash_name(text)}", item.source or self.name, text, where)
        pieces.flush()
        said = {"pieces": pieces.sizes, "counts": dict(counts), "first_bad": first_bad}
        (folder / "found.json").write_text(json.dumps(said), encoding="utf-8")

    def _compare_ids(self, bucket: int, folder: Path) -> None:
        """Of documents with one id the first stays; the others must have its text."""
        found, piece_N = keys.read_bucket([self.parts / f"{piece}.npy" for piece in self.pieces], bucket, self.buckets)
        group_N = keys.groups(found)
        first_N = np.searchsorted(group_N, group_N)
        later_N = first_N < np.arange(len(found))
        other_N = later_N & (found["value"] != found["value"][first_N])
        keys.write_places(folder / "same.npy", piece_N[later_N & ~other_N], found["row"][later_N & ~other_N])
        keys.write_places(folder / "other.npy", piece_N[other_N], found["row"][other_N])

    def _write(self, index: int, folder: Path, advance: Callable[[int], None]) -> None:
        """A shard of the documents that stay."""
        assert self.plan is not None
        start, stop = self.plan.bounds(index)
        dropped = [self.parts / f"ids/{bucket}/same.npy" for bucket in range(self.buckets)]

        def kept(piece: int) -> NDArray[np.bool_]:
            gone = keys.rows_in(dropped, piece)
            stays = np.ones(self.counts[piece] + len(gone), bool)
            stays[gone] = False
            return stays

        readers = [lambda piece=piece: piece_batches(self.parts / f"{piece}.arrow") for piece in self.pieces]
        rows = kept_rows(readers, kept, self.counts, start=start, stop=stop)
        write_document_batches(folder / "table.arrow", rows)
        advance(stop - start)


class _PieceWriter:
    """Writes documents to pieces in a folder: `<number>.arrow`, and the keys of their ids in `<number>.npy`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows: list[tuple[str, str, str, str]] = []
        self._bytes = 0
        self.sizes: list[tuple[int, int]] = []
        """Rows and bytes of text of each piece."""

    def add(self, *row: str) -> None:
        """Add a document: id, source, text and where it stands."""
        self._rows.append(row)  # type: ignore[arg-type]
        self._bytes += len(row[2].encode())
        if self._bytes >= PIECE_BYTES or len(self._rows) >= PIECE_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what is left as one more piece."""
        if not self._rows:
            return
        columns = list(zip(*self._rows, strict=True))
        path = self._folder / str(len(self.sizes))
        batch = pa.record_batch([pa.array(column, pa.string()) for column in columns], schema=PIECE_SCHEMA)
        options = ipc.IpcWriteOptions(compression="zstd")
        with ipc.new_file(str(path.with_suffix(".arrow")), PIECE_SCHEMA, options=options) as sink:
            for part in rebatched([batch]):
                sink.write_batch(part)
        key_columns = keys.text_keys(columns[0]) | {
            "row": np.arange(len(batch)),
            "value": keys.text_keys(columns[2])["high"],
        }
        keys.write_keys(path.with_suffix(".npy"), keys.KEYS, key_columns)
        self.sizes.append((len(batch), self._bytes))
        self._rows, self._bytes = [], 0


def has_visible(text: str) -> bool:
    """Whether a text has a character that somebody would see: neither white space, control nor zero-width."""
    return any(not letter.isspace() and unicodedata.category(letter) not in INVISIBLE for letter in text)


def _rounds(job: _IngestJob, parts: Parts, executor: Executor) -> dict[str, Any]:
    """Read the input and compare ids; what is known then, without which no shard can be written."""
    sizes = {f"read/{number}": file.stat().st_size for number, file in enumerate(job.files)}
    executor.parts(job, parts, sizes, unit="bytes", label=f"ingest {job.name}")
    read = [json.loads((parts.folder(part) / "found.json").read_text(encoding="utf-8")) for part in sizes]
    pieces = [
        (f"{part}/{number}", *size)
        for part, found in zip(sizes, read, strict=True)
        for number, size in enumerate(found["pieces"])
    ]
    counts = Counter(documents=0, bad=0, empty=0, duplicates=0)
    for found in read:
        counts.update(found["counts"])
    total = sum(rows for _, rows, _ in pieces)
    first_bad = next((found["first_bad"] for found in read if found["first_bad"]), None)
    counts["documents"] = total
    _refuse_bad(job, first_bad, counts)
    buckets = keys.bucket_count(total)
    comparing = replace(job, pieces=tuple(name for name, _, _ in pieces), buckets=buckets)
    executor.parts(
        comparing, parts, {f"ids/{bucket}": 1 for bucket in range(buckets)}, unit="buckets", label=f"ids of {job.name}"
    )
    return _counted(comparing, parts, pieces, counts, first_bad)


def _counted(
    job: _IngestJob, parts: Parts, pieces: list[tuple[str, int, int]], counts: Counter[str], first_bad: list[str] | None
) -> dict[str, Any]:
    """Rows that stay of each piece, and the counts for people; refuses ids of several texts."""
    same, other = (
        [parts.folder(f"ids/{bucket}") / name for bucket in range(job.buckets)] for name in ("same.npy", "other.npy")
    )
    kept = []
    for number, (piece, rows, _) in enumerate(pieces):
        if len(wrong := keys.rows_in(other, number)):
            row = int(wrong[0])
            batches = piece_batches(parts.root / f"{piece}.arrow")
            table = pa.Table.from_batches(batches, PIECE_SCHEMA).select(["doc_id", "where"]).slice(row, 1)
            (clash,) = table.to_pylist()
            raise DataError(
                f"{clash['where']}: the id of another text, '{clash['doc_id']}'. "
                f"Set inputs.{job.name}.id to a field that is unique"
            )
        kept.append(rows - len(keys.rows_in(same, number)))
    counts["duplicates"] = counts["documents"] - sum(kept)
    counts["documents"] = sum(kept)
    log.info("ingest %s: %s", job.name, ", ".join(f"{count} {what}" for what, count in counts.items()))
    return {
        "rows": sum(kept),
        "kept": kept,
        "pieces": [name for name, _, _ in pieces],
        "buckets": job.buckets,
        "shard_rows": (shard_rows := document_shard_rows(sum(kept), sum(size for _, _, size in pieces))),
        "shards": -(-sum(kept) // shard_rows),
        "counts": dict(counts),
        "first_bad": first_bad and first_bad[0],
    }


def _write(job: _IngestJob, parts: Parts, executor: Executor, found: dict[str, Any]) -> None:
    """Write the missing shards of the documents that stay."""
    plan = SplitPlan(rows=found["rows"], shard_rows=found["shard_rows"])
    writing = replace(
        job, counts=tuple(found["kept"]), pieces=tuple(found["pieces"]), buckets=found["buckets"], plan=plan
    )
    sizes = {f"shard/{index}": plan.bounds(index)[1] - plan.bounds(index)[0] for index in range(plan.shards)}
    executor.parts(writing, parts, sizes, unit="documents", label=f"write {job.name}")


def _refuse_bad(job: _IngestJob, first_bad: list[str] | None, counts: Counter[str]) -> None:
    records, bad = counts.total(), counts["bad"]
    if first_bad is not None and bad > job.params.bad_lines * records:
        where, reason = first_bad
        raise DataError(
            f"{where}: {reason}. {bad} of {records} records of {job.shown} are unreadable, expected at most "
            f"{job.params.bad_lines:.2%}. Mend them, or raise inputs.{job.name}.bad_lines"
        )
    if not counts["documents"]:
        raise DataError(f"{job.shown}: no document with text in it ({counts['empty']} empty). Check inputs.{job.name}")
