"""Extend a teacher's store without asking the teacher again: shards whose question is unchanged are taken over.

More mask copies and more documents come after what is there, so all shards but the last, short one of a split keep
their predictions. `cohesive store keep` links a store aside before `dvc repro` empties its place; the teacher
then starts from it: its temperature and the shape of its tails stay as they were fitted, a shard is linked over when
its digest of all it was made from is the same, and the teacher is asked the rest. The store names the one it extends,
for its bytes are not those of one made at once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from storage.atomic import link_or_copy
from storage.reader import Store
from storage.records.logits import SparseLogits
from storage.work import WORK_ROOT

if TYPE_CHECKING:
    from pipeline.teach.inference import SplitInputs
    from storage.writer import Shard, StoreWriter


log = logging.getLogger(__name__)

EXTENDS = "extends"
"""Key, among a store's inputs, of the identity of the store that it began with."""


def kept_folder(store: Path, root: Path = WORK_ROOT) -> Path:
    """Where a store is kept aside: by the name of its folder."""
    return root / "kept" / store.name


def keep(store: Path, root: Path = WORK_ROOT) -> Path:
    """Link a sealed store of logits aside, replacing an older one; costs no space where links can be made.

    Raises StoreMissing, WrongKind or SchemaMismatch when there is none.
    """
    Store(store, SparseLogits)
    kept = kept_folder(store, root)
    staged = kept.with_name(f".{kept.name}.staged")
    shutil.rmtree(staged, ignore_errors=True)
    staged.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(store, staged, copy_function=link_or_copy)
    shutil.rmtree(kept, ignore_errors=True)
    staged.rename(kept)
    return kept


def kept_stores(root: Path = WORK_ROOT) -> list[Path]:
    """All stores that are kept aside."""
    return sorted(path for path in (root / "kept").glob("*") if path.is_dir())


def extended(out: Path, inputs: dict[str, Any], root: Path = WORK_ROOT) -> Store[SparseLogits] | None:
    """The store kept aside for `out`, if it was made by the same teacher with the same settings."""
    kept = kept_folder(out, root)
    if not (kept / "manifest.json").is_file():
        return None
    store = Store(kept, SparseLogits)
    asked = {name: value for name, value in store.manifest.inputs.items() if name != EXTENDS}
    if asked != json.loads(json.dumps(inputs)):
        log.warning("%s: made by another model or with other settings; the store is made anew", kept)
        return None
    return store


def question(part: SplitInputs, start: int, stop: int) -> str:
    """SHA-256 of all that the answers to predictions [start, stop) depend on: blanks, windows and texts."""
    low, high = part.whole_passes(start, stop)
    digest = hashlib.sha256(f"{start - low},{stop - low}".encode())
    masks = part.masks.arrays()
    for name in ("copy_P", "column_P", "label_P"):
        digest.update(np.ascontiguousarray(masks[name][low:high]).tobytes())
    row_N, place_P = np.unique(part.masks.sequence_P[low:high], return_inverse=True)
    digest.update(place_P.astype(np.int64).tobytes())
    for name, values in part.sequences.arrays().items():
        if name != "document_N":
            digest.update(np.ascontiguousarray(values[row_N]).tobytes())
    texts: dict[int, bytes] = {}
    for row, document in zip(row_N.tolist(), part.sequences.document_N[row_N].tolist(), strict=True):
        if document not in texts:
            texts[document] = hashlib.sha256(part.texts[row].encode()).digest()
        digest.update(texts[document])
    return digest.hexdigest()


def take_over(writer: StoreWriter, kept: Store[SparseLogits], shard: Shard, asked: str) -> bool:
    """Link a shard of `kept` into the store being written when it was made from the same question."""
    questions: dict[str, list[str]] = kept.facts["questions"]
    old = questions.get(shard.split, [])
    if shard.index >= len(old) or old[shard.index] != asked:
        return False
    record = kept.shard(shard.split, shard.index)
    writer.adopt(shard, kept, sidecar=kept_beside(record, asked))
    return True


def kept_beside(record: SparseLogits, asked: str) -> dict[str, np.ndarray[Any, Any]]:
    """Sidecars of a shard: how many predictions are answered, int64 [1], and the digest of its question, uint8 [32]."""
    answered = np.array([record.covered_P().sum()], np.int64)
    return {"answered": answered, "question": np.frombuffer(bytes.fromhex(asked), np.uint8)}
