"""Fuse the stores of several teachers into one store of targets in the students' vocabulary.

`pipeline.fuse.mixture` defines a fused row. Here stores are opened and checked against one another, each teacher's ids
and tail prior are translated once a process, and shards are fused, each as one task (`pipeline.executor.base`). A
thread or worker fuses and writes one shard at a time, so memory does not grow with the store. A run that was killed
continues with the missing shards.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.config import nearest
from pipeline.executor.base import Executor, LocalExecutor
from pipeline.fuse.fitted import Fitted, gate_facts
from pipeline.fuse.job import FITTED, FuseJob, fit_once, open_teacher
from pipeline.fuse.params import FusionParams
from pipeline.fuse.teacher import Teacher
from pipeline.models.provenance import fusion_provenance
from pipeline.text.corpus_view import MaskedSequences
from storage.errors import ParamsError, StoreError
from storage.format.manifest import Manifest
from storage.records.targets import FusedTargets
from storage.share.card import card_of
from storage.work import Workspace
from storage.writer import StoreWriter

log = logging.getLogger(__name__)

COMMON_PRIOR = "prior_of_common_positions"
"""In the inputs of a store whose prior is `calibration`: older ones compared teachers at different positions."""

GATE_SPLITS = "gate_fitted_to"
"""In the inputs of a store whose weighting is `learned`: the gates of older ones knew the calibration split alone."""

GATE_PRIOR = "gate_fitted_with_prior"
"""In the inputs of a store whose weighting is `learned` beside a prior: the gates of older ones did not know it."""

PLAIN_TAILS = "plain_tails_corrected"
"""In the inputs of a store with `debias` and a teacher without coordinates: older ones spread its tails wrongly."""


def fuse(
    params: FusionParams,
    corpus: MaskedSequences,
    *,
    logits: Path,
    out: Path,
    declared: Collection[str],
    documents: Path | None = None,
    executor: Executor | None = None,
    workspace: Workspace = Workspace(),
) -> Manifest:
    """Write the fused targets of one fusion to `out`, whose name is the fusion's.

    `executor` does the work, by default one thread of this process. logits is the folder of the teachers'
    stores, declared the names of all teachers in params.yaml. documents is opened only where the weights depend on the
    sources of documents. Raises ParamsError for an unknown teacher, a temperature that has no statistics or a source
    that no document has, StoreMissing without a store that is needed, StoreError for a teacher's folder that
    params.yaml no longer names, StaleParent for a teacher that answered other masks, VocabularyError when no token of a
    teacher has a counterpart, DataError when nothing is there that learned weights could be fitted to.
    """
    where = f"fusions.{out.name}"
    for name in params.teachers:
        if name not in declared:
            raise ParamsError(f"{where}.teachers: no entry '{name}' in teachers{nearest(name, declared)}")
    _refuse_undeclared(logits, declared)
    job = FuseJob(
        params=params,
        name=out.name,
        sequences=corpus.sequences.path,
        masks=corpus.masks.path,
        logits=logits,
        identities=(
            corpus.masks.identity,
            *(open_teacher(logits / name, corpus.masks).identity for name in params.teachers),
        ),
        documents=documents,
    )
    with (
        nullcontext(executor) if executor is not None else LocalExecutor() as active_executor,
        active_executor.resources.opened(job) as mixer,
    ):
        stores, teachers = mixer.stores, mixer.teachers
        constants = tail_constants(teachers)
        tail_rank = max(teacher.tail_rank for teacher in teachers)
        vocabulary = teachers[0].vocabulary
        writer = StoreWriter(
            out,
            FusedTargets,
            specs=FusedTargets.specs(keep=params.keep, teachers=len(teachers), rank=tail_rank, vocabulary=vocabulary),
            splits=corpus.masks.manifest.splits,
            inputs=params.model_dump() | _method(params, teachers),
            parents={
                "masks": corpus.masks.identity,
                **{f"logits/{name}": store.identity for name, store in stores.items()},
                **({} if mixer.sources is None else {"documents": mixer.sources.identity}),
            },
            workspace=workspace,
            constants={
                "order_V": np.argsort(-np.exp(constants["tail_bias_TV"]).sum(axis=0), kind="stable").astype(np.uint32)
            },
        )
        with writer:
            fitted = Fitted.nothing()
            if params.is_fitted:
                unfitted = job  # a name of its own: `job` is bound again below
                fitted = Fitted.of_arrays(
                    writer.remember_arrays(FITTED, lambda: active_executor.once(unfitted, fit_once))
                )
                job = replace(job, fitted=writer.arrays_file(FITTED))
                constants = tail_constants(fitted.applied(dict(zip(params.teachers, teachers, strict=True))))
            active_executor.shards(job, writer, label=f"fuse {out.name}")
            return writer.seal(
                facts={
                    "teachers": params.teachers,
                    "weighting": params.weighting,
                    "temperature": params.temperature,
                    "vocabulary": vocabulary,
                    "keep": params.keep,
                    "bridges": mixer.coverage,
                    **_weight_facts(writer, params.teachers),
                    **gate_facts(fitted.gate, params.teachers, mixer.sources),
                    "provenance": fusion_provenance({name: store.manifest for name, store in stores.items()}),
                },
                constants=constants,
                card=card_of,
            )


def _method(params: FusionParams, teachers: Sequence[Teacher]) -> dict[str, Any]:
    """What tells a store from one that an older method made with the same settings."""
    learned = params.weighting == "learned"
    markers: dict[str, tuple[bool, Any]] = {
        COMMON_PRIOR: (params.prior == "calibration", True),
        GATE_SPLITS: (learned, ["train", "calibration"]),
        GATE_PRIOR: (learned and params.prior != "equal", True),
        PLAIN_TAILS: (params.debias is not None and any(teacher.tail_rank == 0 for teacher in teachers), True),
    }
    return {name: value for name, (holds, value) in markers.items() if holds}


def _refuse_undeclared(logits: Path, declared: Collection[str]) -> None:
    """Refuse the folder of a teacher that is no longer in params.yaml: DVC would go on hashing it as an input."""
    for folder in sorted(logits.glob("[!.]*/")):
        if folder.name not in declared:
            raise StoreError(
                f"{folder}: the store of a teacher that params.yaml does not name{nearest(folder.name, declared)}. "
                "Run: cohesive prune --yes"
            )


def tail_constants(teachers: Sequence[Teacher]) -> dict[str, NDArray[Any]]:
    """The constants that restore tails: `tail_bias_TV` float32 and, where some teacher has coordinates, the bases.

    `tail_basis_TDV` is float16, with zeros where a teacher has fewer coordinates than another.
    """
    constants: dict[str, NDArray[Any]] = {"tail_bias_TV": np.stack([teacher.bias_V1[:-1] for teacher in teachers])}
    if tail_rank := max(teacher.tail_rank for teacher in teachers):
        basis_TDV = np.zeros((len(teachers), tail_rank, teachers[0].vocabulary), np.float16)
        for t, teacher in enumerate(teachers):
            basis_TDV[t, : teacher.tail_rank] = teacher.basis_V1D[:-1].T
        constants["tail_basis_TDV"] = basis_TDV
    return constants


def _weight_facts(writer: StoreWriter, teachers: list[str]) -> dict[str, Mapping[str, Any]]:
    """By split: share of predictions that some teacher answered; over these, the weights' mean entropy and means."""
    coverage: dict[str, float] = {}
    entropy: dict[str, float] = {}
    weight: dict[str, dict[str, float]] = {name: {} for name in teachers}
    for split, plan in writer.splits.items():
        count, entropy_sum, *weight_sums = sum(
            writer.sidecars("sums", split), start=np.zeros(2 + len(teachers))
        ).tolist()
        coverage[split] = count / max(1, plan.rows)
        entropy[split] = entropy_sum / max(1, count)
        for name, total in zip(teachers, weight_sums, strict=True):
            weight[name][split] = total / max(1, count)
    return {"coverage": coverage, "weight_entropy": entropy, "mean_weight": weight}
