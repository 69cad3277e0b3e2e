"""Tables about students: the default run, seeds, mask copies, losses."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from benchmarks.pages.markdown import NONE, Reports, by_seed, interval, number, signed, table

CONTROL = "labels-only"
MAIN = "fused"
UNIFORM = "fused-uniform"

FORMS = {
    "mixed": "top-16 + 24 draws",
    "drawn": "50 draws",
    "nuc": "p ≥ 0.003, rank 16 (the default)",
    "nuc-bucket": "the same, tail as a bucket",
    "t32": "top-32, one prior",
    "thin": "p ≥ 0.01, one prior",
    "t8": "top-8, one prior",
    CONTROL: "labels only",
}
"""Students of reports/long/forms.json, by what their targets were kept as."""

BYTES = {"mixed": 67.6, "drawn": 33.2, "nuc": 48.7, "nuc-bucket": 48.7, "t32": 58.8, "thin": 22.2, "t8": 22.5}
"""Bytes a position of the teacher's store in that run (commit 9630c51)."""

SEEDS = {
    "drawn": "both teachers, 50 draws each",
    "only-sci": "only-sci",
    "uniform": "fused-uniform",
    "fused": "**fused**",
    "only-prose": "only-prose",
    "fused-bucket": "fused, tail as a bucket",
    "t32-bucket": "fused from top-32, tail as a bucket",
    CONTROL: CONTROL,
}
"""Students of reports/long/wordnet-forms.json."""


def headline(reports: Reports) -> str:
    """The README's table: every student, the best teacher and the target.

    What follows the table says in words whether several teachers were better than one and weights better than none.
    """
    summary = reports.read("summary.json")
    against = _differences(summary)
    rivals = [name for name in _distilled(summary) if name != CONTROL and (MAIN, name) in against]
    single = max((name for name in rivals if name.startswith("only-")), key=lambda name: against[MAIN, name].value)
    best = min(summary["teachers"], key=lambda name: float(summary["teachers"][name]["nll"]))
    fusion = summary["students"][MAIN]["learns_from"]
    rows = [
        [f"`{name}`", *_over_seeds(summary, name), "" if name == CONTROL else number_of(against[name, CONTROL])]
        for name in (MAIN, *sorted(rivals, key=lambda name: -against[MAIN, name].value), CONTROL)
    ]
    above = {f"best teacher, `{best}`": summary["teachers"][best]}
    mixture = summary["fusions"][fusion]
    above[f"the teachers' mixture, `{fusion}`"] = mixture
    rows += [[title, interval(entry, "nll"), _accuracy([entry]), ""] for title, entry in above.items()]
    run, documents, seeds = summary["run"], summary["students"][MAIN]["documents"], against[MAIN, single].seeds
    over = f"{documents} held-out documents" + (f" and {seeds} seeds" if seeds > 1 else ", one seed")
    minutes, gigabytes = run["seconds"] / 60, run["peak_memory_bytes"] / 1e9
    learns = f"`{MAIN}` learns from several teachers, `only-…` from one, `{CONTROL}` from the true tokens alone."
    if "nll_restored" in mixture:
        learns += f" What `{MAIN}` gets is the mixture restored from sparse lists, {mixture['nll_restored']:.3f} nat."
    lines = (
        learns,
        *(_verdict(MAIN, rival, against[MAIN, rival]) for rival in (single, UNIFORM) if rival in rivals),
        f"NLL is in nats a masked position. Brackets are 95 % intervals over {over}.",
        f"The stages took {minutes:.0f} minutes on {run['cores']} CPU cores, and {gigabytes:.1f} GB at most.",
    )
    header = ["model", "held-out NLL, lower is better", "accuracy", "minus labels-only"]
    return table(header, rows) + "\n\n" + "\n".join(f"- {line}" for line in lines)


def _verdict(name: str, rival: str, difference: Difference) -> str:
    shown = "is better than" if difference.high < 0 else "is not shown to be better than"
    return f"`{name}` {shown} `{rival}`: the difference is {number_of(difference)} nat."


@dataclass(frozen=True, slots=True)
class Difference:
    """NLL of one student minus another's, with its 95 % interval, over so many seeds."""

    value: float
    low: float
    high: float
    seeds: int


