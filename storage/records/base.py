"""The base of the records that stores hold, one per kind of store.

Shapes are named by suffix: N sequences, L tokens a sequence, P predictions (masked positions, flat over sequences and
mask copies), K listed entries per teacher, S entries drawn from the rest, M listed after fusion, T teachers, J
temperatures, D coordinates of a row's low-rank tail, V vocabulary.
Every record knows its store kind and schema, and `check()` refuses holes and impossible values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from storage.errors import RecordInvalid
from storage.format.arrays import ArraySpec

HELDOUT = "heldout"
SPLITS = ("train", "calibration", HELDOUT)
"""Parts of every store, by hash of the document id: training, fitting temperatures, evaluation."""


def id_dtype(vocabulary: int) -> str:
    """Smallest unsigned dtype whose largest value is left to mean "no id"."""
    return "uint16" if vocabulary <= np.iinfo(np.uint16).max else "uint32"


@dataclass(frozen=True, slots=True)
class Record:
    """Base: a record's fields are its arrays in memory, all with the same first axis.

    On disk they may differ: `encode` and `decode` convert, with the store's constants that `needs` names.
    """

    kind: ClassVar[str]
    """Name of the record in manifests."""
    stage: ClassVar[str]
    """DVC stage that makes the store, for messages."""
    revision: ClassVar[int] = 1
    """Raised when the method changes, so that stores made by the old one are refused."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Constants of the store without which its arrays cannot be read."""

    @classmethod
    def groups(cls) -> tuple[frozenset[str], ...]:
        """Names of the arrays on disk: the first group is in every store, each other one whole or not at all."""
        return (frozenset(field.name for field in fields(cls)),)

    def encode(self, specs: Mapping[str, ArraySpec], constants: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The arrays on disk that `specs` names."""
        return self.arrays()

    @classmethod
    def decode(
        cls, arrays: dict[str, NDArray[Any]], specs: Mapping[str, ArraySpec], constants: Mapping[str, NDArray[Any]]
    ) -> Self:
        """The record of arrays from disk, checked; raises RecordInvalid."""
        return cls.from_arrays(arrays)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Field name to array, in field order."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> Self:
        """Build the record and `check()` it."""
        record = cls(**arrays)
        record.check()
        return record

    def __len__(self) -> int:
        return len(next(iter(self.arrays().values())))

    def check(self) -> None:
        """Refuse what no writer of ours produces."""
        lengths = {name: len(array) for name, array in self.arrays().items()}
        require(len(set(lengths.values())) == 1, f"{self.kind}: arrays differ in length: {lengths}")


def require(condition: bool, message: str) -> None:
    """Raise RecordInvalid with `message` unless `condition` holds."""
    if not condition:
        raise RecordInvalid(message)
