"""Shards written beside a store: whole, checked when accepted, and harmless when they are late or duplicated."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage import attempts
from storage.attempts import (
    Attempt,
    AttemptWriter,
    accept,
    open_attempts,
)
from storage.errors import RecordInvalid, ShardCorrupt, StoreError
from storage.records.logits import SparseLogits
from storage.testing import samples
from storage.testing.samples import fill, logits_writer, seal
from storage.writer import Shard, StoreWriter

SHARDS = 5


@contextmanager
def run(tmp_path: Path) -> Iterator[tuple[StoreWriter, AttemptWriter]]:
    with logits_writer(tmp_path / "store", tmp_path / "work") as writer, open_attempts(writer) as attempt_writer:
        yield writer, attempt_writer


def rows(shard: Shard) -> SparseLogits:
    record = samples.logits(samples.SPLITS[shard.split].rows, seed=1)
    made: SparseLogits = samples.rows_of(record, shard.start, shard.stop)
    return made


def attempt_at(attempt_writer: AttemptWriter, shard: Shard) -> Attempt:
    """As a worker does it."""
    return attempt_writer.write(shard, rows(shard), sidecar={"total": np.array([shard.start + shard.index / 7])})


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The sample store as one process writes it."""
    folder = tmp_path_factory.mktemp("alone")
    samples.write_logits(folder / "store", folder / "work")
    return samples.file_hashes(folder / "store")


def test_attempts_in_any_order_and_twice_make_the_same_store(tmp_path: Path, expected: dict[str, str]) -> None:
    with run(tmp_path) as (writer, attempt_writer):
        made = [attempt_at(attempt_writer, shard) for shard in list(writer.missing())[::-1] for _ in range(2)]
        for attempt in made[::-1]:
            accept(writer, attempt)
        assert len(writer.work.entries()) == SHARDS, "the second of each is left where it is"
        assert not list(writer.missing())
        seal(writer)
    assert samples.file_hashes(tmp_path / "store") == expected


def test_a_run_is_continued_by_a_process_alone(tmp_path: Path, expected: dict[str, str]) -> None:
    with run(tmp_path) as (writer, attempt_writer):
        for shard in list(writer.missing())[1:4]:
            accept(writer, attempt_at(attempt_writer, shard))
    with logits_writer(tmp_path / "store", tmp_path / "work") as writer:
        assert fill(writer) == SHARDS - 3
        seal(writer)
    assert samples.file_hashes(tmp_path / "store") == expected


def test_what_was_never_reported_is_no_part_of_the_store(tmp_path: Path, expected: dict[str, str]) -> None:
    with run(tmp_path) as (writer, attempt_writer):
        attempt_at(attempt_writer, next(writer.missing()))
        fill(writer)
        seal(writer)
    assert samples.file_hashes(tmp_path / "store") == expected
    assert not list((tmp_path / "work").glob("*/attempts"))


def test_a_straggler_finds_nothing_to_write_to(tmp_path: Path, expected: dict[str, str]) -> None:
    with run(tmp_path) as (writer, attempt_writer):
        late = next(writer.missing())
        fill(writer)
        seal(writer)
    before = samples.file_hashes(tmp_path)
    with pytest.raises(
        StoreError, match=r"shard train/0 was not written. Either the driver's run is over, or this machine"
    ):
        attempt_at(attempt_writer, late)
    assert samples.file_hashes(tmp_path) == before
    with run(tmp_path):
        with pytest.raises(StoreError, match="is over"):
            attempt_at(attempt_writer, late)  # nor when another run has begun
    assert samples.file_hashes(tmp_path / "store") == expected


@pytest.mark.parametrize("when", ["published", "work removed"])
def test_a_straggler_that_was_in_the_middle_changes_no_store(
    tmp_path: Path, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """It wakes up with its folder there, writes on when the store is sealed, and even reports."""
    real = attempts.write_shard
    work = tmp_path / "work"

    def slow(*arguments: Any, **more: Any) -> Any:
        monkeypatch.setattr(attempts, "write_shard", real)
        fill(writer)
        seal(writer)
        held.__exit__(None, None, None)
        if when == "work removed":
            shutil.rmtree(work)
        return real(*arguments, **more)

    monkeypatch.setattr(attempts, "write_shard", slow)
    held = run(tmp_path)
    writer, attempt_writer = held.__enter__()
    shard = next(writer.missing())
    # Nothing is left to write to, or nothing is taken from it.
    with contextlib.suppress(OSError):
        accept(writer, attempt_at(attempt_writer, shard))
    assert samples.file_hashes(tmp_path / "store") == expected
    with logits_writer(tmp_path / "store", work) as again:
        fill(again)
        seal(again)
    assert samples.file_hashes(tmp_path / "store") == expected


def test_published_files_are_not_those_an_attempt_wrote_to_later(tmp_path: Path, expected: dict[str, str]) -> None:
    """Published files may be links to the work folder's: a shard made again gets files of its own."""
    with run(tmp_path) as (writer, attempt_writer):
        for shard in writer.missing():
            accept(writer, attempt_at(attempt_writer, shard))
        seal(writer)
    inodes = {path: path.stat().st_ino for path in (tmp_path / "store" / "train").rglob("c/*") if path.is_file()}
    (journal,) = (tmp_path / "work").glob("*/journal.jsonl")
    journal.write_text("")
    with run(tmp_path) as (writer, attempt_writer):
        for shard in writer.missing():
            accept(writer, attempt_at(attempt_writer, shard))
        made = {path.stat().st_ino for path in (writer.work.content / "train").rglob("c/*") if path.is_file()}
    assert inodes and not made & set(inodes.values())
    assert samples.file_hashes(tmp_path / "store") == expected


@pytest.mark.parametrize("how", ["flipped", "missing"])
def test_a_file_that_is_not_what_was_reported_is_refused_before_anything_moves(tmp_path: Path, how: str) -> None:
    with run(tmp_path) as (writer, attempt_writer):
        attempt = attempt_at(attempt_writer, next(writer.missing()))
        file = attempt.content / sorted(attempt.files)[-1]
        if how == "flipped":
            samples.flip(file)
        else:
            file.unlink()
        before = samples.file_hashes(writer.work.content)
        with pytest.raises(ShardCorrupt, match=r"What was finished is kept: run the same command to continue"):
            accept(writer, attempt)
        assert samples.file_hashes(writer.work.content) == before
        assert writer.work.entries() == []


def test_a_record_that_breaks_its_rules_is_not_written(tmp_path: Path) -> None:
    with run(tmp_path) as (writer, attempt_writer):
        shard = next(writer.missing())
        made = rows(shard)
        with pytest.raises(RecordInvalid, match="do not add up to 1"):
            attempt_writer.write(shard, replace(made, tail_PJ=made.tail_PJ + np.float32(1)))


def test_a_run_removes_what_the_last_one_left(tmp_path: Path) -> None:
    with logits_writer(tmp_path / "store", tmp_path / "work") as writer:
        left = writer.work.path / "attempts" / "of a killed driver" / "train-0"
        left.mkdir(parents=True)
        with open_attempts(writer) as attempt_writer:
            assert not left.exists()
            assert attempt_writer.folder.is_absolute() and [path.name for path in attempt_writer.folder.iterdir()] == [
                "constants.npz"
            ]
