"""Publish a trained model as a plain Hugging Face folder, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.models.files import TOKENIZER_FILES, WEIGHT_FILES, copy_files, files_like

if TYPE_CHECKING:
    from storage.work import WorkFolder

CARD_FILE = "README.md"
RECORD_FILE = "training.json"


@contextmanager
def publishing(work: WorkFolder) -> Iterator[Path]:
    """An empty folder to write; it becomes the output of `work` when the block ends without an exception."""
    work.empty_content()
    yield work.content
    work.publish()


def save_model(model: Any, folder: Path, *, tokenizer: Path) -> None:
    """Write configuration and weights (safetensors) of a model, and the tokenizer's files of the folder `tokenizer`."""
    model.save_pretrained(folder)
    for path in files_like(folder, WEIGHT_FILES):
        path.chmod(0o644)  # safetensors writes files that only their owner can read
    copy_files(tokenizer, folder, TOKENIZER_FILES)


def write_record(folder: Path, record: dict[str, Any], *, card: str) -> None:
    """Write the training record, JSON, and the model card, Markdown."""
    (folder / RECORD_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
