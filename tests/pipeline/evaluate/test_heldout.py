"""Means of held-out values by document."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluate.heldout import curve_part, curve_text, document_means, document_of_each
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


@pytest.mark.parametrize("positions", [0, 30])
def test_the_text_of_a_curve_is_its_documents_alone(tiny_stores: TinyStores, positions: int) -> None:
    corpus = tiny_stores.corpus()
    rows, masks = corpus.sequences.read("heldout"), corpus.masks.read("heldout")
    expected_D, expected = curve_part(rows, masks, positions=positions)
    row_D, part, found = curve_text(corpus, positions=positions)
    np.testing.assert_array_equal(row_D, expected_D)
    assert len(part.length_N) == len(np.unique(expected.sequence_P)) and (positions == 0 or len(found) < len(masks))
    for name in ("input_ids_NL", "length_N", "document_N"):
        whole = getattr(rows, name)[expected.sequence_P]
        np.testing.assert_array_equal(getattr(part, name)[found.sequence_P], whole)
    np.testing.assert_array_equal(found.label_P, expected.label_P)
    np.testing.assert_array_equal(found.column_P, expected.column_P)
