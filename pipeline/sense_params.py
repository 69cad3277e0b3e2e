"""Settings of lexical training, and names of what it leaves beside a student: read without loading torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.config import Section

Objective = Literal["lmgc", "lmgc_m", "bi_encoder", "bi_encoder_m"]
"""LMGC reads context and gloss together (Wahle et al. 2021), a bi-encoder each once; _m keeps the language model."""


SENSES_FOLDER = "senses"
"""Beside a student's weights: what scoring senses needs."""
HEAD_FILE = "head.safetensors"
READING_FILE = "reading.json"
LEXICON_FOLDER = "lexicon"


class ReadingParams(Section):
    """What a model sees of a word's context and of a sense."""

    context_tokens: int = Field(ge=8)
    """Longest window around a sentence, special tokens included."""
    gloss_tokens: int = Field(ge=8)
    """Longest text of a sense, special tokens included."""
    examples: bool
    """Whether the text of a sense shows its examples (never to a word in such an example)."""


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
    seed: int
