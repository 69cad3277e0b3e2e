"""Tables about word senses, their price to the language model, and tasks."""

from __future__ import annotations

from statistics import mean
from typing import Any

from benchmarks.pages.markdown import NONE, Reports, interval, number, signed, table

RUNS = {
    "plain": "`bi_encoder`, 22.7 M",
    "kept": "`bi_encoder_m`, 22.7 M",
    "teacher": "`bi_encoder`, all-mpnet-base-v2, 110 M",
}
"""Runs of reports/long/lexical.json."""

TASKS = ("CoLA", "MRPC", "RTE", "STS-B")


def wsd(reports: Reports) -> str:
    """F1 on two sets of Raganato et al. 2017, and the change of the language model."""
    runs = reports.read("long/lexical.json")["runs"]
    rows = []
    for key, title in RUNS.items():
        run = runs[key]
        change = run.get("language_model", {}).get("nll_change")
        rows.append(
            [
                title,
                number(run["seconds"] / 60, 1),
                *(interval(run[name], digits=1, scale=100) for name in ("semeval2007", "senseval2")),
                "not measured" if change is None else interval(change),
            ]
        )
    return table(["objective and model", "minutes", "semeval2007", "senseval2", "change of held-out NLL"], rows)


def price(reports: Reports) -> str:
    """What lexical training costs the language model, by what keeps it one."""
    rows = []
    for row in reports.read("long/lexical.json")["cpu"]["price"]["rows"]:
        change = signed(row["nll_change"])
        if "nll_low" in row:
            change += f" [{number(row['nll_low'])}, {number(row['nll_high'])}]"
        rows.append([row["kept_by"], change, number(row.get("f1"), 1)])
    return table(["kept a language model by", "change of NLL", "word senses, F1"], rows)


def changes(reports: Reports) -> str:
    """Lexical training with one thing changed."""
    found = reports.read("long/lexical.json")["cpu"]["changes"]["rows"]
    rows = [
        [name, interval(entry, digits=1)] for name, entry in sorted(found.items(), key=lambda item: -item[1]["value"])
    ]
    return table(["setting", "F1"], rows)


def objectives(reports: Reports) -> str:
    """`lmgc` and `lmgc_m` in a short run."""
    found = reports.read("long/lexical.json")["cpu"]["lmgc"]["rows"]
    rows = [
        [f"`{name}`", interval(entry["f1"], digits=1, scale=100), interval(entry["nll_change"])]
        for name, entry in found.items()
    ]
    return table(["objective", "F1", "change of NLL"], rows)


def memory(reports: Reports) -> str:
    """A memory of annotated words beside the published student."""
    found = reports.read("long/lexical.json")["cpu"]["memory"]["rows"]
    rows = [[row["memory"], number(row["semeval2007"], 1), number(row["senseval2"], 1)] for row in found]
    return table(["memory", "semeval2007", "senseval2"], rows)


def glue(reports: Reports) -> str:
    """GLUE tasks with and without lexical training: mean and each seed on 1,000 examples, and one seed on all."""
    found = reports.read("long/lexical.json")["cpu"]["glue"]
    whole = found["whole training sets, seed 0"]

    def seeds(values: dict[str, Any]) -> str:
        ordered = [value for _, value in sorted(values.items())]
        return f"{number(mean(ordered), 1)} ({', '.join(number(value, 1) for value in ordered)})"

    rows = [
        [task, *(seeds(found[side][task]) for side in SIDES), *(number(whole[side][task], 1) for side in SIDES)]
        for task in TASKS
    ]
    return table(["task", "with word senses", "without", "all examples, with", "without"], rows)


SIDES = ("with", "without")


def default_run(reports: Reports) -> str:
    """The default run's lexical students: every suite, before and after."""
    rows = [
        [
            f"`{entry['with']}`",
            f"`{entry['without']}`",
            f"{entry['suite']} ({entry['metric']})",
            _value(entry, "without"),
            _value(entry, "with"),
            _value(entry, None),
        ]
        for entry in reports.read("summary.json")["lexical"]
        if entry["suite"] != "costs"
    ]
    return table(["with", "without", "suite", "without", "with", "change"], rows)


def _value(entry: dict[str, Any], side: str | None) -> str:
    keys = [f"change_{part}" if side is None else f"{part}_{side}" for part in ("value", "low", "high")]
    value, low, high = (entry.get(key) for key in keys)
    if value is None:
        return NONE
    shown = signed(value) if side is None else number(value)
    return shown if low is None else f"{shown} [{number(low)}, {number(high)}]"


def senses(reports: Reports) -> str:
    """Word senses of the default run's lexical students."""
    rows = [
        [f"`{name}`", interval(entry["wsd"]["all"], digits=1, scale=100),
         interval(entry["wsd"]["all_first_sense"], digits=1, scale=100), str(entry["wsd"]["all"]["n"])]
        for name, entry in reports.read("summary.json")["students"].items() if "wsd" in entry
    ]  # fmt: skip
    return table(["student", "F1", "first sense", "held-out words"], rows)


def word_in_context(reports: Reports) -> str:
    """Vectors of words in two sentences, by set of words and model: means over seeds, and the sense students' gain."""
    rows = []
    for judged in reports.read("long/word_in_context.json")["sets"]:
        gains = {row["first"]: row for row in judged["differences"] if row["second"] == SENSES}
        for name, seeds in sorted(judged["models"].items(), key=lambda item: item[0] == SENSES):
            gain = NONE
            if name in gains:
                value, high, low = (-100 * gains[name][key] for key in ("ranked", "ranked_low", "ranked_high"))
                gain = f"{signed(value, 1)} [{number(low, 1)}, {number(high, 1)}]"
            means = [number(100 * mean(seed[metric] for seed in seeds), 1) for metric in ("accuracy", "ranked")]
            pairs = f"{judged['set']}, {judged['pairs']:,} pairs of {judged['lemmas']:,} lemmas"
            rows.append([pairs, name, str(len(seeds)), *means, gain])
    header = ["words of", "model", "seeds", "accuracy", "ranked rightly", f"`{SENSES}` minus it, ranked"]
    return table(header, rows)


SENSES = "senses"
"""Name of the students with word senses in reports/long/word_in_context.json."""

TABLES = {
    "wsd": wsd,
    "word-in-context": word_in_context,
    "lexical-price": price,
    "lexical-changes": changes,
    "lexical-objectives": objectives,
    "lexical-memory": memory,
    "glue": glue,
    "lexical-default": default_run,
    "lexical-senses": senses,
}
