"""The README and docs/: numbers are those of reports/, and the README names what there is.

Not checked here: anchors of links, which `make docs` refuses when they are broken.
"""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pytest
import yaml
from click import ClickException
from click.testing import CliRunner

from benchmarks.pages.__main__ import TABLES, filled, main, pages
from benchmarks.pages.markdown import Reports, interval, number, signed, table
from benchmarks.scaling import page as scaling
from pipeline.fuse.weighting import Weighting
from pipeline.lexical.params import Objective
from pipeline.sparse.params import Keep, Tail
from tests.docs.blocks import texts

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def another_run() -> bool:
    """Whether reports/ holds a run of this machine, which the committed pages cannot show."""
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "reports"], cwd=ROOT, check=False)
    return changed.returncode == 1


of_the_committed_run = pytest.mark.skipif(another_run(), reason="reports/ differs from the commit: a run made here")


@of_the_committed_run
def test_no_page_is_stale() -> None:
    found = CliRunner().invoke(main, ["--root", str(ROOT), "--check"])
    assert found.exit_code == 0, found.output


def test_every_table_is_on_a_page() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in pages(ROOT))
    assert {name for name in TABLES if f"<!-- filled: {name} -->" not in text} == set()


def test_a_stale_page_is_named_and_filled(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "docs").mkdir()
    row = {"fault": "bit flip", "tried": 3, "detected": 2, "harmless": 1, "undetected": 0, "lost": 0}
    (tmp_path / "reports" / "faults.json").write_text(json.dumps([row]))
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- filled: faults -->\nold\n<!-- end -->\nafter\n")
    checked = CliRunner().invoke(main, ["--root", str(tmp_path), "--check"])
    assert checked.exit_code == 1 and checked.output == f"{page}: stale. Run: python -m benchmarks.pages\n"
    assert "old" in page.read_text()
    assert CliRunner().invoke(main, ["--root", str(tmp_path)]).exit_code == 0
    assert page.read_text() == (
        "before\n<!-- filled: faults -->\n"
        "| fault | tried | detected | harmless | undetected | lost |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        "| bit flip | 3 | 2 | 1 | 0 | 0 |\n<!-- end -->\nafter\n"
    )
    assert CliRunner().invoke(main, ["--root", str(tmp_path), "--check"]).exit_code == 0


