"""tokenize and mask on worker processes and on a scheduler's workers: the bytes of one process, whoever is killed when.

ingest and corpus have the same in `documents/test_any_size.py`.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.params import RuntimeParams
from pipeline.executor.base import Executor, ResourceCache
from pipeline.executor.dask import DaskExecutor, dask_executor
from pipeline.text import tokenize as tokens
from pipeline.text.mask import mask
from pipeline.text.params import MaskParams, TokenizeParams
from storage import documents
from storage.documents import DocumentStore
from storage.parts import Parts
from storage.reader import Store
from storage.records.sequences import Masks, Sequences
from storage.work import WorkFolder
from storage.writer import Shard, StoreWriter
from tests.helpers.executors import WrappedJob, die
from tests.helpers.stores import folder_bytes, tiny_documents

ROOT = Path(__file__).parents[3]
OUTS = ("data/sequences", "data/masks")


def settings(**changes: Any) -> RuntimeParams:
    plain = {"device": "cpu", "dtype": "float32", "threads": 1, "batch_tokens": 300, "checkpoint_seconds": 60.0}
    return RuntimeParams.model_validate(plain | changes)


@pytest.fixture
def corpus(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Documents in many shards; so are the sequences that are made of them here."""
    monkeypatch.setattr(documents, "SHARD_BYTES", 500)
    monkeypatch.setattr(tokens, "SHARD_SEQUENCES", 16)
    made = tiny_documents(workplace)
    assert DocumentStore(made).plan("train").shards > 3
    return made


def run(corpus: Path, tokenizer: Path, executor: Executor | None = None) -> dict[str, bytes]:
    """Both stages; the bytes of both stores."""
    params = TokenizeParams(tokenizer=str(tokenizer), sequence_tokens=16)
    tokens.tokenize(params, corpus, out=Path(OUTS[0]), executor=executor)
    masked(corpus, executor)
    return stored()


def masked(corpus: Path, executor: Executor | None = None) -> None:
    params = MaskParams(rate=0.15, copies=2, seed=0, shard_rows=32)
    mask(params, corpus, sequences=Path(OUTS[0]), out=Path(OUTS[1]), executor=executor)


def stored() -> dict[str, bytes]:
    return {f"{out}/{name}": data for out in OUTS for name, data in folder_bytes(Path(out)).items()}


@pytest.fixture
def expected(corpus: Path, tiny_tokenizer: Path, workplace: Path) -> dict[str, bytes]:
    made = run(corpus, tiny_tokenizer)
    assert (
        min(Store(Path(OUTS[0]), Sequences).plan("train").shards, Store(Path(OUTS[1]), Masks).plan("train").shards) > 2
    )
    for out in (*OUTS, ".work"):
        Path(out).rename(f"{out}-alone")
    return made


@pytest.fixture(scope="module")
def workers() -> Iterator[DaskExecutor]:
    with dask_executor(settings(scheduler="processes", workers=2), gpu=False, command="tokenize") as made:
        yield made


@dataclass(frozen=True, kw_only=True)
class Dying(WrappedJob):
    """A job whose process kills itself, once, when it begins some parts and shards, or is halfway through a part."""

    deaths: tuple[str, ...]
    marks: Path

    def make_part(self, tools: Any, name: str, folder: Path, *, advance: Callable[[int], None]) -> None:
        (folder / "half").write_bytes(b"half")
        self._die(name)
        (folder / "half").unlink()
        super().make_part(tools, name, folder, advance=advance)

    def make(self, tools: Any, shard: Shard, *, advance: Callable[[int], None]) -> Any:
        self._die(str(shard))
        return super().make(tools, shard, advance=advance)

    def _die(self, what: str) -> None:
        mark = self.marks / f"{self.key.split()[0]}-{what.replace('/', '-')}"
        if what in self.deaths and not mark.exists():
            mark.touch()
            die()


@dataclass
class Deadly:
    """An executor some of whose workers die."""

    workers: DaskExecutor
    deaths: tuple[str, ...]
    marks: Path

    @property
    def resources(self) -> ResourceCache:
        return self.workers.resources

    def once(self, job: Any, work: Any) -> Any:
        return self.workers.once(job, work)

    def shards(self, job: Any, writer: StoreWriter, *, label: str) -> None:
        self.workers.shards(Dying(job=job, deaths=self.deaths, marks=self.marks), writer, label=label)

    def parts(self, job: Any, parts: Parts, sizes: Any, *, unit: str, label: str) -> None:
        self.workers.parts(Dying(job=job, deaths=self.deaths, marks=self.marks), parts, sizes, unit=unit, label=label)


def test_workers_that_are_killed_make_the_same_bytes(
    corpus: Path, tiny_tokenizer: Path, expected: dict[str, bytes], workers: DaskExecutor, workplace: Path
) -> None:
    (workplace / "marks").mkdir()
    deaths = ("windows/train/1", "masked/train/2", "train/1")
    assert run(corpus, tiny_tokenizer, Deadly(workers, deaths, workplace / "marks")) == expected
    assert sorted(path.name for path in (workplace / "marks").iterdir()) == [
        "mask-masked-train-2",
        "mask-train-1",
        "tokenize-train-1",
        "tokenize-windows-train-1",
    ]


def test_an_external_scheduler_s_workers_make_the_same_bytes(
    corpus: Path, tiny_tokenizer: Path, expected: dict[str, bytes]
) -> None:
    """Of a cluster that is given by its address, as `runtime.scheduler` has it."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=None, host="127.0.0.1",
        silence_logs=logging.CRITICAL,
    ) as cluster:  # fmt: skip
        scheduler = settings(scheduler=cluster.scheduler_address)
        with dask_executor(scheduler, gpu=False, command="tokenize") as several:
            assert run(corpus, tiny_tokenizer, several) == expected


DRIVER = """
import os, signal, sys
from pathlib import Path
from pipeline.text import tokenize as tokens
from pipeline.text.mask import mask
from pipeline.text.params import MaskParams, TokenizeParams
from storage.work import WorkFolder

lines, append = [0], WorkFolder.append
def dying(self, entry):
    if lines[0] == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    lines[0] += 1
    append(self, entry)
WorkFolder.append = dying
tokens.SHARD_SEQUENCES = 16
documents, sequences = Path(sys.argv[1]), Path("data/sequences")
tokens.tokenize(TokenizeParams(tokenizer=sys.argv[2], sequence_tokens=16), documents, out=sequences)
mask(MaskParams(rate=0.15, copies=2, seed=0, shard_rows=32), documents, sequences=sequences, out=Path("data/masks"))
"""


def test_a_driver_that_is_killed_again_and_again_ends_with_the_same_bytes(
    corpus: Path, tiny_tokenizer: Path, expected: dict[str, bytes], workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run is killed before the n-th journal line of its own; what was finished before is not done again."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    for lines in (0, 3, 7, 11):
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, str(corpus), str(tiny_tokenizer), str(lines)],
            env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == -signal.SIGKILL, done.stderr
    (journal,) = workplace.glob(".work/masks-*/journal.jsonl")
    before = {json.loads(line)["part"] for line in journal.read_text().splitlines()}
    assert before, "the runs together finished the first stage and came to the second"
    written: list[dict[str, Any]] = []
    append = WorkFolder.append
    monkeypatch.setattr(WorkFolder, "append", lambda self, entry: (written.append(entry), append(self, entry))[1])
    masked(corpus)
    assert not before & {entry.get("part") for entry in written}
    assert stored() == expected
