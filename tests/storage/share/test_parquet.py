"""Parquet files hold the reader's values; absent values are null or left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from storage.atomic import held
from storage.errors import (
    ArchiveRefused,
    DiskRefused,
    RecordInvalid,
    ShardCorrupt,
    StoreMissing,
    WorkBusy,
    WrongKind,
)
from storage.format.arrays import ArraySpec, sentinel
from storage.format.manifest import FileEntry, SplitPlan
from storage.reader import Store
from storage.records.base import Record
from storage.records.hidden_states import HiddenStates
from storage.records.logits import SparseLogits
from storage.records.sequences import Masks, Sequences
from storage.records.targets import FusedTargets
from storage.share.parquet import to_parquet
from storage.testing import samples
from storage.work import Workspace
from storage.writer import StoreWriter

SPLITS = {"train": SplitPlan(rows=23, shard_rows=8), "heldout": SplitPlan(rows=0, shard_rows=8)}
VOCABULARY_TOKENS = [f"▁token{i}" if i % 2 else f"stück{i}" for i in range(samples.VOCABULARY)]
TEXT = np.frombuffer(json.dumps(VOCABULARY_TOKENS, ensure_ascii=False).encode(), np.uint8)
BASIS = np.random.default_rng(3).normal(size=(2, 3, samples.VOCABULARY)).astype(np.float16)


def sequence_specs() -> dict[str, ArraySpec]:
    return Sequences.specs(tokens=12, vocabulary=samples.VOCABULARY)


KINDS: dict[str, tuple[type[Record], Callable[[], Record], Callable[[], dict[str, ArraySpec]], dict[str, Any]]] = {
    "sequences": (Sequences, lambda: samples.sequences(23), sequence_specs, {"pieces_utf8": TEXT}),
    "masks": (Masks, lambda: samples.masks(23), lambda: Masks.specs(vocabulary=samples.VOCABULARY), {}),
    "logits": (SparseLogits, lambda: samples.logits(23), samples.logits_specs,
               {"order_V": samples.ORDER, "pieces_utf8": TEXT, "tail_basis_DV": BASIS[0]}),
    "drawn": (SparseLogits, lambda: samples.logits(23, most=0, draws=9, rank=0),
              lambda: samples.logits_specs(most=0, draws=9, rank=0), {"order_V": samples.ORDER}),
    "exact": (HiddenStates, lambda: samples.hidden(23),
              lambda: HiddenStates.specs(width=5, vocabulary=samples.VOCABULARY), {}),
    "targets": (FusedTargets, lambda: samples.targets(23), samples.targets_specs,
                {"order_V": samples.ORDER, "tail_basis_TDV": BASIS}),
    "plain-targets": (FusedTargets, lambda: samples.targets(23, rank=0), lambda: samples.targets_specs(rank=0),
                      {"order_V": samples.ORDER}),
}  # fmt: skip


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind of store and its export."""
    root = tmp_path_factory.mktemp("shelf")
    for name, (record, rows, specs, constants) in KINDS.items():
        whole = rows()
        writer = StoreWriter(
            root / name, record, specs=specs(), splits=SPLITS, inputs={"name": name}, parents={},
            constants={"order_V": samples.ORDER} if "order_V" in constants else {}, workspace=Workspace(root / ".work"),
        )  # fmt: skip
        with writer:
            for shard in list(writer.missing()):
                writer.write(shard, samples.rows_of(whole, shard.start, shard.stop))
            later = {key: value for key, value in constants.items() if key != "order_V"}
            writer.seal(facts={"vocabulary": samples.VOCABULARY, "temperatures": [1.0, 1.5]}, constants=later)
        to_parquet(root / name, root / "parquet" / name)
    samples.write_sample_documents(root / "documents", root / ".work")
    to_parquet(root / "documents", root / "parquet" / "documents")
    return root


def plain(values: Any) -> Any:
    """Nested Python values, with None for NaN."""
    if isinstance(values, list):
        return [plain(value) for value in values]
    return None if isinstance(values, float) and np.isnan(values) else values


IDS = {"input_ids_NL", "ids_PK", "drawn_ids_PS", "ids_PM"}
BESIDE = {"word_NL": "input_ids_NL", "char_start_NL": "input_ids_NL", "char_end_NL": "input_ids_NL",
          "logprob_PK": "ids_PK", "drawn_share_PS": "drawn_ids_PS", "logprob_PM": "ids_PM"}  # fmt: skip


def expected(record: Record) -> dict[str, Any]:
    """What each column should hold, one row at a time."""
    arrays = record.arrays()
    columns: dict[str, Any] = {}
    for name, values in arrays.items():
        ids = arrays.get(name if name in IDS else BESIDE.get(name, ""))
        rows = [plain(row) for row in values.tolist()]
        if ids is not None:
            kept = [[value != sentinel(ids.dtype) for value in row] for row in ids.tolist()]
            rows = [[v for v, k in zip(row, use, strict=True) if k] for row, use in zip(rows, kept, strict=True)]
        elif name == "gold_id_P":
            rows = [None if row == sentinel(values.dtype) else row for row in rows]
        columns[name] = rows
    return columns


