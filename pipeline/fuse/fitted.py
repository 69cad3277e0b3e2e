"""What a fusion fits before it mixes: each teacher's bias ratio and prior, and the gate of learned weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.fuse.debias import debiased, fit_ratio
from pipeline.fuse.gate import EVIDENCE, SCALE_F, Gate, answers, fit_gate, rarity
from pipeline.fuse.params import FusionParams
from pipeline.fuse.sources import Sources
from pipeline.fuse.teacher import Teacher, only_rows
from storage.errors import DataError
from storage.reader import Store
from storage.records.logits import SparseLogits
from storage.records.sequences import Masks

MOST_SHARDS = 64
"""Shards of a split that something is fitted to, evenly spread."""

GATE_POSITIONS = 65536
"""A gate, which has few numbers, is fitted to fewer than twice so many positions of a split, evenly spread."""

RATIO, PRIOR, GATE = "ratio/", "prior/", "gate/"
"""Beginnings of names of arrays."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """Fitted to the true tokens of the train split (ratios, gate) and of the calibration split (priors, gate)."""

    ratios: dict[str, NDArray[np.float64]]
    """Teacher to its ratio [V]; empty without `debias`."""
    log_priors: dict[str, float]
    """Teacher to the natural log of its prior weight; empty unless the prior is `calibration`."""
    gate: Gate | None
    """Of the weighting `learned`."""

    @classmethod
    def nothing(cls) -> Self:
        """What leaves the teachers as their stores have them."""
        return cls(ratios={}, log_priors={}, gate=None)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """By name, as `of_arrays` reads them."""
        arrays: dict[str, NDArray[Any]] = {RATIO + name: ratio for name, ratio in self.ratios.items()}
        arrays |= {PRIOR + name: np.array(log_prior) for name, log_prior in self.log_priors.items()}
        if self.gate is not None:
            arrays |= {GATE + field.name: getattr(self.gate, field.name) for field in fields(Gate)}
        return arrays

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Inverse of `arrays`."""
        gate = {name.removeprefix(GATE): arrays[name] for name in arrays if name.startswith(GATE)}
        return cls(
            ratios={name.removeprefix(RATIO): arrays[name] for name in arrays if name.startswith(RATIO)},
            log_priors={name.removeprefix(PRIOR): float(arrays[name]) for name in arrays if name.startswith(PRIOR)},
            gate=Gate(**gate) if gate else None,
        )

    def applied(self, teachers: Mapping[str, Teacher]) -> list[Teacher]:
        """The teachers with their corrections and priors."""
        weighted = {
            name: replace(teacher, log_prior=self.log_priors.get(name, teacher.log_prior))
            for name, teacher in teachers.items()
        }
        return [
            debiased(teacher, self.ratios[name]) if name in self.ratios else teacher
            for name, teacher in weighted.items()
        ]


