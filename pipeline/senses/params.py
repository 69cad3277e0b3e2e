"""Sections `lexicon` and `senses`: the sense inventory, and words in context with their senses."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.core.config import Section


class SensesParams(Section):
    """One entry of `senses`: where words in context come from, and what is held out."""

    kind: Literal["raganato", "examples"]
    """Annotated text in the layout of Raganato et al. 2017, or the examples of the inventory itself."""
    path: str
    """Folder with one *.data.xml and one *.gold.key.txt (also .gz, .zst), or the former; of examples: data/lexicon."""
    share: float = Field(default=1.0, gt=0, le=1)
    """Of the documents (of examples: of the meanings), by a hash of their name."""
    heldout: float = Field(ge=0, lt=1)
    """Share of these that is held out for evaluation, by another hash."""
    licence: str = Field(default="", exclude=True)
    """Of the annotated text, or of the inventory's examples; kept with the store, for cards of what learned from it."""


class LexiconParams(Section):
    """The `lexicon` section."""

    kind: Literal["wordnet", "jsonl"]
    """`wordnet`: database files in Princeton's form (WNDB), of WordNet 3.0 or another wordnet; `jsonl`: the user's own
    inventory, see `read_inventory`."""
    path: str
    """Folder of WordNet's files, or the file."""
