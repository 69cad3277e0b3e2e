"""The first section: whether a student of several teachers is better than its controls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.evaluate.params import EVERYTHING
from pipeline.report import page
from pipeline.report.html import charts
from pipeline.report.html.models import control_rows, fused_students
from pipeline.report.html.parts import Figure, Section, Students, Table, Tile, domain_tables, tables
from pipeline.report.page_comparisons import NOTE, control_of, shown
from pipeline.report.ranking import distilled
from pipeline.report.tables import signed


def headline(summary: dict[str, Any], students: Students) -> Section:
    """The tiles, each fused student against its controls, and all students."""
    fused = fused_students(summary, students)
    figures, found = [], []
    for student in fused:
        rows = control_rows(summary, student)
        spec = charts.differences(summary, student)
        if spec is not None:
            caption = f"Held-out NLL of {student} minus that of each control, by domain of text, with 95 % intervals"
            figures.append(Figure(title=f"{student} against each control", caption=caption, spec=spec))
        found += [_differences_table(summary, student, rows)] if rows else []
    learned = distilled(summary)
    found += tables("Students on held-out text", page.STUDENT_COLUMNS, learned, "evaluate")
    found += domain_tables(learned, "Students: NLL by domain", "evaluate")
    return Section(
        identifier="headline",
        title="Headline",
        text="Whether a student of several teachers is better than its controls: students of true tokens alone, and of "
        f"one teacher alone. {page.INTRODUCTION}",
        tiles=_tiles(summary, fused),
        figures=figures,
        tables=found,
        notes=[NOTE],
    )


def _tiles(summary: dict[str, Any], fused: Sequence[str]) -> list[Tile]:
    """The first fused student against labels and against the best of one teacher, and its fusion against a teacher."""
    tiles = []
    learned = distilled(summary)
    for student in fused[:1]:
        rows = [r for r in control_rows(summary, student) if r["metric"] == "nll" and r["domain"] == EVERYTHING]
        labels = control_of(summary)
        alone = [row for row in rows if learned[row["control"]]["learns_from"] != "labels"]
        chosen = [row for row in rows if row["control"] == labels]
        chosen += sorted(alone, key=lambda row: -row["difference"])[:1]
        for row in chosen:
            what = "the true tokens alone" if row["control"] == labels else "the best student of one teacher"
            tiles.append(
                Tile(
                    label=f"{student} against {what} ({row['control']})",
                    value=f"{signed(row['difference'])} nat",
                    interval=f"95 % [{signed(row['low'])}, {signed(row['high'])}], {_seeds(row['seeds'])}",
                    verdict=_verdict(row["low"], row["high"], lower=True),
                    command=f"dvc repro evaluate@{student} evaluate@{row['control']} report",
                )
            )
        target = learned[student]["learns_from"]
        fusion = summary["fusions"][target]
        if "gain_low" in fusion:
            tiles.append(
                Tile(
                    label=f"fusion {target} against its best teacher ({fusion['best_teacher']})",
                    value=f"{signed(-fusion['gain'])} nat",
                    interval=f"95 % [{signed(-fusion['gain_high'])}, {signed(-fusion['gain_low'])}]",
                    verdict=_verdict(-fusion["gain_high"], -fusion["gain_low"], lower=True),
                    command=f"dvc repro evaluate_fusion@{target}",
                )
            )
    return tiles


def _verdict(low: float, high: float, *, lower: bool) -> str:
    if low <= 0 <= high:
        return "not told apart"
    return "better" if (high < 0) == lower else "worse"


def _seeds(seeds: Sequence[int]) -> str:
    return f"{len(seeds)} seed{'s' if len(seeds) != 1 else ''}"


def _differences_table(summary: dict[str, Any], student: str, rows: Sequence[dict[str, Any]]) -> Table:
    learned = distilled(summary)
    cells = [
        [
            row["control"],
            learned[row["control"]]["learns_from"],
            "NLL" if row["metric"] == "nll" else row["metric"],
            row["domain"],
            shown(row),
            _verdict(row["low"], row["high"], lower=True),
            " ".join(map(str, row["seeds"])),
        ]
        for row in rows
    ]
    return Table(
        caption=f"{student} minus each control",
        titles=["control", "learns from", "metric", "domain", "difference, nats", "verdict", "seeds"],
        rows=cells,
        commands=[f"dvc repro evaluate@{student} evaluate@{row['control']} report" for row in rows],
    )
