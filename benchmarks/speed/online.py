"""Distilling T teachers into S students: online, with every teacher in every step, against once through a store.

Online costs S times (T teacher forwards + a step). The store costs T teacher forwards, their sparse summaries, the
writing and one fusion, then S plain steps. In the measured cells both loops run on the same sequences; what is too
small to time for one step, writing and fusing, comes from whole stores in seconds a row. The other cells follow from
the parts, which the details give. One epoch: a second one runs all teachers online again, and none from the store.
Calibration and the start of processes are in neither. The third teacher is the second under another name.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from benchmarks.speed.harness import RUNS, Machine, Measured, Row, isolated, require, seconds
from benchmarks.speed.memory import TEACHERS, three_teachers, trained
from benchmarks.speed.train import SEQUENCES, Learner, default_stores, learner

if TYPE_CHECKING:
    from benchmarks.speed.online_distillation import Teacher
    from pipeline.sparse.params import Keep
    from pipeline.sparse.tail import TailShape

CELLS = ((1, 1), (2, 1), (3, 1), (2, 2))
"""Teachers and students that are measured; the first of three teachers carries the table."""

TABLE = (3, 1)
MOST_TEACHERS, MOST_STUDENTS = 3, 4

PART_RUNS = 3
"""Of each part of a step; the cells that are measured have more."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cast:
    """The teachers and students of a cell, in memory."""

    teachers: list[Teacher]
    keep: Keep
    shapes: list[TailShape]
    online: Learner
    stored: Learner
    write_row: float
    """Seconds to write a teacher's row, measured."""
    fuse_row: dict[int, float]
    """Seconds to fuse a row of so many teachers, measured: read, mixed and written."""

    def rows(self, number: int) -> int:
        """Masked positions of a step."""
        start_G1 = self.online.window.view.start_G1
        examples = self.online.examples[number]
        return int((start_G1[examples + 1] - start_G1[examples]).sum())


def models() -> dict[str, Path]:
    """Folder of each teacher."""
    sources = {name: "wordnet-rest" if name == "again" else name for name in TEACHERS}
    return {
        name: require(f"data/sources/{source}", run=f"dvc repro sources@{source}") for name, source in sources.items()
    }


def cast(machine: Machine, folder: Path, *, teachers: int) -> Cast:
    """Load what a cell needs; seconds a row come from stores written and fused under `folder`."""
    from pydantic import TypeAdapter

    from benchmarks.speed.online_distillation import load
    from pipeline.sparse.params import Keep
    from pipeline.sparse.tail import TailShape
    from storage.reader import Store
    from storage.records.logits import SparseLogits

    model, data = default_stores()
    names = list(models())[:teachers]
    three = three_teachers(folder)
    stores = [Store(folder / "logits" / name, SparseLogits) for name in names]
    people = [load(machine.kind, models()[name], data) for name in names]
    return Cast(
        teachers=people,
        keep=TypeAdapter(Keep).validate_python(stores[0].facts["keep"]),
        shapes=[TailShape.of_store(store, device=people[0].lm.device) for store in stores],
        online=learner(machine.kind, targets=None, model=model, data=data),
        stored=learner(machine.kind, targets=str(three), model=model, data=data),
        write_row=seconds_to_write(stores[0], folder),
        fuse_row={count: seconds_to_fuse(folder, count) for count in range(1, MOST_TEACHERS + 1)},
    )


def seconds_to_write(store: Any, folder: Path) -> float:
    """Seconds a row to encode, write, hash and seal the train split of a teacher's store."""
    from benchmarks.store.speed import write_store

    record = store.read("train")
    times = [
        write_store(
            folder / f"written-{run}",
            record,
            store.constant("order_V"),
            shard_rows=store.plan("train").shard_rows,
            names=(f"work-{run}", "train"),
        ).clock
        for run in range(3)
    ]
    return statistics.median(times) / len(record)


def seconds_to_fuse(folder: Path, teachers: int) -> float:
    """Seconds a row in steady state, one thread: from the first shard of the train split written to the last one.

    Read from the files' modification times; what a fusion does once, on a small store the most of it, is left out.
    """
    from pipeline.fuse.fuse import fuse
    from pipeline.fuse.params import FusionParams
    from pipeline.text.corpus_view import MaskedSequences

    data = require("data", run="dvc repro")
    params = FusionParams(
        teachers=list(TEACHERS[:teachers]),
        weighting="entropy",
        tau=1.0,
        calibrated=True,
        prior="equal",
        temperature=1.0,
        keep=64,
    )
    out = folder / "fused" / str(teachers)
    with contextlib.chdir(folder):  # a store grows in .work of the current folder
        made = fuse(
            params,
            MaskedSequences.open_pair(data / "sequences", data / "masks"),
            logits=folder / "logits",
            out=out,
            declared=TEACHERS,
        )
    plan = made.splits["train"]
    written = [path.stat().st_mtime_ns for path in (out / "train").glob("*/c/**/*") if path.is_file()]
    return (max(written) - min(written)) / 1e9 / (plan.rows - plan.shard_rows)


