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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: key 'a' is given twice, first on line 1"),
        ("s:\n  x: {k: 1, k: 2}\n", "line 2: key 'k' is given twice, first on line 2"),
        ("s: &s {k: 1}\nt:\n  <<: *s\n  k: 2\n  k: 3\n", "line 5: key 'k' is given twice, first on line 4"),
    ],
    ids=["top", "inside", "beside a merge"],
)
def test_a_key_given_twice_is_refused_by_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "p.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ParamsError) as caught:
        load(tmp_path / "p.yaml")
    assert str(caught.value) == f"{tmp_path / 'p.yaml'}: {message}. Remove one of the two"


def test_what_is_merged_may_be_given_again(tmp_path: Path) -> None:
    text = "a: &a {k: 1, l: 2}\nb: &b {<<: *a, k: 3}\nc: {<<: *b, l: 4}\n"
    (tmp_path / "p.yaml").write_text(text, encoding="utf-8")
    assert load(tmp_path / "p.yaml") == {"a": {"k": 1, "l": 2}, "b": {"k": 3, "l": 2}, "c": {"k": 3, "l": 4}}


def test_numbers_are_those_that_dvc_writes(tmp_path: Path) -> None:
    numbers = {"1e-4": 1e-4, "5e-05": 5e-5, "-2E3": -2000.0, "1.5e3": 1500.0, "1.e2": 100.0}
    words = ["e5", "1e", "12e3f"]
    text = "\n".join([*(f"n{i}: {key}" for i, key in enumerate(numbers)), f"words: [{', '.join(words)}]"])
    (tmp_path / "p.yaml").write_text(text, encoding="utf-8")
    found = load(tmp_path / "p.yaml")
    assert found.pop("words") == words
    assert list(found.values()) == list(numbers.values())
    assert all(isinstance(value, float) for value in found.values())
