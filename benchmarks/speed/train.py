"""What a step of `train` costs: beside the same loop with labels only, and beside the usual Trainer of transformers.

Both sides of a pair take the same sequences, padded to the longest of a batch on both sides. Ours learns from the fused
store and from the true tokens. The Trainer is the script that everybody writes: DataCollatorForLanguageModeling, full
logits, AdamW, float32 as it comes; a second row lets it have bfloat16 where ours has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from benchmarks.speed.harness import Machine, Measured, Row, alternate, require

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from pipeline.core.runtime import Runtime
    from pipeline.train.data import ShardWindow, Step
    from pipeline.train.processes import Processes
    from pipeline.train.trainer import Trainer

MODEL = "data/sources/minilm-l6-mlm"
"""The student of the default run, 22.7 million parameters."""

TARGETS = "data/targets/confident"
"""Fused from two teachers with tails of rank 16 numbers: the form that costs a step most."""

SEQUENCES = {"cpu": 12, "cuda": 256}
"""Sequences a step; twelve are about 1,024 tokens."""

STEP_SEQUENCES = {"cpu": 3, "cuda": 256}
"""On a CPU about the 256 tokens of a step of the default run."""

BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}
BLOCK = {"cpu": 1, "cuda": 8}
"""Steps a timing."""

TRAINER_BLOCK = {"cpu": 2, "cuda": 16}
"""Steps of the Trainer a timing: it prepares something at every start."""

STEPS = 1000
"""Steps of the schedule; fewer are run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Learner:
    """A student of the default run, and the examples of its steps."""

    trainer: Trainer
    window: ShardWindow
    examples: list[NDArray[np.int64]]
    """Of each step, by turns."""

    def steps(self, count: int) -> None:
        """Train for `count` steps, from where it stands."""
        done = len(self.trainer.state["losses"])
        for number in range(done, done + count):
            self.trainer.learn(number, self._step(number))

    def _step(self, number: int) -> Step:
        from pipeline.train.data import Step

        return Step.of(self.window, self.examples[number % len(self.examples)])


