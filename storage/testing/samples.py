"""Small valid records and documents, and a view of a store's files that bypasses the code under test."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from storage.documents import write_documents
from storage.format.arrays import ArraySpec
from storage.format.manifest import SplitPlan
from storage.records.base import Record
from storage.records.hidden_states import HiddenStates
from storage.records.logits import SparseLogits
from storage.records.sequences import Masks, Sequences
from storage.records.targets import FusedTargets
from storage.tables import DOCUMENT_SCHEMA, write_tables
from storage.work import Workspace
from storage.writer import StoreWriter

SPLITS = {
    "train": SplitPlan(rows=50, shard_rows=16),
    "calibration": SplitPlan(rows=0, shard_rows=16),
    "heldout": SplitPlan(rows=16, shard_rows=16),
}
INPUTS = {"keep": 4, "model": "0123"}
PARENTS = {"masks": "ab" * 32}
VOCABULARY = 100
TEMPERATURES = 3


@dataclass(frozen=True, slots=True)
class Plain(Record):
    """Any numbers: for round trips over dtypes."""

    kind: ClassVar[str] = "plain"
    stage: ClassVar[str] = "plain@{name}"

    narrow_P: NDArray[Any]
    wide_PK: NDArray[Any]


def sequences(rows: int, *, seed: int = 0, tokens: int = 12) -> Sequences:
    rng = np.random.default_rng(seed)
    length = rng.integers(3, tokens, endpoint=True, size=rows)
    used = np.arange(tokens) < length[:, None]
    inner = used & (np.arange(tokens) > 0) & (np.arange(tokens) < length[:, None] - 1)
    column = np.arange(tokens)
    return Sequences(
        document_N=np.arange(rows, dtype=np.uint32),
        window_N=np.zeros(rows, np.uint32),
        length_N=length.astype(np.uint16),
        input_ids_NL=np.where(used, rng.integers(0, VOCABULARY, used.shape), 65535).astype(np.uint16),
        word_NL=np.where(inner, column - 1, -1).astype(np.int16),
        char_start_NL=np.where(inner, 5 * column, -1).astype(np.int32),
        char_end_NL=np.where(inner, 5 * column + 4, -1).astype(np.int32),
    )


def masks(rows: int, *, seed: int = 0) -> Masks:
    rng = np.random.default_rng(seed)
    return Masks(
        copy_P=np.zeros(rows, np.uint16),
        sequence_P=(np.arange(rows) // 3).astype(np.uint32),
        column_P=(1 + np.arange(rows) % 3).astype(np.uint16),
        label_P=rng.integers(0, VOCABULARY, rows).astype(np.uint16),
    )


ORDER = np.random.default_rng(5).permutation(VOCABULARY).astype(np.uint32)
"""Constant of stores of logits and targets: the order in which their lists are stored."""


def logits(rows: int, *, seed: int = 0, most: int = 6, draws: int = 0, rank: int = 3) -> SparseLogits:
    """1 to `most` of a random softmax (none when it is 0), `draws` draws of the rest; every seventh row unanswered."""
    rng = np.random.default_rng(seed)
    score = rng.normal(scale=3.0, size=(rows, VOCABULARY))
    prob = np.exp(score) / np.exp(score).sum(axis=1, keepdims=True)
    silent = np.arange(rows) % 7 == 6
    count = np.where(silent, 0, rng.integers(1, most, rows, endpoint=True) if most else 0)
    listed = np.arange(most) < count[:, None]
    ids = np.argsort(-prob, axis=1)[:, :most]
    kept = np.where(listed, np.take_along_axis(prob, ids, axis=1), 0)
    gold = rng.integers(0, VOCABULARY, rows)
    gold_logprob = np.log(prob[np.arange(rows), gold])
    found = (ids == gold[:, None]) & listed
    drawn = np.sort(rng.integers(0, VOCABULARY, (rows, draws)), axis=1)
    first = np.append(np.ones((rows, min(draws, 1)), bool), np.diff(drawn, axis=1) > 0, axis=1)
    share = (drawn[:, :, None] == drawn[:, None, :]).sum(axis=2)
    share = np.where(first & ~silent[:, None], share / max(draws, 1), 0)
    order = np.argsort(-share, axis=1, kind="stable")
    drawn, share = np.take_along_axis(drawn, order, axis=1), np.take_along_axis(share, order, axis=1)
    tail = np.stack([1 - kept.sum(axis=1), *rng.random((TEMPERATURES - 1, rows))], axis=1)
    columns = np.linspace(1, 1.2, TEMPERATURES)
    unanswered = silent[:, None]
    return SparseLogits(
        ids_PK=np.where(listed, ids, 65535).astype(np.uint16),
        logprob_PK=np.log(kept, out=np.full(kept.shape, np.nan), where=listed).astype(np.float32),
        drawn_ids_PS=np.where(share > 0, drawn, 65535).astype(np.uint16),
        drawn_share_PS=share.astype(np.float32),
        tail_PJ=np.where(unanswered, np.nan, tail).astype(np.float32),
        gold_logprob_PJ=np.where(unanswered, np.nan, gold_logprob[:, None] * columns).astype(np.float32),
        gold_place_P=np.where(found.any(axis=1), found.argmax(axis=1) if most else 0, -1).astype(np.int32),
        entropy_PJ=np.where(unanswered, np.nan, -(prob * np.log(prob)).sum(axis=1)[:, None] * columns).astype(
            np.float32
        ),
        sketch_PD=np.where(unanswered, 0, rng.integers(-127, 128, (rows, rank))).astype(np.int8),
        spread_PJ=np.where(unanswered, np.nan, rng.normal(size=(rows, TEMPERATURES))).astype(np.float32),
    )


def targets(rows: int, *, seed: int = 0, keep: int = 4, rank: int = 2) -> FusedTargets:
    """Mixtures of two teachers; every seventh row unanswered, every fifth with one entry fewer."""
    rng = np.random.default_rng(seed)
    prob = -np.sort(-rng.dirichlet(np.ones(keep + 1), rows), axis=1)
    ids = np.argsort(rng.random((rows, VOCABULARY)), axis=1)[:, :keep]
    silent, short = np.arange(rows) % 7 == 6, np.arange(rows) % 5 == 4
    hole = silent[:, None] | (short[:, None] & (np.arange(keep) == keep - 1))
    tail = 1 - np.where(hole, 0, prob[:, :keep]).sum(axis=1)
    weight = rng.dirichlet(np.ones(2), rows)
    return FusedTargets(
        ids_PM=np.where(hole, 65535, ids).astype(np.uint16),
        logprob_PM=np.where(hole, np.nan, np.log(prob[:, :keep])).astype(np.float32),
        weight_PT=np.where(silent[:, None], np.nan, weight).astype(np.float32),
        tail_PT=np.where(silent[:, None], np.nan, weight * tail[:, None]).astype(np.float32),
        gold_logprob_P=np.where(silent, np.nan, -rng.random(rows)).astype(np.float32),
        sketch_PTD=rng.integers(-127, 128, (rows, 2, rank)).astype(np.int8),
    )


def logits_specs(*, most: int = 6, draws: int = 0, rank: int = 3) -> dict[str, ArraySpec]:
    """Arrays on disk of `logits` of the same form."""
    return SparseLogits.specs(most=most, draws=draws, temperatures=TEMPERATURES, rank=rank, vocabulary=VOCABULARY)


def targets_specs(*, keep: int = 4, rank: int = 2) -> dict[str, ArraySpec]:
    """Arrays on disk of `targets` of the same form."""
    return FusedTargets.specs(keep=keep, teachers=2, rank=rank, vocabulary=VOCABULARY)


def hidden(rows: int, *, seed: int = 0, width: int = 5) -> HiddenStates:
    """Normal states; every seventh row unanswered."""
    rng = np.random.default_rng(seed)
    silent = np.arange(rows) % 7 == 6
    return HiddenStates(
        hidden_PH=np.where(silent[:, None], np.nan, rng.normal(size=(rows, width))).astype(np.float16),
        gold_id_P=np.where(silent, 65535, rng.integers(0, VOCABULARY, rows)).astype(np.uint16),
    )


def documents(rows: int, *, source: str = "made") -> pa.Table:
    columns = [
        [f"{source}:{i}" for i in range(rows)],
        [source] * rows,
        [f"Text {i}, ähnlich wie." for i in range(rows)],
    ]
    return pa.table(columns, schema=DOCUMENT_SCHEMA)


DOCUMENT_ROWS = {"train": 40_000, "calibration": 0, "heldout": 3}
TABLES = {split: documents(rows) for split, rows in DOCUMENT_ROWS.items()}


def write_sample_documents(out: Path, work_root: Path) -> None:
    write_documents(out, TABLES, inputs={"share": 0.5}, facts={"vocabulary": 3}, workspace=Workspace(work_root))


LEXICON_SCHEMAS = {
    "senses": pa.schema([("key", pa.string()), ("rank", pa.uint16()), ("meaning", pa.uint32())]),
    "meanings": pa.schema([("lemmas", pa.list_(pa.string())), ("above", pa.list_(pa.uint32())), ("p", pa.float16())]),
    "forms": pa.schema([("form", pa.string()), ("lemma", pa.string())]),
    "empty": pa.schema([("form", pa.string())]),
}
LEXICON_TABLES = {
    "senses": pa.table([["dog%1", "dog%2", "cat%1"], [1, 2, 1], [1, 0, 1]], schema=LEXICON_SCHEMAS["senses"]),
    "meanings": pa.table(
        [[["dog", "hound"], []], [[1], []], np.array([0.5, 0.25], np.float16)], schema=LEXICON_SCHEMAS["meanings"]
    ),
    "forms": pa.table(
        [[f"form {i}" for i in range(40)], [f"lemma of the form {i}" for i in range(40)]],
        schema=LEXICON_SCHEMAS["forms"],
    ),
    "empty": pa.table([[]], schema=LEXICON_SCHEMAS["empty"]),
}
"""Tables of different columns: numbers, lists, none at all."""


def write_sample_lexicon(out: Path, work_root: Path, *, parents: dict[str, str] | None = None) -> None:
    write_tables(
        out, LEXICON_TABLES, kind="lexicon", revision=1, schemas=LEXICON_SCHEMAS, inputs={"share": 0.5},
        facts={"vocabulary": 3}, parents=parents, workspace=Workspace(work_root),
    )  # fmt: skip


def plain(rows: int, *, seed: int, narrow: str, wide: str, width: int) -> Plain:
    """Any bit patterns of the dtypes, sentinels included."""
    rng = np.random.default_rng(seed)

    def bits(dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer(rng.bytes(size), dtype).reshape(shape)

    return Plain(narrow_P=bits(narrow, (rows,)), wide_PK=bits(wide, (rows, width)))


def rows_of(record: Record, start: int, stop: int) -> Any:
    return type(record)(**{name: array[start:stop] for name, array in record.arrays().items()})


def logits_writer(out: Path, work_root: Path, **changes: Any) -> StoreWriter:
    """A writer of a teacher's store over `SPLITS`."""
    arguments: dict[str, Any] = {
        "specs": logits_specs(),
        "splits": SPLITS,
        "inputs": INPUTS,
        "parents": PARENTS,
        "constants": {"order_V": ORDER},
        "workspace": Workspace(work_root),
        **changes,
    }
    return StoreWriter(out, SparseLogits, **arguments)


