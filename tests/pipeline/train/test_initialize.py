"""Starts: merged folder, some layers, fresh weights, another vocabulary; and the saved folder as a user loads it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

from pipeline.models.publish import save_model
from pipeline.text.tokenizer import load_tokenizer
from pipeline.train.initialize import start_student
from storage.errors import ParamsError


def test_the_start_is_the_folders_model_without_dropout(tiny_mlm: Path, tiny_tokenizer: Path) -> None:
    model = start_student(tiny_mlm, tokenizer=load_tokenizer(tiny_tokenizer), layers=None, config=None, seed=0)
    weights = load_file(tiny_mlm / "model.safetensors")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name])
    assert all(module.p == 0 for module in model.modules() if isinstance(module, torch.nn.Dropout))


def test_chosen_layers_are_kept_in_the_order_given(tiny_mlm: Path, tiny_tokenizer: Path) -> None:
    model = start_student(tiny_mlm, tokenizer=load_tokenizer(tiny_tokenizer), layers=[1], config=None, seed=0)
    weights = load_file(tiny_mlm / "model.safetensors")
    assert model.config.num_hidden_layers == 1
    kept = model.bert.encoder.layer[0].output.dense.weight
    assert torch.equal(kept, weights["bert.encoder.layer.1.output.dense.weight"])


def test_a_layer_that_is_not_there_is_refused(tiny_mlm: Path, tiny_tokenizer: Path) -> None:
    with pytest.raises(ParamsError, match=r"layers: .* has layers 0 to 1, got \[2\]"):
        start_student(tiny_mlm, tokenizer=load_tokenizer(tiny_tokenizer), layers=[0, 2], config=None, seed=0)


def test_fresh_weights_depend_on_the_seed_and_leave_chance_alone(tiny_mlm: Path, tiny_tokenizer: Path) -> None:
    tokenizer = load_tokenizer(tiny_tokenizer)
    before = torch.random.get_rng_state()
    models = [
        start_student(tiny_mlm, tokenizer=tokenizer, layers=None, config={"num_hidden_layers": 3}, seed=seed)
        for seed in (0, 0, 1)
    ]
    assert torch.equal(before, torch.random.get_rng_state())
    first, again, other = (model.bert.encoder.layer[2].output.dense.weight for model in models)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_unknown_setting_of_a_fresh_start_is_refused(tiny_mlm: Path, tiny_tokenizer: Path) -> None:
    with pytest.raises(ParamsError, match="bert has no setting num_layerz"):
        start_student(tiny_mlm, tokenizer=load_tokenizer(tiny_tokenizer), layers=None, config={"num_layerz": 3}, seed=0)


def test_another_vocabulary_keeps_what_shared_pieces_know(tiny_teacher: Path, tiny_tokenizer: Path) -> None:
    reference = load_tokenizer(tiny_tokenizer)
    own = load_tokenizer(tiny_teacher)
    model = start_student(tiny_teacher, tokenizer=reference, layers=None, config=None, seed=0)
    weights = load_file(tiny_teacher / "model.safetensors")
    old, new = weights["bert.embeddings.word_embeddings.weight"], model.get_input_embeddings().weight
    old_bias, new_bias = weights["cls.predictions.bias"], model.cls.predictions.bias
    shared = sorted(set(own.pieces) & set(reference.pieces))
    assert "▁dog" in shared
    assert "[MASK]" in shared
    for piece in shared:
        theirs, ours = own.pieces.index(piece), reference.pieces.index(piece)
        assert torch.equal(new[ours], old[theirs])
        assert new_bias[ours] == old_bias[theirs]
    (stranger,) = sorted(set(reference.pieces) - set(own.pieces))[:1]
    torch.testing.assert_close(new[reference.pieces.index(stranger)], old.mean(dim=0))
    assert model.cls.predictions.decoder.weight is new
    assert model.config.vocab_size == len(reference.pieces)


def test_a_saved_student_fills_masks_in_transformers(tiny_mlm: Path, tiny_tokenizer: Path, tmp_path: Path) -> None:
    model = start_student(tiny_mlm, tokenizer=load_tokenizer(tiny_tokenizer), layers=None, config=None, seed=0)
    save_model(model, tmp_path, tokenizer=tiny_tokenizer)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert tokenizer.vocab_size == loaded.config.vocab_size
    fill = pipeline("fill-mask", model=loaded, tokenizer=tokenizer)
    answers = fill("the old [MASK] sleeps under the table.")
    assert len(answers) == 5
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors", ".txt"}
