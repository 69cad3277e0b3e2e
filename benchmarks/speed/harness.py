"""Rows of the benchmark: what one row is, how two things are timed beside each other, where results go.

A row is a `Row`: a name, a goal and a function that measures. The function gets the `Machine`, works in a folder of its
own and returns `Measured`: one value a run, at least `RUNS` of them. A module of rows lists them in `ROWS`; __main__
names the modules.

    def measure(machine: Machine, folder: Path) -> Measured:
        sparse, dense = prepare(...)                        # not timed
        return Measured(alternate(sparse, dense))           # seconds of sparse / seconds of dense, run by run

    ROWS = (Row(name="head", goal=1.15, unit="x", better="lower", device="cpu", measure=measure),)

A value is a ratio of two things timed one right after the other, and the result is the median of the ratios, not the
ratio of medians: other work on the machine then slows both halves of a pair, and a pair it hit on one side only is an
outlier that the median leaves out. The order within a pair changes from pair to pair, so that drift cancels. Warm-up
is not counted. `Measured.note` says what a reader has to know: above all why a goal is missed.

What is missing (a model, a store) is `Unavailable`, with the command to run; any other exception fails its row alone.
Memory is measured in a process of its own: `isolated`.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

log = logging.getLogger(__name__)

RUNS = 5
"""Fewest pairs behind a value."""

CODE = Path(__file__).resolve().parents[2]
"""Where processes of their own find this package; data/ and models/ are those of the current directory."""


class Unavailable(Exception):
    """Something a row needs is not there; the message says what to run. Not a failure of what is measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Where a row runs."""

    kind: Literal["cpu", "cuda"]
    name: str
    """Of the processor or the accelerator, with its number of cores; the `device` of a result."""

    def synchronise(self) -> None:
        """Wait until the accelerator has done what it was asked."""
        if self.kind == "cuda":
            import torch

            torch.cuda.synchronize()


@dataclass(frozen=True, slots=True)
class Measured:
    """One value a run."""

    values: Sequence[float]
    note: str = ""
    """One line."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """More numbers, as they shall stand in the JSON; not in the table."""
    also: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Further values of the same runs, against something else: rows of their own, without a goal, by name."""
    units: Mapping[str, str] = field(default_factory=dict)
    """Of those in `also` that have another unit than the row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of the benchmark."""

    name: str
    """With the device at its end where the goal depends on it: teach-cpu."""
    goal: float | None
    """None: reported only."""
    unit: str
    """What the value is: "x" for a ratio, with what it is a ratio of."""
    better: Literal["lower", "higher"]
    device: Literal["cpu", "cuda", "any"]
    """any: on the accelerator where there is one."""
    measure: Callable[[Machine, Path], Measured]


@dataclass(frozen=True, kw_only=True, slots=True)
class Child:
    """What a process of its own did."""

    result: Any
    """What the function returned, through JSON."""
    start_bytes: int
    """Resident memory before the function ran, imports of its module included."""
    peak_bytes: int
    """Largest resident memory while it ran."""


