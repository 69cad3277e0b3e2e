"""A reader written from FORMAT.md alone agrees with the product's on every kind and form, and on what is refused.

Not checked: that it refuses everything the page says; it is a reader for sound stores, ours is the careful one.
"""

from __future__ import annotations

import ast
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.documents import DocumentStore
from storage.format import manifest as manifests
from storage.format.manifest import SplitPlan
from storage.reader import Store
from storage.records.base import Record
from storage.records.hidden_states import HiddenStates
from storage.records.layout import RECORDS
from storage.records.logits import SparseLogits
from storage.records.sequences import Masks, Sequences
from storage.tables import DOCUMENTS
from storage.testing import samples
from storage.work import Workspace
from storage.writer import StoreWriter
from tests.helpers.reference import restore_fused, restore_teacher
from tests.storage import second_reader as second
from tests.storage.second_reader import Refused, SecondStore

FORMAT = Path(__file__).parents[2] / "FORMAT.md"
FORMS = {
    "topk": {"most": 6, "draws": 0, "rank": 0},
    "nucleus with a low-rank tail": {"most": 6, "draws": 0, "rank": 3},
    "sampled": {"most": 0, "draws": 5, "rank": 0},
    "topk and sampled": {"most": 6, "draws": 5, "rank": 0},
    "whole vocabulary": {"most": samples.VOCABULARY, "draws": 0, "rank": 0},
}
TEMPERATURES = [1.0, 1.1, 1.2]


def write(out: Path, make: Any, specs: Any, *, facts: dict[str, Any], constants: dict[str, Any]) -> Any:
    """A store of the splits of `samples`: several shards, an empty split, a last shard that is short."""
    record = type(make(1))
    made = {split: make(plan.rows, seed=1) for split, plan in samples.SPLITS.items()}
    writer = StoreWriter(
        out,
        record,
        specs=specs,
        splits=samples.SPLITS,
        inputs={"text": 'ä\u2028\x01"\\\n', "share": 1e-05, "large": 1e16, "one": 1.0, "true": True, "none": None},
        parents=samples.PARENTS,
        constants={name: array for name, array in constants.items() if name in record.needs},
        workspace=Workspace(out.with_name(f"{out.name}-work")),
    )
    with writer:
        for shard in writer.missing():
            writer.write(shard, samples.rows_of(made[shard.split], shard.start, shard.stop))
        writer.seal(facts=facts, constants={name: constants[name] for name in constants.keys() - set(record.needs)})
    return Store(out, record), SecondStore(out)


def logits_stores(out: Path, form: dict[str, int]) -> Any:
    rng = np.random.default_rng(3)
    constants = {
        "order_V": samples.ORDER,
        "tail_bias_JV": rng.normal(-5, 1, (samples.TEMPERATURES, samples.VOCABULARY)).astype(np.float32),
    }
    if form["rank"]:
        constants["tail_basis_DV"] = rng.normal(0, 0.02, (form["rank"], samples.VOCABULARY)).astype(np.float16)
    return write(
        out,
        partial(samples.logits, **form),
        samples.logits_specs(**form),
        facts={"vocabulary": samples.VOCABULARY, "temperatures": TEMPERATURES},
        constants=constants,
    )


def listed(ids: Any, values: Any) -> dict[int, float]:
    return {int(v): float(value) for v, value in zip(ids, values, strict=True) if v != 65535}


def near(found: Any, expected: Any) -> None:
    """Equal to what float32 holds."""
    np.testing.assert_allclose(found, np.asarray(expected, np.float64), rtol=2e-6, atol=1e-7)


def near_lists(found: dict[int, float], ids: Any, values: Any) -> None:
    expected = listed(ids, values)
    assert found.keys() == expected.keys()
    near([found[v] for v in expected], list(expected.values()))


