"""The page as a file: its numbers are those of summary.json, its texts are texts, and it needs nothing beside it.

How it looks and responds is for test_browser.py.
"""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pipeline.report.html.charts import against_cost, convergence, cost_points, weights
from pipeline.report.html.explorer import Explorer
from pipeline.report.html.models import costs_of, curves_of
from pipeline.report.html.page import embedded, report_page, senses_page
from pipeline.report.page import page
from pipeline.report.summary import Names, write_report
from storage.errors import StaleParent
from tests.pipeline.report.html.conftest import EVIL, Made
from tests.pipeline.report.test_ranking import costs


class Page(HTMLParser):
    """Tables by caption, JSON data, and addresses that something is fetched from; elements that must be closed, are."""

    VOID = ("meta", "input", "br", "img", "link", "hr")

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.json: list[Any] = []
        self.fetched: list[str] = []
        self.elements: list[str] = []
        self._caption, self._row, self._cell, self._script = "", [], "", ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.elements.append(tag)
        self.fetched += [value for key, value in attrs if key in ("src", "srcset") and value]
        if tag == "a" and not (values["href"] or "").startswith("#"):
            self.fetched.append(values["href"] or "")
        if tag not in self.VOID:
            self.open.append(tag)
        if tag in ("td", "th", "caption"):
            self._cell = ""
        if tag == "script":
            self._script = values.get("type") or "script"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            if self._script == "application/json":
                self.json.append(json.loads(data))
            return
        self._cell += data

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "caption":
            self._caption = self._cell
            self.tables[self._caption] = []
        if tag in ("td", "th"):
            self._row.append(self._cell)
        if tag == "tr":
            self.tables[self._caption].append(self._row)
            self._row = []


@pytest.fixture(scope="module")
def parsed(made: Made) -> Page:
    return Page(made.text)


def column(parsed: Page, caption: str, title: str) -> dict[str, str]:
    titles, *rows = parsed.tables[caption]
    return {row[0]: row[titles.index(title)] for row in rows}


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(parsed: Page, made: Made) -> None:
    assert parsed.open == []
    assert parsed.fetched == []
    assert "default-src 'none'" in made.text


def test_the_page_is_below_its_limit(made: Made) -> None:
    assert 500_000 < made.page.stat().st_size < 10_000_000


def test_numbers_and_intervals_are_those_of_the_summary(parsed: Page, made: Made) -> None:
    for caption, kind in (("Teachers", "teachers"), ("Fusions", "fusions"), ("Students on held-out text", "students")):
        shown = column(parsed, caption, "NLL")
        assert set(shown) == set(made.summary[kind])
        for name, entry in made.summary[kind].items():
            numbers = [float(number) for number in re.findall(r"[\d.]+", shown[name])]
            assert numbers == pytest.approx([entry["nll"], entry["nll_low"], entry["nll_high"]], abs=5.1e-5)
    rows = [row for row in made.summary["comparisons"] if (row["student"], row["control"]) == ("fused", "labels")]
    titles, *shown_rows = parsed.tables["fused minus each control"]
    assert len(shown_rows) == len(rows) == 3
    for row in rows:
        (cells,) = (cells for cells in shown_rows if cells[titles.index("domain")] == row["domain"])
        numbers = [float(number) for number in re.findall(r"[-+][\d.]+", cells[titles.index("difference, nats")])]
        assert numbers == pytest.approx([row["difference"], row["low"], row["high"]], abs=5.1e-5)


def test_every_row_has_its_command(parsed: Page) -> None:
    for caption, (titles, *rows) in parsed.tables.items():
        assert titles[-1] == "command", caption
        assert rows
        assert all(row[-1].startswith("dvc repro ") for row in rows), caption
    assert column(parsed, "Teachers", "command")["beta"] == "dvc repro evaluate_teacher@beta"


def test_what_teachers_cover_by_kind_of_position_is_that_of_their_reports(parsed: Page, made: Made) -> None:
    titles, *rows = parsed.tables["Covered, by kind of masked position"]
    assert [row[0] for row in rows] == ["alpha", "beta"]
    assert rows[0][1:-1] == ["100.0 %"] * (len(titles) - 2)
    beta = made.summary["teachers"]["beta"]
    kinds = beta["coverage_by_place"]
    assert titles[1:-1] == ["all", *(f"{kind['place']} ({100 * kind['share']:.1f} %)" for kind in kinds)]
    shares = [beta["coverage"], *(kind["covered"] for kind in kinds)]
    assert [float(cell.removesuffix(" %")) for cell in rows[1][1:-1]] == pytest.approx(
        [100 * share for share in shares], abs=0.051
    )
    assert len(kinds) >= 4


