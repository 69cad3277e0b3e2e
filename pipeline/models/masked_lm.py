"""Load a masked language model, one at a time, and compute its logits at masked positions only.

The head is the widest matrix of a small model, and masked positions are a small share of all. Families keep their heads
in different modules. So the model's own forward runs, and a hook on the encoder passes the head the chosen rows of the
last hidden state instead of all. Every model that is loaded is checked to give the same logits this way. Weights come
from safetensors, code from the installed `transformers`; nothing in a model folder is executed.
"""

from __future__ import annotations

import gc
import inspect
import threading
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.models.weights import require_trained, require_weights
from storage.errors import SecondModelError, SourceError, TeacherRefused

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


POSITION_TABLES = ("position_embeddings", "embed_positions")
"""Last parts of the names of modules with position embeddings."""

UNBOUNDED = 2**31
"""Positions of a model without a limit, such as Funnel, which has relative positions only."""

PROBE_TOKENS = 8
PROBE_TOLERANCE = 1e-3
"""Largest difference of a logit computed in two ways, as a share of the largest logit; rounding gives about 1e-6."""

_ONE_MODEL = threading.Lock()
"""Held while a model is in memory. Global to the process, because at most one model may be loaded in it."""


class _Rows(threading.local):
    """The rows that the head gets in the forward that this thread runs; None for all."""

    wanted: tuple[Tensor, Tensor] | None = None


class MaskedLM:
    """A model on its device, with the head applied to chosen rows only."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model: Any = model
        self.device = device
        self._rows = _Rows()
        encoder: Any = model.base_model
        self._hook = encoder.register_forward_hook(_narrowing(self._rows))
        self.mixes_padding = "attention_mask" not in inspect.signature(type(encoder).forward).parameters
        """True for a family without an attention mask (FNet): padding changes what it says of the tokens."""

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return int(self.model.config.vocab_size)

    @property
    def positions(self) -> int:
        """Longest sequence in tokens: a table of positions that starts after its padding row (RoBERTa) has fewer."""
        limit = getattr(self.model.config, "max_position_embeddings", None)
        longest = UNBOUNDED if limit is None else int(limit)
        for table in position_tables(self.model):
            first = 0 if table.padding_idx is None else table.padding_idx + 1
            longest = min(longest, len(table.weight) - first)
        return longest

    @property
    def parameters(self) -> int:
        """Trainable numbers, tied weights counted once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def logits(self, input_ids_BL: Tensor, attention_BL: Tensor, row_Q: Tensor, column_Q: Tensor) -> Tensor:
        """Logits [Q, V] at (row, column), in the model's dtype; gradients flow when they are enabled.

        attention_BL is 1 at tokens and 0 at the padding after them. A model that would mix padding into the tokens
        reads rows of each length by themselves, without it.
        """
        if not self.mixes_padding or bool(attention_BL.all()):
            return self._logits(input_ids_BL, attention_BL, row_Q, column_Q)
        import torch

        length_B = attention_BL.sum(dim=1)
        parts, places = [], []
        for length in sorted(set(length_B[row_Q].tolist())):
            chosen_B = length_B == length
            place = chosen_B[row_Q].nonzero()[:, 0]
            number_B = chosen_B.cumsum(dim=0) - 1
            ids_BL = input_ids_BL[chosen_B, :length]
            parts.append(self._logits(ids_BL, torch.ones_like(ids_BL), number_B[row_Q[place]], column_Q[place]))
            places.append(place)
        return torch.cat(parts)[torch.cat(places).argsort()]

    def _logits(self, input_ids_BL: Tensor, attention_BL: Tensor, row_Q: Tensor, column_Q: Tensor) -> Tensor:
        self._rows.wanted = row_Q, column_Q
        try:
            logits: Tensor = self.model(input_ids=input_ids_BL, attention_mask=attention_BL).logits
        finally:
            self._rows.wanted = None
        return logits[0]

    def release(self) -> None:
        """Drop the model; no logits can be computed afterwards."""
        self._hook.remove()
        del self.model, self._hook

    def tensors(self, *arrays: Any) -> list[Tensor]:
        """Copy NumPy arrays to the model's device."""
        import torch

        return [torch.from_numpy(array).to(self.device, non_blocking=True) for array in arrays]


