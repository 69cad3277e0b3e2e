"""Fuse the stores of several teachers into one store of targets in the students' vocabulary.

`pipeline.mixing` says what a fused row is. Here stores are opened and checked against one another, each teacher's ids
and tail prior are translated once, and shards are fused: one Dask task each, on threads. The thread that collects them
writes them in the order of the plan, and only a few are in flight, so memory does not grow with the store, and a run
that was killed continues with the shards that are missing.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from pipeline.cards import fusion_provenance
from pipeline.config import Section, nearest
from pipeline.mixing import Teacher, fuse_shard
from pipeline.progress import Progress
from pipeline.vocab import Bridge, bridge, decode_pieces
from pipeline.weighting import Weighting
from storage.card import card_of
from storage.errors import ParamsError, StaleParent, StoreError, VocabularyError
from storage.manifest import Manifest
from storage.reader import Store
from storage.records import FusedTargets, Masks, Sequences, SparseLogits
from storage.writer import Shard, StoreWriter

log = logging.getLogger(__name__)

IN_FLIGHT = 2
"""Shards in memory for each thread: one being fused and one waiting to be written."""

MOST_TEACHERS = 32
"""Which lists an id is in is kept as bits."""


class FusionParams(Section):
    """One entry of `fusions`."""

    teachers: list[str] = Field(min_length=1, max_length=MOST_TEACHERS)
    weighting: Weighting
    tau: float = Field(gt=0)
    """Temperature of the weights, nats."""
    calibrated: bool
    """Take each teacher at its fitted temperature (times `temperature`), not as it answered."""
    prior: Literal["equal", "calibration"] | dict[str, float]
    """Of the teachers: equal, exp(-NLL on the calibration split), or a number each; it multiplies the weights."""
    temperature: float = Field(gt=0)
    """Of the targets; one that the teachers' statistics were kept at."""
    keep: int = Field(ge=1, le=1024)
    """M, entries kept a prediction."""

    @field_validator("teachers")
    @classmethod
    def _distinct(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError("names a teacher twice")
        return value

    @field_validator("prior", mode="before")
    @classmethod
    def _known_prior(cls, value: Any) -> Any:
        numbers = isinstance(value, dict) and all(
            isinstance(number, int | float) and not isinstance(number, bool) and 0 < number < math.inf
            for number in value.values()
        )
        if not numbers and value not in ("equal", "calibration"):
            raise ValueError("must be equal, calibration, or a positive number for each teacher")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.calibrated and self.temperature != 1:
            raise ValueError(
                f"temperature must be 1.0 when calibrated is false, got {self.temperature}: statistics at other "
                "temperatures are those of calibrated teachers"
            )
        if isinstance(self.prior, dict):
            for name in self.prior:
                if name not in self.teachers:
                    raise ValueError(f"prior names '{name}', no teacher of this fusion{nearest(name, self.teachers)}")
            for name in self.teachers:
                if name not in self.prior:
                    raise ValueError(f"prior has no number for teacher '{name}'")
        return self


def fuse(
    params: FusionParams,
    *,
    sequences: Path,
    masks: Path,
    logits: Path,
    out: Path,
    declared: Collection[str],
    threads: int,
) -> Manifest:
    """Write the fused targets of one fusion to `out`, whose name is the fusion's.

    logits is the folder of the teachers' stores, declared the names of all teachers in params.yaml. Raises ParamsError
    for an unknown teacher or a temperature that was not kept, StoreError for a teacher's folder that params.yaml no
    longer names, StaleParent for a teacher that answered other masks, VocabularyError when nothing can be translated.
    """
    where = f"fusions.{out.name}"
    for name in params.teachers:
        if name not in declared:
            raise ParamsError(f"{where}.teachers: no entry '{name}' in teachers{nearest(name, declared)}")
    _refuse_undeclared(logits, declared)
    blanks = Store(masks, Masks)
    blanks.require_parent("sequences", text := Store(sequences, Sequences))
    stores = {name: _open_teacher(logits / name, blanks) for name in params.teachers}
    columns = {name: _columns(params, store, where) for name, store in stores.items()}
    student = decode_pieces(text.constant("pieces_utf8"))
    bridges = {name: bridge(decode_pieces(store.constant("pieces_utf8")), student) for name, store in stores.items()}
    teachers = [
        _teacher(params, stores[name], bridges[name], columns[name], vocabulary=len(student))
        for name in params.teachers
    ]
    bias_TV = np.stack([teacher.bias_V1[:-1] for teacher in teachers])
    sketch = max(teacher.sketch for teacher in teachers)
    writer = StoreWriter(
        out,
        FusedTargets,
        specs=FusedTargets.specs(keep=params.keep, teachers=len(teachers), sketch=sketch, vocabulary=len(student)),
        splits=blanks.manifest.splits,
        inputs=params.model_dump(),
        parents={"masks": blanks.identity, **{f"logits/{name}": store.identity for name, store in stores.items()}},
        constants={"order_V": np.argsort(-np.exp(bias_TV).sum(axis=0), kind="stable").astype(np.uint32)},
    )

    def work(shard: Shard) -> FusedTargets:
        records = [store.shard(shard.split, shard.index) for store in stores.values()]
        return fuse_shard(records, teachers, keep=params.keep, weighting=params.weighting, tau=params.tau)

    with writer:
        for shard, targets in _on_threads(work, writer, threads=threads):
            writer.write(shard, targets, sidecar={"sums": _sums(targets)})
        return writer.seal(
            facts={
                "teachers": params.teachers,
                "weighting": params.weighting,
                "temperature": params.temperature,
                "vocabulary": len(student),
                "keep": params.keep,
                "bridges": {name: found.coverage for name, found in bridges.items()},
                **_weight_facts(writer, params.teachers),
                "provenance": fusion_provenance({name: store.manifest for name, store in stores.items()}),
            },
            constants={"tail_bias_TV": bias_TV, **_bases(teachers, sketch)},
            card=card_of,
        )


def _refuse_undeclared(logits: Path, declared: Collection[str]) -> None:
    """A teacher that was taken out of params.yaml leaves its folder, which DVC would go on counting as an input."""
    for folder in sorted(logits.glob("[!.]*/")):
        if folder.name not in declared:
            raise StoreError(
                f"{folder}: the store of a teacher that params.yaml does not name{nearest(folder.name, declared)}. "
                "Run: python -m stages.prune --yes"
            )


def _open_teacher(path: Path, masks: Store[Masks]) -> Store[SparseLogits]:
    store = Store(path, SparseLogits)
    store.require_parent("masks", masks)
    if store.manifest.splits != masks.manifest.splits:
        raise StaleParent(f"{path}: other shards than {masks.path}. {store.remedy}")
    return store


def _bases(teachers: Sequence[Teacher], sketch: int) -> dict[str, NDArray[Any]]:
    """The teachers' bases as one constant, zeros where one has fewer coordinates; none where nobody has any."""
    if not sketch:
        return {}
    basis_TDV = np.zeros((len(teachers), sketch, teachers[0].vocabulary), np.float16)
    for t, teacher in enumerate(teachers):
        basis_TDV[t, : teacher.sketch] = teacher.basis_V1D[:-1].T
    return {"tail_basis_TDV": basis_TDV}


def _columns(params: FusionParams, store: Store[SparseLogits], where: str) -> tuple[int, int]:
    """Columns of the statistics for targets and for weights: 0 is raw, 1 + i calibrated times the i-th listed."""
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
    params: FusionParams, store: Store[SparseLogits], found: Bridge, columns: tuple[int, int], *, vocabulary: int
) -> Teacher:
    """Translate one teacher's ids and tail, and read its temperatures and its prior weight."""
    column, weight_column = columns
    name = store.path.name
    bias_V = store.constant("tail_bias_JV")[column].astype(np.float64)
    basis_DV = np.zeros((0, len(bias_V)))
    if "sketch_PD" in store.manifest.arrays:
        basis_DV = store.constant("tail_basis_DV").astype(np.float64)
    matched_V = found.to_student_V >= 0
    if not matched_V.any():
        raise VocabularyError(
            f"{store.path}: none of its {len(bias_V)} pieces has a counterpart among the students' {vocabulary}. "
            f"Take {name} out of the fusion, or choose a students' tokenizer that shares words with it"
        )
    share = np.exp(bias_V[matched_V]).sum() / np.exp(bias_V).sum()
    log.info("%s: %s pieces, %.2f %% of its tail matched", name, found.coverage, 100 * share)
    log_prior = 0.0
    if params.prior == "calibration":
        log_prior = -float(store.facts["calibration"]["nll" if params.calibrated else "nll_raw"])
    elif isinstance(params.prior, dict):
        log_prior = math.log(params.prior[name])
    temperatures: list[float] = store.facts["temperatures"]
    return Teacher.of(
        found.to_student_V,
        bias_V,
        basis_DV,
        vocabulary=vocabulary,
        column=column,
        temperature=temperatures[column],
        weight_column=weight_column,
        weight_temperature=temperatures[weight_column],
        log_prior=log_prior,
    )


