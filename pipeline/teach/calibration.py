"""Calibrate a teacher on the calibration split, before its store is made.

Two things are computed: the temperature that minimises its loss (Guo et al. 2017, arXiv 1706.04599), and whether it is
better than token frequencies.

The mean negative log-likelihood of the true tokens under softmax(logits / T) is convex in 1 / T, so a coarse grid and
two parabolas in log T through the points around the minimum find it to a tenth of a per cent in 13 evaluations.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from storage.errors import DataError, TeacherRefused

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models.masked_lm import MaskedLM
    from pipeline.teach.inference import SplitInputs, TeacherInputs


log = logging.getLogger(__name__)

LOWEST, HIGHEST = 0.5, 2.0
"""A fitted temperature outside this range means a broken model, or text of another kind than its own."""

GRID_POINTS = 7
REFINEMENTS = (0.06, 0.012)
"""Half widths in log T of the later searches, each about four times the error that the search before leaves."""


CALIBRATION_POSITIONS = 4096
"""Predictions whose full logits are kept in memory to fit the temperature: 250 MB in bfloat16 for 30 k ids."""

CALIBRATION_BYTES = 2**30
"""Most memory that these logits take in float32: fewer predictions are kept for more than 65,536 ids."""

PART_BYTES = 2**26
"""Most memory of the logits in float32 that a loss is computed of at once; there are up to three such copies."""

CALIBRATION_SLICES = 64
"""Places of the split that they are taken from: the first predictions may all be of one document."""

CALIBRATION_MINIMUM = 50
"""Fewer predictions than this are refused: their mean loss is too noisy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """The fitted temperature, and the losses in nats a prediction before and after it."""

    temperature: float
    nll: float
    nll_raw: float
    accuracy: float
    positions: int


