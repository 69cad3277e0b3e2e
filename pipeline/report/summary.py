"""Put all evaluations and run records of the names in params.yaml into one summary, a page and plots.

Files of names that params.yaml no longer lists are left alone and out. Students are compared pairwise on the same
resamples of documents. What every number cost stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.core.config import decode
from pipeline.core.outputs import OUTPUTS, record_names
from pipeline.evaluate.bootstrap import paired_differences
from pipeline.evaluate.params import EvaluateParams, SuitesParams
from pipeline.evaluate.results import DocumentSums, read_json, read_sums, require_same_masks, write_json
from pipeline.report.comparisons import compare_students, scores_by_domain, share_of_steps, students_by_seed
from pipeline.report.html.explorer import explore
from pipeline.report.html.page import report_page
from pipeline.report.page import page
from pipeline.report.page_comparisons import control_of
from pipeline.report.plots import draw
from pipeline.report.ranking import Pair, comparisons, rankings
from pipeline.report.task_differences import ALL, task_differences
from pipeline.text.corpus_view import MaskedCorpus
from storage.errors import SchemaMismatch, StaleParent

COMPARED = ("nll", "accuracy")
SENSE_WEIGHTS = ("gold", "soft_labels")
"""Settings of a lexical student that are 0 in its control."""

KINDS = ("teachers", "fusions", "students")
STAGES = {kind: stage for kind in KINDS for stage, made in OUTPUTS.items() if made.out == f"reports/{kind}"}
"""Stage that writes the reports of each kind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A model that goes through suites."""

    model: str
    """Its folder."""
    suites: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """Keys of params.yaml, in its order."""

    teachers: tuple[str, ...]
    fusions: tuple[str, ...]
    students: tuple[str, ...]
    """Entries; those of one student that was trained with several seeds are several."""
    seeds: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    """Student to its entries by seed."""
    suites: Mapping[str, Candidate] = field(default_factory=dict)
    lexical: Mapping[str, str] = field(default_factory=dict)
    """Lexical student to the folder it starts from."""
    controls: Mapping[str, str] = field(default_factory=dict)
    """Lexical student to the entry that saw the same masked text without senses."""
    records: tuple[str, ...] = ()
    """Names of the run records, in the order of the stages."""

    @staticmethod
    def of(params: dict[str, Any]) -> Names:
        """Read the names from the whole of params.yaml."""
        return Names(
            **{kind: tuple(params.get(kind) or ()) for kind in KINDS},
            seeds=students_by_seed(params.get("students") or {}, seed=(params.get("training") or {}).get("seed", 0)),
            suites=_candidates(params),
            lexical={name: entry["start"] for name, entry in (params.get("lexical") or {}).items()},
            controls=_controls(params.get("lexical") or {}),
            records=tuple(record_names(params)),
        )


def _controls(lexical: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Lexical students to their controls: the same settings, but for weights of 0 for gold and soft labels."""

    def rest(entry: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in entry.items() if key not in SENSE_WEIGHTS}

    without = [name for name, entry in lexical.items() if not any(entry.get(weight) for weight in SENSE_WEIGHTS)]
    return {
        name: control
        for name, entry in lexical.items()
        if name not in without
        for control in without
        if rest(lexical[control]) == rest(entry)
    }


def _candidates(params: dict[str, Any]) -> dict[str, Candidate]:
    """Models by name, each with its suites, from the section `suites`, which has them by suite."""
    if "suites" not in params:
        return {}
    models: dict[str, str] = {}
    suites: dict[str, list[str]] = {}
    for suite, name, entry in decode(params["suites"], SuitesParams, where="suites").entries():
        models[name] = entry.model
        suites.setdefault(name, []).append(suite)
    return {name: Candidate(model=model, suites=tuple(suites[name])) for name, model in models.items()}


def write_report(
    params: EvaluateParams, names: Names, *, reports: Path, out: Path, corpus: MaskedCorpus | None = None
) -> dict[str, Any]:
    """Write summary.json, report.md, index.html and plots/ to `out` from `reports`; returns the summary.

    The texts of the page's explorer are those of the corpus. Raises StoreMissing when an evaluation is not there,
    StaleParent when two were made with different masks, or with others than those of the corpus.
    """
    summary = summarise(params, names, reports=reports)
    students = names.seeds or {name: {0: name} for name in names.students}
    best = {name: fusion["best_teacher"] for name, fusion in summary["fusions"].items()}
    explorer = explore(_explored(params, names, summary, students), corpus, best=best, reports=reports)
    write_json(out / "summary.json", summary)
    (out / "report.md").write_text(page(summary), encoding="utf-8")
    (out / "index.html").write_text(report_page(summary, students, explorer), encoding="utf-8")
    draw(summary, out / "plots")
    return summary


