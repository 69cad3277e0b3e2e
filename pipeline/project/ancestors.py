"""Which models another one learned from or started from, as params.yaml says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.lexical.params import LexicalParams
from pipeline.project.settings import Settings

SOFT_LABELS = "data/soft_labels"
SENSE_FUSIONS = "data/sense_fusions"


def ancestors(model: str, settings: Settings) -> set[str]:
    """Folders of all models that the one at `model` learned from or started from, directly or through others."""
    found: set[str] = set()
    waiting = [model]
    while waiting:
        for parent in map(plain, _parents(plain(waiting.pop()), settings)):
            if parent not in found:
                found.add(parent)
                waiting.append(parent)
    return found


def _parents(model: str, settings: Settings) -> Iterator[str]:
    folder, _, name = model.rpartition("/")
    if folder != "models":
        return
    for starter in (settings.published.get(name), settings.adapters.get(name)):
        if starter is not None:
            yield starter.start
    for learner in (settings.students.get(name), settings.lexical.get(name)):
        if learner is not None:
            yield learner.start
            fusion = settings.fusions.get(learner.targets.removeprefix("data/targets/"))
            yield from () if fusion is None else (settings.teachers[teacher].model for teacher in fusion.teachers)
    lexical = settings.lexical.get(name)
    if lexical is not None and lexical.soft_labels:
        yield from (settings.soft_labels[teacher].model for teacher in lexical_teachers(lexical, settings))


def lexical_teachers(lexical: LexicalParams, settings: Settings) -> list[str]:
    """Entries of soft_labels that a lexical student learns from."""
    folder, _, name = lexical.soft_labels_from.rpartition("/")
    fused = folder == SENSE_FUSIONS and name in settings.sense_fusions
    named = settings.sense_fusions[name].teachers if fused else [name]
    return [teacher for teacher in named if teacher in settings.soft_labels]


def plain(path: str) -> str:
    """One spelling of a folder: models/x/ is models/x."""
    return Path(path).as_posix()
