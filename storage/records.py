"""The records that travel through the pipeline, one per boundary.

Shapes are named by suffix: N sequences, L tokens a sequence, P predictions (masked positions, flat over sequences and
mask copies), K kept entries per teacher, M kept after fusion, T teachers, J temperatures, V vocabulary.
Every record knows its store kind and schema, and `check()` refuses holes and impossible values.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from storage.arrays import ArraySpec, sentinel
from storage.errors import RecordInvalid

SPLITS = ("train", "calibration", "heldout")
"""Parts of every store, by hash of the document id: train the student, fit temperatures, judge."""

MASS_TOLERANCE = 2e-3
"""Kept probabilities are float16 logs: 32 of them may sum to a little more than 1."""


def id_dtype(vocabulary: int) -> str:
    """Smallest unsigned dtype whose largest value is free to mean "no id"."""
    return "uint16" if vocabulary <= np.iinfo(np.uint16).max else "uint32"


@dataclass(frozen=True, slots=True)
class Record:
    """Base: a record's fields are its arrays, all with the same first axis."""

    kind: ClassVar[str]
    """Name of the record in manifests."""
    stage: ClassVar[str]
    """DVC stage that makes the store, for messages."""
    revision: ClassVar[int] = 1
    """Raised when the method changes, so that stores made by the old one are refused."""

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

    A row that the teacher cannot answer (the word is cut differently in its vocabulary) is empty: ids are sentinels,
    floats NaN. `J` runs over the manifest's `temperatures`; the first is 1, the second the calibrated one.
    """

    kind: ClassVar[str] = "logits"
    stage: ClassVar[str] = "teach@{name}"

    ids_PK: NDArray[Any]
    """Token ids, most likely first."""
    logprob_PK: NDArray[np.float16]
    """Natural log of the probability under the full softmax at temperature 1; never renormalised."""
    tail_P: NDArray[np.float32]
    """Log of the probability mass outside the K kept entries, temperature 1."""
    gold_id_P: NDArray[Any]
    """The true token's id in the teacher's vocabulary."""
    gold_logprob_P: NDArray[np.float32]
    """Its natural log-probability under the full softmax, temperature 1."""
    entropy_PJ: NDArray[np.float32]
    """Entropy in nats of the full softmax at each temperature."""
    lse_PJ: NDArray[np.float32]
    """Log of the sum over the vocabulary of p ** (1 / temperature), p at temperature 1; 0 where that is 1."""

    @staticmethod
    def specs(*, keep: int, temperatures: int, vocabulary: int) -> dict[str, ArraySpec]:
        """Arrays of a teacher's store that keeps `keep` entries and statistics at `temperatures` temperatures."""
        return {
            "ids_PK": ArraySpec(dtype=id_dtype(vocabulary), row_shape=(keep,)),
            "logprob_PK": ArraySpec(dtype="float16", row_shape=(keep,)),
            "tail_P": ArraySpec(dtype="float32"),
            "gold_id_P": ArraySpec(dtype=id_dtype(vocabulary)),
            "gold_logprob_P": ArraySpec(dtype="float32"),
            "entropy_PJ": ArraySpec(dtype="float32", row_shape=(temperatures,)),
            "lse_PJ": ArraySpec(dtype="float32", row_shape=(temperatures,)),
        }

    def covered_P(self) -> NDArray[np.bool_]:
        """True where the teacher answered."""
        return np.asarray(self.ids_PK[:, 0] != sentinel(self.ids_PK.dtype))

    def check(self) -> None:
        """Refuse half-empty rows, unsorted or positive log-probabilities and masses above one."""
        Record.check(self)
        covered_P = self.covered_P()
        kept_PK = self.ids_PK != sentinel(self.ids_PK.dtype)
        _require(bool((kept_PK == covered_P[:, None]).all()), "logits: a row has fewer ids than are kept")
        finite_P = np.isfinite(self.gold_logprob_P) & np.isfinite(self.lse_PJ).all(axis=1)
        _require(bool((covered_P == finite_P).all()), "logits: a row has ids without statistics, or the reverse")
        logprob = self.logprob_PK[covered_P].astype(np.float32)
        _require(bool((logprob <= 0).all()), "logits: a kept log-probability is positive or missing")
        _require(bool((np.diff(logprob, axis=1) <= 0).all()), "logits: kept entries are not most likely first")
        mass = np.exp(logprob).sum(axis=1) + np.exp(self.tail_P[covered_P])
        _require(bool((np.abs(mass - 1) <= MASS_TOLERANCE).all()), "logits: kept mass and tail do not add up to 1")


@dataclass(frozen=True, slots=True)
class FusedTargets(Record):
    """The teachers' mixture at every prediction, in the students' vocabulary.

    The restored distribution is `exp(logprob)` at `ids`, and at every other v
    sum_t tail_PT[t] * prior_t(v) / (1 - prior_t(ids)) with the store's `tail_prior_TV`.
    A row no teacher could answer is empty: ids are sentinels, floats NaN.
    """

    kind: ClassVar[str] = "targets"
    stage: ClassVar[str] = "fuse@{name}"

    ids_PM: NDArray[Any]
    """Token ids, most likely first; sentinel where a row has fewer entries."""
    logprob_PM: NDArray[np.float16]
    """Natural log of the mixture's probability; NaN where there is no id."""
    weight_PT: NDArray[np.float32]
    """Each teacher's weight, sums to 1; 0 where the teacher did not answer."""
    tail_PT: NDArray[np.float32]
    """Each teacher's share of the probability mass outside the M kept entries (linear)."""
    gold_logprob_P: NDArray[np.float32]
    """Natural log of the mixture's probability of the true token, from the teachers' full softmax."""

    @staticmethod
    def specs(*, keep: int, teachers: int, vocabulary: int) -> dict[str, ArraySpec]:
        """Arrays of a fused store of `teachers` teachers that keeps `keep` entries."""
        return {
            "ids_PM": ArraySpec(dtype=id_dtype(vocabulary), row_shape=(keep,)),
            "logprob_PM": ArraySpec(dtype="float16", row_shape=(keep,)),
            "weight_PT": ArraySpec(dtype="float32", row_shape=(teachers,)),
            "tail_PT": ArraySpec(dtype="float32", row_shape=(teachers,)),
            "gold_logprob_P": ArraySpec(dtype="float32"),
        }

    def covered_P(self) -> NDArray[np.bool_]:
        """True where at least one teacher answered."""
        return np.asarray(self.ids_PM[:, 0] != sentinel(self.ids_PM.dtype))

    def check(self) -> None:
        """Refuse entries without a value, weights that do not sum to one and masses above one."""
        Record.check(self)
        kept_PM = self.ids_PM != sentinel(self.ids_PM.dtype)
        _require(
            bool((kept_PM == np.isfinite(self.logprob_PM)).all()), "targets: an id without a value, or the reverse"
        )
        covered_P = self.covered_P()
        weight = self.weight_PT[covered_P].sum(axis=1)
        _require(bool((np.abs(weight - 1) <= 1e-5).all()), "targets: teacher weights do not sum to 1")
        mass = np.exp(np.where(kept_PM, self.logprob_PM, -np.inf).astype(np.float32)).sum(axis=1)[covered_P]
        mass = mass + self.tail_PT[covered_P].sum(axis=1)
        _require(bool((np.abs(mass - 1) <= MASS_TOLERANCE).all()), "targets: kept mass and tails do not add up to 1")
