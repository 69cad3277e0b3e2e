"""`cohesive store`: what it says, its exit codes, and one line for whatever goes wrong."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from stages.tools.store import main
from storage.share import parquet as exchange
from storage.share import remote
from storage.testing import fixtures, samples

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    for kind in fixtures.KINDS:
        fixtures.write(kind, folder / kind, folder / "work", seed=1)
    fixtures.write("logits", folder / "other", folder / "work", seed=2)
    shutil.rmtree(folder / "work")
    return folder


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


def process(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stages.tools.store", *map(str, arguments)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("kind", fixtures.KINDS)
def test_info_says_what_a_store_is(made: Path, kind: str) -> None:
    result = call("info", made / kind)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0].startswith(f"kind        {kind}, method revision")
    assert any(line.startswith("split       train: 22 rows in") for line in lines)


def test_info_reads_nothing_but_the_manifest(made: Path, tmp_path: Path) -> None:
    shutil.copy(made / "logits" / "manifest.json", tmp_path)
    assert call("info", tmp_path).output == call("info", made / "logits").output


def test_info_in_a_process_of_its_own(made: Path) -> None:
    done = process("info", "logits", folder=made)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == call("info", made / "logits").output


def test_ls_lists_stores_and_their_kinship(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "masks", tmp_path / "masks")
    shutil.copytree(made / "documents", tmp_path / "documents")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{\x1b", encoding="utf-8")
    shutil.copytree(made / "logits", tmp_path / "logits" / "fox")
    result = call("ls", tmp_path)
    assert result.exit_code == 0
    broken, documents, logits, masks = result.output.splitlines()
    assert broken.startswith(f"{tmp_path}/broken  unreadable: ") and "\x1b" not in broken
    assert documents.endswith("fits") and "documents " in documents
    assert "30 rows" in logits and logits.endswith("STALE: made from another masks")
    assert masks.endswith("parents not here: masks")


def test_ls_looks_at_data(workplace: Path, made: Path) -> None:
    assert call("ls").output == "data: no stores\n"
    shutil.copytree(made / "documents", workplace / "data" / "documents")
    assert call("ls").output.startswith("data/documents  documents ")


def test_diff_of_equal_stores(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "logits", tmp_path / "copy")
    result = call("diff", made / "logits", tmp_path / "copy")
    assert (result.exit_code, result.output) == (0, "the same\n")


def test_diff_names_what_differs(made: Path) -> None:
    result = call("diff", made / "logits", made / "other")
    assert result.exit_code == 1
    assert "inputs.seed: 1 | 2" in result.output
    assert "shards of train: 3 of 3 differ: 0, 1, 2" in result.output


@pytest.mark.parametrize("kind", fixtures.KINDS)
def test_verify_a_sound_store(made: Path, kind: str) -> None:
    result = call("verify", made / kind)
    said = rf"{made / kind}: sound, 30 rows of {kind} in \d+ shards, (\d+) files\n"
    found = re.fullmatch(said, result.output)
    assert result.exit_code == 0
    assert found, result.output
    listed = [path for path in (made / kind).rglob("*") if path.is_file() and path.name != "manifest.json"]
    assert int(found[1]) == len(listed)


def test_other_tables_are_stores_like_any(tmp_path: Path) -> None:
    """A sense inventory, and words in context made from it, as `data` has them."""
    lexicon, words = tmp_path / "lexicon", tmp_path / "senses" / "examples"
    samples.write_sample_lexicon(lexicon, tmp_path / ".work")
    identity = samples.manifest_of(lexicon)["identity"]
    samples.write_sample_lexicon(words, tmp_path / ".work", parents={"lexicon": identity})
    assert call("verify", lexicon).output == f"{lexicon}: sound, 45 rows of lexicon in 4 shards, 4 files\n"
    lines = call("info", words).output.splitlines()
    assert f"parent      lexicon {identity}" in lines
    assert any(line.startswith("split       meanings: 2 rows in 1 shards of up to 2, ") for line in lines)
    assert any(line.startswith("fact        columns: empty form utf8, forms form utf8") for line in lines), lines
    assert [line.rpartition("  ")[2] for line in call("ls", tmp_path).output.splitlines()] == ["fits", "fits"]
    assert call("export", lexicon, tmp_path / "lexicon.tar").exit_code == 0
    assert call("import", tmp_path / "lexicon.tar", "--out", tmp_path / "again").exit_code == 0
    assert samples.file_hashes(tmp_path / "again") == samples.file_hashes(lexicon)
    assert call("diff", lexicon, tmp_path / "again").output == "the same\n"
    assert call("export", lexicon, tmp_path / "parquet", "--parquet").exit_code == 0
    samples.flip(lexicon / "senses.arrow")
    found = call("verify", lexicon)
    assert (found.exit_code, found.output.split(":")[0]) == (1, "file senses.arrow")


def test_verify_lists_every_finding(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "logits", tmp_path / "store")
    samples.flip(tmp_path / "store" / "train" / "code_E" / "c" / "1")
    (tmp_path / "store" / "heldout" / "code_E" / "c" / "0").unlink()
    (tmp_path / "store" / "stray").touch()
    done = process("verify", "store", folder=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    found = done.stdout.splitlines()
    assert [line.split(":")[0] for line in found] == [
        "stray stray", "file train/code_E/c/1", "file heldout/code_E/c/0"
    ]  # fmt: skip


def test_export_and_import(made: Path, tmp_path: Path) -> None:
    assert process("export", "logits", tmp_path / "x.tar", folder=made).stdout == f"{tmp_path / 'x.tar'}: written\n"
    for again in (False, True):
        done = process("import", "x.tar", "--out", "data/logits/fox", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("data/logits/fox: logits ")
        assert ("the same store is there already" in done.stderr) == again
    assert samples.file_hashes(tmp_path / "data" / "logits" / "fox") == samples.file_hashes(made / "logits")
    assert call("diff", tmp_path / "data" / "logits" / "fox", made / "logits").exit_code == 0


def test_a_broken_archive_is_refused_in_one_line(made: Path, tmp_path: Path) -> None:
    call("export", made / "logits", tmp_path / "x.tar")
    samples.flip(tmp_path / "x.tar", at=(tmp_path / "x.tar").stat().st_size - 12_000)
    done = process("import", "x.tar", "--out", "out", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: x.tar: ") and done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]


@pytest.mark.parametrize("command", [("info",), ("verify",), ("diff",), ("export",), ("export", "--parquet")])
def test_an_archive_is_to_be_imported_first(made: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    call("export", made / "logits", tmp_path / "x.tar")
    second = [] if command[0] in ("info", "verify") else [tmp_path / "out"]
    result = call(command[0], tmp_path / "x.tar", *second, *command[1:])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        f"Error: {tmp_path}/x.tar: a file, and a store is a folder. If it is an archive, run: "
        f"cohesive store import {tmp_path}/x.tar --out FOLDER\n"
    )
    assert not (tmp_path / "out").exists()


def test_a_damaged_store_at_the_output_is_not_called_sound(made: Path, tmp_path: Path) -> None:
    """The manifest there is that of the archive, so nothing but the files themselves tells."""
    call("export", made / "logits", tmp_path / "x.tar")
    call("import", tmp_path / "x.tar", "--out", tmp_path / "out")
    samples.flip(tmp_path / "out" / "train" / "code_E" / "c" / "1")
    for command in (("import", tmp_path / "x.tar"), ("fetch", (made / "logits").as_uri())):
        result = call(*command, "--out", tmp_path / "out")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "out is this store, damaged: remove it, and run the same again" in result.stderr


def test_parquet_is_left_to_the_exchange(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(exchange, "to_parquet", lambda store, out: asked.append((store, out)))
    result = call("export", made / "logits", tmp_path / "out", "--parquet")
    assert (result.exit_code, result.output) == (0, f"{tmp_path / 'out'}: written\n")
    assert asked == [(made / "logits", tmp_path / "out")]
    assert not (tmp_path / "out").exists()


def test_parquet_files_are_written(made: Path, tmp_path: Path) -> None:
    assert call("export", made / "documents", tmp_path / "out", "--parquet").exit_code == 0
    assert list((tmp_path / "out").rglob("*.parquet"))


def test_fetch_says_what_came(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fetch(url: str, out: Path) -> None:
        asked.append(url)
        shutil.copytree(made / "masks", out)

    monkeypatch.setattr(remote, "fetch", fetch)
    result = call("fetch", "memory://somewhere/masks", "--out", tmp_path / "masks")
    assert result.exit_code == 0
    assert result.output.startswith(f"{tmp_path / 'masks'}: masks ")
    assert asked == ["memory://somewhere/masks"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("info", "nowhere"), ("verify", "nowhere"), ("diff", "nowhere", "nowhere"), ("export", "nowhere", "x.tar"),
        ("export", "nowhere", "x", "--parquet"), ("import", "nowhere", "--out", "x"),
    ],
)  # fmt: skip
def test_what_is_not_there_costs_one_line(workplace: Path, arguments: tuple[str, ...]) -> None:
    result = call(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: nowhere: ") and result.stderr.count("\n") == 1
    assert not list(workplace.iterdir())


def test_every_command_is_explained() -> None:
    text = call("--help").output
    for name in ("info", "ls", "diff", "verify", "export", "import", "fetch"):
        assert f"  {name} " in text
        assert call(name, "--help").exit_code == 0
