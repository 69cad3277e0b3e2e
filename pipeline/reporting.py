"""Put all evaluations and run records of the names in params.yaml into one summary, a page and plots.

Files of names that params.yaml no longer lists are left alone and out. Students are compared pairwise on the same
resamples of documents. What every number cost stands beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.metrics import EvaluateParams, paired_differences
from pipeline.plots import draw
from pipeline.report_page import page
from pipeline.results import read_json, read_sums, require_same_blanks, write_json

LABELS = "labels"
"""What a student without a teacher learns from (`learns_from` of its report)."""

COMPARED = ("nll", "accuracy")

STAGES = {"teachers": "evaluate-teacher", "fusions": "evaluate-fusion", "students": "evaluate"}
"""DVC stage that writes the reports of each kind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """Keys of params.yaml, in its order."""

    sources: tuple[str, ...]
    inputs: tuple[str, ...]
    teachers: tuple[str, ...]
    fusions: tuple[str, ...]
    students: tuple[str, ...]

    @staticmethod
    def of(params: dict[str, Any]) -> Names:
        """Read the names from the whole of params.yaml."""
        kinds = ("sources", "inputs", "teachers", "fusions", "students")
        return Names(**{kind: tuple(params.get(kind) or ()) for kind in kinds})

    def runs(self) -> list[str]:
        """Names of the run records, in the order of the stages."""
        return [
            *(f"sources-{name}" for name in self.sources),
            *(f"ingest-{name}" for name in self.inputs),
            "corpus",
            "tokenize",
            "mask",
            *(f"teach-{name}" for name in self.teachers),
            *(f"exact-{name}" for name in self.teachers),
            *(f"fidelity-{name}" for name in self.teachers),
            *(f"fuse-{name}" for name in self.fusions),
            *(f"train-{name}" for name in self.students),
            *(f"evaluate-teacher-{name}" for name in self.teachers),
            *(f"evaluate-fusion-{name}" for name in self.fusions),
            *(f"evaluate-student-{name}" for name in self.students),
        ]


def write_report(params: EvaluateParams, names: Names, *, reports: Path, out: Path) -> dict[str, Any]:
    """Write summary.json, report.md and plots/ to `out` from the evaluations in `reports`; returns the summary.

    Raises StoreMissing when an evaluation is not there, StaleParent when two were made on different blanks.
    """
    summary = summarise(params, names, reports=reports)
    write_json(out / "summary.json", summary)
    (out / "report.md").write_text(page(summary), encoding="utf-8")
    draw(summary, out / "plots")
    return summary


def summarise(params: EvaluateParams, names: Names, *, reports: Path) -> dict[str, Any]:
    """Everything that is reported, by kind and name; numbers unrounded where they are new."""
    runs = _runs(names, reports / "runs")
    summary: dict[str, Any] = {"stages": runs, "run": _software(runs)}
    for kind, made_by in (("teachers", "teach"), ("fusions", "fuse"), ("students", "train")):
        summary[kind] = {
            name: {**_read(reports, kind, name), **_cost(runs.get(f"{made_by}-{name}", {}))}
            for name in getattr(names, kind)
        }
    summary["fidelity"] = {name: _fidelity(reports, name) for name in names.teachers}
    pairs = {kind: _differences(params, reports, kind, getattr(names, kind)) for kind in ("fusions", "students")}
    # Lists, not mappings: `dvc metrics` would make a column of each of their numbers.
    summary["differences"] = {
        kind: [{"first": first, "second": second, **found} for (first, second), found in pairs[kind].items()]
        for kind in pairs
    }
    control = control_of(summary)
    for name, student in summary["students"].items():
        if control is not None and name != control:
            student["over_labels"] = pairs["students"][name, control]
    return summary


def control_of(summary: dict[str, Any]) -> str | None:
    """The student without a teacher that the others are compared with: the first one, if any."""
    return next((name for name, student in summary["students"].items() if student["learns_from"] == LABELS), None)


def _read(reports: Path, kind: str, name: str) -> dict[str, Any]:
    return read_json(reports / kind / f"{name}.json", remedy=f"dvc repro {STAGES[kind]}@{name}")


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
    for name in names.runs():
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


def _differences(
    params: EvaluateParams, reports: Path, kind: str, names: tuple[str, ...]
) -> dict[tuple[str, str], dict[str, float]]:
    paths = {name: reports / kind / f"{name}.arrow" for name in names}
    sums = {name: read_sums(path, remedy=f"dvc repro {STAGES[kind]}@{name}") for name, path in paths.items()}
    for name in names[1:]:
        require_same_blanks(
            sums[names[0]], sums[name], paths=(paths[names[0]], paths[name]), remedy=f"dvc repro {STAGES[kind]}"
        )
    means = {name: found.means.only(COMPARED) for name, found in sums.items()}
    return paired_differences(means, resamples=params.bootstrap, seed=params.seed)
