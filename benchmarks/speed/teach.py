"""How much the `teach` stage adds to what no teacher can do without: the encoder's forward pass over the same batches.

The stage runs as it is, on windows of the corpus at hand. Model loading and calibration come once a store, so steady
state is measured: from the moment the first shard of the train split was written to the moment the last one was, read
from the modification times of their files. The bare forwards are over the same shards, in the same batches.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from benchmarks.speed.harness import RUNS, Machine, Measured, Row, alternate, require, seconds

if TYPE_CHECKING:
    import torch

    from pipeline.text.inputs import Inputs

log = logging.getLogger(__name__)

MODEL = "data/sources/wordnet-rest"
"""A teacher of the default run, 110 million parameters."""

SHARD_ROWS = {"cpu": 640, "cuda": 8192}
"""Predictions a shard; the default run has 2048. The fixed cost of a shard counts the more, the smaller it is."""

TRAIN_DOCUMENTS = {"cpu": 80, "cuda": 1000}
"""Pages of about 17 predictions: two shards and a bit."""

CALIBRATION_DOCUMENTS = 20
"""More predictions than the least that calibration accepts."""

BATCH_TOKENS = {"cpu": 2048, "cuda": 65536}
"""On CPUs 1024 to 8192 differ by less than their spread (measured); GPUs want large batches."""

FIXED_TOKENS = 128
"""Width of the fixed windows, that of the default run."""

EXAMPLES = {"cpu": 16, "cuda": 480}
"""Sequences a timing, where float32 is compared: 2,000 tokens are a second or two on two cores."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stores:
    """A small corpus, tokenized and masked."""

    documents: Path
    sequences: Path
    masks: Path


def small_stores(folder: Path, kind: Literal["cpu", "cuda"]) -> Stores:
    """The first pages of each split of data/documents as stores of their own, under `folder`."""
    from pipeline.text.mask import mask
    from pipeline.text.params import MaskParams, TokenizeParams
    from pipeline.text.tokenize import tokenize
    from storage.documents import DocumentStore, write_documents
    from storage.records.base import SPLITS
    from storage.work import Workspace

    corpus = DocumentStore(require("data/documents", run="make repro"))
    tokenizer = require("data/sources/minilm-l6-mlm", run="make repro")
    stores = Stores(documents=folder / "documents", sequences=folder / "sequences", masks=folder / "masks")
    size = {"train": TRAIN_DOCUMENTS[kind], "calibration": CALIBRATION_DOCUMENTS, "heldout": 1}
    with contextlib.chdir(folder):
        tables = {name: corpus.read(name).slice(0, size[name]) for name in SPLITS}
        write_documents(stores.documents, tables, inputs=size, facts={}, workspace=Workspace())
        settings = TokenizeParams(tokenizer=str(tokenizer), sequence_tokens=FIXED_TOKENS)
        tokenize(settings, stores.documents, out=stores.sequences)
        params = MaskParams(rate=0.15, copies=1, seed=0, shard_rows=SHARD_ROWS[kind])
        mask(params, stores.documents, sequences=stores.sequences, out=stores.masks)
    return stores


def fast_type(machine: Machine) -> torch.dtype:
    """The number format that the stage takes by itself on this device."""
    from pipeline.core.params import RuntimeParams
    from pipeline.core.runtime import apply

    settings = RuntimeParams(
        device=machine.kind, dtype="auto", threads=0, batch_tokens=BATCH_TOKENS[machine.kind], checkpoint_seconds=60.0
    )
    return apply(settings).dtype


