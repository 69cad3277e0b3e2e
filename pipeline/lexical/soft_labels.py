"""A lexical teacher's soft labels: for every word in context a distribution over its candidate senses, computed once.

A table for each store of instances, in the order of its rows, sealed like every store. Many students learn from it
without the teacher in memory. Words without an annotation have soft labels too, so students also learn from text
without annotation. The mean of several teachers' soft labels is a store of the same kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.core.runtime import Runtime
from pipeline.lexical.params import SenseFusionParams, SoftLabelsParams
from pipeline.lexical.reading.reader import sense_reader
from pipeline.models.identity import weights_digest
from pipeline.senses.instances import Instances
from pipeline.senses.lexicon import Lexicon
from pipeline.text.ragged import Int, Ragged
from storage.errors import DataError, StaleParent, StoreMissing
from storage.tables import TableStore, write_tables
from storage.work import Workspace

KIND = "beliefs"
"""Kind of the store; identities hash this old name."""
REVISION = 1
SCHEMA = pa.schema([("instance_id", pa.string()), ("probability", pa.list_(pa.float16()))])
FUSED_FOLDER = "sense_fusions"
"""Name of the folder of stores that average others."""


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
    return _write(
        out,
        tables,
        inputs={"model": weights_digest(Path(params.model))},
        parents={"lexicon": inventory.identity, **{f"senses/{name}": found.identity for name, found in opened.items()}},
        facts={"model": params.model},
        workspace=runtime.workspace,
    )


def mean_softened(probability_MC: NDArray[np.floating[Any]], start_I1: Int, *, temperature: float) -> NDArray[Any]:
    """Mean over M teachers of softmax(log p / T) of each word, float64 [C].

    Word i has the candidates start[i] to start[i + 1], whose probabilities add up to more than 0.
    softmax(log p / T) is p^(1/T), normalised. The mean of distributions is that of Lakshminarayanan et al. 2017 (deep
    ensembles), the temperature that of Hinton et al. 2015 (arXiv 1503.02531): log p is the logits but for a constant,
    which a softmax does not see.
    """
    p_MC = probability_MC.astype(np.float64)
    counts, starts = np.diff(start_I1), start_I1[:-1]
    # Of the largest, so that a power of a low temperature does not vanish for all candidates of a word.
    softened_MC = (p_MC / np.repeat(np.maximum.reduceat(p_MC, starts, axis=1), counts, axis=1)) ** (1 / temperature)
    softened_MC /= np.repeat(np.add.reduceat(softened_MC, starts, axis=1), counts, axis=1)
    return np.asarray(softened_MC.mean(0))


def fuse_soft_labels(
    params: SenseFusionParams, *, soft_labels: Path, out: Path, workspace: Workspace = Workspace()
) -> dict[str, int]:
    """Average the teachers' stores in the folder `soft_labels` over the words that all label; returns words by name.

    Raises StaleParent when two of them label other instances or another inventory, DataError when they have no senses
    in common.
    """
    stores = {name: open_soft_labels(soft_labels / name, []) for name in params.teachers}
    first, *others = stores.values()
    names = [name for name in first.manifest.splits if all(name in other.manifest.splits for other in others)]
    if not names:
        raise DataError(f"{out.name}: {', '.join(params.teachers)} label no senses in common. Name one under each")
    shared = {parent: first.manifest.parents[parent] for parent in ("lexicon", *(f"senses/{name}" for name in names))}
    for other in others:
        for parent, identity in shared.items():
            other.require_parent(parent, identity)
    tables = {name: _mean_table([store.read(name) for store in stores.values()], params.temperature) for name in names}
    return _write(
        out,
        tables,
        inputs={"temperature": params.temperature},
        parents={**shared, **{f"soft_labels/{name}": store.identity for name, store in stores.items()}},
        facts={"teachers": params.teachers},
        workspace=workspace,
    )


def _write(
    out: Path,
    tables: Mapping[str, pa.Table],
    *,
    inputs: dict[str, Any],
    parents: dict[str, str],
    facts: dict[str, Any],
    workspace: Workspace,
) -> dict[str, int]:
    """Seal a store of soft labels; returns the number of words of each of its tables."""
    words = {name: len(table) for name, table in tables.items()}
    write_tables(
        out,
        tables,
        kind=KIND,
        revision=REVISION,
        schemas=dict.fromkeys(tables, SCHEMA),
        inputs=inputs,
        parents=parents,
        facts={**facts, "words": words},
        workspace=workspace,
    )
    return words


def _mean_table(tables: Sequence[pa.Table], temperature: float) -> pa.Table:
    """Of tables of the same words, which have the same candidates."""
    columns = [table["probability"].combine_chunks() for table in tables]
    start_I1 = columns[0].offsets.to_numpy()
    probability_MC = np.stack([column.values.to_numpy(zero_copy_only=False) for column in columns])
    mean_C = mean_softened(probability_MC, start_I1, temperature=temperature)
    probability = pa.ListArray.from_arrays(columns[0].offsets, pa.array(mean_C.astype(np.float16)))
    return pa.table({"instance_id": tables[0]["instance_id"], "probability": probability}, schema=SCHEMA)


def open_soft_labels(folder: Path, names: list[str]) -> TableStore:
    """The store at `folder`, of one lexical teacher or of several.

    Raises StoreMissing unless it has soft labels of all of `names`.
    """
    fused = folder.parent.name == FUSED_FOLDER
    made_by = f"fuse_senses@{folder.name}" if fused else f"soft_labels@{folder.name}"
    store = TableStore(folder, kind=KIND, revision=REVISION, schemas={}, made_by=made_by)
    store.schemas = dict.fromkeys(store.manifest.splits, SCHEMA)
    for name in names:
        if name not in store.manifest.splits:
            whose = "senses of all its teachers" if fused else f"soft_labels.{folder.name}.senses"
            raise StoreMissing(f"{folder}: has no soft labels of senses '{name}'. Add it to {whose}")
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
