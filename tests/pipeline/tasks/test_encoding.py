"""What the model is given, decoded back to words; batches by length lose and repeat nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors

from pipeline.tasks.finetune.examples import epoch_batches
from pipeline.text import ragged as encoding
from pipeline.text.ragged import Encoded, encode
from pipeline.text.tokenizer import FastTokenizer, load_tokenizer

FIRST = ["the old dog sleeps", "a cat", "the farmer looks for the fox"]
SECOND = ["it dreams", "the small cat eats fresh milk on the warm roof", "the fox hides"]


@pytest.fixture(scope="module")
def pairs_tokenizer(tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> FastTokenizer:
    """The tiny tokenizer with BERT's template, in which the second text has type 1."""
    folder = tmp_path_factory.mktemp("pairs")
    for file in tiny_tokenizer.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, backend.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )  # fmt: skip
    backend.save(str(folder / "tokenizer.json"))
    return load_tokenizer(folder)


def words(ids: np.ndarray, tokenizer: FastTokenizer) -> str:
    return str(tokenizer.backend.decode(ids.tolist(), skip_special_tokens=False)).replace(" ##", "")


def test_a_pair_reads_as_two_texts_with_types_and_attention(pairs_tokenizer: FastTokenizer) -> None:
    encoded = encode(FIRST, SECOND, tokenizer=pairs_tokenizer, max_tokens=60)
    pad = pairs_tokenizer.special["pad"]
    ids_BL, attention_BL, types_BL = encoded.padded(np.array([2, 0]), pad_id=pad)
    assert ids_BL.shape == (2, encoded.length_N[[0, 2]].max())
    inside = [row[: int(used.sum())] for row, used in zip(ids_BL, attention_BL, strict=True)]
    assert words(inside[0], pairs_tokenizer) == "[CLS] the farmer looks for the fox [SEP] the fox hides [SEP]"
    assert words(inside[1], pairs_tokenizer) == "[CLS] the old dog sleeps [SEP] it dreams [SEP]"
    second = types_BL[1] == 1
    assert words(ids_BL[1][second], pairs_tokenizer) == "it dreams [SEP]"


def test_attention_is_1_at_every_token_and_0_at_padding_only(pairs_tokenizer: FastTokenizer) -> None:
    encoded = encode(FIRST, SECOND, tokenizer=pairs_tokenizer, max_tokens=60)
    pad = pairs_tokenizer.special["pad"]
    ids_BL, attention_BL, types_BL = encoded.padded(np.arange(3), pad_id=pad)
    assert attention_BL.sum(axis=1).tolist() == encoded.length_N.tolist()
    assert ((attention_BL == 0) == (ids_BL == pad)).all() and (ids_BL == pad).any()
    assert (np.diff(attention_BL, axis=1) <= 0).all()
    assert not types_BL[attention_BL == 0].any()


def test_the_longer_text_of_a_pair_is_cut_first(pairs_tokenizer: FastTokenizer) -> None:
    encoded = encode(FIRST, SECOND, tokenizer=pairs_tokenizer, max_tokens=10)
    assert encoded.length_N.max() == 10
    text = words(encoded.ids[encoded.start_N1[1] : encoded.start_N1[2]], pairs_tokenizer)
    assert text == "[CLS] a cat [SEP] the small cat eats fresh [SEP]"


def test_single_texts_have_one_type_and_tokens_do_not_depend_on_chunks(
    pairs_tokenizer: FastTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = encode(FIRST, None, tokenizer=pairs_tokenizer, max_tokens=60)
    assert not whole.types.any()
    assert words(whole.ids[: whole.start_N1[1]], pairs_tokenizer) == "[CLS] the old dog sleeps [SEP]"
    monkeypatch.setattr(encoding, "ENCODE_EXAMPLES", 2)
    again = encode(FIRST, None, tokenizer=pairs_tokenizer, max_tokens=60)
    assert np.array_equal(again.ids, whole.ids) and np.array_equal(again.start_N1, whole.start_N1)


def test_nothing_encodes_to_nothing(pairs_tokenizer: FastTokenizer) -> None:
    nothing = encode([], None, tokenizer=pairs_tokenizer, max_tokens=60)
    assert len(nothing.length_N) == 0 and len(nothing.ids) == 0


@given(st.lists(st.integers(1, 60), min_size=1, max_size=300), st.integers(1, 9), st.integers(0, 5))
def test_an_epoch_holds_every_example_once(lengths: list[int], batch: int, seed: int) -> None:
    batches = epoch_batches(np.array(lengths), batch, rng=np.random.default_rng(seed))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert sorted(map(len, batches))[1:] == [batch] * (len(batches) - 1)
    assert 0 < min(map(len, batches)) <= batch


def test_batches_by_length_pad_little_and_differ_between_epochs() -> None:
    length_N = np.random.default_rng(0).integers(5, 100, 4000)
    batches = epoch_batches(length_N, 32, rng=np.random.default_rng(1))
    padded = sum(len(rows) * length_N[rows].max() for rows in batches)
    assert padded < 1.05 * length_N.sum()
    means = np.array([length_N[rows].mean() for rows in batches])
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.3  # long ones do not all come first
    other = epoch_batches(length_N, 32, rng=np.random.default_rng(2))
    assert any(not np.array_equal(one, two) for one, two in zip(batches, other, strict=True))


def test_padded_takes_rows_in_any_order_and_twice() -> None:
    encoded = Encoded(
        ids=np.array([5, 6, 7, 8], np.int32), types=np.array([0, 0, 1, 0], np.int8), start_N1=np.array([0, 3, 4])
    )
    ids_BL, attention_BL, types_BL = encoded.padded(np.array([1, 0, 1]), pad_id=9)
    assert ids_BL.tolist() == [[8, 9, 9], [5, 6, 7], [8, 9, 9]]
    assert attention_BL.tolist() == [[1, 0, 0], [1, 1, 1], [1, 0, 0]]
    assert types_BL.tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 0]]