def number_of(difference: Difference) -> str:
    """`value [low, high]`, each with its sign."""
    return f"{signed(difference.value)} [{signed(difference.low)}, {signed(difference.high)}]"


def _differences(summary: Mapping[str, Any]) -> dict[tuple[str, str], Difference]:
    """Each ordered pair of students: over their seeds where the summary compares them so, else of the two runs."""
    rows = [row for row in summary.get("comparisons", ()) if (row["metric"], row["domain"]) == ("nll", "all")]
    found = {
        (row["student"], row["control"]): Difference(row["difference"], row["low"], row["high"], len(row["seeds"]))
        for row in rows
    }
    return found or {
        (row["first"], row["second"]): Difference(row["nll"], row["nll_low"], row["nll_high"], 1)
        for row in summary["differences"]["students"]
    }


def _over_seeds(summary: Mapping[str, Any], name: str) -> tuple[str, str]:
    """NLL and accuracy of a student: with an interval of one run, as means of several (`fused`, `fused-1`, ...)."""
    runs = [run for key, run in _distilled(summary).items() if re.fullmatch(rf"{re.escape(name)}(-\d+)?", key)]
    if len(runs) == 1:
        return interval(runs[0], "nll"), _accuracy(runs)
    return f"{number(mean(run['nll'] for run in runs))}, mean of {len(runs)} seeds", _accuracy(runs)


def _accuracy(runs: Sequence[Mapping[str, Any]]) -> str:
    return number(mean(run["accuracy"] for run in runs))


def default_students(reports: Reports) -> str:
    """Every student of the default run."""
    summary = reports.read("summary.json")
    rows = [_student(name, entry) for name, entry in _distilled(summary).items()]
    return table(["student", "NLL", "minus labels-only", "accuracy", "ECE", "parameters", "seconds"], rows)


def default_teachers(reports: Reports) -> str:
    """Teachers and fusions of the default run."""
    summary = reports.read("summary.json")
    rows = [
        [f"{what} `{name}`", interval(entry, "nll"), number(entry["accuracy"]), number(entry["bytes_per_position"], 1)]
        for what, section in (("teacher", "teachers"), ("fusion", "fusions"))
        for name, entry in summary[section].items()
    ]
    return table(["teacher or fusion", "NLL", "accuracy", "bytes a position"], rows)


def default_fidelity(reports: Reports) -> str:
    """What the teachers' stores keep in the default run."""
    found = reports.read("summary.json")["fidelity"]
    rows = [
        [f"`{name}`", *(number(entry[key], 1) for key in ("bytes_per_position", "entries")), number(entry["mass"]),
         number(entry["kl"]), number(entry["tv"]), number(entry["gradient_angle_degrees"], 1), str(entry["positions"])]
        for name, entry in found.items()
    ]  # fmt: skip
    header = [
        "teacher",
        "bytes a position",
        "entries",
        "mass listed",
        "KL",
        "TV",
        "gradient angle, degrees",
        "positions",
    ]
    return table(header, rows)


def seeds(reports: Reports) -> str:
    """The default run with three seeds."""
    return _compared(reports.read("long/wordnet-forms.json"), SEEDS, of=112)


def forms(reports: Reports) -> str:
    """Students of the forms of one teacher's store, on mixed text."""
    return _compared(reports.read("long/forms.json"), FORMS, of=300, stored=BYTES)


def constant_weight(reports: Reports) -> str:
    """Two teachers on mixed text, targets of constant weight."""
    found = reports.read("long/corpus.json")
    return _compared(
        found, {name: name for name in sorted(found, key=lambda name: float(found[name]["nll_mean"]))}, of=300
    )


def tails(reports: Reports) -> str:
    """The same run with one seed, by what the loss does with the tail."""
    rows = [
        [name, interval(entry, "nll"), number(entry["accuracy"]), number(entry["ece"])]
        for name, entry in reports.read("long/corpus-tails.json").items()
    ]
    return table(["student", "NLL", "accuracy", "ECE"], rows)


