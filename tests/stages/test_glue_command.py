"""The command from end to end; a refusal is one line and exit code 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from stages import glue
from storage.format.manifest import file_sha256
from storage.work import finished_folders
from tests.helpers.glue import learnable, write_task

PARAMS = """
glue:
  data: data/glue
  tasks: [CoLA]
  seeds: [0]
  finetune: {epochs: 1, learning_rate: 0.001, batch: 8, warmup: 0.1, weight_decay: 0.0, max_tokens: 32, pooling: mean}
  train_examples: 0
  dev_examples: 0
  bootstrap: 20
runtime: {device: cpu, dtype: float32, threads: 0, batch_tokens: 512, checkpoint_seconds: 60.0}
"""


@pytest.fixture
def project(workplace: Path) -> Path:
    (workplace / "params.yaml").write_text(PARAMS, encoding="utf-8")
    write_task(workplace / "data" / "glue", "CoLA", learnable("CoLA", 24))
    return workplace


def call(model: Path) -> Result:
    arguments = ["student", "--model", str(model), "--out", "reports/glue/student.json"]
    return CliRunner().invoke(glue.main, arguments, catch_exceptions=False)


def test_the_command_leaves_the_report_and_a_record_of_its_cost(project: Path, tiny_mlm: Path) -> None:
    result = call(tiny_mlm)
    assert result.exit_code == 0, result.output
    report = json.loads((project / "reports" / "glue" / "student.json").read_text(encoding="utf-8"))
    assert report["metrics"]["average"]["value"] == report["tasks"]["CoLA"]["mean"]
    record = json.loads((project / "reports" / "runs" / "glue-student.json").read_text(encoding="utf-8"))
    assert record.items() >= {"device": "cpu", "dtype": "float32", "fits": 1}.items()
    assert record["report"] == file_sha256(project / "reports" / "glue" / "student.json"), (
        "told apart by the report stage"
    )
    (kept,) = finished_folders(project / ".work")
    assert kept.name.startswith("glue-student-")


@pytest.mark.parametrize(("break_it", "message"), [
    (lambda project: (project / "data/glue/CoLA/train.tsv").unlink(), "data/glue/CoLA/train.tsv: not found"),
    (
        lambda project: (project / "params.yaml").write_text(PARAMS.replace("max_tokens: 32", "max_tokens: 320")),
        "finetune.max_tokens: ",
    ),
])  # fmt: skip
def test_a_refusal_is_one_line(project: Path, tiny_mlm: Path, break_it: object, message: str) -> None:
    break_it(project)  # type: ignore[operator]
    result = call(tiny_mlm)
    assert result.exit_code == 2
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1 and message in lines[0]
    assert "Traceback" not in result.output
