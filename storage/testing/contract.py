"""The contract of every store, of arrays and of tables: one suite, inherited by the tests of both.

Access to what lies on disk is plain (pathlib, json, hashlib): it bypasses the code under test.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, ClassVar

import pytest

from storage.errors import (
    SchemaMismatch,
    ShardCorrupt,
    StoreMissing,
    WorkBusy,
    WrongKind,
)
from storage.format import manifest_parse
from storage.format.manifest import identity_of
from storage.format.manifest_parse import read_manifest
from storage.testing import samples
from storage.testing.kills import hold, kill_at_random, processes


class StoreContract:
    """Inherit, name the store and say how it is written and read."""

    remedy: ClassVar[str]
    """Command that a refusal must name."""
    kills: ClassVar[int]
    """Number of times the writer is killed."""

    @staticmethod
    def write(out: Path, work_root: Path) -> None:
        """Write the sample store; a function of a module without pytest, since other processes import it."""
        raise NotImplementedError

    def open(self, out: Path) -> Any:
        raise NotImplementedError

    def read_all(self, out: Path) -> None:
        """Read everything, so that every file is checked."""
        raise NotImplementedError

    def lock_name(self, out: Path) -> str:
        """Name of the work folder that writes `out`."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def made(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A folder with a finished store `data/store` and its work folder `work`."""
        folder = tmp_path_factory.mktemp("made")
        cls.write(folder / "data" / "store", folder / "work")
        return folder

    @pytest.fixture
    def out(self, made: Path, tmp_path: Path) -> Path:
        """A copy of the store, with its work folder and the links between them."""
        subprocess.run(["cp", "-a", made / "data", made / "work", tmp_path], check=True)
        return tmp_path / "data" / "store"

    def refused(self, out: Path, error: type[Exception], *words: str) -> None:
        """Opening and reading is refused in one line with every given word and the command that repairs it."""
        with pytest.raises(error) as caught:
            self.read_all(out)
        message = str(caught.value)
        assert "\n" not in message
        for word in (*words, self.remedy):
            assert word in message, (word, message)

    def test_manifest_lists_every_file_with_its_hash(self, out: Path) -> None:
        body = samples.manifest_of(out)
        files = {name: entry for shard in body["shards"] for name, entry in shard["files"].items()} | body["files"]
        found = samples.file_hashes(out)
        del found["manifest.json"]
        assert {name: entry["sha256"] for name, entry in files.items()} == found
        assert {name: entry["bytes"] for name, entry in files.items()} == {
            name: (out / name).stat().st_size for name in found
        }

    def test_same_inputs_same_bytes(self, out: Path, tmp_path: Path) -> None:
        self.write(tmp_path / "elsewhere" / "store", tmp_path / "other-work")
        assert samples.file_hashes(tmp_path / "elsewhere" / "store") == samples.file_hashes(out)

    def test_no_store(self, tmp_path: Path) -> None:
        self.refused(tmp_path / "store", StoreMissing, str(tmp_path / "store"), "no sealed store", "manifest.json")

    def test_half_written_is_unsealed(self, out: Path) -> None:
        (out / "manifest.json").rename(out / "manifest.json.new")
        self.refused(out, StoreMissing, str(out), "no sealed store")

    def test_wrong_kind(self, out: Path) -> None:
        body = samples.manifest_of(out)
        other = identity_of(kind="recipes", revision=body["revision"], inputs=body["inputs"], parents=body["parents"])
        samples.edit_manifest(out, {"kind": "recipes", "identity": other}, resealed=True)
        self.refused(out, WrongKind, str(out), f"expected a store of {body['kind']}", "got recipes")

    def test_other_schema(self, out: Path) -> None:
        samples.edit_manifest(out, {"schema": 3}, resealed=True)
        self.refused(out, SchemaMismatch, "manifest.json", "expected format belief-store schema 2", "schema 3")

    def test_other_method_revision(self, out: Path) -> None:
        body = samples.manifest_of(out)
        other = identity_of(kind=body["kind"], revision=9, inputs=body["inputs"], parents=body["parents"])
        samples.edit_manifest(out, {"revision": 9, "identity": other}, resealed=True)
        self.refused(out, SchemaMismatch, str(out), f"expected method revision {body['revision']}, got 9")

    def test_identity_is_the_hash_of_the_inputs(self, out: Path) -> None:
        samples.edit_manifest(out, {"inputs": {"another": "input"}}, resealed=True)
        self.refused(out, SchemaMismatch, "manifest.json", "is not the hash of its inputs")

    @pytest.mark.parametrize("key", ["facts", "inputs", "identity", "splits", "shards", "kind"])
    def test_edited_manifest(self, out: Path, key: str) -> None:
        samples.edit_manifest(out, {key: samples.manifest_of(out)["facts"] | {"vocabulary": 99}}, resealed=False)
        self.refused(out, SchemaMismatch, "manifest.json", "changed since it was sealed")

    @pytest.mark.parametrize("text", ["", "{}", "[]", "null", "{", "[1, 2", '{"format": "belief-store", "schema": 2}'])
    def test_no_manifest_of_ours(self, out: Path, text: str) -> None:
        (out / "manifest.json").write_text(text, encoding="utf-8")
        self.refused(out, SchemaMismatch, "manifest.json", "not a manifest of this format")

    def test_truncated_manifest(self, out: Path) -> None:
        text = (out / "manifest.json").read_text(encoding="utf-8")
        (out / "manifest.json").write_text(text[: len(text) // 2], encoding="utf-8")
        self.refused(out, SchemaMismatch, "manifest.json", "not a manifest of this format")

    def test_huge_manifest_is_not_read(self, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(manifest_parse, "MANIFEST_BYTES_LIMIT", 100)
        self.refused(out, SchemaMismatch, "manifest.json", "at most 100")

    def test_every_damaged_file_is_named(self, out: Path) -> None:
        """Each file of the store in turn: one bit flipped, then cut short or removed."""
        names = sorted(set(samples.file_hashes(out)) - {"manifest.json"})
        assert names
        for number, name in enumerate(names):
            path = out / name
            whole = path.read_bytes()
            sizes = f"expected {len(whole)} bytes"
            samples.flip(path, at=number * 7919 % len(whole))
            self.refused(out, ShardCorrupt, str(path), sizes, f"got {len(whole)} bytes")
            path.unlink()
            if number % 2:
                path.write_bytes(whole[: len(whole) // 2])
                self.refused(out, ShardCorrupt, str(path), sizes, f"got {len(whole) // 2} bytes")
            else:
                self.refused(out, ShardCorrupt, str(path), "missing")
            path.write_bytes(whole)
        self.read_all(out)

    def test_publishing_replaces_an_output(self, out: Path, tmp_path: Path) -> None:
        expected = samples.file_hashes(out)
        (out / "stray").write_text("of an older run", encoding="utf-8")
        self.write(out, tmp_path / "another-work")
        assert samples.file_hashes(out) == expected
        assert [path.name for path in out.parent.iterdir()] == ["store"]

    @pytest.mark.parametrize("after", [0, 1])
    def test_stopped_between_the_renames_of_publishing(
        self, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
    ) -> None:
        """A second run replaces an output and stops before (0) or after (1) the old one is out of the way."""
        expected = samples.file_hashes(out)
        done: list[Path] = []

        def rename(path: Path, target: Path) -> None:
            if len(done) == after:
                raise KeyboardInterrupt
            done.append(path)
            path.replace(target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", rename)
            with pytest.raises(KeyboardInterrupt):
                self.write(out, tmp_path / "another-work")
        assert out.exists() == (after == 0)
        self.write(out, tmp_path / "another-work")
        assert samples.file_hashes(out) == expected
        assert [path.name for path in out.parent.iterdir()] == ["store"]

    def test_stopped_after_publishing(self, out: Path, tmp_path: Path) -> None:
        """DVC empties an output and runs the stage again when it was killed before its own bookkeeping."""
        expected = samples.file_hashes(out)
        shutil.rmtree(out)
        self.write(out, tmp_path / "work")
        assert samples.file_hashes(out) == expected

    def test_an_edited_output_is_made_again(self, out: Path, tmp_path: Path) -> None:
        """Files of output and work folder are one on disk; what was edited in place is noticed and made again."""
        expected = samples.file_hashes(out)
        for name in expected:
            samples.flip(out / name)
        self.write(out, tmp_path / "work")
        assert samples.file_hashes(out) == expected
        self.read_all(out)

    def test_a_copy_that_others_hold_is_not_written_through(self, out: Path, tmp_path: Path) -> None:
        """DVC's cache holds the same files, by link: a further run replaces files and never edits them."""
        expected = samples.file_hashes(out)
        shutil.copytree(out, tmp_path / "cache", copy_function=lambda source, target: Path(target).hardlink_to(source))
        shutil.rmtree(out)
        for journal in (tmp_path / "work").glob("*/journal.jsonl"):
            journal.unlink()
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*") if path.is_file()}
        self.write(out, tmp_path / "work")
        assert samples.file_hashes(tmp_path / "cache") == expected
        assert {path: path.stat().st_mtime_ns for path in before} == before

    def test_second_process_is_refused_with_the_holder(self, tmp_path: Path) -> None:
        out = tmp_path / "data" / "store"
        context = processes()
        ready, leave = context.Event(), context.Event()
        holder = context.Process(target=hold, args=(tmp_path / "work", self.lock_name(out), ready, leave))
        holder.start()
        assert ready.wait(60)
        with pytest.raises(WorkBusy, match=rf"{out}: is being written by process {holder.pid} on "):
            self.write(out, tmp_path / "work")
        assert not out.exists()
        leave.set()
        holder.join()
        self.write(out, tmp_path / "work")
        self.read_all(out)

    def test_killed_at_random_moments_the_bytes_are_the_same(self, tmp_path: Path) -> None:
        """Real SIGKILLs. Power cuts, which can lose data that was written but not synced, are not tested."""
        self.write(tmp_path / "undisturbed", tmp_path / "undisturbed-work")
        found = kill_at_random(self.write, tmp_path / "out", kills=self.kills, seed=0)
        expected, got = (samples.file_hashes(tmp_path / name) for name in ("undisturbed", "out"))
        assert got == expected
        self.read_all(tmp_path / "out")
        assert found["partial"] + found["published"] > self.kills // 4, found

    def test_manifest_survives_json(self, out: Path) -> None:
        manifest = read_manifest(out)
        assert manifest.to_json() == (out / "manifest.json").read_text(encoding="utf-8")
        assert json.loads(manifest.to_json())["format"] == "belief-store"
