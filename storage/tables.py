"""Tables of text as Arrow IPC files with a manifest: documents, one file per split.

A table is written in one go (minutes even for gigabytes, so it is not resumable) and sealed like every other store.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import ipc

from storage.arrow import require_table
from storage.errors import SchemaMismatch, ShardCorrupt, StoreMissing, WrongKind
from storage.manifest import FileEntry, Manifest, ShardEntry, SplitPlan, identity_of
from storage.work import WORK_ROOT, WorkFolder

DOCUMENTS = "documents"
REVISION = 1
"""Raised when the method changes, so that stores made by the old one are refused."""
DOCUMENT_SCHEMA = pa.schema([("doc_id", pa.string()), ("source", pa.string()), ("text", pa.string())])


def write_documents(
    out: Path,
    tables: dict[str, pa.Table],
    *,
    inputs: dict[str, Any],
    facts: dict[str, Any],
    work_root: Path = WORK_ROOT,
) -> Manifest:
    """Publish one table per split with columns doc_id, source, text (strings), in the order given."""
    identity = identity_of(kind=DOCUMENTS, revision=REVISION, inputs=inputs, parents={})
    with WorkFolder(out, name=f"{DOCUMENTS}-{out.name}", identity=identity, root=work_root) as work:
        shards = []
        for split, table in tables.items():
            assert table.schema == DOCUMENT_SCHEMA, table.schema
            file = work.content / f"{split}.arrow"
            partial = file.with_suffix(".new")
            with ipc.new_file(str(partial), table.schema, options=ipc.IpcWriteOptions(compression="zstd")) as sink:
                sink.write_table(table, max_chunksize=8192)
            partial.replace(file)
            shards.append(ShardEntry(split=split, index=0, rows=len(table), files={file.name: FileEntry.of(file)}))
        manifest = Manifest(
            kind=DOCUMENTS,
            revision=REVISION,
            identity=identity,
            inputs=inputs,
            parents={},
            facts=facts,
            splits={
                split: SplitPlan(rows=len(table), shard_rows=max(1, len(table))) for split, table in tables.items()
            },
            arrays={},
            shards=tuple(shards),
        )
        manifest.write(work.content)
        work.publish()
    return manifest


class DocumentStore:
    """A sealed store of documents.

    made_by is the DVC stage that makes it. Raises StoreMissing, WrongKind or SchemaMismatch on opening; the message
    names that stage.
    """

    def __init__(self, path: Path, *, made_by: str = "corpus") -> None:
        self.path = path
        self.remedy = f"Run: dvc repro {made_by}"
        try:
            self.manifest = Manifest.read(path)
        except (StoreMissing, SchemaMismatch) as error:
            raise type(error)(f"{error}. {self.remedy}") from error
        if self.manifest.kind != DOCUMENTS:
            raise WrongKind(f"{path}: expected a store of {DOCUMENTS}, got {self.manifest.kind}. {self.remedy}")
        if self.manifest.revision != REVISION:
            raise SchemaMismatch(
                f"{path}: expected method revision {REVISION}, got {self.manifest.revision}. {self.remedy}"
            )

    @property
    def identity(self) -> str:
        """SHA-256 of what the store was made from."""
        return self.manifest.identity

    def read(self, split: str) -> pa.Table:
        """The table of a split, memory-mapped.

        Raises ShardCorrupt when the file is not what was sealed or no table, SchemaMismatch when there is no such split
        or it has other columns or rows.
        """
        shards = [shard for shard in self.manifest.shards if shard.split == split]
        if len(shards) != 1:
            raise SchemaMismatch(f"{self.path}: {len(shards)} tables of split {split}; expected one. {self.remedy}")
        ((name, expected),) = shards[0].files.items()
        path = self.path / name
        expected.require_in(self.path, name, remedy=self.remedy)
        require_table(path, remedy=self.remedy)
        try:
            table = ipc.open_file(pa.memory_map(str(path))).read_all()
            table.validate(full=True)  # Arrow believes offsets: one that lies elsewhere would be read from there
        except (pa.ArrowException, OSError) as error:
            raise ShardCorrupt(f"{path}: cannot be decoded ({type(error).__name__}). {self.remedy}") from error
        if table.schema != DOCUMENT_SCHEMA or len(table) != shards[0].rows:
            raise SchemaMismatch(
                f"{path}: expected {shards[0].rows} rows of {', '.join(DOCUMENT_SCHEMA.names)}; got {len(table)} rows "
                f"of {len(table.schema)} columns. {self.remedy}"
            )
        return table
