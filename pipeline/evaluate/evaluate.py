"""Evaluate one teacher, fusion or student on the held-out split: a report with numbers, intervals and costs.

All are evaluated at the same masked positions; the report says how many of them a teacher or fusion covers. Stores that
do not belong together are refused before anything is computed. A student runs in float32 whatever the hardware offers:
the numbers do not depend on the machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.runtime import Runtime
from pipeline.evaluate.bootstrap import Means, calibration_error, mean_intervals
from pipeline.evaluate.heldout import Heldout
from pipeline.evaluate.params import EvaluateParams
from pipeline.evaluate.predictions import (
    UNRANKED,
    Predictions,
    Reference,
    StoredTeacher,
    fusion_predictions,
    kl_to_teacher,
    restored_fusion_nll,
    restored_teacher_nll,
    student_predictions,
    teacher_predictions,
)
from pipeline.evaluate.results import FROM_LABELS, DocumentSums, training_record, write_json, write_sums
from pipeline.evaluate.top_tokens import (
    SUFFIX,
    StudentTops,
    TopTokens,
    fusion_tops,
    teacher_tops,
    write_top_tokens,
)
from pipeline.sparse.restore import Restored, RestoredTargets
from pipeline.text.places import PLACES, place_of_each
from pipeline.text.vocabulary import bridge, decode_tokens
from storage.errors import VocabularyError
from storage.reader import Store
from storage.records.base import HELDOUT
from storage.records.logits import SparseLogits
from storage.records.targets import FusedTargets

SOURCES = 12
"""Sources of text whose mean weights are reported: those with most masked positions."""

Quantities = dict[str, tuple[NDArray[Any], NDArray[np.bool_]]]
"""Values [P] and where they are defined [P], by name."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The outcome of one evaluation."""

    report: dict[str, Any]
    sums: DocumentSums
    top: TopTokens

    def write(self, out: Path) -> str:
        """Write the report to `out` (.json); beside it the documents' sums (.arrow) and top tokens (.top.arrow).

        Returns the report's SHA-256.
        """
        write_sums(out.with_suffix(".arrow"), self.sums)
        write_top_tokens(out.with_suffix(SUFFIX), self.top)
        return write_json(out, self.report)


def evaluate_teacher(params: EvaluateParams, heldout: Heldout, *, logits: Path) -> Evaluation:
    """Evaluate a teacher at temperature 1, and its loss and calibration at the fitted temperature.

    `nll_restored` is its loss at the fitted temperature under the distributions restored from its store, which a
    student learns from.
    """
    store, teacher = _open_teacher(logits, heldout)
    label_P = heldout.masked.label_P
    predictions, calibrated = teacher_predictions(teacher, label_P), teacher_predictions(teacher, label_P, column=1)
    reference = fusion_predictions(_open_fusion(Path(params.against), heldout)[1], label_P)
    extra = {
        "nll_calibrated": (calibrated.nll_P, calibrated.covered_P),
        **_restored(restored_teacher_nll(teacher, label_P, column=1), calibrated),
    }
    report, sums = _measure(params, heldout, predictions, against=reference, listed=_least(store), extra=extra)
    report |= {
        "ece_calibrated": _calibration(params, heldout, calibrated)["ece"],
        "temperature": teacher.restored.temperatures[1],
        "parameters": store.facts["parameters"],
        "coverage_by_place": coverage_by_place(
            place_of_each(heldout.texts, heldout.rows, heldout.masked), predictions.covered_P
        ),
        **_store_size(store),
    }
    tokens = decode_tokens(store.constant("pieces_utf8"))
    return Evaluation(report=report, sums=sums, top=teacher_tops(heldout, teacher, tokens, column=1))


def evaluate_fusion(params: EvaluateParams, heldout: Heldout, *, targets: Path, logits: Path) -> Evaluation:
    """Evaluate fused targets, and compare them with their best teacher at the positions that all of these cover.

    `nll` is of the mixture of the teachers' full softmaxes, `nll_restored` of the restored targets that a student
    learns from. Teachers are evaluated at the temperature they were fused at; the best has the lowest loss there.
    `gain` is its loss minus the fused one, `kl_to_best_teacher` the mean of `predictions.kl_to_teacher` to it.
    """
    import torch

    store, rows = _open_fusion(targets, heldout)
    label_P = heldout.masked.label_P
    predictions = fusion_predictions(rows, label_P)
    teachers, columns, listed = {}, {}, int(store.facts["keep"])
    for name in store.facts["teachers"]:
        logits_store, teachers[name] = _open_teacher(logits / name, heldout)
        store.require_parent(f"logits/{name}", logits_store)
        columns[name] = _fused_column(store, logits_store)
        listed = min(listed, _least(logits_store))
    by_teacher = {
        name: teacher_predictions(teacher, label_P, column=columns[name]) for name, teacher in teachers.items()
    }
    common_P = predictions.covered_P & np.logical_and.reduce([other.covered_P for other in by_teacher.values()])
    losses = {name: _mean(other.nll_P[common_P]) for name, other in by_teacher.items()}
    best = min(losses, key=lambda name: losses[name])
    restored_nll_P = restored_fusion_nll(RestoredTargets.of(store, rows, device=torch.device("cpu")), label_P)
    kl_P = kl_to_teacher(rows, teachers[best], column=columns[best])
    extra = {
        "gain": (by_teacher[best].nll_P - predictions.nll_P, common_P),
        "kl_to_best_teacher": (kl_P, np.isfinite(kl_P)),
        "nll_common": (predictions.nll_P, common_P),
        **_restored(restored_nll_P, predictions),
    }
    reference = fusion_predictions(_open_fusion(Path(params.against), heldout)[1], label_P)
    report, sums = _measure(params, heldout, predictions, against=reference, listed=listed, extra=extra)
    report |= {
        "best_teacher": best,
        "common_positions": int(common_P.sum()),
        "nll_common_teachers": losses,
        "temperature": store.facts["temperature"],
        "weighting": store.facts["weighting"],
        "weights": _mean_weights(store, rows.weight_PT[predictions.covered_P]),
        "weights_by_source": _weights_by_source(store, rows, heldout),
        **_store_size(store),
    }
    top = fusion_tops(heldout, rows, teachers=store.facts["teachers"])
    return Evaluation(report=report, sums=sums, top=top)


