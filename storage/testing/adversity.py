"""Faults of a machine while a writer runs: a full disk, a read-only one, a kill, a clock that jumps. No pytest here.

Each case writes the small store of `damage` in trouble, then again without, and asks: was the trouble named, was
nothing half-made at the output, was what had been finished kept, and are the bytes as if nothing had happened.

    python -m storage.testing.adversity full|read-only FOLDER GALLERY KIND CASES SEED

runs the cases that need a file system of their own; it mounts it in a mount namespace of its own (`unshare -m`, root),
so nothing outside the process sees it and nothing is left behind.
"""

from __future__ import annotations

import functools
import json
import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from storage.errors import DiskRefused, DistillError
from storage.share.audit import audit
from storage.testing import fixtures, samples
from storage.testing.damage import Verdict
from storage.testing.fixtures import Gallery
from storage.testing.kills import kill_at_random, processes

NOBODY = 65534


def write(kind: str, out: Path, work: Path) -> None:
    """The store that a gallery calls "store"."""
    fixtures.write(kind, out, work, seed=1, name="store")


def trouble(action: Callable[[], None]) -> str:
    """The refusal that `action` ends in; "" when it goes through, "unnamed: …" for any other error."""
    try:
        action()
    except DiskRefused as error:
        return str(error)
    except Exception as error:
        return f"unnamed: {error!r}"
    return ""


def verdict(gallery: Gallery, message: str, folder: Path, *, half_made: bool, kept: bool) -> Verdict:
    """Check a writer that continued after a fault, in `folder`."""
    same = samples.file_hashes(folder / "store") == samples.file_hashes(gallery.store)
    named = bool(message) and not message.startswith("unnamed") and "\n" not in message
    return Verdict(
        detected=named and not half_made,
        harmless=not message,
        read_as_good=half_made or not same,
        lost=not kept,
        unnamed=message if message.startswith("unnamed") else "",
        message=message,
    )


def finished(work: Path) -> dict[str, int]:
    """Files of shards that the journal calls finished, with their inodes: a file that is made again has another."""
    lines = [json.loads(line) for journal in work.glob("*/journal.jsonl") for line in _whole_lines(journal)]
    names = {name for line in lines for name in line["files"]}
    return {str(path): path.stat().st_ino for name in names for path in work.glob(f"*/content/{name}")}


def _whole_lines(journal: Path) -> list[str]:
    return journal.read_text(encoding="utf-8").split("\n")[:-1]


def _again(gallery: Gallery, folder: Path, message: str) -> Verdict:
    """Write once more, without a fault."""
    half_made = bool(message) and (folder / "store").exists()
    before = finished(folder / "work")
    write(gallery.kind, folder / "store", folder / "work")
    after = finished(folder / "work")
    return verdict(gallery, message, folder, half_made=half_made, kept=before.items() <= after.items())


def limited(kind: str, folder: Path, limit: int, pipe: Any) -> None:
    """Child: write while no file may grow beyond `limit` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    pipe.send(trouble(functools.partial(write, kind, folder / "store", folder / "work")))


def file_size_limit(gallery: Gallery, folder: Path, rng: random.Random) -> Verdict:
    """The system refuses to let a file grow, at a random size."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    largest = max(path.stat().st_size for path in gallery.store.rglob("*") if path.is_file())
    limit = int(2 ** rng.uniform(4, largest.bit_length() - 1))
    return _again(gallery, folder, _told_by_child(limited, gallery.kind, folder, limit))


def unprivileged(kind: str, folder: Path, pipe: Any) -> None:
    """Child: write as a user who owns nothing, when this is root's process."""
    if os.geteuid() == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    pipe.send(trouble(functools.partial(write, kind, folder / "store", folder / "work")))


