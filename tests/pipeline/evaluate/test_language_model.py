"""Tiny models as language models at the tiny held-out masked positions, before and after some training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from pipeline.evaluate.heldout import Heldout, open_heldout
from pipeline.evaluate.language_model import evaluate_language_model
from pipeline.evaluate.params import EvaluateParams
from pipeline.evaluate.predictions import heldout_nll
from pipeline.models.masked_lm import masked_lm
from stages import language_model
from storage.errors import SourceError, VocabularyError
from tests.helpers.stores import TinyStores, cpu_runtime, tiny_tokens, write_tiny_mlm, write_tiny_wordpiece_tokenizer

CPU = torch.device("cpu")
PARAMS = EvaluateParams(against="data/targets/none", bootstrap=200, seed=0)


@pytest.fixture(scope="module")
def heldout(tiny_stores: TinyStores) -> Heldout:
    return open_heldout(tiny_stores.corpus())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> Path:
    """What lexical training might leave: weights that learned from other text, and a record that names no store."""
    folder = write_tiny_mlm(tmp_path_factory.mktemp("models") / "lexical", tiny_tokenizer, steps=40)
    (folder / "training.json").write_text(json.dumps({"parents": {"lexicon": "0" * 64}}), encoding="utf-8")
    return folder


def evaluated(heldout: Heldout, model: Path, before: Path | None = None) -> dict[str, dict[str, float]]:
    report = evaluate_language_model(PARAMS, heldout, model=model, before=before, runtime=cpu_runtime(batch_tokens=256))
    assert report["headline"] == "nll"
    metrics: dict[str, dict[str, float]] = report["metrics"]
    return metrics


def test_the_loss_is_that_over_all_blanks(heldout: Heldout, tiny_mlm: Path) -> None:
    metrics = evaluated(heldout, tiny_mlm)
    with masked_lm(tiny_mlm, device=CPU, dtype=torch.float32) as lm:
        special = heldout.sequences.facts["special"]
        expected = heldout_nll(lm, heldout.rows, heldout.masked, batch_tokens=4096, special=special)
    assert metrics["nll"]["value"] == pytest.approx(expected.mean(), rel=1e-5)
    assert set(metrics) == {"nll", "accuracy", "ece"}
    for metric in metrics.values():
        assert metric["n"] == len(heldout.masked)
    assert metrics["nll"]["low"] < metrics["nll"]["value"] < metrics["nll"]["high"]


def test_a_change_is_after_minus_before_on_the_same_documents(heldout: Heldout, tiny_mlm: Path, trained: Path) -> None:
    metrics = evaluated(heldout, trained, tiny_mlm)
    alone = evaluated(heldout, tiny_mlm)
    for name in ("nll", "accuracy"):
        assert metrics[f"{name}_before"] == alone[name]
        change = metrics[f"{name}_change"]
        assert change["value"] == pytest.approx(metrics[name]["value"] - alone[name]["value"])
        assert change["low"] < change["value"] < change["high"]
    assert metrics["nll_change"]["high"] < 0


def test_nothing_changes_without_training(heldout: Heldout, tiny_mlm: Path) -> None:
    change = evaluated(heldout, tiny_mlm, tiny_mlm)["nll_change"]
    assert (change["value"], change["low"], change["high"]) == (0.0, 0.0, 0.0)


def test_another_vocabulary_is_refused_by_size_and_by_tokens(
    heldout: Heldout, tiny_mlm: Path, tiny_bpe_tokenizer: Path, tmp_path: Path
) -> None:
    larger = write_tiny_mlm(tmp_path / "larger", tiny_bpe_tokenizer)
    with pytest.raises(VocabularyError, match=r"larger: \d+ ids, but .*sequences has \d+\. Give a student, or"):
        evaluated(heldout, larger)
    tokens = tiny_tokens()
    tokens[0], tokens[3] = tokens[3], tokens[0]
    tokenizer = write_tiny_wordpiece_tokenizer(tmp_path / "tokenizer", tokens=tokens)
    other = write_tiny_mlm(tmp_path / "other", tokenizer)
    with pytest.raises(VocabularyError, match=r"other: its id 5 is '.*', but '.*' in .*sequences"):
        evaluated(heldout, tiny_mlm, other)


def test_a_folder_without_a_model_is_refused(heldout: Heldout, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"expected config\.json and \*\.safetensors"):
        evaluated(heldout, tmp_path)


def test_the_command_writes_the_report(
    workplace: Path, tiny_stores: TinyStores, tiny_mlm: Path, trained: Path, tmp_path: Path
) -> None:
    Path("params.yaml").write_text(
        "evaluate: {against: data/targets/none, bootstrap: 20, seed: 0}\n"
        "runtime: {device: cpu, dtype: bfloat16, threads: 1, batch_tokens: 512, checkpoint_seconds: 60.0}\n",
        encoding="utf-8",
    )
    shutil.copytree(trained, "models/lexical")
    stores = [
        part for kind in ("documents", "sequences", "masks") for part in (f"--{kind}", str(getattr(tiny_stores, kind)))
    ]
    arguments = ["lexical", *stores, "--model", "models/lexical", "--before", str(tiny_mlm), "--out"]
    done = CliRunner().invoke(language_model.main, [*arguments, "reports/language_model/lexical.json"])
    assert done.exit_code == 0, done.output
    report = json.loads((workplace / "reports/language_model/lexical.json").read_text(encoding="utf-8"))
    assert report["model"]["folder"] == "models/lexical"
    assert report["metrics"]["nll_change"]["value"] < 0
    assert (workplace / "reports/runs/language_model-lexical.json").is_file()
