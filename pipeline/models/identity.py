"""Digests that name a model by its bytes: the same weights and tokenizer give the same digest on any machine."""

from __future__ import annotations

from pathlib import Path

from storage.format.manifest import digest, file_sha256


def weight_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each weight file of a model folder, by file name."""
    return {path.name: file_sha256(path) for path in sorted(folder.glob("*.safetensors"))}


def weights_digest(folder: Path) -> str:
    """SHA-256 over names and bytes of the weight files: independent of the folder's name."""
    return digest(weight_hashes(folder))


def model_digest(folder: Path) -> str:
    """SHA-256 over names and bytes of the files that decide a model's outputs: weights, configuration, tokenizer."""
    others = [name for name in ("config.json", "tokenizer.json") if (folder / name).is_file()]
    return digest(weight_hashes(folder) | {name: file_sha256(folder / name) for name in others})
