"""From full logits to what is kept of them, and back to dense distributions.

A row keeps its k most likely ids with log-probabilities of the full softmax, never renormalised, and statistics that no
list of k can give: entropy and log-sum-exp at each listed temperature, and the log-probability of the true token. What
lies outside the list is kept as one number a row and, summed over rows, as the teacher's tail prior.

`summarise` costs about 150 microseconds a row on one core for 30,527 ids and three temperatures, 100 for one, where the
768-wide bfloat16 head takes 235 and the rest of such a teacher ten times that. The `restore` functions are dense
float64 references for tests and for showing single rows; fusion and losses never build such a matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from storage.arrays import sentinel
from storage.records import FusedTargets, SparseLogits

if TYPE_CHECKING:
    from torch import Tensor

CPU_CHUNK_ELEMENTS = 2**20
"""Logits worked on at once: 4 MB in float32, so that the dozen passes over a chunk read the cache (measured: 16 to 64
rows of 30,527 are equally fast, 256 rows take 2 to 5 times as long a row)."""

CUDA_CHUNK_ELEMENTS = 2**26
"""On a GPU chunks only bound memory: 256 MB, four such buffers live."""

TOP_BLOCK = 64
"""Ids a block in the search for the k largest."""


OUTSIDE_MINIMUM = 1e-6
"""Least prior mass outside a list over which a tail is spread: about the rounding of 1 minus a float32 sum."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What is kept of P rows of logits; tensors on the logits' device, fields as in `SparseLogits`."""

    ids_PK: Tensor
    """int64, most likely first."""
    logprob_PK: Tensor
    """float32, full softmax at temperature 1."""
    tail_P: Tensor
    """float32, log of the mass outside the list; -inf when there is none."""
    gold_logprob_P: Tensor
    """float32."""
    entropy_PJ: Tensor
    """float32, nats."""
    lse_PJ: Tensor
    """float32."""
    tail_sum_JV: Tensor
    """float64, sum over rows of the probability outside the list, at each temperature."""


