"""FusedTargets: the weighted mixture of teachers at each masked position, in the students' vocabulary.

Shapes are named by suffix: N sequences, L tokens a sequence, P predictions (masked positions, flat over sequences and
mask copies), K listed entries per teacher, S entries drawn from the rest, M listed after fusion, T teachers, J
temperatures, D coordinates of a row's low-rank tail, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from storage.format import codec
from storage.format.arrays import ArraySpec
from storage.records.base import Record, require
from storage.records.lists import MASS_TOLERANCE, check_list, list_specs, listed_mass


@dataclass(frozen=True, slots=True)
class FusedTargets(Record):
    """The teachers' mixture at every prediction, in the students' vocabulary.

    The restored distribution is `exp(logprob)` at `ids`; outside them it is the sum over t of tail_PT[t] spread over v
    in proportion to exp(bias_TV[t, v] + sketch_PTD[t] @ basis_TDV[t, :, v]), with the store's constants `tail_bias_TV`
    and `tail_basis_TDV`. A row no teacher could answer is empty: ids are sentinels, floats NaN.
    """

    kind: ClassVar[str] = "targets"
    stage: ClassVar[str] = "fuse@{name}"
    needs: ClassVar[tuple[str, ...]] = ("order_V",)

    ids_PM: NDArray[Any]
    """Token ids, most likely first; sentinel where a row has fewer entries."""
    logprob_PM: NDArray[np.float32]
    """Natural log of the mixture's probability; NaN where there is no id."""
    weight_PT: NDArray[np.float32]
    """Each teacher's weight, sums to 1; 0 where the teacher did not answer."""
    tail_PT: NDArray[np.float32]
    """Each teacher's share of the probability mass outside the M kept entries (linear)."""
    gold_logprob_P: NDArray[np.float32]
    """Natural log of the mixture's probability of the true token, from the teachers' full softmax."""
    sketch_PTD: NDArray[np.int8]
    """Coordinates of each teacher's tail."""

    @staticmethod
    def specs(*, keep: int, teachers: int, rank: int, vocabulary: int) -> dict[str, ArraySpec]:
        """Arrays on disk of a fused store of `teachers` teachers, up to `keep` entries and `rank` coordinates."""
        specs = {
            **list_specs("count_P", "step_E", "code_E", keep, vocabulary),
            "weight_PT": ArraySpec(dtype="uint8", row_shape=(teachers,)),
            "tail_PT": ArraySpec(dtype="uint8", row_shape=(teachers,)),
            "gold_P": ArraySpec(dtype="uint16"),
        }
        if rank:
            specs["sketch_PTD"] = ArraySpec(dtype="int8", row_shape=(teachers, rank))
        return specs

    @classmethod
    def groups(cls) -> tuple[frozenset[str], ...]:
        """Coordinates as the teachers have them."""
        return (
            frozenset({"count_P", "step_E", "code_E", "weight_PT", "tail_PT", "gold_P"}),
            frozenset({"sketch_PTD"}),
        )

    def encode(self, specs: Mapping[str, ArraySpec], constants: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Quantise and pack, as `storage.format.codec` says; the store's `order_V` gives the order of ids."""
        levels_PM = codec.to_levels(self.logprob_PM)
        count_P, step_E, code_E, _ = codec.pack_lists(self.ids_PM, levels_PM, constants["order_V"])
        arrays: dict[str, NDArray[Any]] = {
            "count_P": count_P,
            "step_E": step_E,
            "code_E": code_E,
            "weight_PT": codec.to_shares(self.weight_PT),
            "tail_PT": codec.to_root(self.tail_PT),
            "gold_P": codec.to_fixed(-self.gold_logprob_P, steps=codec.LOGPROB_STEPS),
        }
        if "sketch_PTD" in specs:
            arrays["sketch_PTD"] = self.sketch_PTD
        return arrays

    @classmethod
    def decode(
        cls, arrays: dict[str, NDArray[Any]], specs: Mapping[str, ArraySpec], constants: Mapping[str, NDArray[Any]]
    ) -> Self:
        """Inverse of `encode`, to the steps of the codec; listed values and tails are scaled to add up to 1."""
        ids_PM, levels_PM, _ = codec.unpack_lists(
            arrays["count_P"],
            arrays["step_E"],
            arrays["code_E"],
            constants["order_V"],
            most=specs["step_E"].most,
            highest=codec.LEVELS,
        )
        gold_P = codec.from_fixed(arrays["gold_P"], steps=codec.LOGPROB_STEPS)
        tail_PT = codec.from_root(arrays["tail_PT"])
        tail_PT[np.isnan(gold_P)] = np.nan
        weight_PT = codec.from_shares(arrays["weight_PT"])
        weight_PT[np.isnan(gold_P)] = np.nan
        codec.require_whole(levels_PM, tail_PT)
        logprob_PM, tail_PT = codec.share_out(levels_PM, tail_PT)
        rows, teachers = tail_PT.shape
        sketch_PTD = arrays.get("sketch_PTD", np.zeros((rows, teachers, 0), np.int8))
        codec.no_holes(sketch_PTD)
        return cls.from_arrays(
            {
                "ids_PM": ids_PM,
                "logprob_PM": logprob_PM,
                "weight_PT": weight_PT,
                "tail_PT": tail_PT,
                "gold_logprob_P": -gold_P,
                "sketch_PTD": sketch_PTD,
            }
        )

    def covered_P(self) -> NDArray[np.bool_]:
        """True where at least one teacher answered."""
        return np.isfinite(self.gold_logprob_P)

    def check(self) -> None:
        """Refuse entries without a value, weights that do not sum to one and masses above one."""
        Record.check(self)
        check_list("targets", self.ids_PM, self.logprob_PM)
        covered_P = self.covered_P()
        weight_P = self.weight_PT.sum(axis=1)
        require(
            bool((np.abs(weight_P - 1) <= MASS_TOLERANCE)[covered_P].all()), "targets: teacher weights do not sum to 1"
        )
        mass_P = listed_mass(self.logprob_PM) + self.tail_PT.sum(axis=1)
        require(
            bool((np.abs(mass_P - 1) <= MASS_TOLERANCE)[covered_P].all()),
            "targets: kept mass and tails do not add up to 1",
        )
