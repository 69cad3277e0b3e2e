"""The evaluation commands from end to end on hand-made stores; refusals are one line and exit code 2."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from pipeline.evaluate.results import write_json
from stages import evaluate, evaluate_fusion, evaluate_teacher, report
from stages.tools import show
from tests.helpers.stores import TinyStores
from tests.helpers.teacher_stores import make_world, write_student

PARAMS = """
sources: {}
inputs: {}
teachers: {alpha: {}, beta: {}}
fusions: {confident: {}}
students: {fused: {}, labels-only: {}}
evaluate: {against: data/targets/confident, bootstrap: 20, seed: 0}
runtime: {device: cpu, dtype: float32, threads: 0, batch_tokens: 512, checkpoint_seconds: 60.0}
"""
FIDELITY = {
    "positions": 64,
    "bytes_per_position": 40.5,
    "entries": 8.0,
    "mass": 0.9,
    "tv": 0.05,
    "kl": [0.1, 0.12],
    "gradient": {"near": {"angle_degrees": 3.0, "length_ratio": 1.0, "blocks": 1}},
}
STORES = ["--documents", "data/documents", "--sequences", "data/sequences", "--masks", "data/masks"]


@pytest.fixture(scope="module")
def workshop(tiny_stores: TinyStores, tiny_mlm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where everything is made and nothing is evaluated yet."""
    folder = tmp_path_factory.mktemp("workshop")
    make_world(tiny_stores, folder / "data")
    write_student(folder / "models" / "fused", tiny_mlm, tiny_stores)
    write_student(folder / "models" / "labels-only", tiny_mlm, tiny_stores, targets=None)
    (folder / "params.yaml").write_text(PARAMS, encoding="utf-8")
    for name in ("alpha", "beta"):  # the worlds' teachers were never models, whose hidden states could be kept
        write_json(folder / "reports" / "fidelity" / f"{name}.json", FIDELITY)
    return folder


@pytest.fixture
def project(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(workshop)
    return workshop


def call(command: click.Command, *arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments), catch_exceptions=False)


def evaluate_everything() -> None:
    for name in ("alpha", "beta"):
        out = f"reports/teachers/{name}.json"
        assert (
            call(evaluate_teacher.main, name, *STORES, "--logits", f"data/logits/{name}", "--out", out).exit_code == 0
        )
    targets = ["--logits", "data/logits", "--targets", "data/targets/confident"]
    out = "reports/fusions/confident.json"
    assert call(evaluate_fusion.main, "confident", *STORES, *targets, "--out", out).exit_code == 0
    for name in ("fused", "labels-only"):
        out = f"reports/students/{name}.json"
        assert call(evaluate.main, name, *STORES, "--model", f"models/{name}", "--out", out).exit_code == 0


def test_evaluating_and_reporting_leave_everything_that_is_promised(project: Path) -> None:
    evaluate_everything()
    assert call(report.main, "--reports", "reports", "--out", "reports").exit_code == 0
    summary = json.loads((project / "reports" / "summary.json").read_text(encoding="utf-8"))
    for name in ("alpha", "beta"):
        wanted = {"nll", "accuracy", "parameters", "positions", "bytes_per_position", "coverage"}
        assert wanted <= set(summary["teachers"][name])
    assert {"nll", "accuracy", "kl_to_best_teacher"} <= set(summary["fusions"]["confident"])
    student = summary["students"]["fused"]
    assert {"nll", "nll_low", "nll_high", "accuracy", "ece", "parameters", "curve", "kl"} <= set(student)
    assert student["over_labels"]["nll"] == 0  # the same weights
    assert {"python", "torch", "device", "dtype", "seconds"} <= set(summary["run"])
    assert "evaluate_fusion-confident" in summary["stages"]
    assert (project / "reports" / "report.md").read_text(encoding="utf-8").startswith("# Results")
    assert sorted(path.name for path in (project / "reports" / "plots").glob("*.png")) == [
        "convergence.png", "size.png", "weights.png",
    ]  # fmt: skip
    assert not list(project.rglob("*.new"))


def test_show_prints_the_words_and_the_answers(project: Path) -> None:
    result = call(show.main, "--students", "fused")
    assert result.exit_code == 0
    first = result.stdout.splitlines()[0]
    assert first.startswith("document animals:t")
    assert "(heldout, source " in first
    assert "____[1]" in result.stdout
    for name in ("alpha", "beta", "confident", "fused"):
        assert name in result.stdout
    assert "labels-only" not in result.stdout
    again = call(show.main, "--document", first.split()[1], "--positions", "0")
    assert again.exit_code == 0
    assert "labels-only" in again.stdout


@pytest.mark.parametrize(("arguments", "message"), [
    (["--document", "animals:t00"], "no document 'animals:t00' (did you mean 'animals:t00"),
    (["--students", "fusd"], "students: no key 'fusd' (did you mean 'fused'?)"),
])  # fmt: skip
def test_show_refuses_what_it_does_not_know_in_one_line(project: Path, arguments: list[str], message: str) -> None:
    result = call(show.main, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("Error:") == 1
    assert result.stdout == ""


def test_a_mistyped_setting_is_refused_before_any_work(project: Path) -> None:
    (project / "wrong.yaml").write_text(PARAMS.replace("bootstrap", "bootstraps"), encoding="utf-8")
    out = ["--logits", "data/logits/alpha", "--out", "reports/none.json", "--params", "wrong.yaml"]
    result = call(evaluate_teacher.main, "alpha", *STORES, *out)
    assert result.exit_code == 2
    assert "wrong.yaml: evaluate: unknown key 'bootstraps' (did you mean 'bootstrap'?)" in result.stderr
    assert not (project / "reports" / "none.json").exists()
