"""An audit lists every fault and never raises. A record's own check is tested with the records."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import RecordInvalid, StoreMissing
from storage.format import codec
from storage.format.arrays import ArraySpec
from storage.format.manifest import SplitPlan, identity_of
from storage.reader import Store
from storage.records.base import Record
from storage.records.hidden_states import HiddenStates
from storage.records.invariants import constant_faults, first_and_last, record_faults
from storage.records.layout import layout_faults
from storage.records.logits import SparseLogits
from storage.records.sequences import Masks, Sequences
from storage.records.targets import FusedTargets
from storage.share.audit import audit
from storage.testing import damage, fixtures, samples
from storage.work import Workspace
from storage.writer import StoreWriter

V = samples.VOCABULARY


@pytest.fixture(scope="module")
def galleries(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def gallery(kind: str) -> Path:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            fixtures.write(kind, folder / "store", folder / "work", seed=1)
            made[kind] = folder / "store"
        return made[kind]

    return gallery


@pytest.fixture
def copied(galleries: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of the sample store of a kind, to be damaged."""

    def copy(kind: str) -> Path:
        source = galleries(kind)
        target = tmp_path / kind
        for name in fixtures.files_of(source):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes((source / name).read_bytes())
        return target

    return copy


def lines(store: Path) -> list[str]:
    found = [str(finding) for finding in audit(store)]
    assert all("\n" not in line for line in found)
    return found


def reseal(store: Path, *names: str) -> None:
    """Make the manifest agree with changed files, as a forger does."""
    body = samples.manifest_of(store)
    for files in (body["files"], *(shard["files"] for shard in body["shards"])):
        for name in files.keys() & set(names):
            data = (store / name).read_bytes()
            files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    samples.edit_manifest(store, body, resealed=True)


def edit(store: Path, change: Callable[[dict[str, Any]], object]) -> None:
    body = samples.manifest_of(store)
    change(body)
    samples.edit_manifest(store, body, resealed=True)


@pytest.mark.parametrize("kind", fixtures.KINDS)
def test_a_sound_store_has_no_findings(galleries: Callable[[str], Path], kind: str) -> None:
    before = damage._as_it_lies(galleries(kind))
    assert lines(galleries(kind)) == []
    assert damage._as_it_lies(galleries(kind)) == before


def test_the_store_of_other_tests_is_sound(tmp_path: Path) -> None:
    """With a short last shard, an empty split, a constant of no known name."""
    samples.write_logits(tmp_path / "store", tmp_path / "work")
    assert lines(tmp_path / "store") == []


def test_without_a_store_there_is_nothing_to_audit(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing, match="no sealed store here"):
        audit(tmp_path)


def test_a_manifest_that_cannot_be_read_is_the_only_finding(copied: Callable[[str], Path]) -> None:
    store = copied("masks")
    samples.flip(store / "manifest.json", at=300)
    (found,) = audit(store)
    assert (found.kind, found.where) == ("manifest", "manifest.json")


def test_everything_that_is_wrong_is_listed_and_the_rest_is_still_checked(copied: Callable[[str], Path]) -> None:
    """Nine faults at once; findings name all of them and nothing else."""
    store = copied("logits")
    samples.flip(store / "train/code_E/c/0")
    (store / "train/tail_PJ/c/1/0").unlink()
    os.truncate(store / "heldout/entropy_PJ/c/0/0", 10)
    (store / "train/notes.txt").write_text("x", encoding="utf-8")
    (store / "heldout/c.1234.partial").touch()
    (store / "train/gold_PJ/c/2/0").rename(store.parent / "elsewhere")
    (store / "train/gold_PJ/c/2/0").symlink_to(store.parent / "elsewhere")
    (store / "other").symlink_to(store.parent)
    os.mkfifo(store / "pipe")
    found = sorted((finding.kind, finding.where) for finding in audit(store))
    assert found == [
        ("file", "heldout/entropy_PJ/c/0/0"),
        ("file", "train/code_E/c/0"),
        ("file", "train/tail_PJ/c/1/0"),
        ("link", "other"),
        ("link", "train/gold_PJ/c/2/0"),
        ("stray", "heldout/c.1234.partial"),
        ("stray", "pipe"),
        ("stray", "train/notes.txt"),
    ]


