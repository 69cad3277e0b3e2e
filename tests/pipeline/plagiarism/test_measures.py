"""Against cases worked out by hand, and against the definitions over sets of characters, written independently."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.plagiarism.measures import SCORES, Passage, scores, sums_by_document


def passage(start: int, length: int, source_start: int, source_length: int, *, of: str = "a", by: str = "s") -> Passage:
    return Passage(of, start, start + length, by, source_start, source_start + source_length)


def measured(cases: list[Passage], detections: list[Passage], documents: list[str] | None = None) -> dict[str, float]:
    names = sorted({one.suspicious for one in (*cases, *detections)} | set(documents or ["a"]))
    values = scores(sums_by_document(names, cases, detections).sum(axis=0))
    return dict(zip(SCORES, values.tolist(), strict=True))


WHOLE = passage(0, 100, 0, 100)


@pytest.mark.parametrize(("cases", "detections", "precision", "recall", "granularity"), [
    ([WHOLE], [WHOLE], 1, 1, 1),
    ([], [], 1, 1, 1),
    ([WHOLE], [], 0, 0, 1),
    ([], [WHOLE], 0, 0, 1),
    ([WHOLE], [passage(0, 200, 0, 200)], 0.5, 1, 1),
    ([passage(0, 200, 0, 200)], [WHOLE], 1, 0.5, 1),
    ([WHOLE, passage(0, 100, 0, 100, of="b")], [WHOLE], 1, 0.5, 1),
    ([WHOLE], [WHOLE, passage(500, 10, 0, 10)], 0.5, 1, 1),
    ([WHOLE], [passage(0, 50, 0, 50), passage(50, 50, 50, 50)], 1, 1, 2),
    ([WHOLE, passage(0, 100, 0, 100, of="b")], [passage(0, 50, 0, 50), passage(50, 50, 50, 50)], 1, 0.5, 2),
    ([WHOLE], [passage(50, 100, 50, 100)], 0.5, 0.5, 1),
    ([WHOLE], [passage(25, 75, 0, 100)], 1, 0.875, 1),
    ([WHOLE], [passage(0, 60, 0, 60), passage(40, 60, 40, 60)], 1, 1, 2),
    ([WHOLE, passage(100, 100, 100, 100)], [passage(0, 200, 0, 200)], 1, 1, 1),
    ([WHOLE], [passage(0, 100, 100, 100)], 0, 0, 1),
    ([WHOLE], [passage(100, 100, 0, 100)], 0, 0, 1),
    ([WHOLE], [passage(0, 100, 0, 100, by="t")], 0, 0, 1),
    ([WHOLE, WHOLE], [WHOLE, WHOLE], 1, 1, 1),
])  # fmt: skip
def test_cases_worked_out_by_hand(
    cases: list[Passage], detections: list[Passage], precision: float, recall: float, granularity: float
) -> None:
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    assert measured(cases, detections) == pytest.approx(
        {"precision": precision, "recall": recall, "granularity": granularity,
         "plagdet": f1 / math.log2(1 + granularity)}
    )  # fmt: skip


def test_a_passage_and_its_source_may_differ_in_length() -> None:
    """80 of 100 characters and 10 of 60 are found: recall is 90 / 160; the detection has 80 + 10 of 100 + 10."""
    found = measured([passage(0, 100, 0, 60)], [passage(20, 100, 50, 10)])
    assert found["recall"] == pytest.approx(90 / 160)
    assert found["precision"] == pytest.approx(90 / 110)


Characters = set[tuple[str, str, int]]


def characters(one: Passage) -> Characters:
    return {("this", one.suspicious, n) for n in range(one.start, one.end)} | {
        ("source", one.source, n) for n in range(one.source_start, one.source_end)
    }


def detects(one: Passage, other: Passage) -> bool:
    """The definition: in the same two documents, with a common character in each."""
    both = characters(one) & characters(other)
    return {"this", "source"} == {side for side, _, _ in both} and one[0] == other[0] and one[3] == other[3]


def by_definition(cases: list[Passage], detections: list[Passage]) -> dict[str, float]:
    """Potthast et al. 2010 over sets of characters."""
    cases, detections = list(dict.fromkeys(cases)), list(dict.fromkeys(detections))

    def macro(wholes: list[Passage], parts: list[Passage]) -> float:
        if not wholes or not parts:
            return float(not wholes and not parts)
        shares = []
        for whole in wholes:
            found: Characters = set()
            for part in parts:
                if detects(whole, part):
                    found |= characters(whole) & characters(part)
            shares.append(len(found) / len(characters(whole)))
        return sum(shares) / len(shares)

    counts = [sum(detects(case, found) for found in detections) for case in cases]
    granularity = np.mean([n for n in counts if n]) if any(counts) else 1.0
    recall, precision = macro(cases, detections), macro(detections, cases)
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {"plagdet": float(f1 / np.log2(1 + granularity)), "precision": precision, "recall": recall,
            "granularity": float(granularity)}  # fmt: skip


some = st.lists(
    st.builds(
        lambda start, length, source, longer, of, by: passage(start, length, source, longer, of=of, by=by),
        st.integers(0, 12), st.integers(1, 8), st.integers(0, 12), st.integers(1, 8), st.sampled_from("ab"),
        st.sampled_from("st"),
    ),
    max_size=6,
)  # fmt: skip


@given(some, some)
def test_the_measures_are_those_of_the_definition(cases: list[Passage], detections: list[Passage]) -> None:
    assert measured(cases, detections, ["a", "b"]) == pytest.approx(by_definition(cases, detections))


def test_sums_are_by_document_and_resamples_are_weighted_sums() -> None:
    cases = [WHOLE, passage(0, 10, 0, 10, of="b")]
    sums = sums_by_document(["a", "b", "c"], cases, [WHOLE])
    assert sums.tolist() == [[1, 1, 1, 1, 1, 1], [0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]
    twice = scores(np.array([[1, 0, 5], [1, 1, 0], [0, 2, 1]], np.float64) @ sums)
    assert twice[:, 2].tolist() == pytest.approx([1.0, 0.5, 0.0])
