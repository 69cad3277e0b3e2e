"""Packing and quantising against plain references: loops over rows, float64, and the steps as documented."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from storage.errors import RecordInvalid
from storage.format import codec
from storage.format.arrays import sentinel

VOCABULARIES = {
    size: np.random.default_rng(size).permutation(size).astype(np.uint32) for size in (1, 2, 7, 300, 70_000)
}
"""Orders of ids; the last one needs ids of 32 bits."""

Row = dict[int, int]
"""Id to code."""


@st.composite
def lists(draw: st.DrawFn, *, highest: int = 128) -> tuple[int, int, list[Row]]:
    """A vocabulary, a width and rows of up to as many entries; empty ones, full ones and the whole vocabulary too."""
    vocabulary = draw(st.sampled_from(sorted(VOCABULARIES)))
    most = draw(st.integers(1, min(vocabulary, 12)))
    ids = st.integers(0, vocabulary - 1)
    row = st.dictionaries(ids, st.integers(1, highest), max_size=most)
    return vocabulary, most, draw(st.lists(row, max_size=8))


def arrays_of(rows: list[Row], *, vocabulary: int, most: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Records hold ids by falling code; here they come in any order, which packing must not mind."""
    ids = np.dtype("uint16" if vocabulary <= 65535 else "uint32")
    ids_PK, codes_PK = np.full((len(rows), most), sentinel(ids), ids), np.zeros((len(rows), most), np.uint8)
    for place, row in enumerate(rows):
        ids_PK[place, : len(row)] = list(row)
        codes_PK[place, : len(row)] = list(row.values())
        codes_PK[place, len(row) :] = place  # of no entry; must not be looked at
    return ids_PK, codes_PK


def unpack(
    packed: tuple[Any, ...], vocabulary: int, most: int, *, at_P: NDArray[np.uint16] | None = None
) -> tuple[NDArray[Any], NDArray[np.uint8], NDArray[np.int32]]:
    count_P, step_E, code_E = packed[:3]
    return codec.unpack_lists(count_P, step_E, code_E, VOCABULARIES[vocabulary], most=most, highest=128, at_P=at_P)


@settings(deadline=None)
@given(made=lists(), rng=st.randoms(use_true_random=False), small=st.booleans())
def test_lists_lie_end_to_end_by_rank_and_come_back(made: tuple[int, int, list[Row]], rng: Any, small: bool) -> None:
    vocabulary, most, rows = made
    order = VOCABULARIES[vocabulary].tolist()
    ids_PK, codes_PK = arrays_of(rows, vocabulary=vocabulary, most=most)
    place = [rng.randint(-1, len(row) - 1) for row in rows]
    with pytest.MonkeyPatch.context() as patch:
        if small:
            patch.setattr(codec, "BLOCK_ENTRIES", 5)
        packed = codec.pack_lists(
            ids_PK, codes_PK, VOCABULARIES[vocabulary], place_P=np.array(place, np.int32).reshape(-1)
        )
        count_P, step_E, code_E, at_P = packed
        back_PK, back_codes_PK, back_P = unpack(packed, vocabulary, most, at_P=at_P)
    assert (count_P.dtype, step_E.dtype, code_E.dtype, at_P.dtype) == ("uint16", ids_PK.dtype, "uint8", "uint16")
    assert count_P.tolist() == [len(row) for row in rows]
    steps, codes, at = [], [], []
    for row, column in zip(rows, place, strict=True):
        ranks = sorted((order.index(v), code, v) for v, code in row.items())
        steps += [rank - before for (rank, _, _), before in zip(ranks, [0, *(rank for rank, _, _ in ranks)])]  # noqa: B905
        codes += [code for _, code, _ in ranks]
        at.append(0 if column < 0 else 1 + [v for _, _, v in ranks].index(list(row)[column]))
    assert (step_E.tolist(), code_E.tolist(), at_P.tolist()) == (steps, codes, at)
    assert (back_PK.dtype, back_PK.shape, back_codes_PK.dtype) == (ids_PK.dtype, (len(rows), most), "uint8")
    for place_, row in enumerate(rows):
        expected = sorted(row, key=lambda v: (-row[v], order.index(v)))
        assert back_PK[place_].tolist() == expected + [sentinel(ids_PK.dtype)] * (most - len(row))
        assert back_codes_PK[place_].tolist() == [row[v] for v in expected] + [0] * (most - len(row))
        column = place[place_]
        assert back_P[place_] == (-1 if column < 0 else expected.index(list(row)[column]))


