"""Stores behind URLs: sound, false and failing ones, and several readers of one cache.

Not checked here: real object stores, which differ from these only inside fsspec's drivers.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from storage import origins
from storage.atomic import held
from storage.documents import DocumentStore
from storage.errors import (
    DiskRefused,
    FetchFailed,
    ShardCorrupt,
    WorkBusy,
    WrongKind,
)
from storage.format.manifest import MANIFEST_BYTES_LIMIT
from storage.reader import Store
from storage.records.logits import SparseLogits
from storage.records.sequences import Masks
from storage.share.remote import fetch, open_remote
from storage.testing import samples

SHARD = "train/code_E/c/1"


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sealed")
    samples.write_logits(folder / "bert", folder / ".work")
    return folder / "bert"


class Handler(BaseHTTPRequestHandler):
    """Files of a folder, counted; `twist` may answer in its place."""

    protocol_version = "HTTP/1.1"

    def __init__(self, server: FolderServer, *args: Any) -> None:
        self.folder = server
        super().__init__(*args)

    def do_GET(self) -> None:
        name = self.path.removeprefix("/")
        with self.folder.lock:
            self.folder.asked.append(name)
        with contextlib.suppress(ConnectionError):
            if self.folder.twist is None or not self.folder.twist(self, name):
                self.whole(name)

    def whole(self, name: str) -> None:
        file = self.folder.root / name
        if not file.is_file():
            self.send_error(404)
            return
        self.answer(file.read_bytes())

    def answer(self, data: bytes, *, length: int | None = None, **headers: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


class FolderServer:
    """A web server of `root` in this process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.twist: Callable[[Handler, str], bool] | None = None
        self.asked: list[str] = []
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, self))
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def times(self, name: str) -> int:
        return self.asked.count(name)


