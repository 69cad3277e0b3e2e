"""Commands, settings and Python in the README and docs/ exist; those marked `run` are run.

Not checked here: what a command marked `needs: …` prints. Those that take minutes, a network or a GPU are run by the
tests of their stages, with small models.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from pipeline.core.config import load
from pipeline.project.consistency import read_consistent
from tests.docs.blocks import ROOT, Block, blocks, commands, inline

OTHERS = {"git", "cd", "mkdir", "cp", "pip", "dask", "sha256sum"}
"""Programs that this project neither has nor checks."""

DVC = {"repro", "exp", "metrics", "plots", "stage", "fetch", "pull", "push", "remote", "import"}


def where(block: Block) -> str:
    return f"{block.page}:{block.line}"


def stages() -> set[str]:
    """Every stage of dvc.yaml, with its names."""
    found = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    params = load(ROOT / "params.yaml")
    names = set()
    for stage, body in found.items():
        if "foreach" not in body:
            names.add(stage)
            continue
        entries: Any = params
        for key in body["foreach"].strip("${}").split("."):
            entries = entries[key]
        names |= {f"{stage}@{name}" for name in entries}
    return names


def require_dvc(words: list[str]) -> None:
    assert words[0] in DVC, words
    targets = [word for word in words[1:] if not word.startswith("-")]
    if words[0] == "repro":
        assert set(targets) <= stages(), words
    if words[0] == "exp":
        params = load(ROOT / "params.yaml")
        for flag, setting in pairwise(words):
            if flag == "-S":
                value: Any = params
                for key in setting.partition("=")[0].split("."):
                    assert key in value, setting
                    value = value[key]


def require_python(words: list[str]) -> None:
    """`-m MODULE` has a click command (or is of the standard library), and knows each option and subcommand."""
    assert words[0] == "-m", words
    name, rest = words[1], words[2:]
    if name.partition(".")[0] not in ("stages", "benchmarks", "tests"):
        assert name in sys.stdlib_module_names or name.partition(".")[0] in sys.stdlib_module_names, name
        return
    package = importlib.util.find_spec(name)
    assert package is not None, name
    entry = f"{name}.__main__" if package.submodule_search_locations is not None else name
    command = importlib.import_module(entry).main
    require_click(command, rest)


def require_click(command: click.Command, words: list[str]) -> None:
    """The command knows each option and subcommand."""
    rest = words
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.get_command(click.Context(command), rest[0])
        assert found is not None, words
        command, rest = found, rest[1:]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for word in rest:
        if word.startswith("-") and not re.fullmatch(r"-\d.*", word):
            assert word.partition("=")[0] in known | {"--help"}, words


def require(words: list[str]) -> None:
    program, rest = words[0].removeprefix(".venv/bin/"), words[1:]
    if program == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert {word for word in rest if "=" not in word} <= set(targets), words
    elif program == "dvc":
        require_dvc(rest)
    elif program == "python":
        require_python(rest)
    elif program == "cohesive":
        require_click(importlib.import_module("stages.tools.cohesive").main, rest)
    else:
        assert program in OTHERS, words


@pytest.mark.parametrize("block", blocks("bash"), ids=where)
def test_every_command_exists_and_says_what_it_needs(block: Block) -> None:
    assert block.marker, "a comment above the block: <!-- run --> or <!-- needs: … -->"
    for words in commands(block.text):
        require(words)


def test_what_the_script_for_gpus_runs_exists() -> None:
    """Not checked here: that it gives results, which takes a GPU."""
    script = ROOT / "benchmarks" / "gpu.sh"
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    text = script.read_text(encoding="utf-8")
    found = [words for words in commands(text) if words[0] == "dvc" or words[:2] == ["python", "-m"]]
    ours = [words for words in found if words[:3] != ["python", "-m", "pytest"]]
    assert len(found) >= 5 and len(ours) == len(found) - 1
    for words in ours:
        require(words)
    paths = re.findall(r"(?:tests|examples)/[\w./-]+", text)
    assert len(paths) > 2 and all((ROOT / path).exists() for path in paths), paths


def test_every_command_in_running_text_exists() -> None:
    found = inline()
    assert len(found) > 10
    for command, page in found.items():
        for words in commands(command):
            try:
                require(words)
            except AssertionError as error:
                raise AssertionError(f"{page}: {command}") from error


@pytest.mark.parametrize("block", [block for block in blocks("bash") if block.marker == "run"], ids=where)
def test_commands_that_cost_nothing_are_run(block: Block) -> None:
    for words in commands(block.text):
        program = [sys.executable] if words[0] == "python" else [str(Path(sys.executable).with_name(words[0]))]
        done = subprocess.run([*program, *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", blocks("python"), ids=where)
def test_python_imports_what_exists(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in ("storage", "pipeline", "stages"):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, name.name) for name in node.names), ast.unparse(node)


@pytest.mark.parametrize("block", blocks("yaml"), ids=where)
def test_settings_are_understood_beside_the_default_ones(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a block says is put over params.yaml, whose anchors it may use; `stages.check` reads the whole so."""
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    for texts in re.findall(r"path: ([\w./-]+)", block.text):
        (tmp_path / texts).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / texts).touch()
    monkeypatch.chdir(tmp_path)
    anchored = "" if "&" in block.text else (ROOT / "params.yaml").read_text(encoding="utf-8")
    block_settings = yaml.safe_load(anchored + "\nblock:\n" + textwrap.indent(block.text, "  "))["block"]
    together = merged(load(ROOT / "params.yaml"), block_settings)
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(together), encoding="utf-8")
    read_consistent(path)


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """The mapping `above` put over `below`; a mapping with another `kind` or `form` replaces the one below."""
    result = dict(below)
    for key, value in above.items():
        old = below.get(key)
        same = isinstance(value, dict) and isinstance(old, dict) and old.get("kind") == value.get("kind")
        result[key] = merged(old, value) if same and isinstance(old, dict) else value
    return result
