"""Differences by task against resampling by hand; what is not of the same examples is not compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.report.task_differences import ALL, task_differences

RESAMPLES = 4000


def report(values: dict[str, list[float]], noise: dict[str, np.ndarray], **changes: Any) -> dict[str, Any]:
    """Scores by task and seed; each resample adds its noise, the same for all seeds."""
    seeds = [str(seed) for seed in range(len(next(iter(values.values()))))]
    tasks = {
        task: {
            "seeds": dict(zip(seeds, scores, strict=True)),
            "resampled": {
                seed: " ".join(f"{value:.4f}" for value in score + noise[task])
                for seed, score in zip(seeds, scores, strict=True)
            },
        }
        for task, scores in values.items()
    }
    average = {seed: float(np.mean([tasks[task]["seeds"][seed] for task in values])) for seed in seeds}
    return {
        "settings": {"seeds": seeds},
        "data": {"identity": dict.fromkeys(values, "x")},
        "tasks": tasks,
        "average": {"seeds": average, "of": list(values)},
    } | changes


def test_what_both_share_cancels_and_a_noisy_task_does_not_hide_a_quiet_one() -> None:
    rng = np.random.default_rng(0)
    shared = {task: rng.normal(0, 5, RESAMPLES) for task in ("CoLA", "STS-B")}
    quiet = shared | {"STS-B": shared["STS-B"] + rng.normal(0, 0.25, RESAMPLES)}
    first = report({"CoLA": [40.0, 0.0, 30.0], "STS-B": [86.0, 86.0, 86.0]}, quiet)
    second = report({"CoLA": [30.0, 20.0, 26.0], "STS-B": [85.0, 85.0, 85.0]}, shared)
    cola, stsb, whole = task_differences(first, second)
    assert (cola["task"], stsb["task"], whole["task"]) == ("CoLA", "STS-B", ALL)
    assert cola["value"] == pytest.approx(-2.0) and cola["low"] < -10 and cola["high"] > 5
    drawn = np.array([10.0, -20.0, 4.0])[np.random.default_rng(1).integers(0, 3, (RESAMPLES, 3))].mean(axis=1)
    assert (cola["low"], cola["high"]) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.7)
    assert cola["z"] == pytest.approx(-2 / drawn.std(), abs=0.02)
    assert stsb["value"] == pytest.approx(1.0) and stsb["z"] == pytest.approx(4.0, rel=0.05)
    assert whole["value"] == pytest.approx(-0.5) and whole["low"] < 0 < whole["high"]
    assert whole["z"] == pytest.approx((cola["z"] + stsb["z"]) / 2**0.5) and whole["z"] > 2


def test_only_seeds_of_both_are_compared_and_one_seed_leaves_the_examples() -> None:
    noise = {"RTE": np.random.default_rng(0).normal(0, 3, RESAMPLES)}
    first = report({"RTE": [60.0, 70.0]}, noise)
    second = report({"RTE": [58.0]}, {"RTE": np.zeros(RESAMPLES)}, settings=first["settings"])
    row, whole = task_differences(first, second)
    assert row["seeds"] == ["0"] and row["value"] == whole["value"] == 2.0
    assert (row["low"], row["high"]) == pytest.approx((2 - 5.9, 2 + 5.9), abs=0.3)


def test_equal_models_have_no_z() -> None:
    one = report({"RTE": [60.0, 70.0]}, {"RTE": np.zeros(10)})
    row, _ = task_differences(one, one)
    assert (row["value"], row["low"], row["high"], row["z"]) == (0.0, 0.0, 0.0, None)


@pytest.mark.parametrize("change", [{"settings": {"seeds": [9]}}, {"data": {"identity": {"RTE": "y"}}}])
def test_other_settings_or_examples_are_not_compared(change: dict[str, Any]) -> None:
    one = report({"RTE": [60.0]}, {"RTE": np.zeros(10)})
    assert task_differences(one, one | change) == []
