"""Words of documents that nobody annotated: which are found, how many are taken, and that held-out text stays so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.core.seeds import unit_hash
from pipeline.lexical.params import SoftLabelsParams
from pipeline.lexical.soft_labels import write_soft_labels
from pipeline.senses.documents import Text, from_documents, marked_document
from pipeline.senses.instances import Instances, build_instances
from pipeline.senses.leakage import shows_heldout
from pipeline.senses.lexicon import Lexicon
from pipeline.senses.params import SensesParams
from pipeline.senses.places import Tagger, open_tagger
from stages.senses import main
from storage.documents import write_documents
from storage.errors import DataError, SourceError
from storage.format.manifest_parse import read_manifest
from storage.tables import DOCUMENT_SCHEMA
from storage.work import Workspace
from tests.helpers.inventories import tiny_lexicon
from tests.helpers.lexical import make_workplace
from tests.helpers.stores import cpu_runtime
from tests.helpers.tagger import install_tagger

TRAIN = {
    "notes#1": "The old dog waits. It hides behind the frozen pond.\n\nA walk by the banks",
    "notes#2": "they walk slowly on the road by the river",
    "empty": "It waits.",
    "tail": "a goat and the dog",
}
"""Words with several senses: dog, hides, banks; dog. Walk has one of each part of speech, a frozen pond one."""
WORDS = [("dog", "dog", "NOUN"), ("hides", "hide", "VERB"), ("banks", "bank", "NOUN"), ("dog", "dog", "NOUN")]


@pytest.fixture(scope="module")
def lexicon(tmp_path_factory: pytest.TempPathFactory) -> Lexicon:
    return tiny_lexicon(tmp_path_factory.mktemp("lexicon"))


@pytest.fixture(scope="module")
def nltk_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_tagger(tmp_path_factory.mktemp("tagger"))


@pytest.fixture
def tagger(nltk_data: Path, monkeypatch: pytest.MonkeyPatch) -> Tagger:
    monkeypatch.setattr("nltk.data.path", [str(nltk_data)])
    found = open_tagger()
    assert found is not None
    return found


def documents(folder: Path, train: Mapping[str, str] = TRAIN, heldout: Mapping[str, str] | None = None) -> Path:
    """A store of documents."""
    splits = {"train": train, "calibration": {}, "heldout": heldout or {"held": "the dog hides on the bank"}}
    tables = {
        split: pa.table({"doc_id": list(texts), "source": ["own"] * len(texts), "text": list(texts.values())},
                        schema=DOCUMENT_SCHEMA)
        for split, texts in splits.items()
    }  # fmt: skip
    write_documents(folder, tables, inputs={"texts": [*train.values()]}, facts={}, workspace=Workspace())
    return folder


def build(path: Path, lexicon: Lexicon, out: Path, **more: Any) -> Instances:
    params = SensesParams.model_validate({"kind": "text", "path": str(path)} | more)
    build_instances("text", params, lexicon, out=out)
    return Instances.open(out, lexicon=lexicon)


def found_in(instances: Instances) -> list[tuple[str, str, str]]:
    """Words as they stand, with lemma and part of speech."""
    texts = instances.sentences["text"].to_pylist()
    return [
        (texts[row["sentence"]][row["start"] : row["end"]], row["lemma"], row["pos"])
        for row in instances.rows.to_pylist()
    ]


def test_words_with_several_senses_are_found_and_none_is_annotated(
    lexicon: Lexicon, tagger: Tagger, workplace: Path
) -> None:
    store = documents(workplace / "documents")
    instances = build(store, lexicon, Path("senses/text"))
    assert found_in(instances) == WORDS
    for row in instances.rows.to_pylist():
        assert row["gold"] == []
        assert row["candidates"] == list(lexicon.candidates(row["lemma"], row["pos"])) and len(row["candidates"]) > 1
    names = instances.rows["instance_id"].to_pylist()
    assert len(set(names)) == len(names)
    sentences = instances.sentences.to_pylist()
    assert [one["text"] for one in sentences] == [
        "The old dog waits.", "It hides behind the frozen pond.", "A walk by the banks", "a goat and the dog",
    ], "those of documents without such words would be no one's context"  # fmt: skip
    assert {one["split"] for one in sentences} == {"train"} and {one["source"] for one in sentences} == {"own"}
    assert [one["document_id"] for one in sentences] == ["text/notes#1"] * 3 + ["text/tail"]


def test_a_store_names_its_documents_and_the_tagger(lexicon: Lexicon, tagger: Tagger, workplace: Path) -> None:
    store = documents(workplace / "documents")
    build(store, lexicon, Path("senses/text"))
    manifest = read_manifest(Path("senses/text"))
    assert manifest.parents == {"lexicon": lexicon.identity, "documents": read_manifest(store).identity}
    assert manifest.inputs["tagger"] == tagger.identity
    assert "most_words" not in manifest.inputs["senses"]
    assert manifest.facts["counts"] == {"instances": 4, "monosemous": 0, "sentences": 4, "unknown sense keys": 0}


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=12),
    most=st.integers(1, 20),
    order=st.randoms(use_true_random=False),
)
def test_a_limit_takes_the_documents_with_the_smallest_hashes_in_any_order(
    lexicon: Lexicon, counts: list[int], most: int, order: Any
) -> None:
    """Against sorting all of them; what is cut off are the last words of the last document taken."""
    texts = [Text(f"d{number}", "own", ". ".join(["the dog"] * count) or "the") for number, count in enumerate(counts)]
    by_hash = sorted(texts, key=lambda text: unit_hash("words", "text", text.name))
    expected: dict[str, int] = {}
    for text in by_hash:
        taken = min(counts[int(text.name[1:])], most - sum(expected.values()))
        if taken:
            expected[text.name] = taken
    shuffled = list(texts)
    order.shuffle(shuffled)
    marked = list(from_documents(shuffled, lexicon, Nouns(), name="text", most_words=most))
    found: dict[str, int] = {}
    for sentence in marked:
        found[sentence.document_id] = found.get(sentence.document_id, 0) + len(sentence.spans)
    assert found == expected
    assert list(found) == [text.name for text in shuffled if text.name in found], "in the order of the documents"
    for text in texts:
        kept = [len(sentence.spans) for sentence in marked if sentence.document_id == text.name]
        assert kept == sorted(kept, reverse=True), "the first words of the one that is cut"


class Nouns(Tagger):
    """Tags "dog" alone."""

    def __init__(self) -> None:
        pass

    def tags(self, words: Any) -> list[tuple[str, ...]]:
        return [("NOUN",) if word == "dog" else () for word in words]


def test_documents_beyond_the_limit_are_not_tagged(lexicon: Lexicon) -> None:
    """Documents in the order of their hashes: the first fill the limit, and no other is looked at."""
    seen = []

    class Counting(Nouns):
        def tags(self, words: Any) -> list[tuple[str, ...]]:
            seen.append(words)
            return super().tags(words)

    texts = [Text(f"d{number}", "own", "the dog and the dog") for number in range(40)]
    texts.sort(key=lambda text: unit_hash("words", "text", text.name))
    marked = list(from_documents(texts, lexicon, Counting(), name="text", most_words=5))
    assert [len(sentence.spans) for sentence in marked] == [2, 2, 1]
    assert len(seen) == 3


def test_a_share_and_a_limit_are_of_the_documents(lexicon: Lexicon, tagger: Tagger, workplace: Path) -> None:
    many = {f"d{number}": f"the dog waits on road {number}" for number in range(60)}
    store = documents(workplace / "documents", many)
    half = build(store, lexicon, Path("senses/half"), share=0.5)
    chosen = [name for name in many if unit_hash("senses", "text", name) < 0.5]
    assert half.sentences["document_id"].to_pylist() == [f"text/{name}" for name in chosen]
    few = build(store, lexicon, Path("senses/few"), most_words=7)
    assert len(few.rows) == len(few.sentences) == 7
    assert read_manifest(Path("senses/few")).inputs["senses"]["most_words"] == 7


def test_sentences_of_a_document_are_tagged_alone(lexicon: Lexicon, tagger: Tagger) -> None:
    """Alone `walk` after "a" is a noun; offsets are those of the sentence."""
    text = "It waits.  They hides, they hiding a dog!"
    first, second = marked_document(Text("d", "own", text), lexicon, tagger)
    assert (first.text, second.text) == ("It waits.", "They hides, they hiding a dog!")
    assert first.spans == ()
    assert [second.text[span.start : span.end] for span in second.spans] == ["hides", "hiding", "dog"]


def test_without_the_tagger_s_data_one_line_says_what_to_run(
    lexicon: Lexicon, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nltk.data.path", [str(workplace / "none")])
    store = documents(workplace / "documents")
    with pytest.raises(SourceError, match=r"Run: python -m nltk\.downloader averaged_perceptron_tagger_eng$"):
        build(store, lexicon, Path("senses/text"))
    Path("params.yaml").write_text("senses: {text: {kind: text, path: documents}}\n", encoding="utf-8")
    tiny_lexicon(workplace)
    refused = CliRunner().invoke(main, ["text", "--lexicon", "lexicon", "--out", "senses/text"])
    assert refused.exit_code == 2
    assert refused.stderr.count("\n") == 1 and "averaged_perceptron_tagger_eng" in refused.stderr


def test_text_without_any_such_word_is_refused(lexicon: Lexicon, tagger: Tagger, workplace: Path) -> None:
    store = documents(workplace / "documents", {"d": "They walk."})
    for more in ({}, {"most_words": 3}):
        with pytest.raises(DataError, match=r"no word with senses in it\. Raise senses\.text\.share or give other"):
            build(store, lexicon, Path("senses/text"), **more)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"kind": "text", "heldout": 0.1}, "kind text holds nothing out"),
        ({"kind": "text", "licence": "mit"}, "has the licences of its documents"),
        ({"kind": "examples", "heldout": 0.1, "most_words": 5}, "most_words belongs to kind text; lower share instead"),
        ({"kind": "raganato"}, "heldout is missing"),
        ({"kind": "text", "most_words": 0}, "greater than or equal to 1"),
    ],
)
def test_impossible_settings(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SensesParams.model_validate({"path": "x"} | entry)


def test_words_that_show_held_out_text_are_left_out(lexicon: Lexicon, tagger: Tagger, workplace: Path) -> None:
    """A document of the train split with a sentence of a held-out one is left out whole."""
    repeated = "it slowly walked by the old frozen road"
    train = {"one": f"The dog waits on the bank. {repeated}.", "two": "a dog on the bank"}
    instances = build(documents(workplace / "documents", train), lexicon, Path("senses/text"))
    assert [word for word, _, _ in found_in(instances)] == ["dog", "bank", "dog", "bank"]
    assert shows_heldout(instances, lexicon, [f"so {repeated} and home"]).tolist() == [True, True, False, False]
    assert not shows_heldout(instances, lexicon, ["nothing"]).any()


def test_without_soft_labels_there_is_nothing_to_learn(tagger: Tagger, workplace: Path) -> None:
    work = make_workplace(workplace)
    build(documents(workplace / "documents"), Lexicon.open(work.lexicon), work.senses / "text")
    with pytest.raises(DataError, match="senses text: no word with several senses to learn from"):
        work.train(work.entry(senses=["text"]), Path("models/one"))


def test_soft_labels_teach_it(tagger: Tagger, workplace: Path) -> None:
    """A teacher of annotated words labels the text, and a student learns from all its words with several senses."""
    work = make_workplace(workplace)
    instances = build(documents(workplace / "documents"), Lexicon.open(work.lexicon), work.senses / "text")
    once = {"epochs": 2.0, "step_words": 4}
    work.train(work.entry(training=once), Path("models/teacher"))
    write_soft_labels(
        SoftLabelsParams(model="models/teacher", senses=["text"]), lexicon=work.lexicon, senses=work.senses,
        out=Path("data/soft_labels/teacher"), runtime=cpu_runtime(),
    )  # fmt: skip
    taught = {"soft_labels": 1.0, "soft_labels_from": "data/soft_labels/teacher", "gold": 0.0}
    record = work.train(work.entry(senses=["text"], training=once, **taught), Path("models/student"))
    assert record["words"] == len(instances.rows) == len(WORDS)
    assert {gold for gold, _ in record["losses"]} == {0.0}
