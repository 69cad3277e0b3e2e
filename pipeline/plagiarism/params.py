"""Sections `plagiarism_sets` and `plagiarism`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from pipeline.core.config import Section


class PlagiarismSetParams(Section):
    """One entry of `plagiarism_sets`."""

    kind: Literal["rewritten", "pairs"]
    path: str
    """Of kind rewritten: a folder that `rewrite` made; of kind pairs: TSV with label, sentence1 and sentence2."""
    share: float | None = Field(default=None, gt=0, lt=1)
    """Of kind rewritten: which of its shares of replaced words."""
    split: Literal["train", "calibration", "heldout"]
    """Of the documents that passages are put into; of kind rewritten that of the rewritten paragraphs."""
    document_words: int = Field(ge=20)
    """Shorter documents are joined until they have so many words."""
    passage_words: int = Field(ge=1)
    """Passages of fewer words, before or after rewriting, are left out."""
    passages: int = Field(ge=1)
    """Most passages in one suspicious document."""
    clean: float = Field(ge=0, lt=1)
    """Share of the suspicious documents that hold no passage."""
    distractors: float = Field(ge=0, lt=1)
    """Share of the other documents that become sources from which nothing is taken."""
    seed: int

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.kind == "rewritten") != (self.share is not None):
            raise ValueError(f"share: needed with kind rewritten, and only there; got {self.share} with {self.kind}")
        return self


class PlagiarismParams(Section):
    """The `plagiarism` section."""

    data: str
    """A folder in PAN's layout, or a folder of such folders, each a set; data/plagiarism: all sets made here."""
    development: float = Field(gt=0, lt=1)
    """Share of the suspicious documents that thresholds are fitted on; the others test."""
    unit_words: int = Field(ge=1)
    """Sentences are joined until a unit has so many words."""
    most_words: int = Field(ge=2)
    """A longer unit is cut."""
    candidates: int = Field(ge=1)
    """Sources that are aligned with a suspicious document: those with the most similar units."""
    bootstrap: int = Field(ge=1)
    """Resamples of documents for the 95 % intervals."""
    seed: int

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.most_words <= self.unit_words:
            raise ValueError(f"most_words must be more than unit_words, got {self.most_words} and {self.unit_words}")
        return self
