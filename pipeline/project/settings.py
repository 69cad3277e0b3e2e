"""All of params.yaml at once: every section with its owner's class.

Run before any work (`stages.check`), so that a mistyped value is found at once and not when its stage starts. Each
stage decodes its own sections again. Nothing else imports this module: its imports would be dependencies of every
stage.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.adapt.params import AdapterParams
from pipeline.core.config import Section, decode, load, nearest
from pipeline.core.params import RuntimeParams
from pipeline.evaluate.params import CostParams, EvaluateParams, SuitesParams
from pipeline.fuse.params import FusionParams
from pipeline.lexical.params import LexicalParams, PublishedParams, SenseFusionParams, SoftLabelsParams
from pipeline.plagiarism.params import PlagiarismParams, PlagiarismSetParams
from pipeline.senses.params import LexiconParams, SensesParams
from pipeline.sources.params import SourceParams, decode_source
from pipeline.tasks.params import GlueParams, ParaphraseParams, RewriteParams, WsdParams
from pipeline.teach.params import ExactParams, TeacherParams
from pipeline.text.params import CorpusParams, InputParams, MaskParams, TokenizeParams
from pipeline.train.params import StudentParams, TargetGradientParams, TrainingParams
from storage.errors import ParamsError

NAME = re.compile(r"[A-Za-z0-9_-]+")
"""Names become file names and DVC stage names; DVC reads a dot as a step into the section."""

RENAMED = {"believers": "soft_labels", "rewriters": "rewrite", "judged": "suites"}
"""Former names of sections to present ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """params.yaml, decoded. Dicts are keyed by the names that the file gives."""

    sources: Mapping[str, SourceParams]
    inputs: Mapping[str, InputParams]
    corpus: CorpusParams
    tokenize: TokenizeParams
    mask: MaskParams
    adapters: Mapping[str, AdapterParams]
    teachers: Mapping[str, TeacherParams]
    exact: ExactParams
    fusions: Mapping[str, FusionParams]
    training: TrainingParams
    students: Mapping[str, StudentParams]
    target_gradients: TargetGradientParams
    lexicon: LexiconParams
    senses: Mapping[str, SensesParams]
    lexical: Mapping[str, LexicalParams]
    soft_labels: Mapping[str, SoftLabelsParams]
    sense_fusions: Mapping[str, SenseFusionParams]
    published: Mapping[str, PublishedParams]
    rewrite: Mapping[str, RewriteParams]
    evaluate: EvaluateParams
    wsd: WsdParams
    paraphrase: ParaphraseParams
    plagiarism_sets: Mapping[str, PlagiarismSetParams]
    plagiarism: PlagiarismParams
    glue: GlueParams
    costs: CostParams
    suites: SuitesParams
    runtime: RuntimeParams


def read_settings(path: Path) -> Settings:
    """Decode every section of the file at `path`.

    Raises ParamsError with the dotted path of the first thing that is unknown, missing or impossible. What sections say
    about each other is for `pipeline.project.consistency`.
    """
    raw = load(path)
    known = Settings.__dataclass_fields__
    for key in raw:
        if key not in known:
            hint = f": it is now '{RENAMED[key]}'" if key in RENAMED else nearest(str(key), known)
            raise ParamsError(f"{path}: unknown section '{key}'{hint}")
    for key in known:
        if key not in raw:
            raise ParamsError(f"{path}: section '{key}' is missing")

    def one(name: str, kind: type[Section]) -> Any:
        return decode(raw[name], kind, where=f"{path}: {name}")

    def named(name: str, kind: type[Section], *, least: int = 1) -> dict[str, Any]:
        return _named(raw[name], f"{path}: {name}", lambda value, where: decode(value, kind, where=where), least=least)

    settings = Settings(
        sources=_named(
            raw["sources"], f"{path}: sources", lambda value, where: decode_source(value, where=where), least=0
        ),
        inputs=named("inputs", InputParams),
        corpus=one("corpus", CorpusParams),
        tokenize=one("tokenize", TokenizeParams),
        mask=one("mask", MaskParams),
        adapters=named("adapters", AdapterParams, least=0),
        teachers=named("teachers", TeacherParams),
        exact=one("exact", ExactParams),
        fusions=named("fusions", FusionParams),
        training=one("training", TrainingParams),
        students=named("students", StudentParams),
        target_gradients=one("target_gradients", TargetGradientParams),
        lexicon=one("lexicon", LexiconParams),
        senses=named("senses", SensesParams, least=0),
        lexical=named("lexical", LexicalParams, least=0),
        soft_labels=named("soft_labels", SoftLabelsParams, least=0),
        sense_fusions=named("sense_fusions", SenseFusionParams, least=0),
        published=named("published", PublishedParams, least=0),
        rewrite=named("rewrite", RewriteParams, least=0),
        evaluate=one("evaluate", EvaluateParams),
        wsd=one("wsd", WsdParams),
        paraphrase=one("paraphrase", ParaphraseParams),
        plagiarism_sets=named("plagiarism_sets", PlagiarismSetParams, least=0),
        plagiarism=one("plagiarism", PlagiarismParams),
        glue=one("glue", GlueParams),
        costs=one("costs", CostParams),
        suites=one("suites", SuitesParams),
        runtime=one("runtime", RuntimeParams),
    )
    for suite in SuitesParams.model_fields:
        _require_names(getattr(settings.suites, suite), f"{path}: suites.{suite}")
    return settings


def _named(value: Any, where: str, decoded: Callable[[Any, str], Any], *, least: int = 1) -> dict[str, Any]:
    if not isinstance(value, dict) or len(value) < least:
        expected = "at least one entry" if least else "a mapping of entries, {} for none"
        raise ParamsError(f"{where}: expected {expected}, got {value!r}")
    _require_names(value, where)
    return {name: decoded(entry, f"{where}.{name}") for name, entry in value.items()}


def _require_names(entries: Iterable[Any], where: str) -> None:
    for name in entries:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ParamsError(f"{where}: name {name!r} may have letters, digits, '-' and '_' only")
