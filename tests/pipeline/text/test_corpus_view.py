"""The three stores of the corpus are opened together or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

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
    documents = fakes.tiny_documents(tmp_path / "texts", texts=fakes.TINY_TEXT[:50])
    with pytest.raises(StaleParent, match=r"sequences: made from documents .* Run: dvc repro tokenize"):
        tiny_stores.corpus(documents=documents)
