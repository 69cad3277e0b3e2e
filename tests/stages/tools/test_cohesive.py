"""`cohesive`: what it lists, and that listing costs nothing."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from stages.tools.cohesive import COMMANDS, main

ROOT = Path(__file__).parents[3]


def test_help_lists_the_commands_without_importing_them() -> None:
    script = (
        "import sys\n"
        "from stages.tools.cohesive import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "print(*(name for name in sys.modules if name.partition('.')[0] not in sys.stdlib_module_names))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    *shown, loaded = done.stdout.splitlines()
    listed = [
        line.split()[0] for line in shown[shown.index("Commands:") + 1 :] if line.startswith("  ") and line[2] != " "
    ]
    commands = ["init", "check", "show", "store", "wsd", "report", "choose", "prune", "push", "export", "pack"]
    assert listed == list(COMMANDS) == commands
    assert {name for name in loaded.split() if name.startswith(("storage", "pipeline", "stages"))} == {
        "stages", "stages.tools", "stages.tools.cohesive", "pipeline", "pipeline.core", "pipeline.core.openmp",
    }  # fmt: skip
    assert not {"numpy", "torch", "pydantic", "yaml"} & set(loaded.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_and_explains_itself(name: str) -> None:
    assert isinstance(import_module(COMMANDS[name][0]).main, click.Command)
    done = CliRunner().invoke(main, [name, "--help"])
    assert done.exit_code == 0
    assert done.output.startswith(f"Usage: main {name} ")


def test_every_tool_is_a_command() -> None:
    tools = {f"stages.tools.{path.stem}" for path in (ROOT / "stages" / "tools").glob("*.py")}
    listed = {module for module, _ in COMMANDS.values()}
    assert tools - listed == {"stages.tools.__init__", "stages.tools.cohesive"}


def test_an_unknown_command_is_refused() -> None:
    done = CliRunner().invoke(main, ["verify"])
    assert done.exit_code == 2
    assert "No such command 'verify'" in done.output


def test_the_project_installs_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"cohesive": "stages.tools.cohesive:main"}
