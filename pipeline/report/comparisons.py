"""Students against one another, over several seeds and by domain of text: final loss, area under the curve, steps.

Entries of `students` that differ in their seed alone are one student. Two students are paired by seed, whose order of
examples they share, and by document. The area is the mean held-out NLL over the steps of training. It uses every point
of the curve, where the steps to a loss use one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise, permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.bootstrap import Means, mean_intervals, seeds_difference
from pipeline.evaluate.params import EVERYTHING, OTHERS, EvaluateParams
from pipeline.evaluate.results import DocumentSums

METRICS = ("nll", "area")
"""Final held-out NLL, and its mean over the steps of training."""

Curve = Sequence[Sequence[float]]
"""Pairs of steps done and held-out NLL, by rising steps."""


def students_by_seed(students: Mapping[str, Mapping[str, Any]], *, seed: int) -> dict[str, dict[int, str]]:
    """Student to its entries by seed; its name is that of the first of its entries in params.yaml.

    students are the entries as they stand there, seed the one of those that name none.
    """
    found: dict[str, dict[int, str]] = {}
    named: dict[str, str] = {}
    for name, entry in students.items():
        settings = json.dumps({key: value for key, value in entry.items() if key != "seed"}, sort_keys=True)
        own = seed if entry.get("seed") is None else int(entry["seed"])
        student = named.setdefault(settings, name)
        if own in found.get(student, {}):  # the same student twice, under two names
            student = name
        found.setdefault(student, {})[own] = name
    return found


def domain_documents(source_D: Sequence[str], domains: Mapping[str, Sequence[str]]) -> dict[str, NDArray[np.bool_]]:
    """Domain to its documents; the first domain, `EVERYTHING`, has them all."""
    named = {source for sources in domains.values() for source in sources}
    masks = {
        name: np.array([source in sources or (OTHERS in sources and source not in named) for source in source_D], bool)
        for name, sources in domains.items()
    }
    return {EVERYTHING: np.ones(len(source_D), bool), **masks}


def scores_by_domain(params: EvaluateParams, sums: DocumentSums) -> list[dict[str, Any]]:
    """NLL and accuracy with their intervals in each domain that has predictions, without that of all text.

    A list, not a mapping: `dvc metrics` would make a column of each of its numbers.
    """
    names = tuple(name for name in ("nll", "nll_restored", "accuracy") if name in sums.means.names)
    rows = []
    for domain, chosen_D in list(domain_documents(sums.source_D, params.domains).items())[1:]:
        part = sums.means.only(names).of_documents(chosen_D)
        if part.count_DQ[:, 0].sum():
            scores = mean_intervals(part, resamples=params.bootstrap, seed=params.seed)
            rows.append({"domain": domain, "positions": int(part.count_DQ[:, 0].sum()), **scores})
    return rows


def compare_students(
    params: EvaluateParams, students: Mapping[str, Mapping[int, str]], sums: Mapping[str, DocumentSums]
) -> list[dict[str, Any]]:
    """A row for each ordered pair of students with a seed in common, each metric that both have and each domain.

    Keys: student, control, metric, domain; difference (student minus control, nats, mean over seeds), low and high (its
    95 % interval over documents and seeds), seeds. sums are by entry; all on the same documents.
    """
    rows = []
    for student, control in permutations(students, 2):
        seeds = [seed for seed in students[student] if seed in students[control]]
        if not seeds:
            continue
        sides = [[sums[students[name][seed]].means for seed in seeds] for name in (student, control)]
        source_D = sums[students[student][seeds[0]]].source_D
        for metric in METRICS:
            if not all(metric in means.names for side in sides for means in side):
                continue
            for domain, chosen_D in domain_documents(source_D, params.domains).items():
                first, second = ([means.of_documents(chosen_D) for means in side] for side in sides)
                if not _counted(first, metric):
                    continue
                difference, low, high = seeds_difference(
                    first, second, metric, resamples=params.bootstrap, seed=params.seed
                )
                rows.append(
                    {
                        "student": student,
                        "control": control,
                        "metric": metric,
                        "domain": domain,
                        "difference": difference,
                        "low": low,
                        "high": high,
                        "seeds": seeds,
                    }
                )
    return rows


def _counted(side: Sequence[Means], metric: str) -> bool:
    return bool(side[0].only((metric,)).count_DQ.sum())


def mean_curve(curves: Sequence[Curve]) -> list[list[float]]:
    """The mean of curves with the same steps."""
    marks = {tuple(step for step, _ in curve) for curve in curves}
    assert len(marks) == 1, f"curves with different steps: {sorted(marks)}"
    mean_M = np.mean([[nll for _, nll in curve] for curve in curves], axis=0)
    return [[step, float(nll)] for step, nll in zip(marks.pop(), mean_M, strict=True)]


def curve_note(students: Mapping[str, Mapping[str, Any]]) -> str:
    """What the curves and the areas are measured on, where that is not all held-out documents; else nothing."""
    parts = {
        (entry["curve_documents"], entry["documents"]) for entry in students.values() if "curve_documents" in entry
    }
    told = " or ".join(f"{part:,} of the {whole:,}" for part, whole in sorted(parts))
    return f"Measured on {told} held-out documents; all other scores are of all documents." if told else ""


def steps_to(curve: Curve, nll: float) -> float | None:
    """Steps after which a curve, linear between its points, first is at `nll` or below; None where it never is."""
    for (before, high), (after, low) in pairwise(curve):
        if high <= nll:
            return float(before)
        if low <= nll:
            return float(before + (after - before) * (high - nll) / (high - low))
    return float(curve[-1][0]) if curve[-1][1] <= nll else None


def share_of_steps(curves: Sequence[Curve], control: Sequence[Curve]) -> float | None:
    """Steps to the control's final loss, as a share of the control's steps; of the means over seeds.

    Biased upwards: both learning rates decay to 0 at their last step, which lowers the control's final loss, and the
    student has not reached its own decay when it passes that loss.
    """
    reference = mean_curve(control)
    steps = steps_to(mean_curve(curves), reference[-1][1])
    return None if steps is None else steps / reference[-1][0]
