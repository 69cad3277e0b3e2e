"""Training with a table of gloss vectors against training that encodes the glosses of every word."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.lexical.batches import BatchBuilder
from pipeline.lexical.classifier import candidate_scores, sense_loss
from pipeline.lexical.context import lexical_view, meaning_tokens
from pipeline.lexical.gloss_table import encoding_words
from pipeline.lexical.inputs import LexicalData
from pipeline.lexical.params import GlossTableParams, LexicalTrainingParams
from pipeline.lexical.trainer import LexicalTrainer
from pipeline.senses.instances import Instances
from pipeline.text.tokenizer import load_tokenizer
from tests.helpers import stores as fakes
from tests.helpers.inventories import STORY, sense_model, tiny_lexicon, tokenizer_with_quotes

PARAMS = LexicalTrainingParams(
    epochs=6, step_words=4, learning_rate=1e-3, warmup=0.1, weight_decay=0.01, gradient_clip=1e9, most_candidates=3,
    seed=0,
)  # fmt: skip
EVERY = GlossTableParams(refresh_steps=3, encoding_words=1000)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student")
    return fakes.write_tiny_mlm(folder / "model", tokenizer_with_quotes(folder / "tokenizer"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, student: Path) -> LexicalData:
    """The words of a story with several senses, with gold and a teacher's soft labels."""
    lexicon, tokenizer = tiny_lexicon(tmp_path_factory.mktemp("lexicon")), load_tokenizer(student)
    view = lexical_view(Instances.of(STORY, lexicon)[0], lexicon, tokenizer, split=None, context_tokens=20)
    wanted = np.unique(view.candidates.flat)
    full, bare = (meaning_tokens(lexicon, tokenizer, wanted=wanted, most=18, examples=shown) for shown in (True, False))
    return LexicalData(
        batch_builder=BatchBuilder(view, reading="bi", full=full, bare=bare, tokenizer=tokenizer),
        instance_I=np.flatnonzero(view.candidates.lengths() > 1),
        soft_label_C=np.random.default_rng(0).random(len(view.gold)).astype(np.float32),
        gold_weight=1.0, soft_label_weight=0.5, left_out=0,
    )  # fmt: skip


def trainer_of(
    student: Path, data: LexicalData, table: GlossTableParams | None, *, batch_tokens: int = 10**6, **changes: Any
) -> LexicalTrainer:
    return LexicalTrainer(
        sense_model(student, "bi"), data, PARAMS.model_copy(update={"gloss_table": table, **changes}), rehearsal=None,
        pad=data.batch_builder.tokenizer.special["pad"], device=torch.device("cpu"), autocast=torch.float32,
        batch_tokens=batch_tokens,
    )  # fmt: skip


