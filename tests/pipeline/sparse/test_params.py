"""The forms as sections of params.yaml: what they allow, and refusals by dotted path."""

from __future__ import annotations

import pytest

from pipeline.core.config import Section, decode
from pipeline.sparse.params import Keep, Nucleus, TailParams
from storage.errors import ParamsError


class Teacher(Section):
    keep: Keep
    tail: TailParams


TAIL = {"rank": 32, "step": 0.4}
NUCLEUS = {"form": "nucleus", "mass": 1, "floor": 0.003, "least": 1, "most": 96}


@pytest.mark.parametrize(
    ("keep", "most", "draws"),
    [
        ({"form": "topk", "k": 32}, 32, 0),
        (NUCLEUS, 96, 0),
        ({"form": "sampled", "draws": 50}, 0, 50),
        ({"form": "topk+sampled", "k": 16, "draws": 24}, 16, 24),
    ],
)
def test_a_form_knows_its_longest_list_and_its_draws(keep: dict[str, object], most: int, draws: int) -> None:
    decoded = decode({"keep": keep, "tail": TAIL}, Teacher, where="p").keep
    assert (decoded.most, decoded.draws) == (most, draws)
    assert decoded.model_dump() == keep


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (NUCLEUS | {"flor": 0.1}, r"^p\.keep: unknown key 'flor' \(did you mean 'floor'\?\)$"),
        (NUCLEUS | {"mass": 2}, r"^p\.keep\.mass: .*less than or equal to 1, got 2$"),
        (NUCLEUS | {"mass": 0}, r"^p\.keep\.mass: .*greater than 0, got 0$"),
        (NUCLEUS | {"floor": 1}, r"^p\.keep\.floor: .*less than 1, got 1$"),
        (NUCLEUS | {"least": 97}, r"^p\.keep: least must not exceed most \(96\), got 97$"),
        ({"form": "topk"}, r"^p\.keep\.k: missing$"),
        ({"form": "topk", "k": 0}, r"^p\.keep\.k: .*greater than or equal to 1, got 0$"),
        ({"form": "topk", "k": 1025}, r"^p\.keep\.k: .*less than or equal to 1024, got 1025$"),
        ({"form": "topk+sampled", "k": 3, "draws": "9"}, r"^p\.keep\.draws: .*valid integer, got '9'$"),
        ({"form": "topk", "k": 3, "draws": 3}, r"^p\.keep: unknown key 'draws'$"),
        ({"form": "top"}, r"^p\.keep\.form: expected one of 'topk', .*'topk\+sampled', got 'top'$"),
        ({"k": 32}, r"^p\.keep\.form: missing$"),
        (32, r"^p\.keep: .*dictionary.*, got 32$"),
    ],
)
def test_impossible_forms_are_refused_by_dotted_path(keep: object, message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        decode({"keep": keep, "tail": TAIL}, Teacher, where="p")


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        ({"rank": -1, "step": 0.4}, r"^p\.tail\.rank: .*greater than or equal to 0, got -1$"),
        ({"rank": 129, "step": 0.4}, r"^p\.tail\.rank: .*less than or equal to 128, got 129$"),
        ({"rank": 32, "step": 0}, r"^p\.tail\.step: .*greater than 0, got 0$"),
        ({"rank": 32, "stap": 1}, r"^p\.tail: unknown key 'stap' \(did you mean 'step'\?\)$"),
    ],
)
def test_impossible_tails_are_refused_by_dotted_path(tail: dict[str, object], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        decode({"keep": NUCLEUS, "tail": tail}, Teacher, where="p")


def test_a_form_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Nucleus(form="nucleus", mass=1, floor=0, least=1, most=2).most = 3  # type: ignore[misc]
