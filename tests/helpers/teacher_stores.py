"""Stores of two hand-made teachers and of fusions of them, beside the tiny stores they answer.

What is stored is quantised: tests compare with what the reader returns, or allow for the steps of
`storage.format.codec`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.format.manifest import SplitPlan
from storage.format.manifest_parse import read_manifest
from storage.reader import Store
from storage.records.base import SPLITS
from storage.records.logits import SparseLogits
from storage.records.sequences import Masks, Sequences
from storage.records.targets import FusedTargets
from storage.work import Workspace
from storage.writer import StoreWriter
from tests.helpers.distributions import Dense, TailOf, fused_targets, softmaxes, sparse_logits, tail_prior
from tests.helpers.stores import TinyStores


def write_targets(
    out: Path,
    rows: Mapping[str, FusedTargets],
    *,
    bias_TV: NDArray[Any],
    basis_TDV: NDArray[Any] | None = None,
    splits: Mapping[str, SplitPlan] | None = None,
    inputs: dict[str, Any] | None = None,
    parents: dict[str, str] | None = None,
    facts: dict[str, Any] | None = None,
) -> Store[FusedTargets]:
    """A sealed store of fused rows by split, one shard a split unless `splits` says otherwise."""
    splits = splits or {name: SplitPlan(rows=len(part), shard_rows=len(part)) for name, part in rows.items()}
    first = next(iter(rows.values()))
    writer = StoreWriter(
        out,
        FusedTargets,
        specs=FusedTargets.specs(
            keep=first.ids_PM.shape[1],
            teachers=first.tail_PT.shape[1],
            rank=first.sketch_PTD.shape[2],
            vocabulary=bias_TV.shape[1],
        ),
        splits=dict(splits),
        inputs=inputs or {},
        parents=parents or {},
        constants={"order_V": np.argsort(-np.exp(bias_TV).sum(axis=0), kind="stable").astype(np.uint32)},
        workspace=Workspace(out.parent.parent / ".work"),
    )
    constants = {"tail_bias_TV": bias_TV.astype(np.float32)}
    if basis_TDV is not None:
        constants["tail_basis_TDV"] = basis_TDV.astype(np.float16)
    with writer:
        for shard in writer.missing():
            arrays = rows[shard.split].arrays()
            part = {name: values[shard.start : shard.stop] for name, values in arrays.items()}
            writer.write(shard, FusedTargets(**part))
        writer.seal(facts=facts or {}, constants=constants)
    return Store(out, FusedTargets)


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
    """This teacher numbers the tokens the other way round."""


TEMPERATURES = [1.0, 1.25, 2.5]
"""As answered, calibrated, twice that."""

STEP = 0.25
"""Step of the coordinates of the low-rank tails."""


def make_world(
    stores: TinyStores,
    data: Path,
    *,
    keep: int = 8,
    seed: int = 0,
    tail_rank: int = 0,
    draws: int = 0,
    fusions: tuple[str, ...] = ("confident",),
) -> World:
    """Write teachers "alpha" and "beta" and fusions of them under `data`, beside links to the tiny stores.

    beta speaks the reversed vocabulary and does not answer every fifth prediction; alpha has weight 0.75 where both do.
    alpha's tails have `tail_rank` coordinates, beta's half as many; with draws both draw their tails instead. Their
    fusions have plain tails.
    """
    masks, sequences = Store(stores.masks, Masks), Store(stores.sequences, Sequences)
    vocabulary = int(masks.facts["vocabulary"])
    tokens = bytes(sequences.constant("pieces_utf8")).decode()
    parts: dict[str, dict[str, Any]] = {split: {} for split in SPLITS}
    for split in SPLITS:
        label_P = masks.read(split).label_P.astype(np.int64)
        covered_P = np.arange(len(label_P)) % 5 != 0
        dense = {
            name: softmaxes(
                np.random.default_rng([seed, number, len(label_P)]), label_P, vocabulary, knows=4.0 + number
            )
            for number, name in enumerate(("alpha", "beta"))
        }
        weight_PT = np.where(covered_P[:, None], [0.75, 0.25], [1.0, 0.0])
        parts[split] = {"label": label_P, "covered": covered_P, "dense": dense, "weight": weight_PT}
    for name, size, flip in (("alpha", tail_rank, False), ("beta", tail_rank // 2, True)):
        out = data / "logits" / name
        _write_teacher(out, masks, parts, keep=keep, tail_rank=size, draws=draws, tokens=tokens, flip=flip)
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
    out: Path,
    masks: Store[Masks],
    parts: dict[str, dict[str, Any]],
    *,
    keep: int,
    tail_rank: int,
    draws: int,
    tokens: str,
    flip: bool,
) -> None:
    name = out.name
    vocabulary = int(masks.facts["vocabulary"])
    own = json.loads(tokens)[::-1] if flip else json.loads(tokens)

    def turned(dense_PV: Dense) -> Dense:
        return dense_PV[:, ::-1] if flip else dense_PV

    train = turned(parts["train"]["dense"][name])
    tail = TailOf.plain(train, keep=keep, temperatures=TEMPERATURES)
    if tail_rank:
        tail = TailOf.low_rank(train, rank=tail_rank, step=STEP, temperatures=TEMPERATURES)
    constants = tail.constants(np.argsort(-train.mean(axis=0), kind="stable").astype(np.uint32))
    form: dict[str, Any] = {"form": "topk", "k": keep}
    if draws:
        form = {"form": "topk+sampled", "k": keep, "draws": draws} if keep else {"form": "sampled", "draws": draws}
    writer = StoreWriter(
        out,
        SparseLogits,
        specs=SparseLogits.specs(
            most=keep, draws=draws, temperatures=len(TEMPERATURES), rank=tail_rank, vocabulary=vocabulary
        ),
        splits=masks.manifest.splits,
        inputs={"hand-made": name, "keep": form, "sketch": tail_rank},
        parents={"masks": masks.identity},
        constants={"order_V": constants.pop("order_V")},
        workspace=Workspace(out.parent.parent / ".work"),
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
                tail=tail,
                covered_P=covered_P[rows],
                draws=draws,
                seed=shard.index,
            )
            writer.write(shard, record)
        writer.seal(
            facts={
                "vocabulary": vocabulary,
                "keep": form,
                "most": keep,
                "listed": [1.0, 2.0],
                "temperatures": TEMPERATURES,
                "calibration": {"temperature": TEMPERATURES[1], "nll": 2.0, "nll_raw": 2.1, "positions": 50},
                "coverage": {"heldout": 0.8 if flip else 1.0},
                "parameters": 1000 if flip else 2000,
            },
            constants={"pieces_utf8": np.frombuffer(json.dumps(own).encode(), np.uint8), **constants},
        )


def _write_fusion(out: Path, masks: Store[Masks], parts: dict[str, dict[str, Any]], *, keep: int, logits: Path) -> None:
    """Mix the teachers as answered (temperature 1, not calibrated)."""
    names = ["alpha", "beta"]
    rows = {
        split: fused_targets(
            np.stack([part["dense"][name] for name in names]),
            part["weight"],
            part["label"],
            keep=keep,
            covered_P=np.ones(len(part["label"]), bool),
        )
        for split, part in parts.items()
    }
    write_targets(
        out,
        rows,
        bias_TV=np.log([tail_prior(parts["train"]["dense"][name], keep=keep) for name in names]),
        splits=masks.manifest.splits,
        inputs={"teachers": names, "calibrated": False, "name": out.name},
        parents={
            "masks": masks.identity,
            **{f"logits/{name}": read_manifest(logits / name).identity for name in names},
        },
        facts={
            "teachers": names,
            "weighting": "entropy",
            "temperature": 1.0,
            "vocabulary": int(masks.facts["vocabulary"]),
            "keep": keep,
        },
    )


def write_student(
    folder: Path, model: Path, stores: TinyStores, *, targets: str | None = "data/targets/confident"
) -> Path:
    """Make a trained student of a model folder: links to its files, and a training record."""
    folder.mkdir(parents=True)
    for file in model.iterdir():
        (folder / file.name).symlink_to(file)
    parents = {
        "sequences": read_manifest(stores.sequences).identity,
        "masks": read_manifest(stores.masks).identity,
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
