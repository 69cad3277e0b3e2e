"""For every stage of dvc.yaml: the section with its runs, its output folder, and the name of its records.

This is the only such list: the report, pruning and the commands use it, and a test compares it with dvc.yaml.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class StageOutputs:
    """A stage that writes an output, and a record of its cost in reports/runs."""

    stage: str
    """In dvc.yaml; also its module in `stages`."""
    section: str | None
    """Dotted section of params.yaml each of whose entries is a run; None: the stage runs once."""
    out: str
    """Folder that each run writes to under its name; of a stage that runs once, its output."""

    def record(self, name: str | None = None) -> str:
        """Name of the record in reports/runs, without .json."""
        return record_name(self.stage, name)

    def names(self, settings: Any) -> Collection[str]:
        """Names of the runs; `settings` are params.yaml as plain data, in which sections may be missing, or decoded."""
        found = settings
        for key in self.section.split(".") if self.section else ():
            found = found.get(key) or {} if isinstance(found, Mapping) else getattr(found, key)
        return found.keys() if self.section else ()


def record_name(stage: str, name: str | None) -> str:
    """Of a run of a stage: corpus, or teach-<name>. Stages have no "-" in their names, so no two runs share one."""
    return stage if name is None else f"{stage}-{name}"


def _outputs(*rows: tuple[str, str | None, str]) -> dict[str, StageOutputs]:
    return {stage: StageOutputs(stage=stage, section=section, out=out) for stage, section, out in rows}


OUTPUTS = _outputs(
    ("sources", "sources", "data/sources"),
    ("ingest", "inputs", "data/text"),
    ("corpus", None, "data/documents"),
    ("adapt", "adapters", "models"),
    ("tokenize", None, "data/sequences"),
    ("mask", None, "data/masks"),
    ("teach", "teachers", "data/logits"),
    ("exact", "teachers", "data/exact"),
    ("fidelity", "teachers", "reports/fidelity"),
    ("fuse", "fusions", "data/targets"),
    ("target_gradients", None, "reports/target_gradients"),
    ("train", "students", "models"),
    ("lexicon", None, "data/lexicon"),
    ("senses", "senses", "data/senses"),
    ("lexical", "lexical", "models"),
    ("soft_labels", "soft_labels", "data/soft_labels"),
    ("fuse_senses", "sense_fusions", "data/sense_fusions"),
    ("published", "published", "models"),
    ("evaluate_teacher", "teachers", "reports/teachers"),
    ("evaluate_fusion", "fusions", "reports/fusions"),
    ("evaluate", "students", "reports/students"),
    ("wsd", "suites.wsd", "reports/wsd"),
    ("language_model", "suites.language_model", "reports/language_model"),
    ("rewrite", "rewrite", "data/rewrite"),
    ("paraphrase", "suites.paraphrase", "reports/paraphrase"),
    ("plagiarism_sets", "plagiarism_sets", "data/plagiarism"),
    ("plagiarism", "suites.plagiarism", "reports/plagiarism"),
    ("glue", "suites.glue", "reports/glue"),
    ("costs", "suites.costs", "reports/costs"),
)
"""By stage, in the order of dvc.yaml. `code`, `check` and `report` keep no record."""


def record_names(settings: Any) -> Iterator[str]:
    """Names of the records of all runs, in the order of the stages."""
    for outputs in OUTPUTS.values():
        yield from map(outputs.record, outputs.names(settings)) if outputs.section else [outputs.record()]
