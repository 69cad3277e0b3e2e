"""A document's split depends on its id and text alone, and every dropped document is counted."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.config import decode, section
from pipeline.text.documents.corpus import assemble
from pipeline.text.documents.corpus_job import split_of
from pipeline.text.documents.ingest import ingest
from pipeline.text.params import CorpusParams, InputParams, input_params
from storage.documents import DocumentStore
from storage.errors import DataError, ParamsError, StoreMissing
from storage.records.base import SPLITS
from tests.helpers.stores import TINY_TEXT, folder_bytes, write_jsonl

THIRDS = CorpusParams(share=1.0, calibration=0.3, heldout=0.3)


def write_records(path: Path, records: list[dict[str, str]]) -> InputParams:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return InputParams(kind="jsonl", path=str(path))


def assembled(
    folder: Path,
    texts: dict[str, list[dict[str, str]]],
    params: CorpusParams = THIRDS,
    splits: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, dict[str, str]]:
    """Run ingest and assemble in `folder`; returns id to text for each split."""
    inputs = {
        name: write_records(folder / f"{name}.jsonl", records).model_copy(update={"split": splits.get(name)})
        for name, records in texts.items()
    }
    with contextlib.chdir(folder):
        for name, entry in inputs.items():
            ingest(name, entry, Path("text") / name)
        assemble(Path("text"), inputs, params, Path("documents"))
    store = DocumentStore(folder / "documents")
    return {
        split: dict(zip(*(store.read(split).column(c).to_pylist() for c in ("doc_id", "text")), strict=True))
        for split in SPLITS
    }


def records_of(texts: tuple[str, ...], prefix: str = "t") -> list[dict[str, str]]:
    return [{"id": f"{prefix}{i}", "text": text} for i, text in enumerate(texts)]


def numbered(text: str, number: int) -> str:
    """A text of its own: no two numbers share a word."""
    return " ".join(f"{word}{number}" for word in text.split())


def test_ingest_names_documents_and_counts_what_it_drops(workplace: Path) -> None:
    path = workplace / "in.jsonl"
    path.write_text(
        '{"id": "a", "text": " One dog. ", "source": "web"}\n{"text": "No id."}\n{"id": "c", "text": "  "}\n'
        '{"id": "a", "text": "One dog."}\nnot json\n',
        encoding="utf-8",
    )
    manifest = ingest("mine", InputParams(kind="jsonl", path=str(path), bad_lines=0.2, licence="CC0"), Path("out"))
    rows = DocumentStore(Path("out")).read("all").to_pylist()
    assert rows == [
        {"doc_id": "mine:a", "source": "web", "text": "One dog."},
        {"doc_id": f"mine:{hashlib.sha256(b'No id.').hexdigest()[:16]}", "source": "mine", "text": "No id."},
    ]
    assert manifest.facts["counts"] == {"documents": 2, "bad": 1, "empty": 1, "duplicates": 1}
    assert manifest.facts["first_bad"] == f"{path}:5"
    assert manifest.facts["licence"] == "CC0"


def test_too_many_bad_lines_are_refused_naming_the_first(workplace: Path) -> None:
    path = workplace / "in.jsonl"
    path.write_text('{"text": "good"}\nbad\nworse\n{"text": "good too"}\n', encoding="utf-8")
    with pytest.raises(
        DataError, match=r"in\.jsonl:2: no JSON.* 2 of 4 records .*at most 40\.00%.*inputs\.mine\.bad_lines"
    ):
        ingest("mine", InputParams(kind="jsonl", path=str(path), bad_lines=0.4), Path("out"))
    assert not Path("out").exists()
    ingest("mine", InputParams(kind="jsonl", path=str(path), bad_lines=0.5), Path("out"))


def test_two_texts_with_one_id_are_refused(workplace: Path) -> None:
    params = write_records(workplace / "in.jsonl", [{"id": "a", "text": "one"}, {"id": "a", "text": "another"}])
    with pytest.raises(DataError, match=r"in\.jsonl:2: the id of another text, 'mine:a'\. Set inputs\.mine\.id"):
        ingest("mine", params, Path("out"))


def test_an_input_without_text_is_refused(workplace: Path) -> None:
    with pytest.raises(DataError, match=r"no document with text in it \(1 empty\). Check inputs.mine"):
        ingest("mine", write_records(workplace / "in.jsonl", [{"text": " "}]), Path("out"))


def test_a_folder_of_text_files_becomes_documents_named_by_path(workplace: Path) -> None:
    for name, text in {"essays/b.txt": "Second.", "essays/a.txt": "First.", "essays/c.md": "Not read."}.items():
        (workplace / name).parent.mkdir(exist_ok=True)
        (workplace / name).write_text(text, encoding="utf-8")
    ingest("mine", InputParams(kind="text", path="essays"), Path("out"))
    table = DocumentStore(Path("out")).read("all")
    assert DocumentStore(Path("out")).manifest.facts["skipped_files"] == {".md": 1}
    assert table.column("doc_id").to_pylist() == ["mine:a.txt", "mine:b.txt"]


def test_the_same_files_elsewhere_give_the_same_table(workplace: Path) -> None:
    here, there = write_jsonl(workplace / "here" / "t.jsonl"), write_jsonl(workplace / "there" / "t.jsonl")
    ingest("mine", InputParams(kind="jsonl", path=str(here)), Path("one"))
    ingest("mine", InputParams(kind="jsonl", path=str(there)), Path("two"))
    assert folder_bytes(Path("one")) == folder_bytes(Path("two"))


def test_a_wordnet_is_known_by_its_database_not_by_how_it_came(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the NLTK reader."""
    synset = SimpleNamespace(
        name=lambda: "dog.n.01",
        lemma_names=lambda: ["dog"],
        definition=lambda: "a canine",
        examples=list,
        lexname=lambda: "noun.animal",
    )
    reader = SimpleNamespace(all_synsets=lambda: iter([synset]))
    monkeypatch.setitem(sys.modules, "pipeline.sources.wordnet", SimpleNamespace(open_wordnet=lambda folder: reader))
    manifests = []
    for route in ("hub", "mirror"):
        for name in ("data.noun", "index.noun", "lexnames"):
            (workplace / route / name).parent.mkdir(exist_ok=True)
            (workplace / route / name).write_text("00001740", encoding="ascii")
        (workplace / route / "source.json").write_text(route, encoding="ascii")
        manifests.append(ingest("words", InputParams(kind="wordnet", path=route), Path("out")))
    assert manifests[0].identity == manifests[1].identity
    (row,) = DocumentStore(Path("out")).read("all").to_pylist()
    assert row == {"doc_id": "words:dog.n.01", "source": "noun.animal", "text": "dog: a canine."}


