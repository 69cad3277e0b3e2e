"""The `fuse` stage: its kernel beside one sort of the same ids, its threads, and its memory.

Three made-up teachers with lists of 32, fused to 32. The sort is the least that joining lists takes: all ids of a row,
each packed with its probability in one 64-bit integer. Threads and memory are measured on whole stores, each in a
process of its own.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.harness import RUNS, Machine, Measured, Row, alternate, isolated
from benchmarks.store.simulated import VOCABULARY, Form, simulate
from storage.work import Workspace

TEACHERS = ("one", "two", "three")
KEEP = 32
PLAIN = Form(name="topk", most=KEEP, floor=0.0, rank=0)
LOW_RANK = Form(name="topk, low rank", most=KEEP, floor=0.0, rank=16)

KERNEL_ROWS = 32_768
"""Rows a timing of the kernel: a tenth of a second."""

SHARD_ROWS = 16_384
SHARDS = 8
"""Of the stores that threads are compared on: half a second with one thread."""

FEW_SHARDS = 5
"""Of the smaller of the stores that memory is compared on: more than two threads hold at once."""

TEMPERATURE = 1.1


def _bias(seed: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Log of a tail prior."""
    rng = np.random.default_rng(seed)
    return np.log(rng.dirichlet(np.full(VOCABULARY, 0.5)) + 1e-12)


def measure_kernel(_machine: Machine, _folder: Path) -> Measured:
    """`fuse_shard` over one NumPy sort of the packed ids."""
    values = kernel_ratios(PLAIN)
    note = (
        "with AVX-512 NumPy sorts the 96 integers of a row in 0.2 to 0.3 microseconds; "
        "the kernel also translates, restores the tails, mixes, and sorts twice"
    )
    return Measured(values, note=note, also={"fuse-kernel-sketched": kernel_ratios(LOW_RANK)})


def kernel_ratios(form: Form) -> list[float]:
    """One thread, lists of `form`."""
    from pipeline.fuse.mixture import fuse_shard
    from pipeline.fuse.teacher import BLOCK_ROWS, Teacher

    records = [simulate(form, rows=KERNEL_ROWS, seed=seed)[0] for seed in range(len(TEACHERS))]
    teachers = [
        Teacher.of(
            np.arange(VOCABULARY),
            _bias(seed),
            np.random.default_rng(seed).normal(scale=0.1, size=(form.rank, VOCABULARY)),
            vocabulary=VOCABULARY,
            column=1,
            temperature=TEMPERATURE,
            weight_column=1,
        )
        for seed in range(len(TEACHERS))
    ]
    ids_PE = np.concatenate([record.ids_PK for record in records], axis=1).astype(np.uint64)
    bits_PE = np.concatenate([np.exp(record.logprob_PK) for record in records], axis=1).view(np.uint32)
    packed_PE = (ids_PE << np.uint64(32)) | bits_PE

    def sort() -> None:
        for start in range(0, len(packed_PE), BLOCK_ROWS):
            np.sort(packed_PE[start : start + BLOCK_ROWS], axis=1)

    def fused() -> None:
        fuse_shard(records, teachers, keep=KEEP, weighting="entropy", tau=1.0)

    return alternate(fused, sort)


