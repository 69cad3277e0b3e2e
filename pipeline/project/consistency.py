"""Contradictions between sections of params.yaml: unknown names, folders that no stage makes.

One rule keeps a test set independent: a rewriter of paragraphs must not be a model that an evaluated detector learned
from or started from, directly or through other models (`ancestors`). Teachers of fused targets and lexical teachers
count. Models are compared by folder: two adapters of one encoder, such as minilm-l6-mlm and minilm-prose, are two
models.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.adapt.params import AdapterParams
from pipeline.core.config import nearest
from pipeline.fuse.params import FusionParams
from pipeline.lexical.params import NO_SOFT_LABELS, LexicalParams, PublishedParams
from pipeline.plagiarism.params import PlagiarismSetParams
from pipeline.project.ancestors import SENSE_FUSIONS, SOFT_LABELS, ancestors, lexical_teachers, plain
from pipeline.project.settings import Settings, read_settings
from pipeline.sources.params import ModelSource
from pipeline.train.params import LABELS_ONLY, LossParams, StudentParams
from storage.errors import ParamsError

LEXICON = "data/lexicon"

PLANTED = "data/plagiarism"

INGESTED = "data/text"
DOCUMENTS = "data/documents"
TEXTS = (DOCUMENTS, INGESTED)
"""What an adapter may learn from beside files: the corpus, and all that was ingested."""

Complaints = Iterator[str]
"""Each begins with a dotted path."""


def read_consistent(path: Path) -> Settings:
    """Decode the file at `path` and check what its sections say about each other, before any work.

    Raises ParamsError with the dotted path of the first thing that is unknown, missing, impossible or contradictory.
    Looks at the disk only for folders that no stage makes.
    """
    settings = read_settings(path)
    for complaint in inconsistencies(settings):
        raise ParamsError(f"{path}: {complaint}")
    return settings


def inconsistencies(settings: Settings) -> Complaints:
    """Complaints in the order of the file."""
    yield from _distillation(settings)
    yield from _senses(settings)
    for name, rewriter in settings.rewrite.items():
        yield from _path(f"rewrite.{name}.model", rewriter.model, settings)
        yield from _independent(f"rewrite.{name}.model", rewriter.model, settings)
    for name, planted in settings.plagiarism_sets.items():
        yield from _planted(f"plagiarism_sets.{name}", planted, settings)
    yield from _targets("evaluate.against", settings.evaluate.against, settings)
    yield from _suites(settings)


def _distillation(settings: Settings) -> Complaints:
    for name, source in settings.sources.items():
        if isinstance(source, ModelSource) and source.adapter is not None and not Path(source.adapter).is_dir():
            yield f"sources.{name}.adapter: no folder '{source.adapter}'"
    for name, entry in settings.inputs.items():
        yield from _path(f"inputs.{name}.path", entry.path, settings)
    yield from _splits(settings)
    yield from _path("tokenize.tokenizer", settings.tokenize.tokenizer, settings)
    for name, adapter in settings.adapters.items():
        yield from _adapter(name, adapter, settings)
    for name, teacher in settings.teachers.items():
        yield from _path(f"teachers.{name}.model", teacher.model, settings)
    for name, fusion in settings.fusions.items():
        yield from _fusion(f"fusions.{name}", fusion, settings)
    yield from _path("target_gradients.start", settings.target_gradients.start, settings)
    for name, student in settings.students.items():
        yield from _student(f"students.{name}", student, settings)


def _splits(settings: Settings) -> Complaints:
    """Splits that no document can fall into."""
    given = {entry.split for entry in settings.inputs.values()}
    by_id = None in given
    for split, share in (("calibration", settings.corpus.calibration), ("heldout", settings.corpus.heldout)):
        if split not in given and not (by_id and share):
            yield f"corpus.{split}: no document goes there. Raise it above 0, or give an input with split: {split}"
    if "train" not in given and not by_id:
        yield "inputs: no document goes to train. Leave `split` out of an input, or give one with split: train"


def _senses(settings: Settings) -> Complaints:
    yield from _path("lexicon.path", settings.lexicon.path, settings)
    for name, senses in settings.senses.items():
        if senses.kind == "text":
            if plain(senses.path) != DOCUMENTS:
                yield f"senses.{name}.path: expected {DOCUMENTS}, whose train split is read, got '{senses.path}'"
        elif senses.kind != "examples":
            yield from _path(f"senses.{name}.path", senses.path, settings)
        elif senses.path != LEXICON:
            yield f"senses.{name}.path: expected {LEXICON}, whose examples they are, got '{senses.path}'"
    for name, lexical in settings.lexical.items():
        yield from _lexical(name, lexical, settings)
    for name, teacher in settings.soft_labels.items():
        yield from _scores_senses(f"soft_labels.{name}.model", teacher.model, settings)
        yield from _listed(f"soft_labels.{name}.senses", teacher.senses, "senses", settings.senses)
        yield from _before_fusions(f"soft_labels.{name}.model", teacher.model, settings)
    for name, fusion in settings.sense_fusions.items():
        yield from _sense_fusion(f"sense_fusions.{name}.teachers", fusion.teachers, settings)
    for name, published in settings.published.items():
        yield from _published(name, published, settings)
    for name in (*settings.students, *settings.lexical):
        if f"models/{name}" in ancestors(f"models/{name}", settings):
            yield f"{'lexical' if name in settings.lexical else 'students'}.{name}: learns or starts from itself"


def _path(where: str, path: str, settings: Settings) -> Complaints:
    """A file or folder that a stage makes, or that is there."""
    made: dict[str, tuple[str, Mapping[str, Any]]] = {
        "data/sources": ("sources", settings.sources),
        "models": (
            "adapters, students, lexical or published",
            {**settings.adapters, **settings.students, **settings.lexical, **settings.published},
        ),
    }
    for folder, (sections, names) in made.items():
        if path.startswith(f"{folder}/"):
            name = path.removeprefix(f"{folder}/").partition("/")[0]
            if name not in names:
                yield f"{where}: '{path}' needs an entry '{name}' in {sections}{nearest(name, names)}"
            return
    if not Path(path).exists():
        yield f"{where}: '{path}' does not exist. Expected data/sources/<an entry of sources>, or a path that is there"


def _listed(where: str, names: Iterable[str], section: str, known: Iterable[str]) -> Complaints:
    for name in names:
        if name not in known:
            yield f"{where}: no entry '{name}' in {section}{nearest(name, known)}"


def _fusion(where: str, fusion: FusionParams, settings: Settings) -> Complaints:
    for name in fusion.teachers:
        if name not in settings.teachers:
            yield f"{where}.teachers: no entry '{name}' in teachers{nearest(name, settings.teachers)}"
        elif fusion.temperature not in settings.teachers[name].temperatures:
            listed = settings.teachers[name].temperatures
            yield f"{where}.temperature: {fusion.temperature} is not among teachers.{name}.temperatures, {listed}"
        elif settings.teachers[name].keep.draws and fusion.weighting == "learned":
            yield f"{where}.weighting: learned reads which ids are likely, and teachers.{name}.keep draws ids instead"
        elif settings.teachers[name].keep.draws and fusion.debias is not None:
            yield f"{where}.debias: divides rows by what they hold, and teachers.{name}.keep draws ids"
        elif settings.teachers[name].keep.draws and not (fusion.calibrated and fusion.temperature == 1):
            yield (
                f"{where}: teachers.{name}.keep draws ids, which stand for the calibrated temperature alone; expected "
                f"calibrated: true and temperature: 1.0, got {str(fusion.calibrated).lower()} and {fusion.temperature}"
            )


def _adapter(name: str, adapter: AdapterParams, settings: Settings) -> Complaints:
    where = f"adapters.{name}"
    for section in ("students", "lexical", "published"):
        if name in getattr(settings, section):
            yield f"{where}: {section} has this name too, and both would make models/{name}"
    yield from _path(f"{where}.start", adapter.start, settings)
    if f"models/{name}" in ancestors(f"models/{name}", settings):
        yield f"{where}.start: starts from itself"
    if plain(adapter.text) not in TEXTS and plain(Path(adapter.text).parent.as_posix()) != INGESTED:
        yield from _path(f"{where}.text", adapter.text, settings)
    elif plain(Path(adapter.text).parent.as_posix()) == INGESTED:
        yield from _listed(f"{where}.text", [Path(adapter.text).name], "inputs", settings.inputs)


def _student(where: str, student: StudentParams, settings: Settings) -> Complaints:
    yield from _objective(where, student.targets, student.loss, settings)
    yield from _path(f"{where}.start", student.start, settings)
    if student.start == f"models/{where.removeprefix('students.')}":
        yield f"{where}.start: a student cannot start from itself"
    have = _layers_of(student.start, settings)
    if student.layers and have is not None and max(student.layers) >= have:
        yield f"{where}.layers: '{student.start}' has layers 0 to {have - 1}, got {student.layers}"


def _layers_of(start: str, settings: Settings) -> int | None:
    """Layers of a folder of the user's; None for what a stage makes, which may still be an older one."""
    folder = start
    if start.startswith(("data/", "models/")):
        source = settings.sources.get(start.removeprefix("data/sources/"))
        folder = (source.local or "") if isinstance(source, ModelSource) else ""
    config = Path(folder) / "config.json"
    if not folder or not config.is_file():
        return None
    with suppress(ValueError):  # a broken file is for the stage that reads it
        found = json.loads(config.read_text(encoding="utf-8"))
        layers = found.get("num_hidden_layers") if isinstance(found, dict) else None
        return layers if isinstance(layers, int) else None
    return None


