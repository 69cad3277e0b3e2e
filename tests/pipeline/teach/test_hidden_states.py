"""Stored hidden states give the full softmax, for every kind of output layer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM

from benchmarks.families.configs import FAMILIES
from pipeline.models.identity import model_digest
from pipeline.models.masked_lm import MaskedLM, masked_lm
from pipeline.teach import hidden_states
from pipeline.teach.hidden_states import keep_exact, output_layer
from pipeline.teach.inference import SplitInputs, TeacherInputs
from pipeline.teach.params import ExactParams
from storage.errors import StaleParent, TeacherRefused
from storage.format.manifest import Manifest
from storage.reader import Store
from storage.records.hidden_states import HiddenStates
from storage.records.sequences import Masks
from tests.helpers import stores as fakes
from tests.helpers.stores import TinyStores, cpu_runtime

CPU = torch.device("cpu")
SPECIAL = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}


def run(stores: TinyStores, teacher: Path, out: Path, *, positions: int = 40, **changes: Any) -> Manifest:
    params, corpus = ExactParams(positions=positions), stores.corpus(**changes)
    return keep_exact(params, teacher, corpus, out=out, runtime=cpu_runtime(batch_tokens=200))


@pytest.fixture(scope="module")
def kept(tiny_stores: TinyStores, tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Store[HiddenStates]:
    folder = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(tiny_stores, tiny_teacher, folder / "exact" / "fox")
    return Store(folder / "exact" / "fox", HiddenStates)


@pytest.fixture(scope="module")
def plain(tiny_stores: TinyStores, tiny_teacher: Path) -> tuple[np.ndarray, np.ndarray]:
    """Logits and true ids of all held-out masked positions, from the model without a hook."""
    with masked_lm(tiny_teacher, device=CPU, dtype=torch.float32) as lm, torch.inference_mode():
        teacher_inputs = TeacherInputs.open(tiny_teacher, lm, tiny_stores.corpus(), batch_tokens=300)
        part = teacher_inputs.split("heldout")
        logits = np.full((part.rows, lm.vocabulary), np.nan)
        gold = np.full(part.rows, -1)
        for some, true_ids, row in part.answers(lm, 0, part.rows):
            logits[row], gold[row] = some.numpy(), true_ids.numpy()
    return logits, gold


def softmax_again(store: Store[HiddenStates]) -> np.ndarray:
    hidden = store.read("heldout").hidden_PH.astype(np.float64)
    logits = hidden @ store.constant("head_weight_VH").astype(np.float64).T + store.constant("head_bias_V")
    power = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(power / power.sum(axis=1, keepdims=True))


def test_states_give_the_full_softmax_back(kept: Store[HiddenStates], plain: tuple[np.ndarray, np.ndarray]) -> None:
    logits, gold = plain
    record = kept.read("heldout")
    answered = gold[:40] >= 0
    assert 10 < answered.sum() < 40
    assert np.array_equal(record.covered_P(), answered)
    assert np.array_equal(record.gold_id_P[answered], gold[:40][answered])
    power = np.exp(logits[:40][answered])
    expected = power / power.sum(axis=1, keepdims=True)
    found = softmax_again(kept)[answered]
    np.testing.assert_allclose(np.log(found), np.log(expected), atol=0.02)  # states and weights are float16
    assert (expected * np.log(expected / found)).sum(axis=1).max() < 1e-4
    assert np.isnan(record.hidden_PH[~answered].astype(np.float32)).all()


def test_the_store_says_what_it_is(kept: Store[HiddenStates], tiny_stores: TinyStores, tiny_teacher: Path) -> None:
    manifest = kept.manifest
    assert {name: plan.rows for name, plan in manifest.splits.items()} == {"heldout": 40}
    assert manifest.parents == {"masks": Store(tiny_stores.masks, Masks).identity}
    assert manifest.inputs == {"positions": 40, "model": model_digest(tiny_teacher)}
    vocabulary = AutoModelForMaskedLM.from_pretrained(tiny_teacher).config.vocab_size
    assert manifest.facts["vocabulary"] == vocabulary and manifest.facts["parameters"] > 10_000
    assert kept.constant("head_weight_VH").shape == (vocabulary, 32)


def test_no_more_is_kept_than_the_split_has(
    tiny_stores: TinyStores, tiny_teacher: Path, workplace: Path, kept: Store[HiddenStates]
) -> None:
    rows = Store(tiny_stores.masks, Masks).plan("heldout").rows
    manifest = run(tiny_stores, tiny_teacher, workplace / "fox", positions=10 * rows)
    assert manifest.splits["heldout"].rows == rows
    assert manifest.identity != kept.identity
    more = Store(workplace / "fox", HiddenStates).read("heldout")
    first = kept.read("heldout")
    assert np.array_equal(more.gold_id_P[:40], first.gold_id_P)
    np.testing.assert_allclose(more.hidden_PH[:40].astype(float), first.hidden_PH.astype(float), atol=2e-3)


def test_masks_of_other_sequences_are_refused(
    tiny_stores: TinyStores, tiny_teacher: Path, tiny_tokenizer: Path, workplace: Path
) -> None:
    other = fakes.tiny_sequences(workplace / "other", tiny_tokenizer, sequence_tokens=16)
    with pytest.raises(StaleParent, match=r"masks: made from sequences .* Run: dvc repro mask"):
        run(
            tiny_stores, tiny_teacher, workplace / "fox", sequences=other,
            documents=workplace / "other/data/documents",
        )  # fmt: skip
    assert not (workplace / "fox").exists()


class FixedSplit:
    """Stands for a split: four masked positions in two batches, one of which the model cannot answer."""

    def __init__(self, vocabulary: int) -> None:
        self.inputs = SimpleNamespace(tokenizer=SimpleNamespace(tokens=["token"] * vocabulary))
        self.logits: dict[int, np.ndarray] = {}

    def answers(self, lm: MaskedLM, start: int, stop: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, np.ndarray]]:
        ids = torch.arange(5, 21).reshape(2, 8)
        for rows in (np.array([3, 0]), np.array([1])):
            found = lm.logits(ids, torch.ones_like(ids), torch.arange(len(rows)), torch.from_numpy(rows))
            self.logits |= dict(zip(rows.tolist(), found.numpy(), strict=True))
            yield found, torch.from_numpy(rows + 7), rows

    def respelt(self, start: int, stop: int) -> np.ndarray:
        return np.zeros(stop - start, bool)


def written_model(name: str) -> Any:
    """A model of the family with large random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForMaskedLM.from_config(FAMILIES[name].config(vocabulary=60, special=SPECIAL)).eval()
        for parameter in model.parameters():
            parameter.data.normal_(0, 0.5)
    return model


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "albert", "electra", "modernbert", "eurobert"])
def test_every_supported_output_layer_is_found(name: str) -> None:
    model = written_model(name)
    part = FixedSplit(60)
    with torch.inference_mode():
        lm = MaskedLM(model, CPU)
        layer, bias_V = output_layer(lm)
        record = hidden_states._states(cast(SplitInputs, part), lm, layer, rows=4, width=layer.weight.shape[1])
    assert record.gold_id_P.tolist() == [7, 8, 65535, 10]
    assert record.covered_P().tolist() == [True, True, False, True]
    weight, bias = layer.weight.detach().double().numpy(), 0 if bias_V is None else bias_V.detach().numpy()
    for row, logits in part.logits.items():
        again = record.hidden_PH[row].astype(np.float64) @ weight.T + bias
        np.testing.assert_allclose(again, logits, atol=0.02)
    assert not layer._forward_pre_hooks, "the hook stays behind"


@pytest.mark.parametrize("name", ["mobilebert", "deberta-v3"])
def test_a_family_without_a_state_before_its_matrix_is_refused(name: str) -> None:
    with pytest.raises(TeacherRefused, match="its logits are not one matrix times one state a position"):
        with torch.inference_mode():
            output_layer(MaskedLM(written_model(name), CPU))


def test_the_hook_goes_when_a_batch_fails() -> None:
    model = written_model("mpnet")
    layer = model.get_output_embeddings()
    part = FixedSplit(60)
    with pytest.raises(IndexError), torch.inference_mode():
        hidden_states._states(cast(SplitInputs, part), MaskedLM(model, CPU), layer, rows=2, width=32)
    assert not layer._forward_pre_hooks