def fit(
    params: FusionParams,
    *,
    where: str,
    stores: Mapping[str, Store[SparseLogits]],
    masks: Store[Masks],
    teachers: Mapping[str, Teacher],
    sources: Sources | None,
    log_prior_ST: NDArray[np.float64] | None = None,
) -> Fitted:
    """Fit what the settings ask for; the gate is fitted to corrected teachers, and with their priors.

    log_prior_ST is the settings' prior by source.

    Raises DataError when the gate or the prior has no position to be fitted to.
    """
    ratios = {}
    if params.debias is not None:
        for name, teacher in teachers.items():
            parts = ((stores[name].shard("train", index), label_P) for index, label_P, _ in _labels(masks, "train"))
            rows = _fitted_rows(masks, "train")
            ratios[name] = fit_ratio(parts, teacher, counts=params.debias.counts, rows=rows)
    log_priors = {}
    if params.prior == "calibration":
        nll_T = common_nll(
            (
                [
                    stores[name].shard("calibration", index).gold_logprob_PJ[:, teacher.weight_column]
                    for name, teacher in teachers.items()
                ]
                for index, _, _ in _labels(masks, "calibration")
            ),
            teachers=len(teachers),
        )
        if np.isnan(nll_T).any():
            raise DataError(
                f"{where}.prior: calibration compares teachers at calibration positions that all of them answer, and "
                "there are none. Raise corpus.calibration, or choose another prior"
            )
        log_priors = dict(zip(teachers, (-nll_T).tolist(), strict=True))
    corrected = Fitted(ratios=ratios, log_priors=log_priors, gate=None)
    if params.weighting != "learned":
        return corrected
    assert sources is not None, where
    label_V = np.zeros(next(iter(teachers.values())).vocabulary, np.int64)
    for _, label_P, _ in _labels(masks, "train"):
        label_V += np.bincount(label_P, minlength=len(label_V))
    rarity_V = rarity(label_V)
    given_parts = _gate_parts(stores, masks, sources)
    given = answers(given_parts, corrected.applied(teachers), rarity_V=rarity_V, log_prior_ST=log_prior_ST)
    if not len(given.p_PT) and len(teachers) > 1:
        raise DataError(
            f"{where}.weighting: learned is fitted to train and calibration positions that two teachers answer, and "
            "there are none. Choose weighting entropy or uniform"
        )
    gate = fit_gate(given, sources=len(sources.names), tau=params.tau, rarity_V=rarity_V)
    return Fitted(ratios=ratios, log_priors=log_priors, gate=gate)


def _gate_parts(
    stores: Mapping[str, Store[SparseLogits]], masks: Store[Masks], sources: Sources
) -> Iterator[tuple[list[SparseLogits], NDArray[np.int64], NDArray[np.int64]]]:
    """Rows of all teachers, their true tokens and sources, of the train and of the calibration split.

    The train split has most of the labels. The calibration split is there for a teacher that learned from train text.
    """
    for split in ("train", "calibration"):
        rows = slice(None, None, max(1, _fitted_rows(masks, split) // GATE_POSITIONS))
        for index, label_P, sequence_P in _labels(masks, split):
            records = [only_rows(store.shard(split, index), rows) for store in stores.values()]
            yield records, label_P[rows], sources.of_positions(split, sequence_P[rows])


def common_nll(parts: Iterable[Sequence[NDArray[np.floating]]], *, teachers: int) -> NDArray[np.float64]:
    """Mean NLL [T], nats, of the true tokens at the positions that all teachers answer; NaN where there are none.

    Each part has one array a teacher: log-probabilities of the true tokens of the same rows, NaN without an answer. A
    teacher that answers the easy positions only is compared with the others there, so it gains nothing by its silence.
    """
    total_T, count = np.zeros(teachers), 0
    for part in parts:
        logprob_PT = np.stack(part, axis=1).astype(np.float64)
        all_P = np.isfinite(logprob_PT).all(axis=1)
        total_T -= logprob_PT[all_P].sum(axis=0)
        count += int(all_P.sum())
    return np.asarray(total_T / count) if count else np.full(teachers, np.nan)


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


def _fitted_shards(masks: Store[Masks], split: str) -> list[int]:
    """At most `MOST_SHARDS` shards of a split, evenly spread."""
    shards = masks.plan(split).shards
    spread = np.linspace(0, shards - 1, min(shards, MOST_SHARDS)).round().astype(int)
    return [int(index) for index in np.unique(spread)]


def _fitted_rows(masks: Store[Masks], split: str) -> int:
    """Positions in these shards, about: the last shard of a split may be shorter."""
    plan = masks.plan(split)
    return min(plan.rows, len(_fitted_shards(masks, split)) * plan.shard_rows)


def _labels(masks: Store[Masks], split: str) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """Shards of a split with their true tokens and the sequences that these are in."""
    for index in _fitted_shards(masks, split):
        rows = masks.shard(split, index)
        yield index, rows.label_P.astype(np.int64), rows.sequence_P.astype(np.int64)
