"""Windows against what a person would cut: slices of a document's tokens around the sentence, and words in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.lexical.context import LexicalView, lexical_view, meaning_tokens
from pipeline.senses.instances import EXAMPLES, Instances
from pipeline.senses.lexicon import Lexicon
from pipeline.senses.marked import Marked
from pipeline.text.ragged import Ragged
from pipeline.text.tokenizer import FastTokenizer, load_tokenizer
from tests.helpers.inventories import STORY, marked, span, tiny_lexicon
from tests.helpers.stores import TINY_TEXT


@pytest.fixture(scope="module")
def lexicon(tmp_path_factory: pytest.TempPathFactory) -> Lexicon:
    return tiny_lexicon(tmp_path_factory.mktemp("lexicon"))


@pytest.fixture(scope="module", params=["bert", "bpe"])
def tokenizer(request: pytest.FixtureRequest, tiny_tokenizer: Path, tiny_bpe_tokenizer: Path) -> FastTokenizer:
    return load_tokenizer({"bert": tiny_tokenizer, "bpe": tiny_bpe_tokenizer}[request.param])


# Rows of different lengths.

rows = st.lists(st.lists(st.integers(-5, 5), max_size=4), max_size=6)


@given(rows, st.data())
def test_ragged_rows(plain: list[list[int]], data: st.DataObject) -> None:
    ragged = Ragged.of(plain, np.int64)
    assert [ragged[row].tolist() for row in range(len(ragged))] == plain
    assert ragged.lengths().tolist() == [len(row) for row in plain]
    chosen = data.draw(st.lists(st.sampled_from(range(len(plain))), max_size=8) if plain else st.just([]))
    taken = ragged.take(np.array(chosen, np.int64))
    assert [taken[row].tolist() for row in range(len(taken))] == [plain[row] for row in chosen]
    full, used = taken.padded(99)
    width = max([1, *(len(plain[row]) for row in chosen)])
    assert full.tolist() == [[*plain[row], *[99] * (width - len(plain[row]))] for row in chosen]
    assert used.tolist() == [[1] * len(plain[row]) + [0] * (width - len(plain[row])) for row in chosen]


# Windows.

WORDS = ("dog", "bank", "the", "slowly", "sleeps", "zebra", "Ökonomie", ",", "...", "apple's", "\u200b")
SENSED = {"dog": "dog.animal", "bank": "bank.money"}


@st.composite
def texts(draw: st.DrawFn) -> list[Marked]:
    """Documents of sentences of words; some of the words that have senses are instances."""
    found = []
    for document in range(draw(st.integers(1, 3))):
        for number in range(draw(st.integers(1, 4))):
            words = draw(st.lists(st.sampled_from(WORDS), max_size=draw(st.sampled_from([3, 8, 30]))))
            text, spans = "", []
            for word in words:
                beside = word == "," or text.endswith(",")
                text += " " * draw(st.integers(0 if beside else 1, 2)) if text else ""
                if word in SENSED and draw(st.booleans()):
                    at = span(" " * len(text) + word, word, gold=[SENSED[word]])
                    spans.append(at)
                text += word
            source = draw(st.sampled_from(["made", EXAMPLES]))
            found.append(marked(text, *spans, document=f"d{document}", number=number, source=source))
    return found


def overlapping(offsets: list[tuple[int, int]], start: int, end: int) -> list[int]:
    """Tokens that share a character with [start, end)."""
    return [number for number, (low, high) in enumerate(offsets) if low < end and high > start]


def document_tokens(sentences: list[Marked], at: int, tokenizer: FastTokenizer) -> tuple[list[int], int, Any]:
    """All tokens of the document of a sentence, where the sentence begins in them, and its encoding."""
    tokens: list[int] = []
    begin, own = 0, None
    for number, sentence in enumerate(sentences):
        encoding = tokenizer.backend.encode(sentence.text, add_special_tokens=False)
        if number == at:
            begin, own = len(tokens), encoding
        if sentence.document_id == sentences[at].document_id:
            tokens += encoding.ids
    return tokens, begin, own


def require_sound(view: LexicalView, sentences: list[Marked], lexicon: Lexicon, tokenizer: Any, budget: int) -> None:
    instances, _ = Instances.of(sentences, lexicon)
    table = instances.rows.to_pylist()
    room = budget - len(tokenizer.prefix) - len(tokenizer.suffix)
    assert sorted(view.row_I.tolist()) == list(range(len(table))), "every instance once"
    for i, row in enumerate(view.row_I.tolist()):
        instance = table[row]
        tokens, begin, own = document_tokens(sentences, instance["sentence"], tokenizer)
        window = view.windows[int(view.window_I[i])].tolist()
        assert len(window) <= budget
        ends = len(window) - len(tokenizer.suffix)
        assert (window[: len(tokenizer.prefix)], window[ends:]) == (tokenizer.prefix, tokenizer.suffix)
        inner = window[len(tokenizer.prefix) : ends]
        word = overlapping(own.offsets, instance["start"], instance["end"])
        first, last = int(view.first_I[i]), int(view.last_I[i])
        low = begin + word[0] - (first - len(tokenizer.prefix))
        assert low >= 0 and inner == tokens[low : low + len(inner)], "a slice of its document"
        assert len(inner) == min(room, len(tokens)), "as much as there is and fits"
        stop = begin + min(len(own.ids), (word[0] // room + 1) * room)  # the end of the word's part of the sentence
        expected = [tokens[begin + place] for place in word if begin + place < stop]
        assert window[first:last] == expected
        start = begin + word[0] // room * room
        left, right = start - low, low + len(inner) - stop
        assert left >= 0 and right >= 0, "the sentence, or its part, is in it"
        if low > 0 and low + len(inner) < len(tokens):
            assert abs(left - right) <= 1, "on both sides alike"
        elif left > right + 1:
            assert low + len(inner) == len(tokens), "more on the left only where the right ends"
        elif right > left + 1:
            assert low == 0
        assert view.bare_I[i] == (sentences[instance["sentence"]].source == EXAMPLES)
        assert view.candidates[i].tolist() == lexicon.meaning_S[instance["candidates"]].tolist()
        right_ones = view.gold[view.candidates.start_R1[i] : view.candidates.start_R1[i + 1]]
        good = [key for key, told in zip(instance["candidates"], right_ones, strict=True) if told]
        assert good == sorted(instance["gold"])


@settings(max_examples=150, deadline=None)
@given(sentences=texts(), budget=st.integers(8, 40))
def test_windows_of_any_text(lexicon: Lexicon, tokenizer: FastTokenizer, sentences: list[Marked], budget: int) -> None:
    instances, _ = Instances.of(sentences, lexicon)
    view = lexical_view(instances, lexicon, tokenizer, split=None, context_tokens=budget)
    require_sound(view, sentences, lexicon, tokenizer, budget)
    assert np.unique(view.window_I).tolist() == list(range(len(view.windows))), "no window without an instance"
    sentence_of = instances.rows["sentence"].to_numpy()[view.row_I]
    for sentence in np.unique(sentence_of):
        whole = tokenizer.backend.encode(sentences[sentence].text, add_special_tokens=False)
        if len(whole.ids) <= budget - len(tokenizer.prefix) - len(tokenizer.suffix):
            assert len(set(view.window_I[sentence_of == sentence].tolist())) == 1, "one window a sentence"


def test_a_story(lexicon: Lexicon, tiny_tokenizer: Path) -> None:
    """The same properties on text that reads, and the words as a person sees them."""
    tokenizer = load_tokenizer(tiny_tokenizer)
    instances, _ = Instances.of(STORY, lexicon)
    view = lexical_view(instances, lexicon, tokenizer, split=None, context_tokens=20)
    require_sound(view, list(STORY), lexicon, tokenizer, 20)
    seen = [
        tokenizer.backend.decode(view.windows[int(window)][first:last].tolist())
        for window, first, last in zip(view.window_I, view.first_I, view.last_I, strict=True)
    ]
    assert seen == ["dog", "dog", "hides", "bank", "walk", "bank", "frozen pond", "bank", "hides"]
    assert view.bare_I.tolist() == [row == 5 for row in range(9)]
    assert view.window_I.tolist() == [0, 1, 1, 1, 1, 2, 3, 3, 4]


def test_a_window_takes_neighbours_from_both_sides_and_no_other_document(
    lexicon: Lexicon, tiny_tokenizer: Path
) -> None:
    tokenizer = load_tokenizer(tiny_tokenizer)
    middle = marked("a dog sleeps", span("a dog sleeps", "dog"), number=1)
    sentences = [
        marked("milk milk milk", document="before"), marked("the old cow eats"), middle,
        marked("the young goat hides", number=2), marked("cheese cheese", document="after"),
    ]  # fmt: skip
    instances, _ = Instances.of(sentences, lexicon)
    own = len(tokenizer.backend.encode("a dog sleeps", add_special_tokens=False).ids)

    def window(budget: int) -> str:
        view = lexical_view(instances, lexicon, tokenizer, split=None, context_tokens=budget)
        return str(tokenizer.backend.decode(view.windows[0].tolist()))

    assert window(own + 2 + 4) == "cow eats a dog sleeps the young"
    assert window(60) == "the old cow eats a dog sleeps the young goat hides"
    assert window(own + 2) == "a dog sleeps"


@settings(max_examples=150, deadline=None)
@given(sentences=texts(), budget=st.integers(8, 40))
def test_packed_windows_of_any_text(
    lexicon: Lexicon, tokenizer: FastTokenizer, sentences: list[Marked], budget: int
) -> None:
    """Every word once, in a slice of its document; two windows in a row would not fit into one."""
    instances, _ = Instances.of(sentences, lexicon)
    table = instances.rows.to_pylist()
    apart, view = (
        lexical_view(instances, lexicon, tokenizer, split=None, context_tokens=budget, packed=packed)
        for packed in (False, True)
    )
    room = budget - len(tokenizer.prefix) - len(tokenizer.suffix)
    assert view.row_I.tolist() == apart.row_I.tolist()
    assert view.candidates.flat.tolist() == apart.candidates.flat.tolist()
    assert view.gold.tolist() == apart.gold.tolist() and view.bare_I.tolist() == apart.bare_I.tolist()
    assert len(view.windows) <= len(apart.windows) and max(view.windows.lengths(), default=0) <= budget
    extents: dict[int, list[tuple[int, int, str]]] = {}
    for i, row in enumerate(view.row_I.tolist()):
        tokens, begin, own = document_tokens(sentences, table[row]["sentence"], tokenizer)
        inner = view.windows[int(view.window_I[i])].tolist()[len(tokenizer.prefix) :][: min(room, len(tokens))]
        word = overlapping(own.offsets, table[row]["start"], table[row]["end"])
        first, last = int(view.first_I[i]), int(view.last_I[i])
        low = begin + word[0] - (first - len(tokenizer.prefix))
        assert low >= 0 and inner == tokens[low : low + len(inner)], "a slice of its document, as long as it can be"
        expected = apart.windows[int(apart.window_I[i])][apart.first_I[i] : apart.last_I[i]].tolist()
        assert view.windows[int(view.window_I[i])][first:last].tolist() == expected, "the same tokens of the word"
        chunk = begin + word[0] // room * room
        stop = begin + min(len(own.ids), (word[0] // room + 1) * room)
        assert low <= chunk and stop <= low + len(inner), "the sentence, or its part, is in it"
        document = sentences[table[row]["sentence"]].document_id
        extents.setdefault(int(view.window_I[i]), []).append((chunk, stop, document))
    for one, two in zip(extents.values(), list(extents.values())[1:], strict=False):
        if one[0][2] == two[0][2]:
            assert min(two)[1] - min(one)[0] > room, "no room for the next sentence that has words"


def test_only_the_split_that_was_asked_for(lexicon: Lexicon, tiny_tokenizer: Path) -> None:
    """Its sentences still have neighbours of other splits: the document is one."""
    tokenizer = load_tokenizer(tiny_tokenizer)
    instances, _ = Instances.of(STORY, lexicon)
    view = lexical_view(instances, lexicon, tokenizer, split="heldout", context_tokens=20)
    assert (len(view), len(view.windows), len(view.gold)) == (0, 0, 0)
    every = lexical_view(instances, lexicon, tokenizer, split="train", context_tokens=20)
    assert len(every) == 9


# Texts of meanings.


def test_meanings_are_cut_and_only_those_wanted_are_made(lexicon: Lexicon, tokenizer: FastTokenizer) -> None:
    wanted = np.array([4, 0, 6], np.int64)
    for examples in (False, True):
        texts_M = lexicon.texts(wanted, examples=examples)
        for most in (8, 11, 60):
            found = meaning_tokens(lexicon, tokenizer, wanted=wanted, most=most, examples=examples)
            assert len(found) == len(lexicon.meanings)
            room = most - len(tokenizer.prefix) - len(tokenizer.suffix)
            for meaning, text in zip(wanted.tolist(), texts_M, strict=True):
                inner = tokenizer.backend.encode(text, add_special_tokens=False).ids[:room]
                assert found[meaning].tolist() == [*tokenizer.prefix, *inner, *tokenizer.suffix]
                assert len(found[meaning]) <= most
            assert all(len(found[row]) == 0 for row in range(len(found)) if row not in wanted)


def test_words_of_the_whole_text_are_known_to_the_tokenizer(tiny_tokenizer: Path) -> None:
    """The fixtures above would say little on a tokenizer that knows no word."""
    tokenizer = load_tokenizer(tiny_tokenizer)
    ids = [id_ for text in TINY_TEXT for id_ in tokenizer.backend.encode(text, add_special_tokens=False).ids]
    assert tokenizer.special["unk"] not in ids
