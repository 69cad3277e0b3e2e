"""Rows a second of the store beside np.memmap, Arrow and Parquet, on one core, in one run.

    python -m benchmarks.store.speed --rows 524288 --out reports/store.json

Every format holds the same lists. Ours holds quantised values, the statistics a student needs and checksums, and is
read as its users read it: a fresh `Store`, every file hashed and compared with the manifest, decoded into records,
checked. The others hold plain uint16 ids and float16 log-probabilities with offsets, nothing else, and are read into
numpy arrays, unchecked. All of it lies in the page cache and the process is bound to one core; times are medians of
`--repeat`, by the clock and by the processor time of all threads, which says more when others share the machine. The
lists are made up (`benchmarks.store.simulated`) unless `--logits` names a store, whose lists are then repeated as often
as rows are wanted.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.store.plain import PEERS, Lists, lists_of
from benchmarks.store.simulated import FORMS, Form, simulate
from storage.format.manifest import SplitPlan
from storage.reader import Store
from storage.records.logits import SparseLogits
from storage.work import Workspace
from storage.writer import StoreWriter

GOALS = {"read rows/s, top-32": 1_000_000, "write rows/s, top-32": 300_000, "seconds to open 1000 shards": 0.5}


@dataclass(frozen=True, kw_only=True, slots=True)
class Times:
    """Seconds of one run: by the clock, and of the processor in all threads."""

    clock: float
    processor: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Repeated runs of one format, and the bytes it takes."""

    writes: list[Times]
    reads: list[Times]
    bytes: int


def real(path: Path, *, rows: int) -> tuple[SparseLogits, NDArray[np.uint32], Form]:
    """The answered rows of a store's first split, repeated, with its order of ids and its form."""
    store = Store(path, SparseLogits)
    split = next(name for name, plan in store.manifest.splits.items() if plan.rows)
    found = store.read(split)
    kept = np.resize(np.flatnonzero(found.covered_P()), rows)
    record = SparseLogits.from_arrays({name: array[kept] for name, array in found.arrays().items()})
    form = Form(name=path.name, most=record.ids_PK.shape[1], floor=0.0, rank=record.sketch_PD.shape[1])
    return record, store.constant("order_V"), form


def write_store(
    out: Path, record: SparseLogits, order_V: NDArray[np.uint32], *, shard_rows: int, names: tuple[str, str]
) -> Times:
    """Write a store and seal it; the time of that without making the writer's folder."""
    work, split = names
    specs = SparseLogits.specs(
        most=record.ids_PK.shape[1],
        draws=record.drawn_ids_PS.shape[1],
        temperatures=record.tail_PJ.shape[1],
        rank=record.sketch_PD.shape[1],
        vocabulary=len(order_V),
    )
    writer = StoreWriter(
        out,
        SparseLogits,
        specs=specs,
        splits={split: SplitPlan(rows=len(record), shard_rows=shard_rows)},
        inputs={},
        parents={},
        constants={"order_V": order_V},
        workspace=Workspace(out.parent / work),
    )

    def write() -> None:
        for shard in writer.missing():
            part = {name: array[shard.start : shard.stop] for name, array in record.arrays().items()}
            writer.write(shard, SparseLogits(**part))
        writer.seal(facts={})

    with writer:
        return timed(write)


def read_store(path: Path, split: str) -> int:
    """Open a store and read it shard by shard; rows read."""
    store = Store(path, SparseLogits)
    return sum(len(store.shard(split, index)) for index in range(store.plan(split).shards))


def measure_peer(name: str, lists: Lists, *, folder: Path, shard_rows: int, repeat: int) -> Measured:
    """Times to write and to read, and bytes; what was read is compared with what was written."""
    write, read, options = PEERS[name]
    writes = []
    for _ in range(repeat):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        writes.append(timed(lambda: write(folder, lists, shard_rows=shard_rows, **options)))
    reads = [timed(lambda: read(folder)) for _ in range(repeat)]
    found: tuple[NDArray[Any], ...] = read(folder)
    expected: tuple[NDArray[Any], ...] = lists
    for one, other in zip(found, expected, strict=True):
        assert one.tobytes() == other.tobytes(), name
    size = sum(path.stat().st_size for path in folder.iterdir())
    return Measured(writes=writes, reads=reads, bytes=size)


def measure_store(
    record: SparseLogits, order_V: NDArray[np.uint32], *, folder: Path, shard_rows: int, repeat: int
) -> Measured:
    """The same for our store; constants and manifest count as bytes."""
    writes = []
    for turn in range(repeat):
        shutil.rmtree(folder, ignore_errors=True)
        names = (f"work-{turn}", "train")
        writes.append(write_store(folder / "store", record, order_V, shard_rows=shard_rows, names=names))
    reads = [timed(lambda: read_store(folder / "store", "train")) for _ in range(repeat)]
    size = sum(path.stat().st_size for path in (folder / "store").rglob("*") if path.is_file())
    return Measured(writes=writes, reads=reads, bytes=size)


