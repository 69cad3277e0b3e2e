"""Processes beside each other, pair by pair: this checkout and another commit's, with and without other work beside it.

Each side is a process of its own with its own packages, started once; both wait while the other computes. The other
commit is the folder in the environment variable `BENCH_AGAINST`, a worktree: git worktree add FOLDER COMMIT.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from benchmarks.speed.harness import CODE, RUNS, Machine, Measured, Row, Unavailable, alternate, seconds

FOLDER = "BENCH_AGAINST"
PAIRS = 15

SEQUENCES = 3
"""Of a step: about the 256 tokens of the default run."""

BLOCK = 6
"""Steps a timing."""

SPIN_BY_DEFAULT = "300000"
"""GOMP_SPINCOUNT of a process that sets nothing and has no more threads than cores."""


def serve(work: Callable[[], object]) -> None:
    """Do `work` once for each line of standard input, and say when it is done."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for _ in sys.stdin:
        work()
        sys.stdout.write("done\n")
        sys.stdout.flush()


def serve_train() -> None:
    """`BLOCK` steps of the default run's student, from the fused store."""
    import numpy as np

    from benchmarks.speed.train import default_stores, learner

    model, data = default_stores()
    ours = learner("cpu", targets=str(data / "targets/confident"), model=model, data=data)
    examples = np.concatenate(ours.examples)
    ours.examples[:] = np.split(examples[: len(examples) // SEQUENCES * SEQUENCES], len(examples) // SEQUENCES)
    serve(lambda: ours.steps(BLOCK))


def serve_teach() -> None:
    """The forwards of a teacher over two shards, with its head, as the stage has the model."""
    import tempfile

    import torch

    from benchmarks.speed.harness import processor, require
    from benchmarks.speed.teach import MODEL, fast_type, forward, shard_inputs, small_stores, tensors
    from pipeline.models.masked_lm import masked_lm

    machine = processor()
    dtype, model = fast_type(machine), require(MODEL, run="make repro")
    with tempfile.TemporaryDirectory() as folder, masked_lm(model, device=torch.device("cpu"), dtype=dtype) as lm:
        shards = shard_inputs(model, lm, small_stores(Path(folder), "cpu"), machine)
        batches = tensors(lm, shards[0])
        serve(lambda: forward(lm, batches, head=True))


@contextmanager
def side(what: str, folder: Path, **environment: str) -> Iterator[Callable[[], None]]:
    """A process that serves `what` with the packages in `folder`; yields a function that has it work once."""
    source = Path(__file__).read_text(encoding="utf-8")
    # `stages` first, as in every command: it sets how threads wait.
    code = f"import stages; exec(compile({source!r}, 'against', 'exec')); serve_{what}()"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, **environment, "PYTHONPATH": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    questions: IO[str] = process.stdin
    answers: IO[str] = process.stdout

    def work() -> None:
        questions.write("go\n")
        questions.flush()
        expect("done")

    def expect(word: str) -> None:
        if (said := answers.readline().strip()) != word:
            raise RuntimeError(f"{folder}: {what} ended: {said}")

    try:
        expect("ready")
        yield work
    finally:
        questions.close()
        process.wait()


def measure(what: str) -> Measured:
    """Seconds of the other commit over ours: how many times faster this checkout is."""
    if FOLDER not in os.environ:
        raise Unavailable(f"{FOLDER} names no worktree of the commit to compare with")
    folder = Path(os.environ[FOLDER]).absolute()
    named = ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(named, check=True, capture_output=True, text=True)
    with side(what, folder) as theirs, side(what, CODE) as ours:
        values = alternate(theirs, ours, runs=PAIRS, warmup=2)
    return Measured(values, note=f"commit {commit.stdout.strip()} on the other side")


def measure_busy(_machine: Machine, _folder: Path) -> Measured:
    """Steps with one busy process beside them over steps without; before, with threads that spin as long as they do."""
    with side("train", CODE) as ours, side("train", CODE, GOMP_SPINCOUNT=SPIN_BY_DEFAULT) as spinning:
        ours()
        spinning()
        values = [_beside_a_busy_process(ours) / seconds(ours) for _ in range(RUNS)]
        before = [_beside_a_busy_process(spinning) / seconds(spinning) for _ in range(RUNS)]
    return Measured(values, also={"train-busy-spinning": before})


def measure_wait(_machine: Machine, _folder: Path) -> Measured:
    """What the short wait costs on an idle machine: steps with it over steps with the long one."""
    with side("train", CODE) as ours, side("train", CODE, GOMP_SPINCOUNT=SPIN_BY_DEFAULT) as spinning:
        return Measured(alternate(ours, spinning, runs=PAIRS, warmup=2))


def _beside_a_busy_process(work: Callable[[], None]) -> float:
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        return seconds(work)
    finally:
        busy.kill()
        busy.wait()


def _train(_machine: Machine, _folder: Path) -> Measured:
    return measure("train")


def _teach(_machine: Machine, _folder: Path) -> Measured:
    return measure("teach")


ROWS = (
    Row(name="train-against", goal=1.3, unit="step before / step now", better="higher", device="cpu", measure=_train),
    Row(
        name="teach-against", goal=None, unit="forward before / forward now", better="higher", device="cpu",
        measure=_teach,
    ),
    Row(
        name="train-busy", goal=2.5, unit="step beside a busy process / step alone", better="lower", device="cpu",
        measure=measure_busy,
    ),
    Row(
        name="train-wait", goal=1.03, unit="step / step of threads that spin long", better="lower", device="cpu",
        measure=measure_wait,
    ),
)  # fmt: skip
