"""Units are parts of the text at their offsets, of any script; nothing but white space is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.plagiarism.units import unit_spans
from pipeline.text.sentences import sentence_spans


def texts(text: str, spans: list[tuple[int, int]]) -> list[str]:
    return [text[start:end] for start, end in spans]


def test_sentences_end_at_marks_before_white_space_and_at_empty_lines() -> None:
    text = "  One. Two is 3.5 long!\n“Three?” he\nasked\n\nHeading \r\n\r\nlast "
    assert texts(text, sentence_spans(text)) == [
        "One.", "Two is 3.5 long!", "“Three?”", "he\nasked", "Heading", "last"
    ]  # fmt: skip
    assert texts("这是一句。这是二句！好", sentence_spans("这是一句。这是二句！好")) == [
        "这是一句。",
        "这是二句！",
        "好",
    ]
    assert sentence_spans(" \n ") == []


@pytest.mark.parametrize(("text", "expected"), [
    ("a b. c d. e f g. h.", ["a b. c d.", "e f g. h."]),
    ("a b c d e f g h i j. k l m.", ["a b c d e", "f g h i j.", "k l m."]),
    ("a. b c d e f.", ["a.", "b c d e f."]),
    ("a b c d. e.", ["a b c d. e."]),
    ("", []),
])  # fmt: skip
def test_units_hold_whole_sentences_where_they_can(text: str, expected: list[str]) -> None:
    assert texts(text, unit_spans(text, least=3, most=5)) == expected


@given(
    st.text(st.sampled_from("ab éé𝒳字。.!? \n\t\r\u2028\ufeff\u0301"), max_size=300),
    st.integers(1, 4),
    st.integers(1, 6),
)
def test_units_are_in_order_do_not_overlap_and_leave_white_space_only(text: str, least: int, more: int) -> None:
    most = least + more
    units = unit_spans(text, least=least, most=most)
    done = 0
    for start, end in units:
        assert done <= start < end <= len(text)
        assert not text[done:start].strip()
        assert text[start:end] == text[start:end].strip()
        done = end
    assert not text[done:].strip()
    words = [sum(-(-len(word) // 60) for word in text[start:end].split()) for start, end in units]
    assert all(count <= most for count in words)


def test_text_without_spaces_is_cut_too() -> None:
    text = "x" * 1000
    assert [end - start for start, end in unit_spans(text, least=2, most=4)] == [240, 240, 240, 240, 40]