def write_protected(gallery: Gallery, folder: Path) -> Verdict:
    """The folder may be read and not written; then it may."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    folder.chmod(0o555)
    message = _told_by_child(unprivileged, gallery.kind, folder)
    folder.chmod(0o755)
    return _again(gallery, folder, message)


def _told_by_child(target: Callable[..., None], *arguments: Any) -> str:
    context = processes()
    ours, theirs = context.Pipe()
    child = context.Process(target=target, args=(*arguments, theirs))
    child.start()
    message = ours.recv() if ours.poll(60) else "unnamed: no answer"
    child.join()
    return str(message)


def jumped_clock(gallery: Gallery, folder: Path, rng: random.Random) -> Verdict:
    """The clock jumps between two runs of a writer: files lie in the past or the future of each other."""
    shutil.rmtree(folder, ignore_errors=True)
    expected = {str(path.relative_to(gallery.store)) for path in gallery.store.rglob("*") if path.is_file()}
    write(gallery.kind, folder / "store", folder / "work")
    if rng.random() < 0.5:
        shutil.rmtree(folder / "store")
    for path in (folder / "work").rglob("*"):
        os.utime(path, (rng.choice([0, 1, 2**31 - 1, 2**32 + 5]),) * 2)
    before = finished(folder / "work")
    write(gallery.kind, folder / "store", folder / "work")
    assert {
        str(path.relative_to(folder / "store")) for path in (folder / "store").rglob("*") if path.is_file()
    } == expected
    return verdict(gallery, "", folder, half_made=False, kept=before.items() <= finished(folder / "work").items())


def killed(gallery: Gallery, folder: Path, *, kills: int, seed: int) -> tuple[Verdict, dict[str, int]]:
    """A writer is killed at random moments, again and again; then it may finish."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    found = kill_at_random(functools.partial(write, gallery.kind), folder / "store", kills=kills, seed=seed)
    return verdict(gallery, "killed", folder, half_made=False, kept=True), found


# On a file system of one's own.


def can_mount() -> bool:
    """Whether this process may mount in a namespace of its own."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    probe = "mount -t tmpfs -o size=64k none /mnt"
    return subprocess.run(["unshare", "-m", "sh", "-c", probe], check=False, capture_output=True).returncode == 0


def mounted(what: str, gallery: Gallery, folder: Path, *, cases: int, seed: int = 0) -> list[Verdict]:
    """Run cases of "full" or "read-only" in a process with its own mounts under `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["unshare", "-m", sys.executable, "-m", "storage.testing.adversity", what]
    place = Path(__file__).resolve().parents[2]
    arguments = [str(folder.resolve()), str(gallery.store.parents[1].resolve()), gallery.kind, str(cases), str(seed)]
    done = subprocess.run([*command, *arguments], cwd=place, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return [Verdict(**line) for line in json.loads(done.stdout)]


def _mount(*options: str) -> None:
    subprocess.run(["mount", *options], check=True)


def full_disk(gallery: Gallery, folder: Path, rng: random.Random) -> Verdict:
    """A small disk fills up at a random moment; then it is made larger."""
    needed = sum(path.stat().st_size // 4096 + 1 for path in gallery.store.rglob("*") if path.is_file()) * 4096
    _mount("-t", "tmpfs", "-o", f"size={rng.randrange(8192, needed)}", "none", str(folder))
    message = trouble(functools.partial(write, gallery.kind, folder / "store", folder / "work"))
    _mount("-o", "remount,size=64m", str(folder))
    result = _again(gallery, folder, message)
    subprocess.run(["umount", str(folder)], check=True)
    return result


def read_only(gallery: Gallery, folder: Path, rng: random.Random) -> Verdict:
    """A disk becomes read-only under a finished store, or under work that was begun: readable, and not writable."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write(gallery.kind, folder / "store", folder / "work")
    _mount("--bind", str(folder), str(folder))
    _mount("-o", "remount,ro,bind", str(folder))
    message = trouble(functools.partial(write, gallery.kind, folder / "store", folder / "work"))
    readable = readable_as(gallery, folder / "store")
    subprocess.run(["umount", str(folder)], check=True)
    result = verdict(gallery, message, folder, half_made=False, kept=readable)
    shutil.rmtree(folder)
    return result


def readable_as(gallery: Gallery, store: Path) -> bool:
    """Whether a store reads as it should and an audit finds nothing."""
    try:
        values = {unit: read() for unit, read in fixtures.units(gallery.kind, store)}
        return values == gallery.content and not audit(store)
    except DistillError:
        return False


def main() -> None:
    """Run cases and print their verdicts as JSON."""
    what, folder, stores, kind, cases, seed = sys.argv[1:]
    gallery = Gallery.open(kind, Path(stores))
    case = {"full": full_disk, "read-only": read_only}[what]
    found = [asdict(case(gallery, Path(folder), random.Random(f"{seed}-{number}"))) for number in range(int(cases))]
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