def test_a_folder_that_is_a_link(copied: Callable[[str], Path]) -> None:
    store = copied("masks")
    (store / "heldout").rename(store.parent / "elsewhere")
    (store / "heldout").symlink_to(store.parent / "elsewhere")
    found = audit(store)
    assert ("link", "heldout") in {(finding.kind, finding.where) for finding in found}
    assert {finding.where.split("/")[0] for finding in found} == {"heldout"}


@pytest.mark.parametrize("kind", ["masks", "logits"])
def test_shards_that_are_not_listed(copied: Callable[[str], Path], kind: str) -> None:
    store = copied(kind)
    edit(store, lambda body: body["shards"].pop(1))
    found = lines(store)
    assert found[0].startswith("stray train/")
    assert any(line.startswith("plan train: 1 of 3 shards are not listed, first 1. Fetch") for line in found)


def test_shards_of_another_size_than_planned(copied: Callable[[str], Path]) -> None:
    store = copied("masks")
    edit(store, lambda body: body["shards"][0].update(rows=7))
    assert lines(store) == ["plan train/0: expected 8 rows, got 7. Fetch the store again, or make it again"]


def test_a_plan_of_many_shards_is_not_enumerated(copied: Callable[[str], Path]) -> None:
    """Five million rows of twelve bytes may be claimed of any file; their shards are counted, not listed."""
    store = copied("masks")
    edit(store, lambda body: body["splits"].update(heldout={"rows": 5_000_000, "shard_rows": 1}))
    assert "does not fit the plan" in lines(store)[0]
    edit(store, lambda body: body["shards"].pop())
    assert any("plan heldout: 5000000 of 5000000 shards are not listed, first 0, 1, 2" in line for line in lines(store))


def test_metadata_of_another_array(copied: Callable[[str], Path]) -> None:
    store = copied("masks")
    name = "train/column_P/zarr.json"
    text = (store / name).read_text(encoding="utf-8").replace('"fill_value": 65535', '"fill_value": 0')
    (store / name).write_text(text, encoding="utf-8")
    reseal(store, name)
    (found,) = audit(store)
    assert (found.kind, found.where) == ("metadata", "train/column_P")
    assert "zarr.json: fill_value: expected 65535, got 0" in found.message


def test_a_shard_that_does_not_decode(copied: Callable[[str], Path]) -> None:
    """Right hashes over bytes that are no chunk; and a checksum of Zarr's that is wrong."""
    store = copied("masks")
    names = ["train/column_P/c/1", "heldout/label_P/c/0"]
    (store / names[0]).write_bytes(b"\0" * 56)
    samples.flip(store / names[1], at=20)
    reseal(store, *names)
    assert [(found.kind, found.where) for found in audit(store)] == [("record", "heldout/0"), ("shard", "train/1")]


def test_values_that_break_the_record(copied: Callable[[str], Path]) -> None:
    """Shard 0 of train lies in the place of shard 2 of another split: every hash is right, and the order is wrong."""
    store = copied("masks")
    for name in ("copy_P", "sequence_P", "column_P", "label_P"):
        (store / f"train/{name}/c/1").write_bytes((store / f"train/{name}/c/0").read_bytes())
    reseal(store, *(f"train/{name}/c/1" for name in ("copy_P", "sequence_P", "column_P", "label_P")))
    assert lines(store) == [
        "record train/1: begins before train/0 ends: out of order, or twice",
        "record train/1: holds the same bytes as train/0",
    ]


@pytest.mark.parametrize(("kind", "split"), [("logits", "heldout"), ("targets", "train")])
def test_masses_that_scaling_would_hide(copied: Callable[[str], Path], kind: str, split: str) -> None:
    """Every listed value is 1 and every hash is right: decoded, rows would add up to 1 all the same."""
    store = copied(kind)
    array = zarr.open_array(store / split / "code_E", mode="r+")
    codes = array[...]
    array[...] = np.where(codes == 255, codes, 128).astype(np.uint8)
    reseal(store, *(name for name in fixtures.files_of(store) if name.startswith(f"{split}/code_E/c/")))
    found = audit(store)
    assert {(finding.kind, finding.where.partition("/")[0]) for finding in found} == {("record", split)}
    assert all("listed mass and tail do not add up to 1" in finding.message for finding in found)


