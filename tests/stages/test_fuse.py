from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from stages.fuse import main
from storage.reader import Store
from storage.records.targets import FusedTargets
from tests.helpers.stores import TinyStores
from tests.helpers.teacher_stores import make_world

FUSION = {
    "teachers": ["alpha", "beta"], "weighting": "entropy", "tau": 1.0, "calibrated": True, "prior": "equal",
    "temperature": 1.0, "keep": 8,
}  # fmt: skip
RUNTIME = {"device": "cpu", "dtype": "auto", "threads": 1, "batch_tokens": 4096, "checkpoint_seconds": 60.0}
PATHS = ["--sequences", "data/sequences", "--masks", "data/masks", "--logits", "data/logits"]
DOCUMENTS = ["--documents", "data/documents"]


@pytest.fixture
def project(workplace: Path, tiny_stores: TinyStores) -> Path:
    make_world(tiny_stores, workplace / "data", fusions=())
    params = {"teachers": {"alpha": {}, "beta": {}}, "fusions": {"mixed": FUSION}, "runtime": RUNTIME}
    (workplace / "params.yaml").write_text(yaml.safe_dump(params))
    return workplace


def test_fuse_writes_a_store_and_what_the_run_cost(project: Path):
    result = CliRunner().invoke(main, ["mixed", *PATHS, "--out", "data/targets/mixed"])
    assert result.exit_code == 0, result.output
    rows = Store(Path("data/targets/mixed"), FusedTargets).read("train")
    assert rows.covered_P().all()
    assert json.loads(Path("reports/runs/fuse-mixed.json").read_text())["predictions"] >= len(rows)


def test_learned_weights_read_the_documents(project: Path):
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["fusions"]["learned"] = FUSION | {"weighting": "learned"}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    without = CliRunner().invoke(main, ["learned", *PATHS, "--out", "data/targets/learned"])
    assert without.exit_code == 2
    (line,) = [line for line in without.output.splitlines() if line.startswith("Error")]
    assert line.startswith("Error: fusions.learned: weighting learned reads the source of each document, but")
    made = CliRunner().invoke(main, ["learned", *PATHS, *DOCUMENTS, "--out", "data/targets/learned"])
    assert made.exit_code == 0, made.output
    assert set(Store(Path("data/targets/learned"), FusedTargets).facts["gate"]) == {"slopes", "teachers", "sources"}


def test_a_mistyped_name_costs_one_line(project: Path):
    result = CliRunner().invoke(main, ["mixd", *PATHS, "--out", "data/targets/mixd"])
    assert result.exit_code == 2
    assert result.output.splitlines()[-1] == "Error: params.yaml: fusions: no key 'mixd' (did you mean 'mixed'?)"


def test_a_teacher_removed_from_params_is_noticed(project: Path):
    params = yaml.safe_load(Path("params.yaml").read_text())
    del params["teachers"]["beta"]
    params["fusions"]["mixed"]["teachers"] = ["alpha"]
    Path("params.yaml").write_text(yaml.safe_dump(params))
    result = CliRunner().invoke(main, ["mixed", *PATHS, "--out", "data/targets/mixed"])
    assert result.exit_code == 2
    assert "data/logits/beta" in result.output and "cohesive prune" in result.output
