"""The provenance of a store: its models and texts with their licences, in its manifest and on its card.

A store of logits has it as its fact "provenance", and a store of targets copies it. So the targets alone name the
models and the licences behind them:

    {"models": [{"name", "hub", "revision", "adapter", "licence"}], "texts": [{"name", "licence"}],
     "masks": {"rate", "heldout_rate" where it differs, "copies", "seed"}}

Unknown values are null, or an empty licence. Nothing is guessed, and no path of the machine is named.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import yaml

from storage.format.manifest import Manifest

SOURCE_RECORD = "source.json"
"""Written by `pipeline.sources.fetch` into a fetched folder: the route and the checksums."""
CARD_BYTES_LIMIT = 1024 * 1024
MASK_KEYS = ("rate", "heldout_rate", "copies", "seed")
PINNED = "stands_for"
"""Key of a source's record: the hub's model with the same pinned checksum of weights, whatever route was taken."""


def teacher_provenance(model: Path, *, documents: Manifest, masks: Manifest) -> dict[str, Any]:
    """For a teacher's logits; `model` is its folder, fetched by `pipeline.sources.fetch` or not."""
    record = _json(model / SOURCE_RECORD)
    named = record.get(PINNED) or record
    adapter = record.get("adapter") or {}
    licences = documents.facts.get("licences", {})
    return {
        "models": [
            {
                "name": model.name,
                "hub": named.get("hub"),
                "revision": named.get("revision"),
                "adapter": PurePath(adapter["folder"]).name if "folder" in adapter else None,
                "licence": model_licence(model),
            }
        ],
        "texts": [{"name": name, "licence": licence} for name, licence in sorted(licences.items())],
        "masks": {key: masks.inputs[key] for key in MASK_KEYS if key in masks.inputs},
    }


def fusion_provenance(teachers: Mapping[str, Manifest]) -> dict[str, Any]:
    """For fused targets: the provenance of the teachers' stores, each model and text once, in the teachers' order.

    A teacher whose store has none is listed by its name alone.
    """
    models: list[dict[str, Any]] = []
    texts: list[dict[str, Any]] = []
    masks: dict[str, Any] = {}
    for name, manifest in teachers.items():
        found = manifest.facts.get("provenance") or {"models": [_unknown(name)]}
        models += [model for model in found["models"] if model not in models]
        texts += [text for text in found.get("texts", []) if text not in texts]
        masks = masks or found.get("masks", {})
    return {"models": models, "texts": texts, "masks": masks}


def _unknown(name: str) -> dict[str, Any]:
    return {"name": name, "hub": None, "revision": None, "adapter": None, "licence": ""}


def model_licence(model: Path) -> str:
    """The licence of a model; of one merged with an adapter that of both, "" when either states none.

    The merged folder has the card of the model alone, and an adapter may be under stricter terms.
    """
    adapter = _json(model / SOURCE_RECORD).get("adapter")
    stated = [stated_licence(model), *([] if adapter is None else [stated_licence(Path(adapter["folder"]))])]
    return " and ".join(dict.fromkeys(stated)) if all(stated) else ""


def stated_licence(model: Path) -> str:
    """The licence that the front matter of a model's README.md states; "" when there is none."""
    path = model / "README.md"
    if not path.is_file() or path.stat().st_size > CARD_BYTES_LIMIT:
        return ""
    begin, *lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    ends = [number for number, line in enumerate(lines) if line.rstrip() == "---"]
    if begin.rstrip() != "---" or not ends:
        return ""
    try:
        front = yaml.safe_load("\n".join(lines[: ends[0]]))
    except yaml.YAMLError:
        return ""
    if not isinstance(front, dict):
        return ""
    stated = front.get("license_name") or front.get("license") or ""
    return ", ".join(map(str, stated)) if isinstance(stated, list) else str(stated)


def _json(path: Path) -> dict[str, Any]:
    """A source's record; {} when the model was not fetched by this project."""
    if not path.is_file():
        return {}
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record
