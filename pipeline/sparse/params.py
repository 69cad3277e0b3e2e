"""Sections `keep` and `tail`: the forms in which a row of logits is stored; and the kinds of tail in a loss."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.core.config import Section

LARGEST_LIST = 1024
"""Most ids listed a row; the search for the largest and the codec are meant for short lists."""

LARGEST_DRAW = 254
"""Most ids drawn a row; the number of times an id was drawn is stored in a byte."""

LARGEST_RANK = 128
"""Most numbers a row for its low-rank tail, a generous bound: useful ranks are far lower."""


class TopK(Section):
    """The k most likely ids of every row."""

    form: Literal["topk"]
    k: int = Field(ge=1, le=LARGEST_LIST)

    @property
    def most(self) -> int:
        """Length of the longest list."""
        return self.k

    @property
    def draws(self) -> int:
        """Ids drawn a row."""
        return 0


class Nucleus(Section):
    """Ids from the most likely on, while those before hold less than `mass` and the id itself at least `floor`."""

    form: Literal["nucleus"]
    mass: float = Field(gt=0, le=1)
    floor: float = Field(ge=0, lt=1)
    """Probability."""
    least: int = Field(ge=1, le=LARGEST_LIST)
    """Listed whatever their probability."""
    most: int = Field(ge=1, le=LARGEST_LIST)
    """Length of the longest list."""

    @model_validator(mode="after")
    def _ordered(self) -> Nucleus:
        if self.least > self.most:
            raise ValueError(f"least must not exceed most ({self.most}), got {self.least}")
        return self

    @property
    def draws(self) -> int:
        """Ids drawn a row."""
        return 0


class Sampled(Section):
    """No list: ids drawn with replacement from the softmax at the calibrated temperature."""

    form: Literal["sampled"]
    draws: int = Field(ge=1, le=LARGEST_DRAW)
    """Ids drawn a row."""

    @property
    def most(self) -> int:
        """Length of the longest list."""
        return 0


class TopKSampled(Section):
    """The k most likely ids, and ids drawn with replacement from the rest at the calibrated temperature."""

    form: Literal["topk+sampled"]
    k: int = Field(ge=1, le=LARGEST_LIST)
    draws: int = Field(ge=1, le=LARGEST_DRAW)
    """Ids drawn a row."""

    @property
    def most(self) -> int:
        """Length of the longest list."""
        return self.k


Keep = Annotated[TopK | Nucleus | Sampled | TopKSampled, Field(discriminator="form")]
"""One of the forms, chosen by the key `form`."""


class TailParams(Section):
    """The description of the distribution outside the list."""

    renamed: ClassVar = {"sketch": "rank"}
    # Identities of stores hash it under its old name.
    rank: int = Field(ge=0, le=LARGEST_RANK, serialization_alias="sketch")
    """D, numbers a row; 0: one prior for all rows."""
    step: float = Field(gt=0, le=10)
    """Of a number's 8-bit code, nats (root mean square over ids)."""


Tail = Literal["prior", "bucket"]
"""How a loss treats unlisted ids: their restored probabilities, or one outcome for all of them."""
