"""The card inside a store: made of the manifest alone, listed in it, and its code runs."""

from __future__ import annotations

import contextlib
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from storage.format.manifest import CARD
from storage.format.manifest_parse import read_manifest
from storage.reader import Store
from storage.records.base import Record
from storage.records.logits import SparseLogits
from storage.records.targets import FusedTargets
from storage.share.archive import pack, unpack
from storage.share.audit import audit
from storage.share.card import RECORDS, card_of
from storage.testing import fixtures, samples
from storage.work import Workspace
from storage.writer import StoreWriter

PROVENANCE = {
    "models": [
        {"name": "alpha", "hub": "some/alpha", "revision": "ab" * 20, "adapter": "prose", "licence": "apache-2.0"},
        {"name": "beta", "hub": None, "revision": None, "adapter": None, "licence": ""},
    ],
    "texts": [{"name": "novels", "licence": "public domain"}, {"name": "notes", "licence": ""}],
    "masks": {"rate": 0.15, "copies": 2, "seed": 7},
}


def write(record: type[Record], out: Path, work: Path, *, seal: bool = True, **facts: Any) -> None:
    writer = StoreWriter(
        out,
        record,
        specs=fixtures.SPECS[record](),
        splits=fixtures.PLAN,
        inputs={"seed": 1},
        parents=samples.PARENTS,
        constants={"order_V": samples.ORDER},
        workspace=Workspace(work),
    )
    with writer:
        for shard in writer.missing():
            whole = fixtures.ROWS[record](fixtures.PLAN[shard.split].rows, seed=1)
            writer.write(shard, samples.rows_of(whole, shard.start, shard.stop))
        if seal:
            known = {
                "vocabulary": samples.VOCABULARY,
                "keep": {"form": "nucleus", "floor": 0.003},
                "coverage": {"train": 0.875, "heldout": 1.0},
                "provenance": PROVENANCE,
            }
            writer.seal(facts=known | facts, card=card_of)


@pytest.fixture(scope="module", params=[SparseLogits, FusedTargets])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    write(request.param, folder / "store", folder / "work")
    return folder / "store"


def text_of(store: Path) -> str:
    return (store / CARD).read_text(encoding="utf-8")


def test_it_is_a_file_of_the_store(made: Path, tmp_path: Path) -> None:
    manifest = read_manifest(made)
    assert manifest.files[CARD].bytes == (made / CARD).stat().st_size
    assert audit(made) == []
    assert len(Store(made, RECORDS[manifest.kind]).shard("train", 1)) == 8
    pack(made, tmp_path / "x.tar")
    unpack(tmp_path / "x.tar", tmp_path / "out")
    assert text_of(tmp_path / "out") == text_of(made)


def test_it_can_be_made_again_from_the_manifest(made: Path) -> None:
    manifest = read_manifest(made)
    bare = replace(manifest, files={name: entry for name, entry in manifest.files.items() if name != CARD})
    assert card_of(bare) == text_of(made) == card_of(manifest)


def test_a_changed_card_is_found(made: Path, tmp_path: Path) -> None:
    pack(made, tmp_path / "x.tar")
    unpack(tmp_path / "x.tar", tmp_path / "out")
    samples.flip(tmp_path / "out" / CARD)
    (finding,) = audit(tmp_path / "out")
    assert (finding.kind, finding.where) == ("file", CARD)


def test_it_says_where_the_store_came_from(made: Path) -> None:
    text, manifest = text_of(made), read_manifest(made)
    for said in (
        f"model alpha (some/alpha at {'ab' * 20}) with adapter prose: apache-2.0",
        "- model beta: licence unknown",
        "- text novels: public domain",
        "- text notes: licence unknown",
        "copies 2, rate 0.15, seed 7",
        "floor 0.003, form nucleus",
        "arXiv:2301.08130",
        manifest.identity,
        "FORMAT.md",
        "alpha and beta",
    ):
        assert said in text, said


def test_its_sizes_are_those_on_disk(made: Path) -> None:
    text = text_of(made)
    stored = {
        split: sum(
            path.stat().st_size for path in (made / split).rglob("*") if path.name != "zarr.json" and path.is_file()
        )
        for split in fixtures.PLAN
    }
    assert f"| train | 22 | 0.8750 | 3 | {stored['train']} |" in text
    assert f"| heldout | 8 | 1.0000 | 1 | {stored['heldout']} |" in text
    assert f"{sum(stored.values()) / 30:.2f} bytes a position" in text
    listed = re.findall(r"^\| (\w+) \| (\w+) \| ([\d.]+) \|$", text, re.MULTILINE)
    assert {name for name, _, _ in listed} == read_manifest(made).arrays.keys()
    assert sum(float(count) for _, _, count in listed) == pytest.approx(
        sum(stored.values()) / 30, abs=0.01 * len(listed)
    )
    assert "order_V (" in text


def test_its_front_matter_is_that_of_a_data_set(made: Path) -> None:
    begin, front, rest = text_of(made).split("---\n", 2)
    found = yaml.safe_load(front)
    assert begin == ""
    assert found["license"] == "other" and found["license_name"]
    assert {"belief-store", read_manifest(made).kind} <= set(found["tags"])
    assert rest.startswith(f"\n# {found['pretty_name']}\n")


def test_its_code_runs(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", text_of(made), re.DOTALL)
    assert len(code.strip().splitlines()) <= 6
    monkeypatch.chdir(made)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(code, {})
    record = RECORDS[read_manifest(made).kind]
    first = next(iter(Store(made, record).shard("train", 0).arrays().values()))[0]
    assert str(first) in said.getvalue()


def test_it_is_the_same_each_time(made: Path, tmp_path: Path) -> None:
    """Also where a first run was stopped before its end, and where one is made again over its links."""
    record = RECORDS[read_manifest(made).kind]
    write(record, tmp_path / "store", tmp_path / "work", seal=False)
    for _ in range(2):
        write(record, tmp_path / "store", tmp_path / "work")
        assert samples.file_hashes(tmp_path / "store") == samples.file_hashes(made)


def test_a_store_made_again_with_another_card_leaves_the_old_file_alone(made: Path, tmp_path: Path) -> None:
    """What was published is linked to what is worked on."""
    record = RECORDS[read_manifest(made).kind]
    write(record, tmp_path / "store", tmp_path / "work")
    (tmp_path / "store").rename(tmp_path / "kept")
    write(record, tmp_path / "store", tmp_path / "work", keep={"form": "topk", "k": 8})
    assert "topk" in text_of(tmp_path / "store")
    assert audit(tmp_path / "kept") == [] and "topk" not in text_of(tmp_path / "kept")


def test_a_store_that_knows_little_has_a_card(tmp_path: Path) -> None:
    write(SparseLogits, tmp_path / "store", tmp_path / "work", provenance={})
    assert "# Predictions of a model at masked positions" in text_of(tmp_path / "store")
    assert "Masks:" not in text_of(tmp_path / "store")


def test_no_card_unless_asked(tmp_path: Path) -> None:
    samples.write_logits(tmp_path / "store", tmp_path / "work")
    assert not (tmp_path / "store" / CARD).exists()
    assert CARD not in read_manifest(tmp_path / "store").files
