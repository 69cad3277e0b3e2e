"""Students paired by seed and document, in domains; curves and steps by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluate.bootstrap import Means
from pipeline.evaluate.params import EvaluateParams
from pipeline.evaluate.results import DocumentSums
from pipeline.report.comparisons import (
    compare_students,
    curve_note,
    domain_documents,
    mean_curve,
    scores_by_domain,
    share_of_steps,
    steps_to,
    students_by_seed,
)

SOURCES = ["animal", "plant", "act", "state"] * 10
PARAMS = EvaluateParams(
    against="data/targets/x", bootstrap=200, seed=0, domains={"things": ["animal", "plant"], "rest": ["*"]}
)
THINGS = np.array([source in ("animal", "plant") for source in SOURCES])


def sums_of(nll_D: np.ndarray, area_D: np.ndarray | None = None) -> DocumentSums:
    columns = [nll_D, *([] if area_D is None else [area_D])]
    names = ("nll", "area")[: len(columns)]
    count_DQ = np.full((len(nll_D), len(columns)), 4.0)
    means = Means(names=names, total_DQ=4 * np.stack(columns, axis=1), count_DQ=count_DQ)
    return DocumentSums(masks="m", document_D=np.arange(len(nll_D)), source_D=SOURCES, means=means)


def test_entries_that_differ_in_their_seed_alone_are_one_student() -> None:
    entries = {
        "fused": {"targets": "x", "loss": {"labels": 1}},
        "labels": {"targets": "m", "loss": {"labels": 1}, "seed": 0},
        "fused-1": {"loss": {"labels": 1}, "targets": "x", "seed": 1},
        "other": {"targets": "x", "loss": {"labels": 2}},
        "again": {"targets": "x", "loss": {"labels": 1}, "seed": 7},
    }
    assert students_by_seed(entries, seed=7) == {
        "fused": {7: "fused", 1: "fused-1"},
        "labels": {0: "labels"},
        "other": {7: "other"},
        "again": {7: "again"},
    }


def test_a_star_stands_for_the_sources_that_no_domain_names() -> None:
    found = domain_documents(SOURCES[:4], {"animals": ["animal"], "rest": ["*", "plant"], "none": ["gone"]})
    assert {name: mask.tolist() for name, mask in found.items()} == {
        "all": [True] * 4,
        "animals": [True, False, False, False],
        "rest": [False, True, True, True],
        "none": [False] * 4,
    }


def test_students_are_compared_by_seed_metric_and_domain() -> None:
    """fused is 0.2 lower in things and 0.1 higher in the rest, by seeds 0 and 1; its area is 0.3 lower everywhere."""
    hard_D = np.linspace(2, 5, len(SOURCES))
    better_D = hard_D + np.where(THINGS, -0.2, 0.1)
    sums = {
        "fused": sums_of(better_D, hard_D - 0.3),
        "fused-1": sums_of(better_D + 0.02, hard_D - 0.3),
        "labels": sums_of(hard_D, hard_D),
        "labels-1": sums_of(hard_D, hard_D),
        "labels-2": sums_of(hard_D + 9, hard_D),
    }
    students = {"fused": {0: "fused", 1: "fused-1"}, "labels": {0: "labels", 1: "labels-1", 2: "labels-2"}}
    rows = compare_students(PARAMS, students, sums)
    assert [(row["student"], row["metric"], row["domain"]) for row in rows] == [
        (student, metric, domain)
        for student in ("fused", "labels")
        for metric in ("nll", "area")
        for domain in ("all", "things", "rest")
    ]
    found = {(row["metric"], row["domain"]): row for row in rows if row["student"] == "fused"}
    assert all(row["seeds"] == [0, 1] and row["control"] == "labels" for row in found.values())
    expected = {"all": -0.04, "things": -0.19, "rest": 0.11}
    for domain, difference in expected.items():
        row = found["nll", domain]
        assert row["difference"] == pytest.approx(difference)
        assert row["low"] < difference < row["high"]
        back = next(r for r in rows if r["student"] == "labels" and (r["metric"], r["domain"]) == ("nll", domain))
        assert back["difference"] == pytest.approx(-difference)
    assert found["area", "rest"]["difference"] == pytest.approx(-0.3)
    assert found["nll", "things"]["high"] < 0 < found["nll", "rest"]["low"]


def test_students_without_a_seed_in_common_or_without_an_area_are_not_compared_by_it() -> None:
    hard_D = np.linspace(2, 5, len(SOURCES))
    sums = {"a": sums_of(hard_D), "b": sums_of(hard_D, hard_D), "c": sums_of(hard_D, hard_D)}
    rows = compare_students(PARAMS, {"a": {0: "a"}, "b": {0: "b"}, "c": {1: "c"}}, sums)
    assert {(row["student"], row["control"]) for row in rows} == {("a", "b"), ("b", "a")}
    assert {row["metric"] for row in rows} == {"nll"}


def test_scores_by_domain_leave_out_a_domain_without_predictions() -> None:
    params = PARAMS.model_copy(update={"domains": {"things": ["animal", "plant"], "gone": ["x"]}})
    hard_D = np.linspace(2, 5, len(SOURCES))
    (row,) = scores_by_domain(params, sums_of(hard_D))
    assert (row["domain"], row["positions"]) == ("things", 80)
    assert row["nll"] == pytest.approx(hard_D[THINGS].mean())
    assert row["nll_low"] < row["nll"] < row["nll_high"]


def test_a_loss_is_reached_between_the_marks() -> None:
    curve = [[0, 5.0], [10, 4.0], [20, 4.2], [30, 3.0]]
    assert steps_to(curve, 5.5) == 0
    assert steps_to(curve, 4.5) == pytest.approx(5)
    assert steps_to(curve, 4.0) == pytest.approx(10)
    assert steps_to(curve, 3.6) == pytest.approx(25)
    assert steps_to(curve, 3.0) == pytest.approx(30)
    assert steps_to(curve, 2.9) is None


def test_steps_are_shares_of_the_controls_and_of_mean_curves() -> None:
    control = [[[0, 5.0], [40, 4.0]], [[0, 5.0], [40, 4.2]]]
    curves = [[[0, 5.0], [20, 4.2], [40, 3.5]], [[0, 5.0], [20, 4.0], [40, 3.7]]]
    assert mean_curve(curves) == [[0, 5.0], [20, pytest.approx(4.1)], [40, pytest.approx(3.6)]]
    assert share_of_steps(curves, control) == pytest.approx(0.5)
    assert share_of_steps(control, curves) is None


def test_the_page_says_on_what_part_of_the_documents_curves_are_measured() -> None:
    whole = {"documents": 1341}
    assert curve_note({"a": whole, "b": whole}) == ""
    assert curve_note({"a": whole, "b": whole | {"curve_documents": 113}, "c": whole | {"curve_documents": 113}}) == (
        "Measured on 113 of the 1,341 held-out documents; all other scores are of all documents."
    )