@settings(max_examples=12, deadline=None)
@given(order=st.permutations(range(40)), kept=st.integers(20, 40))
def test_splits_do_not_change_when_documents_move_leave_or_join(order: list[int], kept: int) -> None:
    """Twelve examples only: each writes four stores."""
    records = records_of(TINY_TEXT[:40])
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        whole = assembled(Path(one), {"animals": records})
        other = assembled(
            Path(two), {"animals": [records[i] for i in order[:kept]], "more": records_of(TINY_TEXT[40:])}
        )
    for split in SPLITS:
        still = {doc_id: text for doc_id, text in other[split].items() if doc_id.startswith("animals:")}
        assert still.items() <= whole[split].items()
    assert sum(len(part) for part in other.values()) == kept + 20


def test_a_text_given_twice_lies_in_one_split_whatever_the_order(workplace: Path) -> None:
    twice = [{"id": f"copy{i}", "text": text} for i, text in enumerate(TINY_TEXT)]
    forward = assembled(workplace / "f", {"animals": records_of(TINY_TEXT), "again": twice})
    facts = DocumentStore(workplace / "f" / "documents").manifest.facts
    assert facts["duplicates"] == {"again": 0, "animals": 60}  # of equal texts the smallest id stays
    texts = [text for part in forward.values() for text in part.values()]
    assert sorted(texts) == sorted(TINY_TEXT)
    backward = assembled(workplace / "b", {"animals": records_of(TINY_TEXT)[::-1], "again": twice[::-1]})
    assert backward == forward


