"""Sense inventories: WordNet's files through NLTK, one's own JSON Lines, and what is asked of either.

The WordNet here has seven synsets with true offsets and pointers. Not checked here: the counts of WordNet 3.0.
"""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.corpus.reader.wordnet import WordNetCorpusReader

from pipeline.senses.lexicon import (
    ENDINGS,
    POS,
    Lexicon,
    build_lexicon,
    normal_lemma,
)
from pipeline.senses.lexicon import read_inventory as read
from pipeline.senses.params import LexiconParams
from pipeline.sources import lexnames
from pipeline.sources.wordnet import open_wordnet
from storage.errors import (
    DataError,
    SchemaMismatch,
    ShardCorrupt,
    StoreMissing,
    WrongKind,
)
from storage.share.audit import audit
from storage.testing import samples
from tests.helpers.inventories import ENTRIES, WORDS, entry, tiny_lexicon, write_inventory


@pytest.fixture(scope="module")
def lexicon(tmp_path_factory: pytest.TempPathFactory) -> Lexicon:
    return tiny_lexicon(tmp_path_factory.mktemp("lexicon"))


# One's own inventory.


def test_senses_are_ranked_by_their_order_and_lie_together(lexicon: Lexicon) -> None:
    columns = zip(*(lexicon.senses[name].to_pylist() for name in ("key", "lemma", "pos", "rank")), strict=True)
    assert list(columns) == [
        ("bank.water", "bank", "NOUN", 1), ("bank.money", "bank", "NOUN", 2), ("bank.row", "bank", "NOUN", 3),
        ("dog.animal", "dog", "NOUN", 1), ("dog.person", "dog", "NOUN", 2),
        ("pond.only", "frozen_pond", "NOUN", 1),
        ("hide.skin", "hide", "VERB", 1), ("hide.away", "hide", "VERB", 2),
        ("walk.way", "walk", "NOUN", 1), ("walk.move", "walk", "VERB", 1),
    ]  # fmt: skip
    for row, key in enumerate(lexicon.keys):
        given_entry = next(line for line in ENTRIES if line["key"] == key)
        meaning = lexicon.meanings.slice(int(lexicon.meaning_S[row]), 1).to_pylist()[0]
        assert (meaning["name"], meaning["gloss"]) == (key, given_entry["gloss"])
        assert meaning["lemmas"] == given_entry.get("lemmas", [given_entry["lemma"]])
        assert meaning["examples"] == given_entry.get("examples", [])
        assert lexicon.row_of[key] == row


@pytest.mark.parametrize("word", ["frozen pond", "frozen_pond", "Frozen  Pond", "FROZEN_POND"])
def test_words_are_found_however_they_are_written(lexicon: Lexicon, word: str) -> None:
    assert [lexicon.keys[row] for row in lexicon.candidates(word, "NOUN")] == ["pond.only"]


def test_candidates_are_of_the_lemma_and_part_of_speech(lexicon: Lexicon) -> None:
    assert [lexicon.keys[row] for row in lexicon.candidates("DOG", "NOUN")] == ["dog.animal", "dog.person"]
    assert [lexicon.keys[row] for row in lexicon.candidates("walk", "VERB")] == ["walk.move"]
    assert sum(len(lexicon.candidates(*word)) for word in WORDS) == len(ENTRIES)
    for lemma, pos in (("dog", "VERB"), ("dogs", "NOUN"), ("pond", "NOUN"), ("", "NOUN"), ("dog", "X")):
        assert len(lexicon.candidates(lemma, pos)) == 0, (lemma, pos)


def test_texts_of_meanings(lexicon: Lexicon) -> None:
    rows = lexicon.meaning_S[[lexicon.row_of[key] for key in ("bank.money", "dog.animal", "pond.only")]]
    assert lexicon.texts(rows, examples=False) == [
        "bank, house of money: a market for apples",
        "dog: an old animal that eats a bone",
        "frozen pond: the river",
    ]
    assert lexicon.texts(rows, examples=True)[1] == "dog: an old animal that eats a bone; The Dogs sleep; my dog waits"
    assert lexicon.texts(rows[:0], examples=True) == []