def processor() -> Machine:
    """The processor, and how many cores of it this process may use."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = next((model for model in models if model.lower() != "unknown"), name)
    return Machine(kind="cpu", name=f"{name}, {len(os.sched_getaffinity(0))} cores")


def accelerator() -> Machine | None:
    """The first GPU, None where there is none."""
    import torch

    return Machine(kind="cuda", name=torch.cuda.get_device_name(0)) if torch.cuda.is_available() else None


def seconds(work: Callable[[], object], *, machine: Machine | None = None) -> float:
    """Wall-clock seconds of one call; with a machine, until its accelerator is done."""
    if machine is not None:
        machine.synchronise()
    start = time.perf_counter()
    work()
    if machine is not None:
        machine.synchronise()
    return time.perf_counter() - start


def alternate(
    ours: Callable[[], object],
    reference: Callable[[], object],
    *,
    runs: int = RUNS,
    warmup: int = 1,
    machine: Machine | None = None,
) -> list[float]:
    """Seconds of `ours` over seconds of `reference`, a ratio a pair; after `warmup` pairs that are not counted."""
    assert runs >= RUNS, f"{runs} runs, at least {RUNS} are wanted"
    ratios = []
    for run in range(-warmup, runs):
        if run % 2 == 0:
            mine = seconds(ours, machine=machine)
            other = seconds(reference, machine=machine)
        else:
            other = seconds(reference, machine=machine)
            mine = seconds(ours, machine=machine)
        log.debug("pair %d: %.4f s / %.4f s", run, mine, other)
        if run >= 0:
            ratios.append(mine / other)
    return ratios


def isolated(function: str, /, *, threads: int | None = None, **arguments: Any) -> Child:
    """Run `module:function` with JSON arguments in a new process; raises RuntimeError with what it said when it fails.

    threads sets OMP_NUM_THREADS. Its peak is its own: the kernel's `VmHWM`, reset before the function runs.
    """
    paths = [str(CODE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed.harness", function, json.dumps(arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"{function} ended with {done.returncode}: {last}")
    return Child(**json.loads(done.stdout.splitlines()[-1]))


def resident_bytes(what: Literal["VmRSS", "VmHWM"]) -> int:
    """Resident memory of this process now, or its peak; raises Unavailable where there is no /proc."""
    status = Path("/proc/self/status")
    if not status.is_file():
        raise Unavailable("memory is read from /proc: run this row on Linux")
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith(what))


def _child(function: str, arguments: str) -> None:
    module, name = function.split(":")
    work = getattr(importlib.import_module(module), name)
    start = resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is that of the imports
    result = work(**json.loads(arguments))
    found = {"result": result, "start_bytes": start, "peak_bytes": resident_bytes("VmHWM")}
    sys.stdout.write("\n" + json.dumps(found) + "\n")


def require(path: str, *, run: str) -> Path:
    """The absolute path of something in the checkout; raises Unavailable with the command that makes it."""
    if not Path(path).exists():
        raise Unavailable(f"{path} is not there. Run: {run}")
    return Path(path).resolve()


def entries(row: Row, machine: Machine, measured: Measured) -> list[dict[str, Any]]:
    """A row's results as they stand in the JSON; spread is the smallest and the largest value."""
    first = _entry(row.name, row, machine, measured.values)
    if row.goal is not None:
        middle = statistics.median(measured.values)
        first["met"] = middle <= row.goal if row.better == "lower" else middle >= row.goal
    first["note"] = measured.note
    if measured.details:
        first["details"] = dict(measured.details)
    others = [
        _entry(name, row, machine, values) | {"goal": None, "unit": measured.units.get(name, row.unit)}
        for name, values in measured.also.items()
    ]
    return [first, *others]


def _entry(name: str, row: Row, machine: Machine, values: Sequence[float]) -> dict[str, Any]:
    assert len(values) >= RUNS, f"{name}: {len(values)} runs, at least {RUNS} are wanted"
    return {
        "name": name,
        "measured": round(statistics.median(values), 4),
        "goal": row.goal,
        "unit": row.unit,
        "better": row.better,
        "device": machine.name,
        "runs": len(values),
        "spread": [round(min(values), 4), round(max(values), 4)],
        "met": None,
        "note": "",
    }


def failed(row: Row, machine: Machine, error: BaseException) -> dict[str, Any]:
    """A row without a value; the note is the reason."""
    reason = str(error).strip().splitlines() or [type(error).__name__]
    said = reason[0] if isinstance(error, Unavailable) else f"{type(error).__name__}: {reason[0]}"
    return {
        "name": row.name,
        "measured": None,
        "goal": row.goal,
        "unit": row.unit,
        "better": row.better,
        "device": machine.name,
        "runs": 0,
        "spread": None,
        "met": None if row.goal is None else False,
        "note": f"not measured: {said}",
    }


def merged(old: Iterable[Mapping[str, Any]], new: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Old results with new ones in their places, by name and device; new names at the end.

    A row that could not be measured this time keeps the value it had.
    """
    found = {(item["name"], item["device"]): dict(item) for item in old}
    for item in new:
        key = (item["name"], item["device"])
        if item["measured"] is not None or key not in found:
            found[key] = dict(item)
    return list(found.values())


def table(entries: Iterable[Mapping[str, Any]]) -> str:
    """Markdown, a row a result."""
    lines = ["| row | measured (all runs) | goal | met | device | note |", "| --- | --- | --- | --- | --- | --- |"]
    for item in entries:
        value = "failed"
        if item["measured"] is not None:
            low, high = item["spread"]
            value = f"**{item['measured']:.3g}** ({low:.3g} to {high:.3g})"
        goal = "" if item["goal"] is None else f"{'≤' if item['better'] == 'lower' else '≥'} {item['goal']:g}"
        met = {True: "yes", False: "no", None: ""}[item["met"]]
        lines.append(
            f"| {item['name']}, {item['unit']} | {value} | {goal} | {met} | {item['device']} | {item['note']} |"
        )
    return "\n".join(lines) + "\n"


def save(entries: Sequence[Mapping[str, Any]], path: Path) -> list[dict[str, Any]]:
    """Merge `entries` into the JSON at `path` and write the table beside it; returns all results."""
    old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    together = merged(old, entries)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(together, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(table(together), encoding="utf-8")
    return together


if __name__ == "__main__":
    _child(sys.argv[1], sys.argv[2])
