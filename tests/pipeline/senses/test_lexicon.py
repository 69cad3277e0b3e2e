"""Sense inventories: WordNet's files through NLTK, one's own JSON Lines, and what is asked of either.

The WordNet here has seven synsets with true offsets and pointers. Not checked here: the counts of WordNet 3.0.
"""

from __future__ import annotations

import contextlib
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
    true_key,
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
    """Each a lemma, with its lex_id after a space where that is not 0."""
    gloss: str
    pointers: tuple[tuple[str, int], ...] = ()
    """Symbol and number of the synset it leads to."""
    file: int = 0
    """Number of the lexicographer's file."""


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


def write_wordnet(
    folder: Path,
    synsets: tuple[Synset, ...] = SYNSETS,
    senses: tuple[tuple[str, int, int, int], ...] = INDEX,
) -> Path:
    """The files of a WordNet with pointers: offsets have eight digits, so that lines have their length before."""
    folder.mkdir()
    head = "  1 Princeton licence  \n  2 WordNet 3.0 Copyright 2006 by Princeton University  \n"
    offsets: dict[int, int] = {}

    def line(number: int, synset: Synset) -> str:
        words = " ".join(word if " " in word else f"{word} 0" for word in synset.words)
        pointers = "".join(f"{symbol} {offsets.get(to, 0):08d} {synsets[to].letter} 0000 "
                           for symbol, to in synset.pointers)  # fmt: skip
        frames = "00 " if synset.letter == "v" else ""
        count = f"{len(synset.words):02x} {words} {len(synset.pointers):03d} {pointers}{frames}"
        return f"{offsets.get(number, 0):08d} {synset.file:02d} {synset.letter} {count}| {synset.gloss}  \n"

    for _ in range(2):
        files = dict.fromkeys(POS_FILES, head)
        for number, synset in enumerate(synsets):
            offsets[number] = len(files[synset.pos].encode())
            files[synset.pos] += line(number, synset)
    places: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for key, number, rank, _ in senses:
        lemma = true_key(key, [word.split()[0] for word in synsets[number].words]).partition("%")[0]
        places.setdefault((synsets[number].pos, lemma), []).append((rank, offsets[number]))
    for pos in POS_FILES:
        (folder / f"data.{pos}").write_text(files[pos], encoding="utf-8")
        index = [
            f"{lemma} {pos[0]} {len(found)} 0 {len(found)} 0 {' '.join(f'{at:08d}' for _, at in sorted(found))}  \n"
            for (where, lemma), found in sorted(places.items())
            if where == pos
        ]
        (folder / f"index.{pos}").write_text(head + "".join(index), encoding="utf-8")
        (folder / f"{pos}.exc").write_text(EXCEPTIONS[pos], encoding="ascii")
    (folder / "lexnames").write_text(lexnames.table(), encoding="ascii")
    (folder / "index.sense").write_text(
        "".join(f"{key} {offsets[n]:08d} {rank} {uses}\n" for key, n, rank, uses in senses)
    )
    (folder / "cntlist.rev").write_text("".join(f"{key} {rank} {uses}\n" for key, _, rank, uses in senses))
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


def lexicon_of(folder: Path) -> Lexicon:
    """An inventory built from the wordnet in `folder`, beside it."""
    with contextlib.chdir(folder.parent):
        build_lexicon(LexiconParams(kind="wordnet", path=folder.name), out=Path(f"{folder.name}-lexicon"))
    return Lexicon.open(folder.parent / f"{folder.name}-lexicon")


def gloss(lexicon: Lexicon, key: str) -> str:
    return str(lexicon.meanings["gloss"][int(lexicon.meaning_S[lexicon.row_of[key]])].as_py())


TRAPS = (
    Synset("noun", "n", ("campaign 2", "drive 0"), "a series of actions advancing a principle", file=4),
    Synset("noun", "n", ("drive 3", "driving 1"), "hitting a golf ball off of a tee with a driver", file=4),
    Synset("noun", "n", ("drive 2", "thrust 1"), "the act of applying force to propel something", file=4),
    Synset("noun", "n", ("deal 1", "bargain 0"), "an agreement between parties", file=10),
    Synset("noun", "n", ("deal 0",), "a transaction", file=10),
)
TRAP_INDEX = (  # the sense number of a word is no lex_id, and that of its key no place in index.noun
    ("campaign%1:04:02::", 0, 2, 13), ("drive%1:04:00::", 0, 2, 8), ("drive%1:04:03::", 1, 9, 0),
    ("driving%1:04:01::", 1, 1, 0), ("drive%1:04:02::", 2, 1, 9), ("thrust%1:04:01::", 2, 2, 4),
    ("deal%1:10:01::", 3, 2, 4), ("bargain%1:10:00::", 3, 1, 7), ("deal%1:10:00::", 4, 1, 8),
)  # fmt: skip


