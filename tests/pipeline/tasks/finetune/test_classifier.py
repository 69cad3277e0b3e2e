"""The loop on two-layer models: it learns what can be learnt, repeats itself, and attends to nothing but the text.

That real tasks are learnt is not shown here: it takes minutes.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.models.masked_lm import load_checked, one_model
from pipeline.tasks.finetune.classifier import Classifier, finetuned, normalised
from pipeline.tasks.finetune.examples import Examples
from pipeline.tasks.params import FinetuneParams
from pipeline.text.tokenizer import load_tokenizer
from storage.errors import (
    DataError,
    ParamsError,
    SecondModelError,
    SourceError,
)
from tests.helpers.stores import ANIMALS, cpu_runtime, write_tiny_mlm

PARAMS = FinetuneParams(
    epochs=6, learning_rate=5e-3, batch=8, warmup=0.1, weight_decay=0.01, max_tokens=40, pooling="mean"
)
TAME = ("dog", "cat", "horse", "sheep", "cow", "duck")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Products this small only wait for a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def sentences() -> Examples:
    """Is the animal tame? Texts of different length."""
    rows = [
        (f"the {animal} {verb}", animal in TAME)
        for _, animal, place, food in ANIMALS
        for verb in ("sleeps", f"waits {place}", f"eats {food} {place}", "hides", "walks slowly")
    ]
    return Examples(
        first=[text for text, _ in rows], second=None, label_N=np.array([tame for _, tame in rows], np.int64)
    )


def pairs() -> Examples:
    """How many of the two animals are tame, as a value."""
    names = [animal for _, animal, _, _ in ANIMALS]
    rows = [(one, two) for one in names for two in names]
    return Examples(
        first=[f"the {one} sleeps" for one, _ in rows],
        second=[f"a {two} eats" for _, two in rows],
        label_N=np.array([100.0 + 10 * ((one in TAME) + (two in TAME)) for one, two in rows]),
    )


def fit(
    folder: Path, train: Examples, *, classes: int = 2, seed: int = 0, **changes: Any
) -> AbstractContextManager[Classifier]:
    batch_tokens = changes.pop("batch_tokens", 512)
    dtype = changes.pop("dtype", torch.float32)
    params = PARAMS.model_copy(update=changes)
    return finetuned(
        folder,
        train,
        classes=classes,
        params=params,
        seed=seed,
        runtime=cpu_runtime(dtype=dtype, batch_tokens=batch_tokens),
    )


@pytest.mark.parametrize(
    ("pooling", "dtype"), [("mean", torch.float32), ("cls", torch.float32), ("mean", torch.bfloat16)]
)
def test_classes_are_learnt_and_told_of_texts_never_seen(tiny_mlm: Path, pooling: str, dtype: torch.dtype) -> None:
    whole = sentences()
    seen = np.arange(len(whole)) % 5 != 0
    with fit(tiny_mlm, whole.only(np.flatnonzero(seen)), pooling=pooling, dtype=dtype, epochs=8) as classifier:
        scores_NC = classifier.scores(whole)
        losses = classifier.losses
    assert scores_NC.shape == (len(whole), 2) and scores_NC.dtype == np.float32
    assert losses[0] > 0.3 and losses[-1] < 0.1 and len(losses) == 8
    assert (scores_NC.argmax(axis=1) == whole.label_N)[~seen].mean() > 0.9


def test_values_are_learnt_on_their_own_scale_from_both_texts(tiny_mlm: Path) -> None:
    examples = pairs()
    with fit(tiny_mlm, examples, classes=1) as classifier:
        value_N = classifier.scores(examples)[:, 0]
    assert np.abs(value_N - examples.label_N).mean() < 3
    assert np.corrcoef(value_N, examples.label_N)[0, 1] > 0.95


def test_equal_values_are_no_division_by_zero(tiny_mlm: Path) -> None:
    examples = Examples(first=["the dog", "a cat"], second=None, label_N=np.array([2.5, 2.5]))
    with fit(tiny_mlm, examples, classes=1, epochs=1) as classifier:
        assert classifier.scores(examples)[:, 0] == pytest.approx([2.5, 2.5], abs=0.5)


def test_the_same_seed_gives_the_same_and_another_gives_another(tiny_mlm: Path) -> None:
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(found))  # the global generator must not matter
        with fit(tiny_mlm, sentences(), seed=seed, epochs=1) as classifier:
            found.append(classifier.scores(sentences()))
    assert np.array_equal(found[0], found[1])
    assert np.abs(found[0] - found[2]).max() > 1e-3


def test_cutting_a_step_for_memory_changes_rounding_only(tiny_mlm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout is off: it falls in the order of the parts."""
    monkeypatch.setattr("pipeline.tasks.finetune.classifier.DROPOUT", 0.0)
    found = []
    for batch_tokens in (4096, 30):
        with fit(tiny_mlm, sentences(), batch_tokens=batch_tokens, epochs=1, learning_rate=1e-3) as classifier:
            found.append(classifier.scores(sentences()))
    assert np.abs(found[0] - found[1]).max() < 1e-3


