"""What a reader does outside its folder, from Python's audit events."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WRITES = {"os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
TWO_PATHS = {"os.rename", "os.link", "os.symlink"}
FORBIDDEN = {
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "socket.connect",
    "pickle.find_class",
}


class Watch:
    """An audit hook that notes what a reader does outside one folder; hooks stay, so it is made once and switched."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.may_write = False
        self.seen: list[str] = []
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event in FORBIDDEN:
            self.seen.append(event)
        elif event == "open" or event in WRITES:
            path, mode, flags = arguments if event == "open" else (arguments[0], "w", 0)
            writes = bool(set(str(mode or "")) & set("wax+")) or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR))
            for place in arguments[:2] if event in TWO_PATHS else [path]:
                if isinstance(place, str | os.PathLike) and not self._allowed(Path(place), writes):
                    self.seen.append(f"{event} {place!r} {mode}")

    def _allowed(self, place: Path, writes: bool) -> bool:
        assert self.folder is not None
        if not place.is_absolute():
            return True
        if place.resolve().is_relative_to(self.folder):
            return self.may_write or not writes
        return not writes and _is_code(str(place))

    @contextmanager
    def over(self, folder: Path, *, may_write: bool = False) -> Iterator[list[str]]:
        """Note meanwhile: reads outside `folder` that are not of code, writes outside it, and inside unless allowed.

        Relative paths are not looked at: a stranger's names are joined to an absolute folder before they are opened.
        """
        self.seen = []
        self.may_write, self.folder = may_write, folder.resolve()
        try:
            yield self.seen
        finally:
            self.folder = None


def _is_code(path: str) -> bool:
    """Modules that are imported, and what the system lets every process read of itself."""
    return path.endswith((".py", ".pyc", ".so")) or path.startswith(
        ("/proc/", "/sys/", "/dev/", sys.prefix, sys.base_prefix)
    )
