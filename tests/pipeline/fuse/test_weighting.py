"""Each weighting against its formula written out for one row, and properties of all of them."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.fuse.weighting import Weighting, weights

ENTROPY = np.array([[1.0, 2.0, 3.5]], np.float32)
GOLD = np.log(np.array([[0.1, 0.4, 0.05]], np.float32))
SCORE = np.array([[-0.5, 1.0, 0.25]])
EQUAL = np.zeros(3)


def ask(name: Weighting, covered: list[bool] | None = None, **changes: Any) -> np.ndarray:
    arguments: dict[str, Any] = {
        "entropy_PT": ENTROPY, "gold_logprob_PT": GOLD,
        "covered_PT": np.array([covered or [True] * 3]), "log_prior_PT": EQUAL, "tau": 1.0,
    } | changes  # fmt: skip
    return weights(name, score_PT=SCORE if name == "learned" else None, **arguments)[0]


def scaled(*values: float) -> list[float]:
    return [value / sum(values) for value in values]


def test_uniform():
    assert ask("uniform") == pytest.approx([1 / 3] * 3)
    assert ask("uniform", [True, False, True]) == pytest.approx([0.5, 0, 0.5])


def test_entropy():
    assert ask("entropy") == pytest.approx(scaled(math.exp(-1), math.exp(-2), math.exp(-3.5)))
    assert ask("entropy", tau=0.5) == pytest.approx(scaled(math.exp(-2), math.exp(-4), math.exp(-7)))


def test_learned_scores_are_given():
    assert ask("learned", tau=7.0) == pytest.approx(scaled(math.exp(-0.5), math.exp(1), math.exp(0.25)))
    assert ask("learned", [True, False, True]) == pytest.approx(scaled(math.exp(-0.5), 0, math.exp(0.25)))


def test_a_prior_may_differ_by_position():
    prior = np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    found = weights(
        "uniform", entropy_PT=ENTROPY.repeat(2, 0), gold_logprob_PT=GOLD.repeat(2, 0),
        covered_PT=np.ones((2, 3), bool), log_prior_PT=np.log(prior), tau=1.0,
    )  # fmt: skip
    np.testing.assert_allclose(found, prior, rtol=1e-6)


def test_gold_is_the_posterior_of_the_teacher():
    assert ask("gold") == pytest.approx(scaled(0.1, 0.4, 0.05))


def test_ca_mkd():
    losses = [1 / 0.1, 1 / 0.4, 1 / 0.05]
    expected = [(1 - loss / sum(losses)) / 2 for loss in losses]
    assert ask("ca_mkd") == pytest.approx(expected, rel=1e-6)
    assert ask("ca_mkd", [True, True, False]) == pytest.approx([0.1 / 0.5, 0.4 / 0.5, 0], rel=1e-6)
    assert ask("ca_mkd", [False, False, True]).tolist() == [0, 0, 1]


def test_ca_mkd_survives_a_teacher_that_excludes_the_truth():
    gold = np.array([[-0.1, -2000.0, -3.0]])
    assert ask("ca_mkd", gold_logprob_PT=gold) == pytest.approx([0.5, 0, 0.5])


@pytest.mark.parametrize("name", get_args(Weighting))
def test_a_prior_multiplies(name: Weighting):
    prior = np.array([0.5, 0.3, 0.2])
    plain = ask(name)
    assert ask(name, log_prior_PT=np.log(prior)) == pytest.approx(scaled(*(plain * prior)), rel=1e-5)


@pytest.mark.parametrize("name", get_args(Weighting))
def test_values_of_uncovered_teachers_are_not_read(name: Weighting):
    nan = np.array([[0.0, np.nan, 0.0]])
    covered = [True, False, True]
    with_nan = ask(name, covered, entropy_PT=ENTROPY + nan, gold_logprob_PT=GOLD + nan)
    assert with_nan.tolist() == ask(name, covered).tolist()


@given(
    name=st.sampled_from(get_args(Weighting)),
    teachers=st.integers(1, 4),
    tau=st.floats(0.05, 20),
    seed=st.integers(0, 999),
)
def test_rows_sum_to_one_over_the_teachers_that_answer(name: Weighting, teachers: int, tau: float, seed: int):
    generator = np.random.default_rng(seed)
    shape = (20, teachers)
    covered = generator.random(shape) < 0.6
    found = weights(
        name,
        entropy_PT=generator.gamma(1.0, 3.0, shape),
        gold_logprob_PT=-generator.gamma(1.0, 4.0, shape),
        covered_PT=covered,
        log_prior_PT=np.log(generator.dirichlet(np.ones(teachers))),
        tau=tau,
        score_PT=generator.normal(0, 3, shape) if name == "learned" else None,
    )
    assert found.dtype == np.float32 and found.shape == shape
    assert (found >= 0).all() and (found[~covered] == 0).all()
    np.testing.assert_allclose(found.sum(axis=1), covered.any(axis=1), atol=1e-6)
