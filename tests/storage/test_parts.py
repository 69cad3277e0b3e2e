"""Parts of a stage's work: whole or not at all, made once, and again when they are damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.errors import ShardCorrupt, StoreError
from storage.parts import Parts, make_part
from storage.work import WorkFolder, Workspace


def parts_of(tmp_path: Path) -> Parts:
    return Parts(WorkFolder(tmp_path / "out", name="made", identity="a" * 64, workspace=Workspace(tmp_path / "work")))


def take(parts: Parts, name: str, text: str) -> None:
    with parts.desk() as desk:
        parts.accept(make_part(desk, name, lambda folder: write(folder, text)))


def write(folder: Path, text: str) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "file").write_text(text, encoding="utf-8")


def text_of(parts: Parts, name: str) -> str:
    return (parts.folder(name) / "inner" / "file").read_text(encoding="utf-8")


def test_a_part_is_there_for_the_next_run(tmp_path: Path) -> None:
    with parts_of(tmp_path) as parts:
        take(parts, "round/0", "first")
        take(parts, "round/0", "second: the part that is there stays")
    with parts_of(tmp_path) as parts:
        assert parts.has("round/0") and not parts.has("round/1")
        assert text_of(parts, "round/0") == "first"


def test_a_damaged_part_is_made_again(tmp_path: Path) -> None:
    with parts_of(tmp_path) as parts:
        take(parts, "round/0", "first")
    (parts.folder("round/0") / "inner" / "file").write_text("other", encoding="utf-8")
    with parts_of(tmp_path) as parts:
        assert not parts.has("round/0")
        take(parts, "round/0", "again")
    with parts_of(tmp_path) as parts:
        assert parts.has("round/0") and text_of(parts, "round/0") == "again"


def test_a_part_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        write(folder, "half")
        raise ZeroDivisionError

    with parts_of(tmp_path) as parts, parts.desk() as desk:
        with pytest.raises(ZeroDivisionError):
            make_part(desk, "round/0", fail)
        assert not parts.has("round/0")
    assert [path.name for path in parts.work.path.iterdir()] == ["content"]


def test_a_part_that_changed_after_it_was_made_is_refused(tmp_path: Path) -> None:
    with parts_of(tmp_path) as parts, parts.desk() as desk:
        made = make_part(desk, "round/0", lambda folder: write(folder, "made"))
        (made.folder / "inner" / "file").write_text("lost", encoding="utf-8")
        with pytest.raises(ShardCorrupt, match=r"expected 4 bytes, .* Run the same command to continue"):
            parts.accept(made)
        assert not parts.has("round/0")


def test_who_comes_late_finds_no_desk(tmp_path: Path) -> None:
    with parts_of(tmp_path) as parts:
        with parts.desk() as desk:
            pass
        with pytest.raises(StoreError, match=r"part round/0 was not made\. Either the run that asked for it is over"):
            make_part(desk, "round/0", lambda folder: write(folder, "late"))


def test_rounds_are_forgotten_and_what_they_said_is_remembered(tmp_path: Path) -> None:
    with parts_of(tmp_path) as parts:
        take(parts, "round/0", "first")
        take(parts, "next/0", "second")
        assert parts.recall("said") is None
        assert parts.remember("said", {"rows": 3}) == {"rows": 3}
        parts.forget("round")
        assert not parts.has("round/0") and parts.has("next/0")
    with parts_of(tmp_path) as parts:
        assert not parts.has("round/0") and parts.has("next/0")
        assert parts.recall("said") == {"rows": 3}
