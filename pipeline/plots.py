"""Pictures of a summary: convergence, weights by source of text, size against score; PNG and data for `dvc plots`.

Drawn without pyplot, so that no window system and no global figure is involved. The same summary gives the same bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.results import write_json

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#777777", "#000000")
"""Paul Tol's bright scheme, told apart by colour-blind readers too; repeats after eight."""

DOTS_PER_INCH = 120

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
    """Write convergence.png, weights.png, size.png, curves.json and its template for `dvc plots` to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    _convergence(summary["students"], folder / "convergence.png")
    _weights(summary["fusions"], folder / "weights.png")
    _size(summary, folder / "size.png")
    points = [
        {"student": name, "step": step, "nll": nll}
        for name, student in summary["students"].items()
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
    axes.set(xlabel="training step", ylabel="held-out NLL, nats a piece", title="Convergence")
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


def _size(summary: dict[str, Any], path: Path) -> None:
    from matplotlib.ticker import FormatStrFormatter

    figure = _figure(7, 4.5)
    axes = figure.subplots()
    for kind, marker in (("teachers", "s"), ("students", "o")):
        for number, (name, entry) in enumerate(summary[kind].items()):
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
    axes.set(xscale="log", xlabel="million parameters", ylabel="held-out NLL, nats a piece", title="Size and score")
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(FormatStrFormatter("%g"))
    axes.grid(alpha=0.3)
    if axes.has_data():
        axes.legend()
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
