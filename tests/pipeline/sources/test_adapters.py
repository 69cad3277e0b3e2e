"""Merging: the plain folder gives the logits of body, adapter and head; files that do not fit are refused by name.

Not checked here: that the project's own adapters make good teachers; `evaluate` measures that.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    MPNetConfig,
    MPNetForMaskedLM,
    MPNetModel,
)

from pipeline.models.masked_lm import one_model
from pipeline.sources.adapters import copy_model, merge
from storage.errors import SecondModelError, SourceError
from tests.helpers.stores import TINY_TEXT, folder_bytes

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
CLASSES = {"bert": (BertConfig, BertModel, BertForMaskedLM), "mpnet": (MPNetConfig, MPNetModel, MPNetForMaskedLM)}
HEAD = {"bert": "cls", "mpnet": "lm_head"}
MATRICES = {
    "bert": r".*encoder\.layer\.\d+\.(attention\.self\.(query|value)|attention\.output\.dense|output\.dense)",
    "mpnet": r".*encoder\.layer\.\d+\.(attention\.attn\.(q|k|v|o)|intermediate\.dense)",
}


@dataclass(frozen=True, kw_only=True)
class Kit:
    """An encoder without a head, an adapter for it in half precision, and the model they make before merging."""

    body: Path
    adapter: Path
    unmerged: Any


def round_to_half(parameters: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Half-precision copies, after the originals were set to the same values."""
    with torch.no_grad():
        for tensor in parameters.values():
            tensor.copy_(tensor.half())
    return {name: tensor.detach().half().contiguous() for name, tensor in parameters.items()}


def make_kit(folder: Path, tokenizer: Path, kind: str) -> Kit:
    body, adapter = folder / "body", folder / "adapter"
    vocabulary = Tokenizer.from_file(str(tokenizer / "tokenizer.json")).get_vocab_size()
    make_config, make_encoder, make_masked_lm = CLASSES[kind]
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft asks transformers for an attribute it renamed
        torch.manual_seed(0)
        make_encoder(make_config(vocab_size=vocabulary, max_position_embeddings=64, **SIZES)).save_pretrained(body)
        model = make_masked_lm.from_pretrained(body)
        head = {name: p for name, p in getattr(model, HEAD[kind]).named_parameters() if "decoder" not in name}
        for parameter in head.values():
            torch.nn.init.normal_(parameter, std=0.3)
        config = LoraConfig(r=4, lora_alpha=8, target_modules=MATRICES[kind], init_lora_weights=False)
        unmerged = get_peft_model(model, config).eval()
        unmerged.save_pretrained(adapter)
    lora = {name: p for name, p in unmerged.named_parameters() if "lora_" in name}
    save_file(
        {name.replace(".default", ""): tensor for name, tensor in round_to_half(lora).items()},
        adapter / "adapter_model.safetensors",
    )
    save_file(round_to_half(head), adapter / "mlm_head.safetensors")
    shutil.copytree(tokenizer, body, dirs_exist_ok=True)
    (body / "README.md").write_text("# A body\n")
    return Kit(body=body, adapter=adapter, unmerged=unmerged)


