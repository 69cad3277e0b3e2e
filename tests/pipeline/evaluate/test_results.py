"""Files of `reports`: what is read is what was written, and what is no such file is refused with the command to run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.evaluate.bootstrap import Means
from pipeline.evaluate.results import (
    DocumentSums,
    read_json,
    read_sums,
    require_same_masks,
    rounded,
    write_json,
    write_sums,
)
from storage.errors import SchemaMismatch, StaleParent, StoreMissing


def sums_of(masks: str = "a" * 64, documents: tuple[int, ...] = (0, 3, 4)) -> DocumentSums:
    count = len(documents)
    means = Means(
        names=("nll", "accuracy"),
        total_DQ=np.arange(2.0 * count).reshape(count, 2) / 3,
        count_DQ=np.full((count, 2), 2.0),
    )
    return DocumentSums(masks=masks, document_D=np.array(documents), source_D=["a", "b", "a"][:count], means=means)


def test_numbers_have_six_significant_digits_and_what_is_unknown_is_left_out() -> None:
    value = {
        "b": np.float64(1.23456789),
        "a": np.int64(7),
        "large": 123456789.0,
        "unknown": float("nan"),
        "none": None,
        "list": [(0, 1.23456789)],
        "nested": {"x": float("inf"), "y": "text"},
    }
    assert rounded(value) == {
        "b": 1.23457,
        "a": 7,
        "large": 123457000.0,
        "list": [[0, 1.23457]],
        "nested": {"y": "text"},
    }


def test_json_does_not_depend_on_the_order_of_keys(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "a.json", {"b": 1.0, "a": {"d": 2, "c": 3}})
    write_json(tmp_path / "new" / "b.json", {"a": {"c": 3, "d": 2}, "b": 1.0})
    assert (tmp_path / "new" / "a.json").read_bytes() == (tmp_path / "new" / "b.json").read_bytes()
    assert read_json(tmp_path / "new" / "a.json", remedy="") == {"a": {"c": 3, "d": 2}, "b": 1.0}
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.json", "b.json"]


def test_sums_read_back_as_they_were_written(tmp_path: Path) -> None:
    sums = sums_of()
    write_sums(tmp_path / "x.arrow", sums)
    found = read_sums(tmp_path / "x.arrow", remedy="")
    assert found.masks == sums.masks
    assert found.document_D.tolist() == [0, 3, 4]
    assert found.means.names == sums.means.names
    assert np.array_equal(found.means.total_DQ, sums.means.total_DQ)
    assert np.array_equal(found.means.count_DQ, sums.means.count_DQ)


@pytest.mark.parametrize("read", [read_json, read_sums])
def test_a_missing_file_is_named_with_its_remedy(tmp_path: Path, read: object) -> None:
    with pytest.raises(StoreMissing, match=r"x\.file: not found\. Run: dvc repro evaluate@x"):
        read(tmp_path / "x.file", remedy="dvc repro evaluate@x")  # type: ignore[operator]


@pytest.mark.parametrize(("content", "message"), [
    ("{", "not JSON"),
    ("[1]", "expected a JSON object, got list"),
])  # fmt: skip
def test_json_of_another_kind_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x.json").write_text(content, encoding="utf-8")
    with pytest.raises(SchemaMismatch, match=f"{message}.*Run: dvc repro"):
        read_json(tmp_path / "x.json", remedy="dvc repro")


def test_a_file_that_holds_no_sums_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.arrow").write_text(json.dumps({"nll": 1}), encoding="utf-8")
    with pytest.raises(SchemaMismatch, match=r"x\.arrow: no sums of an evaluation.*Run: dvc repro"):
        read_sums(tmp_path / "x.arrow", remedy="dvc repro")


@pytest.mark.parametrize("other", [sums_of(masks="b" * 64), sums_of(documents=(0, 3, 5))])
def test_evaluations_of_other_blanks_are_not_compared(other: DocumentSums) -> None:
    paths = Path("a.arrow"), Path("b.arrow")
    require_same_masks(sums_of(), sums_of(), paths=paths, remedy="")
    with pytest.raises(StaleParent, match=r"b\.arrow: evaluated on masks \w{12}, but a\.arrow on a{12}\. Run: dvc"):
        require_same_masks(sums_of(), other, paths=paths, remedy="dvc repro")
