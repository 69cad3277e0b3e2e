"""From texts to one corpus, split into train, calibration and held-out.

`ingest` turns one input into a table of documents; `assemble` joins all tables. What happens to a document depends on
its id and its text alone, never on its place: a hash of the id decides whether it is kept and to which split it goes,
so a document that is added, removed or moved changes no other. Of documents with the same text the one with the
smallest id is kept. Parts of one document have the same id up to "#" and lie in one split.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
from pyarrow import compute

from pipeline.core.progress import Progress
from pipeline.core.seeds import unit_hash
from pipeline.text.params import CorpusParams, InputParams
from pipeline.text.readers import (
    JSON_LINES,
    PARQUET,
    PLAIN_TEXT,
    WORDNET,
    Advance,
    Fields,
    Found,
    Rejected,
    dataset_files,
    hash_name,
    input_files,
    read_json_lines,
    read_parquet,
    read_text_file,
    read_wordnet,
)
from storage.errors import DataError
from storage.format.manifest import Manifest, file_sha256
from storage.records.base import SPLITS
from storage.tables import DOCUMENT_SCHEMA, DocumentStore, write_documents
from storage.work import Workspace

log = logging.getLogger(__name__)

ALL = "all"
"""The only split of an ingested text."""


def ingest(name: str, params: InputParams, out: Path, *, workspace: Workspace = Workspace()) -> Manifest:
    """Write the table of one input's documents to `out`; ids are "<name>:<id in the input>".

    Empty documents are dropped and counted. Raises DataError when the input is not there, when more than
    `bad_lines` of its records are unreadable, and when two different texts have the same id.
    """
    files = _files(params)
    columns: dict[str, list[str]] = {column: [] for column in DOCUMENT_SCHEMA.names}
    row_of: dict[str, int] = {}
    bad: list[Rejected] = []
    counts = Counter(documents=0, bad=0, empty=0, duplicates=0)
    with Progress(sum(file.stat().st_size for file in files), unit="bytes", label=f"ingest {name}") as progress:
        for item in _read(params, files, progress.advance):
            if isinstance(item, Rejected):
                bad.append(item)
                continue
            text = item.text.strip()
            doc_id = f"{name}:{item.name or hash_name(text)}"
            row = row_of.get(doc_id) if text else None
            if not text:
                counts["empty"] += 1
            elif row is None:
                row_of[doc_id] = len(row_of)
                for column, value in zip(columns.values(), (doc_id, item.source or name, text), strict=True):
                    column.append(value)
            elif columns["text"][row] == text:
                counts["duplicates"] += 1
            else:
                raise DataError(
                    f"{item.where}: the id of another text, '{doc_id}'. Set inputs.{name}.id to a field that is unique"
                )
    counts.update(documents=len(row_of), bad=len(bad))
    _refuse_bad(name, params, bad, counts)
    log.info("ingest %s: %s", name, ", ".join(f"{count} {what}" for what, count in counts.items()))
    root = Path(params.path)
    return write_documents(
        out,
        {ALL: pa.table(columns, schema=DOCUMENT_SCHEMA)},
        inputs={
            "name": name,
            "input": params.model_dump(exclude={"path"}),
            "files": {
                file.relative_to(root).as_posix() if file != root else file.name: file_sha256(file) for file in files
            },
        },
        facts={"counts": dict(counts), "licence": params.licence, "first_bad": bad[0].where if bad else None},
        workspace=workspace,
    )


def _files(params: InputParams) -> list[Path]:
    path = Path(params.path)
    if params.kind == "dataset":
        return dataset_files(path)
    endings = {"jsonl": JSON_LINES, "text": PLAIN_TEXT, "parquet": PARQUET, "wordnet": WORDNET}
    return input_files(path, endings[params.kind])


def _read(params: InputParams, files: list[Path], advance: Advance) -> Iterator[Found | Rejected]:
    root = Path(params.path)
    fields = Fields(text=params.text, name=params.id)
    if params.kind == "wordnet":
        yield from read_wordnet(root)
        return
    for file in files:
        if params.kind == "text":
            yield from read_text_file(file, file.relative_to(root).as_posix() if file != root else file.name, advance)
        elif file.name.endswith(PARQUET) or params.kind == "parquet":
            yield from read_parquet(file, fields, advance)
        else:
            yield from read_json_lines(file, fields, advance)


def _refuse_bad(name: str, params: InputParams, bad: list[Rejected], counts: Counter[str]) -> None:
    records = counts.total()
    if bad and len(bad) > params.bad_lines * records:
        raise DataError(
            f"{bad[0].where}: {bad[0].reason}. {len(bad)} of {records} records of {params.path} are unreadable, "
            f"expected at most {params.bad_lines:.2%}. Mend them, or raise inputs.{name}.bad_lines"
        )
    if not counts["documents"]:
        raise DataError(f"{params.path}: no document with text in it ({counts['empty']} empty). Check inputs.{name}")


def split_of(doc_id: str, *, calibration: float, heldout: float) -> str:
    """The split of a document, by a hash of its id up to "#" (parts of one document stay together)."""
    place = unit_hash("split", doc_id.partition("#")[0])
    if place < calibration:
        return "calibration"
    return "heldout" if place < calibration + heldout else "train"


def assemble(
    text_folder: Path,
    inputs: Mapping[str, InputParams],
    params: CorpusParams,
    out: Path,
    *,
    workspace: Workspace = Workspace(),
) -> Manifest:
    """Join the texts of all inputs, keep the share, drop duplicates, split, and write the corpus to `out`.

    Raises DataError when `text_folder` holds a text that `inputs` does not name or a split would be empty, and
    StoreMissing when a text is not there yet.
    """
    unnamed = {path.name for path in text_folder.glob("[!.]*") if path.is_dir()} - set(inputs)
    if unnamed:
        raise DataError(
            f"{text_folder}: holds {', '.join(sorted(unnamed))}, which `inputs` of params.yaml does not name. "
            "Run: cohesive prune"
        )
    stores = {name: DocumentStore(text_folder / name, made_by=f"ingest@{name}") for name in sorted(inputs)}
    table = pa.concat_tables([_shared(store.read(ALL), params.share) for store in stores.values()])
    kept, duplicates = _first_of_each_text(table, list(stores))
    splits = pa.array([
        split_of(doc_id, calibration=params.calibration, heldout=params.heldout)
        for doc_id in kept.column("doc_id").to_pylist()
    ], pa.string())  # fmt: skip
    tables = {split: kept.filter(compute.equal(splits, split)).combine_chunks() for split in SPLITS}
    for split, part in tables.items():
        if not len(part):
            raise DataError(
                f"{text_folder}: none of {len(kept)} documents falls into {split}. Give more text or raise corpus.share"
                + ("" if split == "train" else f" or corpus.{split}")
            )
    return write_documents(
        out,
        tables,
        inputs={"corpus": params.model_dump(), "texts": {name: store.identity for name, store in stores.items()}},
        facts={
            "documents": {split: len(part) for split, part in tables.items()},
            "words": {split: _words(part) for split, part in tables.items()},
            "sources": {
                split: dict(sorted(Counter(part.column("source").to_pylist()).items()))
                for split, part in tables.items()
            },
            "duplicates": duplicates,
            "ingested": {name: store.manifest.facts["counts"] for name, store in stores.items()},
            "licences": {name: entry.licence for name, entry in sorted(inputs.items())},
        },
        workspace=workspace,
    )


def _shared(table: pa.Table, share: float) -> pa.Table:
    kept = [unit_hash("share", doc_id) < share for doc_id in table.column("doc_id").to_pylist()]
    return table.filter(pa.array(kept, pa.bool_()))


def _first_of_each_text(table: pa.Table, names: list[str]) -> tuple[pa.Table, dict[str, int]]:
    """Of rows with the same text keep the one with the smallest id; returns them in order, and drops by input."""
    ids = table.column("doc_id").to_pylist()
    row_of: dict[str, int] = {}
    for row, text in enumerate(table.column("text").to_pylist()):
        best = row_of.setdefault(text, row)
        if ids[row] < ids[best]:
            row_of[text] = row
    rows = sorted(row_of.values())
    dropped = Counter(ids[row].partition(":")[0] for row in set(range(len(ids))) - set(rows))
    return table.take(rows), {name: dropped[name] for name in names}


def _words(table: pa.Table) -> int:
    return int(compute.sum(compute.list_value_length(compute.utf8_split_whitespace(table.column("text")))).as_py() or 0)