@settings(deadline=None)
@given(made=lists())
def test_keys_of_either_width_give_the_same(made: tuple[int, int, list[Row]]) -> None:
    """Vocabularies of 2**24 ids are too large to try; their 64-bit keys are not."""
    vocabulary, most, rows = made
    ids_PK, codes_PK = arrays_of(rows, vocabulary=vocabulary, most=most)
    place_P = np.array([len(row) - 1 for row in rows], np.int32)
    narrow = codec.pack_lists(ids_PK, codes_PK, VOCABULARIES[vocabulary], place_P=place_P)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "_key_dtype", lambda vocabulary, most: np.uint64)
        wide = codec.pack_lists(ids_PK, codes_PK, VOCABULARIES[vocabulary], place_P=place_P)
        read = unpack(wide, vocabulary, most, at_P=wide[3])
    for one, other in zip([*narrow, *unpack(narrow, vocabulary, most, at_P=narrow[3])], [*wide, *read], strict=True):
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_lists_of_the_whole_vocabulary(rows: int) -> None:
    """Every rank in turn: a first difference of 0, then ones."""
    ids_PK = np.random.default_rng(0).permuted(np.tile(np.arange(300, dtype=np.uint16), (rows, 1)), axis=1)
    packed = codec.pack_lists(ids_PK, np.full(ids_PK.shape, 9, np.uint8), VOCABULARIES[300])
    assert packed[1].tolist() == [0, *[1] * 299] * rows
    back_PK, codes_PK, place_P = unpack(packed, 300, 300)
    np.testing.assert_array_equal(back_PK, np.tile(VOCABULARIES[300].astype(np.uint16), (rows, 1)))
    assert (codes_PK == 9).all() and (place_P == -1).all()


def test_lists_longer_than_a_block_and_sums_beyond_32_bits() -> None:
    """65,534 entries in a vocabulary of 70,000: differences could add up to more than 2**32."""
    ids_PK = VOCABULARIES[70_000][None, 3 : 3 + 65_534]
    packed = codec.pack_lists(ids_PK, np.ones(ids_PK.shape, np.uint8), VOCABULARIES[70_000])
    assert packed[0].tolist() == [65_534] and packed[1][:2].tolist() == [3, 1]
    np.testing.assert_array_equal(unpack(packed, 70_000, 65_534)[0], ids_PK)
    forged = packed[1].copy()
    forged[:] = 69_999
    with pytest.raises(RecordInvalid, match=r"^lists: a rank of \d{10} in a vocabulary of 70000$"):
        unpack((packed[0], forged, packed[2]), 70_000, 65_534)


