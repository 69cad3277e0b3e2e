"""`rewrite` and `paraphrase` from end to end on tiny models; refusals are one line and exit code 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stages import paraphrase, rewrite
from storage.format.manifest import file_sha256
from tests.helpers import stores as fakes
from tests.helpers.commands import call

PARAMS = """
rewrite:
  tiny: {model: MODEL, split: heldout, shares: [0.5], temperature: 1.0, top_k: 8, words_min: 6, words_max: 20,
    paragraphs: 24, test_share: 0.5, seed: 0}
paraphrase:
  seeds: [0]
  finetune: {epochs: 1, learning_rate: 1.0e-3, batch: 8, warmup: 0.1, weight_decay: 0.0, max_tokens: 32, pooling: mean}
  train_examples: 0
  test_examples: 0
  bootstrap: 20
runtime: {device: cpu, dtype: float32, threads: 0, batch_tokens: 512, checkpoint_seconds: 60.0}
"""


@pytest.fixture
def project(workplace: Path, tiny_mlm: Path) -> Path:
    fakes.tiny_documents(workplace, calibration=0.2, heldout=0.6)
    (workplace / "params.yaml").write_text(PARAMS.replace("MODEL", str(tiny_mlm)), encoding="utf-8")
    return workplace


def test_a_set_is_made_and_a_model_is_evaluated_on_it(project: Path, tiny_mlm: Path) -> None:
    made = call(rewrite.main, "tiny", "--documents", "data/documents", "--out", "data/rewrite/tiny")
    assert made.exit_code == 0
    pairs = project / "pairs.tsv"
    rows = [f"{n % 2}\tthe dog {n} sleeps\tthe dog {n} eats" for n in range(40)]
    pairs.write_text("\n".join(["label\tsentence1\tsentence2", *rows, ""]), encoding="utf-8")
    out = "reports/paraphrase/m.json"
    data = ["--rewritten", "data/rewrite", "--pairs", "pairs.tsv"]
    assert call(paraphrase.main, "m", "--model", str(tiny_mlm), *data, "--out", out).exit_code == 0
    report = json.loads((project / out).read_text(encoding="utf-8"))
    assert report["suite"] == "paraphrase"
    assert [cell["test"] for cell in report["cells"]] == ["rewritten/tiny-0.5", "pairs/pairs"]
    assert {"low", "high", "value", "n"} == set(report["metrics"][report["headline"]])
    runs = project / "reports" / "runs"
    records = [json.loads((runs / f"{name}.json").read_text("utf-8")) for name in ("rewrite-tiny", "paraphrase-m")]
    assert all("seconds" in record for record in records)
    assert records[1]["report"] == file_sha256(project / out), "told apart by the report stage"


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "paraphrase: no data. Give --rewritten, --published or --pairs"),
    (["--pairs", "none.tsv"], "none.tsv: not found; expected pairs data"),
    (["--published", "data"], "data: no folder with og and mg in it"),
])  # fmt: skip
def test_missing_data_is_refused_in_one_line(project: Path, tiny_mlm: Path, arguments: list[str], message: str) -> None:
    result = call(paraphrase.main, "m", "--model", str(tiny_mlm), *arguments, "--out", "reports/paraphrase/m.json")
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_rewriter_that_is_not_named_is_refused(project: Path) -> None:
    result = call(rewrite.main, "tini", "--documents", "data/documents", "--out", "data/rewrite/tini")
    assert result.exit_code == 2
    assert "rewrite: no key 'tini' (did you mean 'tiny'?)" in result.stderr
