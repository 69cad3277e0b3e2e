"""The three stores of the corpus are opened together or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.text.corpus_view import SequenceTexts
from storage import documents
from storage.documents import DocumentStore
from storage.errors import StaleParent
from storage.records.base import SPLITS
from tests.helpers import stores as fakes
from tests.helpers.stores import TinyStores


def test_the_vocabulary_names_the_tokens_of_the_text(tiny_stores: TinyStores) -> None:
    corpus = tiny_stores.corpus()
    assert corpus.tokens[corpus.special["mask"]] == "[MASK]"
    sequences = corpus.sequences.read("heldout")
    row = sequences.input_ids_NL[0, : sequences.length_N[0]]
    assert corpus.tokens[row[1]].strip("\u2581") in corpus.documents.read("heldout").column("text")[0].as_py().lower()
    assert [corpus.masks.plan(split).rows > 0 for split in SPLITS] == [True] * 3


def test_stores_that_do_not_belong_together_are_refused(
    tiny_stores: TinyStores, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    other = fakes.tiny_sequences(tmp_path, tiny_tokenizer, sequence_tokens=16)
    with pytest.raises(StaleParent, match=r"masks: made from sequences .* Run: dvc repro mask"):
        tiny_stores.corpus(sequences=other)
    others = fakes.tiny_documents(tmp_path / "texts", texts=fakes.TINY_TEXT[:50])
    with pytest.raises(StaleParent, match=r"sequences: made from documents .* Run: dvc repro tokenize"):
        tiny_stores.corpus(documents=others)


def test_texts_of_sequences_are_read_a_shard_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "SHARD_BYTES", 500)
    store = DocumentStore(fakes.tiny_documents(tmp_path))
    expected = store.read("train").column("text").to_pylist()
    assert store.plan("train").shards > 2
    row_N = np.repeat(np.arange(len(expected)), 3)
    read: list[int] = []
    shard = store.shard
    monkeypatch.setattr(store, "shard", lambda split, index: (read.append(index), shard(split, index))[1])
    texts = SequenceTexts(store, "train", row_N)
    assert len(texts) == len(row_N)
    assert list(texts) == [expected[row] for row in row_N]
    assert read == list(range(store.plan("train").shards))
    assert texts[0] is texts[1], "windows of a document share its text: a copy each would take memory by its square"
    assert texts[-4:-1] == [expected[-2], expected[-1], expected[-1]]


@pytest.mark.parametrize("gap", [0, 3, 10**6])
def test_token_rows_are_those_of_the_sequences(
    tiny_stores: TinyStores, gap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.reader.GAP_ROWS", gap)
    corpus = tiny_stores.corpus()
    record = corpus.sequences.read("train")
    row_N = np.flatnonzero(np.random.default_rng(0).random(len(record)) < 0.4)
    rows, whole = corpus.token_rows("train", row_N), corpus.sequence_rows("train", row_N)
    np.testing.assert_array_equal(rows.input_ids_NL, record.input_ids_NL[row_N])
    np.testing.assert_array_equal(rows.length_N, record.length_N[row_N])
    for name, values in record.arrays().items():
        np.testing.assert_array_equal(whole.arrays()[name], values[row_N])
    assert (rows.input_ids_NL.dtype, rows.length_N.dtype) == (record.input_ids_NL.dtype, record.length_N.dtype)
