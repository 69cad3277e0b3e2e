"""Students of starts of another type than the reference tokenizer's model, as transformers reads what is saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, pipeline

from pipeline.models.publish import save_model
from pipeline.text.tokenizer import FastTokenizer, load_tokenizer
from pipeline.train.initialize import start_student
from pipeline.train.saved_tokenizer import name_tokenizer
from tests.pipeline.train.test_initialize import published

READ = {
    "roberta": ["input_ids", "attention_mask"],  # has one type: the second of a pair is out of its range
    "xlm-roberta": ["input_ids", "token_type_ids", "attention_mask"],
    "albert": ["input_ids", "token_type_ids", "attention_mask"],
    "fnet": ["input_ids", "token_type_ids"],
    "distilbert": ["input_ids", "attention_mask"],
    "mpnet": ["input_ids", "attention_mask"],
    "modernbert": ["input_ids", "attention_mask"],
}
TEXTS = ["The dog sleeps, (it) likes Bones.", "the cat"]


def saved(folder: Path, name: str, tokenizer: FastTokenizer) -> Path:
    """A student from a start of the family, saved as `train` saves it."""
    start = published(folder / "start", name, **({"type_vocab_size": 1} if name == "roberta" else {}))
    student = start_student(start, tokenizer=tokenizer, layers=None, config=None, seed=0)
    save_model(student, folder / "saved", tokenizer=tokenizer.folder)
    name_tokenizer(student, folder / "saved", tokenizer)
    return folder / "saved"


@pytest.mark.parametrize("name", READ)
def test_a_tokenizer_of_another_type_of_model_is_read_as_it_was(tmp_path: Path, name: str) -> None:
    """BERT's, whose files name neither class nor special tokens: transformers would take those of the start's type."""
    tokenizer = load_tokenizer(published(tmp_path / "bert", "bert"))
    folder = saved(tmp_path, name, tokenizer)
    found = AutoTokenizer.from_pretrained(folder)
    raw = Tokenizer.from_file(str(tmp_path / "bert" / "tokenizer.json"))
    assert [found(text)["input_ids"] for text in TEXTS] == [raw.encode(text).ids for text in TEXTS]
    special = {role: getattr(found, f"{role}_token") for role in ("pad", "mask", "cls", "sep", "unk")}
    assert special == {"pad": "[PAD]", "mask": "[MASK]", "cls": "[CLS]", "sep": "[SEP]", "unk": "[UNK]"}
    assert load_tokenizer(folder).identity == tokenizer.identity
    assert json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["do_lower_case"] is True

    pairs = found(TEXTS, TEXTS, padding=True, return_tensors="pt")
    assert set(pairs) == set(READ[name])
    fill = pipeline("fill-mask", model=str(folder), device="cpu")
    with torch.inference_mode():
        assert fill.model(**pairs).logits.isfinite().all()
        ids = torch.tensor([raw.encode("the cat [MASK].").ids])
        logits_V = fill.model(input_ids=ids).logits[ids == raw.token_to_id("[MASK]")][0]
    assert fill("the cat [MASK].")[0]["token"] == int(logits_V.argmax())


def test_a_tokenizer_of_other_files_gets_the_file_that_its_class_reads(tmp_path: Path) -> None:
    """A vocabulary alone is read by BERT's class, which a RoBERTa model does not lead to."""
    reference = published(tmp_path / "bert", "bert")
    vocabulary = Tokenizer.from_file(str(reference / "tokenizer.json")).get_vocab()
    lines = "\n".join(sorted(vocabulary, key=lambda token: vocabulary[token]))
    (reference / "vocab.txt").write_text(f"{lines}\n", encoding="utf-8")
    (reference / "tokenizer.json").unlink()
    tokenizer = load_tokenizer(reference)
    found = AutoTokenizer.from_pretrained(saved(tmp_path, "roberta", tokenizer))
    assert found(TEXTS[0])["input_ids"] == AutoTokenizer.from_pretrained(reference)(TEXTS[0])["input_ids"]
    assert found.mask_token_id == vocabulary["[MASK]"]


def test_a_tokenizer_of_the_same_type_stays_as_it_is_published(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(published(tmp_path / "reference", "bert"))
    folder = saved(tmp_path, "bert", tokenizer)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (folder / name).read_bytes() == (tokenizer.folder / name).read_bytes()


def test_a_folder_that_is_a_tokenizer_only_names_no_type(tmp_path: Path) -> None:
    reference = published(tmp_path / "reference", "bert")
    (reference / "config.json").unlink()
    found = AutoTokenizer.from_pretrained(saved(tmp_path, "electra", load_tokenizer(reference)))
    assert found(TEXTS[0])["input_ids"] == load_tokenizer(reference).backend.encode(TEXTS[0]).ids