def calibration_slices(rows: int, *, vocabulary: int) -> list[tuple[int, int]]:
    """Bounds of the predictions that are used of a split of `rows`: all of a small split, else evenly spread runs.

    vocabulary is the number of ids a row of logits has.
    """
    most = min(CALIBRATION_POSITIONS, CALIBRATION_BYTES // (4 * vocabulary))
    if rows <= most:
        return [(0, rows)]
    size = max(1, most // CALIBRATION_SLICES)
    starts = [i * (rows - size) // (CALIBRATION_SLICES - 1) for i in range(CALIBRATION_SLICES)]
    return [(start, start + size) for start in starts]


def spread_logits(
    lm: MaskedLM, part: SplitInputs, *, split: str, name: str, shares_CX: NDArray[np.float64] | None = None
) -> list[tuple[Tensor, Tensor]]:
    """Logits and true ids of up to `CALIBRATION_POSITIONS` masked positions of a split that the model can answer.

    Evenly spread over the split; with shares, words that are cut differently are among them. Raises DataError when
    there are too few.
    """
    answers = [
        (logits.clone(), gold)
        for start, stop in calibration_slices(part.rows, vocabulary=len(part.inputs.tokens))
        for logits, gold, _ in part.answers(lm, start, stop, shares_CX=shares_CX)
    ]
    positions = sum(len(gold) for _, gold in answers)
    if positions < CALIBRATION_MINIMUM:
        raise DataError(
            f"{part.inputs.corpus.masks.path}: the {split} split has {positions} masked positions that {name} can "
            f"answer, expected at least {CALIBRATION_MINIMUM}. Raise corpus.{'share' if split == 'train' else split}, "
            "or check the vocabulary"
        )
    return answers


def calibrate(answers: list[tuple[Tensor, Tensor]], inputs: TeacherInputs, *, name: str) -> Calibration:
    """Fit the temperature that minimises the loss on the calibration split (Guo et al. 2017, arXiv 1706.04599).

    Raises TeacherRefused when the model is no better than guessing by frequency.
    """
    import torch

    positions = sum(len(gold) for _, gold in answers)

    def nll_at(temperatures: Sequence[float]) -> list[float]:
        totals = [0.0] * len(temperatures)
        for logits_CV, gold_C in _parts(answers):
            for i, temperature in enumerate(temperatures):
                loss = torch.nn.functional.cross_entropy(logits_CV / temperature, gold_C, reduction="sum")
                totals[i] += float(loss)
        return [total / positions for total in totals]

    temperature = round(fit_temperature(nll_at), 6)
    nll, nll_raw = nll_at([temperature, 1.0])
    correct = sum(int((logits.argmax(dim=1) == gold).sum()) for logits, gold in answers)
    calibration = Calibration(
        temperature=temperature, nll=nll, nll_raw=nll_raw, accuracy=correct / positions, positions=positions
    )
    gold_Q = torch.cat([gold for _, gold in answers]).cpu().numpy()
    _refuse_guessing(calibration, inputs, label_Q=inputs.to_student_V[gold_Q], name=name)
    log.info(
        "%s: temperature %.3f, calibration NLL %.3f (%.3f before), accuracy %.3f, %d predictions",
        name,
        temperature,
        nll,
        nll_raw,
        calibration.accuracy,
        positions,
    )
    return calibration


def _parts(answers: list[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits in float32 and true ids, at most `PART_BYTES` of logits or one row of them at a time."""
    for logits_QV, gold_Q in answers:
        size = max(1, PART_BYTES // (4 * logits_QV.shape[1]))
        for start in range(0, len(gold_Q), size):
            yield logits_QV[start : start + size].float(), gold_Q[start : start + size]


def _refuse_guessing(calibration: Calibration, inputs: TeacherInputs, *, label_Q: NDArray[np.int64], name: str) -> None:
    """Refuse a model that is no better than the train split's token frequencies (add-one smoothed).

    Both at the same positions, whose true tokens are label_Q, students' ids: those that another vocabulary answers are
    the easier ones, for frequencies too.
    """
    train = inputs.corpus.masks.read("train").label_P
    vocabulary = int(inputs.corpus.masks.facts["vocabulary"])
    count_V = np.bincount(train, minlength=vocabulary) + 1.0
    nll = float(-np.log(count_V[label_Q] / count_V.sum()).mean())
    accuracy = float((label_Q == count_V.argmax()).mean())
    if calibration.nll >= nll or calibration.accuracy <= accuracy:
        raise TeacherRefused(
            f"{name}: on {calibration.positions} calibration predictions its NLL is {calibration.nll:.2f} nats and its "
            f"accuracy {calibration.accuracy:.3f}; guessing by token frequency gives {nll:.2f} and {accuracy:.3f}. "
            "It is no trained masked language model for this text; check its head and its tokenizer"
        )


def fit_temperature(nll_at: Callable[[Sequence[float]], list[float]]) -> float:
    """The temperature in [0.5, 2] that minimises the loss; `nll_at` gives the mean NLL at each temperature.

    Called three times: 7 temperatures, then 3 and 3. Raises TeacherRefused when a loss is not finite.
    """
    low, high = math.log(LOWEST), math.log(HIGHEST)
    grid = [low + i * (high - low) / (GRID_POINTS - 1) for i in range(GRID_POINTS)]
    best = _search(nll_at, grid)
    for half_width in REFINEMENTS:
        middle = min(max(best, low + half_width), high - half_width)
        best = _search(nll_at, [middle - half_width, middle, middle + half_width])
    return math.exp(best)


def _search(nll_at: Callable[[Sequence[float]], list[float]], log_temperatures: list[float]) -> float:
    """Minimum over evenly spaced points of the parabola through the lowest and its neighbours, within these three."""
    temperatures = [math.exp(value) for value in log_temperatures]
    losses = nll_at(temperatures)
    if not all(math.isfinite(loss) for loss in losses):
        raise TeacherRefused(
            f"calibration: expected finite losses at temperatures {', '.join(f'{t:.3f}' for t in temperatures)}, got "
            f"{', '.join(f'{loss:.3f}' for loss in losses)}. Check the teacher's weights, and runtime.dtype"
        )
    lowest = min(max(losses.index(min(losses)), 1), len(losses) - 2)
    before, here, after = losses[lowest - 1 : lowest + 2]
    step = log_temperatures[lowest] - log_temperatures[lowest - 1]
    bend = before - 2 * here + after
    shift = 0.5 * (before - after) / bend if bend > 0 else math.copysign(1, before - after)
    return log_temperatures[lowest] + step * max(-1.0, min(1.0, shift))
