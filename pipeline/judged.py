"""The `judged` section: which suite judges which model folder.

Read by the report and by the check of the settings; a suite's own stage gets its folders from dvc.yaml.
"""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.config import Section


class JudgedModel(Section):
    """A model that a suite judges."""

    model: str
    """Its folder: a student, a lexical student, a source, or any other."""


class JudgedLanguageModel(JudgedModel):
    """A model that is judged as a language model."""

    before: str
    """Folder of what its lexical training started from."""


class JudgedParams(Section):
    """Models by suite and name; a suite without any does not run."""

    wsd: dict[str, JudgedModel]
    language_model: dict[str, JudgedLanguageModel]
    paraphrase: dict[str, JudgedModel]
    glue: dict[str, JudgedModel]
    costs: dict[str, JudgedModel]

    def entries(self) -> Iterator[tuple[str, str, JudgedModel]]:
        """Suite, name and model of every entry, in the order of the suites."""
        for suite in JudgedParams.model_fields:
            for name, entry in getattr(self, suite).items():
                yield suite, name, entry
