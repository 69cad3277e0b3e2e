"""The rounds of `corpus` at work, in whatever process: `pipeline.text.documents.corpus` says what they are."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute, ipc

from pipeline.core.seeds import unit_hash
from pipeline.text.documents import keys, near
from pipeline.text.documents.ingest import ALL
from pipeline.text.documents.pieces import kept_rows
from pipeline.text.params import CorpusParams
from storage.documents import DocumentStore, write_document_batches
from storage.errors import StaleParent
from storage.format.manifest import SplitPlan
from storage.records.base import HELDOUT, SPLITS

NOT_SHARED = 255
"""State of a document that does not belong to the share; otherwise its split's place in SPLITS."""

TRAIN, HELD = SPLITS.index("train"), SPLITS.index(HELDOUT)


def split_of(doc_id: str, *, calibration: float, heldout: float) -> str:
    """The split of a document, by a hash of its id up to "#" (parts of one document stay together)."""
    place = unit_hash("split", doc_id.partition("#")[0])
    if place < calibration:
        return "calibration"
    return HELDOUT if place < calibration + heldout else "train"


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """A shard of an ingested text: a piece."""

    name: str
    store: Path
    identity: str
    shard: int
    split: str | None
    """Of all its documents; None: by their ids."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusJob:
    """All rounds of a corpus."""

    params: CorpusParams
    texts: tuple[Text, ...]
    parts: Path
    """Folder of the parts, absolute."""
    same_buckets: int = 0
    near_buckets: int = 0
    counts: tuple[list[int], ...] = ()
    """For each split, of each piece the rows that it gets."""
    plans: dict[str, SplitPlan] | None = None

    @property
    def key(self) -> str:
        """Names the texts."""
        return f"corpus {[text.identity for text in self.texts]}"

    def with_absolute_paths(self) -> CorpusJob:
        """The job for a process that is in another folder."""
        return replace(self, texts=tuple(replace(text, store=text.store.absolute()) for text in self.texts))

    @contextmanager
    def opened(self) -> Iterator[dict[str, DocumentStore]]:
        """Open the texts; raises StaleParent when they are not those the driver has."""
        stores = {text.name: DocumentStore(text.store, made_by=f"ingest@{text.name}") for text in self.texts}
        for text in self.texts:
            if stores[text.name].identity != text.identity:
                raise StaleParent(f"{text.store}: not what the driver has there. Share one file system")
        yield stores

    def files(self, stage: str, buckets: int) -> list[Path]:
        """What the buckets of a round found."""
        return [self.parts / f"{stage}/{bucket}/places.npy" for bucket in range(buckets)]

    def make_part(
        self, stores: dict[str, DocumentStore], name: str, folder: Path, *, advance: Callable[[int], None]
    ) -> None:
        """A part of any round."""
        stage, _, number = name.partition("/")
        if stage == "look":
            self._look(stores, int(number), folder, advance)
        elif stage == "same":
            self._find_same(int(number), folder)
            advance(1)
        elif stage == "sketch":
            self._sketch(stores, int(number), folder, advance)
        elif stage == "near":
            self._find_near(int(number), folder)
            advance(1)
        else:
            split, _, index = number.partition("/")
            self._write(stores, split, int(index), folder, advance)

    def _batches(self, stores: dict[str, DocumentStore], piece: int, *columns: str) -> Iterator[pa.RecordBatch]:
        text = self.texts[piece]
        start, stop = stores[text.name].plan(ALL).bounds(text.shard)
        chosen = {"columns": columns} if columns else {}
        return stores[text.name].batches(ALL, start=start, stop=stop, **chosen)

    def _look(self, stores: dict[str, DocumentStore], piece: int, folder: Path, advance: Callable[[int], None]) -> None:
        """The state of each document, ids that can be looked up by row, and the keys of the texts that are shared."""
        states: list[NDArray[np.uint8]] = []
        found: list[dict[str, NDArray[np.uint64]]] = []
        schema = pa.schema([("doc_id", pa.string())])
        with ipc.new_file(str(folder / "ids.arrow"), schema) as sink:
            for batch in self._batches(stores, piece, "doc_id", "text"):
                sink.write_batch(batch.select(["doc_id"]))
                names = batch.column("doc_id").to_pylist()
                state_N = np.array([self._state(doc_id, self.texts[piece].split) for doc_id in names], np.uint8)
                shared = batch.column("text").take(pa.array(np.flatnonzero(state_N != NOT_SHARED)))
                found.append(keys.text_keys(shared.to_pylist()))
                states.append(state_N)
                advance(len(batch))
        state_N = np.concatenate([*states, np.zeros(0, np.uint8)])
        np.save(folder / "state.npy", state_N, allow_pickle=False)
        columns = {name: np.concatenate([part[name] for part in found]) for name in ("high", "low")}
        row = np.flatnonzero(state_N != NOT_SHARED)
        keys.write_keys(folder / "keys.npy", keys.KEYS, {**columns, "row": row})
        (folder / "said.json").write_text(json.dumps({"rows": len(row)}), encoding="utf-8")

    def _state(self, doc_id: str, split: str | None) -> int:
        if split is not None:
            return SPLITS.index(split)
        if unit_hash("share", doc_id) >= self.params.share:
            return NOT_SHARED
        return SPLITS.index(split_of(doc_id, calibration=self.params.calibration, heldout=self.params.heldout))

    def _find_same(self, bucket: int, folder: Path) -> None:
        """All documents with one text but that with the smallest id."""
        paths = [self.parts / f"look/{piece}/keys.npy" for piece in range(len(self.texts))]
        found, piece_N = keys.read_bucket(paths, bucket, self.same_buckets)
        group_N = keys.groups(found)
        several = np.flatnonzero(np.bincount(group_N, minlength=1)[group_N] > 1) if len(found) else np.zeros(0, int)
        ids = np.full(len(several), "", object)
        for piece in np.unique(piece_N[several]):
            mine = np.flatnonzero(piece_N[several] == piece)
            with pa.memory_map(str(self.parts / f"look/{piece}/ids.arrow")) as source:
                column = ipc.open_file(source).read_all().column("doc_id")
                ids[mine] = column.take(pa.array(found["row"][several[mine]])).to_pylist()
        order = sorted(range(len(several)), key=lambda place: (group_N[several[place]], ids[place]))
        later = [place for before, place in pairwise(order) if group_N[several[before]] == group_N[several[place]]]
        keys.write_places(folder / "places.npy", piece_N[several[later]], found["row"][several[later]])

    def _left(self, piece: int) -> NDArray[np.uint8]:
        """The state of each document of a piece; NOT_SHARED also where another has its text."""
        state_N = np.load(self.parts / f"look/{piece}/state.npy", allow_pickle=False)
        state_N[keys.rows_in(self.files("same", self.same_buckets), piece)] = NOT_SHARED
        return np.asarray(state_N, np.uint8)

    def _sketch(
        self, stores: dict[str, DocumentStore], piece: int, folder: Path, advance: Callable[[int], None]
    ) -> None:
        """Signatures of the documents of train and held-out, by row, keys of their bands, and counts by split."""
        state_N = self._left(piece)
        shape = len(state_N), near.PERMUTATIONS
        signature_NK = np.lib.format.open_memmap(folder / "signatures.npy", mode="w+", dtype=np.uint8, shape=shape)
        compared_N = np.isin(state_N, (TRAIN, HELD))
        bands: list[tuple[NDArray[np.uint64], NDArray[np.int64]]] = []
        size = np.zeros(len(SPLITS), np.int64)
        row = 0
        for batch in self._batches(stores, piece, "text"):
            texts, state = batch.column("text"), state_N[row : row + len(batch)]
            length = compute.binary_length(texts).to_numpy(zero_copy_only=False)
            kept = state != NOT_SHARED
            size += np.bincount(state[kept], length[kept], minlength=len(SPLITS)).astype(np.int64)
            mine = np.flatnonzero(compared_N[row : row + len(batch)])
            signature, band, worded = near.signatures(texts.take(pa.array(mine)).to_pylist())
            signature_NK[row + mine] = signature
            bands.append((band[worded], row + mine[worded]))
            row += len(batch)
            advance(len(batch))
        signature_NK.flush()
        key_NB = np.concatenate([band for band, _ in bands])
        row_N = np.concatenate([rows for _, rows in bands])
        columns = {"high": key_NB.ravel(), "row": np.repeat(row_N, near.BANDS)}
        columns["value"] = state_N[columns["row"]]
        keys.write_keys(folder / "bands.npy", keys.SHORT_KEYS, columns)
        said = {
            "bands": key_NB.size,
            "bytes": dict(zip(SPLITS, size.tolist(), strict=True)),
            "documents": {split: int((state_N == state).sum()) for state, split in enumerate(SPLITS)},
        }
        (folder / "said.json").write_text(json.dumps(said), encoding="utf-8")

    def _find_near(self, bucket: int, folder: Path) -> None:
        """Held-out documents that share a band with one of train and are nearly the same."""
        paths = [self.parts / f"sketch/{piece}/bands.npy" for piece in range(len(self.texts))]
        found, piece_N = keys.read_bucket(paths, bucket, self.near_buckets)
        held, train = candidate_pairs(keys.groups(found), found["value"])
        place = np.stack([piece_N, found["row"].astype(np.int64)], axis=1)
        pairs = np.unique(np.concatenate([place[held], place[train]], axis=1), axis=0)
        signature_QK = [self._signatures(pairs[:, side], pairs[:, side + 1]) for side in (0, 2)]
        leaked = pairs[near.similarity(*signature_QK) >= near.NEAR]
        keys.write_places(folder / "places.npy", leaked[:, 0], leaked[:, 1])

    def _signatures(self, piece_Q: NDArray[np.int64], row_Q: NDArray[np.int64]) -> NDArray[np.uint8]:
        signature_QK = np.zeros((len(row_Q), near.PERMUTATIONS), np.uint8)
        for piece in np.unique(piece_Q):
            stored = np.load(self.parts / f"sketch/{piece}/signatures.npy", mmap_mode="r", allow_pickle=False)
            signature_QK[piece_Q == piece] = stored[row_Q[piece_Q == piece]]
        return signature_QK

    def _write(
        self, stores: dict[str, DocumentStore], split: str, index: int, folder: Path, advance: Callable[[int], None]
    ) -> None:
        """A shard of a split, and its words and sources."""
        assert self.plans is not None
        start, stop = self.plans[split].bounds(index)
        place = SPLITS.index(split)
        words, sources = 0, Counter[str]()

        def kept(piece: int) -> NDArray[np.bool_]:
            stays = np.equal(self._left(piece), place)
            if place == HELD:
                stays[keys.rows_in(self.files("near", self.near_buckets), piece)] = False
            return stays

        def counted(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            nonlocal words
            for batch in batches:
                found = compute.sum(compute.list_value_length(compute.utf8_split_whitespace(batch.column("text"))))
                words += int(found.as_py() or 0)
                sources.update(batch.column("source").to_pylist())
                yield batch
                advance(len(batch))

        readers = [lambda piece=piece: self._batches(stores, piece) for piece in range(len(self.texts))]
        rows = kept_rows(readers, kept, self.counts[place], start=start, stop=stop)
        write_document_batches(folder / "table.arrow", counted(rows))
        (folder / "counts.json").write_text(json.dumps({"words": words, "sources": sources}), encoding="utf-8")


def candidate_pairs(
    group_N: NDArray[np.int64], state_N: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of rows, one held out and one of train, in one group: of train the first `PAIRS_A_TEXT` of the group.

    Rows are sorted by their group's number.
    """
    number = group_N.max(initial=-1) + 1
    held_G, train_G = (np.bincount(group_N[state_N == state], minlength=number) for state in (HELD, TRAIN))
    both = (held_G > 0) & (train_G > 0)
    held = np.flatnonzero((state_N == HELD) & both[group_N])
    train = np.flatnonzero((state_N == TRAIN) & both[group_N])
    begin_G = np.searchsorted(group_N[train], np.arange(len(both)))
    count = np.minimum(train_G, near.PAIRS_A_TEXT)[group_N[held]]
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return np.repeat(held, count), train[np.repeat(begin_G[group_N[held]], count) + within]
