"""A model predicts every masked position it can answer once, in whole examples, whatever the bounds and batches."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.models.identity import model_digest
from pipeline.models.masked_lm import MaskedLM, masked_lm
from pipeline.teach.inference import SplitInputs, TeacherInputs
from storage.errors import OutOfMemory, VocabularyError
from storage.reader import Store
from storage.records.base import SPLITS
from storage.records.sequences import Masks
from tests.helpers.stores import TinyStores

CPU = torch.device("cpu")


def open_inputs(lm: MaskedLM, folder: Path, stores: TinyStores) -> TeacherInputs:
    return TeacherInputs.open(folder, lm, stores.corpus(), batch_tokens=200)


@pytest.fixture(scope="module")
def lm(tiny_teacher: Path) -> Iterator[MaskedLM]:
    with masked_lm(tiny_teacher, device=CPU, dtype=torch.float32) as model:
        yield model


@pytest.fixture(scope="module")
def part(lm: MaskedLM, tiny_teacher: Path, tiny_stores: TinyStores) -> SplitInputs:
    return open_inputs(lm, tiny_teacher, tiny_stores).split("train")


def collect(part: SplitInputs, lm: MaskedLM, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits [stop - start, V] and gold ids of each row; NaN and -1 where there is no answer, no row twice."""
    size = stop - start
    logits, gold = np.full((size, len(part.inputs.to_student_V)), np.nan), np.full(size, -1)
    with torch.inference_mode():
        for some, true_ids, row in part.answers(lm, start, stop):
            assert np.isnan(logits[row]).all() and len(np.unique(row)) == len(row) > 0
            logits[row], gold[row] = some.numpy(), true_ids.numpy()
    return logits, gold


def masks_of(part: SplitInputs) -> Masks:
    return part.inputs.corpus.masks.read(part.name)


def test_an_excerpt_has_the_text_of_each_sequence(part: SplitInputs) -> None:
    found = part.excerpt(40, 140)
    assert len(found.texts) == len(found.sequences) < part.inputs.corpus.sequences.plan("train").rows
    texts = part.inputs.corpus.documents.read("train").column("text").to_pylist()
    for n, document in enumerate(found.sequences.document_N):
        columns = np.flatnonzero(found.sequences.word_NL[n] >= 0)
        end = found.sequences.char_end_NL[n, columns[-1]]
        assert 0 < end <= len(found.texts[n])
        assert found.texts[n] == texts[document]
    assert found.masks.sequence_P.max() == len(found.sequences) - 1


def test_bounds_are_widened_to_whole_examples(part: SplitInputs) -> None:
    masks, sequences = masks_of(part), part.inputs.corpus.sequences.read("train")
    examples = list(zip(masks.copy_P.tolist(), masks.sequence_P.tolist(), strict=True))
    rng = np.random.default_rng(0)
    widened = 0
    for _ in range(200):
        start = int(rng.integers(0, len(examples)))
        stop = int(rng.integers(start + 1, len(examples) + 1))
        touched = set(examples[start:stop])
        inside = [p for p, key in enumerate(examples) if key in touched]
        found = part.excerpt(start, stop)
        low, high = found.low, found.low + len(found.masks)
        assert inside == list(range(low, high))
        widened += (low, high) != (start, stop)
        assert (found.masks.column_P == masks.column_P[low:high]).all()
        rows = found.sequences.input_ids_NL[found.masks.sequence_P]
        assert (rows == sequences.input_ids_NL[masks.sequence_P[low:high]]).all()
    assert widened > 100


def test_answers_do_not_depend_on_the_bounds(part: SplitInputs, lm: MaskedLM) -> None:
    """Positions of a neighbouring shard are masked here too: examples across a border have the same inputs for both."""
    rows = part.rows
    whole, gold = collect(part, lm, 0, rows)
    for step in (17, 64):
        parts = [collect(part, lm, start, min(start + step, rows)) for start in range(0, rows, step)]
        np.testing.assert_allclose(np.concatenate([part_logits for part_logits, _ in parts]), whole, atol=1e-4)
        assert np.array_equal(np.concatenate([part_gold for _, part_gold in parts]), gold)
    assert 0.5 < np.isfinite(whole[:, 0]).mean() < 1
    assert ((gold >= 0) == np.isfinite(whole[:, 0])).all()


