"""Which modules of this project a command needs, found by reading the source, and a digest of each.

The stages of dvc.yaml depend on these digests, so an edit of a module runs what imports it and nothing else. Lists of
modules in dvc.yaml itself would be most of that page, and DVC hashes each entry once a stage.
"""

from __future__ import annotations

import ast
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from storage.format.manifest import file_sha256

PACKAGES = ("storage", "pipeline", "stages")

NOT_COMMANDS = ("__init__", "command")
"""Modules of `stages` that nobody runs."""


def write_digests(root: Path, out: Path) -> None:
    """Replace the folder `out`: for each command of `stages` a file `<name>.txt`, lines as `sha256sum` writes them."""
    modules = {path for package in PACKAGES for path in (root / package).rglob("*.py")}
    imports = {path: imported(path, root) & modules for path in modules}
    line = {path: f"{file_sha256(path)}  {path.relative_to(root).as_posix()}\n" for path in modules}
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for module in modules:
        if module.parent.name == "stages" and module.stem not in NOT_COMMANDS:
            needed = sorted(closure(module, imports))
            (out / f"{module.stem}.txt").write_text("".join(line[path] for path in needed), encoding="utf-8")


def imported(path: Path, root: Path) -> set[Path]:
    """Files of this project that importing the module at `path` runs, its lazy and type-only imports included.

    These are the modules that it names, each with the `__init__.py` of every package around it. A name may be a module
    or something in one, so some of these files do not exist. Raises AssertionError for a relative import.
    """
    found = _with_packages(path.relative_to(root).with_suffix("").parts, root)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for parts in (name.split(".") for name in names):
            if parts[0] in PACKAGES:
                found |= _with_packages(parts, root) | _with_packages(parts[:-1], root)
    return found - {path}


def _with_packages(parts: Sequence[str], root: Path) -> set[Path]:
    """The module `a.b.c` of the dotted name in `parts`, and `a`, `a.b` and `a.b.c` as packages."""
    packages = {root.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts) + 1)}
    return packages | ({root.joinpath(*parts).with_suffix(".py")} if len(parts) > 1 else set())


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
