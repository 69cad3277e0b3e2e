"""Where a student comes from: a model folder, some layers of it, or its architecture with fresh weights.

Every student has the reference vocabulary. A start with another vocabulary keeps the embeddings of the tokens that both
have; the embedding of any other token starts as the mean of its embeddings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.models.masked_lm import load_checked, require_narrow_head
from pipeline.text.tokenizer import FastTokenizer, load_tokenizer
from pipeline.train.remap import require_shapes_of_configuration, with_vocabulary
from storage.errors import ParamsError

BY_LAYER = ("layer_types", "attention_window")
"""Settings with one entry a layer: ModernBERT's kinds of attention, Longformer's windows."""


def start_student(
    folder: Path, *, tokenizer: FastTokenizer, layers: list[int] | None, config: dict[str, Any] | None, seed: int
) -> Any:
    """A masked language model in float32 on the CPU, over the vocabulary of `tokenizer`, without dropout.

    layers keeps these encoder layers, from 0; config overrides the configuration and starts from fresh weights.
    Dropout is off: the student sees each example once or twice, and targets are distributions, not labels to memorise.
    Raises ParamsError for layers that are not there or a configuration the architecture refuses.
    """
    model = load_checked(folder) if config is None else _fresh(folder, config, seed=seed)
    if layers is not None:
        _keep_layers(model, layers, folder)
        require_shapes_of_configuration(model, what=f"students: layers: {layers} of {folder}")
    own = load_tokenizer(folder)
    # Published matrices are padded to a round size, or lack the rows of tokens that were added later.
    if own.tokens != tokenizer.tokens or int(model.config.vocab_size) != len(tokenizer.tokens):
        model = with_vocabulary(model, own, tokenizer)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    require_narrow_head(model, folder)
    return model


def _fresh(folder: Path, overrides: dict[str, Any], *, seed: int) -> Any:
    from transformers import AutoConfig, AutoModelForMaskedLM

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    unknown = [key for key in overrides if not hasattr(config, key)]
    if unknown:
        raise ParamsError(f"students: config: {config.model_type} has no setting {', '.join(unknown)}")
    for key, value in overrides.items():
        setattr(config, key, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # initialisers take no generator; the fork leaves the global state as it was
        try:
            model: Any = AutoModelForMaskedLM.from_config(config, trust_remote_code=False)  # type: ignore[no-untyped-call]
        except (ValueError, TypeError) as error:
            raise ParamsError(f"students: config: {folder} refuses it: {str(error).splitlines()[0]}") from error
    return model.float()


def _keep_layers(model: Any, layers: list[int], folder: Path) -> None:
    parent, name = _layer_list(model)
    have: nn.ModuleList = getattr(parent, name)
    wrong = [number for number in layers if not 0 <= number < len(have)]
    if wrong:
        raise ParamsError(f"students: layers: {folder} has layers 0 to {len(have) - 1}, got {wrong}")
    setattr(parent, name, nn.ModuleList([have[number] for number in layers]))
    field = "n_layers" if model.config.model_type == "distilbert" else "num_hidden_layers"
    setattr(model.config, field, len(layers))
    for setting in BY_LAYER:
        values = getattr(model.config, setting, None)
        if isinstance(values, list):
            setattr(model.config, setting, [values[number] for number in layers])


def _layer_list(model: Any) -> tuple[Any, str]:
    body = model.base_model
    for owner, name in (("encoder", "layer"), ("transformer", "layer"), (None, "layers")):
        parent = getattr(body, owner, None) if owner else body
        if parent is not None and isinstance(getattr(parent, name, None), nn.ModuleList):
            return parent, name
    raise ParamsError(f"students: layers: where {type(model).__name__} keeps its layers is not known")
