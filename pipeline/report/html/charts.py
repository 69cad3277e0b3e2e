"""Charts of a summary as Vega-Lite, checked by Altair against its schema; colours and fonts are those of the page.

A chart that would show one point, or nothing, is None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from pipeline.evaluate.suites import SUITES
from pipeline.report.html.models import control_rows, costs_of, curves_of

Spec = dict[str, Any]

Rows = list[dict[str, Any]]

SIZE = 240
"""Height of a plot whose rows do not decide it, pixels."""

COST_TITLES = {"ms": "latency, ms", "joule": "energy, joules a sequence", "MB": "weights, MB"}
"""Of axes, by the titles of `pipeline.report.ranking.COSTS`, which stand for units there."""

LINE = 22
"""Height of a row of bars, pixels."""


def differences(summary: dict[str, Any], student: str) -> Spec | None:
    """Held-out NLL of a student minus that of each control with its interval, by domain of text."""
    rows = [row for row in control_rows(summary, student) if row["metric"] == "nll"]
    if not rows:
        return None
    domains = list(dict.fromkeys(row["domain"] for row in rows))
    controls = list(dict.fromkeys(row["control"] for row in rows))
    place = {
        "y": alt.Y("control:N", sort=controls, title=None),
        "yOffset": alt.YOffset("domain:N", sort=domains),
    }
    base = alt.Chart(_data(rows, "control", "domain", "difference", "low", "high"))
    span = base.mark_rule(strokeWidth=2).encode(
        x=alt.X("low:Q", title="NLL minus the control's, nats (less is better)"),
        x2="high:Q",
        color=alt.Color("domain:N", sort=domains, title="domain of text"),
        **place,
    )
    point = base.mark_point(filled=True, size=70, opacity=1).encode(
        x="difference:Q",
        color=alt.Color("domain:N", sort=domains, title="domain of text"),
        shape=alt.Shape("domain:N", sort=domains, legend=None),
        tooltip=_tooltip("control:N", "domain:N", "difference:Q", "low:Q", "high:Q"),
        **place,
    )
    zero = alt.Chart(_data([{"zero": 0}], "zero")).mark_rule(strokeDash=[4, 3]).encode(x="zero:Q")
    return _finished(zero + span + point, height=len(controls) * (14 + 14 * len(domains)))


def convergence(summary: dict[str, Any], students: Mapping[str, Mapping[int, str]]) -> Spec | None:
    """Held-out NLL by training step: the mean over seeds, in a band from the least to the greatest."""
    rows = [
        {"student": name, **mark}
        for name, by_seed in students.items()
        for mark in curves_of(summary["students"], by_seed)
        if mark["step"] > 0
    ]
    if len({row["step"] for row in rows}) < 2:
        return None
    names = list(students)
    picked = alt.selection_point(fields=["student"], bind="legend")
    base = alt.Chart(_data(rows, "student", "step", "mean", "low", "high", "seeds")).encode(
        x=alt.X("step:Q", title="training step"),
        color=alt.Color("student:N", sort=names),
        opacity=alt.when(picked).then(alt.value(1)).otherwise(alt.value(0.12)),
    )
    axis = alt.Y("low:Q", title="held-out NLL, nats a masked token", scale=alt.Scale(zero=False))
    band = base.mark_area(fillOpacity=0.18).encode(y=axis, y2="high:Q")
    line = base.mark_line(point=alt.OverlayMarkDef(size=36)).encode(
        y=alt.Y("mean:Q", scale=alt.Scale(zero=False)),
        tooltip=_tooltip("student:N", "step:Q", "mean:Q", "low:Q", "high:Q", "seeds:N"),
    )
    return _finished((band + line).add_params(picked), height=1.4 * SIZE)


def weights(fusion: dict[str, Any]) -> Spec | None:
    """The mean weight of each teacher by source of text; bars that add up to 1."""
    rows = [
        {"source": f"{row['source']} ({row['positions']})", "teacher": teacher, "weight": weight}
        for row in fusion["weights_by_source"]
        for teacher, weight in row["weights"].items()
    ]
    if len(fusion["weights"]) < 2 or not rows:
        return None
    sources = list(dict.fromkeys(row["source"] for row in rows))
    bars = (
        alt.Chart(_data(rows, "source", "teacher", "weight"))
        .mark_bar()
        .encode(
            x=alt.X("weight:Q", title="mean weight", scale=alt.Scale(domain=[0, 1])),
            y=alt.Y("source:N", sort=sources, title=None),
            color=alt.Color("teacher:N", sort=list(fusion["weights"])),
            tooltip=_tooltip("source:N", "teacher:N", "weight:Q"),
        )
    )
    return _finished(bars, height=LINE * len(sources))


def against_cost(points: Sequence[Mapping[str, Any]], *, suite: str, metric: str, cost: str) -> Spec | None:
    """Scores with their intervals against one cost; None where all cost the same."""
    if len({point["cost"] for point in points}) < 2:
        return None
    lower = suite not in SUITES or SUITES[suite].lower
    title = f"{metric} ({'less' if lower else 'more'} is better)"
    names = [point["model"] for point in points]
    base = alt.Chart(_data(points, "model", "role", "cost", "value", "low", "high")).encode(
        x=alt.X("cost:Q", title=COST_TITLES.get(cost, cost), scale=alt.Scale(zero=True, nice=True)),
        color=alt.Color("model:N", sort=names, title=None),
    )
    axis = alt.Y("low:Q", title=title, scale=alt.Scale(zero=False, reverse=lower))
    span = base.mark_rule(strokeWidth=2).encode(y=axis, y2="high:Q")
    point = base.mark_point(filled=True, size=80, opacity=1).encode(
        y=alt.Y("value:Q", scale=alt.Scale(zero=False)),
        shape=alt.Shape("role:N", title=None),
        tooltip=_tooltip("model:N", "role:N", "value:Q", "low:Q", "high:Q", "cost:Q"),
    )
    return _finished(span + point, height=SIZE)


def bars(rows: Sequence[Mapping[str, Any]], *, title: str, largest: float | None = None) -> Spec | None:
    """A bar for each row's `name` and `value`, coloured by its `kind`."""
    if len(rows) < 2:
        return None
    names = [row["name"] for row in rows]
    scale = alt.Scale() if largest is None else alt.Scale(domain=[0, largest])
    chart = (
        alt.Chart(_data(rows, "name", "kind", "value"))
        .mark_bar()
        .encode(
            x=alt.X("value:Q", title=title, scale=scale),
            y=alt.Y("name:N", sort=names, title=None),
            color=alt.Color("kind:N", sort=["teacher", "fusion"], title=None),
            tooltip=_tooltip("kind:N", "name:N", "value:Q"),
        )
    )
    return _finished(chart, height=LINE * len(rows))