class TestRefusals:
    """Three rows in a vocabulary of 300, one of them empty."""

    ids_PK = np.array([[5, 6, 7], [65535, 65535, 65535], [9, 5, 65535]], np.uint16)
    packed = codec.pack_lists(ids_PK, np.full((3, 3), 9, np.uint8), VOCABULARIES[300])

    def refused(self, message: str, **changes: Any) -> None:
        names = ("count_P", "step_E", "codes_E", "at_P")
        arguments = {**dict(zip(names, self.packed, strict=True)), "most": 3, "highest": 128, **changes}
        with pytest.raises(RecordInvalid, match=f"^{message}$"):
            codec.unpack_lists(order_V=VOCABULARIES[300], **arguments)

    def changed(self, name: str, place: int, value: int) -> dict[str, Any]:
        array = dict(zip(("count_P", "step_E", "codes_E", "at_P"), self.packed, strict=True))[name].copy()
        array[place] = value
        return {name: array}

    @pytest.mark.parametrize(("name", "fill"), [("count_P", 65535), ("step_E", 65535), ("at_P", 65535)])
    def test_holes(self, name: str, fill: int) -> None:
        self.refused("fill values where data should be; a shard is missing", **self.changed(name, 1, fill))

    @pytest.mark.parametrize(("place", "value"), [(0, 2), (1, 1), (2, 0)])
    def test_counts_that_lie(self, place: int, value: int) -> None:
        self.refused("lists: counts do not fit 5 entries, at most 3 a row", **self.changed("count_P", place, value))

    def test_more_than_a_row_may_have(self) -> None:
        self.refused("lists: counts do not fit 5 entries, at most 2 a row", most=2)

    @pytest.mark.parametrize("name", ["step_E", "codes_E"])
    def test_entries_of_different_number(self, name: str) -> None:
        whole = dict(zip(("count_P", "step_E", "codes_E"), self.packed[:3], strict=True))[name]
        self.refused(r"lists: counts do not fit \d entries, at most 3 a row", **{name: whole[:-1]})

    def test_the_same_id_twice(self) -> None:
        self.refused("lists: an id twice in a row", **self.changed("step_E", 1, 0))

    @pytest.mark.parametrize("value", [300, 65534])
    def test_ranks_outside(self, value: int) -> None:
        self.refused(rf"lists: a rank of {value} in a vocabulary of 300", **self.changed("step_E", 1, value))

    def test_ranks_that_add_up_to_more(self) -> None:
        self.refused(r"lists: a rank of \d{3} in a vocabulary of 300", **self.changed("step_E", 1, 299))

    @pytest.mark.parametrize(("value", "highest"), [(0, 128), (129, 128), (255, 128), (9, 8)])
    def test_codes_outside(self, value: int, highest: int) -> None:
        self.refused(f"lists: a value outside 1 to {highest}", **self.changed("codes_E", 4, value), highest=highest)

    @pytest.mark.parametrize(("place", "value"), [(0, 4), (1, 1), (2, 3)])
    def test_places_beyond_the_list(self, place: int, value: int) -> None:
        self.refused("lists: the true token's place lies beyond its list", **self.changed("at_P", place, value))

    @pytest.mark.parametrize("ids", [[300, 5, 65535], [5, 65534, 65535], [300, 301, 302]])
    def test_ids_outside_are_not_written(self, ids: list[int]) -> None:
        with pytest.raises(RecordInvalid, match=r"^lists: an id outside the vocabulary of 300$"):
            codec.pack_lists(np.array([ids], np.uint16), np.full((1, 3), 9, np.uint8), VOCABULARIES[300])

    @pytest.mark.parametrize("codes", [[9, 9, 9], [9, 8, 8]])
    def test_the_same_id_twice_is_not_written(self, codes: list[int]) -> None:
        with pytest.raises(RecordInvalid, match=r"^lists: an id twice in a row$"):
            codec.pack_lists(np.array([[5, 5, 65535]], np.uint16), np.array([codes], np.uint8), VOCABULARIES[300])

    @pytest.mark.parametrize(
        "decode",
        [
            lambda hole: codec.from_fixed(hole(np.uint16), steps=8),
            lambda hole: codec.from_signed(hole(np.int16), np.ones(2, np.bool_), steps=8),
            lambda hole: codec.from_root(hole(np.uint8)),
            lambda hole: codec.from_shares(hole(np.uint8)),
        ],
    )
    def test_holes_in_columns(self, decode: Any) -> None:
        def hole(dtype: Any) -> NDArray[Any]:
            return np.array([[3], [sentinel(dtype)]], dtype)

        with pytest.raises(RecordInvalid, match=r"^fill values where data should be; a shard is missing$"):
            decode(hole)

    def test_masses_above_one(self) -> None:
        with pytest.raises(RecordInvalid, match=r"^a mass code above 250$"):
            codec.from_root(np.array([250, 251], np.uint8))


