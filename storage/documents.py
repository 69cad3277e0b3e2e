"""Documents: a split of any size as shards of record batches, written and read one batch at a time.

A split of one shard is laid out like any other table (`storage.tables`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import compute, ipc

from storage.atomic import link_or_copy
from storage.errors import SchemaMismatch, ShardCorrupt
from storage.format.manifest import FileEntry, Manifest, ShardEntry, SplitPlan, identity_of
from storage.format.manifest_parse import write_manifest
from storage.tables import BATCH_ROWS, DOCUMENT_SCHEMA, DOCUMENTS, REVISION, TableStore, require_file, write_tables
from storage.work import WorkFolder, Workspace

BATCH_BYTES = 16 * 1024 * 1024
"""Text of a record batch, at most, beside the limit on its rows; a longer text is a batch of its own."""
SHARD_BYTES = 64 * 1024 * 1024
"""Text of a shard, on average; some 15 million tokens."""


def write_documents(
    out: Path,
    tables: Mapping[str, pa.Table],
    *,
    inputs: dict[str, Any],
    facts: dict[str, Any],
    workspace: Workspace,
) -> Manifest:
    """Publish one table per split with columns doc_id, source, text (strings), in the order given."""
    return write_tables(
        out,
        tables,
        kind=DOCUMENTS,
        revision=REVISION,
        schemas=dict.fromkeys(tables, DOCUMENT_SCHEMA),
        inputs=inputs,
        facts=facts,
        workspace=workspace,
    )


def document_shard_rows(rows: int, text_bytes: int) -> int:
    """Rows of a shard of a split that has so many rows and so much text, UTF-8."""
    return max(1, rows if text_bytes <= SHARD_BYTES else -(-rows * SHARD_BYTES // text_bytes))


def document_file(split: str, index: int, plan: SplitPlan) -> str:
    """Name of the file of a shard of documents, relative to the store."""
    return f"{split}.arrow" if plan.shards <= 1 else f"{split}/{index}.arrow"


def write_document_batches(path: Path, batches: Iterable[pa.RecordBatch]) -> None:
    """Write rows of documents as one Arrow IPC file, cut anew into record batches of at most BATCH_ROWS, BATCH_BYTES.

    The bytes of the file do not depend on how the rows came.
    """
    with ipc.new_file(str(path), DOCUMENT_SCHEMA, options=ipc.IpcWriteOptions(compression="zstd")) as sink:
        for batch in rebatched(batches):
            sink.write_batch(batch)


def rebatched(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows, which have a column `text`, in batches of at most BATCH_ROWS rows and BATCH_BYTES of text."""
    held: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        end = np.cumsum(compute.binary_length(batch.column("text")).to_numpy(zero_copy_only=False).astype(np.int64))
        start = 0
        while start < len(batch):
            before = int(end[start - 1]) if start else 0
            fits = int(np.searchsorted(end, before + BATCH_BYTES - size, side="right"))
            stop = min(len(batch), start + BATCH_ROWS - rows, max(fits, start if rows else start + 1))
            held.append(batch.slice(start, stop - start))
            rows, size = rows + stop - start, size + int(end[stop - 1]) - before if stop > start else size
            start = stop
            if start < len(batch) or rows == BATCH_ROWS:
                yield _joined(held)
                held, rows, size = [], 0, 0
    if rows:
        yield _joined(held)


