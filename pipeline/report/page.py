"""The summary as a page to read: tables with intervals and costs, differences, and unmet expectations."""

from __future__ import annotations

from typing import Any

from pipeline.report.comparisons import curve_note
from pipeline.report.page_comparisons import comparisons_part, domains_part, unmet_by_students
from pipeline.report.page_coverage import coverage_part, least_covered
from pipeline.report.page_gradients import gradients_part
from pipeline.report.page_suites import suites_part, unmet_by_lexical
from pipeline.report.ranking import distilled
from pipeline.report.tables import NONE, Column, markdown, number, present, ranged, seconds, signed, table, text

LOW_COVERAGE = 0.95
"""A teacher that predicts at a smaller share of positions is named among the unmet expectations; a guess."""

INTRODUCTION = """\
NLL is in nats a masked token, lower is better; brackets hold 95 % intervals from a bootstrap over documents.
Differences are paired: the same documents in each resample. ECE is the expected calibration error over 15 bins; its
resamples err upwards where masked positions are few. Agreement is the share of masked positions with the same first
choice as the fused target."""

TEACHERS_NOTE = """\
A teacher is evaluated at the masked positions that it covers (share and number given). Calibrated: at its fitted
temperature. Restored: of what its store restores at that temperature, which is what a student learns from; the other
two are of its full softmax."""

FIDELITY_NOTE = """\
At held-out positions whose full softmax was kept: mass listed, KL from the full to the restored distribution in nats,
total variation, and the gradient over up to 1,024 positions of a student near the teacher, with restored against full
targets."""

FUSIONS_NOTE = """\
NLL is that of the mixture of full softmaxes, NLL restored that of the targets that a student gets. Gain: loss of the
best teacher, at the temperature it was fused at, minus the fused loss, at the positions that all its teachers cover. KL
to best: mean divergence from the fused target to that teacher over the outcomes of the fused list and one for all the
rest."""

TEXTS_NOTE = """\
Duplicates have the id and text of a document before them. Left out are files of a folder that the input's kind does not
read; the log and the store's manifest count them by ending."""

INGEST = "ingest-"
"""Begins the names of the run records of inputs."""

COSTS_NOTE = """\
Seconds are of the last run of each stage that was not taken from the cache, not counting what an interrupted run had
done before; peak memory is the resident memory of the process."""


def page(summary: dict[str, Any]) -> str:
    """Markdown of a summary (`pipeline.report.summary.summarise`)."""
    lines = [f"- {line}" for line in unmet_expectations(summary)]
    students = distilled(summary)
    parts = [
        "# Results on held-out text",
        INTRODUCTION,
        _run(summary),
        "## Students",
        table(STUDENT_COLUMNS, students),
        "![Convergence](plots/convergence.png)",
        "![Size and score](plots/size.png)",
        "### Held-out NLL by training step",
        _curves(students),
        *filter(None, [curve_note(students)]),
        *comparisons_part(summary),
        *suites_part(summary),
        "## Teachers",
        table(TEACHER_COLUMNS, summary["teachers"]),
        TEACHERS_NOTE,
        *coverage_part(summary["teachers"]),
        *domains_part(summary["teachers"]),
        "### What their stores keep of the full softmax",
        table(FIDELITY_COLUMNS, summary["fidelity"]),
        FIDELITY_NOTE,
        "## Fusions",
        table(FUSION_COLUMNS, summary["fusions"]),
        FUSIONS_NOTE,
        *domains_part(summary["fusions"]),
        "![Weights by source of text](plots/weights.png)",
        *gradients_part(summary.get("target_gradients")),
        "## Unmet expectations",
        "\n".join(lines) or "Nothing that these tests look for.",
        *_texts(summary["stages"]),
        "## Costs",
        table(STAGE_COLUMNS, summary["stages"]),
        COSTS_NOTE,
    ]
    return "\n\n".join(parts) + "\n"


def texts_read(stages: dict[str, Any]) -> dict[str, Any]:
    """The run records of `ingest` by input."""
    return {name.removeprefix(INGEST): run for name, run in stages.items() if name.startswith(INGEST)}


def _texts(stages: dict[str, Any]) -> list[str]:
    read = texts_read(stages)
    return ["## Texts", table(TEXT_COLUMNS, read), TEXTS_NOTE] if read else []


def _run(summary: dict[str, Any]) -> str:
    run: dict[str, Any] = {key: NONE if value is None else value for key, value in summary["run"].items()}
    entries = [
        entry for kind in (distilled(summary), summary["fusions"], summary["teachers"]) for entry in kind.values()
    ]
    documents = sorted({entry["documents"] for entry in entries})
    return (
        f"{' / '.join(map(str, documents)) or NONE} documents. Python {run['python']}, "
        f"torch {run['torch']}, device {run['device']}, number format {run['dtype']}; "
        f"{seconds(run['seconds'])} s in all stages together."
    )