def test_an_input_with_a_split_goes_there_whole_and_moves_no_other_document(workplace: Path) -> None:
    texts = {"animals": records_of(TINY_TEXT[:40]), "test": records_of(TINY_TEXT[40:], "u")}
    by_id = assembled(workplace / "by-id", texts)
    none_held = CorpusParams(share=0.5, calibration=0.3, heldout=0.0)
    given = assembled(workplace / "given", texts, none_held, splits={"test": "heldout"})
    assert given["heldout"] == {f"test:u{i}": text for i, text in enumerate(TINY_TEXT[40:])}
    assert given["calibration"].items() <= by_id["calibration"].items()
    assert set(given["train"]) | set(given["calibration"]) < {f"animals:t{i}" for i in range(40)}
    manifests = [DocumentStore(workplace / name / "documents").manifest for name in ("by-id", "given")]
    assert manifests[1].inputs["splits"] == {"test": "heldout"} and "splits" not in manifests[0].inputs
    texts_of = [DocumentStore(workplace / name / "text" / "test").identity for name in ("by-id", "given")]
    assert texts_of[0] == texts_of[1]  # a split is no reason to read a text anew


def test_facts_count_documents_words_sources_and_licences(workplace: Path) -> None:
    params = InputParams(kind="jsonl", path=str(write_jsonl(workplace / "t.jsonl")), licence="made for tests")
    ingest("animals", params, Path("text/animals"))
    facts = assemble(Path("text"), {"animals": params}, THIRDS, Path("documents")).facts
    assert sum(facts["documents"].values()) == 60
    assert sum(facts["words"].values()) == sum(len(text.split()) for text in TINY_TEXT)
    assert sum(facts["sources"][split].get("goat", 0) for split in SPLITS) == 5
    assert facts["licences"] == {"animals": "made for tests"}


def test_held_out_documents_that_are_nearly_in_train_are_left_out_and_counted(workplace: Path) -> None:
    """A hundred words of which one differs share 91 of 101 5-grams; of which ten in a row do, 82 of 110."""
    words = [[f"word{i}x{j}" for j in range(100)] for i in range(40)]
    near = [" ".join([*row[:50], "other", *row[51:]]) for row in words]
    far = [" ".join([*row[:50], *(f"other{j}" for j in range(14)), *row[64:]]) for row in words]
    plain = records_of(tuple(" ".join(row) for row in words))
    alone = assembled(workplace / "alone", {"plain": plain})
    splits = assembled(workplace / "near", {"plain": plain, "near": records_of(tuple(near))})
    kept = assembled(workplace / "far", {"plain": plain, "far": records_of(tuple(far))})
    split_of_id = {doc_id: split for split, part in splits.items() for doc_id in part}
    place = {
        f"{name}:t{i}": split_of(f"{name}:t{i}", calibration=0.3, heldout=0.3)
        for name in ("plain", "near")
        for i in range(40)
    }
    expected = {doc_id for doc_id, split in place.items() if split == "heldout" and place[twin(doc_id)] == "train"}
    assert expected == place.keys() - split_of_id.keys() and len(expected) > 5
    assert {doc_id: split for doc_id, split in place.items() if doc_id not in expected} == split_of_id
    facts = DocumentStore(workplace / "near" / "documents").manifest.facts
    counted = Counter(doc_id.partition(":")[0] for doc_id in expected)
    assert facts["near_duplicates"] == dict(counted)
    assert sum(len(part) for part in kept.values()) == 80
    assert sum(len(part) for part in alone.values()) == 40


