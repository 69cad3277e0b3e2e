"""The summary as a page to read: tables with intervals and costs, differences, and what disappointed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

LOW_COVERAGE = 0.95
"""A teacher that answers less than this is named among the disappointments; guess."""

NONE = "–"


_INTRODUCTION = """\
NLL is in nats a masked piece, lower is better; brackets hold 95 % intervals from a bootstrap over documents.
Differences are paired: the same documents in each resample. ECE is the expected calibration error over 15 bins;
its resamples err upwards where blanks are few. Agreement is the share of blanks with the same first choice as the fused
target."""

_TEACHERS_NOTE = """\
A teacher is judged on the blanks it answered (share and number given): the words that its vocabulary cuts as the
students' does. Calibrated: at its fitted temperature."""

_FIDELITY_NOTE = """\
On held-out blanks whose full softmax was kept: mass listed, KL from the full to the restored distribution in nats,
total variation, and the gradient of up to 1,024 blanks of a student near the teacher, with restored against full
targets."""

_FUSIONS_NOTE = """\
Gain: loss of the best teacher, at the temperature it was fused at, minus the fused loss, on the blanks that all its
teachers answered. KL to best: mean divergence from the fused target to that teacher over the outcomes of the fused list
and one for all the rest."""

_COSTS_NOTE = """\
Seconds are of the last run of each stage that was not taken from the cache, not counting what an interrupted run had
done before; peak memory is the resident memory of the process."""


def page(summary: dict[str, Any]) -> str:
    """Markdown of a summary (`pipeline.reporting.summarise`)."""
    lines = [f"- {line}" for line in disappointments(summary)]
    parts = [
        "# Results on held-out text",
        _INTRODUCTION,
        _run(summary),
        "## Students",
        _table(_STUDENT_COLUMNS, summary["students"]),
        "![Convergence](plots/convergence.png)",
        "![Size and score](plots/size.png)",
        "### Held-out NLL by training step",
        _curves(summary["students"]),
        "### Differences between students",
        _differences(summary["differences"]["students"], list(summary["students"])),
        "## Teachers",
        _table(_TEACHER_COLUMNS, summary["teachers"]),
        _TEACHERS_NOTE,
        "### What their stores keep of the full softmax",
        _table(_FIDELITY_COLUMNS, summary["fidelity"]),
        _FIDELITY_NOTE,
        "## Fusions",
        _table(_FUSION_COLUMNS, summary["fusions"]),
        _FUSIONS_NOTE,
        "![Weights by source of text](plots/weights.png)",
        "## What disappointed",
        "\n".join(lines) or "Nothing that these tests look for.",
        "## Costs",
        _table(_STAGE_COLUMNS, summary["stages"]),
        _COSTS_NOTE,
    ]
    return "\n\n".join(parts) + "\n"


def _run(summary: dict[str, Any]) -> str:
    run: dict[str, Any] = {key: NONE if value is None else value for key, value in summary["run"].items()}
    entries = [entry for kind in ("students", "fusions", "teachers") for entry in summary[kind].values()]
    documents = sorted({entry["documents"] for entry in entries})
    return (
        f"{' / '.join(map(str, documents)) or NONE} documents. Python {run['python']}, "
        f"torch {run['torch']}, device {run['device']}, number format {run['dtype']}; "
        f"{_seconds(run['seconds'])} s in all stages together."
    )


def disappointments(summary: dict[str, Any]) -> list[str]:
    """Hopes of the method that these numbers do not bear out, one sentence each."""
    found = []
    for name, student in summary["students"].items():
        if "over_labels" in student:
            difference = student["over_labels"]
            found += _not_lower(f"`{name}`", "the student that learned from labels only", difference)
    students = summary["students"]
    teachers_of = {name: set(fusion["weights"]) for name, fusion in summary["fusions"].items()}
    for pair in summary["differences"]["students"]:
        first, second = (teachers_of.get(students[pair[side]]["learns_from"], set()) for side in ("first", "second"))
        if len(second) == 1 and second < first:
            found += _not_lower(f"`{pair['first']}`", f"`{pair['second']}`, whose target has one teacher", pair)
    for name, fusion in summary["fusions"].items():
        if len(fusion["weights"]) > 1 and fusion.get("gain_low", 1) <= 0:
            found.append(
                f"fusion `{name}` is not shown to be better than its best teacher `{fusion['best_teacher']}`: gain "
                f"{_signed(fusion['gain'])} [{_signed(fusion['gain_low'])}, {_signed(fusion['gain_high'])}] nat."
            )
    for pair in summary["differences"]["fusions"]:
        first, second = (summary["fusions"][pair[side]] for side in ("first", "second"))
        same = set(first["weights"]) == set(second["weights"]) and len(first["weights"]) > 1
        if same and second["weighting"] == "uniform" != first["weighting"]:
            found += _not_lower(f"fusion `{pair['first']}`", f"uniform weights (`{pair['second']}`)", pair)
    for name, teacher in summary["teachers"].items():
        if teacher["coverage"] < LOW_COVERAGE:
            found.append(
                f"teacher `{name}` answered {100 * teacher['coverage']:.1f} % of the blanks only; its vocabulary cuts "
                "the other words differently."
            )
    return found


def _not_lower(who: str, whom: str, difference: dict[str, float]) -> list[str]:
    if difference["nll_high"] < 0:
        return []
    verdict = "is worse than" if difference["nll_low"] > 0 else "is not shown to be better than"
    return [f"{who} {verdict} {whom}: {_difference(difference)} nat."]


def _difference(entry: dict[str, float]) -> str:
    return f"{_signed(entry['nll'])} [{_signed(entry['nll_low'])}, {_signed(entry['nll_high'])}]"


def _signed(value: float) -> str:
    return f"{value:+.4f}"


