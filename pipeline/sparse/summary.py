"""Reduce full logits to a row of a teacher's store.

A row lists its most likely ids with log-probabilities of the full softmax, never renormalised. Beside the list it has
statistics: the mass outside the list, the entropy and the true token's log-probability at each temperature. The
distribution outside the list is described by the row's low-rank tail (`pipeline.sparse.tail`) or, in forms that draw,
by ids drawn from it. `storage.records.logits.SparseLogits` defines the numbers.
`python -m benchmarks.speed --only topk` measures the cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.sparse.params import Keep
from pipeline.sparse.restore import DRAWN_COLUMN
from pipeline.sparse.selection import choose, chunk_rows, draw, largest
from storage.format.arrays import sentinel
from storage.records.base import id_dtype
from storage.records.logits import SparseLogits

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.sparse.tail import TailShape


Summary: TypeAlias = "dict[str, Tensor]"
"""The fields of `SparseLogits` by name, as tensors on the logits' device; ids are int64, -1 where there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tempered:
    """A chunk's softmax at one temperature: the candidates apart from the rest, both up to the factor share_C."""

    p_CQ: Tensor
    rest_C: Tensor
    share_C: Tensor
    log_max_C: Tensor


def summarise(
    logits_PV: Tensor,
    gold_P: Tensor,
    *,
    keep: Keep,
    temperatures: Sequence[float],
    tail: TailShape,
    uniform_PS: NDArray[np.float64] | None = None,
) -> Summary:
    """Keep of each row what the form `keep` says and exact statistics at each of J temperatures; the first is 1.

    logits_PV is finite, of any float type on any device; computed in float32. gold_P holds the true ids. A list is
    never longer than the vocabulary. Forms that draw need uniform_PS, S numbers in [0, 1) for every row: they
    decide the draws. Memory beside the result is that of a chunk of rows.
    """
    import torch

    rows, vocabulary = logits_PV.shape
    assert temperatures[0] == 1.0, temperatures
    assert tuple(temperatures) == tail.temperatures, f"{temperatures}, tail fitted at {tail.temperatures}"
    if keep.draws:
        assert keep.most < vocabulary, f"all {vocabulary} ids are listed, none is left to draw"
        assert len(temperatures) > DRAWN_COLUMN, "ids are drawn at the second temperature"
        assert uniform_PS is not None and uniform_PS.shape == (rows, keep.draws), "draws need uniforms"
    summary = _unanswered(logits_PV, keep=keep, tail=tail)
    size = max(1, min(rows, chunk_rows(logits_PV)))
    # Allocated once: page faults of fresh buffers cost more than the arithmetic on them.
    below, p, work = (torch.full((size, vocabulary), 0.0, device=logits_PV.device) for _ in range(3))
    with torch.no_grad():
        for start in range(0, rows, size):
            chunk = slice(start, min(start + size, rows))
            count = chunk.stop - chunk.start
            below[:count].copy_(logits_PV[chunk])
            part = {name: column[chunk] for name, column in summary.items()}
            uniform_CS = None if uniform_PS is None else torch.from_numpy(uniform_PS[chunk]).to(logits_PV.device)
            buffers = below[:count], p[:count], work[:count]
            _summarise_chunk(gold_P[chunk], part, keep=keep, tail=tail, uniform_CS=uniform_CS, buffers=buffers)
    return summary


def record_of(summary: Summary, *, vocabulary: int) -> SparseLogits:
    """The rows as a record, not checked, on the CPU; ids have the dtype of a store with this vocabulary."""
    ids = np.dtype(id_dtype(vocabulary))

    def array(column: Tensor) -> NDArray[Any]:
        values: NDArray[Any] = column.cpu().numpy()
        return np.where(values < 0, sentinel(ids), values).astype(ids) if values.dtype == np.int64 else values

    return SparseLogits(**{name: array(column) for name, column in summary.items()})


def _unanswered(logits_PV: Tensor, *, keep: Keep, tail: TailShape) -> Summary:
    """Rows to be filled, as `SparseLogits.empty` has them."""
    import torch

    rows, vocabulary = logits_PV.shape
    record = SparseLogits.empty(
        rows,
        most=keep.most,
        draws=keep.draws,
        temperatures=len(tail.temperatures),
        rank=tail.size,
        vocabulary=vocabulary,
    )

    def tensor(values: NDArray[Any]) -> Tensor:
        no_ids = values.dtype.kind == "u"
        filled = torch.full(values.shape, -1, dtype=torch.int64) if no_ids else torch.from_numpy(values)
        return filled.to(logits_PV.device)

    return {name: tensor(values) for name, values in record.arrays().items()}


