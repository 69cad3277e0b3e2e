"""Words of a typed sentence, their lemmas, and the probabilities of their senses, with a tiny inventory.

Where words stand, and their parts of speech, is tested with `pipeline.senses.places`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.lexical.reading.reader import sense_reader
from pipeline.lexical.reading.sentence import read_senses
from pipeline.senses.instances import Instances
from pipeline.senses.marked import Marked, Span
from tests.helpers.lexical import Workplace, make_workplace
from tests.helpers.stores import cpu_runtime


@pytest.fixture(autouse=True)
def no_tagger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever NLTK data the machine has."""
    monkeypatch.setattr("nltk.data.path", [])


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("senses")
    work: Workplace = make_workplace(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        work.train(work.entry(training={"epochs": 1.0}), folder / "models" / "lexical")
    return folder / "models" / "lexical"


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
