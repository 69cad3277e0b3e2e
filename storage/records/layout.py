"""Which record each kind of store holds, and which arrays and constants a sealed store of it must have."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from storage.format.arrays import ArraySpec
from storage.records.base import Record
from storage.records.hidden_states import HiddenStates
from storage.records.logits import SparseLogits
from storage.records.sequences import Masks, Sequences
from storage.records.targets import FusedTargets

VOCABULARIES = (1, 2**17)
"""Ids of both widths."""

WRITTEN: dict[type[Record], Callable[[int], list[dict[str, ArraySpec]]]] = {
    Sequences: lambda size: [Sequences.specs(tokens=1, vocabulary=size)],
    Masks: lambda size: [Masks.specs(vocabulary=size)],
    SparseLogits: lambda size: [
        SparseLogits.specs(most=1, draws=draws, temperatures=1, rank=1, vocabulary=size) for draws in (0, 1)
    ],
    HiddenStates: lambda size: [HiddenStates.specs(width=1, vocabulary=size)],
    FusedTargets: lambda size: [FusedTargets.specs(keep=1, teachers=1, rank=1, vocabulary=size)],
}
"""The layout of arrays by this project's writers, in every form: dtypes, dimensions and counts, not widths."""


def layout_faults(record: type[Record], arrays: Mapping[str, ArraySpec]) -> list[str]:
    """Arrays of a manifest with another layout than writers of `record` give them; one line each, [] without faults.

    Without this check, float64 labels, say, could be read and would be wrong only much later.
    """
    if record not in WRITTEN:
        return []
    expected: dict[str, set[str]] = {}
    for specs in (specs for size in VOCABULARIES for specs in WRITTEN[record](size)):
        for name, spec in specs.items():
            expected.setdefault(name, set()).add(_layout(spec))
    return [
        f"{name}: expected {' or '.join(sorted(expected.get(name, ['no such array'])))}, got {_layout(spec)}"
        for name, spec in arrays.items()
        if _layout(spec) not in expected.get(name, ())
    ]


def _layout(spec: ArraySpec) -> str:
    return f"{spec.dtype} {f'counted by {spec.counted_by}' if spec.counted_by else f'[{len(spec.row_shape)}]'}"


RECORDS: dict[str, type[Record]] = {
    record.kind: record for record in (Sequences, Masks, SparseLogits, HiddenStates, FusedTargets)
}
"""Records by the kind that manifests name."""