def _objective(
    where: str, targets: str, loss: LossParams, settings: Settings, *, inside: str = "loss", start: str | None = None
) -> Complaints:
    """Targets of a language model and their weights, under `inside`; its `start` where that may be the target."""
    own = start is not None and plain(targets) == plain(start)
    if targets != LABELS_ONLY and not own and "://" not in targets:  # what lies behind a URL no entry makes
        instead = (
            f", or {LABELS_ONLY} for labels only" if start is None else f", {start}, or {LABELS_ONLY} for labels only"
        )
        yield from _targets(f"{where}.targets", targets, settings, instead=instead)
    if targets == LABELS_ONLY and loss.targets:
        yield f"{where}.{inside}.targets: must be 0 with targets {LABELS_ONLY}, got {loss.targets}"
    if targets != LABELS_ONLY and not loss.targets:
        yield f"{where}.{inside}.targets: is 0, so nothing is learned from {targets}. Set targets to {LABELS_ONLY}"
    if not loss.targets and not loss.labels:
        yield f"{where}.{inside}: targets and labels are both 0: nothing to learn"


def _targets(where: str, path: str, settings: Settings, *, instead: str = "") -> Complaints:
    folder, _, name = path.rpartition("/")
    if folder != "data/targets":
        yield f"{where}: expected data/targets/<an entry of fusions>{instead}, got '{path}'"
    elif name not in settings.fusions:
        yield f"{where}: no entry '{name}' in fusions{nearest(name, settings.fusions)}"


