"""Train a student from a fused store, or from the true tokens alone.

Every student of a run sees the same passes in the same order (`pipeline.curriculum`). A step is so many tokens of
randomly drawn passes; how it is cut into micro-batches is a matter of speed, since the losses are sums and the count
that divides them is over the whole step.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pipeline.batches import reference_view
from pipeline.config import Section
from pipeline.curriculum import WINDOW_PREDICTIONS, Lesson, Step, Window, plan_steps
from pipeline.language_task import LanguageTask, LossParams
from storage.errors import StaleParent, VocabularyError
from storage.manifest import digest, file_sha256
from storage.reader import Store
from storage.records import FusedTargets, Masks, Sequences
from storage.work import WorkFolder

if TYPE_CHECKING:
    import torch

    from pipeline.models import MaskedLM

log = logging.getLogger(__name__)

PASSES_SILENT = 1.1
"""Passes over the same blanks up to which nothing is said; with two, labels alone lost 0.14 nat (README)."""


class StudentParams(Section):
    """One entry of `students`."""

    targets: str
    """Store of fused targets, or the mask store for a student that learns from the true tokens alone."""
    start: str
    """Folder of a Hugging Face masked language model."""
    layers: list[int] | None = None
    """Keep these layers of the start only, from 0."""
    config: dict[str, Any] | None = None
    """Start from fresh weights, with these changes to the start's configuration."""
    loss: LossParams


class TrainingParams(Section):
    """The `training` section, the same for every student."""

    steps: int = Field(ge=1)
    step_tokens: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    warmup: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    gradient_clip: float = Field(gt=0)
    evaluations: int = Field(ge=1)
    seed: int


def learning_rate(step: int, params: TrainingParams) -> float:
    """Linear warm-up, then linear decay to 0 at the last step; `step` counts from 0."""
    warmup = max(1, round(params.warmup * params.steps))
    if step < warmup:
        return params.learning_rate * (step + 1) / warmup
    return params.learning_rate * (params.steps - step) / max(1, params.steps - warmup)


