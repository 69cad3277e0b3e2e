"""Give a masked language model another vocabulary: every tensor that has a row or column a token, moved with its token.

Which tensors these are is read off the architecture: they change their shape when the configuration's `vocab_size`
does. So input embeddings, an output matrix of its own, biases and MobileBERT's transposed half are all found, in any
family. The model is built from the changed configuration, so a reloaded model has the same weights.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.models.masked_lm import position_tables
from pipeline.text.tokenizer import FastTokenizer
from pipeline.text.vocabulary import bridge
from storage.errors import ParamsError

ROLES_OF_CONFIG = {"pad": "pad", "cls": "cls", "sep": "sep", "mask": "mask", "bos": "cls", "eos": "sep"}
"""Special ids of a configuration, and the role of the tokenizer that each takes."""


def with_vocabulary(model: Any, own: FastTokenizer, reference: FastTokenizer) -> Any:
    """A copy of `model`, float32 on the CPU, over the vocabulary of `reference`; `own` is the tokenizer it has.

    A token that both know keeps its row. One that only `reference` knows begins as the mean of the rows that `own`
    names: rows beyond its tokens, with which matrices are padded, count for nothing. Where positions are counted from
    the padding id (RoBERTa's family), the table of positions is shifted with it, so each position keeps its vector.
    """
    config = copy.deepcopy(model.config)
    config.vocab_size = len(reference.tokens)
    for name, role in ROLES_OF_CONFIG.items():
        if getattr(config, f"{name}_token_id", None) is not None:
            setattr(config, f"{name}_token_id", reference.special[role])
    shift = _shift(position_tables(model), position_tables(_outline(config)))
    if shift:
        config.max_position_embeddings += shift
    made = _built(config)
    by_token = _vocabulary_dims(model.config)
    positions = {id(table.weight) for table in position_tables(made) if table.padding_idx is not None}
    old = model.state_dict()
    sources_R = _sources(own.tokens, reference.tokens, rows=int(model.config.vocab_size))
    with torch.no_grad():
        for name, tensor in made.state_dict(keep_vars=True).items():
            if name in by_token:
                moved = _moved(old[name], sources_R, dim=by_token[name], named=len(own.tokens))
            elif id(tensor) in positions and shift:
                moved = _shifted(old[name], shift)
            else:
                moved = old[name]
            tensor.copy_(moved)
    return made.train(model.training)


def require_shapes_of_configuration(model: Any, *, what: str) -> None:
    """Raise ParamsError unless a model built from the configuration of `model` has weights of the same shapes."""
    shapes, outline = (
        {name: tensor.shape for name, tensor in one.state_dict().items()} for one in (model, _outline(model.config))
    )
    differ = sorted(name for name in shapes.keys() | outline.keys() if shapes.get(name) != outline.get(name))
    if differ:
        raise ParamsError(
            f"{what}: a {type(model).__name__} of this shape cannot be saved and loaded: its layers are not all alike "
            f"({', '.join(differ[:3])}). Keep the first layer in its place"
        )


def _outline(config: Any) -> Any:
    """A model of this configuration that has shapes and no numbers."""
    with torch.device("meta"):
        return _built(config)


def _built(config: Any) -> Any:
    from transformers import AutoModelForMaskedLM

    with torch.random.fork_rng(devices=[]):  # what it draws is overwritten
        return AutoModelForMaskedLM.from_config(config, trust_remote_code=False).float()  # type: ignore[no-untyped-call]


def _vocabulary_dims(config: Any) -> dict[str, int]:
    """Name of each tensor with one entry a token to the dimension they lie along."""
    larger = copy.deepcopy(config)
    larger.vocab_size = config.vocab_size + 1
    shapes = {name: tensor.shape for name, tensor in _outline(config).state_dict().items()}
    found = {}
    for name, tensor in _outline(larger).state_dict().items():
        differ = [dim for dim, size in enumerate(tensor.shape) if size != shapes[name][dim]]
        if differ:
            (found[name],) = differ
    return found


def _sources(own: list[str], reference: list[str], *, rows: int) -> NDArray[np.int64]:
    """For each token of `reference`, the row [0, rows) of the token of `own` that it takes; -1 where there is none.

    Of several, such as "The" and "the" in an uncased reference, the one spelt alike; of these the first.
    """
    to_reference_V = bridge(own, reference).to_student_V[:rows]
    sources_R = np.full(len(reference), -1, np.int64)
    for alike in (False, True):
        for token in reversed(np.flatnonzero(to_reference_V >= 0).tolist()):
            target = int(to_reference_V[token])
            if (own[token] == reference[target]) is alike:
                sources_R[target] = token
    return sources_R


def _moved(old: Tensor, sources_R: NDArray[np.int64], *, dim: int, named: int) -> Tensor:
    """The tensor with the entries of `sources_R` along `dim`, and the mean of the first `named` where that is -1."""
    rows = old.movedim(dim, 0)
    new = rows[:named].mean(dim=0, keepdim=True).repeat(len(sources_R), *[1] * (rows.dim() - 1))
    known = np.flatnonzero(sources_R >= 0)
    new[torch.from_numpy(known)] = rows[torch.from_numpy(sources_R[known])]
    return new.movedim(0, dim)


def _shift(old: list[Any], new: list[Any]) -> int:
    """By how many rows positions begin later, where tables begin after their padding row."""
    shifts = {
        after.padding_idx - before.padding_idx
        for before, after in zip(old, new, strict=True)
        if before.padding_idx is not None and after.padding_idx is not None
    }
    return shifts.pop() if len(shifts) == 1 else 0


def _shifted(old: Tensor, shift: int) -> Tensor:
    """Rows moved down by `shift`, up where it is negative; new ones at the top, which stand for padding, are zero."""
    if shift < 0:
        return old[-shift:]
    return torch.cat([old.new_zeros(shift, *old.shape[1:]), old])
