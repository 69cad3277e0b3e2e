"""Modules of this project that a stage imports, found by reading the source; imports inside functions count.

`python -m tests.stages.closure` writes them into the `deps` of dvc.yaml. The package `storage` is one folder there:
nearly every stage needs nearly all of it, and DVC rewrites its lock file after each stage, in time that grows with the
number of deps.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
PACKAGES = ("storage", "pipeline", "stages")


def imported(path: Path) -> Iterator[Path]:
    """Project modules that the module at `path` imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            if name.partition(".")[0] in PACKAGES:
                file = ROOT.joinpath(*name.split(".")).with_suffix(".py")
                if file.is_file():
                    yield file


def closure(module: Path) -> set[Path]:
    """The module and all project modules that it needs."""
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting.extend(imported(path))
    return found


def module_deps(command: str) -> list[str]:
    """What the stage with this `cmd` should list, sorted: the modules, and `storage` as a folder."""
    found = re.match(r"python -m ([a-z_.]+)( |$)", command)
    assert found, f"not a stage command: {command}"
    paths = closure(ROOT.joinpath(*found[1].split(".")).with_suffix(".py"))
    names = {path.relative_to(ROOT).as_posix() for path in paths}
    return sorted({"storage" if name.startswith("storage/") else name for name in names})


def stages() -> dict[str, dict[str, Any]]:
    """Stage name to its body in dvc.yaml."""
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    return {name: stage.get("do", stage) for name, stage in pipeline["stages"].items()}


def listed(body: dict[str, Any]) -> list[str]:
    """The module deps that a stage lists."""
    return sorted(dep for dep in body["deps"] if dep.endswith(".py") or dep in PACKAGES)


def rewritten(text: str) -> str:
    """dvc.yaml with the module deps of every stage as they should be; the other deps come first and stay."""
    bodies = iter(stages().values())

    def replace(found: re.Match[str]) -> str:
        body = next(bodies)
        others = [f'"{dep}"' if "$" in dep else dep for dep in body["deps"] if dep not in listed(body)]
        line = f"deps: [{', '.join([*others, *module_deps(body['cmd'])])}]"
        indent = found[1]
        return textwrap.fill(
            line,
            120,
            initial_indent=indent,
            subsequent_indent=f"{indent}  ",
            break_on_hyphens=False,
            break_long_words=False,
        )

    return re.sub(r"^( +)deps: \[[^]]*\]", replace, text, flags=re.MULTILINE)


if __name__ == "__main__":
    (ROOT / "dvc.yaml").write_text(rewritten((ROOT / "dvc.yaml").read_text(encoding="utf-8")), encoding="utf-8")
