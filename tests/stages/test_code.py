"""A module that a stage imports and does not depend on is an edit that reruns nothing."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.closure import write_digests
from stages import code
from tests.stages.pipeline_page import ROOT, command, stages


@pytest.mark.parametrize("name", stages())
def test_a_stage_depends_on_the_modules_of_its_command(name: str) -> None:
    body = stages()[name]
    found = [dep for dep in body["deps"] if dep.startswith("data/code/")]
    assert found == ([] if name == "code" else [f"data/code/{command(body)}.txt"])


def test_every_stage_module_is_a_stage_or_a_tool() -> None:
    """`show`, `prune`, `pack` and `store` are for people; `command` is shared."""
    commands = {command(body) for body in stages().values()}
    modules = {path.stem for path in (ROOT / "stages").glob("*.py")}
    assert modules - commands == {"__init__", "command", "pack", "show", "prune", "store"}
    assert commands <= modules


def test_the_code_stage_follows_every_module() -> None:
    """Its closures see no packages within packages, and no other package of the project."""
    assert stages()["code"]["deps"] == ["pipeline", "stages", "storage"]
    assert not [path for package in stages()["code"]["deps"] for path in (ROOT / package).glob("*/*.py")]


def write(root: Path, **modules: str) -> None:
    for name, text in modules.items():
        path = root / (name.replace("__", "/", 1) + ".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


def listed(path: Path) -> dict[str, str]:
    lines = (line.split("  ") for line in path.read_text(encoding="utf-8").splitlines())
    return {name: digest for digest, name in lines}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    for package in ("storage", "pipeline", "stages"):
        write(root, **{f"{package}____init__": ""})
    write(
        root,
        stages__command="",
        stages__a="import os\nimport stages.command\ndef f():\n    from pipeline import b\n",
        stages__z="from storage.c import y\n",
        pipeline__b="import storage.c\nimport numpy.random\nfrom pipeline import NUMBER\n",
        storage__c="from pipeline.b import x\n",
        storage__unused="",
    )
    return root


def test_imports_inside_functions_and_packages_count(project: Path) -> None:
    write_digests(project, project / "out")
    assert sorted(path.name for path in (project / "out").iterdir()) == ["a.txt", "z.txt"]
    packages = ["pipeline/__init__.py", "stages/__init__.py", "storage/__init__.py"]
    both = ["pipeline/b.py", *packages, "storage/c.py"]
    assert sorted(listed(project / "out" / "a.txt")) == sorted(["stages/a.py", "stages/command.py", *both])
    assert sorted(listed(project / "out" / "z.txt")) == sorted(["stages/z.py", *both])
    assert list(listed(project / "out" / "z.txt")) == sorted(listed(project / "out" / "z.txt"))


def test_only_what_imports_an_edited_module_changes(project: Path) -> None:
    write_digests(project, project / "out")
    before = {path.name: path.read_bytes() for path in (project / "out").iterdir()}
    write(project, stages__command="x = 1\n", storage__unused="x = 1\n")
    write_digests(project, project / "out")
    after = {path.name: path.read_bytes() for path in (project / "out").iterdir()}
    assert before["z.txt"] == after["z.txt"]
    assert before["a.txt"] != after["a.txt"]
    assert listed(project / "out" / "a.txt")["stages/command.py"] == hashlib.sha256(b"x = 1\n").hexdigest()


def test_a_command_that_is_gone_leaves_no_list(project: Path) -> None:
    write_digests(project, project / "out")
    (project / "stages" / "z.py").unlink()
    write_digests(project, project / "out")
    assert [path.name for path in (project / "out").iterdir()] == ["a.txt"]


def test_the_lists_are_what_python_imports_and_sha256sum_reads(tmp_path: Path) -> None:
    """Modules loaded by importing a stage, as far as that runs its imports; the digests by the usual tool."""
    done = CliRunner().invoke(code.main, ["--out", str(tmp_path / "code")])
    assert done.exit_code == 0, done.output
    script = (
        "import sys, stages.mask; print(*(m for m in sys.modules if m.startswith(('storage', 'pipeline', 'stages'))))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    ).stdout
    loaded = {name.replace(".", "/") + ("" if "." in name else "/__init__") + ".py" for name in printed.split()}
    assert len(loaded) > 10
    assert loaded <= listed(tmp_path / "code" / "mask.txt").keys()
    subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", str(tmp_path / "code" / "mask.txt")], cwd=ROOT, check=True
    )
