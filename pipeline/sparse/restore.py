"""Restore dense rows over the whole vocabulary from a sparse store, a few at a time, for evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from storage.format.arrays import sentinel
from storage.reader import Store
from storage.records.logits import SparseLogits
from storage.records.targets import FusedTargets

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pipeline.sparse.loss import Tails


@dataclass(frozen=True, kw_only=True, slots=True)
class Restored:
    """Rows of a store with the constants that restore them, tensors on one device."""

    record: SparseLogits
    temperatures: tuple[float, ...]
    """Of the columns of the statistics."""
    bias_JV: Tensor
    """float32."""
    basis_DV: Tensor | None
    """float32; None for plain priors."""

    @staticmethod
    def of(store: Store[SparseLogits], record: SparseLogits, *, device: torch.device) -> Restored:
        """Rows `record` of `store`."""
        import torch

        basis_DV = None
        if record.sketch_PD.shape[1]:
            basis_DV = torch.from_numpy(store.constant("tail_basis_DV")).to(device).float()
        return Restored(
            record=record,
            temperatures=tuple(float(temperature) for temperature in store.facts["temperatures"]),
            bias_JV=torch.from_numpy(store.constant("tail_bias_JV")).to(device),
            basis_DV=basis_DV,
        )

    def chunk(self, row_C: Any, column: int) -> Tensor:
        """float32 [C, V] probabilities of the record's rows row_C at statistics column `column`."""
        import torch

        from pipeline.sparse.tail import tail_chunk

        part = SparseLogits(**{name: values[row_C] for name, values in self.record.arrays().items()})
        temperature = self.temperatures[column]
        p_CK = listed_probability(part, column=column, temperature=temperature)
        ids_CK = np.where(p_CK > 0, part.ids_PK, 0).astype(np.int64)
        tail_C = part.tail_PJ[:, column]
        if part.drawn_ids_PS.shape[1]:
            none_CS = part.drawn_share_PS == 0
            ids_CK = np.concatenate([ids_CK, np.where(none_CS, 0, part.drawn_ids_PS).astype(np.int64)], axis=1)
            p_CK = np.concatenate([p_CK, part.drawn_share_PS * tail_C[:, None]], axis=1)
            dense_CV = torch.zeros((len(part), self.bias_JV.shape[1]), device=self.bias_JV.device)
        else:
            basis_TDV = None if self.basis_DV is None else self.basis_DV[None] / temperature
            dense_CV = tail_chunk(
                torch.from_numpy(np.where(p_CK > 0, part.ids_PK.astype(np.int64), -1)).to(self.bias_JV.device),
                torch.from_numpy(tail_C[:, None].copy()).to(self.bias_JV.device),
                torch.from_numpy(part.sketch_PD[:, None, :].copy()).to(self.bias_JV.device),
                self.bias_JV[column][None],
                basis_TDV,
            )
        listed = torch.from_numpy(p_CK.astype(np.float32)).to(self.bias_JV.device)
        return dense_CV.scatter_add_(1, torch.from_numpy(ids_CK).to(self.bias_JV.device), listed)


@dataclass(frozen=True, kw_only=True, slots=True)
class RestoredTargets:
    """Rows of a fused store with the constants that restore them, in the students' vocabulary."""

    record: FusedTargets
    tails: Tails

    @staticmethod
    def of(store: Store[FusedTargets], record: FusedTargets, *, device: torch.device) -> RestoredTargets:
        """Rows `record` of `store`, to be restored on `device`."""
        from pipeline.sparse.loss import Tails

        return RestoredTargets(record=record, tails=Tails.of(store, device=device))

    def chunk(self, row_C: NDArray[np.int64]) -> Tensor:
        """float32 [C, V] probabilities of the record's rows row_C, as `FusedTargets` defines them; 0 where empty."""
        import torch

        from pipeline.sparse.loss import TargetBatch

        rows, device = self.record, self.tails.bias_TV.device
        ids_CM = rows.ids_PM[row_C]
        none_CM = ids_CM == sentinel(ids_CM.dtype)
        p_CM = np.where(none_CM, 0, np.exp(np.nan_to_num(rows.logprob_PM[row_C]))).astype(np.float32)
        targets = TargetBatch(
            torch.from_numpy(np.where(none_CM, -1, ids_CM.astype(np.int64))).to(device),
            torch.from_numpy(p_CM).to(device),
            torch.from_numpy(np.nan_to_num(rows.tail_PT[row_C])).to(device),
            torch.from_numpy(rows.sketch_PTD[row_C]).to(device),
        )
        dense_CV = torch.cat([outside_CV for _, outside_CV in self.tails.chunks(targets)])
        return dense_CV.scatter_add_(1, targets.ids_BM.clamp_min(0), targets.prob_BM)


DRAWN_COLUMN = 1
"""Temperature column that ids are drawn at: the calibrated one."""


def listed_probability(logits: SparseLogits, *, column: int, temperature: float) -> NDArray[np.float32]:
    """Probability [P, K] of every listed entry at statistics column `column` of `temperature`; 0 where there is none.

    p^(1/T), scaled so that list and exact tail sum to 1.
    """
    if logits.logprob_PK.shape[1] == 0:
        return np.zeros(logits.logprob_PK.shape, np.float32)
    # The list's first entry is its largest, so exponents are at most 0 and the sum at least 1 where there is a list.
    share_PK: NDArray[np.float32] = logits.logprob_PK - logits.logprob_PK[:, :1]
    np.fmax(share_PK, np.float32(-np.inf), out=share_PK)  # NaN becomes -inf
    share_PK *= np.float32(1 / temperature)
    np.exp(share_PK, out=share_PK)
    total_P = np.maximum(share_PK.sum(axis=1), np.float32(1))
    share_PK *= ((1 - np.nan_to_num(logits.tail_PJ[:, column], nan=1.0)) / total_P)[:, None]
    return share_PK