def test_it_knows_nothing_of_our_code() -> None:
    tree = ast.parse(Path(second.__file__).read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    known = {"hashlib", "json", "math", "numpy", "pyarrow.ipc", "zarr"}
    assert imported == known | {"__future__", "collections.abc", "pathlib", "typing"}


def test_the_page_names_every_array_and_no_other() -> None:
    kinds = FORMAT.read_text(encoding="utf-8").split("\n## ")[5]
    assert kinds.startswith("5. Kinds")
    for part in kinds.split("\n### ")[1:]:
        kind, text = part.split("\n", maxsplit=1)
        named = {name for row in text.split("\n") if row.startswith("|") for name in re.findall(r"`(\w+_[A-Z]+)`", row)}
        expected = frozenset().union(*RECORDS[kind].groups()) if kind in RECORDS else frozenset()
        assert named == expected, kind
    assert set(re.findall(r"\n### (\w+)", kinds)) == {*RECORDS, DOCUMENTS, "lexicon", "instances"}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_logits(tmp_path: Path, form: dict[str, int]) -> None:
    ours, theirs = logits_stores(tmp_path / "store", form)
    theirs.verify()
    assert theirs.identity == ours.identity
    for split in samples.SPLITS:
        record, rows = ours.read(split), list(theirs.rows(split))
        assert [row is not None for row in rows] == record.covered_P().tolist()
        for p, row in enumerate(rows):
            if row is None:
                continue
            near_lists(row["listed"], record.ids_PK[p], np.exp(record.logprob_PK[p].astype(np.float64)))
            place = record.gold_place_P[p]
            assert row["gold"] == (None if place < 0 else record.ids_PK[p, place])
            near(row["tail"], record.tail_PJ[p])
            assert np.array_equal(np.float32(row["gold_logprob"]), record.gold_logprob_PJ[p])
            assert np.array_equal(np.float32(row["entropy"]), record.entropy_PJ[p])
            assert row.get("sketch", []) == record.sketch_PD[p].tolist()
            if form["draws"]:
                assert row["drawn"] == pytest.approx(listed(record.drawn_ids_PS[p], record.drawn_share_PS[p]))
            else:
                assert np.array_equal(np.float32(row["spread"]), record.spread_PJ[p])


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("column", [0, 1, 2])
def test_whole_distributions_of_a_teacher(tmp_path: Path, form: dict[str, int], column: int) -> None:
    ours, theirs = logits_stores(tmp_path / "store", form)
    basis = ours.constant("tail_basis_DV") if form["rank"] else None
    dense_PV = restore_teacher(
        ours.read("heldout"),
        bias_JV=ours.constant("tail_bias_JV"),
        basis_DV=basis,
        column=column,
        temperature=TEMPERATURES[column],
    )
    for row, expected_V in zip(theirs.rows("heldout"), dense_PV, strict=True):
        if row is not None:
            near(theirs.restore(row, column=column), expected_V)


@pytest.mark.parametrize("rank", [0, 2])
def test_targets(tmp_path: Path, rank: int) -> None:
    rng = np.random.default_rng(3)
    bias_TV = rng.normal(-5, 1, (2, samples.VOCABULARY)).astype(np.float32)
    bias_TV[1, rng.random(samples.VOCABULARY) < 0.3] = -1e4
    constants = {"order_V": samples.ORDER, "tail_bias_TV": bias_TV}
    if rank:
        basis_TDV = rng.normal(0, 0.02, (2, rank, samples.VOCABULARY)).astype(np.float16)
        basis_TDV[:, :, bias_TV[1] == -1e4] = 0
        constants["tail_basis_TDV"] = basis_TDV
    specs = samples.targets_specs(rank=rank)
    facts = {"teachers": ["one", "two"], "vocabulary": samples.VOCABULARY, "temperature": 1.0}
    make = partial(samples.targets, rank=rank)
    ours, theirs = write(tmp_path / "store", make, specs, facts=facts, constants=constants)
    theirs.verify()
    for split in samples.SPLITS:
        record, rows = ours.read(split), list(theirs.rows(split))
        assert [row is not None for row in rows] == record.covered_P().tolist()
        dense_PV = restore_fused(record, bias_TV=bias_TV, basis_TDV=constants.get("tail_basis_TDV"))
        for p, row in enumerate(rows):
            if row is None:
                continue
            near_lists(row["listed"], record.ids_PM[p], np.exp(record.logprob_PM[p].astype(np.float64)))
            near(row["tail"], record.tail_PT[p])
            near(row["weight"], record.weight_PT[p])
            assert np.float32(row["gold_logprob"]) == record.gold_logprob_P[p]
            assert row.get("sketch", [[], []]) == record.sketch_PTD[p].tolist()
            near(theirs.restore(row), dense_PV[p])


@pytest.mark.parametrize(
    ("make", "specs"),
    [
        (samples.sequences, Sequences.specs(tokens=12, vocabulary=samples.VOCABULARY)),
        (samples.masks, Masks.specs(vocabulary=samples.VOCABULARY)),
        (samples.hidden, HiddenStates.specs(width=5, vocabulary=samples.VOCABULARY)),
    ],
    ids=["sequences", "masks", "exact"],
)
def test_kinds_without_codes(tmp_path: Path, make: Any, specs: Any) -> None:
    ours, theirs = write(tmp_path / "store", make, specs, facts={"vocabulary": samples.VOCABULARY}, constants={})
    theirs.verify()
    for split in samples.SPLITS:
        record: Record = ours.read(split)
        for p, row in enumerate(theirs.rows(split)):
            if isinstance(record, HiddenStates):
                assert (row is not None) == record.covered_P()[p]
                if row is not None:
                    assert np.array_equal(np.float16(row["hidden"]), record.hidden_PH[p])
                    assert row["gold_id"] == record.gold_id_P[p]
            else:
                assert row == {name: array[p].tolist() for name, array in record.arrays().items()}


def test_documents(tmp_path: Path) -> None:
    samples.write_sample_documents(tmp_path / "store", tmp_path / "work")
    ours, theirs = DocumentStore(tmp_path / "store"), SecondStore(tmp_path / "store")
    theirs.verify()
    for split in samples.DOCUMENT_ROWS:
        assert theirs.table(split) == ours.read(split).to_pydict()


def test_other_tables(tmp_path: Path) -> None:
    samples.write_sample_lexicon(tmp_path / "store", tmp_path / "work")
    theirs = SecondStore(tmp_path / "store")
    theirs.verify()
    for name, table in samples.LEXICON_TABLES.items():
        assert theirs.table(name) == table.to_pydict()


def test_canonical_json_is_the_manifest_without_white_space(tmp_path: Path) -> None:
    """What a reader in a language with other spellings of numbers can do; the page says that it may."""
    logits_stores(tmp_path / "store", FORMS["topk"])
    text = (tmp_path / "store" / "manifest.json").read_text(encoding="utf-8")
    body = json.loads(text)
    without = re.sub(r'\n "checksum": "[0-9a-f]{64}",', "", text)
    squeezed = "".join(
        part if place % 2 else re.sub(r"\s", "", part)
        for place, part in enumerate(re.split(r'("(?:[^"\\]|\\.)*")', without))
    )
    assert second.sha256(squeezed.encode()) == body["checksum"]
    assert manifests.canonical({name: value for name, value in body.items() if name != "checksum"}) == squeezed


class TestRefusals:
    """Damage that both readers must notice."""

    @pytest.fixture
    def out(self, tmp_path: Path) -> Path:
        logits_stores(tmp_path / "store", FORMS["nucleus with a low-rank tail"])
        return tmp_path / "store"

    @pytest.mark.parametrize("name", ["train/step_E/c/1", "train/tail_PJ/c/3/0", "constants/order_V/c/0"])
    @pytest.mark.parametrize("lost", [True, False])
    def test_files(self, out: Path, name: str, lost: bool) -> None:
        if lost:
            (out / name).unlink()
        else:
            samples.flip(out / name)
        with pytest.raises(Refused, match=f"^{name}: {'missing' if lost else 'other bytes than listed'}$"):
            list(SecondStore(out).rows("train"))
        with pytest.raises(Refused, match=f"^{name}: "):
            SecondStore(out).verify()

    def test_a_stray_file(self, out: Path) -> None:
        (out / "stray").touch()
        with pytest.raises(Refused, match="files that are not listed"):
            SecondStore(out).verify()

    def test_an_edited_manifest(self, out: Path) -> None:
        samples.edit_manifest(out, {"facts": {"vocabulary": 99}}, resealed=False)
        with pytest.raises(Refused, match="checksum does not fit"):
            SecondStore(out)

    def test_other_inputs(self, out: Path) -> None:
        samples.edit_manifest(out, {"inputs": {}}, resealed=True)
        with pytest.raises(Refused, match="identity does not fit"):
            SecondStore(out)

    def test_a_shard_that_is_not_listed(self, out: Path) -> None:
        samples.edit_manifest(out, {"shards": samples.manifest_of(out)["shards"][:-1]}, resealed=True)
        with pytest.raises(Refused, match="shard heldout/0 is not listed"):
            SecondStore(out).verify()

    def test_a_group_in_part(self, out: Path) -> None:
        samples.drop_array(out, "gold_at_P")
        with pytest.raises(Refused, match="a group of arrays in part"):
            SecondStore(out)


def example() -> tuple[SparseLogits, dict[str, np.ndarray]]:
    """The row of FORMAT.md, and its constants: what is listed, a tail of 0.2, and the true token second."""
    bias_JV = np.array([[-2.2, -2.0, -1.9, -2.1, -2.3, -1.8, -2.5, -2.0], [-2.1, -2, -2, -2.1, -2.2, -1.9, -2.4, -2]])
    basis_DV = np.array([[0, 0.02, -0.01, 0.03, -0.02, 0, 0.01, -0.03], [0.01, 0, 0, -0.02, 0.04, -0.03, 0, 0]])
    constants = {
        "order_V": np.array([5, 2, 7, 0, 3, 6, 1, 4], np.uint32),
        "tail_bias_JV": bias_JV.astype(np.float32),
        "tail_basis_DV": basis_DV.astype(np.float16),
    }
    sketch_D, outside = np.array([25, -40]), [1, 3, 4, 5, 7]
    spread = [
        np.log(np.exp((bias_JV[j] + sketch_D @ basis_DV / temperature)[outside]).sum())
        for j, temperature in enumerate([1, 1.25])
    ]
    f32 = np.float32
    record = SparseLogits(
        ids_PK=np.array([[2, 0, 6, 65535]], np.uint16),
        logprob_PK=np.log(np.array([[0.5, 0.2, 0.1, np.nan]])).astype(f32),
        drawn_ids_PS=np.zeros((1, 0), np.uint16),
        drawn_share_PS=np.zeros((1, 0), f32),
        tail_PJ=np.array([[0.2, 0.27]], f32),
        gold_logprob_PJ=np.log(np.array([[0.2, 0.19]])).astype(f32),
        gold_place_P=np.array([1], np.int32),
        entropy_PJ=np.array([[1.65, 1.81]], f32),
        sketch_PD=sketch_D[None].astype(np.int8),
        spread_PJ=np.array([spread], f32),
    )
    return record, constants


def rounded(value: Any) -> Any:
    """To six places, lists and all; object members as strings, as JSON has them."""
    if isinstance(value, dict):
        return {str(name): rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value


def example_of(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the page shows: stored codes and constants, and what the second reader makes of them."""
    record, constants = example()
    specs = SparseLogits.specs(most=4, draws=0, temperatures=2, rank=2, vocabulary=8)
    writer = StoreWriter(
        folder / "store",
        SparseLogits,
        specs=specs,
        splits={"train": SplitPlan(rows=1, shard_rows=4)},
        inputs={},
        parents=samples.PARENTS,
        constants={"order_V": constants["order_V"]},
        workspace=Workspace(folder / "work"),
    )
    with writer:
        writer.write(next(writer.missing()), record)
        rest = {name: array for name, array in constants.items() if name != "order_V"}
        writer.seal(facts={"vocabulary": 8, "temperatures": [1.0, 1.25]}, constants=rest)
    theirs = SecondStore(folder / "store")
    theirs.verify()
    stored = {name: values[0].tolist() for name, values in theirs.shard("train", 0).items()}
    shown = {name: rounded(array.tolist()) for name, array in constants.items()}
    (row,) = theirs.rows("train")
    whole = {f"p at {t}": theirs.restore(row, column=j) for j, t in enumerate(theirs.facts["temperatures"])}
    return shown | stored, rounded({**row, **whole})


def test_the_worked_example_is_a_store(tmp_path: Path) -> None:
    text = FORMAT.read_text(encoding="utf-8").split("## 10. Worked example")[1]
    shown = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]
    stored, read = example_of(tmp_path)
    assert shown == [stored, read]
    for name in ("p at 1.0", "p at 1.25"):
        assert sum(read[name]) == pytest.approx(1, abs=1e-5)
    ours = Store(tmp_path / "store", SparseLogits).read("train")
    assert read["gold"] == ours.ids_PK[0, ours.gold_place_P[0]] == 0
    record, constants = example()
    basis_DV = constants["tail_basis_DV"]
    for column, name in enumerate(("p at 1.0", "p at 1.25")):
        dense_PV = restore_teacher(
            ours,
            bias_JV=constants["tail_bias_JV"],
            basis_DV=basis_DV,
            column=column,
            temperature=[1.0, 1.25][column],
        )
        np.testing.assert_allclose(dense_PV[0], read[name], atol=2e-6)
    assert np.abs(ours.spread_PJ - record.spread_PJ).max() <= 0.5 / 32
