"""Endings of files with texts, which sources fetch and inputs read; compressed ones have a second ending."""

from __future__ import annotations

PACKED_ENDINGS = (".gz", ".xz", ".bz2", ".zst")
"""Of compressions that readers know (`pipeline.text.documents.decoding`)."""


def _packed(*endings: str) -> tuple[str, ...]:
    """The endings, and each with that of a compression after it."""
    return (*endings, *(ending + packed for packed in PACKED_ENDINGS for ending in endings))


JSON_LINES = _packed(".jsonl", ".ndjson")
PLAIN_TEXT = _packed(".txt", ".text")
MARKDOWN = _packed(".md", ".markdown")
CSV = _packed(".csv")
TSV = _packed(".tsv", ".tab")
PARQUET = (".parquet",)

DATASET = (PARQUET, JSON_LINES, CSV, TSV, PLAIN_TEXT)
"""Of a data set, in groups: files of the first group of which there is any are read. Text beside tables is a note."""
