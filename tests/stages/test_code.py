"""A module that a stage imports and does not depend on is an edit that reruns nothing."""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.core.import_closure import command_digest, module_digests, write_digests
from stages import code
from storage.work import WorkFolder, Workspace
from tests.stages.pipeline_page import ROOT, command, stages


@pytest.mark.parametrize("name", stages())
def test_a_stage_depends_on_the_modules_of_its_command(name: str) -> None:
    body = stages()[name]
    found = [dep for dep in body["deps"] if dep.startswith("data/code/")]
    assert found == ([] if name == "code" else [f"data/code/{command(body)}.txt"])


def test_every_module_of_stages_is_a_stage() -> None:
    """`command` is shared; what is for people is in `stages.tools`."""
    commands = {command(body) for body in stages().values()}
    modules = {path.stem for path in (ROOT / "stages").glob("*.py")}
    assert modules - commands == {"__init__", "command"}
    assert commands <= modules


def test_the_code_stage_follows_every_package() -> None:
    assert stages()["code"]["deps"] == ["pipeline", "stages", "storage"]


def write(root: Path, **modules: str) -> None:
    for name, text in modules.items():
        stem = name.removesuffix("____init__")
        path = root / (stem.replace("__", "/") + ("/__init__.py" if stem != name else ".py"))
        path.parent.mkdir(exist_ok=True, parents=True)
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


def test_an_edit_of_a_nested_module_reaches_exactly_what_imports_it(project: Path) -> None:
    write(
        project,
        stages__a="from pipeline.deep.er import x\n",
        stages__z="import pipeline.deep\n",
        stages__y="from pipeline.deep import er\n",
        pipeline__deep____init__="",
        pipeline__deep__er="x = 1\n",
        pipeline__deep__other="",
    )
    write_digests(project, project / "out")
    before = {path.stem: path.read_bytes() for path in (project / "out").iterdir()}
    assert "pipeline/deep/__init__.py" in listed(project / "out" / "z.txt")
    assert "pipeline/deep/other.py" not in listed(project / "out" / "a.txt")
    write(project, pipeline__deep__er="x = 2\n", pipeline__deep__other="y = 2\n")
    write_digests(project, project / "out")
    changed = {path.stem for path in (project / "out").iterdir() if path.read_bytes() != before[path.stem]}
    assert changed == {"a", "y"}


@pytest.mark.parametrize(
    ("edited", "made_again"),
    [("pipeline__deep__er", ["a", "y"]), ("pipeline__deep__other", []), ("pipeline__deep____init__", ["a", "y", "z"])],
)
def test_an_edit_of_a_nested_module_makes_finished_work_of_what_imports_it_again(
    project: Path, tmp_path: Path, edited: str, made_again: list[str]
) -> None:
    write(
        project,
        stages__a="from pipeline.deep.er import x\n",
        stages__z="import pipeline.deep\n",
        stages__y="from pipeline.deep import er\n",
        pipeline__deep____init__="",
        pipeline__deep__er="",
        pipeline__deep__other="",
    )

    def folder(name: str) -> WorkFolder:
        workspace = Workspace(tmp_path / f"work-{name}", code=command_digest(name, root=project))
        return WorkFolder(tmp_path / "out" / name, name=name, identity="a" * 64, workspace=workspace)

    for name in "ayz":
        with folder(name) as work:
            work.append({"shard": 1})
            work.publish()
    write(project, **{edited: "x = 2\n"})
    found = []
    for name in "ayz":
        with folder(name) as work:
            found += [name] * (not work.entries())
    assert found == made_again


def test_the_digest_of_a_command_is_that_of_its_list(project: Path) -> None:
    write_digests(project, project / "out")
    for name in "az":
        expected = hashlib.sha256((project / "out" / f"{name}.txt").read_bytes()).hexdigest()
        assert command_digest(name, root=project) == expected


@pytest.mark.parametrize(
    "edit",
    [
        {"storage__c": "x = 1\n"},
        {"pipeline__b": "import pipeline.new\n", "pipeline__new": ""},
    ],
    ids=["another text", "a new module"],
)
def test_a_process_that_began_before_an_edit_has_other_code(project: Path, edit: dict[str, str]) -> None:
    before = module_digests(project)
    same = command_digest("z", root=project)
    write(project, storage__unused="x = 1\n")
    assert command_digest("z", root=project, digests=before) == command_digest("z", root=project) == same
    write(project, **edit)
    assert command_digest("z", root=project, digests=before) != command_digest("z", root=project)


def test_every_command_passes_its_workspace() -> None:
    """A library function has a default, with which no code is compared."""
    seen = set()
    for path in (ROOT / "stages").glob("*.py"):
        module = importlib.import_module(f"stages.{path.stem}")
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            function = getattr(module, call.func.id, None) if isinstance(call.func, ast.Name) else None
            if inspect.isfunction(function) and "workspace" in inspect.signature(function).parameters:
                seen.add(path.stem)
                assert "workspace" in {keyword.arg for keyword in call.keywords}, path
    assert {"command", "mask", "fuse"} <= seen, "the others pass it with their runtime"


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
    names = [name.replace(".", "/") for name in printed.split()]
    loaded = {f"{name}/__init__.py" if (ROOT / name).is_dir() else f"{name}.py" for name in names}
    assert len(loaded) > 10
    assert loaded <= listed(tmp_path / "code" / "mask.txt").keys()
    subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", str(tmp_path / "code" / "mask.txt")], cwd=ROOT, check=True
    )
