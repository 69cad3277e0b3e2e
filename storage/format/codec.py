"""Encode records as the small integers on disk, and decode them.

Distributions are quantised (docs/results/store.md has the loss in fidelity), and laid out so that a general compressor
gains little more:

- A list is stored by rank in the store's order of ids (`order_V`, falling mean probability), ascending, as differences.
  This takes fewer bits than ids in order of probability, although the values then come in no order.
- A listed probability is round(128 sqrt(p)). The step in p grows as sqrt(p), which for a given number of bits gives the
  least Kullback-Leibler divergence.
- Values of a list are read relative to one another, and their sum is 1 minus the stored tail, so every row sums to 1.
- Statistics are fixed-point. Lists are stored end to end with a count a row, so a row takes only its own length.

FORMAT.md states the same for readers in other languages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.errors import RecordInvalid
from storage.format.arrays import sentinel

SUM_TOLERANCE = 1e-3
"""Allowed difference from 1 of a sum of float32 masses, beside the rounding of its parts."""
LEVELS = 128
"""Steps of sqrt(p) between 0 and 1 in a listed probability."""
TAIL_LEVELS = 250
"""Steps of the square root of a mass outside a list."""
LOGPROB_STEPS = 128
"""Steps a nat in the log-probability of a true token."""
ENTROPY_STEPS = 64
"""Steps a nat in an entropy."""
SPREAD_STEPS = 32
"""Steps a nat in the log-sum of a low-rank tail."""
UNANSWERED = 65534
"""Stands for "the teacher did not answer" in fixed-point columns; 65535, their fill, for a hole."""
BLOCK_ENTRIES = 2**17
"""Entries processed at a time, so that they stay in the processor's cache."""


def to_fixed(values: NDArray[Any], *, steps: int) -> NDArray[np.uint16]:
    """Fixed-point of values that are at least 0, `steps` to 1, NaN as `UNANSWERED`; larger ones are clipped."""
    scaled = np.rint(np.nan_to_num(values.astype(np.float64).clip(0, (UNANSWERED - 1) / steps)) * steps)
    return np.where(np.isnan(values), UNANSWERED, scaled).astype(np.uint16)


def from_fixed(codes: NDArray[np.uint16], *, steps: int) -> NDArray[np.float32]:
    """Inverse of `to_fixed`, to half a step. Raises RecordInvalid for a hole."""
    no_holes(codes)
    return np.where(codes == UNANSWERED, np.float32(np.nan), codes / np.float32(steps)).astype(np.float32)


def to_signed(values: NDArray[Any], *, steps: int) -> NDArray[np.int16]:
    """Fixed-point with a sign; NaN as 0, larger magnitudes are clipped."""
    limit = np.iinfo(np.int16).max
    clipped = np.nan_to_num(values.astype(np.float64).clip(-limit / steps, limit / steps))
    codes: NDArray[np.int16] = np.rint(clipped * steps).astype(np.int16)
    return codes


def from_signed(codes: NDArray[np.int16], answered_P: NDArray[np.bool_], *, steps: int) -> NDArray[np.float32]:
    """Inverse of `to_signed`; NaN in the rows that are not answered. Raises RecordInvalid for a hole."""
    no_holes(codes)
    return np.where(answered_P[:, None], codes / np.float32(steps), np.float32(np.nan)).astype(np.float32)


def to_root(mass: NDArray[Any]) -> NDArray[np.uint8]:
    """Square roots of masses between 0 and 1 in `TAIL_LEVELS` steps; a mass above 0 stays above 0, NaN becomes 0."""
    level = np.rint(np.sqrt(np.nan_to_num(mass.astype(np.float64)).clip(0, 1)) * TAIL_LEVELS)
    return np.where(mass > 0, np.maximum(level, 1), 0).astype(np.uint8)


