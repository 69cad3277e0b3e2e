"""What earlier settings made and the present ones no longer name.

DVC leaves the output of a removed entry where it is. `fuse` refuses folders of teachers that are not named,
`paraphrase` and `wsd` would judge by sets that are not, and reports must not show them.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from pathlib import Path

from pipeline.evaluate.suites import SUITES
from pipeline.project.settings import Settings

SINGLE_RUNS = ("corpus", "tokenize", "mask", "lexicon")
"""Stages without a name after them in `reports/runs`."""


def orphans(settings: Settings, root: Path = Path()) -> list[Path]:
    """Files and folders below `root`, the project's folder, that no entry of the settings makes."""
    made: dict[str, Set[str]] = {
        "data/sources": settings.sources.keys(),
        "data/text": settings.inputs.keys(),
        "data/logits": settings.teachers.keys(),
        "data/exact": settings.teachers.keys(),
        "data/targets": settings.fusions.keys(),
        "data/senses": settings.senses.keys(),
        "data/beliefs": settings.believers.keys(),
        "data/paraphrase": settings.rewriters.keys(),
        "models": set().union(settings.adapters, settings.students, settings.lexical, settings.published),
        "reports/teachers": settings.teachers.keys(),
        "reports/fidelity": settings.teachers.keys(),
        "reports/fusions": settings.fusions.keys(),
        "reports/students": settings.students.keys(),
        **{f"reports/{suite}": getattr(settings.judged, suite).keys() for suite in SUITES},
        "reports/runs": set(_runs(settings)),
    }
    return [path for folder, names in made.items() for path in _others(root / folder, names)]


def _runs(settings: Settings) -> Iterator[str]:
    """Names of the run records."""
    yield from SINGLE_RUNS
    sections = {
        "sources": settings.sources,
        "ingest": settings.inputs,
        "adapt": settings.adapters,
        "teach": settings.teachers,
        "exact": settings.teachers,
        "fidelity": settings.teachers,
        "fuse": settings.fusions,
        "train": settings.students,
        "senses": settings.senses,
        "lexical": settings.lexical,
        "beliefs": settings.believers,
        "published": settings.published,
        "rewrite": settings.rewriters,
        "evaluate-teacher": settings.teachers,
        "evaluate-fusion": settings.fusions,
        "evaluate-student": settings.students,
        **{rules.stage: getattr(settings.judged, suite) for suite, rules in SUITES.items()},
    }
    for stage, names in sections.items():
        yield from (f"{stage}-{name}" for name in names)


def _others(folder: Path, names: Set[str]) -> list[Path]:
    """Entries of `folder` that are not named; what a killed publication left behind goes with its name."""
    if not folder.is_dir():
        return []
    return [path for path in sorted(folder.iterdir()) if path.name != ".gitignore" and _name(path) not in names]


def _name(path: Path) -> str:
    # Names have no dots: "x", "x.json", ".x.staged".
    return path.name.removeprefix(".").partition(".")[0]
