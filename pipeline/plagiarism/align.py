"""Find the passages of one document that were taken from another, given how similar their units are.

Seed and extend: a cell (unit of the suspicious document, unit of the source) whose similarity is at least `extend` is
marked. Marked cells that are near each other form a group; a group with a cell of at least `seed` is a passage: from
its first to its last unit, in both documents. Units that are weaker than `extend` may lie between. Of passages from
different sources that share suspicious text, the one with the highest mean similarity of its marked cells is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree


class Thresholds(NamedTuple):
    """What decides an alignment."""

    seed: float
    extend: float
    reach: int
    """Marked cells whose units are at most so far apart in both documents belong together; 1: neighbours."""
    least: int
    """Fewest units of the suspicious document in a passage."""


@dataclass(frozen=True, slots=True)
class Cells:
    """Pairs of units that are similar enough to be looked at."""

    place_C2: NDArray[np.int64]
    """Unit of the suspicious document, unit of the source."""
    similarity_C: NDArray[np.float32]

    @staticmethod
    def of(similarity_UV: NDArray[np.float32], *, least: float) -> Cells:
        """Those of at least `least`."""
        place_C2 = np.argwhere(similarity_UV >= least)
        return Cells(place_C2, similarity_UV[place_C2[:, 0], place_C2[:, 1]])


@dataclass(frozen=True, slots=True)
class Block:
    """A passage in units of both documents, ends included."""

    first: int
    last: int
    source_first: int
    source_last: int
    similarity: float
    """Mean over its marked cells."""


def align(cells: Cells, thresholds: Thresholds) -> list[Block]:
    """The passages of one pair of documents, in the suspicious one's order; cells hold all of at least `extend`."""
    if not (cells.similarity_C >= thresholds.seed).any():
        return []
    marked_C = cells.similarity_C >= thresholds.extend
    place_M2, similarity_M = cells.place_C2[marked_C], cells.similarity_C[marked_C]
    group_M = _groups(place_M2, thresholds.reach)
    order_M = np.argsort(group_M, kind="stable")
    start_G = np.flatnonzero(np.diff(group_M[order_M], prepend=-1))
    low_G2, high_G2 = (extreme.reduceat(place_M2[order_M], start_G, axis=0) for extreme in (np.minimum, np.maximum))
    best_G = np.maximum.reduceat(similarity_M[order_M], start_G)
    mean_G = np.add.reduceat(similarity_M[order_M], start_G) / np.diff(start_G, append=len(order_M))
    kept_G = (best_G >= thresholds.seed) & (high_G2[:, 0] - low_G2[:, 0] + 1 >= thresholds.least)
    blocks = [
        Block(int(low[0]), int(high[0]), int(low[1]), int(high[1]), float(mean))
        for low, high, mean in zip(low_G2[kept_G], high_G2[kept_G], mean_G[kept_G], strict=True)
    ]
    return sorted(blocks, key=lambda block: (block.first, block.last, block.source_first))


def without_overlaps(blocks: list[tuple[str, Block]]) -> list[tuple[str, Block]]:
    """Blocks with their sources, of which no two share a suspicious unit; the more similar ones are kept."""
    kept: list[tuple[str, Block]] = []
    for source, block in sorted(blocks, key=lambda found: (-found[1].similarity, found[0], found[1].first)):
        if all(block.last < other.first or other.last < block.first for _, other in kept):
            kept.append((source, block))
    return sorted(kept, key=lambda found: (found[1].first, found[0]))


def _groups(place_M2: NDArray[Any], reach: int) -> NDArray[np.int64]:
    """Number of the group of each cell: cells within `reach` of each other, directly or over others."""
    near = cKDTree(place_M2).query_pairs(reach, p=np.inf, output_type="ndarray")
    links = coo_array((np.ones(len(near), np.bool_), (near[:, 0], near[:, 1])), shape=(len(place_M2),) * 2)
    found: NDArray[np.int64] = connected_components(links, directed=False)[1].astype(np.int64)
    return found
