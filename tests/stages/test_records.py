"""The record of a run: what it says of a run that took up the work of another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stages.command import Run
from storage.work import WorkFolder


def test_a_record_says_that_its_seconds_are_those_of_the_rest(workplace: Path) -> None:
    def run(fails: bool) -> None:
        with Run("mask", "stages/mask.py") as run:
            with WorkFolder(Path("out"), name="masks", identity="a" * 64, workspace=run.workspace) as work:
                (work.content / "half").touch()
                if fails:
                    raise ZeroDivisionError
                work.publish()

    path = Path("reports/runs/mask.json")
    with pytest.raises(ZeroDivisionError):
        run(fails=True)
    assert not path.exists()
    run(fails=False)
    assert json.loads(path.read_text())["continued"] is True


def test_the_record_of_a_whole_run_does_not_say_so(workplace: Path) -> None:
    with Run("mask", "stages/mask.py") as run:
        with WorkFolder(Path("out"), name="masks", identity="a" * 64, workspace=run.workspace) as work:
            work.publish()
    assert "continued" not in json.loads(Path("reports/runs/mask.json").read_text())
