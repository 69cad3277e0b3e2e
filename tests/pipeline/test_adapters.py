"""Merging: the plain folder answers as body, adapter and head did; what does not fit is refused by name.

Not checked here: that the project's own adapters make good teachers; `evaluate` measures that.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    MPNetConfig,
    MPNetForMaskedLM,
    MPNetModel,
    PreTrainedModel,
)

from pipeline.adapters import copy_model, merge
from pipeline.models import one_model
from storage.errors import SecondModelError, SourceError
from tests.fakes import TINY_TEXT, folder_bytes

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
MATRICES = {
    "bert": r".*encoder\.layer\.\d+\.(attention\.self\.(query|value)|attention\.output\.dense|output\.dense)",
    "mpnet": r".*encoder\.layer\.\d+\.(attention\.attn\.(q|k|v|o)|intermediate\.dense)",
}
HEAD = {"bert": "cls", "mpnet": "lm_head"}


@dataclass(frozen=True, kw_only=True)
class Kit:
    """An encoder without a head, an adapter for it, and the model they make before merging."""

    body: Path
    adapter: Path
    unmerged: PeftModel


def make_kit(folder: Path, tokenizer: Path, kind: str) -> Kit:
    vocabulary = Tokenizer.from_file(str(tokenizer / "tokenizer.json")).get_vocab_size()
    config = {"bert": BertConfig, "mpnet": MPNetConfig}[kind](vocab_size=vocabulary, max_position_embeddings=64, **SIZES)
    body, adapter = folder / "body", folder / "adapter"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = {"bert": BertModel, "mpnet": MPNetModel}[kind](config)
        encoder.save_pretrained(body)
        model = {"bert": BertForMaskedLM, "mpnet": MPNetForMaskedLM}[kind](config)
        lora = LoraConfig(r=4, lora_alpha=8, target_modules=MATRICES[kind], init_lora_weights=False)
        unmerged = get_peft_model(model, lora).eval()
        for parameter in getattr(model, HEAD[kind]).parameters():
            if parameter is not model.get_input_embeddings().weight:
                torch.nn.init.normal_(parameter, std=0.3)
    getattr(unmerged.base_model.model, kind).load_state_dict(
        {name.replace(".weight", ".base_layer.weight") if False else name: w for name, w in {}.items()}, strict=False
    )
    return finish_kit(Kit(body=body, adapter=adapter, unmerged=unmerged), tokenizer, kind)
