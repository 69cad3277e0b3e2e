"""Models ranked by task score and by score against each cost, and lexical students beside what they started from.

A score against a cost is their quotient. It favours models that are cheap and no better than guessing. Hence the Pareto
front beside it: the models that no other beats in score at the same cost or less.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.evaluate.suites import SUITES

Metrics = Mapping[str, Any]
"""Metric to its value, low, high and n (`pipeline.evaluate.suites.Metric`); what is not known is absent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """A cost that scores are divided by."""

    title: str
    metric: str
    """Of the suite `costs`."""
    scale: float
    """From the metric's unit to the title's."""


COSTS = (
    Cost(title="million parameters", metric="parameters", scale=1e-6),
    Cost(title="ms", metric="latency_ms", scale=1.0),
    Cost(title="joule", metric="joules_per_1000_sequences", scale=1e-3),
    Cost(title="MB", metric="weight_bytes", scale=1e-6),
)

COSTS_OF_A_MODEL = ("parameters", "flops")
"""Metrics of the suite `costs` that no machine changes."""


def distilled(summary: dict[str, Any]) -> dict[str, Any]:
    """The students that were trained from targets or labels and evaluated on held-out text; no lexical ones."""
    return {name: entry for name, entry in summary["students"].items() if "learns_from" in entry}


def score(suite: str, headline: float) -> float:
    """A headline where higher is better: exp(-NLL), the geometric mean of the true token's probability, or itself."""
    return math.exp(-headline) if SUITES[suite].lower else headline


def rankings(models: Mapping[str, Mapping[str, Metrics]], headlines: Mapping[str, str]) -> list[dict[str, Any]]:
    """A row for each suite that scores and each model it evaluated, best first.

    models maps a name to its suites' metrics, headlines a suite to the metric that ranks. Ranks begin with 1; equals
    share one. `against` has, by cost title and for models whose costs are known, the cost, the score divided by it,
    that quotient's rank, and `front`, true where no other model has at least the score for at most the cost.
    """
    rows = []
    for suite in SUITES:
        names = [name for name, suites in models.items() if suite in suites and suite != "costs"]
        if not names:
            continue
        heads = {name: models[name][suite][headlines[suite]] for name in names}
        scores = {name: score(suite, heads[name]["value"]) for name in names}
        ranks = ranked(scores)
        against: dict[str, dict[str, Any]] = {name: {} for name in names}
        for cost in COSTS:
            known = {name: _cost_of(models[name], cost) for name in names if "costs" in models[name]}
            quotients = {name: scores[name] / value for name, value in known.items() if value > 0}
            quotient_ranks = ranked(quotients)
            front = pareto_front({name: (scores[name], value) for name, value in known.items()})
            for name, quotient in quotients.items():
                against[name][cost.title] = {
                    "cost": known[name],
                    "quotient": quotient,
                    "rank": quotient_ranks[name],
                    "front": name in front,
                }
        rows += [
            {"suite": suite, "model": name, "metric": headlines[suite], **heads[name], "rank": ranks[name]}
            | {"against": against[name]}
            for name in sorted(names, key=lambda name: ranks[name])
        ]
    return rows


def _cost_of(suites: Mapping[str, Metrics], cost: Cost) -> float:
    return float(suites["costs"][cost.metric]["value"]) * cost.scale


def ranked(values: Mapping[str, float]) -> dict[str, int]:
    """Rank of each by value, highest first; equals share the better rank."""
    return {name: 1 + sum(other > value for other in values.values()) for name, value in values.items()}


def pareto_front(points: Mapping[str, tuple[float, float]]) -> set[str]:
    """Names whose (score, cost) no other point dominates: score at least as high, cost at most as high, not both."""
    return {
        name
        for name, (mine, cost) in points.items()
        if not any(
            other >= mine and price <= cost and (other, price) != (mine, cost) for other, price in points.values()
        )
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A lexical student and a model without senses that it is compared with."""

    name: str
    other: str
    control: bool
    """Whether the other saw the same masked text without senses; else it is what the student started from."""


def comparisons(
    models: Mapping[str, Mapping[str, Metrics]],
    headlines: Mapping[str, str],
    pairs: Sequence[Pair],
    changes: Mapping[tuple[str, str, str], Mapping[str, float]],
) -> list[dict[str, Any]]:
    """Each lexical student against models without senses, a row a suite; change is with minus without.

    Of costs, those that depend on the model alone: two processes that timed one architecture differ by what else the
    machine did, and the interval of each covers its own repetitions only.

    A suite needs to have evaluated both, unless its report on the lexical student also holds the number before, as the
    one of the language model does for the start. That change of NLL was measured on the same documents (`paired`), and
    so is what `changes` has by student, other model and suite: value, low, high. Other intervals come from those of the
    two models as if these were independent, which is too wide where both had the same items.
    """
    rows = []
    for pair in pairs:
        for suite in SUITES:
            own, other = models[pair.name].get(suite, {}), models.get(pair.other, {}).get(suite, {})
            for metric in COSTS_OF_A_MODEL if suite == "costs" else (headlines.get(suite, ""),):
                before = None if pair.control else own.get(f"{metric}_before")
                if metric not in own or not (metric in other or before):
                    continue
                with_, without = own[metric], before or other[metric]
                change = None if pair.control else own.get(f"{metric}_change")
                change = change or changes.get((pair.name, pair.other, suite))
                row = {
                    "with": pair.name,
                    "without": pair.other,
                    "control": pair.control,
                    "suite": suite,
                    "metric": metric,
                    "paired": change is not None,
                }
                row |= {"value_with": with_["value"], "value_without": without["value"]}
                row |= {f"{bound}_with": with_[bound] for bound in ("low", "high") if bound in with_}
                row |= {f"{bound}_without": without[bound] for bound in ("low", "high") if bound in without}
                rows.append(row | {f"change_{k}": v for k, v in (change or difference(with_, without)).items()})
    return rows


def difference(first: Metrics, second: Metrics) -> dict[str, float]:
    """The first minus the second: `value`, and `low` and `high` where both have intervals.

    The interval recovers variances from the limits of both (MOVER; Zou and Donner 2008, doi 10.1002/sim.3095, equation
    4), with no correlation between them.
    """
    value = first["value"] - second["value"]
    if not all("low" in metric and "high" in metric for metric in (first, second)):
        return {"value": value}
    down = math.hypot(first["value"] - first["low"], second["high"] - second["value"])
    up = math.hypot(first["high"] - first["value"], second["value"] - second["low"])
    return {"value": value, "low": value - down, "high": value + up}


def titles(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Costs that any row of `rankings` is set against, in their order."""
    return [cost.title for cost in COSTS if any(cost.title in row["against"] for row in rows)]
