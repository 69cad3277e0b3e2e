"""The files of a tokenizer beside a model of another type, so that transformers reads them as they were meant."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

from pipeline.models.files import CONFIG_FILE
from pipeline.models.publish import KNOWN_CLASS, TOKENIZER_CONFIG
from pipeline.text.tokenizer import FastTokenizer

TOKENIZER_FILE = "tokenizer.json"
TYPES = "token_type_ids"
INPUTS = ("input_ids", TYPES, "attention_mask")


def name_tokenizer(model: Any, folder: Path, tokenizer: FastTokenizer) -> None:
    """Name the class and special tokens of the tokenizer whose files are in `folder`, and what the `model` there reads.

    transformers takes what the files do not name from the model's type. For a RoBERTa model with BERT's tokenizer it
    would take "<mask>" for the mask and, from version 5 on, cut words in RoBERTa's way. A tokenizer that comes with a
    model of the same type is left as it is published.
    """
    if _model_type(tokenizer.folder) == _model_type(folder):
        return
    if not (folder / TOKENIZER_FILE).is_file():  # else only the class that is replaced would read the other files
        tokenizer.backend.save(str(folder / TOKENIZER_FILE))
    path = folder / TOKENIZER_CONFIG
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    read = inspect.signature(type(model.base_model).forward).parameters
    # RoBERTa's matrix of types has one row: the second text of a pair would be out of its range.
    several_types = getattr(model.config, "type_vocab_size", 0) > 1
    config |= {
        "tokenizer_class": KNOWN_CLASS,
        "model_input_names": [name for name in INPUTS if name in read and (several_types or name != TYPES)],
        **{f"{role}_token": tokenizer.backend.id_to_token(number) for role, number in tokenizer.special.items()},
    }
    path.write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _model_type(folder: Path) -> str | None:
    """None where there is no configuration, as in a folder that is a tokenizer only."""
    path = folder / CONFIG_FILE
    return json.loads(path.read_text(encoding="utf-8")).get("model_type") if path.is_file() else None
