"""The work folder: lock, journal, sweeping, publishing, changed code. Stores add tests in the contract suite."""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest

from storage.errors import WorkBusy
from storage.testing.kills import hold, processes
from storage.work import WorkFolder, Workspace

FIRST, SECOND = "a" * 64, "b" * 64


def folder(tmp_path: Path, *, identity: str = FIRST, name: str = "models-x", code: str = "one") -> WorkFolder:
    workspace = Workspace(tmp_path / "work", code=code)
    return WorkFolder(tmp_path / "out" / "x", name=name, identity=identity, workspace=workspace)


def write(work: WorkFolder, text: str = "made") -> None:
    (work.content / "inner").mkdir(exist_ok=True)
    (work.content / "inner" / "file").write_text(text, encoding="utf-8")


def test_the_work_folder_is_named_by_what_it_makes(tmp_path: Path) -> None:
    with folder(tmp_path) as work:
        write(work)
        assert (tmp_path / "work" / f"models-x-{'a' * 16}" / "content" / "inner" / "file").is_file()
        assert not work.out.exists()


def test_a_workspace_names_the_work_that_was_taken_up(tmp_path: Path) -> None:
    """So that nobody takes the time of the rest for that of the whole."""

    def continued(**changes: str) -> set[str]:
        with folder(tmp_path, **changes) as work:
            write(work)
        return work.workspace.continued

    assert continued() == set(), "there was nothing"
    assert continued() == {"models-x"}
    assert continued(name="models-y") == continued(identity=SECOND) == set()
    with folder(tmp_path) as work:
        work.publish()
    assert continued() == {"models-x"}, "published, and maybe not yet known to DVC"
    assert continued(code="two") == set(), "of other code, so made anew"


def test_an_exception_publishes_nothing(tmp_path: Path) -> None:
    work = folder(tmp_path)

    def fail() -> None:
        with work:
            write(work)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not work.out.exists()
    with folder(tmp_path) as work:
        assert (work.content / "inner" / "file").read_text(encoding="utf-8") == "made", "and keeps what was done"


def test_published_files_share_the_disk_and_partial_ones_are_swept(tmp_path: Path) -> None:
    with folder(tmp_path) as work:
        write(work)
        (work.content / "inner" / "c.0123.partial").write_text("killed", encoding="utf-8")
        work.publish()
    assert [path.name for path in sorted(work.out.rglob("*"))] == ["inner", "file"]
    assert (work.out / "inner" / "file").samefile(work.content / "inner" / "file")


def test_publishing_copies_where_links_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, target: str) -> None:
        raise OSError(18, "Invalid cross-device link", source, target)

    monkeypatch.setattr(os, "link", refuse)
    with folder(tmp_path) as work:
        write(work)
        work.publish()
    assert (work.out / "inner" / "file").read_text(encoding="utf-8") == "made"
    assert not (work.out / "inner" / "file").samefile(work.content / "inner" / "file")


class TestLock:
    def test_second_holder_is_refused_in_words(self, tmp_path: Path) -> None:
        context = processes()
        ready, leave = context.Event(), context.Event()
        other = context.Process(target=hold, args=(tmp_path / "work", "models-x", ready, leave))
        other.start()
        assert ready.wait(60)
        with (
            pytest.raises(
                WorkBusy, match=rf"out/x: is being written by process {other.pid} on .* \(.*\)\. Wait for it"
            ),
            folder(tmp_path),
        ):
            pass
        with folder(tmp_path, name="models-y"):
            pass  # another output
        other.kill()
        other.join()
        with folder(tmp_path):
            pass  # the lock dies with its holder

    def test_other_params_for_the_same_output_are_refused_too(self, tmp_path: Path) -> None:
        with folder(tmp_path), pytest.raises(WorkBusy), folder(tmp_path, identity=SECOND):
            pass

    def test_the_next_holder_is_named_alone(self, tmp_path: Path) -> None:
        lock = tmp_path / "work" / "models-x.lock"
        lock.parent.mkdir()
        lock.write_text("process 999999999 on a-machine-with-a-very-long-name (a command that is long as well)\n")
        with folder(tmp_path):
            assert lock.read_text(encoding="utf-8").startswith(f"process {os.getpid()} on ")
            assert lock.read_text(encoding="utf-8").count("\n") == 1


class TestJournal:
    def test_lines_come_back(self, tmp_path: Path) -> None:
        with folder(tmp_path) as work:
            assert work.entries() == []
            work.append({"shard": 1})
            work.append({"shard": 2})
        with folder(tmp_path) as work:
            assert work.entries() == [{"shard": 1}, {"shard": 2}]

    @pytest.mark.parametrize("cut", [1, 5, 12])
    def test_a_torn_line_is_cut_off(self, tmp_path: Path, cut: int) -> None:
        with folder(tmp_path) as work:
            work.append({"shard": 1})
            work.append({"shard": 2})
        journal = work.path / "journal.jsonl"
        whole = journal.read_bytes()
        journal.write_bytes(whole[:-cut])
        assert work.entries() == [{"shard": 1}]
        with folder(tmp_path) as work:
            work.append({"shard": 2})
        assert journal.read_bytes() == whole

    def test_only_a_torn_line(self, tmp_path: Path) -> None:
        with folder(tmp_path) as work:
            (work.path / "journal.jsonl").write_text('{"sha', encoding="utf-8")
        with folder(tmp_path) as work:
            assert work.entries() == []