def _summarise_chunk(
    gold_C: Tensor,
    part: Summary,
    *,
    keep: Keep,
    tail: TailShape,
    uniform_CS: Tensor | None,
    buffers: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Fill `part`, the chunk's rows of the summary; the first buffer holds the logits, and all three are overwritten.

    With d = logit - largest logit, log p_T = d / T + log max p_T: every statistic follows from the softmax at T and its
    largest entry, without a second exponential. Sums outside the list are taken with the list's entries set to zero, so
    a tail of 1e-12 is as exact as one of 0.1. Which ids are listed is known only after the softmax at 1, so until then
    the Q candidates for the list are kept apart from the rest.
    """
    below_CV, p_CV, work_CV = buffers
    ids_CQ = largest(below_CV, max(1, min(keep.most, below_CV.shape[1])))
    below_CV.sub_(below_CV.gather(1, ids_CQ[:, :1]))
    below_CQ = below_CV.gather(1, ids_CQ)
    gold_below_C = below_CV.gather(1, gold_C[:, None])[:, 0]
    tempered: dict[int, _Tempered] = {}
    p_CQ = below_CQ
    for j, halved in _order(tail.temperatures):
        temperature = tail.temperatures[j]
        if halved:  # p_T is proportional to p_2T squared: no exponential needed
            p_CV.mul_(p_CV)
            p_CQ = p_CQ * p_CQ
        else:
            _tempered_softmax(below_CV, temperature, work_CV, p_CV)
            p_CQ = p_CV.gather(1, ids_CQ)
            p_CV.scatter_(1, ids_CQ, 0.0)
        rest_C = p_CV.sum(dim=1)
        share_C = 1 / (rest_C + p_CQ.sum(dim=1))
        log_max_C = (share_C * p_CQ[:, 0]).log()
        tempered[j] = _Tempered(p_CQ=p_CQ, rest_C=rest_C, share_C=share_C, log_max_C=log_max_C)
        mean_below_C = _dot(p_CV, below_CV, work_CV) + (p_CQ * below_CQ).sum(dim=1)
        part["entropy_PJ"][:, j] = -(share_C * mean_below_C / temperature + log_max_C)
        part["gold_logprob_PJ"][:, j] = gold_below_C / temperature + log_max_C
        if j == DRAWN_COLUMN and uniform_CS is not None:
            drawn_CS, share_CS = draw(p_CV, ids_CQ, p_CQ, uniform_CS=uniform_CS, listed=keep.most > 0)
            part["drawn_ids_PS"].copy_(drawn_CS)
            part["drawn_share_PS"].copy_(share_CS)
    first = tempered[0]
    listed_CQ = choose(first.share_C[:, None] * first.p_CQ, keep)
    _store_list(part, ids_CQ, below_CQ + first.log_max_C[:, None], listed_CQ, gold_C)
    for j, at in tempered.items():
        part["tail_PJ"][:, j] = at.share_C * (at.rest_C + at.p_CQ.masked_fill(listed_CQ, 0.0).sum(dim=1))
    if tail.size:
        part["sketch_PD"].copy_(tail.codes(below_CV))
    part["spread_PJ"].copy_(tail.spread(part["sketch_PD"], ids_CQ, listed_CQ=listed_CQ, buffers=buffers))


def _tempered_softmax(below_CV: Tensor, temperature: float, work_CV: Tensor, p_CV: Tensor) -> None:
    import torch

    scaled_CV = below_CV if temperature == 1 else torch.mul(below_CV, 1 / temperature, out=work_CV)
    torch.softmax(scaled_CV, dim=1, out=p_CV)


def _dot(a_CV: Tensor, b_CV: Tensor, work_CV: Tensor) -> Tensor:
    """Row by row."""
    import torch

    return torch.mul(a_CV, b_CV, out=work_CV).sum(dim=1)


def _store_list(part: Summary, ids_CQ: Tensor, logprob_CQ: Tensor, listed_CQ: Tensor, gold_C: Tensor) -> None:
    import torch

    if part["ids_PK"].shape[1] == 0:
        return
    part["ids_PK"].copy_(ids_CQ.masked_fill(~listed_CQ, -1))
    part["logprob_PK"].copy_(logprob_CQ.masked_fill(~listed_CQ, float("nan")))
    hit_CQ = (ids_CQ == gold_C[:, None]) & listed_CQ
    part["gold_place_P"].copy_(torch.where(hit_CQ.any(dim=1), hit_CQ.int().argmax(dim=1), -1))


def _order(temperatures: Sequence[float]) -> list[tuple[int, bool]]:
    """All indices, each with whether its temperature is half the previous one; a half follows its double."""
    left = sorted(range(len(temperatures)), key=lambda j: -temperatures[j])
    order: list[tuple[int, bool]] = []
    while left:
        half = [j for j in left if order and 2 * temperatures[j] == temperatures[order[-1][0]]]
        order.append((half[0], True) if half else (left[0], False))
        left.remove(order[-1][0])
    return order
