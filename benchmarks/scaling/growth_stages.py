"""The stages as `benchmarks.scaling.growth` runs them: each function in a process of its own, in a corpus' folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.speed.train import MODEL

if TYPE_CHECKING:
    from pipeline.core.runtime import Runtime
    from pipeline.text.corpus_view import MaskedCorpus

STEP_TOKENS = 1024


def masked_text(folder: str, pages: int) -> int:
    """The first pages of WordNet, through all stages before `teach`; returns their tokens."""
    from pipeline.text.documents.corpus import assemble
    from pipeline.text.documents.ingest import ingest
    from pipeline.text.mask import mask
    from pipeline.text.params import CorpusParams, InputParams, MaskParams, TokenizeParams
    from pipeline.text.tokenize import tokenize
    from storage.reader import Store
    from storage.records.sequences import Sequences

    model, at = str(Path(MODEL).resolve()), Path(folder)
    entry = InputParams(kind="jsonl", path=str(at / "pages.jsonl"))
    _write_pages(Path(entry.path), pages)
    os.chdir(at)
    ingest("pages", entry, at / "text/pages")
    split = CorpusParams(share=1.0, calibration=0.15, heldout=0.05)
    assemble(at / "text", {"pages": entry}, split, at / "documents")
    tokenize(TokenizeParams(tokenizer=model, sequence_tokens=128), at / "documents", out=at / "sequences")
    masking = MaskParams(rate=0.15, copies=1, seed=0, shard_rows=2048)
    mask(masking, at / "documents", sequences=at / "sequences", out=at / "masks")
    counts = Store(at / "sequences", Sequences).facts["counts"]
    return int(sum(split["tokens"] for split in counts.values()))


def _write_pages(path: Path, pages: int) -> None:
    """Write the first pages of WordNet as JSON Lines."""
    from itertools import islice

    from pipeline.text.documents.readers import read_wordnet
    from pipeline.text.documents.records import Found

    lines = []
    for number, found in enumerate(islice(read_wordnet(Path("data/sources/wordnet")), pages)):
        assert isinstance(found, Found), found
        lines.append(json.dumps({"id": str(number), "text": found.text}))
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def teach(folder: str, name: str, k: int) -> float:
    """Stage `teach`, with the small model of the default run as the teacher."""
    from pipeline.sparse.params import TailParams, TopK
    from pipeline.teach.params import TeacherParams
    from pipeline.teach.teach import teach as stage

    params = TeacherParams(
        model=str(Path(MODEL).resolve()),
        keep=TopK(form="topk", k=k),
        tail=TailParams(rank=16, step=0.4),
        temperatures=[1.0],
        seed=0,
    )
    return _timed(
        folder,
        lambda at: stage(
            params,
            _corpus(at),
            out=at / f"logits-{k}" / name,
            runtime=_runtime(),
        ),
    )


def fuse(folder: str, teachers: list[str], k: int) -> float:
    """Stage `fuse`, keeping k."""
    from pipeline.fuse.fuse import fuse as stage
    from pipeline.fuse.params import FusionParams

    params = FusionParams(
        teachers=teachers, weighting="entropy", tau=1.0, calibrated=True, prior="equal", temperature=1.0, keep=k
    )
    return _timed(
        folder,
        lambda at: stage(
            params,
            _corpus(at),
            logits=at / f"logits-{k}",
            out=at / f"targets-{k}" / str(len(teachers)),
            declared=["one", "two", "three"],
        ),
    )


def train(folder: str, targets: str, steps: int) -> float:
    """Stage `train`, one epoch over the corpus."""
    from pipeline.train.params import LossParams, StudentParams, TrainingParams
    from pipeline.train.train import train as stage

    student = StudentParams(
        targets=f"{folder}/{targets}",
        start=str(Path(MODEL).resolve()),
        loss=LossParams(targets=1.0, labels=1.0, tail="prior", anneal=1.0),
    )
    params = TrainingParams(
        steps=steps,
        step_tokens=STEP_TOKENS,
        learning_rate=2e-4,
        warmup=0.06,
        weight_decay=0.01,
        gradient_clip=1.0,
        evaluations=1,
        seed=0,
    )
    return _timed(
        folder,
        lambda at: stage(
            student,
            params,
            _corpus(at),
            tokenizer=Path(student.start),
            out=at / f"models-{targets.replace('/', '-')}",
            runtime=_runtime(),
        ),
    )


def _runtime() -> Runtime:
    from benchmarks.speed.train import runtime

    return replace(runtime("cpu", "auto"), batch_tokens=2048, checkpoint_seconds=3600.0)


def _corpus(at: Path) -> MaskedCorpus:
    from pipeline.text.corpus_view import MaskedCorpus

    return MaskedCorpus.open(at / "documents", at / "sequences", at / "masks")


def _timed(folder: str, work: Callable[[Path], object]) -> float:
    """CPU seconds of a stage, of all its threads, in its folder, where stores grow under .work."""
    at = Path(folder)
    os.chdir(at)
    start = time.process_time()
    work(at)
    return time.process_time() - start
