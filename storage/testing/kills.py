"""Real processes that write, hold and are killed. No pytest here: every process imports this module."""

from __future__ import annotations

import multiprocessing
import random
import shutil
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from storage.work import WorkFolder, Workspace

Write = Callable[[Path, Path], None]
"""Writes a store to its first argument, working in its second."""


def processes() -> ForkServerContext:
    """Processes that start in milliseconds: a server that has imported the store forks them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["storage.writer", "storage.tables", "storage.testing.samples", "storage.testing.kills"]
    )
    return context


def hold(work_root: Path, name: str, ready: Any, leave: Any) -> None:
    """Hold the lock of a work folder until told to leave."""
    with WorkFolder(work_root / "out", name=name, identity="f" * 64, workspace=Workspace(work_root)):
        ready.set()
        leave.wait(60)


def announce(write: Write, out: Path, work_root: Path, ready: Any) -> None:
    """Write once it is known that this process runs."""
    ready.set()
    write(out, work_root)


def start(write: Write, out: Path) -> Any:
    """A process that writes `out`, working in a folder beside it."""
    context = processes()
    ready = context.Event()
    process = context.Process(target=announce, args=(write, out, out.with_name(f"{out.name}-work"), ready))
    process.start()
    assert ready.wait(60)
    return process


def kill_at_random(write: Write, out: Path, *, kills: int, seed: int) -> dict[str, int]:
    """Write `out` in processes that are killed at random moments, over and over; the last one is let finish.

    The moments follow the machine: later when nothing was begun yet, earlier when the writer had finished. Begins anew
    whenever one finished in time. Returns how many kills found shards or files begun but nothing at the output
    ("partial"), and how many found the output published ("published").
    """
    rng = random.Random(seed)
    work_root = out.with_name(f"{out.name}-work")
    longest_seconds = 0.5
    found = {"partial": 0, "published": 0, "finished": 0}
    for _ in range(kills):
        process = start(write, out)
        process.join(timeout=rng.uniform(0.0, 1.0) * longest_seconds)
        process.kill()
        process.join()
        if process.exitcode == 0:
            found["finished"] += 1
            longest_seconds *= 0.7
            shutil.rmtree(out)
            shutil.rmtree(work_root)
        elif out.exists():
            found["published"] += 1
        elif any(work_root.glob("*/content/*")):
            found["partial"] += 1
        else:
            longest_seconds *= 1.3
    process = start(write, out)
    process.join()
    assert process.exitcode == 0
    return found
