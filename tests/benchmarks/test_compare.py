"""Numbers over seeds, on curves and losses small enough to check by eye."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.students.compare import mean_curve, steps_to, summarise, table


def run(curve: list[tuple[int, float]], *, accuracy: float = 0.3) -> dict[str, Any]:
    return {"nll": curve[-1][1], "accuracy": accuracy, "ece": 0.02, "curve": curve}


RESULTS = {
    "labels-only": {0: run([(0, 5.0), (10, 4.0), (20, 3.0)]), 1: run([(0, 5.0), (10, 4.2), (20, 3.2)])},
    "fused": {0: run([(0, 5.0), (10, 3.5), (20, 2.9)]), 1: run([(0, 5.0), (10, 3.7), (20, 3.0)])},
}


def test_steps_to_a_loss_are_read_off_the_line_between_two_points() -> None:
    curve = [(0, 5.0), (10, 4.0), (20, 3.0)]
    assert steps_to(curve, 3.5) == 15
    assert steps_to(curve, 3.0) == 20
    assert steps_to(curve, 2.9) is None


def test_curves_are_averaged_step_by_step() -> None:
    assert mean_curve([run_["curve"] for run_ in RESULTS["labels-only"].values()]) == [
        (0, 5.0), (10, pytest.approx(4.1)), (20, pytest.approx(3.1)),
    ]  # fmt: skip


def test_differences_are_to_the_control_at_the_same_seed() -> None:
    summary = summarise(RESULTS)
    assert summary["fused"]["difference"] == {0: pytest.approx(-0.1), 1: pytest.approx(-0.2)}
    assert summary["fused"]["nll_mean"] == pytest.approx(2.95)
    assert summary["fused"]["nll_sd"] == pytest.approx(0.0707, abs=1e-4)
    assert summary["fused"]["steps_to_control"] == pytest.approx(10 + 10 * (3.6 - 3.1) / (3.6 - 2.95))
    assert summary["labels-only"]["steps_to_control"] == 20


def test_the_best_student_stands_first_in_the_table() -> None:
    rows = table(summarise(RESULTS)).splitlines()
    assert rows[2].startswith("| fused | 2.950 ± 0.071 | -0.100 -0.200 |")
    assert rows[3].startswith("| labels-only | 3.100 ± 0.141 | +0.000 +0.000 |")


def test_without_the_control_there_are_no_differences() -> None:
    summary = summarise({"fused": {0: RESULTS["fused"][0]}})
    assert "difference" not in summary["fused"]
    assert summary["fused"]["nll_sd"] is None
