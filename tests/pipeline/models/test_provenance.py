"""The provenance of a store, from a fetched model to the fused targets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.fuse.fuse import fuse
from pipeline.fuse.params import FusionParams
from pipeline.models import provenance as cards
from pipeline.models.provenance import fusion_provenance, stated_licence, teacher_provenance
from pipeline.sources import fetch as sources
from pipeline.sources.params import decode_source
from pipeline.sparse.params import TailParams, TopK
from pipeline.teach.params import TeacherParams
from pipeline.teach.teach import teach
from pipeline.text.corpus_view import MaskedSequences
from storage.format.manifest import Manifest, file_sha256, identity_of
from storage.format.manifest_parse import read_manifest
from storage.share.audit import audit
from tests.helpers.stores import TinyStores, cpu_runtime

COMMIT = "0123456789" * 4
NOTHING: dict[str, Any] = {"name": "", "hub": None, "revision": None, "adapter": None, "licence": ""}


def manifest(*, inputs: dict[str, Any] | None = None, **facts: Any) -> Manifest:
    inputs = inputs or {}
    return Manifest(
        kind="any", revision=1, identity=identity_of(kind="any", revision=1, inputs=inputs, parents={}), inputs=inputs,
        parents={}, facts=facts, splits={}, arrays={}, shards=(),
    )  # fmt: skip


DOCUMENTS = manifest(licences={"web": "CC BY 4.0", "novels": "public domain"})
MASKS = manifest(inputs={"rate": 0.15, "copies": 2, "seed": 7, "shard_rows": 2048})


def model(folder: Path, *, record: dict[str, Any] | None = None, readme: str | None = None) -> Path:
    folder.mkdir(parents=True)
    if record is not None:
        (folder / "source.json").write_text(json.dumps(record), encoding="utf-8")
    if readme is not None:
        (folder / "README.md").write_text(readme, encoding="utf-8")
    return folder


def of(folder: Path) -> dict[str, Any]:
    (found,) = teacher_provenance(folder, documents=DOCUMENTS, masks=MASKS)["models"]
    return dict(found)


# A teacher


def test_a_model_from_the_hub(tmp_path: Path) -> None:
    record = {"kind": "model", "route": "hub", "hub": "some/bert", "revision": COMMIT, "files": {}}
    folder = model(tmp_path / "bert", record=record, readme="---\nlicense: mit\n---\n# A model")
    assert teacher_provenance(folder, documents=DOCUMENTS, masks=MASKS) == {
        "models": [{"name": "bert", "hub": "some/bert", "revision": COMMIT, "adapter": None, "licence": "mit"}],
        "texts": [{"name": "novels", "licence": "public domain"}, {"name": "web", "licence": "CC BY 4.0"}],
        "masks": {"rate": 0.15, "copies": 2, "seed": 7},
    }


def test_a_model_by_another_route_is_what_its_pinned_weights_are(tmp_path: Path) -> None:
    record = {
        "route": "mirror", "wheels": [], "stands_for": {"hub": "some/bert", "revision": COMMIT},
        "adapter": {"folder": "/home/someone/adapters/prose", "files": {}},
    }  # fmt: skip
    found = of(model(tmp_path / "bert", record=record))
    assert found == NOTHING | {"name": "bert", "hub": "some/bert", "revision": COMMIT, "adapter": "prose"}


def test_no_path_of_the_machine_is_named(tmp_path: Path) -> None:
    found = of(model(tmp_path / "bert", record={"route": "local", "local": str(tmp_path / "private")}))
    assert found == NOTHING | {"name": "bert"}
    assert str(tmp_path) not in json.dumps(found)


def test_a_folder_that_nobody_fetched(tmp_path: Path) -> None:
    assert of(model(tmp_path / "mine")) == NOTHING | {"name": "mine"}


@pytest.mark.parametrize(
    ("readme", "licence"),
    [
        (None, ""),
        ("", ""),
        ("# No front matter\nlicense: mit\n---\n", ""),
        ("---\nlicense: mit\n", ""),
        ("---\nlicense: [mit, apache-2.0]\n---\n", "mit, apache-2.0"),
        ("---\nlicense: other\nlicense_name: our-terms\n---\n", "our-terms"),
        ("---\r\nlicense: apache-2.0\r\n---\r\n", "apache-2.0"),
        ("---\ntags: [a]\n---\n", ""),
        ("---\n- a list\n---\n", ""),
        ("---\n: : broken: [\n---\n", ""),
        ("---\nlicense: !!python/object/apply:os.getcwd []\n---\n", ""),
        ("---\nlicense: mit\n---\n" + "x" * cards.CARD_BYTES_LIMIT, ""),
    ],
)
def test_a_licence_is_what_the_front_matter_states(tmp_path: Path, readme: str | None, licence: str) -> None:
    assert stated_licence(model(tmp_path / "m", readme=readme)) == licence


def test_documents_without_licences(tmp_path: Path) -> None:
    found = teacher_provenance(model(tmp_path / "m"), documents=manifest(), masks=manifest())
    assert (found["texts"], found["masks"]) == ([], {})


@pytest.mark.parametrize("pinned", [True, False])
def test_a_fetched_model_says_what_it_stands_for(tmp_path: Path, tiny_mlm: Path, pinned: bool) -> None:
    """Only where a checksum holds the weights to it."""
    section: dict[str, Any] = {"kind": "model", "local": str(tiny_mlm), "hub": "some/bert", "revision": COMMIT}
    if pinned:
        section["weights_sha256"] = file_sha256(tiny_mlm / "model.safetensors")
    out = tmp_path / "fetched"
    sources.fetch("fetched", decode_source(section, where="sources.fetched"), out, downloads=tmp_path / "downloads")
    known = {"hub": "some/bert", "revision": COMMIT} if pinned else {}
    assert of(out) == NOTHING | {"name": "fetched"} | known


# A fusion


def test_what_teachers_say_is_carried_forward_once() -> None:
    alpha, beta = NOTHING | {"name": "alpha", "licence": "mit"}, NOTHING | {"name": "beta"}
    novels, web = {"name": "novels", "licence": "public domain"}, {"name": "web", "licence": ""}
    masks = {"rate": 0.15, "copies": 1, "seed": 0}
    teachers = {
        "a": manifest(provenance={"models": [alpha], "texts": [novels], "masks": masks}),
        "b": manifest(provenance={"models": [beta], "texts": [novels, web], "masks": masks}),
        "again": manifest(provenance={"models": [alpha], "texts": [], "masks": {}}),
    }
    assert fusion_provenance(teachers) == {"models": [alpha, beta], "texts": [novels, web], "masks": masks}


def test_a_teacher_whose_store_says_nothing_is_named() -> None:
    expected = {"models": [NOTHING | {"name": "old"}], "texts": [], "masks": {}}
    assert fusion_provenance({"old": manifest()}) == expected


# Whole stores


def test_stores_carry_cards_from_the_teacher_to_the_targets(
    workplace: Path, tiny_stores: TinyStores, tiny_teacher: Path
) -> None:
    folder = Path(shutil.copytree(tiny_teacher, workplace / "fox"))
    record = {"route": "hub", "hub": "some/fox", "revision": COMMIT}
    (folder / "source.json").write_text(json.dumps(record), encoding="utf-8")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    taught = teach(
        TeacherParams(
            model=str(folder),
            keep=TopK(form="topk", k=5),
            tail=TailParams(rank=0, step=0.4),
            temperatures=[1.0],
            seed=0,
        ),
        tiny_stores.corpus(),
        out=Path("data/logits/fox"),
        runtime=cpu_runtime(),
    )
    fused = fuse(
        FusionParams(
            teachers=["fox"], weighting="uniform", tau=1.0, calibrated=True, prior="equal", temperature=1.0, keep=4
        ),
        MaskedSequences.open_pair(tiny_stores.sequences, tiny_stores.masks),
        logits=Path("data/logits"),
        out=Path("data/targets/mixed"),
        declared=["fox"],
    )  # fmt: skip
    assert taught.facts["provenance"]["masks"].keys() == {"rate", "copies", "seed"}
    assert taught.facts["provenance"]["models"] == [
        {"name": "fox", "hub": "some/fox", "revision": COMMIT, "adapter": None, "licence": "mit"}
    ]
    assert fused.facts["provenance"] == taught.facts["provenance"]
    for store in (Path("data/logits/fox"), Path("data/targets/mixed")):
        text = (store / "README.md").read_text(encoding="utf-8")
        assert f"model fox (some/fox at {COMMIT}): mit" in text
        assert read_manifest(store).identity in text
        assert "README.md" in read_manifest(store).files
        assert [finding for finding in audit(store) if finding.where == "README.md"] == []


@pytest.mark.parametrize(
    ("merged", "adapter", "licence"),
    [
        ("mit", "cc-by-nc-4.0", "mit and cc-by-nc-4.0"),
        ("mit", "mit", "mit"),
        ("mit", None, ""),
        (None, "mit", ""),
    ],
)
def test_a_model_with_an_adapter_has_the_licences_of_both(
    tmp_path: Path, merged: str | None, adapter: str | None, licence: str
) -> None:
    """The merged folder has the card of the model alone."""
    cards = [None if one is None else f"---\nlicense: {one}\n---\n" for one in (merged, adapter)]
    place = model(tmp_path / "adapter", readme=cards[1])
    record = {"hub": "some/bert", "revision": COMMIT, "adapter": {"folder": str(place), "files": {}}}
    assert of(model(tmp_path / "bert", record=record, readme=cards[0]))["licence"] == licence