@pytest.fixture(scope="module")
def bert_kit(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> Kit:
    return make_kit(tmp_path_factory.mktemp("bert"), tiny_tokenizer, "bert")


@pytest.fixture(scope="module")
def mpnet_kit(tmp_path_factory: pytest.TempPathFactory, tiny_mpnet_tokenizer: Path) -> Kit:
    return make_kit(tmp_path_factory.mktemp("mpnet"), tiny_mpnet_tokenizer, "mpnet")


def copied(kit: Kit, folder: Path) -> tuple[Path, Path]:
    """The kit's body and adapter in a folder of the test's own, to be damaged."""
    body, adapter = folder / "own-body", folder / "own-adapter"
    shutil.copytree(kit.body, body)
    shutil.copytree(kit.adapter, adapter)
    return body, adapter


def edit(path: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    weights = {name: tensor.clone() for name, tensor in load_file(path).items()}
    save_file(change(weights), path)


@pytest.mark.parametrize("kind", ["bert", "mpnet"])
def test_the_merged_folder_gives_the_logits_of_the_unmerged_model(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    kit: Kit = request.getfixturevalue(f"{kind}_kit")
    merge(kit.body, kit.adapter, tmp_path / "merged")
    merged, info = AutoModelForMaskedLM.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert {tensor.dtype for tensor in merged.state_dict().values() if tensor.is_floating_point()} == {torch.float32}
    ids = torch.arange(5, 45).reshape(4, 10)
    with torch.inference_mode():
        expected = kit.unmerged(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        got = merged.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        bare = kit.unmerged.base_model.model
        with kit.unmerged.disable_adapter():
            without = bare(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert (without - expected).abs().max() > 0.02, "the adapter of this test changes nothing"


def test_the_output_matrix_stays_tied_to_the_embeddings(bert_kit: Kit, tmp_path: Path) -> None:
    merge(bert_kit.body, bert_kit.adapter, tmp_path / "merged")
    merged = AutoModelForMaskedLM.from_pretrained(tmp_path / "merged")
    assert merged.get_output_embeddings().weight is merged.get_input_embeddings().weight
    assert "cls.predictions.decoder.weight" not in load_file(tmp_path / "merged" / "model.safetensors")


def test_merging_twice_gives_the_same_bytes_whatever_the_state_of_chance(bert_kit: Kit, tmp_path: Path) -> None:
    """The low-rank matrices and the head are drawn at random before they are filled: what was drawn must not show."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        merge(bert_kit.body, bert_kit.adapter, tmp_path / "one")
        torch.manual_seed(2)
        merge(bert_kit.body, bert_kit.adapter, tmp_path / "two")
    assert folder_bytes(tmp_path / "one") == folder_bytes(tmp_path / "two")


@pytest.mark.parametrize("how", ["merge", "copy"])
def test_whole_documents_are_encoded_by_the_tokenizer_that_is_written(how: str, bert_kit: Kit, tmp_path: Path) -> None:
    document = " ".join(TINY_TEXT[:20])
    before = Tokenizer.from_file(str(bert_kit.body / "tokenizer.json"))
    assert len(before.encode(document).ids) == 16, "the body's tokenizer of this test does not cut"
    if how == "merge":
        merge(bert_kit.body, bert_kit.adapter, tmp_path / "out")
    else:
        copy_model(bert_kit.body, tmp_path / "out")
    after = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert len(after.encode(document).ids) > 200
    assert len(after.encode("dog").ids) == 3, "padded"
    assert after.get_vocab() == before.get_vocab()
    assert AutoTokenizer.from_pretrained(tmp_path / "out").mask_token == "[MASK]"


def test_only_what_a_model_needs_is_copied_and_no_bytes_are_shared(bert_kit: Kit, tmp_path: Path) -> None:
    body, _ = copied(bert_kit, tmp_path)
    for name in ("pytorch_model.bin", "modeling_evil.py", "model.onnx", "optimizer.pt"):
        (body / name).write_bytes(b"never")
    copy_model(body, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
        "README.md",
    }
    assert (tmp_path / "out" / "model.safetensors").stat().st_nlink == 1


def test_a_second_model_is_refused_while_one_is_in_memory(bert_kit: Kit, tmp_path: Path) -> None:
    with one_model(), pytest.raises(SecondModelError):
        merge(bert_kit.body, bert_kit.adapter, tmp_path / "out")


def test_a_head_with_a_gap_is_refused_by_the_name_of_the_weight(bert_kit: Kit, tmp_path: Path) -> None:
    body, adapter = copied(bert_kit, tmp_path)
    gap = "predictions.transform.dense.weight"
    edit(adapter / "mlm_head.safetensors", lambda weights: {k: v for k, v in weights.items() if k != gap})
    with pytest.raises(SourceError, match=rf"1 weights are neither .* newly initialised: cls.{gap}"):
        merge(body, adapter, tmp_path / "out")


def test_a_bias_that_is_tied_counts_as_filled_only_when_it_is(mpnet_kit: Kit, tmp_path: Path) -> None:
    body, adapter = copied(mpnet_kit, tmp_path)
    edit(adapter / "mlm_head.safetensors", lambda weights: {k: v for k, v in weights.items() if k != "bias"})
    with pytest.raises(SourceError, match=r"2 weights .* lm_head.bias, lm_head.decoder.bias"):
        merge(body, adapter, tmp_path / "out")


def test_a_head_of_another_architecture_is_refused(bert_kit: Kit, mpnet_kit: Kit, tmp_path: Path) -> None:
    body, adapter = copied(bert_kit, tmp_path)
    shutil.copyfile(mpnet_kit.adapter / "mlm_head.safetensors", adapter / "mlm_head.safetensors")
    with pytest.raises(SourceError, match=r"has weights that BertForMaskedLM does not know: bias, dense.bias"):
        merge(body, adapter, tmp_path / "out")


def test_a_head_of_another_width_is_refused(bert_kit: Kit, tmp_path: Path) -> None:
    body, adapter = copied(bert_kit, tmp_path)
    edit(adapter / "mlm_head.safetensors", lambda weights: {k: v[:-1].contiguous() for k, v in weights.items()})
    with pytest.raises(SourceError, match=r"mlm_head.safetensors does not fit BertForMaskedLM: .*size mismatch"):
        merge(body, adapter, tmp_path / "out")


def test_an_adapter_with_a_missing_matrix_is_refused(bert_kit: Kit, tmp_path: Path) -> None:
    body, adapter = copied(bert_kit, tmp_path)
    file = adapter / "adapter_model.safetensors"
    gap = sorted(load_file(file))[0]
    edit(file, lambda weights: {k: v for k, v in weights.items() if k != gap})
    with pytest.raises(
        SourceError, match=r"does not fit BertForMaskedLM: 1 of its matrices are missing and 0 are unknown"
    ):
        merge(body, adapter, tmp_path / "out")


def test_an_adapter_for_another_architecture_is_refused(bert_kit: Kit, mpnet_kit: Kit, tmp_path: Path) -> None:
    body, adapter = copied(bert_kit, tmp_path)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(mpnet_kit.adapter / name, adapter / name)
    with pytest.raises(SourceError, match=r"the adapter does not fit BertForMaskedLM"):
        merge(body, adapter, tmp_path / "out")


def test_a_body_with_an_output_matrix_of_its_own_is_refused(bert_kit: Kit, tmp_path: Path) -> None:
    body, adapter = copied(bert_kit, tmp_path)
    config = BertConfig.from_pretrained(body, tie_word_embeddings=False)
    with torch.random.fork_rng():
        BertForMaskedLM(config).save_pretrained(body)
    with pytest.raises(SourceError, match=r"must be tied to the input embeddings"):
        merge(body, adapter, tmp_path / "out")


def test_the_head_of_another_architecture_is_refused(bert_kit: Kit, tmp_path: Path) -> None:
    body, adapter = copied(bert_kit, tmp_path)
    with torch.random.fork_rng():
        DistilBertModel(DistilBertConfig(dim=16, n_layers=1, n_heads=2, hidden_dim=32)).save_pretrained(body)
    with pytest.raises(SourceError, match=r"has weights that DistilBertForMaskedLM does not know: predictions\.bias"):
        merge(body, adapter, tmp_path / "out")


def test_remote_code_is_not_run(bert_kit: Kit, tmp_path: Path) -> None:
    body, adapter = copied(bert_kit, tmp_path)
    config = json.loads((body / "config.json").read_text()) | {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "evil.EvilConfig", "AutoModelForMaskedLM": "evil.Evil"},
    }
    (body / "config.json").write_text(json.dumps(config))
    (body / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(SourceError, match=r"no architecture with a masked-LM head"):
        merge(body, adapter, tmp_path / "out")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "mlm_head.safetensors"])
def test_an_incomplete_adapter_is_refused(bert_kit: Kit, tmp_path: Path, name: str) -> None:
    body, adapter = copied(bert_kit, tmp_path)
    (adapter / name).unlink()
    with pytest.raises(SourceError, match=rf"own-adapter: no {name}: an adapter folder holds"):
        merge(body, adapter, tmp_path / "out")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), r"no such folder"),
        (("x",), r"no config.json: not a Hugging Face model folder"),
        (("config.json",), r"no model.safetensors, and weights are read from safetensors only\. Where"),
        (("config.json", "pytorch_model.bin"), r"pytorch_model.bin is a pickle, .*convert it once .*save_pretrained"),
        (("config.json", "model.safetensors"), r"no tokenizer: expected one of tokenizer.json"),
    ],
)
def test_a_folder_that_is_no_usable_model_is_refused(tmp_path: Path, files: tuple[str, ...], message: str) -> None:
    for name in files:
        (tmp_path / "body").mkdir(exist_ok=True)
        (tmp_path / "body" / name).write_bytes(b"{}")
    with pytest.raises(SourceError, match=message):
        copy_model(tmp_path / "body", tmp_path / "out")
