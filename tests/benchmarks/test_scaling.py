"""The arithmetic of docs/scaling.md on constants that can be checked by eye, and fits of known growth.

The numbers of the published page are not checked: they are measurements.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest

from benchmarks.scaling import reading
from benchmarks.scaling.growth import fitted
from benchmarks.scaling.page import (
    HEADING,
    TEACHER_FLOPS,
    Constant,
    billions,
    constants,
    cost_table,
    estimate,
    kept_section,
    number,
    page,
    reading_table,
    tenfold_table,
)
from benchmarks.scaling.text_growth import exponents, measured, merged
from storage.reader import Store
from storage.records.sequences import Masks
from storage.records.targets import FusedTargets
from storage.share.audit import audit

TEMPLATE = Path(__file__).parents[2] / "benchmarks" / "scaling" / "scaling.md.in"


def growth() -> dict[str, Any]:
    seconds_a_token = {"ingest": 1e-7, "corpus": 1e-7, "tokenize": 2.5e-6, "mask": 1e-6}
    line = {"exponent": 1.0, "fixed": 0.0}
    text = [
        {
            "stage": stage,
            "megabytes": megabytes,
            "cpu_seconds": 5.0 + seconds * megabytes * 250_000,
            "peak_memory_bytes": 300_000_000,
            "disk": 1000 + 3 * megabytes * 250_000,
            **({"tokens": megabytes * 250_000} if stage == "tokenize" else {}),
        }
        for stage, seconds in seconds_a_token.items()
        for megabytes in (20, 200)
    ]
    return {
        "machine": "a machine",
        "points": [],
        "text": text,
        "exponents": exponents(text),
        "reading": [{"what": "train, first step", "tokens": 10**9, "seconds": 2.345, "peak_memory_bytes": 512_000_000}],
        "fits": [
            {
                "stage": stage,
                "against": "tokens",
                "cpu_seconds": line | {"slope": seconds},
                "bytes": line | {"slope": memory},
            }
            for stage, (seconds, memory) in {"teach": (1e-7, 40.0)}.items()
        ],
    }


def bench() -> list[dict[str, Any]]:
    details = {
        "rows": 160,
        "tokens": 1000,
        "seconds": {"teach": 2.0, "student_step": 1.0},
        "fuse_row_seconds": {"1": 1e-5, "2": 2e-5, "3": 4e-5},
    }
    return [{"name": "online-3x1", "device": "a processor", "details": details}]


SUMMARY: dict[str, Any] = {
    "teachers": {"a": {"bytes_per_position": 50.0}, "b": {"bytes_per_position": 60.0}},
    "fusions": {"confident": {"bytes_per_position": 70.0}},
}


STORE: dict[str, Any] = {"formats": [{"form": "nucleus", "format": "ours", "write_rows_per_second": 200_000}]}


@pytest.fixture
def known() -> dict[str, Constant]:
    return constants(bench(), growth(), SUMMARY, STORE)


def test_stages_cost_what_a_calculator_says(known: dict[str, Constant]) -> None:
    stages = {stage.name.partition(",")[0]: stage for stage in estimate(1e9, known)}
    assert stages["tokenize"].hours == pytest.approx(2500 / 3600)
    assert stages["tokenize"].price(known) == pytest.approx(0.04 * 2500 / 3600)
    assert stages["mask"].disk_bytes == pytest.approx(3e9)
    assert stages["fuse"].hours == pytest.approx(0.16e9 * 4e-5 / 3600)
    assert stages["fuse"].disk_bytes == pytest.approx(0.16e9 * 75)
    assert stages["teach"].disk_bytes == pytest.approx(3 * 0.16e9 * 60)
    assert stages["teach"].hours == pytest.approx(3 * max(1e9 * TEACHER_FLOPS / (0.3 * 990e12), 0.16e9 * 5e-6) / 3600)


def test_a_hundred_times_the_text_costs_a_hundred_times_as_much(known: dict[str, Constant]) -> None:
    """But for the student, which is no larger."""
    for small, large in zip(estimate(1e9, known)[:-1], estimate(100e9, known)[:-1], strict=True):
        assert large.hours == pytest.approx(100 * small.hours)
        assert large.disk_bytes == pytest.approx(100 * small.disk_bytes)


def test_a_teacher_counts_about_two_operations_a_parameter() -> None:
    """85 million outside the embeddings; attention and the head at masked positions add 13 %."""
    assert 1.0 < TEACHER_FLOPS / (2 * 85.6e6) < 1.2


def test_the_table_of_reading_has_a_row_a_process() -> None:
    assert reading_table(growth()).splitlines()[-1] == "| train, first step | 1 billion | 2.3 | 512 |"


def test_the_table_of_peaks_goes_from_a_tenth_of_the_text_to_all_of_it() -> None:
    found = growth()
    found["text"][-1]["peak_memory_bytes"] = 420_000_000
    found["reading"].append(found["reading"][0] | {"tokens": 10**7, "peak_memory_bytes": 400_000_000})
    lines = tenfold_table(found).splitlines()
    assert lines[2] == "| ingest | 20 MB | 200 MB | 0.30 to 0.30 |"
    assert lines[5] == "| mask | 20 MB | 200 MB | 0.30 to 0.42 |"
    assert lines[6] == "| train, first step | 10 million tokens | 1 billion tokens | 0.40 to 0.51 |"


def test_simulated_stores_are_read_as_any_other(
    tiny_tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Links and all: every shard is whole, and training and teaching take their first examples from the stores."""
    monkeypatch.setattr(reading, "SEQUENCE_SHARD", 64)
    monkeypatch.setattr(reading, "MASK_SHARD", 20 * reading.MASKED)
    reading.simulate(tmp_path, 300 * reading.TOKENS, model=tiny_tokenizer)
    masks, targets = Store(tmp_path / "masks", Masks), Store(tmp_path / "targets", FusedTargets)
    assert masks.plan("train").rows == targets.plan("train").rows == 320 * reading.MASKED
    assert audit(tmp_path / "masks") == []
    assert {found.message for found in audit(tmp_path / "targets")} == {"holds the same bytes as train/0"}
    first = targets.shard("train", 0).arrays()
    assert all((targets.shard("train", 7).arrays()[name] == values).all() for name, values in first.items())
    found = reading.first_step(tmp_path, tiny_tokenizer), reading.taught_shard(tmp_path, tiny_tokenizer)
    assert all(line["seconds"] > 0 for line in found)