def test_scores_keep_the_order_and_do_not_depend_on_what_shares_a_batch(tiny_mlm: Path) -> None:
    examples = sentences()
    with fit(tiny_mlm, examples, epochs=1) as classifier:
        together = classifier.scores(examples)
        alone = np.concatenate([classifier.scores(examples.only(np.array([row]))) for row in range(len(examples))])
        nothing = classifier.scores(Examples(first=[], second=None, label_N=np.zeros(0, np.int64)))
    assert together == pytest.approx(alone, abs=1e-5)
    assert nothing.shape == (0, 2)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_the_model_sees_ids_and_attention_as_they_are(
    tiny_mlm: Path, monkeypatch: pytest.MonkeyPatch, pooling: str
) -> None:
    """Every call of the encoder: attention is 1 where a token is and 0 at padding, nothing else."""
    pad = load_tokenizer(tiny_mlm).special["pad"]
    calls: list[dict[str, torch.Tensor]] = []
    from transformers import BertModel

    forward = BertModel.forward

    def spy(self: BertModel, input_ids: Any = None, attention_mask: Any = None, token_type_ids: Any = None) -> Any:
        calls.append({"ids": input_ids, "attention": attention_mask, "types": token_type_ids})
        return forward(self, input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)

    monkeypatch.setattr(BertModel, "forward", spy)
    with fit(tiny_mlm, sentences(), epochs=1, pooling=pooling) as classifier:
        classifier.scores(sentences())
    assert len(calls) > len(sentences()) // PARAMS.batch
    assert any((call["attention"] == 0).any() for call in calls)
    for call in calls:
        assert torch.equal(call["attention"] == 1, call["ids"] != pad)
        assert torch.equal(call["attention"] == 0, call["ids"] == pad)
        assert call["attention"].sum(dim=1).max() == call["ids"].shape[1]
        assert call["types"] is not None


def test_a_model_without_types_is_not_given_any(tiny_tokenizer: Path, tmp_path: Path) -> None:
    from transformers import DistilBertConfig, DistilBertForMaskedLM

    write_tiny_mlm(tmp_path / "model", tiny_tokenizer)
    size = load_checked(tmp_path / "model").config.vocab_size
    config = DistilBertConfig(vocab_size=size, dim=32, n_layers=1, n_heads=2, hidden_dim=64, max_position_embeddings=64)
    DistilBertForMaskedLM(config).save_pretrained(tmp_path / "model")
    with fit(tmp_path / "model", pairs(), classes=1, epochs=1) as classifier:
        assert np.isfinite(classifier.scores(pairs())).all()


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("scale", [0.0625, 64.0])
def test_the_scale_of_an_encoders_output_changes_nothing(
    tiny_mlm: Path, monkeypatch: pytest.MonkeyPatch, pooling: str, scale: float
) -> None:
    """Two encoders that differ by a factor of all they put out are fine-tuned to the same answers."""
    from transformers import BertModel

    forward = BertModel.forward
    found = []
    for factor in (1.0, scale):

        def scaled(self: BertModel, *inputs: Any, factor: float = factor, **named: Any) -> Any:
            output = forward(self, *inputs, **named)
            output.last_hidden_state = output.last_hidden_state * factor
            return output

        scaled.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
        monkeypatch.setattr(BertModel, "forward", scaled)
        with fit(tiny_mlm, sentences(), pooling=pooling) as classifier:
            found.append(classifier.scores(sentences()))
    assert np.abs(found[0]).max() > 1
    assert found[1] == pytest.approx(found[0], abs=1e-3)