def copies(reports: Reports) -> str:
    """Final NLL with seed 0 by mask copies and steps."""
    final: dict[tuple[int, int, str], float] = {(1, 112, kind): nll for kind, nll in ONE_EPOCH.items()}
    for name in ("wordnet-passes", "wordnet-copies"):
        for run in reports.read(f"long/{name}.json")["runs"]:
            kind = {"labels only": "labels only", "targets 1, labels 1, anneal 1": "annealed",
                    "targets 1, labels 1, constant": "constant"}.get(run["loss"])  # fmt: skip
            if kind and run["student"] in (CONTROL, "fused", "fused, annealed") and run.get("seed", 0) == 0:
                final[run.get("copies", 1), run["steps"], kind] = run["curve"][-1][1]
    epochs = {(1, 112): 0.9, (1, 224): 1.8, (1, 448): 3.6, (2, 224): 0.9, (4, 448): 0.9}
    rows = [
        [str(masks), number(epoch, 1), str(steps), *(number(final.get((masks, steps, kind))) for kind in KINDS)]
        for (masks, steps), epoch in epochs.items()
    ]
    return table(["mask copies", "epochs over the masked positions", "steps", *KINDS.values()], rows)


ONE_EPOCH = {"labels only": 4.26163, "annealed": 4.18686}
"""Final NLL of `labels-only` and `fused` in the default run of commit 42d572a."""

KINDS = {"labels only": "labels only", "annealed": "fused, annealed", "constant": "fused, constant weight"}


def mixed_small(reports: Reports) -> str:
    """A little text of the kind that the start was trained on."""
    rows = [
        [run["student"], f"{run['learning_rate']:g}", number(run["curve"][0][1]), number(run["curve"][-1][1])]
        for run in reports.read("long/mixed-small.json")["runs"]
    ]
    return table(["student", "learning rate", "NLL before", "NLL after"], rows)


def losses(reports: Reports) -> str:
    """Forms of the loss in one epoch over WordNet, at 1.5e-4 (second run) and before low-rank tails (first run)."""
    first = reports.read("long/wordnet-first.json")["0.00015"]
    second = reports.read("long/wordnet-losses.json")
    rows = [[f"{name}, first run", _seeds(values), ""] for name, values in first.items()]
    rows += [[name, "", _seeds(values)] for name, values in second.items()]
    return table(["loss", "NLL by seed, first run", "NLL by seed, second run"], rows)


def _seeds(values: Mapping[str, float]) -> str:
    return " ".join(number(value) for _, value in sorted(values.items()))


def _compared(
    found: Mapping[str, Any], names: Mapping[str, str], *, of: int, stored: Mapping[str, float] | None = None
) -> str:
    header = [
        "student",
        "NLL, mean ± sd",
        "minus labels-only, by seed",
        "accuracy",
        "ECE",
        f"steps of {of} to the final loss of labels-only",
    ]
    rows = []
    for key, title in names.items():
        entry = found[key]
        reached = entry["steps_to_control"]
        rows.append([
            title, f"{number(entry['nll_mean'])} ± {number(entry['nll_sd'])}",
            "" if key == CONTROL else by_seed(entry["difference"]),
            number(entry["accuracy_mean"]), number(entry["ece_mean"]), NONE if reached is None else f"{reached:.0f}",
        ])  # fmt: skip
        if stored is not None:
            rows[-1].insert(1, number(stored.get(key), 1))
    if stored is not None:
        header.insert(1, "bytes a position")
    return table(header, rows)


def _distilled(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Students that are compared by their held-out NLL: all but the lexical ones."""
    return {name: entry for name, entry in summary["students"].items() if "nll" in entry}


def _student(name: str, entry: Mapping[str, Any]) -> list[str]:
    gain = interval(entry["over_labels"], "nll") if "over_labels" in entry else ""
    row = [f"`{name}`", interval(entry, "nll"), gain, number(entry["accuracy"]), number(entry["ece"])]
    return [*row, f"{entry['parameters'] / 1e6:.1f} M", f"{entry['seconds']:.0f}"]


TABLES = {
    "headline": headline,
    "default-students": default_students,
    "default-teachers": default_teachers,
    "default-fidelity": default_fidelity,
    "seeds": seeds,
    "forms": forms,
    "constant-weight": constant_weight,
    "tails": tails,
    "copies": copies,
    "mixed-small": mixed_small,
    "losses": losses,
}
