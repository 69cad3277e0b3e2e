"""A summary, a page and plots from evaluations and run records written by hand."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.evaluate.bootstrap import Means
from pipeline.evaluate.params import EvaluateParams
from pipeline.evaluate.results import DocumentSums, write_json, write_sums
from pipeline.report.page import page, unmet_expectations
from pipeline.report.page_comparisons import control_of
from pipeline.report.plots import VEGA_TEMPLATE
from pipeline.report.summary import (
    Names,
    summarise,
    write_report,
)
from storage.errors import StaleParent, StoreMissing

NAMES = Names(
    teachers=("sci", "prose"),
    fusions=("confident", "uniform", "only-things"),
    students=("labels-only", "fused", "only-things"),
    records=("mask", "teach-sci", "teach-prose", "train-fused", "evaluate-fused"),
)
PARAMS = EvaluateParams(against="data/targets/confident", bootstrap=100, seed=0)
DOCUMENTS = 50
FIDELITY = {
    "positions": 1552,
    "bytes_per_position": 50.25,
    "entries": 20.25,
    "mass": 0.84,
    "tv": 0.092,
    "kl": [0.187, 0.209],
    "gradient": {"near": {"angle_degrees": 2.53, "length_ratio": 1.01, "blocks": 2}},
}


def scores(nll: float, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"positions": 400, "coverage": 1.0, "documents": DOCUMENTS}
    for name, value in {"nll": nll, "accuracy": 0.5, "accuracy_top5": 0.7, "agreement": 0.8, "ece": 0.05}.items():
        found |= {name: value, f"{name}_low": value - 0.01, f"{name}_high": value + 0.01}
    return found | more


def write_sums_of(path: Path, nll: float, *, masks: str = "m" * 64, noise: float = 0.0) -> None:
    """Documents of very different difficulty; `noise` is what this one adds to them."""
    hard_D = (
        np.linspace(1, 5, DOCUMENTS) + nll - 3 + noise * np.random.default_rng(int(nll * 1000)).normal(size=DOCUMENTS)
    )
    means = Means(
        names=("nll", "accuracy", "area"),
        total_DQ=np.stack([8 * hard_D, np.full(DOCUMENTS, 4.0), 8 * (hard_D + 0.5)], axis=1),
        count_DQ=np.full((DOCUMENTS, 3), 8.0),
    )
    source_D = ["noun.animal", "verb.motion"] * (DOCUMENTS // 2)
    write_sums(path, DocumentSums(masks=masks, document_D=np.arange(DOCUMENTS), source_D=source_D, means=means))


def write_evaluation(path: Path, report: dict[str, Any], **options: Any) -> None:
    write_json(path, report)
    write_sums_of(path.with_suffix(".arrow"), report["nll"], **options)


def student(nll: float, learns_from: str) -> dict[str, Any]:
    curve = [[0, nll + 1], [90, nll + 0.4], [180, nll]]
    return scores(nll, learns_from=learns_from, curve=curve, parameters=22_700_000, model_bytes=90_900_000, kl=0.4)


def fusion(nll: float, weights: dict[str, float], weighting: str, gain: float) -> dict[str, Any]:
    rows = [
        {"source": s, "positions": 400 - 9 * n, "weights": weights} for n, s in enumerate(("noun.act", "verb.motion"))
    ]
    return scores(
        nll,
        weights=weights,
        weights_by_source=rows,
        weighting=weighting,
        best_teacher="sci",
        gain=gain,
        gain_low=gain - 0.02,
        gain_high=gain + 0.02,
        kl_to_best_teacher=0.1,
        bytes_per_position=90.5,
        store_bytes=1_000_000,
    )


def by_place(capital: float) -> list[dict[str, Any]]:
    """A teacher that covers so much of the words with a capital, a quarter of the positions, and all others."""
    return [
        {"place": "capital", "positions": 50, "share": 0.25, "covered": capital},
        {"place": "single token", "positions": 150, "share": 0.75, "covered": 1.0},
    ]


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    """fused is 0.1 below labels-only for certain, only-things 0.01 below it with noise; uniform is below confident."""
    folder = tmp_path / "reports"
    for name, nll, coverage in (("sci", 2.9, 0.97), ("prose", 3.0, 0.9)):
        report = scores(nll, parameters=109_500_000, bytes_per_position=130.25, store_bytes=2_000_000, temperature=1.1)
        report["nll_restored"] = 3.25
        report |= {"coverage": coverage, "coverage_by_place": by_place(1 - 4 * (1 - coverage))}
        write_evaluation(folder / "teachers" / f"{name}.json", report)
        write_json(folder / "fidelity" / f"{name}.json", FIDELITY | ({"kl": [None]} if name == "prose" else {}))
    both = {"sci": 0.625, "prose": 0.375}
    write_evaluation(folder / "fusions" / "confident.json", fusion(2.80, both, "entropy", 0.1))
    write_evaluation(folder / "fusions" / "uniform.json", fusion(2.75, both, "uniform", 0.01))
    write_evaluation(folder / "fusions" / "only-things.json", fusion(2.9, {"sci": 1.0}, "uniform", 0.0))
    write_evaluation(folder / "students" / "labels-only.json", student(3.80, "labels"))
    write_evaluation(folder / "students" / "fused.json", student(3.70, "confident"))
    write_evaluation(folder / "students" / "only-things.json", student(3.79, "only-things"), noise=0.2)
    for name in ("teach-sci", "train-fused", "mask", "train-gone", "evaluate-fused"):
        run = {"seconds": 10.5, "cpu_seconds": 20.25, "peak_memory_bytes": 10**9, "python": "3.11.7", "cores": 2}
        write_json(folder / "runs" / f"{name}.json", run | ({"torch": "2.13.0"} if name.startswith("train") else {}))
    return folder


@pytest.fixture
def summary(reports: Path) -> dict[str, Any]:
    return summarise(PARAMS, NAMES, reports=reports)


def test_names_come_from_the_sections_of_params() -> None:
    params = {
        "sources": {"w": {}},
        "inputs": {"w": {}},
        "teachers": {"t": {}},
        "fusions": {"f": {}},
        "students": {"s": {}},
    }
    assert list(Names.of(params).records) == [
        "sources-w", "ingest-w", "corpus", "tokenize", "mask", "teach-t", "exact-t", "fidelity-t", "fuse-f",
        "target_gradients", "train-s", "lexicon", "evaluate_teacher-t", "evaluate_fusion-f", "evaluate-s",
    ]  # fmt: skip
    assert Names.of({"teachers": None}).teachers == ()


def test_the_page_says_what_the_stores_keep(summary: dict[str, Any]) -> None:
    assert summary["fidelity"]["sci"]["kl_calibrated"] == 0.209
    assert summary["fidelity"]["prose"]["kl_calibrated"] is None
    text = page(summary)
    assert "| `sci` | 50.2 | 20.2 | 0.840 | 0.187 | 0.209 | 0.092 | 2.5 | 1.010 | 1552 |" in text
    assert "| `prose` | 50.2 | 20.2 | 0.840 | infinite | infinite |" in text


def test_the_summary_joins_scores_and_costs(summary: dict[str, Any]) -> None:
    teacher = summary["teachers"]["sci"]
    assert {"nll", "accuracy", "parameters", "positions", "bytes_per_position", "coverage"} <= set(teacher)
    assert {"nll", "accuracy", "kl_to_best_teacher"} <= set(summary["fusions"]["confident"])
    fused = summary["students"]["fused"]
    assert {"nll", "accuracy", "ece", "parameters", "curve", "seconds", "nll_low", "nll_high"} <= set(fused)
    assert fused["curve"] == [[0, 4.7], [90, 4.1], [180, 3.7]]
    assert (fused["seconds"], fused["peak_memory_bytes"]) == (10.5, 10**9)
    assert teacher["seconds"] == 10.5
    assert "seconds" not in summary["teachers"]["prose"]


def test_runs_of_names_that_params_no_longer_list_do_not_count(summary: dict[str, Any]) -> None:
    assert list(summary["stages"]) == ["mask", "teach-sci", "train-fused", "evaluate-fused"]
    assert summary["run"]["seconds"] == 42.0
    assert (summary["run"]["python"], summary["run"]["torch"]) == ("3.11.7", "2.13.0")
    assert summary["run"]["device"] is None


def test_students_are_compared_with_labels_only_by_document(summary: dict[str, Any]) -> None:
    assert control_of(summary) == "labels-only"
    certain = summary["students"]["fused"]["over_labels"]
    assert [certain["nll"], certain["nll_low"], certain["nll_high"]] == pytest.approx([-0.1] * 3, abs=1e-9)
    unsure = summary["students"]["only-things"]["over_labels"]
    assert unsure["nll_low"] < 0 < unsure["nll_high"]
    assert "over_labels" not in summary["students"]["labels-only"]
    assert len(summary["differences"]["students"]) == 6


def test_students_are_compared_by_domain_and_by_area_too(reports: Path) -> None:
    params = PARAMS.model_copy(update={"domains": {"animals": ["noun.animal"], "rest": ["*"]}})
    summary = summarise(params, NAMES, reports=reports)
    rows = [row for row in summary["comparisons"] if (row["student"], row["control"]) == ("fused", "labels-only")]
    assert {(row["metric"], row["domain"]) for row in rows} == {
        (metric, domain) for metric in ("nll", "area") for domain in ("all", "animals", "rest")
    }
    for row in rows:
        assert [row["difference"], row["low"], row["high"]] == pytest.approx([-0.1] * 3, abs=1e-9)
        assert row["seeds"] == [0]
    assert summary["students"]["fused"]["steps_to_control"] == pytest.approx(1 - 90 * 0.1 / 0.4 / 180)
    assert "steps_to_control" not in summary["students"]["labels-only"]
    assert [row["domain"] for row in summary["teachers"]["sci"]["domains"]] == ["animals", "rest"]
    text = page(summary)
    against = table(text, "### Against `labels-only`")
    assert against[0][2:] == [
        "NLL, all", "NLL, animals", "NLL, rest", "area, all", "area, animals", "area, rest", "steps to its end",
    ]  # fmt: skip
    assert against[2] == ["`fused`", "0", *["-0.1000 [-0.1000, -0.1000]"] * 6, "88 %"]
    assert table(text, "### By domain")[0] == ["NLL", "all", "animals", "rest"]


def test_entries_of_several_seeds_are_one_student(reports: Path) -> None:
    """fused has seeds 0 and 1, 0.1 and 0.3 below labels-only, whose entries are paired with theirs."""
    write_evaluation(reports / "students" / "fused-1.json", student(3.55, "confident"))
    write_evaluation(reports / "students" / "labels-1.json", student(3.85, "labels"))
    entries = ("labels-only", "fused", "only-things", "fused-1", "labels-1")
    names = replace(
        NAMES,
        students=entries,
        seeds={
            "labels-only": {0: "labels-only", 1: "labels-1"},
            "fused": {0: "fused", 1: "fused-1"},
            "only-things": {0: "only-things"},
        },
    )
    summary = summarise(PARAMS, names, reports=reports)
    row = next(row for row in summary["comparisons"] if (row["student"], row["control"]) == ("fused", "labels-only"))
    assert row["seeds"] == [0, 1]
    assert row["difference"] == pytest.approx(-0.2)
    assert (row["low"], row["high"]) == pytest.approx((-0.3, -0.1))
    students = summary["students"]
    assert students["fused"]["over_labels"]["nll"] == pytest.approx(-0.1)
    assert students["fused-1"]["over_labels"]["nll"] == pytest.approx(-0.3)
    assert "over_labels" not in students["labels-1"]
    assert "steps_to_control" in students["fused"]
    assert "steps_to_control" not in students["fused-1"]
    assert table(page(summary), "### Differences")[0] == [
        "NLL, row minus column", "`labels-only`", "`fused`", "`only-things`",
    ]  # fmt: skip


def test_a_teacher_alone_that_is_better_in_a_domain_is_named(reports: Path) -> None:
    params = PARAMS.model_copy(update={"domains": {"animals": ["noun.animal"]}})
    write_evaluation(reports / "students" / "only-things.json", student(3.6, "only-things"))
    found = unmet_expectations(summarise(params, NAMES, reports=reports))
    assert any(
        line.startswith("`fused` is worse than `only-things`, whose target has one teacher in animals: +0.1000")
        for line in found
    )


def test_what_each_target_would_teach_is_in_the_report(reports: Path) -> None:
    assert "## What each target would teach" not in page(summarise(PARAMS, NAMES, reports=reports))
    sci = {"squared_bias": 0.423, "cosine": 0.779, "variance": 155.0, "positions": 1470.4}
    measured = {
        "measured": 8587,
        "labels": {"variance": 777.25},
        "teachers": {"sci": sci, "prose": {**sci, "positions": None}},
        "fusions": {"confident": sci},
        "cosines": [{"first": "sci", "second": "prose", "cosine": 0.924}],
    }
    write_json(reports / "target_gradients.json", measured)
    text = page(summarise(PARAMS, NAMES, reports=reports))
    rows = table(text, "## What each target would teach")
    assert rows[2] == ["`true tokens`", "0.000", "1.000", "777.2", "–"]
    assert rows[3][4] == "–"
    assert rows[4] == ["`teacher sci`", "0.423", "0.779", "155.0", "1,470"]
    assert rows[5][0] == "`fusion confident`"
    assert "| `sci` | `prose` | 0.924 |" in text


def test_without_a_control_nothing_is_compared_with_it(reports: Path) -> None:
    names = Names(**{**{k: getattr(NAMES, k) for k in NAMES.__slots__}, "students": ("fused", "only-things")})
    summary = summarise(PARAMS, names, reports=reports)
    assert control_of(summary) is None
    assert "over_labels" not in summary["students"]["fused"]
    assert "`fused`" in page(summary)


def test_nothing_to_report_is_reported(tmp_path: Path) -> None:
    names = Names(teachers=(), fusions=(), students=())
    write_report(PARAMS, names, reports=tmp_path, out=tmp_path / "out")
    assert "## Students" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert png_size(tmp_path / "out" / "plots" / "weights.png") > (100, 100)


def test_unmet_expectations_are_those_that_the_intervals_show(summary: dict[str, Any]) -> None:
    found = unmet_expectations(summary)
    about = {name: [line for line in found if line.startswith(name)] for name in ("`", "fusion", "teacher")}
    (weak,) = about["`"]
    assert weak.startswith("`only-things` is not shown to be better than the student that learned from labels only: ")
    assert about["fusion"] == [
        "fusion `uniform` is not shown to be better than its best teacher `sci`: gain +0.0100 [-0.0100, +0.0300] nat.",
        "fusion `confident` is worse than uniform weights (`uniform`): +0.0500 [+0.0500, +0.0500] nat.",
    ]
    assert about["teacher"] == [
        'teacher `prose` covers 90.0 % of the masked positions only, least of the kind "capital" (60.0 %).'
    ]
    assert len(found) == 4


def test_what_teachers_cover_is_shown_by_kind_of_position(reports: Path, summary: dict[str, Any]) -> None:
    rows = table(page(summary), "### Covered, by kind of masked position")
    assert rows[0] == ["", "all", "capital (25.0 %)", "single token (75.0 %)"]
    assert rows[2:] == [
        ["`sci`", "97.0 %", "88.0 %", "100.0 %"],
        ["`prose`", "90.0 %", "60.0 %", "100.0 %"],
    ]
    for name in ("sci", "prose"):
        report = summary["teachers"][name] | {"coverage": 1.0, "coverage_by_place": by_place(1.0)}
        write_evaluation(reports / "teachers" / f"{name}.json", report)
    everything = summarise(PARAMS, NAMES, reports=reports)
    assert "by kind of masked position" not in page(everything)
    assert everything["teachers"]["prose"]["coverage_by_place"] == by_place(1.0)


def test_a_report_without_kinds_is_shown_without_them(reports: Path, summary: dict[str, Any]) -> None:
    for name in ("sci", "prose"):
        report = {key: value for key, value in summary["teachers"][name].items() if key != "coverage_by_place"}
        write_evaluation(reports / "teachers" / f"{name}.json", report)
    text = page(summarise(PARAMS, NAMES, reports=reports))
    assert "by kind of masked position" not in text
    assert "teacher `prose` covers 90.0 % of the masked positions only." in text


def test_a_fused_student_no_better_than_that_of_one_teacher_is_named(reports: Path) -> None:
    write_evaluation(reports / "students" / "only-things.json", student(3.6, "only-things"))
    found = unmet_expectations(summarise(PARAMS, NAMES, reports=reports))
    assert any(
        line.startswith("`fused` is worse than `only-things`, whose target has one teacher: +0.1000") for line in found
    )


def table(text: str, heading: str) -> list[list[str]]:
    """Cells of the first table under a heading."""
    lines = text[text.index(heading) :].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_the_page_has_a_row_for_each_entry_with_interval_and_cost(summary: dict[str, Any]) -> None:
    text = page(summary)
    students = table(text, "## Students")
    titles = students[0]
    assert [row[0] for row in students[2:]] == ["`labels-only`", "`fused`", "`only-things`"]
    fused = dict(zip(titles, students[3], strict=True))
    assert fused["NLL"] == "3.7000 [3.6900, 3.7100]"
    assert fused["NLL minus labels only"] == "-0.1000 [-0.1000, -0.1000]"
    assert fused["parameters, M"] == "22.7"
    assert fused["weights, MB"] == "90.9"
    assert fused["seconds"] == "10"
    assert fused["peak memory, GB"] == "1.00"
    teachers = table(text, "## Teachers")
    assert dict(zip(teachers[0], teachers[3], strict=True))["covered"] == "90.0 % (400)"
    assert dict(zip(teachers[0], teachers[3], strict=True))["seconds"] == "–"
    assert dict(zip(teachers[0], teachers[2], strict=True))["NLL restored"] == "3.2500"
    fusions = table(text, "## Fusions")
    assert [dict(zip(fusions[0], row, strict=True))["gain"] for row in fusions[2:]] == [
        "+0.1000 [+0.0800, +0.1200]",
        "+0.0100 [-0.0100, +0.0300]",
        "–",
    ]
    assert table(text, "### Held-out NLL")[0] == ["step", "0", "90", "180"]
    assert table(text, "### Differences")[3][1] == "-0.1000 [-0.1000, -0.1000]"
    assert table(text, "## Costs")[2][:4] == ["`mask`", "10.5", "20.2", "1.00"]
    assert "is worse than uniform weights" in text
    for rows in (students, teachers, fusions):
        assert len({len(row) for row in rows}) == 1


def png_size(path: Path) -> tuple[int, int]:
    """Width and height of a PNG whose every chunk has the right checksum."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, kinds = 8, []
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        kinds.append(kind)
        at += 12 + length
    assert kinds[0] == b"IHDR"
    assert kinds[-1] == b"IEND"
    return struct.unpack(">II", data[16:24])


