"""Rows of made-up predictions that take about as many bytes as a teacher's.

Ids are drawn in proportion to 1 / rank, probabilities fall as powers of the place, statistics and coordinates of tails
spread about as real ones do; all independent of each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.format.arrays import sentinel
from storage.records.logits import SparseLogits

VOCABULARY = 30_527
"""Of the 110 M teacher that the made-up lists are shaped after."""
FLOOR = 0.003
"""Least probability that the default form lists."""
TEMPERATURES = 2
BLOCK_ROWS = 16_384
"""Rows made up at a time."""
COORDINATE_SCALE = 0.9
"""Standard deviation of a tail's coordinates: they take the bytes of real ones, 7 a row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """What is listed of a row: the `most` likely ids, or those of them above `floor`; and the tail's coordinates."""

    name: str
    most: int
    floor: float
    rank: int


FORMS = (Form(name="topk, k = 32", most=32, floor=0.0, rank=0), Form(name="nucleus", most=96, floor=FLOOR, rank=32))


def simulate(form: Form, *, rows: int, seed: int = 0) -> tuple[SparseLogits, NDArray[np.uint32]]:
    """Rows of `form`, and the order of ids they are stored in."""
    rng = np.random.default_rng(seed)
    order_V = rng.permutation(VOCABULARY).astype(np.uint32)
    parts = [_rows(form, min(BLOCK_ROWS, rows - start), order_V, rng) for start in range(0, rows, BLOCK_ROWS)]
    columns = {name: np.concatenate([part.arrays()[name] for part in parts]) for name in parts[0].arrays()}
    return SparseLogits(**columns), order_V


def _rows(form: Form, rows: int, order_V: NDArray[np.uint32], rng: np.random.Generator) -> SparseLogits:
    rank_PC = np.sort((VOCABULARY ** rng.random((rows, 4 * form.most))).astype(np.int64) - 1, axis=1)
    key_PC = rng.random(rank_PC.shape)
    key_PC[:, 1:][rank_PC[:, 1:] == rank_PC[:, :-1]] += 1  # ids drawn again come last
    rank_PK = np.take_along_axis(rank_PC, np.argsort(key_PC, axis=1)[:, : form.most], axis=1)
    again_P = (np.diff(np.sort(rank_PK, axis=1), axis=1) == 0).any(axis=1)
    rank_PK[again_P] = np.arange(form.most)
    fall_P1 = rng.uniform(0.8, 2.5, (rows, 1))
    p_PK = (1 + np.arange(form.most)) ** -fall_P1 * np.exp(0.3 * rng.normal(size=rank_PK.shape))
    p_PK = -np.sort(-p_PK, axis=1) / p_PK.sum(axis=1, keepdims=True) * rng.beta(5, 1.5, (rows, 1))
    listed_PK = (p_PK >= form.floor) | (np.arange(form.most) == 0)
    return _record(np.where(listed_PK, order_V[rank_PK], sentinel("uint16")), p_PK, listed_PK, form, rng)


def _record(
    ids_PK: NDArray[Any], p_PK: NDArray[Any], listed_PK: NDArray[np.bool_], form: Form, rng: np.random.Generator
) -> SparseLogits:
    rows = len(ids_PK)
    place_P = rng.geometric(0.35, rows) - 1
    place_P = np.where(place_P < listed_PK.sum(axis=1), place_P, -1)
    logprob_PK = np.log(p_PK)
    gold_P = np.take_along_axis(logprob_PK, np.maximum(place_P, 0)[:, None], axis=1)[:, 0]
    gold_P = np.where(place_P < 0, -rng.gamma(4, 2, rows), gold_P)

    def columns(values_P: NDArray[Any]) -> NDArray[np.float32]:
        return np.tile(values_P[:, None], (1, TEMPERATURES)).astype(np.float32)

    sketch_PD = np.rint(rng.normal(scale=COORDINATE_SCALE, size=(rows, form.rank)))
    return SparseLogits(
        ids_PK=ids_PK.astype(np.uint16),
        logprob_PK=np.where(listed_PK, logprob_PK, np.nan).astype(np.float32),
        drawn_ids_PS=np.zeros((rows, 0), np.uint16),
        drawn_share_PS=np.zeros((rows, 0), np.float32),
        tail_PJ=columns(1 - np.where(listed_PK, p_PK, 0).sum(axis=1)),
        gold_logprob_PJ=columns(gold_P),
        gold_place_P=place_P.astype(np.int32),
        entropy_PJ=columns(rng.gamma(3, 0.9, rows)),
        sketch_PD=sketch_PD.astype(np.int8),
        spread_PJ=columns(rng.normal(-2, 0.5, rows)),
    )
