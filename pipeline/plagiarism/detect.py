"""Detect taken passages in a whole corpus: choose candidate sources, align, and fit the thresholds.

One path of code for all detectors: they differ in the vectors of their units alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.plagiarism.align import Cells, Thresholds, align, without_overlaps
from pipeline.plagiarism.measures import Passage, scores, sums_by_document
from pipeline.plagiarism.pan import PlagiarismCorpus
from pipeline.plagiarism.units import unit_spans
from pipeline.text.sentences import Span

SEEDS = (0.3, 1.0, 3.0, 10.0, 30.0)
"""Seeds that are tried: similarities that so many cells of a development document, on average, exceed."""
EXTENDS = (1.0, 3.0, 10.0, 30.0, 100.0)
"""Likewise similarities that extend a seed."""
REACHES = (1, 2, 4)
LEASTS = (1, 2)


@dataclass(frozen=True, slots=True)
class UnitIndex:
    """Units of all documents of a corpus as rows of a matrix of vectors."""

    corpus: PlagiarismCorpus
    spans: Mapping[str, list[Span]]
    """By name of document."""
    rows: Mapping[str, NDArray[np.int64]]
    """Row of each unit's text in the matrix."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """A suspicious document with the similarities to its candidate sources."""

    suspicious: str
    sources: list[tuple[str, NDArray[np.float32]]]
    """Source and similarities [U, V], the most similar source first."""

    def cells(self, *, least: float) -> list[tuple[str, Cells]]:
        """Sources and their cells of at least `least`; a source without any is left out."""
        found = [(source, Cells.of(similarity, least=least)) for source, similarity in self.sources]
        return [(source, cells) for source, cells in found if len(cells.similarity_C)]


def index_units(corpora: Iterable[PlagiarismCorpus], *, least: int, most: int) -> tuple[list[UnitIndex], list[str]]:
    """Units of all documents, and their different texts; texts that occur twice have one row."""
    row_of: dict[str, int] = {}
    indices = []
    for corpus in corpora:
        spans: dict[str, list[Span]] = {}
        rows: dict[str, NDArray[np.int64]] = {}
        for name, text in (*corpus.suspicious.items(), *corpus.sources.items()):
            spans[name] = unit_spans(text, least=least, most=most)
            numbers = [row_of.setdefault(" ".join(text[a:b].split()), len(row_of)) for a, b in spans[name]]
            rows[name] = np.array(numbers, np.int64)
        indices.append(UnitIndex(corpus, spans, rows))
    return indices, list(row_of)


def retrieve(index: UnitIndex, vectors: Any, suspicious: str, *, most: int) -> Candidates:
    """The `most` candidate sources whose most similar unit is the most similar; vectors [N, H], dense or sparse."""
    names = [name for name in index.corpus.candidates(suspicious) if len(index.rows[name])]
    mine = index.rows[suspicious]
    if not names or not len(mine):
        return Candidates(suspicious, [])
    start_S1 = np.cumsum([0, *(len(index.rows[name]) for name in names)])
    found = vectors[mine] @ vectors[np.concatenate([index.rows[name] for name in names])].T
    similarity_UV = np.asarray(found.todense() if hasattr(found, "todense") else found, np.float32)
    best_S = np.maximum.reduceat(similarity_UV.max(axis=0), start_S1[:-1])
    chosen = np.argsort(-best_S, kind="stable")[:most]
    return Candidates(suspicious, [(names[s], similarity_UV[:, start_S1[s] : start_S1[s + 1]]) for s in chosen])


def passages_of(
    index: UnitIndex, suspicious: str, sources: list[tuple[str, Cells]], thresholds: Thresholds
) -> Iterator[Passage]:
    """The detections of one suspicious document, whose cells with each source are given."""
    blocks = [(source, block) for source, cells in sources for block in align(cells, thresholds)]
    for source, block in without_overlaps(blocks):
        mine, theirs = index.spans[suspicious], index.spans[source]
        yield Passage(
            suspicious, mine[block.first][0], mine[block.last][1],
            source, theirs[block.source_first][0], theirs[block.source_last][1],
        )  # fmt: skip


def fit_thresholds(found: list[tuple[UnitIndex, list[Candidates]]]) -> tuple[Thresholds, float]:
    """The thresholds with the highest plagdet on development documents, averaged over corpora, and that plagdet.

    found holds each corpus with the candidates of its development documents. Of equals the first tried is taken.
    """
    documents = sum(len(some) for _, some in found)
    similarity = np.concatenate([block.ravel() for _, some in found for one in some for _, block in one.sources])
    seeds, extends = (_exceeded_by(similarity, documents, counts) for counts in (SEEDS, EXTENDS))
    cells = [(index, [(one.suspicious, one.cells(least=min(extends))) for one in some]) for index, some in found]
    best, best_score = None, -1.0
    for seed, extend, reach, least in product(seeds, extends, REACHES, LEASTS):
        if extend > seed:
            continue
        thresholds = Thresholds(seed, extend, reach, least)
        score = float(np.mean([_plagdet(index, some, thresholds) for index, some in cells]))
        if score > best_score:
            best, best_score = thresholds, score
    assert best is not None, "the lowest seed is below all that extends"
    return best, best_score


def _exceeded_by(similarity: NDArray[np.float32], documents: int, counts: tuple[float, ...]) -> list[float]:
    """Similarities that `count` cells a document reach, for each count, as far as there are so many; falling."""
    ranks = sorted({min(len(similarity), max(1, round(count * documents))) for count in counts})
    ordered = np.partition(similarity, [len(similarity) - rank for rank in ranks])
    return list(dict.fromkeys(float(ordered[len(similarity) - rank]) for rank in ranks))


def _plagdet(index: UnitIndex, some: list[tuple[str, list[tuple[str, Cells]]]], thresholds: Thresholds) -> float:
    detections = [found for name, cells in some for found in passages_of(index, name, cells, thresholds)]
    sums = sums_by_document([name for name, _ in some], index.corpus.passages, detections)
    return float(scores(sums.sum(axis=0))[0])
