"""Extend a teacher's store: shards whose inputs are unchanged are reused, the others are computed.

New mask copies and new documents are appended, so all shards but the last, short one of a split keep their predictions.
`cohesive store keep` links a store aside before `dvc repro` empties its place. The teacher's stage then starts from it:
the temperature and the tails' shape are taken from it, a shard is linked over when the fingerprint of its inputs is the
same, and the teacher computes the rest. The new store names the one it extends among its inputs, because its bytes
differ from those of a store made at once.
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
"""Key, among a store's inputs, of the identity of the store that it extends."""


def kept_folder(store: Path, root: Path = WORK_ROOT) -> Path:
    """Where a store is kept aside: by the name of its folder."""
    return root / "kept" / store.name


def keep(store: Path, root: Path = WORK_ROOT) -> Path:
    """Link a sealed store of logits aside, replacing an older one; takes no disk space where hard links are possible.

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
    made_from = {name: value for name, value in store.manifest.inputs.items() if name != EXTENDS}
    if made_from != json.loads(json.dumps(inputs)):
        log.warning("%s: made by another model or with other settings; the store is made anew", kept)
        return None
    return store


def shard_fingerprint(part: SplitInputs, start: int, stop: int) -> str:
    """SHA-256 of all that the rows of predictions [start, stop) depend on: masked positions, windows and texts."""
    found = part.excerpt(start, stop)
    digest = hashlib.sha256(f"{start - found.low},{stop - found.low}".encode())
    masks = found.masks.arrays()
    for name in ("copy_P", "column_P", "label_P"):
        digest.update(np.ascontiguousarray(masks[name]).tobytes())
    digest.update(found.masks.sequence_P.astype(np.int64).tobytes())
    for name, values in found.sequences.arrays().items():
        if name != "document_N":
            digest.update(np.ascontiguousarray(values).tobytes())
    texts: dict[int, bytes] = {}
    for row, document in enumerate(found.sequences.document_N.tolist()):
        if document not in texts:
            texts[document] = hashlib.sha256(found.texts[row].encode()).digest()
        digest.update(texts[document])
    return digest.hexdigest()


def take_over(writer: StoreWriter, kept: Store[SparseLogits], shard: Shard, fingerprint: str) -> bool:
    """Link a shard of `kept` into the store being written when its fingerprint is `fingerprint`."""
    fingerprints: dict[str, list[str]] = kept.facts["questions"]
    old = fingerprints.get(shard.split, [])
    if shard.index >= len(old) or old[shard.index] != fingerprint:
        return False
    record = kept.shard(shard.split, shard.index)
    writer.adopt(shard, kept, sidecar=sidecars(record, fingerprint))
    return True


def sidecars(record: SparseLogits, fingerprint: str) -> dict[str, np.ndarray[Any, Any]]:
    """Sidecars of a shard: the number of answered predictions, int64 [1], and its fingerprint, uint8 [32]."""
    answered = np.array([record.covered_P().sum()], np.int64)
    return {"answered": answered, "question": np.frombuffer(bytes.fromhex(fingerprint), np.uint8)}
