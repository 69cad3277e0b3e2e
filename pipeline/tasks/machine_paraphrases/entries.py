"""Labelled texts as a reader finds them, and the share of unusable ones that is tolerated."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from storage.errors import DataError

BAD_SHARE = 0.01
"""Largest share of files or lines that may be unusable."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One labelled text."""

    label: int
    """1: paraphrased by a machine; 0: original."""
    text: str
    group: str
    """What stays on one side of a split and is resampled as one."""
    name: str
    """An original and its paraphrase share one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedPart:
    """The texts of one set for one purpose."""

    name: str
    split: Literal["train", "test"]
    entries: list[Entry]
    counts: dict[str, int]
    """What was skipped, dropped or read another way, by reason."""


@dataclass(kw_only=True, slots=True)
class Rejects:
    """What cannot be used of one file or folder: how often for which reason, and where the first one stands."""

    counts: Counter[str] = field(default_factory=Counter)
    """By reason; of what cannot be used it begins with "bad: "."""
    first: str | None = None

    def add(self, reason: str, *, where: str, expected: str, got: object) -> None:
        """Count one more; got is quoted in the refusal, 40 characters of it at most."""
        self.counts[f"bad: {reason}"] += 1
        if self.first is None:
            self.first = f"{where}: expected {expected}, got {got!r:.40}"


def refuse_bad(where: Path, counts: Counter[str], good: int, *, first: str | None = None) -> None:
    """Raise DataError when nothing is usable, or when more than BAD_SHARE is not; first describes the first one."""
    bad = {reason.removeprefix("bad: "): n for reason, n in counts.items() if reason.startswith("bad: ")}
    if not good or sum(bad.values()) > BAD_SHARE * (good + sum(bad.values())):
        raise DataError(
            f"{where}: {sum(bad.values())} of {good + sum(bad.values())} entries cannot be used ({bad}); at most "
            f"{BAD_SHARE:.0%} may be. {f'The first: {first}. ' if first else ''}Mend or remove them"
        )
