"""Paragraphs are cut by the stated rule, and words are found and replaced without touching anything else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.tasks.paragraphs import (
    Draft,
    Paragraph,
    cut_paragraphs,
    replaceable,
    word_spans,
)


def test_lines_are_joined_until_there_are_enough_words() -> None:
    text = "one two three.\nfour five.\nsix seven eight nine.\nten."
    paragraphs, dropped = cut_paragraphs(text, least=4, most=6)
    assert paragraphs == ["one two three. four five.", "six seven eight nine."]
    assert dropped == {"too few words": 1}


def test_a_long_line_is_cut_at_the_ends_of_its_sentences() -> None:
    text = "One two three four. Five six seven eight! Nine ten eleven twelve? This sentence is far too long to be kept."
    paragraphs, dropped = cut_paragraphs(text, least=4, most=8)
    assert paragraphs == ["One two three four.", "Five six seven eight!", "Nine ten eleven twelve?"]
    assert dropped == {"too many words": 1}


def test_words_that_would_make_a_paragraph_too_long_begin_another() -> None:
    paragraphs, dropped = cut_paragraphs("a b c\nd e f g\nh", least=4, most=5)
    assert paragraphs == ["d e f g"]
    assert dropped == {"too few words": 2}


@given(st.text(alphabet="ab .\n", max_size=200), st.integers(1, 6), st.integers(0, 6))
def test_paragraphs_have_the_promised_length_and_the_texts_words_in_order(text: str, least: int, more: int) -> None:
    paragraphs, _ = cut_paragraphs(text, least=least, most=least + more)
    assert all(least <= len(paragraph.split()) <= least + more for paragraph in paragraphs)
    words = iter(text.split())
    assert all(word in words for paragraph in paragraphs for word in paragraph.split())


def test_words_are_letters_between_spaces_without_punctuation_around_them() -> None:
    text = "“Don't,” said (the) 3rd gum-like man_x… 42 times -- naïve!"
    assert [text[start:end] for start, end in word_spans(text)] == [
        "Don't", "said", "the", "3rd", "gum-like", "man_x", "42", "times", "naïve",
    ]  # fmt: skip
    words = [text[slice(*word_spans(text)[number])] for number in replaceable(text)]
    assert words == ["said", "the", "times", "naïve"]


@given(st.text(max_size=60))
def test_a_draft_is_its_text_and_spans_follow_replacements(text: str) -> None:
    draft = Draft(text)
    assert draft.text == text
    for number in range(len(draft.original)):
        draft.replace(number, f"<{number}>")
    assert [draft.text[slice(*draft.span(number))] for number in range(len(draft.original))] == [
        f"<{number}>" for number in range(len(draft.original))
    ]
    assert draft.original == [text[start:end] for start, end in word_spans(text)]


def test_all_paragraphs_of_a_document_fall_on_one_side() -> None:
    shares = {Paragraph(name=f"d/{n}", document="d", source="s", text=str(n)).split for n in range(5)}
    assert len(shares) == 1
    others = {Paragraph(name="x", document=f"d{n}", source="s", text="t").split for n in range(50)}
    assert len(others) == 50
    assert 0 <= min(others) < 0.2 < 0.8 < max(others) < 1
