"""The part of the page about what teachers cover, by kind of masked position."""

from __future__ import annotations

from typing import Any

from pipeline.report.tables import markdown

TITLE = "Covered, by kind of masked position"
NOTE = """\
Share of the masked positions of each kind that a teacher covers; in brackets, the kind's share of all masked
positions. The first kind that fits a word counts: the first word of a window, punctuation, a word with a capital,
several tokens of the students' vocabulary, a single one."""


def coverage_cells(teachers: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Titles of the kinds, and a row a teacher, its name first; no row where every teacher covers all positions."""
    found = {name: entry for name, entry in teachers.items() if "coverage_by_place" in entry}
    if all(entry["coverage"] == 1 for entry in found.values()):
        return [], []
    # The same for all: reports of other masks are refused.
    shares = {row["place"]: row["share"] for entry in found.values() for row in entry["coverage_by_place"]}
    rows = []
    for name, entry in found.items():
        covered = {row["place"]: row["covered"] for row in entry["coverage_by_place"]}
        rows.append([name, *(_percent(value) for value in (entry["coverage"], *(covered[place] for place in shares)))])
    return ["all", *(f"{place} ({_percent(share)})" for place, share in shares.items())], rows


def coverage_part(teachers: dict[str, Any]) -> list[str]:
    """Blocks of Markdown; none where every teacher covers all positions."""
    titles, rows = coverage_cells(teachers)
    if not rows:
        return []
    return [f"### {TITLE}", markdown(["", *titles], [[f"`{name}`", *cells] for name, *cells in rows]), NOTE]


def least_covered(teacher: dict[str, Any]) -> str:
    """The kind that a teacher covers least, to end a sentence about it."""
    least = min(teacher.get("coverage_by_place", []), key=lambda row: float(row["covered"]), default=None)
    return "" if least is None else f', least of the kind "{least["place"]}" ({_percent(least["covered"])})'


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
