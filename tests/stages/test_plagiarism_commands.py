"""`plagiarism_sets` and `plagiarism` from end to end on a tiny model; refusals are one line and exit code 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.plagiarism.pan import read_corpus
from stages import plagiarism, plagiarism_sets, rewrite
from storage.format.manifest import file_sha256
from tests.helpers import stores as fakes
from tests.helpers.commands import call

PARAMS = """
rewrite:
  tiny: {model: MODEL, split: heldout, shares: [0.5], temperature: 1.0, top_k: 8, words_min: 6, words_max: 20,
    paragraphs: 12, test_share: 0.5, seed: 0}
plagiarism_sets:
  hidden: &hidden {kind: rewritten, path: data/rewrite/tiny, share: 0.5, split: heldout, document_words: 20,
    passage_words: 4, passages: 1, clean: 0.1, distractors: 0.1, seed: 0}
  again: {<<: *hidden, seed: 1}
plagiarism: {data: data/plagiarism, development: 0.5, unit_words: 4, most_words: 12, candidates: 3, bootstrap: 20,
  seed: 0}
runtime: {device: cpu, dtype: float32, threads: 0, batch_tokens: 512, checkpoint_seconds: 60.0}
"""
TEXT = tuple(
    f"The dog number {n} sleeps in house {n * 7}. A cat with {n} lives eats fish {n + 3} there." for n in range(90)
)


@pytest.fixture
def project(workplace: Path, tiny_mlm: Path) -> Path:
    fakes.tiny_documents(workplace, texts=TEXT, calibration=0.1, heldout=0.8)
    (workplace / "params.yaml").write_text(PARAMS.replace("MODEL", str(tiny_mlm)), encoding="utf-8")
    return workplace


def test_sets_are_made_and_a_model_is_judged_on_them(project: Path, tiny_mlm: Path) -> None:
    documents = ("--documents", "data/documents")
    assert call(rewrite.main, "tiny", *documents, "--out", "data/rewrite/tiny").exit_code == 0
    for name in ("hidden", "again"):
        assert call(plagiarism_sets.main, name, *documents, "--out", f"data/plagiarism/{name}").exit_code == 0
    out, data = "reports/plagiarism/m.json", ("--model", str(tiny_mlm), "--data", "data/plagiarism")
    assert call(plagiarism.main, "m", *data, "--out", out, "--detections", "found").exit_code == 0
    report = json.loads((project / out).read_text(encoding="utf-8"))
    assert (report["suite"], report["headline"]) == ("plagiarism", "plagdet")
    (cell,) = report["cells"]
    assert sorted(cell["sets"]) == ["again", "hidden"], "sets that differ in their seed are one row"
    assert {"low", "high", "value", "n"} == set(report["metrics"]["plagdet"])
    tested = {file.stem for file in (project / "found" / "hidden").glob("*.xml")}
    assert tested and tested < set(read_corpus(project / "data" / "plagiarism" / "hidden").suspicious)
    record = json.loads((project / "reports" / "runs" / "plagiarism-m.json").read_text("utf-8"))
    assert record["report"] == file_sha256(project / out), "told apart by the report stage"
    made = json.loads((project / "reports" / "runs" / "plagiarism_sets-hidden.json").read_text("utf-8"))
    assert made["passages"] > 1


def test_missing_data_is_refused_in_one_line(project: Path, tiny_mlm: Path) -> None:
    result = call(plagiarism.main, "m", "--model", str(tiny_mlm), "--data", "none", "--out", "reports/m.json")
    assert result.exit_code == 2
    assert "Error: none: not found; expected a folder in PAN's layout" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_set_that_is_not_named_is_refused(project: Path) -> None:
    result = call(plagiarism_sets.main, "hiden", "--documents", "data/documents", "--out", "data/plagiarism/hiden")
    assert result.exit_code == 2
    assert "plagiarism_sets: no key 'hiden' (did you mean 'hidden'?)" in result.stderr