def test_sense_keys_lead_to_their_own_synsets(tmp_path: Path) -> None:
    """Keys that other software resolved to other synsets (nltk/nltk#2420), and all keys beside those of NLTK's lemmas.

    Of WordNet 3.0 itself the drive is as here: `python -m stages.lexicon` makes all 206,941 from its index.sense.
    """
    lexicon = lexicon_of(write_wordnet(tmp_path / "traps", TRAPS, TRAP_INDEX))
    assert gloss(lexicon, "drive%1:04:03::") == "hitting a golf ball off of a tee with a driver"
    assert gloss(lexicon, "drive%1:04:00::") == "a series of actions advancing a principle"
    assert gloss(lexicon, "deal%1:10:00::") == "a transaction"
    reader = open_wordnet(tmp_path / "traps")
    keys = {lemma.key(): synset.definition() for synset in reader.all_synsets() for lemma in synset.lemmas()}
    assert {key: gloss(lexicon, key) for key in lexicon.keys} == keys
    assert [lexicon.keys[row][-3:-2] for row in lexicon.candidates("drive", "NOUN")] == ["2", "0", "3"], "by rank"


OPEN = (
    Synset("noun", "n", ("Achilles'_heel", "caf\u00e9"), "a weak point \u2013 of the strong", file=7),
    Synset("noun", "n", ("km/h", "rock-and-roll"), "a unit", file=28),
    Synset("verb", "v", ("air-drop",), "let fall", file=35),
    Synset("adj", "a", ("good",), "as it should be"),
    Synset("adj", "s", ("ok!", "a-one(p)"), "fine", (("&", 3),)),
)
OPEN_INDEX = (  # spelled out as Open English WordNet 2025 does, in no order (globalwordnet/english-wordnet#1305)
    ("km-sol-h%1:28:00::", 1, 1, 0), ("achilles-apos-_heel%1:07:00::", 0, 1, 0), ("rock-and-roll%1:28:00::", 1, 1, 0),
    ("air--drop%2:35:00::", 2, 1, 0), ("caf\u00e9%1:07:00::", 0, 1, 0), ("good%3:00:00::", 3, 1, 0),
    ("ok-excl-%5:00:00:good:00", 4, 1, 0), ("a--one%5:00:00:good:00", 4, 1, 0),
)  # fmt: skip


def test_open_english_wordnet_is_an_inventory(tmp_path: Path) -> None:
    """Spelled-out keys become those that NLTK makes of the data files; files that it lacks are not asked for."""
    folder = write_wordnet(tmp_path / "open", OPEN, OPEN_INDEX)
    for name in ("cntlist.rev", "lexnames", *(f"{pos}.exc" for pos in POS_FILES)):
        (folder / name).unlink()
    lexicon = lexicon_of(folder)
    assert set(lexicon.keys) == {
        "km/h%1:28:00::", "achilles'_heel%1:07:00::", "rock-and-roll%1:28:00::", "air-drop%2:35:00::",
        "caf\u00e9%1:07:00::", "good%3:00:00::", "ok!%5:00:00:good:00", "a-one%5:00:00:good:00",
    }  # fmt: skip
    made = {lemma.key() for synset in open_wordnet(folder).all_synsets() for lemma in synset.lemmas()}
    assert set(lexicon.keys) == made
    assert [lexicon.keys[row] for row in lexicon.candidates("Achilles'_heel", "NOUN")] == ["achilles'_heel%1:07:00::"]
    assert gloss(lexicon, "caf\u00e9%1:07:00::") == "a weak point \u2013 of the strong"


@pytest.mark.parametrize(
    ("key", "lemmas", "expected"),
    [
        ("yahoo-excl-%1:10:01::", ["Yahoo!"], "yahoo!%1:10:01::"),
        ("lgbt-plus-%1:14:00::", ["LGBT+"], "lgbt+%1:14:00::"),
        ("rock-and-roll%1:10:00::", ["rock-and-roll"], "rock-and-roll%1:10:00::"),
        ("rock--and--roll%1:10:00::", ["rock-and-roll"], "rock-and-roll%1:10:00::"),
        ("a-nonsense-b%1:10:00::", ["other"], "a-nonsense-b%1:10:00::"),
    ],
)
def test_a_key_is_spelled_as_its_lemma(key: str, lemmas: list[str], expected: str) -> None:
    assert true_key(key, lemmas) == expected


@pytest.mark.parametrize(
    ("line", "got"),
    [
        ("dog%1:05:00:: 99999999 1 0", "a synset that is not there"),
        ("dog%1:05:00:: x 1 0", "no offset"),
        ("dog%9:05:00:: 00000000 1 0", "no part of speech"),
        ("dog%1:05:00:: 1", "two fields"),
    ],
)
def test_a_bad_line_of_the_sense_index_is_refused_by_its_number(tmp_path: Path, line: str, got: str) -> None:
    folder = write_wordnet(tmp_path / "files")
    lines = (folder / "index.sense").read_text().splitlines()
    (folder / "index.sense").write_text("\n".join([*lines[:2], line]) + "\n")
    with pytest.raises(DataError, match=rf"index.sense: line 3: expected 'sense_key .*got '{line}'"):
        lexicon_of(folder)


def test_data_files_of_another_form_are_refused(tmp_path: Path) -> None:
    folder = write_wordnet(tmp_path / "files")
    (folder / "index.noun").write_text("dog n two\n")
    with pytest.raises(DataError, match=r"files: not a wordnet in Princeton's form \(WNDB\): file index.noun, line 1"):
        lexicon_of(folder)


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
