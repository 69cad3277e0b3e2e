"""Sections of the text stages: `inputs`, `corpus`, `tokenize` and `mask`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from pipeline.core.config import Section, decode, load
from storage.errors import ParamsError


class InputParams(Section):
    """One entry of `inputs`."""

    kind: Literal["wordnet", "jsonl", "text", "csv", "tsv", "parquet", "dataset"]
    """csv: quoted fields after a header, parted by comma, semicolon or tab; tsv: a line a record, quotation marks are
    text; dataset: a folder of Parquet, JSON Lines, CSV, TSV or plain text. All but Parquet may be compressed."""
    path: str
    """File or folder."""
    text: str = "text"
    """Field or column that holds the text; doc.text is the field `text` of the field `doc`."""
    id: str | None = None
    """Field or column that holds a name unique in this input; without it "id" where there is one, else a hash."""
    licence: str = ""
    """Of the text, kept with the store."""
    bad_lines: float = Field(default=0.0, ge=0, lt=1)
    """Largest share of records that may be unreadable."""
    split: Literal["train", "calibration", "heldout"] | None = Field(default=None, exclude=True)
    """Where all its documents go, whatever `corpus.share`; None: a hash of a document's id decides. The store of the
    text does not depend on it."""

    @model_validator(mode="after")
    def _fields_fit(self) -> InputParams:
        if self.kind in ("wordnet", "text") and self.model_fields_set & {"text", "id"}:
            raise ValueError(f"`text` and `id` name fields of records; an input of kind {self.kind} has none")
        return self


class CorpusParams(Section):
    """The `corpus` section."""

    share: float = Field(gt=0, le=1)
    """Share of all documents that is used."""
    calibration: float = Field(ge=0, lt=1)
    """Share of those that fits the teachers' temperatures; 0 where an input is for that."""
    heldout: float = Field(ge=0, lt=1)
    """Share of those that is held out for evaluation; 0 where an input is for that."""

    @model_validator(mode="after")
    def _leaves_text(self) -> CorpusParams:
        if self.calibration + self.heldout >= 1:
            raise ValueError("calibration and heldout must leave documents to train on: their sum must be below 1")
        return self


def input_params(path: Path) -> dict[str, InputParams]:
    """All entries of the `inputs` section of the settings file."""
    entries = load(path).get("inputs")
    if not isinstance(entries, dict) or not entries:
        raise ParamsError(f"{path}: inputs: expected at least one text, got {entries!r}")
    return {name: decode(entry, InputParams, where=f"{path}: inputs.{name}") for name, entry in entries.items()}


class MaskParams(Section):
    """The `mask` section."""

    rate: float = Field(gt=0, lt=1)
    """Share of the tokens of a window that one copy masks."""
    heldout_rate: float | None = Field(default=None, gt=0, lt=1)
    """The same of held-out windows, at which every model is evaluated; without it, `rate`."""
    copies: int = Field(ge=1)
    """Disjoint sets of masked positions of each training window."""
    seed: int = Field(ge=0)
    shard_rows: int = Field(ge=1)
    """Predictions a shard, in this store and in all that follow."""

    @model_validator(mode="after")
    def _copies_fit(self) -> MaskParams:
        if self.rate * self.copies > 1 + 1e-9:
            raise ValueError(
                f"copies of a window are disjoint, so rate * copies must not exceed 1, got {self.rate} * {self.copies}"
            )
        return self


class TokenizeParams(Section):
    """The `tokenize` section."""

    tokenizer: str
    """Folder with the tokenizer.json of the students."""
    sequence_tokens: int = Field(ge=8, le=8192)
    """Longest window in tokens, special tokens included."""