def measure(machine: Machine, folder: Path, *, teachers: int, students: int) -> Measured:
    """Wall-clock through the store over wall-clock online; with the table where the cell is `TABLE`."""
    people = cast(machine, folder, teachers=teachers)
    count = len(people.online.examples)
    pairs = []
    for run in range(-1, RUNS):  # the first is a warm-up
        number = run % count

        def online(number: int = number) -> None:
            from benchmarks.speed.online_distillation import online_step

            for _ in range(students):
                online_step(people.online, people.teachers, people.online.examples[number])

        def stored(number: int = number) -> None:
            for teacher, shape in zip(people.teachers, people.shapes, strict=True):
                teacher.teach(people.online.examples[number], keep=people.keep, shape=shape)
            people.stored.steps(students)

        took = timed_pair(stored, online, machine=machine, swap=run % 2 == 0)
        rest = people.rows(number) * (teachers * people.write_row + people.fuse_row[teachers])
        log.debug("pair %d: %.3f + %.3f s / %.3f s", run, took[0], rest, took[1])
        if run >= 0:
            pairs.append((took[0] + rest, took[1]))
    details: dict[str, Any] = {"write_row_seconds": people.write_row, "fuse_row_seconds": people.fuse_row}
    if (teachers, students) == TABLE:
        details |= parts(people, machine)
        details["memory"] = memory(machine)
    note = f"{SEQUENCES[machine.kind]} sequences a step; writing and fusing from seconds a row"
    return Measured([ours / plain for ours, plain in pairs], note, details)


def timed_pair(
    ours: Callable[[], None], other: Callable[[], None], *, machine: Machine, swap: bool
) -> tuple[float, float]:
    """Seconds of each, the second first when `swap`."""
    if swap:
        later = seconds(other, machine=machine)
        return seconds(ours, machine=machine), later
    return seconds(ours, machine=machine), seconds(other, machine=machine)


def parts(people: Cast, machine: Machine) -> dict[str, Any]:
    """Median seconds of a step's parts, and from them the ratio of every cell and where the store breaks even.

    The rows online-* have the measured ratios of their cells.
    """
    from benchmarks.speed.online_distillation import online_step

    examples, rows = people.online.examples[0], people.rows(0)

    def median(work: Callable[[], object]) -> float:
        return statistics.median(seconds(work, machine=machine) for _ in range(PART_RUNS))

    online = {
        count: median(functools.partial(online_step, people.online, people.teachers[:count], examples))
        for count in range(1, MOST_TEACHERS + 1)
    }
    forward = median(lambda: people.teachers[0].ask(examples))
    teach = median(lambda: people.teachers[0].teach(examples, keep=people.keep, shape=people.shapes[0]))
    step = median(lambda: people.stored.steps(1))
    once = {count: count * (teach + rows * people.write_row) + rows * people.fuse_row[count] for count in online}
    table = [
        {
            "teachers": count,
            "students": students,
            "wall": round((once[count] + students * step) / (students * online[count]), 3),
            "kind": "derived",
        }
        for count in online
        for students in range(1, MOST_STUDENTS + 1)
    ]
    return {
        "seconds": {"teacher_forward": forward, "teach": teach, "student_step": step, "online_step": online},
        "sequences": SEQUENCES[machine.kind],
        "rows": rows,
        "tokens": int(people.online.window.view.lengths_G()[examples].sum()),
        "table": table,
        "break_even_students": {count: round(once[count] / (online[count] - step), 3) for count in online},
    }


def memory(machine: Machine) -> dict[str, Any]:
    """Peak bytes of processes: online with 1 to 3 teachers, teaching, training; and the ratio, store to online."""
    model, data = default_stores()
    names = [str(path) for path in models().values()]

    def peak(function: str, **arguments: Any) -> int:
        child = isolated(f"benchmarks.speed.{function}", kind=machine.kind, data=str(data), **arguments)
        return int(child.result) or child.peak_bytes

    online = {
        count: peak("online:online_process", model=str(model), teachers=names[:count])
        for count in range(1, MOST_TEACHERS + 1)
    }
    teach = peak("online:teach_process", teacher=names[0])
    train = peak(f"memory:{trained.__name__}", model=str(model), targets=str(data / "targets/confident"))
    ratios = {count: round(max(teach, train) / most, 3) for count, most in online.items()}
    return {"online_bytes": online, "teach_bytes": teach, "train_bytes": train, "store_to_online": ratios}


def online_process(kind: Literal["cpu", "cuda"], model: str, data: str, teachers: list[str]) -> int:
    """Two online steps; returns the peak of the accelerator's memory in bytes, 0 on a CPU. Runs in a child."""
    from benchmarks.speed.online_distillation import load, online_step

    student = learner(kind, targets=None, model=Path(model), data=Path(data))
    people = [load(kind, Path(teacher), Path(data)) for teacher in teachers]
    for number in range(2):
        online_step(student, people, student.examples[number])
    return _accelerator_peak(kind)


def teach_process(kind: Literal["cpu", "cuda"], data: str, teacher: str) -> int:
    """One teacher's answers to two steps, summarised; returns as `online_process`."""
    from pydantic import TypeAdapter

    from benchmarks.speed.online_distillation import load
    from pipeline.sparse.params import Keep
    from pipeline.sparse.tail import TailShape
    from storage.reader import Store
    from storage.records.logits import SparseLogits

    store = Store(Path(data) / "logits" / Path(teacher).name, SparseLogits)
    asked = load(kind, Path(teacher), Path(data))
    shape = TailShape.of_store(store, device=asked.lm.device)
    keep: Keep = TypeAdapter(Keep).validate_python(store.facts["keep"])
    for number in range(2):
        asked.teach(np.arange(SEQUENCES[kind]) + number * SEQUENCES[kind], keep=keep, shape=shape)
    return _accelerator_peak(kind)


def _accelerator_peak(kind: Literal["cpu", "cuda"]) -> int:
    if kind == "cpu":
        return 0
    import torch

    return int(torch.cuda.max_memory_allocated())


ROWS = tuple(
    Row(
        name=f"online-{teachers}x{students}",
        goal=None,
        unit=f"{teachers} teachers, {students} students: time through the store / online",
        better="lower",
        device="any",
        measure=functools.partial(measure, teachers=teachers, students=students),
    )
    for teachers, students in CELLS
)
