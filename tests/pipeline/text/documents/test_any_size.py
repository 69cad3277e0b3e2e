"""Texts in many pieces, buckets and shards: the bytes are those of one process, whoever made what and died when."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.params import RuntimeParams
from pipeline.executor.base import Executor, LocalExecutor
from pipeline.executor.dask import dask_executor
from pipeline.text.documents import corpus, ingest, keys
from pipeline.text.params import CorpusParams, InputParams
from storage import documents
from storage.documents import DocumentStore
from storage.share.audit import audit
from tests.helpers.stores import TINY_TEXT, folder_bytes

PARAMS = CorpusParams(share=0.9, calibration=0.2, heldout=0.3)


@pytest.fixture
def texts(workplace: Path) -> Iterator[InputParams]:
    """Three files; pieces of 10 documents, batches of 3, shards of a kilobyte, buckets of 16."""
    with pytest.MonkeyPatch.context() as patch:
        small_sizes(patch)
        yield written(workplace)


def small_sizes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ingest, "PIECE_ROWS", 10)
    patch.setattr(documents, "BATCH_ROWS", 3)
    patch.setattr(documents, "SHARD_BYTES", 1000)
    patch.setattr(keys, "BUCKET_ROWS", 16)


def written(workplace: Path) -> InputParams:
    for number in range(3):
        lines = [json.dumps({"id": f"{number}-{i}", "text": text}) for i, text in enumerate(TINY_TEXT[number * 10 :])]
        lines += [*lines[:2], json.dumps({"id": f"{number}-none", "text": "\u200b"})]
        (workplace / "in").mkdir(exist_ok=True)
        (workplace / "in" / f"{number}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return InputParams(kind="jsonl", path="in")


def run(params: InputParams, executor: Executor | None = None) -> dict[str, bytes]:
    ingest.ingest("animals", params, Path("data/text/animals"), executor=executor)
    corpus.assemble(Path("data/text"), {"animals": params}, PARAMS, Path("data/documents"), executor=executor)
    return folder_bytes(Path("data"))


def test_shards_hold_what_one_table_held(workplace: Path) -> None:
    texts = written(workplace)
    with pytest.MonkeyPatch.context() as patch:
        small_sizes(patch)
        run(texts)
    stores = [DocumentStore(Path("data/text/animals")), DocumentStore(Path("data/documents"))]
    many = [store.read(split).to_pydict() for store in stores for split in store.manifest.splits]
    assert stores[0].plan("all").shards > 2 and stores[1].plan("train").shards > 2
    assert [audit(store.path) for store in stores] == [[], []]
    for store in stores:
        for split, plan in store.manifest.splits.items():
            rows = [row for batch in store.batches(split, start=1, stop=plan.rows - 1) for row in batch.to_pylist()]
            assert rows == store.read(split).to_pylist()[1:-1]
    shutil.rmtree("data")
    run(texts)
    stores = [DocumentStore(Path("data/text/animals")), DocumentStore(Path("data/documents"))]
    assert many == [store.read(split).to_pydict() for store in stores for split in store.manifest.splits]
    assert stores[1].manifest.facts["duplicates"]["animals"] > 20


def test_threads_give_the_same_bytes(texts: InputParams) -> None:
    expected = run(texts)
    shutil.rmtree("data")
    with LocalExecutor(threads=4) as threads:
        assert run(texts, threads) == expected


def test_worker_processes_give_the_same_bytes(workplace: Path) -> None:
    """They have the sizes of pieces that stand in the code: one piece a file."""
    (workplace / "in").mkdir()
    for number in range(3):
        lines = [json.dumps({"id": f"{number}-{i}", "text": text}) for i, text in enumerate(TINY_TEXT[number * 10 :])]
        (workplace / "in" / f"{number}.jsonl").write_text("\n".join([*lines, "bad"]) + "\n", encoding="utf-8")
    params = InputParams(kind="jsonl", path="in", bad_lines=0.1)
    expected = run(params)
    shutil.rmtree("data")
    shutil.rmtree(".work")
    settings = RuntimeParams(
        device="cpu",
        dtype="float32",
        threads=1,
        batch_tokens=300,
        checkpoint_seconds=60.0,
        scheduler="processes",
        workers=2,
    )
    with dask_executor(settings, gpu=False, command="corpus") as several:
        assert run(params, several) == expected


class Killed(Exception):
    """In place of kill -9: nothing after it runs."""


def dying(job: type[Any], monkeypatch: pytest.MonkeyPatch, after: int) -> list[str]:
    """Have the part after so many die halfway; returns the parts that are made, as they are."""
    made: list[str] = []
    make = job.make_part

    def part(self: Any, tools: Any, name: str, folder: Path, *, advance: Callable[[int], None]) -> None:
        if len(made) == after:
            (folder / "half").write_bytes(b"half")
            raise Killed
        make(self, tools, name, folder, advance=advance)
        made.append(name)

    monkeypatch.setattr(job, "make_part", part)
    return made


@pytest.mark.parametrize("job", ["ingest", "corpus"])
def test_a_run_that_died_at_any_part_continues_and_makes_no_part_twice(
    texts: InputParams, monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    expected = run(texts)
    kind = {"ingest": ingest._IngestJob, "corpus": corpus.CorpusJob}[job]
    with monkeypatch.context() as patch:
        shutil.rmtree("data")
        shutil.rmtree(".work")
        total = len(dying_run(texts, patch, kind))
    for after in range(0, total, 9):
        shutil.rmtree("data")
        shutil.rmtree(".work")
        with monkeypatch.context() as patch:
            first = dying(kind, patch, after)
            with pytest.raises(Killed):
                run(texts)
        with monkeypatch.context() as patch:
            second = dying(kind, patch, total)
            assert run(texts) == expected
        assert len(first) == after and len(first) + len(second) == total


def dying_run(texts: InputParams, patch: pytest.MonkeyPatch, kind: type[Any]) -> list[str]:
    made = dying(kind, patch, 10**9)
    run(texts)
    return made


def test_a_second_run_makes_nothing_again(texts: InputParams, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill between publishing and DVC's bookkeeping costs nothing."""
    expected = run(texts)
    dying(corpus.CorpusJob, monkeypatch, 0)
    shutil.rmtree("data/documents")
    corpus.assemble(Path("data/text"), {"animals": texts}, PARAMS, Path("data/documents"))
    assert folder_bytes(Path("data")) == expected
