"""One file for a store: equal stores give equal bytes, and an archive with anything else publishes nothing."""

from __future__ import annotations

import fcntl
import io
import shutil
import signal
import subprocess
import sys
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.atomic import disk
from storage.errors import (
    ArchiveRefused,
    DiskRefused,
    SchemaMismatch,
    ShardCorrupt,
    StoreMissing,
    WorkBusy,
)
from storage.format.manifest import MANIFEST_BYTES_LIMIT
from storage.share import archive
from storage.share.archive import pack, unpack
from storage.testing import fixtures, samples

Members = list[tuple[tarfile.TarInfo, bytes]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one store of each kind and the archive of the logits; nobody changes it."""
    folder = tmp_path_factory.mktemp("made")
    for kind in fixtures.KINDS:
        fixtures.write(kind, folder / kind, folder / "work", seed=1)
    pack(folder / "logits", folder / "logits.tar")
    return folder


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "logits", tmp_path / "logits"))


def members_of(path: Path) -> Members:
    with tarfile.open(path) as tar:
        return [(info, b"".join(filter(None, [tar.extractfile(info).read()]))) for info in tar]  # type: ignore[union-attr]


def build(path: Path, members: Members) -> Path:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return path


def member(
    name: str, data: bytes = b"", *, kind: bytes = tarfile.REGTYPE, target: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, len(data), target
    return info, data


def nothing_at(folder: Path) -> bool:
    """Neither an output nor anything hidden beside it."""
    return not [path for path in folder.iterdir() if path.name.lstrip(".").startswith("out")]


# There and back


@pytest.mark.parametrize("kind", fixtures.KINDS)
def test_a_store_of_any_kind_comes_back_as_it_was(made: Path, tmp_path: Path, kind: str) -> None:
    sent = pack(made / kind, tmp_path / "x.tar")
    got = unpack(tmp_path / "x.tar", tmp_path / "deep" / "out")
    assert sent == got
    assert samples.file_hashes(tmp_path / "deep" / "out") == samples.file_hashes(made / kind)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


def test_equal_stores_give_equal_archives(made: Path, store: Path, tmp_path: Path) -> None:
    for number, path in enumerate(sorted(store.rglob("*"))):
        path.chmod(0o755 if path.is_dir() else 0o600 + 64 * (number % 2))
    pack(store, tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == (made / "logits.tar").read_bytes()


def test_any_tar_reads_it(made: Path) -> None:
    with tarfile.open(made / "logits.tar") as tar:
        found = tar.getmembers()
        names = [info.name for info in found]
        assert {(info.mode, info.mtime, info.uid, info.gid, info.uname, info.gname) for info in found} == {
            (0o644, 0, 0, 0, "", "")
        }
    assert names == ["manifest.json", *sorted(samples.file_hashes(made / "logits").keys() - {"manifest.json"})]
    assert (made / "logits.tar").stat().st_size % 10240 == 0


def test_one_that_tar_made_is_read(made: Path, tmp_path: Path) -> None:
    names = sorted(samples.file_hashes(made / "logits"), key=lambda name: (name != "manifest.json", name))
    command = ["tar", "--format=ustar", "-cf", str(tmp_path / "x.tar"), "-C", str(made / "logits"), *names]
    subprocess.run(command, check=True, timeout=60)
    unpack(tmp_path / "x.tar", tmp_path / "out")
    assert samples.file_hashes(tmp_path / "out") == samples.file_hashes(made / "logits")


@pytest.mark.parametrize("size", [0, 511, 8**11 - 1, 8**11, 2**40])
def test_a_header_holds_any_size(size: int) -> None:
    block = archive._header_of(Path("s"), "train.arrow", size)
    assert len(block) == tarfile.BLOCKSIZE
    assert tarfile.TarInfo.frombuf(block, "ascii", "strict").size == size


@pytest.mark.parametrize(("name", "size"), [("a" * 128, 1), ("/".join(["a" * 60] * 8), 1), ("a/" + "b" * 110, 2**40)])
def test_a_name_too_long_for_a_header_is_refused(name: str, size: int) -> None:
    with pytest.raises(ArchiveRefused, match=r"cannot stand in a tar header .*too long.* Copy the folder"):
        archive._header_of(Path("s"), name, size)


# Packing


def test_what_is_not_listed_stays_behind(made: Path, store: Path, tmp_path: Path) -> None:
    (store / ".DS_Store").write_bytes(b"x")
    pack(store, tmp_path / "x.tar")
    assert (tmp_path / "x.tar").read_bytes() == (made / "logits.tar").read_bytes()


def _some_file(store: Path) -> Path:
    return store / "train" / "code_E" / "c" / "1"


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped": (lambda store: samples.flip(_some_file(store)), "expected sha256 .*, got"),
    "longer": (lambda store: _some_file(store).write_bytes(_some_file(store).read_bytes() + b"x"), "got more"),
    "shorter": (lambda store: _some_file(store).write_bytes(b"x"), r"expected \d+ bytes, got 1"),
    "missing": (lambda store: _some_file(store).unlink(), "missing, or no plain file"),
    "a link": (lambda store: (_some_file(store).unlink(), _some_file(store).symlink_to("0")), "a symbolic link"),
    "a folder": (lambda store: (_some_file(store).unlink(), _some_file(store).mkdir()), "no plain file"),
}


@pytest.mark.parametrize("fault", DAMAGE)
def test_a_damaged_store_is_not_packed(store: Path, tmp_path: Path, fault: str) -> None:
    """The archive of before stays as it was."""
    harm, message = DAMAGE[fault]
    harm(store)
    (tmp_path / "out.tar").write_bytes(b"before")
    with pytest.raises(ShardCorrupt, match=f"train/code_E/c/1.*{message}.*Nothing was exported"):
        pack(store, tmp_path / "out.tar")
    assert (tmp_path / "out.tar").read_bytes() == b"before"
    assert {path.name for path in tmp_path.iterdir()} == {"logits", "out.tar"}


def test_no_store_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing, match="no sealed store here"):
        pack(tmp_path, tmp_path / "out.tar")
    assert not list(tmp_path.iterdir())


def test_an_edited_manifest_is_not_packed(store: Path, tmp_path: Path) -> None:
    samples.edit_manifest(store, {"facts": {}}, resealed=False)
    with pytest.raises(SchemaMismatch, match="changed since it was sealed"):
        pack(store, tmp_path / "out.tar")


@pytest.mark.parametrize("place", ["", "logits/x.tar", "logits/train/x.tar"])
def test_an_archive_goes_elsewhere(store: Path, tmp_path: Path, place: str) -> None:
    with pytest.raises(ArchiveRefused, match="a folder, or in the store itself"):
        pack(store, tmp_path / place)


def test_two_exports_to_one_place_are_refused(store: Path, tmp_path: Path) -> None:
    with (tmp_path / ".x.tar.export").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(WorkBusy, match=r"another process writes it"):
            pack(store, tmp_path / "x.tar")
    pack(store, tmp_path / "x.tar")
    assert not (tmp_path / ".x.tar.export").exists()


def test_a_place_that_cannot_be_written_is_named(store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArchiveRefused, match="Nothing was published"):
        pack(store, tmp_path / "file" / "x.tar")


# Unpacking: what is refused


def _inserted(place: int, *new: tuple[tarfile.TarInfo, bytes]) -> Callable[[Members], Members]:
    return lambda members: [*members[:place], *new, *members[place:]]


def _renamed(name: str) -> Callable[[Members], Members]:
    return lambda members: [*members[:-1], member(name, members[-1][1])]


def _with_data(change: Callable[[bytes], bytes]) -> Callable[[Members], Members]:
    return lambda members: [*members[:-1], member(members[-1][0].name, change(members[-1][1]))]


LINK, HARD, DEVICE, PIPE, FOLDER = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE
EVIL: dict[str, tuple[Callable[[Members], Members], str]] = {
    "empty": (lambda members: [], "expected manifest.json as its first member, got nothing"),
    "manifest later": (lambda members: [members[1], members[0], *members[2:]], "expected manifest.json as its first"),
    "manifest a link": (_inserted(0, member("manifest.json", kind=LINK, target="/etc/passwd")), "its first member"),
    "manifest too long": (
        lambda members: [member("manifest.json", bytes(MANIFEST_BYTES_LIMIT + 1)), *members[1:]],
        "at most .* are read",
    ),
    "no manifest": (lambda members: [member("manifest.json", b"{}"), *members[1:]], "not a manifest of this format"),
    "two manifests": (lambda members: [members[0], *members], "manifest.json is not listed in the manifest"),
    "symbolic link": (_inserted(3, member("train/x", kind=LINK, target="/etc/passwd")), "'train/x': a symbolic link"),
    "hard link": (_inserted(3, member("train/x", kind=HARD, target="manifest.json")), "'train/x': a hard link"),
    "device": (_inserted(3, member("train/x", kind=DEVICE)), "'train/x': a device"),
    "pipe": (_inserted(3, member("train/x", kind=PIPE)), "'train/x': a pipe"),
    "folder": (_inserted(1, member("train", kind=FOLDER)), "'train': a folder"),
    "extended header": (_inserted(1, member("x", b"11 path=/x\n", kind=tarfile.XHDTYPE)), "a member of type 'x'"),
    "long name": (_inserted(1, member("././@LongLink", b"/x\0", kind=tarfile.GNUTYPE_LONGNAME)), "of type 'L'"),
    "sparse": (_inserted(1, member("train/x", kind=tarfile.GNUTYPE_SPARSE)), "a member of type 'S'"),
    "absolute": (_renamed("/etc/cron.d/x"), "expected a plain relative path, got '/etc/cron.d/x'"),
    "upward": (_renamed("../x"), "expected a plain relative path, got '../x'"),
    "upward inside": (_renamed("train/../../x"), "expected a plain relative path"),
    "dot": (_renamed("./manifest.json"), "expected a plain relative path"),
    "backslash": (_renamed("train\\x"), "expected a plain relative path"),
    "no ASCII": (_renamed("tr\udcffin"), r"got 'tr.udcffin'"),
    "unlisted": (_renamed("train/other"), "train/other is not listed in the manifest"),
    "duplicate": (lambda members: [*members, members[-1]], "is there twice"),
    "cut short": (lambda members: members[:-20], r"truncated: \d+ bytes follow the manifest, which lists \d+"),
    "longer": (_with_data(lambda data: data + b"x"), r"expected \d+ bytes, got \d+"),
    "shorter": (_with_data(lambda data: data[:-1]), r"expected \d+ bytes, got \d+"),
    "other bytes": (_with_data(lambda data: data[:-1] + bytes([data[-1] ^ 1])), r"expected sha256 \w+, got"),
}


@pytest.mark.parametrize("fault", EVIL)
def test_anything_but_the_files_of_one_store_is_refused(made: Path, tmp_path: Path, fault: str) -> None:
    change, message = EVIL[fault]
    path = build(tmp_path / "x.tar", change(members_of(made / "logits.tar")))
    with pytest.raises(ArchiveRefused, match=f"x.tar: .*{message}") as refused:
        unpack(path, tmp_path / "out")
    assert "\n" not in str(refused.value)
    assert str(refused.value).endswith(archive.FETCH_AGAIN)
    assert nothing_at(tmp_path)


def test_a_huge_member_is_not_read(made: Path, tmp_path: Path) -> None:
    """The header alone claims 2**40 bytes; sparse, so that the archive itself has them."""
    members = members_of(made / "logits.tar")
    path = build(tmp_path / "x.tar", members[:-1])
    block = archive._header_of(Path("s"), members[-1][0].name, 2**40)
    whole = path.read_bytes().rstrip(b"\0")
    at = -(-len(whole) // 512) * 512
    with path.open("r+b") as stream:
        stream.seek(at)
        stream.write(block)
        stream.truncate(at + 2**40)
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveRefused, match=f"expected .* bytes, got {2**40}"):
            unpack(path, tmp_path / "out")
        assert tracemalloc.get_traced_memory()[1] < 8 * archive.READ_BYTES
    finally:
        tracemalloc.stop()
    assert nothing_at(tmp_path)


def test_a_file_in_the_folder_of_a_file_is_refused(store: Path, tmp_path: Path) -> None:
    entry = {"bytes": 0, "sha256": archive._sha256(b"")}
    samples.edit_manifest(
        store, {"files": {**samples.manifest_of(store)["files"], "x": entry, "x/y": entry}}, resealed=True
    )
    path = build(tmp_path / "x.tar", [member("manifest.json", (store / "manifest.json").read_bytes())])
    with pytest.raises(ArchiveRefused, match="x/y is listed in the folder of a file"):
        unpack(path, tmp_path / "out")


def test_a_missing_file_is_named(made: Path, tmp_path: Path) -> None:
    """The end stands where the last file should be."""
    whole = (made / "logits.tar").read_bytes()
    last, _ = members_of(made / "logits.tar")[-1]
    at = whole.rindex(last.name.encode())
    (tmp_path / "x.tar").write_bytes(whole[:at] + bytes(len(whole) - at))
    with pytest.raises(ArchiveRefused, match=rf"1 of \d+ files are missing, first {last.name}"):
        unpack(tmp_path / "x.tar", tmp_path / "out")
    assert nothing_at(tmp_path)


@pytest.mark.parametrize("data", [b"", b"x", b"\x1f\x8b" + bytes(600), b"PK\x03\x04" * 300, b"a" * 10240])
def test_no_tar_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(ArchiveRefused, match=r"no tar header|first member"):
        unpack(tmp_path / "x.tar", tmp_path / "out")
    assert nothing_at(tmp_path)


def test_something_after_the_end_is_refused(made: Path, tmp_path: Path) -> None:
    whole = (made / "logits.tar").read_bytes()
    for rest in (b"x", bytes(20480)):
        (tmp_path / "x.tar").write_bytes(whole + rest)
        with pytest.raises(ArchiveRefused, match="something follows its end"):
            unpack(tmp_path / "x.tar", tmp_path / "out")
    assert nothing_at(tmp_path)


@settings(max_examples=60, deadline=None)
@given(cut=st.floats(0, 1))
def test_a_truncated_one_is_refused(made: Path, tmp_path_factory: pytest.TempPathFactory, cut: float) -> None:
    folder = tmp_path_factory.mktemp("cut")
    whole = (made / "logits.tar").read_bytes().rstrip(b"\0")
    (folder / "x.tar").write_bytes(whole[: int(cut * len(whole))])
    with pytest.raises(ArchiveRefused, match=r"truncated|no tar header"):
        unpack(folder / "x.tar", folder / "out")
    assert nothing_at(folder)
    shutil.rmtree(folder)


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_a_changed_byte_never_changes_what_is_published(
    made: Path, tmp_path_factory: pytest.TempPathFactory, place: float, value: int
) -> None:
    """Either it is refused, or it was one of those that mean nothing: times, owners, padding."""
    folder = tmp_path_factory.mktemp("byte")
    whole = bytearray((made / "logits.tar").read_bytes())
    whole[int(place * len(whole))] = value
    (folder / "x.tar").write_bytes(whole)
    try:
        unpack(folder / "x.tar", folder / "out")
    except ArchiveRefused:
        assert nothing_at(folder)
    else:
        assert samples.file_hashes(folder / "out") == samples.file_hashes(made / "logits")
    shutil.rmtree(folder)


@settings(max_examples=60, deadline=None)
@given(block=st.binary(min_size=512, max_size=512), sealed=st.booleans())
def test_any_header_is_understood_or_refused(
    made: Path, tmp_path_factory: pytest.TempPathFactory, block: bytes, sealed: bool
) -> None:
    if sealed:  # with the checksum that tar wants
        block = block[:148] + b"%06o\0 " % sum(block[:148] + b" " * 8 + block[156:]) + block[156:]
    folder = tmp_path_factory.mktemp("header")
    whole = (made / "logits.tar").read_bytes()
    after = 512 + -(-(made / "logits" / "manifest.json").stat().st_size // 512) * 512
    (folder / "x.tar").write_bytes(whole[:after] + block + whole[after:])
    with pytest.raises(ArchiveRefused):
        unpack(folder / "x.tar", folder / "out")
    assert nothing_at(folder)
    shutil.rmtree(folder)


# Unpacking: where


def test_the_same_store_is_left_as_it_is(made: Path, store: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    unpack(made / "logits.tar", store)
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before


@pytest.mark.parametrize("fault", DAMAGE)
def test_a_damaged_copy_at_the_output_is_not_taken_for_the_store(made: Path, store: Path, fault: str) -> None:
    """Its manifest is that of the archive; what its files hold must be looked at all the same."""
    DAMAGE[fault][0](store)
    kept = samples.file_hashes(store)
    with pytest.raises(ShardCorrupt, match=r"train/code_E/c/1.*is this store, damaged: remove it, and run the same"):
        unpack(made / "logits.tar", store)
    assert samples.file_hashes(store) == kept


def test_another_thing_at_the_output_is_kept(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "masks", tmp_path / "masks")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("nowhere")
    before = samples.file_hashes(tmp_path)
    for name in ("masks", "folder", "file", "link"):
        with pytest.raises(ArchiveRefused, match=f"{name}: is there already, and is not the store of"):
            unpack(made / "logits.tar", tmp_path / name)
    assert samples.file_hashes(tmp_path) == before


def test_no_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ArchiveRefused, match=r"x.tar: No such file"):
        unpack(tmp_path / "x.tar", tmp_path / "out")
    with pytest.raises(ArchiveRefused, match="folder: no plain file"):
        unpack(tmp_path / "folder", tmp_path / "out")


def test_two_imports_to_one_place_are_refused(made: Path, tmp_path: Path) -> None:
    (tmp_path / ".out.import").mkdir()
    with (tmp_path / ".out.import" / "lock").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(WorkBusy, match="another process writes it"):
            unpack(made / "logits.tar", tmp_path / "out")
    unpack(made / "logits.tar", tmp_path / "out")


CHILD = """
import os, signal, sys
from pathlib import Path
from storage.share import archive
copy, left = archive._copy, int(sys.argv[3])
def dying(*arguments):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return copy(*arguments)
archive._copy = dying
getattr(archive, sys.argv[4])(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def kill_in(task: str, source: Path, out: Path, *, after: int) -> None:
    """Run pack or unpack in a process that is killed in the middle, after so many files."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(source), str(out), str(after), task], timeout=120, check=False
    )
    assert done.returncode == -signal.SIGKILL


def test_a_killed_import_leaves_nothing_and_runs_again(made: Path, tmp_path: Path) -> None:
    for after in (1, 20):
        kill_in("unpack", made / "logits.tar", tmp_path / "out", after=after)
        assert not (tmp_path / "out").exists()
        assert len(samples.file_hashes(tmp_path / ".out.import" / "content")) >= after
    unpack(made / "logits.tar", tmp_path / "out")
    assert samples.file_hashes(tmp_path) == {
        f"out/{name}": found for name, found in samples.file_hashes(made / "logits").items()
    }


def test_a_killed_export_leaves_nothing_and_runs_again(made: Path, tmp_path: Path) -> None:
    kill_in("pack", made / "logits", tmp_path / "out.tar", after=20)
    assert not (tmp_path / "out.tar").exists()
    pack(made / "logits", tmp_path / "out.tar")
    assert [path.name for path in tmp_path.iterdir()] == ["out.tar"]
    assert (tmp_path / "out.tar").read_bytes() == (made / "logits.tar").read_bytes()


LIMITED = """
import resource, signal, sys
from pathlib import Path
from storage.share import archive
from storage.errors import DiskRefused
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
try:
    getattr(archive, sys.argv[3])(Path(sys.argv[1]), Path(sys.argv[2]))
except DiskRefused as error:
    print(error)
"""


@pytest.mark.parametrize("task", ["pack", "unpack"])
def test_a_full_disk_is_named_and_nothing_is_left(made: Path, tmp_path: Path, task: str) -> None:
    source = made / ("logits.tar" if task == "unpack" else "logits")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(source), str(tmp_path / "out"), task],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "the file would be larger than is allowed. Nothing was published" in done.stdout
    assert not list(tmp_path.iterdir())


def test_disk_errors_are_told_from_others(tmp_path: Path) -> None:
    with (
        pytest.raises(DiskRefused, match=r"x: the disk is full. Nothing was published"),
        disk(tmp_path, ArchiveRefused),
    ):
        raise OSError(28, "No space left on device", "x")
    with pytest.raises(ArchiveRefused, match="x: Not a directory"), disk(tmp_path, ArchiveRefused):
        raise OSError(20, "Not a directory", "x")
