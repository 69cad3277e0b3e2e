"""Tables about students: the default run, seeds, mask copies, losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.pages.markdown import NONE, Reports, by_seed, interval, number, signed, table

CONTROL = "labels-only"
MAIN = "fused"

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
    """The README's table: the student of several teachers beside its rivals, its best teacher and its target.

    What follows the table says in words whether several teachers were better than one, and at what price.
    """
    summary = reports.read("summary.json")
    against = {name: _difference(summary, MAIN, name) for name in _distilled(summary) if name.startswith("only-")}
    rival = max(against, key=lambda name: float(against[name]["nll"]))
    best = min(summary["teachers"], key=lambda name: float(summary["teachers"][name]["nll"]))
    fusion = summary["students"][MAIN]["learns_from"]
    rows = [_student(name, summary["students"][name], summary, cells=3) for name in (MAIN, rival, CONTROL)]
    for title, entry in (
        (f"best teacher, `{best}`", summary["teachers"][best]),
        (f"target of `{MAIN}`, `{fusion}`", summary["fusions"][fusion]),
    ):
        rows.append([title, interval(entry, "nll"), "", number(entry["accuracy"])])
    shown = "is better than" if against[rival]["nll_high"] < 0 else "is not shown to be better than"
    run, documents = summary["run"], summary["students"][MAIN]["documents"]
    minutes, gigabytes = run["seconds"] / 60, run["peak_memory_bytes"] / 1e9
    lines = (
        f"`{MAIN}` learns from several teachers, `{rival}` from one, `{CONTROL}` from the true tokens alone.",
        f"`{MAIN}` {shown} `{rival}`: the difference is {_signed(against[rival])} nat.",
        f"NLL is in nats a masked position. Brackets are 95 % intervals over {documents} held-out documents. One seed.",
        f"The whole pipeline took {minutes:.0f} minutes on {run['cores']} CPU cores, and {gigabytes:.1f} GB at most.",
    )
    header = ["model", "held-out NLL, lower is better", "minus labels-only", "accuracy"]
    return table(header, rows) + "\n\n" + "\n".join(f"- {line}" for line in lines)


def default_students(reports: Reports) -> str:
    """Every student of the default run."""
    summary = reports.read("summary.json")
    rows = [_student(name, entry, summary, cells=6) for name, entry in _distilled(summary).items()]
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
    """Students that were judged by their held-out NLL: all but the lexical ones."""
    return {name: entry for name, entry in summary["students"].items() if "nll" in entry}


def _student(name: str, entry: Mapping[str, Any], summary: Mapping[str, Any], *, cells: int) -> list[str]:
    gain = "" if name == CONTROL else interval(_difference(summary, name, CONTROL), "nll")
    row = [f"`{name}`", interval(entry, "nll"), gain, number(entry["accuracy"]), number(entry["ece"])]
    row += [f"{entry['parameters'] / 1e6:.1f} M", f"{entry['seconds']:.0f}"]
    return row[: cells + 1]


def _difference(summary: Mapping[str, Any], first: str, second: str) -> Mapping[str, Any]:
    found: list[Mapping[str, Any]] = summary["differences"]["students"]
    return next(entry for entry in found if (entry["first"], entry["second"]) == (first, second))


def _signed(difference: Mapping[str, Any]) -> str:
    return f"{signed(difference['nll'])} [{signed(difference['nll_low'])}, {signed(difference['nll_high'])}]"


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
