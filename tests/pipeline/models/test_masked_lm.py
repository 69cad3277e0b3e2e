"""Loading: one model at a time, heads that were trained only, logits at blanks equal to the full computation."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, DistilBertConfig, ModernBertConfig, MPNetConfig, RobertaConfig

from pipeline.models.masked_lm import masked_lm, one_model
from storage.errors import SecondModelError, SourceError, TeacherRefused

CPU = torch.device("cpu")
SMALL = {"vocab_size": 60, "max_position_embeddings": 40}
CONFIGS = {
    "distilbert": DistilBertConfig(dim=16, n_layers=1, n_heads=2, hidden_dim=32, **SMALL),
    "mpnet": MPNetConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, **SMALL),
    "roberta": RobertaConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, **SMALL),
    "modernbert": ModernBertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2, **SMALL,
    ),
}  # fmt: skip


def full_logits(folder: Path, ids: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        return model(input_ids=ids, attention_mask=attention).logits


def rows_agree(folder: Path) -> None:
    ids = torch.arange(5, 29).reshape(3, 8)
    attention = torch.ones_like(ids)
    attention[2, 5:] = 0
    row, column = torch.tensor([0, 1, 2, 2]), torch.tensor([3, 0, 1, 4])
    with masked_lm(folder, device=CPU, dtype=torch.float32) as lm, torch.inference_mode():
        got = lm.logits(ids, attention, row, column)
    expected = full_logits(folder, ids, attention)[row, column]
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_logits_at_blanks_equal_the_full_computation(tiny_mlm: Path) -> None:
    rows_agree(tiny_mlm)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_every_supported_architecture_has_its_head_found(tmp_path: Path, name: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForMaskedLM.from_config(CONFIGS[name]).save_pretrained(tmp_path / name)
    rows_agree(tmp_path / name)


def test_a_second_model_is_refused_while_one_is_in_memory(tiny_mlm: Path) -> None:
    with masked_lm(tiny_mlm, device=CPU, dtype=torch.float32):
        with pytest.raises(SecondModelError, match="while one is in memory"), one_model():
            pass
    with masked_lm(tiny_mlm, device=CPU, dtype=torch.float32) as lm:
        assert lm.parameters == sum(parameter.numel() for parameter in lm.model.parameters())


def test_the_right_to_load_returns_after_an_exception(tiny_mlm: Path) -> None:
    with pytest.raises(KeyError), masked_lm(tiny_mlm, device=CPU, dtype=torch.float32):
        raise KeyError
    with one_model():
        pass


def test_a_model_without_trained_head_is_refused(tiny_mlm: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_mlm, tmp_path / "encoder"))
    weights = load_file(folder / "model.safetensors")
    body = {name: weight for name, weight in weights.items() if not name.startswith("cls.predictions.transform")}
    save_file(body, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TeacherRefused, match=r"4 weights are not in the file.*newly initialised.*no trained masked"):
        with masked_lm(folder, device=CPU, dtype=torch.float32):
            pass


def test_a_folder_without_safetensors_is_refused(tiny_mlm: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_mlm / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(SourceError, match=r"expected config.json and \*\.safetensors"):
        with masked_lm(tmp_path, device=CPU, dtype=torch.float32):
            pass
