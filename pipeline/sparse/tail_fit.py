"""Fit how a teacher's tails are encoded and restored, on rows of its logits.

The basis holds the leading right singular vectors of the logits, centred by row and by column: rows weigh as their tail
mass, columns as half the mean tail and half the uniform distribution, so that neither the frequent ids nor the many
rare ones dominate. A row's code is its projection, rounded to steps of `TailParams.step`. The bias at each temperature
is then fitted by proportional fitting (Deming and Stephan 1940), so that over the rows the mean restored tail is the
mean true one. This keeps the direction of a batch's mean gradient, which singular vectors alone do not. With D = 0 the
bias is the log of the mean tail.

The logits are read about a dozen times, in chunks, and are never all in float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.core.seeds import generator
from pipeline.sparse.params import Keep, TailParams
from pipeline.sparse.selection import choose, chunk_rows, erase, largest
from pipeline.sparse.tail import TailShape

if TYPE_CHECKING:
    from torch import Tensor


BIAS_FLOOR = -30.0
"""Least bias, nats, where the exponentials of the biases sum to 1: 1e-13, so that every id stays possible."""

SUBSPACE_ROUNDS = 4
"""Power iterations: more change the restored distribution very little."""

SUBSPACE_SPARE = 10
"""Columns beyond D that are iterated and dropped (Halko, Martinsson and Tropp 2011, arXiv 0909.4061)."""

BIAS_ROUNDS = 4
"""Rounds of proportional fitting: without them the mean tail is off on new rows, and more change very little."""

PSEUDO_ROWS = 3.0
"""Mass of so many rows, spread evenly over all ids, is added to both sides of the fit: an id with almost no mass in
the rows keeps its starting value. The fit depends little on the number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rows:
    """Rows and the statistics of their tails, read in chunks."""

    batches: list[Tensor]
    ids_PQ: Tensor
    listed_PQ: Tensor
    tail_PJ: Tensor
    """float32."""
    tail_sum_JV: Tensor
    """float64, sum over rows of the probability outside the list."""
    mean_V: Tensor
    """float64, mean distribution at temperature 1."""
    mu_V: Tensor
    """float32, mean logits."""


def _chunks(batches: list[Tensor]) -> Iterator[tuple[slice, Tensor]]:
    """Rows counted over all batches, and their logits in float32."""
    done = 0
    for batch in batches:
        size = chunk_rows(batch)
        for start in range(0, len(batch), size):
            part_CV = batch[start : start + size].float()
            yield slice(done + start, done + start + len(part_CV)), part_CV
        done += len(batch)


def fit_tail(batches: Iterable[Tensor], *, keep: Keep, temperatures: Sequence[float], tail: TailParams) -> TailShape:
    """Fit to rows of logits, given as [Q, V] tensors of any float type on one device.

    For forms that draw ids D is 0, whatever `tail.rank` is.
    """
    import torch

    with torch.no_grad():
        rows = _read(list(batches), keep, temperatures)
        vocabulary = len(rows.mu_V)
        size = 0 if keep.draws else tail.rank
        pseudo = PSEUDO_ROWS / vocabulary
        order_V = rows.mean_V.argsort(descending=True, stable=True)
        if size == 0:
            bias_JV = _floored((rows.tail_sum_JV + pseudo).log())
            none_DV = bias_JV.new_zeros((0, vocabulary))
            return TailShape(
                bias_JV=bias_JV,
                basis_DV=none_DV,
                encode_VD=none_DV.T,
                offset_D=none_DV[:, 0],
                order_V=order_V,
                temperatures=tuple(temperatures),
            )
        weight_V = 0.5 * rows.tail_sum_JV[0] / rows.tail_sum_JV[0].sum().clamp_min(1e-30) + 0.5 / vocabulary
        weight_V = (weight_V / weight_V.sum()).float()
        right_VD = _singular_vectors(rows, weight_V, size)
        encode_VD = weight_V.sqrt()[:, None] * right_VD / tail.step
        encode_VD -= weight_V[:, None] * encode_VD.sum(dim=0)
        encode_VD = encode_VD.half().float()  # as stored, so that an extended store is encoded with the same numbers
        basis_DV = (tail.step * right_VD / weight_V.sqrt()[:, None]).T.half().float().contiguous()
        start = TailShape(
            bias_JV=_floored(torch.stack([rows.mu_V.double() / temperature for temperature in temperatures])),
            basis_DV=basis_DV,
            encode_VD=encode_VD,
            offset_D=rows.mu_V @ encode_VD,
            order_V=order_V,
            temperatures=tuple(temperatures),
        )
        return _fit_bias(rows, start, pseudo)


