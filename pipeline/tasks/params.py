"""Sections of the tasks that evaluate a model: word senses, GLUE, paraphrase detection; and of fine-tuning."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.core.config import Section


class FinetuneParams(Section):
    """How a model is fine-tuned, the same for every model that is compared."""

    epochs: int = Field(ge=1)
    least_steps: int = Field(default=0, ge=0)
    """A set too small for as many steps in `epochs` is trained for more epochs: on small sets few steps leave seeds
    apart, and some at a constant answer (Mosbach et al. 2021, arXiv 2006.04884)."""
    learning_rate: float = Field(gt=0)
    batch: int = Field(ge=1)
    """Examples a step."""
    warmup: float = Field(ge=0, lt=1)
    """Share of the steps in which the learning rate rises; afterwards it falls linearly to 0."""
    weight_decay: float = Field(ge=0)
    """On matrices only."""
    max_tokens: int = Field(ge=8)
    """Longest input in tokens; of a pair, the longer text loses tokens first."""
    pooling: Literal["cls", "mean"]

    def epoch_steps(self, examples: int) -> int:
        """Steps of an epoch over that many examples."""
        return -(-examples // self.batch)

    def epochs_of(self, examples: int) -> int:
        """Epochs over that many examples."""
        return max(self.epochs, -(-self.least_steps // self.epoch_steps(examples)))


LEFT_OUT = ("WNLI", "WiC")
"""Tasks that are scored and not averaged with GLUE's."""


class GlueParams(Section):
    """The `glue` section of params.yaml."""

    data: str
    """Folder that holds GLUE's published folders, and WiC's as `WiC`; or "hub"."""
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    """Commit of nyu-mll/glue, for `data: hub`."""
    wic_revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    """Commit of aps/super_glue, for WiC with `data: hub`."""
    tasks: list[TaskName] = Field(min_length=1)
    seeds: list[int] = Field(min_length=1)
    finetune: FinetuneParams
    train_examples: int = Field(ge=0)
    """Examples a task is trained on: a sample that is the same for all models and seeds; 0 for all."""
    dev_examples: int = Field(ge=0)
    """Examples of each dev set, likewise."""
    bootstrap: int = Field(ge=1)
    """Resamples of dev examples and seeds for intervals."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, values in (("tasks", self.tasks), ("seeds", self.seeds)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: expected each once, got {values}")
        if set(self.tasks) == {"WNLI"}:
            raise ValueError("tasks: expected one besides WNLI, which takes no part in the average")
        if self.data == "hub" and self.revision is None:
            raise ValueError("revision: missing; data: hub needs the commit")
        if self.data == "hub" and "WiC" in self.tasks and self.wic_revision is None:
            raise ValueError("wic_revision: missing; WiC of data: hub needs the commit")
        return self


TaskName = Literal["CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI", "QNLI", "RTE", "WNLI", "WiC"]


class ParaphraseParams(Section):
    """The `paraphrase` section."""

    seeds: list[int] = Field(min_length=1)
    """Fine-tunings of each training set."""
    finetune: FinetuneParams
    train_examples: int = Field(ge=0)
    """Most texts or pairs of a set to train on; 0: all."""
    test_examples: int = Field(ge=0)
    """Most to test on; 0: all."""
    bootstrap: int = Field(ge=1)
    """Resamples of documents for intervals."""

    @field_validator("seeds")
    @classmethod
    def _different(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError("expected different numbers from 0")
        return seeds


class RewriteParams(Section):
    """One entry of `rewrite`."""

    model: str
    """Folder of the masked language model that rewrites."""
    split: Literal["train", "calibration", "heldout"]
    """Of the documents; training text has been seen by students, and its likelihood would give it away."""
    shares: list[float] = Field(min_length=1)
    """Shares of a paragraph's words that are replaced, each a set of its own."""
    temperature: float = Field(gt=0)
    """Temperature of the draws; 1 draws from the model's own distribution."""
    top_k: int = Field(ge=1)
    """A draw is from this number of the most probable words."""
    words_min: int = Field(ge=4)
    words_max: int = Field(ge=4)
    paragraphs: int = Field(ge=2)
    """Most paragraphs, chosen by a hash of their names."""
    test_share: float = Field(gt=0, lt=1)
    """Share of the documents that tests detectors."""
    seed: int

    @model_validator(mode="after")
    def _possible(self) -> RewriteParams:
        if not all(0 < share < 1 for share in self.shares) or len(set(self.shares)) < len(self.shares):
            raise ValueError(f"shares must be different numbers between 0 and 1, got {self.shares}")
        if self.words_max < self.words_min:
            raise ValueError(f"words_max must be at least words_min, got {self.words_max} and {self.words_min}")
        return self


class WsdParams(Section):
    """The `wsd` section."""

    bootstrap: int = Field(ge=1)
    """Resamples for the 95 % intervals."""
    seed: int