def _seconds(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def _number(key: str, *, digits: int = 4, scale: float = 1.0) -> Callable[[dict[str, Any]], str]:
    return lambda entry: f"{entry[key] * scale:.{digits}f}" if key in entry else NONE


def _ranged(key: str, *, digits: int = 4) -> Callable[[dict[str, Any]], str]:
    def cell(entry: dict[str, Any]) -> str:
        if key not in entry:
            return NONE
        low, high = entry.get(f"{key}_low"), entry.get(f"{key}_high")
        between = "" if low is None or high is None else f" [{low:.{digits}f}, {high:.{digits}f}]"
        return f"{entry[key]:.{digits}f}{between}"

    return cell


def _present(key: str) -> Callable[[dict[str, Any]], str]:
    return lambda entry: "infinite" if entry[key] is None else f"{entry[key]:.3f}"


def _text(key: str) -> Callable[[dict[str, Any]], str]:
    return lambda entry: str(entry.get(key, NONE))


def _covered(entry: dict[str, Any]) -> str:
    return f"{100 * entry['coverage']:.1f} % ({entry['positions']:,})"


def _over_labels(entry: dict[str, Any]) -> str:
    return _difference(entry["over_labels"]) if "over_labels" in entry else NONE


def _gain(entry: dict[str, Any]) -> str:
    if len(entry["weights"]) < 2 or "gain_low" not in entry:
        return NONE
    return f"{_signed(entry['gain'])} [{_signed(entry['gain_low'])}, {_signed(entry['gain_high'])}]"


Column = tuple[str, Callable[[dict[str, Any]], str]]
_SCORES: tuple[Column, ...] = (
    ("top 1", _ranged("accuracy", digits=3)),
    ("top 5", _ranged("accuracy_top5", digits=3)),
    ("ECE", _ranged("ece", digits=3)),
    ("agreement", _ranged("agreement", digits=3)),
)
_COSTS: tuple[Column, ...] = (
    ("seconds", lambda entry: _seconds(entry["seconds"]) if "seconds" in entry else NONE),
    ("peak memory, GB", _number("peak_memory_bytes", digits=2, scale=1e-9)),
)
_STUDENT_COLUMNS: tuple[Column, ...] = (
    ("learns from", _text("learns_from")),
    ("NLL", _ranged("nll")),
    ("NLL minus labels only", _over_labels),
    ("parameters, M", _number("parameters", digits=1, scale=1e-6)),
    ("weights, MB", _number("model_bytes", digits=1, scale=1e-6)),
    *_COSTS,
    *_SCORES,
    ("KL from fused", _ranged("kl", digits=3)),
)
_STORE_SIZE: tuple[Column, ...] = (
    ("bytes a position", _number("bytes_per_position", digits=1)),
    ("store, MB", _number("store_bytes", digits=1, scale=1e-6)),
)
_TEACHER_COLUMNS: tuple[Column, ...] = (
    ("NLL", _ranged("nll")),
    ("NLL calibrated", _ranged("nll_calibrated")),
    ("temperature", _number("temperature", digits=3)),
    ("answered", _covered),
    ("parameters, M", _number("parameters", digits=1, scale=1e-6)),
    *_STORE_SIZE,
    *_COSTS,
    *_SCORES,
)
_FIDELITY_COLUMNS: tuple[Column, ...] = (
    ("bytes a position", _number("bytes_per_position", digits=1)),
    ("entries", _number("entries", digits=1)),
    ("mass listed", _number("mass", digits=3)),
    ("KL", _present("kl")),
    ("KL, calibrated", _present("kl_calibrated")),
    ("TV", _number("tv", digits=3)),
    ("gradient angle, degrees", _number("gradient_angle_degrees", digits=1)),
    ("gradient length", _number("gradient_length_ratio", digits=3)),
    ("blanks", _text("positions")),
)
_FUSION_COLUMNS: tuple[Column, ...] = (
    ("weighting", _text("weighting")),
    ("NLL", _ranged("nll")),
    ("best teacher", _text("best_teacher")),
    ("gain", _gain),
    ("KL to best", _ranged("kl_to_best_teacher", digits=3)),
    ("answered", _covered),
    *_STORE_SIZE,
    *_COSTS,
    *_SCORES,
)
_STAGE_COLUMNS: tuple[Column, ...] = (
    ("seconds", _number("seconds", digits=1)),
    ("CPU seconds", _number("cpu_seconds", digits=1)),
    ("peak memory, GB", _number("peak_memory_bytes", digits=2, scale=1e-9)),
    ("device", _text("device")),
    ("number format", _text("dtype")),
)


def _table(columns: Sequence[Column], entries: dict[str, Any]) -> str:
    """A row an entry, its name first."""
    rows = [[f"`{name}`", *(cell(entry) for _, cell in columns)] for name, entry in entries.items()]
    return _markdown(["", *(title for title, _ in columns)], rows)


def _curves(students: dict[str, Any]) -> str:
    """A row a student, a column a step."""
    steps = sorted({step for student in students.values() for step, _ in student["curve"]})
    rows = []
    for name, student in students.items():
        losses = dict(map(tuple, student["curve"]))
        rows.append([f"`{name}`", *(f"{losses[step]:.4f}" if step in losses else NONE for step in steps)])
    return _markdown(["step", *map(str, steps)], rows)


def _differences(pairs: list[dict[str, Any]], names: list[str]) -> str:
    """NLL of the row's student minus the column's."""
    cells = {(pair["first"], pair["second"]): _difference(pair) for pair in pairs}
    rows = [[f"`{row}`", *(cells.get((row, column), NONE) for column in names)] for row in names]
    return _markdown(["NLL, row minus column", *(f"`{name}`" for name in names)], rows)


def _markdown(titles: list[str], rows: list[list[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
