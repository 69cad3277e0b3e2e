"""Paragraphs of documents, and their words as spans that another word can replace.

A word is what stands between spaces, without the punctuation around it. Everything here is text in, text out.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from pipeline.core.seeds import unit_hash

RUN = re.compile(r"\S+")
CORE = re.compile(r"[^\W_](?:.*[^\W_])?")
"""A run of characters without the punctuation around it."""
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Paragraph:
    """A part of a document."""

    name: str
    """Unique: the document's id and a number."""
    document: str
    """What stands before "#" in the id: parts of one document belong together."""
    source: str
    text: str

    @property
    def split(self) -> float:
        """A number in [0, 1) that is the same for all paragraphs of a document."""
        return unit_hash("paraphrase-split", self.document)


def cut_paragraphs(text: str, *, least: int, most: int) -> tuple[list[str], Counter[str]]:
    """Paragraphs of `least` to `most` words (between spaces), and counts of what was dropped, by reason.

    Lines are joined until there are enough words. A line of more than `most` words is cut at the ends of its sentences;
    a sentence longer than that is dropped, and so is what is left over with too few words.
    """
    paragraphs: list[str] = []
    dropped: Counter[str] = Counter()
    held: list[str] = []

    def flush() -> None:
        if len(held) >= least:
            paragraphs.append(" ".join(held))
        elif held:
            dropped["too few words"] += 1
        held.clear()

    for line in text.splitlines():
        for unit in SENTENCE_END.split(line) if len(line.split()) > most else [line]:
            words = unit.split()
            if len(held) + len(words) > most:
                flush()
            if len(words) > most:
                dropped["too many words"] += 1
                continue
            held.extend(words)
            if len(held) >= least:
                flush()
    flush()
    return paragraphs, dropped


class Draft:
    """A text whose words can be replaced one by one."""

    def __init__(self, text: str) -> None:
        self._parts: list[str] = []
        end = 0
        for start, stop in word_spans(text):
            self._parts += [text[end:start], text[start:stop]]
            end = stop
        self._parts.append(text[end:])
        self.original = self._parts[1::2]
        """The words as they were."""

    @property
    def text(self) -> str:
        """The text as it stands."""
        return "".join(self._parts)

    def span(self, word: int) -> tuple[int, int]:
        """First character and one past the last of a word, as the text stands."""
        start = sum(map(len, self._parts[: 2 * word + 1]))
        return start, start + len(self._parts[2 * word + 1])

    def replace(self, word: int, by: str) -> None:
        """Put another word in the place of a word."""
        self._parts[2 * word + 1] = by


def word_spans(text: str) -> list[tuple[int, int]]:
    """Start and end of every word: what stands between spaces, without punctuation around it."""
    spans = []
    for run in RUN.finditer(text):
        core = CORE.search(run.group())
        if core:
            spans.append((run.start() + core.start(), run.start() + core.end()))
    return spans


def replaceable(text: str) -> list[int]:
    """Numbers of the words that are letters only: no figures, hyphens or apostrophes."""
    return [number for number, (start, end) in enumerate(word_spans(text)) if text[start:end].isalpha()]
