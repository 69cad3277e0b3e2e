"""Tables of text as Arrow IPC files with a manifest: documents, sense inventories, lexical instances.

Tables other than documents are small: each is one file, written at once and sealed like every store. Documents
may have any size (`storage.documents`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import ipc

from storage.atomic import beside
from storage.errors import SchemaMismatch, ShardCorrupt, StaleParent, StoreMissing, WrongKind
from storage.format.arrow_headers import require_table
from storage.format.manifest import FileEntry, Manifest, ShardEntry, SplitPlan, identity_of
from storage.format.manifest_parse import read_manifest, write_manifest
from storage.origins import mirrored
from storage.work import WorkFolder, Workspace

DOCUMENTS = "documents"
REVISION = 1
"""Of documents. Raised when the method changes, so that stores made by the old one are refused."""
DOCUMENT_SCHEMA = pa.schema([("doc_id", pa.string()), ("source", pa.string()), ("text", pa.string())])
BATCH_ROWS = 8192
"""Rows of a record batch."""
COLUMNS = "columns"
"""Fact of every store of tables except documents, whose columns are fixed: type by table and column."""


def write_tables(
    out: Path,
    tables: Mapping[str, pa.Table],
    *,
    kind: str,
    revision: int,
    schemas: Mapping[str, pa.Schema],
    inputs: dict[str, Any],
    facts: dict[str, Any],
    workspace: Workspace,
    parents: dict[str, str] | None = None,
) -> Manifest:
    """Publish tables by name as a sealed store of `kind`; each must have its schema, which its facts then name."""
    if kind != DOCUMENTS:
        facts = facts | {COLUMNS: {name: columns_of(table.schema) for name, table in tables.items()}}
    identity = identity_of(kind=kind, revision=revision, inputs=inputs, parents=parents or {})
    with WorkFolder(out, name=f"{kind}-{out.name}", identity=identity, workspace=workspace) as work:
        shards = []
        for name, table in tables.items():
            assert table.schema == schemas[name], table.schema
            file = work.content / f"{name}.arrow"
            with beside(file) as partial:
                with ipc.new_file(str(partial), table.schema, options=ipc.IpcWriteOptions(compression="zstd")) as sink:
                    sink.write_table(table, max_chunksize=BATCH_ROWS)
            shards.append(ShardEntry(split=name, index=0, rows=len(table), files={file.name: FileEntry.of(file)}))
        manifest = Manifest(
            kind=kind,
            revision=revision,
            identity=identity,
            inputs=inputs,
            parents=parents or {},
            facts=facts,
            splits={name: SplitPlan(rows=len(table), shard_rows=max(1, len(table))) for name, table in tables.items()},
            arrays={},
            shards=tuple(shards),
        )
        write_manifest(manifest, work.content)
        work.publish()
    return manifest


def columns_of(schema: pa.Schema) -> dict[str, str]:
    """Names of columns with their types as FORMAT.md spells them, whatever Arrow calls them."""
    return {field.name: _type_name(field.type) for field in schema}


def _type_name(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"list of {_type_name(kind.value_type)}"
    return "utf8" if pa.types.is_string(kind) else np.dtype(kind.to_pandas_dtype()).name


def read_table(store: Path, shard: ShardEntry, *, remedy: str) -> pa.Table:
    """The table of a shard, memory-mapped, whatever columns it has.

    Raises ShardCorrupt when the file changed since sealing or is no table.
    """
    path = require_file(store, shard, remedy=remedy)
    try:
        table = ipc.open_file(pa.memory_map(str(path))).read_all()
        table.validate(full=True)  # Arrow trusts offsets: a wrong one would read other memory
    except (pa.ArrowException, OSError) as error:
        raise ShardCorrupt(f"{path}: cannot be decoded ({type(error).__name__}). {remedy}") from error
    return table


def require_file(store: Path, shard: ShardEntry, *, remedy: str) -> Path:
    """Where the file of a shard lies; raises ShardCorrupt when it is not what was sealed or no table."""
    ((file, expected),) = shard.files.items()
    mirror = mirrored(store)
    if mirror is not None:
        mirror.bring({file: expected})
    expected.require_in(store, file, remedy=remedy)
    require_table(store / file, remedy=remedy)
    return store / file


class TableStore:
    """A sealed store of tables.

    made_by is the DVC stage that makes it. Raises StoreMissing, WrongKind or SchemaMismatch on opening; the message
    names that stage.
    """

    def __init__(self, path: Path, *, kind: str, revision: int, schemas: Mapping[str, pa.Schema], made_by: str) -> None:
        self.path = path
        self.schemas = schemas
        self.remedy = f"Run: dvc repro {made_by}"
        try:
            self.manifest = read_manifest(path)
        except (StoreMissing, SchemaMismatch) as error:
            raise type(error)(f"{error}. {self.remedy}") from error
        if self.manifest.kind != kind:
            raise WrongKind(f"{path}: expected a store of {kind}, got {self.manifest.kind}. {self.remedy}")
        if self.manifest.revision != revision:
            raise SchemaMismatch(
                f"{path}: expected method revision {revision}, got {self.manifest.revision}. {self.remedy}"
            )

    @property
    def identity(self) -> str:
        """SHA-256 of what the store was made from."""
        return self.manifest.identity

    def require_parent(self, name: str, identity: str) -> None:
        """Raise StaleParent unless the store was made from the parent at hand."""
        made_from = self.manifest.parents.get(name, "none")
        if made_from != identity:
            raise StaleParent(
                f"{self.path}: made from {name} {made_from[:12]}, but {name} at hand is {identity[:12]}. {self.remedy}"
            )

    def read(self, name: str) -> pa.Table:
        """The table of a name, memory-mapped.

        Raises ShardCorrupt when the file changed since sealing or is no table, SchemaMismatch for no such table
        or it has other columns or rows.
        """
        shards = [shard for shard in self.manifest.shards if shard.split == name]
        if len(shards) != 1:
            raise SchemaMismatch(f"{self.path}: {len(shards)} tables of split {name}; expected one. {self.remedy}")
        return self.table(shards[0])

    def table(self, shard: ShardEntry) -> pa.Table:
        """The table of a shard; raises as `read` does."""
        table = read_table(self.path, shard, remedy=self.remedy)
        self.require_shape(shard, table.schema, len(table))
        return table

    def require_shape(self, shard: ShardEntry, schema: pa.Schema, rows: int) -> None:
        """Raise SchemaMismatch unless a shard has the columns and rows that it must have."""
        expected = self.schemas.get(shard.split, DOCUMENT_SCHEMA)
        if schema != expected or rows != shard.rows:
            raise SchemaMismatch(
                f"{self.path / next(iter(shard.files))}: expected {shard.rows} rows of "
                f"{', '.join(expected.names)}; got {rows} rows of {len(schema)} columns. {self.remedy}"
            )
