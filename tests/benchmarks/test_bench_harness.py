"""What the benchmark's harness does with numbers and failures. Nothing is timed: clocks are made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.speed import __main__ as command
from benchmarks.speed import harness
from benchmarks.speed.harness import Machine, Measured, Row, Unavailable, alternate, entries, isolated, merged, save

CPU = Machine(kind="cpu", name="a processor")
GPU = Machine(kind="cuda", name="an accelerator")


def row(**changes: Any) -> Row:
    settings: dict[str, Any] = {
        "name": "thing", "goal": 1.1, "unit": "x", "better": "lower", "device": "cpu",
        "measure": lambda machine, folder: Measured([1.0] * 5),
    }  # fmt: skip
    return Row(**(settings | changes))


class Clock:
    """A clock that only work moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order = ""

    def works(self, name: str, took: list[float]) -> Any:
        left = iter(took)

        def work() -> None:
            self.order += name
            self.now += next(left)

        return work


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(harness.time, "perf_counter", lambda: made.now)
    return made


def test_pairs_change_their_order_and_the_warm_up_does_not_count(clock: Clock) -> None:
    ours, reference = [100.0, 2, 4, 6, 8, 10], [1.0, 1, 2, 2, 4, 4]
    ratios = alternate(clock.works("a", ours), clock.works("b", reference))
    assert ratios == [2, 2, 3, 2, 2.5]
    assert clock.order == "ba" + "ab" + "ba" + "ab" + "ba" + "ab"


def test_fewer_than_five_pairs_are_refused(clock: Clock) -> None:
    with pytest.raises(AssertionError, match="4 runs, at least 5"):
        alternate(clock.works("a", []), clock.works("b", []), runs=4)
    with pytest.raises(AssertionError, match="thing: 4 runs, at least 5"):
        entries(row(), CPU, Measured([1.0] * 4))


@pytest.mark.parametrize(
    ("better", "goal", "met"),
    [("lower", 3.0, True), ("lower", 2.9, False), ("higher", 3.0, True), ("higher", 3.1, False), ("lower", None, None)],
)
def test_the_median_is_held_against_the_goal(better: Any, goal: float | None, met: bool | None) -> None:
    (found,) = entries(row(better=better, goal=goal), CPU, Measured([3.0, 99.0, 1.0, 2.0, 4.0], note="why"))
    assert found == {
        "name": "thing", "measured": 3.0, "goal": goal, "unit": "x", "better": better, "device": "a processor",
        "runs": 5, "spread": [1.0, 99.0], "met": met, "note": "why",
    }  # fmt: skip


def test_further_values_become_rows_without_a_goal() -> None:
    measured = Measured([1.0] * 5, also={"other": [2.0] * 6}, units={"other": "y"}, details={"positions": 3})
    first, other = entries(row(), CPU, measured)
    assert first["met"] is True and first["details"] == {"positions": 3}
    assert (first["unit"], other["unit"]) == ("x", "y")
    assert (other["name"], other["measured"], other["goal"], other["met"], other["runs"]) == ("other", 2, None, None, 6)


def test_rows_are_merged_by_name_and_device() -> None:
    old = [{"name": "a", "device": "p", "measured": 1}, {"name": "a", "device": "q", "measured": 2}]
    new = [{"name": "b", "device": "p", "measured": 4}, {"name": "a", "device": "q", "measured": 3}]
    assert merged(old, new) == [old[0], new[1], new[0]]


def test_a_row_that_failed_keeps_its_old_value() -> None:
    old = [{"name": "a", "device": "p", "measured": 1}]
    failed = [{"name": name, "device": "p", "measured": None} for name in ("a", "b")]
    assert merged(old, failed) == [old[0], failed[1]]


def test_results_are_saved_with_a_table(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "bench.json"
    save(entries(row(), CPU, Measured([1.25] * 5, note="slow")), path)
    together = save(entries(row(), GPU, Measured([1.0] * 5)), path)
    assert json.loads(path.read_text(encoding="utf-8")) == together and len(together) == 2
    lines = path.with_suffix(".md").read_text(encoding="utf-8").splitlines()
    assert lines[2] == "| thing, x | **1.25** (1.25 to 1.25) | ≤ 1.1 | no | a processor | slow |"
    assert lines[3] == "| thing, x | **1** (1 to 1) | ≤ 1.1 | yes | an accelerator |  |"


def test_a_row_that_fails_says_why_and_the_others_go_on() -> None:
    def breaks(machine: Machine, folder: Path) -> Measured:
        raise ValueError("no such number\nand more")

    def lacks(machine: Machine, folder: Path) -> Measured:
        raise Unavailable("data/masks is not there. Run: make repro")

    def works(machine: Machine, folder: Path) -> Measured:
        assert folder.is_dir()
        return Measured([1.0] * 5)

    rows = [row(name="a", measure=breaks), row(name="b", measure=lacks), row(name="c", measure=works)]
    found = command.run(rows, cpu=CPU, gpu=None)
    assert [item["measured"] for item in found] == [None, None, 1.0]
    assert found[0]["note"] == "not measured: ValueError: no such number" and found[0]["met"] is False
    assert found[1]["note"] == "not measured: data/masks is not there. Run: make repro"
    assert "| failed | ≤ 1.1 | no |" in harness.table(found)


def test_rows_run_on_the_device_they_name() -> None:
    rows = [row(name=device, device=device) for device in ("cpu", "cuda", "any")]
    assert [item["device"] for item in command.run(rows, cpu=CPU, gpu=None)] == ["a processor", "a processor"]
    names = [item["device"] for item in command.run(rows, cpu=CPU, gpu=GPU)]
    assert names == ["a processor", "an accelerator", "an accelerator"]


def test_rows_of_a_gpu_are_listed_alone() -> None:
    listed = CliRunner().invoke(command.main, ["--gpu", "--list"]).output.split()
    assert {"teach-cuda", "share-train", "train-gpus"} <= set(listed)
    assert not {"teach-cpu", "train-against", "noop"} & set(listed)


def test_every_row_has_a_name_of_its_own() -> None:
    names = [found.name for found in command.all_rows()]
    assert len(set(names)) == len(names) and {"teach-cpu", "topk-cpu", "fuse-kernel", "noop"} <= set(names)


def test_what_is_missing_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert harness.require("here", run="make repro") == tmp_path / "here"
    with pytest.raises(Unavailable, match=r"there is not there\. Run: make repro"):
        harness.require("there", run="make repro")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read from /proc")
def test_a_process_of_its_own_reports_its_peak() -> None:
    """64 MB more in one than in the other: of that much its peak differs."""
    small, large = (isolated("tests.benchmarks.test_bench_harness:fill", megabytes=size) for size in (0, 64))
    assert (small.result, large.result) == (0, 64)
    assert large.peak_bytes - small.peak_bytes == pytest.approx(64 * 2**20, rel=0.1)
    with pytest.raises(RuntimeError, match="fill ended with 1: ValueError: nothing to fill"):
        isolated("tests.benchmarks.test_bench_harness:fill", megabytes=-1)


def fill(megabytes: int) -> int:
    """Run by `isolated`."""
    if megabytes < 0:
        raise ValueError("nothing to fill")
    return len(b"x" * (megabytes * 2**20)) // 2**20
