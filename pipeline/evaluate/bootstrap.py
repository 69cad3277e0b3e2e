"""Means over predictions and their 95 % intervals.

Every number here is a ratio of sums over documents, or a sum of absolute ratios (calibration error), so a bootstrap
needs each document's sums only. Documents are resampled, not predictions: predictions in one document share its text,
and an interval that treated them as independent would be too narrow. The resamples depend on the seed and on the number
of documents alone, so all models evaluated on the same documents are compared on the same resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.seeds import generator

BINS = 15
"""Bins of the calibration error, as in Guo et al. 2017."""

BLOCK_ENTRIES = 4_000_000
"""Entries of the resample matrix in memory at once: 64 MB with its integer original."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Means:
    """Sums of some quantities by document. D documents, Q quantities; mean q is sum(total) / sum(count)."""

    names: tuple[str, ...]
    total_DQ: NDArray[np.float64]
    count_DQ: NDArray[np.float64]

    @staticmethod
    def of(
        quantities: Mapping[str, tuple[NDArray[Any], NDArray[np.bool_]]],
        *,
        document_P: NDArray[np.int64],
        documents: int,
    ) -> Means:
        """Add up by document; a quantity is its values [P] and where it is defined [P] (elsewhere it may be NaN)."""
        totals, counts = [], []
        for value_P, defined_P in quantities.values():
            totals.append(np.bincount(document_P, np.where(defined_P, value_P, 0.0), minlength=documents))
            counts.append(np.bincount(document_P, defined_P.astype(np.float64), minlength=documents))
        return Means(names=tuple(quantities), total_DQ=np.stack(totals, axis=1), count_DQ=np.stack(counts, axis=1))

    def only(self, names: tuple[str, ...]) -> Means:
        """The same for some of the quantities."""
        columns = [self.names.index(name) for name in names]
        return Means(names=names, total_DQ=self.total_DQ[:, columns], count_DQ=self.count_DQ[:, columns])

    def of_documents(self, chosen_D: NDArray[np.bool_]) -> Means:
        """The same over some of the documents."""
        return Means(names=self.names, total_DQ=self.total_DQ[chosen_D], count_DQ=self.count_DQ[chosen_D])

    def values(self) -> dict[str, float]:
        """The means; NaN where nothing was counted."""
        return dict(zip(self.names, _ratio(self.total_DQ.sum(axis=0), self.count_DQ.sum(axis=0)).tolist(), strict=True))

    def resampled(self, *, resamples: int, seed: int) -> NDArray[np.float64]:
        """Means of each resample, [resamples, Q]."""
        parts = [
            _ratio(times_RD @ self.total_DQ, times_RD @ self.count_DQ)
            for times_RD in resample(len(self.total_DQ), resamples=resamples, seed=seed)
        ]
        return np.concatenate(parts)


