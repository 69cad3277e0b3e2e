"""Real tokenizers of four kinds, made here; the two published ones are compared in the run that makes their sources."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from pipeline.text.tokenizer import load_tokenizer
from pipeline.text.vocabulary import (
    BYTE_OF_LETTER,
    Bridge,
    bridge,
    decode_tokens,
    encode_tokens,
    normalised_tokens,
)
from storage.errors import VocabularyError

SPECIAL = {"pad": 0, "mask": 1, "cls": 2, "sep": 3, "unk": 4}
BERT = ["[PAD]", "[MASK]", "[CLS]", "[SEP]", "[UNK]"]
ROBERTA = ["<pad>", "<mask>", "<s>", "</s>", "<unk>"]


def wordpiece(tokens: list[str], names: list[str] = BERT) -> Tokenizer:
    backend = Tokenizer(models.WordPiece({token: i for i, token in enumerate([*names, *tokens])}, unk_token=names[4]))
    backend.add_special_tokens(names)
    return backend


def byte_level(tokens: list[str]) -> Tokenizer:
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate([*ROBERTA, *tokens])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(ROBERTA)
    return backend


def unigram(tokens: list[str]) -> Tokenizer:
    backend = Tokenizer(models.Unigram([(token, -float(i)) for i, token in enumerate([*ROBERTA, *tokens])], 4))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.add_special_tokens(ROBERTA)
    return backend


def spelt(backend: Tokenizer) -> list[str]:
    return normalised_tokens(backend, special=SPECIAL)


def test_word_starts_and_continuations_of_every_kind_are_spelt_alike():
    expected = [*BERT, "▁dog", "dog", "▁,"]
    assert spelt(wordpiece(["dog", "##dog", ","])) == expected
    assert spelt(byte_level(["Ġdog", "dog", ","])) == expected
    assert spelt(unigram(["▁dog", "dog", ","])) == expected


def test_whole_word_vocabulary():
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate([*BERT, "dog"])}, unk_token="[UNK]"))
    backend.add_special_tokens(BERT)
    assert spelt(backend) == [*BERT, "▁dog"]


def test_special_tokens_go_by_role_even_when_both_spellings_are_there():
    tokens = spelt(wordpiece(["[PAD]", "dog"], ROBERTA))
    assert tokens == [*BERT, "▁[PAD]", "▁dog"]
    found = bridge(tokens, [*BERT, "▁dog"])
    assert found.to_student_V.tolist() == [0, 1, 2, 3, 4, -1, 5]


def test_added_tokens_are_whole_words_unless_special():
    backend = wordpiece(["dog"])
    backend.add_tokens([AddedToken("covid")])
    backend.add_special_tokens([AddedToken("<entity>")])
    assert spelt(backend)[-2:] == ["▁covid", "<entity>"]


def test_byte_level_letters_are_bytes():
    tokens = spelt(byte_level(["ĠcafÃ©", "Ã", "Ġâģ", "Ċ", "Ġ,", "...", "Ġ"]))
    assert tokens[5:] == ["▁café", "[bytes c3]", "▁[bytes e2 81]", "\n", "▁▁,", "▁...", "▁"]


def test_byte_table_is_the_librarys():
    assert set(BYTE_OF_LETTER) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(BYTE_OF_LETTER.values()) == list(range(256))
    assert decoders.ByteLevel().decode(["ĠcafÃ©"]) == " café"


def test_holes_are_named_and_never_matched():
    backend = Tokenizer(models.WordPiece({"[UNK]": 4, "dog": 9}, unk_token="[UNK]"))
    tokens = normalised_tokens(backend, special={"unk": 4})
    assert tokens[:5] == ["[hole 0]", "[hole 1]", "[hole 2]", "[hole 3]", "[UNK]"] and tokens[9] == "▁dog"
    assert bridge(tokens, tokens).coverage == {"exact": 2, "folded": 0, "none": 8}


def test_tokenizer_without_word_boundaries_is_refused():
    backend = Tokenizer(models.BPE({"dog</w>": 0, "cat": 1}, [], end_of_word_suffix="</w>"))
    with pytest.raises(VocabularyError, match="BPE model without ByteLevel or Metaspace; supported: WordPiece"):
        normalised_tokens(backend, special={})


def test_a_cased_teacher_folds_onto_an_uncased_student():
    teacher = [*BERT, "▁The", "▁the", "▁Café", "▁CAFE", "▁straße", "▁[Unused]"]
    student = [*BERT, "▁the", "▁cafe", "▁[unused]"]
    found = bridge(teacher, student)
    assert found.to_student_V.tolist() == [0, 1, 2, 3, 4, 5, 5, 6, 6, -1, -1]
    assert found.coverage == {"exact": 6, "folded": 3, "none": 2}


def test_nothing_folds_onto_a_cased_student():
    found = bridge([*BERT, "▁The", "▁DOG"], [*BERT, "▁the", "▁Dog"])
    assert found.to_student_V.tolist() == [0, 1, 2, 3, 4, -1, -1]


def test_accents_stay_when_the_student_has_them():
    assert bridge(["▁Élan", "▁café"], ["▁élan", "▁cafe"]).to_student_V.tolist() == [0, -1]


def test_of_equal_student_tokens_the_first_counts():
    assert bridge(["▁a"], ["▁b", "▁a", "▁a"]).to_student_V.tolist() == [1]


words = st.text(st.sampled_from("abcABCé,."), min_size=1, max_size=4)
vocabularies = st.lists(st.tuples(st.booleans(), words), max_size=30, unique=True).map(
    lambda rows: [*BERT, *("▁" * start + word for start, word in rows)]
)


@given(teacher=vocabularies, student=vocabularies)
def test_every_shared_token_is_mapped_and_nothing_is_lost_silently(teacher: list[str], student: list[str]):
    found = bridge(teacher, student)
    mapped = found.to_student_V >= 0
    shared = np.array([token in student for token in teacher])
    assert mapped[shared].all()
    assert all(student[found.to_student_V[i]] == teacher[i] for i in np.flatnonzero(shared))
    assert found.coverage["exact"] == shared.sum()
    assert found.coverage["folded"] == (mapped & ~shared).sum()
    assert found.coverage["none"] == (~mapped).sum()
    uncased = all(token == token.lower() for token in student[5:])
    for i in np.flatnonzero(mapped & ~shared):
        assert student[found.to_student_V[i]].lower() == student[found.to_student_V[i]] or not uncased
    if uncased:
        assert all(mapped[i] for i, token in enumerate(teacher[5:], 5) if token.lower() in student)


@given(vocabularies)
def test_a_vocabulary_is_bridged_to_itself_in_place(tokens: list[str]):
    assert bridge(tokens, tokens).to_student_V.tolist() == list(range(len(tokens)))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_tokens_survive_the_store(tokens: list[str]):
    assert decode_tokens(encode_tokens(tokens)) == tokens


@pytest.mark.parametrize("bytes_", [b"[1]", b"{}", b"[", b"\xff"])
def test_other_bytes_are_no_tokens(bytes_: bytes):
    with pytest.raises(VocabularyError, match="pieces_utf8: expected a JSON list"):
        decode_tokens(np.frombuffer(bytes_, np.uint8))


def test_a_sentence_reads_alike_in_tokenizers_of_two_kinds(tiny_tokenizer: Path, tiny_bpe_tokenizer: Path):
    read = []
    for folder in (tiny_tokenizer, tiny_bpe_tokenizer):
        tokenizer = load_tokenizer(folder)
        ids = tokenizer.backend.encode(" the farmer looks for the sheep, slowly.", add_special_tokens=False).ids
        read.append("".join(tokenizer.tokens[i] for i in ids))
    assert read == ["▁the▁farmer▁looks▁for▁the▁sheep▁,▁slowly▁."] * 2


def test_wordpiece_tokens_under_other_ids_and_names_all_meet(tiny_tokenizer: Path, tiny_mpnet_tokenizer: Path):
    student, teacher = load_tokenizer(tiny_tokenizer).tokens, load_tokenizer(tiny_mpnet_tokenizer).tokens
    found = bridge(teacher, student)
    lost = {token for token, number in zip(teacher, found.to_student_V, strict=True) if number < 0}
    assert lost == set(teacher) - set(student) and found.coverage["folded"] == 0
    assert "▁slowly" in lost and not lost & set(BERT)


def test_bridge_is_a_value():
    found = bridge(["▁a"], ["▁a"])
    assert isinstance(found, Bridge)
    with pytest.raises(AttributeError):
        found.coverage = {}  # type: ignore[misc]
    assert json.dumps(found.coverage) == '{"exact": 1, "folded": 0, "none": 0}'
