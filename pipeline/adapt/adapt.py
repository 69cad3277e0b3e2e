"""Make a masked-LM teacher of an encoder: train an adapter and a head on a text, and publish the merged model.

The output is a plain Hugging Face folder, which an entry of `teachers` can name. In it is the folder `adapter`, which
is small and can be shared: an entry of `sources` merges it into the same encoder elsewhere. A run that is killed
continues from its last checkpoint with the same bits.
"""

from __future__ import annotations

import gc
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.adapt.params import AdapterParams
from pipeline.adapt.text import HELDOUT_TOKENS, MaskedText, masked_text, read_pages
from pipeline.core.outputs import record_name
from pipeline.core.runtime import Runtime
from pipeline.core.tracking import open_curves
from pipeline.models.identity import model_digest
from pipeline.models.provenance import stated_licence
from pipeline.models.publish import publishing, write_record
from pipeline.text.tokenizer import FastTokenizer, load_tokenizer
from pipeline.train.data import HeldText, TrainingData
from pipeline.train.params import LossParams, StudentParams
from storage.format.manifest import digest
from storage.work import WorkFolder

log = logging.getLogger(__name__)

ADAPTER = "adapter"
"""Folder of the adapter within the model's."""


def adapt(params: AdapterParams, *, documents: Path, out: Path, runtime: Runtime) -> dict[str, Any]:
    """Train one adapter and publish the masked language model it makes at `out`; returns the training record.

    documents is the corpus' store. Raises SourceError when the start cannot become a masked language model, DataError
    when there is no text, WorkBusy when another process makes the same adapter.
    """
    from pipeline.evaluate.predictions import heldout_nll
    from pipeline.models.masked_lm import masked_lm
    from pipeline.sources.adapters import merge, require_model

    start = Path(params.start)
    require_model(start)
    tokenizer = load_tokenizer(start)
    learned, evaluated = read_pages(params, corpus=documents)
    wanted = params.training.steps * params.training.step_tokens
    text = masked_text(learned, tokenizer, params, tokens=wanted, copies=True)
    heldout = masked_text(evaluated, tokenizer, params, tokens=HELDOUT_TOKENS, copies=False)
    identity = digest(
        {
            "adapter": params.model_dump(exclude={"start", "text"}),
            "start": model_digest(start),
            "text": _text_digest(text),
            "heldout": _text_digest(heldout),
        }
    )
    with (
        WorkFolder(out, name=f"models-{out.name}", identity=identity, workspace=runtime.workspace) as work,
        publishing(work) as folder,
    ):
        adapter = folder / ADAPTER
        state = _trained(
            params,
            tokenizer,
            text=text,
            heldout=heldout,
            work=work,
            adapter=adapter,
            runtime=runtime,
        )
        gc.collect()
        merge(start, adapter, folder)
        with masked_lm(folder, device=runtime.device, dtype=runtime.dtype) as lm:
            nll_P = heldout_nll(
                lm, heldout.sequences, heldout.masks, batch_tokens=runtime.batch_tokens, special=tokenizer.special
            )
        record = {
            "identity": identity,
            "start": params.start,
            "text": params.text,
            "include": params.include,
            "documents": text.documents,
            "heldout_documents": heldout.documents,
            "predictions_judged": len(heldout.masks),
            "nll_before": state["curve"][0][1],
            "nll_after": round(float(nll_P.mean()), 5),
            "nll_of_frequencies": round(frequency_nll(text, heldout, vocabulary=len(tokenizer.tokens)), 5),
            **{name: state[name] for name in ("trained", "parameters", "tokens", "predictions", "curve", "losses")},
        }
        if record["nll_after"] >= record["nll_of_frequencies"]:
            log.warning(
                "%s: held-out NLL %.2f, but guessing by token frequency gives %.2f: `teach` will refuse it. Raise "
                "training.steps, or start from an encoder that knows this language",
                out.name,
                record["nll_after"],
                record["nll_of_frequencies"],
            )
        card = adapter_card(out.name, params, record, licence=stated_licence(start))
        for place in (folder, adapter):
            write_record(place, record, card=card)
    return record