def test_facts_count_what_is_there(workplace: Path) -> None:
    source = write_inventory(workplace / "own.jsonl")
    facts = build_lexicon(LexiconParams(kind="jsonl", path=str(source)), out=Path("lexicon"))
    assert facts == {"senses": 10, "meanings": 10, "examples": 9, "words": 6}
    assert audit(Path("lexicon")) == []


def test_lines_may_be_compressed_and_empty_and_begin_with_a_mark(tmp_path: Path) -> None:
    lines = ["\ufeff" + json.dumps(ENTRIES[0]), "", json.dumps(ENTRIES[1] | {"lemmas": []}), "   "]
    path = tmp_path / "own.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    senses, meanings = read(path)
    assert [sense["key"] for sense in senses] == ["bank.water", "dog.animal"]
    assert meanings[1]["lemmas"] == ["dog"], "none given: the lemma itself"


GOOD = json.dumps(entry("a.1", "a", "NOUN", "first"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (entry("", "a", "NOUN", "b"), "expected a text under 'key', got ''"),
        (entry("k", " ", "NOUN", "b"), "expected a text under 'lemma', got ' '"),
        ({"key": "k", "lemma": "a", "pos": "NOUN"}, "expected a text under 'gloss', got None"),
        (entry("k", "a", "NOUN", 3), "expected a text under 'gloss', got 3"),  # type: ignore[arg-type]
        (entry("k", "a", "n", "b"), "expected pos to be one of NOUN, VERB, ADJ, ADV, got 'n'"),
        (entry("a.1", "b", "VERB", "b"), "key 'a.1' came before or holds a space"),
        (entry("a 2", "b", "VERB", "b"), "key 'a 2' came before or holds a space"),
        (entry("k", "a", "NOUN", "b", examples=["x", 1]), "expected 'examples' to be a list of texts"),
        (entry("k", "a", "NOUN", "b", examples="one example"), "expected 'examples' to be a list of texts"),
        (entry("k", "a", "NOUN", "b", lemmas=None), "expected 'lemmas' to be a list of texts"),
        (entry("k", "a", "NOUN", "b", lemmas={"a": 1}), "expected 'lemmas' to be a list of texts"),
        ([], "expected an object, got list"),
        ("{", "no JSON in UTF-8: "),
        ('{"key": "\\ud800"}', "no JSON in UTF-8: "),
        (b'{"key": "\xff"}', "no JSON in UTF-8: "),
    ],
)
def test_a_bad_line_is_refused_by_its_number(tmp_path: Path, line: Any, message: str) -> None:
    path = tmp_path / "own.jsonl"
    text = line if isinstance(line, str | bytes) else json.dumps(line)
    path.write_bytes(GOOD.encode() + b"\n\n" + (text.encode() if isinstance(text, str) else text) + b"\n")
    with pytest.raises(DataError, match=re.escape(f"{path}: line 3: {message}")) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_an_inventory_without_senses_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text("\n")
    with pytest.raises(DataError, match=r"own.jsonl: no sense in it"):
        read(tmp_path / "own.jsonl")


def test_the_store_keeps_the_contract_of_stores(workplace: Path) -> None:
    with pytest.raises(StoreMissing, match=r"lexicon: no sealed store here .*Run: dvc repro lexicon"):
        Lexicon.open(Path("lexicon"))
    tiny_lexicon(workplace)
    store = workplace / "lexicon"
    file = store / "meanings.arrow"
    samples.flip(file)
    with pytest.raises(ShardCorrupt, match=r"meanings.arrow: expected .*Run: dvc repro lexicon"):
        Lexicon.open(store)
    samples.write_sample_documents(workplace / "documents", workplace / "work")
    with pytest.raises(WrongKind, match=r"expected a store of lexicon, got documents. Run: dvc repro lexicon"):
        Lexicon.open(workplace / "documents")