def _on_threads(work: Any, writer: StoreWriter, *, threads: int) -> Iterator[tuple[Shard, FusedTargets]]:
    """Missing shards with what `work` makes of them, in order; at most IN_FLIGHT a thread are in memory."""
    from dask.base import compute
    from dask.delayed import delayed

    missing = list(writer.missing())
    rows = sum(plan.rows for plan in writer.splits.values())
    left = sum(shard.stop - shard.start for shard in missing)
    with Progress(rows, unit="predictions", label=f"fuse {writer.work.out.name}", done=rows - left) as progress:
        for start in range(0, len(missing), IN_FLIGHT * threads):
            window = missing[start : start + IN_FLIGHT * threads]
            made = compute(  # type: ignore[no-untyped-call]
                *(delayed(work)(shard) for shard in window), scheduler="threads", num_workers=threads
            )
            for shard, targets in zip(window, made, strict=True):
                yield shard, targets
                progress.advance(len(targets))


def _sums(targets: FusedTargets) -> NDArray[np.float64]:
    """Over the rows some teacher answered: their number, the entropy of their weights, each teacher's weight."""
    weight_PT = targets.weight_PT[targets.covered_P()].astype(np.float64)
    logs_PT = np.log(weight_PT, out=np.zeros_like(weight_PT), where=weight_PT > 0)
    return np.concatenate([[len(weight_PT), -(weight_PT * logs_PT).sum()], weight_PT.sum(axis=0)])


def _weight_facts(writer: StoreWriter, teachers: list[str]) -> dict[str, Mapping[str, Any]]:
    """Share of predictions some teacher answered; over these, mean entropy of the weights and mean weight, by split."""
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
