"""Ranks, fronts and differences of scores written by hand."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.ranking import (
    COSTS,
    Pair,
    comparisons,
    difference,
    pareto_front,
    ranked,
    rankings,
    score,
)

HEADLINES = {"wsd": "all", "language_model": "nll", "costs": "latency_ms"}


def metric(value: float, half: float | None = None) -> dict[str, Any]:
    return {"value": value} if half is None else {"value": value, "low": value - half, "high": value + half}


def costs(parameters: float, latency: float) -> dict[str, Any]:
    return {
        "parameters": metric(parameters),
        "flops": metric(128 * parameters),
        "latency_ms": metric(latency, 1.0),
        "joules_per_1000_sequences": metric(500.0),
        "weight_bytes": metric(4 * parameters),
    }


MODELS = {
    "small": {"wsd": {"all": metric(60.0, 1.0)}, "language_model": {"nll": metric(4.0)}, "costs": costs(10e6, 20.0)},
    "large": {"wsd": {"all": metric(75.0, 1.0)}, "language_model": {"nll": metric(3.0)}, "costs": costs(100e6, 200.0)},
    "slow": {"wsd": {"all": metric(60.0, 1.0)}, "costs": costs(10e6, 25.0)},
    "unpriced": {"wsd": {"all": metric(50.0)}},
    "teacher": {"costs": costs(1e9, 900.0)},
}


def by_model(rows: list[dict[str, Any]], suite: str) -> dict[str, dict[str, Any]]:
    return {row["model"]: row for row in rows if row["suite"] == suite}


def test_models_are_ranked_by_score_and_by_score_against_cost() -> None:
    rows = rankings(MODELS, HEADLINES)
    assert [(row["suite"], row["model"]) for row in rows] == [
        ("wsd", "large"), ("wsd", "small"), ("wsd", "slow"), ("wsd", "unpriced"),
        ("language_model", "large"), ("language_model", "small"),
    ]  # fmt: skip
    wsd = by_model(rows, "wsd")
    assert [wsd[name]["rank"] for name in ("large", "small", "slow", "unpriced")] == [1, 2, 2, 4]
    size = {name: wsd[name]["against"]["million parameters"] for name in ("large", "small", "slow")}
    assert {name: entry["quotient"] for name, entry in size.items()} == {"large": 0.75, "small": 6.0, "slow": 6.0}
    assert {name: entry["rank"] for name, entry in size.items()} == {"large": 3, "small": 1, "slow": 1}
    assert all(entry["front"] for entry in size.values())
    time = {name: wsd[name]["against"]["ms"] for name in ("large", "small", "slow")}
    assert {name: entry["rank"] for name, entry in time.items()} == {"large": 3, "small": 1, "slow": 2}
    assert {name: entry["front"] for name, entry in time.items()} == {"large": True, "small": True, "slow": False}
    assert time["small"]["cost"] == 20.0
    assert wsd["small"]["against"]["joule"]["cost"] == 0.5  # 500 J a 1,000 sequences
    assert wsd["small"]["against"]["MB"]["cost"] == 40.0
    assert wsd["unpriced"]["against"] == {}


def test_a_language_models_score_is_the_probability_it_gives_the_truth() -> None:
    probabilities = np.array([0.5, 0.1, 0.02])
    assert score("language_model", float(-np.log(probabilities).mean())) == pytest.approx(
        np.prod(probabilities) ** (1 / 3)
    )
    assert score("wsd", 73.5) == 73.5
    rows = by_model(rankings(MODELS, HEADLINES), "language_model")
    assert rows["small"]["against"]["ms"]["quotient"] == pytest.approx(math.exp(-4) / 20)
    assert (rows["large"]["rank"], rows["large"]["value"]) == (1, 3.0)


def test_costs_alone_rank_nobody() -> None:
    assert rankings({"teacher": MODELS["teacher"]}, HEADLINES) == []
    assert {cost.metric for cost in COSTS} <= set(MODELS["teacher"]["costs"])


numbers = st.integers(0, 6).map(float)


@given(points=st.dictionaries(st.text("abc", min_size=1, max_size=3), st.tuples(numbers, numbers), min_size=1))
def test_everyone_off_the_front_is_beaten_by_someone_on_it_and_no_one_on_it_is(
    points: dict[str, tuple[float, float]],
) -> None:
    front = pareto_front(points)
    assert front
    best = max(points, key=lambda name: (points[name][0], -points[name][1]))
    assert best in front
    for name, (mine, cost) in points.items():
        better = [o for o, (s, c) in points.items() if (s > mine and c <= cost) or (s >= mine and c < cost)]
        assert (name in front) == (not better)
        assert name in front or set(better) & front


@given(values=st.dictionaries(st.text("abcd", min_size=1, max_size=2), numbers, min_size=1))
def test_ranks_are_one_plus_the_number_above(values: dict[str, float]) -> None:
    ranks = ranked(values)
    ordered = sorted(values, key=lambda name: -values[name])
    assert ranks[ordered[0]] == 1
    for earlier, later in pairwise(ordered):
        same = values[earlier] == values[later]
        assert ranks[later] == ranks[earlier] if same else ranks[later] == ordered.index(later) + 1


def test_the_interval_of_a_difference_is_that_of_independent_normals() -> None:
    """For symmetric intervals MOVER is the textbook formula: squares of half-widths add up."""
    found = difference(metric(70.0, 3.0), metric(65.0, 4.0))
    assert found == {"value": 5.0, "low": 0.0, "high": 10.0}
    skewed = difference({"value": 5.0, "low": 4.0, "high": 8.0}, {"value": 1.0, "low": 1.0, "high": 1.0})
    assert skewed == {"value": 4.0, "low": 3.0, "high": 7.0}
    assert difference(metric(70.0), metric(65.0, 4.0)) == {"value": 5.0}


def test_lexical_students_stand_beside_what_they_started_from() -> None:
    paired = {"value": 0.5, "low": 0.4, "high": 0.6}
    models = {
        "fused": MODELS["small"],
        "lexical": {
            "wsd": {"all": metric(66.0, 1.0)},
            "language_model": {"nll": metric(4.5), "nll_change": paired},
            "costs": costs(10e6, 21.0),
            "glue": {"average": metric(80.0)},
        },
    }
    rows = comparisons(
        models, HEADLINES | {"glue": "average"}, [Pair(name="lexical", other="fused", control=False)], {}
    )
    assert [(row["suite"], row["metric"], row["paired"]) for row in rows] == [
        ("wsd", "all", False), ("language_model", "nll", True),
        ("costs", "parameters", False), ("costs", "flops", False),
    ]  # fmt: skip
    wsd, language, parameters, flops = rows
    assert (wsd["value_with"], wsd["value_without"], wsd["change_value"]) == (66.0, 60.0, 6.0)
    assert (wsd["low_with"], wsd["high_without"]) == (65.0, 61.0)
    assert wsd["change_low"] == pytest.approx(6 - math.sqrt(2))
    assert [language[f"change_{bound}"] for bound in ("value", "low", "high")] == [0.5, 0.4, 0.6]
    assert parameters["change_value"] == flops["change_value"] == 0


def test_a_report_that_holds_the_number_before_needs_no_report_on_the_start() -> None:
    before = metric(4.0, 0.25)
    change = {"value": 0.5, "low": 0.4, "high": 0.6}
    own = {"nll": metric(4.5), "nll_before": before, "nll_change": change}
    models = {"lexical": {"language_model": own, "wsd": {"all": metric(66.0)}, "costs": costs(10e6, 21.0)}}
    (row,) = comparisons(models, HEADLINES, [Pair(name="lexical", other="models/fused", control=False)], {})
    assert (row["without"], row["suite"], row["paired"]) == ("models/fused", "language_model", True)
    assert [row[f"{bound}_without"] for bound in ("value", "low", "high")] == [4.0, 3.75, 4.25]
    assert (row["value_with"], row["change_value"]) == (4.5, 0.5)


def test_a_control_is_no_start_and_paired_changes_replace_those_of_intervals() -> None:
    """The number before the start's training is none of the control's."""
    own = {"nll": metric(4.5), "nll_before": metric(4.0), "nll_change": {"value": 0.5, "low": 0.4, "high": 0.6}}
    glue = {"average": metric(80.0, 9.0)}
    models = {
        "lexical": {"language_model": own, "glue": glue},
        "control": {"language_model": {"nll": metric(4.25)}, "glue": {"average": metric(79.0, 9.0)}},
    }
    pairs = [Pair(name="lexical", other="control", control=True)]
    change = {"value": 1.0, "low": 0.5, "high": 1.5}
    rows = comparisons(models, HEADLINES | {"glue": "average"}, pairs, {("lexical", "control", "glue"): change})
    glue_row, language = (next(row for row in rows if row["suite"] == suite) for suite in ("glue", "language_model"))
    assert language["control"] and not language["paired"]
    assert (language["value_without"], language["change_value"]) == (4.25, 0.25)
    assert glue_row["paired"]
    assert [glue_row[f"change_{bound}"] for bound in ("value", "low", "high")] == [1.0, 0.5, 1.5]
