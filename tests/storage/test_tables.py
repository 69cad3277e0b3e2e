"""Stores of documents and of other tables keep the same contract."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import ipc

from storage.documents import DocumentStore, write_documents
from storage.errors import SchemaMismatch, StaleParent
from storage.share.audit import audit
from storage.tables import COLUMNS, DOCUMENT_SCHEMA, TableStore, columns_of, write_tables
from storage.testing import samples
from storage.testing.contract import StoreContract
from storage.work import Workspace


class TestDocumentStore(StoreContract):
    remedy: ClassVar[str] = "Run: dvc repro corpus"
    kills: ClassVar[int] = 20

    write = staticmethod(samples.write_sample_documents)

    def open(self, out: Path) -> DocumentStore:
        return DocumentStore(out)

    def read_all(self, out: Path) -> None:
        store = self.open(out)
        for split in samples.DOCUMENT_ROWS:
            store.read(split)

    def lock_name(self, out: Path) -> str:
        return f"documents-{out.name}"


class TestTableStore(StoreContract):
    remedy: ClassVar[str] = "Run: dvc repro lexicon"
    test_killed_at_random_moments_the_bytes_are_the_same = None
    """Documents are killed in the same function; here it takes too short to be met in it."""

    write = staticmethod(samples.write_sample_lexicon)

    def open(self, out: Path) -> TableStore:
        return TableStore(out, kind="lexicon", revision=1, schemas=samples.LEXICON_SCHEMAS, made_by="lexicon")

    def read_all(self, out: Path) -> None:
        store = self.open(out)
        for name in samples.LEXICON_TABLES:
            store.read(name)

    def lock_name(self, out: Path) -> str:
        return f"lexicon-{out.name}"

    def test_tables_come_back(self, out: Path) -> None:
        for name, table in samples.LEXICON_TABLES.items():
            assert self.open(out).read(name).equals(table)

    def test_facts_name_the_columns(self, out: Path) -> None:
        assert self.open(out).manifest.facts == {
            "vocabulary": 3,
            COLUMNS: {
                "senses": {"key": "utf8", "rank": "uint16", "meaning": "uint32"},
                "meanings": {"lemmas": "list of utf8", "above": "list of uint32", "p": "float16"},
                "forms": {"form": "utf8", "lemma": "utf8"},
                "empty": {"form": "utf8"},
            },
        }

    def test_a_table_that_is_not_there(self, out: Path) -> None:
        with pytest.raises(SchemaMismatch, match=r"store: 0 tables of split words; expected one. Run: dvc repro lexi"):
            self.open(out).read("words")

    def test_a_table_of_other_columns(self, out: Path) -> None:
        """As another version would have made it, sealed and all."""
        with ipc.new_file(str(out / "senses.arrow"), pa.schema([("key", pa.string())])) as sink:
            sink.write_table(pa.table({"key": ["a", "b", "c"]}))
        samples.relist(out, "senses.arrow")
        with pytest.raises(
            SchemaMismatch, match=r"senses.arrow: expected 3 rows of key, rank, meaning; got 3 rows of 1"
        ):
            self.open(out).read("senses")
        (found,) = audit(out)
        assert str(found).startswith(
            "record senses: expected 3 rows of the columns that facts.columns names, got 3 rows"
        )

    def test_parents(self, tmp_path: Path) -> None:
        samples.write_sample_lexicon(tmp_path / "out", tmp_path / "work", parents={"wordnet": "a" * 64})
        store = self.open(tmp_path / "out")
        store.require_parent("wordnet", "a" * 64)
        with pytest.raises(StaleParent, match=r"out: made from wordnet a{12}, but wordnet at hand is b{12}. Run: dvc"):
            store.require_parent("wordnet", "b" * 64)
        with pytest.raises(StaleParent, match=r"made from senses none, but senses at hand is c{12}"):
            store.require_parent("senses", "c" * 64)

    def test_an_audit_finds_nothing_in_a_sound_store(self, out: Path) -> None:
        assert audit(out) == []

    @pytest.mark.parametrize("name", samples.LEXICON_TABLES)
    def test_an_audit_finds_a_damaged_table(self, out: Path, name: str) -> None:
        samples.flip(out / f"{name}.arrow")
        assert [(found.kind, found.where) for found in audit(out)] == [("file", f"{name}.arrow")]
        samples.relist(out, f"{name}.arrow")
        assert {(found.kind, found.where) for found in audit(out)} <= {("shard", name), ("record", name)}

    def test_an_audit_finds_nulls_and_rows_that_are_missing(self, out: Path) -> None:
        for table, message in (
            (pa.table([["dog", None, "cat"], [1, 2, 1], [1, None, 1]], schema=samples.LEXICON_SCHEMAS["senses"]),
             "record senses: nulls in key, meaning. "),
            (samples.LEXICON_TABLES["senses"].slice(1), "record senses: expected 3 rows of the columns that facts."),
        ):  # fmt: skip
            with ipc.new_file(str(out / "senses.arrow"), table.schema) as sink:
                sink.write_table(table)
            samples.relist(out, "senses.arrow")
            (found,) = audit(out)
            assert str(found).startswith(message)

    @pytest.mark.parametrize("columns", [None, [], {}, {"senses": {"key": "utf8"}}, 3])
    def test_an_audit_refuses_other_facts(self, out: Path, columns: object) -> None:
        samples.edit_manifest(out, {"facts": {COLUMNS: columns}}, resealed=True)
        (found,) = audit(out)
        assert str(found).startswith("fact columns: expected the columns of every table, got ")

    @pytest.mark.parametrize("columns", [None, "key", ["key"], {"key": "utf8"}, {"key": "utf8", "rank": 1, "x": {}}])
    def test_an_audit_refuses_other_columns(self, out: Path, columns: object) -> None:
        facts = self.open(out).manifest.facts
        facts[COLUMNS]["senses"] = columns
        samples.edit_manifest(out, {"facts": facts}, resealed=True)
        (found,) = audit(out)
        assert (found.kind, found.where) == ("record", "senses")

    def test_an_unlisted_table_is_stray(self, out: Path) -> None:
        (out / "more.arrow").write_bytes((out / "empty.arrow").read_bytes())
        assert [(found.kind, found.where) for found in audit(out)] == [("stray", "more.arrow")]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (pa.string(), "utf8"), (pa.uint16(), "uint16"), (pa.int8(), "int8"), (pa.float16(), "float16"),
        (pa.float64(), "float64"), (pa.list_(pa.list_(pa.float32())), "list of list of float32"),
        (pa.list_(pa.field("element", pa.string())), "list of utf8"),
    ],
)  # fmt: skip
def test_columns_are_spelt_as_the_page_says(kind: pa.DataType, name: str) -> None:
    assert columns_of(pa.schema([("x", kind)])) == {"x": name}


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=20, deadline=None)
@given(rows=st.lists(st.tuples(text, text, text), max_size=20))
def test_any_text_comes_back(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]]) -> None:
    folder = tmp_path_factory.mktemp("documents")
    columns = [[row[i] for row in rows] for i in range(3)]
    table = pa.table(columns, schema=DOCUMENT_SCHEMA)
    write_documents(folder / "out", {"train": table}, inputs={}, facts={}, workspace=Workspace(folder / "work"))
    assert DocumentStore(folder / "out").read("train").to_pydict() == table.to_pydict()
    with ipc.open_file(folder / "out" / "train.arrow") as raw:
        assert raw.read_all().to_pydict() == table.to_pydict()


def test_long_tables_are_cut_into_batches(tmp_path: Path) -> None:
    samples.write_sample_documents(tmp_path / "out", tmp_path / "work")
    with ipc.open_file(tmp_path / "out" / "train.arrow") as raw:
        assert [raw.get_batch(i).num_rows for i in range(raw.num_record_batches)] == [8192] * 4 + [40_000 - 4 * 8192]


def test_facts_of_documents_are_the_writers_own(tmp_path: Path) -> None:
    """Their columns are always the same, and stores that were written before keep their bytes."""
    samples.write_sample_documents(tmp_path / "out", tmp_path / "work")
    assert DocumentStore(tmp_path / "out").manifest.facts == {"vocabulary": 3}


def test_tables_without_their_schema_are_a_bug(tmp_path: Path) -> None:
    tables, schemas = {"a": pa.table({"x": ["1"]})}, {"a": pa.schema([("x", pa.uint32())])}
    with pytest.raises(AssertionError, match="x: string"):
        write_tables(
            tmp_path / "out", tables, kind="a", revision=1, schemas=schemas, inputs={}, facts={},
            workspace=Workspace(tmp_path / "work"),
        )  # fmt: skip


def test_other_columns_are_a_bug(tmp_path: Path) -> None:
    table = pa.table({"doc_id": ["1"], "text": ["x"]})
    with pytest.raises(AssertionError, match="doc_id"):
        write_documents(tmp_path / "out", {"train": table}, inputs={}, facts={}, workspace=Workspace(tmp_path / "work"))
    assert not (tmp_path / "out").exists()
