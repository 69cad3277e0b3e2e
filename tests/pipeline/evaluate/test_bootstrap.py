"""Means and intervals against plain loops over repeated documents; coverage of the interval by simulation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.config import section
from pipeline.evaluate import bootstrap as metrics
from pipeline.evaluate.bootstrap import (
    Means,
    calibration_error,
    interval,
    mean_intervals,
    paired_differences,
    resample,
    seeds_difference,
)
from pipeline.evaluate.params import EvaluateParams
from storage.errors import ParamsError


def means_of(value_P: np.ndarray, document_P: np.ndarray, documents: int, defined_P: np.ndarray | None = None) -> Means:
    defined_P = np.ones(len(value_P), bool) if defined_P is None else defined_P
    return Means.of({"x": (value_P, defined_P)}, document_P=document_P, documents=documents)


def clustered(rng: np.random.Generator, documents: int) -> tuple[np.ndarray, np.ndarray]:
    """One to eight values a document with mean 0, alike within a document."""
    document_P = np.repeat(np.arange(documents), rng.integers(1, 9, documents))
    return rng.normal(size=documents)[document_P] + 0.3 * rng.normal(size=len(document_P)), document_P


def test_means_are_over_predictions_and_skip_what_is_not_defined() -> None:
    value_P = np.array([1.0, 2.0, np.nan, 6.0])
    means = means_of(value_P, np.array([0, 0, 1, 2]), 4, np.array([True, True, False, True]))
    assert means.values() == {"x": 3.0}
    assert means.total_DQ[:, 0].tolist() == [3.0, 0.0, 6.0, 0.0]
    assert means.count_DQ[:, 0].tolist() == [2.0, 0.0, 1.0, 0.0]


def test_nothing_counted_gives_nan_and_no_warning() -> None:
    found = mean_intervals(means_of(np.full(3, np.nan), np.zeros(3, int), 1, np.zeros(3, bool)), resamples=5, seed=0)
    assert all(np.isnan(value) for value in found.values())


def test_resamples_draw_as_many_documents_as_there_are_and_do_not_depend_on_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = np.concatenate(list(resample(7, resamples=50, seed=3)))
    assert whole.shape == (50, 7)
    assert (whole.sum(axis=1) == 7).all()
    assert len(np.unique(whole, axis=0)) > 40
    monkeypatch.setattr(metrics, "BLOCK_ENTRIES", 20)
    assert np.array_equal(np.concatenate(list(resample(7, resamples=50, seed=3))), whole)
    assert not np.array_equal(np.concatenate(list(resample(7, resamples=50, seed=4))), whole)


def test_resampled_means_equal_means_over_repeated_documents() -> None:
    value_P, document_P = clustered(np.random.default_rng(0), 12)
    sample_RQ = means_of(value_P, document_P, 12).resampled(resamples=20, seed=5)
    for row, times_D in enumerate(np.concatenate(list(resample(12, resamples=20, seed=5)))):
        repeated = np.concatenate([
            np.tile(value_P[document_P == document], int(times)) for document, times in enumerate(times_D)
        ])  # fmt: skip
        assert sample_RQ[row, 0] == pytest.approx(repeated.mean(), abs=1e-12)


def test_documents_that_are_all_alike_give_an_interval_without_width() -> None:
    found = mean_intervals(means_of(np.tile([1.0, 3.0], 10), np.repeat(np.arange(10), 2), 10), resamples=100, seed=0)
    assert found == pytest.approx({"x": 2.0, "x_low": 2.0, "x_high": 2.0}, abs=1e-12)


def test_one_document_has_an_interval_without_width() -> None:
    found = mean_intervals(means_of(np.array([1.0, 4.0]), np.zeros(2, int), 1), resamples=10, seed=0)
    assert found == {"x": 2.5, "x_low": 2.5, "x_high": 2.5}


def test_the_interval_holds_the_truth_about_95_times_in_100() -> None:
    """400 simulated held-out sets of 80 documents; a percentile interval is a little short for small D."""
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(400):
        value_P, document_P = clustered(rng, 80)
        found = mean_intervals(means_of(value_P, document_P, 80), resamples=200, seed=trial)
        hits += found["x_low"] <= 0 <= found["x_high"]
    assert 0.90 <= hits / 400 <= 0.98


def test_predictions_of_a_document_are_not_treated_as_independent() -> None:
    value_P, document_P = clustered(np.random.default_rng(2), 200)
    by_document = mean_intervals(means_of(value_P, document_P, 200), resamples=400, seed=0)
    alone = mean_intervals(means_of(value_P, np.arange(len(value_P)), len(value_P)), resamples=400, seed=0)
    assert by_document["x_high"] - by_document["x_low"] > 1.5 * (alone["x_high"] - alone["x_low"])


def test_the_interval_leaves_out_resamples_without_a_count() -> None:
    assert interval(np.array([1.0, np.nan, 1.0])) == (1.0, 1.0)
    assert np.isnan(interval(np.array([np.nan]))).all()


def test_a_constant_difference_is_certain_however_much_documents_vary() -> None:
    value_P, document_P = clustered(np.random.default_rng(3), 40)
    means = {"a": means_of(value_P, document_P, 40), "b": means_of(value_P + 0.25, document_P, 40)}
    found = paired_differences(means, resamples=100, seed=0)
    assert found["a", "b"] == pytest.approx({"x": -0.25, "x_low": -0.25, "x_high": -0.25}, abs=1e-12)
    assert found["b", "a"]["x"] == pytest.approx(0.25)
    alone = mean_intervals(means["a"], resamples=100, seed=0)
    assert alone["x_high"] - alone["x_low"] > 0.3


def test_paired_differences_are_those_of_the_same_resamples() -> None:
    rng = np.random.default_rng(4)
    value_P, document_P = clustered(rng, 30)
    other_P = value_P + rng.normal(size=len(value_P))
    means = {"a": means_of(value_P, document_P, 30), "b": means_of(other_P, document_P, 30)}
    samples = [means[name].resampled(resamples=60, seed=9)[:, 0] for name in "ab"]
    low, high = np.quantile(samples[0] - samples[1], [0.025, 0.975])
    found = paired_differences(means, resamples=60, seed=9)["a", "b"]
    assert (found["x_low"], found["x_high"]) == pytest.approx((low, high))
    assert found["x"] == pytest.approx(value_P.mean() - other_P.mean())


def test_pairs_that_answered_other_predictions_are_left_out() -> None:
    value_P, document_P = np.array([1.0, 2.0, 3.0]), np.array([0, 0, 1])
    means = {
        "all": means_of(value_P, document_P, 2),
        "all too": means_of(value_P, document_P, 2),
        "some": means_of(value_P, document_P, 2, np.array([True, False, True])),
    }
    assert set(paired_differences(means, resamples=5, seed=0)) == {("all", "all too"), ("all too", "all")}


def loop_ece(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Guo et al. 2017, equation 3, read aloud."""
    total = 0.0
    for m in range(1, 16):
        members = [i for i in range(len(confidence)) if (m - 1) / 15 < confidence[i] <= m / 15]
        if members:
            accuracy = sum(bool(correct[i]) for i in members) / len(members)
            confident = sum(confidence[i] for i in members) / len(members)
            total += len(members) / len(confidence) * abs(accuracy - confident)
    return total


