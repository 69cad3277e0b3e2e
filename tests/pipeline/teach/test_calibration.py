"""Calibration against plain searches and counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models.masked_lm import masked_lm
from pipeline.teach import calibration
from pipeline.teach.calibration import (
    calibrate,
    calibration_slices,
    fit_temperature,
    spread_logits,
)
from pipeline.teach.inference import TeacherInputs
from storage.errors import DataError, TeacherRefused
from storage.format.arrays import sentinel
from storage.reader import Store
from storage.records.sequences import Masks
from tests.helpers.memory import peak_bytes
from tests.helpers.stores import TinyStores


def nll_of(logits_PV: np.ndarray, gold_P: np.ndarray) -> Callable[[Sequence[float]], list[float]]:
    def nll_at(temperatures: Sequence[float]) -> list[float]:
        losses = []
        for temperature in temperatures:
            scaled = logits_PV / temperature
            largest = scaled.max(axis=1)
            lse = np.log(np.exp(scaled - largest[:, None]).sum(axis=1)) + largest
            losses.append(float((lse - scaled[np.arange(len(gold_P)), gold_P]).mean()))
        return losses

    return nll_at


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(0.3, 3.0), seed=st.integers(0, 99))
def test_the_fitted_temperature_is_the_minimum(scale: float, seed: int):
    """Logits whose own distribution draws the gold, times `scale`: the best temperature is near `scale`.

    The reference narrows an interval of 1 / T, in which the loss is convex, by thirds.
    """
    generator = np.random.default_rng(seed)
    logits = 2 * generator.standard_normal((300, 40))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    gold = (p.cumsum(axis=1) > generator.random((300, 1))).argmax(axis=1)
    nll_at = nll_of(scale * logits, gold)
    low, high = 0.5, 2.0
    for _ in range(40):
        third = (high - low) / 3
        left, right = nll_at([1 / (low + third), 1 / (high - third)])
        low, high = (low, high - third) if left < right else (low + third, high)
    assert fit_temperature(nll_at) == pytest.approx(2 / (low + high), rel=1e-3)


@pytest.mark.parametrize(("best", "expected"), [(0.1, 0.5), (5.0, 2.0), (0.5, 0.5), (2.0, 2.0)])
def test_the_range_is_not_left(best: float, expected: float):
    found = fit_temperature(lambda temperatures: [(1 / t - 1 / best) ** 2 for t in temperatures])
    assert found == pytest.approx(expected, rel=1e-3)


def test_few_evaluations():
    counts: list[int] = []

    def nll_at(temperatures: Sequence[float]) -> list[float]:
        counts.append(len(temperatures))
        return [math.log(t / 1.3) ** 2 for t in temperatures]

    assert fit_temperature(nll_at) == pytest.approx(1.3, rel=1e-9)
    assert counts == [7, 3, 3]


def test_a_flat_loss_gives_some_temperature_in_range():
    assert 0.5 <= fit_temperature(lambda temperatures: [1.0] * len(temperatures)) <= 2.0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_refused(value: float):
    with pytest.raises(TeacherRefused, match=r"expected finite losses at temperatures 0\.500.*got (nan|inf), 1\.000"):
        fit_temperature(lambda temperatures: [value, *([1.0] * (len(temperatures) - 1))])


@pytest.mark.parametrize("rows", [1, 4095, 4096])
def test_a_small_split_is_used_whole(rows: int):
    assert calibration_slices(rows, vocabulary=30_522) == [(0, rows)]


@pytest.mark.parametrize("rows", [4097, 5000, 100_000, 10**9])
def test_a_large_split_is_used_in_places_from_end_to_end(rows: int):
    slices = calibration_slices(rows, vocabulary=30_522)
    assert len(slices) == 64 and slices[0][0] == 0 and slices[-1][1] == rows
    assert {stop - start for start, stop in slices} == {64}
    gaps = [after[0] - before[1] for before, after in pairwise(slices)]
    assert min(gaps) >= 0 and max(gaps) - min(gaps) <= 1


@pytest.fixture(scope="module")
def teacher_inputs(
    tiny_stores: TinyStores, tiny_teacher: Path
) -> Iterator[tuple[TeacherInputs, list[tuple[torch.Tensor, ...]]]]:
    """The tiny teacher's inputs, and its logits on the calibration split."""
    with masked_lm(tiny_teacher, device=torch.device("cpu"), dtype=torch.float32) as lm, torch.inference_mode():
        opened = TeacherInputs.open(tiny_teacher, lm, tiny_stores.corpus(), batch_tokens=300)
        yield opened, spread_logits(lm, opened.split("calibration"), split="calibration", name="fox")


