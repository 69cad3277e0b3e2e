"""A module that a stage imports and does not list is an edit that reruns nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.stages import closure


@pytest.mark.parametrize("name", closure.stages())
def test_deps_are_the_modules_that_the_stage_imports(name: str) -> None:
    body = closure.stages()[name]
    expected = closure.module_deps(body["cmd"])
    assert closure.listed(body) == expected, "to mend it: python -m tests.stages.closure"


def test_every_stage_module_is_a_stage_or_a_tool() -> None:
    """`show`, `prune`, `pack` and `store` are for people; `command` is shared."""
    commands = {body["cmd"].split()[2].partition(".")[2] for body in closure.stages().values()}
    modules = {path.stem for path in (closure.ROOT / "stages").glob("*.py")}
    assert modules - commands == {"__init__", "command", "pack", "show", "prune", "store"}
    assert commands <= modules


def test_the_lists_are_written_as_they_stand() -> None:
    text = (closure.ROOT / "dvc.yaml").read_text(encoding="utf-8")
    assert closure.rewritten(text) == text


def test_imports_inside_functions_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closure, "ROOT", tmp_path)
    for package in closure.PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "stages" / "a.py").write_text("import os\ndef f():\n    from pipeline import b\n", encoding="utf-8")
    (tmp_path / "pipeline" / "b.py").write_text("import storage.c\nimport pipeline.d.e\n", encoding="utf-8")
    (tmp_path / "storage" / "c.py").write_text("from pipeline.b import x\n", encoding="utf-8")
    assert closure.module_deps("python -m stages.a x") == ["pipeline/b.py", "stages/a.py", "storage"]


def test_what_python_imports_is_in_the_closure() -> None:
    """The other way round: modules loaded by importing a stage, as far as that runs its imports."""
    script = (
        "import sys, stages.mask; print(*(m for m in sys.modules if m.startswith(('storage', 'pipeline', 'stages'))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=closure.ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    loaded = {name.replace(".", "/") + ".py" for name in done.stdout.split() if "." in name}
    expected = {path.relative_to(closure.ROOT).as_posix() for path in closure.closure(closure.ROOT / "stages/mask.py")}
    assert loaded <= expected