def _narrowing(rows: _Rows) -> Any:
    """A forward hook that returns the wanted rows [1, Q, H] of the last hidden state [B, L, H]."""

    def narrow(_: Any, inputs: Any, output: Any) -> Any:
        if rows.wanted is None:
            return output
        row_Q, column_Q = rows.wanted
        if isinstance(output, tuple):
            return (output[0][row_Q, column_Q][None], *output[1:])
        output.last_hidden_state = output.last_hidden_state[row_Q, column_Q][None]
        return output

    return narrow


def position_tables(model: Any) -> list[Any]:
    """The modules that hold a learned or fixed vector for each position: `weight` [positions, H], `padding_idx`."""
    return [
        module
        for name, module in model.named_modules()
        if name.rsplit(".", 1)[-1] in POSITION_TABLES and hasattr(module, "weight") and hasattr(module, "padding_idx")
    ]


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
    """An object that holds a model and can drop it."""

    def release(self) -> None:
        """Drop the model."""


@contextmanager
def released(holder: Releasable, model: weakref.ref[nn.Module], *, folder: Path) -> Iterator[None]:
    """Release `holder` after the block; raises AssertionError when something still refers to the model."""
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
        model = load_checked(folder).eval()
        require_narrow_head(model, folder)
        lm = MaskedLM(model.to(device=device, dtype=dtype), device)
        del model
        with released(lm, weakref.ref(lm.model), folder=folder):
            yield lm


def load_checked(folder: Path) -> Any:
    """The model in `folder` in float32 on the CPU, every weight of it from the file.

    Raises SourceError when files are missing or damaged, TeacherRefused when this is no trained masked language model.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForMaskedLM
    from transformers.utils import logging as transformers_logging

    require_weights(folder)
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers warns about heads; missing weights are refused below
        try:
            model, info = AutoModelForMaskedLM.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
        except (ValueError, KeyError) as error:
            raise TeacherRefused(f"{folder}: no masked language model: {_one_line(error)}") from error
        except (RuntimeError, OSError, SafetensorError) as error:
            raise SourceError(f"{folder}: the weights do not load: {_one_line(error)}") from error
    require_trained(model, set(info["missing_keys"]), folder)
    return model


def require_narrow_head(model: Any, folder: Path) -> None:
    """Raise TeacherRefused unless the logits at single positions are those of the model's own forward.

    model is on the CPU in float32; its mode stays. Costs two forwards of 16 tokens.
    """
    import torch

    training = model.training
    model.eval()

    row_Q, column_Q = torch.tensor([0, 1, 1]), torch.tensor([3, 0, 6])
    ids_BL = (torch.arange(2 * PROBE_TOKENS).reshape(2, -1) * 7 + 5) % int(model.config.vocab_size)
    attention_BL = torch.ones_like(ids_BL)
    lm = MaskedLM(model, torch.device("cpu"))
    try:
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            whole_QV = model(input_ids=ids_BL, attention_mask=attention_BL).logits[row_Q, column_Q]
            narrow_QV = lm.logits(ids_BL, attention_BL, row_Q, column_Q)
    except Exception as error:  # each family fails in its own way on plain text
        raise TeacherRefused(
            f"{folder}: {type(model).__name__} gives no logits for a plain text of {PROBE_TOKENS} tokens: "
            f"{_one_line(error)}. Give a model that takes token ids of any length"
        ) from error
    finally:
        lm.release()
        model.train(training)
    if narrow_QV.shape != whole_QV.shape or not bool(
        (narrow_QV - whole_QV).abs().max() <= PROBE_TOLERANCE * whole_QV.abs().max()
    ):
        raise TeacherRefused(
            f"{folder}: {type(model).__name__} does not compute its logits position by position from its encoder's "
            "last hidden state, so its logits cannot be computed at masked positions only. Give another model"
        )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