@pytest.mark.parametrize("name", sorted(KINDS))
def test_values_equal_those_of_the_reader(shelf: Path, name: str):
    record = KINDS[name][0]
    table = ds.dataset(shelf / "parquet" / name / "train", format="parquet").to_table()
    whole = Store(shelf / name, record).read("train")
    assert table.column("row").to_pylist() == list(range(23))
    wanted = expected(whole)
    assert table.column_names == ["row", *wanted]
    for column, rows in wanted.items():
        assert table.column(column).to_pylist() == rows, column


def test_absent_entries_are_left_out_and_unanswered_rows_are_null(shelf: Path):
    table = ds.dataset(shelf / "parquet" / "logits" / "train").to_table()
    unanswered = table.slice(6, 1).to_pylist()[0]
    assert unanswered["ids_PK"] == unanswered["logprob_PK"] == []
    assert unanswered["tail_PJ"] == [None] * samples.TEMPERATURES
    lengths = [len(ids) for ids in table.column("ids_PK").to_pylist()]
    assert set(lengths) > {0, 6}, "lists are ragged"
    assert lengths == [len(values) for values in table.column("logprob_PK").to_pylist()]
    text = ds.dataset(shelf / "parquet" / "sequences" / "train").to_table()
    assert [len(ids) for ids in text.column("input_ids_NL").to_pylist()] == text.column("length_N").to_pylist()


def test_one_file_a_shard_and_one_for_an_empty_split(shelf: Path):
    out = shelf / "parquet" / "masks"
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.parquet")) == [
        "heldout/00000.parquet", "train/00000.parquet", "train/00001.parquet", "train/00002.parquet",
    ]  # fmt: skip
    rows = [pq.read_table(path).column("row").to_pylist() for path in sorted(out.glob("train/*"))]
    assert rows == [list(range(8)), list(range(8, 16)), list(range(16, 23))]
    empty = pq.read_table(out / "heldout" / "00000.parquet")
    assert len(empty) == pq.read_metadata(out / "heldout" / "00000.parquet").num_row_groups == 0
    assert empty.schema == pq.read_table(out / "train" / "00000.parquet").schema
    assert pq.ParquetFile(out / "train" / "00000.parquet").metadata.row_group(0).column(1).compression == "ZSTD"


def test_constants_are_tables_and_tokens_are_text(shelf: Path):
    logits = shelf / "parquet" / "logits" / "constants"
    assert pq.read_table(logits / "pieces.parquet").to_pydict() == {
        "row": list(range(samples.VOCABULARY)),
        "piece": VOCABULARY_TOKENS,
    }
    assert pq.read_table(logits / "order_V.parquet").column("order_V").to_pylist() == samples.ORDER.tolist()
    basis = pq.read_table(logits / "tail_basis_DV.parquet").column("tail_basis_DV").to_pylist()
    np.testing.assert_array_equal(np.array(basis), BASIS[0].astype(np.float64))
    deep = pq.read_table(shelf / "parquet" / "targets" / "constants" / "tail_basis_TDV.parquet")
    np.testing.assert_array_equal(np.array(deep.column("tail_basis_TDV").to_pylist()), BASIS.astype(np.float64))


def test_documents(shelf: Path):
    for split, table in samples.TABLES.items():
        found = ds.dataset(shelf / "parquet" / "documents" / split).to_table()
        assert found.column("row").to_pylist() == list(range(len(table)))
        assert found.drop_columns("row").replace_schema_metadata(None).equals(table)