def ece(confidence_P: np.ndarray, correct_P: np.ndarray, document_P: np.ndarray, **changes: int) -> dict[str, float]:
    settings = {"documents": int(document_P.max()) + 1, "resamples": 50, "seed": 0} | changes
    return calibration_error(confidence_P, correct_P, document_P=document_P, **settings)


def test_calibration_error_equals_the_loop_over_bins() -> None:
    rng = np.random.default_rng(5)
    confidence_P = rng.beta(2, 1, 500)
    correct_P = rng.random(500) < confidence_P**2
    document_P = np.repeat(np.arange(50), 10)
    found = ece(confidence_P, correct_P, document_P, resamples=30)
    assert found["ece"] == pytest.approx(loop_ece(confidence_P, correct_P), abs=1e-12)
    samples = []
    for times_D in np.concatenate(list(resample(50, resamples=30, seed=0))):
        rows = np.repeat(np.arange(500), times_D[document_P].astype(int))
        samples.append(loop_ece(confidence_P[rows], correct_P[rows]))
    assert (found["ece_low"], found["ece_high"]) == pytest.approx(tuple(np.quantile(samples, [0.025, 0.975])), abs=1e-9)


@pytest.mark.parametrize(("confidence", "correct", "expected"), [(0.8, 0.8, 0.0), (1.0, 0.5, 0.5), (0.3, 1.0, 0.7)])
def test_calibration_error_of_constant_confidence_is_its_gap(
    confidence: float, correct: float, expected: float
) -> None:
    correct_P = np.arange(10) < 10 * correct
    found = ece(np.full(10, confidence), correct_P, np.zeros(10, int))
    assert found == pytest.approx({"ece": expected, "ece_low": expected, "ece_high": expected}, abs=1e-12)