def test_a_teacher_is_measured_on_what_it_can_answer(teacher_inputs):
    opened, answers = teacher_inputs
    found = calibrate(answers, opened, name="fox")
    logits = np.concatenate([some.double().numpy() for some, _ in answers])
    gold = np.concatenate([true_ids.numpy() for _, true_ids in answers])
    assert found.positions == len(gold) < Store(opened.corpus.masks.path, Masks).plan("calibration").rows
    assert found.accuracy == pytest.approx((logits.argmax(axis=1) == gold).mean())
    raw, fitted, colder, warmer = nll_of(logits, gold)(
        [1.0, found.temperature, 0.99 * found.temperature, 1.01 * found.temperature]
    )
    assert (found.nll_raw, found.nll) == (pytest.approx(raw, rel=1e-5), pytest.approx(fitted, rel=1e-5))
    assert fitted < min(colder, warmer)


def test_answers_that_are_no_better_than_frequencies_are_refused(teacher_inputs):
    opened, answers = teacher_inputs
    labels = opened.corpus.masks.read("train").label_P
    count = np.bincount(labels, minlength=int(opened.corpus.masks.facts["vocabulary"])) + 1.0
    whole, part = opened.corpus.masks.read("calibration").label_P, opened.split("calibration")
    _, gold_P, _ = part._view(0, len(whole))
    answered = whole[gold_P != sentinel(gold_P.dtype)]
    guess, of_all = (-np.log(count[labels] / count.sum()).mean() for labels in (answered, whole))
    assert f"{guess:.2f}" != f"{of_all:.2f}"
    flat = [(torch.zeros_like(logits), gold) for logits, gold in answers]
    with pytest.raises(TeacherRefused, match=rf"fox: on \d+ .*guessing by token frequency gives {guess:.2f} and"):
        calibrate(flat, opened, name="fox")
    # The true token close behind another and never first: its loss alone is good enough.
    shy = []
    for logits, gold in answers:
        top = logits.amax(dim=1, keepdim=True) + 3
        other = (gold[:, None] + 1) % logits.shape[1]
        shy.append((logits.scatter(1, gold[:, None], top).scatter(1, other, top + 0.01), gold))
    with pytest.raises(TeacherRefused, match=r"its accuracy 0\.0"):
        calibrate(shy, opened, name="fox")


def test_too_few_answers_are_refused(teacher_inputs, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch):
    opened, answers = teacher_inputs
    positions = sum(len(gold) for _, gold in answers)
    monkeypatch.setattr(calibration, "CALIBRATION_MINIMUM", positions + 1)
    for split, remedy in (("calibration", "calibration"), ("train", "share")):
        with pytest.raises(
            DataError,
            match=rf"the {split} split has {positions} masked positions that fox can answer.* corpus\.{remedy}, or",
        ):
            spread_logits(None, Again(opened, answers), split=split, name="fox")  # type: ignore[arg-type]


class Again:
    """Stands for a split whose logits are known."""

    rows = 1

    def __init__(self, inputs: TeacherInputs, answers: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        self.inputs, self.known = inputs, answers

    def answers(self, *_: object, **__: object) -> Iterator[tuple[torch.Tensor, torch.Tensor, None]]:
        return ((logits, gold, None) for logits, gold in self.known)


@pytest.mark.parametrize("vocabulary", [30_522, 65_536, 250_002, 2_000_000])
def test_calibration_is_bounded_in_bytes_whatever_the_vocabulary(vocabulary: int) -> None:
    taken = sum(stop - start for start, stop in calibration_slices(1_000_000, vocabulary=vocabulary))
    assert taken * vocabulary * 4 <= 2**30
    assert taken >= 64
    assert (taken == 4096) == (vocabulary <= 65_536)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_losses_of_a_calibration_are_bounded_in_bytes(
    dtype: torch.dtype, teacher_inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of sixteen times what a loss is computed of at once, whose result is that of whole batches."""
    opened, _ = teacher_inputs
    part, rows, vocabulary = 2**20, 16, 250_002
    generator = torch.Generator().manual_seed(2)
    gold = torch.randint(len(opened.to_student_V), (rows,), generator=generator)
    logits = torch.randn(rows, vocabulary, generator=generator)
    logits[torch.arange(rows), gold] += 12
    answers = [(logits.to(dtype), gold)]
    whole = calibrate(answers, opened, name="wide")
    monkeypatch.setattr(calibration, "PART_BYTES", part)
    parts = []
    peak = peak_bytes(lambda: parts.append(calibrate(answers, opened, name="wide")))
    assert 4 * vocabulary < peak < 4 * part < 4 * logits.numel()
    assert (parts[0].nll, parts[0].temperature) == (
        pytest.approx(whole.nll, rel=1e-5),
        pytest.approx(whole.temperature, rel=1e-3),
    )
