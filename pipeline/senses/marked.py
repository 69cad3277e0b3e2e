"""Sentences with the words in them that have senses, as every kind of source gives them."""

from __future__ import annotations

import re
from dataclasses import dataclass

WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A word of a sentence that has senses."""

    instance_id: str
    start: int
    end: int
    lemma: str
    pos: str
    gold: tuple[str, ...]
    """Sense keys; empty where nobody annotated the word."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Marked:
    """A sentence and its words that have senses."""

    sentence_id: str
    document_id: str
    source: str
    text: str
    spans: tuple[Span, ...]
