"""Which modules of this project a command imports, found by reading the source, and digests of them.

The project's one notion of "the code changed": stages of dvc.yaml depend on the list of their command, a work folder
remembers the digest of that list, and a worker must have the driver's. So after an edit
of a module, exactly the commands that import it run again. dvc.yaml does not list the modules itself: that would be
most of the file, and DVC would hash each entry once a stage.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from storage.format.manifest import file_sha256

PACKAGES = ("storage", "pipeline", "stages")

NOT_COMMANDS = ("__init__", "command")
"""Modules of `stages` that are no commands."""

ROOT = Path(__file__).resolve().parents[2]
"""The folder in which the packages lie."""


def write_digests(root: Path, out: Path) -> None:
    """Replace the folder `out`: for each command of `stages` a file `<name>.txt` with its `listing`."""
    digests = module_digests(root)
    imports = functools.cache(lambda path: imported(path, root) & digests.keys())
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for path in digests:
        if path.parent == root / "stages" and path.stem not in NOT_COMMANDS:
            text = listing(closure(path, imports), digests, root)
            (out / f"{path.stem}.txt").write_text(text, encoding="utf-8")


def command_digest(command: str, *, root: Path = ROOT, digests: Mapping[Path, str] | None = None) -> str:
    """SHA-256 over the list of modules of a command, a module of `stages`; that of the file in `data/code`.

    digests: by default of the modules as they are now. With those of an earlier moment the result shows whether a
    process that began then runs the same code: a module that is new or changed since changes the result.
    """
    modules = closure(
        root / "stages" / f"{command}.py", lambda path: {found for found in imported(path, root) if found.is_file()}
    )
    if digests is None:
        digests = {path: file_sha256(path) for path in modules}
    return hashlib.sha256(listing(modules, digests, root).encode()).hexdigest()


def module_digests(root: Path = ROOT) -> dict[Path, str]:
    """SHA-256 of each module of the project."""
    return {path: file_sha256(path) for package in PACKAGES for path in (root / package).rglob("*.py")}


def listing(modules: Collection[Path], digests: Mapping[Path, str], root: Path) -> str:
    """A line for each module in the order of their paths, as `sha256sum` writes them."""
    return "".join(f"{digests.get(path, 'absent')}  {path.relative_to(root).as_posix()}\n" for path in sorted(modules))


def imported(path: Path, root: Path) -> set[Path]:
    """Files of this project that importing the module at `path` runs, its lazy and type-only imports included.

    These are the modules that it names, each with the `__init__.py` of every package around it. A name may be a module
    or something in one, so some of these files do not exist. Raises AssertionError for a relative import.
    """
    files = _with_packages(path.relative_to(root).with_suffix("").parts, root)
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
                files |= _with_packages(parts, root) | _with_packages(parts[:-1], root)
    return files - {path}


def _with_packages(parts: Sequence[str], root: Path) -> set[Path]:
    """The module `a.b.c` of the dotted name in `parts`, and `a`, `a.b` and `a.b.c` as packages."""
    packages = {root.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts) + 1)}
    return packages | ({root.joinpath(*parts).with_suffix(".py")} if len(parts) > 1 else set())


def closure(module: Path, imports: Callable[[Path], Collection[Path]]) -> set[Path]:
    """The module and all modules that it imports, directly or not; `imports` gives those of one."""
    modules: set[Path] = set()
    waiting = [module]
    while waiting:
        path = waiting.pop()
        if path not in modules:
            modules.add(path)
            waiting.extend(imports(path))
    return modules
