"""Coverage by kind of position: shares add up, and words that are cut differently are answered too."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.families.coverage import KINDS, answered, masked, rows, train_teacher
from benchmarks.families.gain import compare
from pipeline.text.places import PLACES, place_of_each
from pipeline.text.tokenizer import load_tokenizer
from tests.helpers.stores import TINY_TEXT

TEXTS = [f'{text} "Well," said a (small) Dog.\n{text}' for text in TINY_TEXT]


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_every_kind(kind: str, tiny_tokenizer: Path, tmp_path: Path) -> None:
    student = load_tokenizer(tiny_tokenizer)
    text = masked(TEXTS, student)
    teacher = train_teacher(kind, TEXTS, tmp_path / kind, tokens=600)
    (row,) = rows(kind, teacher, student, {"tiny": text})
    places = row["by_place"].values()
    assert sum(place["share"] for place in places) == pytest.approx(1, abs=1e-3)
    assert sum(place["share"] * place["answered"] for place in places) == pytest.approx(row["answered"], abs=1e-3)
    assert row["answered_before"] + row["one_token"] <= row["answered"] + 1e-3
    assert row["answered_before"] < row["answered"]
    assert row["answered"] > 0.99 or kind == "unigram"  # which leaves out words that it has no letters for


def test_places_and_a_student_that_asks_itself(tiny_tokenizer: Path) -> None:
    student = load_tokenizer(tiny_tokenizer)
    text = masked(TEXTS, student)
    alike_P, all_P, one_P = answered(student, student, text)
    assert alike_P.all() and all_P.all() and not one_P.any()
    place_P = place_of_each(*text)
    assert {PLACES[place] for place in place_P} == set(PLACES)
    _, sequences, masks = text
    assert ((place_P == 0) == (sequences.word_NL[masks.sequence_P, masks.column_P] == 0)).all()
    assert np.isin(place_P, np.arange(len(PLACES))).all()


def test_targets_are_compared_at_the_chosen_positions_and_by_document() -> None:
    """Paired: a document that is hard for both adds nothing to the interval."""
    rng = np.random.default_rng(0)
    document_P = np.repeat(np.arange(40), 10)
    hard_P = rng.normal(0, 3, 40)[document_P] + 5
    with_P = hard_P - 0.5 + rng.normal(0, 0.1, 400)
    chosen_P = rng.random(400) < 0.3
    with_P[~chosen_P] = 99.0
    heldout: Any = SimpleNamespace(document_P=document_P, row_D=np.arange(40))
    found = compare(hard_P, with_P, chosen_P, heldout)
    assert found["positions"] == chosen_P.sum()
    assert found["without"] == pytest.approx(hard_P[chosen_P].mean(), abs=1e-4)
    assert found["difference"] == pytest.approx((with_P - hard_P)[chosen_P].mean(), abs=1e-4)
    assert -0.56 < found["difference_low"] < found["difference"] < found["difference_high"] < -0.44
