"""Read and write PAN's layout of documents, of the passages that were taken, and of detections.

Anywhere under the folder lie `suspicious-document*.txt` and `source-document*.txt`, UTF-8, a document each, and
`suspicious-document*.xml` with the truth:

    <document reference="suspicious-document00001.txt">
      <feature name="plagiarism" this_offset="5" this_length="80" source_reference="source-document00004.txt"
               source_offset="120" source_length="77"/>
    </document>

One suspicious document may have several XML files (PAN 2012 and later: one a pair). A feature's name may end in
"plagiarism" (artificial-plagiarism, PAN 2009); detected-plagiarism is a detection and refused here. A feature without
source_reference is a case of intrinsic detection: left out and counted. Other features are not read. Files named
`pairs`, a suspicious and a source document a line, say what is to be compared; without one, every source is a
candidate for every suspicious document.

Offsets count Unicode code points of the decoded file: no line end is translated, and a byte order mark is a character.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET
from xml.sax.saxutils import quoteattr

from pipeline.plagiarism.measures import Passage
from storage.atomic import write_bytes
from storage.errors import DataError
from storage.format.manifest import digest

SUSPICIOUS, SOURCE = "suspicious-document", "source-document"
PAIRS = "pairs"
DETECTED = "detected-plagiarism"
RECORD = "plagiarism-set.json"
"""What a set that was made here consists of, beside its documents."""
INTRINSIC = "passages without a source, left out"


@dataclass(frozen=True, kw_only=True, slots=True)
class PlagiarismCorpus:
    """Suspicious documents, candidate sources, and which passages were taken from which."""

    name: str
    suspicious: Mapping[str, str]
    """Texts by name of document, that of its file without .txt."""
    sources: Mapping[str, str]
    pairs: Mapping[str, tuple[str, ...]] | None
    """Sources by suspicious document that are to be compared; None: all with all."""
    passages: tuple[Passage, ...]
    counts: Mapping[str, int]
    """What was left out, by reason."""
    variant: str
    """Sets of one variant differ in their seed alone: what RECORD says of a set that was made here, else the name."""
    identity: str
    """SHA-256 of all of it."""

    def candidates(self, suspicious: str) -> tuple[str, ...]:
        """Names of the sources that a document may have been taken from."""
        return tuple(self.sources) if self.pairs is None else self.pairs.get(suspicious, ())


def read_corpora(path: Path) -> list[PlagiarismCorpus]:
    """The corpus in the folder `path`, or those in its subfolders: folders with suspicious documents and sources.

    Raises DataError when there is none, and as `read_corpus` does.
    """
    if not path.is_dir():
        raise DataError(f"{path}: not found; expected a folder in PAN's layout, or a folder of such folders")
    inside = [folder for folder in sorted(path.glob("*/")) if _documents(folder, SUSPICIOUS)]
    whole = [folder for folder in inside if _documents(folder, SOURCE)]
    if whole and whole == inside:
        return [read_corpus(folder) for folder in whole]
    return [read_corpus(path)]


def read_corpus(path: Path) -> PlagiarismCorpus:
    """One corpus; raises DataError with the file, the line or feature, what was expected and what stands there."""
    suspicious, sources = (_texts(path, kind) for kind in (SUSPICIOUS, SOURCE))
    counts: Counter[str] = Counter()
    passages = sorted(
        {passage for file in _files(path, ".xml") for passage in _passages(file, suspicious, sources, counts)}
    )
    pairs = _pairs(path, suspicious, sources)
    for passage in passages:
        if pairs is not None and passage.source not in pairs.get(passage.suspicious, ()):
            raise DataError(
                f"{path}: a passage of {passage.suspicious} was taken from {passage.source}, but no file '{PAIRS}' has "
                "this pair. Add it, or remove the files to compare all with all"
            )
    identity = digest(
        [dict(suspicious), dict(sources), None if pairs is None else dict(pairs), [list(one) for one in passages]]
    )
    return PlagiarismCorpus(
        name=path.name,
        suspicious=suspicious,
        sources=sources,
        pairs=pairs,
        passages=tuple(passages),
        counts=dict(counts),
        variant=_variant(path),
        identity=identity,
    )


def write_corpus(
    out: Path, suspicious: Mapping[str, str], sources: Mapping[str, str], passages: Iterable[Passage]
) -> None:
    """Write documents and truth so that `read_corpus` gives them back; names begin with SUSPICIOUS and SOURCE."""
    for kind, texts in ((SUSPICIOUS, suspicious), (SOURCE, sources)):
        for name, text in texts.items():
            assert name.startswith(kind), name
            write_bytes(out / kind / f"{name}.txt", text.encode())
    write_features(out / SUSPICIOUS, suspicious, passages, feature="plagiarism")


def write_features(out: Path, suspicious: Iterable[str], passages: Iterable[Passage], *, feature: str) -> None:
    """An XML file for every suspicious document, those without passages included; DETECTED for what was detected."""
    by_document: defaultdict[str, list[Passage]] = defaultdict(list)
    for passage in passages:
        by_document[passage.suspicious].append(passage)
    for name in suspicious:
        lines = [f"<document reference={quoteattr(f'{name}.txt')}>"]
        lines += [
            f'<feature name="{feature}" this_offset="{one.start}" this_length="{one.end - one.start}" '
            f"source_reference={quoteattr(f'{one.source}.txt')} "
            f'source_offset="{one.source_start}" source_length="{one.source_end - one.source_start}"/>'
            for one in sorted(by_document[name])
        ]
        text = "\n".join(['<?xml version="1.0" encoding="UTF-8"?>', *lines, "</document>", ""])
        write_bytes(out / f"{name}.xml", text.encode())


def _variant(path: Path) -> str:
    record = path / RECORD
    return str(json.loads(record.read_text(encoding="utf-8"))["cases"]["variant"]) if record.is_file() else path.name


def _documents(path: Path, kind: str) -> list[Path]:
    return sorted(path.rglob(f"{kind}*.txt"))


def _files(path: Path, ending: str) -> list[Path]:
    return sorted(path.rglob(f"{SUSPICIOUS}*{ending}"))


def _texts(path: Path, kind: str) -> dict[str, str]:
    files = _documents(path, kind)
    if not files:
        raise DataError(f"{path}: expected documents {kind}*.txt, found none")
    texts: dict[str, str] = {}
    for file in files:
        if file.stem in texts:
            raise DataError(f"{file}: a second document of this name; expected each once. Give one corpus a folder")
        try:
            texts[file.stem] = file.read_bytes().decode()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{file}: byte {error.start}: expected UTF-8, got {error.object[error.start]:#04x}"
            ) from error
    return texts


def _passages(
    file: Path, suspicious: Mapping[str, str], sources: Mapping[str, str], counts: Counter[str]
) -> Iterator[Passage]:
    try:
        root = ET.parse(file).getroot()
    except ET.ParseError as error:
        raise DataError(f"{file}: line {error.position[0]}: no XML: {error}") from error
    reference = root.get("reference")
    name = _named(f"{file}: reference", reference, suspicious)
    for number, feature in enumerate(root.iter("feature"), start=1):
        kind = feature.get("name", "")
        where = f"{file}: feature {number}"
        if kind == DETECTED:
            raise DataError(
                f"{where}: expected what was taken, got a detection ({DETECTED}). Keep detections elsewhere"
            )
        if not kind.endswith("plagiarism"):
            continue
        if feature.get("source_reference") is None:
            counts[INTRINSIC] += 1
            continue
        source = _named(f"{where}: source_reference", feature.get("source_reference"), sources)
        start, end = _span(where, feature, "this", len(suspicious[name]))
        source_start, source_end = _span(where, feature, "source", len(sources[source]))
        yield Passage(name, start, end, source, source_start, source_end)


def _named(where: str, reference: str | None, texts: Mapping[str, str]) -> str:
    name = (reference or "").removesuffix(".txt")
    if name not in texts:
        raise DataError(f"{where}: expected the file name of a document, got {reference!r}, which is not there")
    return name


def _span(where: str, feature: ET.Element, side: str, characters: int) -> tuple[int, int]:
    offset, length = (feature.get(f"{side}_{what}", "") for what in ("offset", "length"))
    if not (re.fullmatch(r"[0-9]{1,12}", offset) and re.fullmatch(r"[0-9]{1,12}", length)):
        raise DataError(f"{where}: expected {side}_offset and {side}_length as numbers, got {offset!r} and {length!r}")
    start, end = int(offset), int(offset) + int(length)
    if not start < end <= characters:
        raise DataError(
            f"{where}: expected a passage within the document's {characters} characters, got {side}_offset {offset} "
            f"and {side}_length {length}"
        )
    return start, end


def _pairs(path: Path, suspicious: Mapping[str, str], sources: Mapping[str, str]) -> dict[str, tuple[str, ...]] | None:
    files = [file for file in sorted(path.rglob(PAIRS)) if file.is_file()]
    if not files:
        return None
    found: defaultdict[str, set[str]] = defaultdict(set)
    for file in files:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            if not line.strip():
                continue
            fields = line.split()
            where = f"{file}: line {number}"
            if len(fields) != 2:
                raise DataError(f"{where}: expected a suspicious and a source document, got {line!r:.80}")
            found[_named(where, fields[0], suspicious)].add(_named(where, fields[1], sources))
    return {name: tuple(sorted(names)) for name, names in found.items()}