def test_other_tables(tmp_path: Path):
    samples.write_sample_lexicon(tmp_path / "lexicon", tmp_path / ".work")
    to_parquet(tmp_path / "lexicon", tmp_path / "out")
    for name, table in samples.LEXICON_TABLES.items():
        found = pq.read_table(tmp_path / "out" / name / "00000.parquet")
        assert found.column("row").to_pylist() == list(range(len(table)))
        assert found.drop_columns("row").to_pydict() == table.to_pydict()
        assert found.schema.metadata[b"kind"] == b"lexicon"
    samples.flip(tmp_path / "lexicon" / "meanings.arrow")
    with pytest.raises(ShardCorrupt, match=r"meanings.arrow: expected"):
        to_parquet(tmp_path / "lexicon", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_every_file_says_where_it_is_from(shelf: Path):
    store = Store(shelf / "targets", FusedTargets)
    files = list((shelf / "parquet" / "targets").rglob("*.parquet"))
    assert len(files) > 4
    for path in files:
        metadata = pq.read_schema(path).metadata
        assert metadata[b"identity"].decode() == store.identity
        assert metadata[b"kind"] == b"targets"
        assert json.loads(metadata[b"facts"]) == store.facts
        assert b"README" not in metadata


def with_card(store: Path, text: str) -> None:
    (store / "README.md").write_text(text, encoding="utf-8")
    body = samples.manifest_of(store)
    entry = FileEntry.of(store / "README.md")
    body["files"]["README.md"] = {"bytes": entry.bytes, "sha256": entry.sha256}
    samples.edit_manifest(store, {"files": body["files"]}, resealed=True)


def test_the_card_goes_along(tmp_path: Path):
    samples.write_logits(tmp_path / "bert", tmp_path / ".work")
    with_card(tmp_path / "bert", "# Überzeugungen\n")
    to_parquet(tmp_path / "bert", tmp_path / "out")
    assert (tmp_path / "out" / "README.md").read_text(encoding="utf-8") == "# Überzeugungen\n"
    metadata = pq.read_schema(tmp_path / "out" / "train" / "00000.parquet").metadata
    assert metadata[b"README"].decode() == "# Überzeugungen\n"
    (tmp_path / "bert" / "README.md").write_text("# Etwas anderes", encoding="utf-8")
    with pytest.raises(ShardCorrupt, match=r"README.md: expected"):
        to_parquet(tmp_path / "bert", tmp_path / "other")


def test_the_same_store_gives_the_same_files(shelf: Path, tmp_path: Path):
    for name in ("logits", "documents"):
        to_parquet(shelf / name, tmp_path / name)
        assert samples.file_hashes(tmp_path / name) == samples.file_hashes(shelf / "parquet" / name)


def test_an_output_that_exists_stays(shelf: Path, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ArchiveRefused, match=r"out: is there already. Remove it, or export to another path"):
        to_parquet(shelf / "masks", out)
    assert list(out.iterdir()) == []
    assert list(tmp_path.iterdir()) == [out]


def test_two_exports_at_once(shelf: Path, tmp_path: Path):
    (tmp_path / ".out.parquet").mkdir()
    with held(tmp_path / ".out.parquet" / "lock", wait=False):
        with pytest.raises(WorkBusy, match="another process writes it"):
            to_parquet(shelf / "masks", tmp_path / "out")


def test_a_damaged_store_is_not_exported_and_a_mended_one_is(tmp_path: Path):
    samples.write_logits(tmp_path / "bert", tmp_path / ".work")
    shard = tmp_path / "bert" / "train" / "code_E" / "c" / "2"
    samples.flip(shard)
    with pytest.raises(ShardCorrupt, match="code_E/c/2"):
        to_parquet(tmp_path / "bert", tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))
    samples.flip(shard)
    to_parquet(tmp_path / "bert", tmp_path / "out")
    assert len(list((tmp_path / "out" / "train").iterdir())) == 4
    assert not list(tmp_path.glob(".out*"))


def test_what_is_no_store_or_of_another_kind(tmp_path: Path):
    with pytest.raises(StoreMissing, match="no sealed store here"):
        to_parquet(tmp_path / "nothing", tmp_path / "out")
    record = samples.plain(4, seed=0, narrow="uint16", wide="float32", width=2)
    specs = {"narrow_P": ArraySpec(dtype="uint16"), "wide_PK": ArraySpec(dtype="float32", row_shape=(2,))}
    splits = {"train": SplitPlan(rows=4, shard_rows=4)}
    with StoreWriter(
        tmp_path / "plain",
        samples.Plain,
        specs=specs,
        splits=splits,
        inputs={},
        parents={},
        workspace=Workspace(tmp_path / ".w"),
    ) as writer:
        writer.write(next(iter(writer.missing())), record)
        writer.seal(facts={}, constants={})
    with pytest.raises(WrongKind, match=r"expected a store of sequences, masks, .* got plain"):
        to_parquet(tmp_path / "plain", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", [b"no json", b"[1, 2]", b'{"a": "b"}', rb'["\ud800"]'])
def test_tokens_that_are_no_text(tmp_path: Path, text: bytes):
    splits = {"train": SplitPlan(rows=4, shard_rows=4)}
    with StoreWriter(
        tmp_path / "sequences", Sequences, specs=sequence_specs(), splits=splits, inputs={}, parents={},
        workspace=Workspace(tmp_path / ".work"),
    ) as writer:  # fmt: skip
        writer.write(next(iter(writer.missing())), samples.sequences(4))
        writer.seal(facts={}, constants={"pieces_utf8": np.frombuffer(text, np.uint8)})
    with pytest.raises(RecordInvalid, match="constants/pieces_utf8: ") as refused:
        to_parquet(tmp_path / "sequences", tmp_path / "out")
    assert "\n" not in str(refused.value)


def test_a_full_disk_publishes_nothing(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", "00000.parquet")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(DiskRefused, match=r"00000.parquet: the disk is full"):
        to_parquet(shelf / "masks", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
