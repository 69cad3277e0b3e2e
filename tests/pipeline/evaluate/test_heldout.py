"""Which held-out positions the curve of a training is measured at, and its means by document."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.evaluate.heldout import document_means, document_of_each, first_copies
from storage.reader import Store
from storage.records.sequences import Masks, Sequences
from tests.helpers.stores import TinyStores


def test_each_sequence_is_there_with_its_first_copy_only(tiny_stores: TinyStores) -> None:
    once = Store(tiny_stores.masks, Masks).read("heldout").arrays()
    twice = {name: np.concatenate([array, array]) for name, array in once.items()}
    twice["copy_P"][len(once["copy_P"]) :] = 1
    masks = Masks(**twice)
    lost = masks.sequence_P[0]  # a sequence without positions in the first copy
    kept = (masks.sequence_P != lost) | (masks.copy_P > 0)
    masks = replace(masks, **{name: array[kept] for name, array in masks.arrays().items()})
    found = first_copies(masks)
    expected = [
        (copy, sequence, column)
        for copy, sequence, column in zip(masks.copy_P, masks.sequence_P, masks.column_P, strict=True)
        if copy == (1 if sequence == lost else 0)
    ]
    assert list(zip(found.copy_P, found.sequence_P, found.column_P, strict=True)) == expected


def test_means_are_over_the_positions_of_a_document(tiny_stores: TinyStores) -> None:
    rows = Store(tiny_stores.sequences, Sequences).read("heldout")
    masks = Store(tiny_stores.masks, Masks).read("heldout")
    value_P = np.random.default_rng(0).random(len(masks))
    document_P = rows.document_N[masks.sequence_P]
    expected = [value_P[document_P == document].mean() for document in document_of_each(rows, masks)[0]]
    np.testing.assert_allclose(document_means(rows, masks, value_P), expected)
