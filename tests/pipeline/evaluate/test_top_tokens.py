"""The tokens shown of hand-made teachers, a fusion and a student are those of their dense distributions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.evaluate.evaluate import Evaluation, evaluate_fusion, evaluate_student, evaluate_teacher
from pipeline.evaluate.heldout import Heldout, open_heldout
from pipeline.evaluate.params import EvaluateParams
from pipeline.evaluate.predictions import masked_logits
from pipeline.evaluate.top_tokens import TopTokens, read_top_tokens, shown_positions, spelled, tops_of, write_top_tokens
from pipeline.models.masked_lm import masked_lm
from storage.errors import SchemaMismatch
from storage.records.sequences import Masks
from tests.helpers.distributions import cooled
from tests.helpers.stores import TinyStores, cpu_runtime
from tests.helpers.teacher_stores import TEMPERATURES, World, make_world, write_student

STEP = 0.15
"""Relative error that the steps of stored log-probabilities may bring."""


@pytest.fixture(scope="module")
def world(tiny_stores: TinyStores, tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tiny_stores, tmp_path_factory.mktemp("world") / "data")


@pytest.fixture(scope="module")
def heldout(world: World) -> Heldout:
    return open_heldout(world.stores.corpus())


@pytest.fixture(scope="module")
def params(world: World) -> EvaluateParams:
    return EvaluateParams(against=str(world.data / "targets" / "confident"), bootstrap=10, seed=0)


def masks_of(count_W: list[int]) -> Masks:
    """As many masked positions as said in each window, by two mask copies."""
    sequence_P = np.repeat(np.arange(len(count_W)), count_W).astype(np.uint32)
    both_P = np.concatenate([sequence_P, sequence_P])
    copy_P = np.repeat([0, 1], len(sequence_P)).astype(np.uint16)
    return Masks(copy_P, both_P, np.zeros_like(both_P, np.uint16), np.zeros_like(both_P))


def test_whole_windows_are_shown_up_to_a_number() -> None:
    masks = masks_of([3, 7, 2, 9, 5, 4, 6, 8, 1, 5])
    position_Q = shown_positions(masks, most=40)
    assert len(position_Q) <= 40
    assert len(position_Q) > 30
    assert (np.diff(position_Q) > 0).all()
    chosen = set(masks.sequence_P[position_Q].tolist())
    assert len(position_Q) == sum(masks.sequence_P[p] in chosen for p in range(len(masks)))
    assert shown_positions(masks, most=100).tolist() == list(range(len(masks)))
    assert chosen != set(range(len(chosen))), "drawn, not the first"


def test_a_window_of_more_positions_than_are_shown_is_shown_all_the_same() -> None:
    assert len(shown_positions(masks_of([50]), most=10)) == 100


@pytest.fixture(scope="module")
def few() -> int:
    return 60


@pytest.fixture(autouse=True)
def bounded(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown_positions, "__kwdefaults__", {"most": few})


def test_every_evaluation_shows_the_same_positions(
    world: World, heldout: Heldout, params: EvaluateParams, tiny_mlm: Path, tmp_path: Path, few: int
) -> None:
    folder = write_student(tmp_path / "fused", tiny_mlm, world.stores)
    student = evaluate_student(params, heldout, model=folder, runtime=cpu_runtime(batch_tokens=512))
    found = [*(teacher(world, heldout, params, name) for name in ("alpha", "beta")), student]
    found.append(
        evaluate_fusion(params, heldout, targets=world.data / "targets" / "confident", logits=world.data / "logits")
    )
    first = found[0].top
    assert 0 < len(first.position_Q) <= few < len(world.label_P)
    for evaluation in found:
        assert evaluation.top.position_Q.tolist() == first.position_Q.tolist()
        assert evaluation.top.masks == heldout.masks.identity
        assert len(evaluation.top.top_Q) == len(evaluation.top.truth_Q) == len(first.position_Q)


def teacher(world: World, heldout: Heldout, params: EvaluateParams, name: str) -> Evaluation:
    return evaluate_teacher(params, heldout, logits=world.data / "logits" / name)


def test_a_teachers_tokens_are_those_of_its_calibrated_softmax_in_the_students_spelling(
    world: World, heldout: Heldout, params: EvaluateParams
) -> None:
    """beta numbers the vocabulary the other way round and does not answer every fifth position."""
    top = teacher(world, heldout, params, "beta").top
    names = [spelled(token) for token in heldout.tokens]
    for position, truth, tokens in zip(top.position_Q.tolist(), top.truth_Q, top.top_Q, strict=True):
        if position % 5 == 0:
            assert tokens == []
            assert np.isnan(truth)
            continue
        p_V = cooled(world.dense["beta"][position][None], TEMPERATURES[1])[0]
        assert truth == pytest.approx(p_V[world.label_P[position]], rel=STEP)
        best = np.sort(p_V)[::-1][:5]
        assert [p for _, p in tokens] == pytest.approx(best.tolist(), rel=STEP)
        for token, p in tokens:
            assert p_V[names.index(token)] == pytest.approx(p, rel=STEP)


def test_a_fusions_tokens_come_with_the_weights_of_its_teachers(
    world: World, heldout: Heldout, params: EvaluateParams
) -> None:
    top = evaluate_fusion(
        params, heldout, targets=world.data / "targets" / "confident", logits=world.data / "logits"
    ).top
    assert list(top.weights) == ["alpha", "beta"]
    mixed_PV = np.einsum("pt,tpv->pv", world.weight_PT, np.stack(list(world.dense.values())))
    for number, position in enumerate(top.position_Q.tolist()):
        weights = [top.weights[name][number] for name in top.weights]
        assert weights == pytest.approx(world.weight_PT[position].tolist(), abs=0.01)
        assert top.top_Q[number][0][1] == pytest.approx(mixed_PV[position].max(), rel=STEP)


def test_a_students_tokens_are_those_of_its_softmax(
    world: World, heldout: Heldout, params: EvaluateParams, tiny_mlm: Path, tmp_path: Path
) -> None:
    folder = write_student(tmp_path / "fused", tiny_mlm, world.stores)
    top = evaluate_student(params, heldout, model=folder, runtime=cpu_runtime(batch_tokens=100)).top
    logits_PV = np.zeros((len(heldout.masked), len(heldout.tokens)))
    with masked_lm(folder, device=torch.device("cpu"), dtype=torch.float32) as lm, torch.inference_mode():
        special = heldout.sequences.facts["special"]
        for logits_QV, row_Q in masked_logits(lm, heldout.rows, heldout.masked, special=special, batch_tokens=512):
            logits_PV[row_Q] = logits_QV.numpy()
    p_PV = np.exp(logits_PV - np.logaddexp.reduce(logits_PV, axis=1, keepdims=True))
    for number, position in enumerate(top.position_Q.tolist()):
        order = np.argsort(-p_PV[position])[:5]
        assert [token for token, _ in top.top_Q[number]] == [spelled(heldout.tokens[v]) for v in order]
        assert [p for _, p in top.top_Q[number]] == pytest.approx(p_PV[position, order].tolist(), rel=1e-3)
        assert top.truth_Q[number] == pytest.approx(p_PV[position, world.label_P[position]], rel=1e-3)


def test_what_is_written_is_read_back_to_four_decimals(
    world: World, heldout: Heldout, params: EvaluateParams, tmp_path: Path
) -> None:
    found = evaluate_fusion(params, heldout, targets=world.data / "targets" / "confident", logits=world.data / "logits")
    found.write(tmp_path / "confident.json")
    back = read_top_tokens(tmp_path / "confident.top.arrow", remedy="")
    assert back is not None
    assert back.masks == found.top.masks
    assert back.position_Q.tolist() == found.top.position_Q.tolist()
    assert [[token for token, _ in top] for top in back.top_Q] == [
        [token for token, _ in top] for top in found.top.top_Q
    ]
    shown = [p for top in back.top_Q for _, p in top]
    assert shown == pytest.approx([p for top in found.top.top_Q for _, p in top], abs=0.51e-4)
    assert back.weights["beta"] == pytest.approx(found.top.weights["beta"], abs=0.51e-4)
    write_top_tokens(tmp_path / "again.top.arrow", found.top)
    assert (tmp_path / "again.top.arrow").read_bytes() == (tmp_path / "confident.top.arrow").read_bytes()


def tokens_of(found: TopTokens) -> list[list[str]]:
    return [[token for token, _ in top] for top in found.top_Q]


def test_an_evaluation_of_an_older_version_has_none(tmp_path: Path) -> None:
    assert read_top_tokens(tmp_path / "fused.top.arrow", remedy="") is None
    (tmp_path / "fused.top.arrow").write_bytes(b"no Arrow")
    with pytest.raises(SchemaMismatch, match=r"fused\.top\.arrow: no top tokens of an evaluation: .* Run: dvc repro x"):
        read_top_tokens(tmp_path / "fused.top.arrow", remedy="dvc repro x")


def test_a_list_ends_at_its_sentinel() -> None:
    ids_QK = np.array([[2, 0, 65535], [65535] * 3], np.uint16)
    p_QK = np.array([[0.5, 0.25, np.nan], [np.nan] * 3])
    assert tops_of(ids_QK, p_QK, ["a", "b", "c"]) == [[("c", 0.5), ("a", 0.25)], []]
    signed_QK = np.array([[2, 0, -1], [-1, -1, -1]])
    assert tops_of(signed_QK, p_QK, ["a", "b", "c"]) == [[("c", 0.5), ("a", 0.25)], []]
