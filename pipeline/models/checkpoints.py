"""Training state on disk: weights, optimiser moments and progress, as safetensors and JSON; no pickle.

A checkpoint is written beside the last one and renamed, so a killed run leaves one or the other. Training that
continues from it ends with the same bits as without the interruption: the order of batches is a function of the step,
and nothing else is random.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

STATE = "state.json"


def save(
    folder: Path,
    *,
    step: int,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    state: Any,
    tensors: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write the checkpoint of `step` (steps done) into `folder`, replacing an earlier one; `state` is JSON.

    tensors are those of the training besides model and optimiser.
    Parameters that are not trained are not in it; the caller of `restore` has loaded them already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "new"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    learned = {name: parameter.detach() for parameter, name in names.items() if parameter.requires_grad}
    save_file(learned, partial / "model.safetensors")
    moments = {
        f"{names[parameter]}/{key}": value
        for parameter, entry in optimizer.state.items()
        for key, value in entry.items()
    }
    save_file(moments, partial / "optimizer.safetensors")
    if tensors:
        save_file(dict(tensors), partial / "tensors.safetensors")
    (partial / STATE).write_text(json.dumps({"step": step, "state": state}), encoding="utf-8")
    partial.rename(folder / f"step-{step}")
    for old in folder.glob("step-*"):
        if old.name != f"step-{step}":
            shutil.rmtree(old)


def restore(
    folder: Path,
    *,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, torch.Tensor] | None = None,
) -> tuple[int, Any] | None:
    """Load the newest checkpoint into model, optimiser and `tensors`; returns steps done and state.

    None without a checkpoint.
    """
    found = sorted(folder.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))
    if not found:
        return None
    newest = found[-1]
    weights = load_file(newest / "model.safetensors")
    moments = load_file(newest / "optimizer.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            parameter.copy_(weights[name])
            keys = [key for key in moments if key.rpartition("/")[0] == name]
            optimizer.state[parameter] = {
                # The count of steps too: a fused optimiser needs it on the parameter's device.
                key.rpartition("/")[2]: moments[key].to(parameter.device)
                for key in keys
            }
    if tensors:
        kept = load_file(newest / "tensors.safetensors")
        for name, tensor in tensors.items():
            tensor.copy_(kept[name])
    saved = json.loads((newest / STATE).read_text(encoding="utf-8"))
    return int(saved["step"]), saved["state"]
