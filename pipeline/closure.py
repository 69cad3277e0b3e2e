"""Which modules of this project a command needs, found by reading the source, and a digest of each.

The stages of dvc.yaml depend on these digests, so an edit of a module runs what imports it and nothing else. Lists of
modules in dvc.yaml itself would be most of that page, and DVC hashes each entry once a stage.
"""

from __future__ import annotations

import ast
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from storage.manifest import file_sha256

PACKAGES = ("storage", "pipeline", "stages")

NOT_COMMANDS = ("__init__", "command")
"""Modules of `stages` that nobody runs."""


def write_digests(root: Path, out: Path) -> None:
    """Replace the folder `out`: for each command of `stages` a file `<name>.txt`, lines as `sha256sum` writes them."""
    modules = {path for package in PACKAGES for path in (root / package).glob("*.py")}
    imports = {path: imported(path, root) & modules for path in modules}
    line = {path: f"{file_sha256(path)}  {path.relative_to(root).as_posix()}\n" for path in modules}
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for module in modules:
        if module.parent.name == "stages" and module.stem not in NOT_COMMANDS:
            needed = sorted(closure(module, imports))
            (out / f"{module.stem}.txt").write_text("".join(line[path] for path in needed), encoding="utf-8")


def imported(path: Path, root: Path) -> set[Path]:
    """Where modules of this project lie that the one at `path` imports, in functions too, and its own package.

    A name may be a module or something in one, so some of these files do not exist. Packages have no packages in them.
    """
    found = {path.with_name("__init__.py")}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for package, *rest in (name.split(".") for name in names):
            if package in PACKAGES:
                found |= {root / package / f"{module}.py" for module in ["__init__", *rest[:1]]}
    return found


def closure(module: Path, imports: Mapping[Path, Collection[Path]]) -> set[Path]:
    """The module and all that it needs, given what each imports."""
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting.extend(imports[path])
    return found
