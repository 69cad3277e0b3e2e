"""All settings: the module that owns each, and which stages notice a change of it."""

from __future__ import annotations

import ast
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.core.config import Section
from pipeline.project.settings import Settings
from tests.stages.pipeline_page import command, stages

ROOT = Path(__file__).parents[2]

KEYS = """\
sources.*<model>.kind
sources.*<model>.local
sources.*<model>.hub
sources.*<model>.revision
sources.*<model>.weights_sha256
sources.*<model>.adapter
sources.*<model>.mirror.wheels.name
sources.*<model>.mirror.wheels.version
sources.*<model>.mirror.wheels.sha256
sources.*<model>.mirror.archive
sources.*<wordnet>.kind
sources.*<dataset>.kind
sources.*<dataset>.hub
sources.*<dataset>.revision
sources.*<dataset>.config
sources.*<dataset>.split
inputs.*.kind
inputs.*.path
inputs.*.text
inputs.*.id
inputs.*.licence
inputs.*.bad_lines
inputs.*.split
corpus.share
corpus.calibration
corpus.heldout
tokenize.tokenizer
tokenize.sequence_tokens
mask.rate
mask.heldout_rate
mask.copies
mask.seed
mask.shard_rows
adapters.*.start
adapters.*.text
adapters.*.include
adapters.*.heldout
adapters.*.rank
adapters.*.rate
adapters.*.sequence_tokens
adapters.*.training.steps
adapters.*.training.step_tokens
adapters.*.training.learning_rate
adapters.*.training.warmup
adapters.*.training.weight_decay
adapters.*.training.gradient_clip
adapters.*.training.evaluations
adapters.*.training.seed
teachers.*.model
teachers.*.keep.<topk>.form
teachers.*.keep.<topk>.k
teachers.*.keep.<nucleus>.form
teachers.*.keep.<nucleus>.mass
teachers.*.keep.<nucleus>.floor
teachers.*.keep.<nucleus>.least
teachers.*.keep.<nucleus>.most
teachers.*.keep.<sampled>.form
teachers.*.keep.<sampled>.draws
teachers.*.keep.<topk+sampled>.form
teachers.*.keep.<topk+sampled>.k
teachers.*.keep.<topk+sampled>.draws
teachers.*.tail.rank
teachers.*.tail.step
teachers.*.temperatures
teachers.*.seed
exact.positions
fusions.*.teachers
fusions.*.weighting
fusions.*.tau
fusions.*.calibrated
fusions.*.prior
fusions.*.temperature
fusions.*.keep
fusions.*.debias.counts
training.steps
training.step_tokens
training.learning_rate
training.warmup
training.weight_decay
training.gradient_clip
training.evaluations
training.seed
training.evaluated_positions
students.*.targets
students.*.start
students.*.layers
students.*.config
students.*.loss.targets
students.*.loss.labels
students.*.loss.tail
students.*.loss.anneal
students.*.seed
students.*.learning_rate
target_gradients.start
target_gradients.positions
lexicon.kind
lexicon.path
senses.*.kind
senses.*.path
senses.*.share
senses.*.heldout
senses.*.most_words
senses.*.licence
lexical.*.start
lexical.*.senses
lexical.*.objective
lexical.*.reading.context_tokens
lexical.*.reading.gloss_tokens
lexical.*.reading.examples
lexical.*.gold
lexical.*.soft_labels
lexical.*.soft_labels_from
lexical.*.targets
lexical.*.language_model.weight
lexical.*.language_model.step_tokens
lexical.*.language_model.loss.targets
lexical.*.language_model.loss.labels
lexical.*.language_model.loss.tail
lexical.*.language_model.loss.anneal
lexical.*.training.epochs
lexical.*.training.step_words
lexical.*.training.learning_rate
lexical.*.training.warmup
lexical.*.training.weight_decay
lexical.*.training.gradient_clip
lexical.*.training.most_candidates
lexical.*.training.gloss_table.refresh_steps
lexical.*.training.gloss_table.encoding_words
lexical.*.training.seed
soft_labels.*.model
soft_labels.*.senses
sense_fusions.*.teachers
sense_fusions.*.temperature
published.*.start
published.*.changes
rewrite.*.model
rewrite.*.split
rewrite.*.shares
rewrite.*.temperature
rewrite.*.top_k
rewrite.*.words_min
rewrite.*.words_max
rewrite.*.paragraphs
rewrite.*.test_share
rewrite.*.seed
evaluate.against
evaluate.bootstrap
evaluate.seed
evaluate.domains
wsd.bootstrap
wsd.seed
paraphrase.seeds
paraphrase.finetune.epochs
paraphrase.finetune.least_steps
paraphrase.finetune.learning_rate
paraphrase.finetune.batch
paraphrase.finetune.warmup
paraphrase.finetune.weight_decay
paraphrase.finetune.max_tokens
paraphrase.finetune.pooling
paraphrase.train_examples
paraphrase.test_examples
paraphrase.bootstrap
plagiarism_sets.*.kind
plagiarism_sets.*.path
plagiarism_sets.*.share
plagiarism_sets.*.split
plagiarism_sets.*.document_words
plagiarism_sets.*.passage_words
plagiarism_sets.*.passages
plagiarism_sets.*.clean
plagiarism_sets.*.distractors
plagiarism_sets.*.seed
plagiarism.data
plagiarism.development
plagiarism.unit_words
plagiarism.most_words
plagiarism.candidates
plagiarism.bootstrap
plagiarism.seed
glue.data
glue.revision
glue.wic_revision
glue.tasks
glue.seeds
glue.finetune.epochs
glue.finetune.least_steps
glue.finetune.learning_rate
glue.finetune.batch
glue.finetune.warmup
glue.finetune.weight_decay
glue.finetune.max_tokens
glue.finetune.pooling
glue.train_examples
glue.dev_examples
glue.bootstrap
costs.sequence_tokens
costs.batches
costs.forwards
costs.threads
suites.wsd.*.model
suites.glue.*.model
suites.paraphrase.*.model
suites.plagiarism.*.model
suites.language_model.*.model
suites.language_model.*.before
suites.costs.*.model
runtime.device
runtime.dtype
runtime.threads
runtime.batch_tokens
runtime.checkpoint_seconds
runtime.scheduler
runtime.workers
runtime.processes
runtime.trackers
"""


