"""dvc.yaml as data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]


def stages() -> dict[str, dict[str, Any]]:
    """Stage name to its body, templates not filled in."""
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    return {name: stage.get("do", stage) for name, stage in pipeline["stages"].items()}


def command(body: dict[str, Any]) -> str:
    """Module of `stages` that the stage runs."""
    words = body["cmd"].split()
    assert words[:2] == ["python", "-m"], body["cmd"]
    package, _, name = words[2].partition(".")
    assert package == "stages", body["cmd"]
    return str(name)
