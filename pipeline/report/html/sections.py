"""Sections of the page: charts, tables of numbers with their intervals, and the commands that make them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.report import page, page_coverage, page_gradients
from pipeline.report.comparisons import curve_note
from pipeline.report.html import charts
from pipeline.report.html.headline import headline
from pipeline.report.html.models import curves_of
from pipeline.report.html.parts import Figure, Section, Students, Table, domain_tables, table, tables
from pipeline.report.page_suites import (
    COST_COLUMNS,
    COSTS_NOTE,
    LEXICAL_NOTE,
    RANKS_NOTE,
    TASKS_NOTE,
    lexical_cells,
    ranks,
    task_cells,
)
from pipeline.report.tables import NONE


def sections(summary: dict[str, Any], students: Students) -> list[Section]:
    """All sections with something in them, in the order of the page."""
    parts = (
        headline(summary, students),
        _convergence(summary, students),
        _lexical(summary),
        _costs(summary),
        _weights(summary),
        _coverage(summary),
        _stores(summary),
        _gradients(summary.get("target_gradients")),
        _unmet(summary),
        _texts(summary),
        _stages(summary),
    )
    return [part for part in parts if part.tiles or part.figures or part.tables or part.notes]


def _convergence(summary: dict[str, Any], students: Students) -> Section:
    learned = {name: seeds for name, seeds in students.items() if name in summary["students"]}
    spec = charts.convergence(summary, learned)
    curves = {name: curves_of(summary["students"], seeds) for name, seeds in learned.items()}
    steps = sorted({mark["step"] for marks in curves.values() for mark in marks})
    rows = []
    for name, marks in curves.items():
        at = {mark["step"]: mark for mark in marks}
        rows.append([name, str(len(learned[name])), *(_span(at[step]) if step in at else NONE for step in steps)])
    caption = "Held-out NLL of each student by training step, the mean over its seeds in a band of all of them"
    return Section(
        identifier="convergence",
        title="Convergence",
        text="Lines are means over seeds, bands go from the least to the greatest seed. The NLL before training (step "
        "0) is in the table only. A click on a name of the legend singles a student out. "
        + curve_note(summary["students"]),
        figures=[] if spec is None else [Figure(title="Held-out NLL by training step", caption=caption, spec=spec)],
        tables=[
            Table(
                caption="Held-out NLL by training step: mean [least, greatest] over seeds",
                titles=["student", "seeds", *(f"step {step}" for step in steps)],
                rows=rows,
                commands=[" ".join(["dvc repro", *(f"train@{e}" for e in learned[name].values())]) for name in curves],
            )
        ]
        if rows
        else [],
    )


def _span(mark: Mapping[str, Any]) -> str:
    between = f" [{mark['low']:.4f}, {mark['high']:.4f}]" if mark["seeds"] > 1 else ""
    return f"{mark['mean']:.4f}{between}"


def _lexical(summary: dict[str, Any]) -> Section:
    found, notes = [], []
    if rows := summary.get("lexical"):
        titles, cells = lexical_cells(rows)
        commands = [f"dvc repro {row['suite']}@{row['with']} {row['suite']}@{row['without']} report" for row in rows]
        found.append(Table(caption="With and without lexical training", titles=titles, rows=cells, commands=commands))
        notes.append(LEXICAL_NOTE)
    if rows := summary.get("tasks"):
        titles, cells = task_cells(rows)
        commands = [f"dvc repro glue@{row['with']} glue@{row['without']} report" for row in rows]
        found.append(Table(caption="Differences by task of GLUE", titles=titles, rows=cells, commands=commands))
        notes.append(TASKS_NOTE)
    return Section(
        identifier="lexical",
        title="With and without word senses",
        text="What training on word senses changes in each suite.",
        tables=found,
        notes=notes,
    )


def _costs(summary: dict[str, Any]) -> Section:
    figures, single = [], []
    for (suite, metric, cost), points in charts.cost_points(summary).items():
        spec = charts.against_cost(points, suite=suite, metric=metric, cost=cost)
        if spec is None:
            single.append(f"{suite} against {cost} ({', '.join(point['model'] for point in points)})")
            continue
        caption = f"{suite}: {metric} of each model against its {cost}, with 95 % intervals"
        figures.append(
            Figure(title=f"{suite} against {charts.COST_TITLES.get(cost, cost)}", caption=caption, spec=spec)
        )
    found: list[Table] = []
    if summary.get("rankings"):
        titles, rows = ranks(summary["rankings"])
        commands = [f"dvc repro {row['suite']}@{row['model']}" for row in summary["rankings"]]
        found.append(
            Table(caption="Suites: scores, and ranks against costs", titles=titles, rows=rows, commands=commands)
        )
    measured = {
        name: entry["costs"]
        for kind in ("teachers", "students")
        for name, entry in summary[kind].items()
        if "costs" in entry
    }
    if measured:
        found.append(table("What using a model costs", COST_COLUMNS, measured, lambda n: f"dvc repro costs@{n}"))
    notes = [RANKS_NOTE] if summary.get("rankings") else []
    notes += [COSTS_NOTE] if measured else []
    if single:
        notes.append(
            f"Not drawn, as all cost the same: {'; '.join(single)}. To add a model: suites.costs in params.yaml."
        )
    return Section(
        identifier="costs",
        title="Scores against costs",
        text="Every model that was evaluated and whose cost is known, teachers beside students.",
        figures=figures,
        tables=found,
        notes=notes,
    )


def _weights(summary: dict[str, Any]) -> Section:
    figures, rows, commands = [], [], []
    for name, fusion in summary["fusions"].items():
        spec = charts.weights(fusion)
        if spec is None:
            continue
        title = f"{name}: {fusion['weighting']} weights"
        caption = f"Mean weight of each teacher in fusion {name}, by source of text"
        figures.append(Figure(title=title, caption=caption, spec=spec))
        everywhere = {"source": "all sources", "positions": fusion["positions"], "weights": fusion["weights"]}
        for row in [everywhere, *fusion["weights_by_source"]]:
            weights = ", ".join(f"{teacher} {weight:.3f}" for teacher, weight in row["weights"].items())
            rows.append([name, row["source"], f"{row['positions']:,}", weights])
            commands.append(f"dvc repro evaluate_fusion@{name}")
    titles = ["fusion", "source", "masked positions", "mean weights"]
    return Section(
        identifier="weights",
        title="Weights by source of text",
        text="How much each teacher counts where; the sources with most masked positions.",
        figures=figures,
        tables=[Table(caption="Mean weights by source", titles=titles, rows=rows, commands=commands)] if rows else [],
    )


def _coverage(summary: dict[str, Any]) -> Section:
    entries = {kind: summary[f"{kind}s"] for kind in ("teacher", "fusion")}
    values = [
        {"name": name, "kind": kind, "value": 100 * entry["coverage"]}
        for kind, found in entries.items()
        for name, entry in found.items()
        if "coverage" in entry
    ]
    spec = charts.bars(values, title="masked positions covered, %", largest=100)
    caption = "Share of the held-out masked positions at which each teacher and fusion has a prediction"
    titles, cells = page_coverage.coverage_cells(entries["teacher"])
    commands = [f"dvc repro evaluate_teacher@{name}" for name, *_ in cells]
    by_place = Table(caption=page_coverage.TITLE, titles=["name", *titles], rows=cells, commands=commands)
    return Section(
        identifier="coverage",
        title="Teachers, fusions and their coverage",
        text=page.TEACHERS_NOTE,
        figures=[] if spec is None else [Figure(title="Coverage", caption=caption, spec=spec)],
        tables=[
            *tables("Teachers", page.TEACHER_COLUMNS, _evaluated(entries["teacher"]), "evaluate_teacher"),
            *([by_place] if cells else []),
            *domain_tables(_evaluated(entries["teacher"]), "Teachers: NLL by domain", "evaluate_teacher"),
            *tables("Fusions", page.FUSION_COLUMNS, entries["fusion"], "evaluate_fusion"),
            *domain_tables(entries["fusion"], "Fusions: NLL by domain", "evaluate_fusion"),
        ],
        notes=[*([page_coverage.NOTE] if cells else []), *([page.FUSIONS_NOTE] if entries["fusion"] else [])],
    )


def _stores(summary: dict[str, Any]) -> Section:
    values = [
        {"name": name, "kind": kind, "value": entry["bytes_per_position"]}
        for kind in ("teacher", "fusion")
        for name, entry in summary[f"{kind}s"].items()
        if "bytes_per_position" in entry
    ]
    spec = charts.bars(values, title="bytes a masked position")
    caption = "Size of each store on disk in bytes a masked position of the train split"
    found = tables("What the stores keep of the full softmax", page.FIDELITY_COLUMNS, summary["fidelity"], "fidelity")
    return Section(
        identifier="stores",
        title="Stores",
        text="What is kept of each prediction, and at what size.",
        figures=[] if spec is None else [Figure(title="Size of the stores", caption=caption, spec=spec)],
        tables=found,
        notes=[page.FIDELITY_NOTE] if found else [],
    )


def _gradients(measured: dict[str, Any] | None) -> Section:
    found = []
    if measured is not None:
        command = "dvc repro target_gradients"
        columns, entries = page_gradients.COLUMNS, page_gradients.targets(measured)
        found.append(table("Gradients of each target at the students' start", columns, entries, lambda _: command))
        pairs = [[row["first"], row["second"], f"{row['cosine']:.3f}"] for row in measured["cosines"]]
        if pairs:
            titles = ["teacher", "teacher", "cosine of their biases"]
            caption = "Whether teachers err alike"
            found.append(Table(caption=caption, titles=titles, rows=pairs, commands=[command] * len(pairs)))
    return Section(
        identifier="gradients",
        title="What each target would teach",
        text="Bias and variance of the gradients that each target gives, before any training.",
        tables=found,
        notes=[page_gradients.note(measured)] if measured is not None else [],
    )


def _texts(summary: dict[str, Any]) -> Section:
    read = page.texts_read(summary["stages"])
    return Section(
        identifier="texts",
        title="Texts",
        text=page.TEXTS_NOTE,
        tables=tables("Texts as read", page.TEXT_COLUMNS, read, "ingest"),
    )


def _unmet(summary: dict[str, Any]) -> Section:
    found = [line.replace("`", "") for line in page.unmet_expectations(summary)]
    return Section(
        identifier="unmet",
        title="Unmet expectations",
        text="Expectations of the method that these numbers do not confirm.",
        notes=found or ["Nothing that these tests look for."],
    )


def _stages(summary: dict[str, Any]) -> Section:
    return Section(
        identifier="stages",
        title="What the stages cost",
        text=page.COSTS_NOTE,
        tables=[
            table(
                "Stages", page.STAGE_COLUMNS, summary["stages"], lambda name: f"dvc repro {name.replace('-', '@', 1)}"
            )
        ]
        if summary["stages"]
        else [],
    )


def _evaluated(teachers: dict[str, Any]) -> dict[str, Any]:
    """Without those that only suites evaluated."""
    return {name: entry for name, entry in teachers.items() if "nll" in entry}
