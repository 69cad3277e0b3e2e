"""Masked positions are whole words, disjoint between copies, of the wanted number, and independent of batches."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.core.config import decode
from pipeline.text.mask import mask
from pipeline.text.masking import choose_masked_positions
from pipeline.text.params import MaskParams
from pipeline.text.tokenizer import load_tokenizer
from pipeline.text.windows import encode_windows
from storage.documents import DocumentStore
from storage.errors import DataError, ParamsError, StaleParent
from storage.format.arrays import sentinel
from storage.reader import Store
from storage.records.base import SPLITS
from storage.records.sequences import Masks, Sequences
from tests.helpers.stores import TinyStores, folder_bytes, tiny_documents, tiny_sequences

UNKNOWN, SPACE = 3, 4
NO_SPACES = np.zeros(100, bool)
WITH_SPACE = np.arange(100) == SPACE

WINDOWS = st.lists(st.lists(st.integers(1, 6), min_size=2, max_size=20), min_size=1, max_size=8)
"""Tokens of each word of each window."""
RATES = st.sampled_from([(0.15, 1), (0.15, 3), (0.15, 6), (0.5, 2), (0.3, 3), (0.01, 4)])
"""Rate and copies."""


def sequences_of(windows: list[list[int]], ids: list[list[int]] | None = None) -> Sequences:
    """Windows whose words have the given numbers of tokens; every id is 7 unless each word's is given."""
    width = max(map(sum, windows)) + 2
    shape = (len(windows), width)
    record = Sequences(
        document_N=np.arange(len(windows), dtype=np.uint32),
        window_N=np.arange(len(windows), dtype=np.uint32) % 3,
        length_N=np.array([sum(words) + 2 for words in windows], np.uint16),
        input_ids_NL=np.full(shape, sentinel("uint16"), np.uint16),
        word_NL=np.full(shape, -1, np.int16),
        char_start_NL=np.full(shape, -1, np.int32),
        char_end_NL=np.full(shape, -1, np.int32),
    )
    for row, words in enumerate(windows):
        numbers = np.repeat(np.arange(len(words)), words)
        record.input_ids_NL[row, : len(numbers) + 2] = 2
        record.input_ids_NL[row, 1 : len(numbers) + 1] = 7 if ids is None else np.repeat(ids[row], words)
        record.word_NL[row, 1 : len(numbers) + 1] = numbers
    return record


def masked_of(sequences: Sequences, *, rate: float = 0.15, copies: int = 1, seed: int = 0) -> Masks:
    names = [f"corpus:{row}" for row in sequences.document_N.tolist()]
    return choose_masked_positions(
        sequences, names, rate=rate, copies=copies, seed=seed, unknown=UNKNOWN, white_space_V=WITH_SPACE
    )  # fmt: skip


def rows_at(sequences: Sequences, rows: NDArray[np.int64]) -> Sequences:
    return Sequences(**{name: array[rows] for name, array in sequences.arrays().items()})


def masked_by_document(sequences: Sequences, masks: Masks) -> dict[int, set[tuple[int, int]]]:
    """Document to its (copy, column) pairs."""
    found: dict[int, set[tuple[int, int]]] = {int(document): set() for document in sequences.document_N}
    for copy, row, column in zip(
        masks.copy_P.tolist(), masks.sequence_P.tolist(), masks.column_P.tolist(), strict=True
    ):
        found[int(sequences.document_N[row])].add((copy, column))
    return found


@settings(max_examples=150, deadline=None)
@given(windows=WINDOWS, plan=RATES, seed=st.integers(0, 5))
def test_masked_words_are_whole_and_of_the_wanted_number(
    windows: list[list[int]], plan: tuple[float, int], seed: int
) -> None:
    rate, copies = plan
    sequences = sequences_of(windows)
    masks = masked_of(sequences, rate=rate, copies=copies, seed=seed)
    masks.check()
    for row, words in enumerate(windows):
        share = max(1, int(rate * sum(words) + 0.5))
        taken: set[int] = set()
        for copy in range(copies):
            here = (masks.sequence_P == row) & (masks.copy_P == copy)
            numbers, tokens = np.unique(sequences.word_NL[row, masks.column_P[here]], return_counts=True)
            assert (numbers >= 0).all()
            assert tokens.tolist() == [words[number] for number in numbers]
            assert not taken & set(numbers.tolist())
            left = len(taken) < len(words)
            taken |= set(numbers.tolist())
            if left:
                assert len(numbers) > 0
            if len(taken) < len(words):
                assert share <= tokens.sum() < share + max(words)
    assert (masks.label_P == 7).all()