def learner(
    kind: Literal["cpu", "cuda"],
    *,
    targets: str | None,
    model: Path,
    data: Path,
    dtype: str = "auto",
    sequences: int | None = None,
    processes: Processes | None = None,
    device: torch.device | None = None,
) -> Learner:
    """A student in `model` that learns from the stores of `data`, with the targets there, or from labels alone.

    sequences are those of a step, by default `SEQUENCES`. processes divide a step, each on its own device; by default
    this process is alone, on the device of its kind.
    """
    from pipeline.models.masked_lm import MaskedLM
    from pipeline.text.corpus_view import MaskedCorpus
    from pipeline.text.tokenizer import load_tokenizer
    from pipeline.train.data import WINDOW_PREDICTIONS, ShardWindow
    from pipeline.train.initialize import start_student
    from pipeline.train.params import LossParams, StudentParams, TrainingParams
    from pipeline.train.processes import ALONE
    from pipeline.train.train import open_targets, open_training_data
    from pipeline.train.trainer import Trainer

    chosen = runtime(kind, dtype)
    loss = LossParams(targets=0.0 if targets is None else 1.0, labels=1.0, tail="prior", anneal=1.0)
    corpus = MaskedCorpus.open(data / "documents", data / "sequences", data / "masks")
    training = open_training_data(corpus, open_targets(targets or "", loss, masks=corpus.masks))
    started = start_student(model, tokenizer=load_tokenizer(model), layers=None, config=None, seed=0)
    trainer = Trainer(
        MaskedLM(started.to(device or chosen.device), device or chosen.device),
        StudentParams(targets=targets or "", start=str(model), loss=loss),
        TrainingParams(
            steps=STEPS,
            step_tokens=1024,
            learning_rate=2e-4,
            warmup=0.06,
            weight_decay=0.01,
            gradient_clip=1.0,
            evaluations=1,
            seed=0,
        ),
        data=training,
        heldout=(corpus.sequences.read("heldout"), corpus.masks.read("heldout")),
        special=corpus.special,
        dtype=chosen.dtype,
        batch_tokens=BATCH_TOKENS[kind],
        processes=processes or ALONE,
    )
    plan = training.text.plan
    shards = min(plan.shards, max(1, WINDOW_PREDICTIONS // plan.shard_rows))
    window = ShardWindow(training, tuple(range(shards)), share=(processes or ALONE).share)
    inside = np.flatnonzero(window.prediction_P[window.view.start_G1[1:] - 1] < plan.bounds(shards - 1)[1])
    size = sequences or SEQUENCES[kind]
    count = len(inside) // size
    order = np.random.default_rng(0).permutation(inside)[: count * size]
    return Learner(trainer=trainer, window=window, examples=np.split(order, count))


def runtime(kind: Literal["cpu", "cuda"], dtype: str) -> Runtime:
    """Device and number format of the stages."""
    from pipeline.core.params import RuntimeParams
    from pipeline.core.runtime import apply

    return apply(
        RuntimeParams.model_validate({
            "device": kind, "dtype": dtype, "threads": 0, "batch_tokens": BATCH_TOKENS[kind], "checkpoint_seconds": 60,
        })
    )  # fmt: skip


def default_stores() -> tuple[Path, Path]:
    """The student's model and the folder of the default run's stores; Unavailable without them."""
    model = require(MODEL, run="dvc repro sources@minilm-l6-mlm")
    require(TARGETS, run="dvc repro fuse@confident")
    return model, require("data", run="dvc repro")


def measure_targets(machine: Machine, folder: Path) -> Measured:
    """A step with fused targets over one with labels only."""
    model, data = default_stores()
    ours = learner(machine.kind, targets=str(data / "targets/confident"), model=model, data=data)
    labels = learner(machine.kind, targets=None, model=model, data=data)
    block = BLOCK[machine.kind]
    ratios = alternate(lambda: ours.steps(block), lambda: labels.steps(block), runs=15, warmup=2, machine=machine)
    rows = ours.trainer.state["predictions"] / len(ours.trainer.state["losses"])
    note = f"two teachers, tails of rank 16; {rows:.0f} masked positions a step of {SEQUENCES[machine.kind]} sequences"
    return Measured(ratios, note)


def measure_trainer(machine: Machine, folder: Path, *, bfloat16: bool) -> Measured:
    """Steps of the Trainer over steps of `train`, in time: how many times faster ours are."""
    model, data = default_stores()
    ours = learner(
        machine.kind,
        targets=str(data / "targets/confident"),
        model=model,
        data=data,
        dtype="bfloat16" if bfloat16 else "auto",
    )
    block = TRAINER_BLOCK[machine.kind]
    usual = usual_trainer(ours, model, folder, steps=block, bfloat16=bfloat16)
    ratios = alternate(usual, lambda: ours.steps(block), machine=machine)
    formats = (
        str(next(ours.trainer.lm.model.parameters()).dtype).removeprefix("torch."),
        "bfloat16" if bfloat16 else "float32",
    )
    note = f"{formats[0]}, masked positions and targets here, {formats[1]}, full logits and labels there"
    return Measured(ratios, note)


def usual_trainer(ours: Learner, model: Path, folder: Path, *, steps: int, bfloat16: bool) -> Any:
    """A function that runs `transformers.Trainer` for `steps` steps on the sequences that `ours` sees."""
    import transformers

    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    view = ours.window.view
    sequences = view.sequence_G[np.concatenate(ours.examples[:steps])]
    rows = [{"input_ids": view.ids_NL[row, : view.length_N[row]].astype(np.int64)} for row in sequences]
    device = ours.trainer.lm.device.type
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=len(ours.examples[0]),
        max_steps=steps,
        learning_rate=2e-4,
        weight_decay=0.01,
        bf16=bfloat16,
        use_cpu=device == "cpu",
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    usual = transformers.Trainer(
        model=transformers.AutoModelForMaskedLM.from_pretrained(model, local_files_only=True),
        args=arguments,
        train_dataset=rows,
        data_collator=transformers.DataCollatorForLanguageModeling(
            transformers.AutoTokenizer.from_pretrained(model, local_files_only=True), mlm_probability=0.15
        ),
    )
    usual.remove_callback(transformers.PrinterCallback)
    return usual.train


def _trainer_default(machine: Machine, folder: Path) -> Measured:
    return measure_trainer(machine, folder, bfloat16=False)


def _trainer_bfloat16(machine: Machine, folder: Path) -> Measured:
    return measure_trainer(machine, folder, bfloat16=True)


ROWS = (
    Row(
        name="train-targets",
        goal=1.03,
        unit="step from the fused store / step with labels only",
        better="lower",
        device="any",
        measure=measure_targets,
    ),
    Row(
        name="train-trainer",
        goal=1.8,
        unit="step of transformers' Trainer / step of train",
        better="higher",
        device="any",
        measure=_trainer_default,
    ),
    Row(
        name="train-trainer-bfloat16",
        goal=None,
        unit="the same, bfloat16 on both sides",
        better="higher",
        device="any",
        measure=_trainer_bfloat16,
    ),
)
