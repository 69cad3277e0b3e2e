"""Two models on the tasks that both were fine-tuned on, paired by seed and by resample of each task's dev set.

Raw points add what tasks measure on different scales: CoLA's correlation moves by ten points from seed to seed, STS-B's
by one, and their mean says what CoLA says. So each difference also stands in its own standard errors (z), and what all
tasks say together is the sum of these over the root of their number (Stouffer et al. 1949).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.bootstrap import interval, over_seeds

ALL = "all tasks"
SEED = 0
"""Of the draws of seeds."""


def task_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a task for the first report of `glue` minus the second, and a last one for all tasks that count.

    Keys: task; value, the mean over the seeds of both, in points; low and high, its 95 % interval over dev examples and
    seeds; z, the value over the bootstrapped standard error, None where that is 0; seeds. Empty when the reports are
    not of the same settings and examples, or have no seed in common.
    """
    if first["settings"] != second["settings"] or first["data"]["identity"] != second["data"]["identity"]:
        return []
    rows, samples = [], {}
    seeds = [seed for seed in first["average"]["seeds"] if seed in second["average"]["seeds"]]
    for task in first["tasks"] if seeds else []:
        sides = first["tasks"][task], second["tasks"][task]
        values = [sides[0]["seeds"][seed] - sides[1]["seeds"][seed] for seed in seeds]
        samples[task] = np.stack([_sample(sides[0], seed) - _sample(sides[1], seed) for seed in seeds], axis=1)
        rows.append({"task": task, **_difference(values, samples[task]), "seeds": seeds})
    counted = [row for row in rows if row["task"] in first["average"]["of"]]
    if counted:
        values = [first["average"]["seeds"][seed] - second["average"]["seeds"][seed] for seed in seeds]
        whole = _difference(values, np.mean([samples[row["task"]] for row in counted], axis=0))
        known = [row["z"] for row in counted if row["z"] is not None]
        together = float(np.sum(known) / np.sqrt(len(known))) if known else None
        rows.append({"task": ALL, **whole, "z": together, "seeds": seeds})
    return rows


def _sample(side: Mapping[str, Any], seed: str) -> NDArray[np.float64]:
    return np.array(side["resampled"][seed].split(), np.float64)


def _difference(value_S: list[float], sample_RS: NDArray[np.float64]) -> dict[str, Any]:
    value, sample_R = float(np.mean(value_S)), over_seeds(sample_RS, seed=SEED)
    low, high = interval(sample_R)
    sd = float(sample_R.std(ddof=1)) if len(sample_R) > 1 else 0.0
    return {"value": value, "low": low, "high": high, "z": value / sd if sd else None}