def cost_points(summary: dict[str, Any]) -> dict[tuple[str, str, str], Rows]:
    """Points of `against_cost` by suite, metric and cost: held-out NLL first, then the suites in their order."""
    found: dict[tuple[str, str, str], Rows] = {}
    for role in ("teachers", "students"):
        for name, entry in summary[role].items():
            for cost, value in costs_of(entry).items() if "nll" in entry else ():
                point = {"model": name, "role": role[:-1], "cost": value, "value": entry["nll"]}
                point |= {bound: entry[f"nll_{bound}"] for bound in ("low", "high") if f"nll_{bound}" in entry}
                found.setdefault(("held-out text", "held-out NLL, nats", cost), []).append(point)
    for row in summary.get("rankings", []):
        for title, cost in row["against"].items():
            role = "teacher" if row["model"] in summary["teachers"] else "student"
            point = {"model": row["model"], "role": role, "cost": cost["cost"]}
            point |= {key: row[key] for key in ("value", "low", "high") if key in row}
            found.setdefault((row["suite"], row["metric"], title), []).append(point)
    return found


def _data(rows: Sequence[Mapping[str, Any]], *keys: str) -> alt.Data:
    """Inline data: these keys of the rows; an interval that is not known is its value."""
    values = [{key: row.get(key, row.get("value")) for key in keys} for row in rows]
    return alt.Data(values=values)  # type: ignore[no-untyped-call]


def _tooltip(*fields: str) -> list[alt.Tooltip]:
    return [
        alt.Tooltip(field, format=".4~f") if field.endswith(":Q") and field != "step:Q" else alt.Tooltip(field)
        for field in fields
    ]


def _finished(chart: alt.LayerChart | alt.Chart, *, height: float) -> Spec:
    spec: Spec = chart.properties(width="container", height=height).to_dict()
    spec.pop("config", None)  # the page's, by light and dark
    return spec
