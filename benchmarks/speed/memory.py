"""Peak memory of `train`: with the targets of one, two and three teachers over labels only.

Each is a process of its own that trains a few steps: on a CPU its largest resident memory, everything included; on a
GPU what the tensors take at most. There are two teachers in the default run; the third is the second one's store again,
under another name, which fusion treats as any third.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from pathlib import Path
from typing import Literal

from benchmarks.speed.harness import RUNS, Machine, Measured, Row, isolated, require
from benchmarks.speed.train import default_stores, learner

TEACHERS = ("wordnet-things", "wordnet-rest", "again")
"""Of the three-teacher store; the last is the one before it."""

STEPS = 3
"""Memory has its peak in the first step with an optimiser state, the second."""

SHARD_COLUMNS = ("ids_PM", "logprob_PM", "tail_PT", "sketch_PTD")
"""What training keeps of a window of predictions."""

log = logging.getLogger(__name__)


def three_teachers(folder: Path) -> Path:
    """A store fused from three teachers under `folder`, in the form of the default run."""
    from pipeline.fuse.fuse import fuse
    from pipeline.fuse.params import FusionParams
    from pipeline.text.corpus_view import MaskedSequences

    logits = folder / "logits"
    for name in TEACHERS:
        source = "wordnet-rest" if name == "again" else name
        shutil.copytree(require(f"data/logits/{source}", run=f"dvc repro teach@{source}"), logits / name)
    data = require("data", run="dvc repro")
    params = FusionParams(
        teachers=list(TEACHERS), weighting="entropy", tau=1.0, calibrated=True, prior="equal", temperature=1.0, keep=64
    )
    with contextlib.chdir(folder):  # a store grows in .work of the current folder
        fuse(
            params,
            MaskedSequences.open_pair(data / "sequences", data / "masks"),
            logits=logits,
            out=folder / "targets" / "three",
            declared=TEACHERS,
        )
    return folder / "targets" / "three"


def trained(kind: Literal["cpu", "cuda"], model: str, data: str, targets: str | None) -> int:
    """Train a few steps; returns the peak of the accelerator's memory in bytes, 0 on a CPU. Runs in a child."""
    student = learner(kind, targets=targets, model=Path(model), data=Path(data))
    student.steps(STEPS)
    if kind == "cpu":
        return 0
    import torch

    return int(torch.cuda.max_memory_allocated())


def peak_bytes(machine: Machine, model: Path, data: Path, targets: Path | None) -> int:
    """Peak memory of a training process."""
    child = isolated(
        "benchmarks.speed.memory:trained",
        kind=machine.kind,
        model=str(model),
        data=str(data),
        targets=None if targets is None else str(targets),
    )
    return int(child.result) or child.peak_bytes


def measure(machine: Machine, folder: Path) -> Measured:
    """The three-teacher store against labels only; the others once, in the details."""
    model, data = default_stores()
    stores = {
        1: require("data/targets/only-things", run="dvc repro fuse@only-things"),
        2: data / "targets/confident",
        3: three_teachers(folder),
    }
    pairs = []
    for run in range(RUNS):
        pairs.append((peak_bytes(machine, model, data, stores[3]), peak_bytes(machine, model, data, None)))
        log.debug("pair %d: %d / %d bytes", run, *pairs[-1])
    labels = sorted(reference for _, reference in pairs)[len(pairs) // 2]
    fewer = {count: round(peak_bytes(machine, model, data, stores[count]) / labels, 4) for count in (1, 2)}
    details = {
        "labels_bytes": labels,
        "teachers": fewer,
        "window_bytes_per_prediction": window_bytes(stores),
    }
    note = f"three teachers; one {fewer[1]}, two {fewer[2]}; labels {labels / 2**20:.0f} MiB"
    return Measured([ours / reference for ours, reference in pairs], note, details)


def window_bytes(stores: dict[int, Path]) -> dict[int, float]:
    """Bytes that training keeps of each prediction in its window, by number of teachers."""
    from storage.reader import Store
    from storage.records.targets import FusedTargets

    sizes = {}
    for count, path in stores.items():
        arrays = Store(path, FusedTargets).shard("heldout", 0).arrays()
        sizes[count] = sum(arrays[name].nbytes for name in SHARD_COLUMNS) / len(arrays["ids_PM"])
    return sizes


ROWS = (
    Row(
        name="train-memory",
        goal=1.05,
        unit="peak with three teachers' targets / peak with labels only",
        better="lower",
        device="any",
        measure=measure,
    ),
)