def measure_open(*, folder: Path, shards: int, repeat: int) -> dict[str, float]:
    """Seconds to open a store of `shards` shards of four rows, and bytes of its manifest."""
    shutil.rmtree(folder, ignore_errors=True)
    record, order_V = simulate(FORMS[1], rows=4 * shards)
    write_store(folder / "store", record, order_V, shard_rows=4, names=("work", "train"))
    seconds = [timed(lambda: Store(folder / "store", SparseLogits)) for _ in range(repeat)]
    size = (folder / "store" / "manifest.json").stat().st_size
    return {"shards": shards, "open_seconds": median(seconds, "clock"), "manifest_bytes": size}


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Bind this process, and the threads it begins, to one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def timed(work: Callable[[], object]) -> Times:
    """Seconds that `work` takes."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return Times(clock=time.perf_counter() - clock, processor=time.process_time() - processor)


def median(times: list[Times], of: str) -> float:
    """Of one of the two clocks."""
    return float(statistics.median(getattr(one, of) for one in times))


def measure(
    record: SparseLogits, order_V: NDArray[np.uint32], form: Form, *, folder: Path, shard_rows: int, repeat: int
) -> list[dict[str, Any]]:
    """One entry a format; rows a second and bytes a row."""
    lists = lists_of(record)
    found = {"ours": measure_store(record, order_V, folder=folder / "ours", shard_rows=shard_rows, repeat=repeat)}
    for name in PEERS:
        found[name] = measure_peer(name, lists, folder=folder / "peer", shard_rows=shard_rows, repeat=repeat)
    return [
        {
            "form": form.name,
            "format": name,
            "read_rows_per_second": round(len(record) / median(times.reads, "clock")),
            "read_rows_per_processor_second": round(len(record) / median(times.reads, "processor")),
            "write_rows_per_second": round(len(record) / median(times.writes, "clock")),
            "write_rows_per_processor_second": round(len(record) / median(times.writes, "processor")),
            "bytes_per_row": round(times.bytes / len(record), 2),
        }
        for name, times in found.items()
    ]


def table(report: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        "| lists | format | read, M rows a second (of processor time) | write | bytes a row |",
        "| --- | --- | --- | --- | --- |",
    ]
    for entry in report["formats"]:
        speeds = [
            f"{entry[f'{what}_rows_per_second'] / 1e6:.2f} ({entry[f'{what}_rows_per_processor_second'] / 1e6:.2f})"
            for what in ("read", "write")
        ]
        lines.append(f"| {entry['form']} | {entry['format']} | {' | '.join(speeds)} | {entry['bytes_per_row']:.1f} |")
    opened = report["opening"]
    lines += ["", f"Opening a store of {opened['shards']} shards: {1000 * opened['open_seconds']:.0f} ms"]
    return "\n".join(lines)


@click.command()
@click.option("--rows", type=click.IntRange(min=1), default=524_288, show_default=True)
@click.option("--shard-rows", type=click.IntRange(min=1), default=65_536, show_default=True)
@click.option("--shards", type=click.IntRange(min=1), default=1000, show_default=True, help="Of the store to open.")
@click.option("--repeat", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--logits", type=click.Path(path_type=Path, exists=True), help="A store whose lists to take.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write; the table goes beside it.")
def main(rows: int, shard_rows: int, shards: int, repeat: int, logits: Path | None, out: Path) -> None:
    """Measure the store beside plain formats."""
    formats: list[dict[str, Any]] = []
    load = round(os.getloadavg()[0], 1)
    with one_core(), tempfile.TemporaryDirectory() as name:
        size: dict[str, Any] = {"folder": Path(name), "shard_rows": shard_rows, "repeat": repeat}
        if logits is not None:
            record, order_V, form = real(logits, rows=rows)
            formats += measure(record, order_V, form, **size)
        else:
            for form in FORMS:
                formats += measure(*simulate(form, rows=rows), form=form, **size)
        opening = measure_open(folder=Path(name) / "open", shards=shards, repeat=repeat)
    report = {
        "rows": rows,
        "shard_rows": shard_rows,
        "repeat": repeat,
        "lists": "simulated" if logits is None else logits.name,
        "machine": {"processor": platform.machine(), "cores_used": 1, "load": load},
        "goals": GOALS,
        "formats": formats,
        "opening": opening,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(table(report) + "\n", encoding="utf-8")
    click.echo(table(report))


if __name__ == "__main__":
    main()
