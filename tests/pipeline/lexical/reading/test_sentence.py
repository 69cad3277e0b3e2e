"""Words of a typed sentence, their lemmas, and the probabilities of their senses, with a tiny inventory.

Not checked here: NLTK's tagger itself, whose data are not installed for tests.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.lexical.reading import sentence
from pipeline.lexical.reading.reader import sense_reader
from pipeline.lexical.reading.sentence import read_places, read_senses, stems_of, tags_of
from pipeline.senses.instances import Instances, Marked, Span
from pipeline.senses.lexicon import Lexicon
from tests.helpers.inventories import tiny_lexicon
from tests.helpers.lexical import Workplace, make_workplace
from tests.helpers.stores import cpu_runtime


@pytest.fixture(autouse=True)
def no_tagger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever NLTK data the machine has."""
    monkeypatch.setattr(sentence, "TAGGER", "taggers/none_of_this_name")


@pytest.fixture(scope="module")
def lexicon(tmp_path_factory: pytest.TempPathFactory) -> Lexicon:
    return tiny_lexicon(tmp_path_factory.mktemp("lexicon"))


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("senses")
    work: Workplace = make_workplace(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        work.train(work.entry(training={"epochs": 1.0}), folder / "models" / "lexical")
    return folder / "models" / "lexical"


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
    assert sorted(stems_of(lexicon, word, pos)) == sorted(expected)


def test_words_compounds_and_parts_of_speech_are_found(lexicon: Lexicon) -> None:
    text = "The Dogs walked by a frozen pond, and a house of money."
    places, tagged = read_places(lexicon, text)
    assert not tagged
    assert {text[place.start : place.end]: place.readings for place in places} == {
        "Dogs": (("dog", "NOUN"),),
        "walked": (("walk", "VERB"),),
        "frozen pond": (("frozen_pond", "NOUN"),),
    }
    assert [place.readings for place in read_places(lexicon, "a walk")[0]] == [(("walk", "NOUN"), ("walk", "VERB"))]


def test_with_a_tagger_a_word_has_one_part_of_speech(lexicon: Lexicon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentence, "tags_of", lambda words: [("VERB",) if word == "walk" else () for word in words])
    places, tagged = read_places(lexicon, "I walk a dog by the frozen pond")
    assert tagged
    assert [place.readings for place in places] == [(("walk", "VERB"),), (("frozen_pond", "NOUN"),)]


def test_tags_of_the_treebank_become_those_of_the_inventory(monkeypatch: pytest.MonkeyPatch) -> None:
    import nltk

    assert tags_of(["dogs"]) is None
    monkeypatch.setattr(nltk.data, "find", lambda name: name)
    tags = {"the": "DT", "old": "JJR", "dogs": "NNS", "ran": "VBD", "fast": "RB"}
    monkeypatch.setattr(nltk, "pos_tag", lambda words: [(word, tags[word]) for word in words])
    assert tags_of(list(tags)) == [(), ("ADJ",), ("NOUN",), ("VERB",), ("ADV",)]


def test_probabilities_are_those_of_the_student_and_add_up(student: Path) -> None:
    text = "the dog waits beside a bank; it hides"
    with sense_reader(student, cpu_runtime()) as reader:
        words, _ = read_senses(reader, text)
        spans = tuple(
            Span(
                instance_id=name,
                start=text.index(name),
                end=text.index(name) + len(name),
                lemma=lemma,
                pos=pos,
                gold=(),
            )
            for name, lemma, pos in (("dog", "dog", "NOUN"), ("bank", "bank", "NOUN"), ("hides", "hide", "VERB"))
        )
        marked = Marked(sentence_id="s", document_id="d", source="x", text=text, spans=spans)
        view, logp_C = reader.read(Instances.of([marked], reader.lexicon)[0])
    assert [word.word for word in words] == ["dog", "bank", "hides"]
    for word, start, stop in zip(words, view.candidates.start_R1, view.candidates.start_R1[1:], strict=False):
        found = [sense.probability for sense in word.senses]
        assert found == sorted(found, reverse=True)
        assert sum(found) == pytest.approx(1)
        assert found == pytest.approx(sorted(np.exp(logp_C[start:stop]).tolist(), reverse=True), abs=1e-6)
        assert text[word.start : word.end] == word.word
    bank = {sense.key: sense for sense in words[1].senses}
    assert set(bank) == {"bank.water", "bank.money", "bank.row"}
    assert bank["bank.money"].lemmas == ("bank", "house of money")
    assert bank["bank.water"].gloss == "land beside the river"


def test_a_sentence_without_words_of_the_inventory(student: Path) -> None:
    with sense_reader(student, cpu_runtime()) as reader:
        assert read_senses(reader, "of the, and!") == ([], False)
