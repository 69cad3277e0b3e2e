"""Train a student from a fused store, or from the true tokens alone.

Every student of a run sees the same examples in the same order (`pipeline.train.data`). A step takes examples until it
has `step_tokens` tokens. How it is cut into micro-batches changes its speed only: the losses are sums, divided by the
count over the whole step.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from pipeline.core.outputs import record_name
from pipeline.core.runtime import Runtime
from pipeline.core.tracking import open_curves
from pipeline.models.identity import model_digest
from pipeline.models.publish import publishing, save_model, write_record
from pipeline.text.corpus_view import MaskedSequences
from pipeline.train.data import StoredText, TrainingData
from pipeline.train.params import OWN_TRAINING, LossParams, StudentParams, TrainingParams
from pipeline.train.processes import ALONE, Processes
from pipeline.train.saved_tokenizer import name_tokenizer
from pipeline.train.trainer import EPOCHS_SILENT, Trainer
from storage.errors import StaleParent, VocabularyError
from storage.format.manifest import digest
from storage.reader import Store
from storage.records.sequences import Masks
from storage.records.targets import FusedTargets
from storage.share.remote import local_store
from storage.work import WorkFolder

log = logging.getLogger(__name__)


def train(
    student: StudentParams,
    params: TrainingParams,
    corpus: MaskedSequences,
    *,
    tokenizer: Path,
    out: Path,
    runtime: Runtime,
    processes: Processes = ALONE,
) -> dict[str, Any]:
    """Train one student and publish it as a Hugging Face folder at `out`; returns its training record.

    With several processes all call this, and the first one holds the work folder, evaluates and publishes.
    Raises StaleParent when the targets are of other masks, VocabularyError when they have another vocabulary, WorkBusy
    when another process trains the same student.
    """
    from pipeline.evaluate.heldout import curve_text
    from pipeline.models.masked_lm import MaskedLM, one_model
    from pipeline.text.tokenizer import load_tokenizer
    from pipeline.train.initialize import start_student

    params = student.own_training(params)
    targets = open_targets(student.targets, student.loss, masks=corpus.masks)
    reference = load_tokenizer(tokenizer)
    if len(reference.tokens) != corpus.sequences.facts["vocabulary"]:
        raise VocabularyError(
            f"{tokenizer}: expected the tokenizer of {corpus.sequences.path}. Run: dvc repro tokenize"
        )
    parents = {"sequences": corpus.sequences.identity, "masks": corpus.masks.identity}
    if targets is not None:
        parents["targets"] = targets.identity
    identity = digest(
        {
            "student": student.model_dump(exclude={"start", "targets", *OWN_TRAINING}),
            "training": params.hashed(),
            "start": model_digest(Path(student.start)),
            "parents": parents,
        }
    )
    work_folder = WorkFolder(out, name=f"models-{out.name}", identity=identity, workspace=runtime.workspace)
    with work_folder if processes.first else nullcontext(), one_model():
        processes.from_first(None)  # the others look for checkpoints once the first has the folder
        model = start_student(
            Path(student.start), tokenizer=reference, layers=student.layers, config=student.config, seed=params.seed
        )
        lm = MaskedLM(model.to(runtime.device), runtime.device)
        data = open_training_data(corpus, targets)
        predictions = data.text.plan.rows
        epochs = params.steps * params.step_tokens / data.epoch_tokens()
        if epochs > EPOCHS_SILENT:
            log.warning(
                "%d steps are %.1f epochs over the masked positions. New ones teach more: raise mask.copies, now %d",
                params.steps,
                epochs,
                int(corpus.masks.rows("train", predictions - 1, predictions).copy_P[0]) + 1,
            )
        curve_row_D, sequences, masks = curve_text(corpus, positions=params.evaluated_positions)
        trainer = Trainer(
            lm,
            student,
            params,
            data=data,
            heldout=(sequences, masks),
            special=corpus.special,
            dtype=runtime.dtype,
            batch_tokens=runtime.batch_tokens,
            processes=processes,
        )
        trackers = runtime.trackers if processes.first else ()
        with open_curves(trackers, record_name("train", out.name), work_folder.path) as curves:
            trainer.run(work_folder.path / "checkpoints", checkpoint_seconds=runtime.checkpoint_seconds, curves=curves)
        record = {
            "identity": identity,
            "parents": parents,
            "parameters": lm.parameters,
            "steps": params.steps,
            "learning_rate": params.learning_rate,
            "tokens": trainer.state["tokens"],
            "predictions": trainer.state["predictions"],
            "passes": round(trainer.state["predictions"] / predictions, 2),
            "curve": trainer.state["curve"],
            "curve_document_means": trainer.state["curve_document_means"],
            "curve_documents": curve_row_D.tolist(),
            "losses": trainer.state["losses"],
            "start": student.start,
            "targets": student.targets,
        }
        if processes.first:
            with publishing(work_folder) as folder:
                save_model(model.cpu(), folder, tokenizer=tokenizer)
                name_tokenizer(model, folder, reference)
                write_record(folder, record, card=model_card(out.name, student, params, record))
    return record


def open_targets(path: str, loss: LossParams, *, masks: Store[Masks]) -> Store[FusedTargets] | None:
    """The fused store at a path or URL, or None where the loss gives targets no weight; refuses one of other masks."""
    if loss.targets == 0:
        return None
    targets = Store(local_store(path), FusedTargets)
    targets.require_parent("masks", masks)
    if targets.facts["vocabulary"] != masks.facts["vocabulary"]:
        raise VocabularyError(
            f"{targets.path}: {targets.facts['vocabulary']} ids, but {masks.path} has {masks.facts['vocabulary']}. "
            f"{targets.remedy}"
        )
    if targets.manifest.splits != masks.manifest.splits:
        raise StaleParent(f"{targets.path}: other shards than {masks.path}. {targets.remedy}")
    return targets


def open_training_data(corpus: MaskedSequences, targets: Store[FusedTargets] | None) -> TrainingData:
    """The train split, of which only what the next steps need is read, with its targets if there are any."""
    return TrainingData(text=StoredText(corpus), targets=targets)


def model_card(name: str, student: StudentParams, params: TrainingParams, record: dict[str, Any]) -> str:
    """The student's README: what it is, where it comes from, how to use it."""
    curve = "\n".join(f"| {step} | {nll:.4f} |" for step, nll in record["curve"])
    # What is published names no folder of this machine.
    shown = Path(student.start).name if Path(student.start).is_absolute() else student.start
    lineage = "\n".join(f"- {parent}: `{identity}`" for parent, identity in record["parents"].items())
    return f"""---
library_name: transformers
pipeline_tag: fill-mask
tags: [masked-lm, distillation]
---
# {name}

A masked language model of {record["parameters"]:,} parameters, distilled offline from a store of teacher predictions.

- start: `{shown}`
- targets: `{student.targets}`
- loss: {student.loss.model_dump()}
- {record["steps"]} steps, {record["tokens"]:,} tokens, {record["predictions"]:,} predictions, \
{record["passes"]} epochs over the masked positions, learning rate {params.learning_rate:g}, seed {params.seed}

The licence follows from the start, the teachers and the text; see the stores below.

## Lineage
{lineage}

## Held-out loss, nats a masked token
| step | NLL |
| --- | --- |
{curve}

## Use
```python
from transformers import pipeline
print(pipeline("fill-mask", model="PATH/OF/THIS/FOLDER")("The capital of France is [MASK]."))
```
"""