floats = npst.arrays(np.float32, (7, 2), elements=st.floats(0, 500, width=32) | st.just(float("nan")))


@settings(deadline=None)
@given(values=floats, steps=st.sampled_from([64, 128]))
def test_fixed_point_is_within_half_a_step(values: NDArray[np.float32], steps: int) -> None:
    codes = codec.to_fixed(values, steps=steps)
    assert codes.dtype == np.uint16 and (codes <= codec.UNANSWERED).all()
    read = codec.from_fixed(codes, steps=steps)
    np.testing.assert_array_equal(np.isnan(read), np.isnan(values))
    np.testing.assert_allclose(read, values, atol=0.5 / steps, rtol=1e-6)
    np.testing.assert_array_equal(codec.to_fixed(read, steps=steps), codes)


def test_fixed_point_at_its_ends() -> None:
    """A log-probability of -inf, and a rounding that makes one positive, are no reason to fail."""
    codes = codec.to_fixed(np.array([0, -1e-7, 511, 512, np.inf, np.nan], np.float32), steps=128)
    assert codes.tolist() == [0, 0, 128 * 511, 65533, 65533, 65534]
    assert codec.from_fixed(codes[3:4], steps=128)[0] == pytest.approx(511.977, abs=1e-3)


@settings(deadline=None)
@given(values=npst.arrays(np.float32, (7, 2), elements=st.floats(-1000, 1000, width=32)), steps=st.sampled_from([32]))
def test_signed_fixed_point_is_within_half_a_step(values: NDArray[np.float32], steps: int) -> None:
    answered = np.arange(7) % 3 > 0
    values[~answered] = np.nan
    codes = codec.to_signed(values, steps=steps)
    assert codes.dtype == np.int16 and (codes > -32768).all()
    read = codec.from_signed(codes, answered, steps=steps)
    np.testing.assert_array_equal(np.isnan(read), np.isnan(values))
    np.testing.assert_allclose(read, values, atol=0.5 / steps, rtol=1e-6)


def test_signed_fixed_point_is_clipped_before_its_fill() -> None:
    values = np.array([-np.inf, -2000, 2000, np.nan])
    assert codec.to_signed(values, steps=32).tolist() == [-32767, -32767, 32767, 0]


@settings(deadline=None)
@given(values=npst.arrays(np.float32, (7, 2), elements=st.floats(0, 1, width=32)))
def test_roots_of_masses_are_within_half_a_step(values: NDArray[np.float32]) -> None:
    """Of the root; a mass that is not 0 stays so, for what is divided by it later."""
    codes = codec.to_root(values)
    read = codec.from_root(codes)
    np.testing.assert_array_equal(read > 0, values > 0)
    exact = np.sqrt(values.astype(np.float64))
    near = np.abs(np.sqrt(read.astype(np.float64)) - exact)
    assert (near <= np.where(exact < 0.5 / 250, 1, 0.5) / 250 + 1e-6).all()
    np.testing.assert_array_equal(codec.to_root(read), codes)


def test_what_is_no_mass_becomes_none_or_all() -> None:
    assert codec.to_root(np.array([np.nan, -1e-9, 1 + 1e-6, 1e-30])).tolist() == [0, 0, 250, 1]


@settings(deadline=None)
@given(values=npst.arrays(np.float32, 9, elements=st.floats(-60, 0, width=32)))
def test_levels_are_roots_of_probabilities(values: NDArray[np.float32]) -> None:
    levels = codec.to_levels(values)
    assert levels.dtype == np.uint8 and (levels >= 1).all() and (levels <= 128).all()
    exact = np.maximum(1, 128 * np.exp(values.astype(np.float64) / 2))
    np.testing.assert_allclose(levels, exact, atol=0.5 + 1e-4)