def test_the_headline_says_what_several_seeds_say(tmp_path: Path) -> None:
    def run(nll: float, accuracy: float, **more: object) -> dict[str, object]:
        return {"nll": nll, "nll_low": nll - 1, "nll_high": nll + 1, "accuracy": accuracy, "documents": 9} | more

    def row(
        student: str, control: str, difference: float, metric: str = "nll", domain: str = "all"
    ) -> dict[str, object]:
        ends = {"low": difference - 0.01, "high": difference + 0.01}
        return {"student": student, "control": control, "metric": metric, "domain": domain, "seeds": [0, 1],
                "difference": difference} | ends  # fmt: skip

    summary = {
        "run": {"seconds": 600, "cores": "2", "peak_memory_bytes": 2e9},
        "teachers": {"a": run(3.5, 0.4), "b": run(3.0, 0.5)},
        "fusions": {"both": run(2.5, 0.6)},
        "students": {
            "fused": run(4.0, 0.3, learns_from="both"), "fused-1": run(4.2, 0.4, learns_from="both"),
            "only-a": run(4.3, 0.3), "only-b": run(4.2, 0.3), "labels-only": run(4.5, 0.2),
            "fused-uniform": run(4.1, 0.3),
            "lexical": {"start": "fused"},
        },
        "comparisons": [
            row("fused", "only-a", -0.2), row("fused", "only-b", -0.1), row("fused", "labels-only", -0.4),
            row("only-b", "labels-only", -0.3), row("fused", "only-b", 9.0, metric="area"),
            row("only-a", "labels-only", -0.2), row("fused-uniform", "labels-only", -0.35),
            row("fused", "fused-uniform", 0.0),
            row("fused", "only-b", 9.0, domain="news"),
        ],
    }  # fmt: skip
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    text = TABLES["headline"](Reports(tmp_path))
    assert "| `fused` | 4.100, mean of 2 seeds | 0.350 | −0.400 [−0.410, −0.390] |" in text
    assert "| `only-b` | 4.200 [3.200, 5.200] | 0.300 | −0.300 [−0.310, −0.290] |" in text
    assert "| best teacher, `b` | 3.000 [2.000, 4.000] | 0.500 |  |" in text
    assert "`fused` is better than `only-b`: the difference is −0.100 [−0.110, −0.090] nat." in text
    assert "over 9 held-out documents and 2 seeds." in text
    assert (
        "`fused` is not shown to be better than `fused-uniform`: the difference is +0.000 [−0.010, +0.010] nat." in text
    )
    names = [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")]
    assert names == ["fused", "fused-uniform", "only-b", "only-a", "labels-only"]


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(ClickException, match="no table 'nothing'"):
        filled("<!-- filled: nothing -->\n<!-- end -->", Reports(ROOT / "reports"))


def test_numbers_as_pages_show_them() -> None:
    assert [number(value) for value in (None, float("inf"), -1.5, 12345.0)] == ["–", "infinite", "−1.500", "12,345.000"]
    assert [signed(value, 2) for value in (0.125, -0.126)] == ["+0.12", "−0.13"]
    assert interval({"nll": 2.0, "nll_low": -1.0, "nll_high": 3.0}, "nll", 1) == "2.0 [−1.0, 3.0]"
    assert interval({"value": 0.5, "low": 0.4, "high": 0.6}, digits=0, scale=100) == "50 [40, 60]"
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


@of_the_committed_run
def test_the_page_on_scaling_is_what_its_script_writes() -> None:
    reports = Reports(ROOT / "reports")
    measured = [reports.read(f"{name}.json") for name in ("bench", "growth", "summary", "store")]
    path = ROOT / "docs" / "scaling.md"
    template = (ROOT / "benchmarks" / "scaling" / "scaling.md.in").read_text(encoding="utf-8")
    text = scaling.page(
        scaling.constants(*measured), measured[1], clusters=scaling.kept_section(path), template=template
    )
    assert path.read_text(encoding="utf-8") == text, "stale. Run: python -m benchmarks.scaling.page"


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("package", ["pipeline", "storage"])
def test_the_readme_names_every_subpackage(package: str) -> None:
    """And says of each what it is for; no name that is not there."""
    tree = README.partition(f"\n{package}/ ")[2]
    named = re.findall(
        r"^  (\w+)/ +\S", re.split(r"^\w", tree.partition("\n")[2], maxsplit=1, flags=re.MULTILINE)[0], re.MULTILINE
    )
    assert sorted(named) == sorted(path.parent.name for path in (ROOT / package).glob("*/__init__.py"))


def test_the_page_for_contributors_names_the_layers_in_order() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    text = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    layout = re.sub(r"\s+", " ", text)
    for contract in contracts:
        if contract["type"] == "layers" and contract.get("containers") != ["stages"]:  # there, a layer is all stages
            layers = [layer.replace(" | ", "`, `") for layer in contract["layers"]]
            assert " → ".join(f"`{layer}`" for layer in layers) in layout, contract["name"]


def test_the_page_on_the_pipeline_names_every_stage() -> None:
    text = (ROOT / "docs" / "pipeline.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_*-]+)@?[a-z]*`", text.partition("## Run")[0]))
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert {stage for stage in stages if not {stage, f"{stage.partition('_')[0]}*"} & named} == set()


@pytest.mark.parametrize(
    ("page", "values"),
    [
        ("concepts", get_args(Weighting)),
        ("concepts", [form.model_fields["form"].annotation.__args__[0] for form in get_args(get_args(Keep)[0])]),
        ("concepts", get_args(Tail)),
        ("lexical", get_args(Objective)),
    ],
    ids=["weighting", "form", "tail", "objective"],
)
def test_every_choice_is_explained(page: str, values: Sequence[str]) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    rows = "".join(line for line in text.splitlines(keepends=True) if line.startswith("| `"))
    assert values and [value for value in values if f"`{value}`" not in rows] == []


@pytest.mark.parametrize("page", sorted(texts()))
def test_links_lead_to_files(page: str) -> None:
    """As GitHub follows them; anchors are for `make docs`."""
    found = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", texts()[page])
    assert [link for link in found if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_how_to_cite_is_understood() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert cited["preferred-citation"]["url"].endswith("2301.08130")
    assert [entry["url"][-10:] for entry in cited["references"]] == ["2106.07967"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
