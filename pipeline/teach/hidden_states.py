"""Store a model's hidden states before its output layer at a few predictions, from which the full softmax is computed.

This exact form costs 2 bytes a number (1.5 kB a prediction for a 768-wide model), and the output layer once. It serves
to evaluate the sparse stores, to choose a form, and for experiments that need every probability (Chen et al. 2020,
arXiv 1911.03829, stored all their targets this way). It is made of held-out text, on which nothing was fitted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.core.runtime import Runtime
from pipeline.teach.params import ExactParams
from pipeline.text.corpus_view import MaskedCorpus
from storage.errors import TeacherRefused
from storage.format.arrays import sentinel
from storage.format.manifest import Manifest, SplitPlan
from storage.records.base import HELDOUT, id_dtype
from storage.records.hidden_states import HiddenStates
from storage.writer import StoreWriter

if TYPE_CHECKING:
    import torch

    from pipeline.models.masked_lm import MaskedLM
    from pipeline.teach.inference import SplitInputs


STATE_TOLERANCE = 0.03
"""Largest difference between a model's logits and those computed again from a state, as a share of the largest logit.
A teacher may run in bfloat16, whose rounding is 0.01."""


def keep_exact(params: ExactParams, model: Path, corpus: MaskedCorpus, *, out: Path, runtime: Runtime) -> Manifest:
    """Write the hidden states of the model in `model` at held-out predictions to `out`.

    Raises WorkBusy when another process writes `out`, TeacherRefused when the model's logits are not one matrix times
    one vector a position.
    """
    import torch

    from pipeline.models.identity import model_digest
    from pipeline.models.masked_lm import masked_lm
    from pipeline.teach.inference import TeacherInputs
    from pipeline.text.vocabulary import encode_tokens

    with masked_lm(model, device=runtime.device, dtype=runtime.dtype) as lm, torch.inference_mode():
        inputs = TeacherInputs.open(model, lm, corpus, batch_tokens=runtime.batch_tokens)
        part = inputs.split(HELDOUT)
        rows, vocabulary = min(params.positions, part.rows), len(inputs.tokenizer.tokens)
        layer, bias = output_layer(lm)
        weight_VH = layer.weight[:vocabulary].float().cpu().numpy().astype(np.float16)
        bias_V = np.zeros(vocabulary, np.float32) if bias is None else bias[:vocabulary].float().cpu().numpy()
        writer = StoreWriter(
            out,
            HiddenStates,
            specs=HiddenStates.specs(width=weight_VH.shape[1], vocabulary=vocabulary),
            splits={HELDOUT: SplitPlan(rows=rows, shard_rows=max(1, rows))},
            inputs={**params.model_dump(), "model": model_digest(model)},
            parents={"masks": corpus.masks.identity},
            workspace=runtime.workspace,
        )
        with writer:
            for shard in writer.missing():
                writer.write(shard, _states(part, lm, layer, rows=rows, width=weight_VH.shape[1]))
            return writer.seal(
                facts={"vocabulary": vocabulary, "parameters": lm.parameters},
                constants={
                    "pieces_utf8": encode_tokens(inputs.tokenizer.tokens),
                    "head_weight_VH": weight_VH,
                    "head_bias_V": bias_V,
                },
            )


def output_layer(lm: MaskedLM) -> tuple[Any, torch.Tensor | None]:
    """The last layer of the head, with weight [V, H], and the bias [V] that is added after it, if there is one.

    Raises TeacherRefused unless the logits are its input times its weight plus that bias. Families whose head computes
    something else (MobileBERT, DeBERTa-v3's own head) have no such state.
    """
    import torch

    layer, vocabulary = lm.model.get_output_embeddings(), lm.vocabulary
    ids_BL = torch.arange(5, 13, device=lm.device)[None] % vocabulary
    column_L = torch.arange(ids_BL.shape[1], device=lm.device)
    biases: list[Any] = [layer.bias] if getattr(layer, "bias", None) is not None else []
    biases += [
        tensor
        for name, tensor in lm.model.named_parameters()
        if name.endswith("bias") and tensor.shape == (vocabulary,)
    ]
    weight = getattr(layer, "weight", None)
    if weight is not None and len(weight) == vocabulary:
        with inputs_of(layer) as given:
            logits = lm.logits(ids_BL, torch.ones_like(ids_BL), torch.zeros_like(column_L), column_L).float()
        for bias in (*biases, None):
            if not given or given[0].shape[-1] != weight.shape[1]:
                break
            again = given[0] @ weight.float().T + (0 if bias is None else bias.float())
            if bool((again - logits).abs().max() <= STATE_TOLERANCE * logits.abs().max()):
                return layer, bias
    raise TeacherRefused(
        f"{type(lm.model).__name__}: its logits are not one matrix times one state a position, so its full softmax "
        "cannot be kept as states. Take it out of `exact`; the stage teach does not need them"
    )


@contextmanager
def inputs_of(layer: Any) -> Iterator[list[torch.Tensor]]:
    """Collect the inputs of `layer`, float32 [Q, H] a call."""
    given: list[torch.Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0].float().flatten(0, -2)))
    try:
        yield given
    finally:
        hook.remove()


def _states(part: SplitInputs, lm: MaskedLM, layer: Any, *, rows: int, width: int) -> HiddenStates:
    """The inputs of `layer`, the output layer, at the first `rows` predictions."""
    ids = np.dtype(id_dtype(len(part.inputs.tokenizer.tokens)))
    record = HiddenStates(
        hidden_PH=np.full((rows, width), np.nan, np.float16), gold_id_P=np.full(rows, sentinel(ids), ids)
    )
    with inputs_of(layer) as given:
        for _, gold, row in part.answers(lm, 0, rows):
            record.hidden_PH[row] = given.pop().cpu().numpy()
            record.gold_id_P[row] = gold.cpu().numpy()
    # The store of logits exchanges tokens' logits there; one state and one output matrix cannot express that.
    respelt_P = part.respelt(0, rows)
    record.hidden_PH[respelt_P] = np.nan
    record.gold_id_P[respelt_P] = sentinel(ids)
    return record