def evaluate_student(params: EvaluateParams, heldout: Heldout, *, model: Path, runtime: Runtime) -> Evaluation:
    """Run a student on the held-out split; raises StaleParent when it was trained on other text or masks."""
    import torch

    from pipeline.models.masked_lm import masked_lm

    training = training_record(model, sequences=heldout.sequences, masks=heldout.masks)
    store, rows = _open_fusion(Path(params.against), heldout)
    reference = Reference(rows=rows, store=store, temperature=float(store.facts["temperature"]))
    shown = StudentTops(heldout)
    with masked_lm(model, device=runtime.device, dtype=torch.float32) as lm:
        if lm.vocabulary != heldout.masks.facts["vocabulary"]:
            raise VocabularyError(
                f"{model}: {lm.vocabulary} ids, but {heldout.masks.path} has {heldout.masks.facts['vocabulary']}. "
                f"Run: dvc repro train@{model.name}"
            )
        predictions = student_predictions(
            lm,
            heldout.rows,
            heldout.masked,
            special=heldout.sequences.facts["special"],
            batch_tokens=runtime.batch_tokens,
            reference=reference,
            see=shown.add,
        )
        parameters = lm.parameters
    fused = fusion_predictions(rows, heldout.masked.label_P)
    extra: Quantities = {"kl": (predictions.kl_P, np.isfinite(predictions.kl_P))}
    if "curve_document_means" in training:  # absent in records of older versions
        area_P = _area(training, heldout)
        extra["area"] = (area_P, np.isfinite(area_P))
    curve_documents = len(training.get("curve_documents", heldout.row_D))
    report, sums = _measure(params, heldout, predictions, against=fused, listed=UNRANKED, extra=extra)
    report |= {
        "parameters": parameters,
        "model_bytes": sum(path.stat().st_size for path in model.glob("*.safetensors")),
        # Without a parent "targets" it had no teacher, whatever store its settings name.
        "learns_from": Path(training["targets"]).name if "targets" in training["parents"] else FROM_LABELS,
        **{name: training[name] for name in ("curve", "steps", "tokens", "predictions")},
    }
    if curve_documents < len(heldout.row_D):
        report["curve_documents"] = curve_documents
    return Evaluation(report=report, sums=sums, top=shown.found())


def curve_area(step_M: NDArray[Any], nll_MD: NDArray[Any]) -> NDArray[np.float64]:
    """Mean over the steps of piecewise linear curves through M points, by the trapezoidal rule; D curves, D means."""
    width_W = np.diff(step_M).astype(np.float64)
    return np.asarray(width_W @ (nll_MD[1:] + nll_MD[:-1]) / (2 * width_W.sum()))


