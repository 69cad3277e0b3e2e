"""All of params.yaml at once: every section with its owner's class, and what the sections say about each other.

Run before any work (`stages.check`), so that a mistyped value costs a second and not the hour until its stage. Each
stage decodes its own sections again; nothing else imports this module, or every setting would sit in every stage's
dependencies.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import Section, decode, load, nearest
from pipeline.corpus import CorpusParams, InputParams
from pipeline.exact import ExactParams
from pipeline.fusion import FusionParams
from pipeline.masking import MaskParams
from pipeline.metrics import EvaluateParams
from pipeline.runtime import RuntimeParams
from pipeline.sources import ModelSource, SourceParams, decode_source
from pipeline.teaching import TeacherParams
from pipeline.tokens import TokenizeParams
from pipeline.training import StudentParams, TrainingParams
from storage.errors import ParamsError

NAME = re.compile(r"[A-Za-z0-9_-]+")
"""Names become file names and DVC stage names; DVC reads a dot as a step into the section."""

LABELS = "data/masks"
"""Targets of a student that learns from the true tokens alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """params.yaml, decoded. Dicts are keyed by the names that the file gives."""

    sources: Mapping[str, SourceParams]
    inputs: Mapping[str, InputParams]
    corpus: CorpusParams
    tokenize: TokenizeParams
    mask: MaskParams
    teachers: Mapping[str, TeacherParams]
    exact: ExactParams
    fusions: Mapping[str, FusionParams]
    training: TrainingParams
    students: Mapping[str, StudentParams]
    evaluate: EvaluateParams
    runtime: RuntimeParams


def read_settings(path: Path) -> Settings:
    """Decode every section of the file at `path` and check what they say about each other.

    Raises ParamsError with the dotted path of the first thing that is unknown, missing, impossible or contradictory.
    Looks at the disk only for folders that no stage makes.
    """
    raw = load(path)
    known = Settings.__dataclass_fields__
    for key in raw:
        if key not in known:
            raise ParamsError(f"{path}: unknown section '{key}'{nearest(str(key), known)}")
    for key in known:
        if key not in raw:
            raise ParamsError(f"{path}: section '{key}' is missing")

    def one(name: str, kind: type[Section]) -> Any:
        return decode(raw[name], kind, where=f"{path}: {name}")

    def named(name: str, kind: type[Section]) -> dict[str, Any]:
        return _named(raw[name], f"{path}: {name}", lambda value, where: decode(value, kind, where=where))

    settings = Settings(
        sources=_named(raw["sources"], f"{path}: sources", lambda value, where: decode_source(value, where=where)),
        inputs=named("inputs", InputParams),
        corpus=one("corpus", CorpusParams),
        tokenize=one("tokenize", TokenizeParams),
        mask=one("mask", MaskParams),
        teachers=named("teachers", TeacherParams),
        exact=one("exact", ExactParams),
        fusions=named("fusions", FusionParams),
        training=one("training", TrainingParams),
        students=named("students", StudentParams),
        evaluate=one("evaluate", EvaluateParams),
        runtime=one("runtime", RuntimeParams),
    )
    for complaint in _contradictions(settings):
        raise ParamsError(f"{path}: {complaint}")
    return settings


def _named(value: Any, where: str, decoded: Callable[[Any, str], Any]) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        raise ParamsError(f"{where}: expected at least one entry, got {value!r}")
    for name in value:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ParamsError(f"{where}: name {name!r} may have letters, digits, '-' and '_' only")
    return {name: decoded(entry, f"{where}.{name}") for name, entry in value.items()}


def _contradictions(settings: Settings) -> Iterable[str]:
    """Complaints, each beginning with a dotted path, in the order of the file."""
    for name, source in settings.sources.items():
        if isinstance(source, ModelSource) and source.adapter is not None and not Path(source.adapter).is_dir():
            yield f"sources.{name}.adapter: no folder '{source.adapter}'"
    for name, entry in settings.inputs.items():
        yield from _path(f"inputs.{name}.path", entry.path, settings)
    yield from _path("tokenize.tokenizer", settings.tokenize.tokenizer, settings)
    for name, teacher in settings.teachers.items():
        yield from _path(f"teachers.{name}.model", teacher.model, settings)
    for name, fusion in settings.fusions.items():
        yield from _fusion(f"fusions.{name}", fusion, settings)
    for name, student in settings.students.items():
        yield from _student(f"students.{name}", student, settings)
    yield from _targets("evaluate.against", settings.evaluate.against, settings)


def _path(where: str, path: str, settings: Settings) -> Iterable[str]:
    """A file or folder that a stage makes, or that is there."""
    made: dict[str, Mapping[str, Any]] = {"data/sources": settings.sources, "models": settings.students}
    for folder, names in made.items():
        if path.startswith(f"{folder}/"):
            name = path.removeprefix(f"{folder}/").partition("/")[0]
            section = "sources" if names is settings.sources else "students"
            if name not in names:
                yield f"{where}: '{path}' needs an entry '{name}' in {section}{nearest(name, names)}"
            return
    if not Path(path).exists():
        yield f"{where}: '{path}' does not exist. Expected data/sources/<an entry of sources>, or a path that is there"


def _fusion(where: str, fusion: FusionParams, settings: Settings) -> Iterable[str]:
    for name in fusion.teachers:
        if name not in settings.teachers:
            yield f"{where}.teachers: no entry '{name}' in teachers{nearest(name, settings.teachers)}"
        elif fusion.temperature not in settings.teachers[name].temperatures:
            listed = settings.teachers[name].temperatures
            yield f"{where}.temperature: {fusion.temperature} is not among teachers.{name}.temperatures, {listed}"
        elif settings.teachers[name].keep.draws and not (fusion.calibrated and fusion.temperature == 1):
            yield (
                f"{where}: teachers.{name}.keep draws ids, which stand for the calibrated temperature alone; expected "
                f"calibrated: true and temperature: 1.0, got {str(fusion.calibrated).lower()} and {fusion.temperature}"
            )


def _student(where: str, student: StudentParams, settings: Settings) -> Iterable[str]:
    if student.targets != LABELS:
        yield from _targets(f"{where}.targets", student.targets, settings, instead=f", or {LABELS} for labels only")
    if student.targets == LABELS and student.loss.targets:
        yield f"{where}.loss.targets: must be 0 with targets {LABELS}, got {student.loss.targets}"
    if student.targets != LABELS and not student.loss.targets:
        yield f"{where}.loss.targets: is 0, so nothing is learned from {student.targets}. Set targets to {LABELS}"
    if not student.loss.targets and not student.loss.labels:
        yield f"{where}.loss: targets and labels are both 0: nothing to learn"
    yield from _path(f"{where}.start", student.start, settings)
    if student.start == f"models/{where.removeprefix('students.')}":
        yield f"{where}.start: a student cannot start from itself"


def _targets(where: str, path: str, settings: Settings, *, instead: str = "") -> Iterable[str]:
    folder, _, name = path.rpartition("/")
    if folder != "data/targets":
        yield f"{where}: expected data/targets/<an entry of fusions>{instead}, got '{path}'"
    elif name not in settings.fusions:
        yield f"{where}: no entry '{name}' in fusions{nearest(name, settings.fusions)}"