def _joined(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    (batch,) = pa.Table.from_batches(batches).combine_chunks().to_batches()
    return batch


def seal_documents(
    work: WorkFolder,
    made: Mapping[tuple[str, int], Path],
    plans: Mapping[str, SplitPlan],
    *,
    inputs: dict[str, Any],
    facts: dict[str, Any],
) -> Manifest:
    """Publish documents whose shards lie ready: `made` has the file of each split and index."""
    work.empty_content()
    shards = []
    for split, plan in plans.items():
        for index in range(max(1, plan.shards)):
            name = document_file(split, index, plan)
            target = work.content / name
            target.parent.mkdir(exist_ok=True)
            link_or_copy(str(made[split, index]), str(target))
            start, stop = plan.bounds(index)
            shards.append(ShardEntry(split=split, index=index, rows=stop - start, files={name: FileEntry.of(target)}))
    manifest = Manifest(
        kind=DOCUMENTS,
        revision=REVISION,
        identity=identity_of(kind=DOCUMENTS, revision=REVISION, inputs=inputs, parents={}),
        inputs=inputs,
        parents={},
        facts=facts,
        splits=dict(plans),
        arrays={},
        shards=tuple(shards),
    )
    write_manifest(manifest, work.content)
    work.publish()
    return manifest


class DocumentStore(TableStore):
    """A sealed store of documents: splits of shards of record batches."""

    def __init__(self, path: Path, *, made_by: str = "corpus") -> None:
        super().__init__(path, kind=DOCUMENTS, revision=REVISION, schemas={}, made_by=made_by)
        self._sound: set[str] = set()

    def plan(self, split: str) -> SplitPlan:
        """Rows and shards of a split; raises SchemaMismatch when the store has none of that name."""
        if split not in self.manifest.splits:
            raise SchemaMismatch(f"{self.path}: has no split {split}. {self.remedy}")
        return self.manifest.splits[split]

    def read(self, name: str) -> pa.Table:
        """All documents of a split in memory: for splits that are small, such as the held-out one.

        Raises as `batches` does.
        """
        return pa.concat_tables([self.table(shard) for shard in self._listed(name)])

    def shard(self, split: str, index: int) -> pa.Table:
        """One shard in memory; raises as `batches` does."""
        return self.table(self._listed(split)[index])

    def batches(
        self, split: str, *, start: int = 0, stop: int | None = None, columns: Sequence[str] = DOCUMENT_SCHEMA.names
    ) -> Iterator[pa.RecordBatch]:
        """Rows [start, stop) of some columns, in order, one record batch in memory at a time.

        Raises ShardCorrupt when a file is not what was sealed or no table, SchemaMismatch when there is no such split
        or it has other columns or rows.
        """
        plan = self.plan(split)
        stop = plan.rows if stop is None else stop
        for shard in self._listed(split)[start // plan.shard_rows : -(-stop // plan.shard_rows)]:
            row = shard.index * plan.shard_rows
            for batch in self._batches(shard, columns):
                first, last = max(start - row, 0), min(stop - row, len(batch))
                if first < last:
                    yield batch.slice(first, last - first)
                row += len(batch)

    def _listed(self, split: str) -> list[ShardEntry]:
        """The shards of a split, all of them, by index."""
        plan = self.plan(split)
        shards = sorted(
            (shard for shard in self.manifest.shards if shard.split == split), key=lambda shard: shard.index
        )
        if [shard.index for shard in shards] != list(range(max(1, plan.shards))):
            raise SchemaMismatch(
                f"{self.path}: {len(shards)} tables of split {split}; expected {max(1, plan.shards)}. {self.remedy}"
            )
        return shards

    def _batches(self, shard: ShardEntry, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        path = self.path / next(iter(shard.files))
        if str(path) not in self._sound:
            require_file(self.path, shard, remedy=self.remedy)
            self._sound.add(str(path))
        try:
            with pa.memory_map(str(path)) as source:
                whole = ipc.open_file(source).schema
                fields = [whole.get_field_index(name) for name in columns]
                if whole != DOCUMENT_SCHEMA:
                    self.require_shape(shard, whole, shard.rows)
                reader = ipc.open_file(source, options=ipc.IpcReadOptions(included_fields=fields))
                rows = 0
                for number in range(reader.num_record_batches):
                    batch = reader.get_batch(number)
                    batch.validate(full=True)  # Arrow believes offsets, and would read where they lead
                    rows += len(batch)
                    yield batch.select(list(columns))
        except (pa.ArrowException, OSError) as error:
            raise ShardCorrupt(f"{path}: cannot be decoded ({type(error).__name__}). {self.remedy}") from error
        self.require_shape(shard, whole, rows)
