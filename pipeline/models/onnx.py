"""A masked language model as ONNX, checked against PyTorch; needs the extra `onnx`.

PyTorch's own exporter makes the graph, with the batch and the length of its sequences left open. The folder has the
names that Optimum's ONNX Runtime classes look for.
"""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.models.files import CARD_FILES, CONFIG_FILE, TOKENIZER_FILES, WEIGHT_FILES, copy_files, files_like
from pipeline.models.masked_lm import load_checked, one_model
from storage.atomic import staged
from storage.errors import SourceError

ONNX_FILE = "model.onnx"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4
"""Largest difference of a logit from PyTorch's, as a share of the largest; sums in another order differ by 1e-6."""

ONE_FILE_BYTES = 1_900_000_000
"""Weights above this lie in a file beside the graph: a message of Protocol Buffers has at most 2 GiB."""

SHAPES = ((1, 7), (3, 16), (2, 5))
"""Batches and lengths at which both are compared; the graph is traced at another."""
TRACED = (2, 11)


class _Logits(torch.nn.Module):
    """The model with plain tensors as inputs and output."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


def export(folder: Path, out: Path) -> float:
    """Write the model in `folder` as ONNX to the new folder `out`; returns the largest difference of a logit.

    Inputs are input_ids and attention_mask, int64 [B, L]; the output is logits, float32 [B, L, V]. The difference is a
    share of the largest logit. Raises SourceError when packages are missing or the exported model differs.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise SourceError(f"export: {missing[0]} is not installed. Run: pip install -c constraints.txt -e '.[onnx]'")
    if out.exists():
        raise SourceError(f"{out}: is there already. Remove it, or export to another folder")
    with one_model(), staged(out, purpose="export", keep=False) as workshop:
        model = _Logits(load_checked(folder).eval())
        place = workshop / "model"
        place.mkdir(exist_ok=True)
        ids_BL, attention_BL = _inputs(model.model.config, *TRACED)
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # of the exporter, about its own internals
            open_axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
            torch.onnx.export(
                model,
                (ids_BL, attention_BL),
                str(place / ONNX_FILE),
                input_names=["input_ids", "attention_mask"],
                output_names=["logits"],
                dynamic_shapes=(open_axes, open_axes),
                external_data=sum(path.stat().st_size for path in files_like(folder, WEIGHT_FILES)) > ONE_FILE_BYTES,
                dynamo=True,
                verbose=False,
            )
        copy_files(folder, place, (CONFIG_FILE, *TOKENIZER_FILES, *CARD_FILES))
        worst = _require_same(model, place / ONNX_FILE, folder)
        place.rename(out)
        return worst


def _require_same(model: _Logits, path: Path, folder: Path) -> float:
    """The largest difference over `SHAPES`, padding aside; raises SourceError when it is above the tolerance."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for shape in SHAPES:
        ids_BL, attention_BL = _inputs(model.model.config, *shape)
        with torch.inference_mode():
            expected = model(ids_BL, attention_BL).numpy()
        (found,) = session.run(["logits"], {"input_ids": ids_BL.numpy(), "attention_mask": attention_BL.numpy()})
        shown = attention_BL.numpy() == 1
        worst = max(worst, float(np.abs(found - expected)[shown].max() / np.abs(expected[shown]).max()))
    if not worst <= TOLERANCE:
        raise SourceError(
            f"{folder}: as ONNX its logits differ by {worst:.1g} of the largest, at most {TOLERANCE:g} may"
        )
    return worst


def _inputs(config: Any, batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids over the vocabulary; the last sequence is padded from its middle on."""
    ids_BL = (torch.arange(batch * length).reshape(batch, length) * 7 + 5) % int(config.vocab_size)
    attention_BL = torch.ones_like(ids_BL)
    if batch > 1:
        attention_BL[-1, length // 2 :] = 0
        ids_BL[-1, length // 2 :] = getattr(config, "pad_token_id", None) or 0
    return ids_BL, attention_BL