def _explored(
    params: EvaluateParams, names: Names, summary: dict[str, Any], students: Mapping[str, Mapping[int, str]]
) -> dict[str, list[str]]:
    """Names by kind: fusions of several teachers, that of `evaluate.against` first; of each student the first seed."""
    several = [name for name in names.fusions if len(summary["fusions"][name]["weights"]) > 1]
    against = Path(params.against).name
    return {
        "teachers": list(names.teachers),
        "fusions": sorted(several, key=lambda name: name != against),
        "students": [next(iter(by_seed.values())) for by_seed in students.values()],
    }


def summarise(params: EvaluateParams, names: Names, *, reports: Path) -> dict[str, Any]:
    """Everything that is reported, by kind and name; numbers unrounded where they are new."""
    runs = _runs(names, reports / "runs")
    summary: dict[str, Any] = {"stages": runs, "run": _software(runs)}
    for kind, made_by in (("teachers", "teach"), ("fusions", "fuse"), ("students", "train")):
        summary[kind] = {
            name: {**_read(reports, kind, name), **_cost(runs.get(f"{made_by}-{name}", {}))}
            for name in getattr(names, kind)
        }
    _add_suites(summary, names, reports)
    summary["fidelity"] = {name: _fidelity(reports, name) for name in names.teachers}
    sums = {kind: _sums(reports, kind, getattr(names, kind)) for kind in STAGES}
    pairs = {kind: _differences(params, sums[kind]) for kind in ("fusions", "students")}
    # Lists, not mappings: `dvc metrics` would make a column of each of their numbers.
    summary["differences"] = {
        kind: [{"first": first, "second": second, **found} for (first, second), found in pairs[kind].items()]
        for kind in pairs
    }
    gradients = reports / "target_gradients.json"
    if gradients.is_file():
        summary["target_gradients"] = read_json(gradients, remedy="dvc repro target_gradients")
    for kind, by_name in sums.items():
        for name, found in by_name.items():
            summary[kind][name]["domains"] = scores_by_domain(params, found)
    students = names.seeds or {name: {0: name} for name in names.students}
    summary["comparisons"] = compare_students(params, students, sums["students"])
    if (control := control_of(summary)) is not None:
        _add_control(summary["students"], students, control, pairs["students"])
    return summary


def _add_control(
    entries: dict[str, Any],
    students: Mapping[str, Mapping[int, str]],
    control: str,
    pairs: Mapping[tuple[str, str], dict[str, float]],
) -> None:
    """Add to each entry its difference from the control of its seed, and to each student its steps to the control."""
    own = next(by_seed for by_seed in students.values() if control in by_seed.values())
    for name, by_seed in students.items():
        shared = [seed for seed in by_seed if seed in own and by_seed[seed] != own[seed]]
        for seed in shared:
            entries[by_seed[seed]]["over_labels"] = pairs[by_seed[seed], own[seed]]
        if shared:
            curves = [[entries[side[seed]]["curve"] for seed in shared] for side in (by_seed, own)]
            entries[name]["steps_to_control"] = share_of_steps(curves[0], curves[1])


def _read(reports: Path, kind: str, name: str) -> dict[str, Any]:
    return read_json(reports / kind / f"{name}.json", remedy=f"dvc repro {STAGES[kind]}@{name}")


