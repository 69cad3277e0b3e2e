"""The part of the page about targets before training: bias and variance of the gradients they give."""

from __future__ import annotations

from typing import Any

from pipeline.report.tables import NONE, Column, markdown, number, table

_NOTE = """\
Gradients at the students' start, as shares of the squared gradient of the true tokens. Fuse teachers whose
biases have a low cosine (below 0.7; those of one body and one text are near 1), if the fusion's squared bias is below
that of its best teacher; n* is the number of positions after which true tokens are the better target. Estimated from
two halves of the documents, without intervals."""


def _crossing(entry: dict[str, Any]) -> str:
    return f"{entry['positions']:,.0f}" if entry.get("positions") is not None else NONE


COLUMNS: tuple[Column, ...] = (
    ("squared bias", number("squared_bias", digits=3)),
    ("cosine to true tokens", number("cosine", digits=3)),
    ("variance a position", number("variance", digits=1)),
    ("n*, positions", _crossing),
)


def gradients_part(measured: dict[str, Any] | None) -> list[str]:
    """Blocks of Markdown of what the stage `target_gradients` measured; none without it."""
    if measured is None:
        return []
    parts = ["## What each target would teach", table(COLUMNS, targets(measured))]
    if measured["cosines"]:
        rows = [[f"`{row['first']}`", f"`{row['second']}`", f"{row['cosine']:.3f}"] for row in measured["cosines"]]
        parts.append(markdown(["teacher", "teacher", "cosine of their biases"], rows))
    return [*parts, note(measured)]


def targets(measured: dict[str, Any]) -> dict[str, Any]:
    """Entries of `COLUMNS` by what a student would learn from."""
    return {
        "true tokens": {"squared_bias": 0.0, "cosine": 1.0, **measured["labels"]},
        **{f"teacher {name}": entry for name, entry in measured["teachers"].items()},
        **{f"fusion {name}": entry for name, entry in measured["fusions"].items()},
    }


def note(measured: dict[str, Any]) -> str:
    """What the numbers are, and at how many positions they were measured."""
    return f"{_NOTE} Measured at {measured['measured']:,} train positions."
