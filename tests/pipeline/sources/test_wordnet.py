"""WordNet from every route, and NLTK's reader on a folder that NLTK would refuse.

The database here has five synsets; its counts stand in for WordNet 3.0's. Not checked here: the real downloads.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nltk.data
import nltk.downloader
import nltk.pathsec
import pytest

from pipeline.sources import lexnames, wordnet
from pipeline.sources.wordnet import obtain, open_wordnet
from storage.errors import SourceError
from tests.helpers.services import SENSE_COUNT, SYNSET_COUNT, write_tiny_wordnet


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with no WordNet, no network and no apt-get; counts of the tiny database are the right ones."""
    monkeypatch.setattr(wordnet, "SYNSETS", SYNSET_COUNT)
    monkeypatch.setattr(wordnet, "SENSES", SENSE_COUNT)
    monkeypatch.setattr(wordnet, "INSTALLED", tmp_path / "not-installed")
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk_data")])
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    def refused(url: str, *, timeout: float) -> None:
        raise OSError(f"no route to {url}")

    monkeypatch.setattr(nltk.pathsec, "urlopen", refused)
    return tmp_path


def zip_wordnet(folder: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, f"wordnet/{path.name}")


def write_program(path: Path, script: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_the_reader_answers_from_a_folder_that_anyone_may_write(nowhere: Path) -> None:
    """NLTK refuses such folders, and all outside its data path; ours was named by the user."""
    write_tiny_wordnet(nowhere / "nltk_data" / "corpora" / "wordnet")
    obtain(nowhere / "out", downloads=nowhere / "downloads")
    folder = nowhere / "out"
    folder.chmod(0o777)
    for path in folder.iterdir():
        path.chmod(0o666)
    before = list(nltk.data.path)
    reader = open_wordnet(folder)
    assert nltk.data.path == before
    assert [synset.name() for synset in reader.all_synsets()] == [
        "able.a.01", "ably.r.01", "entity.n.01", "dog.n.01", "walk.v.01",
    ]  # fmt: skip
    dog = reader.lemma_from_key("domestic_dog%1:05:00::").synset()
    assert dog.definition() == "a member of the genus Canis" and dog.examples() == ["the dog barked all night"]
    assert (dog.lexname(), dog.lemma_names(), dog.lemmas()[0].count()) == ("noun.animal", ["dog", "domestic_dog"], 7)
    assert reader.synsets("dogs") == [dog] and reader.morphy("dogs") == "dog"
    assert reader.get_version() == "3.0"
    assert str(folder) in repr(reader)


def test_a_folder_without_wordnet_is_refused_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no WordNet: data.adj, data.adv, data.noun missing. Run: dvc repro"):
        open_wordnet(tmp_path)


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_a_data_folder_of_nltk_comes_first(nowhere: Path, form: str) -> None:
    made = write_tiny_wordnet(nowhere / "made")
    corpora = nowhere / "nltk_data" / "corpora"
    if form == "folder":
        shutil.copytree(made, corpora / "wordnet")
    else:
        zip_wordnet(made, corpora / "wordnet.zip")
    assert obtain(nowhere / "out", downloads=nowhere / "downloads") == {"route": "nltk-data"}
    assert {path.name for path in (nowhere / "out").iterdir()} == {*wordnet.FILES, "lexnames", "LICENSE"}
    for name in wordnet.FILES:
        assert (nowhere / "out" / name).read_bytes() == (made / name).read_bytes()
    assert (nowhere / "out" / "LICENSE").read_text().startswith("Princeton licence\nWordNet 3.0 Copyright 2006")
    assert not (nowhere / "downloads" / "wordnet").exists()


def test_what_a_package_installed_is_used(nowhere: Path) -> None:
    write_tiny_wordnet(nowhere / "not-installed")
    assert obtain(nowhere / "out", downloads=nowhere / "downloads") == {"route": "installed"}


def test_the_downloader_of_nltk_is_used(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = write_tiny_wordnet(nowhere / "made")

    @contextmanager
    def reached(url: str, *, timeout: float) -> Iterator[None]:
        assert timeout <= 5
        yield

    def download(self: object, package: str, *, download_dir: str, **options: Any) -> bool:
        assert package == "wordnet" and nltk.pathsec.is_private_dir(download_dir)
        nltk.data.path.append(download_dir)
        zip_wordnet(made, Path(download_dir) / "corpora" / "wordnet.zip")
        return True

    monkeypatch.setattr(nltk.pathsec, "urlopen", reached)
    monkeypatch.setattr(nltk.downloader.Downloader, "download", download)
    before = list(nltk.data.path)
    assert obtain(nowhere / "out", downloads=nowhere / "downloads") == {"route": "nltk-download"}
    assert nltk.data.path == before


def test_packages_are_fetched_with_lists_of_our_own(nowhere: Path) -> None:
    """apt-get and dpkg-deb are scripts here; the options are those that need neither root nor the system's lists."""
    made = write_tiny_wordnet(nowhere / "made")
    seen = nowhere / "seen"
    write_program(
        nowhere / "bin" / "apt-get",
        f'echo "$@" >> {seen}\n'
        'for word in "$@"; do case "$word" in\n'
        "update) echo 'E: a third-party list is unreachable' >&2; exit 100 ;;\n"
        "wordnet-*) : > ${word}_all.deb ;;\n"
        "esac; done",
    )
    write_program(
        nowhere / "bin" / "dpkg-deb",
        f"PATH=/usr/bin:/bin; mkdir -p $3/usr/share/wordnet && cp {made}/* $3/usr/share/wordnet",
    )
    assert obtain(nowhere / "out", downloads=nowhere / "downloads") == {"route": "debian"}
    update, download = seen.read_text().splitlines()
    scratch = nowhere / "downloads" / "wordnet"
    for call in (update, download):
        assert f"Dir::State::Lists={scratch}/lists" in call and f"Dir::Cache={scratch}/cache" in call
        assert "-o APT::Sandbox::User= " in call
    assert download.endswith("download wordnet-base wordnet-sense-index")
    assert not scratch.exists()


def test_when_nothing_works_one_message_lists_all_that_was_tried(nowhere: Path) -> None:
    """Each place has WordNet, but each another fault."""
    write_tiny_wordnet(nowhere / "nltk_data" / "corpora" / "wordnet", version="3.1")
    (write_tiny_wordnet(nowhere / "not-installed") / "index.sense").write_text("entity%1:03:00:: 00000001 1 0\n")
    write_program(nowhere / "bin" / "apt-get", "echo 'E: Unable to locate package wordnet-base' >&2; exit 100")
    write_program(nowhere / "bin" / "dpkg-deb", "exit 1")
    with pytest.raises(SourceError) as refusal:
        obtain(nowhere / "out", downloads=nowhere / "downloads")
    message = str(refusal.value)
    parts = [
        "WordNet 3.0: could not be obtained",
        "(1) NLTK's data folders: ",
        "another version than WordNet 3.0",
        "(2) an installed package: ",
        "expected 5 synsets and 6 senses of WordNet 3.0, got 5 and 1",
        "(3) NLTK's downloader: no route to http",
        "(4) Debian's packages: apt-get download: E: Unable to locate package wordnet-base (apt-get update: E: Unable",
        "By hand: ",
        "~/nltk_data/corpora",
    ]
    places = [message.find(part) for part in parts]
    assert -1 not in places and places == sorted(places), message
    assert not list(nowhere.glob("out/*")) and not (nowhere / "downloads" / "wordnet").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "cntlist.rev").unlink(), r"cntlist.rev is missing"),
        (shutil.rmtree, r"not there"),
    ],
)
def test_a_place_that_is_incomplete_is_named(nowhere: Path, damage: Any, message: str) -> None:
    damage(write_tiny_wordnet(nowhere / "not-installed"))
    with pytest.raises(SourceError, match=rf"not-installed: {message}; \(3\).*apt-get is not on this machine"):
        obtain(nowhere / "out", downloads=nowhere / "downloads")


def test_the_table_of_lexicographer_files_has_the_numbers_of_sense_keys() -> None:
    rows = [line.split("\t") for line in lexnames.table().splitlines()]
    assert [int(number) for number, _, _ in rows] == list(range(45))
    named = {int(number): (name, int(pos)) for number, name, pos in rows}
    # dog%1:05, walk%2:38, adjectives 00, 01 and 44, adverbs 02: parts of speech as in the keys, satellites aside.
    assert named[5] == ("noun.animal", 1) and named[38] == ("verb.motion", 2) and named[44] == ("adj.ppl", 3)
    assert named[2] == ("adv.all", 4) and named[3] == ("noun.Tops", 1) and named[43] == ("verb.weather", 2)
