"""What the card of a lexical student names: its start, its teachers with what they were made from, and its texts.

Models are trained for a few steps. Not checked here: students of masked text alone, which test_push has.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.fuse.fuse import fuse
from pipeline.fuse.params import FusionParams
from pipeline.hub.lineage import Origin, of_model
from pipeline.lexical.params import SenseFusionParams, SoftLabelsParams
from pipeline.lexical.soft_labels import fuse_soft_labels, write_soft_labels
from pipeline.senses.instances import build_instances
from pipeline.senses.lexicon import Lexicon
from pipeline.senses.params import SensesParams
from pipeline.text.corpus_view import MaskedSequences
from storage.errors import StaleParent
from tests.helpers.lexical import REHEARSAL, Workplace, make_workplace
from tests.helpers.stores import cpu_runtime
from tests.helpers.tagger import install_tagger
from tests.helpers.teacher_stores import make_world

ONCE = {"epochs": 2.0, "step_words": 8}
LEARNS = REHEARSAL | {"loss": {"targets": 1.0, "labels": 0.0, "tail": "bucket"}}
TEXT = Origin(kind="text", name="animals", licence="made for tests")
SENSES = [Origin(kind="senses", name=name, licence="") for name in ("examples", "story")]


def model(name: str, licence: str, **more: str) -> Origin:
    return Origin(kind="model", name=name, licence=licence, **more)


def start_of(work: Workplace, name: str, licence: str) -> Path:
    folder = shutil.copytree(work.start, Path("data/sources") / name)
    (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    return folder


def ask(work: Workplace, name: str, teacher: Path) -> None:
    params = SoftLabelsParams(model=str(teacher), senses=["story"])
    out = Path("data/soft_labels") / name
    write_soft_labels(params, lexicon=work.lexicon, senses=work.senses, out=out, runtime=cpu_runtime())


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two lexical teachers of other starts, their mean, fused targets of hand-made teachers, and students of them."""
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        work = make_workplace(root)
        make_world(work.stores, root / "data", fusions=())
        teachers = ["alpha", "beta"]
        fuse(
            FusionParams(
                teachers=teachers, weighting="entropy", tau=1.0, calibrated=True, prior="equal", temperature=1.0, keep=8
            ),
            MaskedSequences.open_pair(work.stores.sequences, work.stores.masks), logits=Path("data/logits"),
            out=Path("data/targets/confident"), declared=teachers,
        )  # fmt: skip
        starts = {name: start_of(work, name, licence) for name, licence in (("x", "mit"), ("y", "cc-by-4.0"))}
        for seed, (name, start) in enumerate(starts.items()):
            work.train(work.entry(start=str(start), training=ONCE | {"seed": seed}), Path("models") / f"of-{name}")
            ask(work, name, Path("models") / f"of-{name}")
        fuse_soft_labels(
            SenseFusionParams(teachers=["x", "y"], temperature=1.0), soft_labels=Path("data/soft_labels"),
            out=Path("data/sense_fusions/both"),
        )  # fmt: skip
        begin = start_of(work, "begin", "apache-2.0")
        taught: dict[str, Any] = {"start": str(begin), "senses": ["story"], "training": ONCE}
        both = {"soft_labels": 1.0, "soft_labels_from": "data/sense_fusions/both"}
        rehearsed = {"objective": "bi_encoder_m", "language_model": LEARNS, "targets": "data/targets/confident"}
        work.train(work.entry(**taught, **both), Path("models/of-both"))
        work.train(work.entry(**taught, **rehearsed, soft_labels=1.0, soft_labels_from="data/soft_labels/x"),
                   Path("models/rehearsed"))  # fmt: skip
        work.train(work.entry(**taught, **rehearsed | {"targets": str(begin)}), Path("models/own"))
        patch.setattr("nltk.data.path", [str(install_tagger(root))])
        text = SensesParams(kind="text", path="data/documents")
        build_instances("text", text, Lexicon.open(work.lexicon), out=work.senses / "text")
        work.train(work.entry(**taught | {"senses": ["story", "text"]}), Path("models/of-text"))
        control = both | {"gold": 0.0, "soft_labels": 0.0} | rehearsed
        work.train(work.entry(**taught, **control), Path("models/control"))
    return root


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    return project


def lineage(name: str) -> list[Origin]:
    return of_model(Path("models") / name, data=Path("data"))


def test_the_teachers_of_soft_labels_are_named_with_what_they_learned_from(here: Path) -> None:
    origins = lineage("of-both")
    assert origins[0] == model("begin", "apache-2.0"), "the start is the base model of the card"
    assert set(origins) == {model("begin", "apache-2.0"), model("x", "mit"), model("y", "cc-by-4.0"), TEXT, *SENSES}
    assert len(set(origins)) == len(origins)


def test_the_teachers_of_fused_targets_are_named(here: Path) -> None:
    """Their stores have no provenance here, so they stand with their names alone, and their licence is unknown."""
    found = set(lineage("rehearsed"))
    assert found >= {model("alpha", ""), model("beta", ""), model("x", "mit"), model("begin", "apache-2.0")}
    assert model("y", "cc-by-4.0") not in found


def test_what_was_not_learned_from_is_not_named(here: Path) -> None:
    """Own answers are the start's; a control opens the soft labels, to count its steps, and learns nothing of them."""
    assert set(lineage("own")) == {model("begin", "apache-2.0"), TEXT, SENSES[1]}
    assert not {model("x", "mit"), model("y", "cc-by-4.0")} & set(lineage("control"))
    assert model("alpha", "") in lineage("control")


def test_text_without_annotation_is_named_as_the_documents_that_it_is_of(here: Path) -> None:
    assert set(lineage("of-text")) == {model("begin", "apache-2.0"), TEXT, SENSES[1]}


def test_teachers_that_changed_are_refused(here: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(here, tmp_path / "copy")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(copy)
        shutil.copytree("models/of-x", "models/of-y", dirs_exist_ok=True)
        with pytest.raises(StaleParent, match=r"models/of-y: other weights than those that gave data/soft_labels/y"):
            lineage("of-both")
        shutil.rmtree("data/soft_labels/x")
        shutil.copytree("data/soft_labels/y", "data/soft_labels/x")
        with pytest.raises(StaleParent, match=r"soft_labels/x: .*, but data/sense_fusions/both learned from"):
            lineage("of-both")
        with pytest.raises(StaleParent, match=r"soft_labels/x: .*, but models/rehearsed learned from"):
            lineage("rehearsed")


def test_records_of_before_name_no_teachers(here: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(here / "models/rehearsed", tmp_path / "old")
    record = json.loads((copy / "training.json").read_text())
    record["parents"] = {name: one for name, one in record["parents"].items() if name not in ("targets", "soft_labels")}
    (copy / "training.json").write_text(json.dumps(record))
    assert set(of_model(copy, data=Path("data"))) == {model("begin", "apache-2.0"), TEXT, SENSES[1]}
