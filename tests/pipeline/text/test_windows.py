"""Windows hold every token once, in order, and never cut a word that fits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.text.tokenizer import FastTokenizer, load_tokenizer
from pipeline.text.windows import cut_windows, encode_windows
from storage.errors import DataError
from tests.helpers.stores import TINY_TEXT, words_of

WORD_LENGTHS = st.lists(st.lists(st.integers(1, 9), max_size=12), min_size=1, max_size=4)


@settings(max_examples=300, deadline=None)
@given(documents=WORD_LENGTHS, budget=st.integers(2, 12))
def test_windows_hold_every_token_once_and_cut_only_words_that_do_not_fit(
    documents: list[list[int]], budget: int
) -> None:
    """The reference walks word by word; that windows are about equal is not checked here."""
    word_ids = [[number for number, size in enumerate(sizes) for _ in range(size)] for sizes in documents]
    windows = cut_windows(word_ids, budget=budget)
    flat = [(document, word) for document, words in enumerate(word_ids) for word in words]
    sizes = {(d, w): size for d, lengths in enumerate(documents) for w, size in enumerate(lengths)}
    seen: list[int] = []
    for document, start, stop in zip(
        windows.document_W.tolist(), windows.start_W.tolist(), windows.stop_W.tolist(), strict=True
    ):
        assert 0 < stop - start <= budget
        assert {owner for owner, _ in flat[start:stop]} == {document}
        assert len({word for _, word in flat[start:stop]}) >= 2
        for border in (start, stop):
            if 0 < border < len(flat) and flat[border - 1] == flat[border]:
                assert sizes[flat[border]] > budget
        seen += range(start, stop)
    assert seen == sorted(set(seen))
    assert windows.counts["cut_words"] == sum(size > budget for size in sizes.values())
    # What is not in a window was in one of a single word, and those are counted.
    dropped = len(flat) - len(seen)
    assert windows.counts["short_windows"] <= dropped <= windows.counts["short_windows"] * budget
    assert windows.counts["short_windows"] == 0 or dropped > 0


def test_windows_of_a_document_are_about_equally_long() -> None:
    windows = cut_windows([list(range(21)), list(range(5))], budget=10)
    assert (windows.stop_W - windows.start_W).tolist() == [7, 7, 7, 5]
    assert windows.window_W.tolist() == [0, 1, 2, 0]
    assert windows.document_W.tolist() == [0, 0, 0, 1]


def test_a_window_of_one_word_is_dropped_but_keeps_its_number() -> None:
    windows = cut_windows([[0, 1, 2, *([3] * 9), 4, 5]], budget=4)
    kept = list(zip(windows.window_W.tolist(), windows.start_W.tolist(), windows.stop_W.tolist(), strict=True))
    assert kept == [(0, 0, 3), (3, 11, 14)]
    assert windows.counts == {"words": 6, "short_windows": 2, "cut_words": 1}


def test_no_documents_give_no_windows() -> None:
    assert len(cut_windows([[], []], budget=4).start_W) == 0


@pytest.fixture(scope="module")
def bert(tiny_tokenizer: Path) -> FastTokenizer:
    return load_tokenizer(tiny_tokenizer)


@pytest.fixture(scope="module")
def bpe(tiny_bpe_tokenizer: Path) -> FastTokenizer:
    return load_tokenizer(tiny_bpe_tokenizer)


def test_a_sentence_can_be_read_back_from_its_window(bert: FastTokenizer) -> None:
    sequences, counts = encode_windows([TINY_TEXT[2]], bert, sequence_tokens=32)
    (length,) = sequences.length_N.tolist()
    tokens = [bert.backend.id_to_token(i) for i in sequences.input_ids_NL[0, :length].tolist()]
    assert " ".join(tokens) == (
        "[CLS] a dog is an animal ; it like ##s a bone and walk ##s slow ##ly under the table . [SEP]"
    )
    inside = sequences.word_NL[0] >= 0
    characters = words_of(TINY_TEXT[2], sequences.char_start_NL[0, inside], sequences.char_end_NL[0, inside])
    assert " ".join(characters) == "A dog is an animal ; it like s a bone and walk s slow ly under the table ."
    assert sequences.word_NL[0, :12].tolist() == [-1, 0, 1, 2, 3, 4, 5, 6, 7, 7, 8, 9]
    assert (counts["words"], counts["tokens"], counts["documents"], counts["unknown"]) == (17, 20, 1, 0)


def test_characters_of_a_byte_level_token_leave_its_space_out(bpe: FastTokenizer) -> None:
    text = "The  old dog\nsleeps — naïve 🐕."
    sequences, _ = encode_windows([text], bpe, sequence_tokens=48)
    inside = sequences.word_NL[0] >= 0
    tokens = words_of(text, sequences.char_start_NL[0, inside], sequences.char_end_NL[0, inside])
    assert "dog" in tokens
    assert not [token for token in tokens if token.strip() and token != token.strip()]
    ids = sequences.input_ids_NL[0, : sequences.length_N[0]].tolist()
    assert bpe.backend.decode(ids, skip_special_tokens=True) == text


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(max_size=60), min_size=1, max_size=4))
def test_any_text_keeps_its_characters(bert: FastTokenizer, bpe: FastTokenizer, texts: list[str]) -> None:
    """Windows of 256 tokens, so that each text lies in one or none; offsets rise and stay inside the text."""
    for tokenizer in (bert, bpe):
        sequences, _ = encode_windows(texts, tokenizer, sequence_tokens=256)
        sequences.check()
        for row, document in enumerate(sequences.document_N.tolist()):
            inside = sequences.word_NL[row] >= 0
            start, end = sequences.char_start_NL[row, inside], sequences.char_end_NL[row, inside]
            assert (start >= 0).all()
            assert (end <= len(texts[document])).all()
            assert (end >= start).all()
            assert (np.diff(start) >= 0).all()
            assert (np.diff(sequences.word_NL[row, inside]) <= 1).all()
            length = int(sequences.length_N[row])
            expected = tokenizer.backend.encode(texts[document]).ids
            assert sequences.input_ids_NL[row, :length].tolist() == expected


def test_no_room_for_words_is_refused(bert: FastTokenizer) -> None:
    with pytest.raises(DataError, match="sequence_tokens: 3 leave 1 beside"):
        encode_windows(["a b"], bert, sequence_tokens=3)
