"""Scores of candidate senses against loops that read one sequence at a time, and losses against NumPy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.lexical.batches import BatchBuilder, BiBatch, CrossBatch
from pipeline.lexical.classifier import (
    SenseHead,
    SenseModel,
    candidate_scores,
    encode_pooled,
    log_softmax_ragged,
    sense_loss,
    span_means,
)
from pipeline.lexical.context import lexical_view, meaning_tokens
from pipeline.lexical.params import Reading
from pipeline.senses.instances import Instances
from pipeline.senses.lexicon import Lexicon
from pipeline.text.ragged import Ragged
from pipeline.text.tokenizer import FastTokenizer, load_tokenizer
from tests.helpers import stores as fakes
from tests.helpers.inventories import STORY, sense_model, tiny_lexicon, tokenizer_with_quotes

CPU = torch.device("cpu")
CONTEXT, GLOSS = 20, 18


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


@pytest.fixture(scope="module")
def models(student: Path) -> dict[str, SenseModel]:
    return {reading: sense_model(student, reading) for reading in ("bi", "cross")}


def batch_builder(lexicon: Lexicon, tokenizer: FastTokenizer, reading: Reading) -> BatchBuilder:
    view = lexical_view(Instances.of(STORY, lexicon)[0], lexicon, tokenizer, split=None, context_tokens=CONTEXT)
    wanted = np.unique(view.candidates.flat)
    full, bare = (
        meaning_tokens(lexicon, tokenizer, wanted=wanted, most=GLOSS, examples=shown) for shown in (True, False)
    )
    return BatchBuilder(view, reading=reading, full=full, bare=bare, tokenizer=tokenizer)


@pytest.fixture(scope="module", params=["bi", "cross"])
def case(request: pytest.FixtureRequest, lexicon: Lexicon, tokenizer: FastTokenizer, models: Any) -> Any:
    """A way of reading, its batch_builder and a model for it."""
    return request.param, batch_builder(lexicon, tokenizer, request.param), models[request.param]


def hidden(model: SenseModel, ids: list[int], types: list[int] | None = None) -> np.ndarray:
    """Hidden states [L, H] of one sequence alone, without attention mask."""
    with torch.inference_mode():
        given_types = None if types is None else torch.tensor([types])
        states = model.lm.bert(input_ids=torch.tensor([ids]), token_type_ids=given_types).last_hidden_state[0]
    return np.asarray(states.double().numpy())


def text_of(lexicon: Lexicon, meaning: int, *, bare: bool) -> str:
    row = lexicon.meanings.slice(meaning, 1).to_pylist()[0]
    shown = [row["gloss"]] if bare else [row["gloss"], *row["examples"]]
    return f"{', '.join(row['lemmas'])}: {'; '.join(shown)}".replace("_", " ")


def reference(which: str, made: BatchBuilder, model: SenseModel, lexicon: Lexicon, instance: int) -> list[float]:
    """Scores of one instance's candidates, in plain steps."""
    view, backend = made.view, made.tokenizer.backend
    window = view.windows[int(view.window_I[instance])].tolist()
    first, last = int(view.first_I[instance]), int(view.last_I[instance])
    cls, sep = made.tokenizer.prefix, made.tokenizer.suffix
    head = {name: value.detach().double().numpy() for name, value in model.head.named_parameters()}
    quote = backend.encode('"', add_special_tokens=False).ids
    assert quote != [made.tokenizer.special["unk"]]
    found = []
    for meaning in view.candidates[instance].tolist():
        text = text_of(lexicon, meaning, bare=bool(view.bare_I[instance]))
        gloss = backend.encode(text, add_special_tokens=False).ids[: GLOSS - 2]
        if which == "bi":
            word = head["context.weight"] @ hidden(model, window)[first:last].mean(0) + head["context.bias"]
            sense = hidden(model, [*cls, *gloss, *sep]).mean(0)
            cosine = word @ sense / (np.linalg.norm(word) * np.linalg.norm(sense))
            found.append(float(np.exp(head["scale"]) * cosine))
        else:
            context = [*window[:first], *quote, *window[first:last], *quote, *window[last:]]
            types = [0] * len(context) + [1] * (len(gloss) + 1)
            states = hidden(model, [*context, *gloss, *sep], types)
            found.append(float(head["score.weight"][0] @ states.mean(0) + head["score.bias"][0]))
    return found


def scores(made: BatchBuilder, model: SenseModel, instances: list[int], **more: Any) -> tuple[list[list[float]], Any]:
    batch = made.batch(np.array(instances, np.int64), **more)
    with torch.inference_mode():
        score_C = candidate_scores(model, batch, pad=made.tokenizer.special["pad"], device=CPU)
    assert score_C.dtype == torch.float32 and score_C.shape == (batch.start_I1[-1],)
    return [score_C[a:b].tolist() for a, b in zip(batch.start_I1, batch.start_I1[1:], strict=False)], batch


