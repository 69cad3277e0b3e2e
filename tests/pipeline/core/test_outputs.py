"""The list of stages' outputs agrees with dvc.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.core.outputs import OUTPUTS, record_names
from pipeline.evaluate.suites import SUITES

ROOT = Path(__file__).parents[3]
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def test_the_stages_are_those_of_the_pipeline_in_its_order() -> None:
    assert list(OUTPUTS) == [stage for stage in PIPELINE if stage not in ("code", "check", "report")]
    assert set(SUITES) == {name for name in OUTPUTS if (OUTPUTS[name].section or "").startswith("suites.")}
    assert not any("-" in stage for stage in OUTPUTS), "records of two stages could share a name"


@pytest.mark.parametrize("stage", OUTPUTS)
def test_a_stage_runs_for_its_section_and_writes_there_and_a_record(stage: str) -> None:
    found = OUTPUTS[stage]
    body = PIPELINE[stage]
    assert body.get("foreach") == (None if found.section is None else f"${{{found.section}}}")
    body = body.get("do", body)
    assert body["cmd"].split()[2] == f"stages.{stage}", "the module has the name of the stage"
    name = None if found.section is None else "${key}"
    made = {out.partition(".")[0] if out.startswith("reports/") else out for out in body["outs"]}  # names have no dots
    assert made == {found.out if name is None else f"{found.out}/{name}", f"reports/runs/{found.record(name)}"}


def test_records_of_plain_and_of_missing_sections() -> None:
    params = {"teachers": {"a": {}, "b": {}}, "senses": None, "suites": {"costs": {"a": {}}}}
    once = ["corpus", "tokenize", "mask"]
    by_name = ["teach-a", "teach-b", "exact-a", "exact-b", "fidelity-a", "fidelity-b"]
    assert list(record_names(params)) == [
        *once, *by_name, "target_gradients", "lexicon", "evaluate_teacher-a", "evaluate_teacher-b", "costs-a",
    ]  # fmt: skip


def test_every_stage_says_why_it_is_there() -> None:
    lines = (ROOT / "dvc.yaml").read_text(encoding="utf-8").splitlines()
    assert all(lines[lines.index(f"  {stage}:") - 1].startswith("  # ") for stage in PIPELINE)
