"""A masked language model with a trainable low-rank adapter and head, and the folder of their weights.

Every linear map of the encoder gets a low-rank product beside it (Hu et al. 2021, arXiv 2106.09685). The head, which a
plain encoder lacks, is trained whole. Its output matrix stays tied to the input embeddings, so that the head's
file is small. The folder is what `pipeline.sources.adapters` merges.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from pipeline.sources.adapters import head_parameters, head_place, load_body, require_tied
from storage.errors import SourceError


def with_adapter(start: Path, *, rank: int, seed: int, frequency_V: NDArray[np.int64]) -> Any:
    """The model in `start` in float32 on the CPU, without dropout; only adapter and head are trainable.

    frequency_V counts the true tokens. A bias of the head that the start does not have begins as their log frequencies,
    so that training does not spend steps on learning them. Raises SourceError when the architecture has no masked-LM
    head, or one whose output matrix is not its input embeddings.
    """
    from peft import LoraConfig, inject_adapter_in_model

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers warns about heads, which are new here on purpose
        torch.manual_seed(seed)  # initialisers take no generator; the fork leaves the global state as it was
        model, missing = load_body(start)
        require_tied(model, start)
        head = head_parameters(model)
        if not head:
            raise SourceError(f"{start}: {type(model).__name__} has no head beside its encoder that could be trained")
        everything = dict(model.named_parameters(remove_duplicate=False))
        trained = {id(parameter) for parameter in head.values()}
        strange = [name for name in missing if name in everything and id(everything[name]) not in trained]
        if strange:
            raise SourceError(f"{start}: weights of the encoder are not in its file: {', '.join(strange[:5])}")
        new = {id(everything[name]) for name in missing if name in everything}
        for parameter in head.values():
            if id(parameter) in new and parameter.shape == (model.config.vocab_size,):
                parameter.data.copy_(torch.from_numpy(_log_frequency(frequency_V, len(parameter))))
        body = model.base_model.named_modules(prefix=model.base_model_prefix)
        maps = [name for name, module in body if isinstance(module, nn.Linear)]
        inject_adapter_in_model(
            LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=linear_maps(maps)), model
        )
    for parameter in head.values():
        parameter.requires_grad_(True)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.train()


def _log_frequency(count_V: NDArray[np.int64], size: int) -> NDArray[np.float32]:
    """Log of the add-one smoothed shares of the ids; ids beyond those counted, a matrix's padding, were never seen."""
    padded_V = np.concatenate([count_V, np.zeros(size - len(count_V), np.int64)]) + 1.0
    return np.asarray(np.log(padded_V / padded_V.sum()), np.float32)


def linear_maps(names: Iterable[str]) -> str:
    """A regular expression that matches these names of modules, layers' numbers left open.

    An expression, not a list: PEFT keeps lists as sets, whose order differs between runs.
    """
    return "|".join(sorted({re.sub(r"(?<=\\\.)\d+(?=\\\.)", r"\\d+", re.escape(name)) for name in names}))


def save_adapter(model: Any, start: str, *, rank: int, out: Path) -> None:
    """Write adapter_config.json, adapter_model.safetensors and mlm_head.safetensors, float16, to the folder `out`.

    Names are PEFT's, and for the head relative to its module where it is one.
    """
    from peft import LoraConfig

    out.mkdir(parents=True, exist_ok=True)
    low_rank = {name: p for name, p in model.named_parameters() if ".lora_" in name}
    maps = linear_maps(name.partition(".lora_")[0] for name in low_rank)
    config = LoraConfig(
        r=rank, lora_alpha=rank, target_modules=maps, base_model_name_or_path=start, inference_mode=True
    )
    config.save_pretrained(str(out))
    save_file(
        {f"base_model.model.{name.replace('.default.', '.')}": _half(p) for name, p in low_rank.items()},
        out / "adapter_model.safetensors",
    )
    head, place = head_parameters(model), head_place(model)
    save_file({name.removeprefix(place): _half(p) for name, p in head.items()}, out / "mlm_head.safetensors")


def _half(parameter: nn.Parameter) -> torch.Tensor:
    return parameter.detach().to("cpu", torch.float16).contiguous()
