"""A lexical teacher's soft labels: for every word in context a distribution over its candidate senses, computed once.

A table for each store of instances, in the order of its rows, sealed like every store. Many students learn from it
without the teacher in memory. Words without an annotation have soft labels too, so students also learn from text
without annotation.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.core.runtime import Runtime
from pipeline.lexical.params import SoftLabelsParams
from pipeline.lexical.reading.reader import sense_reader
from pipeline.models.identity import weights_digest
from pipeline.senses.instances import Instances
from pipeline.senses.lexicon import Lexicon
from pipeline.text.ragged import Ragged
from storage.errors import StaleParent, StoreMissing
from storage.tables import TableStore, write_tables

KIND = "beliefs"
"""Kind of the store; identities hash this old name."""
REVISION = 1
SCHEMA = pa.schema([("instance_id", pa.string()), ("probability", pa.list_(pa.float16()))])


def write_soft_labels(
    params: SoftLabelsParams,
    *,
    lexicon: Path,
    senses: Path,
    out: Path,
    runtime: Runtime,
) -> dict[str, int]:
    """Run one lexical teacher over all words of some stores; returns the number of words of each."""
    inventory = Lexicon.open(lexicon)
    opened = {name: Instances.open(senses / name, lexicon=inventory) for name in params.senses}
    tables = {}
    with sense_reader(Path(params.model), runtime, dtype=runtime.dtype) as reader:
        reader.require_lexicon(inventory)
        for name, instances in opened.items():
            view, logp_C = reader.read(instances)
            order = np.argsort(view.row_I, kind="stable")
            rows = view.candidates.take(order)
            place = np.arange(len(rows.flat)) - np.repeat(rows.start_R1[:-1], rows.lengths())
            start = np.repeat(view.candidates.start_R1[:-1][order], rows.lengths())
            flat = np.exp(logp_C[start + place]).astype(np.float16)
            tables[name] = pa.table(
                {
                    "instance_id": instances.rows["instance_id"],
                    "probability": pa.ListArray.from_arrays(pa.array(rows.start_R1, pa.int32()), pa.array(flat)),
                },
                schema=SCHEMA,
            )
    write_tables(
        out,
        tables,
        kind=KIND,
        revision=REVISION,
        schemas=dict.fromkeys(tables, SCHEMA),
        inputs={"model": weights_digest(Path(params.model))},
        parents={"lexicon": inventory.identity, **{f"senses/{name}": found.identity for name, found in opened.items()}},
        facts={"model": params.model, "words": {name: len(table) for name, table in tables.items()}},
        workspace=runtime.workspace,
    )
    return {name: len(table) for name, table in tables.items()}


def open_soft_labels(folder: Path, names: list[str]) -> TableStore:
    """The store at `folder`; raises StoreMissing unless it has soft labels of all of `names`."""
    store = TableStore(
        folder, kind=KIND, revision=REVISION, schemas=dict.fromkeys(names, SCHEMA), made_by=f"soft_labels@{folder.name}"
    )
    for name in names:
        if name not in store.manifest.splits:
            raise StoreMissing(
                f"{folder}: has no soft labels of senses '{name}'. Add it to soft_labels.{folder.name}.senses"
            )
    return store


def read_soft_labels(
    store: TableStore, opened: Mapping[str, Instances], *, row_I: NDArray[np.int64], candidates: Ragged
) -> NDArray[np.float32]:
    """Probabilities along the candidates of a view over `opened`, joined in their order.

    Raises StaleParent when it has soft labels of other instances than these.
    """
    flat: list[NDArray[Any]] = []
    lengths: list[NDArray[np.int64]] = []
    for name, instances in opened.items():
        store.require_parent(f"senses/{name}", instances.identity)
        column = store.read(name)["probability"].combine_chunks()
        flat.append(column.values.to_numpy(zero_copy_only=False).astype(np.float32))
        lengths.append(np.diff(column.offsets.to_numpy()).astype(np.int64))
    start_R1 = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    labels = Ragged(flat=np.concatenate(flat), start_R1=start_R1).take(row_I)
    if not np.array_equal(labels.start_R1, candidates.start_R1):
        raise StaleParent(f"{store.path}: has other candidates than {', '.join(opened)}. {store.remedy}")
    return np.asarray(labels.flat, np.float32)
