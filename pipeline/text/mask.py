"""The store of masked positions of any number of sequences, in two rounds that any executor makes.

A part of the first has the masked positions of a shard of sequences. The store is ordered by copy first, so a shard of
it is a range of the first copies of all parts, then of the second, and so on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.executor.base import Executor, LocalExecutor
from pipeline.text.masking import choose_masked_positions
from pipeline.text.params import MaskParams
from pipeline.text.vocabulary import decode_tokens
from storage.documents import DocumentStore
from storage.errors import DataError, StaleParent
from storage.format.manifest import Manifest, SplitPlan, identity_of
from storage.parts import Parts
from storage.reader import Store
from storage.records.base import SPLITS
from storage.records.sequences import Masks, Sequences
from storage.work import WorkFolder, Workspace
from storage.writer import Shard, StoreWriter

EVALUATION_SEED = 0
"""Seed of the calibration and held-out positions: scores of runs with other mask seeds stay comparable."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextStores:
    """Documents, their sequences, and which tokens are white space."""

    documents: DocumentStore
    sequences: Store[Sequences]
    white_space_V: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskJob:
    """Both rounds of a store of masks."""

    params: MaskParams
    documents: Path
    sequences: Path
    identity: str
    """Of the sequences, as the driver has them."""
    parts: Path
    """Folder of the parts, absolute."""
    sizes: Mapping[str, list[list[int]]] | None = None
    """For each split, of each part the positions of each copy; None in the first round."""

    @property
    def key(self) -> str:
        """Names the sequences."""
        return f"mask {self.identity}"

    def with_absolute_paths(self) -> MaskJob:
        """The job for a process that is in another folder."""
        return replace(self, documents=self.documents.absolute(), sequences=self.sequences.absolute())

    @contextmanager
    def opened(self) -> Iterator[TextStores]:
        """Open the stores; raises StaleParent when they are not those the driver has."""
        documents, sequences = DocumentStore(self.documents), Store(self.sequences, Sequences)
        if sequences.identity != self.identity:
            raise StaleParent(f"{self.sequences}: not what the driver has there. Share one file system")
        tokens = decode_tokens(sequences.constant("pieces_utf8"))
        white_space_V = np.array([not token.strip("▁ \t\r\n") for token in tokens])
        yield TextStores(documents=documents, sequences=sequences, white_space_V=white_space_V)

    def copies(self, split: str) -> int:
        """Mask copies of a split: one where they only judge."""
        return self.params.copies if split == "train" else 1

    def rate(self, split: str) -> float:
        """Share of the tokens that a copy of a split masks."""
        # Calibration text is masked as train text is: temperatures and weights that are fitted to it are used there.
        params = self.params
        return params.rate if split != "heldout" or params.heldout_rate is None else params.heldout_rate

    def make_part(self, stores: TextStores, name: str, folder: Path, *, advance: Callable[[int], None]) -> None:
        """The masked positions of a shard of sequences, ordered by copy, and counts."""
        _, split, index = name.split("/")
        sequences = stores.sequences.shard(split, int(index))
        masks = choose_masked_positions(
            sequences,
            _doc_ids(stores.documents, split, sequences.document_N.astype(np.int64)),
            rate=self.rate(split),
            copies=self.copies(split),
            seed=self.params.seed if split == "train" else EVALUATION_SEED,
            unknown=stores.sequences.facts["special"]["unk"],
            white_space_V=stores.white_space_V,
        )
        first = np.uint32(stores.sequences.plan(split).bounds(int(index))[0])
        columns = replace(masks, sequence_P=masks.sequence_P + first).arrays()
        rows = np.zeros(len(masks), [(name, values.dtype) for name, values in columns.items()])
        for column, values in columns.items():
            rows[column] = values
        np.save(folder / "masks.npy", rows, allow_pickle=False)
        said = {
            "sizes": np.bincount(masks.copy_P, minlength=self.copies(split)).tolist(),
            "masked": len(np.unique(masks.sequence_P[masks.copy_P == 0])),
            "passes": len(np.unique(masks.copy_P.astype(np.int64) << 32 | masks.sequence_P)),
        }
        (folder / "said.json").write_text(json.dumps(said), encoding="utf-8")
        advance(len(sequences))

    def make(
        self, tools: Any, shard: Shard, *, advance: Callable[[int], None]
    ) -> tuple[Masks, dict[str, NDArray[Any]]]:
        """A shard of the store."""
        assert self.sizes is not None
        size_NC = np.array(self.sizes[shard.split])
        begin_NC = np.cumsum(size_NC, axis=1) - size_NC
        end = np.cumsum(size_NC.T.ravel())  # copy by copy, in each part by part
        first = int(np.searchsorted(end, shard.start, side="right"))
        last = int(np.searchsorted(end, shard.stop, side="left"))
        found = []
        for place in range(first, last + 1):
            copy, part = divmod(place, len(size_NC))
            low = int(begin_NC[part, copy]) + max(0, shard.start - int(end[place] - size_NC[part, copy]))
            high = int(begin_NC[part, copy] + size_NC[part, copy]) - max(0, int(end[place]) - shard.stop)
            rows = np.load(self.parts / f"masked/{shard.split}/{part}/masks.npy", mmap_mode="r", allow_pickle=False)
            found.append(np.array(rows[low:high]))
        joined = np.concatenate(found)
        advance(len(joined))
        return Masks(**{name: np.ascontiguousarray(joined[name]) for name in joined.dtype.names or ()}), {}