def coverage_by_place(place_P: NDArray[np.int64], covered_P: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """The kinds of masked positions that there are, in the order of `PLACES`, for P positions and their kinds.

    Of each its `share` of all positions and how much of it is `covered`: numbers from 0 to 1, and `positions`.
    A list, not a mapping: `dvc metrics` would make a column of each of its numbers.
    """
    count = np.bincount(place_P, minlength=len(PLACES))
    covered = np.bincount(place_P[covered_P], minlength=len(PLACES))
    return [
        {"place": name, "positions": count[i], "share": count[i] / len(place_P), "covered": covered[i] / count[i]}
        for i, name in enumerate(PLACES)
        if count[i]
    ]


def _area(training: dict[str, Any], heldout: Heldout) -> NDArray[np.float64]:
    """Area under a student's held-out curve: at every prediction its document's mean, so that sums are by document.

    NaN in documents that are not in the curve (`curve_part`).
    """
    step_M = np.array([step for step, _ in training["curve"]])
    means_MD = np.array(training["curve_document_means"], np.float64)
    in_curve_D = np.isin(heldout.row_D, training.get("curve_documents", heldout.row_D))
    area_D = np.full(len(heldout.row_D), np.nan)
    area_D[in_curve_D] = curve_area(step_M, means_MD)
    return np.asarray(area_D[heldout.document_P])


def _restored(nll_P: NDArray[np.float64] | None, predictions: Predictions) -> Quantities:
    """The loss under restored distributions, if there is one."""
    return {} if nll_P is None else {"nll_restored": (nll_P, predictions.covered_P)}


def _open_teacher(path: Path, heldout: Heldout) -> tuple[Store[SparseLogits], StoredTeacher]:
    import torch

    store = Store(path, SparseLogits)
    store.require_parent("masks", heldout.masks)
    tokens = decode_tokens(store.constant("pieces_utf8"))
    teacher = StoredTeacher(
        restored=Restored.of(store, store.read(HELDOUT), device=torch.device("cpu")),
        to_student_V=bridge(tokens, heldout.tokens).to_student_V,
    )
    return store, teacher


def _open_fusion(path: Path, heldout: Heldout) -> tuple[Store[FusedTargets], FusedTargets]:
    store = Store(path, FusedTargets)
    store.require_parent("masks", heldout.masks)
    return store, store.read(HELDOUT)


def _fused_column(fusion: Store[FusedTargets], teacher: Store[SparseLogits]) -> int:
    """The column of the teacher's store that a fusion mixed: temperature 1, or a listed one if calibrated."""
    if not fusion.manifest.inputs["calibrated"]:
        return 0
    return 1 + int(teacher.facts["listed"].index(fusion.facts["temperature"]))


def _measure(
    params: EvaluateParams,
    heldout: Heldout,
    predictions: Predictions,
    *,
    against: Predictions,
    listed: int,
    extra: Quantities,
) -> tuple[dict[str, Any], DocumentSums]:
    """The numbers of teachers, fusions and students. Top 5 is left out where fewer than five entries are `listed`."""
    covered_P = predictions.covered_P
    quantities: Quantities = {
        "nll": (predictions.nll_P, covered_P),
        "accuracy": (predictions.rank_P == 0, covered_P),
        **({"accuracy_top5": (predictions.rank_P < 5, covered_P)} if listed >= 5 else {}),
        "agreement": (predictions.top_P == against.top_P, covered_P & against.covered_P),
        **extra,
    }
    means = Means.of(quantities, document_P=heldout.document_P, documents=len(heldout.row_D))
    report: dict[str, Any] = {
        **mean_intervals(means, resamples=params.bootstrap, seed=params.seed),
        **_calibration(params, heldout, predictions),
        "positions": int(covered_P.sum()),
        "coverage": _mean(covered_P),
        "documents": len(heldout.row_D),
    }
    return report, DocumentSums(
        masks=heldout.masks.identity, document_D=heldout.row_D, source_D=heldout.source_D, means=means
    )


def _calibration(params: EvaluateParams, heldout: Heldout, predictions: Predictions) -> dict[str, float]:
    covered_P = predictions.covered_P
    return calibration_error(
        predictions.confidence_P[covered_P],
        predictions.rank_P[covered_P] == 0,
        document_P=heldout.document_P[covered_P],
        documents=len(heldout.row_D),
        resamples=params.bootstrap,
        seed=params.seed,
    )


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _least(store: Store[SparseLogits]) -> int:
    """Entries that a teacher lists of every prediction at least."""
    form = store.facts["keep"]
    return int(form.get("k", form.get("least", 0)))


def _store_size(store: Store[Any]) -> dict[str, Any]:
    """Bytes of the train split on disk, in all and a prediction."""
    size = store.bytes_on_disk("train")
    return {
        "store_bytes": size,
        "bytes_per_position": size / max(1, store.plan("train").rows),
        "keep": int(store.manifest.arrays["step_E"].most) if "step_E" in store.manifest.arrays else 0,
    }


def _mean_weights(store: Store[FusedTargets], weight_PT: NDArray[np.float32]) -> dict[str, float]:
    return dict(zip(store.facts["teachers"], weight_PT.astype(np.float64).mean(axis=0).tolist(), strict=True))


def _weights_by_source(store: Store[FusedTargets], rows: FusedTargets, heldout: Heldout) -> list[dict[str, Any]]:
    """Mean weight of each teacher by source of text, sources with most masked positions first.

    A list, not a mapping: `dvc metrics` would make a column of each of its numbers.
    """
    covered_P = rows.covered_P()
    names, source_D = np.unique(heldout.source_D, return_inverse=True)
    source_P = np.where(covered_P, source_D[heldout.document_P], -1)
    count_S = np.bincount(source_P[covered_P], minlength=len(names))
    found = []
    for number in np.argsort(-count_S, kind="stable")[:SOURCES]:
        if count_S[number]:
            weights = _mean_weights(store, rows.weight_PT[source_P == number])
            found.append({"source": str(names[number]), "positions": int(count_S[number]), "weights": weights})
    return found
