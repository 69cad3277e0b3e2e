"""Small stores of every kind, undamaged, and what each of their files is needed for.

Tests of archives, audits and faults copy from here. No pytest: the benchmarks read the same stores.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from storage.documents import DocumentStore, write_documents
from storage.format.manifest import MANIFEST, SplitPlan
from storage.reader import Store
from storage.records.base import Record
from storage.records.layout import RECORDS
from storage.records.logits import SparseLogits
from storage.records.sequences import Masks, Sequences
from storage.records.targets import FusedTargets
from storage.tables import DOCUMENTS
from storage.testing import samples
from storage.work import Workspace
from storage.writer import StoreWriter

PLAN = {"train": SplitPlan(rows=22, shard_rows=8), "heldout": SplitPlan(rows=8, shard_rows=8)}
SPECS: dict[type[Record], Callable[[], Any]] = {
    Sequences: lambda: Sequences.specs(tokens=12, vocabulary=samples.VOCABULARY),
    Masks: lambda: Masks.specs(vocabulary=samples.VOCABULARY),
    SparseLogits: lambda: SparseLogits.specs(
        most=6, draws=0, temperatures=samples.TEMPERATURES, rank=3, vocabulary=samples.VOCABULARY
    ),
    FusedTargets: lambda: FusedTargets.specs(keep=4, teachers=2, rank=2, vocabulary=samples.VOCABULARY),
}
ROWS: dict[type[Record], Callable[..., Any]] = {
    Sequences: samples.sequences,
    Masks: samples.masks,
    SparseLogits: samples.logits,
    FusedTargets: lambda rows, seed: _sound(samples.targets(rows, seed=seed)),
}
FACTS = "facts"
KINDS = (*(record.kind for record in SPECS), DOCUMENTS)


def _sound(targets: FusedTargets) -> FusedTargets:
    """The sample with a true token that its list holds."""
    return replace(targets, gold_logprob_P=targets.logprob_PM[:, 0])


def write(kind: str, out: Path, work: Path, *, seed: int, name: str = "a") -> None:
    """A store of any kind, 3 shards of train and 1 of heldout; `name` enters its identity."""
    inputs = {"seed": seed, "name": name}
    if kind == DOCUMENTS:
        tables = {split: samples.documents(plan.rows, source=f"{name}{seed}") for split, plan in PLAN.items()}
        write_documents(out, tables, inputs=inputs, facts={"documents": 30}, workspace=Workspace(work))
        return
    record = RECORDS[kind]
    needs = {"constants": {"order_V": samples.ORDER}} if "order_V" in record.needs else {}
    writer = StoreWriter(
        out,
        record,
        specs=SPECS[record](),
        splits=PLAN,
        inputs=inputs,
        parents=samples.PARENTS,
        workspace=Workspace(work),
        **needs,
    )
    with writer:
        for shard in writer.missing():
            whole = ROWS[record](PLAN[shard.split].rows, seed=seed)
            writer.write(shard, samples.rows_of(whole, shard.start, shard.stop))
        writer.seal(facts={"vocabulary": samples.VOCABULARY, "keep": 4, "made": "by hand"})


@dataclass(frozen=True)
class Gallery:
    """One kind of store as it should be, an older version of it and another teacher's, and what it holds."""

    kind: str
    store: Path
    older: Path
    foreign: Path
    files: frozenset[str]
    content: Mapping[str, str]
    """Unit (split/shard) to a hash of its values."""
    needs: Mapping[str, frozenset[str]]
    """Unit to the files that reading it depends on."""

    @staticmethod
    def make(kind: str, folder: Path) -> Gallery:
        for name, seed in (("store", 1), ("older", 2), ("foreign", 3)):
            write(kind, folder / name / "store", folder / "work", seed=seed, name=name)
        return Gallery.open(kind, folder)

    @staticmethod
    def open(kind: str, folder: Path) -> Gallery:
        """The one that `make` made in `folder`."""
        path = folder / "store" / "store"
        content = {unit: read() for unit, read in units(kind, path)}
        files = frozenset(files_of(path))
        return Gallery(
            kind,
            path,
            folder / "older" / "store",
            folder / "foreign" / "store",
            files,
            content,
            {unit: frozenset(_needed(path, unit, files)) for unit in content},
        )


def units(kind: str, path: Path) -> Iterator[tuple[str, Callable[[], str]]]:
    """What is read from a store at a time, each as a function that reads it anew and hashes the values."""
    yield FACTS, lambda: _hash(json.dumps(_open(kind, path).manifest.facts).encode())
    for split, plan in PLAN.items():
        if kind == DOCUMENTS:
            yield f"{split}/0", lambda s=split: _hash(repr(_open(kind, path).read(s).to_pydict()).encode())  # type: ignore[misc]
            continue
        for index in range(plan.shards):
            yield f"{split}/{index}", lambda s=split, i=index: _values(_open(kind, path).shard(s, i))  # type: ignore[misc]


def _open(kind: str, path: Path) -> Any:
    return DocumentStore(path) if kind == DOCUMENTS else Store(path, RECORDS[kind])


def _values(record: Record) -> str:
    return _hash(*(array.tobytes() for array in record.arrays().values()))


def _hash(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()


def files_of(store: Path) -> list[str]:
    """All files, relative."""
    return sorted(path.relative_to(store).as_posix() for path in store.rglob("*") if path.is_file())


def shard_files(store: Path, unit: str) -> list[str]:
    split, index = unit.split("/")
    (shard,) = (s for s in samples.manifest_of(store)["shards"] if (s["split"], s["index"]) == (split, int(index)))
    return sorted(shard["files"])


def _needed(store: Path, unit: str, files: frozenset[str]) -> set[str]:
    if unit == FACTS:
        return {MANIFEST}
    split = unit.partition("/")[0]
    metadata = {name for name in files if name.endswith("zarr.json") and name.startswith(f"{split}/")}
    return {MANIFEST, *metadata, *(n for n in files if n.startswith("constants/")), *shard_files(store, unit)}
