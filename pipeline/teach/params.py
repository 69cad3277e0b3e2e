"""Sections `teachers` and `exact`: the model, what its store keeps, and for how many predictions states are kept."""

from __future__ import annotations

from pydantic import Field, field_validator

from pipeline.core.config import Section
from pipeline.sparse.params import Keep, TailParams


class ExactParams(Section):
    """The section `exact`."""

    positions: int = Field(ge=1)
    """Predictions of each model that states are kept for: the first ones of the held-out split."""


class TeacherParams(Section):
    """One entry of `teachers`."""

    model: str
    """Folder of a Hugging Face masked language model."""
    keep: Keep
    """What is listed of a prediction, and what is drawn."""
    tail: TailParams
    """The low-rank tail, which describes the ids that are not listed."""
    temperatures: list[float] = Field(min_length=1)
    """Statistics are kept at these, times the calibrated temperature; the first is 1.

    They are of the full softmax. Stored, the listed mass is known to 0.004, which is much of it where a list holds
    little: at 3 times the temperature and more (docs/concepts.md)."""
    seed: int = Field(ge=0)
    """Of the drawn ids."""

    @property
    def tail_rank(self) -> int:
        """Coordinates of a row's tail: none where the tail is drawn."""
        return 0 if self.keep.draws else self.tail.rank

    @field_validator("temperatures")
    @classmethod
    def _first_is_one(cls, value: list[float]) -> list[float]:
        if value[0] != 1.0 or any(temperature <= 0 for temperature in value) or len(set(value)) < len(value):
            raise ValueError("must be positive, distinct and begin with 1.0")
        return value
