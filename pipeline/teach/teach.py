"""Run one teacher at all masked positions and store its predictions.

First the temperature is fitted on the calibration split, where a model that is no better than token frequencies is
refused. The shape of the tails is fitted to logits of a part of the train split. Then each missing shard of the mask
store's plan is computed and written. The fitted arrays are saved beside the shards, so an interrupted run ends with the
same bytes. `pipeline.teach.job` runs where the model is; this process need not have it.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.outputs import record_name
from pipeline.core.runtime import Runtime
from pipeline.core.tracking import open_curves
from pipeline.executor.base import Executor, LocalExecutor
from pipeline.models.provenance import teacher_provenance
from pipeline.teach.job import FITTED, WORD_SHARES, TeachJob, fit, tail_shape
from pipeline.teach.params import TeacherParams
from pipeline.text.corpus_view import MaskedCorpus
from storage.format.manifest import Manifest
from storage.reader import Store
from storage.records.logits import SparseLogits
from storage.share.card import card_of
from storage.writer import StoreWriter

if TYPE_CHECKING:
    from pipeline.sparse.tail import TailShape
    from pipeline.teach.inference import TeacherInputs


log = logging.getLogger(__name__)

WORDS_REVISION = 1
"""Of what `pipeline.teach.words` makes: an input of the stores that it takes part in."""


def teach(
    params: TeacherParams,
    corpus: MaskedCorpus,
    *,
    out: Path,
    runtime: Runtime,
    tokenizer: Path | None = None,
    executor: Executor | None = None,
) -> Manifest:
    """Write the store of one teacher's predictions to `out`; `executor` makes the shards, by default this process.

    tokenizer is the folder of the corpus' tokenizer; without it, words that the teacher cuts differently stay empty.
    Raises TeacherRefused when the model is no usable masked language model, WorkBusy when another process writes
    `out`, OutOfMemory when not even one sequence fits.
    """
    from pipeline.models.identity import model_digest
    from pipeline.teach.extend import EXTENDS, extended
    from pipeline.teach.inference import TeacherInputs
    from pipeline.text.vocabulary import encode_tokens

    folder = Path(params.model)
    teacher_inputs = TeacherInputs.open(
        folder, None, corpus, batch_tokens=runtime.batch_tokens, students_tokenizer=tokenizer
    )
    vocabulary = len(teacher_inputs.tokens)
    inputs = {**params.model_dump(exclude={"model"}), "model": model_digest(folder)}
    if teacher_inputs.words is not None:
        inputs["words"] = WORDS_REVISION
    kept = extended(out, inputs, runtime.workspace.root)
    writer = StoreWriter(
        out,
        SparseLogits,
        specs=SparseLogits.specs(
            most=min(params.keep.most, vocabulary),
            draws=params.keep.draws,
            temperatures=1 + len(params.temperatures),
            rank=params.tail_rank,
            vocabulary=vocabulary,
        ),
        splits=corpus.masks.manifest.splits,
        inputs={**inputs, **({} if kept is None else {EXTENDS: kept.identity})},
        parents={"masks": corpus.masks.identity},
        workspace=runtime.workspace,
    )
    job = TeachJob(
        params=params,
        documents=corpus.documents.path,
        sequences=corpus.sequences.path,
        masks=corpus.masks.path,
        runtime=runtime,
        digest=inputs["model"],
        masks_identity=corpus.masks.identity,
        fitted=writer.arrays_file(FITTED),
        kept=None if kept is None else kept.path,
        tokenizer=tokenizer,
    )
    with nullcontext(executor) if executor is not None else LocalExecutor() as active_executor, writer:
        facts, shape = _prepared(job, writer, active_executor, kept)
        constants = shape.constants()
        writer.constants["order_V"] = constants.pop("order_V")
        if kept is not None:
            _take_over(writer, kept, teacher_inputs)
        with open_curves(runtime.trackers, record_name("teach", out.name), writer.work.path) as curves:
            active_executor.shards(job, writer, label=f"teach {out.name}", curves=curves)
        return writer.seal(
            facts={
                "vocabulary": vocabulary,
                "keep": params.keep.model_dump(),
                "most": params.keep.most,
                "listed": params.temperatures,
                **facts,
                "coverage": _coverage(writer),
                "questions": _fingerprints(writer),
                "provenance": teacher_provenance(
                    folder, documents=corpus.documents.manifest, masks=corpus.masks.manifest
                ),
            },
            constants={"pieces_utf8": encode_tokens(teacher_inputs.tokens), **constants},
            card=card_of,
        )


def _prepared(
    job: TeachJob, writer: StoreWriter, executor: Executor, kept: Store[SparseLogits] | None
) -> tuple[dict[str, Any], TailShape]:
    """Facts (calibration, temperatures, the model's size) and the shape of the tails, on the CPU.

    Fitted once for this identity; taken from `kept` when a store is extended.
    """
    import torch

    from pipeline.teach.calibration import Calibration

    cpu = torch.device("cpu")
    if kept is not None:
        names = ("temperatures", "calibration", "parameters", WORD_SHARES)
        return {name: kept.facts[name] for name in names if name in kept.facts}, tail_shape(job, device=cpu)
    arrays = writer.remember_arrays(FITTED, lambda: executor.once(job, fit))
    facts = {
        "temperatures": arrays["temperatures"].tolist(),
        "calibration": {field.name: arrays[f"calibration_{field.name}"].item() for field in fields(Calibration)},
        "parameters": arrays["parameters"].item(),
    }
    if WORD_SHARES in arrays:
        facts[WORD_SHARES] = arrays[WORD_SHARES].tolist()
    return facts, tail_shape(job, device=cpu)


def _take_over(writer: StoreWriter, kept: Store[SparseLogits], teacher_inputs: TeacherInputs) -> None:
    """Link over every missing shard whose fingerprint is unchanged."""
    from pipeline.teach.extend import shard_fingerprint, take_over

    missing = list(writer.missing())
    for split in writer.splits:
        part = teacher_inputs.split(split)
        taken = sum(
            take_over(writer, kept, shard, shard_fingerprint(part, shard.start, shard.stop))
            for shard in missing
            if shard.split == split
        )
        log.info("%s: %d shards of %s are as %s has them", writer.work.out, taken, split, kept.path)


def _fingerprints(writer: StoreWriter) -> dict[str, list[str]]:
    """The fingerprint of each shard, by split."""
    return {split: [bytes(saved).hex() for saved in writer.sidecars("question", split)] for split in writer.splits}


def _coverage(writer: StoreWriter) -> dict[str, float]:
    """Share of predictions answered, by split."""
    return {
        split: sum(int(answered[0]) for answered in writer.sidecars("answered", split)) / max(1, plan.rows)
        for split, plan in writer.splits.items()
    }
