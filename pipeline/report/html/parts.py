"""What a section of the page is made of: tiles, figures, and tables whose rows name the command that makes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.evaluate.params import EVERYTHING
from pipeline.report.tables import NONE, Column, ranged

Students = Mapping[str, Mapping[int, str]]
"""Student to its entries by seed."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One number of the headline."""

    label: str
    value: str
    interval: str
    verdict: str
    command: str


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart with what it says to those who do not see it."""

    title: str
    caption: str
    spec: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells as text, the first of a row its name; the last column has the command that makes the row's numbers."""

    caption: str
    titles: list[str]
    rows: list[list[str]]
    commands: list[str]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page; without figures and tables it says why."""

    identifier: str
    title: str
    text: str
    tiles: list[Tile] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def domain_tables(entries: dict[str, Any], caption: str, stage: str) -> list[Table]:
    """NLL of every entry in every domain of text; nothing where there are no domains."""
    domains = list(dict.fromkeys(row["domain"] for entry in entries.values() for row in entry.get("domains", [])))
    if not domains:
        return []
    nll = ranged("nll")
    rows = []
    for name, entry in entries.items():
        by_domain = {row["domain"]: nll(row) for row in entry["domains"]}
        rows.append([name, nll(entry), *(by_domain.get(domain, NONE) for domain in domains)])
    commands = [f"dvc repro {stage}@{name}" for name in entries]
    return [Table(caption=caption, titles=["name", EVERYTHING, *domains], rows=rows, commands=commands)]


def tables(caption: str, columns: Sequence[Column], entries: dict[str, Any], stage: str) -> list[Table]:
    """A table of entries that a stage made, each by its name; nothing without entries."""
    return [table(caption, columns, entries, lambda name: f"dvc repro {stage}@{name}")] if entries else []


def table(caption: str, columns: Sequence[Column], entries: dict[str, Any], command: Callable[[str], str]) -> Table:
    """A row an entry, its name first; `command` gives the command of a name."""
    return Table(
        caption=caption,
        titles=["name", *(title for title, _ in columns)],
        rows=[[name, *(cell(entry) for _, cell in columns)] for name, entry in entries.items()],
        commands=[command(name) for name in entries],
    )
