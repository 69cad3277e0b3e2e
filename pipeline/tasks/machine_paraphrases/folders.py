"""The corpus as the authors' archive has it: a folder of originals and one of paraphrases a set, a file a text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pipeline.tasks.machine_paraphrases.entries import Entry, PublishedPart, refuse_bad
from storage.errors import DataError

ORIGINAL = ("og", "orig", "original", "originals")
MACHINE = ("mg", "machine", "spun", "sp", "paraphrased")
MARK = re.compile(r"[-_.]*(ORIG|SPUN)(?![a-z])", re.IGNORECASE)


def read_folders(path: Path) -> list[PublishedPart]:
    """The sets anywhere under `path`, named by their folders; none when no folder has this layout."""
    parts = []
    for folder in [path, *sorted(found for found in path.rglob("*") if found.is_dir())]:
        halves = {label: _half(folder, names) for label, names in enumerate((ORIGINAL, MACHINE))}
        if all(half is None for half in halves.values()):
            continue
        counts: Counter[str] = Counter()
        entries = [
            Entry(label=label, text=text, group=MARK.split(file.stem)[0], name=MARK.sub("", file.stem))
            for label, half in halves.items()
            if half is not None
            for file, text in _text_files(half, label, counts)
        ]
        refuse_bad(folder, counts, len(entries))
        parts.append(
            PublishedPart(
                name=folder.relative_to(path).as_posix() if folder != path else folder.name,
                split="train" if folder.name.lower().endswith("train") else "test",
                entries=entries,
                counts=dict(sorted(counts.items())),
            )
        )
    return parts


def _half(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _text_files(folder: Path, label: int, counts: Counter[str]) -> Iterator[tuple[Path, str]]:
    """Files and texts of one half; raises DataError for a file whose name says the other label."""
    for file in sorted(folder.glob("*.txt")):
        mark = MARK.search(file.stem)
        if mark and (mark.group(1).upper() == "SPUN") != bool(label):
            raise DataError(
                f"{file}: named {mark.group(1)}, but it lies among the {'paraphrases' if label else 'originals'}"
            )
        raw = file.read_bytes()
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError:
            counts["read as ISO-8859-1"] += 1
            text = raw.decode("iso-8859-1")
        if "\0" in text:
            counts["bad: not text"] += 1
        elif not text.strip():
            counts["bad: empty"] += 1
        else:
            yield file, " ".join(text.split())