@settings(max_examples=100, deadline=None)
@given(windows=WINDOWS, plan=RATES, rng=st.randoms(use_true_random=False))
def test_masked_positions_do_not_depend_on_order_or_batch(
    windows: list[list[int]], plan: tuple[float, int], rng: object
) -> None:
    sequences = sequences_of(windows)
    rows = list(range(len(windows)))
    rng.shuffle(rows)  # type: ignore[attr-defined]
    some = rows_at(sequences, np.array(rows[: 1 + len(rows) // 2]))
    rate, copies = plan
    whole = masked_by_document(sequences, masked_of(sequences, rate=rate, copies=copies))
    for document, masked in masked_by_document(some, masked_of(some, rate=rate, copies=copies)).items():
        assert masked == whole[document]


@settings(max_examples=50, deadline=None)
@given(windows=WINDOWS)
def test_more_copies_leave_the_first_ones_as_they_were(windows: list[list[int]]) -> None:
    sequences = sequences_of(windows)
    two, six = (masked_by_document(sequences, masked_of(sequences, copies=copies)) for copies in (2, 6))
    for document, masked in two.items():
        assert masked == {(copy, column) for copy, column in six[document] if copy < 2}


def test_seed_document_and_window_each_change_the_positions() -> None:
    sequences = sequences_of([[1] * 100])
    base = masked_of(sequences).column_P.tolist()
    assert masked_of(sequences, seed=1).column_P.tolist() != base
    assert masked_of(replace(sequences, window_N=np.array([9], np.uint32))).column_P.tolist() != base
    assert masked_of(replace(sequences, document_N=np.array([9], np.uint32))).column_P.tolist() != base
    assert masked_of(sequences).column_P.tolist() == base


def test_every_word_is_masked_equally_often() -> None:
    """4000 windows of ten words, two masked in each: a word's share is 0.2 within five standard deviations."""
    masks = masked_of(sequences_of([[1] * 10] * 4000), rate=0.2)
    shares = np.bincount(masks.column_P, minlength=12)[1:11] / 4000
    assert len(masks) == 8000
    assert np.abs(shares - 0.2).max() < 5 * (0.2 * 0.8 / 4000) ** 0.5


def test_unknown_words_and_white_space_are_never_masked() -> None:
    ids = [[UNKNOWN, 9, SPACE, 9, UNKNOWN], [UNKNOWN, SPACE, UNKNOWN, SPACE, UNKNOWN]]
    masks = masked_of(sequences_of([[2, 1, 1, 3, 1]] * 2, ids), rate=0.5, copies=2)
    assert np.unique(masks.sequence_P).tolist() == [0]
    assert sorted(masks.column_P.tolist()) == [3, 5, 6, 7]
    assert (masks.label_P == 9).all()


def test_the_first_word_of_a_text_is_masked_whole_by_byte_level_tokens(tiny_bpe_tokenizer: Path) -> None:
    """It has no space before it, so no token of it begins with one; and no mask runs on into the next word."""
    own = load_tokenizer(tiny_bpe_tokenizer)
    text = "Counterrevolutionaries walk slowly on the green hill."
    sequences, _ = encode_windows([text], own, sequence_tokens=64)
    starts, ends = sequences.char_start_NL[0], sequences.char_end_NL[0]
    first = np.flatnonzero((starts >= 0) & (ends <= text.index(" ")))
    assert len(first) > 2 and not any(own.tokens[i].startswith("▁") for i in sequences.input_ids_NL[0, first[1:]])
    assert (sequences.word_NL[0, first] == 0).all() and (sequences.word_NL[0] == 0).sum() == len(first)
    masks = choose_masked_positions(
        sequences, ["corpus:0"], rate=0.5, copies=2, seed=0, unknown=own.special["unk"],
        white_space_V=np.zeros(len(own.tokens), bool),
    )  # fmt: skip
    copies = [set(masks.column_P[masks.copy_P == copy].tolist()) for copy in (0, 1)]
    assert sorted(copies[0] | copies[1]) == np.flatnonzero(sequences.word_NL[0] >= 0).tolist()
    assert sorted(set(first.tolist()) <= columns for columns in copies) == [False, True]
    assert any(set(first.tolist()).isdisjoint(columns) for columns in copies)


def test_a_word_with_one_unknown_token_is_never_masked() -> None:
    sequences = sequences_of([[3, 1]])
    sequences.input_ids_NL[0, 2] = UNKNOWN
    assert masked_of(sequences, rate=0.9).column_P.tolist() == [4]


def test_the_store_has_copies_for_training_and_one_for_judging(tiny_stores: TinyStores) -> None:
    store, sequences = Store(tiny_stores.masks, Masks), Store(tiny_stores.sequences, Sequences)
    assert store.manifest.parents == {"sequences": sequences.identity}
    assert store.facts["copies"] == 2
    assert store.facts["vocabulary"] == sequences.facts["vocabulary"]
    for split in SPLITS:
        masks, windows = store.read(split), sequences.read(split)
        assert np.unique(masks.copy_P).tolist() == ([0, 1] if split == "train" else [0])
        assert (masks.label_P == windows.input_ids_NL[masks.sequence_P, masks.column_P]).all()
        counts = store.facts["counts"][split]
        assert counts["predictions"] == len(masks) == store.plan(split).rows
        assert counts["without_blank"] == 0
        assert abs(counts["rate"] - 0.3) < 0.03
    assert store.plan("train").shards == -(-len(store.read("train")) // 64)


@pytest.fixture
def texts(workplace: Path, tiny_tokenizer: Path) -> Path:
    """`data/documents` and `data/sequences` in the current folder."""
    tiny_sequences(workplace, tiny_tokenizer)
    return Path("data")


def masked(data: Path, name: str, **changes: object) -> Store[Masks]:
    values = {"rate": 0.2, "copies": 1, "seed": 0, "shard_rows": 64} | changes
    mask(MaskParams(**values), data / "documents", sequences=data / "sequences", out=data / name)  # type: ignore[arg-type]
    return Store(data / name, Masks)


def test_judging_does_not_change_with_copies_or_seed(texts: Path) -> None:
    first, other = masked(texts, "first"), masked(texts, "other", copies=4, seed=8)
    for split in ("calibration", "heldout"):
        for name, values in first.read(split).arrays().items():
            np.testing.assert_array_equal(values, other.read(split).arrays()[name])
    assert len(other.read("train")) > 3 * len(first.read("train"))


def test_held_out_text_is_masked_at_its_own_rate_and_nothing_else_is(texts: Path) -> None:
    low, high = masked(texts, "low", rate=0.2), masked(texts, "high", rate=0.4)
    both = masked(texts, "both", rate=0.4, heldout_rate=0.2)
    for split, same in (("train", high), ("calibration", high), ("heldout", low)):
        for name, values in same.read(split).arrays().items():
            np.testing.assert_array_equal(values, both.read(split).arrays()[name])
    rates = {split: counts["rate"] for split, counts in both.facts["counts"].items()}
    assert abs(rates["train"] - 0.4) < 0.04 and abs(rates["heldout"] - 0.2) < 0.03


def test_masks_without_a_rate_of_held_out_text_are_the_store_that_they_were(texts: Path) -> None:
    inputs = masked(texts, "masks").manifest.inputs
    assert inputs == {"rate": 0.2, "copies": 1, "seed": 0, "shard_rows": 64}


def test_a_copy_added_later_keeps_the_first_copy(texts: Path) -> None:
    one, two = masked(texts, "one").read("train"), masked(texts, "two", copies=2).read("train")
    for name, values in one.arrays().items():
        np.testing.assert_array_equal(values, two.arrays()[name][: len(one)])


def test_another_process_with_another_hash_seed_makes_the_same_bytes(texts: Path) -> None:
    masked(texts, "here", copies=2)
    code = (
        "from pathlib import Path; from pipeline.text.mask import MaskParams, mask;"
        "mask(MaskParams(rate=0.2, copies=2, seed=0, shard_rows=64), Path('data/documents'),"
        " sequences=Path('data/sequences'), out=Path('data/there'))"
    )
    root = Path(__file__).parents[3]
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(root), "PYTHONHASHSEED": "7"}, cwd=Path.cwd()
    )
    assert folder_bytes(texts / "there") == folder_bytes(texts / "here")


def test_sequences_of_other_documents_are_refused(texts: Path, workplace: Path) -> None:
    elsewhere = tiny_documents(workplace / "other", heldout=0.3)
    assert DocumentStore(elsewhere).identity != DocumentStore(texts / "documents").identity
    params = MaskParams(rate=0.2, copies=1, seed=0, shard_rows=64)
    with pytest.raises(StaleParent, match=r"sequences: made from documents .* Run: dvc repro tokenize"):
        mask(params, elsewhere, sequences=texts / "sequences", out=texts / "masks")


def test_text_in_letters_the_tokenizer_does_not_know_is_refused(workplace: Path, tiny_tokenizer: Path) -> None:
    tiny_documents(workplace, texts=tuple(f"слово {i} мир" for i in range(60)))
    tiny_sequences(workplace, tiny_tokenizer)
    with pytest.raises(DataError, match="train has no word that can be masked; is the tokenizer made for this text"):
        masked(Path("data"), "masks")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": 0.3, "copies": 4}, r"mask: copies of a window are disjoint, so rate \* copies must not exceed 1"),
        ({"rate": 1.5}, r"mask\.rate: .*less than 1, got 1\.5"),
        ({"heldout_rate": 1.5}, r"mask\.heldout_rate: .*less than 1, got 1\.5"),
        ({"copies": 0}, r"mask\.copies: .*greater than or equal to 1"),
        ({"rte": 0.1}, r"unknown key 'rte' \(did you mean 'rate'\?\)"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, float], message: str) -> None:
    values = {"rate": 0.15, "copies": 1, "seed": 0, "shard_rows": 64} | change
    with pytest.raises(ParamsError, match=message):
        decode(values, MaskParams, where="params.yaml: mask")