def test_the_same_inventory_has_the_same_identity(tmp_path: Path) -> None:
    first, again = (tiny_lexicon(tmp_path / name) for name in ("a", "b") if (tmp_path / name).mkdir() is None)
    (tmp_path / "c").mkdir()
    other = tiny_lexicon(tmp_path / "c", ENTRIES[:5])
    assert first.identity == again.identity != other.identity
    assert samples.file_hashes(tmp_path / "a" / "lexicon") == samples.file_hashes(tmp_path / "b" / "lexicon")


# WordNet.


@dataclass(frozen=True)
class Synset:
    pos: str
    letter: str
    words: tuple[str, ...]
    gloss: str
    pointers: tuple[tuple[str, int], ...] = ()
    """Symbol and number of the synset it leads to."""


SYNSETS = (
    Synset("noun", "n", ("entity",), "all there is"),
    Synset("noun", "n", ("Dog", "domestic_dog"), 'a canine; "the dogs barked"; "a good dog"', (("@", 0),)),
    Synset("noun", "n", ("Fido",), "a name", (("@i", 1),)),
    Synset("noun", "n", ("cad", "dog"), "a bad man", (("@", 0),)),
    Synset("verb", "v", ("dog", "follow"), "go after"),
    Synset("adj", "a", ("good",), "as it should be", (("&", 6),)),
    Synset("adj", "s", ("fine(p)", "good"), "pleasant", (("&", 5),)),
)
INDEX = (  # key, synset, sense number, uses
    ("cad%1:18:00::", 3, 1, 0), ("dog%1:05:00::", 1, 2, 42), ("dog%1:18:01::", 3, 1, 0), ("dog%2:38:00::", 4, 1, 2),
    ("domestic_dog%1:05:00::", 1, 1, 0), ("entity%1:03:00::", 0, 1, 11), ("fido%1:18:00::", 2, 1, 0),
    ("fine%5:00:00:good:00", 6, 1, 3), ("follow%2:38:00::", 4, 1, 8), ("good%3:00:01::", 5, 1, 190),
    ("good%5:00:00:fine:00", 6, 2, 7),
)  # fmt: skip
POS_FILES = {"noun": "1", "verb": "2", "adj": "3", "adv": "4"}
EXCEPTIONS = {"noun": "doggies dog\nhounds hound dog\n", "verb": "", "adj": "better good well\n", "adv": ""}


def write_wordnet(folder: Path) -> Path:
    """The files of a WordNet with pointers: offsets have eight digits, so that lines have their length before."""
    folder.mkdir()
    head = "  1 Princeton licence  \n  2 WordNet 3.0 Copyright 2006 by Princeton University  \n"
    offsets: dict[int, int] = {}

    def line(number: int, synset: Synset) -> str:
        words = " ".join(f"{word} 0" for word in synset.words)
        pointers = "".join(f"{symbol} {offsets.get(to, 0):08d} {SYNSETS[to].letter} 0000 "
                           for symbol, to in synset.pointers)  # fmt: skip
        frames = "00 " if synset.letter == "v" else ""
        count = f"{len(synset.words):02x} {words} {len(synset.pointers):03d} {pointers}{frames}"
        return f"{offsets.get(number, 0):08d} 00 {synset.letter} {count}| {synset.gloss}  \n"

    for _ in range(2):
        files = dict.fromkeys(POS_FILES, head)
        for number, synset in enumerate(SYNSETS):
            offsets[number] = len(files[synset.pos])
            files[synset.pos] += line(number, synset)
    places: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for key, number, rank, _ in INDEX:
        places.setdefault((SYNSETS[number].pos, key.partition("%")[0]), []).append((rank, offsets[number]))
    for pos in POS_FILES:
        (folder / f"data.{pos}").write_text(files[pos], encoding="ascii")
        index = [
            f"{lemma} {pos[0]} {len(found)} 0 {len(found)} 0 {' '.join(f'{at:08d}' for _, at in sorted(found))}  \n"
            for (where, lemma), found in sorted(places.items())
            if where == pos
        ]
        (folder / f"index.{pos}").write_text(head + "".join(index), encoding="ascii")
        (folder / f"{pos}.exc").write_text(EXCEPTIONS[pos], encoding="ascii")
    (folder / "lexnames").write_text(lexnames.table(), encoding="ascii")
    (folder / "index.sense").write_text(
        "".join(f"{key} {offsets[n]:08d} {rank} {uses}\n" for key, n, rank, uses in INDEX)
    )
    (folder / "cntlist.rev").write_text("".join(f"{key} {rank} {uses}\n" for key, _, rank, uses in INDEX))
    return folder


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wordnet(tmp_path_factory.mktemp("wordnet") / "files")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, wordnet: Path) -> Lexicon:
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        facts = build_lexicon(LexiconParams(kind="wordnet", path=str(wordnet)), out=Path("lexicon"))
    assert facts == {"senses": 11, "meanings": 7, "examples": 2, "words": 9}
    return Lexicon.open(folder / "lexicon")


