"""The section `adapters`: which encoder becomes a masked-LM teacher, on which text, in how many steps."""

from __future__ import annotations

from pydantic import Field

from pipeline.core.config import Section
from pipeline.train.params import TrainingParams


class AdapterParams(Section):
    """One entry of `adapters`."""

    start: str
    """Folder of a Hugging Face encoder, with or without a masked-LM head."""
    text: str
    """data/documents: the corpus, its train split; data/text: what was ingested and the corpus does not use; or a file
    or folder of text, JSON Lines or Parquet."""
    include: list[str] = Field(default_factory=list)
    """Sources of documents that are used, by name; none named: all."""
    heldout: float = Field(default=0.05, gt=0, lt=1)
    """Share of the documents that judges; of data/documents its own held-out split does."""
    rank: int = Field(default=16, ge=1)
    """Rank of the adapter's matrices, and its alpha: the low-rank product is added as it is."""
    rate: float = Field(default=0.15, gt=0, lt=1)
    """Share of a sequence's tokens that is masked."""
    sequence_tokens: int = Field(default=128, ge=8, le=8192)
    """Longest sequence, special tokens included."""
    training: TrainingParams
