"""Train every student with several seeds on the stores at hand, with standard deviations over seeds.

    python -m benchmarks.students.compare --seeds 0,1,2 --out reports/long/wordnet.json

Students are trained and evaluated by the functions the stages call, one after the other, with `training.seed` replaced;
finished pairs are kept under `.work/compare`, so an interrupted comparison continues. Prints and writes, for each
student: held-out NLL by seed, mean and standard deviation, the difference to the control at equal seed, and the step at
which the mean curve reaches the control's final loss.
"""

from __future__ import annotations

import json
import statistics
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import yaml

from pipeline.core.config import section
from pipeline.core.params import RuntimeParams
from pipeline.core.runtime import apply
from pipeline.evaluate.evaluate import evaluate_student
from pipeline.evaluate.heldout import open_heldout
from pipeline.evaluate.params import EvaluateParams
from pipeline.text.corpus_view import MaskedCorpus
from pipeline.train.params import StudentParams, TrainingParams
from pipeline.train.train import train

CONTROL = "labels-only"
DATA = Path("data")
Curve = list[tuple[int, float]]


def run_pair(params: Path, student: str, seed: int, work: Path) -> dict[str, Any]:
    """Train and evaluate one student with one seed; returns its report with its curve."""
    folder = work / f"{student}-seed{seed}"
    result = folder / "result.json"
    if not result.exists():
        training = section(params, "training", TrainingParams).model_copy(update={"seed": seed})
        evaluate = section(params, "evaluate", EvaluateParams)
        runtime = apply(section(params, "runtime", RuntimeParams))
        corpus = MaskedCorpus.open(DATA / "documents", DATA / "sequences", DATA / "masks")
        model = folder / f"{student}-{seed}"
        record = train(
            section(params, f"students.{student}", StudentParams),
            training,
            corpus,
            tokenizer=Path(yaml.safe_load(params.read_text(encoding="utf-8"))["tokenize"]["tokenizer"]),
            out=model,
            runtime=runtime,
        )
        evaluation = evaluate_student(evaluate, open_heldout(corpus), model=model, runtime=runtime)
        evaluation.write(folder / "report.json")
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        wanted = {"curve": record["curve"], "tokens": record["tokens"], **report}
        result.write_text(json.dumps(wanted), encoding="utf-8")
    value: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return value


def steps_to(curve: Curve, loss: float) -> float | None:
    """Step at which a curve first reaches `loss`, linear between its points; None when it never does."""
    for (before, high), (after, low) in pairwise(curve):
        if low <= loss:
            return before + (after - before) * (high - loss) / (high - low) if high > low else float(after)
    return None


def mean_curve(curves: list[Curve]) -> Curve:
    """Mean over seeds at each step."""
    return [(points[0][0], statistics.fmean(point[1] for point in points)) for points in zip(*curves, strict=True)]


def summarise(results: dict[str, dict[int, dict[str, Any]]]) -> dict[str, Any]:
    """Numbers over seeds for every student; differences are to the control at the same seed."""
    control = results.get(CONTROL)
    goal = None if control is None else mean_curve([run["curve"] for run in control.values()])[-1]
    summary = {}
    for student, runs in results.items():
        nll = {seed: float(run["nll"]) for seed, run in runs.items()}
        curve = mean_curve([run["curve"] for run in runs.values()])
        entry: dict[str, Any] = {
            "nll": nll,
            "nll_mean": statistics.fmean(nll.values()),
            "nll_sd": statistics.stdev(nll.values()) if len(nll) > 1 else None,
            "accuracy_mean": statistics.fmean(float(run["accuracy"]) for run in runs.values()),
            "ece_mean": statistics.fmean(float(run["ece"]) for run in runs.values()),
            "curve": curve,
        }
        if control is not None and goal is not None:
            entry["difference"] = {seed: value - float(control[seed]["nll"]) for seed, value in nll.items()}
            entry["steps_to_control"] = steps_to(curve, goal[1])
        summary[student] = entry
    return summary


def table(summary: dict[str, Any]) -> str:
    """Markdown, best student first."""
    lines = [
        "| student | NLL, mean ± sd | difference to labels-only, by seed | accuracy | ECE | steps to its final loss |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for student, entry in sorted(summary.items(), key=lambda item: float(item[1]["nll_mean"])):
        spread = "" if entry["nll_sd"] is None else f" ± {entry['nll_sd']:.3f}"
        differences = " ".join(f"{value:+.3f}" for value in entry.get("difference", {}).values())
        steps = entry.get("steps_to_control")
        lines.append(
            f"| {student} | {entry['nll_mean']:.3f}{spread} | {differences} | {entry['accuracy_mean']:.3f} "
            f"| {entry['ece_mean']:.3f} | {'–' if steps is None else f'{steps:.0f}'} |"
        )
    return "\n".join(lines)


@click.command()
@click.option("--params", type=click.Path(path_type=Path), default=Path("params.yaml"), show_default=True)
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option("--students", default="", help="Names, comma-separated; all of params.yaml by default.")
@click.option("--work", type=click.Path(path_type=Path), default=Path(".work/compare"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write; the table goes beside it.")
def main(params: Path, seeds: str, students: str, work: Path, out: Path) -> None:
    """Compare students over seeds."""
    names = students.split(",") if students else list(yaml.safe_load(params.read_text(encoding="utf-8"))["students"])
    results: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in names}
    for seed in map(int, seeds.split(",")):  # seed by seed: what an interruption leaves is complete for some seeds
        for name in names:
            results[name][seed] = run_pair(params, name, seed, work)
            click.echo(f"{name} seed {seed}: held-out NLL {results[name][seed]['nll']:.4f}", err=True)
    summary = summarise(results)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(table(summary) + "\n", encoding="utf-8")
    click.echo(table(summary))


if __name__ == "__main__":
    main()
