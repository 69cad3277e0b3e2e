"""Records refuse values that this project's writers never produce; each refusal by its message."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import RecordInvalid
from storage.format.arrays import sentinel
from storage.records.base import Record, id_dtype
from storage.records.hidden_states import HiddenStates
from storage.records.layout import RECORDS
from storage.records.logits import SparseLogits
from storage.records.sequences import Masks, Sequences
from storage.records.targets import FusedTargets
from storage.testing import samples

MAKERS: dict[type[Record], Any] = {
    Sequences: samples.sequences,
    Masks: samples.masks,
    SparseLogits: samples.logits,
    HiddenStates: samples.hidden,
    FusedTargets: samples.targets,
}
SPECS = {
    Sequences: Sequences.specs(tokens=12, vocabulary=samples.VOCABULARY),
    Masks: Masks.specs(vocabulary=samples.VOCABULARY),
    SparseLogits: samples.logits_specs(),
    HiddenStates: HiddenStates.specs(width=5, vocabulary=samples.VOCABULARY),
    FusedTargets: samples.targets_specs(),
}
CONSTANTS = {"order_V": samples.ORDER}
ROWS = 40
every_record = pytest.mark.parametrize("kind", list(MAKERS), ids=lambda kind: kind.kind)
FORMS = [
    {"most": 6, "draws": 0, "rank": 3},
    {"most": 6, "draws": 0, "rank": 0},
    {"most": 6, "draws": 5, "rank": 0},
    {"most": 0, "draws": 5, "rank": 0},
    {"most": samples.VOCABULARY, "draws": 0, "rank": 0},
]
every_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form.values())))


@pytest.mark.parametrize(
    ("vocabulary", "dtype"),
    [(2, "uint16"), (30_522, "uint16"), (65_535, "uint16"), (65_536, "uint32"), (250_002, "uint32")],
)
def test_largest_id_is_never_the_sentinel(vocabulary: int, dtype: str) -> None:
    assert id_dtype(vocabulary) == dtype
    assert vocabulary - 1 < np.iinfo(dtype).max


def test_every_kind_has_a_record_of_its_name() -> None:
    assert set(RECORDS.values()) == set(MAKERS)
    assert all(record.kind == kind for kind, record in RECORDS.items())


@every_record
@pytest.mark.parametrize("rows", [0, 1, ROWS])
def test_valid_records_pass_and_lie_on_disk_as_their_specs_say(kind: type[Record], rows: int) -> None:
    made = MAKERS[kind](rows)
    made.check()
    assert len(made) == rows
    assert kind.from_arrays(made.arrays()).arrays().keys() == made.arrays().keys()
    encoded = made.encode(SPECS[kind], CONSTANTS)
    assert encoded.keys() == SPECS[kind].keys()
    for name, spec in SPECS[kind].items():
        entries = int(encoded[spec.counted_by].sum()) if spec.counted_by else rows
        assert (encoded[name].dtype, encoded[name].shape) == (np.dtype(spec.dtype), (entries, *spec.row_shape)), name


@every_record
def test_groups_of_arrays_are_those_of_the_specs(kind: type[Record]) -> None:
    assert set(SPECS[kind]) <= frozenset().union(*kind.groups())
    assert all(group <= set(SPECS[kind]) or not group & set(SPECS[kind]) for group in kind.groups())
    assert kind.groups()[0] <= set(SPECS[kind])


@pytest.mark.parametrize("kind", [Sequences, Masks, HiddenStates])
def test_what_is_not_quantised_comes_back_bit_for_bit(kind: type[Record]) -> None:
    made = MAKERS[kind](ROWS)
    read = kind.decode(made.encode(SPECS[kind], CONSTANTS), SPECS[kind], CONSTANTS)
    for name, array in made.arrays().items():
        assert read.arrays()[name].tobytes() == array.tobytes(), name


@every_record
def test_arrays_of_different_length(kind: type[Record]) -> None:
    arrays = MAKERS[kind](ROWS).arrays()
    first = next(iter(arrays))
    with pytest.raises(RecordInvalid, match=f"^{kind.kind}: arrays differ in length: .*'{first}': 39"):
        kind.from_arrays({**arrays, first: arrays[first][:-1]})


@every_record
@settings(deadline=None)
@given(data=st.data())
def test_a_row_of_fill_in_any_array_that_must_have_values(kind: type[Record], data: st.DataObject) -> None:
    """A lost shard reads as fill. Not tried: arrays where fill is a value like others, held by the reader's hashes."""
    may_be_fill = {"document_N", "window_N", "word_NL", "char_start_NL", "char_end_NL"}
    may_be_fill |= {"copy_P", "sequence_P", "column_P"}
    name = data.draw(st.sampled_from(sorted(SPECS[kind].keys() - may_be_fill)))
    row = data.draw(st.sampled_from([row for row in range(ROWS) if row % 7 != 6]))
    encoded = MAKERS[kind](ROWS).encode(SPECS[kind], CONSTANTS)
    spec = SPECS[kind][name]
    broken = encoded[name].copy()
    broken[row] = sentinel(spec.dtype)
    with pytest.raises(RecordInvalid):
        kind.decode({**encoded, name: broken}, SPECS[kind], CONSTANTS)


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

    @staticmethod
    def again(made: SparseLogits, specs: Any) -> SparseLogits:
        return SparseLogits.decode(made.encode(specs, CONSTANTS), specs, CONSTANTS)

    def test_which_rows_are_covered(self) -> None:
        np.testing.assert_array_equal(self.made.covered_P(), np.arange(ROWS) % 7 != 6)

    @every_form
    def test_read_is_within_half_steps_of_what_was_written(self, form: dict[str, int]) -> None:
        """Against the steps as documented, in float64; what is scaled to add up to 1 against its own formula."""
        made = samples.logits(ROWS, **form)
        read = self.again(made, samples.logits_specs(**form))
        assert [a.dtype for a in read.arrays().values()] == [a.dtype for a in made.arrays().values()]
        np.testing.assert_array_equal(read.covered_P(), made.covered_P())
        np.testing.assert_array_equal(read.sketch_PD, made.sketch_PD)
        np.testing.assert_allclose(read.gold_logprob_PJ, made.gold_logprob_PJ, atol=0.5 / 128 + 1e-6, rtol=1e-6)
        np.testing.assert_allclose(read.entropy_PJ, made.entropy_PJ, atol=0.5 / 64 + 1e-6)
        roots = np.sqrt(read.tail_PJ[:, 1:]) - np.sqrt(made.tail_PJ[:, 1:])
        assert np.nanmax(np.abs(roots)) <= 0.5 / 250 + 1e-6
        if not form["draws"]:
            np.testing.assert_allclose(read.spread_PJ, made.spread_PJ, atol=0.5 / 32 + 1e-6)
        mass_P = np.nansum(np.exp(read.logprob_PK.astype(np.float64)), axis=1) + read.tail_PJ[:, 0]
        np.testing.assert_allclose(mass_P[made.covered_P()], 1, atol=1e-6)
        root_PK = np.sqrt(np.exp(np.nan_to_num(made.logprob_PK.astype(np.float64), nan=-np.inf)))
        level_PK = np.where(np.isfinite(made.logprob_PK), np.maximum(np.rint(root_PK * 128), 1), 0)
        tail_P = np.maximum(np.rint(np.sqrt(made.tail_PJ[:, 0]) * 250), made.tail_PJ[:, 0] > 0)
        total_P = (level_PK**2).sum(axis=1) / 128**2 + np.square(tail_P / 250)
        for row in np.flatnonzero(made.covered_P()):
            values = np.square(level_PK[row] / 128) / total_P[row]
            kept = dict(zip(made.ids_PK[row].tolist(), values, strict=True))
            listed = np.isfinite(read.logprob_PK[row])
            for v, logprob in zip(read.ids_PK[row, listed], read.logprob_PK[row, listed], strict=True):
                assert np.exp(np.float64(logprob)) == pytest.approx(kept.pop(int(v)), rel=1e-5)
            assert not kept.keys() - {65535}, "every listed id is read"

    @every_form
    def test_the_true_token_stays_at_its_id(self, form: dict[str, int]) -> None:
        made = samples.logits(ROWS, **form)
        read = self.again(made, samples.logits_specs(**form))
        np.testing.assert_array_equal(read.gold_place_P >= 0, made.gold_place_P >= 0)
        for row in np.flatnonzero(made.gold_place_P >= 0):
            assert read.ids_PK[row, read.gold_place_P[row]] == made.ids_PK[row, made.gold_place_P[row]]

    def test_draws_come_back_exactly(self) -> None:
        form = {"most": 0, "draws": 5, "rank": 0}
        made = samples.logits(ROWS, **form)
        read = self.again(made, samples.logits_specs(**form))
        for row in range(ROWS):
            shares = [
                {
                    int(v): float(share)
                    for v, share in zip(record.drawn_ids_PS[row], record.drawn_share_PS[row], strict=True)
                    if v != 65535
                }
                for record in (made, read)
            ]
            assert shares[0] == shares[1]

    @every_form
    def test_reading_and_writing_again_stays_where_it_is(self, form: dict[str, int]) -> None:
        """Levels are scaled to add up to 1, so they may move by one when written again, and no further."""
        specs = samples.logits_specs(**form)
        made = self.again(samples.logits(ROWS, **form), specs)
        first, again = made.encode(specs, CONSTANTS), self.again(made, specs).encode(specs, CONSTANTS)
        for name, array in first.items():
            near = 1 if name in ("code_E", "tail_PJ") else 0
            assert np.abs(array.astype(np.int64) - again[name]).max(initial=0) <= near, name

    def test_an_id_without_a_value(self) -> None:
        row = int(np.argmax((self.made.ids_PK != 65535).sum(axis=1)))
        with pytest.raises(RecordInvalid, match=r"^logits: an id without a value, or the reverse"):
            replace(self.made, ids_PK=changed(self.made.ids_PK, (row, 0), 65535)).check()

    def test_a_gap(self) -> None:
        row = int(np.argmax((self.made.ids_PK != 65535).sum(axis=1)))
        ids, logprob = (changed(a, (row, 0), v) for a, v in ((self.made.ids_PK, 65535), (self.made.logprob_PK, np.nan)))
        with pytest.raises(RecordInvalid, match=r"^logits: a list has a gap"):
            replace(self.made, ids_PK=ids, logprob_PK=logprob).check()

    def test_order(self) -> None:
        row = int(np.argmax((self.made.ids_PK != 65535).sum(axis=1)))
        listed = np.isfinite(self.made.logprob_PK[row])
        logprob = changed(self.made.logprob_PK, (row, listed), self.made.logprob_PK[row, listed][::-1])
        with pytest.raises(RecordInvalid, match=r"^logits: listed entries are not most likely first"):
            replace(self.made, logprob_PK=logprob).check()

    def test_positive(self) -> None:
        with pytest.raises(RecordInvalid, match=r"^logits: a listed log-probability is positive"):
            replace(self.made, logprob_PK=changed(self.made.logprob_PK, (2, 0), 0.5)).check()

    @pytest.mark.parametrize("factor", [0.0, 2.0])
    def test_mass(self, factor: float) -> None:
        with pytest.raises(RecordInvalid, match=r"^logits: listed mass and tail do not add up to 1"):
            replace(self.made, tail_PJ=self.made.tail_PJ * np.float32(factor)).check()

    @pytest.mark.parametrize("name", ["tail_PJ", "gold_logprob_PJ", "entropy_PJ"])
    def test_statistics_in_part(self, name: str) -> None:
        broken = changed(self.made.arrays()[name], (2, 1), np.nan)
        with pytest.raises(RecordInvalid, match=r"^logits: a row has some statistics and lacks others"):
            replace(self.made, **{name: broken}).check()

    def test_ids_without_statistics(self) -> None:
        unanswered = {name: changed(self.made.arrays()[name], 2, np.nan) for name in ("tail_PJ", "gold_logprob_PJ")}
        unanswered["entropy_PJ"] = changed(self.made.entropy_PJ, 2, np.nan)
        with pytest.raises(RecordInvalid, match=r"^logits: a row has ids without statistics"):
            replace(self.made, **unanswered).check()

    def test_draws(self) -> None:
        made = samples.logits(ROWS, most=2, draws=5, rank=0)
        with pytest.raises(RecordInvalid, match=r"^logits: a drawn id without a share, or the reverse"):
            replace(made, drawn_share_PS=changed(made.drawn_share_PS, (2, 0), 0)).check()
        with pytest.raises(RecordInvalid, match=r"^logits: shares drawn do not add up to 1"):
            replace(made, drawn_share_PS=changed(made.drawn_share_PS, (2, 0), made.drawn_share_PS[2, 0] + 0.2)).check()

    def test_nothing_outside_the_list(self) -> None:
        """k = V: the tail is 0, and stays 0."""
        form = {"most": 4, "draws": 0, "rank": 0}
        made = samples.logits(3, **form)
        whole = replace(
            made,
            ids_PK=np.tile(np.arange(4, dtype=np.uint16), (3, 1)),
            logprob_PK=np.log(np.full((3, 4), 0.25)).astype(np.float32),
            tail_PJ=changed(made.tail_PJ, (slice(None), 0), 0),
            gold_place_P=np.full(3, -1, np.int32),
        )
        whole.check()
        read = self.again(whole, samples.logits_specs(**form))
        np.testing.assert_array_equal(read.tail_PJ[:, 0], np.zeros(3, np.float32))
        np.testing.assert_array_equal(read.logprob_PK, whole.logprob_PK)


