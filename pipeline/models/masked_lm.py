"""Load a masked language model, one at a time, and ask it for logits at blanks only.

The head is the widest matrix of a small model: computing it at blanks alone is 5 to 6 times less work than everywhere.
Weights come from safetensors, code from the installed `transformers`; nothing in a model folder is executed.
"""

from __future__ import annotations

import gc
import threading
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from storage.errors import SecondModelError, SourceError, TeacherRefused

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


_ONE_MODEL = threading.Lock()
"""Held while a model is in memory. Process-wide on purpose: it is the claim that only one model is ever loaded."""


class MaskedLM:
    """A model on its device, with the head applied to chosen rows only."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model: Any = model
        self.device = device
        self._head = _head_of(model)

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return int(self.model.config.vocab_size)

    @property
    def positions(self) -> int:
        """Longest sequence in tokens; MPNet and RoBERTa lose two positions to the padding offset."""
        offset = 2 if self.model.config.model_type in ("mpnet", "roberta", "xlm-roberta", "camembert") else 0
        return int(self.model.config.max_position_embeddings) - offset

    @property
    def parameters(self) -> int:
        """Trainable numbers, tied weights counted once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def logits(self, input_ids_BL: Tensor, attention_BL: Tensor, row_Q: Tensor, column_Q: Tensor) -> Tensor:
        """Logits [Q, V] at (row, column), in the model's dtype; gradients flow when they are enabled."""
        hidden_BLH = self.model.base_model(input_ids=input_ids_BL, attention_mask=attention_BL).last_hidden_state
        logits: Tensor = self._head(hidden_BLH[row_Q, column_Q])
        return logits

    def release(self) -> None:
        """Drop the model; no logits can be computed afterwards."""
        del self.model, self._head

    def tensors(self, *arrays: Any) -> list[Tensor]:
        """Copy NumPy arrays to the model's device."""
        import torch

        return [torch.from_numpy(array).to(self.device, non_blocking=True) for array in arrays]


@contextmanager
def one_model() -> Iterator[None]:
    """Hold the right to have a model in memory; raises SecondModelError when another holds it."""
    if not _ONE_MODEL.acquire(blocking=False):
        raise SecondModelError("a second model was to be loaded while one is in memory; leave the first block first")
    try:
        yield
    finally:
        _ONE_MODEL.release()


class Releasable(Protocol):
    """What holds a model and can drop it."""

    def release(self) -> None:
        """Drop the model."""


@contextmanager
def released(holder: Releasable, model: weakref.ref[nn.Module], *, folder: Path) -> Iterator[None]:
    """Release `holder` after the block; a model that something still refers to then is a bug, which is raised."""
    try:
        yield
    finally:
        holder.release()
        gc.collect()
    assert model() is None, f"{folder}: something keeps the model in memory after its block"


@contextmanager
def masked_lm(folder: Path, *, device: torch.device, dtype: torch.dtype) -> Iterator[MaskedLM]:
    """Load the masked language model in `folder` for inference; it is gone from memory after the block.

    Raises SecondModelError when a model is in memory already, SourceError when the folder holds no model, and
    TeacherRefused when head weights are missing or the architecture has no masked-LM head.
    """
    with one_model():
        lm = MaskedLM(load_checked(folder).to(device=device, dtype=dtype).eval(), device)
        with released(lm, weakref.ref(lm.model), folder=folder):
            yield lm


def load_checked(folder: Path) -> Any:
    """The model in `folder` in float32 on the CPU, every weight of it from the file."""
    import torch
    from transformers import AutoModelForMaskedLM
    from transformers.utils import logging as transformers_logging

    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        raise SourceError(
            f"{folder}: expected config.json and *.safetensors of a Hugging Face model. Run the stage that makes it"
        )
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' advice about heads; missing weights are refused below
        try:
            model, info = AutoModelForMaskedLM.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
        except ValueError as error:
            raise TeacherRefused(f"{folder}: no masked language model: {str(error).splitlines()[0]}") from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise TeacherRefused(
            f"{folder}: {len(missing)} weights are not in the file and would be newly initialised "
            f"({', '.join(missing[:3])}): this is no trained masked language model. "
            "Give one with its head, or an adapter"
        )
    return model


def _head_of(model: Any) -> Any:
    """The masked-LM head as a function of hidden states, by the attribute names in transformers."""
    if hasattr(model, "cls"):  # BERT and descendants
        return model.cls
    if hasattr(model, "lm_head"):  # MPNet, RoBERTa, XLM-R, CamemBERT
        return model.lm_head
    if hasattr(model, "vocab_projector"):  # DistilBERT
        norm, activation = model.vocab_layer_norm, model.activation
        return lambda hidden: model.vocab_projector(norm(activation(model.vocab_transform(hidden))))
    if hasattr(model, "head") and hasattr(model, "decoder"):  # ModernBERT
        return lambda hidden: model.decoder(model.head(hidden))
    raise TeacherRefused(
        f"{type(model).__name__}: where its masked-LM head lies is not known; supported: BERT, MPNet, "
        "RoBERTa, DistilBERT, ModernBERT and their descendants"
    )