def _trained(
    params: AdapterParams,
    tokenizer: FastTokenizer,
    *,
    text: MaskedText,
    heldout: MaskedText,
    work: WorkFolder,
    adapter: Path,
    runtime: Runtime,
) -> dict[str, Any]:
    """Train, write the folder `adapter`, and release the model; returns the trainer's state and the model's size."""
    from pipeline.adapt.lora import save_adapter, with_adapter
    from pipeline.models.masked_lm import MaskedLM, one_model
    from pipeline.train.trainer import Trainer

    with one_model():
        model = with_adapter(
            Path(params.start),
            rank=params.rank,
            seed=params.training.seed,
            frequency_V=_counts(text.masks.label_P, vocabulary=len(tokenizer.tokens)),
        )
        sizes = [p.numel() for p in model.parameters() if p.requires_grad]
        lm = MaskedLM(model.to(runtime.device), runtime.device)
        trainer = Trainer(
            lm,
            StudentParams(targets="", start=params.start, loss=LossParams(targets=0.0, labels=1.0, tail="bucket")),
            params.training,
            data=TrainingData(text=HeldText(text.sequences, text.masks, special=tokenizer.special), targets=None),
            heldout=(heldout.sequences, heldout.masks),
            special=tokenizer.special,
            dtype=runtime.dtype,
            batch_tokens=runtime.batch_tokens,
        )
        with open_curves(runtime.trackers, record_name("adapt", work.out.name), work.path) as curves:
            trainer.run(work.path / "checkpoints", checkpoint_seconds=runtime.checkpoint_seconds, curves=curves)
        save_adapter(model, Path(params.start).name, rank=params.rank, out=adapter)
        return {**trainer.state, "trained": sum(sizes), "parameters": lm.parameters - sum(sizes)}


def frequency_nll(text: MaskedText, heldout: MaskedText, *, vocabulary: int) -> float:
    """Held-out NLL of always giving the learned text's token frequencies, add-one smoothed, nats."""
    count_V = _counts(text.masks.label_P, vocabulary=vocabulary) + 1.0
    return float(-np.log(count_V[heldout.masks.label_P] / count_V.sum()).mean())


def _counts(label_P: NDArray[Any], *, vocabulary: int) -> NDArray[np.int64]:
    return np.bincount(label_P.astype(np.int64), minlength=vocabulary)


def _text_digest(text: MaskedText) -> str:
    """SHA-256 of sequences and masks, which is all that the model reads."""
    import hashlib

    whole = hashlib.sha256()
    for values in (*text.sequences.arrays().values(), *text.masks.arrays().values()):
        whole.update(np.ascontiguousarray(values).tobytes())
    return whole.hexdigest()


def adapter_card(name: str, params: AdapterParams, record: dict[str, Any], *, licence: str) -> str:
    """The README of the model and of its adapter."""
    curve = "\n".join(f"| {step} | {nll:.4f} |" for step, nll in record["curve"])
    start = Path(params.start).name
    return f"""---
library_name: transformers
pipeline_tag: fill-mask
base_model: {start}
{f"license: {licence}" if licence else "# the start's card states no licence"}
tags: [masked-lm, lora]
---
# {name}

A masked language model made of the encoder `{start}`. A low-rank adapter (rank {params.rank}, every linear map of the
encoder) and the head were trained: {record["trained"]:,} numbers beside {record["parameters"]:,} that stayed as they
were.

- text: {", ".join(params.include) or "all sources"} of `{params.text}`, {record["documents"]:,} documents
- {params.training.steps} steps, {record["tokens"]:,} tokens, {record["predictions"]:,} masked positions, \
seed {params.training.seed}

The licence follows from the encoder and the text. The model can reproduce views of the text it learned from.

## Held-out loss
Nats a masked token over {record["predictions_judged"]:,} positions of {record["heldout_documents"]} documents that were
not learned from; whole words are masked, always by the mask token. Guessing by token frequency:
{record["nll_of_frequencies"]:.4f}. As published, in float16 adapter and head: **{record["nll_after"]:.4f}**.

| step | NLL |
| --- | --- |
{curve}

## Files
The folder `adapter` (adapter_config.json, adapter_model.safetensors, mlm_head.safetensors) is all that was trained. An
entry of `sources` with `adapter: PATH/adapter` and the same encoder makes this model again:

```yaml
sources:
  {name}: {{kind: model, local: {params.start}, adapter: models/{name}/adapter}}
```
"""
