"""A store as Parquet, for `datasets`, DuckDB, pandas and whoever does not want to read Zarr.

`to_parquet` writes records as they are in memory: decoded, in float32, no longer quantised or packed. It is several
times the size of the store, and leaves nothing to decode.

    <out>/<split>/00000.parquet        one file a shard; rows in order, `row` counts them over the split
    <out>/constants/<name>.parquet     arrays that belong to the whole store; `row` counts their first axis
    <out>/constants/pieces.parquet     the vocabulary: `row` is the id, `piece` its text
    <out>/README.md                    the store's card, when it has one

Arrays of one axis are columns of numbers, of two axes lists, of three axes lists of lists. What a record marks as
absent (NaN, a sentinel) is null, and entries of a list without an id are left out, so lists are as long as they are
full. The key-value metadata of every file says where it is from: identity, kind, facts (JSON), README.

The same store gives the same files with the same version of Arrow. One shard is in memory at a time.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from storage.atomic import disk, staged
from storage.documents import DocumentStore
from storage.errors import ArchiveRefused, RecordInvalid, WrongKind
from storage.format import untrusted
from storage.format.arrays import sentinel
from storage.format.manifest import CONSTANTS, Manifest, canonical
from storage.format.manifest_parse import read_manifest
from storage.format.untrusted import Refused
from storage.reader import Store
from storage.records.base import Record
from storage.records.layout import RECORDS
from storage.tables import COLUMNS, DOCUMENTS, read_table

LISTS = {
    "input_ids_NL": ("word_NL", "char_start_NL", "char_end_NL"),
    "ids_PK": ("logprob_PK",),
    "drawn_ids_PS": ("drawn_share_PS",),
    "ids_PM": ("logprob_PM",),
}
"""Arrays of ids that end with sentinels, and those that lie beside them entry by entry."""

TOKENS = "pieces_utf8"
"""Constant that is text: the vocabulary as JSON, in UTF-8."""

README = "README.md"
README_BYTES_LIMIT = 1024 * 1024
ROW_GROUP_ROWS = 16_384
"""Rows that a reader decodes at least."""
COMPRESSION = "zstd"

REMEDY = "Fetch the store again, or make it again"


def to_parquet(store: Path, out: Path) -> None:
    """Write the store at `store`, of any kind, as a Parquet data set to the folder `out`.

    Raises what reading the store raises, WrongKind for a kind that this version does not know, ArchiveRefused when
    there is something at `out`, WorkBusy and DiskRefused; `out` is then what it was.
    """
    manifest = read_manifest(store)
    with disk(out, ArchiveRefused):
        if out.exists() or out.is_symlink():
            raise ArchiveRefused(f"{out}: is there already. Remove it, or export to another path")
        with staged(out, purpose="parquet", keep=False) as workshop:
            content = workshop / "content"
            shutil.rmtree(content, ignore_errors=True)  # a killed export left it
            content.mkdir()
            card = _readme(store, manifest)
            if card:
                (content / README).write_bytes(card)
            known = {"identity": manifest.identity, "kind": manifest.kind, "facts": canonical(manifest.facts)}
            metadata = known | ({"README": card} if card else {})
            for name, table in _tables(store, manifest):
                file = content / f"{name}.parquet"
                file.parent.mkdir(parents=True, exist_ok=True)
                marked = table.replace_schema_metadata(metadata)
                with pq.ParquetWriter(file, marked.schema, compression=COMPRESSION) as writer:
                    if len(marked):  # no row group without rows: `datasets` stumbles over it
                        writer.write_table(marked, row_group_size=ROW_GROUP_ROWS)
            content.rename(out)


def _tables(store: Path, manifest: Manifest) -> Iterator[tuple[str, pa.Table]]:
    """Name of a file below the output, without its ending, and what goes into it."""
    if manifest.kind == DOCUMENTS:
        documents = DocumentStore(store)
        for split, plan in manifest.splits.items():
            for index in range(max(1, plan.shards)):
                table = documents.shard(split, index)
                yield f"{split}/{index:05}", table.add_column(0, "row", _count(plan.bounds(index)[0], len(table)))
        return
    if manifest.kind not in RECORDS and COLUMNS in manifest.facts:
        for shard in manifest.shards:
            table = read_table(store, shard, remedy=REMEDY)
            yield f"{shard.split}/00000", table.add_column(0, "row", _count(0, len(table)))
        return
    if manifest.kind not in RECORDS:
        raise WrongKind(f"{store}: expected a store of {', '.join(RECORDS)} or {DOCUMENTS}, got {manifest.kind}")
    opened: Store[Record] = Store(store, RECORDS[manifest.kind], remedy=REMEDY)
    for split, plan in manifest.splits.items():
        if not plan.rows:  # a file all the same: readers take the columns from it
            yield f"{split}/00000", _record_table(opened.read(split), first=0)
        for index in range(plan.shards):
            yield f"{split}/{index:05}", _record_table(opened.shard(split, index), first=plan.bounds(index)[0])
    for name in sorted({file.split("/")[1] for file in manifest.files if file.startswith(f"{CONSTANTS}/")}):
        values = opened.constant(name)
        if name == TOKENS:
            tokens = pa.array(_tokens(store, values), pa.string())
            yield f"{CONSTANTS}/pieces", pa.table({"row": _count(0, len(tokens)), "piece": tokens})
        else:
            table = pa.table({"row": _count(0, len(values)), name: _column(values)})
            yield f"{CONSTANTS}/{name}", table


def _record_table(record: Record, *, first: int) -> pa.Table:
    columns: dict[str, pa.Array] = {"row": _count(first, len(record))}
    arrays = record.arrays()
    kept = {beside: ids for ids, others in LISTS.items() for beside in (ids, *others)}
    for name, values in arrays.items():
        ids = arrays.get(kept.get(name, ""))
        columns[name] = _column(values) if ids is None else _list(values, ids != sentinel(ids.dtype))
    return pa.table(columns)


def _count(first: int, rows: int) -> pa.Array:
    return pa.array(np.arange(first, first + rows, dtype=np.int64))


def _column(values: NDArray[Any]) -> pa.Array:
    """Numbers, or lists of what the further axes hold."""
    if values.ndim > 1:
        rows, width, *inner = values.shape
        ends = np.arange(rows + 1, dtype=np.int32) * np.int32(width)
        return pa.ListArray.from_arrays(ends, _column(values.reshape(rows * width, *inner)))
    if values.dtype == np.float16:
        values = values.astype(np.float32)  # half floats are new to Parquet, and not every reader knows them
    kind = values.dtype.kind
    if kind not in "fu":
        return pa.array(values)
    return pa.array(values, mask=np.isnan(values) if kind == "f" else values == sentinel(values.dtype))


def _list(values_PK: NDArray[Any], kept_PK: NDArray[np.bool_]) -> pa.Array:
    ends = np.append(0, kept_PK.sum(axis=1).cumsum()).astype(np.int32)
    return pa.ListArray.from_arrays(ends, _column(values_PK[kept_PK]))


def _tokens(store: Path, values: NDArray[Any]) -> list[str]:
    try:
        tokens = untrusted.sequence(untrusted.parse(values.astype(np.uint8).tobytes()), "tokens")
        return [untrusted.text(token, "a token").encode().decode() for token in tokens]
    except (Refused, UnicodeError) as error:
        raise RecordInvalid(f"{store}: {CONSTANTS}/{TOKENS}: {untrusted.shown(str(error))}. {REMEDY}") from None


def _readme(store: Path, manifest: Manifest) -> bytes:
    """The store's card, b"" when it has none or a huge one."""
    entry = manifest.files.get(README)
    if entry is None or entry.bytes > README_BYTES_LIMIT:
        return b""
    entry.require_in(store, README, remedy=REMEDY)
    return (store / README).read_bytes()