def fill(writer: StoreWriter, *, shards: int | None = None) -> int:
    """Write missing shards of a teacher's rows, at most `shards`; returns how many it wrote."""
    whole = {split: logits(plan.rows, seed=1) for split, plan in writer.splits.items()}
    left = list(writer.missing())[:shards]
    for shard in left:
        total = np.array([shard.start + shard.index / 7])
        writer.write(shard, rows_of(whole[shard.split], shard.start, shard.stop), sidecar={"total": total})
    return len(left)


def seal(writer: StoreWriter) -> None:
    """Seal with a fact and a constant that come from the sidecars, as a teacher's tail prior does."""
    total = sum((array for array in writer.sidecars("total", "train")), np.zeros(1))
    writer.seal(facts={"vocabulary": VOCABULARY, "temperature": 1.25}, constants={"prior": total.astype(np.float32)})


def write_logits(out: Path, work_root: Path, **changes: Any) -> None:
    with logits_writer(out, work_root, **changes) as writer:
        fill(writer)
        seal(writer)


def file_hashes(folder: Path) -> dict[str, str]:
    """Every file below `folder` and the SHA-256 of its bytes."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def manifest_of(store: Path) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((store / "manifest.json").read_text(encoding="utf-8"))
    return body


def edit_manifest(store: Path, changes: Mapping[str, Any], *, resealed: bool) -> None:
    """Change entries of a manifest; `resealed` as a careful forger or another version would, checksum included."""
    body = {**manifest_of(store), **changes}
    if resealed:
        del body["checksum"]
        text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        body["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    (store / "manifest.json").write_text(json.dumps(body), encoding="utf-8")


def relist(store: Path, *names: str) -> None:
    """Put size and hash of files that were changed into the manifest, as a careful forger would; checksum included."""
    body, found = manifest_of(store), file_hashes(store)
    for files in (body["files"], *(shard["files"] for shard in body["shards"])):
        for name in files.keys() & set(names):
            files[name] = {"bytes": (store / name).stat().st_size, "sha256": found[name]}
    edit_manifest(store, {"files": body["files"], "shards": body["shards"]}, resealed=True)


def drop_array(store: Path, name: str) -> None:
    """Take one array out of a manifest with all its files, as if the store had been made without it."""
    body = manifest_of(store)
    del body["arrays"][name]
    for files in (body["files"], *(shard["files"] for shard in body["shards"])):
        for file in [file for file in files if file.split("/")[1] == name]:
            del files[file]
    edit_manifest(store, body, resealed=True)


def flip(path: Path, *, at: int | None = None) -> None:
    """Flip one bit of a file, in place, so that every link to it changes."""
    size = path.stat().st_size
    with path.open("r+b") as stream:
        stream.seek(size // 2 if at is None else at)
        byte = stream.read(1)[0]
        stream.seek(-1, 1)
        stream.write(bytes([byte ^ 1]))
