"""The weight of each teacher at each prediction.

The literature means several things by prediction weighting; `weights` has the definitions that this project offers.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Weighting = Literal["entropy", "learned", "gold", "ca_mkd", "uniform"]


def weights(
    name: Weighting,
    *,
    entropy_PT: NDArray[np.floating],
    gold_logprob_PT: NDArray[np.floating],
    covered_PT: NDArray[np.bool_],
    log_prior_PT: NDArray[np.floating],
    tau: float,
    score_PT: NDArray[np.floating] | None = None,
) -> NDArray[np.float32]:
    """Weights [P, T], float32: each row sums to 1 over the teachers that cover it, 0 for others; all 0 if none does.

    With H_t the entropy of teacher t's full softmax p_t, y the true token and pi_t the teacher's prior:

    uniform: w_t = pi_t / sum_s pi_s.
    entropy: w_t = pi_t exp(-H_t / tau) / sum_s pi_s exp(-H_s / tau); sees no label. This project's definition of
        prediction weighting. That teachers of lower entropy count more is Kwon et al. 2020
        (doi:10.1109/ICASSP40776.2020.9054698); the softmax is ours.
    learned: w_t = pi_t exp(s_t) / sum_u pi_u exp(s_u), with the scores s of `pipeline.fuse.gate.Gate`, which saw the
        labels of the train and calibration splits, as few numbers, and no others.
    gold: w_t = pi_t p_t(y)^(1 / tau) / sum_s pi_s p_s(y)^(1 / tau): at tau 1 and equal
        priors the posterior of teacher t given the true token (Bayesian model averaging). Sees the label.
    ca_mkd: with CE_t = -log p_t(y) and n covering teachers, w_t = (1 - exp(CE_t / tau) / sum_s exp(CE_s / tau)) /
        (n - 1), times pi_t and scaled to sum 1; w_t = 1 when n = 1. Zhang et al. 2022 (CA-MKD, arXiv 2201.00007),
        where tau = 1 and pi is equal. It sets the worst teacher aside rather than choosing the best. Sees the label.

    With `debias` H_t and p_t are still those of the teachers as they answered; the scores s know the correction.
    All inputs are natural logs or nats at one temperature; values of uncovered teachers are not read. The logs of the
    priors are [P, T], or [T] where they are the same at all positions. score_PT is of `learned` alone.
    """
    assert tau > 0, tau
    assert (score_PT is not None) == (name == "learned"), name
    prior_PT = np.where(covered_PT, np.asarray(log_prior_PT, np.float64), -np.inf)
    if name == "ca_mkd":
        loss_PT = np.where(covered_PT, -gold_logprob_PT.astype(np.float64) / tau, -np.inf)
        trust_PT = np.where(covered_PT.sum(axis=1, keepdims=True) > 1, 1 - softmax(loss_PT), covered_PT)
        weight_PT = trust_PT * softmax(prior_PT)
        total_P1 = weight_PT.sum(axis=1, keepdims=True)
        weight_PT = np.divide(weight_PT, total_P1, out=np.zeros_like(weight_PT), where=total_P1 > 0)
    else:
        confidence: dict[str, Any] = {"uniform": np.zeros(()), "entropy": -entropy_PT, "gold": gold_logprob_PT}
        if score_PT is not None:
            evidence_PT = np.where(covered_PT, score_PT, 0)
        else:
            evidence_PT = np.where(covered_PT, confidence[name], 0).astype(np.float64) / tau
        weight_PT = softmax(prior_PT + evidence_PT)
    return weight_PT.astype(np.float32)


def softmax(score_PT: NDArray[np.float64]) -> NDArray[np.float64]:
    """Softmax over teachers; rows of nothing but -inf become 0."""
    largest_P1 = score_PT.max(axis=1, keepdims=True)
    power_PT = np.exp(score_PT - np.where(np.isfinite(largest_P1), largest_P1, 0))
    total_P1 = power_PT.sum(axis=1, keepdims=True)
    return np.asarray(np.divide(power_PT, total_P1, out=np.zeros_like(power_PT), where=total_P1 > 0))
