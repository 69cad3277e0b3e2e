"""The files of a Hugging Face model folder, by name: only these are fetched, copied and published."""

from __future__ import annotations

import fnmatch
import shutil
from pathlib import Path

CONFIG_FILE = "config.json"
WEIGHT_FILES = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
VOCABULARY_FILES = (
    *("tokenizer.json", "vocab.txt", "vocab.json"),
    *("sentencepiece.bpe.model", "spiece.model", "spm.model", "tokenizer.model"),
)
TOKENIZER_FILES = (
    *VOCABULARY_FILES,
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt"),
)
CARD_FILES = ("README.md", "LICENSE", "LICENSE.*", "NOTICE")
MODEL_FILES = (CONFIG_FILE, *WEIGHT_FILES, *TOKENIZER_FILES, *CARD_FILES)
"""Patterns of the files of a model folder: no code, no pickles, no other formats of the weights."""


def files_like(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    """Files directly in `folder` whose name matches a pattern, by name."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and any(fnmatch.fnmatchcase(path.name, pattern) for pattern in patterns)
    )


def copy_files(folder: Path, out: Path, patterns: tuple[str, ...]) -> None:
    """Copy the files of `folder` that match into `out`: copies, not links, so that no edit of one changes the other."""
    for path in files_like(folder, patterns):
        shutil.copyfile(path, out / path.name)
