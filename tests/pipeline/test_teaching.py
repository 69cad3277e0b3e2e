"""What a store of beliefs holds, against the teacher asked one pass at a time with full float64 softmax."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForMaskedLM

from pipeline import teaching
from pipeline.batches import group_passes
from pipeline.teaching import TeacherParams, teach
from storage.errors import DataError, StaleParent, TeacherRefused
from storage.reader import Store
from storage.records import SPLITS, Masks, Sequences, SparseLogits
from storage.tables import DocumentStore
from tests import fakes
from tests.fakes import TinyStores

KEEP = 5


def ask(stores: TinyStores, teacher: Path, out: Path, **changes: Any) -> Store[SparseLogits]:
    settings = {
        "documents": stores.documents, "sequences": stores.sequences, "masks": stores.masks, "out": out,
        "device": torch.device("cpu"), "dtype": torch.float32, "batch_tokens": 300,
    }  # fmt: skip
    params = TeacherParams(model=str(teacher), keep=KEEP, temperatures=[1.0, 2.0])
    teach(params, **(settings | changes))
    return Store(out, SparseLogits)


def tree(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def logits(
    tiny_stores: TinyStores, tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory
) -> Store[SparseLogits]:
    folder = tmp_path_factory.mktemp("taught")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return ask(tiny_stores, tiny_teacher, folder / "logits" / "fox")


def dense(stores: TinyStores, teacher: Path, split: str) -> np.ndarray:
    """Full log-probabilities [P, V] where a word is cut alike, NaN elsewhere."""
    sequences = Store(stores.sequences, Sequences).read(split)
    masks = Store(stores.masks, Masks).read(split)
    texts = DocumentStore(stores.documents).read(split).column("text").to_pylist()
    model = AutoModelForMaskedLM.from_pretrained(teacher, dtype=torch.float64).eval()
    tokenizer = Tokenizer.from_file(str(teacher / "tokenizer.json"))
    reference = Tokenizer.from_file(str(stores.sequences.parent.parent / "reference.json"))
    tokenizer.no_padding(), tokenizer.no_truncation()
    sequence_G, start_G1 = group_passes(masks)
    result = np.full((len(masks), model.config.vocab_size), np.nan)
    for g, row in enumerate(sequence_G):
        columns = masks.column_P[start_G1[g] : start_G1[g + 1]]
        inside = np.flatnonzero(sequences.word_NL[row] >= 0)
        first, last = sequences.char_start_NL[row, inside[0]], sequences.char_end_NL[row, inside[-1]]
        text = texts[sequences.document_N[row]][first:last]
        spans = list(
            zip(sequences.char_start_NL[row, columns] - first, sequences.char_end_NL[row, columns] - first, strict=True)
        )
        encoding = tokenizer.encode(text)
        ids = [
            tokenizer.token_to_id("<mask>") if any(a < end and start < b for start, end in spans) and b > a else number
            for number, (a, b) in zip(encoding.ids, encoding.offsets, strict=True)
        ]
        with torch.inference_mode():
            output = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(dim=-1).numpy()
        words = sequences.word_NL[row, columns]
        for p, (start, end) in enumerate(spans):
            word = inside[sequences.word_NL[row, inside] == words[p]]
            mine = [reference.id_to_token(int(number)) for number in sequences.input_ids_NL[row, word]]
            low, high = sequences.char_start_NL[row, word[0]] - first, sequences.char_end_NL[row, word[-1]] - first
            theirs = [t for t, (a, b) in enumerate(encoding.offsets) if low <= a < b <= high]
            if [tokenizer.id_to_token(encoding.ids[t]) for t in theirs] == mine:
                where = next(t for t in theirs if encoding.offsets[t] == (start, end))
                result[start_G1[g] + p] = output[where]
    return result


@pytest.fixture(scope="module")
def reference_file(tiny_stores: TinyStores, tiny_tokenizer: Path) -> Path:
    return Path(shutil.copy(tiny_tokenizer / "tokenizer.json", tiny_stores.sequences.parent.parent / "reference.json"))


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_the_store_holds_the_full_softmax_at_kept_entries(
    logits: Store[SparseLogits], tiny_stores: TinyStores, tiny_teacher: Path, reference_file: Path, split: str
) -> None:
    record = logits.read(split)
    full = dense(tiny_stores, tiny_teacher, split)
    covered = record.covered_P()
    assert 0.5 < covered.mean() < 1, "the two vocabularies cut some words differently"
    assert (covered == np.isfinite(full[:, 0])).all()
    full = full[covered]
    kept = np.take_along_axis(full, record.ids_PK[covered].astype(int), axis=1)
    np.testing.assert_allclose(record.logprob_PK[covered].astype(float), kept, atol=8e-3)
    np.testing.assert_allclose(kept, np.sort(full, axis=1)[:, ::-1][:, :KEEP], atol=1e-5)
    outside = np.exp(full).sum(axis=1) - np.exp(kept).sum(axis=1)
    np.testing.assert_allclose(np.exp(record.tail_P[covered]), outside, atol=1e-5)
    gold = np.take_along_axis(full, record.gold_id_P[covered, None].astype(int), axis=1)[:, 0]
    np.testing.assert_allclose(record.gold_logprob_P[covered], gold, atol=1e-4)
    for j, temperature in enumerate(logits.facts["temperatures"]):
        scaled = full / temperature
        lse = np.log(np.exp(scaled).sum(axis=1))
        np.testing.assert_allclose(record.lse_PJ[covered, j], lse, atol=1e-4)
        logp = scaled - lse[:, None]
        np.testing.assert_allclose(record.entropy_PJ[covered, j], -(np.exp(logp) * logp).sum(axis=1), atol=1e-3)


def test_the_tail_prior_is_the_mean_distribution_outside_the_kept_entries(
    logits: Store[SparseLogits], tiny_stores: TinyStores, tiny_teacher: Path, reference_file: Path
) -> None:
    record = logits.read("train")
    full = dense(tiny_stores, tiny_teacher, "train")
    covered = record.covered_P()
    for j, temperature in enumerate(logits.facts["temperatures"]):
        scaled = full[covered] / temperature
        probability = np.exp(scaled) / np.exp(scaled).sum(axis=1, keepdims=True)
        np.put_along_axis(probability, record.ids_PK[covered].astype(int), 0, axis=1)
        expected = probability.sum(axis=0) / probability.sum()
        np.testing.assert_allclose(logits.constant("tail_prior_JV")[j], expected, atol=1e-5)


def test_the_gold_id_is_the_true_piece_in_the_teachers_own_ids(
    logits: Store[SparseLogits], tiny_stores: TinyStores, tiny_teacher: Path, reference_file: Path
) -> None:
    record = logits.read("heldout")
    labels = Store(tiny_stores.masks, Masks).read("heldout").label_P
    theirs, ours = Tokenizer.from_file(str(tiny_teacher / "tokenizer.json")), Tokenizer.from_file(str(reference_file))
    covered = record.covered_P()
    assert [theirs.id_to_token(int(number)) for number in record.gold_id_P[covered]] == [
        ours.id_to_token(int(number)) for number in labels[covered]
    ]


def test_batch_size_does_not_change_what_is_believed(
    logits: Store[SparseLogits], tiny_stores: TinyStores, tiny_teacher: Path, workplace: Path
) -> None:
    other = ask(tiny_stores, tiny_teacher, workplace / "fox", batch_tokens=128).read("train")
    np.testing.assert_allclose(other.gold_logprob_P, logits.read("train").gold_logprob_P, atol=1e-4)


def test_an_interrupted_run_continues_and_ends_with_the_same_bytes(
    logits: Store[SparseLogits],
    tiny_stores: TinyStores,
    tiny_teacher: Path,
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[str] = []
    answer = teaching._answer_shard

    def failing(lm: Any, part: Any, shard: Any, **rest: Any) -> Any:
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(str(shard))
        return answer(lm, part, shard, **rest)

    monkeypatch.setattr(teaching, "_answer_shard", failing)
    with pytest.raises(KeyboardInterrupt):
        ask(tiny_stores, tiny_teacher, workplace / "fox")
    assert not (workplace / "fox").exists()
    again: list[str] = []

    def counting(lm: Any, part: Any, shard: Any, **rest: Any) -> Any:
        again.append(str(shard))
        return answer(lm, part, shard, **rest)

    monkeypatch.setattr(teaching, "_answer_shard", counting)
    store = ask(tiny_stores, tiny_teacher, workplace / "fox")
    planned = [f"{split}/{i}" for split in SPLITS for i in range(store.plan(split).shards)]
    assert made + again == planned
    assert tree(workplace / "fox") == tree(logits.path)


def test_a_model_that_only_guesses_is_refused(tiny_stores: TinyStores, tiny_mlm: Path, workplace: Path) -> None:
    with pytest.raises(TeacherRefused, match=r"guessing by token frequency gives .* no trained masked language model"):
        ask(tiny_stores, tiny_mlm, workplace / "random")
    assert not (workplace / "random").exists()


def test_masks_of_other_sequences_are_refused(
    tiny_stores: TinyStores, tiny_teacher: Path, tiny_tokenizer: Path, workplace: Path
) -> None:
    other = fakes.tiny_sequences(workplace / "other", tiny_tokenizer, sequence_tokens=16)
    with pytest.raises(StaleParent, match=r"masks: made from sequences [0-9a-f]{12}, but .* Run: dvc repro mask"):
        ask(tiny_stores, tiny_teacher, workplace / "fox", sequences=other, documents=workplace / "other/data/documents")


def test_too_little_calibration_text_is_refused(tiny_tokenizer: Path, tiny_teacher: Path, workplace: Path) -> None:
    fakes.tiny_documents(workplace, calibration=0.02, heldout=0.3)
    stores = fakes.tiny_masks(workplace, tiny_tokenizer)
    with pytest.raises(DataError, match=r"predictions that .* can answer, expected at least 50"):
        ask(stores, tiny_teacher, workplace / "fox")
