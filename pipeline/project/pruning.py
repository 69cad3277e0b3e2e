"""Outputs of entries that params.yaml no longer has.

DVC leaves the output of a removed entry where it is. `fuse` refuses folders of teachers that are not named, and
`paraphrase` and `wsd` would evaluate on sets that are not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Set
from pathlib import Path

from pipeline.core.outputs import OUTPUTS, record_names
from pipeline.project.settings import Settings


def orphans(settings: Settings, root: Path = Path()) -> list[Path]:
    """Files and folders below `root`, the project's folder, that no entry of the settings makes."""
    made: dict[str, set[str]] = defaultdict(set)
    for outputs in OUTPUTS.values():
        if outputs.section is not None:
            made[outputs.out].update(outputs.names(settings))
    made["reports/runs"] = set(record_names(settings))
    return [path for folder, names in made.items() for path in _others(root / folder, names)]


def _others(folder: Path, names: Set[str]) -> list[Path]:
    """Entries of `folder` that are not named; what a killed publication left behind goes with its name."""
    if not folder.is_dir():
        return []
    return [path for path in sorted(folder.iterdir()) if path.name != ".gitignore" and _name(path) not in names]


def _name(path: Path) -> str:
    # Names have no dots: "x", "x.json", ".x.staged".
    return path.name.removeprefix(".").partition(".")[0]