def test_plots_are_pictures_with_something_on_them(reports: Path, tmp_path: Path) -> None:
    from matplotlib.image import imread

    write_report(PARAMS, NAMES, reports=reports, out=tmp_path / "out")
    for name in ("convergence", "weights", "size"):
        path = tmp_path / "out" / "plots" / f"{name}.png"
        width, height = png_size(path)
        assert width > 400
        assert height > 200
        colours = np.unique(imread(path)[..., :3].reshape(-1, 3).round(2), axis=0)
        assert len(colours) > 20, name


def test_a_report_made_again_has_the_same_bytes(reports: Path, tmp_path: Path) -> None:
    for out in ("a", "b"):
        write_report(PARAMS, NAMES, reports=reports, out=tmp_path / out)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert [str(file) for file in files] == [
        "index.html", "plots/convergence.png", "plots/curves.json", "plots/curves.template.json", "plots/size.png",
        "plots/weights.png", "report.md", "summary.json",
    ]  # fmt: skip
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_curves_are_there_for_dvc(reports: Path, tmp_path: Path) -> None:
    write_report(PARAMS, NAMES, reports=reports, out=tmp_path / "out")
    points = json.loads((tmp_path / "out" / "plots" / "curves.json").read_text(encoding="utf-8"))
    assert {"student": "fused", "step": 90, "nll": 4.1} in points
    assert len(points) == 9
    template = json.loads((tmp_path / "out" / "plots" / "curves.template.json").read_text(encoding="utf-8"))
    assert template == VEGA_TEMPLATE


def test_an_evaluation_that_is_not_there_is_named(reports: Path) -> None:
    (reports / "students" / "fused.json").unlink()
    with pytest.raises(StoreMissing, match=r"students/fused\.json: not found\. Run: dvc repro evaluate@fused"):
        summarise(PARAMS, NAMES, reports=reports)


def test_evaluations_of_different_masks_are_refused(reports: Path) -> None:
    write_sums_of(reports / "students" / "fused.arrow", 3.7, masks="n" * 64)
    with pytest.raises(StaleParent, match=r"fused\.arrow: evaluated on masks n{12}, but .*labels-only\.arrow on m{12}"):
        summarise(PARAMS, NAMES, reports=reports)
