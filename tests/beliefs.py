"""Teachers and fusions made by hand from dense float64 distributions, without the code that teaches and fuses.

The dense distributions are what tests compare with; the stores are what `pipeline` reads.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.arrays import sentinel
from storage.manifest import Manifest
from storage.reader import Store
from storage.records import SPLITS, FusedTargets, Masks, Sequences, SparseLogits, id_dtype
from storage.writer import StoreWriter
from tests.fakes import TinyStores

Dense = NDArray[np.float64]


def believe(rng: np.random.Generator, gold_P: NDArray[Any], vocabulary: int, *, knows: float = 3.0) -> Dense:
    """Random distributions [P, V] that lean towards the true token."""
    logits_PV = rng.normal(size=(len(gold_P), vocabulary)) * 2
    logits_PV[np.arange(len(gold_P)), gold_P] += knows
    return softmax(logits_PV)


def softmax(logits_PV: Dense) -> Dense:
    """Plain softmax over the last axis."""
    weights = np.exp(logits_PV - logits_PV.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def cooled(dense_PV: Dense, temperature: float) -> Dense:
    """The distributions at another temperature."""
    return softmax(np.log(dense_PV) / temperature)


def sparse_logits(
    dense_PV: Dense, gold_P: NDArray[Any], *, keep: int, temperatures: list[float], covered_P: NDArray[np.bool_]
) -> SparseLogits:
    """What a teacher's store holds of dense distributions; rows that are not covered are empty."""
    rows, vocabulary = dense_PV.shape
    specs = SparseLogits.specs(keep=keep, temperatures=len(temperatures), vocabulary=vocabulary)
    columns = {name: np.full((rows, *s.row_shape), sentinel(s.dtype), s.dtype) for name, s in specs.items()}
    for row in np.flatnonzero(covered_P):
        p_V = dense_PV[row]
        ids_K = np.argsort(-p_V, kind="stable")[:keep]
        columns["ids_PK"][row] = ids_K
        columns["logprob_PK"][row] = np.log(p_V[ids_K])
        columns["tail_P"][row] = np.log(max(1 - p_V[ids_K].sum(), 1e-30))
        columns["gold_id_P"][row] = gold_P[row]
        columns["gold_logprob_P"][row] = np.log(p_V[gold_P[row]])
        for j, temperature in enumerate(temperatures):
            at_V = cooled(p_V, temperature)
            columns["entropy_PJ"][row, j] = -(at_V * np.log(at_V)).sum()
            columns["lse_PJ"][row, j] = np.log((p_V ** (1 / temperature)).sum())
    record = SparseLogits(**columns)
    record.check()
    return record


def tail_prior(dense_PV: Dense, *, keep: int) -> NDArray[np.float32]:
    """Mean distribution outside the `keep` most likely ids, [V]; sums to 1."""
    outside_PV = dense_PV.copy()
    np.put_along_axis(outside_PV, np.argsort(-dense_PV, axis=1)[:, :keep], 0, axis=1)
    total_V = outside_PV.sum(axis=0) + 1e-9
    return (total_V / total_V.sum()).astype(np.float32)


def fused_targets(
    dense_TPV: Dense, weight_PT: Dense, label_P: NDArray[Any], *, keep: int, covered_P: NDArray[np.bool_]
) -> FusedTargets:
    """The mixture of dense distributions over the students' ids, as a fused store holds it."""
    teachers, rows, vocabulary = dense_TPV.shape
    specs = FusedTargets.specs(keep=keep, teachers=teachers, vocabulary=vocabulary)
    columns = {name: np.full((rows, *s.row_shape), sentinel(s.dtype), s.dtype) for name, s in specs.items()}
    for row in np.flatnonzero(covered_P):
        p_V = weight_PT[row] @ dense_TPV[:, row]
        ids_M = np.argsort(-p_V, kind="stable")[:keep]
        ids_M = ids_M[p_V[ids_M] > 0]
        columns["ids_PM"][row, : len(ids_M)] = ids_M
        columns["logprob_PM"][row, : len(ids_M)] = np.log(p_V[ids_M])
        columns["weight_PT"][row] = weight_PT[row]
        columns["tail_PT"][row] = weight_PT[row] * (1 - dense_TPV[:, row, ids_M].sum(axis=1))
        columns["gold_logprob_P"][row] = np.log(p_V[label_P[row]])
    record = FusedTargets(**columns)
    record.check()
    return record


@dataclass(frozen=True, kw_only=True)
class World:
    """Tiny stores with two teachers and a fusion of them, and the dense distributions behind the held-out split."""

    stores: TinyStores
    data: Path
    dense: dict[str, Dense]
    """Teacher to [P, V] over the students' ids, held-out."""
    weight_PT: Dense
    label_P: NDArray[np.int64]
    reversed_teacher: str
    """This teacher numbers the pieces the other way round."""


TEMPERATURES = [1.0, 1.25, 2.5]
"""As answered, calibrated, twice that."""


