"""n-grams against Python sets, estimates against the exact similarity."""

from __future__ import annotations

import re

import numpy as np
import pytest

from pipeline.text.documents import near
from pipeline.text.documents.corpus_job import HELD, TRAIN, candidate_pairs

TEXTS = [
    "One two three four five, six seven!",
    "one TWO three (four) five; six seven",
    "Short text.",
    "",
    "... !",
    "eins zwei drei vier fünf sechs sieben acht",
    "one two three four five one two three four five",
]


def exact(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[0-9a-z\x80-\U0010ffff]+", text.lower())
    return {tuple(words[place : place + near.NGRAM]) for place in range(max(min(1, len(words)), len(words) - 4))}


def test_ngrams_are_those_of_the_words_of_each_text() -> None:
    gram, start = near.ngrams(TEXTS)
    found = [set(gram[start[i] : start[i + 1]].tolist()) for i in range(len(TEXTS))]
    assert [len(grams) for grams in found] == [len(exact(text)) for text in TEXTS]
    for one in range(len(TEXTS)):
        for other in range(len(TEXTS)):
            assert len(found[one] & found[other]) == len(exact(TEXTS[one]) & exact(TEXTS[other])), (one, other)


def test_characters_of_scripts_without_spaces_are_words() -> None:
    gram, _ = near.ngrams(["今日は天気がいい", "今日は天気が悪い"])
    assert len(gram) == 8 and len(set(gram.tolist())) == 6


def test_a_text_has_the_same_signature_in_any_company(monkeypatch: pytest.MonkeyPatch) -> None:
    together = near.signatures(TEXTS)
    monkeypatch.setattr(near, "BATCH_CHARACTERS", 1)
    alone = near.signatures(TEXTS)
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one, other)
    assert together[2].tolist() == [True, True, True, False, False, True, True]


@pytest.mark.parametrize("changed", [0, 4, 20, 60])
def test_the_estimate_is_near_the_exact_similarity(changed: int) -> None:
    """Of 30 pairs together: 3840 comparisons, whose share has a standard deviation of at most 0.008."""
    rng = np.random.default_rng(changed)
    estimates, truths = [], []
    for _ in range(30):
        words = [f"w{number}" for number in rng.integers(10**9, size=300)]
        other = [
            f"x{word}" if place in set(rng.choice(300, changed).tolist()) else word for place, word in enumerate(words)
        ]
        pair = [" ".join(words), " ".join(other)]
        signature, _, _ = near.signatures(pair)
        estimates.append(near.similarity(signature[:1], signature[1:])[0])
        one, two = map(exact, pair)
        truths.append(len(one & two) / len(one | two))
    assert abs(np.mean(estimates) - np.mean(truths)) < 0.03
    if not changed:
        assert estimates == [1.0] * 30


def test_similar_texts_share_a_band_and_others_do_not() -> None:
    rng = np.random.default_rng(0)
    words = [[f"w{number}" for number in rng.integers(10**9, size=200)] for _ in range(50)]
    near_words = [[*row[:100], "other", *row[101:]] for row in words]
    _, band, _ = near.signatures([" ".join(row) for row in (*words, *near_words)])
    shared = (band[:50, None] == band[None, 50:]).any(axis=2)
    assert shared.diagonal().all()
    assert shared.sum() == 50


def test_candidates_are_the_pairs_of_one_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "PAIRS_A_TEXT", 2)
    group = np.array([0, 0, 1, 2, 2, 2, 2, 2])
    state = np.array([HELD, HELD, TRAIN, TRAIN, HELD, TRAIN, TRAIN, HELD], np.uint8)
    held, train = candidate_pairs(group, state)
    assert list(zip(held.tolist(), train.tolist(), strict=True)) == [(4, 3), (4, 5), (7, 3), (7, 5)]