def train(
    student: StudentParams,
    params: TrainingParams,
    *,
    sequences: Path,
    masks: Path,
    tokenizer: Path,
    out: Path,
    device: torch.device,
    dtype: torch.dtype,
    batch_tokens: int,
    checkpoint_seconds: float,
) -> dict[str, Any]:
    """Train one student and publish it as a Hugging Face folder at `out`; returns its training record.

    Raises StaleParent when the targets answer other masks, VocabularyError when they speak another vocabulary, WorkBusy
    when another process trains the same student.
    """
    from pipeline.models import MaskedLM, one_model
    from pipeline.students import save_student, start_student
    from pipeline.tokens import load_tokenizer

    stores = Store(sequences, Sequences), Store(masks, Masks)
    stores[1].require_parent("sequences", stores[0])
    targets = open_targets(student.targets, student.loss, masks=stores[1])
    reference = load_tokenizer(tokenizer)
    if len(reference.pieces) != stores[0].facts["vocabulary"]:
        raise VocabularyError(f"{tokenizer}: expected the tokenizer of {sequences}. Run: dvc repro tokenize")
    parents = {"sequences": stores[0].identity, "masks": stores[1].identity}
    if targets is not None:
        parents["targets"] = targets.identity
    weights = {path.name: file_sha256(path) for path in sorted(Path(student.start).glob("*.safetensors"))}
    identity = digest({
        "student": student.model_dump(exclude={"start", "targets"}), "training": params.model_dump(),
        "start": weights, "parents": parents,
    })  # fmt: skip
    with WorkFolder(out, name=f"models-{out.name}", identity=identity) as work, one_model():
        model = start_student(
            Path(student.start), tokenizer=reference, layers=student.layers, config=student.config, seed=params.seed
        )
        lm = MaskedLM(model.to(device), device)
        lesson = open_lesson(stores[0], stores[1], targets)
        passes = params.steps * params.step_tokens / int(lesson.view.lengths_G().sum())
        if passes > PASSES_SILENT:
            log.warning(
                "%d steps are %.1f passes over the blanks; new ones teach more: raise mask.copies, now %d",
                params.steps,
                passes,
                int(lesson.masks.copy_P.max()) + 1,
            )
        trainer = Trainer(
            lm,
            student,
            params,
            lesson=lesson,
            heldout=(stores[0].read("heldout"), stores[1].read("heldout")),
            special=stores[0].facts["special"],
            autocast=dtype,
            batch_tokens=batch_tokens,
        )
        trainer.run(work.path / "checkpoints", checkpoint_seconds=checkpoint_seconds)
        record = {
            "identity": identity,
            "parents": parents,
            "parameters": lm.parameters,
            "steps": params.steps,
            "tokens": trainer.state["tokens"],
            "predictions": trainer.state["predictions"],
            "passes": round(trainer.state["predictions"] / len(lesson.masks), 2),
            "curve": trainer.state["curve"],
            "losses": trainer.state["losses"],
            "start": student.start,
            "targets": student.targets,
        }
        work.empty_content()
        save_student(model.cpu(), tokenizer, work.content)
        (work.content / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        (work.content / "README.md").write_text(model_card(out.name, student, params, record), encoding="utf-8")
        work.publish()
    return record


def open_targets(path: str, loss: LossParams, *, masks: Store[Masks]) -> Store[FusedTargets] | None:
    """The fused store at `path`, or None where the loss has no part for it; refuses one that answers other masks."""
    if loss.targets == 0:
        return None
    targets = Store(Path(path), FusedTargets)
    targets.require_parent("masks", masks)
    if targets.facts["vocabulary"] != masks.facts["vocabulary"]:
        raise VocabularyError(
            f"{targets.path}: {targets.facts['vocabulary']} ids, but {masks.path} has {masks.facts['vocabulary']}. "
            f"{targets.remedy}"
        )
    if targets.manifest.splits != masks.manifest.splits:
        raise StaleParent(f"{targets.path}: other shards than {masks.path}. {targets.remedy}")
    return targets


def open_lesson(sequences: Store[Sequences], masks: Store[Masks], targets: Store[FusedTargets] | None) -> Lesson:
    """All passes of the train split, with their targets if there are any."""
    rows = masks.read("train")
    view = reference_view(sequences.read("train"), rows, special=sequences.facts["special"])
    return Lesson(view=view, masks=rows, plan=masks.plan("train"), targets=targets)


class Trainer:
    """The training loop and its resumable state."""

    def __init__(
        self,
        lm: MaskedLM,
        student: StudentParams,
        params: TrainingParams,
        *,
        lesson: Lesson,
        heldout: tuple[Sequences, Masks],
        special: dict[str, int],
        autocast: torch.dtype,
        batch_tokens: int,
    ) -> None:
        from pipeline.optimization import adamw, choose_attention

        self.lm, self.loss, self.params, self.lesson = lm, student.loss, params, lesson
        self.heldout, self.special, self.batch_tokens = heldout, special, batch_tokens
        choose_attention(lm.model, device=lm.device, autocast=autocast, tokens=int(lesson.view.lengths_G().max()))
        self.optimizer = adamw(
            lm.model.parameters(), learning_rate=params.learning_rate, weight_decay=params.weight_decay
        )
        self.state: dict[str, Any] = {"curve": [], "losses": [], "tokens": 0, "predictions": 0}
        self.task = LanguageTask(lm, student.loss, lesson=lesson, autocast=autocast, batch_tokens=batch_tokens)

    def run(self, checkpoints: Path, *, checkpoint_seconds: float) -> None:
        """Train to the last step, from the newest checkpoint if there is one."""
        from pipeline import checkpoints as files
        from pipeline.progress import Progress

        done = 0
        if found := files.restore(checkpoints, model=self.lm.model, optimizer=self.optimizer):
            done, self.state = found
            log.info("continuing from step %d of %d", done, self.params.steps)
        else:
            self._evaluate(0)
        marks = {round(self.params.steps * i / self.params.evaluations) for i in range(1, self.params.evaluations + 1)}
        window: tuple[tuple[int, ...], Window] | None = None
        saved = time.monotonic()
        plan = plan_steps(
            self.lesson,
            step_tokens=self.params.step_tokens,
            seed=self.params.seed,
            window_shards=max(1, WINDOW_PREDICTIONS // self.lesson.plan.shard_rows),
        )
        with Progress(self.params.steps, unit="steps", label="train", done=done) as progress:
            for number, step in zip(range(self.params.steps), plan, strict=False):
                if number < done:
                    continue
                if window is None or window[0] != step.window:
                    window = None  # let the old one go before the new one is read
                    window = step.window, Window(self.lesson, step.window)
                self.step(number, step, window[1])
                if number + 1 in marks:
                    self._evaluate(number + 1)
                if time.monotonic() - saved >= checkpoint_seconds:
                    files.save(
                        checkpoints, step=number + 1, model=self.lm.model, optimizer=self.optimizer, state=self.state
                    )
                    saved = time.monotonic()
                progress.advance(1)

    def step(self, number: int, step: Step, window: Window) -> None:
        """One optimiser step, the `number`-th from 0, and a line of its losses in the state."""
        import torch

        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(number, self.params)
        done = self.task.backward(step, window, targets_weight=self.loss.targets_weight(number, self.params.steps))
        torch.nn.utils.clip_grad_norm_(self.lm.model.parameters(), self.params.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.state["tokens"] += done.tokens
        self.state["predictions"] += done.labels
        self.state["losses"].append([round(float(total), 5) for total in done.means])

    def _evaluate(self, step: int) -> None:
        from pipeline.judging import heldout_nll

        self.lm.model.eval()
        with self.task.autocasting():
            nll = heldout_nll(self.lm, *self.heldout, batch_tokens=self.batch_tokens, special=self.special)
        self.lm.model.train()
        self.state["curve"].append([step, round(nll, 5)])
        log.info("step %d of %d: held-out NLL %.4f", step, self.params.steps, nll)


def model_card(name: str, student: StudentParams, params: TrainingParams, record: dict[str, Any]) -> str:
    """The student's README: what it is, where it comes from, how to use it."""
    curve = "\n".join(f"| {step} | {nll:.4f} |" for step, nll in record["curve"])
    lineage = "\n".join(f"- {parent}: `{identity}`" for parent, identity in record["parents"].items())
    return f"""---
library_name: transformers
pipeline_tag: fill-mask
tags: [masked-lm, distillation]
---
# {name}

A masked language model of {record["parameters"]:,} parameters, distilled offline from a store of teacher beliefs.

- start: `{student.start}`
- targets: `{student.targets}`
- loss: {student.loss.model_dump()}
- {record["steps"]} steps, {record["tokens"]:,} tokens, {record["predictions"]:,} predictions, \
{record["passes"]} passes over the blanks, seed {params.seed}

The licence follows from the start, the teachers and the text; see the stores below.

## Lineage
{lineage}

## Held-out loss, nats a masked piece
| step | NLL |
| --- | --- |
{curve}

## Use
```python
from transformers import pipeline
print(pipeline("fill-mask", model="PATH/OF/THIS/FOLDER")("The capital of France is [MASK]."))
```
"""
