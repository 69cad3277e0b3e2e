"""WordNet 3.0: obtain it on any machine, and open it with NLTK from any folder.

It is looked for in NLTK's data folders and where Debian installs it, then fetched with NLTK's downloader, then unpacked
from two Debian packages without installing them or being root. It must be version 3.0 and complete: the sense keys of
the data sets for word sense disambiguation here are those of 3.0. The folder holds the database files as Princeton
names them.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.sources import lexnames
from pipeline.sources.fallback import Route, first_that_works
from pipeline.sources.wheels import DOWNLOADS, unzip
from storage.errors import SourceError

SYNSETS = 117_659
SENSES = 206_941
"""Word-sense pairs, the lines of index.sense."""

DATA_FILES = ("data.adj", "data.adv", "data.noun", "data.verb")
FILES = (
    *DATA_FILES,
    *("index.adj", "index.adv", "index.noun", "index.verb", "index.sense"),
    *("adj.exc", "adv.exc", "noun.exc", "verb.exc", "cntlist.rev"),
)
"""Files that NLTK reads, except `lexnames`, which is written from `pipeline.sources.lexnames`."""
OPTIONAL = ("adj.exc", "adv.exc", "noun.exc", "verb.exc", "cntlist.rev")
"""Files that other wordnets in this form may lack: irregular forms, and counts that index.sense has too."""

INSTALLED = Path("/usr/share/wordnet")
"""Folder of Debian's packages."""
DEBIAN_PACKAGES = ("wordnet-base", "wordnet-sense-index")
NETWORK_SECONDS = 15
"""Time without data after which apt gives up an attempt; it makes two."""
PROBE_SECONDS = 5
"""Time NLTK's data server has for its first answer."""
COMMAND_SECONDS = 600

BY_HAND = (
    "on Debian or Ubuntu `sudo apt-get install wordnet-base wordnet-sense-index` has the same files in "
    "/usr/share/wordnet; or fetch corpora/wordnet.zip of nltk_data on another machine and put it into "
    "~/nltk_data/corpora; then run this again"
)


