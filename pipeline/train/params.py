"""Sections `training` and `students`, and `target_gradients`, by which teachers are chosen before any training."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from pipeline.core.config import Section
from pipeline.sparse.params import Tail

LABELS_ONLY = "data/masks"
"""Targets of a student without a teacher: the true tokens alone, which the mask store names."""


class LossParams(Section):
    """Weights of the two terms, and how the mass outside the kept entries is treated."""

    targets: float = Field(default=0.0, ge=0)
    labels: float = Field(ge=0)
    tail: Tail = "prior"
    anneal: float = Field(default=0.0, ge=0, le=1)
    """Share of the steps over which the targets' weight falls linearly to 0; 0 keeps it.

    Teacher annealing (Clark et al. 2019, arXiv 1907.04829): targets count most at first, true tokens at the end."""

    def targets_weight(self, step: int, steps: int) -> float:
        """Weight of the targets at a step, counted from 0."""
        return self.targets * max(0.0, 1 - step / (self.anneal * steps)) if self.anneal else self.targets


class StudentParams(Section):
    """One entry of `students`."""

    targets: str
    """Store of fused targets, or LABELS_ONLY."""
    start: str
    """Folder of a Hugging Face masked language model."""
    layers: list[int] | None = None
    """Keep these layers of the start only, from 0."""
    config: dict[str, Any] | None = None
    """Start from fresh weights, with these changes to the start's configuration."""
    loss: LossParams
    seed: int | None = None
    """In place of `training.seed`. Entries that differ in nothing else are one student, trained again: the report
    averages over them and pairs them with those of other students by seed."""
    learning_rate: float | None = Field(default=None, gt=0)
    """In place of `training.learning_rate`, for a control whose best rate is another one."""

    def own_training(self, params: TrainingParams) -> TrainingParams:
        """The section `training` with the keys that this student replaces."""
        return params.model_copy(update=self.model_dump(include=OWN_TRAINING, exclude_none=True))


OWN_TRAINING = {"seed", "learning_rate"}
"""Keys of `training` that an entry of `students` may replace. Only the value that is used is part of an identity."""


class TargetGradientParams(Section):
    """The `target_gradients` section: where the gradients of targets are compared with those of true tokens."""

    start: str
    """Folder of the masked language model that students start from."""
    positions: int = Field(ge=64)
    """Train positions that are measured, about."""


class StepsParams(Section):
    """Steps, optimiser and schedule of a masked language model's training: what students and adapters share."""

    steps: int = Field(ge=1)
    step_tokens: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    warmup: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    gradient_clip: float = Field(gt=0)
    evaluations: int = Field(ge=1)
    seed: int


class TrainingParams(StepsParams):
    """The `training` section, the same for every student but for OWN_TRAINING."""

    evaluated_positions: int = Field(default=0, ge=0)
    """Masked positions, about, that the points of the convergence curve are measured at: those of some held-out
    documents, the same for every student. 0: all of the split. The stage `evaluate` reads all in any case."""

    def hashed(self) -> dict[str, Any]:
        """What a student's identity has of it: a curve over the whole split is one of before there was a choice."""
        return self.model_dump(exclude=set() if self.evaluated_positions else {"evaluated_positions"})
