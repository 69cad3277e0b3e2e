"""Suites in the summary and on the page: written by hand beside the evaluations of test_reporting."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.evaluate.results import read_json, write_json
from pipeline.report.page import page, unmet_expectations
from pipeline.report.page_suites import FRONT, suites_part
from pipeline.report.ranking import distilled
from pipeline.report.summary import (
    Candidate,
    Names,
    control_of,
    summarise,
    write_report,
)
from storage.errors import (
    ParamsError,
    SchemaMismatch,
    StaleParent,
    StoreMissing,
)
from tests.pipeline.report import test_summary as test_reporting
from tests.pipeline.report.test_ranking import costs, metric
from tests.pipeline.report.test_summary import PARAMS, png_size, table

reports = test_reporting.reports

ALL = ("wsd", "glue", "language_model", "costs")
NAMES = Names(
    **{name: getattr(test_reporting.NAMES, name) for name in ("teachers", "fusions", "students")},
    suites={
        "fused": Candidate(model="models/fused", suites=ALL),
        "lex": Candidate(model="models/lex", suites=ALL),
        "sci": Candidate(model="data/sources/sci", suites=("costs",)),
    },
    lexical={"lex": "models/fused"},
    records=(*test_reporting.NAMES.records, "lexical-lex", "wsd-lex", "language_model-lex", "costs-sci"),
)
RUN = {"cpu": "Some CPU", "cores": 2, "threads": 1, "device": "cpu", "dtype": "float32", "torch": "2.13.0"}


def write_suite(folder: Path, suite: str, name: str, metrics: dict[str, Any], **details: Any) -> None:
    headline = {"wsd": "all", "glue": "average", "language_model": "nll", "costs": "latency_ms"}[suite]
    model = {"folder": f"models/{name}", "weights": name * 8}
    report = {"suite": suite, "model": model, "headline": headline, "metrics": metrics} | details
    write_json(folder / suite / f"{name}.json", report)


def all_costs(parameters: float, latency: float) -> dict[str, Any]:
    rest = {"embedding_parameters": 0.5 * parameters, "flops": 1.5e9, "peak_memory_bytes": 2e8}
    rates = {"sequences_per_second": 1000 / latency, "sequences_per_second_batch_32": 3000 / latency}
    return costs(parameters, latency) | {name: metric(value) for name, value in (rest | rates).items()}


@pytest.fixture
def evaluated(reports: Path) -> Path:
    """lex gains in wsd, not for certain in glue, and loses as a language model."""
    change = {"value": 0.05, "low": 0.03, "high": 0.07}
    for name, wsd, glue, nll in (("fused", 60.0, 76.0, 3.70), ("lex", 66.0, 76.5, 3.75)):
        write_suite(reports, "wsd", name, {"all": metric(wsd, 1.0), "nouns": metric(wsd + 2)})
        write_suite(reports, "glue", name, {"average": metric(glue, 0.5)}, settings={"of": name}, data={"identity": {}})
        more = {"nll_change": change} if name == "lex" else {}
        write_suite(reports, "language_model", name, {"nll": metric(nll, 0.2), **more})
        write_suite(reports, "costs", name, all_costs(22.7e6, 40.0), energy_source="estimated", run=RUN)
    write_suite(reports, "costs", "sci", all_costs(109.5e6, 200.0), energy_source="rapl", run=RUN | {"threads": 2})
    run = {"seconds": 33.5, "cpu_seconds": 40.0, "peak_memory_bytes": 2 * 10**9}
    for record in ("lexical-lex", "wsd-lex", "language_model-lex", "costs-sci", "lexical-gone"):
        write_json(reports / "runs" / f"{record}.json", run)
    return reports


@pytest.fixture
def summary(evaluated: Path) -> dict[str, Any]:
    return summarise(PARAMS, NAMES, reports=evaluated)


def test_names_of_suites_come_from_params() -> None:
    lex = {"model": "models/lex"}
    params = {
        "students": {"fused": {}},
        "senses": {"examples": {}},
        "lexical": {"lex": {"start": "models/fused", "objective": "lmgc"}},
        "soft_labels": {"large": {}},
        "rewrite": {"prose": {}},
        "suites": {
            "wsd": {"lex": lex},
            "language_model": {"lex": {**lex, "before": "models/fused"}},
            "paraphrase": {},
            "glue": {},
            "plagiarism": {},
            "costs": {"sci": {"model": "data/sources/sci"}, "lex": lex},
        },
    }
    names = Names.of(params)
    assert names.suites == {
        "lex": Candidate(model="models/lex", suites=("wsd", "language_model", "costs")),
        "sci": Candidate(model="data/sources/sci", suites=("costs",)),
    }
    assert names.lexical == {"lex": "models/fused"}
    runs = list(names.records)
    assert runs[-4:] == ["language_model-lex", "rewrite-prose", "costs-sci", "costs-lex"]
    assert [run for run in runs if run.startswith(("lex", "senses", "soft_labels", "rewrite"))] == [
        "lexicon", "senses-examples", "lexical-lex", "soft_labels-large", "rewrite-prose",
    ]  # fmt: skip


def test_a_suite_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ParamsError, match=r"^suites: unknown key 'wsds' \(did you mean 'wsd'\?\)"):
        Names.of({"suites": {"wsds": {}}})


def test_without_suites_nothing_new_is_reported(evaluated: Path) -> None:
    """Whatever lies in the folders of suites."""
    summary = summarise(PARAMS, test_reporting.NAMES, reports=evaluated)
    assert set(summary) == {
        "stages",
        "run",
        "teachers",
        "fusions",
        "students",
        "fidelity",
        "differences",
        "comparisons",
    }
    assert list(summary["students"]) == ["labels-only", "fused", "only-things"]
    assert "wsd" not in summary["students"]["fused"]
    assert suites_part(summary) == []


def test_the_summary_has_every_suite_under_its_model(summary: dict[str, Any]) -> None:
    students = summary["students"]
    assert list(students) == ["labels-only", "fused", "only-things", "lex"]
    assert students["lex"]["wsd"]["all"] == {"value": 66.0, "low": 65.0, "high": 67.0}
    assert students["lex"]["wsd"]["nouns"] == {"value": 68.0}
    assert set(students["lex"]) == {"start", "seconds", "peak_memory_bytes", *ALL}
    assert students["lex"]["seconds"] == 33.5
    assert students["fused"]["nll"] == 3.70
    assert students["fused"]["language_model"]["nll"]["value"] == 3.70
    assert "wsd" not in students["labels-only"]
    assert summary["teachers"]["sci"]["costs"]["latency_ms"]["value"] == 200.0
    assert summary["teachers"]["sci"]["costs"]["energy_source"] == "rapl"
    assert {"wsd-lex", "language_model-lex", "costs-sci", "lexical-lex"} <= set(summary["stages"])
    assert "lexical-gone" not in summary["stages"]


def test_numbers_of_evaluations_do_not_change(summary: dict[str, Any], evaluated: Path) -> None:
    before = summarise(PARAMS, test_reporting.NAMES, reports=evaluated)
    assert control_of(summary) == control_of(before) == "labels-only"
    assert distilled(summary).keys() == before["students"].keys()
    for name, entry in before["students"].items():
        assert entry.items() <= summary["students"][name].items()
    assert summary["differences"] == before["differences"]
    for heading in ("## Students", "### Differences", "## Teachers", "## Fusions"):
        assert table(page(summary), heading) == table(page(before), heading)


def test_the_page_has_a_row_a_suite_with_and_without(summary: dict[str, Any]) -> None:
    rows = table(page(summary), "## With and without lexical training")
    assert rows[2:] == [
        ["`lex`", "`fused`", "wsd (all)", "60.0 [59.0, 61.0]", "66.0 [65.0, 67.0]", "+6.0000 [+4.5858, +7.4142]"],
        ["`lex`", "`fused`", "glue (average)", "76.0 [75.5, 76.5]", "76.5 [76.0, 77.0]", "+0.5000 [-0.2071, +1.2071]"],
        ["`lex`", "`fused`", "language_model (nll)", "3.7000 [3.5000, 3.9000]", "3.7500 [3.5500, 3.9500]",
         "+0.0500 [+0.0300, +0.0700]"],
        ["`lex`", "`fused`", "costs (parameters)", "22,700,000", "22,700,000", "+0.0000"],
        ["`lex`", "`fused`", "costs (flops)", "1,500,000,000", "1,500,000,000", "+0.0000"],
    ]  # fmt: skip


def test_ranks_by_score_and_by_cost_stand_in_one_table(summary: dict[str, Any]) -> None:
    rows = table(page(summary), "## Scores, and scores against costs")
    assert rows[0][3:] == ["rank", *(f"rank by score / {cost}" for cost in ("million parameters", "ms", "joule", "MB"))]
    first, second = (dict(zip(rows[0], row, strict=True)) for row in rows[2:4])
    assert (first["model"], first["rank"], first["rank by score / ms"]) == ("`lex`", "1", f"1 (1.65) {FRONT}")
    assert (second["model"], second["rank"], second["rank by score / ms"]) == ("`fused`", "2", "2 (1.5)")
    assert [row[1] for row in rows[6:8]] == ["`fused`", "`lex`"]  # the language model, lower NLL first


def test_costs_are_shown_with_the_source_of_energy_and_the_machine(summary: dict[str, Any]) -> None:
    text = page(summary)
    rows = table(text, "## What using a model costs")
    shown = {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}
    assert set(shown) == {"`fused`", "`lex`", "`sci`"}
    assert shown["`lex`"]["parameters, M"] == "22.7"
    assert shown["`lex`"]["joules a 1,000 sequences"] == "500.0 (estimated)"
    assert shown["`sci`"]["joules a 1,000 sequences"] == "500.0 (rapl)"
    assert shown["`sci`"]["in batches"] == "15.0 (batch 32)"
    assert "Measured with device cpu, cpu Some CPU, threads 1 / 2, dtype float32, torch 2.13.0." in text


def test_what_lexical_training_costs_or_does_not_bring_is_named(summary: dict[str, Any]) -> None:
    found = [line for line in unmet_expectations(summary) if line.startswith("`lex`")]
    assert found == [
        (
            "`lex` is not shown to be better than `fused`, which it started from, in glue (average): "
            "+0.5000 [-0.2071, +1.2071]."
        ),
        "`lex` is worse than `fused`, which it started from, in language_model (nll): +0.0500 [+0.0300, +0.0700].",
    ]


def test_a_picture_of_scores_against_costs_is_drawn(evaluated: Path, tmp_path: Path) -> None:
    for out in ("a", "b"):
        write_report(PARAMS, NAMES, reports=evaluated, out=tmp_path / out)
    path = tmp_path / "a" / "plots" / "costs.png"
    width, height = png_size(path)
    assert width > 800
    assert height > 800  # three suites
    assert path.read_bytes() == (tmp_path / "b" / "plots" / "costs.png").read_bytes()
    summary = json.loads((tmp_path / "a" / "summary.json").read_text(encoding="utf-8"))
    assert summary["students"]["lex"]["glue"]["average"]["value"] == 76.5
    assert isinstance(summary["rankings"], list)
    assert isinstance(summary["lexical"], list)
    assert "plots/costs.png" in (tmp_path / "a" / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("suite", "stage"), [("language_model", "language_model"), ("wsd", "wsd"), ("glue", "glue"), ("costs", "costs")]
)
def test_a_suite_that_was_not_run_is_named(evaluated: Path, suite: str, stage: str) -> None:
    (evaluated / suite / "lex.json").unlink()
    with pytest.raises(StoreMissing, match=rf"{suite}/lex\.json: not found\. Run: dvc repro {stage}@lex"):
        summarise(PARAMS, NAMES, reports=evaluated)


def test_suites_that_evaluated_different_weights_are_refused(evaluated: Path) -> None:
    path = evaluated / "glue" / "lex.json"
    report = read_json(path, remedy="")
    report["model"]["weights"] = "old" * 8
    write_json(path, report)
    with pytest.raises(
        StaleParent,
        match=r"glue/lex\.json: evaluated weights oldoldoldold of models/lex, but wsd evaluated lexlexlexlex\. Run: ",
    ):
        summarise(PARAMS, NAMES, reports=evaluated)


def test_models_that_one_suite_ranks_by_different_numbers_are_refused(evaluated: Path) -> None:
    path = evaluated / "wsd" / "lex.json"
    write_json(path, read_json(path, remedy="") | {"headline": "nouns"})
    with pytest.raises(SchemaMismatch, match=r"wsd/lex\.json: ranked by nouns, but models before it by all\. Run: "):
        summarise(PARAMS, NAMES, reports=evaluated)


def test_what_the_student_started_from_need_not_be_evaluated(evaluated: Path) -> None:
    """The default settings: the report on the language model holds the numbers before."""
    started = {"nll_before": metric(3.70, 0.2), "nll_change": {"value": 0.05, "low": 0.03, "high": 0.07}}
    write_suite(evaluated, "language_model", "lex", {"nll": metric(3.75, 0.2), **started})
    names = replace(NAMES, suites={"lex": NAMES.suites["lex"]})
    rows = table(page(summarise(PARAMS, names, reports=evaluated)), "## With and without lexical training")
    assert rows[2:] == [
        ["`lex`", "`models/fused`", "language_model (nll)", "3.7000 [3.5000, 3.9000]", "3.7500 [3.5500, 3.9500]",
         "+0.0500 [+0.0300, +0.0700]"],
    ]  # fmt: skip


def test_a_lexical_student_that_no_suite_evaluated_is_listed_all_the_same(evaluated: Path) -> None:
    names = Names(
        **{name: getattr(test_reporting.NAMES, name) for name in ("teachers", "fusions", "students")},
        lexical={"lex": "models/fused"},
    )
    summary = summarise(PARAMS, names, reports=evaluated)
    assert summary["students"]["lex"] == {"start": "models/fused"}
    assert "`lex`" not in page(summary)


def test_a_control_is_the_entry_that_differs_in_its_weights_alone() -> None:
    lex = {
        "start": "models/fused",
        "gold": 1.0,
        "soft_labels": 0.5,
        "soft_labels_from": "data/soft_labels/x",
        "seed": 0,
    }
    without = {"gold": 0, "soft_labels": 0.0}
    params = {"lexical": {"lex": lex, "plain": lex | without, "other": lex | without | {"seed": 1}}}
    assert Names.of(params).controls == {"lex": "plain"}
    assert Names.of({"lexical": {"lex": lex}}).controls == {}


def test_students_are_compared_with_their_control_task_by_task(evaluated: Path) -> None:
    for name, points in (("fused", 70.0), ("lex", 74.0), ("control", 73.0)):
        tasks = {
            task: {"seeds": {"0": points + n}, "resampled": {"0": f"{points + n} {points + n + 0.5 * (name == 'lex')}"}}
            for n, task in enumerate(("CoLA", "RTE"))
        }
        average = {"seeds": {"0": points + 0.5}, "of": ["CoLA", "RTE"]}
        details = {"settings": {}, "data": {"identity": {}}, "tasks": tasks, "average": average}
        write_suite(evaluated, "glue", name, {"average": metric(points + 0.5, 3.0)}, **details)
    names = replace(
        NAMES,
        suites={**NAMES.suites, "control": Candidate(model="models/control", suites=("glue",))},
        lexical={"lex": "models/fused", "control": "models/fused"},
        controls={"lex": "control"},
    )
    summary = summarise(PARAMS, names, reports=evaluated)
    text = page(summary)
    rows = [row for row in table(text, "## With and without lexical training") if row[1] == "`control` (control)"]
    assert rows == [["`lex`", "`control` (control)", "glue (average)", "73.5 [70.5, 76.5]", "74.5 [71.5, 77.5]",
                     "+1.0000 [+1.0125, +1.4875]"]]  # fmt: skip
    by_task = table(text, "### By task of GLUE")
    assert by_task[0] == ["with", "without", "task", "points", "z", "seeds"]
    assert [row[1:4] for row in by_task[2:]] == [
        ["`fused`", "CoLA", "+4.0 [+4.0, +4.5]"], ["`fused`", "RTE", "+4.0 [+4.0, +4.5]"],
        ["`fused`", "all tasks", "+4.0 [+4.0, +4.5]"],
        ["`control`", "CoLA", "+1.0 [+1.0, +1.5]"], ["`control`", "RTE", "+1.0 [+1.0, +1.5]"],
        ["`control`", "all tasks", "+1.0 [+1.0, +1.5]"],
    ]  # fmt: skip
    assert [row[4] for row in by_task[5:]] == ["+2.8", "+2.8", "+4.0"], "1 / (0.5 / sqrt 2), and twice that / sqrt 2"
    assert not any(row["with"] == "control" for row in summary["lexical"]), "a control is no student with senses"
