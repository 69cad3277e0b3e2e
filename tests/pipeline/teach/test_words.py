"""Words that are cut differently: marginals and shares against enumeration, and stores with and without them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.families.matrix import RUNTIME, World, publish
from pipeline.fuse.fuse import fuse
from pipeline.fuse.params import FusionParams
from pipeline.teach import words as words_module
from pipeline.teach.answers import Answer
from pipeline.teach.params import TeacherParams
from pipeline.teach.teach import teach
from pipeline.teach.words import (
    PSEUDO_TOKENS,
    START_SHARES,
    Word,
    WordOutcomes,
    fit_shares,
    nearest_token,
    word_outcomes,
)
from pipeline.text.corpus_view import MaskedSequences
from pipeline.text.tokenizer import FastTokenizer
from pipeline.text.vocabulary import normalised_tokens
from storage.errors import VocabularyError
from storage.format.manifest import Manifest
from storage.reader import Store
from storage.records.base import HELDOUT, SPLITS
from storage.records.logits import SparseLogits
from storage.records.targets import FusedTargets
from storage.share.audit import audit
from tests.pipeline.text.test_alignment import SPECIAL, wordpiece

TEACHER = ["cat", "un", "##happy", "##hap", "##py", "happy", "##s", "a", "b", "##a", "##b", "##ab", "##bb"]
STUDENT = ["cat", "unhappy", "##s", "un", "##happi", "happy", "a", "##a", "##b", "ab", "##bb", "b"]


def fast(tokens: list[str]) -> FastTokenizer:
    backend = wordpiece(tokens)
    found = SimpleNamespace(backend=backend, special=SPECIAL, tokens=normalised_tokens(backend, special=SPECIAL))
    return cast(FastTokenizer, found)


OUTCOMES = cast(WordOutcomes, word_outcomes(fast(TEACHER), fast(STUDENT)))


def word(log_p_MV: torch.Tensor, students: int) -> Word:
    rows = np.arange(students)
    return Word(log_p_MV=log_p_MV, row_N=rows, label_N=rows, spaced=True)


def some(masks: int, seed: int = 0, scale: float = 2.0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(scale * rng.standard_normal((masks, OUTCOMES.own))).float().log_softmax(dim=1)


def enumerated(log_p_MV: torch.Tensor, students: int) -> np.ndarray:
    """Marginals [n, O] over all strings of teacher tokens that make one word, by the definition."""
    teacher, student = fast(TEACHER), fast(STUDENT)
    number = {token: i for i, token in enumerate(OUTCOMES.tokens)}
    q_NO = np.zeros((students, len(OUTCOMES.tokens)))
    p_MV = log_p_MV.double().exp().numpy()
    for ids in itertools.product(range(5, OUTCOMES.own), repeat=len(p_MV)):
        spelt = [teacher.tokens[i] for i in ids]
        if not spelt[0].startswith("▁") or any(token.startswith("▁") for token in spelt[1:]):
            continue
        cut = [student.tokens[i] for i in student.backend.encode("".join(spelt)[1:]).ids[1:-1]]
        if len(cut) != students or cut == spelt or "[UNK]" in cut:
            continue
        for j, token in enumerate(cut):
            q_NO[j, number[token]] += np.prod([p_MV[m, i] for m, i in enumerate(ids)])
    return np.asarray(q_NO / q_NO.sum(axis=1, keepdims=True))


def test_outcomes_are_the_teachers_tokens_and_those_that_only_students_have() -> None:
    assert OUTCOMES.tokens[OUTCOMES.own :] == ["▁unhappy", "happi", "▁ab"]
    assert [OUTCOMES.tokens[i] for i in OUTCOMES.outcome_V] == fast(STUDENT).tokens
    assert word_outcomes(fast(TEACHER), fast(TEACHER[::-1])) is None


@pytest.mark.parametrize(("masks", "students"), [(2, 2), (3, 2), (2, 3), (3, 3)])
def test_marginals_of_several_tokens_are_those_of_all_words(
    masks: int, students: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words_module, "BEAM", 10_000)
    log_p_MV = some(masks)
    q_NO, _, _ = OUTCOMES.components(word(log_p_MV, students))
    assert q_NO.numpy() == pytest.approx(enumerated(log_p_MV, students), abs=1e-6)


def test_one_token_of_the_students_is_one_of_their_words_with_so_many_teacher_tokens() -> None:
    log_p_MV = some(2)
    q_1O, _, _ = OUTCOMES.components(word(log_p_MV, 1))
    number = {token: i for i, token in enumerate(OUTCOMES.tokens)}
    unhappy = log_p_MV[0, number["▁un"]] + log_p_MV[1, number["happy"]]
    ab = log_p_MV[0, number["▁a"]] + log_p_MV[1, number["b"]]
    assert float(q_1O[0, number["▁unhappy"]]) == pytest.approx(float(torch.sigmoid(unhappy - ab)), abs=1e-6)
    assert float(q_1O[0, number["▁ab"]]) == pytest.approx(float(torch.sigmoid(ab - unhappy)), abs=1e-6)


@given(
    masks=st.integers(1, 4), students=st.integers(1, 4), seed=st.integers(0, 99), scale=st.floats(0.1, 30),
    shares=st.lists(st.floats(0.01, 1), min_size=3, max_size=3),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_rows_are_distributions(masks: int, students: int, seed: int, scale: float, shares: list[float]) -> None:
    shares_CX = np.tile(np.array(shares) / np.sum(shares), (3, 1))
    row_NO = OUTCOMES.rows(word(some(masks, seed, scale), students), shares_CX)
    assert bool(torch.isfinite(row_NO).all())
    assert row_NO.exp().sum(dim=1).numpy() == pytest.approx(1, abs=1e-5)
    known = row_NO[:, torch.from_numpy(OUTCOMES.outcome_V[OUTCOMES.outcome_V >= 0])].exp()
    assert bool((known >= 0.99 * shares_CX[0, 2] / len(STUDENT) / 2).all())  # never zero


@given(seed=st.integers(0, 99), half=st.floats(0.05, 0.95))
@settings(max_examples=30, deadline=None)
def test_with_one_mask_the_marginals_are_linear_but_for_their_mass(seed: int, half: float) -> None:
    teacher = ["cat", "ab", "bb", "b"]
    outcomes = cast(WordOutcomes, word_outcomes(fast(teacher), fast(["cat", "a", "##b", "b", "##bb"])))
    one, two = (
        torch.from_numpy(np.random.default_rng([seed, i]).standard_normal((1, outcomes.own))).log_softmax(dim=1)
        for i in range(2)
    )
    mixed = (half * one.exp() + (1 - half) * two.exp()).log()
    parts = [outcomes.components(word(log_p.float(), 2))[0].numpy() for log_p in (one, two, mixed)]
    ids = outcomes.of_teacher[2][1][:, 0]
    mass = [weight * float(log_p.exp()[0, ids].sum()) for weight, log_p in ((half, one), (1 - half, two))]
    expected = (mass[0] * parts[0] + mass[1] * parts[1]) / sum(mass)
    assert parts[2] == pytest.approx(expected, abs=1e-6)


def test_extended_logits_say_the_same_of_the_teachers_ids() -> None:
    logits_QV = torch.randn((3, OUTCOMES.own), generator=torch.Generator().manual_seed(0))
    p_QO = OUTCOMES.extend(logits_QV).softmax(dim=1)
    assert p_QO[:, OUTCOMES.own :].sum(dim=1).numpy() == pytest.approx(words_module.UNSEEN, rel=1e-3)
    assert p_QO[:, : OUTCOMES.own].numpy() == pytest.approx(logits_QV.softmax(dim=1).numpy(), abs=2e-6)


def test_a_word_with_a_token_that_has_no_outcome_stays_without_an_answer() -> None:
    answer = Answer(
        logits=torch.zeros((1, OUTCOMES.own)),
        gold=torch.tensor([5]),
        row=np.array([0]),
        words=[Word(log_p_MV=some(2), row_N=np.array([1, 2]), label_N=np.array([1, 1]), spaced=True)],
        size=3,
    )
    outcomes = replace(OUTCOMES, outcome_V=np.where(np.arange(len(OUTCOMES.outcome_V)) == 1, -1, OUTCOMES.outcome_V))
    _, gold, row = answer.joined(outcomes, np.tile(START_SHARES, (3, 1)))
    assert (gold.tolist(), row.tolist()) == ([5], [0])


def test_nearest_tokens() -> None:
    assert [nearest_token(j, 3, 2) for j in range(3)] == [0, 1, 1]
    assert [nearest_token(j, 2, 4) for j in range(2)] == [1, 3]
    assert [nearest_token(j, 3, 1) for j in range(3)] == [0, 0, 0]


def test_shares_are_the_most_likely_ones() -> None:
    p_NX = np.random.default_rng(1).random((400, 3)) ** np.array([3, 1, 2])
    fitted = fit_shares([(2, p_NX[:150]), (2, p_NX[150:])])
    assert fitted[:2] == pytest.approx(np.tile(START_SHARES, (2, 1)))
    grid = np.array([(a, b, 1 - a - b) for a in np.linspace(0.005, 0.99, 198) for b in np.linspace(0.005, 0.99, 198)])
    grid = grid[grid[:, 2] > 0.001]
    prior = PSEUDO_TOKENS * np.log(grid) @ np.array(START_SHARES)
    best = grid[(np.log(p_NX @ grid.T).sum(axis=0) + prior).argmax()]
    assert fitted[2] == pytest.approx(best, abs=0.01)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """WordPiece students on a small text."""
    return World.make(tmp_path_factory.mktemp("words") / "world")


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE teacher."""
    return publish(tmp_path_factory.mktemp("words") / "roberta", "roberta")


