"""What training and teaching read before their first step, and keep in memory, on stores of any number of tokens.

    python -m benchmarks.scaling.reading --model data/sources/minilm-l6-mlm --work FOLDER --tokens 10000000

Stores are simulated: every sequence has 128 tokens, 18 of them masked; one shard of sequences and one of targets of
three teachers is made, and all others are links to it, so a billion tokens take a gigabyte on disk. Readers notice
nothing: they read, check and decode every shard that they would. Adds to reports/growth.json under `reading`, one
process a line: seconds, and the peak memory of the process, libraries included.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import click
import numpy as np

from storage.format.manifest import FileEntry, SplitPlan
from storage.records.base import SPLITS, Record, id_dtype
from storage.records.sequences import Masks, Sequences
from storage.records.targets import FusedTargets
from storage.work import Workspace
from storage.writer import StoreWriter

TOKENS, MASKED = 128, 18
"""Of each sequence."""
SEQUENCE_SHARD, MASK_SHARD = 8192, 65_536 // MASKED * MASKED
"""Rows of a shard: whole sequences."""
HELDOUT_SEQUENCES = 32
KEEP, TEACHERS, RANK = 16, 3, 16
STEP_TOKENS = 8192
WINDOWS = 6
"""Windows that are read to measure memory: more than are held at once."""


def simulate(folder: Path, tokens: int, *, model: Path) -> None:
    """Write the stores `sequences`, `masks` and `targets` under `folder`, of about `tokens` tokens."""
    from pipeline.text.tokenizer import load_tokenizer
    from pipeline.text.vocabulary import encode_tokens

    tokenizer, rng = load_tokenizer(model), np.random.default_rng(0)
    vocabulary = len(tokenizer.tokens)
    rows = {"train": -(-tokens // TOKENS // SEQUENCE_SHARD) * SEQUENCE_SHARD}
    rows |= {"calibration": HELDOUT_SEQUENCES, "heldout": HELDOUT_SEQUENCES}
    ids_NL = rng.integers(vocabulary // 2, vocabulary, (SEQUENCE_SHARD, TOKENS)).astype(id_dtype(vocabulary))
    nothing = np.zeros((SEQUENCE_SHARD, TOKENS), np.int32)
    sequences = Sequences(
        document_N=np.arange(SEQUENCE_SHARD, dtype=np.uint32),
        window_N=np.zeros(SEQUENCE_SHARD, np.uint32),
        length_N=np.full(SEQUENCE_SHARD, TOKENS, np.uint16),
        input_ids_NL=ids_NL,
        word_NL=nothing.astype(np.int16),
        char_start_NL=nothing,
        char_end_NL=nothing,
    )
    identity = _write(
        folder / "sequences",
        sequences,
        specs=Sequences.specs(tokens=TOKENS, vocabulary=vocabulary),
        splits={split: SplitPlan(rows=rows[split], shard_rows=SEQUENCE_SHARD) for split in SPLITS},
        facts={"vocabulary": vocabulary, "tokens": TOKENS, "special": tokenizer.special},
        constants={"pieces_utf8": encode_tokens(tokenizer.tokens)},
    )
    splits = {split: SplitPlan(rows=rows[split] * MASKED, shard_rows=MASK_SHARD) for split in SPLITS}
    column_M = np.arange(2, 2 + 7 * MASKED, 7)
    masks = StoreWriter(
        folder / "masks",
        Masks,
        specs=Masks.specs(vocabulary=vocabulary),
        splits=splits,
        inputs={},
        parents={"sequences": identity},
        workspace=Workspace(folder / ".work"),
    )
    with masks:
        for shard in masks.missing():
            row_P = np.arange(shard.start, shard.stop) // MASKED
            column_P = np.tile(column_M, len(row_P) // MASKED)
            masks.write(
                shard,
                Masks(
                    copy_P=np.zeros(len(row_P), np.uint16),
                    sequence_P=row_P.astype(np.uint32),
                    column_P=column_P.astype(np.uint16),
                    label_P=ids_NL[row_P % SEQUENCE_SHARD, column_P],
                ),
            )
        masks.seal(facts={"vocabulary": vocabulary})
    bias_TV = np.full((TEACHERS, vocabulary), -np.log(vocabulary), np.float32)
    _write(
        folder / "targets",
        _targets(rng, vocabulary),
        specs=FusedTargets.specs(keep=KEEP, teachers=TEACHERS, rank=RANK, vocabulary=vocabulary),
        splits=splits,
        facts={"vocabulary": vocabulary, "temperature": 1.0},
        parents={"masks": masks.identity},
        encoding={"order_V": np.arange(vocabulary, dtype=np.uint32)},
        constants={
            "tail_bias_TV": bias_TV,
            "tail_basis_TDV": rng.normal(0, 0.1, (TEACHERS, RANK, vocabulary)).astype(np.float16),
        },
    )


def _targets(rng: np.random.Generator, vocabulary: int) -> FusedTargets:
    """One shard of rows of `KEEP` entries that fall by a constant factor, a tenth of the mass outside them."""
    rows = MASK_SHARD
    p_M = 0.7 ** np.arange(KEEP)
    logprob_PM = np.tile(np.log(0.9 * p_M / p_M.sum()).astype(np.float32), (rows, 1))
    ids_PM = (rng.integers(vocabulary, size=(rows, 1)) + 1009 * np.arange(KEEP)) % vocabulary
    return FusedTargets(
        ids_PM=ids_PM.astype(id_dtype(vocabulary)),
        logprob_PM=logprob_PM,
        weight_PT=np.full((rows, TEACHERS), 1 / TEACHERS, np.float32),
        tail_PT=np.full((rows, TEACHERS), 0.1 / TEACHERS, np.float32),
        gold_logprob_P=logprob_PM[:, 0],
        sketch_PTD=rng.integers(-15, 16, (rows, TEACHERS, RANK)).astype(np.int8),
    )


def _write(
    out: Path,
    whole: Record,
    *,
    specs: Any,
    splits: dict[str, SplitPlan],
    facts: dict[str, Any],
    constants: dict[str, Any],
    parents: dict[str, str] | None = None,
    encoding: dict[str, Any] | None = None,
) -> str:
    """Seal a store all of whose whole train shards are links to the first; its identity."""
    writer = StoreWriter(
        out,
        type(whole),
        specs=specs,
        splits=splits,
        inputs={},
        parents=parents or {},
        workspace=Workspace(out.parent / ".work"),
        constants=encoding,
    )
    with writer:
        first: dict[str, Any] = {}
        for shard in writer.missing():
            rows = shard.stop - shard.start
            if not first or shard.split != "train" or rows < len(whole):
                writer.write(shard, type(whole)(**{n: values[:rows] for n, values in whole.arrays().items()}))
                first = first or writer.work.entries()[0]["files"]
                continue
            attempt, files = writer.work.path / "linked", {}
            for name, entry in first.items():
                file = attempt / name.replace("/c/0", f"/c/{shard.index}", 1)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.hardlink_to(writer.work.content / name)
                files[file.relative_to(attempt).as_posix()] = FileEntry(**entry)
            writer.accept(shard, attempt, files)
            shutil.rmtree(attempt)
        writer.seal(facts=facts, constants=constants)
    return writer.identity


def first_step(folder: Path, model: Path) -> dict[str, float]:
    """Seconds until training has the examples of its first step, and then those of `WINDOWS` windows."""
    return _planned(folder, done=0)


def resumed_step(folder: Path, model: Path) -> dict[str, float]:
    """The same of a run that continues in the middle of an epoch."""
    from storage.reader import Store

    rows = Store(folder / "sequences", Sequences).plan("train").rows
    return _planned(folder, done=rows * TOKENS // STEP_TOKENS // 2)


def _planned(folder: Path, *, done: int) -> dict[str, float]:
    from pipeline.text.corpus_view import MaskedSequences
    from pipeline.train.data import WINDOW_PREDICTIONS, plan_steps
    from pipeline.train.train import open_training_data
    from storage.reader import Store

    began = time.perf_counter()
    corpus = MaskedSequences.open_pair(folder / "sequences", folder / "masks")
    data = open_training_data(corpus, Store(folder / "targets", FusedTargets))
    shards = WINDOW_PREDICTIONS // MASK_SHARD
    steps = plan_steps(data, step_tokens=STEP_TOKENS, seed=0, window_shards=shards, done=done)
    next(steps)
    seconds = time.perf_counter() - began
    window_steps = shards * MASK_SHARD // MASKED * TOKENS // STEP_TOKENS
    for _ in islice(steps, WINDOWS * window_steps):
        pass
    return {"seconds": seconds}


def whole_training(folder: Path, model: Path) -> dict[str, float]:
    """Seconds of the stage `train` for one step, with both evaluations of 32 held-out sequences."""
    from benchmarks.speed.train import runtime
    from pipeline.text.corpus_view import MaskedSequences
    from pipeline.train.params import LossParams, StudentParams, TrainingParams
    from pipeline.train.train import train

    began = time.perf_counter()
    loss = LossParams(targets=1.0, labels=1.0, tail="prior")
    train(
        StudentParams(targets=str(folder / "targets"), start=str(model), loss=loss),
        TrainingParams(
            steps=1,
            step_tokens=1024,
            learning_rate=1e-4,
            warmup=0.1,
            weight_decay=0.01,
            gradient_clip=1.0,
            evaluations=1,
            seed=0,
        ),
        MaskedSequences.open_pair(folder / "sequences", folder / "masks"),
        tokenizer=model,
        out=folder / "models" / "one",
        runtime=replace(runtime("cpu", "float32"), workspace=Workspace(folder / ".work-train")),
    )
    return {"seconds": time.perf_counter() - began}


def taught_shard(folder: Path, model: Path) -> dict[str, float]:
    """Seconds until teaching has the sequences of a first shard, and then those of `WINDOWS` more."""
    from pipeline.text.corpus_view import MaskedSequences

    began = time.perf_counter()
    corpus = MaskedSequences.open_pair(folder / "sequences", folder / "masks")
    seconds = []
    for index in range(min(1 + WINDOWS, corpus.masks.plan("train").shards)):
        found = corpus.examples("train", [corpus.masks.plan("train").bounds(index)])
        corpus.sequence_rows("train", found.sequence_N)
        seconds.append(time.perf_counter() - began)
    return {"seconds": seconds[0]}


MEASURED = {
    "train, first step": first_step,
    "train, resumed in the middle": resumed_step,
    "train, one step as a stage": whole_training,
    "teach, first shard": taught_shard,
}


def alone(measure: Callable[[Path, Path], dict[str, float]], folder: Path, model: Path) -> dict[str, float]:
    """What is measured, and the peak memory of this process."""
    found = measure(folder, model)
    return found | {"peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


@click.command()
@click.option("--model", type=click.Path(exists=True, path_type=Path), required=True, help="Start and tokenizer.")
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--tokens", type=int, multiple=True, default=(10**7, 10**9), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("reports/growth.json"), show_default=True)
def main(model: Path, work: Path, tokens: tuple[int, ...], out: Path) -> None:
    """Simulate the stores that are not there yet, measure, and add to the report of growth."""
    lines = []
    for size in tokens:
        folder = work.absolute() / str(size)
        if not (folder / "targets" / "manifest.json").is_file():
            simulate(folder, size, model=model.absolute())
        for name, measure in MEASURED.items():
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                found = pool.submit(alone, measure, folder, model.absolute()).result()
            lines.append({"what": name, "tokens": size, **found})
            click.echo(f"{name}, {size:,} tokens: {found['seconds']:.2f} s, {found['peak_memory_bytes'] / 1e6:.0f} MB")
    report = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    out.write_text(json.dumps(report | {"reading": lines}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