def _add_suites(summary: dict[str, Any], names: Names, reports: Path) -> None:
    """Add the metrics of every suite to the entry of its model, and what follows from them; nothing without suites."""
    for name, start in names.lexical.items():
        summary["students"][name] = {"start": start, **_cost(summary["stages"].get(f"lexical-{name}", {}))}
    if not names.suites:
        return
    found = {name: _suites(reports, name, entry) for name, entry in names.suites.items()}
    headlines: dict[str, str] = {}
    for name, suites in found.items():
        entry = summary["teachers" if name in names.teachers else "students"].setdefault(name, {})
        for suite, report in suites.items():
            about = {key: report[key] for key in ("energy_source", "run") if key in report}
            entry[suite] = report["metrics"] | about
            if headlines.setdefault(suite, report["headline"]) != report["headline"]:
                raise SchemaMismatch(
                    f"{reports / suite / name}.json: ranked by {report['headline']}, but models before it by "
                    f"{headlines[suite]}. Run: dvc repro {suite}"
                )
    metrics = {name: {suite: report["metrics"] for suite, report in suites.items()} for name, suites in found.items()}
    named = {entry.model: name for name, entry in names.suites.items()}
    pairs = [
        Pair(name=name, other=other, control=control)
        for name, start in names.lexical.items()
        if name in metrics and name not in names.controls.values()
        for other, control in ((named.get(start, start), False), (names.controls.get(name, ""), True))
        if other
    ]
    glue = {name: suites["glue"] for name, suites in found.items() if "glue" in suites}
    # Lists, as differences are.
    summary["tasks"] = [
        {"with": pair.name, "without": pair.other, **row}
        for pair in pairs
        if pair.name in glue and pair.other in glue
        for row in task_differences(glue[pair.name], glue[pair.other])
    ]
    whole = {(row["with"], row["without"], "glue"): row for row in summary["tasks"] if row["task"] == ALL}
    changes = {key: {bound: row[bound] for bound in ("value", "low", "high")} for key, row in whole.items()}
    summary["rankings"] = rankings(metrics, headlines)
    summary["lexical"] = comparisons(metrics, headlines, pairs, changes)


def _suites(reports: Path, name: str, entry: Candidate) -> dict[str, dict[str, Any]]:
    """The reports of one model by suite; raises StaleParent when they evaluated different weights."""
    found = {
        suite: read_json(reports / suite / f"{name}.json", remedy=f"dvc repro {suite}@{name}") for suite in entry.suites
    }
    first = next(iter(found), "")
    for suite, report in found.items():
        weights, wanted = report["model"]["weights"], found[first]["model"]["weights"]
        if weights != wanted:
            raise StaleParent(
                f"{reports / suite / name}.json: evaluated weights {weights[:12]} of {entry.model}, but {first} "
                f"evaluated {wanted[:12]}. Run: dvc repro {suite}@{name} {first}@{name}"
            )
    return found


def _fidelity(reports: Path, name: str) -> dict[str, Any]:
    """How close a teacher's store is to its full softmax, as single numbers."""
    found = read_json(reports / "fidelity" / f"{name}.json", remedy=f"dvc repro fidelity@{name}")
    raw, *later = found["kl"]
    return {
        **{key: found[key] for key in ("positions", "bytes_per_position", "entries", "mass", "tv")},
        "kl": raw,
        "kl_calibrated": later[0] if later else raw,
        "gradient_angle_degrees": found["gradient"]["near"]["angle_degrees"],
        "gradient_length_ratio": found["gradient"]["near"]["length_ratio"],
    }


def _runs(names: Names, folder: Path) -> dict[str, Any]:
    """Run records by stage; a stage that DVC took from its cache on another machine may have none."""
    found = {}
    for name in names.records:
        path = folder / f"{name}.json"
        if path.is_file():
            found[name] = read_json(path, remedy="dvc repro")
    return found


def _cost(run: dict[str, Any]) -> dict[str, Any]:
    return {key: run[key] for key in ("seconds", "peak_memory_bytes") if key in run}


def _software(runs: dict[str, Any]) -> dict[str, Any]:
    """What the stages ran on; values that differ between stages are joined."""
    software: dict[str, Any] = {
        key: ", ".join(sorted({str(run[key]) for run in runs.values() if key in run})) or None
        for key in ("python", "torch", "device", "dtype", "cores")
    }
    software["seconds"] = sum(run["seconds"] for run in runs.values())
    software["peak_memory_bytes"] = max((run["peak_memory_bytes"] for run in runs.values()), default=None)
    return software


def _sums(reports: Path, kind: str, names: tuple[str, ...]) -> dict[str, DocumentSums]:
    """Each one's sums by document; raises StaleParent when two are of different masks."""
    paths = {name: reports / kind / f"{name}.arrow" for name in names}
    sums = {name: read_sums(path, remedy=f"dvc repro {STAGES[kind]}@{name}") for name, path in paths.items()}
    for name in names[1:]:
        require_same_masks(
            sums[names[0]], sums[name], paths=(paths[names[0]], paths[name]), remedy=f"dvc repro {STAGES[kind]}"
        )
    return sums


def _differences(params: EvaluateParams, sums: Mapping[str, DocumentSums]) -> dict[tuple[str, str], dict[str, float]]:
    means = {name: found.means.only(COMPARED) for name, found in sums.items()}
    return paired_differences(means, resamples=params.bootstrap, seed=params.seed)