def test_wordnet_has_the_senses_of_its_index(built: Lexicon) -> None:
    assert len(SYNSETS) == len(built.meanings)
    by_gloss = {gloss: row for row, gloss in enumerate(built.meanings["gloss"].to_pylist())}
    found = {row["key"]: row for row in built.senses.to_pylist()}
    assert found.keys() == {key for key, *_ in INDEX}
    for key, number, rank, uses in INDEX:
        row = found[key]
        assert (row["lemma"], row["rank"], row["count"]) == (key.partition("%")[0], rank, uses)
        assert row["meaning"] == by_gloss[SYNSETS[number].gloss.partition(";")[0]]
        assert row["pos"] == {"noun": "NOUN", "verb": "VERB", "adj": "ADJ"}[SYNSETS[number].pos]
    assert [built.keys[row] for row in built.candidates("good", "ADJ")] == ["good%3:00:01::", "good%5:00:00:fine:00"]
    assert [built.keys[row] for row in built.candidates("Dog", "NOUN")] == ["dog%1:18:01::", "dog%1:05:00::"]


def test_meanings_of_wordnet(built: Lexicon) -> None:
    rows = {row["gloss"]: row for row in built.meanings.to_pylist()}
    canine, fine, good = rows["a canine"], rows["pleasant"], rows["as it should be"]
    assert canine["lemmas"] == ["Dog", "domestic_dog"] and canine["examples"] == ["the dogs barked", "a good dog"]
    assert fine["lemmas"] == ["fine", "good"], "a marker is no part of a lemma"
    names = built.meanings["gloss"].to_pylist()
    above = {row["gloss"]: [names[place] for place in row["above"]] for row in rows.values()}
    assert above == {
        "all there is": [], "a canine": ["all there is"], "a name": ["a canine"], "a bad man": ["all there is"],
        "go after": [], "as it should be": [], "pleasant": ["as it should be"],
    }  # fmt: skip
    assert good["pos"] == fine["pos"] == "ADJ"


def test_candidates_are_those_of_the_reader(built: Lexicon, wordnet: Path) -> None:
    """Meanings and their order, asked of NLTK, which reads other files for it (index.noun and its like)."""
    reader = open_wordnet(wordnet)
    for lemma in ("dog", "domestic_dog", "good", "fine", "entity", "cad", "follow", "nothing"):
        for pos, letter in zip(POS, "nvar", strict=True):
            expected = [synset.name() for synset in reader.synsets(lemma, letter, check_exceptions=False)
                        if lemma in map(str.lower, synset.lemma_names())]  # fmt: skip
            meanings = built.meaning_S[list(built.candidates(lemma, pos))]
            assert built.meanings["name"].take(meanings).to_pylist() == expected, (lemma, pos)