def obtain(out: Path, *, downloads: Path = DOWNLOADS) -> dict[str, Any]:
    """Put WordNet 3.0 into the folder `out`; return how it was obtained, {"route": ...}.

    Raises SourceError that lists what was tried.
    """
    scratch = downloads.absolute() / "wordnet"
    routes = [
        Route(name="nltk-data", what="NLTK's data folders", obtain=partial(_from_nltk_folders, scratch)),
        Route(name="installed", what="an installed package", obtain=partial(_complete, INSTALLED)),
        Route(name="nltk-download", what="NLTK's downloader", obtain=partial(_from_nltk_downloader, scratch)),
        Route(name="debian", what="Debian's packages", obtain=partial(_from_debian, scratch)),
    ]
    try:
        route, folder = first_that_works("WordNet 3.0", routes, by_hand=BY_HAND)
        out.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            shutil.copyfile(folder / name, out / name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    (out / "lexnames").write_text(lexnames.table(), encoding="ascii")
    (out / "LICENSE").write_text(_licence(out / "data.noun"), encoding="ascii")
    return {"route": route.name}


def open_wordnet(folder: Path) -> Any:
    """NLTK's WordNetCorpusReader on `folder`, English only; raises SourceError when files are missing.

    The folder holds WordNet's database files, or those of another wordnet in the same form (WNDB), such as Open English
    WordNet; `OPTIONAL` ones may be missing, and `lexnames` too.

    NLTK 3.10 reads only below its data path, and only files that no other account owns or can write. This folder was
    named by the user and checked when it was made, so the reader opens its files itself, and nothing global changes.
    """
    missing = [name for name in FILES if name not in OPTIONAL and not (folder / name).is_file()]
    if missing:
        raise SourceError(f"{folder}: no WordNet: {', '.join(missing[:3])} missing. Run: dvc repro sources@wordnet")
    from nltk.corpus.reader.wordnet import WordNetCorpusReader
    from nltk.data import PathPointer, SeekableUnicodeStreamReader

    class Pointer(PathPointer):  # type: ignore[misc]
        """A path that NLTK does not compare with its data path, as it does with every string."""

        def __init__(self, path: Path) -> None:
            self.path = str(path)

        def open(self, encoding: str | None = None) -> Any:
            # In memory: the reader never closes its files, and they are 40 MB in all.
            path = Path(self.path)
            missing = lexnames.table().encode() if path.name == "lexnames" else b""
            stream = io.BytesIO(path.read_bytes() if path.is_file() else missing)
            return stream if encoding is None else SeekableUnicodeStreamReader(stream, encoding)

        def file_size(self) -> int:
            return Path(self.path).stat().st_size

        def join(self, fileid: str) -> Pointer:
            return Pointer(Path(self.path) / fileid)

    class Reader(WordNetCorpusReader):  # type: ignore[misc]
        """Reads its own folder and nothing else."""

        def open(self, file: str) -> Any:
            return self.root.join(file).open(self._encoding)

        def map_wn(self, version: str = "wordnet") -> None:
            """Does nothing: other versions are mapped to this one. NLTK would look for the map in its data path."""

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The multilingual functions are not available")
        return Reader(Pointer(folder), None)


def _complete(folder: Path) -> Path:
    """The folder, when it holds all of WordNet 3.0; raises SourceError otherwise."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise SourceError(f"{folder}: {'not there' if len(missing) == len(FILES) else missing[0] + ' is missing'}")
    if "WordNet 3.0 Copyright" not in _licence(folder / "data.noun"):
        raise SourceError(f"{folder}: another version than WordNet 3.0")
    synsets = sum(_lines(folder / name) for name in DATA_FILES)
    senses = _lines(folder / "index.sense")
    if (synsets, senses) != (SYNSETS, SENSES):
        raise SourceError(
            f"{folder}: expected {SYNSETS} synsets and {SENSES} senses of WordNet 3.0, got {synsets} and {senses}"
        )
    return folder


def _lines(path: Path) -> int:
    """Number of lines outside the licence, whose lines are indented."""
    with path.open("rb") as stream:
        return sum(not line.startswith(b" ") for line in stream)


def _licence(path: Path) -> str:
    """The licence at the head of a data file, without its line numbers."""
    lines = []
    with path.open(encoding="ascii") as stream:
        for line in stream:
            if not line.startswith("  "):
                break
            lines.append(line.split(maxsplit=1)[1].rstrip() if len(line.split()) > 1 else "")
    return "\n".join(lines) + "\n"


def _from_nltk_folders(scratch: Path) -> Path:
    import nltk.data

    reasons: list[str] = []
    for root in nltk.data.path:
        corpora = Path(root) / "corpora"
        with _collected(reasons):
            if (corpora / "wordnet").is_dir():
                return _complete(corpora / "wordnet")
        with _collected(reasons):
            if (corpora / "wordnet.zip").is_file():
                return _unzipped(corpora / "wordnet.zip", scratch)
    raise SourceError("; ".join(reasons) or f"no corpora/wordnet in {', '.join(map(str, nltk.data.path))}")


def _from_nltk_downloader(scratch: Path) -> Path:
    """Run NLTK's own downloader into a private folder; it refuses other folders."""
    import nltk.data
    from nltk import pathsec
    from nltk.downloader import Downloader

    folder = _fresh(scratch)
    folder.chmod(0o700)
    data_path = list(nltk.data.path)
    try:
        # Its own timeout is two minutes; this fails in seconds where there is no network.
        with pathsec.urlopen(Downloader.DEFAULT_URL, timeout=PROBE_SECONDS):
            pass
        Downloader().download(
            "wordnet", download_dir=str(folder), quiet=True, raise_on_error=True, print_error_to=io.StringIO()
        )
    except (OSError, ValueError) as error:
        raise SourceError(" ".join(str(error).split())) from error
    finally:
        nltk.data.path[:] = data_path
    found = folder / "corpora" / "wordnet.zip"
    if not found.is_file():
        raise SourceError("it did not leave corpora/wordnet.zip")
    return _unzipped(found, folder)


def _from_debian(scratch: Path) -> Path:
    """Fetch and unpack the packages with package lists in a folder of its own; needs no root and no existing lists."""
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise SourceError(f"{program} is not on this machine")
    folder = _fresh(scratch)
    for name in ("lists/partial", "cache/archives/partial", "root"):
        (folder / name).mkdir(parents=True)
    options = [
        f"Dir::State::Lists={folder}/lists",
        f"Dir::Cache={folder}/cache",
        "APT::Sandbox::User=",  # as root, apt would fetch as a user who cannot write here
        "Acquire::Retries=1",
        f"Acquire::http::Timeout={NETWORK_SECONDS}",
        f"Acquire::https::Timeout={NETWORK_SECONDS}",
        "Acquire::Languages=none",
    ]
    apt = ["apt-get", "-q", *(part for option in options for part in ("-o", option))]
    # An update may fail for an unreachable third-party list after it has fetched what is needed: the download decides.
    update = _run([*apt, "update"], folder)
    download = _run([*apt, "download", *DEBIAN_PACKAGES], folder)
    if download is not None:
        raise SourceError(f"apt-get download: {download}" + (f" (apt-get update: {update})" if update else ""))
    for package in sorted(folder.glob("*.deb")):
        reason = _run(["dpkg-deb", "-x", str(package), str(folder / "root")], folder)
        if reason is not None:
            raise SourceError(f"dpkg-deb -x {package.name}: {reason}")
    return _complete(folder / "root/usr/share/wordnet")


def _run(command: Sequence[str], folder: Path) -> str | None:
    """Run a command in `folder`; None, or why it failed."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no end after {COMMAND_SECONDS} s"
    if done.returncode == 0:
        return None
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("E:", "dpkg-deb:"))]
    return "; ".join(errors or lines[-1:])[:400] or f"exit code {done.returncode}"


def _unzipped(archive: Path, scratch: Path) -> Path:
    folder = scratch / "unzipped"
    shutil.rmtree(folder, ignore_errors=True)
    unzip(archive, folder, wanted=FILES)
    return _complete(folder / "wordnet")


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


@contextlib.contextmanager
def _collected(reasons: list[str]) -> Iterator[None]:
    try:
        yield
    except SourceError as error:
        reasons.append(str(error))
