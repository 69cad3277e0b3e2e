"""Starts: merged folder, some layers, fresh weights, another vocabulary; and the saved folder as a user loads it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

from benchmarks.families.configs import FAMILIES
from benchmarks.families.tokenizers import write_tokenizer
from pipeline.models.masked_lm import load_checked
from pipeline.models.publish import save_model, write_record
from pipeline.text.tokenizer import load_tokenizer
from pipeline.train.initialize import start_student
from storage.errors import ParamsError, SourceError
from tests.helpers.stores import TINY_TEXT


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


def test_another_vocabulary_keeps_the_rows_of_shared_tokens(tiny_teacher: Path, tiny_tokenizer: Path) -> None:
    reference = load_tokenizer(tiny_tokenizer)
    own = load_tokenizer(tiny_teacher)
    model = start_student(tiny_teacher, tokenizer=reference, layers=None, config=None, seed=0)
    weights = load_file(tiny_teacher / "model.safetensors")
    old, new = weights["bert.embeddings.word_embeddings.weight"], model.get_input_embeddings().weight
    old_bias, new_bias = weights["cls.predictions.bias"], model.cls.predictions.bias
    shared = sorted(set(own.tokens) & set(reference.tokens))
    assert "▁dog" in shared
    assert "[MASK]" in shared
    for token in shared:
        theirs, ours = own.tokens.index(token), reference.tokens.index(token)
        assert torch.equal(new[ours], old[theirs])
        assert new_bias[ours] == old_bias[theirs]
    (stranger,) = sorted(set(reference.tokens) - set(own.tokens))[:1]
    torch.testing.assert_close(new[reference.tokens.index(stranger)], old.mean(dim=0))
    assert model.cls.predictions.decoder.weight is new
    assert model.config.vocab_size == len(reference.tokens)


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


def published(folder: Path, name: str, *, extra: int = 0, **changes: Any) -> Path:
    """A start of the family with its own tokenizer and large random weights; `extra` rows beyond the tokenizer's."""
    family = FAMILIES[name]
    special = write_tokenizer(folder, family, TINY_TEXT)
    size = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    config = family.config(vocabulary=size + extra, special=special)
    for key, value in changes.items():
        setattr(config, key, value)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForMaskedLM.from_config(config)
        for parameter in model.parameters():
            parameter.data.normal_(0, 0.3)
    model.save_pretrained(folder)
    return folder


def logits_of(model: Any, ids: list[int]) -> torch.Tensor:
    ids_BL = torch.tensor([ids])
    with torch.inference_mode():
        return model.eval()(input_ids=ids_BL, attention_mask=torch.ones_like(ids_BL)).logits[0]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("bert", {}),
        ("bert", {"tie_word_embeddings": False}),
        ("bert", {"extra": 7}),
        ("roberta", {}),
        ("roberta", {"tie_word_embeddings": False, "extra": 8}),
        ("xlm-roberta", {}),
        ("camembert", {}),
        ("longformer", {}),
        ("mobilebert", {}),
        ("rembert", {}),
        ("albert", {}),
        ("electra", {}),
        ("deberta-v3", {}),
        ("modernbert", {"extra": 5}),
        ("distilbert", {}),
    ],
    ids=str,
)
def test_a_start_with_another_vocabulary_is_the_same_model_on_tokens_that_both_know(
    tiny_tokenizer: Path, tmp_path: Path, name: str, changes: dict[str, Any]
) -> None:
    """At every position and for every such token, in memory and after a reload: positions, matrices, biases."""
    folder = published(tmp_path / "start", name, **changes)
    own, reference = load_tokenizer(folder), load_tokenizer(tiny_tokenizer)
    shared = [token for token in reference.tokens if token in own.tokens]
    theirs, ours = ([side.tokens.index(token) for token in shared] for side in (own, reference))
    ordinary = [i for i, token in enumerate(shared) if not token.startswith("[")][:20]
    assert len(ordinary) > 10
    before = logits_of(load_checked(folder), [theirs[i] for i in ordinary])
    student = start_student(folder, tokenizer=reference, layers=None, config=None, seed=0)
    asked = [ours[i] for i in ordinary]
    torch.testing.assert_close(logits_of(student, asked)[:, ours], before[:, theirs], rtol=1e-4, atol=1e-4)
    assert logits_of(student, asked).shape[1] == len(reference.tokens)
    save_model(student, tmp_path / "saved", tokenizer=tiny_tokenizer)
    torch.testing.assert_close(logits_of(load_checked(tmp_path / "saved"), asked), logits_of(student, asked))


