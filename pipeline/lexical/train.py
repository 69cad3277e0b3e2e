"""Train a gloss classifier on a student's encoder and keep the student a language model: the stage `lexical`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pipeline.core.outputs import record_name
from pipeline.core.runtime import Runtime
from pipeline.core.tracking import open_curves
from pipeline.lexical.classifier import SenseHead, SenseModel
from pipeline.lexical.inputs import LexicalInputs, lexical_data
from pipeline.lexical.params import (
    HEAD_FILE,
    LEXICON_FOLDER,
    READING_FILE,
    SENSES_FOLDER,
    LexicalParams,
    Reading,
    ReadingParams,
)
from pipeline.lexical.rehearsal import Rehearsal
from pipeline.lexical.trainer import LexicalTrainer, steps_of
from pipeline.models.masked_lm import MaskedLM, one_model
from pipeline.models.optimizer import choose_attention
from pipeline.models.publish import publishing, save_model, write_record
from pipeline.text.corpus_view import MaskedCorpus
from pipeline.train.initialize import start_student
from pipeline.train.train import open_training_data
from storage.errors import ParamsError
from storage.work import WorkFolder


def train_lexical(
    params: LexicalParams, corpus: MaskedCorpus, *, lexicon: Path, senses: Path, out: Path, runtime: Runtime
) -> dict[str, Any]:
    """Train one lexical student and publish it at `out`; returns its training record.

    Words whose text is in the held-out split of the documents are left out. Raises what `LexicalInputs.open` raises,
    DataError when there is nothing to learn, WorkBusy when another process trains the same student.
    """
    inputs = LexicalInputs.open(params, corpus, lexicon=lexicon, senses=senses, name=out.name)
    identity = inputs.identity(params)
    work_folder = WorkFolder(out, name=f"models-{out.name}", identity=identity, workspace=runtime.workspace)
    with work_folder as work, one_model():
        trainer = new_trainer(params, inputs, runtime=runtime)
        data, model = trainer.data, trainer.model
        parameters = _parameters(model)
        with open_curves(runtime.trackers, record_name("lexical", out.name), work.path) as curves:
            trainer.run(work.path / "checkpoints", checkpoint_seconds=runtime.checkpoint_seconds, curves=curves)
        record = {
            "identity": identity,
            "parents": inputs.parents() | inputs.teachers(params),
            "parameters": parameters,
            "steps": trainer.steps,
            "words": len(data.instance_I),
            "left_out": data.left_out,
            "losses": trainer.plain()["losses"],
            "start": params.start,
            "targets": params.targets,
            "soft_labels_from": params.soft_labels_from,
            "objective": params.objective,
        }
        assert _parameters(model) == parameters, "lexical training must not add parameters to the model"
        with publishing(work) as folder:
            save_model(model.lm.cpu(), folder, tokenizer=inputs.start)
            save_senses(model.head, params.reading, params.objective, lexicon, folder / SENSES_FOLDER)
            write_record(folder, record, card=model_card(out.name, params, record))
    return record


def new_trainer(params: LexicalParams, inputs: LexicalInputs, *, runtime: Runtime) -> LexicalTrainer:
    """A trainer before its first step, with the start and what it rehearses on.

    Raises DataError when there is nothing to learn, ParamsError when the start has too few positions.
    """
    data = lexical_data(
        inputs,
        params.reading,
        params.objective,
        gold_weight=params.gold,
        soft_label_weight=params.soft_labels,
        heldout=inputs.heldout_texts(),
        packed=params.training.gloss_table is not None,
    )
    reading = data.batch_builder.reading
    model = new_model(inputs, reading, seed=params.training.seed)
    tokens = longest_sequence(params.reading, reading)
    if inputs.rehearsal is not None:
        tokens = max(tokens, inputs.rehearsal.longest)
    choose_attention(model.lm, device=runtime.device, dtype=runtime.dtype, tokens=tokens)
    lm = MaskedLM(model.lm, runtime.device)
    require_room(params.reading, reading, positions=lm.positions, start=inputs.start)
    model.to(runtime.device)
    rehearsal = None
    if params.language_model is not None and inputs.rehearsal is not None:
        rehearsal = Rehearsal(
            lm,
            params.language_model,
            data=open_training_data(inputs.rehearsal.corpus, inputs.rehearsal.targets),
            own=inputs.rehearsal.own_targets,
            autocast=runtime.dtype,
            batch_tokens=runtime.batch_tokens,
            steps=steps_of(data, params.training),
            seed=params.training.seed,
        )
    return LexicalTrainer(
        model,
        data,
        params.training,
        rehearsal=rehearsal,
        pad=inputs.tokenizer.special["pad"],
        device=runtime.device,
        autocast=runtime.dtype,
        batch_tokens=runtime.batch_tokens,
    )


def _parameters(model: SenseModel) -> int:
    """Trainable numbers of the language model."""
    return sum(parameter.numel() for parameter in model.lm.parameters())


def new_model(inputs: LexicalInputs, reading: Reading, *, seed: int) -> SenseModel:
    """The start in float32 on the CPU with a new sense head."""
    lm = start_student(inputs.start, tokenizer=inputs.tokenizer, layers=None, config=None, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # initialisers take no generator; the fork leaves the global state as it was
        head = SenseHead(int(lm.config.hidden_size), reading)
    return SenseModel(lm, head)


def longest_sequence(reading: ReadingParams, way: Reading) -> int:
    """Tokens of the longest sequence that is encoded, "bi" or "cross"."""
    if way == "cross":
        return reading.context_tokens + reading.gloss_tokens + 2  # the quotation marks around the word
    return max(reading.context_tokens, reading.gloss_tokens)


def require_room(reading: ReadingParams, way: Reading, *, positions: int, start: Path) -> None:
    """Raise ParamsError when the longest sequence would have more tokens than the model has positions."""
    longest = longest_sequence(reading, way)
    if longest > positions:
        raise ParamsError(
            f"lexical: reading asks for sequences of {longest} tokens, but {start} reads {positions} at most. "
            "Lower context_tokens or gloss_tokens"
        )


def save_senses(head: SenseHead, reading: ReadingParams, objective: str, lexicon: Path, folder: Path) -> None:
    """Write what scoring senses needs besides the model: head, reading, inventory."""
    folder.mkdir(parents=True)
    save_file({name: value.contiguous().cpu() for name, value in head.state_dict().items()}, folder / HEAD_FILE)
    (folder / READING_FILE).write_text(
        json.dumps({"objective": objective, **reading.model_dump()}, indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    shutil.copytree(lexicon, folder / LEXICON_FOLDER)


def model_card(name: str, params: LexicalParams, record: dict[str, Any]) -> str:
    """The student's README."""
    lineage = "\n".join(f"- {parent}: `{identity}`" for parent, identity in record["parents"].items())
    what = (
        f"learned word senses ({params.objective}) from"
        if params.learns_senses
        else ("took the steps of a lexical student on its masked sequences alone, as a control without senses for")
    )
    return f"""---
library_name: transformers
pipeline_tag: fill-mask
tags: [masked-lm, word-sense-disambiguation, distillation]
---
# {name}

A masked language model of {record["parameters"]:,} parameters that {what}
{", ".join(params.senses)}: {record["words"]:,} words with several senses, {record["steps"]:,} steps. Left out were
{record["left_out"]:,} words that would have shown it held-out text. It began as `{params.start}` and has the parameters
it had before; `senses/` holds the head that scores senses, and the inventory.

```bash
python -m stages.wsd --model {name} --data SET.data.xml --gold SET.gold.key.txt
```

Made from:

{lineage}
"""
