"""Put a student, an adapter or a store of predictions into a repository of the Hugging Face hub.

What is published is decided before anything is sent: the files, and a card that has scores, costs, lineage and licence.
`HF_ENDPOINT` and `HF_TOKEN` are respected.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.hub.card import licensed_card, student_card
from pipeline.hub.lineage import Origin, licence_of, of_model, of_store
from pipeline.hub.scores import measured
from pipeline.models.files import CONFIG_FILE, MODEL_FILES, files_like
from pipeline.models.provenance import stated_licence
from pipeline.models.publish import CARD_FILE, RECORD_FILE
from storage.errors import PushRefused, SourceError, StoreError
from storage.format.manifest import MANIFEST
from storage.format.manifest_parse import read_manifest
from storage.share.audit import audit
from storage.share.card import RECORDS

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "mlm_head.safetensors", RECORD_FILE, "LICENSE*")
REASON_CHARACTERS = 300


@dataclass(frozen=True, kw_only=True)
class Package:
    """What is sent."""

    folder: Path
    kind: Literal["student", "adapter", "store"]
    repo: str
    files: Mapping[str, Path | bytes]
    """Files, or their contents where they differ from those on disk, by names in the repository; without the card."""
    card: str

    @property
    def repo_type(self) -> Literal["model", "dataset"]:
        """Of the repository: a store is a data set."""
        return "dataset" if self.kind == "store" else "model"

    def sizes(self) -> dict[str, int]:
        """Bytes of each file, the card among them, by name."""
        sizes = {
            name: len(file) if isinstance(file, bytes) else file.stat().st_size for name, file in self.files.items()
        }
        return dict(sorted({**sizes, CARD_FILE: len(self.card.encode())}.items()))


def package(folder: Path, repo: str, *, data: Path, reports: Path, licence: str | None) -> Package:
    """What is to be published of `folder`; `licence` is what the user decided, None where the lineage decides.

    Raises SourceError for a folder that is nothing of this kind, one without a card, or a licence that is not known;
    StoreError when a store is not sealed or not sound.
    """
    if (folder / MANIFEST).is_file():
        return _store(folder, repo, licence)
    if (folder / ADAPTER_FILES[0]).is_file():
        stated = licence or stated_licence(folder) or None
        entries = licence_of([Origin(kind="model", name=folder.name, licence="")], stated, what=folder)
        card = licensed_card(folder, entries if licence else {})
        files = {path.name: path for path in files_like(folder, ADAPTER_FILES)}
        return Package(folder=folder, kind="adapter", repo=repo, files=files, card=card)
    if (folder / CONFIG_FILE).is_file():
        origins = of_model(folder, data=data)
        entries = licence_of(origins, licence, what=folder)
        card = student_card(folder, repo, measured=measured(folder, reports), origins=origins, licence=entries)
        named = [*files_like(folder, (*MODEL_FILES, RECORD_FILE)), *sorted((folder / "senses").rglob("*"))]
        sent: dict[str, Path | bytes] = {path.relative_to(folder).as_posix(): path for path in named if path.is_file()}
        sent.pop(CARD_FILE, None)
        if RECORD_FILE in sent:
            sent[RECORD_FILE] = _record_without_places(folder / RECORD_FILE)
        return Package(folder=folder, kind="student", repo=repo, files=sent, card=card)
    raise SourceError(
        f"{folder}: expected a model (config.json), an adapter (adapter_config.json) or a sealed store "
        "(manifest.json). A store is sealed when its stage has ended: dvc repro"
    )


def _record_without_places(path: Path) -> Path | bytes:
    """The record of a training; where it names folders of this machine, with their last names alone."""
    record = json.loads(path.read_text(encoding="utf-8"))
    places = {
        key: Path(value).name for key, value in record.items() if isinstance(value, str) and value.startswith("/")
    }
    return (json.dumps({**record, **places}, indent=1) + "\n").encode() if places else path


def _store(folder: Path, repo: str, licence: str | None) -> Package:
    """A store as it was sealed: its card is one of its files, so nothing of it is changed."""
    manifest = read_manifest(folder)
    if manifest.kind not in RECORDS:
        raise StoreError(
            f"{folder}: a store of {manifest.kind}, which has no card. Stores with one: {', '.join(RECORDS)}"
        )
    if licence is not None:
        raise SourceError(f"{folder}: --licence is for models: the card of a store is sealed with it")
    licence_of(of_store(manifest), None, what=folder)
    if found := audit(folder):
        raise StoreError(f"{folder}: not sound: {found[0]}. Run: cohesive store verify {folder}")
    names = [MANIFEST, *manifest.files, *(name for shard in manifest.shards for name in shard.files)]
    card = (folder / CARD_FILE).read_text(encoding="utf-8")
    files = {name: folder / name for name in names if name != CARD_FILE}
    return Package(folder=folder, kind="store", repo=repo, files=files, card=card)


def push(given: Package, *, create: bool, private: bool) -> str:
    """Send it in one commit, and return the commit's address. Files that the repository has already are not sent.

    create makes the repository where there is none. Files of an older store that this one does not have are deleted;
    beside a model nothing is. Raises PushRefused with what the hub said.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

    if not get_token():
        raise PushRefused(f"{given.repo}: no token. Run: hf auth login, or set HF_TOKEN to a token that may write")
    api = HfApi()
    try:
        if create:
            api.create_repo(given.repo, repo_type=given.repo_type, private=private, exist_ok=True)
        there = set(api.list_repo_files(given.repo, repo_type=given.repo_type))
        operations: list[Any] = [
            CommitOperationAdd(path_in_repo=name, path_or_fileobj=file) for name, file in given.files.items()
        ]
        operations.append(CommitOperationAdd(path_in_repo=CARD_FILE, path_or_fileobj=given.card.encode()))
        if given.kind == "store":
            gone = there - given.sizes().keys() - {".gitattributes"}
            operations += [CommitOperationDelete(path_in_repo=name, is_folder=False) for name in sorted(gone)]
        done = api.create_commit(
            given.repo, operations, repo_type=given.repo_type, commit_message=f"Publish {given.folder.name}"
        )
    except Exception as error:  # errors of its HTTP library come through, whichever library that is
        raise PushRefused(f"{given.repo}: {_reason(error)}") from error
    return str(done.commit_url)


def _reason(error: Exception) -> str:
    """What went wrong and what to do, in one line."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    while isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # "Error while uploading" alone does not say why
    said = " ".join(str(error).split())[:REASON_CHARACTERS]
    if isinstance(error, RepositoryNotFoundError):
        return "no such repository, or the token does not see it. Correct the name, or make it with --create"
    if isinstance(error, HFValidationError):
        return f"no name of a repository: {said}"
    if isinstance(error, HfHubHTTPError) and error.response is not None and error.response.status_code in (401, 403):
        return "the token may not write here. Use one with write access to this name"
    return f"{type(error).__name__}: {said}"