def test_what_only_some_runs_have_is_on_the_page(made: Made) -> None:
    """Gradients of targets, differences by task, suites with and without senses, and what was read of the texts."""
    gradient = {"squared_bias": 0.423, "cosine": 0.779, "variance": 155.0, "positions": 1470.4}
    pair = {"with": "lex", "without": "fused"}
    change = {"value_without": 4.0, "value_with": 4.5, "change_value": 0.5, "change_low": 0.25, "change_high": 0.75}
    summary = made.summary | {
        "target_gradients": {
            "measured": 8587,
            "labels": {"variance": 777.25},
            "teachers": {"alpha": gradient},
            "fusions": {},
            "cosines": [{"first": "alpha", "second": "beta", "cosine": 0.924}],
        },
        "lexical": [pair | change | {"control": True, "suite": "language_model", "metric": "nll"}],
        "tasks": [pair | {"task": "CoLA", "value": 4.0, "low": 3.5, "high": 4.5, "z": None, "seeds": ["0"]}],
        "run": {"python": "3.11", "torch": "2.13", "device": "cpu", "dtype": "float32", "seconds": 1.0},
        "stages": {
            "ingest-notes": {"seconds": 1.0, "documents": 7, "bad": 1, "empty": 2, "duplicates": 3, "skipped_files": 4}
        },
    }
    found = Page(report_page(summary, made.names.seeds, Explorer())).tables
    of_gradients = "Gradients of each target at the students' start"
    assert found[of_gradients][1:] == [
        ["true tokens", "0.000", "1.000", "777.2", "–", "dvc repro target_gradients"],
        ["teacher alpha", "0.423", "0.779", "155.0", "1,470", "dvc repro target_gradients"],
    ]
    assert found["Whether teachers err alike"][1:] == [["alpha", "beta", "0.924", "dvc repro target_gradients"]]
    assert found["With and without lexical training"][1:] == [
        ["lex", "fused (control)", "language_model (nll)", "4.0000", "4.5000", "+0.5000 [+0.2500, +0.7500]",
         "dvc repro language_model@lex language_model@fused report"],
    ]  # fmt: skip
    assert found["Differences by task of GLUE"][1:] == [
        ["lex", "fused", "CoLA", "+4.0 [+3.5, +4.5]", "–", "1", "dvc repro glue@lex glue@fused report"],
    ]
    assert found["Texts as read"] == [
        ["name", "documents", "unreadable records", "empty", "duplicates", "files left out", "command"],
        ["notes", "7", "1", "2", "3", "4", "dvc repro ingest@notes"],
    ]
    written = page(summary)
    assert "| `notes` | 7 | 1 | 2 | 3 | 4 |" in written and "## Texts" in written
    assert "Whether teachers err alike" not in made.text, "a run without them has no such table"


def test_charts_hold_the_numbers_of_the_summary(parsed: Page, made: Made) -> None:
    specs = [value for value in parsed.json if "$schema" in value]
    assert all(spec["width"] == "container" and "config" not in spec for spec in specs)
    (weights,) = (s for s in specs if s.get("mark") == {"type": "bar"} and "teacher" in s["data"]["values"][0])
    fusion = made.summary["fusions"]["confident"]
    values = [value["weight"] for value in weights["data"]["values"]]
    expected = [w for row in fusion["weights_by_source"] for w in row["weights"].values()]
    assert values == pytest.approx(expected, rel=1e-5)


def test_curves_have_bands_over_their_seeds() -> None:
    entries = {"a": {"curve": [[0, 5.0], [8, 3.0], [16, 2.0]]}, "a1": {"curve": [[0, 5.0], [8, 4.0], [16, 2.5]]}}
    assert curves_of(entries, {0: "a", 1: "a1"}) == [
        {"step": 0, "mean": 5.0, "low": 5.0, "high": 5.0, "seeds": 2},
        {"step": 8, "mean": 3.5, "low": 3.0, "high": 4.0, "seeds": 2},
        {"step": 16, "mean": 2.25, "low": 2.0, "high": 2.5, "seeds": 2},
    ]
    spec = convergence({"students": entries}, {"a": {0: "a", 1: "a1"}})
    assert spec is not None
    assert [layer["mark"]["type"] for layer in spec["layer"]] == ["area", "line"]
    assert [value["step"] for value in spec["data"]["values"]] == [8, 16], "the start would flatten the rest"
    assert convergence({"students": {"a": {"curve": [[0, 5.0]]}}}, {"a": {0: "a"}}) is None


