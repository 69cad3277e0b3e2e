"""Which files of a folder an input reads, in which order, and what it leaves out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.core.endings import CSV, DATASET, JSON_LINES, MARKDOWN, PACKED_ENDINGS, PARQUET, PLAIN_TEXT, TSV
from storage.errors import DataError

WORDNET = (*(f"{kind}.{pos}" for kind in ("data", "index") for pos in ("adj", "adv", "noun", "verb")), "lexnames")
"""Files that decide the text of synsets; the folder's other files say how it was obtained, and may differ."""

ENDINGS = {
    "jsonl": (JSON_LINES,),
    # Beside texts, Markdown is a note on them.
    "text": (PLAIN_TEXT, MARKDOWN),
    "csv": (CSV,),
    "tsv": (TSV,),
    "parquet": (PARQUET,),
    "dataset": DATASET,
    "wordnet": (WORDNET,),
}
"""By kind of input, in groups: files of the first group of which there is any are read. Upper case is the same."""


def has_ending(file: Path, endings: tuple[str, ...]) -> bool:
    """Whether a file's name ends so, in upper or lower case."""
    return file.name.lower().endswith(endings)


def kind_of(file: Path) -> str:
    """The kind of a file by its ending; "jsonl" where that says nothing."""
    for kind, groups in ENDINGS.items():
        if any(has_ending(file, endings) for endings in groups):
            return kind
    return "jsonl"


def visible_files(folder: Path) -> list[Path]:
    """All files of a folder and of those in it, hidden ones left out, by relative path."""
    return [
        file
        for file in sorted(folder.rglob("*"), key=lambda file: file.relative_to(folder).as_posix())
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]


def input_files(path: Path, *groups: tuple[str, ...]) -> list[Path]:
    """The file at `path`, or all files of the folder with an ending of the first group that any of them has.

    Hidden ones are left out; the order is that of relative paths. Raises DataError when there is none.
    """
    if path.is_file():
        return [path]
    there = visible_files(path)
    for endings in groups:
        if found := [file for file in there if has_ending(file, endings)]:
            return found
    others = f" but {listed(skipped(there, []))}" if there else ""
    here = f"none in it{others}" if path.is_dir() else "nothing"
    expected = _shown([ending for endings in groups for ending in endings])
    raise DataError(f"{path}: expected a file or a folder with files ending in {expected}, found {here}")


def skipped(there: Iterable[Path], taken: Iterable[Path]) -> Counter[str]:
    """How many of the files that are there were not taken, by their endings."""
    read = set(taken)
    return Counter("".join(file.suffixes[-1:]).lower() or "no ending" for file in there if file not in read)


def listed(counts: Counter[str]) -> str:
    """Counts by ending, for people: the most first."""
    return ", ".join(f"{count} {ending}" for ending, count in sorted(counts.items(), key=lambda item: (-item[1], item)))


def _shown(endings: Sequence[str]) -> str:
    plain = [ending for ending in endings if not ending.endswith(PACKED_ENDINGS)]
    return ", ".join(plain) + (f" (or these and {', '.join(PACKED_ENDINGS)})" if len(plain) < len(endings) else "")
