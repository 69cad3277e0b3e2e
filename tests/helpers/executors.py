"""Jobs of an executor, wrapped so that a test can do something where a worker makes a part or a shard."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from storage.writer import Shard


def die() -> None:
    """Kill this process as the kernel does when memory is used up."""
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True, kw_only=True)
class WrappedJob:
    """A job that passes everything on."""

    job: Any

    @property
    def key(self) -> str:
        """As the job's."""
        return str(self.job.key)

    def with_absolute_paths(self) -> Self:
        """The same around a job that may run in any folder."""
        return replace(self, job=self.job.with_absolute_paths())

    def opened(self) -> Any:
        """As the job's."""
        return self.job.opened()

    def make_part(self, tools: Any, name: str, folder: Path, *, advance: Callable[[int], None]) -> None:
        """As the job's."""
        self.job.make_part(tools, name, folder, advance=advance)

    def make(self, tools: Any, shard: Shard, *, advance: Callable[[int], None]) -> Any:
        """As the job's."""
        return self.job.make(tools, shard, advance=advance)
