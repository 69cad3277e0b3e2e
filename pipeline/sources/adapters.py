"""Plain masked-LM folders made of an encoder, a LoRA adapter and a head.

A sentence encoder has no masked-LM head. An adapter folder adds it and the low-rank change of the encoder:
`adapter_config.json` and `adapter_model.safetensors` (PEFT's layout) and `mlm_head.safetensors` (names relative to the
head module). Merging adds the low-rank product to each weight matrix, W + (alpha / r) B A (Hu et al. 2021, arXiv
2106.09685), and writes a float32 folder that `from_pretrained` loads without PEFT. Cost: one model in memory, less than
a second copy of it while saving.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.models.files import (
    CARD_FILES,
    CONFIG_FILE,
    MODEL_FILES,
    TOKENIZER_FILES,
    VOCABULARY_FILES,
    WEIGHT_FILES,
    copy_files,
    files_like,
)
from pipeline.models.masked_lm import one_model
from pipeline.models.weights import no_safetensors, weight_files
from storage.errors import SourceError

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "mlm_head.safetensors")
REASON_CHARACTERS = 300


def require_model(folder: Path, *, repo: str | None = None) -> None:
    """Raise SourceError unless `folder` holds a configuration and weights in safetensors; repo is its hub's name.

    Files in JSON must be readable: transformers and tokenizers would fail on others in ways of their own.
    """
    if not folder.is_dir():
        raise SourceError(f"{folder}: no such folder")
    if not (folder / CONFIG_FILE).is_file():
        raise SourceError(f"{folder}: no config.json: not a Hugging Face model folder")
    if files_like(folder, WEIGHT_FILES):
        weight_files(folder)  # names the shards that are missing
        if not files_like(folder, VOCABULARY_FILES):
            raise SourceError(f"{folder}: no tokenizer: expected one of {', '.join(VOCABULARY_FILES)}")
        for path in files_like(folder, (CONFIG_FILE, *TOKENIZER_FILES)):
            if path.suffix == ".json":
                _require_json(path)
        return
    raise SourceError(no_safetensors(folder, repo=repo))


def _require_json(path: Path) -> None:
    """Raise SourceError unless the file is a JSON object in UTF-8."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        reason = " ".join(str(error).split())[:REASON_CHARACTERS]
        raise SourceError(f"{path}: expected JSON: {reason}. Mend the file or fetch it again") from error
    if not isinstance(value, dict):
        raise SourceError(f"{path}: expected a JSON object, got {type(value).__name__}. Fetch the file again")


def require_adapter(folder: Path) -> None:
    """Raise SourceError unless `folder` holds an adapter and a head, both in safetensors."""
    for name in ADAPTER_FILES:
        if not (folder / name).is_file():
            raise SourceError(f"{folder}: no {name}: an adapter folder holds {', '.join(ADAPTER_FILES)}")


def copy_model(body: Path, out: Path) -> None:
    """Copy the files of a model from `body` into `out`.

    Not hard links: DVC makes outputs read-only, and an edit of the original would change them unnoticed.
    """
    require_model(body)
    out.mkdir(parents=True, exist_ok=True)
    copy_files(body, out, MODEL_FILES)
    _switch_off_cutting(out)


def merge(body: Path, adapter: Path, out: Path) -> None:
    """Write the masked language model that `adapter` makes of the encoder in `body` into `out`, in float32.

    Raises SourceError when a file is missing, when the adapter does not fit the body, or when a weight of the head
    would stay newly initialised; SecondModelError when a model is in memory.
    """
    require_model(body)
    require_adapter(adapter)
    out.mkdir(parents=True, exist_ok=True)
    with one_model(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers warns about heads and names; real faults are refused below
        model, missing = load_body(body)
        _fill_head(model, adapter, missing)
        model = _merged(model, adapter)
        require_tied(model, adapter)
        model.save_pretrained(out)
        for path in files_like(out, WEIGHT_FILES):
            path.chmod(0o644)  # safetensors writes files that only their owner can read
        del model
    copy_files(body, out, (*TOKENIZER_FILES, *CARD_FILES))
    _switch_off_cutting(out)


def load_body(body: Path) -> tuple[Any, list[str]]:
    """The body as a masked LM on the CPU, and the names of its weights that were not in the file."""
    import torch
    from transformers import AutoModelForMaskedLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model, info = AutoModelForMaskedLM.from_pretrained(
            body,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except ValueError as error:
        raise SourceError(f"{body}: no architecture with a masked-LM head: {str(error).splitlines()[0]}") from error
    return model.eval(), sorted(info["missing_keys"])


def head_parameters(model: Any) -> dict[str, Any]:
    """Parameters outside the encoder by name; a tensor that is tied to the encoder counts as the encoder's."""
    encoder = {id(parameter) for parameter in model.base_model.parameters()}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) not in encoder}


