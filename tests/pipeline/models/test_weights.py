"""Weights in published forms: in shards, tied, in half precision, with the names of older versions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM

from benchmarks.families.configs import FAMILIES
from pipeline.models.masked_lm import load_checked
from pipeline.models.weights import INDEX, WEIGHTS
from storage.errors import SourceError, TeacherRefused

SPECIAL = {"cls": 0, "pad": 1, "sep": 2, "unk": 3, "mask": 59}


@pytest.fixture
def folder(tiny_mlm: Path, tmp_path: Path) -> Path:
    """A copy of a tiny BERT."""
    return Path(shutil.copytree(tiny_mlm, tmp_path / "model"))


@pytest.fixture
def shards(folder: Path) -> Path:
    """The same model in three shards and an index."""
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names, where = sorted(weights), {}
    for number in range(3):
        file = f"model-{number + 1:05}-of-00003.safetensors"
        part = names[number::3]
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}), encoding="utf-8")
    return folder


def same(folder: Path, other: Path) -> bool:
    first, second = load_checked(folder).state_dict(), load_checked(other).state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_shards_are_one_model(shards: Path, tiny_mlm: Path) -> None:
    assert same(shards, tiny_mlm)


def test_a_missing_shard_is_named(shards: Path) -> None:
    (shards / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(SourceError, match=r"1 of 3 shards .* are missing: model-00002-of-00003.safetensors. .*fetch"):
        load_checked(shards)


def test_an_index_that_is_no_json_is_named(shards: Path) -> None:
    (shards / INDEX).write_text("<html>", encoding="utf-8")
    with pytest.raises(SourceError, match=r"model.safetensors.index.json: expected JSON with a weight_map"):
        load_checked(shards)


@pytest.mark.parametrize(
    ("size", "message"), [(7, "its header cannot be read"), (-5, r"bytes, expected [\d,]+ by its")]
)
def test_a_file_that_ends_too_early_is_named(folder: Path, size: int, message: str) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:size])
    with pytest.raises(SourceError, match=rf"model.safetensors: .*{message}"):
        load_checked(folder)


@pytest.mark.parametrize("name", ["bert", "roberta", "mpnet", "electra", "modernbert", "mobilebert", "albert"])
def test_tied_weights_are_stored_once_either_way_round(tmp_path: Path, name: str) -> None:
    """Every tied tensor of the family, the matrix and the bias, under each of its names."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForMaskedLM.from_config(FAMILIES[name].config(vocabulary=60, special=SPECIAL))
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.3)
    model.save_pretrained(tmp_path / "as-saved")
    weights = load_file(tmp_path / "as-saved" / WEIGHTS)
    names: dict[int, list[str]] = {}
    for key, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(key)
    tied = [group for group in names.values() if len(group) > 1]
    assert tied, f"{name} ties nothing"
    for group in tied:
        (stored,) = (key for key in group if key in weights)
        for other in group:
            if other != stored:
                folder = Path(shutil.copytree(tmp_path / "as-saved", tmp_path / other))
                moved = {other if key == stored else key: weight for key, weight in weights.items()}
                save_file(moved, folder / WEIGHTS, metadata={"format": "pt"})
                assert same(folder, tmp_path / "as-saved")


def test_names_of_old_checkpoints_are_known(folder: Path, tiny_mlm: Path) -> None:
    """google-bert/bert-base-uncased says gamma and beta, and brings weights of heads that nobody asks for."""
    weights = load_file(folder / WEIGHTS)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): weight
        for name, weight in weights.items()
    }
    old |= {"cls.seq_relationship.weight": torch.zeros(2, 32), "bert.pooler.dense.weight": torch.zeros(32, 32)}
    save_file(old, folder / WEIGHTS, metadata={"format": "pt"})
    assert same(folder, tiny_mlm)


def test_half_precision_is_read_in_float32(folder: Path, tiny_mlm: Path) -> None:
    weights = {name: weight.half() for name, weight in load_file(folder / WEIGHTS).items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    model, whole = load_checked(folder), load_checked(tiny_mlm).state_dict()
    for name, weight in model.state_dict().items():
        assert weight.dtype == whole[name].dtype
        torch.testing.assert_close(weight, whole[name].half().float(), rtol=0, atol=0)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_weight_that_is_no_number_is_refused_by_name(folder: Path, value: float) -> None:
    weights = {name: weight.half() for name, weight in load_file(folder / WEIGHTS).items()}
    weights["bert.encoder.layer.1.output.dense.weight"][3, 5] = value
    weights["bert.encoder.layer.0.output.dense.weight"][3, 5] = 65504
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(TeacherRefused, match=r"1 weights hold .*\(bert.encoder.layer.1.output.dense.weight\)"):
        load_checked(folder)


def test_a_pickle_is_refused_with_the_command_that_converts_it(folder: Path, workplace: Path) -> None:
    model = load_checked(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    with pytest.raises(SourceError, match=r"pytorch_model.bin is a pickle.* convert it once") as refusal:
        load_checked(folder)
    command = str(refusal.value).split('python -c "')[1].removesuffix('"')
    exec(command, {})
    converted = load_checked(workplace / "converted").state_dict()
    assert all(torch.equal(weight, converted[name]) for name, weight in model.state_dict().items())
    assert (workplace / "converted" / "tokenizer.json").is_file()
