"""What every suite of judgement leaves in `reports/<suite>/<model>.json`, so that one report can set them side by side.

A suite (wsd, glue, paraphrase, language_model, costs) judges one model folder. Its numbers carry how many items they
rest on and, where there are repetitions, an interval; `headline` names the one that models are ranked by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from storage.manifest import digest, file_sha256

Suite = Literal["wsd", "glue", "paraphrase", "language_model", "costs"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One number: its value, 95 % interval, and the count of items (or seeds) behind it."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None


def weights_identity(folder: Path) -> str:
    """SHA-256 over the weight files of a model folder: what was judged, whatever the folder is called."""
    return digest({path.name: file_sha256(path) for path in sorted(folder.glob("*.safetensors"))})


def suite_report(
    suite: Suite, folder: Path, metrics: Mapping[str, Metric], *, headline: str, **details: Any
) -> dict[str, Any]:
    """The JSON of one suite for one model; `headline` must be one of the metrics."""
    assert headline in metrics, headline
    return {
        "suite": suite,
        "model": {"folder": str(folder), "weights": weights_identity(folder)},
        "headline": headline,
        "metrics": {name: asdict(metric) for name, metric in metrics.items()},
        **details,
    }