class TestHiddenStates:
    made = samples.hidden(ROWS)

    def test_which_rows_are_covered(self) -> None:
        np.testing.assert_array_equal(self.made.covered_P(), np.arange(ROWS) % 7 != 6)

    @pytest.mark.parametrize("row", [2, 6])
    def test_states_without_an_id(self, row: int) -> None:
        broken = changed(self.made.hidden_PH, (row, 1), np.nan if row == 2 else 0)
        assert np.isfinite(changed(broken, row, 1)).all(axis=1)[row]
        ids = self.made.gold_id_P if row == 2 else changed(self.made.gold_id_P, row, 3)
        with pytest.raises(RecordInvalid, match=r"^exact: a row has states without an id, or the reverse"):
            replace(self.made, hidden_PH=broken, gold_id_P=ids).check()


class TestFusedTargets:
    made = samples.targets(ROWS)

    @staticmethod
    def again(made: FusedTargets, specs: Any) -> FusedTargets:
        return FusedTargets.decode(made.encode(specs, CONSTANTS), specs, CONSTANTS)

    def test_which_rows_are_covered(self) -> None:
        np.testing.assert_array_equal(self.made.covered_P(), np.arange(ROWS) % 7 != 6)

    @pytest.mark.parametrize("rank", [0, 2])
    def test_read_is_within_half_steps_of_what_was_written(self, rank: int) -> None:
        made = samples.targets(ROWS, rank=rank)
        read = self.again(made, samples.targets_specs(rank=rank))
        np.testing.assert_array_equal(read.covered_P(), made.covered_P())
        np.testing.assert_array_equal(read.sketch_PTD, made.sketch_PTD)
        np.testing.assert_allclose(read.gold_logprob_P, made.gold_logprob_P, atol=0.5 / 128 + 1e-6)
        np.testing.assert_allclose(read.weight_PT, made.weight_PT, atol=1 / 250)
        covered = made.covered_P()
        np.testing.assert_allclose(read.weight_PT[covered].sum(axis=1), 1, atol=1e-6)
        mass_P = np.nansum(np.exp(read.logprob_PM.astype(np.float64)), axis=1) + read.tail_PT.sum(axis=1)
        np.testing.assert_allclose(mass_P[covered], 1, atol=1e-6)
        np.testing.assert_array_equal(read.ids_PM != 65535, made.ids_PM != 65535)
        # Half steps of roots are 1/256 and 1/500; scaling to a sum of 1 adds what the roundings make together.
        for row in np.flatnonzero(covered):
            kept = dict(zip(made.ids_PM[row].tolist(), np.exp(made.logprob_PM[row].astype(np.float64)), strict=True))
            for v, value in zip(read.ids_PM[row], read.logprob_PM[row], strict=True):
                if v != 65535:
                    assert np.sqrt(np.exp(np.float64(value))) == pytest.approx(np.sqrt(kept[int(v)]), abs=0.02)
        np.testing.assert_allclose(np.sqrt(read.tail_PT), np.sqrt(made.tail_PT), atol=0.02)

    def test_reading_and_writing_again_stays_where_it_is(self) -> None:
        specs = samples.targets_specs()
        made = self.again(samples.targets(ROWS), specs)
        first, again = made.encode(specs, CONSTANTS), self.again(made, specs).encode(specs, CONSTANTS)
        for name, array in first.items():
            near = 1 if name in ("code_E", "tail_PT", "weight_PT") else 0
            assert np.abs(array.astype(np.int64) - again[name]).max(initial=0) <= near, name

    @pytest.mark.parametrize("value", [65535, 7])
    def test_an_id_without_a_value(self, value: int) -> None:
        where = (2, 0) if value == 65535 else (4, 3)
        with pytest.raises(RecordInvalid, match=r"^targets: an id without a value, or the reverse"):
            replace(self.made, ids_PM=changed(self.made.ids_PM, where, value)).check()

    def test_weights(self) -> None:
        with pytest.raises(RecordInvalid, match=r"^targets: teacher weights do not sum to 1"):
            replace(self.made, weight_PT=self.made.weight_PT * np.float32(0.9)).check()

    def test_mass(self) -> None:
        with pytest.raises(RecordInvalid, match=r"^targets: kept mass and tails do not add up to 1"):
            replace(self.made, tail_PT=self.made.tail_PT + np.float32(0.01)).check()
