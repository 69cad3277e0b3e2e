"""The profile for a GPU: still understood, and what it says it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.project.consistency import read_consistent

ROOT = Path(__file__).resolve().parents[2]


def test_the_profile_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    settings = read_consistent(ROOT / "benchmarks" / "students" / "gpu.yaml")
    assert len(settings.fusions["confident"].teachers) == len(settings.teachers) == 3
    assert settings.fusions["only-base"].teachers == ["mpnet-base-mlm"]
    assert {student.targets for student in settings.students.values()} == {
        "data/targets/confident", "data/targets/only-base", "data/masks",
    }  # fmt: skip
    assert settings.training.steps * settings.training.step_tokens > 30_000_000


def test_it_shares_its_sources_with_the_default() -> None:
    """The same pinned files: what was fetched for one is there for the other."""
    default, profile = (
        yaml.safe_load(path.read_text(encoding="utf-8"))["sources"]
        for path in (ROOT / "params.yaml", ROOT / "benchmarks" / "students" / "gpu.yaml")
    )
    assert {name: profile[name] for name in default} == default
    own = dict(profile["mpnet-base-mlm"], adapter=default["mpnet-sci"]["adapter"])
    assert own == default["mpnet-sci"]
