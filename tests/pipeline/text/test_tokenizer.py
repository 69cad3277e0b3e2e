"""Published tokenizers have transformers' ids and special tokens, also where files lack them; words of any kind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from benchmarks.families.configs import FAMILIES
from benchmarks.families.tokenizers import write_gemma_like, write_tokenizer
from pipeline.text.tokenizer import load_tokenizer, shortened, words_by_spaces
from pipeline.text.windows import encode_windows
from storage.errors import SourceError, VocabularyError
from tests.helpers.stores import TINY_TEXT

TEXT = "The old dog (a fox) sleeps; it dreams of wild berries, and the farmer brings an apple."


def written(folder: Path, name: str) -> Path:
    """A published folder of the family without its weights."""
    special = write_tokenizer(folder, FAMILIES[name], TINY_TEXT)
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    FAMILIES[name].config(vocabulary=backend.get_vocab_size(), special=special).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["bert", "roberta", "xlm-roberta", "albert", "mpnet", "distilbert", "electra", "fnet"])
def test_special_tokens_that_no_file_names_are_those_of_the_class(tmp_path: Path, name: str) -> None:
    folder = written(tmp_path, name)
    assert "_token" not in (folder / "tokenizer_config.json").read_text(encoding="utf-8")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "tokenizer.json", "tokenizer_config.json"]
    own, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    expected = {role: getattr(theirs, f"{role}_token_id") for role in own.special}
    assert own.special == expected
    if name not in ("albert", "fnet"):  # their classes put the normalizer of SentencePiece before that of this file
        assert own.backend.encode(TEXT).ids == theirs(TEXT).input_ids


def test_the_smallest_file_of_a_published_bert_has_48_bytes(tmp_path: Path) -> None:
    assert len((written(tmp_path, "bert") / "tokenizer_config.json").read_bytes()) == 48


def test_special_added_tokens_speak_for_a_folder_without_a_configuration(tmp_path: Path) -> None:
    folder = written(tmp_path, "roberta")
    known = load_tokenizer(folder).special
    (folder / "config.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    assert load_tokenizer(folder).special == known


def test_special_tokens_map_is_read(tmp_path: Path) -> None:
    folder = written(tmp_path, "bert")
    known = load_tokenizer(folder).special
    names = {f"{role}_token": {"content": name} for role, name in FAMILIES["bert"].names.items()}
    (folder / "special_tokens_map.json").write_text(json.dumps(names), encoding="utf-8")
    (folder / "config.json").unlink()
    assert load_tokenizer(folder).special == known


def test_a_folder_with_a_word_list_only_is_opened_as_transformers_does(tmp_path: Path) -> None:
    """Duplicates and empty lines of vocab.txt keep their place; the ids of the other tokens do not move."""
    folder = written(tmp_path, "bert")
    vocabulary = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    lines = sorted(vocabulary, key=lambda token: vocabulary[token])
    lines[40:40] = [lines[39], ""]
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "tokenizer.json").unlink()
    own, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    assert own.backend.encode(TEXT).ids == theirs(TEXT).input_ids
    assert own.tokens[-1].removeprefix("▁") == lines[-1].removeprefix("##")
    assert own.identity == load_tokenizer(Path(shutil.copytree(folder, tmp_path / "copy"))).identity


def test_a_vocabulary_that_transformers_cannot_read_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path, "xlm-roberta")
    (folder / "tokenizer.json").unlink()
    (folder / "sentencepiece.bpe.model").write_bytes(b"no model")
    with pytest.raises(SourceError, match=r"no tokenizer.json, and transformers makes no fast tokenizer of its files"):
        load_tokenizer(folder)


def test_ids_beyond_65535_and_holes_are_read(tmp_path: Path) -> None:
    folder = written(tmp_path, "bert")
    raw = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    raw["model"]["vocab"]["dragon"] = 70_000
    (folder / "tokenizer.json").write_text(json.dumps(raw), encoding="utf-8")
    own = load_tokenizer(folder)
    assert own.tokens[70_000] == "▁dragon" and own.tokens[69_999] == "[hole 69999]"
    sequences, _ = encode_windows(["the dragon sleeps."], own, sequence_tokens=12)
    assert 70_000 in sequences.input_ids_NL


@pytest.mark.parametrize("name", ["bert", "roberta", "xlm-roberta"])
def test_tokens_without_a_row_are_cut_into_those_that_have_one(tmp_path: Path, name: str) -> None:
    """Of all three kinds, with a token that was added after the model was made; others are cut as before."""
    folder = written(tmp_path, name)
    raw = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    size = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    raw["added_tokens"].append({"id": size, "content": "zebra", **flags})
    (folder / "tokenizer.json").write_text(json.dumps(raw), encoding="utf-8")
    own = load_tokenizer(folder)
    assert size in own.backend.encode("the zebra sleeps").ids
    ids = shortened(own, size).backend.encode("the zebra sleeps").ids
    assert max(ids) < size and len(ids) > len(own.backend.encode("the zebra sleeps").ids)
    assert shortened(own, size).backend.encode(TEXT).ids == own.backend.encode(TEXT).ids
    rows = size - 20 if max(own.special.values()) < size - 20 else max(own.special.values()) + 1
    fewer = shortened(own, rows)
    assert len(fewer.tokens) == fewer.backend.get_vocab_size() == rows
    assert max(max(fewer.backend.encode(text).ids) for text in TINY_TEXT) < rows
    assert fewer.backend.encode("[MASK]").ids == shortened(own, size).backend.encode("[MASK]").ids
    assert shortened(own, size + 1) is own
    with pytest.raises(VocabularyError, match=rf"the tokenizer has {size + 1} ids, among them \d+ of the \w+ token"):
        shortened(own, max(own.special.values()))


def test_a_tokenizer_that_hides_spaces_gives_words(tmp_path: Path) -> None:
    own = load_tokenizer(write_gemma_like(tmp_path, TINY_TEXT))
    encoding = own.backend.encode(TEXT, add_special_tokens=False)
    assert set(encoding.word_ids) == {0}, "as transformers sees it, the text is one word"
    words = own.words(TEXT, encoding)
    spelt: dict[int, str] = {}
    for word, (start, stop) in zip(words, encoding.offsets, strict=True):
        assert word is not None
        spelt[word] = spelt.get(word, "") + TEXT[start:stop]
    plain = [TEXT[start:stop] for _, (start, stop) in load_words(tmp_path)]
    assert [word.strip() for word in spelt.values()] == plain
    sequences, counts = encode_windows([TEXT], own, sequence_tokens=64)
    assert counts["words"] == len(plain) and len(sequences) == 1


def load_words(folder: Path) -> list[tuple[str, tuple[int, int]]]:
    """Words and their characters by BERT's own rule."""
    from tokenizers.pre_tokenizers import BertPreTokenizer

    return BertPreTokenizer().pre_tokenize_str(TEXT)


@pytest.mark.parametrize(
    ("text", "offsets", "expected"),
    [
        ("a dog", [(0, 1), (1, 3), (3, 5)], [0, 1, 1]),
        ("a (dog)", [(0, 1), (1, 2), (2, 3), (3, 6), (6, 7)], [0, 1, 1, 2, 3]),
        ("it's", [(0, 2), (2, 3), (3, 4)], [0, 1, 2]),
        ("é!", [(0, 1), (0, 1), (1, 2)], [0, 0, 1]),
        ("\nno", [(0, 1), (1, 3)], [0, 0]),
        ("", [], []),
    ],
)  # fmt: skip
def test_words_by_spaces(text: str, offsets: list[tuple[int, int]], expected: list[int]) -> None:
    assert words_by_spaces(text, offsets) == expected
