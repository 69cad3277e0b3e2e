"""The shard job of a fusion: opens the teachers' stores, translates their ids, and fuses shards, in any process."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.fuse.debias import MOST_SHARDS, debiased, fit_ratio
from pipeline.fuse.mixture import Teacher, fuse_shard
from pipeline.text.vocabulary import Bridge, bridge, decode_tokens
from storage.errors import ParamsError, StaleParent, VocabularyError
from storage.reader import Store
from storage.records.logits import SparseLogits
from storage.records.sequences import Masks, Sequences
from storage.records.targets import FusedTargets
from storage.writer import Shard

if TYPE_CHECKING:
    from pipeline.fuse.params import FusionParams


log = logging.getLogger(__name__)

FITTED = "debias"
"""Name under which the driver remembers the ratios that were fitted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixer:
    """Opened teachers of a fusion, in its order."""

    stores: dict[str, Store[SparseLogits]]
    masks: Store[Masks]
    teachers: list[Teacher]
    coverage: dict[str, Any]
    """By teacher, how many of its tokens have a counterpart, by kind of match."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FuseJob:
    """What a process needs to fuse shards; it opens the stores and translates ids itself."""

    params: FusionParams
    name: str
    sequences: Path
    masks: Path
    logits: Path
    identities: tuple[str, ...]
    """Of the masks and of the teachers' stores that the driver opened."""
    fitted: Path | None = None
    """Where the driver keeps the ratios from `fit`; None before, and where nothing is fitted."""

    @property
    def key(self) -> str:
        """Of settings and stores: equal when they are."""
        return f"fuse {self.params!r} {self.identities} {self.fitted}"

    def with_absolute_paths(self) -> FuseJob:
        """The job for a process that is in another folder."""
        return replace(
            self,
            sequences=self.sequences.absolute(),
            masks=self.masks.absolute(),
            logits=self.logits.absolute(),
            fitted=None if self.fitted is None else self.fitted.absolute(),
        )

    @contextmanager
    def opened(self) -> Iterator[Mixer]:
        """Open and check everything; raises as `fuse` does, and StaleParent for stores the driver does not have."""
        where = f"fusions.{self.name}"
        mask_store = Store(self.masks, Masks)
        mask_store.require_parent("sequences", text := Store(self.sequences, Sequences))
        stores = {name: open_teacher(self.logits / name, mask_store) for name in self.params.teachers}
        if (mask_store.identity, *(store.identity for store in stores.values())) != self.identities:
            raise StaleParent(f"{self.logits}: other stores than the driver has there. Share one file system")
        columns = {name: _columns(self.params, store, where) for name, store in stores.items()}
        student = decode_tokens(text.constant("pieces_utf8"))
        bridges = {
            name: bridge(decode_tokens(store.constant("pieces_utf8")), student) for name, store in stores.items()
        }
        teachers = [
            _teacher(self.params, stores[name], bridges[name], columns[name], vocabulary=len(student))
            for name in self.params.teachers
        ]
        if self.fitted is not None:
            with np.load(self.fitted, allow_pickle=False) as held:
                teachers = [
                    debiased(teacher, held[name]) for name, teacher in zip(self.params.teachers, teachers, strict=True)
                ]
        yield Mixer(
            stores=stores,
            masks=mask_store,
            teachers=teachers,
            coverage={name: own_bridge.coverage for name, own_bridge in bridges.items()},
        )

    def make(
        self, mixer: Mixer, shard: Shard, *, advance: Callable[[int], None]
    ) -> tuple[FusedTargets, dict[str, NDArray[Any]]]:
        """The fused rows of a shard."""
        records = [store.shard(shard.split, shard.index) for store in mixer.stores.values()]
        targets = fuse_shard(
            records,
            mixer.teachers,
            keep=self.params.keep,
            weighting=self.params.weighting,
            tau=self.params.tau,
            label_P=mixer.masks.shard(shard.split, shard.index).label_P.astype(np.int64),
        )
        advance(len(targets))
        return targets, {"sums": _sums(targets)}


