"""Tell how far a long step is: a bar with rate and time left on a terminal, a log line every 30 seconds otherwise."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

LINE_SECONDS = 30.0

log = logging.getLogger(__name__)


class Progress:
    """Counts `total` units of work; `done` of them were finished by an earlier run."""

    def __init__(self, total: int, *, unit: str, label: str, done: int = 0) -> None:
        self._total = total
        self._done = done
        self._new = 0
        self._unit = unit
        self._label = label
        self._began = self._spoke = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._bar = tqdm(total=self._total, initial=self._done, unit=f" {self._unit}", desc=self._label)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, count: int) -> None:
        """Report `count` more units as done."""
        self._done += count
        self._new += count
        if self._bar is not None:
            self._bar.update(count)
        elif time.monotonic() - self._spoke >= LINE_SECONDS:
            self._spoke = time.monotonic()
            log.info("%s", self._line(self._spoke - self._began))

    def _line(self, seconds: float) -> str:
        rate = self._new / seconds
        left = (self._total - self._done) / rate if rate else float("inf")
        return (
            f"{self._label}: {self._done} of {self._total} {self._unit} ({self._done / max(1, self._total):.0%}), "
            f"{rate:.0f} a second, {left:.0f} s left"
        )
