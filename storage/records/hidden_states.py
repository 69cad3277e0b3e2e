"""HiddenStates: states before the output layer of some predictions, from which the full softmax is computed again.

Shapes are named by suffix: N sequences, L tokens a sequence, P predictions (masked positions, flat over sequences and
mask copies), K listed entries per teacher, S entries drawn from the rest, M listed after fusion, T teachers, J
temperatures, D coordinates of a row's low-rank tail, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from storage.format.arrays import ArraySpec, sentinel
from storage.records.base import Record, id_dtype, require


@dataclass(frozen=True, slots=True)
class HiddenStates(Record):
    """Inputs of a model's output layer at predictions, from which its full softmax can be computed.

    softmax(hidden @ head_weight_VH.T + head_bias_V), both constants of the store. A row that the model cannot answer is
    NaN.
    """

    kind: ClassVar[str] = "exact"
    stage: ClassVar[str] = "exact@{name}"

    hidden_PH: NDArray[np.float16]
    """Input of the output layer, after the head's own transformation."""
    gold_id_P: NDArray[Any]
    """The true token in the model's own vocabulary; sentinel where there is no answer."""

    @staticmethod
    def specs(*, width: int, vocabulary: int) -> dict[str, ArraySpec]:
        """Arrays of a store of states of `width` numbers."""
        return {
            "hidden_PH": ArraySpec(dtype="float16", row_shape=(width,)),
            "gold_id_P": ArraySpec(dtype=id_dtype(vocabulary)),
        }

    def covered_P(self) -> NDArray[np.bool_]:
        """True where the model answered."""
        return np.asarray(self.gold_id_P != sentinel(self.gold_id_P.dtype))

    def check(self) -> None:
        """Refuse rows that are finite in part."""
        Record.check(self)
        finite_P = np.isfinite(self.hidden_PH).all(axis=1)
        require(bool((finite_P == self.covered_P()).all()), "exact: a row has states without an id, or the reverse")
