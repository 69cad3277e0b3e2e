"""What the benchmark of the store writes, reads and reports; its times are not tested, they are the machine's."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.store.plain import PEERS, lists_of
from benchmarks.store.simulated import FORMS, Form, simulate
from benchmarks.store.speed import (
    GOALS,
    Times,
    main,
    measure_open,
    median,
    one_core,
    read_store,
    real,
    table,
    write_store,
)
from storage.reader import Store
from storage.records.logits import SparseLogits

form_of_each = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)


@form_of_each
def test_rows_are_made_as_the_form_says(form: Form) -> None:
    record, order_V = simulate(form, rows=200)
    record.check()
    np.testing.assert_array_equal(np.sort(order_V), np.arange(len(order_V)))
    count_P = (record.ids_PK != 65535).sum(axis=1)
    assert all(len(set(row[:n])) == n for row, n in zip(record.ids_PK.tolist(), count_P, strict=True))
    if form is FORMS[0]:
        assert (count_P == 32).all()
    else:
        assert 1 <= count_P.min() < 10 < count_P.max() <= 96
        assert (np.exp(record.logprob_PK[:, 1:]) < 0.003).sum() == 0


@form_of_each
@pytest.mark.parametrize("name", PEERS)
def test_plain_formats_hold_the_same_lists(tmp_path: Path, form: Form, name: str) -> None:
    lists = lists_of(simulate(form, rows=50)[0])
    write, read, options = PEERS[name]
    write(tmp_path, lists, shard_rows=16, **options)
    for found, expected in zip(read(tmp_path), lists, strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_the_store_is_read_whole(tmp_path: Path) -> None:
    record, order_V = simulate(FORMS[1], rows=50)
    times = write_store(tmp_path / "store", record, order_V, shard_rows=16, names=("work", "train"))
    assert times.clock > 0 and times.processor > 0
    assert read_store(tmp_path / "store", "train") == 50
    found = Store(tmp_path / "store", SparseLogits).read("train")
    # Rows are read by falling level; which ids they list is what was written.
    np.testing.assert_array_equal(np.sort(found.ids_PK, axis=1), np.sort(record.ids_PK, axis=1))


def test_rows_of_a_real_store_are_repeated(tmp_path: Path) -> None:
    record, order_V = simulate(FORMS[0], rows=8)
    write_store(tmp_path / "teacher", record, order_V, shard_rows=8, names=("work", "heldout"))
    found, order, form = real(tmp_path / "teacher", rows=20)
    assert (len(found), form.name, form.most, form.rank) == (20, "teacher", 32, 0)
    np.testing.assert_array_equal(order, order_V)
    np.testing.assert_array_equal(found.ids_PK[8:16], found.ids_PK[:8])


def test_opening_reads_the_manifest_alone(tmp_path: Path) -> None:
    found = measure_open(folder=tmp_path, shards=3, repeat=1)
    assert found["shards"] == 3
    assert found["manifest_bytes"] == (tmp_path / "store/manifest.json").stat().st_size
    assert 0 < found["open_seconds"] < 60


def test_one_core_and_then_all_again() -> None:
    before = os.sched_getaffinity(0)
    with one_core():
        assert os.sched_getaffinity(0) == {min(before)}
    assert os.sched_getaffinity(0) == before


def test_the_report(tmp_path: Path) -> None:
    out = tmp_path / "reports" / "store.json"
    arguments = ["--rows", "40", "--shard-rows", "16", "--shards", "2", "--repeat", "1", "--out", str(out)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    assert (report["rows"], report["lists"], report["goals"]) == (40, "simulated", GOALS)
    assert [(entry["form"], entry["format"]) for entry in report["formats"]] == [
        (form.name, name) for form in FORMS for name in ("ours", *PEERS)
    ]
    assert all(entry["read_rows_per_second"] > 0 and entry["bytes_per_row"] > 0 for entry in report["formats"])
    assert out.with_suffix(".md").read_text() == result.output == table(report) + "\n"


def test_the_table_shows_millions_and_milliseconds() -> None:
    speeds = {"read_rows_per_second": 1_234_000, "write_rows_per_second": 350_000}
    speeds |= {"read_rows_per_processor_second": 1_300_000, "write_rows_per_processor_second": 410_000}
    opening = {"shards": 1000, "open_seconds": 0.0421, "manifest_bytes": 1}
    entry = {"form": "topk", "format": "ours", **speeds, "bytes_per_row": 64.04}
    rows = table({"formats": [entry], "opening": opening}).splitlines()
    assert rows[2] == "| topk | ours | 1.23 (1.30) | 0.35 (0.41) | 64.0 |"
    assert rows[-1] == "Opening a store of 1000 shards: 42 ms"


def test_medians_are_of_either_clock() -> None:
    times = [Times(clock=c, processor=p) for c, p in ((3.0, 1.0), (5.0, 0.5), (4.0, 2.0))]
    assert (median(times, "clock"), median(times, "processor")) == (4.0, 1.0)