def run(world: World, model: Path, out: Path, *, tokenizer: Path | None) -> Manifest:
    params = TeacherParams.model_validate(
        {
            "model": str(model), "keep": {"form": "topk", "k": 8}, "tail": {"rank": 4, "step": 0.4},
            "temperatures": [1.0], "seed": 0,
        }
    )  # fmt: skip
    return teach(params, world.corpus(), out=out, runtime=RUNTIME, tokenizer=tokenizer)


def test_a_teacher_of_another_vocabulary_answers_all_words(
    world: World, roberta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    logits = tmp_path / "logits"
    without = run(world, roberta, tmp_path / "without", tokenizer=None)
    with_words = run(world, roberta, logits / "one", tokenizer=world.tokenizer)
    assert without.facts["coverage"][HELDOUT] < 0.9 and with_words.facts["coverage"][HELDOUT] == 1
    assert without.identity != with_words.identity and "word_shares" not in without.facts
    assert audit(logits / "one") == []
    before = Store(tmp_path / "without", SparseLogits).read(HELDOUT)
    after = Store(logits / "one", SparseLogits).read(HELDOUT)
    alike = before.covered_P()
    assert after.gold_logprob_PJ[alike] == pytest.approx(before.gold_logprob_PJ[alike], abs=2e-3)
    # Better than the frequencies of tokens in the text that the teacher learned from.
    corpus = world.corpus()
    count_V = np.bincount(corpus.masks.read("train").label_P, minlength=len(corpus.tokens)) + 1
    label_P = corpus.masks.read(HELDOUT).label_P
    frequency_P = np.log(count_V / count_V.sum())[label_P]
    assert after.gold_logprob_PJ[~alike, 1].mean() > frequency_P[~alike].mean() + 0.1

    data = world.folder / "data"
    fusion = FusionParams(
        teachers=["one"], weighting="uniform", tau=1.0, calibrated=True, prior="equal", temperature=1.0, keep=8
    )
    opened = MaskedSequences.open_pair(data / "sequences", data / "masks")
    fuse(fusion, opened, logits=logits, out=tmp_path / "targets" / "one", declared=["one"])
    for split in SPLITS:
        assert Store(tmp_path / "targets" / "one", FusedTargets).read(split).covered_P().all()


def test_words_are_made_again_to_the_same_bytes(
    world: World, roberta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = run(world, roberta, tmp_path / "logits", tokenizer=world.tokenizer)
    monkeypatch.setattr("pipeline.teach.job.predict_shard", _fails_once())
    out = tmp_path / "again" / "logits"
    out.parent.mkdir()
    monkeypatch.chdir(out.parent)  # where no work is left
    with pytest.raises(RuntimeError, match="stopped"):
        run(world, roberta, out, tokenizer=world.tokenizer)
    again = run(world, roberta, out, tokenizer=world.tokenizer)
    assert (again.identity, again.files, again.shards) == (whole.identity, whole.files, whole.shards)


def test_another_tokenizer_than_the_corpus_has_is_refused(world: World, roberta: Path, tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match="expected the tokenizer of"):
        run(world, roberta, tmp_path / "logits", tokenizer=roberta)


def _fails_once() -> Any:
    from pipeline.teach.job import predict_shard

    calls = iter([False, True])

    def predict(*given: Any, **more: Any) -> SparseLogits:
        if next(calls, False):
            raise RuntimeError("stopped")
        return predict_shard(*given, **more)

    return predict