def resample(documents: int, *, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each document is drawn in each resample, in blocks of rows [R, D]; each row sums to D.

    Drawing D documents with replacement is one multinomial draw (Efron 1979).
    """
    rows = max(1, BLOCK_ENTRIES // documents)
    rng = generator(seed, "bootstrap", documents)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        yield rng.multinomial(documents, np.full(documents, 1 / documents), size=size).astype(np.float64)


def interval(sample_R: NDArray[np.float64]) -> tuple[float, float]:
    """The 2.5 and 97.5 % quantiles of bootstrapped values: the percentile interval (Efron 1979).

    Resamples in which nothing was counted (NaN) do not take part; NaN when none is left.
    """
    known = sample_R[np.isfinite(sample_R)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


def mean_intervals(means: Means, *, resamples: int, seed: int) -> dict[str, float]:
    """For each quantity x: `x`, `x_low` and `x_high`."""
    sample_RQ = means.resampled(resamples=resamples, seed=seed)
    found: dict[str, float] = {}
    for column, (name, value) in enumerate(means.values().items()):
        found[name] = value
        found[f"{name}_low"], found[f"{name}_high"] = interval(sample_RQ[:, column])
    return found


def paired_differences(
    means: Mapping[str, Means], *, resamples: int, seed: int
) -> dict[tuple[str, str], dict[str, float]]:
    """For each ordered pair of names and each quantity x: `x` of the first minus the second, `x_low` and `x_high`.

    Paired: all use the same resamples, so the difficulty of a document cancels. Pairs that counted different
    predictions are left out, as their difference would depend on the text.
    """
    samples = {name: found.resampled(resamples=resamples, seed=seed) for name, found in means.items()}
    differences = {}
    for first, second in permutations(means, 2):
        pair = means[first], means[second]
        assert pair[0].names == pair[1].names, "means of different quantities"
        if not np.array_equal(pair[0].count_DQ, pair[1].count_DQ):
            continue
        values = pair[0].values(), pair[1].values()
        found: dict[str, float] = {}
        for column, name in enumerate(pair[0].names):
            found[name] = values[0][name] - values[1][name]
            found[f"{name}_low"], found[f"{name}_high"] = interval(
                samples[first][:, column] - samples[second][:, column]
            )
        differences[first, second] = found
    return differences


def seeds_difference(
    first: Sequence[Means], second: Sequence[Means], name: str, *, resamples: int, seed: int
) -> tuple[float, float, float]:
    """Mean over seeds of one's quantity minus the other's, and its 95 % interval; first[s] and second[s] are paired.

    Each resample draws documents, the same for all, and, where there are several, seeds, both with replacement (Efron
    1979; two crossed factors as in Owen 2007, arXiv 0712.1111). The variance between
    S seeds is underestimated by the factor (S - 1) / S, which matters for two or three seeds.
    """
    assert len(first) == len(second) > 0, (len(first), len(second))
    pairs = [(one.only((name,)), other.only((name,))) for one, other in zip(first, second, strict=True)]
    assert all(np.array_equal(one.count_DQ, other.count_DQ) for one, other in pairs), "means of different predictions"
    value = float(np.mean([one.values()[name] - other.values()[name] for one, other in pairs]))
    sample_RS = np.concatenate(
        [
            one.resampled(resamples=resamples, seed=seed) - other.resampled(resamples=resamples, seed=seed)
            for one, other in pairs
        ],
        axis=1,
    )
    return value, *interval(over_seeds(sample_RS, seed=seed))


def over_seeds(sample_RS: NDArray[np.float64], *, seed: int) -> NDArray[np.float64]:
    """Means over seeds [R] of resampled values [R, S]; each resample draws S of the S seeds with replacement.

    What is compared by seed must be one matrix of differences: the draws depend on the shape and on `seed` alone.
    """
    if sample_RS.shape[1] > 1:
        drawn_RS = generator(seed, "bootstrap seeds", sample_RS.shape[1]).integers(
            0, sample_RS.shape[1], sample_RS.shape
        )
        sample_RS = np.take_along_axis(sample_RS, drawn_RS, axis=1)
    mean_R: NDArray[np.float64] = sample_RS.mean(axis=1)
    return mean_R


def calibration_error(
    confidence_P: NDArray[Any],
    correct_P: NDArray[np.bool_],
    *,
    document_P: NDArray[np.int64],
    documents: int,
    resamples: int,
    seed: int,
) -> dict[str, float]:
    """Expected calibration error, `ece`, `ece_low` and `ece_high`.

    sum over bins m of |B_m| / n * |accuracy(B_m) - confidence(B_m)|, where B_m holds the predictions whose largest
    probability lies in ((m - 1) / 15, m / 15] (Guo et al. 2017, arXiv 1706.04599, equation 3). The absolute value
    biases resamples upwards: with few predictions the interval may lie above the value.
    """
    bin_P = np.clip(np.ceil(np.asarray(confidence_P, np.float64) * BINS).astype(np.int64) - 1, 0, BINS - 1)
    gap_P = correct_P.astype(np.float64) - confidence_P
    gap_DB = np.bincount(document_P * BINS + bin_P, gap_P, minlength=documents * BINS).reshape(documents, BINS)
    count_D = np.bincount(document_P, minlength=documents).astype(np.float64)
    value = _ratio(np.abs(gap_DB.sum(axis=0)).sum(), count_D.sum())
    parts = [
        _ratio(np.abs(times_RD @ gap_DB).sum(axis=1), times_RD @ count_D)
        for times_RD in resample(documents, resamples=resamples, seed=seed)
    ]
    low, high = interval(np.concatenate(parts))
    return {"ece": float(value), "ece_low": low, "ece_high": high}


def _ratio(total: Any, count: Any) -> NDArray[np.float64]:
    """The quotient; NaN where the count is 0."""
    quotient = np.full(np.shape(total), np.nan)
    np.divide(total, count, out=quotient, where=np.asarray(count) > 0)
    return quotient
