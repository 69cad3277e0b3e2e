"""Digests that name a model by its bytes: the same weights and tokenizer give the same digest on any machine."""

from __future__ import annotations

from pathlib import Path

from storage.format.manifest import digest, file_sha256


def model_digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of what decides a model's answers: weights, configuration, tokenizer."""
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    names += [name for name in ("config.json", "tokenizer.json") if (folder / name).is_file()]
    return digest({name: file_sha256(folder / name) for name in names})


def weights_identity(folder: Path) -> str:
    """SHA-256 over the weight files of a model folder: what was judged, whatever the folder is called."""
    return digest({path.name: file_sha256(path) for path in sorted(folder.glob("*.safetensors"))})
