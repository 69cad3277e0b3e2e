"""Checks of a model folder before it is loaded, and of the weights afterwards.

Every refusal names the file or the weight. Weights are read from safetensors only: the other formats are pickles, which
run code when they are read.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import torch

from storage.errors import SourceError, TeacherRefused

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
HEADER_LIMIT = 100_000_000
"""Bytes of a safetensors header, the format's own limit."""


def require_weights(folder: Path) -> None:
    """Raise SourceError unless `folder` holds config.json and complete safetensors; reads headers, no weights.

    A shard that the index lists and the folder lacks is named, as is a file that ends too early.
    """
    if not (folder / "config.json").is_file():
        raise SourceError(
            f"{folder}: expected config.json and *.safetensors of a Hugging Face model, found no config.json. "
            "Run the stage that makes it"
        )
    files = weight_files(folder)
    if not files:
        raise SourceError(no_safetensors(folder))
    for path in files:
        _require_whole(path)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make the model, by name: one file, the shards of the index, else every *.safetensors.

    Raises SourceError that names the shards of the index that are missing.
    """
    index = folder / INDEX
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]  # other files, such as a separate head, are not part of the model
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(f"{index}: expected JSON with a weight_map of file names. Fetch the file again") from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise SourceError(
            f"{folder}: {len(missing)} of {len(names)} shards that {INDEX} lists are missing: "
            f"{', '.join(missing[:3])}. The download was interrupted: fetch these files again"
        )
    return [folder / name for name in names]


def no_safetensors(folder: Path, *, repo: str | None = None) -> str:
    """The message for a folder without safetensors: the pickle that it holds, and the command that converts it.

    repo is the hub's name of the model, where the folder has what was fetched of it: pickles are not.
    """
    pickled = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    what = f": {pickled[0]} is a pickle, which can run code when read" if pickled else ""
    model = folder if pickled else repo or "NAME/ON-THE-HUB"
    return (
        f"{folder}: no model.safetensors, and weights are read from safetensors only{what}. Where you trust such a "
        "model, convert it once and name that folder instead: "
        'python -c "from transformers import AutoModelForMaskedLM as M, AutoTokenizer as T; '
        f"M.from_pretrained('{model}', use_safetensors=False).save_pretrained('converted'); "
        f"T.from_pretrained('{model}').save_pretrained('converted')\""
    )


def _require_whole(path: Path) -> None:
    """Compare a file's size with what its header lists."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size, HEADER_LIMIT):
                raise ValueError
            header = json.loads(file.read(length))
        end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(f"{path}: no safetensors file: its header cannot be read. Fetch the file again") from error
    if size != 8 + length + end:
        raise SourceError(
            f"{path}: {size:,} bytes, expected {8 + length + end:,} by its header. The download was interrupted: "
            "fetch the file again"
        )


def require_trained(model: Any, missing: set[str], folder: Path) -> None:
    """Raise TeacherRefused when weights were not in the file or are not finite; `missing` are names in the model.

    A missing name of a tensor that the file has under another name is accepted: tied weights are stored once, and old
    checkpoints hold one of two tied biases.
    """
    stored = {id(tensor) for name, tensor in model.named_parameters(remove_duplicate=False) if name not in missing}
    unfilled = sorted(
        name
        for name, tensor in model.named_parameters(remove_duplicate=False)
        if name in missing and id(tensor) not in stored
    )
    if unfilled:
        raise TeacherRefused(
            f"{folder}: {len(unfilled)} weights are not in the file and would be newly initialised "
            f"({', '.join(unfilled[:3])}): this is no trained masked language model. "
            "Give one with its head, or an adapter"
        )
    broken = [
        name
        for name, tensor in model.named_parameters()
        # The sum first: it needs no second tensor of that size, and finite weights rarely sum to infinity.
        if not bool(torch.isfinite(tensor.sum())) and not bool(torch.isfinite(tensor).all())
    ]
    if broken:
        raise TeacherRefused(
            f"{folder}: {len(broken)} weights hold values that are not finite numbers ({', '.join(broken[:3])}), as "
            "float16 files do after an overflow. Give the checkpoint in float32 or bfloat16"
        )