def gradients(trainer: LexicalTrainer, instance_I: Any) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of one step with all candidates, and the gradients of every weight, which stays as it is."""
    trainer.optimizer.step = lambda: None  # type: ignore[method-assign]
    trainer.optimizer.zero_grad = lambda set_to_none=True: None  # type: ignore[method-assign]
    every = np.ones(len(trainer.data.batch_builder.view.gold), bool)
    trainer.learn(0, instance_I, every)
    found = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
    return trainer.plain()["losses"][0], found


def require_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    largest = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-4 * largest, rtol=1e-3)


@pytest.mark.parametrize("batch_tokens", [1, 60, 10**6])
def test_where_all_words_encode_their_glosses_it_is_training_without_a_table(
    student: Path, data: LexicalData, batch_tokens: int
) -> None:
    losses, expected = gradients(trainer_of(student, data, None), data.instance_I)
    found_losses, found = gradients(trainer_of(student, data, EVERY, batch_tokens=batch_tokens), data.instance_I)
    assert found_losses == pytest.approx(losses, abs=2e-5)
    require_equal(found, expected)


@pytest.mark.parametrize("batch_tokens", [1, 60, 10**6])
def test_gradients_are_of_both_sides_for_some_words_and_of_the_context_for_the_others(
    student: Path, data: LexicalData, batch_tokens: int
) -> None:
    """Against the loss of each word by itself, with detached glosses for those that do not encode."""
    losses, _ = gradients(trainer_of(student, data, None), data.instance_I)
    few = GlossTableParams(refresh_steps=1, encoding_words=2)
    found_losses, found = gradients(trainer_of(student, data, few, batch_tokens=batch_tokens), data.instance_I)
    assert found_losses == pytest.approx(losses, abs=2e-5), "a fresh table gives the scores of encoded glosses"

    plain, builder = trainer_of(student, data, None), data.batch_builder
    encodes = encoding_words(len(data.instance_I), words=2, seed=PARAMS.seed, step=0)
    assert encodes.sum() == 2 < len(encodes)
    assert data.soft_label_C is not None
    for instance, both in zip(data.instance_I.tolist(), encodes.tolist(), strict=True):
        batch = builder.batch(np.array([instance]))
        known = None
        if not both:
            with torch.no_grad():
                vectors = [plain.model.pooled(builder.texts(np.array([t])), pad=plain.pad) for t in batch.text_D]
            known = batch.text_D, torch.cat(vectors)
        score_C = candidate_scores(plain.model, batch, pad=plain.pad, device=plain.device, glosses=known)
        soft = data.soft_label_C[batch.candidate_C]
        gold, taught = sense_loss(
            score_C, batch.start_I1, builder.view.gold[batch.candidate_C], (soft / soft.sum()).astype(np.float32)
        )
        ((gold + 0.5 * taught) / len(data.instance_I)).backward()
    require_equal(found, {name: p.grad for name, p in plain.model.named_parameters() if p.grad is not None})


def test_each_word_encodes_its_glosses_as_often_as_the_next() -> None:
    drawn = np.array([encoding_words(20, words=5, seed=0, step=step) for step in range(400)])
    assert (drawn.sum(axis=1) == 5).all()
    assert np.abs(drawn.mean(0) - 0.25).max() < 4.5 * np.sqrt(0.25 * 0.75 / 400)
    assert encoding_words(3, words=5, seed=0, step=0).all()


def test_vectors_are_as_old_as_the_last_refresh(student: Path, data: LexicalData) -> None:
    """Scores of words that do not encode are of the weights at steps 0 and 3, while the weights go on."""
    trainer = trainer_of(student, data, GlossTableParams(refresh_steps=3, encoding_words=1), learning_rate=0.05)
    table, builder = trainer._table, data.batch_builder
    assert table is not None
    every = np.ones(len(builder.view.gold), bool)
    planned = [instance_I for _, instance_I in itertools.islice(trainer._plan(0), 6)]

    def now(steps: slice) -> tuple[Any, torch.Tensor]:
        """Places in the table of the texts of some steps, and their vectors by the present weights, one by one."""
        starts = builder.view.candidates.start_R1
        rows = [np.arange(starts[i], starts[i + 1]) for i in np.concatenate(planned[steps]).tolist()]
        text_T = np.unique(builder.text_of_candidates()[np.concatenate(rows)])
        with torch.no_grad():
            vectors = [trainer.model.pooled(builder.texts(np.array([text])), pad=trainer.pad) for text in text_T]
        return np.searchsorted(table.text_D, text_T), torch.cat(vectors)

    for number in range(6):
        if number % 3 == 0:
            place, expected = now(slice(number, number + 3))
        trainer.learn(number, planned[number], every)
        torch.testing.assert_close(table.vector_DH[place], expected, atol=1e-5, rtol=1e-4)
    assert float((now(slice(3, 6))[1] - expected).abs().max()) > 0.01, "the weights went on"


def test_a_killed_run_goes_on_with_the_same_bits(
    student: Path, data: LexicalData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = GlossTableParams(refresh_steps=4, encoding_words=2)
    whole = trainer_of(student, data, params)
    whole.run(tmp_path / "whole", checkpoint_seconds=1e9)
    with monkeypatch.context() as patch:
        step = LexicalTrainer.learn

        def killed(self: LexicalTrainer, number: int, *rest: Any) -> None:
            if number == 6:
                raise KeyboardInterrupt
            step(self, number, *rest)

        patch.setattr(LexicalTrainer, "learn", killed)
        with pytest.raises(KeyboardInterrupt):
            trainer_of(student, data, params).run(tmp_path / "killed", checkpoint_seconds=0)
    again = trainer_of(student, data, params)
    again.run(tmp_path / "killed", checkpoint_seconds=1e9)
    assert again.plain() == whole.plain() and len(again.state["losses"]) == whole.steps > 7
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
