"""The suites that evaluate a model: their ranking rules, and the form of a suite's report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.evaluate.params import SuitesParams
from pipeline.models.identity import weights_digest


@dataclass(frozen=True, kw_only=True, slots=True)
class SuiteRules:
    """How the report reads a suite."""

    lower: bool = False
    """True where less is better."""


LOWER = ("language_model", "costs")

SUITES = {name: SuiteRules(lower=name in LOWER) for name in SuitesParams.model_fields}
"""By name, which is also that of its stage, section and folder; in the order of the report."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One number: its value, 95 % interval, and the count of items (or seeds) behind it."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None


def suite_report(
    suite: str, folder: Path, metrics: Mapping[str, Metric], *, headline: str, **details: Any
) -> dict[str, Any]:
    """The JSON of one suite for one model; `headline` must be one of the metrics."""
    assert suite in SUITES and headline in metrics, (suite, headline)
    return {
        "suite": suite,
        "model": {"folder": str(folder), "weights": weights_digest(folder)},
        "headline": headline,
        "metrics": {name: asdict(metric) for name, metric in metrics.items()},
        **details,
    }