def _doc_ids(documents: DocumentStore, split: str, row_N: NDArray[np.int64]) -> list[str]:
    """The id of the document of each of N windows, whose documents ascend."""
    start, stop = int(row_N[0]), int(row_N[-1]) + 1
    batches = documents.batches(split, start=start, stop=stop, columns=["doc_id"])
    ids = [doc_id for batch in batches for doc_id in batch.column("doc_id").to_pylist()]
    return [ids[row] for row in (row_N - start).tolist()]


def mask(
    params: MaskParams,
    documents: Path,
    *,
    sequences: Path,
    out: Path,
    executor: Executor | None = None,
    workspace: Workspace = Workspace(),
) -> Manifest:
    """Write the store of masks of all splits to `out`; `executor` makes parts and shards, by default this process.

    Raises StaleParent when `sequences` were not made from `documents`, DataError when a split has no word to mask,
    WorkBusy when another process writes `out`.
    """
    store = Store(sequences, Sequences)
    store.require_parent("documents", DocumentStore(documents))
    inputs, parents = params.model_dump(exclude_none=True), {"sequences": store.identity}
    identity = identity_of(kind=Masks.kind, revision=Masks.revision, inputs=inputs, parents=parents)
    work = WorkFolder(out, name=f"{Masks.kind}-{out.name}-masked", identity=identity, workspace=workspace)
    with nullcontext(executor) if executor is not None else LocalExecutor() as executing, Parts(work) as parts:
        job = MaskJob(
            params=params, documents=documents, sequences=sequences, identity=store.identity, parts=parts.root
        )
        found = parts.recall("masked") or parts.remember("masked", _choose(job, parts, executing, store))
        rows = {split: sum(map(sum, found[split]["sizes"])) for split in SPLITS}
        writer = StoreWriter(
            out,
            Masks,
            specs=Masks.specs(vocabulary=store.facts["vocabulary"]),
            splits={split: SplitPlan(rows=rows[split], shard_rows=params.shard_rows) for split in SPLITS},
            inputs=inputs,
            parents=parents,
            workspace=workspace,
        )
        with writer:
            if any(True for _ in writer.missing()):
                _choose(job, parts, executing, store)
                sizes = {split: found[split]["sizes"] for split in SPLITS}
                executing.shards(replace(job, sizes=sizes), writer, label=f"write {out.name}")
            parts.forget("masked")
            manifest = writer.seal(
                facts={
                    "vocabulary": store.facts["vocabulary"],
                    "copies": params.copies,
                    "counts": {split: _counts(found[split], store, split) for split in SPLITS},
                }
            )
        work.finish()
        return manifest


def _choose(job: MaskJob, parts: Parts, executor: Executor, store: Store[Sequences]) -> dict[str, Any]:
    """Make the missing parts of the first round; for each split the sizes of its parts and the counts."""
    shards = {
        f"masked/{split}/{index}": store.plan(split).bounds(index)
        for split in SPLITS
        for index in range(store.plan(split).shards)
    }
    windows = {name: stop - start for name, (start, stop) in shards.items()}
    executor.parts(job, parts, windows, unit="sequences", label="mask")
    found: dict[str, Any] = {split: {"sizes": [], "masked": 0, "passes": 0} for split in SPLITS}
    for name in shards:
        said = json.loads((parts.folder(name) / "said.json").read_text(encoding="utf-8"))
        split = found[name.split("/")[1]]
        split["sizes"].append(said["sizes"])
        split["masked"] += said["masked"]
        split["passes"] += said["passes"]
    for name, split in found.items():
        if not sum(map(sum, split["sizes"])):
            raise DataError(
                f"{store.path}: {name} has no word that can be masked; is the tokenizer made for this text?"
            )
    return found


def _counts(found: Mapping[str, Any], store: Store[Sequences], split: str) -> dict[str, Any]:
    first_copy = sum(sizes[0] for sizes in found["sizes"])
    rows = store.plan(split).rows
    return {
        "sequences": rows,
        "without_blank": rows - found["masked"],
        "passes": found["passes"],
        "predictions": sum(map(sum, found["sizes"])),
        "rate": round(first_copy / store.facts["counts"][split]["tokens"], 6),
    }