def shard_inputs(model: Path, lm: Any, stores: Stores, machine: Machine) -> list[list[Inputs]]:
    """Each shard's batches, as the stage makes them: the train split in the teacher's own vocabulary."""
    from pipeline.teach.inference import TeacherInputs
    from pipeline.text.alignment import teacher_view
    from pipeline.text.corpus_view import MaskedCorpus
    from pipeline.text.inputs import model_inputs, token_batches

    corpus = MaskedCorpus.open(stores.documents, stores.sequences, stores.masks)
    teacher_inputs = TeacherInputs.open(model, lm, corpus, batch_tokens=BATCH_TOKENS[machine.kind])
    part, plan = teacher_inputs.split("train"), corpus.masks.manifest.splits["train"]
    shards = []
    for index in range(plan.shards):
        found = part.excerpt(*plan.bounds(index))
        view, _ = teacher_view(
            found.texts,
            found.sequences,
            found.masks,
            tokenizer=teacher_inputs.tokenizer.backend,
            to_student_V=teacher_inputs.to_student_V,
            special=teacher_inputs.tokenizer.special,
            positions=teacher_inputs.positions,
        )
        shards.append(
            [model_inputs(view, batch) for batch in token_batches(view.lengths_G(), teacher_inputs.batch_tokens)]
        )
    return shards


def load_bare(model: Path, machine: Machine, dtype: torch.dtype) -> Any:
    """A `MaskedLM` beside the one the stage holds: what is compared may both be in memory."""
    import torch

    from pipeline.models.masked_lm import MaskedLM, load_checked

    device = torch.device(machine.kind)
    return MaskedLM(load_checked(model).to(device=device, dtype=dtype).eval(), device)


def forward(lm: Any, batches: Sequence[Sequence[torch.Tensor]], *, head: bool) -> None:
    """The encoder over all batches, and the head at their predictions."""
    import torch

    with torch.inference_mode():
        for ids, attention, row_Q, column_Q in batches:
            if head:
                lm.logits(ids, attention, row_Q, column_Q)
            else:
                lm.model.base_model(input_ids=ids, attention_mask=attention)


def tensors(lm: Any, inputs: Sequence[Inputs]) -> list[list[torch.Tensor]]:
    """Batches on the model's device."""
    return [lm.tensors(one.input_ids_BL, one.attention_BL, one.row_Q, one.column_Q) for one in inputs]


def steady_seconds(store: Path) -> float:
    """From the last file of the first shard of the train split to the last file of its last shard."""
    from storage.format.manifest_parse import read_manifest

    written = [
        max((store / name).stat().st_mtime_ns for name in shard.files)
        for shard in read_manifest(store).shards
        if shard.split == "train"
    ]
    assert len(written) > 1, f"{store}: one shard only"
    return (max(written) - min(written)) / 1e9


def stage(model: Path, stores: Stores, machine: Machine, dtype: torch.dtype) -> Callable[[Path], float]:
    """A function that runs `teach` with the default form into a folder and gives its seconds in steady state."""
    import torch

    from pipeline.core.config import load
    from pipeline.core.runtime import Runtime
    from pipeline.teach.params import TeacherParams
    from pipeline.teach.teach import teach
    from pipeline.text.corpus_view import MaskedCorpus

    entry = load(require("params.yaml", run="git checkout params.yaml"))["teachers"][model.name]
    params = TeacherParams.model_validate({**entry, "model": str(model)})

    def run(out: Path) -> float:
        teach(
            params,
            MaskedCorpus.open(stores.documents, stores.sequences, stores.masks),
            out=out,
            runtime=Runtime(device=torch.device(machine.kind), dtype=dtype, batch_tokens=BATCH_TOKENS[machine.kind]),
        )
        return steady_seconds(out)

    return run


