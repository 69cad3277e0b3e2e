"""Markdown tables, and numbers as the pages show them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MINUS = "−"
NONE = "–"


@dataclass(frozen=True, slots=True)
class Reports:
    """The folder reports/."""

    folder: Path

    def read(self, name: str) -> Any:
        """The JSON file of that name, such as `long/forms.json`."""
        return json.loads((self.folder / name).read_text(encoding="utf-8"))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, one line a row."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many decimals; a dash for None, `infinite` for infinity."""
    if value is None:
        return NONE
    if math.isinf(value):
        return "infinite"
    return f"{value:,.{digits}f}".replace("-", MINUS)


def signed(value: float, digits: int = 3) -> str:
    """A difference, with its sign."""
    return f"{value:+.{digits}f}".replace("-", MINUS)


def interval(entry: Mapping[str, Any], name: str | None = None, digits: int = 3, *, scale: float = 1.0) -> str:
    """`value [low, high]`: of a metric's record, or of the keys name, name_low and name_high."""
    keys = ("value", "low", "high") if name is None else (name, f"{name}_low", f"{name}_high")
    value, low, high = (entry[key] * scale for key in keys)
    return f"{number(value, digits)} [{number(low, digits)}, {number(high, digits)}]"


def by_seed(differences: Mapping[str, float]) -> str:
    """Differences of each seed, in the order of seeds."""
    return " ".join(signed(value) for _, value in sorted(differences.items()))
