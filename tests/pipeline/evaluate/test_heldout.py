"""Means of held-out values by document."""

from __future__ import annotations

import numpy as np

from pipeline.evaluate.heldout import document_means, document_of_each
from storage.reader import Store
from storage.records.sequences import Masks, Sequences
from tests.helpers.stores import TinyStores


def test_means_are_over_the_positions_of_a_document(tiny_stores: TinyStores) -> None:
    rows = Store(tiny_stores.sequences, Sequences).read("heldout")
    masks = Store(tiny_stores.masks, Masks).read("heldout")
    value_P = np.random.default_rng(0).random(len(masks))
    document_P = rows.document_N[masks.sequence_P]
    expected = [value_P[document_P == document].mean() for document in document_of_each(rows, masks)[0]]
    np.testing.assert_allclose(document_means(rows, masks, value_P), expected)