def from_root(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Inverse of `to_root`. Raises RecordInvalid for a hole or a mass above 1."""
    no_holes(codes)
    if bool((codes > TAIL_LEVELS).any()):
        raise RecordInvalid(f"a mass code above {TAIL_LEVELS}")
    return np.square(codes / np.float32(TAIL_LEVELS))


def to_levels(logprob: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Log-probabilities of listed entries as steps of the square root of the probability, at least 1; NaN gives 1."""
    root = np.exp(logprob * np.float32(0.5))
    root *= np.float32(LEVELS)
    np.rint(root, out=root)
    np.fmax(root, 1, out=root)
    levels: NDArray[np.uint8] = np.minimum(root, LEVELS, out=root).astype(np.uint8)
    return levels


def pack_lists(
    ids_PK: NDArray[Any],
    codes_PK: NDArray[np.uint8],
    order_V: NDArray[np.uint32],
    *,
    place_P: NDArray[np.int32] | None = None,
) -> tuple[NDArray[np.uint16], NDArray[Any], NDArray[np.uint8], NDArray[np.uint16]]:
    """Lay lists end to end by ascending rank in `order_V`: count_P, differences of ranks and codes ([E] each), at_P.

    The first rank of a row is stored as it is, each further one as its difference to the one before. ids_PK holds
    sentinels where a row has fewer; their codes are ignored. at_P is 1 + the place, in the stored order, of the
    entry in column place_P of each list; 0 where that is -1. Raises RecordInvalid for an id that is twice in a row or
    outside `order_V`, which a reader would refuse.
    """
    wide: Any = _key_dtype(len(order_V), most=1)
    key_V1 = np.full(len(order_V) + 1, np.iinfo(wide).max, wide)  # one more entry, for "no id"
    key_V1[order_V] = np.arange(len(order_V), dtype=wide) << wide(8)
    count_P, at_P = np.zeros(len(ids_PK), np.uint16), np.zeros(len(ids_PK), np.uint16)
    steps, codes = [np.zeros(0, ids_PK.dtype)], [np.zeros(0, np.uint8)]
    for block in blocks(*ids_PK.shape):
        # Rank and code in one integer are sorted together; 32-bit integers are sorted faster.
        key_BK = key_V1.take(ids_PK[block], mode="clip")
        key_BK |= codes_PK[block]
        gold_B1 = None if place_P is None else _at(key_BK, place_P[block])
        key_BK.sort(axis=1)
        if gold_B1 is not None and place_P is not None:
            at_P[block] = np.where(place_P[block] < 0, 0, 1 + (key_BK == gold_B1).argmax(axis=1))
        count_P[block] = (ids_PK[block] != sentinel(ids_PK.dtype)).sum(axis=1)
        rank_BK = key_BK >> wide(8)
        step_BK = rank_BK.copy()
        step_BK[:, 1:] -= rank_BK[:, :-1]
        listed_BK = np.arange(ids_PK.shape[1]) < count_P[block, None]
        if bool((listed_BK & (rank_BK >= len(order_V))).any()):
            raise RecordInvalid(f"lists: an id outside the vocabulary of {len(order_V)}")
        _once(step_BK, listed_BK)
        # Where all rows are full, a mask would only cost time.
        whole = bool(listed_BK.all())
        steps.append((step_BK.ravel() if whole else step_BK[listed_BK]).astype(ids_PK.dtype))
        codes.append((key_BK.ravel() if whole else key_BK[listed_BK]).astype(np.uint8))
    return count_P, np.concatenate(steps), np.concatenate(codes), at_P


def unpack_lists(
    count_P: NDArray[np.uint16],
    step_E: NDArray[Any],
    codes_E: NDArray[np.uint8],
    order_V: NDArray[np.uint32],
    *,
    most: int,
    highest: int,
    at_P: NDArray[np.uint16] | None = None,
) -> tuple[NDArray[Any], NDArray[np.uint8], NDArray[np.int32]]:
    """Inverse of `pack_lists`: ids_PK and codes_PK with K = `most`, largest code first, then by rank, and place_P.

    Sentinels and 0 where a row has fewer; place_P is -1 where at_P is 0 or none is given. Raises RecordInvalid for
    holes, counts that do not fit, ranks outside the vocabulary, ids twice in a row, codes of 0 or above `highest`, and
    places beyond a list.
    """
    ends_P = _ends(count_P, entries=len(step_E), codes=len(codes_E), most=most)
    no_holes(step_E)
    if bool((codes_E == 0).any()) or bool((codes_E > highest).any()):
        raise RecordInvalid(f"lists: a value outside 1 to {highest}")
    if bool((step_E >= len(order_V)).any()):
        raise RecordInvalid(f"lists: a rank of {int(step_E.max())} in a vocabulary of {len(order_V)}")
    if at_P is not None:
        no_holes(at_P)
        if bool((at_P > count_P).any()):
            raise RecordInvalid("lists: the true token's place lies beyond its list")
    wide = _key_dtype(len(order_V), most=most)
    order_V1 = np.append(order_V, sentinel(step_E.dtype)).astype(step_E.dtype)
    ids_PK = np.full((len(count_P), most), sentinel(step_E.dtype), step_E.dtype)
    codes_PK, place_P = np.zeros((len(count_P), most), np.uint8), np.full(len(count_P), -1, np.int32)
    first = 0
    for block in blocks(len(count_P), most):
        last = int(ends_P[block][-1])
        key_BK = _keys(count_P[block], step_E[first:last], codes_E[first:last], wide=wide, most=most, V=len(order_V))
        first = last
        gold_B1 = None if at_P is None else _at(key_BK, at_P[block].astype(np.int64) - 1)
        key_BK.sort(axis=1)
        if gold_B1 is not None and at_P is not None:
            place_P[block] = np.where(at_P[block] > 0, (key_BK == gold_B1).argmax(axis=1), -1)
        shift = wide(8 * wide().itemsize - 8)
        codes_PK[block] = ~(key_BK >> shift).astype(np.uint8)
        # Of "no entry" every bit is set: the rank is clipped to the last entry, which is "no id".
        ids_PK[block] = order_V1.take(key_BK & ((wide(1) << shift) - wide(1)), mode="clip")
    return ids_PK, codes_PK, place_P


def blocks(rows: int, width: int) -> Iterator[slice]:
    """Slices of rows of `width` entries that fit the processor's cache; none when rows have no entries."""
    size = max(1, BLOCK_ENTRIES // max(1, width))
    return (slice(start, start + size) for start in range(0, rows if width else 0, size))


def _key_dtype(vocabulary: int, *, most: int) -> type[np.uint32] | type[np.uint64]:
    """Room for a code, a rank with a value to spare, and a sum of `most` differences of ranks, even of damaged ones."""
    return np.uint32 if vocabulary < 2**24 and most * vocabulary < 2**32 else np.uint64


def _at(key_BK: NDArray[Any], place_B: NDArray[Any]) -> NDArray[Any]:
    """The key in column place_B of each row, [B, 1]; any where that is negative."""
    return np.take_along_axis(key_BK, np.maximum(place_B, 0).astype(np.int64)[:, None], axis=1)


def _once(step_BK: NDArray[Any], listed_BK: NDArray[np.bool_]) -> None:
    if bool(((step_BK[:, 1:] == 0) & listed_BK[:, 1:]).any()):
        raise RecordInvalid("lists: an id twice in a row")


def _ends(count_P: NDArray[np.uint16], *, entries: int, codes: int, most: int) -> NDArray[np.int64]:
    """One past the last entry of each row; raises RecordInvalid for counts that do not fit."""
    no_holes(count_P)
    ends_P = np.cumsum(count_P, dtype=np.int64)
    total = int(ends_P[-1]) if len(ends_P) else 0
    if int(count_P.max(initial=0)) > most or total != entries or entries != codes:
        raise RecordInvalid(f"lists: counts do not fit {entries} entries, at most {most} a row")
    return ends_P


def _keys(
    count_B: NDArray[np.uint16], step_E: NDArray[Any], code_E: NDArray[np.uint8], *, wide: Any, most: int, V: int
) -> NDArray[Any]:
    """One integer an entry, in the stored order, which sorts by falling code, then rank; the largest for "no entry"."""
    listed_BK = np.arange(most) < count_B[:, None]
    if len(step_E) == listed_BK.size:  # where all rows are full, no mask is needed
        step_BK, code_BK = step_E.reshape(-1, most).astype(wide), code_E.reshape(-1, most)
    else:
        step_BK, code_BK = np.zeros(listed_BK.shape, wide), np.zeros(listed_BK.shape, np.uint8)
        step_BK[listed_BK], code_BK[listed_BK] = step_E, code_E
    _once(step_BK, listed_BK)
    rank_BK = np.cumsum(step_BK, axis=1, dtype=wide)
    if bool((rank_BK[:, -1] >= V).any()):
        raise RecordInvalid(f"lists: a rank of {int(rank_BK[:, -1].max())} in a vocabulary of {V}")
    key_BK = (~code_BK).astype(wide)
    key_BK <<= wide(8 * wide().itemsize - 8)
    key_BK |= rank_BK
    if len(step_E) < listed_BK.size:
        key_BK[~listed_BK] = np.iinfo(wide).max
    return key_BK


def share_out(
    levels_PK: NDArray[np.uint8], tail_PT: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Log-probabilities of listed entries (NaN where the level is 0), and tails, scaled so that all add up to 1."""
    logprob_PK: NDArray[np.float32] = np.full(levels_PK.shape, np.nan, np.float32)
    total_P = tail_PT.sum(axis=1)
    for block in blocks(*levels_PK.shape):
        level_BK = levels_PK[block].astype(np.float32)
        total_P[block] += np.einsum("bk,bk->b", level_BK, level_BK) / np.float32(LEVELS**2)
        root_B = np.sqrt(np.where(total_P[block] > 0, total_P[block], np.float32(1)))
        level_BK[levels_PK[block] == 0] = np.nan
        level_BK /= (np.float32(LEVELS) * root_B)[:, None]
        np.log(level_BK, out=level_BK)
        level_BK *= 2
        np.minimum(level_BK, 0, out=logprob_PK[block])
    whole_P = np.where(total_P > 0, total_P, np.float32(1))
    return logprob_PK, np.divide(tail_PT, whole_P[:, None], dtype=np.float32)


def require_whole(levels_PK: NDArray[np.uint8], tail_PT: NDArray[np.float32]) -> None:
    """Refuse rows whose stored masses do not add up to 1, which `share_out` would hide; NaN tails are unanswered rows.

    Rounding sqrt(p) to steps of h moves p by at most h sqrt(p) + h * h / 4, or to the least level by h * h; the sum of
    sqrt(p) over n entries is at most sqrt(n). The same for tails, with their own steps. Raises RecordInvalid.
    """
    listed_P, tails = (levels_PK > 0).sum(axis=1), tail_PT.shape[1]
    total_P = np.einsum("pk,pk->p", levels_PK, levels_PK, dtype=np.float32) / np.float32(LEVELS**2) + tail_PT.sum(
        axis=1
    )
    step, tail_step = 1 / LEVELS, 1 / TAIL_LEVELS
    bound_P = step * np.sqrt(listed_P) + step**2 * listed_P + tail_step * np.sqrt(tails) + tail_step**2 * tails
    if bool((np.abs(total_P - 1) > bound_P + SUM_TOLERANCE).any()):
        raise RecordInvalid("lists: listed mass and tail do not add up to 1")


def to_shares(weight_PT: NDArray[Any]) -> NDArray[np.uint8]:
    """Weights that sum to 1 in `TAIL_LEVELS` steps; NaN becomes 0."""
    return np.rint(np.nan_to_num(weight_PT.astype(np.float64)) * TAIL_LEVELS).astype(np.uint8)


def from_shares(codes_PT: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Inverse of `to_shares`, scaled to sum to 1. Raises RecordInvalid for a hole."""
    no_holes(codes_PT)
    total_P1 = codes_PT.sum(axis=1, dtype=np.float32)[:, None]
    return (codes_PT / np.where(total_P1 > 0, total_P1, np.float32(1))).astype(np.float32)


def no_holes(codes: NDArray[Any]) -> None:
    """Raise RecordInvalid where a fill value stands: Zarr reads a missing shard as fill, silently."""
    if bool((codes == sentinel(codes.dtype)).any()):
        raise RecordInvalid("fill values where data should be; a shard is missing")
