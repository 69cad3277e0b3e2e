"""Keep a model's hidden states before its output layer, for a few predictions: the full softmax, to be computed again.

The exact form costs 2 bytes a number (1.5 kB a prediction for a 768-wide model) and once the output layer, so it is for
judging the sparse stores, for choosing a form, and for experiments that need every probability (Chen et al. 2020, arXiv
1911.03829, kept all their targets this way). It is made of held-out text: nothing was fitted on it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.teach.params import ExactParams
from storage.format.arrays import sentinel
from storage.format.manifest import Manifest, SplitPlan
from storage.records.base import id_dtype
from storage.records.hidden_states import HiddenStates
from storage.work import Workspace
from storage.writer import StoreWriter

if TYPE_CHECKING:
    import torch

    from pipeline.models.masked_lm import MaskedLM
    from pipeline.teach.inference import SplitInputs


SPLIT = "heldout"
"""The split whose predictions are kept."""


def keep_exact(
    params: ExactParams,
    model: Path,
    *,
    documents: Path,
    sequences: Path,
    masks: Path,
    out: Path,
    device: torch.device,
    dtype: torch.dtype,
    batch_tokens: int,
    workspace: Workspace = Workspace(),
) -> Manifest:
    """Write the hidden states of the model in `model` at held-out predictions to `out`.

    Raises StaleParent when the stores given do not belong together, WorkBusy when another process writes `out`.
    """
    import torch

    from pipeline.models.identity import model_digest
    from pipeline.models.masked_lm import masked_lm
    from pipeline.teach.inference import TeacherInputs
    from pipeline.text.vocabulary import encode_pieces

    with masked_lm(model, device=device, dtype=dtype) as lm, torch.inference_mode():
        inputs = TeacherInputs.open(
            model, lm, documents=documents, sequences=sequences, masks=masks, batch_tokens=batch_tokens
        )
        part = inputs.split(SPLIT)
        rows, vocabulary = min(params.positions, len(part.masks)), len(inputs.tokenizer.pieces)
        layer = lm.model.get_output_embeddings()
        weight_VH = layer.weight[:vocabulary].float().cpu().numpy().astype(np.float16)
        bias_V = np.zeros(vocabulary, np.float32)
        if layer.bias is not None:
            bias_V = layer.bias[:vocabulary].float().cpu().numpy()
        writer = StoreWriter(
            out,
            HiddenStates,
            specs=HiddenStates.specs(width=weight_VH.shape[1], vocabulary=vocabulary),
            splits={SPLIT: SplitPlan(rows=rows, shard_rows=max(1, rows))},
            inputs={**params.model_dump(), "model": model_digest(model)},
            parents={"masks": inputs.masks.identity},
            workspace=workspace,
        )
        with writer:
            for shard in writer.missing():
                writer.write(shard, _states(part, lm, layer, rows=rows, width=weight_VH.shape[1]))
            return writer.seal(
                facts={"vocabulary": vocabulary, "parameters": lm.parameters},
                constants={
                    "pieces_utf8": encode_pieces(inputs.tokenizer.pieces),
                    "head_weight_VH": weight_VH,
                    "head_bias_V": bias_V,
                },
            )


def _states(part: SplitInputs, lm: MaskedLM, layer: Any, *, rows: int, width: int) -> HiddenStates:
    """What `layer`, the output layer, is given at the first `rows` predictions."""
    ids = np.dtype(id_dtype(len(part.inputs.tokenizer.pieces)))
    record = HiddenStates(
        hidden_PH=np.full((rows, width), np.nan, np.float16), gold_id_P=np.full(rows, sentinel(ids), ids)
    )
    given: list[Any] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0].float().cpu().numpy()))
    try:
        for _, gold, row in part.answers(lm, 0, rows):
            record.hidden_PH[row] = given.pop()
            record.gold_id_P[row] = gold.cpu().numpy()
    finally:
        hook.remove()
    return record