def write_stores(folder: Path, *, shards: int) -> None:
    """Sequences, masks and three teachers' stores, `shards` shards of the train split each, under `folder`."""
    from pipeline.text.vocabulary import encode_tokens
    from storage.format.manifest import SplitPlan
    from storage.records.base import SPLITS
    from storage.records.logits import SparseLogits
    from storage.records.sequences import Masks, Sequences
    from storage.writer import StoreWriter

    folder.mkdir(parents=True)
    work, tokens = folder / ".work", [f"token{number}" for number in range(VOCABULARY)]
    none = {split: SplitPlan(rows=0, shard_rows=SHARD_ROWS) for split in SPLITS}
    plan = none | {"train": SplitPlan(rows=shards * SHARD_ROWS, shard_rows=SHARD_ROWS)}
    text = StoreWriter(
        folder / "sequences",
        Sequences,
        specs=Sequences.specs(tokens=8, vocabulary=VOCABULARY),
        splits=none,
        inputs={},
        parents={},
        workspace=Workspace(work),
    )
    with text:
        sequences = text.seal(facts={"vocabulary": VOCABULARY}, constants={"pieces_utf8": encode_tokens(tokens)})
    mask_writer = StoreWriter(
        folder / "masks",
        Masks,
        specs=Masks.specs(vocabulary=VOCABULARY),
        splits=plan,
        inputs={},
        parents={"sequences": sequences.identity},
        workspace=Workspace(work),
    )
    with mask_writer:
        for shard in mask_writer.missing():
            row = np.arange(shard.start, shard.stop)
            mask_writer.write(
                shard,
                Masks(
                    copy_P=np.zeros(len(row), np.uint16),
                    sequence_P=(row // 16).astype(np.uint32),
                    column_P=(row % 16).astype(np.uint16),
                    label_P=np.zeros(len(row), np.uint16),
                ),
            )
        masks = mask_writer.seal(facts={"vocabulary": VOCABULARY})
    for seed, name in enumerate(TEACHERS):
        record, order_V = simulate(PLAIN, rows=SHARD_ROWS, seed=seed)
        logits = StoreWriter(
            folder / "logits" / name,
            SparseLogits,
            specs=SparseLogits.specs(most=KEEP, draws=0, temperatures=2, rank=0, vocabulary=VOCABULARY),
            splits=plan,
            inputs={"teacher": name},
            parents={"masks": masks.identity},
            constants={"order_V": order_V},
            workspace=Workspace(work),
        )
        with logits:
            for shard in logits.missing():
                logits.write(shard, record)  # the same rows in every shard: it is their number that counts
            logits.seal(
                facts={
                    "vocabulary": VOCABULARY,
                    "keep": {"form": "topk", "k": KEEP},
                    "listed": [1.0],
                    "temperatures": [1.0, TEMPERATURE],
                    "calibration": {"temperature": TEMPERATURE, "nll": 3.0, "nll_raw": 3.1},
                },
                constants={
                    "pieces_utf8": encode_tokens(tokens),
                    "tail_bias_JV": np.tile(_bias(seed).astype(np.float32), (2, 1)),
                },
            )


def fuse_stores(folder: str, *, counts: Sequence[int]) -> list[float]:
    """Run the stage on `write_stores`' stores once for each number of threads; seconds of each."""
    from pipeline.core.config import decode
    from pipeline.executor.base import LocalExecutor
    from pipeline.fuse.fuse import fuse
    from pipeline.fuse.params import FusionParams
    from pipeline.text.corpus_view import MaskedSequences

    settings = {
        "teachers": list(TEACHERS), "weighting": "entropy", "tau": 1.0, "calibrated": True, "prior": "equal",
        "temperature": 1.0, "keep": KEEP,
    }  # fmt: skip
    params = decode(settings, FusionParams, where="fusions.benchmark")
    data, took = Path(folder), []
    for run, count in enumerate(counts):
        place = data / f"run{run}-{time.time_ns()}"
        place.mkdir()
        with contextlib.chdir(place):
            start = time.perf_counter()
            fuse(
                params,
                MaskedSequences.open_pair(data / "sequences", data / "masks"),
                logits=data / "logits",
                out=place / "fused",
                declared=TEACHERS,
                executor=LocalExecutor(threads=count),
            )
            took.append(time.perf_counter() - start)
    return took


def measure_threads(_machine: Machine, folder: Path) -> Measured:
    """One thread over two, run by run in one process."""
    write_stores(folder / "data", shards=SHARDS)
    order = [count for run in range(RUNS + 1) for count in ((1, 2) if run % 2 == 0 else (2, 1))]
    took = isolated("benchmarks.speed.fuse:fuse_stores", folder=str(folder / "data"), counts=order, threads=1).result
    ratios = []
    for run in range(1, RUNS + 1):
        pair = dict(zip(order[2 * run : 2 * run + 2], took[2 * run : 2 * run + 2], strict=True))
        ratios.append(pair[1] / pair[2])
    note = (
        "each thread reads, fuses and writes its own shards; by itself the kernel gains 13 to 53 % by a second thread, "
        "reading through Zarr nothing (most of it holds Python's lock): runtime.scheduler: processes has no such lock"
    )
    return Measured(ratios, note=note)


def measure_memory(_machine: Machine, folder: Path) -> Measured:
    """Peak resident memory of a process that fuses four times the shards, over that of one that fuses them once."""
    few, many = folder / "few", folder / "many"
    write_stores(few, shards=FEW_SHARDS)
    write_stores(many, shards=4 * FEW_SHARDS)

    def peak(data: Path) -> int:
        return isolated("benchmarks.speed.fuse:fuse_stores", folder=str(data), counts=[2], threads=1).peak_bytes

    ratios, bytes_few = [], 0
    for _ in range(RUNS):
        bytes_few = peak(few)
        ratios.append(peak(many) / bytes_few)
    return Measured(ratios, details={"peak_bytes": bytes_few, "predictions": FEW_SHARDS * SHARD_ROWS})


ROWS = (
    Row(name="fuse-kernel", goal=2.0, unit="fusion / sort", better="lower", device="cpu", measure=measure_kernel),
    Row(name="fuse-threads", goal=1.6, unit="one thread / two", better="higher", device="cpu", measure=measure_threads),
    Row(
        name="fuse-memory",
        goal=1.05,
        unit="peak at 4 times the predictions / at once",
        better="lower",
        device="cpu",
        measure=measure_memory,
    ),
)
