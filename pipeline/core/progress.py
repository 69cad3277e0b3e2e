"""Report the progress of a long step: a bar with rate and time left on a terminal, else a log line every 30 seconds."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from pipeline.core.tracking import Curves, interval

LINE_SECONDS = 30.0

RATE_SECONDS = 60.0
"""The rate is that of the last minute: the first seconds load models, and the machine's other load changes."""

log = logging.getLogger(__name__)


class Progress:
    """Counts `total` units of work; `done` of them were finished by an earlier run. Its rate is one of the `curves`."""

    def __init__(self, total: int, *, unit: str, label: str, done: int = 0, curves: Curves | None = None) -> None:
        self._total = total
        self._done = done
        self._unit = unit
        self._label = label
        self._curves = curves
        self._logged = time.monotonic()
        self._marks = deque([(self._logged, done)])
        """Times and units done by then, at least a second apart; the first is about RATE_SECONDS old."""
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
        before, self._done = self._done, self._done + count
        now = time.monotonic()
        if now - self._marks[-1][0] >= 1:
            self._marks.append((now, self._done))
            while len(self._marks) > 1 and now - self._marks[1][0] >= RATE_SECONDS:
                self._marks.popleft()
        every = interval(self._total)
        if self._curves and now > self._marks[0][0] and before // every < self._done // every:
            self._curves.log(self._done, {f"{self._unit}_per_second": self._rate(now)})
        if self._bar is not None:
            self._bar.update(count)
        elif now - self._logged >= LINE_SECONDS:
            self._logged = now
            log.info("%s", self._line(now))

    def _rate(self, now: float) -> float:
        """Units a second in the last minute."""
        began, before = self._marks[0]
        return (self._done - before) / (now - began)

    def _line(self, now: float) -> str:
        rate = self._rate(now)
        left = (self._total - self._done) / rate if rate else float("inf")
        return (
            f"{self._label}: {self._done} of {self._total} {self._unit} ({self._done / max(1, self._total):.0%}), "
            f"{per_second(rate)} a second, {left:.0f} s left"
        )


def per_second(rate: float) -> str:
    """A rate as text: a whole number from 10 on, else two significant digits, so that 0.3 is not "0"."""
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"
