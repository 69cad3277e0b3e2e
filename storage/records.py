"""The records that travel through the pipeline, one per boundary.

Shapes are named by suffix: N sequences, L tokens a sequence, P predictions (masked positions, flat over sequences and
mask copies), K listed entries per teacher, S entries drawn from the rest, M listed after fusion, T teachers, J
temperatures, D numbers of a tail sketch, V vocabulary.
Every record knows its store kind and schema, and `check()` refuses holes and impossible values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from storage import codec
from storage.arrays import ArraySpec, sentinel
from storage.errors import RecordInvalid

SPLITS = ("train", "calibration", "heldout")
"""Parts of every store, by hash of the document id: train the student, fit temperatures, judge."""

MASS_TOLERANCE = 1e-4
"""Listed probabilities, what was drawn and the tail are float32 and add up to 1 within this."""


def id_dtype(vocabulary: int) -> str:
    """Smallest unsigned dtype whose largest value is free to mean "no id"."""
    return "uint16" if vocabulary <= np.iinfo(np.uint16).max else "uint32"


@dataclass(frozen=True, slots=True)
class Record:
    """Base: a record's fields are its arrays in memory, all with the same first axis.

    On disk they may be others: `encode` and `decode` go between, with the store's constants that `needs` names.
    """

    kind: ClassVar[str]
    """Name of the record in manifests."""
    stage: ClassVar[str]
    """DVC stage that makes the store, for messages."""
    revision: ClassVar[int] = 1
    """Raised when the method changes, so that stores made by the old one are refused."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Constants of the store without which its arrays cannot be read."""

    @classmethod
    def groups(cls) -> tuple[frozenset[str], ...]:
        """Names of the arrays on disk: the first group is in every store, each other one whole or not at all."""
        return (frozenset(field.name for field in fields(cls)),)

    def encode(self, specs: Mapping[str, ArraySpec], constants: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The arrays on disk that `specs` names."""
        return self.arrays()

    @classmethod
    def decode(
        cls, arrays: dict[str, NDArray[Any]], specs: Mapping[str, ArraySpec], constants: Mapping[str, NDArray[Any]]
    ) -> Self:
        """The record of arrays from disk, checked; raises RecordInvalid."""
        return cls.from_arrays(arrays)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Field name to array, in field order."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> Self:
        """Build the record and `check()` it."""
        record = cls(**arrays)
        record.check()
        return record

    def __len__(self) -> int:
        return len(next(iter(self.arrays().values())))

    def check(self) -> None:
        """Refuse what no writer of ours produces."""
        lengths = {name: len(array) for name, array in self.arrays().items()}
        _require(len(set(lengths.values())) == 1, f"{self.kind}: arrays differ in length: {lengths}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise RecordInvalid(message)


@dataclass(frozen=True, slots=True)
class Sequences(Record):
    """Windows of documents in the reference vocabulary (the students')."""

    kind: ClassVar[str] = "sequences"
    stage: ClassVar[str] = "tokenize"

    document_N: NDArray[np.uint32]
    """Row of the document in the split's table."""
    window_N: NDArray[np.uint32]
    """Number of the window within its document."""
    length_N: NDArray[np.uint16]
    """Tokens in use, special tokens included; the rest of the row is padding (sentinel)."""
    input_ids_NL: NDArray[Any]
    """Token ids of the reference vocabulary; sentinel beyond `length`."""
    word_NL: NDArray[np.int16]
    """Number of the word a token belongs to, from 0 in each window; -1 at special tokens and padding."""
    char_start_NL: NDArray[np.int32]
    """First character of the token in the document's text; -1 where `word` is -1."""
    char_end_NL: NDArray[np.int32]
    """One past its last character; -1 where `word` is -1."""

    @staticmethod
    def specs(*, tokens: int, vocabulary: int) -> dict[str, ArraySpec]:
        """Arrays of a store of sequences of at most `tokens` tokens."""
        row = (tokens,)
        return {
            "document_N": ArraySpec(dtype="uint32"),
            "window_N": ArraySpec(dtype="uint32"),
            "length_N": ArraySpec(dtype="uint16"),
            "input_ids_NL": ArraySpec(dtype=id_dtype(vocabulary), row_shape=row),
            "word_NL": ArraySpec(dtype="int16", row_shape=row),
            "char_start_NL": ArraySpec(dtype="int32", row_shape=row),
            "char_end_NL": ArraySpec(dtype="int32", row_shape=row),
        }

    def check(self) -> None:
        """Refuse holes and rows whose padding does not begin at `length`."""
        Record.check(self)
        no_length = sentinel(self.length_N.dtype)
        _require(not bool((self.length_N == no_length).any()), "sequences: a row has no length; its shard is missing")
        used_NL = np.arange(self.input_ids_NL.shape[1]) < self.length_N[:, None]
        filled_NL = self.input_ids_NL != sentinel(self.input_ids_NL.dtype)
        _require(bool((used_NL == filled_NL).all()), "sequences: padding does not begin at the row's length")


@dataclass(frozen=True, slots=True)
class Masks(Record):
    """The blanks, decided once on words of the text; ordered by copy, sequence, column."""

    kind: ClassVar[str] = "masks"
    stage: ClassVar[str] = "mask"

    copy_P: NDArray[np.uint16]
    """Mask copy the prediction belongs to; a (copy, sequence) pair is one pass through a model."""
    sequence_P: NDArray[np.uint32]
    """Row in the split's sequences."""
    column_P: NDArray[np.uint16]
    """Token within the sequence."""
    label_P: NDArray[Any]
    """The true token, reference vocabulary."""

    @staticmethod
    def specs(*, vocabulary: int) -> dict[str, ArraySpec]:
        """Arrays of a mask store over a reference vocabulary of `vocabulary` ids."""
        return {
            "copy_P": ArraySpec(dtype="uint16"),
            "sequence_P": ArraySpec(dtype="uint32"),
            "column_P": ArraySpec(dtype="uint16"),
            "label_P": ArraySpec(dtype=id_dtype(vocabulary)),
        }

    def check(self) -> None:
        """Refuse holes and predictions out of order or twice in one copy."""
        Record.check(self)
        hole = bool((self.label_P == sentinel(self.label_P.dtype)).any())
        _require(not hole, "masks: a prediction has no label; its shard is missing")
        key_P = (
            (self.copy_P.astype(np.uint64) << np.uint64(48))
            | (self.sequence_P.astype(np.uint64) << np.uint64(16))
            | self.column_P.astype(np.uint64)
        )
        _require(bool((key_P[1:] > key_P[:-1]).all()), "masks: predictions are not ordered by copy, sequence, column")


@dataclass(frozen=True, slots=True)
class SparseLogits(Record):
    """What one teacher believes at every prediction, in the teacher's own vocabulary.

    A row lists its most likely ids. What lies outside the list is one number a row (`tail`), and its shape over the
    vocabulary either the store's tail prior, bent by the row's `sketch` where there is one, or ids drawn from it at
    random, which make the row an unbiased estimate (Sparse Logit Sampling, arXiv 2503.16870). `J` runs over the
    manifest's `temperatures`; the first is 1, the second the calibrated one. A row that the teacher cannot answer (the
    word is cut differently in its vocabulary) is empty: ids are sentinels, floats NaN.
    """

    kind: ClassVar[str] = "logits"
    stage: ClassVar[str] = "teach@{name}"
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
    def specs(*, most: int, draws: int, temperatures: int, sketch: int, vocabulary: int) -> dict[str, ArraySpec]:
        """Arrays on disk of lists of up to `most` entries, `draws` draws and `sketch` coordinates (0: none)."""
        columns = (temperatures,)
        specs = {
            "tail_PJ": ArraySpec(dtype="uint8", row_shape=columns),
            "gold_PJ": ArraySpec(dtype="uint16", row_shape=columns),
            "entropy_PJ": ArraySpec(dtype="uint16", row_shape=columns),
        }
        if most:
            specs |= _list_specs("count_P", "step_E", "code_E", most, vocabulary)
            specs["gold_at_P"] = ArraySpec(dtype="uint16")
        if draws:
            assert draws < sentinel("uint8"), draws
            specs |= _list_specs("drawn_count_P", "drawn_step_E", "drawn_code_E", draws, vocabulary)
        else:
            specs["spread_PJ"] = ArraySpec(dtype="int16", row_shape=columns)
        if sketch:
            specs["sketch_PD"] = ArraySpec(dtype="int8", row_shape=(sketch,))
        return specs

    @classmethod
    def groups(cls) -> tuple[frozenset[str], ...]:
        """Statistics always; lists, draws and sketches as the teacher's form has them."""
        return (
            frozenset({"tail_PJ", "gold_PJ", "entropy_PJ"}),
            frozenset({"count_P", "step_E", "code_E", "gold_at_P"}),
            frozenset({"drawn_count_P", "drawn_step_E", "drawn_code_E"}),
            frozenset({"spread_PJ"}),
            frozenset({"sketch_PD"}),
        )

    def encode(self, specs: Mapping[str, ArraySpec], constants: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Quantise and pack, as `storage.codec` says; the store's `order_V` gives the order of ids."""
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
        _require(bool((covered_P == whole_P).all()), "logits: a row has some statistics and lacks others")
        _check_list("logits", self.ids_PK, self.logprob_PK)
        _require(
            not bool((np.isfinite(self.logprob_PK).any(axis=1) & ~covered_P).any()),
            "logits: a row has ids without statistics",
        )
        mass_P = _listed_mass(self.logprob_PK) + self.tail_PJ[:, 0]
        _require(
            bool((np.abs(mass_P - 1) <= MASS_TOLERANCE)[covered_P].all()),
            "logits: listed mass and tail do not add up to 1",
        )
        none_PS = self.drawn_ids_PS == sentinel(self.drawn_ids_PS.dtype)
        _require(
            bool((none_PS == (self.drawn_share_PS == 0)).all()), "logits: a drawn id without a share, or the reverse"
        )
        if self.drawn_ids_PS.shape[1]:
            drawn_P = self.drawn_share_PS.sum(axis=1)
            _require(
                bool((np.abs(drawn_P - 1) <= MASS_TOLERANCE)[covered_P].all()),
                "logits: shares drawn do not add up to 1",
            )


@dataclass(frozen=True, slots=True)
class HiddenStates(Record):
    """What a model's last layer is given at predictions, from which its full softmax can be computed again.

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
        _require(bool((finite_P == self.covered_P()).all()), "exact: a row has states without an id, or the reverse")


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
    def specs(*, keep: int, teachers: int, sketch: int, vocabulary: int) -> dict[str, ArraySpec]:
        """Arrays on disk of a fused store of `teachers` teachers, up to `keep` entries and `sketch` coordinates."""
        specs = {
            **_list_specs("count_P", "step_E", "code_E", keep, vocabulary),
            "weight_PT": ArraySpec(dtype="uint8", row_shape=(teachers,)),
            "tail_PT": ArraySpec(dtype="uint8", row_shape=(teachers,)),
            "gold_P": ArraySpec(dtype="uint16"),
        }
        if sketch:
            specs["sketch_PTD"] = ArraySpec(dtype="int8", row_shape=(teachers, sketch))
        return specs

    @classmethod
    def groups(cls) -> tuple[frozenset[str], ...]:
        """Sketches as the teachers have them."""
        return (
            frozenset({"count_P", "step_E", "code_E", "weight_PT", "tail_PT", "gold_P"}),
            frozenset({"sketch_PTD"}),
        )

    def encode(self, specs: Mapping[str, ArraySpec], constants: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Quantise and pack, as `storage.codec` says; the store's `order_V` gives the order of ids."""
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
        _check_list("targets", self.ids_PM, self.logprob_PM)
        covered_P = self.covered_P()
        weight_P = self.weight_PT.sum(axis=1)
        _require(
            bool((np.abs(weight_P - 1) <= MASS_TOLERANCE)[covered_P].all()), "targets: teacher weights do not sum to 1"
        )
        mass_P = _listed_mass(self.logprob_PM) + self.tail_PT.sum(axis=1)
        _require(
            bool((np.abs(mass_P - 1) <= MASS_TOLERANCE)[covered_P].all()),
            "targets: kept mass and tails do not add up to 1",
        )


def _list_specs(count: str, step: str, code: str, most: int, vocabulary: int) -> dict[str, ArraySpec]:
    return {
        count: ArraySpec(dtype="uint16"),
        step: ArraySpec(dtype=id_dtype(vocabulary), counted_by=count, most=most),
        code: ArraySpec(dtype="uint8", counted_by=count, most=most),
    }


def _check_list(kind: str, ids_PK: NDArray[Any], logprob_PK: NDArray[np.float32]) -> None:
    """Refuse an id without a value or a value without an id, gaps, and values that are positive or not descending."""
    kept_PK = ids_PK != sentinel(ids_PK.dtype)
    _require(bool((kept_PK == np.isfinite(logprob_PK)).all()), f"{kind}: an id without a value, or the reverse")
    _require(bool((kept_PK[:, :-1] >= kept_PK[:, 1:]).all()), f"{kind}: a list has a gap")
    # NaN, where there is no entry, compares as false.
    _require(not bool((logprob_PK > 0).any()), f"{kind}: a listed log-probability is positive")
    _require(
        not bool((logprob_PK[:, 1:] > logprob_PK[:, :-1]).any()), f"{kind}: listed entries are not most likely first"
    )


def _listed_mass(logprob_PK: NDArray[np.float32]) -> NDArray[np.float32]:
    total_P = np.zeros(len(logprob_PK), np.float32)
    for block in codec.blocks(*logprob_PK.shape):
        mass_BK = np.exp(logprob_PK[block])
        mass_BK[np.isnan(mass_BK)] = 0
        total_P[block] = mass_BK.sum(axis=1)
    return total_P


RECORDS: dict[str, type[Record]] = {
    record.kind: record for record in (Sequences, Masks, SparseLogits, HiddenStates, FusedTargets)
}
"""Records by the kind that manifests name."""
