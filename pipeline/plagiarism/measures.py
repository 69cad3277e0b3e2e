"""Recall, precision, granularity and plagdet of PAN, character by character (Potthast et al. 2010, COLING).

S are the passages that were taken, R the detections. r detects s when both lie in one suspicious and one source
document and overlap in both. |s| counts the characters of a passage in both documents.

    recall      = 1/|S| sum_s |union over r that detect s of (s and r)| / |s|
    precision   = 1/|R| sum_r |union over s that r detects of (s and r)| / |r|
    granularity = mean over detected s of the number of r that detect s
    plagdet     = F1 of precision and recall / log2(1 + granularity)

Recall and precision are the macro-averaged ones: each passage counts alike, whatever its length. Where one of S and R
is empty, both are 0, and 1 where both are empty; granularity is 1 where nothing is detected. So does PAN's own program,
which also counts a passage that is given twice once. All are ratios of sums over suspicious documents, so documents can
be resampled.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SUMS = 6
"""Numbers kept of a document: recall and count of its passages, precision and count of its detections, detections of
detected passages, detected passages."""
SCORES = ("plagdet", "precision", "recall", "granularity")


class Passage(NamedTuple):
    """A part of a suspicious document and what it was taken from; offsets in characters, the end not included."""

    suspicious: str
    """Name of the document, that of its file without .txt."""
    start: int
    end: int
    source: str
    source_start: int
    source_end: int

    def overlaps(self, other: Passage) -> bool:
        """True where one detects the other."""
        return (
            self.suspicious == other.suspicious
            and self.source == other.source
            and self.start < other.end
            and other.start < self.end
            and self.source_start < other.source_end
            and other.source_start < self.source_end
        )


def sums_by_document(
    documents: list[str], cases: Iterable[Passage], detections: Iterable[Passage]
) -> NDArray[np.float64]:
    """SUMS numbers for each suspicious document, [documents, SUMS]; passages of other documents are not looked at."""
    of_cases, of_detections = _by_document(cases), _by_document(detections)
    return np.array([_sums(of_cases[name], of_detections[name]) for name in documents], np.float64).reshape(-1, SUMS)


def scores(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """SCORES [..., 4] of sums [..., SUMS] that were added up over documents."""
    recall_sum, cases, precision_sum, detections, detecting, detected = np.moveaxis(sums, -1, 0)
    both_empty = (cases == 0) & (detections == 0)
    recall, precision = (
        np.where(both_empty, 1.0, total / np.maximum(count, 1e-9))
        for total, count in ((recall_sum, cases), (precision_sum, detections))
    )
    granularity = np.where(detected > 0, detecting / np.maximum(detected, 1e-9), 1.0)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    return np.stack([f1 / np.log2(1 + granularity), precision, recall, granularity], axis=-1)


def _by_document(passages: Iterable[Passage]) -> defaultdict[str, list[Passage]]:
    found: defaultdict[str, list[Passage]] = defaultdict(list)
    for passage in sorted(set(passages)):
        found[passage.suspicious].append(passage)
    return found


def _sums(cases: list[Passage], detections: list[Passage]) -> list[float]:
    detectors = [[found for found in detections if found.overlaps(case)] for case in cases]
    return [
        sum(_covered(case, found) for case, found in zip(cases, detectors, strict=True)),
        len(cases),
        sum(_covered(found, [case for case in cases if case.overlaps(found)]) for found in detections),
        len(detections),
        sum(map(len, detectors)),
        sum(bool(found) for found in detectors),
    ]


def _covered(passage: Passage, others: list[Passage]) -> float:
    """Share of the characters of a passage, in both documents, that others cover."""
    covered = _length_of_union(passage.start, passage.end, [(other.start, other.end) for other in others])
    covered += _length_of_union(
        passage.source_start, passage.source_end, [(other.source_start, other.source_end) for other in others]
    )
    return covered / (passage.end - passage.start + passage.source_end - passage.source_start)


def _length_of_union(start: int, end: int, spans: list[tuple[int, int]]) -> int:
    """Characters from start to end that lie in at least one span."""
    length, reached = 0, start
    for span in sorted(spans):
        first, last = max(span[0], reached), min(span[1], end)
        if last > first:
            length += last - first
            reached = last
    return length
