"""The part of the page about suites: with and without lexical training, ranks by score and by cost, and the costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline.evaluate.suites import SUITES
from pipeline.report.ranking import titles
from pipeline.report.tables import NONE, Column, markdown, table

CONTROL = " (control)"
FRONT = "◆"
"""Marks a model that no other beats in score for the same cost or less."""

LEXICAL_NOTE = """\
Change is with minus without; brackets hold 95 % intervals. "Without" is what a student started from or, marked
"control", a student that saw the same masked text without senses: against that, a change is one of the senses. Changes
of NLL against the start are paired by document, those of GLUE by seed and dev example; the other intervals treat the
two models as independent, which is too wide where both answered the same items. Lower is better for NLL and costs,
higher for the rest. Of costs stand here those that depend on the model alone."""

TASKS_NOTE = """\
Points with minus without, means over the seeds of both; brackets hold 95 % intervals over dev examples and seeds. z is
the difference in its own standard errors; that of all tasks is the sum of theirs over the root of their number, so that
a task whose seeds lie far apart does not hide the others."""

RANKS_NOTE = f"""\
Rank 1 is best. The columns after it rank the score divided by a cost (the quotient in parentheses); {FRONT} marks the
Pareto front: no other model scores at least as high at this cost or less. The score of a language model is exp(-NLL),
the geometric mean of the true token's probability. A quotient favours a cheap model that scores no better than
guessing. Models of one architecture differ in milliseconds and joules by measurement noise alone."""

COSTS_NOTE = """\
One sequence at a time unless a batch is named: the encoder over all tokens and the head at one of them. FLOPs count a
multiplication and an addition as two. Latency is the median, its 95 % interval in brackets. Memory is what loading and
forwards added to the process, or what lay on the accelerator. Estimated energy is 12 W times the seconds of all cores,
or 200 W times the seconds of an accelerator."""


def suites_part(summary: dict[str, Any]) -> list[str]:
    """Blocks of Markdown; none when no model went through a suite."""
    parts = []
    if summary.get("lexical"):
        parts += ["## With and without lexical training", _named(*lexical_cells(summary["lexical"])), LEXICAL_NOTE]
    if summary.get("tasks"):
        parts += ["### By task of GLUE", _named(*task_cells(summary["tasks"])), TASKS_NOTE]
    if summary.get("rankings"):
        parts += ["## Scores, and scores against costs", _ranks(summary["rankings"]), RANKS_NOTE]
        if titles(summary["rankings"]):
            parts.append("![Scores against costs](plots/costs.png)")
    measured = {
        name: entry["costs"]
        for kind in ("students", "teachers")
        for name, entry in summary[kind].items()
        if "costs" in entry
    }
    if measured:
        parts += ["## What using a model costs", table(COST_COLUMNS, measured), _measured_on(measured), COSTS_NOTE]
    return parts


def unmet_by_lexical(summary: dict[str, Any]) -> list[str]:
    """Suites in which a lexical student is worse, or not shown to be better, than what it started from."""
    found = []
    for row in summary.get("lexical", []):
        if row["suite"] == "costs" or "change_low" not in row:
            continue
        lower = SUITES[row["suite"]].lower
        worse = row["change_low"] > 0 if lower else row["change_high"] < 0
        better = row["change_high"] < 0 if lower else row["change_low"] > 0
        if worse or not (better or lower):  # a language model is not meant to gain
            verdict = "is worse than" if worse else "is not shown to be better than"
            found.append(
                f"`{row['with']}` {verdict} `{row['without']}`, {_who(row)}, in {row['suite']} "
                f"({row['metric']}): {_change(row)}."
            )
    return found


def lexical_cells(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Titles and cells of the rows of `pipeline.report.ranking.comparisons`; the first two cells name the models."""
    cells = [
        [
            row["with"],
            row["without"] + (CONTROL if row["control"] else ""),
            f"{row['suite']} ({row['metric']})",
            _between(row, "without"),
            _between(row, "with"),
            _change(row),
        ]
        for row in rows
    ]
    return ["with", "without", "suite", "without", "with", "change"], cells


