"""The models and texts behind a trained model or a store, with their licences, as far as they state them.

A student's training record names its start and the identities of the stores that it learned from. Those stores are
opened where the record says they lie, and refused when they are others: a card must not name what the weights did not
come from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.models.identity import weights_digest
from pipeline.models.provenance import PINNED, SOURCE_RECORD, model_licence
from pipeline.models.publish import RECORD_FILE
from storage.errors import SourceError, StaleParent
from storage.format.manifest import Manifest
from storage.format.manifest_parse import read_manifest
from storage.share.inspect import PROVENANCE

IDENTIFIERS = (
    *("apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0"),
    *("cc-by-sa-4.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "gpl-3.0", "lgpl-3.0"),
    *("mpl-2.0", "openrail", "odc-by", "pddl", "unlicense", "wtfpl"),
)
"""Licences by their identifiers on the hub, of which a card may name one; all others are `other` with a name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """One model, text or set of senses that something was made from."""

    kind: Literal["model", "text", "senses"]
    name: str
    licence: str
    """As it states it; "" when it states none."""
    where: str = ""
    """Repository and revision on the hub."""

    def line(self) -> str:
        """For a card."""
        where = f" ({self.where})" if self.where else ""
        return f"{self.kind} {self.name}{where}: {self.licence or 'licence unknown'}"


def of_model(folder: Path, *, data: Path) -> list[Origin]:
    """What the model in `folder` was made from, each once; `data` holds the sequences and documents of this project.

    Raises StaleParent when a store is no longer the one that the model learned from, StoreMissing when it is gone.
    """
    return list(dict.fromkeys(_of_model(folder, data)))


def of_store(manifest: Manifest) -> list[Origin]:
    """What a store of logits or targets was made from, as its provenance says."""
    found = manifest.facts.get(PROVENANCE) or {}
    models = [
        Origin(
            kind="model",
            name=model["name"] + (f" with adapter {model['adapter']}" if model.get("adapter") else ""),
            licence=model["licence"],
            where=_where(model),
        )
        for model in found.get("models", [])
    ]
    texts = [Origin(kind="text", name=text["name"], licence=text["licence"]) for text in found.get("texts", [])]
    return models + texts


def licence_of(origins: Sequence[Origin], stated: str | None, *, what: Path) -> dict[str, str]:
    """The entries `license` and `license_name` of a card; `stated` is what the user decided, and wins.

    Raises SourceError when some origin states none and the user decided nothing.
    """
    if stated is not None:
        known = stated.lower() in IDENTIFIERS
        return {"license": stated.lower()} if known else {"license": "other", "license_name": stated}
    unknown = [origin for origin in origins if not origin.licence]
    if unknown or not origins:
        whose = " and ".join(f"{origin.kind} {origin.name}" for origin in unknown) or "what it was made from"
        raise SourceError(
            f"{what}: no licence is known of {whose}, so its card would have none. State it in the model's README.md "
            "or under inputs or senses, or decide with --licence"
        )
    licences = {origin.licence.lower() for origin in origins}
    if len(licences) == 1 and (only := licences.pop()) in IDENTIFIERS:
        return {"license": only}
    return {"license": "other", "license_name": "those of the models and texts named below"}


def _of_model(folder: Path, data: Path) -> Iterator[Origin]:
    record = _record(folder)
    parents = record.get("parents")
    if parents is None:  # made elsewhere, or of an adapter: its own card speaks for it
        yield Origin(kind="model", name=folder.name, licence=model_licence(folder), where=_source(folder))
        return
    yield from _of_model(Path(record["start"]), data)
    if "targets" in parents:
        yield from of_store(_same(Path(record["targets"]), parents["targets"], of=folder))
    documents = parents.get("documents")
    if documents is None and "targets" not in parents:
        sequences = _same(data / "sequences", parents["sequences"], of=folder)
        documents = sequences.parents["documents"]
    if documents is not None:
        yield from _of_documents(data, documents, of=folder)
    if "soft_labels" in parents:
        path = Path(record["soft_labels_from"])
        yield from _of_soft_labels(path, _same(path, parents["soft_labels"], of=folder), data)
    for name in parents:
        if name.startswith("senses/"):
            yield from _of_senses(data / name, _same(data / name, parents[name], of=folder), data)


def _of_soft_labels(path: Path, store: Manifest, data: Path) -> Iterator[Origin]:
    """What a lexical teacher was made from, or each of several; `store` is that at `path`."""
    for name, identity in store.parents.items():
        if name.startswith("soft_labels/"):
            yield from _of_soft_labels(data / name, _same(data / name, identity, of=path), data)
    if "model" in store.facts:
        teacher = Path(store.facts["model"])
        if weights_digest(teacher) != store.inputs["model"]:
            raise StaleParent(f"{teacher}: other weights than those that gave {path}. Run: dvc repro")
        yield from _of_model(teacher, data)


def _of_senses(path: Path, store: Manifest, data: Path) -> Iterator[Origin]:
    """An annotated text; of text without annotation the documents that it is of."""
    if "documents" in store.parents:
        yield from _of_documents(data, store.parents["documents"], of=path)
    else:
        yield Origin(kind="senses", name=path.name, licence=store.facts.get("licence", ""))


def _of_documents(data: Path, identity: str, *, of: Path) -> Iterator[Origin]:
    licences = _same(data / "documents", identity, of=of).facts.get("licences", {})
    yield from (Origin(kind="text", name=name, licence=licence) for name, licence in licences.items())


def _same(path: Path, identity: str, *, of: Path) -> Manifest:
    manifest = read_manifest(path)
    if manifest.identity != identity:
        raise StaleParent(f"{path}: {manifest.identity[:12]}, but {of} learned from {identity[:12]}. Run: dvc repro")
    return manifest


def _record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD_FILE
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return record


def _source(folder: Path) -> str:
    path = folder / SOURCE_RECORD
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return _where(record.get(PINNED) or record)


def _where(entry: dict[str, Any]) -> str:
    return f"{entry['hub']} at {entry['revision']}" if entry.get("hub") else ""