def head_place(model: Any) -> str:
    """The module that is the whole head, with a dot: the first part of its parameters' names where all share one.

    Empty where the head is several modules of the model (DistilBERT, ModernBERT). The head's file has names relative to
    this place.
    """
    modules = {name.partition(".")[0] for name in head_parameters(model)}
    return f"{modules.pop()}." if len(modules) == 1 else ""


def _fill_head(model: Any, adapter: Path, missing: Sequence[str]) -> None:
    """Load the head; refuse it when it does not fit or leaves one of the `missing` weights as it was initialised."""
    from safetensors.torch import load_file

    place, whole = head_place(model), model.state_dict().keys()
    weights = {
        name if name in whole else f"{place}{name}": tensor
        for name, tensor in load_file(adapter / "mlm_head.safetensors").items()
    }
    try:
        outcome = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:REASON_CHARACTERS]
        raise SourceError(f"{adapter}: mlm_head.safetensors does not fit {type(model).__name__}: {reason}") from error
    if outcome.unexpected_keys:
        raise SourceError(
            f"{adapter}: mlm_head.safetensors has weights that {type(model).__name__} does not know: "
            f"{', '.join(name.removeprefix(place) for name in outcome.unexpected_keys[:5])}"
        )
    # Tied weights have several names and one tensor, and the file names it once.
    tensors = dict(model.named_parameters(remove_duplicate=False))
    filled = {id(tensors[name]) for name in weights}
    unfilled = [name for name in missing if id(tensors.get(name)) not in filled]
    if unfilled:
        raise SourceError(
            f"{adapter}: {len(unfilled)} weights are neither in the body nor in mlm_head.safetensors and would be "
            f"newly initialised: {', '.join(unfilled[:5])}. Give an adapter for this body, with its head"
        )


def _merged(model: Any, adapter: Path) -> Any:
    """The model with the adapter's low-rank products added to its weights."""
    from peft import PeftConfig, get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    try:
        adapted = get_peft_model(model, PeftConfig.from_pretrained(str(adapter)))
        outcome: Any = set_peft_model_state_dict(adapted, load_file(adapter / "adapter_model.safetensors"))
    except (ValueError, RuntimeError) as error:
        raise SourceError(
            f"{adapter}: the adapter does not fit: {' '.join(str(error).split())[:REASON_CHARACTERS]}"
        ) from error
    unfilled = [name for name in outcome.missing_keys if "lora_" in name]
    if unfilled or outcome.unexpected_keys:
        raise SourceError(
            f"{adapter}: the adapter does not fit {type(model).__name__}: "
            f"{len(unfilled)} of its matrices are missing and {len(outcome.unexpected_keys)} are unknown "
            f"({', '.join([*unfilled, *outcome.unexpected_keys][:3])})"
        )
    return adapted.merge_and_unload()


def require_tied(model: Any, folder: Path) -> None:
    """Refuse a model whose output matrix is not its input embedding: heads are trained tied to it.

    The matrix is known by its shape, a row for each token. `get_output_embeddings` of DeBERTa-v3 gives another layer.
    """
    rows = len(model.get_input_embeddings().weight)
    own = [name for name, weight in head_parameters(model).items() if weight.dim() == 2 and len(weight) == rows]
    if own:
        raise SourceError(
            f"{folder}: the head's output matrix must be tied to the input embeddings, which {type(model).__name__} "
            f"with this configuration does not do (tie_word_embeddings): {own[0]} is another one"
        )


def _switch_off_cutting(folder: Path) -> None:
    """Take truncation and padding out of tokenizer.json: with them, documents would be cut silently."""
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        return
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.save(str(path), pretty=False)
