"""Tables of the stores that params.yaml and the files of examples/ make: from their settings, and from reports/."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.pages.markdown import NONE, Reports, number, table
from pipeline.core.config import load

SHORT_REVISION = 7


def logits(reports: Reports) -> str:
    """A row a teacher: the model, what is kept of a prediction, and the bytes of the default run."""
    measured = reports.read("summary.json")["fidelity"]
    rows = [
        [
            f"`{name}`",
            f"`{teacher}`",
            _model(entry["model"], params),
            _kept(entry["keep"]),
            str(entry["tail"]["rank"]),
            number(measured[teacher]["bytes_per_position"], 1) if _is_default(name, teacher, measured) else NONE,
        ]
        for name, params in _settings(reports)
        for teacher, entry in params["teachers"].items()
    ]
    return table(["settings", "teacher", "model", "listed of a prediction", "tail rank", "bytes a position"], rows)


def targets(reports: Reports) -> str:
    """A row a fusion: its teachers, their weighting, and the bytes of the default run."""
    measured = reports.read("summary.json")["fusions"]
    rows = [
        [
            f"`{name}`",
            f"`{fusion}`",
            ", ".join(entry["teachers"]),
            entry["weighting"],
            str(entry["keep"]),
            f"{params['mask']['copies']} × {100 * params['mask']['rate']:g} %",
            number(measured[fusion]["bytes_per_position"], 1) if _is_default(name, fusion, measured) else NONE,
        ]
        for name, params in _settings(reports)
        for fusion, entry in params["fusions"].items()
    ]
    return table(["settings", "fusion", "teachers", "weighting", "entries", "masked", "bytes a position"], rows)


def _settings(reports: Reports) -> Iterator[tuple[str, dict[str, Any]]]:
    """The default settings, then the examples by name."""
    root = reports.folder.parent
    for path in (root / "params.yaml", *sorted((root / "examples").glob("*.yaml"))):
        yield path.name, load(path)


def _is_default(name: str, entry: str, measured: dict[str, Any]) -> bool:
    """Whether reports/, which are of the default settings, have it."""
    return name == "params.yaml" and entry in measured


def _model(path: str, params: dict[str, Any]) -> str:
    """Where a teacher is from: the hub and the commit, with an adapter of the project where there is one."""
    name = Path(path).name
    source = params["sources"].get(name, {})
    if "hub" not in source:
        return f"`{name}`, made by the stage `adapt`" if name in params["adapters"] else f"`{path}`"
    adapter = f" with `{source['adapter']}`" if source.get("adapter") else ""
    return f"{source['hub']} at {str(source['revision'])[:SHORT_REVISION]}{adapter}"


def _kept(keep: dict[str, Any]) -> str:
    """The form, and its numbers."""
    return ", ".join([keep["form"], *(f"{key} {value}" for key, value in keep.items() if key != "form")])


TABLES = {"gallery-logits": logits, "gallery-targets": targets}
