"""The card of a published student: what it scores beside what it costs, what it was made from, its licence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from pipeline.hub.lineage import Origin
from pipeline.hub.scores import Measured, Score
from pipeline.models.publish import CARD_FILE
from storage.errors import SourceError

FRONT = re.compile(r"\A---\n(.*?)^---\n", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^# .*$", re.MULTILINE)
PLACEHOLDER = "PATH/OF/THIS/FOLDER"
"""In cards that training writes: where the reader has the model."""


def student_card(
    folder: Path, repo: str, *, measured: Measured, origins: Sequence[Origin], licence: Mapping[str, str]
) -> str:
    """The card that training wrote, with the hub's metadata, scores and costs, and lineage put before its text.

    The metadata has the scores as a model-index, which the hub shows. Raises SourceError when there is no card.
    """
    front, body = split_card(folder)
    data = {
        **front,
        **licence,
        **_base_model(origins),
        **({"model-index": _model_index(repo, measured.scores)} if measured.scores else {}),
    }
    body = HEADING.sub("", body, count=1).replace(PLACEHOLDER, repo).strip()
    return "\n".join(
        [_front(data), f"# {repo.rpartition('/')[2]}", "", *_numbers(measured), *_lineage(origins), body, ""]
    )


def licensed_card(folder: Path, licence: Mapping[str, str]) -> str:
    """The card in `folder` with this licence, its text unchanged."""
    front, body = split_card(folder)
    return f"{_front({**front, **licence})}\n{body.lstrip()}"


def split_card(folder: Path) -> tuple[dict[str, object], str]:
    """Front matter and text of the card in `folder`; raises SourceError when it has no card."""
    path = folder / CARD_FILE
    if not path.is_file():
        raise SourceError(f"{path}: not found. Nothing is published without a card")
    text = path.read_text(encoding="utf-8")
    found = FRONT.match(text)
    try:
        front = yaml.safe_load(found[1]) if found else {}
    except yaml.YAMLError as error:
        raise SourceError(f"{path}: its front matter is not YAML: {' '.join(str(error).split())}") from error
    return front or {}, text[found.end() :] if found else text


def _front(data: Mapping[str, object]) -> str:
    return f"---\n{yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, width=120)}---"


def _base_model(origins: Sequence[Origin]) -> dict[str, str]:
    """The start, where it is on the hub: the first origin of every student."""
    start = next((origin for origin in origins if origin.kind == "model"), None)
    return {"base_model": start.where.partition(" ")[0]} if start is not None and start.where else {}


def _model_index(repo: str, scores: Sequence[Score]) -> list[dict[str, object]]:
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import eval_results_to_model_index

    results = [
        EvalResult(
            task_type="fill-mask" if score.suite == "language model" else "other",
            task_name=score.suite,
            dataset_type=score.suite.replace(" ", "-"),
            dataset_name=score.data or score.suite,
            metric_type=score.metric,
            metric_name=score.name,
            metric_value=score.value,
        )
        for score in scores
    ]
    index: list[dict[str, object]] = eval_results_to_model_index(repo.rpartition("/")[2], results)
    return index


def _numbers(measured: Measured) -> Iterator[str]:
    yield from ["## What it scores and what it costs", "", "| | | |", "| --- | --- | --- |"]
    for score in measured.scores:
        on = f", {score.data}" if score.data else ""
        yield f"| {score.suite} | {score.name}{on} | {score.shown()}, {score.better} is better |"
    if not measured.scores:
        yield "| scores | none were measured of these weights | |"
    for cost in measured.costs:
        yield f"| costs | {cost.name} | {cost.shown} |"
    if not measured.machine:
        yield "| costs | latency and energy | not measured of these weights |"
    yield ""
    if measured.scores:
        yield "Brackets are 95 % intervals."
    if measured.machine:
        yield f"Costs were measured on {measured.machine}."
    yield ""


def _lineage(origins: Sequence[Origin]) -> Iterator[str]:
    yield from ["## Made from", ""]
    yield from (f"- {origin.line()}" for origin in origins)
    yield from ["", "Licences are those that the sources state themselves.", ""]
