"""Records refuse what no writer of ours produces; each refusal by its message."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import RecordInvalid
from storage.records import FusedTargets, Masks, Record, Sequences, SparseLogits, id_dtype
from tests.storage import samples

MAKERS: dict[type[Record], Any] = {
    Sequences: samples.sequences,
    Masks: samples.masks,
    SparseLogits: samples.logits,
    FusedTargets: samples.targets,
}
SPECS = {
    Sequences: Sequences.specs(tokens=12, vocabulary=samples.VOCABULARY),
    Masks: Masks.specs(vocabulary=samples.VOCABULARY),
    SparseLogits: SparseLogits.specs(keep=4, temperatures=samples.TEMPERATURES, vocabulary=samples.VOCABULARY),
    FusedTargets: FusedTargets.specs(keep=4, teachers=2, vocabulary=samples.VOCABULARY),
}
ROWS = 40
every_record = pytest.mark.parametrize("kind", list(MAKERS), ids=lambda kind: kind.kind)


@pytest.mark.parametrize(
    ("vocabulary", "dtype"),
    [(2, "uint16"), (30_522, "uint16"), (65_535, "uint16"), (65_536, "uint32"), (250_002, "uint32")],
)
def test_largest_id_is_never_the_sentinel(vocabulary: int, dtype: str) -> None:
    assert id_dtype(vocabulary) == dtype
    assert vocabulary - 1 < np.iinfo(dtype).max


@every_record
@pytest.mark.parametrize("rows", [0, 1, ROWS])
def test_valid_records_pass_and_know_their_arrays(kind: type[Record], rows: int) -> None:
    made = MAKERS[kind](rows)
    made.check()
    assert len(made) == rows
    assert kind.from_arrays(made.arrays()).arrays().keys() == made.arrays().keys()
    found = {name: (array.dtype.name, array.shape[1:]) for name, array in made.arrays().items()}
    assert found == {name: (spec.dtype, spec.row_shape) for name, spec in SPECS[kind].items()}


@every_record
def test_arrays_of_different_length(kind: type[Record]) -> None:
    arrays = MAKERS[kind](ROWS).arrays()
    first = next(iter(arrays))
    with pytest.raises(RecordInvalid, match=f"^{kind.kind}: arrays differ in length: .*'{first}': 39"):
        kind.from_arrays({**arrays, first: arrays[first][:-1]})


@every_record
@given(data=st.data())
def test_a_row_of_fill_in_any_array_that_must_have_values(kind: type[Record], data: st.DataObject) -> None:
    """A lost shard reads as fill. Not tried: arrays where fill is a value like others, held by the reader's hashes."""
    may_be_fill = {
        "document_N",
        "window_N",
        "word_NL",
        "char_start_NL",
        "char_end_NL",
        "copy_P",
        "sequence_P",
        "column_P",
    }
    may_be_fill |= {"gold_id_P", "entropy_PJ"} if kind is SparseLogits else {"gold_logprob_P"}
    made = MAKERS[kind](ROWS)
    name = data.draw(st.sampled_from(sorted(made.arrays().keys() - may_be_fill)))
    row = data.draw(st.sampled_from([row for row in range(ROWS) if row % 7 != 6]))
    broken = made.arrays()[name].copy()
    spec = SPECS[kind][name]
    broken[row] = np.iinfo(spec.dtype).max if "int" in spec.dtype else np.nan
    with pytest.raises(RecordInvalid, match=f"^{kind.kind}: "):
        replace(made, **{name: broken}).check()


def changed(array: np.ndarray, index: Any, value: Any) -> np.ndarray:
    copy = array.copy()
    copy[index] = value
    return copy


class TestSequences:
    made = samples.sequences(ROWS)

    def test_length_longer_than_the_row(self) -> None:
        row = int(np.argmin(self.made.length_N))
        broken = replace(self.made, length_N=changed(self.made.length_N, row, self.made.length_N[row] + 1))
        with pytest.raises(RecordInvalid, match="padding does not begin at the row's length"):
            broken.check()

    def test_hole_within_a_row(self) -> None:
        broken = replace(self.made, input_ids_NL=changed(self.made.input_ids_NL, (3, 1), 65535))
        with pytest.raises(RecordInvalid, match="padding does not begin at the row's length"):
            broken.check()

    def test_missing_length(self) -> None:
        with pytest.raises(RecordInvalid, match="a row has no length; its shard is missing"):
            replace(self.made, length_N=changed(self.made.length_N, 5, 65535)).check()


