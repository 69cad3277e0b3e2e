"""Cut a text into sentences, by their offsets: characters (Unicode code points) of the text as it stands."""

from __future__ import annotations

import re

SENTENCE_END = re.compile(r"[.!?…]+[\"'”’»)\]]*(?=\s)|[。！？]+[”’」』）]*|\n\s*?(?=\n)")
"""The last characters of a sentence, or the first line end of an empty line."""

Span = tuple[int, int]
"""First character, and one past the last."""


def sentence_spans(text: str) -> list[Span]:
    """Sentences without the white space around them; what holds white space only is none."""
    spans = []
    start = 0
    for end in [*(found.end() for found in SENTENCE_END.finditer(text)), len(text)]:
        piece = text[start:end]
        stripped = piece.strip()
        if stripped:
            first = start + len(piece) - len(piece.lstrip())
            spans.append((first, first + len(stripped)))
        start = end
    return spans