def test_scores_are_those_of_sequences_read_alone(case: Any, lexicon: Lexicon) -> None:
    which, made, model = case
    found, batch = scores(made, model, list(range(9)))
    assert batch.candidate_C.tolist() == list(range(len(made.view.gold)))
    spread = []
    for instance in range(9):
        expected = reference(which, made, model, lexicon, instance)
        assert found[instance] == pytest.approx(expected, abs=2e-5)
        spread.append(np.ptp(expected))
    assert max(spread) > 0.01, "candidates must differ, or nothing is tested"


def test_neighbours_in_a_batch_change_nothing(case: Any) -> None:
    """Padding is never attended to, and every word has its own window."""
    _, made, model = case
    every, _ = scores(made, model, list(range(9)))
    for instances in ([0], [8, 0], [5, 6, 7], [3, 1, 2]):
        some, _ = scores(made, model, instances)
        for place, instance in enumerate(instances):
            assert some[place] == pytest.approx(every[instance], abs=2e-5)
    lengths = made.view.windows.lengths()
    assert len(set(lengths.tolist())) > 1, "padding must be needed"


def test_candidates_that_are_left_out_change_no_other_score(case: Any) -> None:
    _, made, model = case
    every, _ = scores(made, model, list(range(9)))
    kept = made.view.gold.copy()
    kept[made.view.candidates.start_R1[:-1]] = True
    some, batch = scores(made, model, list(range(9)), kept=kept)
    assert batch.candidate_C.tolist() == np.flatnonzero(kept).tolist()
    assert np.concatenate(some).tolist() == pytest.approx(np.concatenate(every)[kept].tolist(), abs=2e-5)


def test_a_sentence_and_a_gloss_are_read_once(lexicon: Lexicon, tokenizer: FastTokenizer) -> None:
    made = batch_builder(lexicon, tokenizer, "bi")
    batch = made.batch(np.array([1, 2, 3, 4, 0], np.int64))
    assert isinstance(batch, BiBatch)
    assert len(batch.windows) == 2, "four words of a sentence, and one of another"
    assert batch.window_I.tolist() == [1, 1, 1, 1, 0]
    assert len(batch.glosses) == len(batch.text_D) == 2 + 2 + 3 + 1
    assert len(batch.gloss_C) == 2 + 2 + 3 + 1 + 2


def test_quotation_marks_stand_around_the_word(lexicon: Lexicon, tokenizer: FastTokenizer) -> None:
    made = batch_builder(lexicon, tokenizer, "cross")
    batch = made.batch(np.array([0, 6], np.int64))
    assert isinstance(batch, CrossBatch)
    texts = [tokenizer.backend.decode(batch.sequences[row].tolist(), skip_special_tokens=False) for row in range(3)]
    assert texts[0].startswith('[CLS] the old " dog " waits')
    assert '" frozen pond "' in texts[2]
    assert [text.count('"') for text in texts] == [2, 2, 2]
    assert [text.count("[SEP]") for text in texts] == [2, 2, 2]
    for row in range(3):
        ids, types = batch.sequences[row].tolist(), batch.segments[row].tolist()
        second = ids.index(tokenizer.special["sep"]) + 1
        assert types == [0] * second + [1] * (len(ids) - second)


def test_an_example_does_not_meet_its_own_gloss(lexicon: Lexicon, tokenizer: FastTokenizer) -> None:
    """Instance 5 stands in an example of the inventory: no gloss that it is compared with shows examples."""
    made = batch_builder(lexicon, tokenizer, "bi")
    assert made.view.bare_I.tolist() == [row == 5 for row in range(9)]
    for instance in (3, 5):
        batch = made.batch(np.array([instance], np.int64))
        assert isinstance(batch, BiBatch)
        texts = {tokenizer.backend.decode(batch.glosses[row].tolist()) for row in range(len(batch.glosses))}
        assert any("goat" in text for text in texts) == (instance == 3)
        assert set((batch.text_D % 2).tolist()) == {int(instance == 5)}
    whole = made.batch(np.arange(9))
    assert isinstance(whole, BiBatch)
    assert made.text_of_candidates().tolist() == whole.text_D[whole.gloss_C].tolist()


def test_known_glosses_give_the_same_scores(lexicon: Lexicon, tokenizer: FastTokenizer, models: Any) -> None:
    made, model, pad = batch_builder(lexicon, tokenizer, "bi"), models["bi"], tokenizer.special["pad"]
    text_D = np.unique(made.text_of_candidates())
    batch = made.batch(np.array([7, 2, 5], np.int64))
    with torch.inference_mode():
        vectors = encode_pooled(model, made.texts(text_D), pad=pad)
        known = candidate_scores(model, batch, pad=pad, device=CPU, glosses=(text_D, vectors))
        read = candidate_scores(model, batch, pad=pad, device=CPU)
    torch.testing.assert_close(known, read, atol=2e-5, rtol=0)


