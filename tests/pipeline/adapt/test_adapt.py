"""An encoder without a head becomes a teacher; the published model is the evaluated one; a killed run continues.

Not checked here: how good an adapter of a real encoder is, and after how long.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, BertConfig, BertModel, DistilBertConfig, DistilBertModel

from benchmarks.families.configs import FAMILIES
from benchmarks.families.tokenizers import write_tokenizer
from pipeline.adapt.adapt import adapt
from pipeline.adapt.lora import linear_maps, save_adapter, with_adapter
from pipeline.adapt.params import AdapterParams
from pipeline.adapt.text import masked_text, read_pages
from pipeline.models.masked_lm import load_checked
from pipeline.sources.adapters import head_parameters, head_place, merge
from pipeline.text.tokenizer import load_tokenizer
from pipeline.train.params import TrainingParams
from pipeline.train.trainer import Trainer
from storage.errors import DataError, SourceError
from tests.helpers.stores import TINY_TEXT, TinyStores, cpu_runtime, folder_bytes, write_jsonl

TRAINING = TrainingParams(
    steps=60,
    step_tokens=400,
    learning_rate=3e-2,
    warmup=0.1,
    weight_decay=0.0,
    gradient_clip=1.0,
    evaluations=2,
    seed=3,
)
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
OUT = Path("models/own")


def write_encoder(folder: Path, tokenizer: Path, kind: str = "bert") -> Path:
    """A random encoder without a head."""
    vocabulary = len(load_tokenizer(tokenizer).tokens)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any
        if kind == "bert":
            model = BertModel(
                BertConfig(vocab_size=vocabulary, max_position_embeddings=64, **SIZES), add_pooling_layer=False
            )
        else:
            model = DistilBertModel(
                DistilBertConfig(
                    vocab_size=vocabulary, max_position_embeddings=64, dim=32, n_layers=2, n_heads=2, hidden_dim=64
                )
            )
    model.save_pretrained(folder)
    for file in tokenizer.iterdir():
        shutil.copyfile(file, folder / file.name)
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder") / "bert", tiny_tokenizer)


def settings(start: Path, text: Path, **changes: Any) -> AdapterParams:
    return AdapterParams(
        **{"start": str(start), "text": str(text), "rank": 8, "sequence_tokens": 24, "training": TRAINING} | changes
    )


def run(params: AdapterParams, stores: TinyStores, *, seconds: float = 1e6) -> dict[str, Any]:
    return adapt(
        params,
        documents=stores.documents,
        out=OUT,
        runtime=cpu_runtime(batch_tokens=500, checkpoint_seconds=seconds),
    )


@pytest.fixture(scope="module")
def made(
    encoder: Path, tiny_stores: TinyStores, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        record = run(settings(encoder, tiny_stores.documents), tiny_stores)
    return folder / OUT, record


def test_an_encoder_without_a_head_becomes_a_teacher(made: tuple[Path, dict[str, Any]]) -> None:
    folder, record = made
    assert record["nll_after"] < record["nll_of_frequencies"] < record["nll_before"] + 1
    assert record["nll_after"] == pytest.approx(record["curve"][-1][1], abs=0.01)
    model, info = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    card = (folder / "README.md").read_text()
    assert f"{record['nll_after']:.4f}" in card and card.startswith((folder / "adapter" / "README.md").read_text())
    assert json.loads((folder / "training.json").read_text()) == record


def test_teach_takes_it(made: tuple[Path, dict[str, Any]], tiny_stores: TinyStores, workplace: Path) -> None:
    """It is better than token frequencies, which `teach` requires."""
    from pipeline.sparse.params import TailParams, TopK
    from pipeline.teach.params import TeacherParams
    from pipeline.teach.teach import teach

    manifest = teach(
        TeacherParams(model=str(made[0]), keep=TopK(form="topk", k=8), tail=TailParams(rank=0, step=0.4),
            temperatures=[1.0], seed=0),
        tiny_stores.corpus(), out=workplace / "logits", runtime=cpu_runtime(batch_tokens=500),
    )  # fmt: skip
    assert manifest.facts["coverage"]["train"] == 1


def test_the_adapter_folder_makes_the_same_model_of_the_same_encoder(
    made: tuple[Path, dict[str, Any]], encoder: Path, tmp_path: Path
) -> None:
    merge(encoder, made[0] / "adapter", tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (made[0] / "model.safetensors").read_bytes()
    names = load_file(made[0] / "adapter" / "mlm_head.safetensors")
    assert {str(tensor.dtype) for tensor in names.values()} == {"torch.float16"}
    assert "predictions.bias" in names and not any(name.startswith("cls.") for name in names)


def test_only_the_adapter_and_the_head_change_the_model(encoder: Path) -> None:
    model = with_adapter(encoder, rank=4, seed=0, frequency_V=np.arange(10))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    head = {name for name in head_parameters(model) if ".lora_" not in name}
    assert trained == head | {name for name, _ in model.named_parameters() if ".lora_" in name}
    assert {name.partition(".")[0] for name in head} == {"cls"}
    assert sum(".lora_A." in name for name in trained) == 2 * 6, "every linear map of every layer"
    bias = model.get_output_embeddings().bias.detach().numpy()
    assert np.allclose(np.exp(bias).sum(), 1, atol=1e-5) and bias[9] == pytest.approx(np.log(10 / (45 + len(bias))))


def test_names_of_layers_are_one_expression() -> None:
    names = ["bert.encoder.layer.0.output.dense", "bert.encoder.layer.11.output.dense", "bert.embeddings.map2"]
    assert linear_maps(names) == r"bert\.embeddings\.map2|bert\.encoder\.layer\.\d+\.output\.dense"


def test_a_head_in_several_modules(tiny_tokenizer: Path, tiny_stores: TinyStores, workplace: Path) -> None:
    """DistilBERT's: names in the file are the model's."""
    start = write_encoder(workplace / "distil", tiny_tokenizer, kind="distilbert")
    short = TRAINING.model_copy(update={"steps": 3, "evaluations": 1})
    run(settings(start, tiny_stores.documents, training=short), tiny_stores)
    names = load_file(OUT / "adapter" / "mlm_head.safetensors")
    assert {name.partition(".")[0] for name in names} == {"vocab_transform", "vocab_layer_norm", "vocab_projector"}


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("bert", "cls."), ("mpnet", "lm_head."), ("roberta", "lm_head."), ("albert", "predictions."),
        ("deberta-v3", "lm_predictions."), ("mobilebert", "cls."), ("electra", ""), ("convbert", ""),
        ("distilbert", ""), ("modernbert", ""),
    ],
)  # fmt: skip
def test_the_head_of_each_family_is_found_by_what_is_outside_the_encoder(name: str, place: str, tmp_path: Path) -> None:
    """Encoder, adapter and head make the trained model again; the file names the head relative to its module."""
    body = tmp_path / "body"
    special = write_tokenizer(body, FAMILIES[name], TINY_TEXT)
    size = len(load_tokenizer(body).tokens)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        whole = AutoModelForMaskedLM.from_config(FAMILIES[name].config(vocabulary=size, special=special))
        whole.base_model.save_pretrained(body)
        trained = with_adapter(body, rank=2, seed=0, frequency_V=np.zeros(size, np.int64)).eval()
        with torch.no_grad():
            for parameter in trained.parameters():
                if parameter.requires_grad:
                    parameter.copy_(torch.randn_like(parameter).mul(0.3).half())
    assert head_place(trained) == place
    save_adapter(trained, "body", rank=2, out=tmp_path / "adapter")
    names = set(load_file(tmp_path / "adapter" / "mlm_head.safetensors"))
    assert {place + key for key in names} == set(head_parameters(trained))
    merge(body, tmp_path / "adapter", tmp_path / "merged")
    ids = torch.arange(10, 20)[None] % size
    with torch.inference_mode():
        expected, found = (model(input_ids=ids).logits for model in (trained, load_checked(tmp_path / "merged").eval()))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_a_killed_run_ends_with_the_same_bytes(
    encoder: Path, made: tuple[Path, dict[str, Any]], tiny_stores: TinyStores, workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    class Killed(BaseException):
        pass

    step = Trainer.step

    def fail(self: Trainer, number: int, *rest: Any) -> None:
        if number == 40:
            raise Killed
        step(self, number, *rest)

    params = settings(encoder, tiny_stores.documents)
    monkeypatch.setattr(Trainer, "step", fail)
    with pytest.raises(Killed):
        run(params, tiny_stores, seconds=1e-9)
    assert not OUT.exists()
    (saved,) = Path(".work").glob("models-own-*/checkpoints/step-*/model.safetensors")
    assert "bert.embeddings.word_embeddings.weight" not in load_file(saved), "what stays as it was is not written"
    seen: list[int] = []

    def count(self: Trainer, number: int, *rest: Any) -> None:
        seen.append(number)
        step(self, number, *rest)

    monkeypatch.setattr(Trainer, "step", count)
    run(params, tiny_stores)
    assert seen == list(range(40, 60))
    assert folder_bytes(OUT) == folder_bytes(made[0])


def test_an_existing_masked_language_model_is_specialised(
    tiny_teacher: Path, tiny_stores: TinyStores, workplace: Path
) -> None:
    texts = tuple(f"{text} The farmer looks slowly." for text in TINY_TEXT)
    text = write_jsonl(workplace / "own" / "domain.jsonl", texts)
    gentle = TRAINING.model_copy(update={"learning_rate": 1e-2})
    record = run(settings(tiny_teacher, text.parent, training=gentle, heldout=0.2), tiny_stores)
    assert record["nll_after"] < record["nll_before"]
    start, adapted = load_checked(tiny_teacher), with_adapter(tiny_teacher, rank=2, seed=0, frequency_V=np.arange(5))
    ids = torch.arange(5, 25).reshape(2, 10)
    assert torch.equal(adapted.eval()(input_ids=ids).logits, start.eval()(input_ids=ids).logits), "its own head is kept"


# The text.


def test_what_the_corpus_uses_is_left_out(encoder: Path, tiny_stores: TinyStores) -> None:
    ingested = tiny_stores.documents.parent / "text"
    with pytest.raises(DataError, match="no document to train on that the corpus does not use"):
        read_pages(settings(encoder, ingested), corpus=tiny_stores.documents)
    learned, evaluated = read_pages(settings(encoder, tiny_stores.documents), corpus=tiny_stores.documents)
    assert not {page.text for page in learned} & {page.text for page in evaluated}
    assert {page.doc_id.partition(":")[0] for page in learned} == {"animals"}


def test_files_of_every_kind_and_sources(encoder: Path, tiny_stores: TinyStores, tmp_path: Path) -> None:
    lines = write_jsonl(tmp_path / "own" / "lines.jsonl", tuple(f"A new text number {i}." for i in range(40)))
    (tmp_path / "own" / "plain.txt").write_text("A plain text of some words.\n", encoding="utf-8")
    (tmp_path / "own" / "copied.txt").write_text(TINY_TEXT[0], encoding="utf-8")
    params = settings(encoder, lines.parent, heldout=0.3)
    learned, evaluated = read_pages(params, corpus=tiny_stores.documents)
    texts = [page.text for page in (*learned, *evaluated)]
    assert len(texts) == 41 and "A plain text of some words." in texts and TINY_TEXT[0] not in texts
    chosen = params.model_copy(update={"include": ["dog", "cat"]})
    learned, evaluated = read_pages(chosen, corpus=tiny_stores.documents)
    assert {page.source for page in (*learned, *evaluated)} == {"dog", "cat"}
    wrong = params.model_copy(update={"include": ["dgo"]})
    with pytest.raises(DataError, match=r"include: no document of a source 'dgo' \(did you mean 'dog'\?\)"):
        read_pages(wrong, corpus=tiny_stores.documents)


def test_a_record_without_text_is_refused(encoder: Path, tiny_stores: TinyStores, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"words": "none"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"bad\.jsonl:1: expected a record with the field 'text'"):
        read_pages(settings(encoder, tmp_path), corpus=tiny_stores.documents)


def test_a_small_text_is_masked_anew_and_a_large_one_read_in_part(encoder: Path, tiny_stores: TinyStores) -> None:
    params, tokenizer = settings(encoder, tiny_stores.documents), load_tokenizer(encoder)
    learned, _ = read_pages(params, corpus=tiny_stores.documents)
    once = masked_text(learned, tokenizer, params, tokens=1, copies=True)
    often = masked_text(learned, tokenizer, params, tokens=10**9, copies=True)
    assert set(once.masks.copy_P) == {0} and set(often.masks.copy_P) == set(range(6)), "1 / 0.15 disjoint copies"
    places = {*zip(often.masks.sequence_P.tolist(), often.masks.column_P.tolist(), strict=True)}
    assert len(places) == len(often.masks), "no word is masked twice"


# What is refused.


def test_an_output_matrix_of_its_own_is_refused(encoder: Path, tiny_stores: TinyStores, workplace: Path) -> None:
    start = shutil.copytree(encoder, workplace / "untied")
    config = json.loads((start / "config.json").read_text())
    (start / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.raises(SourceError, match="must be tied to the input embeddings"):
        run(settings(start, tiny_stores.documents), tiny_stores)


def test_an_encoder_with_weights_missing_is_refused(encoder: Path, tiny_stores: TinyStores, workplace: Path) -> None:
    from safetensors.torch import save_file

    start = shutil.copytree(encoder, workplace / "cut")
    weights = load_file(start / "model.safetensors")
    save_file(
        {name: tensor for name, tensor in weights.items() if "layer.1" not in name}, start / "model.safetensors",
        metadata={"format": "pt"},
    )  # fmt: skip
    with pytest.raises(SourceError, match="weights of the encoder are not in its file"):
        run(settings(start, tiny_stores.documents), tiny_stores)


def test_a_folder_that_is_no_model_is_refused(tiny_stores: TinyStores, workplace: Path) -> None:
    with pytest.raises(SourceError, match="no such folder"):
        run(settings(workplace / "nothing", tiny_stores.documents), tiny_stores)
    assert not OUT.exists()