def test_every_constant_says_where_it_is_from(known: dict[str, Constant]) -> None:
    assert {constant.kind for constant in known.values()} == {"measured", "assumed"}
    assert all(constant.source for constant in known.values())
    assert all(".json" in constant.source for constant in known.values() if constant.kind == "measured")


def test_the_page_is_filled_and_keeps_what_was_written_of_clusters(known: dict[str, Constant], tmp_path: Path) -> None:
    out = tmp_path / "scaling.md"
    assert kept_section(out) == "To be written."
    template = TEMPLATE.read_text(encoding="utf-8")
    text = page(known, growth(), clusters="Ask Dask.\n\nTwice.", template=template)
    out.write_text(text, encoding="utf-8")
    assert kept_section(out) == "Ask Dask.\n\nTwice."
    assert text.count(HEADING) == 1 and cost_table(1e9, known) in text and "| train, first step | 1 billion |" in text
    assert page(known, growth(), clusters=kept_section(out), template=template) == text


def test_a_benchmark_without_its_row_is_refused() -> None:
    with pytest.raises(click.ClickException, match=r"no row online-3x1\. Run: python -m benchmarks\.speed"):
        constants([{"name": "online-3x1", "measured": None}], growth(), SUMMARY, STORE)


def test_numbers_have_two_digits() -> None:
    assert [number(value) for value in (0.0, 0.01234, 3.456, 1234.5, 5.6e6)] == [
        "0",
        "0.012",
        "3.5",
        "1,200",
        "5,600,000",
    ]
    assert billions(1.55e9) == "1.6 billion" and billions(640e6) == "640 million"


def test_exponents_are_over_the_largest_decade() -> None:
    points = [
        {"stage": "sort", "megabytes": size, "cpu_seconds": float(size**2), "peak_memory_bytes": 5, "disk": 1}
        for size in (1, 100, 1000, 600)
    ]
    assert exponents(points) == [{"stage": "sort", "time": 2.0, "memory": 0.0, "megabytes": [100, 1000]}]
    assert exponents(points[1:2]) == []


def test_a_stage_that_continued_is_no_point_and_the_point_of_its_whole_run_stays(tmp_path: Path) -> None:
    runs = tmp_path / "reports" / "runs"
    runs.mkdir(parents=True)
    said = {"cpu_seconds": 21.0, "peak_memory_bytes": 5, "documents": 7}
    (runs / "corpus.json").write_text(json.dumps(said | {"continued": True}), encoding="utf-8")
    (runs / "tokenize.json").write_text(json.dumps(said), encoding="utf-8")
    new = measured(tmp_path, 5000)
    assert [(point["stage"], point["documents"]) for point in new] == [("tokenize", 7)]
    whole = {"stage": "corpus", "megabytes": 5000, "cpu_seconds": 297.0}
    old = [whole, {"stage": "tokenize", "megabytes": 5000}, {"stage": "tokenize", "megabytes": 500}]
    assert merged(old, new) == [old[2], whole, *new]


def test_growth_finds_the_exponent_and_the_line() -> None:
    points = [
        {
            "stage": "sort",
            "against": "tokens",
            "size": size,
            "cpu_seconds": 2.0 * size**2,
            "bytes": 500_000 + size,
        }
        for size in (16, 1, 4)
    ]
    (line,) = fitted(points)
    assert line["cpu_seconds"]["exponent"] == pytest.approx(2.0)
    assert line["bytes"]["exponent"] == 0.0  # grows by less than a mebibyte
    assert (line["bytes"]["slope"], line["bytes"]["fixed"]) == (pytest.approx(1.0), pytest.approx(500_000))