def test_gaps_of_different_bins_do_not_cancel() -> None:
    confidence_P, correct_P = np.repeat([0.25, 0.75], 10), np.tile([True, False], 10)
    assert ece(confidence_P, correct_P, np.arange(20))["ece"] == pytest.approx(0.25)


@pytest.mark.parametrize(("text", "message"), [
    ("{against: data/targets/x, bootstrap: 0, seed: 0}", r"evaluate\.bootstrap: .*greater than or equal to 1, got 0"),
    ("{against: data/targets/x, bootstrap: 10, sed: 0}", r"evaluate: unknown key 'sed' \(did you mean 'seed'\?\)"),
])  # fmt: skip
def test_impossible_settings_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "params.yaml").write_text(f"evaluate: {text}\n", encoding="utf-8")
    with pytest.raises(ParamsError, match=message):
        section(tmp_path / "params.yaml", "evaluate", EvaluateParams)


def students(rng: np.random.Generator, *, seeds: int, by_seed: float) -> tuple[list[Means], list[Means]]:
    """Two students on 60 documents, the first 0.5 lower but for a part of each seed."""
    document_P = np.repeat(np.arange(60), rng.integers(1, 9, 60))
    hard_P = rng.normal(size=60)[document_P]
    sides: tuple[list[Means], list[Means]] = [], []
    for _ in range(seeds):
        shift = by_seed * rng.normal()
        for side, level in zip(sides, (-0.5 + shift, 0.0), strict=True):
            noise_P = 0.2 * rng.normal(size=60)[document_P]
            side.append(means_of(level + hard_P + noise_P, document_P, 60))
    return sides


def test_the_difference_of_one_seed_is_the_paired_one() -> None:
    (first,), (second,) = students(np.random.default_rng(0), seeds=1, by_seed=0.0)
    expected = paired_differences({"a": first, "b": second}, resamples=300, seed=3)["a", "b"]
    found = seeds_difference([first], [second], "x", resamples=300, seed=3)
    assert found == pytest.approx((expected["x"], expected["x_low"], expected["x_high"]))


def test_seeds_that_disagree_widen_the_interval_of_their_mean() -> None:
    """Documents alone, for five seeds that say the same, and beside a part of each seed of sd 0.3."""
    alike = students(np.random.default_rng(1), seeds=5, by_seed=0.0)
    value, low, high = seeds_difference(*alike, "x", resamples=500, seed=0)
    assert value == pytest.approx(np.mean([a.values()["x"] - b.values()["x"] for a, b in zip(*alike, strict=True)]))
    assert low < value < high < 0
    apart = students(np.random.default_rng(1), seeds=5, by_seed=0.3)
    differences = [a.values()["x"] - b.values()["x"] for a, b in zip(*apart, strict=True)]
    value, wide_low, wide_high = seeds_difference(*apart, "x", resamples=2000, seed=0)
    assert value == pytest.approx(np.mean(differences))
    assert wide_high - wide_low > 2 * (high - low)
    standard_error = np.std(differences) / np.sqrt(5)
    of_seeds_alone = 2 * 1.96 * standard_error
    assert of_seeds_alone < wide_high - wide_low < 1.4 * of_seeds_alone


def test_some_documents_have_means_of_their_own() -> None:
    document_P = np.array([0, 0, 1, 2])
    means = means_of(np.array([1.0, 3.0, 5.0, 8.0]), document_P, 3)
    part = means.of_documents(np.array([True, False, True]))
    assert part.values() == {"x": 4.0}
    assert len(part.count_DQ) == 2


@pytest.mark.parametrize(
    ("domains", "complaint"),
    [
        ({"a": ["x"], "b": ["y", "x"]}, r"evaluate\.domains: .*'x' is in a and in b"),
        ({"all": ["x"]}, r"evaluate\.domains: .*'all' is what the report calls all text"),
    ],
)
def test_domains_that_overlap_or_take_the_name_of_all_text_are_refused(
    tmp_path: Path, domains: dict[str, list[str]], complaint: str
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(f"evaluate: {{against: data/targets/x, bootstrap: 10, seed: 0, domains: {domains}}}")
    with pytest.raises(ParamsError, match=complaint):
        section(path, "evaluate", EvaluateParams)