def test_answers_do_not_depend_on_the_batches(part: SplitInputs, lm: MaskedLM) -> None:
    one_by_one = replace(part, inputs=replace(part.inputs, batch_tokens=1))
    assert len(list(one_by_one.answers(lm, 0, 40))) > len(list(part.answers(lm, 0, 40)))
    np.testing.assert_allclose(collect(one_by_one, lm, 0, 40)[0], collect(part, lm, 0, 40)[0], atol=1e-4)


def test_true_ids_name_the_same_tokens_in_both_vocabularies(part: SplitInputs, lm: MaskedLM) -> None:
    _, gold = collect(part, lm, 0, part.rows)
    answered = gold >= 0
    labels = masks_of(part).label_P.astype(int)
    assert (part.inputs.to_student_V[gold[answered]] == labels[answered]).all()
    assert len(np.unique(gold[answered])) > 20


@pytest.mark.parametrize("split", SPLITS)
def test_every_split_can_be_loaded(split: str, lm: MaskedLM, tiny_teacher: Path, tiny_stores: TinyStores) -> None:
    loaded = open_inputs(lm, tiny_teacher, tiny_stores).split(split)
    assert loaded.rows == Store(tiny_stores.masks, Masks).plan(split).rows


def test_logits_cover_the_ids_of_the_tokenizer_only(
    tiny_teacher: Path, tiny_stores: TinyStores, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Some models pad their output; a padded one gives the same logits, one that is too small those of its ids."""
    from transformers import AutoModelForMaskedLM

    padded = AutoModelForMaskedLM.from_pretrained(tiny_teacher)
    whole = padded.config.vocab_size
    folders = {}
    for name, size in (("padded", whole + 7), ("small", whole - 7)):
        folders[name] = Path(shutil.copytree(tiny_teacher, tmp_path / name))
        model = AutoModelForMaskedLM.from_pretrained(tiny_teacher)
        model.resize_token_embeddings(size)
        model.save_pretrained(folders[name])
    plain_lm: MaskedLM = request.getfixturevalue("lm")
    wide = MaskedLM(AutoModelForMaskedLM.from_pretrained(folders["padded"]).eval(), CPU)
    assert wide.vocabulary == whole + 7
    answers = [
        collect(open_inputs(model, folder, tiny_stores).split("heldout"), model, 0, 30)[0]
        for model, folder in ((wide, folders["padded"]), (plain_lm, tiny_teacher))
    ]
    assert answers[0].shape == (30, whole)
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-4)
    small = MaskedLM(AutoModelForMaskedLM.from_pretrained(folders["small"]).eval(), CPU)
    shorter = open_inputs(small, folders["small"], tiny_stores)
    assert shorter.tokens == open_inputs(plain_lm, tiny_teacher, tiny_stores).tokens[: whole - 7]
    fewer, gold = collect(shorter.split("heldout"), small, 0, 30)
    assert fewer.shape == (30, whole - 7) and (gold < whole - 7).all()
    same = np.isclose(fewer, answers[1][:, : whole - 7], atol=1e-4).all(axis=1)
    assert same.any() and not same.all(), "texts without these tokens, which are frequent ones, are read as before"
    assert np.isfinite(fewer).all(axis=1).sum() > 10
    none = MaskedLM(AutoModelForMaskedLM.from_pretrained(folders["small"]), CPU)
    none.model.config.vocab_size = 3
    with pytest.raises(VocabularyError, match=rf"small: the tokenizer has {whole} ids, among them \d of the \w+ token"):
        open_inputs(none, folders["small"], tiny_stores)


def test_a_models_digest_covers_the_files_that_decide_its_logits(tiny_mlm: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_mlm, tmp_path / "copy"))
    before = model_digest(tiny_mlm)
    assert len(before) == 64 and model_digest(folder) == before
    (folder / "README.md").write_text("Anything.")
    (folder / "vocab.txt").write_text("anything\n")  # the fast tokenizer is in tokenizer.json
    assert model_digest(folder) == before
    seen = {before}
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole + b" ")
        seen.add(model_digest(folder))
        (folder / name).write_bytes(whole)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    seen.add(model_digest(folder))
    assert len(seen) == 5


class Small:
    """A model whose device has room for forwards of `room` tokens."""

    def __init__(self, lm: MaskedLM, *, room: int) -> None:
        self._lm = lm
        self._room = room
        self.device = lm.device
        self.forwards: list[int] = []
        self.refused = 0

    def tensors(self, *arrays: Any) -> Any:
        return self._lm.tensors(*arrays)

    def logits(self, ids: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        if ids.numel() > self._room:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.forwards.append(ids.numel())
        return self._lm.logits(ids, *rest)


def fresh(part: SplitInputs) -> SplitInputs:
    return replace(part, inputs=replace(part.inputs, halved=[]))


def longest(part: SplitInputs, lm: MaskedLM) -> int:
    """Tokens of the longest example."""
    small: Any = Small(lm, room=10**6)
    one_by_one = replace(part, inputs=replace(part.inputs, batch_tokens=1))
    collect(one_by_one, small, 0, part.rows)
    return max(small.forwards)


@pytest.mark.parametrize("times", [1, 2, 3, 6])
def test_forwards_that_do_not_fit_are_halved_until_they_do(
    part: SplitInputs, lm: MaskedLM, times: int, caplog: pytest.LogCaptureFixture
) -> None:
    """`collect` refuses a row that comes twice."""
    rows, room = part.rows, times * longest(part, lm)
    whole, gold = collect(part, lm, 0, rows)
    cramped, small = fresh(part), Small(lm, room=room)
    with torch.inference_mode():
        logits, same_gold = collect(cramped, small, 0, rows)  # type: ignore[arg-type]
    np.testing.assert_allclose(logits, whole, atol=1e-4)
    assert np.array_equal(same_gold, gold)
    assert 0 < small.refused == len(cramped.inputs.halved) == caplog.text.count("do not fit into memory: going on with")
    assert cramped.inputs.halved == sorted(cramped.inputs.halved, reverse=True)
    before = small.refused
    collect(cramped, small, 0, rows)  # type: ignore[arg-type]
    assert small.refused == before, "the smaller size is kept for later shards"


def test_reducing_a_forward_may_not_fit_either(part: SplitInputs, lm: MaskedLM) -> None:
    """Logits are larger than their inputs; a reduction that fails is repeated for the same rows in smaller parts."""
    rows, cramped = part.rows, fresh(part)
    seen: list[int] = []

    def reduce(logits: torch.Tensor, gold: torch.Tensor, row: Any) -> np.ndarray:
        if len(row) > 12:
            raise torch.OutOfMemoryError("CUDA out of memory")
        seen.extend(row.tolist())
        return logits.argmax(dim=1).numpy()

    with torch.inference_mode():
        found = {
            place: best for reduced, row in cramped.map_logits(lm, 0, rows, reduce)
            for place, best in zip(row.tolist(), reduced.tolist(), strict=True)
        }  # fmt: skip
    expected, _ = collect(part, lm, 0, rows)
    answered = np.flatnonzero(np.isfinite(expected[:, 0]))
    assert sorted(seen) == sorted(found) == answered.tolist()
    assert [found[place] for place in answered] == expected[answered].argmax(axis=1).tolist()


def test_one_sequence_that_does_not_fit_is_refused(part: SplitInputs, lm: MaskedLM) -> None:
    small: Any = Small(lm, room=longest(part, lm) - 1)
    with pytest.raises(OutOfMemory, match=r"^one sequence of \d+ tokens does not fit .* runtime.device: cpu$"):
        collect(fresh(part), small, 0, part.rows)
