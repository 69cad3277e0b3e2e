"""Identities and bytes that no change of the code may move: stores of those who made them before must stay valid.

Compared with the hashes kept in golden.json: the text stages, a fusion of hand-made teachers, a store of each kind, and
what is hashed of every section of the default settings. Bytes also depend on the versions in constraints.txt.

A change that is meant is written with `python -m tests.test_golden`, from the project's folder. Not checked here: what
models compute, whose last digits differ between processors.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.fuse.fuse import fuse
from pipeline.fuse.params import FusionParams
from pipeline.project.settings import Settings, read_settings
from pipeline.senses.instances import build_instances
from pipeline.senses.params import SensesParams
from pipeline.text.corpus_view import MaskedSequences
from pipeline.train.params import OWN_TRAINING
from storage.format.manifest import digest
from storage.records.hidden_states import HiddenStates
from storage.records.sequences import Masks, Sequences
from storage.records.targets import FusedTargets
from storage.testing import samples
from storage.work import Workspace
from storage.writer import StoreWriter
from tests.helpers.inventories import tiny_lexicon
from tests.helpers.stores import tiny_masks, write_tiny_wordpiece_tokenizer
from tests.helpers.teacher_stores import make_world

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).with_name("golden.json")
Hashes = dict[str, dict[str, str]]
"""Store to its identity and a digest over the SHA-256 of each of its files."""


def hashes(folder: Path, *stores: str, facts: bool = True) -> Hashes:
    """Of stores in a folder; without the manifests where these state numbers that depend on the processor."""
    found = {}
    for name in stores:
        files = samples.file_hashes(folder / name)
        if not facts:
            files = {file: files[file] for file in files if file not in ("manifest.json", "README.md")}
        found[name] = {"identity": samples.manifest_of(folder / name)["identity"], "files": digest(files)}
    return found


def text_stages(folder: Path) -> Hashes:
    tiny_masks(folder, write_tiny_wordpiece_tokenizer(folder / "tokenizer"))
    return hashes(folder / "data", "text/animals", "documents", "sequences", "masks")


def fusions(folder: Path) -> Hashes:
    """Each teacher once with lists and once with draws; the hand-made teachers are covered by their parents' names."""
    stores = tiny_masks(folder, write_tiny_wordpiece_tokenizer(folder / "tokenizer"))
    found = {}
    for name, draws in (("lists", 0), ("draws", 6)):
        data = folder / name
        make_world(stores, data, fusions=(), draws=draws)
        params = FusionParams(
            teachers=["alpha", "beta"], weighting="entropy", tau=1.0, calibrated=True, prior="equal", temperature=1.0,
            keep=8,
        )  # fmt: skip
        with contextlib.chdir(folder):
            fuse(
                params, MaskedSequences.open_pair(stores.sequences, stores.masks), logits=data / "logits",
                out=data / "targets" / "both", declared=params.teachers,
            )  # fmt: skip
        found |= {
            f"{name}/{store}": files
            for store, files in hashes(data, "logits/alpha", "logits/beta", "targets/both", facts=False).items()
        }
    return found


def every_kind(folder: Path) -> Hashes:
    """Numbers drawn by numpy, written as each record."""
    vocabulary = samples.VOCABULARY
    kinds: dict[type[Any], tuple[Any, Any]] = {
        Sequences: (samples.sequences(50), Sequences.specs(tokens=12, vocabulary=vocabulary)),
        Masks: (samples.masks(50), Masks.specs(vocabulary=vocabulary)),
        HiddenStates: (samples.hidden(50), HiddenStates.specs(width=5, vocabulary=vocabulary)),
        FusedTargets: (samples.targets(50), samples.targets_specs()),
    }
    work = folder / ".work"
    for record, (rows, specs) in kinds.items():
        splits = {"train": samples.SPLITS["train"]}
        constants = {"order_V": samples.ORDER} if record is FusedTargets else {}
        with StoreWriter(
            folder / record.kind, record, specs=specs, splits=splits, inputs=samples.INPUTS, parents=samples.PARENTS,
            constants=constants, workspace=Workspace(work),
        ) as writer:  # fmt: skip
            for shard in writer.missing():
                writer.write(shard, samples.rows_of(rows, shard.start, shard.stop))
            writer.seal(facts={"vocabulary": vocabulary})
    samples.write_logits(folder / "logits", work)
    samples.write_logits(
        folder / "draws", work, specs=samples.logits_specs(draws=3), inputs={**samples.INPUTS, "draws": 3}
    )
    samples.write_sample_documents(folder / "documents", work)
    samples.write_sample_lexicon(folder / "tables", work)
    lexicon = tiny_lexicon(folder)
    with contextlib.chdir(folder):
        params = SensesParams(kind="examples", path="data/lexicon", heldout=0.3)
        build_instances("examples", params, lexicon, out=Path("examples"))
    names = [*(record.kind for record in kinds), "logits", "draws", "documents", "tables", "lexicon", "examples"]
    return hashes(folder, *names)


def sections() -> Hashes:
    """What enters identities of each section of the default settings, which name no file of this machine."""
    with contextlib.chdir(ROOT):
        settings = read_settings(Path("params.yaml"))
    return {"sections": {where: digest(hashed) for where, hashed in hashed_sections(settings)}}


def hashed_sections(settings: Settings) -> Iterator[tuple[str, Any]]:
    """As the stages hash them."""
    for name, source in settings.sources.items():
        yield f"sources.{name}", source.model_dump(mode="json")
    for name, text in settings.inputs.items():
        yield f"inputs.{name}", text.model_dump(exclude={"path"})
    yield "corpus", settings.corpus.model_dump()
    yield "mask", settings.mask.model_dump(exclude_none=True)
    yield "exact", settings.exact.model_dump()
    for name, teacher in settings.teachers.items():
        yield f"teachers.{name}", teacher.model_dump(exclude={"model"})
    for name, fusion in settings.fusions.items():
        yield f"fusions.{name}", fusion.model_dump()
    yield "training", settings.training.model_dump()
    for name, student in settings.students.items():
        yield f"students.{name}", student.model_dump(exclude={"start", "targets", *OWN_TRAINING})
    for name, senses in settings.senses.items():
        yield f"senses.{name}", senses.model_dump(exclude={"path"})
    for name, lexical in settings.lexical.items():
        yield f"lexical.{name}", lexical.model_dump(exclude={"start", "soft_labels_from", "targets"})
    for name, rewriter in settings.rewrite.items():
        yield f"rewrite.{name}", rewriter.model_dump(mode="json", exclude={"model"})


def everything(folder: Path) -> dict[str, Hashes]:
    """All that is kept, by the function that makes it."""
    found = {}
    for made in (text_stages, fusions, every_kind):
        (folder / made.__name__).mkdir()
        found[made.__name__] = made(folder / made.__name__)
    return {**found, "sections": sections()}


@pytest.fixture(scope="module")
def kept() -> dict[str, Hashes]:
    golden: dict[str, Hashes] = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return golden


@pytest.mark.parametrize("made", [text_stages, fusions, every_kind], ids=lambda made: made.__name__)
def test_identities_and_bytes_are_the_kept_ones(made: Any, tmp_path: Path, kept: dict[str, Hashes]) -> None:
    assert made(tmp_path) == kept[made.__name__]


def test_what_is_hashed_of_the_default_settings_is_what_was(kept: dict[str, Hashes]) -> None:
    assert sections() == kept["sections"]


if __name__ == "__main__":
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as scratch:
        GOLDEN.write_text(json.dumps(everything(Path(scratch)), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    sys.stdout.write(f"{GOLDEN}: written\n")
