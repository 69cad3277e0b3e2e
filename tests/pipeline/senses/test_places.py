"""Words and compounds of a tiny inventory in running text, with a tagger that is trained here and without one.

Not checked here: how well NLTK's own data tag, which are not installed for tests.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.senses.lexicon import Lexicon
from pipeline.senses.places import Tagger, find_places, open_tagger
from tests.helpers.inventories import tiny_lexicon
from tests.helpers.tagger import install_tagger


@pytest.fixture(scope="module")
def lexicon(tmp_path_factory: pytest.TempPathFactory) -> Lexicon:
    return tiny_lexicon(tmp_path_factory.mktemp("lexicon"))


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Tagger:
    data = install_tagger(tmp_path_factory.mktemp("tagger"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nltk.data.path", [str(data)])
        found = open_tagger()
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("word", "pos", "expected"),
    [
        ("dogs", "NOUN", ["dogs", "dog"]),
        ("hiding", "VERB", ["hiding", "hide", "hid"]),
        ("stopped", "VERB", ["stopped", "stoppe", "stopp", "stop"]),
        ("happier", "ADJ", ["happier", "happi", "happie"]),
        ("slowly", "ADV", ["slowly"]),
    ],
)
def test_stems_are_those_of_the_rules_of_detachment(lexicon: Lexicon, word: str, pos: str, expected: list[str]) -> None:
    assert sorted(lexicon.stems(word, pos)) == sorted(expected)


def test_words_compounds_and_parts_of_speech_are_found_without_a_tagger(lexicon: Lexicon) -> None:
    text = "The Dogs walked by a frozen pond, and a house of money."
    places = find_places(lexicon, text, None)
    assert {text[place.start : place.end]: place.readings for place in places} == {
        "Dogs": (("dog", "NOUN"),),
        "walked": (("walk", "VERB"),),
        "frozen pond": (("frozen_pond", "NOUN"),),
    }
    (walk,) = find_places(lexicon, "a walk", None)
    assert walk.readings == walk.agreed == (("walk", "NOUN"), ("walk", "VERB"))


@pytest.mark.parametrize(("text", "pos"), [("a walk", "NOUN"), ("they walk", "VERB")])
def test_with_a_tagger_a_word_has_one_part_of_speech(lexicon: Lexicon, tagger: Tagger, text: str, pos: str) -> None:
    (walk,) = find_places(lexicon, text, tagger)
    assert walk.readings == walk.agreed == (("walk", pos),)


def test_a_word_without_a_tag_of_the_inventory_is_none(lexicon: Lexicon, tagger: Tagger) -> None:
    assert tagger.tags(["the", "old", "dogs", "walked", "slowly"]) == [(), ("ADJ",), ("NOUN",), ("VERB",), ("ADV",)]
    assert find_places(lexicon, "the of the", tagger) == []


def test_a_compound_agrees_where_the_word_that_is_inflected_does(lexicon: Lexicon, tagger: Tagger) -> None:
    """`frozen pond` by its noun. Where that is tagged as no noun, the compound is found all the same, but disagrees."""

    class Other(Tagger):
        def __init__(self) -> None:
            pass

        def tags(self, words: object) -> list[tuple[str, ...]]:
            return [("NOUN",), ("VERB",)]

    (pond,) = find_places(lexicon, "frozen ponds", tagger)
    assert pond.readings == pond.agreed == (("frozen_pond", "NOUN"),)
    (pond,) = find_places(lexicon, "frozen ponds", Other())
    assert (pond.readings, pond.agreed) == ((("frozen_pond", "NOUN"),), ())


def test_the_identity_of_a_tagger_is_what_it_learned(tagger: Tagger, tmp_path: Path) -> None:
    data = install_tagger(tmp_path)
    weights = next(data.rglob("*.weights.json"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nltk.data.path", [str(data)])
        same = open_tagger()
        weights.write_text(weights.read_text(encoding="utf-8").replace("0.", "1.", 1), encoding="utf-8")
        other = open_tagger()
        patch.setattr("nltk.data.path", [str(tmp_path / "none")])
        assert open_tagger() is None
    assert same is not None and other is not None
    assert same.identity != other.identity
    assert len(tagger.identity) == 64
