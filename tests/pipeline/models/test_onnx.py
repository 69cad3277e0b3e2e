"""A model as ONNX: logits at shapes of its own choice, and what is refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from pipeline.models import onnx
from pipeline.models.masked_lm import load_checked
from stages.tools.export import main
from tests.helpers.commands import call


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny_mlm: Path) -> Path:
    out = tmp_path_factory.mktemp("onnx") / "fox"
    done = call(main, str(tiny_mlm), str(out))
    assert done.exit_code == 0, done.output
    assert f"{out}: its logits differ from PyTorch's by " in done.output
    return out


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 24), (5, 3), (8, 19)])
def test_logits_are_those_of_pytorch_at_any_batch_and_length(
    exported: Path, tiny_mlm: Path, batch: int, length: int
) -> None:
    rng = np.random.default_rng(3)
    model = load_checked(tiny_mlm).eval()
    ids_BL = rng.integers(5, model.config.vocab_size, (batch, length))
    length_B = rng.integers(1, length + 1, batch)
    attention_BL = (np.arange(length) < length_B[:, None]).astype(np.int64)
    with torch.inference_mode():
        expected = model(torch.from_numpy(ids_BL), attention_mask=torch.from_numpy(attention_BL)).logits.numpy()
    session = onnxruntime.InferenceSession(str(exported / "model.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input_ids": ids_BL, "attention_mask": attention_BL})
    assert found.shape == (batch, length, model.config.vocab_size) and found.dtype == np.float32
    shown = attention_BL == 1
    assert np.abs(found - expected)[shown].max() <= 1e-5 * np.abs(expected[shown]).max()


def test_the_folder_has_configuration_and_tokenizer_and_nothing_hidden(exported: Path) -> None:
    names = {path.name for path in exported.iterdir()}
    assert {"model.onnx", "config.json", "tokenizer.json", "tokenizer_config.json"} <= names
    assert "model.safetensors" not in names
    assert json.loads((exported / "config.json").read_text())["model_type"] == "bert"
    assert [path.name for path in exported.parent.iterdir()] == [exported.name]


def test_missing_packages_are_refused_with_the_command(
    tmp_path: Path, tiny_mlm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(onnx.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    done = call(main, str(tiny_mlm), str(tmp_path / "out"))
    assert done.exit_code == 2
    said = "Error: export: onnxscript is not installed. Run: pip install -c constraints.txt -e '.[onnx]'\n"
    assert done.output == said


def test_what_is_there_is_not_replaced(exported: Path, tiny_mlm: Path) -> None:
    done = call(main, str(tiny_mlm), str(exported))
    assert done.exit_code == 2
    assert done.output == f"Error: {exported}: is there already. Remove it, or export to another folder\n"


def test_a_graph_that_answers_otherwise_is_refused(
    tmp_path: Path, tiny_mlm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx, "TOLERANCE", -1.0)
    done = call(main, str(tiny_mlm), str(tmp_path / "out"))
    assert done.exit_code == 2
    assert "as ONNX its logits differ by " in done.output
    assert list(tmp_path.iterdir()) == []