@pytest.fixture
def web(sealed: Path) -> Iterator[FolderServer]:
    folder = FolderServer(sealed)
    thread = threading.Thread(target=folder.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield folder
    folder.server.shutdown()
    folder.server.server_close()
    thread.join()


def in_memory(store: Path) -> str:
    files = fsspec.filesystem("memory")
    for path in (path for path in store.rglob("*") if path.is_file()):
        files.pipe(f"/shelf/{store.name}/{path.relative_to(store).as_posix()}", path.read_bytes())
    return f"memory://shelf/{store.name}"


@pytest.fixture(params=["memory", "file", "http"])
def url(request: pytest.FixtureRequest, sealed: Path, web: FolderServer) -> Iterator[str]:
    yield {"memory": lambda: in_memory(sealed), "file": sealed.as_uri, "http": lambda: web.url}[request.param]()
    with contextlib.suppress(FileNotFoundError):
        fsspec.filesystem("memory").rm("/shelf", recursive=True)


def same(a: Any, b: Any) -> None:
    for name, values in a.arrays().items():
        np.testing.assert_array_equal(values, b.arrays()[name])


def partials(folder: Path) -> list[Path]:
    return list(folder.rglob(".*"))


def test_what_is_read_is_what_a_local_store_gives(url: str, sealed: Path, tmp_path: Path):
    found, expected = open_remote(url, SparseLogits, cache=tmp_path), Store(sealed, SparseLogits)
    assert found.identity == expected.identity
    same(found.shard("train", 1), expected.shard("train", 1))
    same(found.read("heldout"), expected.read("heldout"))
    np.testing.assert_array_equal(found.constant("prior"), expected.constant("prior"))
    assert found.bytes_on_disk("train") == expected.bytes_on_disk("train")
    assert partials(tmp_path) == []


def test_files_are_fetched_when_they_are_touched_and_once(web: FolderServer, tmp_path: Path):
    store = open_remote(web.url, SparseLogits, cache=tmp_path)
    assert web.asked == ["manifest.json"]
    store.shard("train", 1)
    touched = set(web.asked)
    assert SHARD in touched
    assert not any("/c/0" in name or name.startswith("heldout") for name in touched if name.startswith("train/"))
    store.shard("train", 1)
    again = open_remote(web.url, SparseLogits, cache=tmp_path)
    again.shard("train", 1)
    assert web.times("manifest.json") == 2
    assert len(web.asked) == len(touched) + 1


def test_a_fetched_store_is_a_plain_store(url: str, sealed: Path, tmp_path: Path):
    fetch(url, tmp_path / "logits" / "bert")
    assert samples.file_hashes(tmp_path / "logits" / "bert") == samples.file_hashes(sealed)
    assert [path.name for path in (tmp_path / "logits").iterdir()] == ["bert"]


def test_documents_are_fetched_as_well(tmp_path: Path):
    samples.write_sample_documents(tmp_path / "documents", tmp_path / ".work")
    fetch((tmp_path / "documents").as_uri(), tmp_path / "copy")
    assert DocumentStore(tmp_path / "copy").read("heldout").equals(samples.TABLES["heldout"])


def test_fetching_again_does_nothing_and_another_store_stays(web: FolderServer, tmp_path: Path):
    out = tmp_path / "bert"
    fetch(web.url, out)
    before = len(web.asked)
    fetch(web.url, out)
    assert web.asked[before:] == ["manifest.json"]
    samples.edit_manifest(out, {"facts": {}}, resealed=True)
    kept = samples.file_hashes(out)
    with pytest.raises(FetchFailed, match=r"bert: is there already, and is not the store of http://.*Remove it"):
        fetch(web.url, out)
    assert samples.file_hashes(out) == kept


@pytest.mark.parametrize("damage", [samples.flip, Path.unlink])
def test_a_damaged_copy_at_the_output_is_not_taken_for_the_store(
    web: FolderServer, tmp_path: Path, damage: Callable[[Path], object]
):
    out = tmp_path / "bert"
    fetch(web.url, out)
    damage(out / SHARD)
    kept = samples.file_hashes(out)
    with pytest.raises(ShardCorrupt, match=f"{SHARD}.*is this store, damaged: remove it, and run the same again"):
        fetch(web.url, out)
    assert samples.file_hashes(out) == kept


def test_an_interrupted_fetch_continues(web: FolderServer, tmp_path: Path):
    web.twist = lambda handler, name: name == SHARD and handler.send_error(500) is None
    with pytest.raises(FetchFailed, match="500"):
        fetch(web.url, tmp_path / "bert")
    assert not (tmp_path / "bert").exists()
    assert web.times(SHARD) == origins.TRIES
    fetched = {path.name for path in (tmp_path / ".bert.fetch").rglob("*") if path.is_file()}
    assert "zarr.json" in fetched
    web.twist, web.asked = None, []
    fetch(web.url, tmp_path / "bert")
    assert SHARD in web.asked
    assert "constants/order_V/zarr.json" not in web.asked
    assert samples.file_hashes(tmp_path / "bert") == samples.file_hashes(web.root)


def test_two_fetches_to_one_place_at_once(web: FolderServer, tmp_path: Path):
    (tmp_path / ".bert.fetch").mkdir()
    with held(tmp_path / ".bert.fetch" / "lock", wait=False):
        with pytest.raises(WorkBusy, match="another process writes it"):
            fetch(web.url, tmp_path / "bert")


def lies() -> dict[str, tuple[Callable[[Handler, bytes], object], str]]:
    """Answers in place of a file's bytes, and what is said of them."""

    def endless(handler: Handler, data: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        while True:  # until the reader has enough
            handler.wfile.write(bytes(2**20))

    def torn(handler: Handler, data: bytes) -> None:
        handler.answer(data[:-1], length=len(data))
        handler.close_connection = True

    return {
        "wrong": (lambda handler, data: handler.answer(bytes(len(data))), "expected .* bytes, sha256 .* got"),
        "short": (lambda handler, data: handler.answer(data[:-1]), "expected .* got"),
        "empty": (lambda handler, data: handler.answer(b""), "expected .* got 0 bytes"),
        "torn": (torn, "cannot be fetched: .*ClientPayloadError.* Run the same again; fetched files are kept"),
        "endless": (endless, "expected .* bytes, sha256"),
        "gzip": (lambda handler, data: handler.answer(data, Content_Encoding="gzip"), ""),
        "longer": (lambda handler, data: handler.answer(data + b"more"), ""),
        "missing": (lambda handler, data: handler.send_error(404), "code_E/c/1: is not there. Check the address"),
        "forbidden": (lambda handler, data: handler.send_error(403), "cannot be fetched: .*403"),
        "silent": (lambda handler, data: handler.connection.shutdown(socket.SHUT_RDWR), "ServerDisconnected"),
    }


@pytest.mark.parametrize("kind", sorted(lies()))
def test_a_server_that_lies(web: FolderServer, tmp_path: Path, kind: str):
    answer, said = lies()[kind]
    web.twist = lambda handler, name: name == SHARD and answer(handler, (web.root / name).read_bytes()) is None
    store = open_remote(web.url, SparseLogits, cache=tmp_path)
    if said:
        with pytest.raises(FetchFailed, match=said) as refused:
            store.shard("train", 1)
        assert "\n" not in str(refused.value)
        assert not (store.path / SHARD).exists()
        web.twist = None
    same(store.shard("train", 1), Store(web.root, SparseLogits).shard("train", 1))
    assert partials(tmp_path) == []


def test_no_byte_more_is_read_than_the_manifest_says(sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = tmp_path / "bert"
    shutil.copytree(sealed, store)
    opened: list[str] = []
    local = type(fsspec.filesystem("file"))
    plain_open = local.open
    monkeypatch.setattr(
        local, "open", lambda self, path, *args, **more: opened.append(path) or plain_open(self, path, *args, **more)
    )
    with (store / SHARD).open("ab") as stream:
        stream.truncate(2**40)  # a hole of a terabyte
    reader = open_remote(store.as_uri(), SparseLogits, cache=tmp_path / "cache")
    size = (sealed / SHARD).stat().st_size
    with pytest.raises(FetchFailed, match=rf"{SHARD}: expected {size} bytes; got {2**40} bytes"):
        reader.shard("train", 1)
    assert opened
    assert not any(path.endswith(SHARD) for path in opened)


def test_a_connection_that_breaks_once_is_tried_again(web: FolderServer, tmp_path: Path):
    def break_once(handler: Handler, name: str) -> bool:
        if name != SHARD or web.times(SHARD) > 1:
            return False
        handler.answer(b"x", length=100)
        handler.close_connection = True
        return True

    web.twist = break_once
    found = open_remote(web.url, SparseLogits, cache=tmp_path).shard("train", 1)
    same(found, Store(web.root, SparseLogits).shard("train", 1))
    assert web.times(SHARD) == 2


def test_two_readers_of_one_cache_fetch_each_file_once(web: FolderServer, tmp_path: Path):
    begun = threading.Barrier(2)

    def read(_: int) -> SparseLogits:
        store = open_remote(web.url, SparseLogits, cache=tmp_path)
        begun.wait(timeout=20)
        return store.read("train")

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(read, range(2))
    same(one, other)
    shards = [name for name in web.asked if "/c/" in name]
    assert len(shards) == len(set(shards))
    assert partials(tmp_path) == []


@pytest.mark.parametrize("damage", [samples.flip, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_damaged_cache_is_mended(web: FolderServer, tmp_path: Path, damage: Callable[[Path], object]):
    store = open_remote(web.url, SparseLogits, cache=tmp_path)
    expected = store.shard("train", 1)
    (store.path / SHARD).with_name(".1.partial").write_bytes(b"left by a killed process")
    for name in (SHARD, "manifest.json", "constants/order_V/zarr.json"):
        damage(store.path / name)
    again = open_remote(web.url, SparseLogits, cache=tmp_path)
    same(again.shard("train", 1), expected)
    assert partials(tmp_path) == []
    assert samples.file_hashes(again.path).items() <= samples.file_hashes(web.root).items()


def test_an_updated_store_is_another_folder_of_the_cache(sealed: Path, tmp_path: Path):
    store = tmp_path / "bert"
    shutil.copytree(sealed, store)
    old = open_remote(store.as_uri(), SparseLogits, cache=tmp_path / "cache")
    samples.edit_manifest(store, {"facts": {"vocabulary": samples.VOCABULARY}}, resealed=True)
    new = open_remote(store.as_uri(), SparseLogits, cache=tmp_path / "cache")
    assert old.path != new.path
    assert old.facts != new.facts


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("memory://nowhere", "memory://nowhere/manifest.json: is not there. Check the address"),
        ("file:///nowhere/at/all", "manifest.json: is not there"),
        ("gopher://shelf/bert", "gopher://shelf/bert: cannot be opened: .*Protocol not known"),
        ("simplecache::file:///shelf", "expected the plain address of a folder"),
        ("https://shelf.example/bert?key=1", "expected the plain address of a folder"),
        ("http://127.0.0.1:1/bert", "127.0.0.1:1/bert/manifest.json: cannot be fetched: .*Cannot connect"),
    ],
)
def test_what_is_not_there(url: str, said: str, tmp_path: Path):
    for attempt in (lambda: open_remote(url, SparseLogits, cache=tmp_path / "c"), lambda: fetch(url, tmp_path / "s")):
        with pytest.raises(FetchFailed, match=said) as refused:
            attempt()
        assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_a_page_is_no_manifest(web: FolderServer, tmp_path: Path):
    web.twist = lambda handler, name: handler.answer(b"<html>Sign in</html>") is None
    with pytest.raises(FetchFailed, match=r"/manifest.json: not a manifest .* Check the address"):
        open_remote(web.url, SparseLogits, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_manifest_without_end(web: FolderServer, tmp_path: Path):
    endless, _ = lies()["endless"]
    web.twist = lambda handler, name: endless(handler, b"") is None
    with pytest.raises(FetchFailed, match=f"a manifest has at most {MANIFEST_BYTES_LIMIT}"):
        fetch(web.url, tmp_path / "bert")
    assert list(tmp_path.iterdir()) == []


def test_another_kind(web: FolderServer, tmp_path: Path):
    with pytest.raises(WrongKind, match=r"expected a store of masks, got logits. Ask the owner of http://"):
        open_remote(web.url, Masks, cache=tmp_path)


def test_a_link_in_the_cache_is_refused(web: FolderServer, tmp_path: Path):
    store = open_remote(web.url, SparseLogits, cache=tmp_path / "cache")
    (tmp_path / "elsewhere").mkdir()
    (store.path / "train").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ShardCorrupt, match="a symbolic link"):
        store.shard("train", 1)


def test_a_cache_that_cannot_be_written(web: FolderServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = open_remote(web.url, SparseLogits, cache=tmp_path)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", "shard")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(DiskRefused, match="the disk is full"):
        store.shard("train", 1)
    assert partials(tmp_path) == []