def summarise(logits_PV: Tensor, gold_P: Tensor, *, keep: int, temperatures: Sequence[float]) -> Summary:
    """Keep the `keep` most likely ids of each row and exact statistics at each of J temperatures; the first is 1.

    logits_PV is finite, of any float type on any device; computed in float32. gold_P holds the true ids. Nothing larger
    than a chunk of rows is made beside the result.
    """
    import torch

    rows, vocabulary = logits_PV.shape
    assert 0 < keep <= vocabulary, f"keep {keep} of {vocabulary} ids"
    assert temperatures[0] == 1.0, temperatures
    device = logits_PV.device

    def table(columns: int) -> Tensor:
        return torch.full((rows, columns), float("nan"), dtype=torch.float32, device=device)

    summary = Summary(
        ids_PK=torch.full((rows, keep), -1, dtype=torch.int64, device=device),
        logprob_PK=table(keep),
        tail_P=table(1)[:, 0],
        gold_logprob_P=table(1)[:, 0],
        entropy_PJ=table(len(temperatures)),
        lse_PJ=table(len(temperatures)),
        tail_sum_JV=torch.zeros((len(temperatures), vocabulary), dtype=torch.float64, device=device),
    )
    elements = CPU_CHUNK_ELEMENTS if device.type == "cpu" else CUDA_CHUNK_ELEMENTS
    size = max(1, min(rows, elements // vocabulary))
    # Made once: freshly allocated megabytes cost more in page faults than the arithmetic on them (measured: twice).
    below, p, work = (torch.full((size, vocabulary), 0.0, device=device) for _ in range(3))
    with torch.no_grad():
        for start in range(0, rows, size):
            chunk = slice(start, min(start + size, rows))
            count = chunk.stop - chunk.start
            below[:count].copy_(logits_PV[chunk])
            _summarise_chunk(gold_P[chunk], temperatures, summary, chunk, below[:count], p[:count], work[:count])
    return summary


def _summarise_chunk(
    gold_C: Tensor,
    temperatures: Sequence[float],
    summary: Summary,
    chunk: slice,
    below_CV: Tensor,
    p_CV: Tensor,
    work_CV: Tensor,
) -> None:
    """Fill the rows `chunk` of the summary; below_CV comes in as logits, all three buffers are overwritten.

    With d = logit - largest logit, log p_T = d / T + log max p_T: every statistic follows from the softmax at T and its
    largest entry, without a second exponential. Sums outside the list are taken with the list's entries set to zero, so
    a tail of 1e-12 is as exact as one of 0.1.
    """
    import torch

    ids_CK = _largest(below_CV, summary.ids_PK.shape[1])
    below_CV.sub_(below_CV.gather(1, ids_CK[:, :1]))
    below_CK = below_CV.gather(1, ids_CK)
    summary.ids_PK[chunk] = ids_CK
    log_max_CJ = below_CV.new_zeros((len(below_CV), len(temperatures)))
    p_CK = below_CK
    for j, halved in _order(temperatures):
        temperature = temperatures[j]
        if halved:  # p_T is proportional to p_2T squared: no exponential needed
            p_CV.mul_(p_CV)
            p_CK = p_CK * p_CK
            share_C = 1 / (p_CV.sum(dim=1) + p_CK.sum(dim=1))
        else:
            scaled_CV = below_CV if temperature == 1 else torch.mul(below_CV, 1 / temperature, out=work_CV)
            torch.softmax(scaled_CV, dim=1, out=p_CV)
            p_CK = p_CV.gather(1, ids_CK)
            p_CV.scatter_(1, ids_CK, 0.0)
            share_C = torch.ones_like(p_CK[:, 0])
        log_max_C = (share_C * p_CK[:, 0]).log()
        mean_below_C = torch.mul(p_CV, below_CV, out=work_CV).sum(dim=1) + (p_CK * below_CK).sum(dim=1)
        summary.entropy_PJ[chunk, j] = -(share_C * mean_below_C / temperature + log_max_C)
        summary.tail_sum_JV[j] += share_C @ p_CV
        log_max_CJ[:, j] = log_max_C
        if j == 0:
            summary.logprob_PK[chunk] = below_CK + log_max_C[:, None]
            summary.tail_P[chunk] = (share_C * p_CV.sum(dim=1)).log()
            summary.gold_logprob_P[chunk] = below_CV.gather(1, gold_C[:, None])[:, 0] + log_max_C
    summary.lse_PJ[chunk] = log_max_CJ[:, :1] / below_CV.new_tensor(temperatures) - log_max_CJ


def _order(temperatures: Sequence[float]) -> list[tuple[int, bool]]:
    """All indices, each with whether its temperature is half that of the one before it; halves follow their doubles."""
    left = sorted(range(len(temperatures)), key=lambda j: -temperatures[j])
    order: list[tuple[int, bool]] = []
    while left:
        half = [j for j in left if order and 2 * temperatures[j] == temperatures[order[-1][0]]]
        order.append((half[0], True) if half else (left[0], False))
        left.remove(order[-1][0])
    return order


def _largest(x_CV: Tensor, keep: int) -> Tensor:
    """Ids of the `keep` largest of each row, in order; exact.

    The k largest lie in the k blocks with the largest maxima, so k * 64 candidates are searched and not V, in half the
    time. Block i holds the ids i, i + n, i + 2n, ...: maxima are then taken over whole vectors.
    """
    import torch

    rows, vocabulary = x_CV.shape
    blocks = vocabulary // TOP_BLOCK
    if blocks <= 2 * keep:
        return x_CV.topk(keep, dim=1).indices
    inside = blocks * TOP_BLOCK
    best_CK = x_CV[:, :inside].view(rows, TOP_BLOCK, blocks).amax(dim=1).topk(keep, dim=1, sorted=False).indices
    members = torch.arange(0, inside, blocks, device=x_CV.device)
    rest = torch.arange(inside, vocabulary, device=x_CV.device)
    candidates = torch.cat([(best_CK[:, None, :] + members[:, None]).flatten(1), rest.expand(rows, -1)], dim=1)
    return candidates.gather(1, x_CV.gather(1, candidates).topk(keep, dim=1).indices)


def restore_teacher(
    logits: SparseLogits, tail_prior_V: NDArray[np.floating], *, column: int, temperature: float
) -> NDArray[np.float64]:
    """Dense [P, V] distributions of a teacher in its own vocabulary, at statistics column `column` of `temperature`.

    p(v) = exp(logprob_v / T - lse) at kept ids; the rest of the mass is spread by the tail prior, restricted to ids
    that are not kept. Rounded logs that add up to more than 1 leave no tail. NaN where the teacher did not answer.
    """
    prior_V = tail_prior_V.astype(np.float64)
    dense_PV = np.full((len(logits), len(prior_V)), np.nan)
    for row in np.flatnonzero(logits.covered_P()):
        ids_K = logits.ids_PK[row].astype(np.int64)
        kept_K = np.exp(logits.logprob_PK[row].astype(np.float64) / temperature - float(logits.lse_PJ[row, column]))
        outside_V = prior_V.copy()
        outside_V[ids_K] = 0
        tail = max(0.0, 1 - kept_K.sum())
        dense_PV[row] = tail * outside_V / max(outside_V.sum(), np.finfo(np.float64).tiny)
        dense_PV[row, ids_K] = kept_K
    return dense_PV


def restore_fused(targets: FusedTargets, tail_prior_TV: NDArray[np.floating]) -> NDArray[np.float64]:
    """Dense [P, V] fused distributions in the students' vocabulary, as `FusedTargets` defines them; NaN where empty."""
    prior_TV = tail_prior_TV.astype(np.float64)
    dense_PV = np.full((len(targets), prior_TV.shape[1]), np.nan)
    none_PM = targets.ids_PM == sentinel(targets.ids_PM.dtype)
    for row in np.flatnonzero(targets.covered_P()):
        ids = targets.ids_PM[row][~none_PM[row]].astype(np.int64)
        outside_TV = prior_TV.copy()
        outside_TV[:, ids] = 0
        share_T = targets.tail_PT[row] / np.maximum(outside_TV.sum(axis=1), np.finfo(np.float64).tiny)
        dense_PV[row] = share_T @ outside_TV
        dense_PV[row, ids] = np.exp(targets.logprob_PM[row][~none_PM[row]].astype(np.float64))
    return dense_PV
