"""Tables about speed: the benchmark, the store against online distillation, and the stages of the default run."""

from __future__ import annotations

from typing import Any

from benchmarks.pages.markdown import Reports, number, table


def bench(reports: Reports) -> str:
    """Every row of the benchmark, misses included."""
    rows = []
    for row in reports.read("bench.json"):
        low, high = row["spread"]
        goal = "" if row["goal"] is None else f"{'≤' if row['better'] == 'lower' else '≥'} {row['goal']:g}"
        met = {True: "yes", False: "**no**", None: ""}[row["met"]]
        measured = f"{row['measured']:.3g} [{low:.3g}, {high:.3g}]"
        rows.append([f"`{row['name']}`", row["unit"], measured, goal, met, _processor(row)])
    return table(["row", "what", "measured [least, most]", "goal", "met", "on"], rows)


def _processor(row: dict[str, Any]) -> str:
    """The maker and the family of a row's processor."""
    return " ".join(str(row["device"]).replace("(R)", "").split(",")[0].split()[:2])


def shares(reports: Reports) -> str:
    """Where the time of training steps and forwards goes, as shares of a profiled run."""
    found = [row for row in reports.read("bench.json") if row["name"].startswith("share-") and "time" in row["details"]]
    kinds = list(found[0]["details"]["time"])
    return table(
        ["row", "on", "useful FLOPs / limit", *kinds],
        [
            [
                f"`{row['name']}`",
                _processor(row),
                f"{row['measured']:.0%}",
                *(f"{row['details']['time'][kind]:.0%}" for kind in kinds),
            ]
            for row in found
        ],
    )


def online(reports: Reports) -> str:
    """Wall time through the store over online distillation, by teachers and students."""
    details = next(row for row in reports.read("bench.json") if row["name"] == "online-3x1")["details"]
    cells = {(line["teachers"], line["students"]): line["wall"] for line in details["table"]}
    students = sorted({many for _, many in cells})
    rows = [
        [str(teachers), *(number(cells[teachers, many], 2) for many in students),
         number(details["memory"]["store_to_online"][str(teachers)], 2)]
        for teachers in sorted({few for few, _ in cells})
    ]  # fmt: skip
    return table(["teachers", *(f"{many} student{'s' if many > 1 else ''}" for many in students), "memory"], rows)


def stages(reports: Reports) -> str:
    """Seconds and memory of the stages that took longest in the default run."""
    found = reports.read("summary.json")["stages"]
    longest = sorted(found, key=lambda name: -float(found[name]["seconds"]))[:LONGEST]
    rows = [
        [f"`{name}`", f"{found[name]['seconds']:.0f}", f"{found[name]['cpu_seconds']:.0f}",
         number(found[name]["peak_memory_bytes"] / 1e9, 2)]
        for name in longest
    ]  # fmt: skip
    return table(["stage", "seconds", "CPU seconds", "peak memory, GB"], rows)


LONGEST = 12


TABLES = {"bench": bench, "shares": shares, "online": online, "stages": stages}
