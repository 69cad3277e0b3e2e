"""Students compared on calibration text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from transformers import BertForMaskedLM

from pipeline.evaluate.predictions import heldout_nll
from pipeline.models.masked_lm import masked_lm
from stages.tools.choose import main
from tests.helpers.stores import TinyStores
from tests.helpers.teacher_stores import write_student

PARAMS = """
evaluate: {against: data/targets/none, bootstrap: 50, seed: 0}
runtime: {device: cpu, dtype: float32, threads: 0, batch_tokens: 512, checkpoint_seconds: 60.0}
"""


@pytest.fixture
def students(tiny_stores: TinyStores, tiny_mlm: Path, workplace: Path) -> list[str]:
    """Two students of the tiny text: the random model, and it with a bias that prefers the id 7."""
    (workplace / "params.yaml").write_text(PARAMS, encoding="utf-8")
    write_student(workplace / "plain", tiny_mlm, tiny_stores)
    biased = BertForMaskedLM.from_pretrained(tiny_mlm)
    with torch.no_grad():
        biased.cls.predictions.bias[7] += 4.0
    (workplace / "other").mkdir()
    for file in tiny_mlm.iterdir():
        (workplace / "other" / file.name).write_bytes(file.read_bytes())
    biased.save_pretrained(workplace / "other")
    (workplace / "other" / "training.json").write_bytes((workplace / "plain" / "training.json").read_bytes())
    return ["plain", "other"]


def test_students_are_ranked_by_their_nll_on_the_calibration_split(
    students: list[str], tiny_stores: TinyStores
) -> None:
    corpus = tiny_stores.corpus()
    rows, masks = (store.read("calibration") for store in (corpus.sequences, corpus.masks))
    expected = {}
    for name in students:
        with masked_lm(Path(name), device=torch.device("cpu"), dtype=torch.float32) as lm:
            special = corpus.sequences.facts["special"]
            expected[name] = heldout_nll(lm, rows, masks, batch_tokens=64, special=special).mean()
    best, worst = sorted(students, key=lambda name: expected[name])
    assert expected[worst] - expected[best] > 0.01
    done = CliRunner().invoke(main, [*students, "--data", str(tiny_stores.documents.parent)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    count, _, *lines = done.stdout.splitlines()
    assert count.startswith(f"{len(masks)} masked positions in ")
    assert [line.split()[-1] for line in lines] == [best, worst]
    assert [line.split()[0] for line in lines] == [f"{expected[best]:.4f}", f"{expected[worst]:.4f}"]
    assert lines[1].split()[1] == f"{expected[worst] - expected[best]:+.4f}"


def test_a_student_of_other_masks_is_refused(students: list[str], tiny_stores: TinyStores) -> None:
    record = json.loads(Path("other/training.json").read_text(encoding="utf-8"))
    record["parents"]["masks"] = "f" * 64
    Path("other/training.json").write_text(json.dumps(record), encoding="utf-8")
    done = CliRunner().invoke(main, [*students, "--data", str(tiny_stores.documents.parent)])
    assert done.exit_code == 2
    assert done.stderr.startswith("Error: other: trained on masks ffffffffffff, but ")
    assert done.stderr.strip().endswith("Run: dvc repro train@other")
