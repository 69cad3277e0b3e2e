"""The `README.md` inside a store of logits or targets, for people who have the folder without its project.

It is made from the manifest alone, so equal stores have equal cards; the writer adds it to the manifest's files.
Reading the data needs nothing from it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from storage.format.manifest import Manifest
from storage.records.base import SPLITS
from storage.records.logits import SparseLogits
from storage.records.targets import FusedTargets
from storage.share.inspect import PROVENANCE, array_bytes, constant_bytes, licence_lines, plain, size, split_bytes

RECORDS = {record.kind: record for record in (SparseLogits, FusedTargets)}
TITLES = {
    SparseLogits.kind: "Predictions of {models} at masked positions",
    FusedTargets.kind: "Fused predictions of {models}",
}
LISTS = {SparseLogits.kind: ("ids_PK", "logprob_PK"), FusedTargets.kind: ("ids_PM", "logprob_PM")}
INTRODUCTION = (
    "A store of {kind}: sparse probability distributions over a vocabulary of {vocabulary} tokens, one for every "
    "masked position, in files that `manifest.json` lists with checksums."
)
LICENCES = (
    "Licences are those that the sources state themselves, and they apply when this store is shared. The texts are not "
    "in it, but words of them may be guessed from the predictions."
)
METHOD = (
    "Jan Philip Wahle. A Cohesive Distillation Architecture for Neural Language Models. arXiv:2301.08130, 2023. "
    "https://arxiv.org/abs/2301.08130"
)


def card_of(manifest: Manifest) -> str:
    """The card of a store of logits or targets, Markdown; `manifest` is its manifest without the card."""
    provenance = manifest.facts.get(PROVENANCE, {})
    models = " and ".join(plain(model["name"]) for model in provenance.get("models", [])) or "a model"
    title = TITLES[manifest.kind].format(models=models)
    front = {
        "pretty_name": title,
        "license": "other",
        "license_name": "those of the models and texts named below",
        "tags": ["belief-store", manifest.kind, "knowledge-distillation", "masked-language-modeling"],
    }
    return "\n".join(
        [
            "---",
            *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front.items()),
            "---",
            "",
            f"# {title}",
            "",
            INTRODUCTION.format(kind=manifest.kind, vocabulary=plain(manifest.facts.get("vocabulary"))),
            "",
            "## Models and texts",
            "",
            *(f"- {line}" for line in licence_lines(manifest)),
            "",
            LICENCES,
            "",
            "## Positions",
            "",
            *_positions(manifest, provenance.get("masks", {})),
            "",
            "## Form",
            "",
            *_form(manifest),
            "",
            "## Reading",
            "",
            *_reading(manifest),
            "",
            "## Citing",
            "",
            METHOD,
            "",
            f"This store: {manifest.kind} {manifest.identity} (SHA-256 of what it was made from).",
            "",
        ]
    )


def _positions(manifest: Manifest, masks: dict[str, Any]) -> Iterator[str]:
    if masks:
        yield f"Masks: {plain(masks)}. Words are masked whole, each at most once over all copies."
        yield ""
    coverage, stored = manifest.facts.get("coverage", {}), split_bytes(manifest)
    yield "| split | positions | answered | shards | bytes |"
    yield "| --- | --- | --- | --- | --- |"
    for name in _splits(manifest):
        plan = manifest.splits[name]
        share = coverage.get(name)
        answered = "" if share is None else f"{share:.4f}"
        yield f"| {name} | {plan.rows} | {answered} | {plan.shards} | {stored[name]} |"


def _splits(manifest: Manifest) -> list[str]:
    """Names of the splits, the usual ones in their order first."""
    return [*(name for name in SPLITS if name in manifest.splits), *sorted(manifest.splits.keys() - set(SPLITS))]


def _form(manifest: Manifest) -> Iterator[str]:
    names = ("keep", "listed", "temperatures", "teachers", "weighting", "temperature", "calibration", "mean_weight")
    for name in names:
        if name in manifest.facts:
            yield f"- {name}: {plain(manifest.facts[name])}"
    rows = sum(plan.rows for plan in manifest.splits.values())
    found = array_bytes(manifest)
    yield f"- {size(sum(found.values()))}, {sum(found.values()) / max(1, rows):.2f} bytes a position"
    yield ""
    yield "| array | dtype | bytes a position |"
    yield "| --- | --- | --- |"
    for name, count in found.items():
        yield f"| {name} | {manifest.arrays[name].dtype} | {count / max(1, rows):.2f} |"
    yield ""
    constants = ", ".join(f"{name} ({size(count)})" for name, count in constant_bytes(manifest).items())
    yield f"Arrays are Zarr v3 in shards, compressed with zstd. Constants of the whole store: {constants}."


def _reading(manifest: Manifest) -> list[str]:
    record = RECORDS[manifest.kind].__name__
    ids, logprob = LISTS[manifest.kind]
    split = next((name for name in _splits(manifest) if manifest.splits[name].rows), "train")
    return [
        "With the package `cohesive-distillation`, in this folder:",
        "",
        "```python",
        "from pathlib import Path",
        "from storage.reader import Store",
        f"from storage.records import {record}",
        "",
        f'rows = Store(Path.cwd(), {record}).shard("{split}", 0)  # checked against the manifest',
        f"print(rows.{ids}[0], rows.{logprob}[0])  # ids, most likely first, and natural log-probabilities",
        "```",
        "",
        "With plain Zarr, in any language: the package's FORMAT.md defines each array and how to decode it.",
    ]
