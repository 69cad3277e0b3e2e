"""What was measured of a model, out of the reports that were made of these very weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.evaluate.suites import LOWER
from pipeline.models.identity import weights_digest
from pipeline.models.publish import RECORD_FILE

HELDOUT = {"nll": "NLL, nats a masked position", "accuracy": "accuracy", "accuracy_top5": "top-5 accuracy"}
"""Of a student's own report, with the names that the card shows."""

COSTS = {
    "latency_ms": ("latency, one sequence", "ms", 1.0),
    "sequences_per_second_batch_32": ("throughput, batches of 32", "sequences a second", 1.0),
    "joules_per_1000_sequences": ("energy of 1,000 sequences", "J", 1.0),
    "peak_memory_bytes": ("peak memory", "MB", 1e-6),
    "flops": ("operations a sequence", "GFLOP", 1e-9),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One number, with its 95 % interval where there is one."""

    suite: str
    """`language model`, or that of the pipeline's suite."""
    metric: str
    name: str
    value: float
    low: float | None = None
    high: float | None = None
    better: str = "higher"
    data: str = ""
    """On what it was measured."""

    def shown(self) -> str:
        """Value and interval."""
        interval = "" if self.low is None or self.high is None else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.value:.3f}{interval}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """One number of what using the model costs."""

    name: str
    shown: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """All that is known of one model."""

    scores: list[Score]
    costs: list[Cost]
    machine: str
    """On which the costs were measured; "" when they were not."""


def measured(folder: Path, reports: Path) -> Measured:
    """Scores and costs of the model in `folder`, from the reports below `reports` that are of its weights."""
    suites = list(_suites(weights_digest(folder), reports))
    scores = [*_heldout(folder, reports), *(score for suite in suites for score in _scores(suite))]
    costs, machine = _costs(folder, next((suite for suite in suites if suite["suite"] == "costs"), {}))
    return Measured(scores=scores, costs=costs, machine=machine)


def parameters(folder: Path) -> int:
    """Numbers in the weight files, from their headers."""
    from safetensors import safe_open

    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as weights:
            for name in weights.keys():  # noqa: SIM118
                size = 1
                for length in weights.get_slice(name).get_shape():
                    size *= length
                total += size
    return total


def _heldout(folder: Path, reports: Path) -> Iterator[Score]:
    """A student's own report does not name its weights; the curve in it is that of one training."""
    training, report = _json(folder / RECORD_FILE), _json(reports / "students" / f"{folder.name}.json")
    if not report or report.get("curve") != training.get("curve"):
        return
    data = f"{report['documents']} held-out documents"
    for metric, name in HELDOUT.items():
        if metric in report:
            low, high = report.get(f"{metric}_low"), report.get(f"{metric}_high")
            better = "lower" if metric == "nll" else "higher"
            yield Score(
                suite="language model", metric=metric, name=name, value=report[metric], low=low, high=high,
                better=better, data=data,
            )  # fmt: skip


def _suites(weights: str, reports: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(reports.glob("*/*.json")):
        report = _json(path)
        model = report.get("model")
        if "suite" in report and isinstance(model, dict) and model.get("weights") == weights:
            yield report


def _scores(report: dict[str, Any]) -> Iterator[Score]:
    if report["suite"] == "costs":
        return
    metric = report["headline"]
    found = report["metrics"][metric]
    yield Score(
        suite=report["suite"], metric=metric, name=metric, value=found["value"], low=found.get("low"),
        high=found.get("high"), better="lower" if report["suite"] in LOWER else "higher",
    )  # fmt: skip


def _costs(folder: Path, report: dict[str, Any]) -> tuple[list[Cost], str]:
    stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    costs = [
        Cost(name="parameters", shown=f"{parameters(folder):,}"),
        Cost(name="weights", shown=f"{stored / 1e6:.1f} MB"),
    ]
    metrics, run = report.get("metrics", {}), report.get("run", {})
    for metric, (name, unit, scale) in COSTS.items():
        if metric in metrics:
            costs.append(Cost(name=name, shown=f"{metrics[metric]['value'] * scale:.4g} {unit}"))
    if not metrics:
        return costs, ""
    machine = (
        f"{run.get('device')} ({run.get('cpu')}, {run.get('threads')} threads), {run.get('dtype')}, sequences of "
        f"{report.get('sequence_tokens')} tokens; energy is {report.get('energy_source')}"
    )
    return costs, machine


def _json(path: Path) -> dict[str, Any]:
    """A report; {} where there is none."""
    value = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return value if isinstance(value, dict) else {}
