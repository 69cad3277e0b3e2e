"""Loading: one model at a time, trained heads only, logits at masked positions equal to the full computation."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM

from benchmarks.families.configs import FAMILIES
from pipeline.models.masked_lm import load_checked, masked_lm, one_model, require_narrow_head
from storage.errors import SecondModelError, SourceError, TeacherRefused

CPU = torch.device("cpu")
SPECIAL = {"cls": 0, "pad": 1, "sep": 2, "unk": 3, "mask": 59}
"""As RoBERTa numbers them: positions are counted from the padding id in some families."""


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
        mixes_padding = lm.mixes_padding
    assert mixes_padding == (folder.name == "fnet")
    expected = full_logits(folder, ids, attention)[row, column]
    if mixes_padding:  # what it says of a row must not depend on the rows beside it
        expected[2:] = full_logits(folder, ids[2:, :5], attention[2:, :5])[0, column[2:]]
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_logits_at_masked_positions_equal_the_full_computation(tiny_mlm: Path) -> None:
    rows_agree(tiny_mlm)


def written(folder: Path, name: str) -> Path:
    """A model of the family with random weights, larger than initialisers make them, so that no part is negligible."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForMaskedLM.from_config(FAMILIES[name].config(vocabulary=60, special=SPECIAL))
        for parameter in model.parameters():
            parameter.data.normal_(0, 0.3)
    model.save_pretrained(folder / name)
    return folder / name


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.refused is None])
def test_every_family_gives_its_own_logits(tmp_path: Path, name: str) -> None:
    rows_agree(written(tmp_path, name))


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.refused is not None])
def test_a_family_that_cannot_be_asked_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(TeacherRefused, match=FAMILIES[name].refused):
        with masked_lm(written(tmp_path, name), device=CPU, dtype=torch.float32):
            pass


@pytest.mark.parametrize(("name", "expected"), [("bert", 64), ("roberta", 62), ("longformer", 62), ("mpnet", 62)])
def test_positions_are_those_the_embedding_has(tmp_path: Path, name: str, expected: int) -> None:
    """The longest sequence runs, and one token more does not: MPNet and RoBERTa count from the padding id."""
    with masked_lm(written(tmp_path, name), device=CPU, dtype=torch.float32) as lm, torch.inference_mode():
        assert lm.positions == expected
        at = torch.tensor([0]), torch.tensor([expected - 1])
        ids = torch.full((1, expected), 7)
        assert lm.logits(ids, torch.ones_like(ids), *at).isfinite().all()
        longer = torch.full((1, expected + 1), 7)
        with pytest.raises((IndexError, RuntimeError)):
            lm.logits(longer, torch.ones_like(longer), *at)


def test_a_model_without_a_limit_of_positions_has_room_for_any_text(tmp_path: Path) -> None:
    with masked_lm(written(tmp_path, "funnel"), device=CPU, dtype=torch.float32) as lm:
        assert lm.positions > 1_000_000


def test_a_head_that_mixes_positions_is_refused(tiny_mlm: Path) -> None:
    model = load_checked(tiny_mlm)
    head = model.cls
    model.cls = torch.nn.Module()
    model.cls.forward = lambda hidden: head(hidden + hidden.mean(dim=1, keepdim=True))
    with pytest.raises(TeacherRefused, match="BertForMaskedLM does not compute its logits position by position"):
        require_narrow_head(model, tiny_mlm)


def test_hidden_states_are_whole_outside_of_logits(tiny_mlm: Path) -> None:
    ids = torch.arange(5, 29).reshape(3, 8)
    with masked_lm(tiny_mlm, device=CPU, dtype=torch.float32) as lm, torch.inference_mode():
        lm.logits(ids, torch.ones_like(ids), torch.tensor([0]), torch.tensor([1]))
        assert lm.model.base_model(input_ids=ids).last_hidden_state.shape[:2] == ids.shape


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
    with pytest.raises(SourceError, match=r"no model.safetensors, .*pytorch_model.bin is a pickle, .*convert it once"):
        with masked_lm(tmp_path, device=CPU, dtype=torch.float32):
            pass
