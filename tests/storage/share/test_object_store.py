"""Stores in a bucket of a local server that speaks S3: sent and killed, read through a cache of few bytes."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import s3fs

from storage.errors import FetchFailed, StoreError, StoreMissing
from storage.format.manifest_parse import read_manifest
from storage.origins import ORIGIN
from storage.reader import Store
from storage.records.logits import SparseLogits
from storage.share.remote import fetch, local_folder, open_remote, outlet, put
from storage.testing import samples
from tests.helpers.buckets import s3_server, shelf

ROOT = Path(__file__).parents[3]
KILLED = """
import os, signal, sys
from pathlib import Path
from storage import origins
from storage.share.remote import put
sent = []
send = origins.Origin.send
def counted(self, file, name):
    if len(sent) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    send(self, file, name)
    sent.append(name)
origins.Origin.send = counted
import storage.share.remote as remote
remote.TRANSFERS = 1
put(Path(sys.argv[1]), sys.argv[2])
"""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3fs.S3FileSystem]:
    with shelf(server, monkeypatch) as files:
        yield files


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    samples.write_logits(tmp_path / "bert", tmp_path / ".work")
    return tmp_path / "bert"


def test_a_store_in_a_bucket_is_the_store(sealed: Path, bucket: s3fs.S3FileSystem, tmp_path: Path) -> None:
    files = len(samples.file_hashes(sealed))
    assert put(sealed, "s3://shelf/logits/bert", work=tmp_path / "put") == files
    assert put(sealed, "s3://shelf/logits/bert", work=tmp_path / "put") == 0
    fetch("s3://shelf/logits/bert", tmp_path / "fetched")
    assert samples.file_hashes(tmp_path / "fetched") == samples.file_hashes(sealed)
    found = open_remote("s3://shelf/logits/bert", SparseLogits, cache=tmp_path / "cache")
    for name, values in Store(sealed, SparseLogits).read("train").arrays().items():
        np.testing.assert_array_equal(found.read("train").arrays()[name], values)


@pytest.mark.parametrize("sent", [0, 3, 12])
def test_a_killed_upload_leaves_no_store_and_continues(
    sealed: Path, bucket: s3fs.S3FileSystem, tmp_path: Path, sent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, files = "s3://shelf/bert", len(samples.file_hashes(sealed))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    killed = subprocess.run([sys.executable, "-c", KILLED, str(sealed), url, str(sent)], cwd=tmp_path, check=False)
    assert killed.returncode == -signal.SIGKILL
    bucket.invalidate_cache()
    assert len(bucket.find("shelf")) == sent
    with pytest.raises(FetchFailed, match=r"s3://shelf/bert/manifest.json: is not there"):
        open_remote(url, SparseLogits, cache=tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    # A file that was sent, but whose name was not noted any more, is sent again.
    assert files - sent <= put(sealed, url) <= files - sent + 1
    fetch(url, tmp_path / "fetched")
    assert samples.file_hashes(tmp_path / "fetched") == samples.file_hashes(sealed)


def test_another_store_is_replaced_only_when_told(sealed: Path, bucket: s3fs.S3FileSystem, tmp_path: Path) -> None:
    put(sealed, "s3://shelf/bert", work=tmp_path)
    reader = open_remote("s3://shelf/bert", SparseLogits, cache=tmp_path / "cache")
    samples.edit_manifest(sealed, {"facts": {"vocabulary": samples.VOCABULARY, "again": True}}, resealed=True)
    with pytest.raises(StoreError, match=r"s3://shelf/bert: another store is there\. Name another address"):
        put(sealed, "s3://shelf/bert", work=tmp_path)
    put(sealed, "s3://shelf/bert", replace=True, work=tmp_path)
    assert open_remote("s3://shelf/bert", SparseLogits, cache=tmp_path / "cache").facts["again"]
    assert "again" not in reader.facts


def test_a_cache_of_few_bytes_reads_everything(
    sealed: Path, bucket: s3fs.S3FileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(sealed, "s3://shelf/bert", work=tmp_path)
    whole, plan = Store(sealed, SparseLogits), Store(sealed, SparseLogits).plan("train")
    shards = read_manifest(sealed).shards
    largest = max(sum(entry.bytes for entry in shard.files.values()) for shard in shards)
    total = sum(whole.bytes_on_disk(split) for split in samples.SPLITS)
    assert total > 2 * largest
    store = open_remote("s3://shelf/bert", SparseLogits, cache=tmp_path / "cache", most_bytes=largest)
    for _ in range(2):
        for index in range(plan.shards):
            for name, values in whole.shard("train", index).arrays().items():
                np.testing.assert_array_equal(store.shard("train", index).arrays()[name], values)
            kept = sum(path.stat().st_size for path in store.path.glob("*/*/c/**/*") if path.is_file())
            assert kept <= largest
    for name, values in whole.read("train").arrays().items():
        np.testing.assert_array_equal(store.read("train").arrays()[name], values)
    assert not list(sealed.parent.glob(f"*{ORIGIN}")), "only a cache says where files are from"


def test_a_folder_of_stores_is_listed(
    sealed: Path, bucket: s3fs.S3FileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("fox", "bert"):
        put(sealed, f"s3://shelf/logits/{name}")
    bucket.pipe_file("shelf/logits/unfinished/train/count_P/c/0", b"")
    found = local_folder("s3://shelf/logits/")
    assert sorted(path.name for path in found.iterdir()) == ["bert", "fox"]
    assert Store(found / "fox", SparseLogits).shard("train", 0) is not None
    assert local_folder(tmp_path) == tmp_path


def test_an_outlet_puts_what_was_sealed_and_nothing_after_an_exception(
    bucket: s3fs.S3FileSystem, tmp_path: Path
) -> None:
    def interrupted() -> None:
        with outlet("s3://shelf/bert", work=tmp_path) as folder:
            samples.write_logits(folder, tmp_path / ".work")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not bucket.exists("shelf/bert/manifest.json")
    with outlet("s3://shelf/bert", work=tmp_path) as folder:
        samples.write_logits(folder, tmp_path / ".work")
    assert not folder.exists()
    assert len(open_remote("s3://shelf/bert", SparseLogits, cache=tmp_path / "cache").read("train")) > 0
    with outlet(str(tmp_path / "plain"), work=tmp_path) as folder:
        assert folder == tmp_path / "plain"
    with pytest.raises(StoreMissing):
        Store(folder, SparseLogits)
