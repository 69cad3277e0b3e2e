"""Train a gloss classifier on a student's encoder and keep the student a language model: the stage `lexical`."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.lexical.batches import open_batch_builder
from pipeline.lexical.params import (
    HEAD_FILE,
    LEXICON_FOLDER,
    NO_SOFT_LABELS,
    READING_FILE,
    SENSES_FOLDER,
    LexicalParams,
    ReadingParams,
    RehearsalParams,
)
from pipeline.lexical.rehearsal import Rehearsal
from pipeline.models.identity import weight_hashes
from pipeline.models.publish import publishing, save_model, write_record
from pipeline.senses.instances import Instances
from pipeline.senses.leakage import shows_heldout
from pipeline.senses.lexicon import Lexicon
from storage.errors import DataError, ParamsError, VocabularyError
from storage.format.manifest import digest
from storage.reader import Store
from storage.records.sequences import Masks, Sequences
from storage.tables import DocumentStore
from storage.work import WorkFolder, Workspace

if TYPE_CHECKING:
    import torch

    from pipeline.lexical.trainer import LexicalData


log = logging.getLogger(__name__)


def open_lexical_data(
    params: LexicalParams,
    opened: dict[str, Instances],
    lexicon: Lexicon,
    tokenizer: Any,
    *,
    heldout: Sequence[str],
) -> tuple[LexicalData, int]:
    """What the student learns from: the train split of its senses, with soft labels where a teacher gave any.

    And how many words are left out because they would show it a text of `heldout`. Raises DataError when nothing is
    left to learn.
    """
    from pipeline.lexical.soft_labels import read_soft_labels
    from pipeline.lexical.trainer import LexicalData

    instances = Instances.joined(list(opened.values()))
    batch_builder = open_batch_builder(params.reading, params.objective, instances, lexicon, tokenizer, split="train")
    view = batch_builder.view
    soft_label_C = None
    if params.soft_labels:
        soft_label_C = read_soft_labels(
            Path(params.soft_labels_from), opened, row_I=view.row_I, candidates=view.candidates
        )
    several_I = view.candidates.lengths() > 1
    if soft_label_C is None:
        known_I = np.add.reduceat(view.gold, view.candidates.start_R1[:-1]) > 0 if len(view) else several_I
    else:
        known_I = several_I
    useful_I = several_I & known_I
    shown_I = useful_I & shows_heldout(instances, lexicon, heldout)[view.row_I]
    left_out = int(shown_I.sum())
    if left_out:
        log.info("%d of %d words left out: they would show it held-out text", left_out, int(useful_I.sum()))
    instance_I = np.flatnonzero(useful_I & ~shown_I)
    if not len(instance_I):
        raise DataError(
            f"senses {', '.join(opened)}: no word with several senses to learn from"
            + (f" but {left_out} that would show the student held-out text. Give other text" if left_out else "")
        )
    data = LexicalData(
        batch_builder=batch_builder,
        instance_I=instance_I,
        soft_label_C=soft_label_C,
        gold_weight=params.gold,
        soft_label_weight=params.soft_labels,
    )
    return data, left_out


def train_lexical(
    params: LexicalParams,
    *,
    lexicon: Path,
    senses: Path,
    documents: Path,
    sequences: Path,
    masks: Path,
    out: Path,
    device: torch.device,
    dtype: torch.dtype,
    batch_tokens: int,
    checkpoint_seconds: float,
    workspace: Workspace = Workspace(),
) -> dict[str, Any]:
    """Train one lexical student and publish it at `out`; returns its training record.

    Words that would show it the held-out split of `documents` are left out. Raises StaleParent when stores do not
    belong together, DataError when there is nothing to learn, VocabularyError when masked sequences speak another
    vocabulary than the start, WorkBusy when another process trains the same.
    """
    import torch

    from pipeline.lexical.classifier import SenseHead, SenseModel
    from pipeline.lexical.trainer import LexicalTrainer, steps_of
    from pipeline.models.masked_lm import MaskedLM, one_model
    from pipeline.models.optimizer import choose_attention
    from pipeline.text.tokenizer import load_tokenizer
    from pipeline.train.initialize import start_student

    start = Path(params.start)
    tokenizer = load_tokenizer(start)
    inventory = Lexicon.open(lexicon)
    opened = {name: Instances.open(senses / name, lexicon=inventory) for name in params.senses}
    texts = DocumentStore(documents)
    parents = {
        "lexicon": inventory.identity,
        **{f"senses/{name}": found.identity for name, found in opened.items()},
        "documents": texts.identity,
    }
    identity = digest({
        "lexical": params.model_dump(exclude={"start", "soft_labels_from", "targets"}), "parents": parents,
        "start": weight_hashes(start),
        "beliefs": _soft_labels_identities(params), "targets": _targets_identity(params, masks),
    })  # fmt: skip
    with WorkFolder(out, name=f"models-{out.name}", identity=identity, workspace=workspace) as work, one_model():
        heldout = texts.read("heldout").column("text").to_pylist()
        data, left_out = open_lexical_data(params, opened, inventory, tokenizer, heldout=heldout)
        lm_model = start_student(start, tokenizer=tokenizer, layers=None, config=None, seed=params.training.seed)
        parameters = sum(parameter.numel() for parameter in lm_model.parameters())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(params.training.seed)
            head = SenseHead(int(lm_model.config.hidden_size), data.batch_builder.reading)
        tokens = longest_sequence(params.reading, data.batch_builder.reading)
        if params.language_model is not None:
            tokens = max(tokens, Store(sequences, Sequences).manifest.arrays["input_ids_NL"].row_shape[0])
        choose_attention(lm_model, device=device, autocast=dtype, tokens=tokens)
        lm = MaskedLM(lm_model, device)
        require_room(params.reading, data.batch_builder.reading, positions=lm.positions, start=start)
        model = SenseModel(lm_model, head).to(device)
        rehearsal = None
        if params.language_model is not None:
            rehearsal = open_rehearsal(
                params.language_model,
                lm,
                targets=None if params.own_targets else params.targets,
                sequences=sequences,
                masks=masks,
                pieces=len(tokenizer.pieces),
                autocast=dtype,
                batch_tokens=batch_tokens,
                steps=steps_of(data, params.training),
                seed=params.training.seed,
                where=out.name,
            )
        trainer = LexicalTrainer(
            model,
            data,
            params.training,
            rehearsal=rehearsal,
            pad=tokenizer.special["pad"],
            device=device,
            autocast=dtype,
            batch_tokens=batch_tokens,
        )
        trainer.run(work.path / "checkpoints", checkpoint_seconds=checkpoint_seconds)
        record = {
            "identity": identity, "parents": parents, "parameters": parameters, "steps": trainer.steps,
            "words": len(data.instance_I), "left_out": left_out, "losses": trainer.plain()["losses"],
            "start": params.start, "objective": params.objective,
        }  # fmt: skip
        kept = sum(parameter.numel() for parameter in lm_model.parameters())
        assert kept == parameters, "lexical training must not add parameters to the model"
        with publishing(work) as folder:
            save_model(lm_model.cpu(), folder, tokenizer=start)
            save_senses(head, params.reading, params.objective, lexicon, folder / SENSES_FOLDER)
            write_record(folder, record, card=model_card(out.name, params, record))
    return record


def longest_sequence(reading: ReadingParams, way: str) -> int:
    """Tokens of the longest sequence that is read, "bi" or "cross"."""
    if way == "cross":
        return reading.context_tokens + reading.gloss_tokens + 2  # the quotation marks around the word
    return max(reading.context_tokens, reading.gloss_tokens)


def require_room(reading: ReadingParams, way: str, *, positions: int, start: Path) -> None:
    """Raise ParamsError when the longest sequence would have more tokens than the model has positions."""
    longest = longest_sequence(reading, way)
    if longest > positions:
        raise ParamsError(
            f"lexical: reading asks for sequences of {longest} tokens, but {start} reads {positions} at most. "
            "Lower context_tokens or gloss_tokens"
        )


def open_rehearsal(
    params: RehearsalParams,
    lm: Any,
    *,
    targets: str | None,
    sequences: Path,
    masks: Path,
    pieces: int,
    where: str,
    **more: Any,
) -> Rehearsal:
    """The language model's part; without `targets`, what `lm` answers now is what it is kept at.

    Raises VocabularyError when the stores speak another vocabulary than the start.
    """
    from pipeline.train.train import open_targets, open_training_data

    stores = Store(sequences, Sequences), Store(masks, Masks)
    stores[1].require_parent("sequences", stores[0])
    if stores[1].facts["vocabulary"] != pieces:
        raise VocabularyError(
            f"{masks}: {stores[1].facts['vocabulary']} ids, but the start of lexical.{where} has {pieces}. "
            "Start from a model with the students' tokenizer"
        )
    found = None if targets is None else open_targets(targets, params.loss, masks=stores[1])
    return Rehearsal(lm, params, data=open_training_data(*stores, found), own=targets is None, **more)


def save_senses(head: Any, reading: ReadingParams, objective: str, lexicon: Path, folder: Path) -> None:
    """Write what scoring senses needs beside the model: head, way of reading, inventory."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    save_file({name: value.contiguous().cpu() for name, value in head.state_dict().items()}, folder / HEAD_FILE)
    (folder / READING_FILE).write_text(
        json.dumps({"objective": objective, **reading.model_dump()}, indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    shutil.copytree(lexicon, folder / LEXICON_FOLDER)


def _soft_labels_identities(params: LexicalParams) -> list[str]:
    from pipeline.lexical.soft_labels import soft_labels_identity

    if params.soft_labels == 0:
        return []
    if params.soft_labels_from == NO_SOFT_LABELS:
        raise ParamsError(
            "lexical: soft_labels has a weight but no store. Set soft_labels_from to data/soft_labels/NAME"
        )
    return [soft_labels_identity(Path(params.soft_labels_from), name) for name in params.senses]


def _targets_identity(params: LexicalParams, masks: Path) -> str | None:
    if params.language_model is None:
        return None
    from pipeline.train.train import open_targets

    blanks = Store(masks, Masks)
    if params.own_targets:
        return f"own answers to {blanks.identity}"
    store = open_targets(params.targets, params.language_model.loss, masks=blanks)
    return blanks.identity if store is None else store.identity


def model_card(name: str, params: LexicalParams, record: dict[str, Any]) -> str:
    """The student's README."""
    lineage = "\n".join(f"- {parent}: `{identity}`" for parent, identity in record["parents"].items())
    return f"""---
library_name: transformers
pipeline_tag: fill-mask
tags: [masked-lm, word-sense-disambiguation, distillation]
---
# {name}

A masked language model of {record["parameters"]:,} parameters that learned word senses ({params.objective}) from
{", ".join(params.senses)}: {record["words"]:,} words with several senses, {record["steps"]:,} steps. Left out were
{record["left_out"]:,} words that would have shown it held-out text. It began as `{params.start}` and has the parameters
it had before; `senses/` holds the head that scores senses, and the inventory.

```bash
python -m stages.wsd --student {name} --data SET.data.xml --gold SET.gold.key.txt
```

Made from:

{lineage}
"""