def _read(batches: list[Tensor], keep: Keep, temperatures: Sequence[float]) -> _Rows:
    """Read the logits once."""
    import torch

    vocabulary, device = batches[0].shape[1], batches[0].device
    tail_sum_JV = torch.zeros((len(temperatures), vocabulary), dtype=torch.float64, device=device)
    mean_V, mu_V = torch.zeros_like(tail_sum_JV[0]), torch.zeros_like(tail_sum_JV[0])
    ids, listed, tails = [], [], []
    for _, raw_CV in _chunks(batches):
        logits_CV = raw_CV - raw_CV.mean(dim=1, keepdim=True)
        mu_V += logits_CV.sum(dim=0)
        ids_CQ = largest(logits_CV, max(1, min(keep.most, vocabulary)))
        p_CV = torch.softmax(logits_CV, dim=1)
        mean_V += p_CV.sum(dim=0)
        listed_CQ = choose(p_CV.gather(1, ids_CQ), keep)
        tail_CJ = logits_CV.new_zeros((len(logits_CV), len(temperatures)))
        for j, temperature in enumerate(temperatures):
            p_CV = torch.softmax(logits_CV / temperature, dim=1)
            erase(p_CV, ids_CQ, listed_CQ)
            tail_CJ[:, j] = p_CV.sum(dim=1)
            tail_sum_JV[j] += p_CV.sum(dim=0)
        ids.append(ids_CQ)
        listed.append(listed_CQ)
        tails.append(tail_CJ)
    count = sum(len(batch) for batch in batches)
    return _Rows(
        batches=batches,
        ids_PQ=torch.cat(ids),
        listed_PQ=torch.cat(listed),
        tail_PJ=torch.cat(tails),
        tail_sum_JV=tail_sum_JV,
        mean_V=mean_V / count,
        mu_V=(mu_V / count).float(),
    )


def _singular_vectors(rows: _Rows, weight_V: Tensor, size: int) -> Tensor:
    """Leading right singular vectors [V, D] of the weighted, centred logits, by subspace iteration; signs are fixed.

    Where there are fewer than D, the rest are zeros.
    """
    import torch

    vocabulary = len(weight_V)
    width = min(size + SUBSPACE_SPARE, vocabulary, len(rows.tail_PJ))
    random_VW = generator(0, "sketch", vocabulary).standard_normal((vocabulary, width))
    z_VW = torch.from_numpy(random_VW).to(weight_V)
    for _ in range(SUBSPACE_ROUNDS):
        z_VW = torch.linalg.qr(z_VW).Q
        next_VW = torch.zeros_like(z_VW)
        for _, x_CV in _centred(rows, weight_V):
            y_CW = x_CV @ z_VW
            next_VW += x_CV.T @ y_CW
        z_VW = next_VW
    z_VW = torch.linalg.qr(z_VW).Q
    y_PW = torch.cat([x_CV @ z_VW for _, x_CV in _centred(rows, weight_V)])
    rotation_WW = torch.linalg.svd(y_PW.double(), full_matrices=False).Vh.T.to(z_VW)
    right_VD = z_VW @ rotation_WW[:, :size]
    peak_D = right_VD.gather(0, right_VD.abs().argmax(dim=0, keepdim=True))
    right_VD = right_VD * torch.where(peak_D < 0, -1.0, 1.0)
    return torch.nn.functional.pad(right_VD, (0, size - right_VD.shape[1]))


def _centred(rows: _Rows, weight_V: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Chunks of the matrix whose singular vectors are sought."""
    root_V, root_P = weight_V.sqrt(), rows.tail_PJ[:, 0].sqrt()
    for chunk, logits_CV in _chunks(rows.batches):
        x_CV = logits_CV - rows.mu_V
        x_CV -= (x_CV @ weight_V)[:, None]
        x_CV *= root_V
        x_CV *= root_P[chunk, None]
        yield chunk, x_CV


def _fit_bias(rows: _Rows, start: TailShape, pseudo: float) -> TailShape:
    """Proportional fitting: raise the bias of ids whose restored mass is too small, lower that of the others."""
    import torch

    codes_PD = torch.cat([start.codes(logits_CV) for _, logits_CV in _chunks(rows.batches)])
    bias_JV, size = start.bias_JV, chunk_rows(rows.batches[0])
    for _ in range(BIAS_ROUNDS):
        restored_JV = torch.zeros_like(rows.tail_sum_JV)
        for first in range(0, len(codes_PD), size):
            chunk = slice(first, first + size)
            product_CV = codes_PD[chunk].float() @ start.basis_DV
            for j, temperature in enumerate(start.temperatures):
                p_CV = torch.softmax(torch.add(bias_JV[j], product_CV, alpha=1 / temperature), dim=1)
                erase(p_CV, rows.ids_PQ[chunk], rows.listed_PQ[chunk])
                scale_C = rows.tail_PJ[chunk, j] / p_CV.sum(dim=1).clamp_min(1e-30)
                restored_JV[j] += scale_C @ p_CV
        bias_JV = _floored(bias_JV.double() + ((rows.tail_sum_JV + pseudo) / (restored_JV + pseudo)).log())
    return replace(start, bias_JV=bias_JV)


def _floored(log_JV: Tensor) -> Tensor:
    """float32 biases whose exponentials sum to 1, none below BIAS_FLOOR."""
    import torch

    return torch.log_softmax(torch.log_softmax(log_JV, dim=1).clamp_min(BIAS_FLOOR), dim=1).float()
