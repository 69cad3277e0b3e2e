"""What the page shows of a summary, as plain rows: students against controls, curves over seeds, costs of models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.evaluate.params import EVERYTHING
from pipeline.report.ranking import COSTS, distilled


def fused_students(summary: dict[str, Any], students: Mapping[str, Mapping[int, str]]) -> list[str]:
    """Students that learned from several teachers, in the order of params.yaml."""
    several = {name for name, fusion in summary["fusions"].items() if len(fusion["weights"]) > 1}
    learned = distilled(summary)
    return [name for name in students if name in learned and learned[name]["learns_from"] in several]


def control_rows(summary: dict[str, Any], student: str) -> list[dict[str, Any]]:
    """Rows of `summary["comparisons"]` of a fused student against those that are not fused, all text first."""
    fused = {name for name, fusion in summary["fusions"].items() if len(fusion["weights"]) > 1}
    learned = distilled(summary)
    rows = [
        row
        for row in summary["comparisons"]
        if row["student"] == student and learned[row["control"]]["learns_from"] not in fused
    ]
    return sorted(rows, key=lambda row: row["domain"] != EVERYTHING)


def curves_of(entries: Mapping[str, Any], by_seed: Mapping[int, str]) -> list[dict[str, Any]]:
    """Marks of a student's curves: step, mean, least and greatest held-out NLL, and how many seeds; rising steps."""
    found: dict[float, list[float]] = {}
    for name in by_seed.values():
        for step, nll in entries[name]["curve"]:
            found.setdefault(step, []).append(nll)
    return [
        {"step": step, "mean": sum(nlls) / len(nlls), "low": min(nlls), "high": max(nlls), "seeds": len(nlls)}
        for step, nlls in sorted(found.items())
    ]


def costs_of(entry: Mapping[str, Any]) -> dict[str, float]:
    """Known costs of a model by their title; parameters are known of all that were evaluated on held-out text."""
    measured = entry.get("costs", {})
    found = {cost.title: measured[cost.metric]["value"] * cost.scale for cost in COSTS if cost.metric in measured}
    if "parameters" in entry:
        found.setdefault(COSTS[0].title, entry["parameters"] * COSTS[0].scale)
    if "model_bytes" in entry:
        found.setdefault(COSTS[-1].title, entry["model_bytes"] * COSTS[-1].scale)
    return found
