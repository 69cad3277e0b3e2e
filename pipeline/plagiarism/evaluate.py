"""Evaluate a model's vectors at finding taken passages in whole documents, and TF-IDF beside them.

Every detector goes the same way: units of all documents become vectors, each suspicious document meets the sources with
the most similar units, and near cells of high similarity become passages (`pipeline.plagiarism.align`). Thresholds are
fitted on the development documents of all sets together, and everything reported is of the other documents.

Scores are those of PAN (`pipeline.plagiarism.measures`), of each set by itself, and means over sets. Intervals resample
suspicious documents: documents of one name in several sets are resampled together, as in sets that differ in their seed
they are the same document with other passages. `retrieval_recall` is the share of pairs of a document and a source it
was taken from that are aligned at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.runtime import Runtime
from pipeline.core.seeds import unit_hash
from pipeline.evaluate.bootstrap import interval, resample
from pipeline.evaluate.suites import Metric, suite_report
from pipeline.models.identity import model_digest
from pipeline.plagiarism.align import Thresholds
from pipeline.plagiarism.detect import (
    Candidates,
    UnitIndex,
    fit_thresholds,
    index_units,
    passages_of,
    retrieve,
)
from pipeline.plagiarism.measures import SCORES, SUMS, Passage, scores, sums_by_document
from pipeline.plagiarism.pan import PlagiarismCorpus
from pipeline.plagiarism.params import PlagiarismParams
from pipeline.plagiarism.vectors import centred, encoder_states, word_vectors
from storage.atomic import beside
from storage.errors import DataError
from storage.format.manifest import digest
from storage.work import WorkFolder

Clock = Callable[[], float]
"""Seconds of this process on all cores, or with an accelerator those of the wall clock."""

NAMES = (*SCORES, "retrieval_recall")
"""Scores of a set, in the order of their columns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Detection:
    """What one detector found. C corpora, D names of test documents."""

    detections: list[list[Passage]]
    """Of the test documents of each corpus."""
    sums_CDS: NDArray[np.float64]
    """The numbers of `measures`, then pairs of document and true source that were aligned, and all such pairs."""
    thresholds: Thresholds
    development_plagdet: float
    seconds_per_document: float
    """The vectors of a document, and aligning a suspicious one, by `Clock`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlagiarismResult:
    """The report, and what the model detected."""

    report: dict[str, Any]
    tested: dict[str, list[str]]
    """Test documents by corpus."""
    detections: dict[str, list[Passage]]


def evaluate_plagiarism(
    params: PlagiarismParams, corpora: list[PlagiarismCorpus], *, name: str, model: Path, runtime: Runtime
) -> PlagiarismResult:
    """Detect with the vectors of `model` and with TF-IDF. A killed run does not encode again; it is known by `name`.

    Raises DataError when two corpora have one name, or when one has no passages to fit or to test on, and what loading
    the model raises.
    """
    _require_names(corpora)
    indices, texts = index_units(corpora, least=params.unit_words, most=params.most_words)
    sides = [_sides(corpus, params) for corpus in corpora]
    clock = time.process_time if runtime.device.type == "cpu" else time.monotonic
    units = sum(map(len, (rows for index in indices for rows in index.rows.values())))
    a_document = units / sum(len(index.rows) for index in indices) / len(texts)
    identity = digest({"texts": texts, "model": model_digest(model), "dtype": str(runtime.dtype)})
    where = Path(f"plagiarism {name}")
    with WorkFolder(where, name=f"plagiarism-{name}", identity=identity, workspace=runtime.workspace) as work:
        states, parameters, seconds = _states(model, texts, work=work, runtime=runtime, clock=clock)
        found = _detect(params, indices, sides, centred(states), seconds=seconds * a_document, clock=clock)
        began = clock()
        words = word_vectors(texts)
        plain = _detect(params, indices, sides, words, seconds=(clock() - began) * a_document, clock=clock)
        work.finish()
    metrics = _metrics(params, found, plain, tested=sum(len(test) for _, test in sides))
    metrics |= {
        "seconds_per_document": Metric(value=found.seconds_per_document),
        "baseline_seconds_per_document": Metric(value=plain.seconds_per_document),
        "parameters": Metric(value=parameters),
    }
    report = suite_report(
        "plagiarism",
        model,
        metrics,
        headline="plagdet",
        cells=_cells(params, corpora, found, plain),
        sets={
            corpus.name: {
                "variant": corpus.variant,
                "identity": corpus.identity,
                "sources": len(corpus.sources),
                "development": len(development),
                "test": len(test),
                "passages": len(corpus.passages),
                "counts": dict(corpus.counts),
            }
            for corpus, (development, test) in zip(corpora, sides, strict=True)
        },
        thresholds={
            name: {**one.thresholds._asdict(), "development_plagdet": one.development_plagdet}
            for name, one in (("model", found), ("baseline", plain))
        },
        settings=params.model_dump(mode="json"),
    )
    detections = {corpus.name: mine for corpus, mine in zip(corpora, found.detections, strict=True)}
    tested = {corpus.name: test for corpus, (_, test) in zip(corpora, sides, strict=True)}
    return PlagiarismResult(report=report, tested=tested, detections=detections)


def _states(
    model: Path, texts: list[str], *, work: WorkFolder, runtime: Runtime, clock: Clock
) -> tuple[NDArray[np.float32], int, float]:
    """The encoder's states, the model's parameters and the seconds that took; what the work folder has is read."""
    file = work.path / "states.npy"
    for entry in work.entries():
        return np.load(file), entry["parameters"], entry["seconds"]
    began = clock()
    states, parameters = encoder_states(model, texts, runtime=runtime)
    seconds = clock() - began
    with beside(file) as partial, partial.open("wb") as stream:
        np.save(stream, states)
    work.append({"parameters": parameters, "seconds": seconds})
    return states, parameters, seconds


def _require_names(corpora: list[PlagiarismCorpus]) -> None:
    names = [corpus.name for corpus in corpora]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"plagiarism: two sets are named {name}: rename a folder")


def _sides(corpus: PlagiarismCorpus, params: PlagiarismParams) -> tuple[list[str], list[str]]:
    """Suspicious documents to fit on and to test on, by a hash of their names."""
    share = {name: unit_hash("plagiarism-split", name) for name in corpus.suspicious}
    development = [name for name in corpus.suspicious if share[name] < params.development]
    test = [name for name in corpus.suspicious if share[name] >= params.development]
    for what, names in (("fit thresholds", development), ("test", test)):
        if not {passage.suspicious for passage in corpus.passages} & set(names):
            raise DataError(
                f"{corpus.name}: nothing was taken in {len(names)} of {len(corpus.suspicious)} suspicious documents "
                f"to {what} on; expected XML files with features of plagiarism for some"
            )
    return development, test


def _detect(
    params: PlagiarismParams,
    indices: list[UnitIndex],
    sides: list[tuple[list[str], list[str]]],
    vectors: Any,
    *,
    seconds: float,
    clock: Clock,
) -> Detection:
    """seconds: of the vectors of a document."""

    def candidates(index: UnitIndex, names: Iterable[str]) -> list[Candidates]:
        return [retrieve(index, vectors, name, most=params.candidates) for name in names]

    development = [(index, candidates(index, names)) for index, (names, _) in zip(indices, sides, strict=True)]
    thresholds, fitted = fit_thresholds(development)
    names = sorted({name for _, test in sides for name in test})
    place = {name: number for number, name in enumerate(names)}
    sums_CDS = np.zeros((len(indices), len(names), SUMS + 2))
    detections = []
    began = clock()
    for number, (index, (_, test)) in enumerate(zip(indices, sides, strict=True)):
        mine: list[Passage] = []
        for one in candidates(index, test):
            mine += passages_of(index, one.suspicious, one.cells(least=thresholds.extend), thresholds)
            true = {passage.source for passage in index.corpus.passages if passage.suspicious == one.suspicious}
            aligned = {source for source, _ in one.sources}
            sums_CDS[number, place[one.suspicious], SUMS:] = len(true & aligned), len(true)
        rows = [place[name] for name in test]
        sums_CDS[number, rows, :SUMS] = sums_by_document(test, index.corpus.passages, mine)
        detections.append(mine)
    aligning = (clock() - began) / sum(len(test) for _, test in sides)
    return Detection(
        detections=detections,
        sums_CDS=sums_CDS,
        thresholds=thresholds,
        development_plagdet=fitted,
        seconds_per_document=seconds + aligning,
    )


def set_scores(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """NAMES [..., 5] of sums [..., SUMS + 2]."""
    aligned, true = np.moveaxis(sums[..., SUMS:], -1, 0)
    return np.concatenate([scores(sums[..., :SUMS]), (aligned / np.maximum(true, 1e-9))[..., None]], axis=-1)


def mean_scores(
    sums_CDS: NDArray[np.float64], *, resamples: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """NAMES as means over corpora [5], and those of each resample of documents [R, 5]."""
    blocks = [
        set_scores(np.einsum("rd,cds->rcs", times_RD, sums_CDS, optimize=True)).mean(axis=1)
        for times_RD in resample(sums_CDS.shape[1], resamples=resamples, seed=seed)
    ]
    return set_scores(sums_CDS.sum(axis=1)).mean(axis=0), np.concatenate(blocks)


def _metrics(params: PlagiarismParams, found: Detection, plain: Detection, *, tested: int) -> dict[str, Metric]:
    """Means over sets with intervals, of both detectors, and the gain in plagdet; n counts documents of all sets."""
    metrics: dict[str, Metric] = {}
    both = []
    for prefix, one in (("", found), ("baseline_", plain)):
        value, sample_R = mean_scores(one.sums_CDS, resamples=params.bootstrap, seed=params.seed)
        both.append((value, sample_R))
        for column, name in enumerate(NAMES):
            low, high = interval(sample_R[:, column])
            metrics[prefix + name] = Metric(value=float(value[column]), low=low, high=high, n=tested)
    gain_R = both[0][1][:, 0] - both[1][1][:, 0]
    low, high = interval(gain_R)
    metrics["plagdet_gain"] = Metric(value=float(both[0][0][0] - both[1][0][0]), low=low, high=high, n=tested)
    return metrics


def _cells(
    params: PlagiarismParams, corpora: list[PlagiarismCorpus], found: Detection, plain: Detection
) -> list[dict[str, Any]]:
    """A row a variant, with intervals, and one a set in it."""
    cells = []
    for variant in dict.fromkeys(corpus.variant for corpus in corpora):
        chosen = [number for number, corpus in enumerate(corpora) if corpus.variant == variant]
        value, sample_R = mean_scores(found.sums_CDS[chosen], resamples=params.bootstrap, seed=params.seed)
        beside, beside_R = mean_scores(plain.sums_CDS[chosen], resamples=params.bootstrap, seed=params.seed)
        cell: dict[str, Any] = {"variant": variant, "sets": [corpora[number].name for number in chosen]}
        cell["passages"] = int(found.sums_CDS[chosen, :, 1].sum())
        for prefix, mean, sample in (("", value, sample_R), ("baseline_", beside, beside_R)):
            cell |= {prefix + name: float(number) for name, number in zip(NAMES, mean, strict=True)}
            cell[f"{prefix}plagdet_low"], cell[f"{prefix}plagdet_high"] = interval(sample[:, 0])
        each, each_plain = (set_scores(one.sums_CDS[chosen].sum(axis=1))[:, 0].tolist() for one in (found, plain))
        cell |= {"plagdet_of_sets": each, "baseline_plagdet_of_sets": each_plain}
        cells.append(cell)
    return cells
