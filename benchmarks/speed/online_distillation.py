"""Distillation without a store, written plainly with this library: every step of every student runs every teacher.

All teachers are in memory beside the student, their full distributions are mapped to the student's vocabulary, weighted
by confidence as `fuse` does by default, and the student learns from the mixture and from the true tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from benchmarks.speed.train import BATCH_TOKENS, Learner, runtime

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from pipeline.models.masked_lm import MaskedLM
    from pipeline.sparse.params import Keep
    from pipeline.sparse.tail import TailShape
    from pipeline.text.inputs import View


@dataclass(frozen=True, kw_only=True, slots=True)
class Teacher:
    """A teacher in memory, and what it is asked."""

    lm: MaskedLM
    view: View
    """Of the train split, in its own vocabulary."""
    gold_P: NDArray[np.int64]
    """True ids of the predictions there."""
    own_W: Tensor
    """Its ids that the student has too, and the student's ids of these."""
    student_W: Tensor

    def ask(self, examples: NDArray[np.int64]) -> tuple[Tensor, NDArray[np.int64]]:
        """Logits [Q, Vt] at the masked positions of some examples and their numbers; runs without gradients."""
        import torch

        from pipeline.text.inputs import model_inputs

        inputs = model_inputs(self.view, examples)
        with torch.inference_mode():
            logits_QV = self.lm.logits(
                *self.lm.tensors(inputs.input_ids_BL, inputs.attention_BL, inputs.row_Q, inputs.column_Q)
            )
        return logits_QV, inputs.prediction_Q

    def teach(self, examples: NDArray[np.int64], *, keep: Keep, shape: TailShape) -> None:
        """What `teach` does with some examples, up to writing."""
        import torch

        from pipeline.sparse.summary import summarise
        from pipeline.text.inputs import token_batches

        for batch in token_batches(self.view.lengths_G()[examples], BATCH_TOKENS[self._kind]):
            logits_QV, prediction_Q = self.ask(examples[batch])
            (gold_Q,) = self.lm.tensors(self.gold_P[prediction_Q])
            with torch.inference_mode():
                summary = summarise(
                    logits_QV[:, : shape.bias_JV.shape[1]],
                    gold_Q,
                    keep=keep,
                    temperatures=shape.temperatures,
                    tail=shape,
                )
            summary["ids_PK"].cpu()

    @property
    def _kind(self) -> str:
        return self.lm.device.type


def load(kind: Literal["cpu", "cuda"], folder: Path, data: Path) -> Teacher:
    """The teacher in `folder`, in the stages' number format, with its view of the train split."""
    import torch

    from pipeline.models.masked_lm import MaskedLM, load_checked
    from pipeline.teach.inference import TeacherInputs
    from pipeline.text.alignment import teacher_view
    from pipeline.text.corpus_view import MaskedCorpus

    chosen = runtime(kind, "auto")
    device = chosen.device
    lm = MaskedLM(load_checked(folder).to(device=device, dtype=chosen.dtype).eval(), device)
    corpus = MaskedCorpus.open(data / "documents", data / "sequences", data / "masks")
    teacher_inputs = TeacherInputs.open(folder, lm, corpus, batch_tokens=chosen.batch_tokens)
    part = teacher_inputs.split("train").excerpt(0, corpus.masks.plan("train").rows)
    view, gold_P = teacher_view(
        part.texts,
        part.sequences,
        part.masks,
        tokenizer=teacher_inputs.tokenizer.backend,
        to_student_V=teacher_inputs.to_student_V,
        special=teacher_inputs.tokenizer.special,
        positions=teacher_inputs.positions,
    )
    own = np.flatnonzero(teacher_inputs.to_student_V >= 0)
    tensors = (torch.from_numpy(ids).to(device) for ids in (own, teacher_inputs.to_student_V[own]))
    return Teacher(lm=lm, view=view, gold_P=gold_P.astype(np.int64), own_W=next(tensors), student_W=next(tensors))


def online_step(student: Learner, teachers: Sequence[Teacher], examples: NDArray[np.int64]) -> None:
    """One optimiser step from all teachers; `student` was made for labels only."""
    import torch

    from pipeline.text.inputs import model_inputs, token_batches

    trainer = student.trainer
    trainer.refresh()
    lm, view = trainer.lm, student.window.view
    positions = int((view.start_G1[examples + 1] - view.start_G1[examples]).sum())
    for batch in token_batches(view.lengths_G()[examples], trainer.batch_tokens):
        inputs = model_inputs(view, examples[batch])
        (label_Q,) = lm.tensors(student.window.label_P[inputs.prediction_Q].astype(np.int64))
        mixed_QV = mixture(teachers, examples[batch], inputs.prediction_Q, vocabulary=lm.vocabulary)
        with trainer.task.autocasting():
            logits_QV = lm.logits(
                *lm.tensors(inputs.input_ids_BL, inputs.attention_BL, inputs.row_Q, inputs.column_Q)
            ).float()
        cross_entropy = torch.nn.functional.cross_entropy
        loss = cross_entropy(logits_QV, mixed_QV, reduction="sum") + cross_entropy(logits_QV, label_Q, reduction="sum")
        (loss / positions).backward()  # type: ignore[no-untyped-call]
        trainer.task.collect()
    torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), trainer.params.gradient_clip)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad(set_to_none=True)


def mixture(
    teachers: Sequence[Teacher], examples: NDArray[np.int64], prediction_Q: NDArray[np.int64], *, vocabulary: int
) -> Tensor:
    """The teachers' distributions over the student's vocabulary, float32 [Q, V], weighted by exp(-entropy).

    A teacher that cuts a word differently has no weight there; rows without any prediction are zeros.
    """
    import torch

    device = teachers[0].lm.device
    total_QV = torch.zeros((len(prediction_Q), vocabulary), device=device)
    weight_Q1 = torch.zeros((len(prediction_Q), 1), device=device)
    place = {int(prediction): row for row, prediction in enumerate(prediction_Q)}
    for teacher in teachers:
        logits_AV, answered_A = teacher.ask(examples)
        p_AV = torch.softmax(logits_AV.float(), dim=1)
        weight_A1 = torch.exp(torch.special.entr(p_AV).sum(dim=1, keepdim=True).neg())
        row_A = torch.tensor([place[int(prediction)] for prediction in answered_A], device=device)
        own_AV = torch.zeros((len(row_A), vocabulary), device=device)
        own_AV.index_add_(1, teacher.student_W, p_AV[:, teacher.own_W])
        total_QV.index_add_(0, row_A, own_AV * weight_A1)
        weight_Q1.index_add_(0, row_A, weight_A1)
    return total_QV / weight_Q1.clamp_min(torch.finfo(torch.float32).tiny)