def test_levels_of_what_is_not_listed() -> None:
    """NaN, which packing does not look at, and what rounding has made larger than 1."""
    assert codec.to_levels(np.array([np.nan, 1e-4, 0, -1000], np.float32)).tolist() == [1, 128, 128, 1]


levels = npst.arrays(np.uint8, (9, 5), elements=st.integers(0, 128))
masses = npst.arrays(np.float32, (9, 2), elements=st.floats(0, 1, width=32))


@settings(deadline=None)
@given(levels_PK=levels, tail_PT=masses, small=st.booleans())
def test_what_is_shared_out_adds_up_to_one(
    levels_PK: NDArray[np.uint8], tail_PT: NDArray[np.float32], small: bool
) -> None:
    """In the proportions of squared levels and tails."""
    with pytest.MonkeyPatch.context() as patch:
        if small:
            patch.setattr(codec, "BLOCK_ENTRIES", 11)
        logprob_PK, shared_PT = codec.share_out(levels_PK, tail_PT)
    assert (logprob_PK.dtype, shared_PT.dtype) == (np.float32, np.float32)
    np.testing.assert_array_equal(np.isnan(logprob_PK), levels_PK == 0)
    assert not (logprob_PK > 0).any()
    p_PK, tails_PT = (levels_PK / 128.0) ** 2, tail_PT.astype(np.float64)
    total_P1 = (p_PK.sum(axis=1) + tails_PT.sum(axis=1))[:, None]
    total_P1[total_P1 == 0] = 1
    np.testing.assert_allclose(np.exp(np.nan_to_num(logprob_PK, nan=-np.inf)), p_PK / total_P1, rtol=2e-6, atol=1e-12)
    np.testing.assert_allclose(shared_PT, tails_PT / total_P1, rtol=1e-6, atol=1e-12)


def test_sharing_out_without_a_list_or_an_answer() -> None:
    """Of drawn rows the whole mass is tail; a row without an answer stays NaN and disturbs no other."""
    logprob_PK, tail_PT = codec.share_out(np.zeros((2, 0), np.uint8), np.array([[0.7], [np.nan]], np.float32))
    assert logprob_PK.shape == (2, 0)
    np.testing.assert_array_equal(tail_PT, np.array([[1], [np.nan]], np.float32))


@settings(max_examples=30, deadline=None)
@given(levels_PK=levels, tail_PT=masses)
def test_encoding_what_was_decoded_moves_by_one_level_at_most(
    levels_PK: NDArray[np.uint8], tail_PT: NDArray[np.float32]
) -> None:
    """Once the values add up to 1; before that, levels are what they were scaled from."""
    first = codec.share_out(levels_PK, codec.from_root(codec.to_root(tail_PT)))
    codes = codec.to_levels(first[0]), codec.to_root(first[1])
    codes[0][np.isnan(first[0])] = 0
    second = codec.share_out(codes[0], codec.from_root(codes[1]))
    again = codec.to_levels(second[0]), codec.to_root(second[1])
    again[0][np.isnan(second[0])] = 0
    for one, other in zip(codes, again, strict=True):
        assert np.abs(one.astype(np.int64) - other).max() <= 1


@settings(deadline=None)
@given(weights=npst.arrays(np.float64, (5, 4), elements=st.floats(0, 1)))
def test_shares_add_up_to_one(weights: NDArray[np.float64]) -> None:
    weights[:, 0] += 0.1
    weights /= weights.sum(axis=1, keepdims=True)
    read = codec.from_shares(codec.to_shares(weights))
    np.testing.assert_allclose(read.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(read, weights, atol=2.5 / 250)


def test_shares_of_a_row_without_an_answer() -> None:
    np.testing.assert_array_equal(codec.to_shares(np.array([[np.nan, np.nan]])), np.zeros((1, 2), np.uint8))
    np.testing.assert_array_equal(codec.from_shares(np.zeros((1, 2), np.uint8)), np.zeros((1, 2), np.float32))
