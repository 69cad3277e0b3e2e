"""The part of the page about students against one another: differences, domains, area under the curve, steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.evaluate.params import EVERYTHING
from pipeline.evaluate.results import FROM_LABELS
from pipeline.report.ranking import distilled
from pipeline.report.tables import NONE, markdown, ranged, signed

NOTE = """\
Student minus control, paired by document and by seed; brackets hold 95 % intervals over both. Area is the mean held-out
NLL over the steps of training. The last column is the share of the control's steps after which its final loss is
reached; "never" where it is not. The control's rate has decayed there and the student's has not, so the share errs
upwards."""


def comparisons_part(summary: dict[str, Any]) -> list[str]:
    """Blocks of Markdown about all pairs, the domains and the control; none without students."""
    rows = summary["comparisons"]
    names = list(dict.fromkeys(row["student"] for row in rows))
    if not names:
        return []
    cells = {(row["student"], row["control"]): shown(row) for row in rows if _is(row, metric="nll", domain=EVERYTHING)}
    matrix = [[f"`{name}`", *(cells.get((name, other), NONE) for other in names)] for name in names]
    parts = [
        "### Differences between students",
        markdown(["NLL, row minus column", *(f"`{name}`" for name in names)], matrix),
    ]
    if (control := control_of(summary)) is not None:
        parts += [f"### Against `{control}`", _against(summary, control), NOTE]
    return parts + domains_part(distilled(summary))


def domains_part(entries: dict[str, Any]) -> list[str]:
    """NLL of every entry in every domain; nothing where there are no domains."""
    domains = list(dict.fromkeys(row["domain"] for entry in entries.values() for row in entry["domains"]))
    if not domains:
        return []
    nll = ranged("nll")
    rows = []
    for name, entry in entries.items():
        by_domain = {row["domain"]: nll(row) for row in entry["domains"]}
        rows.append([f"`{name}`", nll(entry), *(by_domain.get(domain, NONE) for domain in domains)])
    return ["### By domain", markdown(["NLL", EVERYTHING, *domains], rows)]


def control_of(summary: dict[str, Any]) -> str | None:
    """The student without a teacher that the others are compared with: the first one, if any."""
    return next(
        (name for name, student in summary["students"].items() if student.get("learns_from") == FROM_LABELS), None
    )


def unmet_by_students(summary: dict[str, Any]) -> Iterator[str]:
    """Students not shown to be better than labels alone or than one of their teachers alone, one sentence each."""
    control = control_of(summary)
    learns_from = {name: student["learns_from"] for name, student in distilled(summary).items()}
    teachers = {name: set(fusion["weights"]) for name, fusion in summary["fusions"].items()}
    for row in summary["comparisons"]:
        own, other = (teachers.get(learns_from[row[side]], set()) for side in ("student", "control"))
        where = "" if row["domain"] == EVERYTHING else f" in {row['domain']}"
        if row["metric"] != "nll":
            continue
        if row["control"] == control and not where:
            yield from _not_lower(row, "the student that learned from labels only")
        elif len(other) == 1 and other < own and (not where or row["low"] > 0):
            yield from _not_lower(row, f"`{row['control']}`, whose target has one teacher{where}")


def shown(row: dict[str, Any]) -> str:
    """A difference and its interval."""
    return f"{signed(row['difference'])} [{signed(row['low'])}, {signed(row['high'])}]"


def _against(summary: dict[str, Any], control: str) -> str:
    rows = [row for row in summary["comparisons"] if row["control"] == control]
    columns = list(dict.fromkeys((row["metric"], row["domain"]) for row in rows))
    by_student: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
    for row in rows:
        by_student.setdefault(row["student"], {})[row["metric"], row["domain"]] = row
    cells = []
    for name, found in by_student.items():
        steps = summary["students"][name].get("steps_to_control")
        seeds = " ".join(map(str, next(iter(found.values()))["seeds"]))
        values = [shown(found[column]) if column in found else NONE for column in columns]
        cells.append([f"`{name}`", seeds, *values, "never" if steps is None else f"{100 * steps:.0f} %"])
    titles = [f"{'NLL' if metric == 'nll' else metric}, {domain}" for metric, domain in columns]
    return markdown(["student", "seeds", *titles, "steps to its end"], cells)


def _is(row: dict[str, Any], *, metric: str, domain: str) -> bool:
    return bool(row["metric"] == metric and row["domain"] == domain)


def _not_lower(row: dict[str, Any], other: str) -> Iterator[str]:
    if row["high"] >= 0:
        verdict = "is worse than" if row["low"] > 0 else "is not shown to be better than"
        yield f"`{row['student']}` {verdict} {other}: {shown(row)} nat."
