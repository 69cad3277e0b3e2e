"""Pairs of words in context: how they are chosen, and how an encoder's vectors answer them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from benchmarks.lexical.word_in_context import Pairs, best_threshold, choose_pairs, ranked, right_answers, word_vectors
from pipeline.core.runtime import Runtime
from pipeline.senses.instances import INSTANCES_SCHEMA, SENTENCES_SCHEMA, Instances
from tests.helpers.inventories import tiny_lexicon

WORDS = [  # lemma, part of speech, gold, sentence
    *[("bank", "NOUN", [sense], text) for sense, text in ((1, 0), (1, 1), (2, 2), (2, 3), (1, 4))],
    ("bank", "VERB", [7], 0),
    *[("run", "VERB", gold, text) for gold, text in (([4, 5], 0), ([5], 1), ([6], 2))],
    *[("old", "ADJ", [sense], sense) for sense in (0, 1, 2, 3)],
    *[("open", "VERB", gold, text) for gold, text in (([], 0), ([8], 1), ([9], 2))],
    *[("same", "NOUN", [3], text) for text in (0, 1, 2)],
]
TEXTS = ["zero", "one", "two", "three", "zero"]


def instances(words: list[tuple[str, str, list[int], int]], texts: list[str]) -> Instances:
    sentences = [
        {"sentence_id": str(i), "document_id": "d", "source": "s", "split": "train", "text": text}
        for i, text in enumerate(texts)
    ]
    rows = [
        {
            "instance_id": str(i),
            "sentence": text,
            "start": 0,
            "end": len(texts[text]),
            "lemma": lemma,
            "pos": pos,
            "candidates": [0],
            "gold": gold,
        }
        for i, (lemma, pos, gold, text) in enumerate(words)
    ]
    return Instances(
        sentences=pa.Table.from_pylist(sentences, schema=SENTENCES_SCHEMA),
        rows=pa.Table.from_pylist(rows, schema=INSTANCES_SCHEMA),
        identity="test",
    )


def test_pairs_are_of_one_lemma_balanced_and_from_different_texts() -> None:
    """By hand: bank has one meaning at 0-1, 1-4 (0 and 4 are one text) and 2-3, two at six; run at 6-7 and two.

    Adjectives, words without gold, and lemmas with one meaning alone give none.
    """
    pairs = choose_pairs(instances(WORDS, TEXTS), most=10, seed=0)
    found = set(zip(pairs.first_P.tolist(), pairs.second_P.tolist(), pairs.same_P.tolist(), strict=True))
    assert {(one, other) for one, other, same in found if same} == {(0, 1), (1, 4), (2, 3), (6, 7)}
    two = {(one, other) for one, other, same in found if not same}
    assert len(found) == len(pairs.same_P) == 8
    assert two - {(6, 8), (7, 8)} < {(0, 2), (0, 3), (1, 2), (1, 3), (2, 4), (3, 4)}
    assert len(two & {(6, 8), (7, 8)}) == 1
    assert pairs.lemma_P.tolist() == [0] * 6 + [1] * 2


def test_no_more_pairs_of_a_lemma_than_asked_for() -> None:
    pairs = choose_pairs(instances(WORDS, TEXTS), most=1, seed=0)
    assert sorted(pairs.same_P.tolist()) == [False, False, True, True]
    many = [("bank", "NOUN", [i % 2], i) for i in range(300)]
    pairs = choose_pairs(instances(many, [str(i) for i in range(300)]), most=50, seed=0)
    assert pairs.same_P.sum() == 50 == (~pairs.same_P).sum()
    assert ((pairs.first_P % 2 == pairs.second_P % 2) == pairs.same_P).all()


scores = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=20)


@given(scores)
def test_no_threshold_has_fewer_errors(rows: list[tuple[int, bool]]) -> None:
    score_P, same_P = np.array([row[0] for row in rows], np.float32), np.array([row[1] for row in rows])
    found = int(((score_P > best_threshold(score_P, same_P)) != same_P).sum())
    assert found == min(int(((score_P > cut) != same_P).sum()) for cut in np.arange(-1.5, 8))


def test_the_threshold_of_a_lemma_is_fitted_to_other_lemmas() -> None:
    """Lemma 0's scores are all above lemma 1's: each threshold says one thing of all the other's pairs."""
    pairs = Pairs(
        first_P=np.arange(4), second_P=np.arange(4), same_P=np.array([True, False] * 2), lemma_P=np.array([0, 0, 1, 1])
    )
    assert right_answers(np.array([9, 8, 2, 1], np.float32), pairs).tolist() == [True, False, False, True]
    assert right_answers(np.array([9, 2, 8, 1], np.float32), pairs).all()


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(0, 2)), min_size=1, max_size=30))
def test_the_order_within_a_lemma_is_its_area_under_the_curve(rows: list[tuple[int, bool, int]]) -> None:
    score_P = np.array([row[0] for row in rows], np.float32)
    same_P, lemma_P = np.array([row[1] for row in rows]), np.array([row[2] for row in rows])
    pairs = Pairs(first_P=lemma_P, second_P=lemma_P, same_P=same_P, lemma_P=lemma_P)
    right_L, count_L = ranked(score_P, pairs, lemmas=3)
    for lemma in range(3):
        own = lemma_P == lemma
        assert count_L[lemma] == same_P[own].sum() * (~same_P[own]).sum()
        if count_L[lemma]:
            assert right_L[lemma] / count_L[lemma] == pytest.approx(roc_auc_score(same_P[own], score_P[own]))


def test_a_vector_is_the_mean_of_the_words_states(tiny_mlm: Path, tmp_path: Path) -> None:
    """Against transformers' own encoder and tokenizer, sentence by sentence."""
    from transformers import AutoModel, AutoTokenizer

    texts = ["the cat sat on the mat", "a dog"]
    words = [("cat", "NOUN", [1], 0), ("dog", "NOUN", [2], 1)]
    read = instances(words, texts)
    starts = [texts[0].index("cat"), texts[1].index("dog")]
    rows = read.rows.to_pylist()
    for row, start in zip(rows, starts, strict=True):
        row |= {"start": start, "end": start + 3}
    read = Instances(sentences=read.sentences, rows=pa.Table.from_pylist(rows, schema=INSTANCES_SCHEMA), identity="t")
    runtime = Runtime(device=torch.device("cpu"), dtype=torch.float32, batch_tokens=64)
    found = word_vectors(tiny_mlm, read, tiny_lexicon(tmp_path / "lexicon"), runtime)
    model, tokenizer = AutoModel.from_pretrained(tiny_mlm).eval(), AutoTokenizer.from_pretrained(tiny_mlm)
    whole = " ".join(texts)
    encoded = tokenizer(whole, return_offsets_mapping=True, return_tensors="pt")
    offsets = encoded.pop("offset_mapping")[0].tolist()
    with torch.inference_mode():
        hidden = model(**encoded).last_hidden_state[0]
    for i, start in enumerate([starts[0], len(texts[0]) + 1 + starts[1]]):
        inside = [place for place, (low, high) in enumerate(offsets) if low < start + 3 and high > start]
        expected = torch.nn.functional.normalize(hidden[inside].mean(0), dim=0).numpy()
        np.testing.assert_allclose(found[i], expected, atol=1e-5)
