"""Pictures of a summary: convergence, weights, size and costs against scores; PNG and data for `dvc plots`.

Drawn without pyplot, so that no window system and no global figure is involved. The same summary gives the same bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.evaluate.results import write_json
from pipeline.evaluate.suites import SUITES
from pipeline.report.ranking import distilled

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#777777", "#000000")
"""Paul Tol's bright scheme, told apart by colour-blind readers too; repeats after eight."""

DOTS_PER_INCH = 120

DRAWN_COSTS = {"million parameters": "million parameters", "ms": "latency, ms"}
"""Costs of `pipeline.report.ranking` that scores are drawn against, and what their axes say."""

VEGA_TEMPLATE = {
    "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
    "data": {"values": "<DVC_METRIC_DATA>"},
    "title": "<DVC_METRIC_TITLE>",
    "width": 600,
    "height": 400,
    "mark": {"type": "line", "point": True, "tooltip": {"content": "data"}},
    "encoding": {
        "x": {"field": "<DVC_METRIC_X>", "type": "quantitative", "title": "<DVC_METRIC_X_LABEL>"},
        "y": {
            "field": "<DVC_METRIC_Y>",
            "type": "quantitative",
            "title": "<DVC_METRIC_Y_LABEL>",
            "scale": {"zero": False},
        },
        "color": {"field": "student", "type": "nominal"},
        "strokeDash": {"field": "rev", "type": "nominal"},
    },
}
"""One line a student: DVC's own templates know one line a revision only. https://dvc.org/doc/user-guide/experiment-management/visualizing-plots"""


def draw(summary: dict[str, Any], folder: Path) -> None:
    """Write convergence.png, weights.png, size.png, curves.json and its template for `dvc plots` to `folder`.

    And costs.png, when models were ranked by scores against costs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    students = distilled(summary)
    _convergence(students, folder / "convergence.png")
    _weights(summary["fusions"], folder / "weights.png")
    _size({"teachers": summary["teachers"], "students": students}, folder / "size.png")
    if any(row["against"] for row in summary.get("rankings", [])):
        _costs(summary["rankings"], folder / "costs.png")
    points = [
        {"student": name, "step": step, "nll": nll}
        for name, student in students.items()
        for step, nll in student["curve"]
    ]
    (folder / "curves.json").write_text(json.dumps(points, indent=1) + "\n", encoding="utf-8")
    write_json(folder / "curves.template.json", VEGA_TEMPLATE)


def _convergence(students: dict[str, Any], path: Path) -> None:
    figure = _figure(7, 4.5)
    axes = figure.subplots()
    for number, (name, student) in enumerate(students.items()):
        steps, losses = zip(*student["curve"], strict=True)
        axes.plot(steps, losses, marker="o", markersize=3, color=_colour(number), label=name)
    axes.set(xlabel="training step", ylabel="held-out NLL, nats a masked token", title="Convergence")
    axes.grid(alpha=0.3)
    if students:
        axes.legend()
    _save(figure, path)


def _weights(fusions: dict[str, Any], path: Path) -> None:
    """One panel a fusion of several teachers; one bar a source of text, divided among the teachers."""
    shown = {name: fusion for name, fusion in fusions.items() if len(fusion["weights"]) > 1}
    teachers = sorted({teacher for fusion in shown.values() for teacher in fusion["weights"]})
    bars = max((len(fusion["weights_by_source"]) for fusion in shown.values()), default=0)
    figure = _figure(4 + 3 * max(1, len(shown)), 2.1 + 0.35 * bars)
    panels = figure.subplots(1, max(1, len(shown)), squeeze=False, sharey=len(shown) > 1)[0]
    for axes, (name, fusion) in zip(panels, shown.items(), strict=False):
        rows = fusion["weights_by_source"][::-1]  # the first bar is drawn lowest
        labels = [f"{row['source']} ({row['positions']})" for row in rows]
        left = [0.0] * len(rows)
        for teacher in fusion["weights"]:
            width = [row["weights"][teacher] for row in rows]
            axes.barh(labels, width, left=left, color=_colour(teachers.index(teacher)), label=teacher)
            left = [a + b for a, b in zip(left, width, strict=True)]
        axes.axvline(0.5, color="white", linewidth=0.8)
        axes.set(xlim=(0, 1), xlabel="mean weight", title=f"{name}: {fusion['weighting']} weights")
        axes.margins(y=0.02)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=max(1, len(labels)))
    if not shown:
        panels[0].set(title="no fusion of several teachers", xticks=[], yticks=[])
    _save(figure, path)


def _size(models: dict[str, dict[str, Any]], path: Path) -> None:
    from matplotlib.ticker import FormatStrFormatter

    figure = _figure(7, 4.5)
    axes = figure.subplots()
    for kind, marker in (("teachers", "s"), ("students", "o")):
        for number, (name, entry) in enumerate(models[kind].items()):
            nll = entry["nll"]
            error = [[nll - entry["nll_low"]], [entry["nll_high"] - nll]]
            axes.errorbar(
                entry["parameters"] / 1e6,
                nll,
                yerr=error,
                marker=marker,
                color=_colour(number),
                linestyle="none",
                capsize=3,
                label=f"{name} ({kind.removesuffix('s')})",
            )
    axes.set(xscale="log", xlabel="million parameters", title="Size and score")
    axes.set_ylabel("held-out NLL, nats a masked token")
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(FormatStrFormatter("%g"))
    axes.grid(alpha=0.3)
    if axes.has_data():
        axes.legend()
    _save(figure, path)


def _costs(rankings: list[dict[str, Any]], path: Path) -> None:
    """A row of panels a suite, a panel a cost that is drawn; the stepped line is the best score at each cost."""
    rows = [row for row in rankings if row["against"]]
    suites = list(dict.fromkeys(row["suite"] for row in rows))
    models = list(dict.fromkeys(row["model"] for row in rows))
    figure = _figure(9.5, 0.9 + 2.9 * len(suites))
    panels = figure.subplots(len(suites), len(DRAWN_COSTS), squeeze=False)
    for suite, line in zip(suites, panels, strict=True):
        shown = [row for row in rows if row["suite"] == suite]
        for axes, (title, label) in zip(line, DRAWN_COSTS.items(), strict=True):
            for row in shown:
                cost, value = row["against"][title]["cost"], row["value"]
                error = [[value - row["low"]], [row["high"] - value]] if "low" in row and "high" in row else None
                colour = _colour(models.index(row["model"]))
                axes.errorbar(cost, value, yerr=error, fmt="o", color=colour, capsize=3, label=row["model"])
            # From 0, so that measurement noise between equal models is not magnified.
            right = 1.08 * max(row["against"][title]["cost"] for row in shown)
            front = sorted((r["against"][title]["cost"], r["value"]) for r in shown if r["against"][title]["front"])
            costs, values = zip(*front, (right, front[-1][1]), strict=True)
            axes.step(costs, values, where="post", color="#777777", linewidth=1, label="Pareto front")
            axes.set(xlim=(0, right), xlabel=label, ylabel=f"{suite}: {shown[0]['metric']}")
            if SUITES[suite].lower:
                axes.invert_yaxis()  # better is up in every panel
            axes.grid(alpha=0.3)
    found = {
        label: handle for axes in panels.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=min(4, len(found)))
    _save(figure, path)


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _figure(width: float, height: float) -> Any:
    """A figure in inches that draws to memory only."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Software": None})  # no version: a picture changes when its numbers do