@pytest.mark.parametrize(
    ("column", "message"),
    [(0, "a row has ids without statistics"), (1, "a row has some statistics and lacks others")],
)
def test_a_row_without_a_number_is_found_where_every_hash_is_right(
    copied: Callable[[str], Path], column: int, message: str
) -> None:
    """What is stored of a teacher that answers NaN: the number that also says whether it answered, or another."""
    store = copied("logits")
    answered = np.flatnonzero(Store(store, SparseLogits).read("heldout").covered_P())[0]
    codes = zarr.open_array(store / "heldout" / "entropy_PJ", mode="r+")
    codes[answered, column] = codec.UNANSWERED
    reseal(store, *(name for name in fixtures.files_of(store) if name.startswith("heldout/entropy_PJ/c/")))
    (line,) = lines(store)
    assert line.startswith("record heldout/") and message in line


@settings(deadline=None)
@given(
    listed=st.integers(0, 300),
    tails=st.integers(1, 4),
    concentration=st.floats(-2, 2).map(lambda power: 10.0**power),
    seed=st.integers(0, 99),
    off=st.floats(1.2, 5),
)
def test_masses_add_up_within_the_rounding_of_the_codes(
    listed: int, tails: int, concentration: float, seed: int, off: float
) -> None:
    """Masses that sum to 1 are accepted whatever their shape; masses `off` times as large are not."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(listed + tails, concentration), 20) if listed + tails > 1 else np.ones((20, 1))
    with np.errstate(divide="ignore"):
        levels = codec.to_levels(np.log(p[:, :listed]).astype(np.float32))
    tail = codec.from_root(codec.to_root(p[:, listed:].astype(np.float32)))
    codec.require_whole(levels, tail)
    codec.require_whole(np.zeros((3, listed), np.uint8), np.full((3, tails), np.nan, np.float32))
    if off > 1.2 + 2 * np.sqrt(listed) / 128:
        tail[-1] += off - 1
        with pytest.raises(RecordInvalid, match="listed mass and tail do not add up to 1"):
            codec.require_whole(levels, tail)


def test_a_shard_twice_in_a_store_without_order(copied: Callable[[str], Path]) -> None:
    store = copied("logits")
    names = fixtures.shard_files(store, "train/1")
    for name in names:
        (store / name).write_bytes((store / name.replace("/c/1", "/c/0")).read_bytes())
    reseal(store, *names)
    assert lines(store) == ["record train/1: holds the same bytes as train/0"]


def test_facts_that_the_data_contradict(copied: Callable[[str], Path]) -> None:
    store = copied("masks")
    edit(store, lambda body: body["facts"].update(vocabulary=3))
    labels = samples.masks(22, seed=1).label_P
    found = [line for line in lines(store) if " train/" in line]
    assert [line.partition(" rows")[0] for line in found] == [
        f"record train/{i}: a label outside 3: {int((labels[8 * i : 8 * i + 8] >= 3).sum())}" for i in range(3)
    ]
    for value in (None, True, "100", 0, 2.5, 10**30):
        edit(store, lambda body, value=value: body["facts"].update(vocabulary=value))
        assert lines(store)[0].startswith("fact vocabulary: expected the number of ids, got ")


def test_a_constant_that_is_missing_or_another(copied: Callable[[str], Path]) -> None:
    store = copied("logits")
    samples.flip(store / "constants/order_V/c/0")
    assert [(found.kind, found.where) for found in audit(store)] == [
        ("file", "constants/order_V/c/0"),
        ("constant", "constants/order_V"),
    ]
    edit(store, lambda body: [body["files"].pop(name) for name in list(body["files"]) if "order_V" in name])
    assert "constant constants/order_V: missing. Fetch the store again, or make it again" in lines(store)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"kind": "recipes"}, "unknown kind recipes"), ({"revision": 9}, "expected method revision 1, got 9")],
)
@pytest.mark.parametrize("kind", ["masks", "documents"])
def test_unknown_kinds_and_revisions(copied: Callable[[str], Path], kind: str, change: Any, message: str) -> None:
    """Files are still verified."""
    store = copied(kind)
    body = samples.manifest_of(store) | change
    hashed = {key: body[key] for key in ("kind", "revision", "inputs", "parents")}
    samples.edit_manifest(store, change | {"identity": identity_of(**hashed)}, resealed=True)
    name = fixtures.shard_files(store, "heldout/0")[0]
    samples.flip(store / name)
    first, second = audit(store)
    assert (first.kind, first.where) == ("file", name)
    assert second.kind == "manifest"
    assert message in second.message


def test_documents(copied: Callable[[str], Path]) -> None:
    store = copied("documents")
    edit(store, lambda body: body["shards"][1].update(rows=7))
    assert any("expected 8 rows" in line or "expected 7 rows" in line for line in lines(store))
    store.joinpath("train.arrow").unlink()
    assert any(line.startswith("file train.arrow: ") for line in lines(store))


# Checks of records, on rows made by hand.

CLEAN: dict[str, Record] = {
    "sequences": samples.sequences(20),
    "masks": samples.masks(20),
    "logits": samples.logits(20),
    "drawn": samples.logits(20, draws=5, most=0),
    "targets": fixtures.ROWS[FusedTargets](20, seed=0),
}


@pytest.mark.parametrize("name", CLEAN)
def test_sample_records_have_no_faults(name: str) -> None:
    CLEAN[name].check()
    assert record_faults(CLEAN[name], vocabulary=V) == []


def changed(name: str, field: str, *place: Any, value: Any) -> list[str]:
    record = CLEAN[name]
    array = getattr(record, field).copy()
    array[place] = value
    return record_faults(replace(record, **{field: array}), vocabulary=V)


@pytest.mark.parametrize(
    ("name", "field", "place", "value", "message"),
    [
        ("sequences", "input_ids_NL", (3, 1), V, "an id outside 100: 1 rows, the first is row 3 of the shard"),
        ("sequences", "document_N", (4,), 3, "a window out of order or twice: 1 rows, the first is row 4"),
        ("sequences", "document_N", (4,), 9, "a window out of order or twice: 1 rows, the first is row 5"),
        ("sequences", "word_NL", (2, 1), 1, "words that are not numbered one by one: 1 rows, the first is row 2"),
        ("sequences", "word_NL", (2, 0), 0, "characters without a word, or the reverse: 1 rows"),
        ("sequences", "word_NL", (2, 0), -2, "a word number where no word is: 1 rows, the first is row 2"),
        ("sequences", "char_end_NL", (2, 1), 4, "characters out of order: 1 rows, the first is row 2"),
        ("sequences", "char_start_NL", (2, 1), -1, "characters without a word, or the reverse: 1 rows"),
        ("sequences", "length_N", (2,), 0, "a length outside 1 to 12: 1 rows, the first is row 2"),
        ("masks", "label_P", (5,), V, "a label outside 100: 1 rows, the first is row 5"),
        ("logits", "ids_PK", (0, 0), V, "an id outside 100: 1 rows, the first is row 0"),
        ("logits", "entropy_PJ", (1, 1), -0.5, "an impossible entropy: 1 rows, the first is row 1"),
        ("logits", "entropy_PJ", (8, 0), np.log(V) + 0.2, "an impossible entropy: 1 rows, the first is row 8"),
        ("logits", "gold_logprob_PJ", (8, 1), 0.1, "a true token's probability above 1: 1 rows, the first is row 8"),
        ("logits", "tail_PJ", (8, 1), 1.2, "an impossible tail: 1 rows, the first is row 8"),
        ("logits", "tail_PJ", (8, 2), -0.1, "an impossible tail: 1 rows, the first is row 8"),
        ("logits", "gold_place_P", (6,), 0, "a true token in a row without an answer: 1 rows, the first is row 6"),
        ("drawn", "drawn_ids_PS", (0, 0), V, "a drawn id outside 100: 1 rows, the first is row 0"),
        ("targets", "weight_PT", (8, 0), -0.2, "a weight or a tail outside 0 to 1: 1 rows, the first is row 8"),
        ("targets", "tail_PT", (8, 1), 1.5, "a weight or a tail outside 0 to 1: 1 rows, the first is row 8"),
        ("targets", "gold_logprob_P", (8,), 0.1, "a true token's probability above 1: 1 rows, the first is row 8"),
        ("targets", "ids_PM", (8, 0), V, "an id outside 100: 1 rows, the first is row 8"),
    ],
)
def test_each_fault_is_named_with_its_row(
    name: str, field: str, place: tuple[int, ...], value: Any, message: str
) -> None:
    assert message in "\n".join(changed(name, field, *place, value=value))


def test_an_id_twice_in_a_row() -> None:
    record = samples.logits(20)
    row = int(np.flatnonzero((record.ids_PK != 65535).sum(axis=1) > 1)[0])
    assert changed("logits", "ids_PK", row, 1, value=record.ids_PK[row, 0]) == [
        f"an id twice in a row: 1 rows, the first is row {row} of the shard"
    ]


@pytest.mark.parametrize(("off", "found"), [(0.9 / 32, False), (-0.9 / 32, False), (1.1 / 32, True), (-1.1 / 32, True)])
def test_the_true_token_agrees_with_the_list_within_the_codes(off: float, found: bool) -> None:
    """A probability of 0.25 in the list, and beside it one whose root is `off` away."""
    record = samples.logits(3, most=2, rank=0)
    p = np.array([[0.25, 0.125]] * 3)
    gold = np.log(np.square(0.5 + off))
    record = replace(
        record,
        ids_PK=np.array([[3, 4]] * 3, np.uint16),
        logprob_PK=np.log(p).astype(np.float32),
        tail_PJ=np.full((3, 3), 0.625, np.float32),
        gold_logprob_PJ=np.full((3, 3), gold, np.float32),
        gold_place_P=np.array([0, -1, 0], np.int32),
    )
    what = "a true token whose value differs from the list's: 2 rows, the first is row 0 of the shard"
    assert record_faults(record, vocabulary=V) == [what] * found


@pytest.mark.parametrize(("root", "found"), [(0.5 + 0.9 / 32, False), (0.5 + 1.1 / 32, True)])
def test_an_unlisted_true_token_fits_in_the_tail(root: float, found: bool) -> None:
    """A tail of 0.25: what is not listed can have no more, within the codes."""
    record = samples.logits(3, most=1, rank=0)
    record = replace(
        record,
        ids_PK=np.array([[3]] * 3, np.uint16),
        logprob_PK=np.log(np.full((3, 1), 0.75, np.float32)),
        tail_PJ=np.full((3, 3), 0.25, np.float32),
        gold_logprob_PJ=np.full((3, 3), 2 * np.log(root), np.float32),
        gold_place_P=np.full(3, -1, np.int32),
    )
    what = "an unlisted true token above the whole tail: 3 rows, the first is row 0 of the shard"
    assert record_faults(record, vocabulary=V) == [what] * found


def test_a_fused_true_token_fits_list_or_tail() -> None:
    record = CLEAN["targets"]
    assert isinstance(record, FusedTargets)
    row = 8
    values = np.exp(record.logprob_PM[row])
    tail = record.tail_PT[row].sum()
    far = next(
        p
        for p in np.linspace(1, 0.02, 99)
        if np.abs(np.sqrt(values) - p**0.5).min() > 0.04 and p**0.5 > tail**0.5 + 0.04
    )
    what = ["a true token whose value fits neither list nor tail: 1 rows, the first is row 8 of the shard"]
    assert changed("targets", "gold_logprob_P", row, value=np.log(far)) == what
    assert changed("targets", "gold_logprob_P", row, value=np.log(tail)) == []
    assert changed("targets", "gold_logprob_P", row, value=np.log(values[1])) == []


def test_layouts() -> None:
    """Every form that our writers use is taken, of any width; anything else is named."""
    for most, draws, rank in ((6, 0, 3), (6, 0, 0), (0, 5, 0), (6, 5, 0)):
        assert layout_faults(SparseLogits, samples.logits_specs(most=most, draws=draws, rank=rank)) == []
    for vocabulary in (100, 100_000):
        assert layout_faults(Masks, Masks.specs(vocabulary=vocabulary)) == []
        assert layout_faults(Sequences, Sequences.specs(tokens=512, vocabulary=vocabulary)) == []
        assert layout_faults(HiddenStates, HiddenStates.specs(width=9, vocabulary=vocabulary)) == []
    assert layout_faults(FusedTargets, samples.targets_specs(rank=0)) == []
    assert layout_faults(samples.Plain, {"wide_PK": ArraySpec(dtype="int64")}) == []
    specs = {
        **samples.logits_specs(),
        "code_E": ArraySpec(dtype="uint8", counted_by="gold_at_P", most=4),
        "x": ArraySpec(dtype="int8"),
    }
    assert layout_faults(SparseLogits, specs) == [
        "code_E: expected uint8 counted by count_P, got uint8 counted by gold_at_P",
        "x: expected no such array, got int8 [0]",
    ]


def test_keys_of_ordered_records() -> None:
    assert first_and_last(samples.masks(7)) == ((0, 0, 1), (0, 2, 1))
    assert first_and_last(samples.sequences(7)) == ((0, 0), (6, 0))
    assert first_and_last(samples.logits(7)) is None
    assert first_and_last(samples.masks(0)) is None


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("order_V", np.arange(V, dtype=np.uint32)[::-1], None),
        ("order_V", np.append(np.arange(V - 1), 0).astype(np.uint32), "no order of 100 ids"),
        ("order_V", np.arange(V - 1, dtype=np.uint32), "no order of 100 ids"),
        ("pieces_utf8", np.frombuffer(str(["a"] * V).replace("'", '"').encode(), np.uint8), None),
        ("pieces_utf8", np.frombuffer(b'["a"]', np.uint8), "no list of 100 tokens"),
        ("pieces_utf8", np.frombuffer(str(list(range(V))).encode(), np.uint8), "no list of 100 tokens"),
        ("pieces_utf8", np.frombuffer(b'["a", "', np.uint8), "no list of tokens: "),
        ("tail_prior_JV", np.full((2, V), 1 / V, np.float32), None),
        ("tail_prior_JV", np.full((2, V), 1 / 90, np.float32), "no distributions over 100 ids"),
        ("tail_prior_JV", np.full((2, V), 1 / 110, np.float32), "no distributions over 100 ids"),
        ("tail_prior_TV", np.full((2, V), 1 / 110, np.float32), None),
        ("tail_prior_TV", np.full((2, V - 1), 1 / 110, np.float32), "no distributions over 100 ids"),
        (
            "tail_prior_JV",
            np.append([0.02, -0.01], np.full(98, 0.99 / 98)).astype(np.float32)[None],
            "no distributions",
        ),
        ("tail_bias_JV", np.full((2, V), -np.log(V), np.float32), None),
        ("tail_bias_JV", np.full((2, V), 0, np.float32), "no distributions over 100 ids"),
        ("tail_basis_DV", np.full((2, V), 9, np.float16), None),
        ("tail_basis_DV", np.full((2, V), np.inf, np.float16), "200 values that are not finite"),
        ("anything", np.array([np.nan], np.float32), "1 values that are not finite"),
        ("anything", np.array([7], np.int64), None),
    ],
)
def test_constants(name: str, values: Any, message: str | None) -> None:
    found = constant_faults(name, values, vocabulary=V)
    assert len(found) == (message is not None)
    assert not found or found[0].startswith(str(message))


def test_a_store_of_a_kind_without_checks_is_still_read(tmp_path: Path) -> None:
    """`Plain` is no kind that this version knows: its files are verified, its values are not."""
    specs = {
        "narrow_P": ArraySpec(dtype="uint8"),
        "wide_PK": ArraySpec(dtype="int16", row_shape=(2,)),
    }
    splits = {"train": SplitPlan(rows=5, shard_rows=4)}
    arguments: dict[str, Any] = {
        "specs": specs,
        "splits": splits,
        "inputs": {},
        "parents": {},
        "workspace": Workspace(tmp_path / "w"),
    }
    with StoreWriter(tmp_path / "store", samples.Plain, **arguments) as writer:
        for shard in writer.missing():
            whole = samples.plain(5, seed=0, narrow="uint8", wide="int16", width=2)
            writer.write(shard, samples.rows_of(whole, shard.start, shard.stop))
        writer.seal(facts={"vocabulary": 9})
    assert lines(tmp_path / "store") == ["manifest manifest.json: unknown kind plain. A newer version may read it"]