def fit(job: FuseJob, mixer: Mixer) -> dict[str, NDArray[Any]]:
    """The ratio [V] of each teacher by its name, from train shards, evenly spread."""
    assert job.params.debias is not None
    shards = mixer.masks.plan("train").shards
    chosen = np.unique(np.linspace(0, shards - 1, min(shards, MOST_SHARDS)).round().astype(int)).tolist()
    return {
        name: fit_ratio(
            (
                (store.shard("train", index), mixer.masks.shard("train", index).label_P.astype(np.int64))
                for index in chosen
            ),
            teacher,
            counts=job.params.debias.counts,
        )
        for (name, store), teacher in zip(mixer.stores.items(), mixer.teachers, strict=True)
    }


def open_teacher(path: Path, masks: Store[Masks]) -> Store[SparseLogits]:
    """The store of a teacher; raises StaleParent when it has other masked positions than `masks`."""
    store = Store(path, SparseLogits)
    store.require_parent("masks", masks)
    if store.manifest.splits != masks.manifest.splits:
        raise StaleParent(f"{path}: other shards than {masks.path}. {store.remedy}")
    return store


def _columns(params: FusionParams, store: Store[SparseLogits], where: str) -> tuple[int, int]:
    """Columns of the statistics for targets and for weights: 0 is raw, 1 + i is calibrated times `listed[i]`."""
    if store.facts["keep"].get("draws") and not (params.calibrated and params.temperature == 1):
        raise ParamsError(
            f"{where}: {store.path} holds draws, which stand for the calibrated temperature alone; expected "
            f"calibrated: true and temperature: 1.0. Set these, or another form in teachers.{store.path.name}.keep"
        )
    if not params.calibrated:
        return 0, 0
    listed: list[float] = store.facts["listed"]
    if params.temperature not in listed:
        raise ParamsError(
            f"{where}.temperature: {store.path} has statistics at {', '.join(map(str, listed))}, got "
            f"{params.temperature}. Choose one of these, or add it to teachers.{store.path.name}.temperatures"
        )
    return 1 + listed.index(params.temperature), 1 + listed.index(1.0)


def _teacher(
    params: FusionParams, store: Store[SparseLogits], own_bridge: Bridge, columns: tuple[int, int], *, vocabulary: int
) -> Teacher:
    """Translate one teacher's ids and tail, and read its temperatures and its prior weight."""
    column, weight_column = columns
    name = store.path.name
    bias_V = store.constant("tail_bias_JV")[column].astype(np.float64)
    basis_DV = np.zeros((0, len(bias_V)))
    if "sketch_PD" in store.manifest.arrays:
        basis_DV = store.constant("tail_basis_DV").astype(np.float64)
    matched_V = own_bridge.to_student_V >= 0
    if not matched_V.any():
        raise VocabularyError(
            f"{store.path}: none of its {len(bias_V)} tokens has a counterpart among the students' {vocabulary}. "
            f"Take {name} out of the fusion, or choose a students' tokenizer that shares words with it"
        )
    share = np.exp(bias_V[matched_V]).sum() / np.exp(bias_V).sum()
    log.info("%s: %s tokens, %.2f %% of its tail matched", name, own_bridge.coverage, 100 * share)
    log_prior = 0.0
    if params.prior == "calibration":
        log_prior = -float(store.facts["calibration"]["nll" if params.calibrated else "nll_raw"])
    elif isinstance(params.prior, dict):
        log_prior = math.log(params.prior[name])
    temperatures: list[float] = store.facts["temperatures"]
    return Teacher.of(
        own_bridge.to_student_V,
        bias_V,
        basis_DV,
        vocabulary=vocabulary,
        column=column,
        temperature=temperatures[column],
        weight_column=weight_column,
        log_prior=log_prior,
    )


def _sums(targets: FusedTargets) -> NDArray[np.float64]:
    """Over the rows some teacher answered: their number, the entropy of their weights, each teacher's weight."""
    weight_PT = targets.weight_PT[targets.covered_P()].astype(np.float64)
    logs_PT = np.log(weight_PT, out=np.zeros_like(weight_PT), where=weight_PT > 0)
    return np.concatenate([[len(weight_PT), -(weight_PT * logs_PT).sum()], weight_PT.sum(axis=0)])
