"""Kinds of masked positions against numbers by hand, and against their definition word by word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from pipeline.evaluate.evaluate import coverage_by_place
from pipeline.text import places
from pipeline.text.places import PLACES, place_of_each
from pipeline.text.tokenizer import load_tokenizer
from pipeline.text.vocabulary import is_punctuation
from pipeline.text.windows import encode_windows
from storage.records.sequences import Masks, Sequences

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = ["the", "dog", "##s", "bark", "##ed", "at", "paris", "##ian", "(", ")", ".", ",", "-", "a"]


def mask_all(sequences: Sequences, *, copies: int = 1) -> Masks:
    """Every token of every word, once a copy."""
    row, column = np.nonzero(sequences.word_NL >= 0)
    size = len(row)
    return Masks(
        copy_P=np.repeat(np.arange(copies), size).astype(np.uint16),
        sequence_P=np.tile(row, copies).astype(np.uint32),
        column_P=np.tile(column, copies).astype(np.uint16),
        label_P=np.tile(sequences.input_ids_NL[row, column], copies),
    )


def write_wordpiece(folder: Path) -> Path:
    """Uncased, whose tokens are known."""
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *PIECES])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    backend.add_special_tokens(SPECIAL)
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    return folder


def test_kinds_of_a_text_by_hand(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_wordpiece(tmp_path / "tokenizer"))
    texts = ["Dogs barked at the Parisian, (a dog).", "  (The dogs) bark-"]
    sequences, _ = encode_windows(texts, tokenizer, sequence_tokens=24)
    found = place_of_each(texts, sequences, mask_all(sequences))
    expected = [
        *["first word"] * 2,  # Dog ##s
        *["several tokens"] * 2,  # bark ##ed
        *["single token"] * 2,  # at the
        *["capital"] * 2,  # Paris ##ian
        *["punctuation"] * 2,  # , (
        *["single token"] * 2,  # a dog
        *["punctuation"] * 2,  # ) .
        "first word",  # (
        "capital",  # The
        *["several tokens"] * 2,  # dog ##s
        "punctuation",  # )
        "single token",  # bark
        "punctuation",  # -
    ]
    assert [PLACES[place] for place in found] == expected


def test_a_window_begins_with_a_first_word_wherever_it_lies(tmp_path: Path) -> None:
    """Windows of four words: words 0, 4 and 8 of the text are first."""
    tokenizer = load_tokenizer(write_wordpiece(tmp_path / "tokenizer"))
    text = "the dog at the dog at the dog at the dog at"
    sequences, _ = encode_windows([text], tokenizer, sequence_tokens=6)
    found = place_of_each([text] * len(sequences), sequences, mask_all(sequences))
    assert np.flatnonzero(found == PLACES.index("first word")).tolist() == [0, 4, 8]


def test_shares_and_coverage_by_hand() -> None:
    place_P = np.array([4, 4, 4, 4, 2, 2, 0, 0, 0, 3])
    covered_P = np.array([1, 1, 1, 0, 1, 0, 0, 0, 0, 1], bool)
    assert coverage_by_place(place_P, covered_P) == [
        {"place": "first word", "positions": 3, "share": 0.3, "covered": 0.0},
        {"place": "capital", "positions": 2, "share": 0.2, "covered": 0.5},
        {"place": "several tokens", "positions": 1, "share": 0.1, "covered": 1.0},
        {"place": "single token", "positions": 4, "share": 0.4, "covered": 0.75},
    ]


LETTERS = "aZ.(\u00e9\u00c9\u0130\u03a3\u00df\u4e2d\u3002\U0001d518\U00010400\u01c5$7"
"""With capitals beyond ASCII, title case, letters without case, and characters of two UTF-16 units."""
windows = st.lists(st.lists(st.text(LETTERS, min_size=1, max_size=3), min_size=1, max_size=4), min_size=1, max_size=5)
"""Words of a window, each as its pieces."""


def window(words: list[list[str]], start: int, width: int) -> tuple[str, list[list[int]]]:
    """A text with a space before each word, and of each token its word and its characters, after `start`."""
    text, tokens = "", []
    for number, pieces in enumerate(words):
        text += " "
        for piece in pieces:
            tokens.append([number, start + len(text), start + len(text) + len(piece)])
            text += piece
    return text, [[-1] * 3, *tokens, *[[-1] * 3] * (width - 1 - len(tokens))]


@given(st.lists(windows, min_size=1, max_size=4), st.integers(0, 3), st.integers(1, 7), st.data())
def test_kinds_are_those_of_the_definition_and_add_up(
    made: list[list[list[str]]], before: int, at_once: int, data: st.DataObject
) -> None:
    found = [window(words, before, 26) for words in made]
    texts = ["#" * before + text for text, _ in found]
    word_NL, start_NL, end_NL = np.array([tokens for _, tokens in found]).transpose(2, 0, 1)
    length_N = 1 + (word_NL >= 0).sum(axis=1)
    sequences = Sequences(
        document_N=np.arange(len(texts), dtype=np.uint32),
        window_N=np.zeros(len(texts), np.uint32),
        length_N=length_N.astype(np.uint16),
        input_ids_NL=np.where(np.arange(26) < length_N[:, None], 7, 65535).astype(np.uint16),
        word_NL=word_NL.astype(np.int16),
        char_start_NL=start_NL.astype(np.int32),
        char_end_NL=end_NL.astype(np.int32),
    )
    masks = mask_all(sequences, copies=2)
    kept = np.array(data.draw(st.lists(st.booleans(), min_size=len(masks), max_size=len(masks))))
    masks = Masks(**{name: values[kept] for name, values in masks.arrays().items()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places, "POSITIONS_AT_ONCE", at_once)
        place_P = place_of_each(texts, sequences, masks)
    for place, row, column in zip(place_P, masks.sequence_P, masks.column_P, strict=True):
        number = int(word_NL[row, column])
        word = "".join(made[row][number])
        fits = [number == 0, all(map(is_punctuation, word)), word != word.lower(), len(made[row][number]) > 1, True]
        assert place == fits.index(True), word
    covered_P = np.arange(len(masks)) % 3 > 0
    rows = coverage_by_place(place_P, covered_P)
    assert sum(row["positions"] for row in rows) == len(masks)
    if len(masks):
        assert sum(row["share"] for row in rows) == pytest.approx(1)
        assert sum(row["share"] * row["covered"] for row in rows) == pytest.approx(covered_P.mean())


def test_each_text_is_asked_for_once_a_copy() -> None:
    """In the order of the masks, so that a shard of documents is read once."""
    asked = []

    class Texts(list[str]):
        def __getitem__(self, row: int) -> str:  # type: ignore[override]
            asked.append(row)
            return super().__getitem__(row)

    found = [window([["a", "b"], ["c"]], 0, 5) for _ in range(3)]
    word_NL, start_NL, end_NL = np.array([tokens for _, tokens in found]).transpose(2, 0, 1)
    sequences = Sequences(
        document_N=np.arange(3, dtype=np.uint32),
        window_N=np.zeros(3, np.uint32),
        length_N=np.full(3, 4, np.uint16),
        input_ids_NL=np.full((3, 5), 7, np.uint16),
        word_NL=word_NL.astype(np.int16),
        char_start_NL=start_NL.astype(np.int32),
        char_end_NL=end_NL.astype(np.int32),
    )
    place_of_each(Texts(text for text, _ in found), sequences, mask_all(sequences, copies=2))
    assert asked == [0, 1, 2, 0, 1, 2]
