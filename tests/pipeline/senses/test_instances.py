"""Words in context and their candidate senses: what is found, what is left out, and by which reason it is counted."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.senses.instances import (
    EXAMPLES,
    Instances,
    annotated_files,
    build_instances,
    find_lemma,
    from_annotated,
    from_examples,
    marked_sentence,
    whole,
)
from pipeline.senses.lexicon import Lexicon
from pipeline.senses.params import SensesParams
from pipeline.senses.raganato import Sentence, Token, read_gold
from storage.errors import (
    DataError,
    ShardCorrupt,
    StaleParent,
    StoreMissing,
    WrongKind,
)
from storage.share.audit import audit
from storage.testing import samples
from tests.helpers.inventories import STORY, entry, marked, span, tiny_lexicon


@pytest.fixture(scope="module")
def lexicon(tmp_path_factory: pytest.TempPathFactory) -> Lexicon:
    return tiny_lexicon(tmp_path_factory.mktemp("lexicon"))


# Where a lemma stands.


@pytest.mark.parametrize(
    ("text", "lemma", "pos", "found"),
    [
        ("The dog and the dogs", "dog", "NOUN", "dog"),
        ("The Dogs and a dog", "dog", "NOUN", "Dogs"),
        ("he stopped, and stops", "stop", "VERB", "stopped"),
        ("a catalog of dogs", "dog", "NOUN", "dogs"),
        ("a hot dog-cart", "dog", "NOUN", None),
        ("hot dogs", "hot_dog", "NOUN", "hot dogs"),
        ("two heads of state met", "head of state", "NOUN", "heads of state"),
        ("she looked up the word", "look_up", "VERB", "looked up"),
        ("she looked it up", "look_up", "VERB", None),
        ("hot, dogs", "hot_dog", "NOUN", "hot, dogs"),
        ("a well-known man", "well-known", "ADJ", "well-known"),
        ("a well known man", "well-known", "ADJ", None),
        ("it's five o'clock", "o'clock", "ADV", "o'clock"),
        ("Ärzte über Ärzte", "ärzte", "NOUN", "Ärzte"),
        ("the dog", "dog_dog", "NOUN", None),
        ("dog", "the_dog", "NOUN", None),
        ("", "dog", "NOUN", None),
        ("_ dog", "_", "NOUN", None),
        ("42 dogs", "42", "NOUN", None),
    ],
)
def test_where_a_lemma_stands(lexicon: Lexicon, text: str, lemma: str, pos: str, found: str | None) -> None:
    place = find_lemma(text, lemma, pos=pos, lexicon=lexicon)
    assert (None if place is None else text[slice(*place)]) == found
    assert place is None or place[0] == text.index(str(found)), "the first place"


@given(st.text(max_size=30), st.text(alphabet="ab _-'", max_size=6))
@settings(deadline=None)
def test_any_text_has_a_place_within_it_or_none(lexicon: Lexicon, text: str, lemma: str) -> None:
    place = find_lemma(text, lemma, pos="NOUN", lexicon=lexicon)
    assert place is None or 0 <= place[0] < place[1] <= len(text)


# Examples of the inventory.


def test_examples_show_their_meaning(lexicon: Lexicon) -> None:
    counts: Counter[str] = Counter()
    found = {
        sentence.sentence_id: sentence for sentence in from_examples(lexicon, chosen=lambda _: True, counts=counts)
    }
    shown = {name: [(s.text[at.start : at.end], at.gold) for at in s.spans] for name, s in found.items()}
    assert shown == {
        "bank.water#0": [("bank", ("bank.water",))],
        "dog.animal#0": [("Dogs", ("dog.animal",))],
        "dog.animal#1": [("dog", ("dog.animal",))],
        "bank.row#0": [("bank", ("bank.row",))],
        "walk.move#0": [("walked", ("walk.move",))],
        "hide.away#0": [("hides", ("hide.away",))],
        "pond.only#0": [("Frozen ponds", ("pond.only",))],
    }
    assert counts == {"examples without their lemma": 2}
    assert {sentence.source for sentence in found.values()} == {EXAMPLES}
    assert whole(found["dog.animal#1"].document_id) == "dog.animal", "a meaning goes into one split"


def test_a_lemma_of_the_meaning_without_a_sense_is_not_looked_for(tmp_path: Path) -> None:
    """The first lemma stands in the example, but the inventory has no such sense; the second one has."""
    more = {"lemmas": ["hound", "dog"], "examples": ['"the hound and the dog"', "only a hound"]}
    small = tiny_lexicon(
        tmp_path, [entry("dog.1", "dog", "NOUN", "animal", **more), entry("d.2", "dog", "NOUN", "cad")]
    )
    counts: Counter[str] = Counter()
    (only,) = from_examples(small, chosen=lambda _: True, counts=counts)
    assert only.text == "the hound and the dog", "without the marks around it"
    assert [(only.text[at.start : at.end], at.lemma, at.gold) for at in only.spans] == [("dog", "dog", ("dog.1",))]
    assert counts == {"examples without their lemma": 1}


# Annotated text.

SENTENCE = Sentence(
    sentence_id="d000.s000", document_id="d000", source="made",
    tokens=(
        Token(text="The", lemma="the", pos="DET", instance=None),
        Token(text="", lemma="", pos=".", instance=None),
        Token(text="Frozen ponds", lemma="frozen_pond", pos="NOUN", instance="d000.s000.t000"),
        Token(text="hide", lemma="Hide", pos="VERB", instance="d000.s000.t001"),
    ),
)  # fmt: skip


def test_tokens_are_joined_and_words_keep_their_places() -> None:
    found = marked_sentence(SENTENCE, {"d000.s000.t000": ("pond.only", "x")})
    assert found.text == "The  Frozen ponds hide"
    assert [(found.text[at.start : at.end], at.lemma, at.gold) for at in found.spans] == [
        ("Frozen ponds", "frozen_pond", ("pond.only", "x")),
        ("hide", "hide", ()),
    ]


XML = """<corpus lang="en" source="made"><text id="d000"><sentence id="d000.s000">
<wf lemma="the" pos="DET">The</wf>
<instance id="d000.s000.t000" lemma="dog" pos="NOUN">Dogs</instance>
<instance id="d000.s000.t001" lemma="hide" pos="VERB">hide</instance>
</sentence></text></corpus>
"""


def test_files_of_a_set_with_and_without_a_key(tmp_path: Path) -> None:
    (tmp_path / "made.data.xml").write_text(XML)
    (tmp_path / "made.gold.key.txt").write_text("d000.s000.t000 dog.animal\nd000.s000.t001 hide.skin hide.away\n")
    (plain,) = from_annotated(tmp_path / "made.data.xml", {})
    (told,) = from_annotated(tmp_path / "made.data.xml", read_gold(tmp_path / "made.gold.key.txt"))
    assert plain.text == told.text == "The Dogs hide"
    assert [at.gold for at in plain.spans] == [(), ()]
    assert [at.gold for at in told.spans] == [("dog.animal",), ("hide.skin", "hide.away")]


def test_gold_of_another_inventory_is_not_learned_from(workplace: Path, lexicon: Lexicon) -> None:
    (workplace / "made.data.xml").write_text(XML)
    (workplace / "made.gold.key.txt").write_text("d000.s000.t000 bn:00015267n\nd000.s000.t001 bn:00083181v\n")
    params = SensesParams(kind="raganato", path=str(workplace), heldout=0.0)
    with pytest.raises(DataError, match=r"made.gold.key.txt: 2 of 2 words have no sense key .* an id of BabelNet"):
        build_instances("made", params, lexicon, out=Path("senses/made"))


# Tables.


def test_instances_refer_to_senses_by_row(lexicon: Lexicon) -> None:
    instances, counts = Instances.of(STORY, lexicon)
    rows = instances.rows.to_pylist()
    texts = instances.sentences["text"].to_pylist()
    assert texts == [sentence.text for sentence in STORY]
    assert [texts[row["sentence"]][row["start"] : row["end"]] for row in rows] == [
        "dog", "dog", "hides", "bank", "walk", "bank", "frozen pond", "bank", "hides",
    ]  # fmt: skip
    for row, (_, at) in zip(rows, [(one, at) for one in STORY for at in one.spans], strict=True):
        assert row["candidates"] == list(lexicon.candidates(at.lemma, at.pos))
        assert [lexicon.keys[sense] for sense in row["gold"]] == list(at.gold)
    assert counts == {"sentences": 5, "instances": 9, "monosemous": 2, "unknown sense keys": 0}


def test_what_is_left_out_is_counted_by_its_reason(lexicon: Lexicon) -> None:
    text = "dog cow bank walk hide pond"
    found, counts = Instances.of(
        [
            marked(
                text,
                span(text, "dog", gold=["dog.animal", "dog.nobody"]),  # one of two is known
                span(text, "cow", gold=["cow.animal"]),  # no senses and an unknown key
                span(text, "bank", gold=["dog.animal"]),  # known, but no sense of this word
                span(text, "walk", pos="ADV"),  # no senses
                span(text, "hide", pos="VERB"),  # kept: nobody says
                span(text, "pond", gold=["bank.nobody"], lemma="bank"),  # unknown only
            )
        ],
        lexicon,
    )
    assert [(row["instance_id"], [lexicon.keys[key] for key in row["gold"]]) for row in found.rows.to_pylist()] == [
        ("dog@0", ["dog.animal"]), ("hide@18", []),
    ]  # fmt: skip
    assert {name: count for name, count in counts.items() if count} == {
        "instances": 6, "unknown sense keys": 3, "words without senses": 2, "gold is no candidate": 2, "sentences": 1,
    }  # fmt: skip


def test_no_text_gives_empty_tables(lexicon: Lexicon) -> None:
    found, counts = Instances.of([], lexicon)
    assert (len(found.sentences), len(found.rows), counts["sentences"]) == (0, 0, 0)


def test_joined_stores_keep_their_sentences(lexicon: Lexicon) -> None:
    parts = [Instances.of(STORY[:2], lexicon)[0], Instances.of([], lexicon)[0], Instances.of(STORY[2:], lexicon)[0]]
    joined, whole_story = Instances.joined(parts), Instances.of(STORY, lexicon)[0]
    assert joined.rows.to_pydict() == whole_story.rows.to_pydict()
    assert joined.rows.schema == whole_story.rows.schema
    assert joined.sentences.to_pydict() == whole_story.sentences.to_pydict()
    assert joined.identity != Instances.joined(parts[::-1]).identity or parts[0].identity == parts[2].identity


# Stores.


def write_set(folder: Path, *, documents: int) -> Path:
    """A set of documents of two sentences; the second one has a word that the inventory does not know."""
    folder.mkdir(parents=True)
    body, gold = "", ""
    for d in range(documents):
        name = f"d{d:03}"
        body += f'<text id="{name}"><sentence id="{name}.s000"><wf lemma="the" pos="DET">The</wf>'
        body += f'<instance id="{name}.s000.t000" lemma="dog" pos="NOUN">dog</instance></sentence>'
        body += f'<sentence id="{name}.s001"><instance id="{name}.s001.t000" lemma="cow" pos="NOUN">cows</instance>'
        body += f'<instance id="{name}.s001.t001" lemma="hide" pos="VERB">hide</instance></sentence></text>'
        gold += f"{name}.s000.t000 dog.person\n{name}.s001.t001 hide.skin\n"
    (folder / "made.data.xml").write_text(f'<corpus lang="en" source="made">{body}</corpus>')
    (folder / "made.gold.key.txt").write_text(gold)
    return folder


def senses(path: Path | str, **changes: Any) -> SensesParams:
    return SensesParams.model_validate({"kind": "raganato", "path": str(path), "heldout": 0.0, **changes})


def test_a_set_becomes_a_store(workplace: Path, lexicon: Lexicon) -> None:
    source = write_set(workplace / "set", documents=60)
    facts = build_instances("made", senses(source, heldout=0.3), lexicon, out=Path("senses/made"))
    assert facts == {
        "kind": "raganato",
        "counts": {
            "instances": 180, "monosemous": 0, "sentences": 120, "unknown sense keys": 0, "words without senses": 60,
        },
    }  # fmt: skip
    assert audit(Path("senses/made")) == []
    opened = Instances.open(Path("senses/made"), lexicon=lexicon)
    assert [lexicon.keys[row["gold"][0]] for row in opened.rows.to_pylist()[:2]] == ["dog.person", "hide.skin"]
    names, splits = (opened.sentences[name].to_pylist() for name in ("document_id", "split"))
    assert names == [f"made/d{d:03}" for d in range(60) for _ in range(2)]
    by_document: dict[str, set[str]] = {}
    for name, split in zip(names, splits, strict=True):
        by_document.setdefault(name, set()).add(split)
    assert all(len(found) == 1 for found in by_document.values()), "a document is in one split"
    assert 8 <= splits.count("heldout") / 2 <= 28, "18 expected, three standard deviations"


def test_a_share_is_part_of_a_larger_share(workplace: Path, lexicon: Lexicon) -> None:
    source = write_set(workplace / "set", documents=80)
    found = []
    for share in (0.2, 0.6, 1.0):
        build_instances("made", senses(source, share=share), lexicon, out=Path(f"senses/{share}"))
        opened = Instances.open(Path(f"senses/{share}"), lexicon=lexicon)
        found.append(set(opened.sentences["document_id"].to_pylist()))
    assert found[0] < found[1] < found[2] and len(found[2]) == 80
    assert 6 <= len(found[0]) <= 26 and 35 <= len(found[1]) <= 61


def test_examples_of_the_inventory_become_a_store(workplace: Path, lexicon: Lexicon) -> None:
    facts = build_instances("own", senses("data/lexicon", kind="examples"), lexicon, out=Path("senses/own"))
    assert facts["counts"] == {
        "examples without their lemma": 2, "instances": 7, "monosemous": 2, "sentences": 7, "unknown sense keys": 0,
    }  # fmt: skip
    opened = Instances.open(Path("senses/own"), lexicon=lexicon)
    assert set(opened.sentences["source"].to_pylist()) == {EXAMPLES}
    some = build_instances("own", senses("x", kind="examples", share=0.5), lexicon, out=Path("senses/some"))["counts"]
    assert 0 < some["instances"] < 7
    assert some["instances"] + some.get("examples without their lemma", 0) == sum(
        len(examples)
        for name, examples in zip(*(lexicon.meanings[c].to_pylist() for c in ("name", "examples")), strict=True)
        if any(name == whole(found) for found in Instances.open(Path("senses/some"), lexicon=lexicon)
               .sentences["sentence_id"].to_pylist())
    ), "what is not in the share is not counted"  # fmt: skip


def test_the_same_set_elsewhere_is_the_same_store(workplace: Path, lexicon: Lexicon) -> None:
    write_set(workplace / "a", documents=3)
    shutil.copytree("a", "b")
    for name in "ab":
        build_instances("made", senses(name), lexicon, out=Path(f"senses/{name}"))
    assert samples.file_hashes(Path("senses/a")) == samples.file_hashes(Path("senses/b"))
    build_instances("made", senses("a", heldout=0.5), lexicon, out=Path("senses/c"))
    identities = [Instances.open(Path(f"senses/{name}"), lexicon=lexicon).identity for name in "abc"]
    assert identities[0] == identities[1] != identities[2]


def test_a_set_without_senses_is_refused(workplace: Path) -> None:
    write_set(workplace / "a", documents=2)
    keys = ("dog.person", "hide.skin")
    other = tiny_lexicon(workplace, [entry(key, "bank", "NOUN", "land") for key in keys])
    with pytest.raises(DataError, match=r"a: no word with senses in it. Raise senses.made.share or give other text"):
        build_instances("made", senses("a"), other, out=Path("senses/a"))
    assert not Path("senses").exists()


def test_a_store_of_another_inventory_or_none_is_refused(workplace: Path, lexicon: Lexicon) -> None:
    with pytest.raises(StoreMissing, match=r"senses/a: no sealed store here .*Run: dvc repro senses@a"):
        Instances.open(Path("senses/a"), lexicon=lexicon)
    write_set(workplace / "a", documents=2)
    build_instances("made", senses("a"), lexicon, out=Path("senses/a"))
    other = tiny_lexicon(workplace, [entry("dog.animal", "dog", "NOUN", "animal")])
    with pytest.raises(StaleParent, match=r"made from lexicon \w{12}, but lexicon at hand is \w{12}. Run: .*senses@a"):
        Instances.open(Path("senses/a"), lexicon=other)
    with pytest.raises(
        WrongKind, match=r"lexicon: expected a store of instances, got lexicon. Run: dvc repro senses@lex"
    ):
        Instances.open(workplace / "lexicon", lexicon=lexicon)
    samples.flip(Path("senses/a/instances.arrow"))
    with pytest.raises(ShardCorrupt, match=r"instances.arrow: expected .*Run: dvc repro senses@a"):
        Instances.open(Path("senses/a"), lexicon=lexicon)


@pytest.mark.parametrize(
    ("names", "given", "found"),
    [
        ([], ".", "neither"),
        ([], "x.data.xml", "neither"),
        (["x.data.xml"], ".", "x.data.xml"),
        (["x.gold.key.txt"], ".", "x.gold.key.txt"),
        (["x.data.xml", "y.gold.key.txt"], "x.data.xml", "x.data.xml"),
        (["x.data.xml", "y.data.xml", "x.gold.key.txt"], ".", "x.data.xml, y.data.xml, x.gold.key.txt"),
    ],
)
def test_files_that_are_no_pair_are_refused(tmp_path: Path, names: list[str], given: str, found: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    path = tmp_path / given
    message = rf"{re.escape(str(path))}: expected one NAME.data.xml and one NAME.gold.key.txt .*got {re.escape(found)}$"
    with pytest.raises(DataError, match=message):
        annotated_files(path)


@pytest.mark.parametrize("given", [".", "x.data.xml.gz"])
def test_the_pair_of_files_may_be_compressed(tmp_path: Path, given: str) -> None:
    pair = tmp_path / "x.data.xml.gz", tmp_path / "x.gold.key.txt"
    for file in (*pair, tmp_path / "notes.txt"):
        file.touch()
    assert annotated_files(tmp_path / given) == pair