class TestSweep:
    @pytest.mark.parametrize("name", ["models-x", "logits-y"])
    def test_finished_runs_go_when_a_stage_begins_unfinished_ones_stay(self, tmp_path: Path, name: str) -> None:
        with folder(tmp_path, identity=SECOND) as unfinished:
            write(unfinished)
        with folder(tmp_path) as finished:
            write(finished)
            finished.publish()
        with folder(tmp_path, name=name, identity="c" * 64):
            assert unfinished.content.exists()
            assert not finished.path.exists()
            assert (finished.out / "inner" / "file").exists()

    def test_its_own_finished_run_stays(self, tmp_path: Path) -> None:
        for _ in range(2):
            with folder(tmp_path) as work:
                write(work)
                work.publish()
        with folder(tmp_path) as work:
            assert (work.content / "inner" / "file").exists()

    def test_what_another_process_holds_stays(self, tmp_path: Path) -> None:
        names = ["models-x-y", "models-x-" + "a" * 16, "models-x2", "models"]
        with ExitStack() as held:
            others = [held.enter_context(folder(tmp_path, name=name)) for name in names]
            for other in others:
                write(other)
                other.publish()
            with folder(tmp_path, identity=SECOND):
                assert all(other.content.exists() for other in others)

    def test_a_removal_that_was_killed_is_finished(self, tmp_path: Path) -> None:
        leftover = tmp_path / "work" / f"models-x-{'a' * 16}.discarded"
        leftover.mkdir(parents=True)
        with folder(tmp_path):
            assert not leftover.exists()


class TestOtherCode:
    def finished(self, tmp_path: Path, *, code: str) -> None:
        with folder(tmp_path, code=code) as work:
            work.append({"shard": 1})
            write(work)
            work.publish()

    def test_what_other_code_finished_is_made_again(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        self.finished(tmp_path, code="one")
        with folder(tmp_path, code="one") as work:
            assert work.entries() == [{"shard": 1}], "same code: nothing is done again"
        caplog.set_level(logging.INFO)
        with folder(tmp_path, code="another") as work:
            assert work.entries() == []
            assert list(work.content.iterdir()) == []
        assert "finished by another version of the code" in caplog.text
        assert (work.out / "inner" / "file").read_text(encoding="utf-8") == "made", "the output waits for the new one"

    def test_what_other_code_began_is_continued_with_a_warning(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with folder(tmp_path, code="one") as work:
            work.append({"shard": 1})
        with folder(tmp_path, code="another") as work:
            assert work.entries() == [{"shard": 1}]
        assert f"{work.path}: begun by another version of the code; remove the folder to begin anew" in caplog.text

    @pytest.mark.parametrize(("first", "second"), [("", "one"), ("one", "")])
    def test_unknown_code_is_not_compared(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, first: str, second: str
    ) -> None:
        self.finished(tmp_path, code=first)
        with folder(tmp_path, code=second) as work:
            assert work.entries() == [{"shard": 1}]
        assert not caplog.records
        with folder(tmp_path, code="another") as work:
            assert work.entries() == [], "and what was known stays known"


def test_content_is_emptied_without_touching_what_others_hold(tmp_path: Path) -> None:
    with folder(tmp_path) as work:
        write(work)
        work.publish()
    with folder(tmp_path) as work:
        work.empty_content()
        write(work, "made again")
    assert (work.out / "inner" / "file").read_text(encoding="utf-8") == "made"


@pytest.mark.parametrize("moment", ["rename", "removal"])
def test_two_that_sweep_the_same_folder_do_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Another stage, which begins at the same time, removes it while this one is at it."""
    with folder(tmp_path, name="models-old") as old:
        write(old)
        old.publish()
    rename, rmtree = Path.rename, shutil.rmtree

    def raced_rename(self: Path, target: Path) -> Path:
        if moment == "rename" and self == old.path:
            rmtree(self)
        return rename(self, target)

    def raced_rmtree(path: Path, ignore_errors: bool = False) -> None:
        if moment == "removal" and not ignore_errors:
            rmtree(path)
        rmtree(path, ignore_errors=ignore_errors)

    monkeypatch.setattr(Path, "rename", raced_rename)
    monkeypatch.setattr(shutil, "rmtree", raced_rmtree)
    with folder(tmp_path) as work:
        assert work.content.is_dir()
    assert not old.path.exists()
    assert (tmp_path / "out" / "x" / "inner" / "file").is_file(), "what it published stays"
