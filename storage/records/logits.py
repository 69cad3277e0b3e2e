"""SparseLogits: what one teacher predicts at each masked position, in its own vocabulary.

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
from storage.format.arrays import ArraySpec, sentinel
from storage.records.base import Record, id_dtype, require
from storage.records.lists import MASS_TOLERANCE, check_list, list_specs, listed_mass


@dataclass(frozen=True, slots=True)
class SparseLogits(Record):
    """One teacher's predictions at every masked position, in the teacher's own vocabulary.

    A row lists its most likely ids. The mass outside the list is one number a row (`tail`). Its distribution is either
    the store's tail prior, changed by the row's coordinates (`sketch`) where there are any, or given by ids drawn from
    it at random, which make the row an unbiased estimate (Sparse Logit Sampling, arXiv 2503.16870). `J` runs over the
    manifest's `temperatures`; the first is 1, the second the calibrated one. A row that the teacher does not answer is
    empty: ids are sentinels, floats NaN.
    """

    kind: ClassVar[str] = "logits"
    stage: ClassVar[str] = "teach@{name}"
    revision: ClassVar[int] = 2
    """2: the shape of the tails is fitted to train positions; 1: to the calibration split."""
    needs: ClassVar[tuple[str, ...]] = ("order_V",)

    ids_PK: NDArray[Any]
    """Listed ids, most likely first; sentinel where a row has fewer."""
    logprob_PK: NDArray[np.float32]
    """Natural log of the probability under the full softmax at temperature 1, never renormalised; NaN without an id."""
    drawn_ids_PS: NDArray[Any]
    """Ids drawn with replacement from what is not listed, at the second temperature; sentinel where there are fewer."""
    drawn_share_PS: NDArray[np.float32]
    """Share of the draws that gave the id, sums to 1; 0 without an id."""
    tail_PJ: NDArray[np.float32]
    """Probability mass that is not listed, at each temperature (linear)."""
    gold_logprob_PJ: NDArray[np.float32]
    """Natural log of the true token's probability under the full softmax at each temperature."""
    gold_place_P: NDArray[np.int32]
    """Column of the true token in the list; -1 when it is not listed."""
    entropy_PJ: NDArray[np.float32]
    """Entropy in nats of the full softmax at each temperature."""
    sketch_PD: NDArray[np.int8]
    """Coordinates of the row's tail: outside the list p is proportional to exp(bias_JV + sketch @ basis_DV / T)."""
    spread_PJ: NDArray[np.float32]
    """Natural log of the sum of that exponential over the ids that are not listed, at each temperature."""

    @staticmethod
    def specs(*, most: int, draws: int, temperatures: int, rank: int, vocabulary: int) -> dict[str, ArraySpec]:
        """Arrays on disk of lists of up to `most` entries, `draws` draws and `rank` coordinates (0: none)."""
        columns = (temperatures,)
        specs = {
            "tail_PJ": ArraySpec(dtype="uint8", row_shape=columns),
            "gold_PJ": ArraySpec(dtype="uint16", row_shape=columns),
            "entropy_PJ": ArraySpec(dtype="uint16", row_shape=columns),
        }
        if most:
            specs |= list_specs("count_P", "step_E", "code_E", most, vocabulary)
            specs["gold_at_P"] = ArraySpec(dtype="uint16")
        if draws:
            assert draws < sentinel("uint8"), draws
            specs |= list_specs("drawn_count_P", "drawn_step_E", "drawn_code_E", draws, vocabulary)
        else:
            specs["spread_PJ"] = ArraySpec(dtype="int16", row_shape=columns)
        if rank:
            specs["sketch_PD"] = ArraySpec(dtype="int8", row_shape=(rank,))
        return specs

    @staticmethod
    def empty(rows: int, *, most: int, draws: int, temperatures: int, rank: int, vocabulary: int) -> SparseLogits:
        """`rows` rows that the teacher cannot answer, in the shapes of `specs`; a list holds at most the vocabulary."""
        ids = np.dtype(id_dtype(vocabulary))
        listed = min(most, vocabulary)

        def missing(columns: int) -> NDArray[np.float32]:
            return np.full((rows, columns), np.nan, np.float32)

        return SparseLogits(
            ids_PK=np.full((rows, listed), sentinel(ids), ids),
            logprob_PK=missing(listed),
            drawn_ids_PS=np.full((rows, draws), sentinel(ids), ids),
            drawn_share_PS=np.zeros((rows, draws), np.float32),
            tail_PJ=missing(temperatures),
            gold_logprob_PJ=missing(temperatures),
            gold_place_P=np.full(rows, -1, np.int32),
            entropy_PJ=missing(temperatures),
            sketch_PD=np.zeros((rows, rank), np.int8),
            spread_PJ=missing(temperatures),
        )

    @classmethod
    def groups(cls) -> tuple[frozenset[str], ...]:
        """Statistics always; lists, draws and coordinates as the teacher's form has them."""
        return (
            frozenset({"tail_PJ", "gold_PJ", "entropy_PJ"}),
            frozenset({"count_P", "step_E", "code_E", "gold_at_P"}),
            frozenset({"drawn_count_P", "drawn_step_E", "drawn_code_E"}),
            frozenset({"spread_PJ"}),
            frozenset({"sketch_PD"}),
        )

    def encode(self, specs: Mapping[str, ArraySpec], constants: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Quantise and pack, as `storage.format.codec` says; the store's `order_V` gives the order of ids."""
        order_V = constants["order_V"]
        arrays: dict[str, NDArray[Any]] = {
            "tail_PJ": codec.to_root(self.tail_PJ),
            "gold_PJ": codec.to_fixed(-self.gold_logprob_PJ, steps=codec.LOGPROB_STEPS),
            "entropy_PJ": codec.to_fixed(self.entropy_PJ, steps=codec.ENTROPY_STEPS),
        }
        if "count_P" in specs:
            levels_PK = codec.to_levels(self.logprob_PK)
            arrays["count_P"], arrays["step_E"], arrays["code_E"], arrays["gold_at_P"] = codec.pack_lists(
                self.ids_PK, levels_PK, order_V, place_P=self.gold_place_P
            )
        if "drawn_count_P" in specs:
            draws = specs["drawn_code_E"].most
            times_PS = np.rint(self.drawn_share_PS * draws).astype(np.uint8)
            arrays["drawn_count_P"], arrays["drawn_step_E"], arrays["drawn_code_E"], _ = codec.pack_lists(
                self.drawn_ids_PS, times_PS, order_V
            )
        if "spread_PJ" in specs:
            arrays["spread_PJ"] = codec.to_signed(self.spread_PJ, steps=codec.SPREAD_STEPS)
        if "sketch_PD" in specs:
            arrays["sketch_PD"] = self.sketch_PD
        return arrays

    @classmethod
    def decode(
        cls, arrays: dict[str, NDArray[Any]], specs: Mapping[str, ArraySpec], constants: Mapping[str, NDArray[Any]]
    ) -> Self:
        """Inverse of `encode`, to the steps of the codec; listed values and tail are scaled to add up to 1."""
        order_V = constants["order_V"]
        ids = np.dtype(id_dtype(len(order_V)))
        rows, columns = arrays["tail_PJ"].shape
        answered_P = arrays["gold_PJ"][:, 0] != codec.UNANSWERED
        tail_PJ = codec.from_root(arrays["tail_PJ"])
        tail_PJ[~answered_P] = np.nan
        ids_PK, levels_PK = np.zeros((rows, 0), ids), np.zeros((rows, 0), np.uint8)
        place_P = np.full(rows, -1, np.int32)
        if "count_P" in specs:
            ids_PK, levels_PK, place_P = codec.unpack_lists(
                arrays["count_P"],
                arrays["step_E"],
                arrays["code_E"],
                order_V,
                most=specs["step_E"].most,
                highest=codec.LEVELS,
                at_P=arrays["gold_at_P"],
            )
        codec.require_whole(levels_PK, tail_PJ[:, :1])
        logprob_PK, tail_PJ[:, :1] = codec.share_out(levels_PK, tail_PJ[:, :1])
        drawn_ids_PS, drawn_share_PS = np.zeros((rows, 0), ids), np.zeros((rows, 0), np.float32)
        if "drawn_count_P" in specs:
            draws = specs["drawn_code_E"].most
            drawn_ids_PS, times_PS, _ = codec.unpack_lists(
                arrays["drawn_count_P"],
                arrays["drawn_step_E"],
                arrays["drawn_code_E"],
                order_V,
                most=draws,
                highest=draws,
            )
            drawn_share_PS = (times_PS / np.float32(draws)).astype(np.float32)
        spread_PJ = np.full((rows, columns), np.nan, np.float32)
        if "spread_PJ" in specs:
            spread_PJ = codec.from_signed(arrays["spread_PJ"], answered_P, steps=codec.SPREAD_STEPS)
        sketch_PD = arrays.get("sketch_PD", np.zeros((rows, 0), np.int8))
        codec.no_holes(sketch_PD)
        return cls.from_arrays(
            {
                "ids_PK": ids_PK,
                "logprob_PK": logprob_PK,
                "drawn_ids_PS": drawn_ids_PS,
                "drawn_share_PS": drawn_share_PS,
                "tail_PJ": tail_PJ,
                "gold_logprob_PJ": -codec.from_fixed(arrays["gold_PJ"], steps=codec.LOGPROB_STEPS),
                "gold_place_P": place_P,
                "entropy_PJ": codec.from_fixed(arrays["entropy_PJ"], steps=codec.ENTROPY_STEPS),
                "sketch_PD": sketch_PD,
                "spread_PJ": spread_PJ,
            }
        )

    def covered_P(self) -> NDArray[np.bool_]:
        """True where the teacher answered."""
        return np.isfinite(self.entropy_PJ[:, 0])

    def check(self) -> None:
        """Refuse half-empty rows, unsorted or positive log-probabilities and masses that do not add up to one."""
        Record.check(self)
        covered_P = self.covered_P()
        statistics = np.concatenate([self.tail_PJ, self.gold_logprob_PJ, self.entropy_PJ], axis=1)
        whole_P = np.isfinite(statistics).all(axis=1)
        require(bool((covered_P == whole_P).all()), "logits: a row has some statistics and lacks others")
        check_list("logits", self.ids_PK, self.logprob_PK)
        require(
            not bool((np.isfinite(self.logprob_PK).any(axis=1) & ~covered_P).any()),
            "logits: a row has ids without statistics",
        )
        mass_P = listed_mass(self.logprob_PK) + self.tail_PJ[:, 0]
        require(
            bool((np.abs(mass_P - 1) <= MASS_TOLERANCE)[covered_P].all()),
            "logits: listed mass and tail do not add up to 1",
        )
        none_PS = self.drawn_ids_PS == sentinel(self.drawn_ids_PS.dtype)
        require(
            bool((none_PS == (self.drawn_share_PS == 0)).all()), "logits: a drawn id without a share, or the reverse"
        )
        if self.drawn_ids_PS.shape[1]:
            drawn_P = self.drawn_share_PS.sum(axis=1)
            require(
                bool((np.abs(drawn_P - 1) <= MASS_TOLERANCE)[covered_P].all()),
                "logits: shares drawn do not add up to 1",
            )
