"""What a fusion fits before it mixes: each teacher's bias ratio, and the gate of learned weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.fuse.debias import debiased, fit_ratio
from pipeline.fuse.gate import EVIDENCE, SCALE_F, Gate, answers, fit_gate, rarity
from pipeline.fuse.params import FusionParams
from pipeline.fuse.sources import Sources
from pipeline.fuse.teacher import Teacher
from storage.errors import DataError
from storage.reader import Store
from storage.records.logits import SparseLogits
from storage.records.sequences import Masks

MOST_SHARDS = 64
"""Shards of a split that something is fitted to, evenly spread."""

RATIO, GATE = "ratio/", "gate/"
"""Beginnings of names of arrays."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """Fitted to the true tokens of the train split (ratios) and of the calibration split (gate)."""

    ratios: dict[str, NDArray[np.float64]]
    """Teacher to its ratio [V]; empty without `debias`."""
    gate: Gate | None
    """Of the weighting `learned`."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """By name, as `of_arrays` reads them."""
        arrays = {RATIO + name: ratio for name, ratio in self.ratios.items()}
        if self.gate is not None:
            arrays |= {GATE + field.name: getattr(self.gate, field.name) for field in fields(Gate)}
        return arrays

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Inverse of `arrays`."""
        gate = {name.removeprefix(GATE): arrays[name] for name in arrays if name.startswith(GATE)}
        return cls(
            ratios={name.removeprefix(RATIO): arrays[name] for name in arrays if name.startswith(RATIO)},
            gate=Gate(**gate) if gate else None,
        )

    def applied(self, teachers: Mapping[str, Teacher]) -> list[Teacher]:
        """The teachers with their corrections."""
        return [
            debiased(teacher, self.ratios[name]) if name in self.ratios else teacher
            for name, teacher in teachers.items()
        ]


def fit(
    params: FusionParams,
    *,
    where: str,
    stores: Mapping[str, Store[SparseLogits]],
    masks: Store[Masks],
    teachers: Mapping[str, Teacher],
    sources: Sources | None,
) -> Fitted:
    """Fit what the settings ask for; the gate is fitted to corrected teachers.

    Raises DataError when the gate has no position to be fitted to.
    """
    ratios = {}
    if params.debias is not None:
        for name, teacher in teachers.items():
            parts = ((stores[name].shard("train", index), label_P) for index, label_P, _ in _labels(masks, "train"))
            rows = masks.plan("train").rows
            ratios[name] = fit_ratio(parts, teacher, counts=params.debias.counts, rows=rows)
    corrected = Fitted(ratios=ratios, gate=None)
    if params.weighting != "learned":
        return corrected
    assert sources is not None, where
    label_V = np.zeros(next(iter(teachers.values())).vocabulary, np.int64)
    for _, label_P, _ in _labels(masks, "train"):
        label_V += np.bincount(label_P, minlength=len(label_V))
    rarity_V = rarity(label_V)
    given = answers(
        (
            (
                [store.shard("calibration", index) for store in stores.values()],
                label_P,
                sources.of_positions("calibration", sequence_P),
            )
            for index, label_P, sequence_P in _labels(masks, "calibration")
        ),
        corrected.applied(teachers),
        rarity_V=rarity_V,
    )
    if not len(given.p_PT) and len(teachers) > 1:
        raise DataError(
            f"{where}.weighting: learned is fitted to calibration positions that two teachers answer, and there are "
            "none. Raise corpus.calibration, or choose weighting entropy"
        )
    gate = fit_gate(given, sources=len(sources.names), tau=params.tau, rarity_V=rarity_V)
    return Fitted(ratios=ratios, gate=gate)


def gate_facts(gate: Gate | None, teachers: list[str], sources: Sources | None) -> dict[str, Any]:
    """The fact `gate`: a score is the sum of slopes times evidence, of the teacher's number and of the source's."""
    if gate is None or sources is None:
        return {}
    fitted_S = np.flatnonzero(gate.source_ST.any(axis=1)).tolist()
    return {
        "gate": {
            "slopes": dict(zip(EVIDENCE, (gate.slope_F / SCALE_F).tolist(), strict=True)),
            "teachers": dict(zip(teachers, gate.teacher_T.tolist(), strict=True)),
            "sources": {
                sources.names[number]: dict(zip(teachers, gate.source_ST[number].tolist(), strict=True))
                for number in fitted_S
            },
        }
    }


def _labels(masks: Store[Masks], split: str) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """Shards of a split with their true tokens and the sequences that these are in."""
    shards = masks.plan(split).shards
    for index in np.unique(np.linspace(0, shards - 1, min(shards, MOST_SHARDS)).round().astype(int)).tolist():
        rows = masks.shard(split, index)
        yield index, rows.label_P.astype(np.int64), rows.sequence_P.astype(np.int64)
