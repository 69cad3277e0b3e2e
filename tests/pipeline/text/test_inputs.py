"""Batches against a plain construction by example; order and size of batches change nothing."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.text.inputs import (
    View,
    group_examples,
    model_inputs,
    reference_view,
    token_batches,
)
from storage.records.sequences import Masks, Sequences

SPECIAL = {"pad": 0, "mask": 1, "cls": 2, "sep": 3, "unk": 4}


def world(seed: int, *, sequences: int, copies: int) -> tuple[Sequences, Masks]:
    """Random sequences of 4 to 12 tokens, each with one to three masked positions a copy."""
    rng = np.random.default_rng(seed)
    width = 12
    length = rng.integers(4, width + 1, sequences)
    ids = np.full((sequences, width), 65535, np.uint16)
    for row, tokens in enumerate(length):
        ids[row, :tokens] = rng.integers(5, 50, tokens)
    copy_P, sequence_P, column_P = [], [], []
    for copy in range(copies):
        for row in range(sequences):
            columns = np.sort(
                rng.choice(np.arange(1, length[row] - 1), rng.integers(1, min(3, length[row] - 2) + 1), False)
            )
            copy_P += [copy] * len(columns)
            sequence_P += [row] * len(columns)
            column_P += columns.tolist()
    nothing = np.full((sequences, width), -1, np.int32)
    records = Sequences(
        document_N=np.arange(sequences, dtype=np.uint32),
        window_N=np.zeros(sequences, np.uint32),
        length_N=length.astype(np.uint16),
        input_ids_NL=ids,
        word_NL=nothing.astype(np.int16),
        char_start_NL=nothing,
        char_end_NL=nothing,
    )
    masks = Masks(
        copy_P=np.array(copy_P, np.uint16),
        sequence_P=np.array(sequence_P, np.uint32),
        column_P=np.array(column_P, np.uint16),
        label_P=ids[sequence_P, column_P],
    )
    masks.check()
    return records, masks


def view_of(seed: int, *, sequences: int = 7, copies: int = 2) -> tuple[Sequences, Masks, View]:
    records, masks = world(seed, sequences=sequences, copies=copies)
    return records, masks, reference_view(records, masks, special=SPECIAL)


@given(seed=st.integers(0, 1000), batch_tokens=st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_every_prediction_occurs_once_with_its_own_masked_positions(seed: int, batch_tokens: int) -> None:
    sequences, masks, view = view_of(seed)
    seen = np.zeros(len(masks), int)
    for batch in token_batches(view.lengths_G(), batch_tokens):
        inputs = model_inputs(view, batch)
        for q, prediction in enumerate(inputs.prediction_Q):
            seen[prediction] += 1
            row = int(masks.sequence_P[prediction])
            same = (masks.sequence_P == row) & (masks.copy_P == masks.copy_P[prediction])
            expected = sequences.input_ids_NL[row, : sequences.length_N[row]].astype(int)
            expected[masks.column_P[same]] = SPECIAL["mask"]
            got = inputs.input_ids_BL[inputs.row_Q[q]]
            used = inputs.attention_BL[inputs.row_Q[q]] == 1
            assert got[used].tolist() == expected.tolist()
            assert (got[~used] == SPECIAL["pad"]).all()
            assert inputs.column_Q[q] == masks.column_P[prediction]
    assert (seen == 1).all()


@given(st.lists(st.integers(1, 128), min_size=1, max_size=200), st.integers(1, 600))
def test_batches_hold_every_pass_once_and_stay_within_the_budget(lengths: list[int], budget: int) -> None:
    length_G = np.array(lengths)
    batches = token_batches(length_G, budget)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * length_G[batch].max() <= budget


def test_masked_positions_are_attended_to() -> None:
    _, masks, view = view_of(3)
    inputs = model_inputs(view, np.arange(len(view.sequence_G)))
    masked = inputs.input_ids_BL == SPECIAL["mask"]
    assert masked.sum() == len(masks)
    assert (inputs.attention_BL[masked] == 1).all()


def test_group_passes_counts_one_example_a_copy_and_sequence() -> None:
    _, masks = world(5, sequences=4, copies=3)
    sequence_G, start_G1 = group_examples(masks)
    assert sequence_G.tolist() == [0, 1, 2, 3] * 3
    assert start_G1[0] == 0
    assert start_G1[-1] == len(masks)


def test_unanswerable_predictions_are_left_out_but_stay_masked() -> None:
    _, masks, view = view_of(9)
    columns = view.column_P.copy()
    columns[::2] = -1
    partial = View(**{name: getattr(view, name) for name in View.__slots__ if name != "column_P"}, column_P=columns)
    inputs = model_inputs(partial, np.arange(len(view.sequence_G)))
    assert inputs.prediction_Q.tolist() == list(range(1, len(masks), 2))
    assert (inputs.input_ids_BL == SPECIAL["mask"]).sum() == len(masks)


@given(st.integers(0, 10_000), st.sampled_from([1, 4, 5, 16]))
@settings(max_examples=20, deadline=None)
def test_widths_are_filled_up_to_a_multiple_within_the_view_and_nothing_else_changes(seed: int, multiple: int) -> None:
    _, _, view = view_of(seed)
    batch = np.arange(3)
    exact, filled = model_inputs(view, batch), model_inputs(view, batch, multiple=multiple)
    longest, width = exact.input_ids_BL.shape[1], filled.input_ids_BL.shape[1]
    assert width == min(-(-longest // multiple) * multiple, view.ids_NL.shape[1])
    np.testing.assert_array_equal(filled.input_ids_BL[:, :longest], exact.input_ids_BL)
    np.testing.assert_array_equal(filled.attention_BL[:, :longest], exact.attention_BL)
    assert (filled.input_ids_BL[:, longest:] == view.pad_id).all()
    assert not filled.attention_BL[:, longest:].any()
    for name in ("row_Q", "column_Q", "prediction_Q"):
        np.testing.assert_array_equal(getattr(filled, name), getattr(exact, name))