def make_world(
    stores: TinyStores, data: Path, *, keep: int = 8, seed: int = 0, fusions: tuple[str, ...] = ("confident",)
) -> World:
    """Write teachers "alpha" and "beta" and fusions of them under `data`, beside links to the tiny stores.

    beta speaks the reversed vocabulary and does not answer every fifth prediction; alpha has weight 0.75 where both do.
    """
    masks, sequences = Store(stores.masks, Masks), Store(stores.sequences, Sequences)
    vocabulary = int(masks.facts["vocabulary"])
    pieces = bytes(sequences.constant("pieces_utf8")).decode()
    parts: dict[str, dict[str, Any]] = {split: {} for split in SPLITS}
    for split in SPLITS:
        label_P = masks.read(split).label_P.astype(np.int64)
        covered_P = np.arange(len(label_P)) % 5 != 0
        dense = {
            name: believe(np.random.default_rng([seed, number, len(label_P)]), label_P, vocabulary, knows=4.0 + number)
            for number, name in enumerate(("alpha", "beta"))
        }
        weight_PT = np.where(covered_P[:, None], [0.75, 0.25], [1.0, 0.0])
        parts[split] = {"label": label_P, "covered": covered_P, "dense": dense, "weight": weight_PT}
    _write_teacher(data / "logits" / "alpha", masks, parts, keep=keep, pieces=pieces, flip=False)
    _write_teacher(data / "logits" / "beta", masks, parts, keep=keep, pieces=pieces, flip=True)
    for fusion in fusions:
        _write_fusion(data / "targets" / fusion, masks, parts, keep=keep, logits=data / "logits")
    for name in ("documents", "sequences", "masks"):
        if not (data / name).exists():
            (data / name).symlink_to(getattr(stores, name))
    held = parts["heldout"]
    return World(
        stores=stores,
        data=data,
        dense=held["dense"],
        weight_PT=held["weight"],
        label_P=held["label"],
        reversed_teacher="beta",
    )


def _write_teacher(
    out: Path, masks: Store[Masks], parts: dict[str, dict[str, Any]], *, keep: int, pieces: str, flip: bool
) -> None:
    name = out.name
    vocabulary = int(masks.facts["vocabulary"])
    own = json.loads(pieces)[::-1] if flip else json.loads(pieces)

    def turned(dense_PV: Dense) -> Dense:
        return dense_PV[:, ::-1] if flip else dense_PV

    writer = StoreWriter(
        out,
        SparseLogits,
        specs=SparseLogits.specs(keep=keep, temperatures=len(TEMPERATURES), vocabulary=vocabulary),
        splits=masks.manifest.splits,
        inputs={"hand-made": name, "keep": keep},
        parents={"masks": masks.identity},
        work_root=out.parent.parent / ".work",
    )
    with writer:
        for shard in writer.missing():
            part = parts[shard.split]
            rows = slice(shard.start, shard.stop)
            gold_P = vocabulary - 1 - part["label"] if flip else part["label"]
            everything = np.ones(len(gold_P), bool)
            covered_P = part["covered"] if flip else everything
            record = sparse_logits(
                turned(part["dense"][name][rows]),
                gold_P[rows],
                keep=keep,
                temperatures=TEMPERATURES,
                covered_P=covered_P[rows],
            )
            writer.write(shard, record)
        train = turned(parts["train"]["dense"][name])
        writer.seal(
            facts={
                "vocabulary": vocabulary,
                "keep": keep,
                "listed": [1.0, 2.0],
                "temperatures": TEMPERATURES,
                "calibration": {"temperature": TEMPERATURES[1], "nll": 2.0, "nll_raw": 2.1, "positions": 50},
                "coverage": {"heldout": 0.8 if flip else 1.0},
                "parameters": 1000 if flip else 2000,
            },
            constants={
                "pieces_utf8": np.frombuffer(json.dumps(own).encode(), np.uint8),
                "tail_prior_JV": np.stack([tail_prior(cooled(train, t), keep=keep) for t in TEMPERATURES]),
            },
        )


def _write_fusion(out: Path, masks: Store[Masks], parts: dict[str, dict[str, Any]], *, keep: int, logits: Path) -> None:
    """Mix the teachers as answered (temperature 1, not calibrated)."""
    names = ["alpha", "beta"]
    vocabulary = int(masks.facts["vocabulary"])
    teachers = {f"logits/{name}": Manifest.read(logits / name).identity for name in names}
    writer = StoreWriter(
        out,
        FusedTargets,
        specs=FusedTargets.specs(keep=keep, teachers=len(names), vocabulary=vocabulary),
        splits=masks.manifest.splits,
        inputs={"teachers": names, "calibrated": False, "name": out.name},
        parents={"masks": masks.identity, **teachers},
        work_root=out.parent.parent / ".work",
    )
    with writer:
        for shard in writer.missing():
            part = parts[shard.split]
            rows = slice(shard.start, shard.stop)
            writer.write(
                shard,
                fused_targets(
                    np.stack([part["dense"][name][rows] for name in names]),
                    part["weight"][rows],
                    part["label"][rows],
                    keep=keep,
                    covered_P=np.ones(shard.stop - shard.start, bool),
                ),
            )
        priors = [tail_prior(parts["train"]["dense"][name], keep=keep) for name in names]
        writer.seal(
            facts={
                "teachers": names,
                "weighting": "entropy",
                "temperature": 1.0,
                "vocabulary": vocabulary,
                "keep": keep,
            },
            constants={"tail_prior_TV": np.stack(priors)},
        )


def write_student(
    folder: Path, model: Path, stores: TinyStores, *, targets: str | None = "data/targets/confident"
) -> Path:
    """Make a trained student of a model folder: links to its files, and a training record."""
    folder.mkdir(parents=True)
    for file in model.iterdir():
        (folder / file.name).symlink_to(file)
    parents = {
        "sequences": Manifest.read(stores.sequences).identity,
        "masks": Manifest.read(stores.masks).identity,
    }
    if targets is not None:
        parents["targets"] = "0" * 64
    record = {
        "parents": parents,
        "targets": targets or "data/masks",
        "curve": [[0, 5.5], [10, 4.5], [20, 4.25]],
        "steps": 20,
        "tokens": 1000,
        "predictions": 150,
    }
    (folder / "training.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


__all__ = [
    "TEMPERATURES",
    "World",
    "believe",
    "cooled",
    "fused_targets",
    "id_dtype",
    "make_world",
    "softmax",
    "sparse_logits",
    "tail_prior",
    "write_student",
]
