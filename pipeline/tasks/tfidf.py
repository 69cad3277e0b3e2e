"""Baseline detector of paraphrases: logistic regression on TF-IDF features of words and letters.

Features are word 1- and 2-grams and letter 3- to 5-grams within words; counts are sublinear, each block has unit
length. A pair of texts with features a and b has the features |a - b| and a * b. The detector is deterministic.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.tasks.paraphrase_data import Texts

INVERSE_REGULARISATION = 10.0
"""C of the regression: a usual value for features of unit length, not tuned."""

MOST_FEATURES = 200_000
"""Of each block, the most frequent ones: bounds the memory on large sets."""


def word_detector(train: Texts, tests: list[Texts]) -> list[NDArray[np.int64]]:
    """Train on some texts or pairs, and give the predicted labels of others."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import FeatureUnion

    shared = {"sublinear_tf": True, "max_features": MOST_FEATURES}
    words = TfidfVectorizer(ngram_range=(1, 2), **shared)
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), **shared)
    blocks = FeatureUnion([("words", words), ("letters", letters)])
    blocks.fit([*train.first, *(train.second or [])])
    model = LogisticRegression(C=INVERSE_REGULARISATION, max_iter=1000)
    model.fit(_features(blocks, train), train.label_N)
    return [np.asarray(model.predict(_features(blocks, test)), np.int64) for test in tests]


def _features(blocks: Any, texts: Texts) -> Any:
    from scipy import sparse

    first = blocks.transform(texts.first)
    if texts.second is None:
        return first
    second = blocks.transform(texts.second)
    return sparse.hstack([abs(first - second), first.multiply(second)]).tocsr()
