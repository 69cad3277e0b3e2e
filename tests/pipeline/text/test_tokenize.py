"""Tokenizers opened by their folder's files, and a store of sequences that does not depend on batches."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from pipeline.text import tokenize as tokens
from pipeline.text.params import TokenizeParams
from pipeline.text.tokenize import tokenize
from pipeline.text.tokenizer import load_tokenizer
from pipeline.text.vocabulary import decode_tokens
from storage.documents import DocumentStore
from storage.errors import DataError, SourceError, VocabularyError
from storage.format.arrays import sentinel
from storage.reader import Store
from storage.records.base import SPLITS
from storage.records.sequences import Sequences
from tests.helpers.stores import TINY_TEXT, TinyStores, folder_bytes, tiny_documents


@pytest.mark.parametrize("name", ["tiny_tokenizer", "tiny_mpnet_tokenizer", "tiny_bpe_tokenizer"])
def test_ids_and_special_tokens_are_those_of_transformers(name: str, request: pytest.FixtureRequest) -> None:
    from transformers import AutoTokenizer

    folder = request.getfixturevalue(name)
    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder, local_files_only=True)
    long = " ".join(TINY_TEXT[:10])  # the file asks for 16 tokens: nothing may be cut or filled up
    assert ours.backend.encode(long).ids == theirs(long, truncation=False, padding=False)["input_ids"]
    assert len(ours.backend.encode("a").ids) == 3
    for role, number in ours.special.items():
        assert number == getattr(theirs, f"{role}_token_id")
    assert (ours.prefix, ours.suffix) == ([theirs.cls_token_id], [theirs.sep_token_id])
    assert len(ours.tokens) == len(theirs)
    assert ours.tokens[theirs.mask_token_id] == "[MASK]"


def test_a_special_token_spelt_in_a_text_is_text(tiny_tokenizer: Path) -> None:
    tokenizer = load_tokenizer(tiny_tokenizer)
    ids = tokenizer.backend.encode("a [MASK] b [SEP]", add_special_tokens=False).ids
    assert not {tokenizer.special["mask"], tokenizer.special["sep"]} & set(ids)


def test_begin_and_end_tokens_stand_for_cls_and_sep(tiny_bpe_tokenizer: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_bpe_tokenizer, tmp_path / "t")
    path = tmp_path / "t" / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["bos_token"], config["eos_token"] = {"content": config.pop("cls_token")}, config.pop("sep_token")
    path.write_text(json.dumps(config), encoding="utf-8")
    assert load_tokenizer(tmp_path / "t").special == load_tokenizer(tiny_bpe_tokenizer).special


def test_folders_without_a_usable_tokenizer_are_refused(tiny_tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"expected tokenizer\.json of a fast tokenizer, found none"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": 1}', encoding="utf-8")
    with pytest.raises(SourceError, match=r"tokenizer\.json: not a tokenizer"):
        load_tokenizer(tmp_path)
    shutil.copyfile(tiny_tokenizer / "tokenizer.json", tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").write_text('{"pad_token": "<nothing>"}', encoding="utf-8")
    with pytest.raises(VocabularyError, match="expected pad_token, a token of the vocabulary, got '<nothing>'"):
        load_tokenizer(tmp_path)
    names = json.loads((tiny_tokenizer / "tokenizer_config.json").read_text(encoding="utf-8"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names | {"mask_token": "<other>"}), encoding="utf-8")
    with pytest.raises(VocabularyError, match="expected mask_token, a token of the vocabulary, got '<other>'"):
        load_tokenizer(tmp_path)


def test_the_store_holds_every_document_and_describes_itself(tiny_stores: TinyStores, tiny_tokenizer: Path) -> None:
    store, documents = Store(tiny_stores.sequences, Sequences), DocumentStore(tiny_stores.documents)
    assert store.manifest.parents == {"documents": documents.identity}
    tokenizer = load_tokenizer(tiny_tokenizer)
    assert store.facts["vocabulary"] == len(tokenizer.tokens)
    assert (store.facts["tokens"], store.facts["special"]) == (24, tokenizer.special)
    assert decode_tokens(store.constant("pieces_utf8")) == tokenizer.tokens
    for split in SPLITS:
        texts, sequences = documents.read(split).column("text").to_pylist(), store.read(split)
        assert np.unique(sequences.document_N).tolist() == list(range(len(texts)))
        for document, text in enumerate(texts):
            rows = np.flatnonzero(sequences.document_N == document)
            assert sequences.window_N[rows].tolist() == list(range(len(rows)))
            ids = sequences.input_ids_NL[rows][sequences.word_NL[rows] >= 0].tolist()
            assert ids == tokenizer.backend.encode(text, add_special_tokens=False).ids
        counts = store.facts["counts"][split]
        assert counts["tokens"] == int((sequences.word_NL >= 0).sum())
        assert counts["words"] == int((sequences.word_NL.max(axis=1) + 1).sum())
        assert counts["sequences"] == len(sequences)
        assert counts["documents"] == len(texts)
        padding = sequences.input_ids_NL == sentinel("uint16")
        assert (sequences.length_N == (~padding).sum(axis=1)).all()


def test_batches_memory_and_shards_do_not_change_what_is_written(workplace: Path, tiny_tokenizer: Path) -> None:
    tiny_documents(workplace)
    params = TokenizeParams(tokenizer=str(tiny_tokenizer), sequence_tokens=16)
    tokenize(params, Path("data/documents"), out=Path("whole"))
    with mock.patch.multiple(tokens, BATCH_CHARACTERS=150):
        tokenize(params, Path("data/documents"), out=Path("batches"))
    assert folder_bytes(Path("batches")) == folder_bytes(Path("whole"))
    with mock.patch.multiple(tokens, BATCH_CHARACTERS=150, SHARD_SEQUENCES=7):
        tokenize(params, Path("data/documents"), out=Path("shards"))
    whole, shards = Store(Path("whole"), Sequences), Store(Path("shards"), Sequences)
    assert shards.plan("train").shards > 5
    for split in SPLITS:
        for name, values in whole.read(split).arrays().items():
            np.testing.assert_array_equal(values, shards.read(split).arrays()[name])


def test_identity_follows_documents_tokenizer_and_length(
    workplace: Path, tiny_tokenizer: Path, tiny_mpnet_tokenizer: Path
) -> None:
    tiny_documents(workplace)
    shutil.copytree(tiny_tokenizer, "elsewhere")
    made = [
        tokenize(
            TokenizeParams(tokenizer=str(folder), sequence_tokens=n), Path("data/documents"), out=Path("out")
        ).identity
        for folder, n in [
            (tiny_tokenizer, 24),
            (Path("elsewhere"), 24),
            (tiny_tokenizer, 16),
            (tiny_mpnet_tokenizer, 24),
        ]
    ]
    assert made[0] == made[1]
    assert len(set(made)) == 3


def test_a_split_without_windows_is_refused(tmp_path: Path, tiny_tokenizer: Path) -> None:
    tiny_documents(tmp_path, texts=tuple("abcdefghijklmnopqrstuvwxyz"))
    params = TokenizeParams(tokenizer=str(tiny_tokenizer), sequence_tokens=16)
    with (
        contextlib.chdir(tmp_path),
        pytest.raises(DataError, match=r"documents: the documents of train give no window"),
    ):
        tokenize(params, Path("data/documents"), out=Path("data/sequences"))


def test_a_tokenizer_that_knows_no_words_is_refused(workplace: Path, tiny_tokenizer: Path) -> None:
    tiny_documents(workplace)
    shutil.copytree(tiny_tokenizer, "t")
    raw = json.loads(Path("t/tokenizer.json").read_text(encoding="utf-8"))
    Path("t/tokenizer.json").write_text(json.dumps(raw | {"pre_tokenizer": None}), encoding="utf-8")
    with pytest.raises(SourceError, match=r"its tokenizer\.json has no pre_tokenizer"):
        tokenize(TokenizeParams(tokenizer="t", sequence_tokens=16), Path("data/documents"), out=Path("out"))
