"""What a lexical student answers, how its answers are scored, and which students are refused.

The scorer has tests of its own; here its numbers are computed anew from the sets as written and the answers as given.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from pipeline.lexical.reading.reader import SenseReader, sense_reader
from pipeline.senses.instances import Instances
from pipeline.senses.lexicon import Lexicon
from pipeline.tasks.params import WsdParams
from pipeline.tasks.wsd import (
    ScoredSet,
    score_files,
    score_heldout,
    wsd_report,
)
from pipeline.tasks.wsd_scorer import write_answers
from storage.errors import (
    DataError,
    SecondModelError,
    SourceError,
    StaleParent,
    StoreMissing,
)
from storage.format.manifest import digest, file_sha256
from tests.helpers.inventories import ENTRIES, marked, span, tiny_lexicon
from tests.helpers.lexical import GOLD, TEXT, Workplace, add_senses, make_workplace, write_set
from tests.helpers.stores import cpu_runtime

PARAMS = WsdParams(bootstrap=50, seed=0)
DOG, HIDE, APPLES = "made.d000.s000.t000", "made.d000.s001.t001", "made.d001.s000.t000"
FIRST = {"dog": "dog.animal", "bank": "bank.water", "hide": "hide.skin", "walk": "walk.move", "pond": "pond.only"}
"""First senses, by the order of the inventory's lines."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """Beside the usual stores: "held", of which nobody learns, and "part", of which nobody learns one document."""
    work = make_workplace(tmp_path_factory.mktemp("workplace"))
    add_senses(work, "held", heldout=0.999999)
    add_senses(work, "part", heldout=0.3)
    return work