@pytest.mark.parametrize("rows", [-3, 6])
def test_a_matrix_that_is_not_as_long_as_its_tokenizer_is_brought_to_it(tmp_path: Path, rows: int) -> None:
    """With the tokenizer it was published with, too: tokens agree, and only the number of rows differs."""
    folder = published(tmp_path / "start", "bert", extra=rows)
    own = load_tokenizer(folder)
    student = start_student(folder, tokenizer=own, layers=None, config=None, seed=0)
    old = load_file(folder / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
    new = student.get_input_embeddings().weight
    assert len(new) == len(own.tokens) == student.config.vocab_size
    both = min(len(old), len(new))
    assert torch.equal(new[:both], old[:both])
    if rows < 0:
        torch.testing.assert_close(new[both:], old.mean(dim=0).expand(len(new) - both, -1))


def test_a_student_that_would_be_another_model_after_a_reload_is_not_published(
    tiny_mlm: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    model = start_student(tiny_mlm, tokenizer=load_tokenizer(tiny_tokenizer), layers=None, config=None, seed=0)
    model.bert.embeddings.LayerNorm.eps = 0.5
    with pytest.raises(SourceError, match="that was saved is another one when it is loaded: its logits differ"):
        save_model(model, tmp_path, tokenizer=tiny_tokenizer)


NO_LIST_OF_LAYERS = {"albert", "squeezebert", "funnel", "perceiver"}
"""ALBERT's layers share their weights, Funnel's and Perceiver's lie in blocks."""
UNLIKE_LAYERS = {"modernbert"}
"""Its first layer lacks a norm that the others have."""


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - NO_LIST_OF_LAYERS - UNLIKE_LAYERS))
def test_layers_of_every_family_are_those_asked_for_and_the_rest_stays(tmp_path: Path, name: str) -> None:
    """In memory and in the folder that is saved, whose configuration has one layer; publishing reloads and compares."""
    folder = published(tmp_path / "start", name)
    student = start_student(folder, tokenizer=load_tokenizer(folder), layers=[1], config=None, seed=0)
    save_model(student, tmp_path / "saved", tokenizer=folder)
    before, after = (one.state_dict() for one in (load_checked(folder), load_checked(tmp_path / "saved")))
    renumbered = {key: re.sub(r"(layers?)\.0\.", r"\1.1.", key) for key in after}
    moved = [key for key, source in renumbered.items() if key != source]
    assert moved and not any(re.search(r"layers?\.1\.", key) for key in after)
    assert set(renumbered.values()) == {key for key in before if not re.search(r"layers?\.0\.", key)}
    assert all(torch.equal(after[key], before[source]) for key, source in renumbered.items())
    assert any(not torch.equal(before[key], after[key]) for key in moved), "its two layers are not the same"


@pytest.mark.parametrize("name", sorted(NO_LIST_OF_LAYERS))
def test_layers_of_a_family_without_a_list_of_them_are_refused(tmp_path: Path, name: str) -> None:
    folder = published(tmp_path / "start", name)
    with pytest.raises(ParamsError, match=r"^students: layers: where \w+ForMaskedLM keeps its layers is not known$"):
        start_student(folder, tokenizer=load_tokenizer(folder), layers=[1], config=None, seed=0)


def test_layers_of_a_model_with_layers_of_two_kinds_keep_their_kind(tmp_path: Path) -> None:
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    folder = published(tmp_path / "start", "modernbert", num_hidden_layers=3, layer_types=kinds)
    own = load_tokenizer(folder)
    student = start_student(folder, tokenizer=own, layers=[0, 2], config=None, seed=0)
    save_model(student, tmp_path / "saved", tokenizer=folder)
    assert load_checked(tmp_path / "saved").config.layer_types == [kinds[0], kinds[2]]
    with pytest.raises(
        ParamsError, match=r"layers: \[1\] of .*its layers are not all alike \(model.layers.0.attn_norm"
    ):
        start_student(folder, tokenizer=own, layers=[1], config=None, seed=0)


def test_all_files_of_a_tokenizer_travel_with_a_class_that_transformers_4_knows(tiny_mlm: Path, tmp_path: Path) -> None:
    folder = published(tmp_path / "start", "bert")
    for name in ("added_tokens.json", "special_tokens_map.json"):
        (folder / name).write_text("{}", encoding="utf-8")
    (folder / "spiece.model").write_bytes(b"sentence pieces")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "TokenizersBackend"}', encoding="utf-8")
    save_model(load_checked(tiny_mlm), tmp_path / "saved", tokenizer=folder)
    for name in ("tokenizer.json", "added_tokens.json", "special_tokens_map.json", "spiece.model"):
        assert (tmp_path / "saved" / name).read_bytes() == (folder / name).read_bytes()
    config = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config == {"tokenizer_class": "PreTrainedTokenizerFast"}


@pytest.mark.parametrize(
    ("name", "first"),
    [("bert", "4.57"), ("eurobert", transformers.__version__), ("deberta-v3", transformers.__version__)],
)
def test_the_card_says_which_versions_load_it(tmp_path: Path, name: str, first: str) -> None:
    folder = published(tmp_path / "start", name)
    write_record(folder, {"steps": 3}, card="# x\n")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card == f"# x\n\nWritten with transformers {transformers.__version__}; loads with {first} and later.\n"