class TestMasks:
    made = samples.masks(ROWS)

    def test_missing_label(self) -> None:
        with pytest.raises(RecordInvalid, match="a prediction has no label; its shard is missing"):
            replace(self.made, label_P=changed(self.made.label_P, 5, 65535)).check()

    def test_twice(self) -> None:
        with pytest.raises(RecordInvalid, match="not ordered by copy, sequence, column"):
            replace(self.made, column_P=changed(self.made.column_P, 1, self.made.column_P[0])).check()

    def test_copies_must_follow_each_other(self) -> None:
        second = replace(self.made, copy_P=self.made.copy_P + np.uint16(1))
        both = {name: np.concatenate([self.made.arrays()[name], second.arrays()[name]]) for name in self.made.arrays()}
        assert len(Masks.from_arrays(both)) == 2 * ROWS
        with pytest.raises(RecordInvalid, match="not ordered by copy, sequence, column"):
            Masks.from_arrays({name: array[::-1] for name, array in both.items()})


class TestSparseLogits:
    made = samples.logits(ROWS)

    def test_which_rows_are_covered(self) -> None:
        np.testing.assert_array_equal(self.made.covered_P(), np.arange(ROWS) % 7 != 6)

    def test_half_empty_row(self) -> None:
        with pytest.raises(RecordInvalid, match="a row has fewer ids than are kept"):
            replace(self.made, ids_PK=changed(self.made.ids_PK, (2, 3), 65535)).check()

    def test_order(self) -> None:
        logprob = changed(self.made.logprob_PK, 2, self.made.logprob_PK[2, ::-1])
        with pytest.raises(RecordInvalid, match="kept entries are not most likely first"):
            replace(self.made, logprob_PK=logprob).check()

    def test_positive(self) -> None:
        with pytest.raises(RecordInvalid, match="a kept log-probability is positive or missing"):
            replace(self.made, logprob_PK=changed(self.made.logprob_PK, (2, 0), 0.5)).check()

    @pytest.mark.parametrize("factor", [0.0, 2.0])
    def test_mass(self, factor: float) -> None:
        with np.errstate(divide="ignore"):
            tail = self.made.tail_P + np.log(np.float32(factor))
        with pytest.raises(RecordInvalid, match="kept mass and tail do not add up to 1"):
            replace(self.made, tail_P=tail).check()

    def test_ids_without_statistics(self) -> None:
        with pytest.raises(RecordInvalid, match="a row has ids without statistics, or the reverse"):
            replace(self.made, gold_logprob_P=changed(self.made.gold_logprob_P, 2, np.nan)).check()

    def test_nothing_kept_outside_is_a_tail_of_zero(self) -> None:
        """k = V: the tail is log 0."""
        rows = 3
        logprob = np.log(np.full((rows, 4), 0.25)).astype(np.float16)
        made = samples.logits(rows)
        replace(made, logprob_PK=logprob, tail_P=np.full(rows, -np.inf, np.float32)).check()


class TestFusedTargets:
    made = samples.targets(ROWS)

    def test_which_rows_are_covered(self) -> None:
        np.testing.assert_array_equal(self.made.covered_P(), np.arange(ROWS) % 7 != 6)

    @pytest.mark.parametrize("value", [65535, 7])
    def test_an_id_without_a_value(self, value: int) -> None:
        where = (2, 0) if value == 65535 else (4, 3)
        with pytest.raises(RecordInvalid, match="an id without a value, or the reverse"):
            replace(self.made, ids_PM=changed(self.made.ids_PM, where, value)).check()

    def test_weights(self) -> None:
        with pytest.raises(RecordInvalid, match="teacher weights do not sum to 1"):
            replace(self.made, weight_PT=self.made.weight_PT * np.float32(0.9)).check()

    def test_mass(self) -> None:
        with pytest.raises(RecordInvalid, match="kept mass and tails do not add up to 1"):
            replace(self.made, tail_PT=self.made.tail_PT + np.float32(0.01)).check()
