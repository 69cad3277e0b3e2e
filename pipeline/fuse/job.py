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

from pipeline.fuse.fitted import Fitted, fit
from pipeline.fuse.gate import Gate
from pipeline.fuse.mixture import fuse_shard
from pipeline.fuse.sources import Sources, log_prior_by_source, open_documents, read_sources
from pipeline.fuse.teacher import Teacher
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

FITTED = "fitted"
"""Name under which the driver remembers what was fitted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixer:
    """Opened teachers of a fusion, in its order."""

    stores: dict[str, Store[SparseLogits]]
    masks: Store[Masks]
    teachers: list[Teacher]
    coverage: dict[str, Any]
    """By teacher, how many of its tokens have a counterpart, by kind of match."""
    sources: Sources | None
    """Where the weights depend on them."""
    log_prior_ST: NDArray[np.float64] | None
    """The settings' prior by source."""
    gate: Gate | None


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
    documents: Path | None = None
    """Opened where the weights depend on the sources of documents."""
    fitted: Path | None = None
    """Where the driver keeps what `fit_once` gave; None before, and where nothing is fitted."""

    @property
    def where(self) -> str:
        """The path of its settings."""
        return f"fusions.{self.name}"

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
            documents=None if self.documents is None else self.documents.absolute(),
            fitted=None if self.fitted is None else self.fitted.absolute(),
        )

    @contextmanager
    def opened(self) -> Iterator[Mixer]:
        """Open and check everything; raises as `fuse` does, and StaleParent for stores the driver does not have."""
        mask_store = Store(self.masks, Masks)
        mask_store.require_parent("sequences", text := Store(self.sequences, Sequences))
        stores = {name: open_teacher(self.logits / name, mask_store) for name in self.params.teachers}
        if (mask_store.identity, *(store.identity for store in stores.values())) != self.identities:
            raise StaleParent(f"{self.logits}: other stores than the driver has there. Share one file system")
        columns = {name: _columns(self.params, store, self.where) for name, store in stores.items()}
        student = decode_tokens(text.constant("pieces_utf8"))
        bridges = {
            name: bridge(decode_tokens(store.constant("pieces_utf8")), student) for name, store in stores.items()
        }
        teachers = {
            name: _teacher(self.params, store, bridges[name], columns[name], vocabulary=len(student))
            for name, store in stores.items()
        }
        sources, log_prior_ST = None, None
        if why := self.params.reads_sources:
            sources = read_sources(open_documents(self.documents, where=self.where, why=why), text)
            log_prior_ST = log_prior_by_source(
                self.params.by_source, sources.names, self.params.teachers, where=f"{self.where}.prior.by_source"
            )
        fitted = Fitted.nothing()
        if self.fitted is not None:
            with np.load(self.fitted, allow_pickle=False) as held:
                fitted = Fitted.of_arrays(held)
        yield Mixer(
            stores=stores,
            masks=mask_store,
            teachers=fitted.applied(teachers),
            coverage={name: own_bridge.coverage for name, own_bridge in bridges.items()},
            sources=sources,
            log_prior_ST=log_prior_ST,
            gate=fitted.gate,
        )

    def make(
        self, mixer: Mixer, shard: Shard, *, advance: Callable[[int], None]
    ) -> tuple[FusedTargets, dict[str, NDArray[Any]]]:
        """The fused rows of a shard."""
        masks = mixer.masks.shard(shard.split, shard.index)
        source_P = None if mixer.sources is None else mixer.sources.of_positions(shard.split, masks.sequence_P)
        targets = fuse_shard(
            [store.shard(shard.split, shard.index) for store in mixer.stores.values()],
            mixer.teachers,
            keep=self.params.keep,
            weighting=self.params.weighting,
            tau=self.params.tau,
            label_P=masks.label_P.astype(np.int64),
            log_prior_PT=None if mixer.log_prior_ST is None else mixer.log_prior_ST[source_P],
            gate=mixer.gate,
            source_P=source_P,
        )
        advance(len(targets))
        return targets, {"sums": _sums(targets)}


def fit_once(job: FuseJob, mixer: Mixer) -> dict[str, NDArray[Any]]:
    """The arrays of what is fitted before any shard is made; `mixer` has the teachers as their stores have them."""
    fitted = fit(
        job.params,
        where=job.where,
        stores=mixer.stores,
        masks=mixer.masks,
        teachers=dict(zip(job.params.teachers, mixer.teachers, strict=True)),
        sources=mixer.sources,
        log_prior_ST=mixer.log_prior_ST,
    )
    return fitted.arrays()


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
    if params.debias is not None and store.facts["keep"].get("draws"):
        raise ParamsError(
            f"{where}.debias: a corrected row is divided by the sum of what it holds, and {store.path} holds draws, "
            "which would then no longer be unbiased. Leave debias out, or choose another form in "
            f"teachers.{store.path.name}.keep"
        )
    if params.weighting == "learned" and store.facts["keep"].get("draws"):
        raise ParamsError(
            f"{where}.weighting: learned reads which tokens are likely, and {store.path} holds draws, which would then "
            f"no longer be unbiased. Choose another weighting, or another form in teachers.{store.path.name}.keep"
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
    matches = ", ".join(f"{count} {kind}" for kind, count in own_bridge.coverage.items())
    log.info("%s: its tokens among the students': %s; %.2f %% of its tail matched", name, matches, 100 * share)
    log_prior = math.log(params.by_teacher[name]) if params.by_teacher else 0.0
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
