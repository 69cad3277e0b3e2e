"""Texts that stand in held-out documents, against plain search, and the words that would show them."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.senses.instances import Instances
from pipeline.senses.leakage import LEAST_WORDS, shown_in_training, shows_heldout, standing_in
from pipeline.senses.lexicon import MEANINGS, SENSES, Lexicon
from pipeline.senses.marked import Marked, Span

words = st.lists(st.sampled_from(["a", "b", "c"]), max_size=14)


@given(texts=st.lists(words, max_size=6), documents=st.lists(words, max_size=4))
def test_as_plain_search_finds_them(texts: list[list[str]], documents: list[list[str]]) -> None:
    def stands(text: list[str]) -> bool:
        return len(text) >= LEAST_WORDS and any(
            document[place : place + len(text)] == text for document in documents for place in range(len(document))
        )

    found = standing_in([" ".join(text) for text in texts], [" ".join(document) for document in documents])
    assert found.tolist() == [stands(text) for text in texts]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Sloping land, beside a BODY of water", True),
        ("land beside a body of water", True),
        ("beside a body of water", False),  # too short to tell
        ("sloping land beside a body of waters", False),
        ("", False),
    ],
)
def test_case_and_punctuation_do_not_matter(text: str, expected: bool) -> None:
    document = 'bank: sloping land (beside a body of water); "they pulled the canoe up on the bank".'
    assert standing_in([text], ["nothing", document]).tolist() == [expected]


def inventory() -> Lexicon:
    """Two senses of bank, one of pond, one of dog with an example."""
    glosses = [
        "sloping land beside a body of water",
        "an institution that takes in and lends money",
        "a small lake that freezes early in the winter",
        "a kind of animal",
    ]
    meanings = [
        {
            "name": f"m{number}", "pos": "NOUN", "lemmas": ["x"], "gloss": gloss, "above": [],
            "examples": ["short one", "the dog barked all night long at the moon"] if number == 3 else [],
        }
        for number, gloss in enumerate(glosses)
    ]  # fmt: skip
    senses = [("bank.1", "bank", 0), ("bank.2", "bank", 1), ("dog.1", "dog", 3), ("pond.1", "pond", 2)]
    return Lexicon(
        senses=pa.Table.from_pylist(
            [
                {"key": key, "lemma": lemma, "pos": "NOUN", "rank": 1, "count": 0, "meaning": meaning}
                for key, lemma, meaning in senses
            ],
            schema=SENSES,
        ),
        meanings=pa.Table.from_pylist(meanings, schema=MEANINGS),
        forms=pa.table({"form": [], "pos": [], "lemma": []}),
        identity="made",
    )


@pytest.mark.parametrize(
    ("document", "shown"),
    [
        ("of nothing that is in it", []),
        ("It is an institution that takes in, and lends, money.", ["bank"]),  # the gloss of either sense
        ("All heard it: the dog barked all night long at the moon!", ["dog"]),  # an example of a sense
        ("a cold pond lay before us in the dark", ["pond"]),  # the sentence itself
        ("a kind of animal", []),
    ],
)
def test_words_that_would_show_a_document(document: str, shown: list[str]) -> None:
    lexicon = inventory()
    texts = {"bank": "he ran along the bank", "pond": "a cold pond lay before us", "dog": "my dog sleeps"}
    marked = [
        Marked(
            sentence_id=word, document_id=word, source="made", text=text,
            spans=(Span(instance_id=word, start=0, end=1, lemma=word, pos="NOUN", gold=()),),
        )
        for word, text in texts.items()
    ]  # fmt: skip
    instances, _ = Instances.of(marked, lexicon)
    found = shows_heldout(instances, lexicon, ["another page", document])
    assert [word for word, hit in zip(texts, found, strict=True) if hit] == shown


def test_sentences_around_a_word_count() -> None:
    """A window reaches into the neighbouring sentences of its text, and no further."""
    texts = [
        ("a", "he ran along the bank"),
        ("a", "a heron rose slowly over the reeds"),
        ("b", "my dog ran to the bank"),
    ]
    marked = [
        Marked(
            sentence_id=str(number), document_id=name, source="made", text=text,
            spans=(Span(instance_id=str(number), start=0, end=1, lemma="bank", pos="NOUN", gold=()),),
        )
        for number, (name, text) in enumerate(texts)
    ]  # fmt: skip
    lexicon = inventory()
    instances, _ = Instances.of(marked, lexicon)
    found = shows_heldout(instances, lexicon, ["At dawn a heron rose slowly over the reeds."])
    assert found.tolist() == [True, True, False]


def test_words_that_training_text_has_told_are_those_of_right_senses() -> None:
    """The gloss of another candidate tells nothing; that of the right one, and the sentence, do."""
    texts = {"bank.1": "he ran along the bank", "bank.2": "she put it into the bank", "pond.1": "a cold pond lay there"}
    marked = [
        Marked(
            sentence_id=key, document_id=key, source="made", text=text,
            spans=(Span(instance_id=key, start=0, end=1, lemma=key[:4], pos="NOUN", gold=(key,)),),
        )
        for key, text in texts.items()
    ]  # fmt: skip
    lexicon = inventory()
    instances, _ = Instances.of(marked, lexicon)
    lending = "bank: an institution that takes in and lends money"
    assert shown_in_training(instances, lexicon, [lending]).tolist() == [False, True, False]
    assert shows_heldout(instances, lexicon, [lending]).tolist() == [True, True, False]
    assert shown_in_training(instances, lexicon, ["Once, he ran along the bank"]).tolist() == [False, False, False]
    assert shown_in_training(instances, lexicon, ["She put it into the bank."]).tolist() == [False, True, False]
    assert shown_in_training(instances, lexicon, []).tolist() == [False, False, False]
