"""Tables about the store: bytes against fidelity, faults, speed."""

from __future__ import annotations

import math
from typing import Any

from benchmarks.pages.markdown import Reports, number, table

SHOWN = (
    "plain top-8, one prior", "p >= 0.01, sketch 16", "50 draws", "p >= 0.005, sketch 16", "p >= 0.005, sketch 32",
    "p >= 0.003, sketch 16", "plain top-16, one prior", "top-32", "p >= 0.002, sketch 16", "top-16 + 24 draws",
    "p >= 0.001, sketch 32", "plain top-32, one prior", "plain top-64, one prior",
)  # fmt: skip
"""Forms of reports/fidelity.json that the page shows, smallest first; reports/fidelity.md has all."""

DEFAULT = "p >= 0.003, sketch 16"

QUOTED = [
    ["DistillKit, budget²", "50", "108", "0.28", "", "", ""],
    ["DistillKit, recommended, as shipped / repaired²", "128", "296", "0.11 / 0.072", "", "", ""],
]


def fidelity(reports: Reports) -> str:
    """Forms of a store: bytes a position, and how near the restored distributions are."""
    found = {row["form"]: row for row in reports.read("fidelity.json")}
    rows = [_form(found[form]) for form in SHOWN]
    header = ["form", "entries", "bytes a position", "KL", "TV", "angle, near", "angle, real student"]
    return table(header, [*rows, *QUOTED])


def _form(row: dict[str, Any]) -> list[str]:
    title = row["form"].replace(">=", "≥").replace("sketch", "rank")
    title = f"{title}¹" if title.startswith("plain") else title
    return [
        f"**{title}** (the default)" if row["form"] == DEFAULT else title,
        number(row["entries"], 1),
        number(row["bytes_per_position"], 1),
        number(math.inf if row["kl"] is None else row["kl"]),
        number(row["tv"]),
        number(row["gradient_angle_degrees"], 1) + "°",
        number(row["gradient_angle_degrees_student"], 1) + "°",
    ]


def faults(reports: Reports) -> str:
    """Faults that were tried on stores, and what came of them."""
    columns = ("tried", "detected", "harmless", "undetected", "lost")
    rows = [[row["fault"], *(str(row[column]) for column in columns)] for row in reports.read("faults.json")]
    return table(["fault", *columns], rows)


def fuzz(reports: Reports) -> str:
    """Cases of the fuzzer."""
    rows = [
        [row["reader"], *(f"{row[column]:,}" for column in ("cases", "refused", "read")), str(len(row["failures"]))]
        for row in reports.read("fuzz.json")["readers"]
    ]
    return table(["reader", "cases", "refused by name", "read", "failures"], rows)


def speed(reports: Reports) -> str:
    """Rows a second of this store and of plain formats."""
    rows = [
        [
            row["form"],
            "this store" if row["format"] == "ours" else row["format"],
            number(row["read_rows_per_second"] / 1e6, 2),
            number(row["write_rows_per_second"] / 1e6, 2),
            number(row["bytes_per_row"], 0),
        ]
        for row in reports.read("store.json")["formats"]
    ]
    return table(["lists", "format", "read, M rows/s", "write, M rows/s", "bytes a row"], rows)


TABLES = {"fidelity": fidelity, "faults": faults, "fuzz": fuzz, "store-speed": speed}