def sections() -> Iterator[tuple[str, type[Section]]]:
    """Dotted path of each section and its class; `*` is a name, `<kind>` tells the classes of a union apart."""
    for name, hint in typing.get_type_hints(Settings).items():
        named = typing.get_origin(hint) is Mapping
        kinds = members(typing.get_args(hint)[1]) if named else [hint]
        for kind in kinds:
            which = f"<{typing.get_args(kind.model_fields['kind'].annotation)[0]}>" if len(kinds) > 1 else ""
            yield f"{name}.*{which}" if named else name, kind


def members(hint: Any) -> list[Any]:
    """The parts of a union, a list, a tuple or a mapping, else the hint itself."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) in (typing.Union, list, tuple, dict):
        return [member for part in typing.get_args(hint) for member in members(part)]
    return [hint]


def keys(where: str, kind: type[Section]) -> Iterator[str]:
    """Dotted keys of a section, down to the values."""
    kind.model_rebuild()  # pydantic leaves names of classes further down in the file as strings until the first use
    for name, field in kind.model_fields.items():
        inner = [part for part in members(field.annotation) if isinstance(part, type) and issubclass(part, Section)]
        for part in inner:
            which = f".<{typing.get_args(part.model_fields['form'].annotation)[0]}>" if len(inner) > 1 else ""
            yield from keys(f"{where}.{name}{'.*' if typing.get_origin(field.annotation) is dict else which}", part)
        if not inner:
            yield f"{where}.{name}"


def all_keys() -> list[str]:
    return [key for where, kind in sections() for key in keys(where, kind)]


def test_the_list_of_keys_is_pinned() -> None:
    """A new key: can it be derived, or read from a store? If not, add it here and describe it in params.yaml."""
    assert all_keys() == KEYS.split()


def test_every_key_has_one_owner() -> None:
    assert len(set(all_keys())) == len(all_keys())
    owners = [kind for _, kind in sections()]
    assert len(set(owners)) == len(owners)


def used(value: Any, where: str) -> Iterator[str]:
    """Dotted keys of plain data, down to what is no mapping; lists of mappings are gone through."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from used(inner, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for inner in value:
            yield from used(inner, where)
    else:
        yield where


def test_every_key_of_the_default_settings_belongs_to_exactly_one_section() -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for name in params["sources"]:
        kind = params["sources"][name]["kind"]
        params["sources"][name] = {f"<{kind}>": params["sources"][name]}
    for teacher in params["teachers"].values():
        teacher["keep"] = {f"<{teacher['keep']['form']}>": teacher["keep"]}
    for key in set(used(params, "")):
        found = [known for known in all_keys() if re.fullmatch(pattern(known), key)]
        assert len(found) == 1, (key, found)


def pattern(known: str) -> str:
    """Matches the keys of plain data; a list of names or a mapping of numbers ends at its key."""
    dotted = known.replace("*<", "*.<")
    return re.escape(dotted).replace(r"\*", "[A-Za-z0-9_-]+") + "(?:\\.[a-z_]+)*"


def test_every_section_is_tracked_and_runtime_is_not() -> None:
    tracked = {name.partition(".")[0] for body in stages().values() for name in body.get("params", [])}
    assert tracked == {where.partition(".")[0] for where, _ in sections()} - {"runtime"}


READERS = {"input_params": "inputs", "source_section": "sources.${key}"}
"""Functions that decode sections on their own."""


def sections_read(module: Path) -> set[str]:
    """Sections that a stage module decodes, as dvc.yaml writes them."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id == "section":
                found.add(ast.unparse(node.args[1]).removeprefix("f").strip("'").replace("{name}", "${key}"))
            found |= {READERS[node.func.id]} if node.func.id in READERS else set()
    return found - {"runtime"}


@pytest.mark.parametrize("name", stages())
def test_a_stage_tracks_the_sections_it_reads(name: str) -> None:
    """An untracked section is an edit that reruns nothing. Sections read in other ways are not seen here."""
    body = stages()[name]
    module = ROOT / "stages" / f"{command(body)}.py"
    assert sections_read(module) <= set(body.get("params", []))
