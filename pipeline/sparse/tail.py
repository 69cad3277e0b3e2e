"""The low-rank tail: the distribution outside a row's list as D small numbers, log-bilinear in id and row.

Outside the list, p(v) is restored in proportion to exp(bias[v] + code @ basis[:, v] / T), with one bias for each
temperature T. `pipeline.sparse.tail_fit` finds bias and basis. With D = 0 there is no basis and every row has
the same prior.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.sparse.selection import erase

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from storage.reader import Store
    from storage.records.logits import SparseLogits


CODE_LIMIT = 127
"""Codes are int8, symmetric: -127 to 127."""

SMALLEST_SHARE = 1e-30
"""Float32 probability below which its logarithm is not exact enough (denormals begin at 1e-38)."""

SMALLEST_OUTSIDE = 1e-9
"""Prior mass outside a list below which it is summed directly instead of as 1 minus the listed mass (float64)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TailShape:
    """How a teacher's tails are encoded and restored; made by `fit_tail`, tensors on one device."""

    bias_JV: Tensor
    """float32, finite; exponentials sum to 1 over v."""
    basis_DV: Tensor
    """float32 holding float16 values; a step of a code is folded in."""
    encode_VD: Tensor
    """float32 holding float16 values; columns sum to 0, so that a constant added to a row changes next to nothing."""
    offset_D: Tensor
    """float32; code = round(logits @ encode - offset)."""
    order_V: Tensor
    """int64, ids by falling mean probability."""
    temperatures: tuple[float, ...]
    """Of the J biases; the first is 1."""

    @property
    def size(self) -> int:
        """D."""
        return self.basis_DV.shape[0]

    def constants(self) -> dict[str, NDArray[Any]]:
        """The constants of a store: `tail_bias_JV` float32, `order_V` uint32 and, when D > 0, `tail_basis_DV`.

        `tail_encode_VD` and `tail_offset_D` are for extending the store; readers do not need them.
        """
        constants: dict[str, NDArray[Any]] = {
            "tail_bias_JV": self.bias_JV.cpu().numpy(),
            "order_V": self.order_V.cpu().numpy().astype(np.uint32),
        }
        if self.size:
            constants["tail_basis_DV"] = self.basis_DV.cpu().numpy().astype(np.float16)
            constants["tail_encode_VD"] = self.encode_VD.cpu().numpy().astype(np.float16)
            constants["tail_offset_D"] = self.offset_D.cpu().numpy()
        return constants

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything, for `from_arrays` in a later process."""
        return {
            "bias_JV": self.bias_JV.cpu().numpy(),
            "basis_DV": self.basis_DV.cpu().numpy(),
            "encode_VD": self.encode_VD.cpu().numpy(),
            "offset_D": self.offset_D.cpu().numpy(),
            "order_V": self.order_V.cpu().numpy(),
            "temperatures": np.array(self.temperatures, np.float64),
        }

    @staticmethod
    def from_arrays(arrays: dict[str, NDArray[Any]], *, device: torch.device) -> TailShape:
        """The shape that gave `arrays`, on `device`."""
        import torch

        tensors = {name: torch.from_numpy(array).to(device) for name, array in arrays.items() if name != "temperatures"}
        return TailShape(**tensors, temperatures=tuple(arrays["temperatures"].tolist()))

    @staticmethod
    def of_store(store: Store[SparseLogits], *, device: torch.device) -> TailShape:
        """The shape that a store's rows were encoded with."""
        vocabulary = int(store.facts["vocabulary"])
        low_rank = "sketch_PD" in store.manifest.arrays
        arrays = {
            "bias_JV": store.constant("tail_bias_JV"),
            "order_V": store.constant("order_V").astype(np.int64),
            "basis_DV": np.zeros((0, vocabulary), np.float32),
            "encode_VD": np.zeros((vocabulary, 0), np.float32),
            "offset_D": np.zeros(0, np.float32),
            "temperatures": np.array(store.facts["temperatures"], np.float64),
        }
        if low_rank:
            for name in ("basis_DV", "encode_VD", "offset_D"):
                arrays[name] = store.constant(f"tail_{name}").astype(np.float32)
        return TailShape.from_arrays(arrays, device=device)

    def codes(self, logits_CV: Tensor) -> Tensor:
        """int8 [C, D] for float32 rows of logits; a constant added to a row changes next to nothing."""
        import torch

        z_CD = logits_CV @ self.encode_VD - self.offset_D
        return z_CD.round_().clamp_(-CODE_LIMIT, CODE_LIMIT).to(torch.int8)

    def spread(
        self, codes_CD: Tensor, ids_CQ: Tensor, *, listed_CQ: Tensor, buffers: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        """float32 [C, J]: log of the sum of exp(bias + code @ basis / T) over unlisted ids; 0 where all are listed.

        ids_CQ are a row's most likely ids and listed_CQ which of them are listed; `buffers` are three float32 [C, V]
        that are overwritten.
        """
        import torch

        if self.size == 0:
            return self._plain_spread(ids_CQ, listed_CQ)
        product_CV, exponent_CV, p_CV = buffers
        torch.matmul(codes_CD.float(), self.basis_DV, out=product_CV)
        spread_CJ = product_CV.new_zeros((len(ids_CQ), len(self.temperatures)))
        for j, temperature in enumerate(self.temperatures):
            torch.add(self.bias_JV[j], product_CV, alpha=1 / temperature, out=exponent_CV)
            spread_CJ[:, j] = _log_sum_outside(exponent_CV, ids_CQ, listed_CQ, p_CV)
        return spread_CJ

    def _plain_spread(self, ids_CQ: Tensor, listed_CQ: Tensor) -> Tensor:
        """One prior for all rows: 1 minus the listed mass, summed directly where too little is left to be exact."""
        prior_JV = self.bias_JV.double().exp()
        listed_JCQ = prior_JV[:, ids_CQ].masked_fill_(~listed_CQ, 0)
        outside_CJ = (prior_JV.sum(dim=1)[:, None] - listed_JCQ.sum(dim=2)).T
        spread_CJ = outside_CJ.clamp_min(SMALLEST_OUTSIDE).log().float()
        for row, j in (outside_CJ < SMALLEST_OUTSIDE).nonzero().tolist():
            one = slice(row, row + 1)
            spread_CJ[row, j] = _log_sum_exactly(self.bias_JV[j : j + 1], ids_CQ[one], listed_CQ[one])[0]
        return spread_CJ


def _log_sum_outside(exponent_CV: Tensor, ids_CQ: Tensor, listed_CQ: Tensor, p_CV: Tensor) -> Tensor:
    """float32 [C]: log of the sum of exp(exponent) over unlisted ids; p_CV is overwritten.

    The fused softmax is faster than logsumexp. From it the result is e(u) - log p(u) + log(sum of p outside) for any
    u; here u is the row's most likely id. Rows where p(u) or the sum is too small to be exact use logsumexp.
    """
    import torch

    torch.softmax(exponent_CV, dim=1, out=p_CV)
    p_C = p_CV.gather(1, ids_CQ[:, :1])[:, 0]
    erase(p_CV, ids_CQ, listed_CQ)
    outside_C = p_CV.sum(dim=1)
    spread_C = exponent_CV.gather(1, ids_CQ[:, :1])[:, 0] - p_C.log() + outside_C.log()
    again_C = (p_C < SMALLEST_SHARE) | (outside_C < SMALLEST_SHARE)
    if bool(again_C.any()):
        spread_C[again_C] = _log_sum_exactly(exponent_CV[again_C], ids_CQ[again_C], listed_CQ[again_C])
    return spread_C


def _log_sum_exactly(exponent_CV: Tensor, ids_CQ: Tensor, listed_CQ: Tensor) -> Tensor:
    import torch

    erased_CQ = exponent_CV.gather(1, ids_CQ).masked_fill_(listed_CQ, -torch.inf)
    return exponent_CV.scatter(1, ids_CQ, erased_CQ).logsumexp(dim=1).nan_to_num_(neginf=0.0)


def tail_chunk(ids_CM: Tensor, tail_CT: Tensor, code_CTD: Tensor, bias_TV: Tensor, basis_TDV: Tensor | None) -> Tensor:
    """Dense float32 [C, V]: sum over teachers of tail_CT spread in proportion to exp(bias + code @ basis).

    Zero at listed ids (below 0 in ids_CM: none); every teacher's part sums to its tail. A teacher without mass
    outside the list adds nothing to that row. basis_TDV, of any float type, is None or has D = 0 for plain priors.
    """
    import torch

    if basis_TDV is None or basis_TDV.shape[1] == 0:
        return _plain_chunk(ids_CM, tail_CT, bias_TV)
    # Allocated once for all teachers: page faults of fresh buffers cost as much as the arithmetic on them.
    dense_CV, exponent_CV, p_CV = torch.zeros((3, len(ids_CM), bias_TV.shape[1]), device=bias_TV.device).unbind()
    for t in range(bias_TV.shape[0]):
        torch.addmm(bias_TV[t].float(), code_CTD[:, t].float(), basis_TDV[t].float(), out=exponent_CV)
        nothing_C = _softmax_outside(exponent_CV, ids_CM, out=p_CV)
        dense_CV.addcmul_(p_CV, tail_CT[:, t].masked_fill(nothing_C, 0.0)[:, None])
    return dense_CV


def _plain_chunk(ids_CM: Tensor, tail_CT: Tensor, bias_TV: Tensor) -> Tensor:
    """One product for all teachers, and one division; rows with almost no prior mass left are computed one by one."""
    import torch

    prior_TV = torch.softmax(bias_TV.double(), dim=1)
    outside_CT = (1 - prior_TV[:, ids_CM.clamp_min(0)].masked_fill_(ids_CM < 0, 0.0).sum(dim=2)).T
    little_CT = outside_CT < SMALLEST_OUTSIDE
    dense_CV = (tail_CT / outside_CT).masked_fill_(little_CT, 0.0).float() @ prior_TV.float()
    _fill_listed(dense_CV, ids_CM, 0.0)
    for row, t in little_CT.nonzero().tolist():
        exponent_1V = bias_TV[t : t + 1].float().clone()
        part_1V = torch.zeros_like(exponent_1V)
        if not _softmax_outside(exponent_1V, ids_CM[row : row + 1], out=part_1V):
            dense_CV[row] += tail_CT[row, t] * part_1V[0]
    return dense_CV


def _softmax_outside(exponent_CV: Tensor, ids_CM: Tensor, *, out: Tensor) -> Tensor:
    """Write the softmax over unlisted ids to `out`, 0 at listed ones; overwrites exponent_CV.

    Returns the rows [C] where no id with a counterpart is left and `out` is meaningless. It is not set to 0 here, as
    the caller multiplies by a number of the row anyway.
    """
    import torch

    _fill_listed(exponent_CV, ids_CM, torch.finfo(torch.float32).min)  # and not -inf: a softmax of these alone is NaN
    torch.softmax(exponent_CV, dim=1, out=out)
    return exponent_CV.amax(dim=1) < NO_COUNTERPART / 2


def _fill_listed(x_CV: Tensor, ids_CM: Tensor, value: float) -> None:
    """Set x to `value` at the ids, in place; ids below 0 mean no id."""
    if ids_CM.shape[1] == 0:
        return
    # "No id" becomes the row's first id, where the same value is written; rows without any id are not changed.
    first_C1 = ids_CM[:, :1]
    ids_CM = ids_CM.where(ids_CM >= 0, first_C1).clamp_min(0)
    x_CV.scatter_(1, ids_CM, x_CV.gather(1, ids_CM).masked_fill_(first_C1 >= 0, value))


NO_COUNTERPART = -1e4
"""Exponent of a student id that no token of a teacher maps to: its exponential is 0."""
