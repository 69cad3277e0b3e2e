"""The store of documents keeps the same contract."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import ipc

from storage.tables import DOCUMENT_SCHEMA, DocumentStore, write_documents
from tests.storage import samples
from tests.storage.contract import StoreContract


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


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=20, deadline=None)
@given(rows=st.lists(st.tuples(text, text, text), max_size=20))
def test_any_text_comes_back(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]]) -> None:
    folder = tmp_path_factory.mktemp("documents")
    columns = [[row[i] for row in rows] for i in range(3)]
    table = pa.table(columns, schema=DOCUMENT_SCHEMA)
    write_documents(folder / "out", {"train": table}, inputs={}, facts={}, work_root=folder / "work")
    assert DocumentStore(folder / "out").read("train").to_pydict() == table.to_pydict()
    with ipc.open_file(folder / "out" / "train.arrow") as raw:
        assert raw.read_all().to_pydict() == table.to_pydict()


def test_long_tables_are_cut_into_batches(tmp_path: Path) -> None:
    samples.write_sample_documents(tmp_path / "out", tmp_path / "work")
    with ipc.open_file(tmp_path / "out" / "train.arrow") as raw:
        assert [raw.get_batch(i).num_rows for i in range(raw.num_record_batches)] == [8192] * 4 + [40_000 - 4 * 8192]


def test_other_columns_are_a_bug(tmp_path: Path) -> None:
    table = pa.table({"doc_id": ["1"], "text": ["x"]})
    with pytest.raises(AssertionError, match="doc_id"):
        write_documents(tmp_path / "out", {"train": table}, inputs={}, facts={}, work_root=tmp_path / "work")
    assert not (tmp_path / "out").exists()
