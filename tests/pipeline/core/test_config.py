"""Refusals of params.yaml: one line, the dotted path, the nearest valid key."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field

from pipeline.core.config import (
    Section,
    decode,
    load,
    section,
)
from storage.errors import ParamsError


class Inner(Section):
    weight: float = Field(ge=0)
    shape: Literal["round", "square"]


class Outer(Section):
    rate: float = Field(gt=0, lt=1)
    copies: int = 1
    inner: Inner


GOOD = {"rate": 0.5, "inner": {"weight": 1, "shape": "round"}}


def test_a_good_section_is_decoded_and_frozen() -> None:
    outer = decode(GOOD, Outer, where="p")
    assert outer == Outer(rate=0.5, copies=1, inner=Inner(weight=1.0, shape="round"))
    with pytest.raises(ValueError, match="frozen"):
        outer.rate = 0.1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rte": 0.5}, r"^p: unknown key 'rte' \(did you mean 'rate'\?\)$"),
        ({"inner": {"weight": 1, "shap": "round"}}, r"^p\.inner: unknown key 'shap' \(did you mean 'shape'\?\)$"),
        ({"rate": 1.5}, r"^p\.rate: .*less than 1, got 1\.5$"),
        ({"rate": "0.5"}, r"^p\.rate: .*valid number, got '0\.5'$"),
        ({"copies": 1.5}, r"^p\.copies: .*integer, got 1\.5$"),
        ({"inner": {"weight": -1, "shape": "round"}}, r"^p\.inner\.weight: .*greater than or equal to 0, got -1$"),
        ({"inner": {"weight": 1, "shape": "flat"}}, r"^p\.inner\.shape: .*'round' or 'square', got 'flat'$"),
        ({"inner": None}, r"^p\.inner: .*got None$"),
    ],
)
def test_impossible_values_are_refused_by_dotted_path(change: dict[str, object], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        decode(GOOD | change, Outer, where="p")


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ParamsError, match=r"^p\.rate: missing$"):
        decode({"inner": GOOD["inner"]}, Outer, where="p")


def test_a_section_that_is_not_there_is_named_with_its_neighbour(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("outers:\n  fine: {rate: 0.5, inner: {weight: 0, shape: square}}\n", encoding="utf-8")
    assert section(path, "outers.fine", Outer).rate == 0.5
    with pytest.raises(ParamsError, match=r"outers: no key 'fin' \(did you mean 'fine'\?\)"):
        section(path, "outers.fin", Outer)


def test_files_that_are_no_mapping_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    with pytest.raises(ParamsError, match="not found"):
        load(path)
    path.write_text("- a\n", encoding="utf-8")
    with pytest.raises(ParamsError, match="expected a mapping of sections, got list"):
        load(path)
    path.write_text("a: [1\n", encoding="utf-8")
    with pytest.raises(ParamsError, match="not YAML"):
        load(path)
