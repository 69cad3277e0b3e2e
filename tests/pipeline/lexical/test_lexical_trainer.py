"""Steps, micro-batches and candidates by their properties; training and scoring in one portion or in many."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.lexical.batches import BatchBuilder, micro_batches
from pipeline.lexical.classifier import candidate_scores
from pipeline.lexical.context import LexicalView, lexical_view, meaning_tokens
from pipeline.lexical.inputs import LexicalData
from pipeline.lexical.params import LexicalTrainingParams, Reading
from pipeline.lexical.reading.reader import known_glosses, score_all
from pipeline.lexical.trainer import (
    LexicalTrainer,
    kept_candidates,
    plan_steps,
    renormalised,
    steps_of,
)
from pipeline.senses.instances import Instances
from pipeline.senses.lexicon import Lexicon
from pipeline.text.ragged import Ragged
from pipeline.text.tokenizer import FastTokenizer, load_tokenizer
from tests.helpers import stores as fakes
from tests.helpers.inventories import STORY, sense_model, tiny_lexicon, tokenizer_with_quotes

CPU = torch.device("cpu")
PARAMS = LexicalTrainingParams(
    epochs=6, step_words=4, learning_rate=1e-3, warmup=0.1, weight_decay=0.01, gradient_clip=5.0, most_candidates=3,
    seed=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def lexicon(tmp_path_factory: pytest.TempPathFactory) -> Lexicon:
    return tiny_lexicon(tmp_path_factory.mktemp("lexicon"))


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student")
    return fakes.write_tiny_mlm(folder / "model", tokenizer_with_quotes(folder / "tokenizer"))


@pytest.fixture(scope="module")
def tokenizer(student: Path) -> FastTokenizer:
    return load_tokenizer(student)


@pytest.fixture(scope="module", params=["bi", "cross"])
def batch_builder(request: pytest.FixtureRequest, lexicon: Lexicon, tokenizer: FastTokenizer) -> BatchBuilder:
    return make_builder(lexicon, tokenizer, request.param)


def make_builder(lexicon: Lexicon, tokenizer: FastTokenizer, reading: Reading) -> BatchBuilder:
    view = lexical_view(Instances.of(STORY, lexicon)[0], lexicon, tokenizer, split=None, context_tokens=20)
    wanted = np.unique(view.candidates.flat)
    full, bare = (meaning_tokens(lexicon, tokenizer, wanted=wanted, most=18, examples=shown) for shown in (True, False))
    return BatchBuilder(view, reading=reading, full=full, bare=bare, tokenizer=tokenizer)


def data_of(batch_builder: BatchBuilder, *, labelled: bool = False) -> LexicalData:
    """Words with several candidates and a right one, or those that a teacher was asked about: all but the first."""
    view = batch_builder.view
    known = [bool(view.gold[a:b].any()) or labelled for a, b in itertools.pairwise(view.candidates.start_R1.tolist())]
    instance_I = np.flatnonzero((view.candidates.lengths() > 1) & np.array(known))
    soft_label = None
    if labelled:
        soft_label = np.random.default_rng(0).random(len(view.gold)).astype(np.float32)
        soft_label[: view.candidates.start_R1[1]] = np.nan
    return LexicalData(
        batch_builder=batch_builder, instance_I=instance_I, soft_label_C=soft_label,
        gold_weight=1.0, soft_label_weight=0.5, left_out=0,
    )  # fmt: skip


# Views made by hand: only what planning looks at.


@st.composite
def views(draw: st.DrawFn) -> LexicalView:
    """Words in windows, with candidates of which any may be right."""
    per_window = draw(st.lists(st.integers(1, 5), min_size=1, max_size=8))
    words = sum(per_window)
    counts = draw(st.lists(st.integers(1, 6), min_size=words, max_size=words))
    gold = draw(st.lists(st.booleans(), min_size=sum(counts), max_size=sum(counts)))
    lengths = draw(st.lists(st.integers(3, 30), min_size=len(per_window), max_size=len(per_window)))
    return LexicalView(
        windows=Ragged.of([[1] * length for length in lengths], np.int32),
        window_I=np.repeat(np.arange(len(per_window)), per_window),
        first_I=np.ones(words, np.int64),
        last_I=np.full(words, 2),
        candidates=Ragged.of([list(range(count)) for count in counts], np.int64),
        gold=np.array(gold),
        row_I=np.arange(words),
        bare_I=np.zeros(words, bool),
    )


@settings(max_examples=100, deadline=None)
@given(view=views(), step_words=st.integers(1, 12), seed=st.integers(0, 3), data=st.data())
def test_every_word_comes_once_an_epoch_with_all_of_its_window(
    view: LexicalView, step_words: int, seed: int, data: st.DataObject
) -> None:
    chosen = data.draw(st.lists(st.sampled_from(range(len(view))), unique=True, min_size=1))
    instance_I = np.array(chosen, np.int64)
    plan = list(
        itertools.takewhile(lambda step: step[0] < 2, plan_steps(view, instance_I, step_words=step_words, seed=seed))
    )
    for epoch in range(2):
        steps = [step for number, step in plan if number == epoch]
        assert sorted(np.concatenate(steps).tolist()) == sorted(chosen)
        windows = [set(view.window_I[step].tolist()) for step in steps]
        assert sum(map(len, windows)) == len(set().union(*windows)), "a window is in one step"
        for step in steps:
            assert len(step) < step_words + 5, "at most one window over"
        for step in steps:
            turns = [window for window, _ in itertools.groupby(view.window_I[step].tolist())]
            assert len(turns) == len(set(turns)), "words of a window stand together"
    again = plan_steps(view, instance_I, step_words=step_words, seed=seed)
    assert all(np.array_equal(step, other) for (_, step), (_, other) in zip(plan, again, strict=False))


@settings(max_examples=100, deadline=None)
@given(view=views(), most=st.integers(2, 5), seed=st.integers(0, 3), epoch=st.integers(0, 2))
def test_right_candidates_are_kept_and_others_fill_up(view: LexicalView, most: int, seed: int, epoch: int) -> None:
    kept = kept_candidates(view, most=most, seed=seed, epoch=epoch)
    assert kept[view.gold].all()
    for a, b in itertools.pairwise(view.candidates.start_R1.tolist()):
        assert kept[a:b].sum() == max(int(view.gold[a:b].sum()), min(most, b - a))


def test_words_alone_in_their_windows_fill_steps(batch_builder: BatchBuilder) -> None:
    """Words 0, 5 and 8 of the story have a window each."""
    plan = plan_steps(batch_builder.view, np.array([0, 5, 8]), step_words=2, seed=0)
    assert [(epoch, len(step)) for epoch, step in itertools.islice(plan, 4)] == [(0, 2), (0, 1), (1, 2), (1, 1)]


def test_others_are_drawn_anew_every_epoch() -> None:
    """Forty candidates of one word, the first right: each other one is as likely as the next."""
    candidates = Ragged.of([list(range(40))], np.int64)
    none = np.zeros(1, np.int64)
    view = LexicalView(
        windows=Ragged.of([[1, 2]], np.int32), window_I=none, first_I=none, last_I=none + 1, candidates=candidates,
        gold=np.arange(40) == 0, row_I=none, bare_I=none > 0,
    )  # fmt: skip
    drawn = np.array([kept_candidates(view, most=14, seed=0, epoch=epoch) for epoch in range(300)])
    share = drawn[:, 1:].mean(0)
    assert np.abs(share - 13 / 39).max() < 4.5 * np.sqrt(1 / 3 * 2 / 3 / 300)
    assert not np.array_equal(drawn[0], kept_candidates(view, most=14, seed=1, epoch=0))


class Reader:
    """As much of a batch_builder as cutting a step looks at."""

    def __init__(self, view: LexicalView, reading: str) -> None:
        self.view, self.reading = view, reading


@settings(max_examples=100, deadline=None)
@given(view=views(), reading=st.sampled_from(["bi", "cross"]), batch_tokens=st.integers(1, 600))
def test_micro_batches_cut_a_step_in_order(view: LexicalView, reading: str, batch_tokens: int) -> None:
    builder: Any = Reader(view, reading)
    parts = micro_batches(builder, np.arange(len(view)), batch_tokens=batch_tokens)
    assert np.concatenate(parts).tolist() == list(range(len(view)))
    assert all(len(part) for part in parts)
    length_I, count_I = view.windows.lengths()[view.window_I], view.candidates.lengths()
    for part in parts:
        read = sum(length_I[i] * count_I[i] for i in part) if reading == "cross" else 0
        read += sum(length_I[i] for i in part if i == 0 or view.window_I[i] != view.window_I[i - 1]) * (reading == "bi")
        largest = max(length_I[i] * count_I[i] + 24 * count_I[i] for i in part)
        assert read <= batch_tokens + largest


def test_steps_are_a_matter_of_words(batch_builder: BatchBuilder) -> None:
    data = data_of(batch_builder)
    assert len(data.instance_I) == 6
    assert steps_of(data, PARAMS) == 9
    assert steps_of(data, PARAMS.model_copy(update={"epochs": 0.01})) == 1


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 9), min_size=1, max_size=4)), min_size=1, max_size=4))
def test_beliefs_sum_to_one_again(rows: list[tuple[bool, list[int]]]) -> None:
    start = np.cumsum([0, *(len(row) for _, row in rows)])
    soft_label = np.concatenate([np.array(row) / 20 if asked else np.full(len(row), np.nan) for asked, row in rows])
    found = renormalised(soft_label.astype(np.float32), start)
    for (asked, row), a, b in zip(rows, start, start[1:], strict=False):
        if not asked:
            assert np.isnan(found[a:b]).all()
        else:
            assert found[a:b] == pytest.approx(np.array(row) / max(sum(row), 1), abs=1e-5)


# A model at work.


def trainer_of(student: Path, data: LexicalData, *, batch_tokens: int, params: Any = PARAMS) -> LexicalTrainer:
    model = sense_model(student, data.batch_builder.reading)
    return LexicalTrainer(
        model, data, params, rehearsal=None, pad=data.batch_builder.tokenizer.special["pad"], device=CPU,
        autocast=torch.float32, batch_tokens=batch_tokens,
    )  # fmt: skip


def test_a_step_does_not_depend_on_how_it_is_cut(student: Path, batch_builder: BatchBuilder) -> None:
    """Losses and gradients of micro-batches of one word are those of all words at once."""
    data = data_of(batch_builder, labelled=True)
    kept = kept_candidates(batch_builder.view, most=2, seed=0, epoch=0)
    found = []
    for batch_tokens in (1, 150, 10**6):
        trainer = trainer_of(student, data, batch_tokens=batch_tokens)
        trainer.optimizer.zero_grad = lambda set_to_none=True: None  # type: ignore[method-assign]
        trainer.learn(0, data.instance_I, kept)
        gradients = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
        parts = len(micro_batches(batch_builder, data.instance_I, batch_tokens=batch_tokens))
        found.append((parts, trainer.plain()["losses"][0], gradients))
    assert found[0][0] == len(data.instance_I) > found[1][0] > found[2][0] == 1
    for _, losses, gradients in found[:2]:
        assert losses == pytest.approx(found[2][1], abs=2e-5)
        assert gradients.keys() == found[2][2].keys()
        largest = max(float(value.abs().max()) for value in gradients.values())
        for name, value in gradients.items():
            torch.testing.assert_close(value, found[2][2][name], atol=1e-4 * largest, rtol=1e-3)
    assert all(value > 0 for value in found[2][1]), "both gold and soft labels have a part"


def test_the_loss_of_a_step_is_a_mean_over_its_words(student: Path, batch_builder: BatchBuilder) -> None:
    data = data_of(batch_builder)
    trainer = trainer_of(student, data, batch_tokens=10**6)
    every = np.ones(len(batch_builder.view.gold), bool)
    scored = score_all(
        trainer.model, batch_builder, pad=trainer.pad, device=CPU, dtype=torch.float32, batch_tokens=10**6
    )
    bounds = batch_builder.view.candidates.start_R1
    expected = [
        -np.log(np.exp(scored[a:b][batch_builder.view.gold[a:b]]).sum())
        for a, b in ((bounds[i], bounds[i + 1]) for i in data.instance_I)
    ]
    trainer.learn(0, data.instance_I, every)
    assert trainer.plain()["losses"] == [[pytest.approx(np.mean(expected), abs=1e-4), 0.0]]


def test_it_learns_what_the_words_mean(student: Path, batch_builder: BatchBuilder, tmp_path: Path) -> None:
    data = data_of(batch_builder)
    params = PARAMS.model_copy(update={"epochs": 40, "step_words": 8, "learning_rate": 5e-3})
    trainer = trainer_of(student, data, batch_tokens=512, params=params)
    trainer.run(tmp_path, checkpoint_seconds=1e9)
    losses = [gold for gold, _ in trainer.plain()["losses"]]
    assert len(losses) == trainer.steps == 30
    assert losses[-1] < 0.3 * losses[0]
    assert list(tmp_path.iterdir()) == [], "no checkpoint before its time"


def test_a_killed_run_goes_on_with_the_same_bits(
    student: Path, batch_builder: BatchBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = data_of(batch_builder, labelled=True)
    whole = trainer_of(student, data, batch_tokens=256)
    whole.run(tmp_path / "whole", checkpoint_seconds=1e9)
    with monkeypatch.context() as patch:
        step = LexicalTrainer.learn

        def killed(self: LexicalTrainer, number: int, *rest: Any) -> None:
            if number == 5:
                raise KeyboardInterrupt
            step(self, number, *rest)

        patch.setattr(LexicalTrainer, "learn", killed)
        with pytest.raises(KeyboardInterrupt):
            trainer_of(student, data, batch_tokens=256).run(tmp_path / "killed", checkpoint_seconds=0)
    again = trainer_of(student, data, batch_tokens=256)
    again.run(tmp_path / "killed", checkpoint_seconds=1e9)
    assert again.plain() == whole.plain() and len(again.state["losses"]) == whole.steps
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


# Scoring.


def test_scores_of_a_view_are_log_probabilities_of_each_word(student: Path, batch_builder: BatchBuilder) -> None:
    model, view, pad = (
        sense_model(student, batch_builder.reading),
        batch_builder.view,
        batch_builder.tokenizer.special["pad"],
    )
    expected = []
    for instance in range(len(view)):
        with torch.inference_mode():
            batch = batch_builder.batch(np.array([instance], np.int64))
            score_C = candidate_scores(model, batch, pad=pad, device=CPU)
        expected += torch.log_softmax(score_C, 0).tolist()
    model.train()
    for batch_tokens in (1, 100, 10**6):
        found = score_all(model, batch_builder, pad=pad, device=CPU, dtype=torch.float32, batch_tokens=batch_tokens)
        assert found.dtype == np.float32
        assert found.tolist() == pytest.approx(expected, abs=2e-5)
    assert not model.training


def test_every_gloss_is_read_once(lexicon: Lexicon, tokenizer: FastTokenizer, student: Path) -> None:
    made, model = make_builder(lexicon, tokenizer, "bi"), sense_model(student, "bi")
    read: list[int] = []
    encode = model.encode
    model.encode = lambda rows, **more: (read.append(len(rows)), encode(rows, **more))[1]  # type: ignore[func-returns-value]
    with torch.inference_mode():
        for batch_tokens in (1, 40, 10**6):
            read.clear()
            found = known_glosses(model, made, pad=tokenizer.special["pad"], batch_tokens=batch_tokens)
            assert found is not None
            text_D, vectors = found
            assert text_D.tolist() == sorted(set(made.text_of_candidates().tolist()))
            assert sum(read) == len(text_D) == len(vectors)
            for text, vector in zip(text_D.tolist(), vectors, strict=True):
                alone, _ = encode(made.texts(np.array([text])), pad=tokenizer.special["pad"])
                torch.testing.assert_close(vector, alone[0].mean(0), atol=1e-5, rtol=0)
    assert known_glosses(model, make_builder(lexicon, tokenizer, "cross"), pad=0, batch_tokens=9) is None