def test_a_new_head_has_no_opinion_of_its_own(student: Path) -> None:
    """bi starts as the cosine of the encoder's own vectors, cross as 0 for every candidate."""
    head = SenseHead(8, "bi")
    word, gloss = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    pairs = head.pairs(word, gloss, torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2]))
    torch.testing.assert_close(pairs, math.exp(3.0) * torch.nn.functional.cosine_similarity(word, gloss))
    assert not SenseHead(8, "cross").sequences(word).any()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_means_over_words(data: st.DataObject) -> None:
    width = data.draw(st.integers(1, 6))
    states = torch.randn(3, width, 4, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    spans = data.draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, width - 1), st.integers(1, 9)), min_size=1))
    rows, firsts, lengths = (torch.tensor(part) for part in zip(*spans, strict=True))
    lasts = torch.minimum(firsts + lengths, torch.tensor(width))
    expected = [states[row, first:last].mean(0) for row, first, last in zip(rows, firsts, lasts, strict=True)]
    torch.testing.assert_close(span_means(states, rows, firsts, lasts), torch.stack(expected))


# Losses.


def log_softmax(row: np.ndarray) -> np.ndarray:
    return np.asarray(row - row.max() - np.log(np.exp(row - row.max()).sum()))


words = st.lists(
    st.integers(1, 5).flatmap(
        lambda n: st.tuples(
            st.lists(st.floats(-30, 30, width=32), min_size=n, max_size=n),
            st.lists(st.booleans(), min_size=n, max_size=n),
            st.none() | st.lists(st.integers(1, 9), min_size=n, max_size=n),
        )
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=200, deadline=None)
@given(words)
def test_losses_are_those_of_a_loop(cases: list[Any]) -> None:
    """Several right senses, none, soft labels and none (NaN), each word within its own candidates."""
    start = np.cumsum([0, *(len(score) for score, _, _ in cases)])
    score_C = torch.tensor([value for score, _, _ in cases for value in score], requires_grad=True)
    gold_C = np.array([told for _, right, _ in cases for told in right])
    soft_label_C = np.concatenate(
        [np.full(len(s), np.nan) if b is None else np.array(b) / sum(b) for s, _, b in cases]
    ).astype(np.float32)
    logp_IK, exists_IK = log_softmax_ragged(score_C, start)
    expected_gold, expected_taught = 0.0, 0.0
    for i, (score, right, soft_label) in enumerate(cases):
        logp = log_softmax(np.array(score, np.float64))
        assert exists_IK[i].tolist() == [place < len(score) for place in range(exists_IK.shape[1])]
        np.testing.assert_allclose(logp_IK[i, : len(score)].detach().numpy(), logp, atol=1e-4)
        if any(right):
            expected_gold -= np.log(np.exp(logp[right]).sum())
        if soft_label is not None:
            expected_taught -= float((np.array(soft_label) / sum(soft_label)) @ logp)
    gold, taught = sense_loss(score_C, start, gold_C, soft_label_C)
    assert gold.item() == pytest.approx(expected_gold, abs=1e-3, rel=1e-4)
    assert taught.item() == pytest.approx(expected_taught, abs=1e-3, rel=1e-4)
    (gold + taught).backward()  # type: ignore[no-untyped-call]
    assert score_C.grad is not None and torch.isfinite(score_C.grad).all()
    nobody, nothing = sense_loss(score_C.detach(), start, gold_C, None)
    assert nothing.item() == 0.0 and nobody.item() == gold.item()


def test_gradients_are_those_of_the_softmax() -> None:
    """Of -log of the mass on right senses: p minus p restricted to them. By hand for two words."""
    score_C = torch.tensor([0.0, math.log(2), 1.0, 1.0, 1.0], requires_grad=True)
    gold, taught = sense_loss(
        score_C, np.array([0, 2, 5]), np.array([True, False, True, True, False]), np.full(5, np.nan, np.float32)
    )
    (gold + taught).backward()  # type: ignore[no-untyped-call]
    assert score_C.grad is not None
    expected = [1 / 3 - 1, 2 / 3, 1 / 3 - 1 / 2, 1 / 3 - 1 / 2, 1 / 3]
    assert score_C.grad.tolist() == pytest.approx(expected, abs=1e-6)


def test_pooling_leaves_padding_out(models: Any, tokenizer: FastTokenizer) -> None:
    rows = [[2, *range(10, 10 + length), 3] for length in (1, 7, 2, 12, 5)]
    with torch.inference_mode():
        found = encode_pooled(models["bi"], Ragged.of(rows, np.int32), pad=tokenizer.special["pad"])
    for row, ids in enumerate(rows):
        np.testing.assert_allclose(found[row].numpy(), hidden(models["bi"], ids).mean(0), atol=1e-5)
