"""Sections of lexical distillation: students that learn senses, their teachers, students published as weight deltas."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from pipeline.core.config import Section
from pipeline.train.params import LossParams

NO_SOFT_LABELS = "data/senses"
"""`soft_labels_from` of a student without a lexical teacher. DVC needs a path; this one is a dependency in any case."""


class SoftLabelsParams(Section):
    """One entry of `soft_labels`: a lexical teacher."""

    model: str
    """Folder of a lexical student, of any size and vocabulary."""
    senses: list[str]
    """Names under `senses` whose words it labels."""


class SenseFusionParams(Section):
    """One entry of `sense_fusions`: the mean of several lexical teachers' soft labels."""

    teachers: list[str] = Field(min_length=1)
    """Entries of `soft_labels`; the fusion has the words that all of them label."""
    temperature: float = Field(gt=0)
    """Of each teacher's distribution before they are averaged; 1.0 leaves it as it is, more makes it flatter."""

    @field_validator("teachers")
    @classmethod
    def _distinct(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError("names a teacher twice")
        return value


class PublishedParams(Section):
    """One entry of `published`: a student that was trained elsewhere."""

    start: str
    """Folder of the model that it started from."""
    changes: str
    """Folder that `pack` wrote."""


Reading = Literal["cross", "bi"]


class RehearsalParams(Section):
    """The language model's part in lexical training (the M of LMGC-M, Wahle et al. 2021, arXiv 2106.07967)."""

    weight: float = Field(gt=0)
    """Weight of the language model's loss; the loss of the senses has weight 1."""
    step_tokens: int = Field(ge=1)
    """Tokens of masked sequences a step."""
    loss: LossParams
    """Weights of targets and true tokens, as of a student; the start's own predictions need tail: bucket."""


Objective = Literal["lmgc", "lmgc_m", "bi_encoder", "bi_encoder_m"]
"""LMGC encodes context and gloss in one sequence (Wahle et al. 2021), a bi-encoder each alone; _m adds rehearsal."""


SENSES_FOLDER = "senses"
"""Subfolder of a student with what scoring senses needs: head, reading, inventory."""
HEAD_FILE = "head.safetensors"
READING_FILE = "reading.json"
LEXICON_FOLDER = "lexicon"


class ReadingParams(Section):
    """How much of a word's context and of a sense is encoded."""

    context_tokens: int = Field(ge=8)
    """Longest window around a sentence, special tokens included."""
    gloss_tokens: int = Field(ge=8)
    """Longest text of a sense, special tokens included."""
    examples: bool
    """Whether the text of a sense shows its examples (never to a word in such an example)."""


class GlossTableParams(Section):
    """A table of gloss vectors, for training that does not encode the glosses of every word of a step.

    Contexts then are most of what is read, so a window holds the words of as many sentences in a row as fit.
    """

    refresh_steps: int = Field(ge=1)
    """Steps for which vectors are kept."""
    encoding_words: int = Field(ge=1)
    """Words of a step that encode their glosses and learn from both sides; the others learn from the context alone."""


class LexicalTrainingParams(Section):
    """How long and how fast lexical training goes."""

    epochs: float = Field(gt=0)
    step_words: int = Field(ge=1)
    """Words with several senses a step."""
    learning_rate: float = Field(gt=0)
    warmup: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    gradient_clip: float = Field(gt=0)
    most_candidates: int = Field(ge=2)
    """Candidates of a word that are compared in training: the right ones, and others drawn anew every epoch."""
    gloss_table: GlossTableParams | None = None
    """None: a step encodes the glosses of all its candidates."""
    seed: int

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a table as it was before there was one: identities hash it."""
        settings: dict[str, Any] = dump(self)
        if self.gloss_table is None:
            del settings["gloss_table"]
        return settings


class LexicalParams(Section):
    """One entry of `lexical`."""

    renamed: ClassVar = {"belief": "soft_labels", "beliefs": "soft_labels_from"}

    start: str
    """Folder of a masked language model: a student, or any other."""
    senses: list[str]
    """Names under `senses` to learn from."""
    objective: Objective
    reading: ReadingParams
    gold: float = Field(ge=0)
    """Weight of the annotated senses."""
    # Identities of students hash it under its old name.
    soft_labels: float = Field(ge=0, serialization_alias="belief")
    """Weight of a lexical teacher's soft labels."""
    soft_labels_from: str
    """Store of soft labels, data/soft_labels/NAME or data/sense_fusions/NAME; NO_SOFT_LABELS where there is none."""
    targets: str
    """Targets of the rehearsal: a fused store; the start's folder again, for its own predictions before training;
    LABELS_ONLY for true tokens alone, or without language_model."""
    language_model: RehearsalParams | None = None
    """For objectives that end in _m."""
    training: LexicalTrainingParams

    @property
    def own_targets(self) -> bool:
        """True where the start's own predictions are the targets.

        The choice for a start that learned from these masked sequences: it has memorised their true tokens.
        """
        return Path(self.targets) == Path(self.start)

    @property
    def learns_senses(self) -> bool:
        """False for a control, whose weights are 0: the same steps on masked sequences alone."""
        return self.gold + self.soft_labels > 0

    @model_validator(mode="after")
    def _whole(self) -> LexicalParams:
        if self.objective.endswith("_m") != (self.language_model is not None):
            raise ValueError("language_model belongs to objectives that end in _m, and only to these")
        if self.training.gloss_table is not None and not self.objective.startswith("bi"):
            raise ValueError("training.gloss_table belongs to bi_encoder and bi_encoder_m: lmgc has no gloss vectors")
        if self.own_targets and self.language_model is not None and self.language_model.loss.tail == "prior":
            raise ValueError("targets are the start's own predictions, which have no prior: set tail to bucket")
        if not self.senses or (not self.learns_senses and self.language_model is None):
            raise ValueError(
                "something to learn from: at least one name under senses, and a weight above 0 or a language_model"
            )
        return self