def measure_stage(machine: Machine, folder: Path) -> Measured:
    """Steady state of the stage over the encoder alone, and over the encoder and the head at the masked positions."""
    model, stores = require(MODEL, run="make repro"), small_stores(folder, machine.kind)
    dtype = fast_type(machine)
    teach_into = stage(model, stores, machine, dtype)
    lm = load_bare(model, machine, dtype)
    shards = shard_inputs(model, lm, stores, machine)
    batches = tensors(lm, [one for shard in shards[1:] for one in shard])
    over_encoder, over_both = [], []
    for run in range(-1, RUNS):
        place = folder / f"run{run}"
        place.mkdir()
        with contextlib.chdir(place):  # a working folder of its own: what another run finished would be taken over
            mine = teach_into(place / model.name)
        encoder = seconds(partial(forward, lm, batches, head=False), machine=machine)
        both = seconds(partial(forward, lm, batches, head=True), machine=machine)
        log.info("teach %.2f s, encoder %.2f s, with head %.2f s", mine, encoder, both)
        if run >= 0:
            over_encoder.append(mine / encoder)
            over_both.append(mine / both)
    name = f"teach-{machine.kind}-and-head"
    return Measured(
        over_encoder,
        note=f"{MODEL}, {str(dtype).removeprefix('torch.')}; the head is in the difference",
        also={name: over_both},
        units={name: "stage / encoder and head"},
        details={"predictions": int(sum(len(one.row_Q) for shard in shards[1:] for one in shard))},
    )


def measure_batching(machine: Machine, folder: Path) -> Measured:
    """Speed of the model in the fast number format, sorted by length, over float32 and windows of fixed width."""
    import torch

    model, stores = require(MODEL, run="make repro"), small_stores(folder, machine.kind)
    dtype = fast_type(machine)
    fast, plain = load_bare(model, machine, dtype), load_bare(model, machine, torch.float32)
    sorted_inputs = _first_examples(shard_inputs(model, fast, stores, machine)[0], EXAMPLES[machine.kind])
    fixed = [_widened(one) for one in sorted_inputs]
    fast_batches, plain_batches = tensors(fast, sorted_inputs), tensors(plain, fixed)
    values = alternate(
        lambda: forward(plain, plain_batches, head=True),
        lambda: forward(fast, fast_batches, head=True),
        machine=machine,
    )
    padding = 1 - sum(int(one.attention_BL.sum()) for one in fixed) / sum(one.attention_BL.size for one in fixed)
    return Measured(values, note=_units_note(machine) + f"; {padding:.0%} of the fixed windows is padding")


def _units_note(machine: Machine) -> str:
    import torch

    if machine.kind == "cuda":
        return "bfloat16"
    capability = torch.cpu.get_capabilities()
    if capability.get("amx_bf16"):
        return "bfloat16 with matrix units"
    if capability.get("avx512_bf16"):
        return "bfloat16 by AVX-512, which is 1.6 times float32; no matrix units, which the goal is for"
    return "float32 on both sides: no bfloat16 in hardware"


def _first_examples(inputs: Sequence[Inputs], examples: int) -> list[Inputs]:
    """Batches until they hold `examples` examples."""
    found: list[Inputs] = []
    while sum(len(one.input_ids_BL) for one in found) < examples and len(found) < len(inputs):
        found.append(inputs[len(found)])
    return found


def _widened(inputs: Inputs) -> Inputs:
    """The same examples, padded to FIXED_TOKENS."""
    from pipeline.text.inputs import Inputs

    missing = ((0, 0), (0, max(0, FIXED_TOKENS - inputs.input_ids_BL.shape[1])))
    return Inputs(
        input_ids_BL=np.pad(inputs.input_ids_BL, missing, constant_values=1),
        attention_BL=np.pad(inputs.attention_BL, missing),
        row_Q=inputs.row_Q,
        column_Q=inputs.column_Q,
        prediction_Q=inputs.prediction_Q,
    )


ROWS = (
    Row(
        name="teach-cpu",
        goal=1.08,
        unit="stage / encoder",
        better="lower",
        device="cpu",
        measure=measure_stage,
    ),
    Row(
        name="teach-cuda",
        goal=1.05,
        unit="stage / encoder",
        better="lower",
        device="cuda",
        measure=measure_stage,
    ),
    Row(
        name="batching-cpu",
        goal=4.0,
        unit="float32 at fixed width / ours",
        better="higher",
        device="cpu",
        measure=measure_batching,
    ),
    Row(
        name="batching-cuda",
        goal=None,
        unit="float32 at fixed width / ours",
        better="higher",
        device="cuda",
        measure=measure_batching,
    ),
)