def unmet_expectations(summary: dict[str, Any]) -> list[str]:
    """Expectations of the method that these numbers do not confirm, one sentence each."""
    found = list(unmet_by_students(summary))
    for name, fusion in summary["fusions"].items():
        if len(fusion["weights"]) > 1 and fusion.get("gain_low", 1) <= 0:
            found.append(
                f"fusion `{name}` is not shown to be better than its best teacher `{fusion['best_teacher']}`: gain "
                f"{signed(fusion['gain'])} [{signed(fusion['gain_low'])}, {signed(fusion['gain_high'])}] nat."
            )
    for pair in summary["differences"]["fusions"]:
        first, second = (summary["fusions"][pair[side]] for side in ("first", "second"))
        same = set(first["weights"]) == set(second["weights"]) and len(first["weights"]) > 1
        if same and second["weighting"] == "uniform" != first["weighting"]:
            found += _not_lower(f"fusion `{pair['first']}`", f"uniform weights (`{pair['second']}`)", pair)
    for name, teacher in summary["teachers"].items():
        if teacher["coverage"] < LOW_COVERAGE:
            found.append(
                f"teacher `{name}` covers {100 * teacher['coverage']:.1f} % of the masked positions "
                f"only{least_covered(teacher)}."
            )
    return found + unmet_by_lexical(summary)


def _not_lower(first: str, second: str, difference: dict[str, float]) -> list[str]:
    if difference["nll_high"] < 0:
        return []
    verdict = "is worse than" if difference["nll_low"] > 0 else "is not shown to be better than"
    return [f"{first} {verdict} {second}: {_difference(difference)} nat."]


def _difference(entry: dict[str, float]) -> str:
    return f"{signed(entry['nll'])} [{signed(entry['nll_low'])}, {signed(entry['nll_high'])}]"


def _covered(entry: dict[str, Any]) -> str:
    return f"{100 * entry['coverage']:.1f} % ({entry['positions']:,})"


def _over_labels(entry: dict[str, Any]) -> str:
    return _difference(entry["over_labels"]) if "over_labels" in entry else NONE


def _gain(entry: dict[str, Any]) -> str:
    if len(entry["weights"]) < 2 or "gain_low" not in entry:
        return NONE
    return f"{signed(entry['gain'])} [{signed(entry['gain_low'])}, {signed(entry['gain_high'])}]"


_SCORES: tuple[Column, ...] = (
    ("top 1", ranged("accuracy", digits=3)),
    ("top 5", ranged("accuracy_top5", digits=3)),
    ("ECE", ranged("ece", digits=3)),
    ("agreement", ranged("agreement", digits=3)),
)
_COSTS: tuple[Column, ...] = (
    ("seconds", lambda entry: seconds(entry["seconds"]) if "seconds" in entry else NONE),
    ("peak memory, GB", number("peak_memory_bytes", digits=2, scale=1e-9)),
)
STUDENT_COLUMNS: tuple[Column, ...] = (
    ("learns from", text("learns_from")),
    ("NLL", ranged("nll")),
    ("NLL minus labels only", _over_labels),
    ("parameters, M", number("parameters", digits=1, scale=1e-6)),
    ("weights, MB", number("model_bytes", digits=1, scale=1e-6)),
    *_COSTS,
    *_SCORES,
    ("KL from fused", ranged("kl", digits=3)),
)
_STORE_SIZE: tuple[Column, ...] = (
    ("bytes a position", number("bytes_per_position", digits=1)),
    ("store, MB", number("store_bytes", digits=1, scale=1e-6)),
)
TEACHER_COLUMNS: tuple[Column, ...] = (
    ("NLL", ranged("nll")),
    ("NLL calibrated", ranged("nll_calibrated")),
    ("NLL restored", ranged("nll_restored")),
    ("temperature", number("temperature", digits=3)),
    ("covered", _covered),
    ("parameters, M", number("parameters", digits=1, scale=1e-6)),
    *_STORE_SIZE,
    *_COSTS,
    *_SCORES,
)
FIDELITY_COLUMNS: tuple[Column, ...] = (
    ("bytes a position", number("bytes_per_position", digits=1)),
    ("entries", number("entries", digits=1)),
    ("mass listed", number("mass", digits=3)),
    ("KL", present("kl")),
    ("KL, calibrated", present("kl_calibrated")),
    ("TV", number("tv", digits=3)),
    ("gradient angle, degrees", number("gradient_angle_degrees", digits=1)),
    ("gradient length", number("gradient_length_ratio", digits=3)),
    ("masked positions", text("positions")),
)
FUSION_COLUMNS: tuple[Column, ...] = (
    ("weighting", text("weighting")),
    ("NLL", ranged("nll")),
    ("NLL restored", ranged("nll_restored")),
    ("best teacher", text("best_teacher")),
    ("gain", _gain),
    ("KL to best", ranged("kl_to_best_teacher", digits=3)),
    ("covered", _covered),
    *_STORE_SIZE,
    *_COSTS,
    *_SCORES,
)
TEXT_COLUMNS: tuple[Column, ...] = (
    ("documents", text("documents")),
    ("unreadable records", text("bad")),
    ("empty", text("empty")),
    ("duplicates", text("duplicates")),
    ("files left out", text("skipped_files")),
)
STAGE_COLUMNS: tuple[Column, ...] = (
    ("seconds", number("seconds", digits=1)),
    ("CPU seconds", number("cpu_seconds", digits=1)),
    ("peak memory, GB", number("peak_memory_bytes", digits=2, scale=1e-9)),
    ("device", text("device")),
    ("number format", text("dtype")),
)


def _curves(students: dict[str, Any]) -> str:
    """A row a student, a column a step."""
    steps = sorted({step for student in students.values() for step, _ in student["curve"]})
    rows = []
    for name, student in students.items():
        losses = dict(map(tuple, student["curve"]))
        rows.append([f"`{name}`", *(f"{losses[step]:.4f}" if step in losses else NONE for step in steps)])
    return markdown(["step", *map(str, steps)], rows)
