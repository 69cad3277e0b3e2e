"""Tables about what several teachers give: rates, seeds, schedules, and a weak teacher in the pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from benchmarks.pages.markdown import NONE, Reports, number, table
from benchmarks.pages.students import MAIN, Difference, number_of

WORDNET = {"all": "all text", "things": "things", "rest": "rest"}
"""Domains of the default text, and what a heading calls them."""


def own_rates(reports: Reports) -> str:
    """NLL on calibration text by student and learning rate; the lowest of each student is the rate it gets."""
    found = reports.read("long/wordnet-rates.json")["rates"]
    rates = sorted({row["learning_rate"] for rows in found.values() for row in rows})
    table_rows = []
    for name, rows in found.items():
        by_rate = {row["learning_rate"]: row["calibration"] for row in rows}
        lowest = min(by_rate, key=lambda rate: by_rate[rate])
        cells = [number(by_rate.get(rate)) for rate in rates]
        cells[rates.index(lowest)] = f"**{cells[rates.index(lowest)]}**"
        table_rows.append([f"`{name}`", *cells])
    return table(["student", *(f"{rate:.1e}".replace("e-0", "e-") for rate in rates)], table_rows)


def specialists(reports: Reports) -> str:
    """Specialists of two domains of WordNet, each student at its own best rate."""
    return fused_against_rivals(reports.read("long/wordnet-rates.json"), WORDNET)


def default_seeds(reports: Reports) -> str:
    """The students of the default run with three seeds, and some of other losses with one."""
    return fused_against_rivals(reports.read("long/default-seeds.json"), WORDNET)


def mixed_text(reports: Reports) -> str:
    """Specialists of science and prose, on mixed text: students of several sizes and steps."""
    domains = {"all": "all text", "sci": "science", "prose": "prose"}
    rows = []
    for title, run in reports.read("long/mixed-specialists.json")["runs"].items():
        rows += [[title, *row] for row in rival_rows(run, list(domains))]
    return table(["layers, steps, rate", *rival_heads(domains)], rows)


def mixed_targets(reports: Reports) -> str:
    """Their teachers and targets, on held-out text."""
    found = reports.read("long/mixed-specialists.json")
    rows = [[f"teacher `{name}`", number(nll), NONE] for name, nll in found["teachers"].items()]
    rows += [
        [f"`{name}`", number(entry["nll"]), number(entry["nll_restored"])] for name, entry in found["fusions"].items()
    ]
    return table(["teacher or target", "NLL", "of what is restored"], rows)


def fused_against_rivals(found: Mapping[str, Any], domains: Mapping[str, str]) -> str:
    """`fused` minus each rival, over seeds, for each of `domains`, by what it is called in the heading."""
    return table(rival_heads(domains), rival_rows(found, list(domains)))


def rival_heads(domains: Mapping[str, str]) -> list[str]:
    """Titles of the columns of `rival_rows`."""
    first, *others = domains.values()
    return ["student", "NLL, seeds", f"`{MAIN}` minus it, {first}", *others]


def rival_rows(found: Mapping[str, Any], domains: Sequence[str]) -> list[list[str]]:
    """A row for each student: its name, its NLL with the number of seeds, and `fused` minus it in each domain."""
    differences = {
        (row["control"], row["domain"]): Difference(row["difference"], row["low"], row["high"], len(row["seeds"]))
        for row in found["comparisons"]
        if row["student"] == MAIN and row["metric"] == "nll"
    }
    rows = []
    for name, runs in sorted(found["students"].items()):
        against = [differences.get((name, domain)) for domain in domains]
        rows.append(
            [f"`{name}`", f"{number(mean(runs['nll']))}, {len(runs['seeds'])}"]
            + ["" if difference is None else number_of(difference) for difference in against]
        )
    return rows


def schedules(reports: Reports) -> str:
    """Students of fewer and of more steps, each decayed to 0, against the control with its 448 steps."""
    rows = []
    for row in reports.read("long/wordnet-rates.json")["schedules"]:
        shown = NONE
        if "difference" in row:
            shown = number_of(Difference(row["difference"], row["low"], row["high"], seeds=1))
        rows.append([
            str(row["steps"]), row["targets"], row["weights"], f"{row['learning_rate']:.1e}".replace("e-0", "e-"),
            number(row["calibration"]), number(row["heldout"]), shown,
        ])  # fmt: skip
    header = ["steps", "targets", "weights", "learning rate", "NLL, calibration", "NLL, held-out", "minus labels-only"]
    return table(header, rows)


def weak_teacher(reports: Reports) -> str:
    """Students with and without a weak third teacher in the pool, and their targets."""
    found = reports.read("long/wordnet-weak-teacher.json")
    cost = {(row["student"], row["control"]): row for row in found["comparisons"] if row["domain"] == "all"}
    rows = []
    for name in ("learned", "entropy", "uniform"):
        with_it = f"{name}-weak"
        difference = cost[with_it, name]
        seeds = difference["seeds"]
        targets = [number(found["fusions"][fusion]["nll_restored"]) for fusion in (name, with_it)]
        students = [
            number(mean(nll for seed, nll in zip(runs["seeds"], runs["nll"], strict=True) if seed in seeds))
            for runs in (found["students"][name], found["students"][with_it])
        ]
        shown = Difference(difference["difference"], difference["low"], difference["high"], seeds=len(seeds))
        rows.append([f"`{name}`", *targets, *students, str(len(seeds)), number_of(shown)])
    header = [
        "`weighting`",
        "target",
        "target, with it",
        "student",
        "student, with it",
        "seeds",
        "its cost to the student",
    ]
    return table(header, rows)


TABLES = {
    "default-seeds": default_seeds,
    "own-rates": own_rates,
    "specialists": specialists,
    "mixed-specialists": mixed_text,
    "mixed-targets": mixed_targets,
    "schedules": schedules,
    "weak-teacher": weak_teacher,
}
