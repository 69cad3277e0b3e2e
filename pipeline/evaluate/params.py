"""Sections of evaluation: `evaluate`, `costs`, and `suites`, which names the models of every suite."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from pydantic import Field, field_validator

from pipeline.core.config import Section

EVERYTHING = "all"
"""The domain of all text."""

OTHERS = "*"
"""Among the sources of a domain, stands for all sources that no domain names."""


class CostParams(Section):
    """The `costs` section of params.yaml."""

    renamed: ClassVar = {"passes": "forwards"}

    sequence_tokens: int = Field(ge=2)
    """Tokens of every sequence, special tokens included; there is no padding."""
    batches: list[int] = Field(min_length=1)
    """Sequences of a forward, rising; the first is 1, whose time is the latency."""
    forwards: int = Field(ge=20)
    """Timed forwards."""
    threads: int = Field(ge=0)
    """CPU threads; 0 for all cores."""

    @field_validator("batches")
    @classmethod
    def _begin_with_one(cls, batches: list[int]) -> list[int]:
        if batches[0] != 1 or batches != sorted(set(batches)):
            raise ValueError("expected rising numbers that begin with 1")
        return batches


class SuiteModel(Section):
    """A model that a suite evaluates."""

    model: str
    """Its folder: a student, a lexical student, a source, or any other."""


class SuiteLanguageModel(SuiteModel):
    """A model that is evaluated as a language model."""

    before: str
    """Folder of what its lexical training started from."""


class SuitesParams(Section):
    """Models by suite and name: the one list of suites, in the order of the report. One without models does not run."""

    wsd: dict[str, SuiteModel]
    glue: dict[str, SuiteModel]
    paraphrase: dict[str, SuiteModel]
    plagiarism: dict[str, SuiteModel]
    language_model: dict[str, SuiteLanguageModel]
    costs: dict[str, SuiteModel]

    def entries(self) -> Iterator[tuple[str, str, SuiteModel]]:
        """Suite, name and model of every entry, in the order of the suites."""
        for suite in SuitesParams.model_fields:
            for name, entry in getattr(self, suite).items():
                yield suite, name, entry


class EvaluateParams(Section):
    """The `evaluate` section of params.yaml."""

    against: str
    """Store of fused targets that agreement is measured with."""
    bootstrap: int = Field(ge=1)
    """Resamples of documents."""
    seed: int
    domains: dict[str, list[str]] = Field(default_factory=dict)
    """Sources of text by domain, to report by; `OTHERS` stands for all sources that no domain names."""

    @field_validator("domains")
    @classmethod
    def _disjoint(cls, domains: dict[str, list[str]]) -> dict[str, list[str]]:
        owner: dict[str, str] = {}
        for name, sources in domains.items():
            if name == EVERYTHING:
                raise ValueError(f"'{EVERYTHING}' is what the report calls all text; give the domain another name")
            for source in sources:
                if source in owner:
                    raise ValueError(f"'{source}' is in {owner[source]} and in {name}")
                owner[source] = name
        return domains