@pytest.fixture(scope="module", params=["bi_encoder", "lmgc"])
def student(request: pytest.FixtureRequest, work: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of each way of reading that knows the story by heart."""
    folder = tmp_path_factory.mktemp("student")
    training = {"epochs": 40.0, "learning_rate": 5e-3, "weight_decay": 0.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        work.train(work.entry(objective=request.param, senses=["story"], training=training), Path("models/one"))
    return folder / "models" / "one"


@pytest.fixture
def reader(student: Path) -> Iterator[SenseReader]:
    with sense_reader(student, cpu_runtime(batch_tokens=300)) as reader:
        yield reader


def scored(
    reader: SenseReader, folder: Path, gold: Mapping[str, str] = GOLD, *, text: Mapping[str, list[str]] = TEXT
) -> ScoredSet:
    data, key = write_set(folder, text, gold)
    return score_files(reader, PARAMS, data=data, gold=key)


def credit(gold: Mapping[str, str], answers: Mapping[str, tuple[str, ...]]) -> Fraction:
    """Answers of one key each that are right."""
    return Fraction(sum(answers.get(name, ("",))[0] in keys.split() for name, keys in gold.items()))


# Answers.


def test_a_student_answers_what_it_learned(reader: SenseReader, tmp_path: Path) -> None:
    """Every word is answered, annotated or not, by a sense of its lemma and part of speech."""
    found = scored(reader, tmp_path)
    lemmas = [word.split("/")[1] for lines in TEXT.values() for line in lines for word in line.split() if "/" in word]
    assert len(found.answers) == len(lemmas) == 9
    assert all(len(keys) == 1 for keys in found.answers.values())
    assert [keys[0].split(".")[0] for keys in found.answers.values()] == [lemma.split("_")[-1] for lemma in lemmas]
    assert all(found.answers[name][0] in keys.split() for name, keys in GOLD.items())
    assert found.answers["made.d000.s001.t003"] == ("walk.move",)
    assert found.scores.groups["all"].f1.value == 1
    tokens = sum(len(line.split()) for lines in TEXT.values() for line in lines)
    assert {name: count for name, count in found.counts.items() if count} == {
        "documents": 2, "sentences": 4, "tokens": tokens, "instances": 9, "without_gold": 2, "several_keys": 1,
        "monosemous": 2,
    }  # fmt: skip


def test_the_answer_is_the_most_probable_sense(work: Workplace, reader: SenseReader) -> None:
    """Beside the probabilities of the same reader, word by word; that these are right is not checked here."""
    instances = work.open("story")["story"]
    answers = reader.answer(instances)
    for row in range(len(instances.rows)):
        alone = Instances(sentences=instances.sentences, rows=instances.rows.slice(row, 1), identity="one")
        _, logp_C = reader.read(alone)
        assert np.exp(logp_C).sum() == pytest.approx(1, abs=1e-5)
        sense = alone.rows["candidates"].to_pylist()[0][int(np.argmax(logp_C))]
        assert answers[alone.rows["instance_id"].to_pylist()[0]] == (reader.lexicon.keys[sense],)


def test_of_equals_the_more_usual_sense(student: Path, tmp_path: Path) -> None:
    """A head of zeros scores all senses alike, so that the first of each word is answered: the baseline's score."""
    folder = tmp_path / "even"
    shutil.copytree(student, folder)
    head = load_file(folder / "senses" / "head.safetensors")
    save_file({name: torch.zeros_like(value) for name, value in head.items()}, folder / "senses" / "head.safetensors")
    with sense_reader(folder, cpu_runtime(batch_tokens=300)) as reader:
        found = scored(reader, tmp_path)
    assert all(keys == (FIRST[keys[0].split(".")[0]],) for keys in found.answers.values())
    # Right: both dogs, the first bank, the second that hides, and the pond, which has one sense; seven are annotated.
    scores = found.scores.groups["all"]
    assert scores.f1.value == scores.first_sense.value == pytest.approx(5 / 7)
    assert scores.polysemous.value == scores.first_sense_polysemous.value == pytest.approx(4 / 6)
    assert scores.monosemous.value == pytest.approx(1 / 7)


def test_nothing_to_read(reader: SenseReader, tmp_path: Path) -> None:
    """A set whose words the inventory does not know is not answered, and scored all the same."""
    found = scored(reader, tmp_path, {"made.d0.s000.t000": "dog.animal"}, text={"made.d0": ["a crow/crow/NOUN"]})
    assert found.answers == {}
    assert found.scores.groups["all"].f1.value == 0
    assert found.counts["words without senses"] == 1


def test_gold_of_another_inventory_is_refused_instead_of_scored(reader: SenseReader, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"made.gold.key.txt: 7 of 7 words have no sense key of the inventory \(first"):
        scored(reader, tmp_path, dict.fromkeys(GOLD, "bn:00008364n"))


# Files.


def test_gold_is_not_shown_to_the_reader(reader: SenseReader, tmp_path: Path) -> None:
    """Wrong gold, gold that is no sense of its word, and none at all change scores, but no answer."""
    right = scored(reader, tmp_path / "right")
    wrong = GOLD | {DOG: "dog.person", HIDE: "walk.way", APPLES: "dog.person no.such"}
    other = scored(reader, tmp_path / "wrong", wrong)
    fewer = scored(reader, tmp_path / "fewer", dict(list(GOLD.items())[:6]))
    assert other.answers == right.answers == fewer.answers
    assert other.scores.groups["all"].f1.value == pytest.approx(4 / 7)
    assert (other.scores.groups["all"].unreachable, other.counts["unknown_keys"]) == (2, 1)
    assert fewer.scores.ignored == 3, "the official scorer ignores answers without gold"


def test_scores_by_hand(reader: SenseReader, tmp_path: Path) -> None:
    """Eight gold words, of which seven are answered and five rightly."""
    text = TEXT | {"made.d002": ["a crow/crow/NOUN waits"]}
    gold = GOLD | {"made.d002.s000.t000": "dog.animal", DOG: "dog.person", HIDE: "hide.skin"}
    found = scored(reader, tmp_path, gold, text=text).scores.groups
    assert set(found) == {"all", "set_made", "pos_noun", "pos_verb"}
    for group in ("all", "set_made"):
        assert found[group].precision.value == pytest.approx(5 / 7)
        assert found[group].recall.value == pytest.approx(5 / 8)
        assert found[group].f1.value == pytest.approx(2 * 5 / (7 + 8))
    assert (found["all"].f1.n, found["all"].precision.n) == (8, 7)
    # The crow and the first dog are not right, beside four that are; of the verbs hide.away stands against hide.skin.
    assert found["pos_noun"].f1.value == pytest.approx(2 * 4 / (5 + 6))
    assert found["pos_verb"].f1.value == pytest.approx(2 * 1 / (2 + 2))
    # First senses: the second dog, the first bank, both hides, the pond.
    assert found["all"].first_sense.value == pytest.approx(2 * 5 / (7 + 8))
    assert found["pos_verb"].first_sense.value == 1


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


def test_any_gold_counts_what_is_right(student: Path, scratch: Path) -> None:
    keys = st.sampled_from([line["key"] for line in ENTRIES])
    given_keys = st.lists(keys, min_size=1, max_size=3).map(" ".join)
    with sense_reader(student, cpu_runtime(batch_tokens=300)) as reader:
        answers = scored(reader, scratch / "whole").answers

        @settings(max_examples=15, deadline=None)
        @given(gold=st.fixed_dictionaries(dict.fromkeys(list(answers)[:5], given_keys)))
        def check(gold: dict[str, str]) -> None:
            found = scored(reader, scratch / "any", gold)
            expected = 2 * credit(gold, answers) / (len(gold) + len(gold))
            assert found.scores.groups["all"].f1.value == pytest.approx(float(expected))

        check()


def test_files_that_do_not_belong_together(reader: SenseReader, tmp_path: Path) -> None:
    data, gold = write_set(tmp_path)
    with pytest.raises(DataError, match=r"other\.txt: no such file"):
        score_files(reader, PARAMS, data=data, gold=tmp_path / "other.txt")
    gold.write_text("elsewhere.t0 dog.animal\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"gold of other data than .*made\.data\.xml: 0 ids in common of 9 instances"):
        score_files(reader, PARAMS, data=data, gold=gold)


def test_the_answers_file_is_a_key_file(reader: SenseReader, tmp_path: Path) -> None:
    """Read as the official scorer reads it: an id and a key a line, in the order of the data."""
    found = scored(reader, tmp_path)
    write_answers(tmp_path / "made" / "answers.key", found.answers)
    written = (tmp_path / "made" / "answers.key").read_bytes().decode("ascii")
    lines = [line.split(" ") for line in written.splitlines()]
    assert written.endswith("\n") and all(len(line) == 2 for line in lines)
    data = (tmp_path / "made.data.xml").read_text()
    places = [data.index(f'<instance id="{instance}"') for instance, _ in lines]
    assert len(places) == data.count("<instance ") and places == sorted(places)
    again = score_files(reader, PARAMS, data=tmp_path / "made.data.xml", gold=tmp_path / "made" / "answers.key")
    assert again.scores.groups["all"].f1.value == 1


# Held-out words.


def test_held_out_words_are_those_of_the_files(work: Workplace, reader: SenseReader, tmp_path: Path) -> None:
    """A store of which all is held out is scored as the set that it was made from, but for words without gold."""
    files = scored(reader, tmp_path)
    found = score_heldout(reader, PARAMS, work.open("held"))
    assert found.answers == {f"held/{name}": files.answers[name] for name in GOLD}
    assert found.counts == {"words": len(GOLD)}
    for quantity in ("precision", "recall", "f1", "polysemous", "first_sense", "first_sense_polysemous", "monosemous"):
        of_files, of_store = (getattr(one.scores.groups["all"], quantity) for one in (files, found))
        assert of_store.value == pytest.approx(of_files.value), quantity
    assert set(found.scores.groups) == {"all", "set_held", "pos_noun", "pos_verb"}


def test_each_store_is_a_set_of_what_it_holds_out(work: Workplace, reader: SenseReader) -> None:
    """Of "part" one document is held out, of "story" nothing: words of a store that all learn from are not scored."""
    opened = work.open("part", "story", "held")
    lines = opened["part"].sentences.to_pylist()
    held = [line["document_id"] == "part/made.d001" for line in lines]
    assert [line["split"] == "heldout" for line in lines] == held, "the hash of the names must tell the two apart"
    answers = reader.answer(opened["part"])
    found = score_heldout(reader, PARAMS, opened)
    assert list(found.answers) == [
        *(f"part/{name}" for name in GOLD if name.startswith("made.d001")), *(f"held/{name}" for name in GOLD),
    ]  # fmt: skip
    assert all(found.answers[f"part/{name}"] == answers[name] for name in GOLD if name.startswith("made.d001"))
    groups = found.scores.groups
    assert {name: group.f1.n for name, group in groups.items() if name.startswith("set_")} == {
        "set_held": 7, "set_part": sum(name.startswith("made.d001") for name in GOLD),
    }  # fmt: skip
    assert groups["set_part"].units == sum(held)


def test_no_word_is_held_out(work: Workplace, reader: SenseReader) -> None:
    with pytest.raises(DataError, match=r"senses story, examples: no word is held out\. Raise senses\.NAME\.heldout"):
        score_heldout(reader, PARAMS, work.open("story", "examples"))


def test_words_that_the_training_text_shows_are_not_scored(work: Workplace, reader: SenseReader) -> None:
    """A sentence of the first document stands in the text, with both its dogs, the bank and what hides."""
    text = "they wrote: a dog hides on the bank and walks slowly"
    found = score_heldout(reader, PARAMS, work.open("held"), training_texts=lambda: ["nothing", text])
    left = [name for name in GOLD if not name.startswith("made.d000")]
    assert list(found.answers) == [f"held/{name}" for name in left]
    assert found.counts == {"words": len(left), "in_training_text": len(GOLD) - len(left)}
    whole = score_heldout(reader, PARAMS, work.open("held"), training_texts=lambda: ["nothing"])
    assert whole.counts == {"words": len(GOLD), "in_training_text": 0}
    with pytest.raises(DataError, match=r"senses held: no word is held out but 7 that .* training text shows. Lower"):
        score_heldout(
            reader, PARAMS, work.open("held"), training_texts=lambda: [text, "it hides behind the frozen pond here"]
        )


# Intervals and the report.


def test_intervals_are_those_of_all_resamples(reader: SenseReader, tmp_path: Path) -> None:
    """Four sentences have 256 resamples: their exact quantiles, beside those of many that are drawn."""
    gold = GOLD | {DOG: "dog.person", HIDE: "hide.skin"}
    data, key = write_set(tmp_path, gold=gold)
    found = score_files(reader, WsdParams(bootstrap=20000, seed=1), data=data, gold=key)
    sentences = sorted({name.rpartition(".")[0] for name in gold})
    right = {
        sentence: (int(credit(part, found.answers)), len(part))
        for sentence in sentences
        for part in [{name: keys for name, keys in gold.items() if name.startswith(sentence)}]
    }
    every = [
        sum(right[sentence][0] for sentence in drawn) / sum(right[sentence][1] for sentence in drawn)
        for drawn in itertools.product(sentences, repeat=len(sentences))
    ]
    group = found.scores.groups["all"]
    assert (group.unit, group.units, len(every)) == ("sentence", 4, 256)
    assert group.f1.value == pytest.approx(5 / 7)
    assert (group.f1.low, group.f1.high) == pytest.approx(tuple(np.quantile(every, [0.025, 0.975])), abs=1e-9)
    assert (group.f1.low or 0) < group.f1.value < (group.f1.high or 0)


def test_the_report(reader: SenseReader, student: Path, tmp_path: Path) -> None:
    report = json.loads(json.dumps(wsd_report(student, scored(reader, tmp_path), note="kept")))
    assert (report["suite"], report["headline"], report["note"]) == ("wsd", "all", "kept")
    weights = {"model.safetensors": file_sha256(student / "model.safetensors")}
    assert report["model"] == {"folder": str(student), "weights": digest(weights)}
    assert report["metrics"]["all"] == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 7}
    assert report["metrics"]["all_monosemous"]["value"] == pytest.approx(1 / 7)
    assert "pos_verb_monosemous" in report["metrics"] and report["counts"]["instances"] == 9


# Refusals.


@pytest.mark.parametrize("missing", ["", "head.safetensors", "reading.json"])
def test_a_student_without_senses(work: Workplace, tmp_path: Path, missing: str) -> None:
    """A plain model, and one that lost a part of what it needs."""
    shutil.copytree(work.start, tmp_path / "plain")
    if missing:
        (tmp_path / "plain" / "senses").mkdir()
        for name in {"head.safetensors", "reading.json"} - {missing}:
            (tmp_path / "plain" / "senses" / name).touch()
    expected = (
        r"plain: expected senses/head\.safetensors and senses/reading\.json of a lexical student\. Train one: dvc"
    )
    with pytest.raises(SourceError, match=expected), sense_reader(tmp_path / "plain", cpu_runtime(batch_tokens=300)):
        pass


def test_a_student_without_its_inventory(student: Path, tmp_path: Path) -> None:
    shutil.copytree(student, tmp_path / "one")
    shutil.rmtree(tmp_path / "one" / "senses" / "lexicon")
    with (
        pytest.raises(StoreMissing, match=r"one/senses/lexicon"),
        sense_reader(tmp_path / "one", cpu_runtime(batch_tokens=300)),
    ):
        pass


def test_another_inventory_is_refused(work: Workplace, reader: SenseReader, tmp_path: Path) -> None:
    """By its identity: as many senses, one gloss of them another."""
    reader.require_lexicon(Lexicon.open(work.lexicon))
    other = tiny_lexicon(tmp_path, [*ENTRIES[:-1], ENTRIES[-1] | {"gloss": "a lake"}])
    message = (
        rf"one: learned inventory {reader.lexicon.identity[:12]}, but .* is {other.identity[:12]}\. Train it again"
    )
    with pytest.raises(StaleParent, match=message):
        reader.require_lexicon(other)


def test_a_second_reader_is_refused(reader: SenseReader, student: Path) -> None:
    with (
        pytest.raises(SecondModelError, match="a second model was to be loaded"),
        sense_reader(student, cpu_runtime(batch_tokens=300)),
    ):
        pass


def test_a_word_that_no_split_holds(reader: SenseReader) -> None:
    """Instances all of which are to be learned from give nothing to read in the other split."""
    text = "the old dog waits"
    instances, _ = Instances.of([marked(text, span(text, "dog", gold=["dog.animal"]))], reader.lexicon)
    assert reader.answer(instances, split="heldout") == {}
    assert set(reader.answer(instances, split="train")) == set(instances.rows["instance_id"].to_pylist())
