"""The section `fusions`: which teachers, how they are weighted, and what is kept of their mixture."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from pipeline.core.config import Section, nearest
from pipeline.fuse.weighting import Weighting

MOST_TEACHERS = 32
"""The lists that an id is in are kept as bits of one integer of at most 32 bits."""


Numbers = dict[str, dict[str, float]]


class DebiasParams(Section):
    """Removal of each token's own bias from the teachers (`pipeline.fuse.debias`)."""

    counts: float = Field(gt=0)
    """Pseudo-counts beside those of true tokens and the sums of predictions; more change rare tokens less."""


class FusionParams(Section):
    """One entry of `fusions`."""

    teachers: list[str] = Field(min_length=1, max_length=MOST_TEACHERS)
    weighting: Weighting
    tau: float = Field(gt=0)
    """Temperature of the weights, nats."""
    calibrated: bool
    """Take each teacher at its fitted temperature (times `temperature`), not with its raw logits."""
    prior: Literal["equal", "calibration"] | dict[str, float] | dict[Literal["by_source"], Numbers]
    """Of the teachers: equal, exp(-NLL at the calibration positions that all of them answer), a number each, or
    by_source; multiplies the weights.

    by_source has source of documents to teacher to number, "*" for all other sources. What is left out is 1.
    """
    temperature: float = Field(gt=0)
    """Of the targets; one of those that the teachers' statistics were computed at."""
    keep: int = Field(ge=1, le=1024)
    """M, entries kept a prediction."""
    debias: DebiasParams | None = None
    """Remove each token's own bias from each teacher before mixing; without it teachers are mixed as they are."""

    @model_serializer(mode="wrap")
    def _without_default(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out an absent `debias`, so that the identity is that of a file that does not have the key."""
        dumped: dict[str, Any] = handler(self)
        return {key: value for key, value in dumped.items() if key != "debias" or value is not None}

    @field_validator("teachers")
    @classmethod
    def _distinct(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError("names a teacher twice")
        return value

    @field_validator("prior", mode="before")
    @classmethod
    def _known_prior(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.keys() == {"by_source"}:
            if not value["by_source"] or not isinstance(value["by_source"], dict):
                raise ValueError("by_source needs numbers of teachers for at least one source")
            for source, numbers in value["by_source"].items():
                if not _positive_numbers(numbers):
                    raise ValueError(f"by_source needs positive numbers of teachers for '{source}', got {numbers!r}")
            return value
        if not _positive_numbers(value) and value not in ("equal", "calibration"):
            raise ValueError("must be equal, calibration, by_source, or a positive number for each teacher")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.calibrated and self.temperature != 1:
            raise ValueError(
                f"temperature must be 1.0 when calibrated is false, got {self.temperature}: statistics at other "
                "temperatures are those of calibrated teachers"
            )
        for numbers in (self.by_teacher, *self.by_source.values()):
            for name in numbers:
                if name not in self.teachers:
                    raise ValueError(f"prior names '{name}', no teacher of this fusion{nearest(name, self.teachers)}")
        if self.by_teacher:
            for name in self.teachers:
                if name not in self.prior:
                    raise ValueError(f"prior has no number for teacher '{name}'")
        return self

    @property
    def by_source(self) -> Numbers:
        """The prior by source; empty where it is another."""
        numbers = self.prior.get("by_source") if isinstance(self.prior, dict) else None
        return numbers if isinstance(numbers, dict) else {}

    @property
    def by_teacher(self) -> dict[str, float]:
        """The prior by teacher; empty where it is another."""
        numbers = self.prior if isinstance(self.prior, dict) else {}
        return {name: number for name, number in numbers.items() if not isinstance(number, dict)}

    @property
    def is_fitted(self) -> bool:
        """Whether something is fitted to true tokens before anything is mixed."""
        return self.debias is not None or self.weighting == "learned" or self.prior == "calibration"

    @property
    def reads_sources(self) -> str:
        """Which setting makes the weights depend on the source of a document; empty if none does."""
        if self.by_source:
            return "prior by_source"
        return "weighting learned" if self.weighting == "learned" else ""


def _positive_numbers(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value != {}
        and all(
            isinstance(number, int | float) and not isinstance(number, bool) and 0 < number < math.inf
            for number in value.values()
        )
    )