def test_a_plot_with_one_point_or_one_cost_is_not_drawn() -> None:
    point = {"model": "a", "role": "student", "cost": 22.0, "value": 4.0, "low": 3.9, "high": 4.1}
    same = point | {"model": "b", "value": 3.5}
    other = same | {"cost": 109.0, "role": "teacher"}
    names = {"suite": "held-out text", "metric": "NLL", "cost": "MB"}
    assert against_cost([point], **names) is None
    assert against_cost([point, same], **names) is None
    assert against_cost([point, other], **names) is not None
    assert weights({"weights": {"a": 1.0}, "weights_by_source": []}) is None


def test_teachers_stand_beside_students_against_every_known_cost() -> None:
    teacher = {"nll": 2.9, "parameters": 109_500_000, "costs": costs(109_500_000, 200.0)}
    student = {"nll": 3.7, "nll_low": 3.6, "nll_high": 3.8, "parameters": 22_700_000, "model_bytes": 90_900_000}
    found = cost_points({"teachers": {"sci": teacher}, "students": {"fused": student}})
    names = {cost: [(point["model"], point["role"]) for point in points] for (_, _, cost), points in found.items()}
    assert names["million parameters"] == [("sci", "teacher"), ("fused", "student")]
    assert names["ms"] == [("sci", "teacher")]
    assert costs_of(student) == pytest.approx({"million parameters": 22.7, "MB": 90.9})


def test_texts_of_documents_are_data_and_no_html(parsed: Page, made: Made) -> None:
    assert "img" not in parsed.elements
    assert "b" not in parsed.elements
    assert EVIL not in made.text
    (data,) = (value for value in parsed.json if "examples" in value)
    assert any("</script><img src=x onerror=" in text["text"] for text in data["texts"])
    assert "<" not in embedded({"x": "</script>"})
    senses = senses_page(EVIL, [], model=EVIL, note=EVIL, command=EVIL)
    assert {"img", "b"} & set(Page(senses).elements) == set()


def test_without_top_tokens_and_stores_the_page_says_what_to_run(made: Made, tmp_path: Path) -> None:
    import shutil

    reports = tmp_path / "reports"
    shutil.copytree(made.reports, reports)
    (reports / "students" / "fused.top.arrow").unlink()
    write_report(made.params, made.names, reports=reports, out=tmp_path / "a", corpus=made.corpus)
    text = (tmp_path / "a" / "index.html").read_text(encoding="utf-8")
    assert "student fused has no top tokens. Run: dvc repro evaluate@fused" in text
    assert 'id="examples"' in text, "the others are shown"
    write_report(made.params, made.names, reports=reports, out=tmp_path / "b")
    text = (tmp_path / "b" / "index.html").read_text(encoding="utf-8")
    assert "There are no predictions to explore." in text
    assert "The text is not here: the report was made without stores. Run: dvc repro report" in text
    assert Page(text).open == []


def test_predictions_at_other_masks_are_refused(made: Made, tmp_path: Path) -> None:
    import shutil
    from dataclasses import replace

    from pipeline.evaluate.top_tokens import write_top_tokens

    reports = tmp_path / "reports"
    shutil.copytree(made.reports, reports)
    write_top_tokens(reports / "teachers" / "beta.top.arrow", replace(made.evaluations["beta"].top, masks="n" * 64))
    with pytest.raises(StaleParent, match=r"beta\.top\.arrow: predictions at masks n{12}, but .* Run: dvc repro eval"):
        write_report(made.params, made.names, reports=reports, out=tmp_path / "out", corpus=made.corpus)


def test_nothing_to_report_gives_a_page_too(tmp_path: Path, made: Made) -> None:
    names = Names(teachers=(), fusions=(), students=())
    write_report(made.params, names, reports=tmp_path, out=tmp_path / "out")
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert Page(text).open == []
    assert len(text) < 50_000, "no charts, no library"


def test_the_page_made_again_has_the_same_bytes(made: Made, tmp_path: Path) -> None:
    write_report(made.params, made.names, reports=made.reports, out=tmp_path, corpus=made.corpus)
    assert (tmp_path / "index.html").read_bytes() == made.page.read_bytes()