def _lexical(name: str, lexical: LexicalParams, settings: Settings) -> Complaints:
    where = f"lexical.{name}"
    if name in settings.students:
        yield f"{where}: students has this name too, and both would make models/{name}"
    yield from _path(f"{where}.start", lexical.start, settings)
    yield from _listed(f"{where}.senses", lexical.senses, "senses", settings.senses)
    if lexical.language_model is not None:
        inside, loss = "language_model.loss", lexical.language_model.loss
        yield from _objective(where, lexical.targets, loss, settings, inside=inside, start=lexical.start)
    elif lexical.targets != LABELS_ONLY:
        yield f"{where}.targets: without language_model nothing is learned from them. Set targets to {LABELS_ONLY}"
    for senses in lexical.senses:
        unlearned = lexical.learns_senses and not lexical.soft_labels and senses in settings.senses
        if unlearned and settings.senses[senses].kind == "text":
            why = f"nobody annotated '{senses}', so only soft labels teach it"
            yield f"{where}.senses: {why}. Set soft_labels above 0, or leave it out"
    folder, _, source = lexical.soft_labels_from.rpartition("/")
    if not lexical.soft_labels and (lexical.learns_senses or lexical.soft_labels_from == NO_SOFT_LABELS):
        if lexical.soft_labels_from != NO_SOFT_LABELS:
            unused = f"is 0, so nothing is learned from {lexical.soft_labels_from}"
            yield f"{where}.soft_labels: {unused}. Set soft_labels_from to {NO_SOFT_LABELS}"
    elif folder not in (SOFT_LABELS, SENSE_FUSIONS):
        expected = f"{SOFT_LABELS}/<an entry of soft_labels> or {SENSE_FUSIONS}/<an entry of sense_fusions>"
        yield f"{where}.soft_labels_from: expected {expected}, got '{lexical.soft_labels_from}'"
    else:
        section = folder.removeprefix("data/")
        yield from _listed(f"{where}.soft_labels_from", [source], section, getattr(settings, section))
        for teacher in lexical_teachers(lexical, settings):
            asked = settings.soft_labels[teacher].senses
            yield from _listed(f"{where}.senses", lexical.senses, f"soft_labels.{teacher}.senses", asked)


def _sense_fusion(where: str, teachers: list[str], settings: Settings) -> Complaints:
    yield from _listed(where, teachers, "soft_labels", settings.soft_labels)
    known = [set(settings.soft_labels[name].senses) for name in teachers if name in settings.soft_labels]
    if known and not set.intersection(*known):
        yield f"{where}: {', '.join(teachers)} label no senses in common. Name one under each"