def test_a_store_of_another_revision_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.senses.lexicon.REVISION", 9)
    source = write_inventory(tmp_path / "own.jsonl")
    build_lexicon(LexiconParams(kind="jsonl", path=str(source)), out=Path("lexicon"))
    monkeypatch.undo()
    with pytest.raises(SchemaMismatch, match=r"expected method revision \d+, got 9. Run: dvc repro lexicon"):
        Lexicon.open(tmp_path / "lexicon")


# Forms of words.

BASES = {
    "NOUN": ("dog", "box", "church", "bush", "man", "wolf", "city", "glass", "quiz", "bus", "s", "es"),
    "VERB": ("walk", "stop", "carry", "go", "die", "make", "watch", "run", "be", "see", "fall"),
    "ADJ": ("large", "tall", "happy", "big", "fine", "eager"),
    "ADV": ("well", "fast", "slowly"),
}
LETTERS = dict(zip(POS, "nvar", strict=True))


class Morphy(WordNetCorpusReader):
    """NLTK's morphological analysis over words of our own, without a database."""

    def __init__(self) -> None:
        self._exception_map: Any = {letter: {} for letter in "nvars"}
        self._lemma_pos_offset_map: Any = {}
        for pos, words in BASES.items():
            for word in words:
                self._lemma_pos_offset_map.setdefault(word, {})[LETTERS[pos]] = [0]


forms = st.sampled_from(POS).flatmap(
    lambda pos: st.tuples(
        st.just(pos),
        st.builds(
            lambda base, cut, tail: base[: len(base) - cut] + tail,
            st.sampled_from(BASES[pos]),
            st.integers(0, 2),
            st.sampled_from(["", *(ending for ending, _ in ENDINGS[pos]), "s", "ed", "ning", "ly", "ss"]),
        ),
    )
)


@settings(max_examples=500, deadline=None)
@given(forms)
def test_forms_are_those_of_morphy(lexicon: Lexicon, case: tuple[str, str]) -> None:
    """But for a consonant that is doubled, which WordNet has in its lists of exceptions."""
    pos, form = case
    expected = set(Morphy()._morphy(form, LETTERS[pos]))
    found = {base for base in BASES[pos] if lexicon.is_form(form, base, pos=pos)}
    assert expected <= found
    for base in found - expected:
        assert re.fullmatch(rf"{base}{base[-1]}(ed|ing|er|est)", form), (form, base)


@pytest.mark.parametrize(
    ("form", "base", "pos", "expected"),
    [
        ("running", "run", "VERB", True), ("stopped", "stop", "VERB", True), ("biggest", "big", "ADJ", True),
        ("wolves", "wolf", "NOUN", True), ("cities", "city", "NOUN", True), ("men", "man", "NOUN", True),
        ("dogs", "dog", "VERB", True), ("dogged", "dog", "NOUN", False), ("doge", "dog", "NOUN", False),
        ("slower", "slow", "ADV", False), ("went", "go", "VERB", False), ("dog", "dogs", "NOUN", False),
        ("eggs", "eg", "NOUN", False), ("dolls", "dol", "NOUN", False), ("ed", "be", "VERB", False),
    ],
)  # fmt: skip
def test_forms_by_hand(lexicon: Lexicon, form: str, base: str, pos: str, expected: bool) -> None:
    assert lexicon.is_form(form, base, pos=pos) is expected


def test_irregular_forms_come_from_wordnets_lists(built: Lexicon) -> None:
    assert built.is_form("doggies", "dog", pos="NOUN") and built.is_form("hounds", "dog", pos="NOUN")
    assert built.is_form("better", "well", pos="ADJ") and not built.is_form("better", "well", pos="ADV")
    assert not built.is_form("doggies", "dog", pos="VERB")


@given(st.text(max_size=12))
def test_a_normal_lemma_is_its_own_normal_form(lemma: str) -> None:
    normal = normal_lemma(lemma)
    assert normal_lemma(normal) == normal and not any(character.isspace() for character in normal)