def test_features_have_a_mean_square_of_one() -> None:
    pooled_BH = torch.tensor([[3.0, 4.0], [0.0, -1e-3], [0.0, 0.0]])
    root = 2**0.5
    expected = [[0.6 * root, 0.8 * root], [0.0, -root], [0.0, 0.0]]
    assert normalised(pooled_BH).numpy() == pytest.approx(np.array(expected), abs=1e-5)


def test_a_small_set_is_trained_for_more_epochs(tiny_mlm: Path) -> None:
    """60 texts in batches of 8 are 8 steps an epoch."""
    assert len(sentences()) == 60
    for least, epochs in ((0, 2), (16, 2), (17, 3), (40, 5)):
        with fit(tiny_mlm, sentences(), epochs=2, least_steps=least) as classifier:
            assert len(classifier.losses) == epochs


def test_the_encoders_own_dropout_stays_off(tiny_tokenizer: Path, tmp_path: Path) -> None:
    """The same weights with dropout in their configuration are fine-tuned to the same model."""
    found = []
    for dropout in (0.0, 0.5):
        folder = write_tiny_mlm(tmp_path / f"dropout-{dropout}", tiny_tokenizer)
        model = load_checked(folder)
        model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = dropout
        model.save_pretrained(folder)
        with fit(folder, sentences(), epochs=1) as classifier:
            found.append(classifier.scores(sentences()))
    assert np.array_equal(found[0], found[1])


def test_only_one_model_is_in_memory_and_none_after_the_block(tiny_mlm: Path) -> None:
    with fit(tiny_mlm, sentences(), epochs=1) as classifier:
        with pytest.raises(SecondModelError):
            with fit(tiny_mlm, sentences(), epochs=1):
                pass
    with one_model():  # free again
        assert not hasattr(classifier, "encoder")


def test_impossible_requests_are_refused(tiny_mlm: Path, tmp_path: Path) -> None:
    none = Examples(first=[], second=None, label_N=np.zeros(0, np.int64))
    with pytest.raises(DataError, match="no examples to fine-tune on"):
        with fit(tiny_mlm, none):
            pass
    with pytest.raises(ParamsError, match=r"finetune.max_tokens: .* takes 64 tokens at most, got 65"):
        with fit(tiny_mlm, sentences(), max_tokens=65):
            pass
    with pytest.raises(SourceError, match=r"expected tokenizer.json"):
        with fit(tmp_path, sentences()):
            pass
    with pytest.raises(
        ParamsError, match=r"finetune.learning_rate: the loss is (nan|inf) after epoch \d of 6 with 1e\+30"
    ):
        with fit(tiny_mlm, pairs(), classes=1, learning_rate=1e30):
            pass
    with one_model():  # a refusal lets go of the model too
        pass


@pytest.mark.parametrize(
    ("classes", "label"), [(1, np.int64(0)), (2, np.float64(0)), (2, np.int64(2)), (2, np.int64(-1))]
)
def test_labels_that_do_not_fit_the_head_are_a_mistake_of_the_caller(tiny_mlm: Path, classes: int, label: Any) -> None:
    with pytest.raises(ValueError, match="labels"):
        with fit(tiny_mlm, Examples(first=["a dog"], second=None, label_N=np.array([label])), classes=classes):
            pass


def test_examples_of_different_number_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match=r"different number: \[1, 2\]"):
        Examples(first=["a", "b"], second=["c"], label_N=np.zeros(2))
    chosen = Examples(first=["a", "b"], second=["c", "d"], label_N=np.array([0, 1])).only(np.array([1]))
    assert (chosen.first, chosen.second, chosen.label_N.tolist()) == (["b"], ["d"], [1])