def _before_fusions(where: str, model: str, settings: Settings) -> Complaints:
    """A lexical teacher learned from no fusion of soft labels: DVC makes all soft labels before any of these."""
    for learner in sorted({plain(model)} | ancestors(model, settings)):
        lexical = settings.lexical.get(learner.removeprefix("models/"))
        if lexical is not None and lexical.soft_labels_from.startswith(f"{SENSE_FUSIONS}/"):
            yield (
                f"{where}: '{learner}' learns from {lexical.soft_labels_from}, which is made after all soft_labels. "
                f"Let it learn from {SOFT_LABELS}/<one entry>, or ask another model"
            )


def _published(name: str, published: PublishedParams, settings: Settings) -> Complaints:
    where = f"published.{name}"
    for section, names in (("students", settings.students), ("lexical", settings.lexical)):
        if name in names:
            yield f"{where}: {section} has this name too, and both would make models/{name}"
    yield from _path(f"{where}.start", published.start, settings)
    if published.start.startswith("models/"):
        yield f"{where}.start: expected data/sources/<an entry>, which can be fetched, got '{published.start}'"
    if not Path(published.changes).is_dir():
        yield f"{where}.changes: no folder '{published.changes}', as `cohesive pack` writes"


def _scores_senses(where: str, model: str, settings: Settings) -> Complaints:
    """A lexical student, or a folder from elsewhere."""
    if model.startswith("models/") and model.removeprefix("models/") in settings.students:
        yield f"{where}: '{model}' scores no senses; expected models/<an entry of lexical>"
    yield from _path(where, model, settings)


def _independent(where: str, model: str, settings: Settings) -> Complaints:
    """A rewriter is no evaluated detector and no ancestor of one: its training data would leak into the test set."""
    for suite in ("paraphrase", "plagiarism"):
        for name, entry in getattr(settings.suites, suite).items():
            same = plain(model) == plain(entry.model)
            if same or plain(model) in ancestors(entry.model, settings):
                what = "is it" if same else "learned or started from it"
                yield f"{where}: '{model}' must not rewrite, as suites.{suite}.{name} {what}. Give another model"


def _planted(where: str, planted: PlagiarismSetParams, settings: Settings) -> Complaints:
    """Passages that a stage rewrites, or a file of pairs that is there."""
    if planted.kind == "pairs":
        yield from _path(f"{where}.path", planted.path, settings)
        return
    folder, _, name = planted.path.rpartition("/")
    if folder != "data/rewrite":
        yield f"{where}.path: expected data/rewrite/<an entry of rewrite>, got '{planted.path}'"
    elif name not in settings.rewrite:
        yield f"{where}.path: no entry '{name}' in rewrite{nearest(name, settings.rewrite)}"
    else:
        made = settings.rewrite[name]
        if planted.split != made.split:
            yield f"{where}.split: expected '{made.split}', the split of rewrite.{name}, got '{planted.split}'"
        if planted.share not in made.shares:
            yield f"{where}.share: expected one of rewrite.{name}.shares, {made.shares}, got {planted.share}"


def _suites(settings: Settings) -> Complaints:
    folders: dict[str, tuple[str, str]] = {}
    for suite, name, entry in settings.suites.entries():
        where = f"suites.{suite}.{name}"
        first, folder = folders.setdefault(name, (where, entry.model))
        if entry.model != folder:
            yield f"{where}.model: a name is one model in all suites; {first} has '{folder}', got '{entry.model}'"
        check = _scores_senses if suite == "wsd" else _path
        yield from check(f"{where}.model", entry.model, settings)
    for name, entry in settings.suites.language_model.items():
        where = f"suites.language_model.{name}.before"
        yield from _path(where, entry.before, settings)
        lexical = settings.lexical.get(entry.model.removeprefix("models/"))
        if lexical is not None and entry.before != lexical.start:
            yield f"{where}: expected '{lexical.start}', from which '{entry.model}' started, got '{entry.before}'"
    if settings.suites.wsd and not any(senses.heldout for senses in settings.senses.values()):
        yield "suites.wsd: no entry of senses holds words out for evaluation. Raise senses.<name>.heldout"
    if settings.suites.paraphrase and not settings.rewrite:
        yield "suites.paraphrase: needs an entry in rewrite, which makes the sets"
    if settings.suites.plagiarism and plain(settings.plagiarism.data) == PLANTED:
        if not settings.plagiarism_sets:
            yield f"suites.plagiarism: needs an entry in plagiarism_sets, which makes {PLANTED}"
    elif settings.suites.plagiarism and not Path(settings.plagiarism.data).is_dir():
        yield f"plagiarism.data: no folder '{settings.plagiarism.data}'. Expected {PLANTED}, or a folder that is there"
    if settings.suites.glue and settings.glue.data != "hub" and not Path(settings.glue.data).is_dir():
        yield f"glue.data: no folder '{settings.glue.data}'. Unpack GLUE there, or set data: hub and its revision"