def twin(doc_id: str) -> str:
    name, _, number = doc_id.partition(":")
    return f"{'near' if name == 'plain' else 'plain'}:{number}"


def test_texts_of_invisible_characters_are_no_documents(workplace: Path) -> None:
    invisible = ["\u200b", "\ufeff \u200d\n\u2060", "\u00ad\u200e", "\x00\x07"]
    path = write_records(workplace / "in.jsonl", records_of((*invisible, "a\u200bword")))
    manifest = ingest("mine", path, Path("out"))
    assert manifest.facts["counts"] == {"documents": 1, "bad": 0, "empty": 4, "duplicates": 0}


def test_a_larger_share_only_adds_documents(workplace: Path) -> None:
    texts = {"animals": records_of(tuple(numbered(text, i) for i in range(10) for text in TINY_TEXT))}
    small, large = (
        assembled(workplace / str(share), texts, CorpusParams(share=share, calibration=0.1, heldout=0.2))
        for share in (0.25, 0.5)
    )
    for split, expected in {"train": 105, "calibration": 15, "heldout": 30}.items():
        assert small[split].items() <= large[split].items()
        assert abs(len(small[split]) - expected) < 5 * expected**0.5


def test_parts_of_one_document_lie_in_one_split() -> None:
    splits = {split_of(f"novel:{i}#{part:04}", calibration=0.3, heldout=0.3) for part in range(50) for i in [1]}
    assert len(splits) == 1
    assert {split_of(f"novel:{i}#0001", calibration=0.3, heldout=0.3) for i in range(50)} == set(SPLITS)


def test_a_text_that_params_no_longer_name_is_refused(workplace: Path) -> None:
    assembled(workplace, {"animals": records_of(TINY_TEXT), "old": records_of(TINY_TEXT, "o")})
    inputs = {"animals": InputParams(kind="jsonl", path="animals.jsonl")}
    with pytest.raises(DataError, match=r"text: holds old, which `inputs` .* does not name. Run: cohesive prune"):
        assemble(Path("text"), inputs, THIRDS, Path("documents"))
    both = {**inputs, "old": inputs["animals"], "new": inputs["animals"]}
    with pytest.raises(StoreMissing, match="new: no sealed store"):
        assemble(Path("text"), both, THIRDS, Path("documents"))


def test_a_split_without_documents_is_refused(workplace: Path) -> None:
    rare = CorpusParams(share=1.0, calibration=0.0001, heldout=0.3)
    with pytest.raises(DataError, match=r"none of 60 documents falls into calibration. .*corpus\.calibration"):
        assembled(workplace, {"animals": records_of(TINY_TEXT)}, rare)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"kind": "jsonl", "path": "a", "bad_line": 0.1}, "unknown key 'bad_line' .did you mean 'bad_lines'"),
        ({"kind": "json", "path": "a"}, "inputs.x.kind: .*'jsonl'.*got 'json'"),
        ({"kind": "text", "path": "a", "text": "body"}, "`text` and `id` name fields of records; .* text has none"),
        ({"kind": "jsonl", "path": "a", "bad_lines": 1.0}, "inputs.x.bad_lines: .*less than 1"),
    ],
)
def test_impossible_inputs_are_refused(entry: dict[str, object], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        decode(entry, InputParams, where="params.yaml: inputs.x")


def test_impossible_splits_are_refused(workplace: Path) -> None:
    path = workplace / "params.yaml"
    path.write_text("corpus: {share: 1.0, calibration: 0.5, heldout: 0.5}\ninputs: {}\n", encoding="utf-8")
    with pytest.raises(ParamsError, match=r"corpus: calibration and heldout must leave documents to train on"):
        section(path, "corpus", CorpusParams)
    with pytest.raises(ParamsError, match="inputs: expected at least one text"):
        input_params(path)
