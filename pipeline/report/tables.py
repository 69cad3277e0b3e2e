"""Cells of the report's tables: an entry's number as text, and entries as a Markdown table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

NONE = "–"

Column = tuple[str, Callable[[dict[str, Any]], str]]
"""Title, and what an entry shows there."""


def signed(value: float) -> str:
    """A difference, in nats or points."""
    return f"{value:+.4f}"


def seconds(value: float) -> str:
    """A duration; a tenth below ten."""
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def number(key: str, *, digits: int = 4, scale: float = 1.0) -> Callable[[dict[str, Any]], str]:
    """A cell with the number `key`, times `scale`."""
    return lambda entry: f"{entry[key] * scale:.{digits}f}" if key in entry else NONE


def ranged(key: str, *, digits: int = 4) -> Callable[[dict[str, Any]], str]:
    """A cell with the number `key` and its interval, from `key`_low to `key`_high."""

    def cell(entry: dict[str, Any]) -> str:
        if key not in entry:
            return NONE
        low, high = entry.get(f"{key}_low"), entry.get(f"{key}_high")
        between = "" if low is None or high is None else f" [{low:.{digits}f}, {high:.{digits}f}]"
        return f"{entry[key]:.{digits}f}{between}"

    return cell


def present(key: str) -> Callable[[dict[str, Any]], str]:
    """A cell with a number that is None where it is infinite."""
    return lambda entry: "infinite" if entry[key] is None else f"{entry[key]:.3f}"


def text(key: str) -> Callable[[dict[str, Any]], str]:
    """A cell with the value of `key` as it is."""
    return lambda entry: str(entry.get(key, NONE))


def table(columns: Sequence[Column], entries: dict[str, Any]) -> str:
    """A row an entry, its name first."""
    rows = [[f"`{name}`", *(cell(entry) for _, cell in columns)] for name, entry in entries.items()]
    return markdown(["", *(title for title, _ in columns)], rows)


def markdown(titles: list[str], rows: list[list[str]]) -> str:
    """Titles and rows of cells as a table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