def task_cells(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Titles and cells of the rows of `task_differences`; the first two cells name the models."""
    cells = [
        [
            row["with"],
            row["without"],
            row["task"],
            f"{row['value']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]",
            NONE if row["z"] is None else f"{row['z']:+.1f}",
            str(len(row["seeds"])),
        ]
        for row in rows
    ]
    return ["with", "without", "task", "points", "z", "seeds"], cells


def _named(heads: list[str], cells: list[list[str]]) -> str:
    """As Markdown, the names of the first two columns set as code."""

    def code(name: str) -> str:
        return f"`{name.removesuffix(CONTROL)}`" + (CONTROL if name.endswith(CONTROL) else "")

    return markdown(heads, [[code(first), code(second), *rest] for first, second, *rest in cells])


def _who(row: dict[str, Any]) -> str:
    return "which saw the same masked text without senses" if row["control"] else "which it started from"


def _between(row: dict[str, Any], side: str) -> str:
    return _interval({bound: row.get(f"{bound}_{side}") for bound in ("value", "low", "high")})


def _change(row: dict[str, Any]) -> str:
    return _interval({bound: row.get(f"change_{bound}") for bound in ("value", "low", "high")}, sign="+")


def _interval(metric: dict[str, Any], *, sign: str = "", scale: float = 1.0) -> str:
    def shown(value: float) -> str:
        size = abs(metric["value"] * scale)
        form = f"{sign},.0f" if size >= 1000 else f"{sign}.1f" if size >= 10 else f"{sign}.4f"
        return f"{value * scale:{form}}"

    if metric.get("low") is None or metric.get("high") is None:
        return shown(metric["value"])
    return f"{shown(metric['value'])} [{shown(metric['low'])}, {shown(metric['high'])}]"


def ranks(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Titles and cells of the rows of `pipeline.report.ranking.rankings`; the second cell is the model's name."""
    costs = titles(rows)
    cells = []
    for row in rows:
        by_cost = [_rank(row["against"].get(title)) for title in costs]
        cells.append([f"{row['suite']} ({row['metric']})", row["model"], _interval(row), str(row["rank"]), *by_cost])
    return ["suite", "model", "score", "rank", *(f"rank by score / {title}" for title in costs)], cells


def _ranks(rows: list[dict[str, Any]]) -> str:
    shown, cells = ranks(rows)
    return markdown(shown, [[suite, f"`{model}`", *rest] for suite, model, *rest in cells])


def _rank(against: dict[str, Any] | None) -> str:
    if against is None:
        return NONE
    return f"{against['rank']} ({against['quotient']:.3g})" + (f" {FRONT}" if against["front"] else "")


def _cost(metric: str, *, scale: float = 1.0) -> Callable[[dict[str, Any]], str]:
    return lambda entry: _interval(entry[metric], scale=scale) if metric in entry else NONE


def _joules(entry: dict[str, Any]) -> str:
    return f"{_interval(entry['joules_per_1000_sequences'])} ({entry['energy_source']})"


def _batch_throughput(entry: dict[str, Any]) -> str:
    """Sequences a second at the largest batch."""
    prefix = "sequences_per_second_batch_"
    sizes = sorted(int(name.removeprefix(prefix)) for name in entry if name.startswith(prefix))
    return f"{entry[f'{prefix}{sizes[-1]}']['value']:.1f} (batch {sizes[-1]})" if sizes else NONE


COST_COLUMNS: tuple[Column, ...] = (
    ("parameters, M", _cost("parameters", scale=1e-6)),
    ("of which embeddings, M", _cost("embedding_parameters", scale=1e-6)),
    ("weights, MB", _cost("weight_bytes", scale=1e-6)),
    ("GFLOPs a sequence", _cost("flops", scale=1e-9)),
    ("latency, ms", _cost("latency_ms")),
    ("sequences a second", lambda entry: f"{entry['sequences_per_second']['value']:.1f}"),
    ("in batches", _batch_throughput),
    ("peak memory, MB", _cost("peak_memory_bytes", scale=1e-6)),
    ("joules a 1,000 sequences", _joules),
)


def _measured_on(measured: dict[str, Any]) -> str:
    """What the models ran on; values that differ between models are joined."""
    runs = [entry["run"] for entry in measured.values()]
    shown = ("device", "accelerator", "cpu", "threads", "dtype", "torch")
    values = {key: sorted({str(run[key]) for run in runs if key in run}) for key in shown}
    return "Measured with " + ", ".join(f"{key} {' / '.join(value)}" for key, value in values.items() if value) + "."
