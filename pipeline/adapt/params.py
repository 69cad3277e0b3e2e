"""The section `adapters`: the encoder that becomes a masked-LM teacher, its text and its training."""

from __future__ import annotations

from pydantic import Field

from pipeline.core.config import Section
from pipeline.train.params import StepsParams


class AdapterParams(Section):
    """One entry of `adapters`."""

    start: str
    """Folder of a Hugging Face encoder, with or without a masked-LM head."""
    text: str
    """data/documents: the corpus' train split; data/text: ingested documents that the corpus does not use; or a file or
    folder of text, JSON Lines, CSV, TSV or Parquet."""
    include: list[str] = Field(default_factory=list)
    """Names of the sources whose documents are used; empty: all."""
    heldout: float = Field(default=0.05, gt=0, lt=1)
    """Share of the documents that is held out; data/documents has its own held-out split."""
    rank: int = Field(default=16, ge=1)
    """Rank of the adapter's matrices, and its alpha: so the low-rank product is added without a factor."""
    rate: float = Field(default=0.15, gt=0, lt=1)
    """Share of a sequence's tokens that is masked."""
    sequence_tokens: int = Field(default=128, ge=8, le=8192)
    """Longest sequence, special tokens included."""
    training: StepsParams
